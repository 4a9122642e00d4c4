//! What one decision of the policies costs on one core: with those that every node has, and with a hundred more.
//!
//! The hundred are about other groups, people and resources than those of the question, as most policies of a node are about
//! others than whoever asks. The question is that of a person in three groups about a resource that has three names here, so
//! that several names are asked about for one decision.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[expect(dead_code, reason = "criterion finds the median")]
#[path = "support/figure.rs"]
mod figure;
#[path = "support/measured.rs"]
mod measured;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hint::black_box;

use catalog::{NodeId, OrgId};
use criterion::Criterion;
use figure::{figure, is_asked_to_measure, time};
use measured::Measured;
use node::identity::Person;
use node::policy::{Action, Kind, Policies, Principal, Request, Resource, Stance, Work};

/// Policies beside the built-in ones.
const MORE: usize = 100;

/// Policies of the kinds that owners write: about groups, about people, about work.
fn more() -> Policies {
    let mut text = String::new();
    for n in 0..MORE {
        match n % 4 {
            0 => writeln!(
                text,
                "forbid (principal in Group::\"team-{n}\", action, resource == Data::\"data/{n}\");"
            ),
            1 => writeln!(
                text,
                "permit (principal == User::\"https://id.example|{n}\", action == Action::\"submit\", resource is Node);"
            ),
            2 => writeln!(
                text,
                "forbid (principal is User, action in [Action::\"use\", Action::\"fetch\"], resource in Workspace::\"secret-{n}\") \
                 unless {{ principal.roles.contains(\"auditor\") }};"
            ),
            _ => writeln!(
                text,
                "forbid (principal is Node, action == Action::\"quote\", resource) \
                 when {{ context has cpu_milli && context.cpu_milli > {}000 }};",
                n + 8
            ),
        }
        .unwrap();
    }
    Policies::read(BTreeMap::from([("more".to_owned(), text)])).unwrap()
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A member of this organisation wants to have data.
fn fetch() -> Request {
    let person = Person {
        org: OrgId::from_bytes([1; 32]),
        issuer: "https://id.example".to_owned(),
        subject: "9f2c1d44-51a7".to_owned(),
        name: "ada".to_owned(),
        groups: words(&["hydrology", "night-shift", "staff"]),
        roles: words(&["member"]),
    };
    let me = NodeId::from_bytes([2; 32]);
    let resource = Resource::of(Kind::Data, "data/dem")
        .or(Resource::of(Kind::Data, format!("{me}/data/dem")))
        .or(Resource::node(me));
    let principal = Principal::Person { person: Box::new(person), stance: Stance::Own };
    Request { principal, action: Action::Fetch, resource, work: None }
}

/// A node of an admitted organisation wants a price.
fn quote() -> Request {
    let principal = Principal::Node {
        node: NodeId::from_bytes([3; 32]),
        org: OrgId::from_bytes([4; 32]),
        stance: Stance::Peer,
    };
    let work = Work {
        runtime: "container".to_owned(),
        cpu_milli: 4_000,
        memory_bytes: 2 << 30,
        network: false,
        devices: BTreeSet::new(),
    };
    let resource = Resource::node(NodeId::from_bytes([2; 32]));
    Request { principal, action: Action::Quote, resource, work: Some(work) }
}

fn measure(criterion: &mut Criterion, name: &str, policies: &Policies, request: &Request) {
    assert!(policies.decide(request).allowed, "{name}");
    criterion.bench_function(name, |bench| {
        bench.iter(|| black_box(policies.decide(black_box(request))));
    });
}

fn main() {
    if !is_asked_to_measure() {
        return;
    }
    let (measured, mut criterion) = Measured::begin();
    let cases = [
        ("policy person default", "a person fetches data, default policies", false, fetch()),
        ("policy person more", "a person fetches data, 100 policies more", true, fetch()),
        ("policy quote default", "a node asks a price, default policies", false, quote()),
        ("policy quote more", "a node asks a price, 100 policies more", true, quote()),
    ];
    let (default, more) = (Policies::built_in(), more());
    for (name, _, has_more, request) in &cases {
        measure(&mut criterion, name, if *has_more { &more } else { &default }, request);
    }
    for (name, about, ..) in &cases {
        if let Some(seconds) = measured.seconds(name) {
            figure(&format!("policy: one decision, {about}"), &time(seconds), "");
        }
    }
    criterion.final_summary();
}
