//! Engines of several organisations in one area, and what its rule book lets them do: the consumer places by it, the
//! provider quotes and signs by its own copy of it, the publisher keeps personal data by it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use accounting::{PricePlan, Refusal, RefusalCode};
use catalog::record::{ComputeDetail, DataDetail, Detail, Resource, Visibility};
use catalog::rules::{PriceUnit, Rule, RuleBook, RuleKind};
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, CommandError, Response};
use node::engine::message::NodeMessage;
use node::engine::rules::HeldRules;
use node::engine::{Effect, Engine, Input, Papers, Settings, Stored};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use scheduler::negotiate::{Message, Outcome};
use scheduler::run::Submission;
use scheduler::task::{RunId, Stage};
use scheduler::value::{FileRef, Value};

const NOW_MS: u64 = 1_800_000_000_000;
const MODULE: &[u8] = b"module";
const PATIENTS: &[u8] = b"patients";

struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    seen: Vec<Effect>,
}

/// Nodes of as many organisations, all connected, whose messages a test carries.
struct World {
    peers: Vec<Peer>,
    mail: VecDeque<(NodeId, NodeId, Vec<u8>)>,
    now_ms: u64,
}

fn org(at: usize) -> OrgId {
    SigningKey::from_bytes(&[at as u8 + 1; 32]).verifying_key().into()
}

fn area() -> Digest {
    Digest::of(b"the area")
}

fn settings(at: usize, region: &str, price_plan: PricePlan) -> Settings {
    let seed = at as u8 + 1;
    Settings {
        papers: Papers::root(SigningKey::from_bytes(&[seed; 32])),
        node_key: SigningKey::from_bytes(&[seed | 0x80; 32]),
        former: Vec::new(),
        org_name: format!("Org {seed}"),
        node_name: format!("node-{seed}"),
        price_plan,
        compute: ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: 2_000,
            memory_bytes: 4 << 30,
            disk_bytes: 4 << 30,
            region: region.to_owned(),
            ..ComputeDetail::default()
        },
        tasks_max: 8,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: node::engine::ports::Offers::default(),
        light: None,
    }
}

impl World {
    /// One node for each region, each of its own organisation.
    fn of(regions: &[&str]) -> Self {
        let mut world = Self { peers: Vec::new(), mail: VecDeque::new(), now_ms: NOW_MS };
        for (at, region) in regions.iter().enumerate() {
            world.add(settings(at, region, PricePlan::default()));
        }
        world
    }

    fn add(&mut self, settings: Settings) {
        let at = self.peers.len();
        let mut rng = ChaCha8Rng::seed_from_u64(at as u64);
        let (engine, _) =
            Engine::recover(settings, &Stored::default(), self.now_ms, &mut rng).unwrap();
        self.peers.push(Peer { engine, rng, seen: Vec::new() });
        self.handle(at, Input::Listening { addresses: vec![format!("/sim/{at}")] });
        for other in 0..at {
            let hello = match other {
                0 => self.joining(at),
                _ => self.peers[at].engine.hello(),
            };
            self.connect(at, other, hello);
        }
    }

    fn joining(&mut self, at: usize) -> Vec<u8> {
        let invite = Command::Invite { valid_ms: 60_000, is_asking: false };
        let Ok(Response::Ticket(ticket)) = self.ask(0, invite) else { panic!("no ticket") };
        let joining = self.handle(at, Input::Command { id: 1, command: Command::Join { ticket } });
        let hello = |effect| match effect {
            Effect::Connect { hello: Some(hello), .. } => Some(hello),
            _ => None,
        };
        joining.into_iter().find_map(hello).unwrap()
    }

    fn connect(&mut self, from: usize, to: usize, hello: Vec<u8>) {
        let (a, b) = (self.id(from), self.id(to));
        let effects = self.handle(to, Input::Hello { token: 1, peer: a, payload: hello });
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Greet { is_welcome: true, reply, .. } => Some(reply),
            _ => None,
        });
        self.handle(from, Input::ConnectEnded { peer: b, result: Ok(reply.unwrap()) });
        self.handle(to, Input::Connected { peer: a });
        self.handle(from, Input::Connected { peer: b });
        self.pump();
    }

    fn id(&self, at: usize) -> NodeId {
        self.peers[at].engine.me()
    }

    fn handle(&mut self, at: usize, input: Input) -> Vec<Effect> {
        let from = self.id(at);
        let peer = &mut self.peers[at];
        let effects = peer.engine.handle(self.now_ms, &mut peer.rng, input).list;
        peer.seen.extend(effects.iter().cloned());
        for effect in &effects {
            let input = match effect {
                Effect::Send { to, payload } => {
                    self.mail.push_back((from, *to, payload.clone()));
                    continue;
                }
                Effect::Fetch { job, .. } => Input::Fetched { job: *job, result: Ok(()) },
                Effect::Start { attempt, .. } => Input::Ended {
                    attempt: *attempt,
                    outcome: Outcome::Done { outputs: BTreeMap::new() },
                    counters: accounting::Counters::default(),
                },
                _ => continue,
            };
            self.handle(at, input);
        }
        effects
    }

    fn pump(&mut self) {
        for _ in 0..10_000 {
            let Some((from, to, payload)) = self.mail.pop_front() else { return };
            if let Some(at) = (0..self.peers.len()).find(|at| self.id(*at) == to) {
                self.handle(at, Input::Message { from, payload });
            }
        }
        panic!("engines talk without end");
    }

    fn later(&mut self, ms: u64) {
        self.now_ms += ms;
        for at in 0..self.peers.len() {
            self.handle(at, Input::Tick);
        }
        self.pump();
    }

    fn ask(&mut self, at: usize, command: Command) -> Result<Response, CommandError> {
        let effects = self.handle(at, Input::Command { id: 1, command });
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { result, .. } => Some(result),
            _ => None,
        });
        self.pump();
        reply.unwrap()
    }

    /// These are members, by the book of each.
    fn agree(&mut self, members: &[usize], rules: &RuleBook) {
        for at in members {
            self.hold(*at, members, rules);
        }
    }

    /// What one node takes the area to be.
    fn hold(&mut self, at: usize, members: &[usize], rules: &RuleBook) {
        let held = HeldRules {
            name: "terrain".to_owned(),
            members: members.iter().map(|at| org(*at)).collect(),
            rules: rules.encode(),
        };
        self.peers[at].engine.hold_rules(area(), held);
        self.handle(at, Input::Tick);
    }

    /// Runs a step on the personal data of `publisher`, and says how it stands.
    fn run(&mut self, at: usize, submission: Submission) -> (RunId, String) {
        let command = Command::Submit { submission: Box::new(submission), by: None };
        let Response::Submitted(run) = self.ask(at, command).unwrap() else { panic!("no run") };
        self.later(100);
        (run, self.state(at, run))
    }

    fn state(&self, at: usize, run: RunId) -> String {
        let inspect = self.peers[at].engine.inspect();
        inspect.runs().find(|known| known.id() == run).unwrap().state().to_owned()
    }

    /// Why the one step of a run is where it is.
    fn reasons(&mut self, at: usize, run: RunId) -> String {
        match self.ask(at, Command::Explain { run }).unwrap() {
            Response::Explanation(tasks) => tasks[0].reasons.join("\n"),
            other => panic!("{other:?}"),
        }
    }

    /// The last refusal that a node sent.
    fn refusal(&self, at: usize) -> Option<(RefusalCode, Option<String>)> {
        let me = self.id(at);
        let refused = |effect: &Effect| {
            let Effect::Send { payload, .. } = effect else { return None };
            let Ok(NodeMessage::Task(Message::Refusal { refusal, .. })) =
                NodeMessage::decode(payload)
            else {
                return None;
            };
            Refusal::open(&refusal, &me).ok().map(|refusal| (refusal.code, refusal.rule))
        };
        self.peers[at].seen.iter().rev().find_map(refused)
    }

    fn has_started(&self, at: usize) -> bool {
        self.peers[at].seen.iter().any(|effect| matches!(effect, Effect::Start { .. }))
    }

    /// Describes the patients, everywhere.
    fn publish_patients(&mut self, at: usize) {
        let detail = Detail::Data(DataDetail {
            media_type: "text/csv".to_owned(),
            digest: Digest::of(PATIENTS),
            size: PATIENTS.len() as u64,
            directory: false,
            quality: String::new(),
            personal: true,
            anonymised: false,
            open: false,
            update_s: None,
            residency: Vec::new(),
        });
        let resource = Resource {
            key: "data/patients".to_owned(),
            name: "patients".to_owned(),
            short: String::new(),
            long: String::new(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail,
        };
        let (resource, visibility) = (Box::new(resource), Visibility::Public);
        self.ask(at, Command::Publish { resource, visibility }).unwrap();
        // Who publishes does not gossip here: the others compare with it.
        for other in (0..self.peers.len()).filter(|other| *other != at) {
            let (a, b) = (self.id(at), self.id(other));
            self.handle(at, Input::Connected { peer: b });
            self.handle(other, Input::Connected { peer: a });
            self.pump();
        }
    }

    /// Who may fetch content from a node, as its gate was last told: anybody, these, or nobody.
    fn open_to(&self, at: usize, content: Digest) -> Option<Option<BTreeSet<NodeId>>> {
        self.peers[at].seen.iter().rev().find_map(|effect| match effect {
            Effect::Open { digest } if *digest == content => Some(None),
            Effect::OpenTo { digest, peers } if *digest == content => Some(Some(peers.clone())),
            Effect::Close { digest } if *digest == content => Some(Some(BTreeSet::new())),
            _ => None,
        })
    }
}

/// A run of one step, at any of these organisations.
fn submission(area: Option<&str>, orgs: &[usize], input: Option<&[u8]>) -> Submission {
    let module = Digest::of(MODULE);
    let (params, reads) = match input {
        None => ("", ""),
        Some(_) => {
            ("params: {data: {type: file}}\n", "    in: {data: {param: data, path: data.csv}}\n")
        }
    };
    let source = format!(
        "opencloud: workflow/v1\nname: one\n{params}steps:\n  only:\n    run: {{wasi: {{module: \"{module}\"}}}}\n\
         {reads}    needs: {{memory: 64MiB}}\n"
    );
    let file = |bytes: &[u8]| FileRef {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        name: "file".to_owned(),
    };
    let orgs: Vec<String> = orgs.iter().map(|at| format!("\"{}\"", org(*at))).collect();
    let binding = format!("opencloud: binding/v1\ndefaults: {{orgs: [{}]}}\n", orgs.join(", "));
    Submission {
        source,
        params: input
            .map(|bytes| ("data".to_owned(), Value::File(file(bytes))))
            .into_iter()
            .collect(),
        assets: [(module.to_string(), Stage::File(file(MODULE)))].into(),
        binding: (!orgs.is_empty()).then_some(binding),
        strategy: None,
        replica: None,
        area: area.map(str::to_owned),
    }
}

fn book(kinds: Vec<RuleKind>) -> RuleBook {
    RuleBook::new(kinds.into_iter().map(Rule::new).collect()).unwrap()
}

fn regions(regions: &[&str]) -> RuleKind {
    RuleKind::Residency(regions.iter().map(|region| (*region).to_owned()).collect())
}

#[test]
fn a_step_goes_where_the_area_allows_and_explain_names_the_rule() {
    let mut world = World::of(&["de", "us", "fr-paris"]);
    world.agree(&[0, 1, 2], &book(vec![regions(&["de", "fr"])]));
    let (run, state) = world.run(0, submission(Some("terrain"), &[1], None));
    assert_eq!(state, "running", "it waits");
    let reasons = world.reasons(0, run);
    assert!(reasons.contains("no, rule `residency`: node `node-2` is in region `us`"), "{reasons}");
    assert!(!world.has_started(1) && world.refusal(1).is_none(), "it is not even asked");
    let id = area().to_string();
    assert_eq!(world.run(0, submission(Some(&id), &[2], None)).1, "succeeded");
    assert!(world.has_started(2));
    // By the id as lists of areas show it, too; and the run tells its area so.
    let (run, _) = world.run(0, submission(Some(&area().to_hex()), &[2], None));
    let Ok(Response::Run(view)) = world.ask(0, Command::Run { run }) else { panic!("no run") };
    assert_eq!(
        (view.summary.state.as_str(), view.summary.area),
        ("succeeded", Some(area().to_hex()))
    );
    // Who is no member is not asked either.
    world.hold(0, &[0, 1], &RuleBook::default());
    let (run, _) = world.run(0, submission(Some("terrain"), &[2], None));
    let reasons = world.reasons(0, run);
    assert!(reasons.contains("no member of area `terrain`"), "{reasons}");
    let submission = Box::new(submission(Some("elsewhere"), &[], None));
    let refused = world.ask(0, Command::Submit { submission, by: None }).unwrap_err().to_string();
    assert!(
        refused.contains("area `elsewhere`: this organisation is in no such area"),
        "{refused}"
    );
}

#[test]
fn a_provider_decides_by_its_own_copy_of_the_book() {
    let mut world = World::of(&["de", "us"]);
    let rules = book(vec![regions(&["de"])]);
    world.hold(1, &[0, 1], &rules);
    // The consumer says that there are no rules.
    world.hold(0, &[0, 1], &RuleBook::default());
    let (run, _) = world.run(0, submission(Some("terrain"), &[1], None));
    assert_eq!(world.refusal(1), Some((RefusalCode::Rule, Some("residency".to_owned()))));
    let reasons = world.reasons(0, run);
    assert!(reasons.contains("it refused by rule `residency` of the area"), "{reasons}");
    // A consumer that is no member, by the provider's copy; then an area in which the provider is not.
    world.hold(1, &[1], &RuleBook::default());
    world.later(11_000);
    assert_eq!(world.refusal(1), Some((RefusalCode::Area, None)));
    world.peers[1].seen.clear();
    world.peers[1].engine.drop_rules(area());
    world.later(11_000);
    assert_eq!(world.refusal(1), Some((RefusalCode::Area, None)));
    // A book that this version cannot read allows nothing.
    let unread = HeldRules {
        name: "terrain".to_owned(),
        members: [org(0), org(1)].into(),
        rules: vec![0xa1, 0x01, 0x00],
    };
    world.peers[1].seen.clear();
    world.peers[1].engine.hold_rules(area(), unread);
    world.later(11_000);
    assert_eq!(world.refusal(1), Some((RefusalCode::Area, None)));
    assert!(!world.has_started(1));
}

#[test]
fn personal_data_is_worked_on_by_its_publisher_alone_whatever_is_named() {
    let mut world = World::of(&["de", "de", "de"]);
    world.publish_patients(2);
    let rules = book(vec![RuleKind::PersonalStays]);
    world.agree(&[1, 2], &rules);
    // The consumer knows nothing of rules, and names no area.
    let (_, state) = world.run(0, submission(None, &[1], Some(PATIENTS)));
    assert_eq!((state.as_str(), world.refusal(1)), ("running", Some((RefusalCode::Policy, None))));
    assert!(!world.has_started(1));
    // One that is in the area asks nobody else, named or not.
    world.agree(&[0, 1, 2], &rules);
    for named in [None, Some("terrain")] {
        world.peers[1].seen.clear();
        let (run, _) = world.run(0, submission(named, &[1], Some(PATIENTS)));
        let reasons = world.reasons(0, run);
        assert!(reasons.contains("no, rule `personal`: "), "{reasons}");
        assert_eq!(world.refusal(1), None, "it is not even asked");
    }
    assert_eq!(world.run(0, submission(Some("terrain"), &[2], Some(PATIENTS))).1, "succeeded");
    // Until then it is not asked again, whatever for.
    world.later(11_000);
    assert_eq!(world.run(0, submission(None, &[1], Some(b"weather"))).1, "succeeded");
}

#[test]
fn a_publisher_opens_personal_data_to_nobody_else_while_a_rule_keeps_it() {
    let mut world = World::of(&["de", "de"]);
    let patients = Digest::of(PATIENTS);
    world.publish_patients(0);
    assert_eq!(world.open_to(0, patients), Some(None), "it is public");
    world.agree(&[0, 1], &book(vec![regions(&["de"])]));
    assert_eq!(world.open_to(0, patients), Some(None));
    world.agree(&[0, 1], &book(vec![RuleKind::PersonalStays]));
    assert_eq!(world.open_to(0, patients), Some(Some(BTreeSet::new())));
    // A peer that comes anew changes nothing.
    let peer = world.id(1);
    world.handle(0, Input::Disconnected { peer });
    world.handle(0, Input::Connected { peer });
    assert_eq!(world.open_to(0, patients), Some(Some(BTreeSet::new())));
    world.peers[0].engine.drop_rules(area());
    world.handle(0, Input::Tick);
    assert_eq!(world.open_to(0, patients), Some(None));
}

/// A quote for the same work, dearer by far than its provider's record says.
fn dearer(payload: &[u8], provider: usize) -> Option<Vec<u8>> {
    let key = SigningKey::from_bytes(&[(provider as u8 + 1) | 0x80; 32]);
    let node: NodeId = key.verifying_key().into();
    let Ok(NodeMessage::Task(Message::Quote { request, quote })) = NodeMessage::decode(payload)
    else {
        return None;
    };
    let mut quote = accounting::Quote::open(&quote, &node).unwrap();
    quote.plan.rows.iter_mut().for_each(|row| row.amount_nano *= 1_000);
    let quote = quote.sign(&key);
    Some(NodeMessage::Task(Message::Quote { request, quote }).encode())
}

#[test]
fn a_provider_whose_quote_breaks_the_cap_that_its_record_keeps_is_declined() {
    let mut world = World::of(&["de", "de"]);
    let max = "0.10".parse().unwrap();
    let cap = RuleKind::PriceCap { unit: PriceUnit::CpuHour, max, currency: Currency::EUR };
    world.agree(&[0, 1], &book(vec![cap]));
    assert_eq!(world.run(0, submission(Some("terrain"), &[1], None)).1, "succeeded");
    world.peers[1].seen.clear();
    let command =
        Command::Submit { submission: Box::new(submission(Some("terrain"), &[1], None)), by: None };
    let started = world.handle(0, Input::Command { id: 1, command });
    let run = started.into_iter().find_map(|effect| match effect {
        Effect::Reply { result: Ok(Response::Submitted(run)), .. } => Some(run),
        _ => None,
    });
    let mut n_lies = 0;
    while let Some((from, to, payload)) = world.mail.pop_front() {
        let lie = dearer(&payload, 1).filter(|_| from == world.id(1));
        n_lies += usize::from(lie.is_some());
        let at = (0..2).find(|at| world.id(*at) == to).unwrap();
        world.handle(at, Input::Message { from, payload: lie.unwrap_or(payload) });
    }
    assert!(n_lies > 0 && !world.has_started(1));
    let reasons = world.reasons(0, run.unwrap());
    assert!(reasons.contains("no, rule `price-cpu-hour`: node `node-2` costs"), "{reasons}");
}

#[test]
fn a_book_that_changes_after_the_quote_is_kept_by_the_signature() {
    for changes_at in [0, 1] {
        let mut world = World::of(&["de", "us"]);
        world.agree(&[0, 1], &RuleBook::default());
        let submission = Box::new(submission(Some("terrain"), &[1], None));
        world
            .handle(0, Input::Command { id: 1, command: Command::Submit { submission, by: None } });
        while let Some((from, to, payload)) = world.mail.pop_front() {
            let message = NodeMessage::decode(&payload);
            if matches!(message, Ok(NodeMessage::Task(Message::Accept { .. }))) {
                world.hold(changes_at, &[0, 1], &book(vec![regions(&["de"])]));
            }
            let at = (0..2).find(|at| world.id(*at) == to).unwrap();
            world.handle(at, Input::Message { from, payload });
        }
        assert!(!world.has_started(1), "changed at {changes_at}");
    }
}

#[test]
fn a_plan_names_the_cap_that_the_whole_run_would_break() {
    let mut world = World::of(&["de", "de"]);
    let cap = |max: Amount| {
        let (unit, currency) = (PriceUnit::Run, Currency::EUR);
        book(vec![RuleKind::PriceCap { unit, max, currency }])
    };
    let mut lines = |max| {
        world.agree(&[0, 1], &cap(max));
        let submission = Box::new(submission(Some("terrain"), &[1], None));
        match world.ask(0, Command::Plan { submission, estimate_ms: 3_600_000 }).unwrap() {
            Response::Plan(steps) => (steps[0].is_placeable, steps[0].candidates.join("\n")),
            other => panic!("{other:?}"),
        }
    };
    let (is_placeable, _) = lines("100".parse().unwrap());
    assert!(is_placeable);
    let (is_placeable, said) = lines(Amount::from_nano(1));
    assert!(!is_placeable && said.contains("no, rule `price-run`: the run costs"), "{said}");
    let (run, state) = world.run(0, submission(Some("terrain"), &[1], None));
    let reasons = world.reasons(0, run);
    assert!(state == "running" && reasons.contains("no, rule `price-run`"), "{reasons}");
    assert!(!world.has_started(1));
}
