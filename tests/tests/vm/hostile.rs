//! What a machine's root writes to the output's disk is taken as hostile. Its first process is a liar here: it writes bytes
//! of its own choice to the output's disk and says that all went well. More such outputs are in the runtime's own tests.

use std::fs;

use node::runtime::vm::Machine;
use node::runtime::{Exit, TrapKind};
use tar::{Builder, EntryType, Header};
use tests::conformance::subject::machine;

use super::{Bench, Ended, on_machines};

fn add(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_size(content.len() as u64);
    // The library would not write such names.
    let raw = header.as_ustar_mut().unwrap();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

/// Runs a machine that claims this as its output.
async fn claim(bench: &Bench, output: &[u8]) -> Ended {
    let (mut task, kept) = bench.script("true");
    fs::write(task.base.work.join("evil"), output).unwrap();
    let dir = machine("kernel").unwrap();
    task.machine = Machine::Kernel { dir, append: "rdinit=/bin/liar".to_owned() };
    bench.run((task, kept)).await
}

#[test]
fn an_output_that_leaves_its_directory_is_refused_and_nothing_outside_is_touched() {
    on_machines(async |bench| {
        fs::write(bench.path("outside"), "untouched").unwrap();
        let mut builder = Builder::new(Vec::new());
        add(&mut builder, EntryType::Regular, "before", "", b"taken");
        add(&mut builder, EntryType::Symlink, "up", "..", b"");
        add(&mut builder, EntryType::Regular, "up/outside", "", b"evil");
        let ended = claim(bench, &builder.into_inner().unwrap()).await;
        let Exit::Trap(trap) = &ended.exit else { panic!("{ended:?}") };
        assert_eq!(trap.kind, TrapKind::HostCall);
        assert!(trap.detail.contains("the task's output is refused: `up"), "{}", trap.detail);
        assert_eq!(fs::read_to_string(bench.path("outside")).unwrap(), "untouched");
    });
}

#[test]
fn an_output_that_is_no_archive_is_refused() {
    on_machines(async |bench| {
        let ended = claim(bench, &[0x41; 2_048]).await;
        let Exit::Trap(trap) = &ended.exit else { panic!("{ended:?}") };
        assert!(trap.detail.contains("no complete tar archive"), "{}", trap.detail);
    });
}

#[test]
fn an_output_beyond_the_quota_is_over_the_quota() {
    on_machines(async |bench| {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_path("large").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        let ended = claim(bench, &builder.into_inner().unwrap()).await;
        assert_eq!(ended.exit, Exit::DiskQuota);
    });
}
