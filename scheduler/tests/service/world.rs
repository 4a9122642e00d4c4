//! Services with a real coordinator and real providers: what a replica is made of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use scheduler::capacity::{Amounts, Capacity};
use scheduler::coordinator::{Action as Ask, Coordinator, Offer, Proposal};
use scheduler::negotiate::{Message, Outcome};
use scheduler::place::{Candidate, Trust};
use scheduler::provider::{Abilities, Action as Provide, LaneEnd, No, Provider};
use scheduler::run::{Event, Run};
use scheduler::service::{Effect, End, Health, Key, Observed, Record, Services};
use scheduler::task::{AttemptId, Failure, FailureClass, RunId, RuntimeKind, TaskId};

use crate::sim::{Doc, Kind, NAME, node};

const STEP_MS: u64 = 250;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const OWNER: u8 = 1;

struct Host {
    provider: Provider,
    started: BTreeMap<AttemptId, (u64, u64)>,
    is_up: bool,
    ends: Vec<LaneEnd>,
}

struct World {
    now_ms: u64,
    coordinator: Coordinator,
    services: Services,
    hosts: BTreeMap<NodeId, Host>,
    wire: VecDeque<(NodeId, NodeId, Message)>,
    specs: BTreeMap<[u8; 16], Digest>,
    logs: BTreeMap<RunId, Vec<Event>>,
    store: BTreeMap<Key, Record>,
    published: BTreeSet<NodeId>,
    entropy: u64,
}

fn org_of(node: NodeId) -> OrgId {
    // Two nodes each belong to one organisation.
    OrgId::from_bytes([node.as_bytes()[0].div_ceil(2); 32])
}

impl World {
    fn new(nodes: u8) -> Self {
        let host = |n: u8| {
            let (cpu_milli, memory_bytes, disk_bytes) = (8_000, 64 << 30, 64 << 30);
            let whole = Amounts { cpu_milli, memory_bytes, disk_bytes, tasks_max: 16 };
            let abilities = Abilities {
                arch: "x86_64".to_owned(),
                runtimes: [RuntimeKind::Wasi].into(),
                services: [RuntimeKind::Wasi].into(),
                network: false,
            };
            let provider = Provider::new(node(n), abilities, Capacity::new(whole));
            (node(n), Host { provider, started: BTreeMap::new(), is_up: true, ends: Vec::new() })
        };
        Self {
            now_ms: 1_000_000,
            coordinator: Coordinator::new(node(OWNER)),
            services: Services::new(),
            hosts: (1..=nodes).map(host).collect(),
            wire: VecDeque::new(),
            specs: BTreeMap::new(),
            logs: BTreeMap::new(),
            store: BTreeMap::new(),
            published: BTreeSet::new(),
            entropy: 0,
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let up = self.hosts.iter().filter(|(_, host)| host.is_up);
        let candidate = |node: &NodeId| Candidate {
            node: *node,
            org: org_of(*node),
            org_name: "org".to_owned(),
            node_name: "node".to_owned(),
            trust: Trust::Own,
            arch: "x86_64".to_owned(),
            runtimes: vec![RuntimeKind::Wasi],
            services: vec![RuntimeKind::Wasi],
            network: false,
            cpu_milli: 8_000,
            memory_bytes: 64 << 30,
            disk_bytes: 64 << 30,
            devices: BTreeMap::new(),
            region: String::new(),
            connected: true,
            inflight_cpu_milli: 0,
            // The first node is always the best for one task.
            rtt_us: u64::from(node.as_bytes()[0]) * 1_000_000,
            speed_milli: 1_000,
            price: None,
            failures: 0,
            refused_until_ms: 0,
            holds: BTreeSet::new(),
        };
        up.map(|(node, _)| candidate(node)).collect()
    }

    fn deploy(&mut self, doc: &Doc) {
        self.services.deploy(doc.content(), None, self.now_ms).unwrap();
    }

    fn advance(&mut self, ms: u64) {
        self.advance_with(ms, |_| {});
    }

    fn advance_with(&mut self, ms: u64, mut look: impl FnMut(&Self)) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms += STEP_MS;
            for host in self.hosts.values_mut().filter(|host| host.is_up) {
                for (attempt, (since_ms, term_ms)) in host.started.clone() {
                    let age_ms = self.now_ms - since_ms;
                    if age_ms >= term_ms {
                        host.started.remove(&attempt);
                        let (exit_code, detail) = (None, String::new());
                        let failure = Failure { class: FailureClass::Timeout, exit_code, detail };
                        host.provider.handle_ended(attempt, Outcome::Failed(failure), self.now_ms);
                    } else if age_ms >= 2 * SECOND {
                        host.provider.handle_health(attempt, Health::Healthy, self.now_ms);
                    }
                }
                host.provider.poll(self.now_ms);
            }
            self.settle();
            look(self);
        }
    }

    /// Routes until everything is at rest, as the engine does.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the machines talk in a circle");
            let pool = self.candidates();
            let entropy = &mut self.entropy;
            let mut random = || {
                *entropy += 1;
                entropy.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            };
            self.coordinator.poll(self.now_ms, &mut || pool.clone(), &mut random);
            self.services.poll(self.now_ms, &mut random);
            let mut is_quiet = true;
            for action in self.coordinator.drain_actions() {
                is_quiet = false;
                self.ask(action);
            }
            for effect in self.services.drain_effects() {
                is_quiet = false;
                self.perform(effect);
            }
            for from in self.hosts.keys().copied().collect::<Vec<_>>() {
                for action in self.hosts.get_mut(&from).unwrap().provider.drain_actions() {
                    is_quiet = false;
                    self.provide(from, action);
                }
            }
            while let Some((from, to, message)) = self.wire.pop_front() {
                is_quiet = false;
                if self.hosts[&from].is_up && self.hosts[&to].is_up {
                    self.deliver(from, to, message);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn ask(&mut self, action: Ask) {
        match action {
            Ask::Record { run, seq, event } => {
                let log = self.logs.entry(run).or_default();
                assert_eq!(log.len() as u64, seq);
                log.push(*event);
                let run = self.coordinator.run(run).unwrap();
                if run.submission().replica.is_some() {
                    let observed = Observed::of(run);
                    self.services.handle_replica(run.id(), &observed, self.now_ms);
                }
            }
            Ask::Send { to, message } => self.wire.push_back((node(OWNER), to, message)),
            _ => {}
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { key, record, .. } => _ = self.store.insert(key, *record),
            Effect::Erase { key, .. } => _ = self.store.remove(&key),
            Effect::Start { run, submission, .. } => {
                self.coordinator.submit(run, *submission, None, self.now_ms).unwrap();
            }
            Effect::Cancel { run } => _ = self.coordinator.cancel(run, self.now_ms),
            Effect::Forget { run } => {
                if let Some(events) = self.coordinator.forget(run) {
                    assert_eq!(self.logs.remove(&run).unwrap().len() as u64, events);
                }
                assert!(!self.logs.contains_key(&run), "nothing is left of {run}");
            }
            Effect::Publish { endpoints, .. } => {
                self.published = endpoints.replicas.iter().map(|e| e.node).collect();
            }
            Effect::Withdraw { .. } => self.published.clear(),
        }
    }

    fn provide(&mut self, from: NodeId, action: Provide) {
        let now_ms = self.now_ms;
        match action {
            Provide::Quote { request, valid_until_ms, .. } => {
                let offer = Offer {
                    provider: from,
                    request,
                    spec: self.specs[&request],
                    estimate: Amount::ZERO,
                    currency: Currency::EUR,
                    valid_until_ms,
                };
                self.coordinator.handle_offer(offer, now_ms);
            }
            Provide::Propose { attempt, spec, .. } => {
                let (org, spec) = (org_of(from), spec.digest());
                let proposal = Proposal { provider: from, org, attempt, spec, lane: Some(1) };
                let is_signed = self.coordinator.check_agreement(&proposal, now_ms);
                let provider = &mut self.hosts.get_mut(&from).unwrap().provider;
                if is_signed {
                    assert!(provider.handle_agreed(attempt, now_ms));
                } else {
                    provider.handle_disagreed(attempt);
                }
            }
            Provide::Send { to, message } => self.wire.push_back((from, to, message)),
            other => {
                let host = self.hosts.get_mut(&from).unwrap();
                match other {
                    Provide::Fetch { attempt, .. } => {
                        host.provider.handle_fetched(attempt, Ok(()), now_ms);
                    }
                    Provide::Start { attempt, spec, .. } => {
                        assert!(spec.service.is_some());
                        host.started.insert(attempt, (now_ms, spec.timeout_ms));
                    }
                    Provide::Stop { attempt } => {
                        host.started.remove(&attempt);
                        let (class, detail) = (FailureClass::Cancelled, String::new());
                        let failure = Failure { class, exit_code: None, detail };
                        host.provider.handle_ended(attempt, Outcome::Failed(failure), now_ms);
                    }
                    Provide::Settle { end, .. } => host.ends.push(end),
                    _ => {}
                }
            }
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let now_ms = self.now_ms;
        let provider = &mut self.hosts.get_mut(&to).unwrap().provider;
        match message {
            Message::QuoteRequest { request, attempt, spec, .. } => {
                self.specs.insert(request, spec.digest());
                provider.handle_request(from, request, attempt, *spec, now_ms);
            }
            Message::Accept { request } => provider.handle_accept(from, request, now_ms),
            Message::Decline { request } => provider.handle_decline(from, request, now_ms),
            Message::Renew { attempts } => provider.handle_renew(from, &attempts, now_ms),
            Message::Collected { attempt } => provider.handle_collected(from, attempt),
            Message::Cancel { attempt } => provider.handle_cancel(from, attempt),
            Message::Status { attempts, health } => {
                self.coordinator.handle_status(from, &attempts, now_ms);
                for (attempt, health) in self.coordinator.check_health(from, &health) {
                    self.services.handle_health(attempt, health, now_ms);
                }
            }
            Message::Finished { attempt, outcome } => {
                self.coordinator.handle_finished(from, attempt, outcome, now_ms, &mut || 1);
            }
            _ => {}
        }
    }

    /// The nodes of the replicas that are healthy, each as often as it has one.
    fn nodes(&self) -> Vec<u8> {
        let members = self.services.service(NAME).unwrap().members();
        let mut nodes: Vec<u8> = members
            .filter(|m| m.is_available())
            .map(|m| m.record.place.unwrap().node.as_bytes()[0])
            .collect();
        nodes.sort_unstable();
        nodes
    }

    fn available(&self) -> u32 {
        self.services.service(NAME).unwrap().available()
    }

    /// The owner's node stops and comes back; the others go on.
    fn restart(&mut self, pause_ms: u64) {
        self.now_ms += pause_ms;
        self.coordinator = Coordinator::new(node(OWNER));
        for (id, log) in &self.logs {
            self.coordinator.restore(Run::replay(*id, log.clone()).unwrap(), self.now_ms);
        }
        self.services = Services::new();
        self.services.restore(NAME, self.store.values().cloned(), self.now_ms).unwrap();
        let members = self.services.service(NAME).unwrap().members();
        let mut known: BTreeSet<RunId> = members.map(|m| m.record.run).collect();
        known.extend(self.logs.keys());
        for id in known {
            let unknown = Observed::Ended(End::Refused { detail: "not known".to_owned() });
            let observed = self.coordinator.run(id).map_or(unknown, Observed::of);
            self.services.handle_replica(id, &observed, self.now_ms);
        }
    }
}

fn doc(version: u32, replicas: u32) -> Doc {
    Doc { term: "10m", ..Doc::new(Kind::Good, version, replicas) }
}

#[test]
fn replicas_go_to_different_nodes_while_there_are_some() {
    let mut world = World::new(3);
    world.deploy(&doc(1, 3));
    world.advance(10 * SECOND);
    assert_eq!(world.nodes(), [1, 2, 3]);
    assert_eq!(world.published, (1..=3).map(node).collect());
    world.services.scale(NAME, 5, world.now_ms).unwrap();
    world.advance(20 * SECOND);
    // Nowhere else: the best nodes take a second one.
    assert_eq!(world.nodes(), [1, 1, 2, 2, 3]);
}

#[test]
fn replicas_go_to_different_organisations_when_that_is_wanted() {
    let mut world = World::new(4);
    let mut content = doc(1, 2).content();
    content.source.push_str("spread: orgs\n");
    world.services.deploy(content, None, world.now_ms).unwrap();
    world.advance(10 * SECOND);
    assert_eq!(world.nodes(), [1, 3]);
    let mut content = doc(1, 2).content();
    content.source.push_str("spread: none\n");
    world.services.deploy(content, None, world.now_ms).unwrap();
    world.advance(MINUTE);
    // Of one organisation, but the nearest.
    assert_eq!(world.nodes(), [1, 2]);
}

#[test]
fn an_update_and_every_renewal_keep_all_replicas_available_and_spread() {
    let mut world = World::new(3);
    world.deploy(&doc(1, 3));
    world.advance(10 * SECOND);
    world.deploy(&doc(2, 3));
    world.advance_with(2 * MINUTE, |world| assert!(world.available() >= 3));
    assert_eq!(world.services.service(NAME).unwrap().head().stable, Some(2));
    world.advance_with(40 * MINUTE, |world| assert!(world.available() >= 3));
    assert_eq!(world.nodes(), [1, 2, 3]);
    // Old agreements ended at their consumer's wish, none at its term.
    let ends: Vec<LaneEnd> = world.hosts.values().flat_map(|h| h.ends.clone()).collect();
    assert!(ends.len() >= 12, "{}", ends.len());
    assert!(ends.iter().all(|end| *end == LaneEnd::Cancelled), "{ends:?}");
    // Ended replicas are forgotten with their logs.
    assert_eq!(world.coordinator.runs().count(), 3);
}

#[test]
fn a_node_that_falls_silent_loses_its_replica_and_is_not_billed_for() {
    let mut world = World::new(4);
    world.deploy(&doc(1, 3));
    world.advance(10 * SECOND);
    world.hosts.get_mut(&node(2)).unwrap().is_up = false;
    world.advance_with(MINUTE, |world| assert!(world.available() >= 2));
    assert_eq!(world.nodes(), [1, 3, 4]);
    // It comes back with a replica that nobody wants any more.
    world.hosts.get_mut(&node(2)).unwrap().is_up = true;
    world.advance(10 * SECOND);
    assert!(world.hosts[&node(2)].started.is_empty());
    assert_eq!(world.nodes(), [1, 3, 4]);
}

#[test]
fn the_owners_restart_touches_no_replica() {
    let mut world = World::new(3);
    world.deploy(&doc(1, 3));
    world.advance(10 * SECOND);
    let before: Vec<AttemptId> =
        world.hosts.values().flat_map(|h| h.started.keys().copied()).collect();
    world.restart(10 * SECOND);
    world.settle();
    assert_eq!(world.available(), 3, "what was healthy is taken to be so");
    world.advance(30 * SECOND);
    let after: Vec<AttemptId> =
        world.hosts.values().flat_map(|h| h.started.keys().copied()).collect();
    assert_eq!(before, after);
    // In the middle of an update, too.
    world.deploy(&doc(2, 3));
    for _ in 0..12 {
        world.advance(4 * SECOND);
        world.restart(SECOND);
    }
    world.advance(MINUTE);
    assert_eq!(world.nodes(), [1, 2, 3]);
    assert_eq!(world.services.service(NAME).unwrap().head().stable, Some(2));
}

#[test]
fn a_removed_service_ends_at_every_provider() {
    let mut world = World::new(3);
    world.deploy(&doc(1, 3));
    world.advance(10 * SECOND);
    world.services.remove(NAME, world.now_ms).unwrap();
    world.advance(10 * SECOND);
    assert!(world.hosts.values().all(|host| host.started.is_empty()));
    assert!(world.store.is_empty() && world.logs.is_empty() && world.published.is_empty());
    assert_eq!(world.coordinator.runs().count(), 0);
}

#[test]
fn only_the_provider_of_an_attempt_has_a_say_about_its_health() {
    let mut world = World::new(3);
    world.deploy(&doc(1, 1));
    world.advance(10 * SECOND);
    let attempt = *world.hosts[&node(1)].started.keys().next().unwrap();
    let said = [(attempt, Health::Unhealthy)];
    assert_eq!(world.coordinator.check_health(node(1), &said), said);
    assert_eq!(world.coordinator.check_health(node(2), &said), []);
    let old = [(AttemptId { number: attempt.number + 1, ..attempt }, Health::Unhealthy)];
    assert_eq!(world.coordinator.check_health(node(1), &old), []);
}

#[test]
fn a_provider_refuses_services_it_cannot_run_and_probes_it_must_not_make() {
    let mut world = World::new(1);
    world.deploy(&doc(1, 1));
    world.advance(10 * SECOND);
    let host = world.hosts.get_mut(&node(1)).unwrap();
    let attempt = *host.started.keys().next().unwrap();
    let good = host.provider.record(attempt).unwrap().spec.clone();
    let mut answer = |nth: u8, change: fn(&mut scheduler::task::TaskSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        let run = RunId::from_bytes([nth; 16]);
        let attempt = AttemptId { run, task: TaskId { step: 0, index: 0 }, number: 1 };
        host.provider.handle_request(node(9), [nth; 16], attempt, spec, world.now_ms);
        match host.provider.drain_actions().pop() {
            Some(Provide::Refuse { no, .. }) => Some(no),
            _ => None,
        }
    };
    assert_eq!(answer(1, |_| {}), None);
    assert_eq!(answer(2, |s| s.service = None), None);
    let probe_elsewhere = |s: &mut scheduler::task::TaskSpec| {
        s.service.as_mut().unwrap().ports.clear();
    };
    assert_eq!(answer(3, probe_elsewhere), Some(No::Unsupported));
    let flood = |s: &mut scheduler::task::TaskSpec| {
        s.service.as_mut().unwrap().health.as_mut().unwrap().every_ms = 0;
    };
    assert_eq!(answer(4, flood), Some(No::Unsupported));
    let abilities = Abilities {
        arch: "x86_64".to_owned(),
        runtimes: [RuntimeKind::Wasi].into(),
        services: BTreeSet::new(),
        network: false,
    };
    let whole =
        Amounts { cpu_milli: 8_000, memory_bytes: 64 << 30, disk_bytes: 64 << 30, tasks_max: 1 };
    let mut plain = Provider::new(node(5), abilities, Capacity::new(whole));
    plain.handle_request(node(9), [5; 16], attempt, good, world.now_ms);
    let refused = plain.drain_actions();
    assert!(matches!(refused[..], [Provide::Refuse { no: No::Unsupported, .. }]), "{refused:?}");
}

#[test]
fn a_change_of_health_is_reported_at_once_but_not_more_often_than_that() {
    let mut world = World::new(1);
    world.deploy(&doc(1, 1));
    world.advance(10 * SECOND);
    let host = world.hosts.get_mut(&node(1)).unwrap();
    let attempt = *host.started.keys().next().unwrap();
    let mut now_ms = world.now_ms;
    let mut reports = 0;
    // A program that changes its mind a hundred times in ten seconds.
    for n in 0..100 {
        now_ms += 100;
        let health = if n % 2 == 0 { Health::Unhealthy } else { Health::Healthy };
        host.provider.handle_health(attempt, health, now_ms);
        host.provider.poll(now_ms);
        let told = host.provider.drain_actions();
        reports += told.iter().filter(|a| matches!(a, Provide::Send { .. })).count();
    }
    assert!((10..=21).contains(&reports), "{reports}");
    host.provider.handle_health(attempt, Health::Unhealthy, now_ms);
    host.provider.poll(now_ms + 500);
    let told = host.provider.drain_actions();
    let is_told = told.iter().any(|action| {
        matches!(action, Provide::Send { message: Message::Status { health, .. }, .. }
            if health[..] == [(attempt, Health::Unhealthy)])
    });
    assert!(is_told, "{told:?}");
}

#[test]
fn a_status_of_a_node_without_services_is_understood_and_the_other_way_round() {
    let attempt = AttemptId {
        run: RunId::from_bytes([1; 16]),
        task: TaskId { step: 0, index: 0 },
        number: 1,
    };
    let phase = scheduler::negotiate::Phase::Running;
    let status = |health| Message::Status { attempts: vec![(attempt, phase)], health };
    let plain = serde_json::to_string(&status(Vec::new())).unwrap();
    assert!(!plain.contains("health"), "{plain}");
    assert_eq!(serde_json::from_str::<Message>(&plain).unwrap(), status(Vec::new()));
    let full = status(vec![(attempt, Health::Starting)]);
    let text = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), full);
}
