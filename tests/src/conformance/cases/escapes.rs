//! Ways out of the sandbox, all of them shut.

use crate::conformance::bench::verbs;
use crate::conformance::{Bench, Ended, Job};

const SECRET: &[u8] = b"not for tasks";

/// Runs a task beside a file that it must neither read nor change; `{}` in its arguments is the file's path.
fn beside_a_secret(bench: &Bench, args: &[&str]) -> Ended {
    let (job, path) = with_secret(bench, args);
    let ended = bench.run(&job);
    assert_eq!(std::fs::read(path).expect("the secret is there"), SECRET);
    assert!(!ended.text().contains("not for"), "{ended:?}");
    ended
}

/// The file lies beside the task's own directories, so that few dots lead to it.
fn with_secret(bench: &Bench, args: &[&str]) -> (Job, std::path::PathBuf) {
    let mut job = bench.job(&[]);
    let path = job.work.with_file_name("secret");
    std::fs::write(&path, SECRET).expect("there is room");
    let text = path.to_str().expect("paths of tests are Unicode");
    job.args = args.iter().map(|arg| arg.replace("{}", text)).collect();
    (job, path)
}

pub(in crate::conformance) fn dots_lead_nowhere(bench: &Bench) {
    let tried = verbs(
        "fails read ../secret then fails write ../secret 1 then fails append ../new x then \
        fails mkdir ../d then fails read /tmp/../secret then fails unlink ../secret then \
        fails read ../../../../../../../../../..{} then fails write ../../../../../../../../../..{} 1 then \
        mkdir a then fails read a/../../secret",
    );
    let ended = beside_a_secret(bench, &tried).expect(0);
    assert!(!ended.work.with_file_name("new").exists() && !ended.work.with_file_name("d").exists());
}

pub(in crate::conformance) fn paths_of_the_host_lead_nowhere(bench: &Bench) {
    let tried =
        ["fails", "read", "{}", "then", "fails", "write", "{}", "1", "then", "fails", "stat", "{}"];
    let _ = beside_a_secret(bench, &tried).expect(0);
    // Files that every host has and no image of the suite. Podman writes a list of users of its own.
    let _ = bench
        .probe(&["fails", "read", "/etc/shadow", "then", "fails", "read", "/etc/machine-id"])
        .expect(0);
    let users = bench.probe(&["read", "/etc/passwd"]).text();
    assert_ne!(users, std::fs::read_to_string("/etc/passwd").expect("every host has it"));
    let _ = bench
        .probe(&verbs("fails read /var/run/docker.sock then fails stat /run/docker.sock"))
        .expect(0);
}

/// Where a task has no root, a path that begins there leads into its work directory.
pub(in crate::conformance) fn nothing_is_made_in_the_root_of_the_host(bench: &Bench) {
    let name = format!("/opencloud-{}", std::process::id());
    let ended = bench.probe(&["write", &name, "1", "then", "mkdir", "/etc/opencloud"]);
    assert!(!std::path::Path::new(&name).exists(), "{ended:?}");
    assert!(!std::path::Path::new("/etc/opencloud").exists(), "{ended:?}");
}

pub(in crate::conformance) fn links_lead_nowhere(bench: &Bench) {
    let tried = verbs(
        "trysymlink {} absolute then fails read absolute then fails write absolute 1 then \
        trysymlink ../secret upwards then fails read upwards then fails append upwards x then \
        mkdir d then trysymlink ../../secret d/deep then fails read d/deep then \
        trysymlink .. parent then fails read parent/secret then fails write parent/new 1 then \
        trysymlink loop loop then fails read loop",
    );
    let ended = beside_a_secret(bench, &tried).expect(0);
    assert!(!ended.work.with_file_name("new").exists());
    // A link within stays useful.
    let inside = [
        "mkdir", "d", "then", "append", "d/f", "inside", "then", "symlink", "d/f", "l", "then",
        "read", "l",
    ];
    assert_eq!(bench.probe(&inside).expect(0).text(), "inside");
}

pub(in crate::conformance) fn staged_links_lead_nowhere(bench: &Bench) {
    let (job, path) =
        with_secret(bench, &["fails", "read", "staged", "then", "fails", "write", "staged", "1"]);
    std::os::unix::fs::symlink(&path, job.work.join("staged")).expect("there is room");
    let _ = bench.run(&job).expect(0);
    assert_eq!(std::fs::read(path).expect("the secret is there"), SECRET);
}

pub(in crate::conformance) fn nothing_is_moved_or_linked_out(bench: &Bench) {
    let tried = verbs(
        "append f x then fails rename f ../out then fails link f ../out then \
        fails rename ../secret in then fails link ../secret in then fails link {} in then \
        fails rename {} in then fails symlink f ../out then fails rmdir ../tmp",
    );
    let ended = beside_a_secret(bench, &tried).expect(0);
    assert!(!ended.work.with_file_name("out").exists());
    assert_eq!(ended.file("f"), b"x");
}

pub(in crate::conformance) fn the_root_of_the_image_cannot_be_written(bench: &Bench) {
    let tried = verbs(
        "fails write /x 1 then fails mkdir /x then fails write /etc/x 1 then \
        fails unlink /program then fails rename /program /tmp/program then \
        fails write /program 1 then fails mkdir /tmp/../x",
    );
    let _ = bench.probe(&tried).expect(0);
}

pub(in crate::conformance) fn a_task_has_no_rights(bench: &Bench) {
    let ended = bench.probe(&["read", "/proc/self/status"]).expect(0);
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
    assert!(!field("Uid").split_whitespace().any(|id| id == "0"), "{}", field("Uid"));
    assert!(!field("Gid").split_whitespace().any(|id| id == "0"), "{}", field("Gid"));
    assert!(!field("Groups").split_whitespace().any(|id| id == "0"), "{}", field("Groups"));
    let _ = bench.probe(&["fails", "setuid", "then", "fails", "chroot"]).expect(0);
}

pub(in crate::conformance) fn user_namespaces_are_refused(bench: &Bench) {
    let _ = bench.probe(&["fails", "unshare"]).expect(0);
}

pub(in crate::conformance) fn interfaces_of_the_kernel_cannot_be_written(bench: &Bench) {
    for file in verbs(
        "/proc/sys/kernel/panic /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/self/oom_adj /sys/kernel/uevent_helper /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/cgroup.procs",
    ) {
        let _ = bench.probe(&["fails", "append", file, "-17"]).expect(0);
    }
    // Empty in a container, if it can be opened at all.
    let ended = bench.probe(&["read", "/proc/kcore"]);
    assert_eq!(ended.stdout_len, 0, "{ended:?}");
}

pub(in crate::conformance) fn devices_and_mounts_are_refused(bench: &Bench) {
    let tried = verbs(
        "fails device disk then fails device /dev/disk then fails mount then fails read /dev/mem then \
        fails read /dev/kmsg then fails read /dev/vda then fails read /dev/sda then \
        fails stat /dev/kvm then fails stat /dev/fuse",
    );
    let _ = bench.probe(&tried).expect(0);
}

pub(in crate::conformance) fn a_task_sees_no_process_but_its_own(bench: &Bench) {
    let first = bench.start(&bench.job(&["say", "up", "then", "sleep", "60000"]));
    first.until_heard();
    let ended = bench.probe(&["ls", "/proc"]).expect(0);
    let n = ended.text().lines().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).count();
    // Its own, and an init of the runtime's.
    assert!((1..=2).contains(&n), "{n} processes: {ended:?}");
}

pub(in crate::conformance) fn signals_do_not_leave(bench: &Bench) {
    let first =
        bench.start(&bench.job(&["say", "up", "then", "sleep", "1500", "then", "exit", "4"]));
    first.until_heard();
    // To all that it may reach, and then to whom it must not.
    let _ = bench.probe(&["killall"]);
    let ended = first.end();
    let _ = ended.expect(4);
}
