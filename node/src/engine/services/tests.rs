//! Services on a node that provides for itself: what its owner sees, what is stored, and what is left in the end.

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Counters, PricePlan};
use catalog::Digest;
use catalog::record::{ComputeDetail, Detail, Insiders};
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use scheduler::negotiate::Outcome;
use scheduler::run::Submission;
use scheduler::service::{Health, ReplicaOf, Spread};
use scheduler::task::{AttemptId, Failure, FailureClass, Stage};
use scheduler::value::DirRef;

use super::*;
use crate::engine::command::Command as Ask;
use crate::engine::sessions::{self, Which};
use crate::engine::{Effects, Input, Papers, Settings};
use crate::session::Kind;
use crate::store::batch::Batch;

const NOW_MS: u64 = 1_800_000_000_000;
const SECOND: u64 = 1_000;

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
            runtimes: ["container", "container-service"].map(str::to_owned).to_vec(),
            cpu_milli: 8_000,
            memory_bytes: 8 << 30,
            disk_bytes: 8 << 30,
            exec: Some(Insiders::Own),
            ..ComputeDetail::default()
        },
        tasks_max: 16,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: crate::engine::ports::Offers::default(),
        light: None,
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
        self.now_ms += 5 * SECOND;
        self.running.clear();
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
        let mut all = effects.list.clone();
        for effect in effects.list {
            match effect {
                Effect::Start { attempt, .. } => _ = self.running.insert(attempt),
                Effect::Stop { attempt } if self.running.contains(&attempt) => {
                    all.extend(self.end(attempt, FailureClass::Cancelled));
                }
                _ => {}
            }
        }
        all
    }

    fn end(&mut self, attempt: AttemptId, class: FailureClass) -> Vec<Effect> {
        self.running.remove(&attempt);
        let outcome = Outcome::Failed(Failure { class, exit_code: None, detail: String::new() });
        self.handle(Input::Ended { attempt, outcome, counters: Counters::default() })
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.engine.handle(self.now_ms, &mut self.rng, input);
        self.take(effects)
    }

    fn ask(&mut self, command: Ask) -> Result<Response, CommandError> {
        let effects = self.handle(Input::Command { id: 1, command });
        let answer = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { result, .. } => Some(result),
            _ => None,
        });
        answer.unwrap()
    }

    fn service(&mut self, command: Command) -> Answer {
        match self.ask(Ask::Service(command)).unwrap() {
            Response::Service(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn deploy(&mut self, version: u32) {
        let content = Box::new(content(version));
        let answer = self.service(Command::Deploy { content });
        assert!(matches!(answer, Answer::Deployed(_)), "{answer:?}");
    }

    fn show(&mut self) -> ServiceView {
        match self.service(Command::Show { name: "web".to_owned() }) {
            Answer::Service(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes, and every replica that runs is healthy.
    fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            for attempt in self.running.clone() {
                self.handle(Input::Health { attempt, health: Health::Healthy });
            }
            self.now_ms += SECOND / 2;
            self.handle(Input::Tick);
        }
    }

    fn rows(&self, table: Table) -> usize {
        self.disk.get(&table).map_or(0, BTreeMap::len)
    }

    /// What the catalogue says of it: its version and its endpoints.
    fn record(&mut self) -> Option<(String, usize)> {
        match self.ask(Ask::Resource { id: "service/web".to_owned() }) {
            Ok(Response::Resource(view)) => match view.resource.detail {
                Detail::Service(service) => {
                    Some((service.version, service.reach.unwrap().endpoints.len()))
                }
                other => panic!("{other:?}"),
            },
            Err(CommandError::NoResource { .. }) => None,
            other => panic!("{other:?}"),
        }
    }
}

fn content(version: u32) -> Content {
    let source = format!(
        "opencloud: service/v1\nname: web\nrun: {{container: {{image: image, env: {{V: '{version}'}}}}}}\n\
         ports: {{http: 8080}}\nreplicas: 2\nhealth: {{http: {{path: /}}}}\nupdate: {{drain: 1s}}\n\
         needs: {{cpu: 1, memory: 64MiB, disk: 16MiB}}\n"
    );
    let image = DirRef { digest: Digest::of(b"image"), size: 1, name: "image".to_owned() };
    let assets = BTreeMap::from([("image".to_owned(), Stage::Dir(image))]);
    Content { source, assets, binding: None, strategy: None, name: None }
}

#[test]
fn a_service_runs_is_in_the_catalogue_and_its_replicas_are_no_runs_of_the_owner() {
    let mut world = World::new();
    world.deploy(1);
    assert_eq!(world.running.len(), 2);
    assert_eq!(world.show().summary.state, "rolling");
    world.pass(5 * SECOND);
    let view = world.show();
    assert_eq!((view.summary.state.as_str(), view.summary.available), ("running", 2));
    assert_eq!((view.stable, &view.trouble), (Some(1), &None));
    assert!(view.replicas_now.iter().all(|replica| replica.state == "healthy"), "{view:?}");
    assert_eq!(world.record(), Some(("1".to_owned(), 2)));
    let Ok(Response::Runs(runs)) = world.ask(Ask::Runs) else { panic!("no runs") };
    assert_eq!(runs.len(), 0);
    let Ok(Response::Status(status)) = world.ask(Ask::Status) else { panic!("no status") };
    assert_eq!(status.active_runs, 0);
    let run = view.replicas_now[0].run;
    let error = world.ask(Ask::Cancel { run }).unwrap_err();
    assert!(error.to_string().contains("a replica of service `web`"), "{error}");
    let pins = world.engine.pins(world.now_ms);
    assert!(pins.dirs.contains(&Digest::of(b"image")) && pins.logs.contains(&run));
}

#[test]
fn an_update_replaces_every_replica_and_nothing_is_left_of_what_is_removed() {
    let mut world = World::new();
    world.deploy(1);
    world.pass(5 * SECOND);
    let before = world.running.clone();
    world.deploy(2);
    world.pass(30 * SECOND);
    let view = world.show();
    assert_eq!((view.summary.state.as_str(), view.summary.revision), ("running", 2), "{view:?}");
    assert_eq!(world.running.len(), 2);
    assert!(world.running.is_disjoint(&before));
    assert_eq!(world.record(), Some(("2".to_owned(), 2)));
    let name = || "web".to_owned();
    world.service(Command::Scale { name: name(), replicas: 1 });
    world.pass(10 * SECOND);
    assert_eq!((world.running.len(), world.show().summary.available), (1, 1));
    let answer = world.service(Command::Rollback { name: name(), revision: None });
    assert!(matches!(answer, Answer::Targeted(1)), "{answer:?}");
    world.pass(30 * SECOND);
    assert_eq!(world.record(), Some(("1".to_owned(), 1)));
    world.service(Command::Remove { name: name() });
    assert_eq!(world.record(), None);
    world.pass(5 * SECOND);
    assert!(world.running.is_empty());
    assert_eq!((world.rows(Table::Services), world.rows(Table::RunEvents)), (0, 0));
    assert!(world.engine.pins(world.now_ms).logs.is_empty());
    let error = world.ask(Ask::Service(Command::Show { name: name() })).unwrap_err();
    assert!(error.to_string().contains("no service is called `web`"), "{error}");
}

#[test]
fn a_restart_takes_a_service_back_and_replaces_what_died_with_the_node() {
    let mut world = World::new();
    world.deploy(1);
    world.pass(5 * SECOND);
    let before = world.running.clone();
    world.restart();
    world.pass(30 * SECOND);
    let view = world.show();
    assert_eq!((view.summary.state.as_str(), view.summary.available), ("running", 2), "{view:?}");
    assert!(world.running.is_disjoint(&before));
    assert_eq!(world.record(), Some(("1".to_owned(), 2)));
    let runs: BTreeSet<_> = world.running.iter().map(|attempt| attempt.run).collect();
    assert_eq!(runs, view.replicas_now.iter().map(|replica| replica.run).collect());
}

#[test]
fn a_replica_that_ended_is_replaced() {
    let mut world = World::new();
    world.deploy(1);
    world.pass(5 * SECOND);
    let [first, second] = world.running.iter().copied().collect::<Vec<_>>()[..] else {
        panic!("two replicas run")
    };
    world.end(first, FailureClass::Exit);
    assert_eq!(world.show().summary.available, 1);
    world.pass(30 * SECOND);
    assert_eq!(world.show().summary.state, "running");
    assert!(world.running.contains(&second) && !world.running.contains(&first));
}

#[test]
fn only_who_may_is_let_in_and_only_to_ports_of_the_service() {
    let mut world = World::new();
    world.deploy(1);
    let attempt = *world.running.first().unwrap();
    let me = world.engine.me();
    let mut admit = |peer, attempt, port: &str| {
        let port = port.to_owned();
        match world.ask(Ask::Service(Command::Admit { peer, attempt, port })) {
            Ok(Response::Service(Answer::Port(port))) => Some(port),
            Err(CommandError::Service(ServiceError::Closed)) => None,
            other => panic!("{other:?}"),
        }
    };
    let other = AttemptId { number: attempt.number + 1, ..attempt };
    let stranger = NodeId::from_bytes([9; 32]);
    assert_eq!(admit(me, attempt, "http"), Some(8080));
    for (peer, attempt, port) in
        [(me, attempt, "8080"), (me, other, "http"), (stranger, attempt, "http")]
    {
        assert_eq!(admit(peer, attempt, port), None, "{peer} {attempt} {port}");
    }
    world.end(attempt, FailureClass::Exit);
    let port = "http".to_owned();
    let gone = world.ask(Ask::Service(Command::Admit { peer: me, attempt, port }));
    assert!(gone.is_err(), "{gone:?}");
}

#[test]
fn where_a_service_is_comes_from_its_machine_or_from_the_catalogue() {
    let mut world = World::new();
    world.deploy(1);
    let reach = |world: &mut World, name: &str| match world
        .ask(Ask::Service(Command::Reach { name: name.to_owned() }))
    {
        Ok(Response::Service(Answer::Reached(reached))) => Some(reached),
        Err(CommandError::Service(ServiceError::Nowhere { .. })) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(reach(&mut world, "web").unwrap().endpoints.len(), 0);
    world.pass(5 * SECOND);
    let found = reach(&mut world, "web").unwrap();
    assert_eq!((found.ports["http"], found.endpoints.len()), (8080, 2));
    // As any other node finds it.
    let id = format!("{}/service/web", world.engine.me());
    assert_eq!(reach(&mut world, &id), Some(found));
    assert_eq!(reach(&mut world, "shop"), None);
}

#[test]
fn what_only_the_node_may_say_is_refused_from_others() {
    let mut world = World::new();
    let Content { source, assets, .. } = content(1);
    let replica = Some(ReplicaOf {
        service: "web".to_owned(),
        revision: 1,
        spread: Spread::Nodes,
        replaces: None,
        avoid: BTreeSet::new(),
    });
    let params = BTreeMap::new();
    let submission = Box::new(Submission {
        source,
        params,
        assets,
        binding: None,
        strategy: None,
        replica,
        area: None,
    });
    for command in [
        Ask::Submit { submission: submission.clone(), by: None },
        Ask::Plan { submission, estimate_ms: 1_000 },
    ] {
        let error = world.ask(command).unwrap_err();
        assert!(error.to_string().contains("deploy a service instead"), "{error}");
    }
    world.deploy(1);
    let own = describe(world.engine.services.service("web").unwrap(), &Endpoints::default());
    let resource = Box::new(own.unwrap().resource);
    let visibility = Visibility::Public;
    let error = world.ask(Ask::Publish { resource, visibility }).unwrap_err();
    assert!(matches!(error, CommandError::Publish { .. }), "{error}");
}

fn session(world: &mut World, command: sessions::Command) -> Result<sessions::Answer, String> {
    match world.ask(Ask::Session(command)) {
        Ok(Response::Session(answer)) => Ok(answer),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn only_its_consumer_gets_inside_a_replica_and_only_while_it_runs() {
    let mut world = World::new();
    world.deploy(1);
    world.pass(5 * SECOND);
    let run = world.show().replicas_now[0].run;
    let find = |world: &mut World, which, kind| {
        session(world, sessions::Command::Find { run, which, kind })
    };
    let replica = |service: &str| Which::Replica { service: service.to_owned() };
    let found = find(&mut world, replica("web"), Kind::Exec);
    let Ok(sessions::Answer::Found(place)) = found else { panic!("{found:?}") };
    let me = world.engine.me();
    assert_eq!((place.node, place.me, place.attempt.run), (me, me, run));
    let step = Which::Step { step: "web".to_owned(), index: 0, attempt: None };
    for (which, kind, why) in [
        (replica("other"), Kind::Exec, "is no replica of service `other`"),
        (step, Kind::Exec, "is a replica of service `web`"),
        (replica("web"), Kind::Console, "has no console"),
    ] {
        let told = find(&mut world, which, kind).unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    let attempt = place.attempt;
    let admit = |world: &mut World, peer, attempt, kind| {
        session(world, sessions::Command::Admit { peer, attempt, kind })
    };
    assert!(admit(&mut world, me, attempt, Kind::Exec).is_ok());
    let stranger = NodeId::from_bytes([9; 32]);
    let other = AttemptId { number: attempt.number + 1, ..attempt };
    for (peer, attempt, kind, why) in [
        (stranger, attempt, Kind::Exec, "no task runs here for you"),
        (me, other, Kind::Exec, "no task runs here for you"),
        (me, attempt, Kind::Console, "has no console"),
    ] {
        let told = admit(&mut world, peer, attempt, kind).unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    world.end(attempt, FailureClass::Exit);
    let told = admit(&mut world, me, attempt, Kind::Exec).unwrap_err();
    assert!(told.contains("no task runs here for you"), "{told}");
    assert!(find(&mut world, replica("web"), Kind::Exec).is_err());
}

#[test]
fn sessions_stand_in_the_log_of_the_run_up_to_a_bound() {
    let mut world = World::new();
    world.deploy(1);
    world.pass(5 * SECOND);
    let run = world.show().replicas_now[0].run;
    let attempt = *world.running.iter().find(|attempt| attempt.run == run).unwrap();
    let before = world.rows(Table::RunEvents);
    let mut told = 0;
    for _ in 0..300 {
        let began = sessions::Command::Began { attempt, what: "sh".to_owned() };
        if matches!(session(&mut world, began), Ok(sessions::Answer::Noted(true))) {
            told += 1;
            let detail = "exit code 0".to_owned();
            session(&mut world, sessions::Command::Ended { attempt, detail }).unwrap();
        }
    }
    assert_eq!((told, world.rows(Table::RunEvents)), (256, before + 2 * 256));
    // The bound is one of the run, whoever counts.
    world.restart();
    let began = sessions::Command::Began { attempt, what: "sh".to_owned() };
    assert!(matches!(session(&mut world, began), Ok(sessions::Answer::Noted(false))));
    let unknown = AttemptId { run: RunId::from_bytes([9; 16]), ..attempt };
    let began = sessions::Command::Began { attempt: unknown, what: "sh".to_owned() };
    assert!(matches!(session(&mut world, began), Ok(sessions::Answer::Noted(false))));
}
