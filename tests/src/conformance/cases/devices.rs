//! No devices of the host, unless they are granted, and then no others.

use node::runtime::Exit;

use crate::conformance::Bench;
use crate::harness::{Device, Harmless};

/// A group that nobody is in.
const GROUP: u32 = 61_234;

/// Two devices, one for everybody and one for a group. Says why not, where there are none.
fn devices() -> Option<[Device; 2]> {
    let found = Device::new(Harmless::Fuse, 0o666, 0)
        .and_then(|one| Ok([one, Device::new(Harmless::Tun, 0o660, GROUP)?]));
    found.inspect_err(|reason| println!("skipped: {reason}")).ok()
}

pub(in crate::conformance) fn a_device_is_there_for_the_task_that_holds_it_alone(bench: &Bench) {
    let Some(devices) = devices() else { return };
    let [first, second] = [0, 1].map(|n| devices[n].text());
    let unit =
        |path: &str| bench.subject().device(path).unwrap_or_else(|reason| panic!("{reason}"));
    let neither = ["fails", "open", first, "then", "fails", "open", second];
    let _ = bench.probe(&neither).expect(0);
    for (granted, other) in [(first, second), (second, first)] {
        let mut job = bench.job(&["open", granted, "then", "fails", "open", other]);
        job.devices = vec![unit(granted)];
        let _ = bench.run(&job).expect(0);
    }
    let mut both = bench.job(&["open", first, "then", "open", second]);
    both.devices = vec![unit(first), unit(second)];
    let _ = bench.run(&both).expect(0);
    // They were theirs, and are no one's after them.
    let _ = bench.probe(&neither).expect(0);
}

pub(in crate::conformance) fn a_device_gives_no_right_but_to_itself(bench: &Bench) {
    let Some([_, device]) = devices() else { return };
    let mut job = bench.job(&[
        "fails",
        "device",
        "disk",
        "then",
        "fails",
        "device",
        "/dev/disk",
        "then",
        "fails",
        "mount",
        "then",
        "fails",
        "setuid",
        "then",
        "fails",
        "read",
        "/dev/mem",
        "then",
        "read",
        "/proc/self/status",
    ]);
    job.devices.extend(bench.subject().device(device.text()));
    assert_eq!(job.devices.len(), 1);
    let ended = bench.run(&job).expect(0);
    let text = ended.text();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2", "no filter of system calls");
    let own = field("Gid").split_whitespace().next().unwrap_or_default().to_owned();
    let mut groups: Vec<String> = field("Groups").split_whitespace().map(str::to_owned).collect();
    groups.retain(|id| *id != own);
    assert_eq!(groups, [GROUP.to_string()], "the group that opens the device, and no other");
}

pub(in crate::conformance) fn a_device_that_has_gone_is_told(bench: &Bench) {
    let Some([device, _]) = devices() else { return };
    let mut job = bench.job(&["exit", "0"]);
    job.devices.extend(bench.subject().device(device.text()));
    drop(device);
    let ended = bench.run(&job);
    let Exit::Host(fault) = &ended.exit else { panic!("{ended:?}") };
    assert!(fault.to_string().contains("cannot be used"), "{fault}");
}
