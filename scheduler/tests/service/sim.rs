//! A small world for [`Services`]: nodes that take replicas, programs that are good, crash or never get healthy, a store
//! that keeps what is persisted, and the invariants that hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId, OrgId};
use scheduler::service::{
    Content, Effect, End, Endpoints, Health, Key, Observed, Place, Record, Service, Services,
};
use scheduler::task::{AttemptId, Failure, FailureClass, RunId, Stage, TaskId};
use scheduler::value::FileRef;

pub(crate) const NAME: &str = "web";
/// How long one step of the world is.
pub(crate) const STEP_MS: u64 = 1_000;

/// What a revision's program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Gets healthy and stays so.
    Good,
    /// Ends soon with code 1.
    Crashing,
    /// Runs and never gets healthy.
    Sick,
    /// Ends soon with code 0.
    Short,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashing => "crashing",
            Self::Sick => "sick",
            Self::Short => "short",
        }
    }
}

/// A service document.
#[derive(Clone, Debug)]
pub(crate) struct Doc {
    pub(crate) kind: Kind,
    pub(crate) version: u32,
    pub(crate) replicas: Option<u32>,
    pub(crate) unavailable: u32,
    pub(crate) surge: u32,
    pub(crate) restart: &'static str,
    pub(crate) term: &'static str,
}

impl Doc {
    pub(crate) fn new(kind: Kind, version: u32, replicas: u32) -> Self {
        let replicas = Some(replicas);
        let (restart, term) = ("always", "1h");
        Self { kind, version, replicas, unavailable: 0, surge: 1, restart, term }
    }

    pub(crate) fn content(&self) -> Content {
        let replicas = self.replicas.map(|n| format!("replicas: {n}\n")).unwrap_or_default();
        let source = format!(
            "opencloud: service/v1\nname: {NAME}\n\
             run: {{wasi: {{module: a.wasm, env: {{KIND: {}, V: {}}}}}}}\n\
             ports: {{http: 8080}}\n{replicas}\
             health: {{tcp: {{}}, every: 2s, timeout: 1s, grace: 10s}}\n\
             restart: {{policy: {}}}\n\
             update: {{max_unavailable: {}, max_surge: {}, drain: 5s, deadline: 5m}}\nterm: {}\n",
            self.kind.word(),
            self.version,
            self.restart,
            self.unavailable,
            self.surge,
            self.term,
        );
        let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "a.wasm".to_owned() };
        let assets = BTreeMap::from([("a.wasm".to_owned(), Stage::File(module))]);
        Content { source, assets, binding: None, strategy: None, name: None }
    }
}

#[derive(Clone, Debug)]
struct Pod {
    kind: Kind,
    term_ms: u64,
    avoid: BTreeSet<NodeId>,
    born_ms: u64,
    place: Option<Place>,
    cancelled_ms: Option<u64>,
    said: Option<Health>,
    flap_until_ms: u64,
}

pub(crate) struct Sim {
    pub(crate) now_ms: u64,
    pub(crate) services: Services,
    pub(crate) store: BTreeMap<(String, Key), Record>,
    pub(crate) up: BTreeSet<u8>,
    pub(crate) trace: Vec<Effect>,
    pub(crate) published: Option<Endpoints>,
    /// Ends that the world made: how the replica ended and whether it had been told to.
    pub(crate) ends: Vec<(FailureClass, bool)>,
    /// Nodes whose program ends with their own fault, whatever it is.
    pub(crate) liars: BTreeSet<u8>,
    pods: BTreeMap<RunId, Pod>,
    entropy: u64,
}

fn failure(class: FailureClass) -> Observed {
    Observed::Ended(End::Failed(Failure { class, exit_code: None, detail: String::new() }))
}

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

impl Sim {
    pub(crate) fn new(nodes: u8) -> Self {
        Self {
            now_ms: 1_000_000,
            services: Services::new(),
            store: BTreeMap::new(),
            up: (1..=nodes).collect(),
            trace: Vec::new(),
            published: None,
            ends: Vec::new(),
            liars: BTreeSet::new(),
            pods: BTreeMap::new(),
            entropy: 0,
        }
    }

    pub(crate) fn deploy(&mut self, doc: &Doc) -> u32 {
        let revision = self.services.deploy(doc.content(), None, self.now_ms).unwrap().revision;
        self.act();
        revision
    }

    pub(crate) fn service(&self) -> &Service {
        self.services.service(NAME).unwrap()
    }

    pub(crate) fn available(&self) -> u32 {
        self.services.service(NAME).map_or(0, Service::available)
    }

    /// Revisions of the replicas to which users are sent.
    pub(crate) fn serving(&self) -> Vec<u32> {
        let members = self.service().members();
        members.filter(|m| m.is_available()).map(|m| m.record.revision).collect()
    }

    pub(crate) fn pods(&self) -> usize {
        self.pods.len()
    }

    /// The run of the nth replica that was placed, if there is one.
    pub(crate) fn nth(&self, n: usize) -> Option<RunId> {
        let placed: Vec<RunId> =
            self.pods.iter().filter(|(_, pod)| pod.place.is_some()).map(|(run, _)| *run).collect();
        (!placed.is_empty()).then(|| placed[n % placed.len()])
    }

    pub(crate) fn node_of(&self, run: RunId) -> Option<NodeId> {
        self.pods.get(&run)?.place.map(|place| place.node)
    }

    /// Lets the program of a replica end.
    pub(crate) fn kill(&mut self, run: RunId, class: FailureClass) {
        if self.pods.contains_key(&run) {
            self.end(run, &failure(class));
            self.act();
        }
    }

    /// Lets a replica be unhealthy for a while.
    pub(crate) fn flap(&mut self, run: RunId, ms: u64) {
        if let Some(pod) = self.pods.get_mut(&run) {
            pod.flap_until_ms = self.now_ms + ms;
        }
    }

    fn end(&mut self, run: RunId, how: &Observed) {
        let Some(pod) = self.pods.remove(&run) else { return };
        if let Observed::Ended(End::Failed(failure)) = how {
            self.ends.push((failure.class, pod.cancelled_ms.is_some()));
        }
        self.services.handle_replica(run, how, self.now_ms);
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.advance_with(ms, |_| {});
    }

    /// Lets time pass and looks at the world after each step.
    pub(crate) fn advance_with(&mut self, ms: u64, mut look: impl FnMut(&Self)) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms += STEP_MS;
            for run in self.pods.keys().copied().collect::<Vec<_>>() {
                self.live(run);
            }
            self.act();
            look(self);
        }
    }

    fn live(&mut self, run: RunId) {
        let Some(pod) = self.pods.get(&run).cloned() else { return };
        let now_ms = self.now_ms;
        if let Some(at_ms) = pod.cancelled_ms {
            if now_ms > at_ms {
                let placed = pod.place.is_some();
                let end = failure(FailureClass::Cancelled);
                self.end(run, if placed { &end } else { &Observed::Ended(End::Cancelled) });
            }
            return;
        }
        let Some(place) = pod.place else {
            return self.place(run, &pod);
        };
        let number = place.node.as_bytes()[0];
        let age_ms = now_ms - place.since_ms;
        if !self.up.contains(&number) {
            return self.end(run, &failure(FailureClass::LostLease));
        }
        let is_late = age_ms >= 3 * STEP_MS;
        match pod.kind {
            _ if age_ms >= pod.term_ms => self.end(run, &failure(FailureClass::Timeout)),
            _ if is_late && self.liars.contains(&number) => {
                self.end(run, &failure(FailureClass::Exit));
            }
            Kind::Crashing if is_late => self.end(run, &failure(FailureClass::Exit)),
            Kind::Short if is_late => self.end(run, &Observed::Ended(End::Done)),
            Kind::Sick if age_ms >= 20 * STEP_MS => self.say(run, Health::Unhealthy),
            Kind::Good if now_ms < pod.flap_until_ms => self.say(run, Health::Unhealthy),
            Kind::Good if is_late => self.say(run, Health::Healthy),
            _ if age_ms >= STEP_MS => self.say(run, Health::Starting),
            _ => {}
        }
    }

    fn place(&mut self, run: RunId, pod: &Pod) {
        if self.now_ms <= pod.born_ms {
            return;
        }
        let crowd = |n: &&u8| {
            let is_there = |p: &&Pod| p.place.is_some_and(|place| place.node == node(**n));
            (pod.avoid.contains(&node(**n)), self.pods.values().filter(is_there).count())
        };
        let Some(n) = self.up.iter().min_by_key(crowd).copied() else { return };
        let org = OrgId::from_bytes([n; 32]);
        let place = Place { node: node(n), org, number: 1, since_ms: self.now_ms };
        if let Some(pod) = self.pods.get_mut(&run) {
            pod.place = Some(place);
        }
        self.services.handle_replica(run, &Observed::Placed(place), self.now_ms);
    }

    fn say(&mut self, run: RunId, health: Health) {
        if let Some(pod) = self.pods.get_mut(&run)
            && pod.said != Some(health)
        {
            pod.said = Some(health);
            let task = TaskId { step: 0, index: 0 };
            self.services.handle_health(AttemptId { run, task, number: 1 }, health, self.now_ms);
        }
    }

    /// Lets the services act until they are at rest, and checks what always holds.
    pub(crate) fn act(&mut self) {
        for round in 0.. {
            assert!(round < 16, "the services do not come to rest");
            let entropy = &mut self.entropy;
            self.services.poll(self.now_ms, &mut || {
                *entropy += 1;
                entropy.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            });
            let effects = self.services.drain_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.perform(&effect);
                self.trace.push(effect);
            }
            assert!(self.store == self.services.records(), "what is stored is not what is known");
        }
        let due_ms = self.services.poll_timeout();
        assert!(due_ms.is_none_or(|at| at > self.now_ms), "due again at once: {due_ms:?}");
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Persist { service, key, record } => {
                self.store.insert((service.clone(), *key), (**record).clone());
            }
            Effect::Erase { service, key } => _ = self.store.remove(&(service.clone(), *key)),
            Effect::Start { run, submission, .. } => {
                let document = scheduler::service::Document::parse(&submission.source).unwrap();
                let bound =
                    self.service().desired() + self.service().document().unwrap().update.max_surge;
                assert!(self.pods.len() < bound as usize, "a replica too many is started");
                assert!(
                    self.store.contains_key(&(NAME.to_owned(), Key::Replica(*run))),
                    "a replica is started before it is durable"
                );
                let kinds = [Kind::Good, Kind::Crashing, Kind::Sick, Kind::Short];
                let says =
                    |kind: &&Kind| submission.source.contains(&format!("KIND: {},", kind.word()));
                let pod = Pod {
                    kind: *kinds.iter().find(says).unwrap(),
                    term_ms: document.term_ms,
                    avoid: submission.replica.as_ref().unwrap().avoid.clone(),
                    born_ms: self.now_ms,
                    place: None,
                    cancelled_ms: None,
                    said: None,
                    flap_until_ms: 0,
                };
                assert!(self.pods.insert(*run, pod).is_none(), "a run is started twice");
            }
            Effect::Cancel { run } => {
                let now_ms = self.now_ms;
                if let Some(pod) = self.pods.get_mut(run) {
                    pod.cancelled_ms.get_or_insert(now_ms);
                }
            }
            Effect::Forget { run } => assert!(!self.pods.contains_key(run), "{run} goes on"),
            Effect::Publish { endpoints, .. } => self.published = Some((**endpoints).clone()),
            Effect::Withdraw { .. } => self.published = None,
        }
    }

    /// The node of the owner stops and comes back with what was stored.
    pub(crate) fn restart(&mut self) {
        let mut services = Services::new();
        let names: BTreeSet<&String> = self.store.keys().map(|(name, _)| name).collect();
        for name in names {
            let own = self.store.iter().filter(|((of, _), _)| of == name);
            let own = own.map(|(_, record)| record.clone());
            services.restore(name, own, self.now_ms).unwrap();
        }
        assert!(services.records() == self.store, "what is taken back is not what was stored");
        self.services = services;
        let known: Vec<RunId> = self
            .services
            .services()
            .flat_map(Service::members)
            .map(|member| member.record.run)
            .collect();
        for run in known {
            let observed = match self.pods.get(&run) {
                None => Observed::Ended(End::Refused { detail: "not known".to_owned() }),
                Some(pod) => pod.place.map_or(Observed::Waiting, Observed::Placed),
            };
            self.services.handle_replica(run, &observed, self.now_ms);
        }
        for run in self.pods.keys() {
            assert!(self.services.service_of(*run).is_some(), "a replica is forgotten");
        }
        // Providers repeat what they say.
        for pod in self.pods.values_mut() {
            pod.said = None;
        }
        self.act();
    }
}
