//! What a provider answers to questions for a price.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId};
use scheduler::capacity::{Amounts, Capacity, QUOTE_LEASE_MS};
use scheduler::device::{Counts, Held};
use scheduler::negotiate::Outcome;
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
        area: None,
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
    let idle = Needs { cpu_milli: 0, ..Needs::default() };
    assert_eq!(no(ask(idle, module())), Some(No::Unsupported));
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

// ---- devices

fn container() -> Program {
    let image = DirRef { digest: Digest::of(b"i"), size: 1, name: "image".to_owned() };
    Program::Container { image, entrypoint: None }
}

fn gpus(n: u32) -> Counts {
    Counts::from([("gpu".to_owned(), n)])
}

/// A node with room for many tasks and two devices.
struct Host {
    provider: Provider,
    n_asked: u8,
}

impl Host {
    fn new() -> Self {
        let whole = Amounts {
            cpu_milli: 64_000,
            memory_bytes: 64 << 30,
            disk_bytes: 64 << 30,
            tasks_max: 16,
        };
        let abilities = Abilities {
            arch: "x86_64".to_owned(),
            runtimes: RuntimeKind::ALL.into(),
            services: BTreeSet::new(),
            network: false,
        };
        let capacity = Capacity::new(whole).with_devices(gpus(2));
        Self {
            provider: Provider::new(NodeId::from_bytes([1; 32]), abilities, capacity),
            n_asked: 0,
        }
    }

    /// Asks, and says the request, the attempt and the first answer.
    fn ask(
        &mut self,
        devices: Counts,
        program: Program,
        now_ms: u64,
    ) -> ([u8; 16], AttemptId, Action) {
        self.n_asked += 1;
        let request = [self.n_asked; 16];
        let task = TaskId { step: 0, index: self.n_asked.into() };
        let attempt = AttemptId { run: RunId::from_bytes([3; 16]), task, number: 1 };
        let spec = TaskSpec {
            program,
            argv: Vec::new(),
            env: BTreeMap::new(),
            stdin: None,
            inputs: BTreeMap::new(),
            mounts: BTreeMap::new(),
            outputs: BTreeMap::new(),
            needs: Needs { devices, ..Needs::default() },
            timeout_ms: 1_000,
            service: None,
            area: None,
        };
        self.provider.handle_request(CONSUMER, request, attempt, spec, now_ms);
        (request, attempt, self.provider.drain_actions().remove(0))
    }

    /// Takes an offer and has the task started; says with which devices.
    fn start(&mut self, request: [u8; 16], attempt: AttemptId, now_ms: u64) -> Held {
        self.provider.handle_accept(CONSUMER, request, now_ms);
        assert!(self.provider.handle_agreed(attempt, now_ms));
        self.provider.handle_fetched(attempt, Ok(()), now_ms);
        let started = self.provider.drain_actions().into_iter().find_map(|action| match action {
            Action::Start { devices, .. } => Some(devices),
            _ => None,
        });
        started.expect("it has agreed and has everything")
    }
}

const CONSUMER: NodeId = NodeId::from_bytes([2; 32]);

#[test]
fn a_device_is_one_attempts_alone_until_that_ends() {
    let mut host = Host::new();
    let now_ms = 1_000;
    let (first, first_attempt, _) = host.ask(gpus(1), container(), now_ms);
    let (second, second_attempt, _) = host.ask(gpus(1), container(), now_ms);
    let held =
        [host.start(first, first_attempt, now_ms), host.start(second, second_attempt, now_ms)];
    assert_eq!(held[0], Held::from([("gpu".to_owned(), [0].into())]));
    assert_eq!(held[1], Held::from([("gpu".to_owned(), [1].into())]));
    let (_, _, third) = host.ask(gpus(1), container(), now_ms);
    assert!(matches!(third, Action::Refuse { no: No::Full { .. }, .. }), "{third:?}");
    let (_, plain, other) = host.ask(Counts::new(), container(), now_ms);
    assert!(matches!(other, Action::Quote { .. }), "{plain} {other:?}");
    let outcome = Outcome::Done { outputs: BTreeMap::new() };
    host.provider.handle_ended(second_attempt, outcome, now_ms);
    let _ = host.provider.drain_actions();
    let (fourth, fourth_attempt, _) = host.ask(gpus(1), container(), now_ms);
    assert_eq!(host.start(fourth, fourth_attempt, now_ms), held[1]);
}

#[test]
fn an_offer_that_nobody_takes_frees_its_devices_when_it_expires() {
    let mut host = Host::new();
    let (_, _, offered) = host.ask(gpus(2), container(), 1_000);
    assert!(matches!(offered, Action::Quote { .. }), "{offered:?}");
    let (_, _, busy) = host.ask(gpus(1), container(), 1_000 + QUOTE_LEASE_MS - 1);
    assert!(matches!(busy, Action::Refuse { no: No::Full { .. }, .. }), "{busy:?}");
    let (_, _, free) = host.ask(gpus(2), container(), 1_000 + QUOTE_LEASE_MS);
    assert!(matches!(free, Action::Quote { .. }), "{free:?}");
}

#[test]
fn devices_that_nobody_can_be_given_are_refused() {
    let mut host = Host::new();
    let dir = DirRef { digest: Digest::of(b"k"), size: 1, name: "kernel".to_owned() };
    let boot = Boot::Kernel { dir, append: String::new() };
    let machine = Program::Vm { boot, user_data: None, ssh_keys: Vec::new() };
    let slurm = FileRef { digest: Digest::of(b"p"), size: 1, name: "p".to_owned() };
    for (devices, program, expected) in [
        (gpus(3), container(), No::TooBig),
        (Counts::from([("tpu".to_owned(), 1)]), container(), No::TooBig),
        (gpus(0), container(), No::Unsupported),
        (gpus(u32::MAX), container(), No::Unsupported),
        (Counts::from([("../gpu".to_owned(), 1)]), container(), No::Unsupported),
        (gpus(1), module(), No::Unsupported),
        (gpus(1), machine, No::Unsupported),
        (gpus(1), Program::Slurm { program: slurm }, No::Unsupported),
    ] {
        let (_, _, answer) = host.ask(devices.clone(), program, 1_000);
        let Action::Refuse { no, .. } = answer else { panic!("{devices:?}: {answer:?}") };
        assert_eq!(no, expected, "{devices:?}");
    }
}

#[test]
fn a_task_without_devices_is_named_as_before_and_one_with_is_another() {
    let json = |devices| {
        serde_json::to_value(Needs { devices, ..Needs::default() }).expect("it is plain data")
    };
    assert!(json(Counts::new()).get("devices").is_none());
    assert_eq!(json(gpus(2))["devices"]["gpu"], 2);
    let read =
        serde_json::from_value::<Needs>(json(Counts::new())).expect("an older node wrote it");
    assert_eq!(read.devices, Counts::new());
}
