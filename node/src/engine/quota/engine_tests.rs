//! Quotas of a node that provides for itself: what people run and publish, over restarts.

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Counters, PricePlan};
use catalog::Digest;
use catalog::record::{ComputeDetail, DataDetail, Detail, Resource, Visibility};
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use scheduler::negotiate::Outcome;
use scheduler::run::Submission;
use scheduler::service::Content;
use scheduler::task::{AttemptId, Stage};
use scheduler::value::{DirRef, FileRef};

use super::*;
use crate::engine::services;
use crate::engine::{Effects, Input, Papers, Settings, Stored};
use crate::store::batch::{Batch, Table};

const NOW_MS: u64 = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

struct World {
    engine: Engine,
    rng: ChaCha8Rng,
    now_ms: u64,
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    running: BTreeSet<AttemptId>,
}

fn settings() -> Settings {
    Settings {
        papers: Papers::root(SigningKey::from_bytes(&[1; 32])),
        node_key: SigningKey::from_bytes(&[2; 32]),
        former: Vec::new(),
        org_name: "Org".to_owned(),
        node_name: "node-1".to_owned(),
        price_plan: PricePlan::default(),
        compute: ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: ["wasi", "container", "container-service"].map(str::to_owned).to_vec(),
            cpu_milli: 8_000,
            memory_bytes: 8 << 30,
            disk_bytes: 8 << 30,
            ..ComputeDetail::default()
        },
        tasks_max: 16,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: crate::engine::ports::Offers::default(),
        light: None,
    }
}

fn person(name: &str) -> Box<Submitter> {
    Box::new(Submitter {
        issuer: "local".to_owned(),
        subject: name.to_owned(),
        name: name.to_owned(),
        groups: BTreeSet::from(["lab".to_owned()]),
    })
}

fn over(result: Result<Response, CommandError>) -> Over {
    match result {
        Err(CommandError::Quota(QuotaError::Over(over))) => *over,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (engine, effects) =
            Engine::recover(settings(), &Stored::default(), NOW_MS, &mut rng).unwrap();
        let (disk, running) = (BTreeMap::new(), BTreeSet::new());
        let mut world = Self { engine, rng, now_ms: NOW_MS, disk, running };
        world.take(effects);
        world.handle(Input::Listening { addresses: vec!["/sim/1".to_owned()] });
        world
    }

    /// The process dies and starts again from what is stored.
    fn restart(&mut self) {
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let tables = self.disk.iter().map(|(table, of)| (*table, rows(of))).collect();
        let stored = Stored { tables, is_set_back: false };
        let (engine, effects) =
            Engine::recover(settings(), &stored, self.now_ms, &mut self.rng).unwrap();
        self.engine = engine;
        self.take(effects);
        self.handle(Input::Listening { addresses: vec!["/sim/1".to_owned()] });
    }

    fn take(&mut self, effects: Effects) -> Vec<Effect> {
        let Batch { ops } = effects.batch;
        for op in ops {
            let rows = self.disk.entry(op.table).or_default();
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
        for effect in &effects.list {
            if let Effect::Start { attempt, .. } = effect {
                self.running.insert(*attempt);
            }
        }
        effects.list
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.engine.handle(self.now_ms, &mut self.rng, input);
        self.take(effects)
    }

    fn ask(&mut self, command: Order) -> Result<Response, CommandError> {
        let effects = self.handle(Input::Command { id: 1, command });
        let answer = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { result, .. } => Some(result),
            _ => None,
        });
        answer.unwrap()
    }

    fn submit(&mut self, by: Option<Box<Submitter>>) -> Result<Response, CommandError> {
        let source = "opencloud: workflow/v1\nname: w\nsteps:\n  one:\n    run: {wasi: {module: one.wasm}}\n    needs: {cpu: 2}\n";
        let module = FileRef { digest: Digest::of(b"one"), size: 3, name: "one.wasm".to_owned() };
        let submission = Box::new(Submission {
            source: source.to_owned(),
            params: BTreeMap::new(),
            assets: BTreeMap::from([("one.wasm".to_owned(), Stage::File(module))]),
            binding: None,
            strategy: None,
            replica: None,
            area: None,
        });
        self.ask(Order::Submit { submission, by })
    }

    /// Every task that runs has run for so long, and ends.
    fn work(&mut self, ms: u64) {
        self.handle(Input::Tick);
        assert!(!self.running.is_empty());
        // In steps, so that the node hears of itself before its leases run out.
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms += SECOND;
            self.handle(Input::Tick);
        }
        for attempt in std::mem::take(&mut self.running) {
            let outcome = Outcome::Done { outputs: BTreeMap::new() };
            self.handle(Input::Ended { attempt, outcome, counters: Counters::default() });
        }
        self.handle(Input::Tick);
    }

    fn set(&mut self, subject: &str, limits: Limits) {
        let subject = subject.to_owned();
        self.ask(Order::Quota(Command::Set { subject, limits })).unwrap();
    }

    fn used(&mut self, subject: &str) -> Used {
        match self.ask(Order::Quota(Command::List)) {
            Ok(Response::Quotas(views)) => {
                views.into_iter().find(|view| view.subject == subject).unwrap().used
            }
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, by: Option<&str>, key: &str) -> Result<Response, CommandError> {
        let detail = DataDetail {
            media_type: "text/plain".to_owned(),
            digest: Digest::of(key.as_bytes()),
            size: 1,
            directory: false,
            quality: String::new(),
            personal: false,
            anonymised: false,
            open: true,
            update_s: None,
            residency: Vec::new(),
        };
        let resource = Box::new(Resource {
            key: key.to_owned(),
            name: key.to_owned(),
            short: String::new(),
            long: String::new(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail: Detail::Data(detail),
        });
        let publish = Order::Publish { resource, visibility: Visibility::Public };
        self.ask(match by {
            Some(name) => Order::By { by: person(name), command: Box::new(publish) },
            None => publish,
        })
    }
}

#[test]
fn who_has_used_up_core_seconds_works_again_when_the_period_has_passed_also_over_restarts() {
    let mut world = World::new();
    let limits = Limits { cpu_s: Some(600), period_ms: Some(HOUR), ..Limits::default() };
    world.set("group:lab", limits.clone());
    // Two cores for five minutes, and somebody else of the group is out, too.
    world.submit(Some(person("ada"))).unwrap();
    world.work(300 * SECOND);
    let refused = over(world.submit(Some(person("ben"))));
    assert_eq!((&*refused.subject, refused.measure), ("group:lab", Measure::CpuS));
    assert_eq!((&*refused.limit, &*refused.used), ("600", "600"));
    assert_eq!(refused.period_ms, Some(HOUR));
    let before = world.used("group:lab");
    world.restart();
    assert_eq!(world.used("group:lab"), before);
    assert_eq!(over(world.submit(Some(person("ada")))), refused);
    // The owner is above it, and counts for nobody.
    world.submit(None).unwrap();
    world.work(SECOND);
    assert_eq!(world.used("group:lab").cpu_s, before.cpu_s);
    // After the time that was told there is room again, and not before.
    let wait = refused.wait_ms.unwrap() - SECOND;
    world.now_ms += wait - 1;
    over(world.submit(Some(person("ada"))));
    world.now_ms += 1;
    world.submit(Some(person("ada"))).unwrap();
    world.work(300 * SECOND);
    // Or when the owner says so.
    over(world.submit(Some(person("ada"))));
    world.set("group:lab", Limits { cpu_s: Some(10_000), ..limits });
    world.submit(Some(person("ada"))).unwrap();
}

#[test]
fn runs_at_once_are_counted_while_they_go_on_also_over_restarts() {
    let mut world = World::new();
    world.set(EACH, Limits { runs: Some(1), ..Limits::default() });
    world.submit(Some(person("ada"))).unwrap();
    world.submit(Some(person("ben"))).unwrap();
    let refused = over(world.submit(Some(person("ada"))));
    assert_eq!((&*refused.subject, refused.measure), (EACH, Measure::Runs));
    assert_eq!((refused.period_ms, refused.wait_ms), (None, None));
    world.restart();
    over(world.submit(Some(person("ada"))));
    let Ok(Response::Runs(runs)) = world.ask(Order::Runs) else { panic!("no runs") };
    let run = runs.iter().find(|run| run.by.as_deref() == Some("ada")).unwrap().id;
    world.ask(Order::Cancel { run }).unwrap();
    world.handle(Input::Tick);
    world.now_ms += HOUR;
    world.handle(Input::Tick);
    world.submit(Some(person("ada"))).unwrap();
}

#[test]
fn records_count_for_who_published_them_until_they_are_withdrawn() {
    let mut world = World::new();
    world.set("user:ada", Limits { records: Some(1), ..Limits::default() });
    world.publish(None, "data/owner").unwrap();
    world.publish(Some("ada"), "data/one").unwrap();
    // What replaces a record is none more, and does not change for whom it counts.
    world.publish(Some("ada"), "data/one").unwrap();
    world.publish(Some("ada"), "data/owner").unwrap();
    world.publish(None, "data/one").unwrap();
    let refused = over(world.publish(Some("ada"), "data/two"));
    assert_eq!((&*refused.subject, refused.measure), ("user:local|ada", Measure::Records));
    world.publish(Some("ben"), "data/two").unwrap();
    world.restart();
    assert_eq!(world.used("user:local|ada").records, 1);
    over(world.publish(Some("ada"), "data/three"));
    world.ask(Order::Withdraw { key: "data/one".to_owned() }).unwrap();
    world.publish(Some("ada"), "data/three").unwrap();
    // One that cannot be published counts for nobody.
    world.ask(Order::Withdraw { key: "data/three".to_owned() }).unwrap();
    world.publish(Some("ada"), "disk/three").unwrap_err();
    world.publish(Some("ada"), "").unwrap_err();
    assert_eq!(world.used("user:local|ada").records, 0);
    assert_eq!(world.disk[&Table::Quotas].len(), 2, "a quota, and ben's record");
}

#[test]
fn replicas_count_for_who_deployed_the_service_and_ask_elsewhere_in_its_name() {
    let mut world = World::new();
    let by = |name: &str, command: services::Command| Order::By {
        by: person(name),
        command: Box::new(Order::Service(command)),
    };
    let deploy = |world: &mut World, name: &str, version: u32, replicas: u32| {
        let source = format!(
            "opencloud: service/v1\nname: web\nrun: {{container: {{image: image, env: {{V: '{version}'}}}}}}\n\
             ports: {{http: 8080}}\nreplicas: {replicas}\nhealth: {{http: {{path: /}}}}\n\
             needs: {{cpu: 1, memory: 64MiB, disk: 16MiB}}\n"
        );
        let image = DirRef { digest: Digest::of(b"image"), size: 1, name: "image".to_owned() };
        let assets = BTreeMap::from([("image".to_owned(), Stage::Dir(image))]);
        let content =
            Box::new(Content { source, assets, binding: None, strategy: None, name: None });
        world.ask(by(name, services::Command::Deploy { content }))
    };
    let scale = |world: &mut World, name: &str, replicas: u32| {
        world.ask(by(name, services::Command::Scale { name: "web".to_owned(), replicas }))
    };
    world.set(EACH, Limits { runs: Some(2), ..Limits::default() });
    assert_eq!(over(deploy(&mut world, "ada", 1, 3)).measure, Measure::Runs);
    deploy(&mut world, "ada", 1, 2).unwrap();
    world.handle(Input::Tick);
    // Runs, and for whom other nodes are asked.
    let of = |world: &World| -> Vec<Option<String>> {
        let runs = world.engine.coordinator.runs();
        runs.map(|run| Some(run.by()?.subject.clone())).collect()
    };
    assert_eq!(of(&world), [Some("ada".to_owned()), Some("ada".to_owned())]);
    let refused = over(scale(&mut world, "ada", 3));
    assert_eq!((&*refused.subject, &*refused.used), (EACH, "2"));
    over(world.submit(Some(person("ada"))));
    // Fewer are never too many, and what others want is held against theirs.
    scale(&mut world, "ada", 1).unwrap();
    assert_eq!(over(deploy(&mut world, "ben", 2, 9)).measure, Measure::Runs);
    deploy(&mut world, "ben", 2, 2).unwrap();
    // The owner is above it. Whose a service is outlives the process: what runs after a restart is nobody else's.
    let scale = services::Command::Scale { name: "web".to_owned(), replicas: 4 };
    world.ask(Order::Service(scale)).unwrap();
    world.restart();
    let after = of(&world);
    assert!(!after.is_empty() && after.iter().all(Option::is_some), "{after:?}");
}
