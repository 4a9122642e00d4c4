//! Lives of machines: pausing, graces, crashes, and nodes that are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use node::runtime::vm::VmOptions;
use node::runtime::{Exit, InvalidMachine, SteerError, Stream, VmRuntime};
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
        let name = task.base.name.clone();
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

/// A task that counts, beside a file that it wrote before and that is on its way out in the end.
const COUNTING: &str = "echo before > kept; date +%s > then; n=0; \
    while [ ! -e /run/opencloud/resumed ]; do n=$((n + 1)); echo $n; sleep 0.1; done; \
    cp /run/opencloud/resumed now; date +%s >> now; echo after >> kept";

#[test]
fn a_suspended_machine_has_no_process_and_goes_on_where_it_was() {
    on_machines(async |bench| {
        let (mut task, kept) = bench.script(COUNTING);
        task.base.disk_bytes = 512 << 20;
        let work = task.base.work.clone();
        let mut running = bench.runtime.start(task);
        let doorway = running.doorway();
        assert_eq!(doorway.suspend().await, Err(SteerError::NotYet));
        wait_until(PATIENCE, "it counts", || kept.text(Stream::Stdout).contains("3\n"));
        assert_eq!(doorway.resume().await, Err(SteerError::NotSuspended));
        doorway.suspend().await.unwrap();
        assert_eq!(doorway.suspend().await, Err(SteerError::Suspended));
        let dir = bench.path("vm");
        assert!(processes(&dir).is_empty(), "{:?}", processes(&dir));
        // What was on its way arrives.
        let is_still = || running.meters().suspended_us > 500_000;
        wait_until(PATIENCE, "it has stood still", is_still);
        let (before, said) = (running.meters(), kept.len());
        let rest_us = 3_000_000;
        let is_over = || running.meters().suspended_us > before.suspended_us + rest_us;
        wait_until(PATIENCE, "some time has passed", is_over);
        let after = running.meters();
        assert_eq!((after.cpu_us, after.elapsed_us), (before.cpu_us, before.elapsed_us));
        assert_eq!((after.memory_kib_s, kept.len()), (before.memory_kib_s, said));

        doorway.resume().await.unwrap();
        let state = fs::read_dir(dir.join("machines")).unwrap().next().unwrap().unwrap().path();
        assert!(!state.join("state").exists(), "its memory is in its process again");
        let (exit, meters) = running.wait().await;
        assert_eq!(exit, Exit::Code(0), "{} {meters:?}", kept.text(Stream::Stderr));
        assert!(meters.suspended_us > rest_us && meters.cpu_us > before.cpu_us, "{meters:?}");
        // Nothing that it wrote is lost or told twice.
        let told: Vec<u32> =
            kept.text(Stream::Stdout).lines().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<u32> = (1..=u32::try_from(told.len()).unwrap()).collect();
        assert_eq!(told, expected);
        assert_eq!(fs::read_to_string(work.join("kept")).unwrap(), "before\nafter\n");
        // Its clock was told the time, and shows it.
        let seconds = |name: &str| -> Vec<u64> {
            let text = fs::read_to_string(work.join(name)).unwrap();
            text.lines().map(|line| line.parse().unwrap()).collect()
        };
        let (then, now) = (seconds("then")[0], seconds("now"));
        assert!(now[0] >= then + 3 && now[1] >= now[0], "{then} {now:?}");
    });
}

#[test]
fn a_machine_whose_memory_does_not_fit_on_its_disk_goes_on() {
    on_machines(async |bench| {
        let script = "head -c 20000000 /dev/urandom > /dev/shm/x; echo on; \
            while [ ! -e stop ]; do n=$((n + 1)); echo $n; sleep 0.1; [ $n -gt 60 ] && exit 0; done";
        let (task, kept) = bench.script(script);
        let free_bytes = task.base.disk_bytes;
        let mut running = bench.runtime.start(task);
        wait_until(PATIENCE, "it counts", || kept.text(Stream::Stdout).contains("\n2\n"));
        let error = running.doorway().suspend().await.unwrap_err();
        assert!(
            matches!(error, SteerError::TooLarge { free_bytes: free } if free <= free_bytes),
            "{error}"
        );
        let said = kept.len();
        wait_until(PATIENCE, "it goes on", || kept.len() > said);
        let (exit, meters) = running.wait().await;
        assert_eq!(exit, Exit::Code(0), "{meters:?}");
        assert_eq!(meters.suspended_us, 0);
    });
}

#[test]
fn a_suspended_machine_gives_its_turn_to_another_and_ends_when_it_is_cancelled() {
    on_machines(async |bench| {
        let (mut task, kept) = bench.script("echo on; sleep 1000");
        task.base.disk_bytes = 512 << 20;
        // Less than it is suspended for.
        task.base.timeout = Duration::from_secs(20);
        let mut first = bench.runtime.start(task);
        wait_until(PATIENCE, "it runs", || kept.text(Stream::Stdout).contains("on"));
        first.doorway().suspend().await.unwrap();
        // One machine runs at a time here.
        let ended = bench.run(bench.script("sleep 5")).await;
        assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
        let (second, kept) = bench.script("echo on; sleep 1000");
        let second = bench.runtime.start(second);
        wait_until(PATIENCE, "it runs", || kept.text(Stream::Stdout).contains("on"));
        assert_eq!(first.doorway().resume().await, Err(SteerError::NoRoom));
        drop(second);
        first.cancel();
        let (exit, _) = first.wait().await;
        assert_eq!(exit, Exit::Cancelled);
        assert_eq!(first.doorway().resume().await, Err(SteerError::Ended));
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
