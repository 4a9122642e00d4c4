//! What a provider answers to questions for a price.

use std::collections::BTreeMap;

use catalog::{Digest, NodeId};
use scheduler::capacity::{Amounts, Capacity};
use scheduler::provider::{Abilities, Action, No, Provider};
use scheduler::task::{AttemptId, Boot, Needs, Program, RunId, RuntimeKind, TaskId, TaskSpec};
use scheduler::value::{DirRef, FileRef};

fn ask(needs: Needs, program: Program) -> Action {
    ask_with(false, needs, program)
}

fn ask_with(network: bool, needs: Needs, program: Program) -> Action {
    let whole =
        Amounts { cpu_milli: 4_000, memory_bytes: 8 << 30, disk_bytes: 8 << 30, tasks_max: 1 };
    let abilities = Abilities {
        arch: "x86_64".to_owned(),
        runtimes: [RuntimeKind::Wasi, RuntimeKind::Vm].into(),
        services: [RuntimeKind::Wasi].into(),
        network,
    };
    let mut provider = Provider::new(NodeId::from_bytes([1; 32]), abilities, Capacity::new(whole));
    let spec = TaskSpec {
        program,
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs,
        timeout_ms: 1_000,
        service: None,
    };
    let task = TaskId { step: 0, index: 0 };
    let attempt = AttemptId { run: RunId::from_bytes([3; 16]), task, number: 1 };
    provider.handle_request(NodeId::from_bytes([2; 32]), [4; 16], attempt, spec, 1_000);
    let mut answers = provider.drain_actions();
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn module() -> Program {
    let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "m.wasm".to_owned() };
    Program::Wasi { module, fuel: false }
}

#[test]
fn what_a_node_cannot_run_is_refused_for_that_reason() {
    let image = DirRef { digest: Digest::of(b"i"), size: 1, name: "image".to_owned() };
    let container = Program::Container { image, entrypoint: None };
    let of = |arch: &str| Needs { arch: Some(arch.to_owned()), ..Needs::default() };
    let no = |answer| match answer {
        Action::Refuse { no, .. } => Some(no),
        _ => None,
    };
    assert_eq!(no(ask(Needs::default(), module())), None);
    assert_eq!(no(ask(of("x86_64"), module())), None);
    assert_eq!(no(ask(of("aarch64"), module())), Some(No::Unsupported));
    assert_eq!(no(ask(Needs::default(), container)), Some(No::Unsupported));
    let online = Needs { network: true, ..Needs::default() };
    assert_eq!(no(ask(online.clone(), module())), Some(No::Unsupported));
    assert_eq!(no(ask_with(true, online.clone(), module())), None);
    let dir = DirRef { digest: Digest::of(b"k"), size: 1, name: "kernel".to_owned() };
    let boot = Boot::Kernel { dir, append: String::new() };
    let machine = |ssh_keys: &[&str]| {
        let ssh_keys = ssh_keys.iter().map(|&key| key.to_owned()).collect();
        Program::Vm { boot: boot.clone(), user_data: None, ssh_keys }
    };
    assert_eq!(no(ask_with(false, online.clone(), machine(&[]))), Some(No::Unsupported));
    assert_eq!(no(ask_with(true, online, machine(&[]))), None);
    // What is written into a machine's files is looked at here, too.
    assert_eq!(no(ask(Needs::default(), machine(&["x\nssh-rsa AAAA"]))), Some(No::Unsupported));
    let large = Needs { memory_bytes: 9 << 30, ..Needs::default() };
    assert_eq!(no(ask(large, module())), Some(No::TooBig));
}
