//! Lives of machines: pausing, graces, crashes, and nodes that are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use node::runtime::vm::VmOptions;
use node::runtime::{Exit, InvalidMachine, VmRuntime};
use tests::conformance::Life;
use tests::conformance::subject::vm::{NAME, forget, left_in, processes};
use tests::harness::wait_until;

use super::{PATIENCE, on_machines, on_machines_with, options};

#[test]
fn a_machine_that_never_begins_is_ended() {
    let hasty = |options: &mut VmOptions| options.boot_timeout = Duration::from_millis(1_500);
    on_machines_with(hasty, async |bench| {
        let ended = bench.run(bench.script("true")).await;
        let Exit::InvalidMachine(InvalidMachine::NoStart { what, .. }) = &ended.exit else {
            panic!("{ended:?}");
        };
        assert_eq!(what, "was not ready within 1 s");
    });
}

/// What a machine uses that has nothing to do, as a share of a processor.
fn share_at_rest(running: &node::runtime::Running) -> f64 {
    let first = running.meters();
    let rest_us = 1_500_000;
    let is_over = || running.meters().elapsed_us > first.elapsed_us + rest_us;
    wait_until(PATIENCE, "some time has passed", is_over);
    let last = running.meters();
    (last.cpu_us - first.cpu_us) as f64 / (last.elapsed_us - first.elapsed_us) as f64
}

#[test]
fn a_machine_rests_stands_still_goes_on_and_has_its_grace() {
    on_machines(async |bench| {
        let script = "echo on; sleep 6; while :; do echo x; done";
        let (mut task, kept) = bench.script(script);
        task.grace = Duration::from_secs(2);
        let name = task.name.clone();
        let mut running = bench.runtime.start(task);
        wait_until(PATIENCE, "the task rests", || kept.len() == 3);
        let share = share_at_rest(&running);
        assert!(share < 0.5, "a machine at rest takes {share:.2} of a processor");

        wait_until(PATIENCE, "the task works", || kept.len() > 3);
        bench.runtime.pause(&name).await.unwrap();
        // What was on its way arrives.
        let (mut before, mut n_same) = (kept.len(), 0);
        wait_until(PATIENCE, "nothing comes any more", || {
            n_same = if kept.len() == before { n_same + 1 } else { 0 };
            before = kept.len();
            n_same > 25
        });
        assert_eq!(kept.len(), before);
        bench.runtime.resume(&name).await.unwrap();
        wait_until(PATIENCE, "it goes on", || kept.len() > before);

        // Nothing in it listens to the button.
        let begun = Instant::now();
        running.cancel();
        assert_eq!(running.wait().await.0, Exit::Cancelled);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        let error = bench.runtime.pause(&name).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no machine `{name}` runs here now"));
    });
}

#[test]
fn a_machine_that_goes_down_says_why() {
    on_machines(async |bench| {
        for (script, summary, detail) in [
            (
                "echo c > /proc/sysrq-trigger; sleep 100",
                "the machine panicked before its task had ended",
                "Kernel panic",
            ),
            (
                "poweroff -f; sleep 100",
                "the machine shut down before its task had ended",
                "Power down",
            ),
        ] {
            let ended = bench.run(bench.script(script)).await;
            let Exit::Trap(trap) = &ended.exit else { panic!("{ended:?}") };
            assert_eq!(trap.to_string(), summary);
            assert!(trap.detail.contains(detail), "{}", trap.detail);
        }
    });
}

#[test]
fn a_killed_node_takes_its_machines_along() {
    on_machines(async |bench| {
        let place = bench.path("other");
        let owner = format!("{}-killed", bench.owner);
        let mut node = Life::scribble(NAME, &place, &owner);
        let dir = place.join(format!("vm-{owner}"));
        assert!(processes(&dir).iter().any(|process| process.is_qemu), "{:?}", processes(&dir));
        node.kill();
        // Without anybody's help. Its files stay until the node's next life.
        wait_until(PATIENCE, "qemu has ended", || processes(&dir).is_empty());
        assert_eq!(fs::read_dir(dir.join("machines")).unwrap().count(), 1);
        let next = VmRuntime::open(options(dir.clone(), &owner)).await.unwrap();
        let left = left_in(&dir, &owner);
        assert!(left.is_empty(), "left behind: {left:?}");
        drop(next);
        forget(&owner);
    });
}

#[test]
fn what_a_killed_node_left_running_is_ended_by_the_next() {
    on_machines(async |bench| {
        let (dir, owner) = (bench.path("other"), format!("{}-next", bench.owner));
        let [left, other] = ["left", "other"].map(|name| dir.join("machines").join(name));
        fs::create_dir_all(&left).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        let mut process = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let marker = |pid: u32, started: &str| format!("{} {pid} {started}\n", boot.trim());
        fs::write(left.join("process"), marker(process.id(), started)).unwrap();
        // This number has been given to another process since, which stays: the test itself.
        fs::write(other.join("process"), marker(std::process::id(), "1")).unwrap();
        let next = VmRuntime::open(options(dir.clone(), &owner)).await.unwrap();
        assert_eq!(left_in(&dir, &owner).len(), 0);
        assert!(!process.wait().unwrap().success());
        drop(next);
        forget(&owner);
    });
}
