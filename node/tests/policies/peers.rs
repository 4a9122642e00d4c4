//! Peers: what a node lets others have by its policies, against the same naive reading of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use accounting::{Refusal, RefusalCode};
use catalog::record::Visibility;
use catalog::{Digest, NodeId, OrgId};
use node::engine::command::{Command, Response};
use node::engine::message::NodeMessage;
use node::engine::policy::{Answer, Command as PolicyCommand};
use node::engine::relations::{RelationChange, Stance};
use node::engine::{Effect, Effects, Input, trust};
use node::policy::Policies;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use scheduler::negotiate;
use scheduler::task::{AttemptId, Needs, Program, RunId, TaskId, TaskSpec};
use scheduler::value::FileRef;

use crate::model::pick;
use crate::realm::{Realm, Sent as _, data};

const ROUNDS: u8 = 60;

#[derive(Clone, Copy, Debug)]
enum Who {
    Orgs,
    Nodes,
    Org(OrgId),
    OfOrg(OrgId),
    Node(NodeId),
    Stance(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    permits: bool,
    who: Who,
    action: &'static str,
    no_network: bool,
}

/// Who asks: an organisation, or a node of it.
#[derive(Clone, Copy, Debug)]
struct Asker {
    org: OrgId,
    node: Option<NodeId>,
    stance: &'static str,
}

impl Rule {
    fn meets(&self, asker: &Asker, action: &str, network: bool) -> bool {
        let is_of = match self.who {
            Who::Orgs => asker.node.is_none(),
            Who::Nodes => asker.node.is_some(),
            Who::Org(org) => asker.node.is_none() && asker.org == org,
            Who::OfOrg(org) => asker.org == org,
            Who::Node(node) => asker.node == Some(node),
            Who::Stance(stance) => asker.stance == stance,
        };
        is_of && self.action == action && (network || !self.no_network)
    }

    fn text(&self) -> String {
        let effect = if self.permits { "permit" } else { "forbid" };
        let (who, stance) = match self.who {
            Who::Orgs => ("principal is Org".to_owned(), None),
            Who::Nodes => ("principal is Node".to_owned(), None),
            Who::Org(org) => (format!("principal == Org::\"{org}\""), None),
            Who::OfOrg(org) => (format!("principal in Org::\"{org}\""), None),
            Who::Node(node) => (format!("principal == Node::\"{node}\""), None),
            Who::Stance(stance) => ("principal".to_owned(), Some(stance)),
        };
        let mut when = String::new();
        if let Some(stance) = stance {
            when = format!(" when {{ principal has stance && principal.stance == \"{stance}\" }}");
        }
        if self.no_network {
            when.push_str(" when { context has network && context.network }");
        }
        format!(
            "{effect} ({who}, action == Action::\"{}\", resource is Node){when};\n",
            self.action
        )
    }
}

fn may(rules: &[Rule], asker: &Asker, action: &str, network: bool) -> bool {
    let meets = |permits: bool| {
        rules.iter().any(|rule| rule.permits == permits && rule.meets(asker, action, network))
    };
    meets(true) && !meets(false)
}

fn random(rng: &mut ChaCha8Rng, orgs: &[(OrgId, NodeId)]) -> Rule {
    let (org, node) = pick(rng, orgs);
    let stance = pick(rng, &["peer", "partner", "stranger"]);
    let all = [
        Who::Orgs,
        Who::Nodes,
        Who::Org(org),
        Who::OfOrg(org),
        Who::Node(node),
        Who::Stance(stance),
    ];
    let action = pick(rng, &["quote", "see", "fetch"]);
    let no_network = action == "quote" && rng.next_u32().is_multiple_of(4);
    Rule { permits: rng.next_u32().is_multiple_of(2), who: pick(rng, &all), action, no_network }
}

/// As `default.cedar` has it for organisations and nodes.
fn built_in() -> Vec<Rule> {
    let mut rules = Vec::new();
    for action in ["quote", "see", "fetch"] {
        for stance in ["peer", "partner"] {
            rules.push(Rule { permits: true, who: Who::Stance(stance), action, no_network: false });
        }
    }
    rules
}

fn quote(n: u8, network: bool) -> Vec<u8> {
    let module = FileRef { digest: Digest::of(b"module"), size: 6, name: "module".to_owned() };
    let spec = TaskSpec {
        program: Program::Wasi { module, fuel: false },
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs: Needs { network, ..Needs::default() },
        timeout_ms: 1_000,
        service: None,
        area: None,
    };
    let task = TaskId { step: 0, index: u32::from(n) };
    let attempt = AttemptId { run: RunId::from_bytes([n; 16]), task, number: 1 };
    let spec = Box::new(spec);
    let asked = negotiate::Message::QuoteRequest {
        request: [n; 16],
        attempt,
        spec,
        max_price: None,
        person: None,
    };
    NodeMessage::Task(asked).encode()
}

/// Whether the answer is that the policies refuse it.
fn is_refused(effects: &Effects, to: NodeId, by: NodeId) -> bool {
    let refused = effects.sent_to(to).into_iter().find_map(|message| match message {
        NodeMessage::Task(negotiate::Message::Refusal { refusal, .. }) => {
            Some(Refusal::open(&refusal, &by).unwrap().code == RefusalCode::Policy)
        }
        _ => None,
    });
    refused.unwrap_or(false)
}

fn keys(realm: &mut Realm, at: usize) -> BTreeSet<String> {
    let search =
        Command::Catalog { filter: String::new(), limit: 1_000, after: None, is_asking: false };
    match realm.run(at, search) {
        Ok(Response::Catalog(found)) => found.into_iter().map(|view| view.resource.key).collect(),
        other => panic!("{other:?}"),
    }
}

fn orgs(realm: &mut Realm) -> Vec<(OrgId, NodeId)> {
    let mut found = Vec::new();
    for at in 1..3 {
        let node = realm.id(at);
        match realm.run(0, Command::Policy(PolicyCommand::Node(node))) {
            Ok(Response::Policy(Answer::Known(Some((org, _))))) => found.push((org, node)),
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn no_peer_goes_round_the_policies() {
    let mut realm = Realm::of(3);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let orgs = orgs(&mut realm);
    let me = realm.id(0);
    let mut barred = BTreeSet::new();
    let mut refused = 0;
    for round in 0..ROUNDS {
        let mut rules: Vec<Rule> = (0..3).map(|_| random(&mut rng, &orgs)).collect();
        let texts = BTreeMap::from([("random".to_owned(), rules.iter().map(Rule::text).collect())]);
        rules.extend(built_in());
        let policies = Arc::new(Policies::read(texts).unwrap());
        let set = realm.start(0, Command::Policy(PolicyCommand::Set(policies)));
        let (org, _) = pick(&mut rng, &orgs);
        let stance = pick(&mut rng, &[Stance::Peer, Stance::Partner]);
        let change = RelationChange { stance: Some(stance), ..RelationChange::default() };
        let related = realm.start(0, Command::Trust(trust::Command::Relate { org, change }));
        for effect in set.into_iter().chain(related) {
            if let Effect::Bar { peer, is_barred } = effect {
                match is_barred {
                    true => barred.insert(peer),
                    false => barred.remove(&peer),
                };
            }
        }
        for (at, (org, node)) in [1, 2].into_iter().zip(&orgs) {
            let Ok(Response::Policy(Answer::Known(Some((_, stance))))) =
                realm.run(0, Command::Policy(PolicyCommand::Org(*org)))
            else {
                panic!()
            };
            let context =
                format!("{at} {stance:?} {}", rules.iter().map(Rule::text).collect::<String>());
            let of_org = Asker { org: *org, node: None, stance: stance.as_str() };
            let of_node = Asker { node: Some(*node), ..of_org };
            assert_eq!(!barred.contains(node), may(&rules, &of_org, "fetch", false), "{context}");
            let network = rng.next_u32().is_multiple_of(2);
            let payload = quote(round, network);
            let answer = realm.handle(0, Input::Message { from: *node, payload });
            let is_no = is_refused(&answer, *node, me);
            assert_eq!(!is_no, may(&rules, &of_node, "quote", network), "{context}");
            refused += u32::from(is_no);
            // A record that names this organisation alone, and a comparison of catalogues.
            let key = format!("data/{round}-{at}");
            let visibility = Visibility::Restricted(vec![*org]);
            let resource = Box::new(data(&key, &key));
            realm.run(0, Command::Publish { resource, visibility }).unwrap();
            realm.compare(at, 0);
            let sees = keys(&mut realm, at).contains(&key);
            assert_eq!(sees, may(&rules, &of_org, "see", false), "{context}");
            let withdrawn = realm.run(0, Command::Withdraw { key });
            withdrawn.unwrap();
        }
        realm.drop_mail();
    }
    assert!(refused > 0);
}
