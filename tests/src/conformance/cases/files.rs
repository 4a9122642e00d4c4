//! The directories of a task.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use node::runtime::{Exit, Mount};

use super::streams::pattern;
use crate::conformance::bench::{MIB, verbs};
use crate::conformance::{Bench, Need};

pub(in crate::conformance) fn files_of_a_task_are_the_nodes(bench: &Bench) {
    let job = bench.job(&[
        "mkdir", "d", "then", "write", "d/f", "70000", "then", "write", "/tmp/t", "5", "then",
        "ls", "d",
    ]);
    let ended = bench.run(&job).expect(0);
    assert_eq!(ended.text(), "f\n");
    assert_eq!(ended.file("d/f"), pattern(70_000));
    let own = fs::metadata("/proc/self").expect("every Linux has it").uid();
    let mut paths = vec![job.work.clone(), job.work.join("d"), job.work.join("d/f")];
    if bench.has(Need::SharedFiles) {
        assert_eq!(fs::read(job.tmp.join("t")).expect("it was written"), pattern(5));
        paths.push(job.tmp.join("t"));
    }
    for path in paths {
        let meta = fs::metadata(&path).expect("it was made");
        assert_eq!(meta.uid(), own, "{} belongs to somebody else", path.display());
    }
}

pub(in crate::conformance) fn one_gibibyte_of_output_is_taken(bench: &Bench) {
    let bytes = 1_024 * MIB;
    let mut job = bench.job(&["write", "big", &bytes.to_string()]);
    job.disk_bytes = bytes + MIB;
    // Room for all of it in the kernel's cache, which is part of a task's memory: how fast a disk takes it is not the question.
    job.memory_bytes = bytes + 256 * MIB;
    let ended = bench.run(&job).expect(0);
    let file = fs::File::open(ended.work.join("big")).expect("it was written");
    assert_eq!(file.metadata().expect("it is open").len(), bytes);
    for at in [0, bytes / 2 + 17, bytes - 100] {
        let mut read = [0; 100];
        file.read_exact_at(&mut read, at).expect("the file is long enough");
        let expected =
            pattern(at % 251 + 100).split_off(usize::try_from(at % 251).expect("it is small"));
        assert_eq!(read[..], expected[..], "at {at}");
    }
    let stored = ended.meters.storage_bytes;
    assert!((bytes..bytes + MIB).contains(&stored), "{stored} bytes");
}

pub(in crate::conformance) fn ten_thousand_small_files_are_taken(bench: &Bench) {
    let mut job = bench.job(&["files", "10000", "100"]);
    job.disk_bytes = 128 * MIB;
    let ended = bench.run(&job).expect(0);
    let mut n = 0;
    for dir in fs::read_dir(&ended.work).expect("it is there") {
        for file in fs::read_dir(dir.expect("it can be read").path()).expect("they are directories")
        {
            let meta = file.expect("it can be read").metadata().expect("it is there");
            assert_eq!(meta.len(), 100);
            n += 1;
        }
    }
    assert_eq!(n, 10_000);
}

pub(in crate::conformance) fn deep_directories_are_taken(bench: &Bench) {
    let ended = bench.probe(&["deep", "200"]).expect(0);
    let path = format!("{}d/end", "d/".repeat(199));
    assert_eq!(ended.file(&path), pattern(10));
}

pub(in crate::conformance) fn unusual_and_long_names_are_taken(bench: &Bench) {
    let long = "n".repeat(255);
    let names = [" ", "-rf", "a\nb", "grün 🌍", "$(id)", "...", &long];
    let mut args: Vec<&str> = Vec::new();
    for name in names {
        args.extend(["write", name, "3", "then"]);
    }
    let too_long = "n".repeat(256);
    args.extend(["fails", "write", &too_long, "3"]);
    let ended = bench.probe(&args).expect(0);
    let entries = fs::read_dir(&ended.work).expect("it is there");
    let found: BTreeSet<_> =
        entries.map(|entry| entry.expect("it can be read").file_name()).collect();
    assert_eq!(found, names.iter().map(|&name| name.into()).collect());
}

pub(in crate::conformance) fn files_behave_as_programs_expect(bench: &Bench) {
    let _ = bench.probe(&["fileops"]).expect(0);
    let both = [
        "append", "f", "one", "then", "append", "f", " two", "then", "read", "f", "then", "stat",
        "f",
    ];
    assert_eq!(bench.probe(&both).expect(0).text(), "one twofile 7\n");
}

pub(in crate::conformance) fn mounts_can_be_read_and_not_written(bench: &Bench) {
    for (dir, file) in [("one", "in"), ("two", "other")] {
        fs::create_dir_all(bench.path(dir)).expect("there is room");
        let _ = bench.file(&format!("{dir}/{file}"), dir.as_bytes());
    }
    let mut job = bench.job(&verbs(
        "read /data/one/in then read /two/other then fails write /two/new 1 then \
        fails write /two/other 1 then fails unlink /two/other then fails mkdir /two/d then \
        fails rename /two/other /two/else then fails append /data/one/in x then \
        fails link /two/other mine then fails rename /two/other mine",
    ));
    job.mounts = vec![
        Mount { host: bench.path("one"), guest: "/data/one".to_owned() },
        Mount { host: bench.path("two"), guest: "/two".to_owned() },
    ];
    assert_eq!(bench.run(&job).expect(0).text(), "onetwo");
    assert_eq!(fs::read(bench.path("two/other")).expect("it is there"), b"two");
    assert_eq!(fs::read_dir(bench.path("two")).expect("it is there").count(), 1);
}

pub(in crate::conformance) fn too_many_open_files_are_refused(bench: &Bench) {
    let ended = bench.probe(&["openmany", "4000"]);
    // Refused, or ended by the sandbox.
    assert!(matches!(ended.exit, Exit::Code(1) | Exit::Trap(_)), "{ended:?}");
    let _ = bench.probe(&["openmany", "200"]).expect(0);
}

pub(in crate::conformance) fn every_task_has_a_temporary_directory_of_its_own(bench: &Bench) {
    let first = bench.start(&bench.job(&verbs("write /tmp/first 1 then say up then sleep 60000")));
    first.until_heard();
    let ended = bench
        .probe(&["fails", "read", "/tmp/first", "then", "ls", "/tmp", "then", "ls", "."])
        .expect(0);
    assert_eq!(ended.text(), "");
    // Nor the host's.
    let own = tempfile::NamedTempFile::new_in("/tmp").expect("there is room");
    let path = own.path().to_str().expect("it is Unicode");
    let _ = bench.probe(&["fails", "read", path, "then", "fails", "stat", path]).expect(0);
}

pub(in crate::conformance) fn modes_do_not_lock_the_node_out(bench: &Bench) {
    let made = [
        "mkdir", "d", "then", "write", "d/f", "3", "then", "chmod", "d/f", "000", "then", "chmod",
        "d", "000",
    ];
    let ended = bench.probe(&made).expect(0);
    assert_eq!(ended.file("d/f"), pattern(3));
    let set_user = ["write", "s", "3", "then", "chmod", "s", "6755", "then", "mkfifo", "p"];
    let ended = bench.probe(&set_user).expect(0);
    let meta = fs::metadata(ended.work.join("s")).expect("it is there");
    let is_ours_to_run = meta.mode() & 0o6000 != 0 && meta.uid() == 0;
    assert!(!is_ours_to_run, "a program of the task would run as root: {:o}", meta.mode());
}
