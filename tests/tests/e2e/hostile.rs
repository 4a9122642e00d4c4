//! Peers with real papers, and with none, that keep to no rule. After each of them the node answers its owner, its memory is
//! bounded, and an honest neighbour gets what it always got.

use std::time::Duration;

use catalog::cert::{Hello, Membership, RefuseCode};
use catalog::envelope::{self, Typ};
use catalog::log::{Head, LEASE_MS, Version};
use catalog::record::{Detail, Maturity, Resource, ServiceDetail};
use catalog::sync::{Short, SyncMessage, Want};
use fabric::{FetchError, SendError};
use node::engine::message::NodeMessage;
use scheduler::negotiate::Message;
use scheduler::task::{AttemptId, Needs, Program, RunId, TaskId, TaskSpec};
use scheduler::value::FileRef;
use tests::harness::{Guest, Liar, Net, Node, ONE_TASK, now_ms, wait_until, workflow, write_file};

/// How long a node may take to answer its owner whatever peers do. Idle it takes milliseconds.
const PROMPT: Duration = Duration::from_secs(10);
/// What a node may need in memory after all that a test does to it. An idle one has some 60 MiB.
const MEMORY_BYTES_MAX: u64 = 400 << 20;

/// The node answers its owner in time, is still the process it was, and needs no more than it may.
fn is_well(node: &mut Node) {
    let begun = std::time::Instant::now();
    let _ = node.json(&["status"]);
    assert!(begun.elapsed() < PROMPT, "it took {:?}", begun.elapsed());
    assert!(node.is_running());
    let bytes = node.memory_bytes();
    assert!(bytes < MEMORY_BYTES_MAX, "{bytes} bytes");
}

/// What the first node publishes reaches the second, and the other way round.
fn are_in_touch(net: &Net, name: &str) {
    for (from, to) in [(0, 1), (1, 0)] {
        let name = format!("{name}-{from}");
        let file = net.place.file(&name, &name);
        let _ = net.nodes[from].cli(&["data", "add", &file, "--name", &name]).expect(0);
        let query = format!("kind = data and name = \"{name}\"");
        wait_until(Duration::from_secs(30), "the neighbour has the record", || {
            let found = net.nodes[to].json(&["catalog", "search", &query]);
            found.as_array().is_some_and(|list| list.len() == 1)
        });
    }
}

fn resource(key: &str) -> Resource {
    Resource {
        key: key.to_owned(),
        name: "lie".to_owned(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Service(ServiceDetail {
            protocol: "http".to_owned(),
            version: String::new(),
            interface: None,
            region: String::new(),
            maturity: Maturity::Stable,
            reach: None,
        }),
    }
}

fn body(key: &str) -> Option<Vec<u8>> {
    resource(key).encode().ok()
}

/// How many of the liars' records a node shows.
fn lies(node: &Node) -> usize {
    let found = node.json(&["catalog", "search", "name = lie"]);
    found.as_array().map_or(0, Vec::len)
}

/// A head whose sequence number is written in more bytes than it needs, rightly signed.
fn long_winded(liar: &Liar, head: &Head) -> Vec<u8> {
    let signed = head.sign(&liar.key);
    let opened = envelope::open(&signed, Typ::Head, signed.len()).unwrap();
    let payload = opened.payload();
    // Key 5, the sequence number 7, after key 4, the epoch.
    let at = payload.windows(4).position(|w| w == [4, 1, 5, 7]).unwrap();
    let longer = [&payload[..at + 3], &[0x18, 7], &payload[at + 4..]].concat();
    envelope::sign(&liar.key, Typ::Head, longer)
}

/// What a liar sends.
type Lie = fn(&Liar) -> Vec<u8>;

/// How often what no version writes may be said: a lie is enough twice.
const OFTEN: usize = 6;

/// What a liar says, a few times, and is thrown out for.
fn offences() -> Vec<(&'static str, Lie)> {
    vec![
        ("bytes that are no message", |_| vec![0xff; 64]),
        ("a message nested as deep as it is long", |_| vec![0x81; 1 << 20]),
        ("a head that another key has signed", |liar| {
            liar.page(liar.head(7).sign(&liar.org_key), Vec::new()).encode()
        }),
        ("a head in another encoding than the one", |liar| {
            liar.page(long_winded(liar, &liar.head(7)), Vec::new()).encode()
        }),
        ("a record that its head does not cover", |liar| {
            let record = liar.record(9, "key", body("key")).sign(&liar.key);
            liar.page(liar.head(7).sign(&liar.key), vec![record]).encode()
        }),
        ("a record that says nothing that can be read", |liar| {
            let record = liar.record(7, "key", Some(vec![0x81; 4000])).sign(&liar.key);
            liar.page(liar.head(7).sign(&liar.key), vec![record]).encode()
        }),
        ("a refusal that nobody signed", |_| {
            let refusal = Message::Refusal { request: [1; 16], refusal: vec![1, 2, 3] };
            NodeMessage::Task(refusal).encode()
        }),
    ]
}

#[test]
fn who_signs_or_sends_what_cannot_be_is_thrown_out() {
    let mut net = Net::new(2);
    for (seed, (what, said)) in (1..).zip(offences()) {
        let mut liar = Liar::admitted(&net.nodes[0].invite(), seed);
        let bytes = said(&liar);
        // It may be thrown out before it has its answer.
        let _ = (0..OFTEN).all(|_| liar.send_bytes(bytes.clone()).is_ok());
        eprintln!("{what}");
        liar.is_thrown_out();
        assert_eq!(liar.send_bytes(vec![0]), Err(SendError::NotConnected { peer: liar.victim }));
        assert_eq!(lies(&net.nodes[0]), 0, "{what}");
    }
    is_well(&mut net.nodes[0]);
    are_in_touch(&net, "after");
}

#[test]
fn what_is_old_expired_or_out_of_order_changes_nothing_and_is_no_offence() {
    let mut net = Net::new(2);
    let liar = Liar::admitted(&net.nodes[0].invite(), 1);
    let sign = |head: Head| head.sign(&liar.key);
    let (old, new) = (sign(liar.head(2)), sign(liar.head(5)));
    let record = |seq, key: &str, body| liar.record(seq, key, body).sign(&liar.key);
    let (put, deleted) = (record(2, "a", body("a")), record(5, "a", None));
    let kept = record(3, "b", body("b"));
    // Newest first, then everything that it replaces, each of it again and again.
    liar.insist(&liar.page(new.clone(), vec![deleted.clone(), kept.clone()]));
    for _ in 0..5 {
        liar.insist(&liar.page(old.clone(), vec![put.clone()]));
        liar.insist(&liar.page(new.clone(), vec![put.clone(), kept.clone(), deleted.clone()]));
    }
    let expired = Head { lease_until_ms: now_ms() - 1000, ..liar.head(9) };
    liar.insist(&liar.page(sign(expired), Vec::new()));
    // Longer than anybody's lease: a clock is wrong, and perhaps not that of who passed it on.
    let endless = Head { lease_until_ms: now_ms() + 2 * LEASE_MS, ..liar.head(9) };
    liar.insist(&liar.page(sign(endless), Vec::new()));
    wait_until(PROMPT, "what is not deleted is shown", || lies(&net.nodes[0]) == 1);
    // It is still listened to, so none of that was held against it.
    liar.insist(&liar.page(sign(liar.head(10)), vec![record(10, "c", body("c"))]));
    for node in &net.nodes {
        wait_until(Duration::from_secs(30), "both nodes have the same", || lies(node) == 2);
    }
    is_well(&mut net.nodes[0]);
}

#[test]
fn two_contents_under_one_number_are_proven_to_everybody() {
    let mut net = Net::new(2);
    let liar = Liar::admitted(&net.nodes[0].invite(), 1);
    let record = |name: &str| liar.record(1, name, body(name)).sign(&liar.key);
    let head = |root: u8| Head { root: [root; 32], ..liar.head(1) }.sign(&liar.key);
    liar.insist(&liar.page(head(1), vec![record("a")]));
    for node in &net.nodes {
        wait_until(Duration::from_secs(30), "both believe it", || lies(node) == 1);
    }
    // The first node hears of the second content, and tells the other.
    let _ = liar.send(&liar.page(head(2), vec![record("b")])).is_ok();
    for node in &net.nodes {
        wait_until(Duration::from_secs(60), "both know it for a liar", || lies(node) == 0);
    }
    is_well(&mut net.nodes[0]);
    are_in_touch(&net, "after");
}

/// An author may have ten thousand keys and 8 MiB. This one wants a million, each with all that a record can hold.
#[test]
fn a_million_keys_are_cut_to_an_authors_quota() {
    const ASKED: u64 = 1_000_000;
    const SENT: u64 = 4_000;
    const PER_PAGE: u64 = 50;
    let mut net = Net::new(2);
    let liar = Liar::admitted(&net.nodes[0].invite(), 1);
    let head = Head { version: Version { epoch: 1, seq: ASKED }, ..liar.head(ASKED) };
    let head = head.sign(&liar.key);
    let mut taken = 0;
    for page in 0..SENT / PER_PAGE {
        let records = (1..=PER_PAGE).map(|at| {
            let (seq, key) = (page * PER_PAGE + at, format!("key-{}", page * PER_PAGE + at));
            let large = Resource { long: "\u{1f600}".repeat(900), ..resource(&key) };
            liar.record(seq, &key, large.encode().ok()).sign(&liar.key)
        });
        let message = liar.page(head.clone(), records.collect());
        // Beyond the quota it is thrown out: then that is all it could say.
        let mut is_over = false;
        wait_until(Duration::from_secs(20), "the page is taken or the liar thrown out", || {
            let sent = liar.send(&message);
            is_over = matches!(sent, Err(SendError::NotConnected { .. } | SendError::Lost { .. }));
            is_over || sent.is_ok()
        });
        if is_over {
            break;
        }
        taken += PER_PAGE;
    }
    assert!(taken > 0, "an author may publish");
    // What it had sent is worked off first; without optimisation a signature takes milliseconds.
    let _ = net.nodes[0].json(&["status"]);
    is_well(&mut net.nodes[0]);
    are_in_touch(&net, "after");
}

fn spec() -> TaskSpec {
    let module = FileRef { digest: catalog::Digest::of(b"m"), size: 1, name: "m.wasm".to_owned() };
    TaskSpec {
        program: Program::Wasi { module, fuel: false },
        argv: Vec::new(),
        env: [].into(),
        stdin: None,
        inputs: [].into(),
        mounts: [].into(),
        outputs: [].into(),
        needs: Needs { memory_bytes: 1 << 20, disk_bytes: 1 << 20, ..Needs::default() },
        timeout_ms: 1_000,
        service: None,
        area: None,
    }
}

#[test]
fn a_flood_of_questions_does_not_keep_honest_work_away() {
    let mut net = Net::new(2);
    let mut liar = Liar::admitted(&net.nodes[1].invite(), 1);
    let task = TaskId { step: 0, index: 0 };
    let mut taken = 0;
    for n in 0..600_u32 {
        let attempt = AttemptId { run: RunId::from_bytes([7; 16]), task, number: n };
        let mut request = [0; 16];
        request[..4].copy_from_slice(&n.to_be_bytes());
        let spec = Box::new(spec());
        let ask = Message::QuoteRequest { request, attempt, spec, max_price: None, person: None };
        taken += u32::from(liar.send(&NodeMessage::Task(ask)).is_ok());
    }
    assert!(taken > 0, "some were listened to");
    // Each is answered, none is worked on.
    liar.hear(|message| match message {
        NodeMessage::Task(Message::Quote { .. } | Message::Refusal { .. }) => Some(()),
        _ => None,
    });
    is_well(&mut net.nodes[1]);
    // An honest organisation's task runs there, as soon as what the liar reserved and never took is free again.
    let guest = Guest::new(&[&write_file("result.txt", "done")]);
    let file = workflow(&net.place, ONE_TASK, &[("guest.wasm", &guest)]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let id = net.nodes[0].submit(&file, &["--binding", &binding]);
    let run = net.nodes[0].wait_for_end(&id, Duration::from_secs(60));
    assert_eq!(run.state(), "succeeded", "{}", run.detail());
}

#[test]
fn a_ticket_lets_one_organisation_in_and_papers_only_their_owner() {
    let mut net = Net::new(2);
    let ticket = net.nodes[0].invite();
    let first = Liar::admitted(&ticket, 1);
    // Stolen, and used by another organisation.
    let thief = Liar::new(&ticket, 2);
    let secret = Some(thief.ticket.secret);
    assert_eq!(thief.greet(&thief.hello(secret)), Err(RefuseCode::UsedTicket));
    // The papers of the first, on a connection that proves another key.
    assert_eq!(thief.greet(&first.hello(None)), Err(RefuseCode::BadCert));
    // Its membership, for another organisation.
    let membership = first.identity.membership.clone();
    let borrowed = Hello { membership: membership.clone(), ..thief.hello(None) };
    assert_eq!(thief.greet(&borrowed), Err(RefuseCode::NotMember));
    // The founder's alone, which everybody has seen.
    let founders = Membership { grants: membership.grants[..1].to_vec() };
    let usurped = Hello { membership: founders, ..thief.hello(None) };
    assert_eq!(thief.greet(&usurped), Err(RefuseCode::NotMember));
    // A secret nobody gave out, none at all, nothing that can be read.
    assert_eq!(thief.greet(&thief.hello(Some([9; 16]))), Err(RefuseCode::BadTicket));
    assert_eq!(thief.greet(&thief.hello(None)), Err(RefuseCode::NotMember));
    assert_eq!(thief.greet_with(vec![0x81; 1000]), Err(RefuseCode::Malformed));
    assert_eq!(thief.greet_with(Vec::new()), Err(RefuseCode::Malformed));
    // Who is not let in gets nothing.
    assert_eq!(thief.send_bytes(vec![0]), Err(SendError::NotConnected { peer: thief.victim }));
    // The one it was for may come back with it, because its answer may have been lost.
    assert!(first.greet(&first.hello(Some(first.ticket.secret))).is_ok());
    is_well(&mut net.nodes[0]);
    are_in_touch(&net, "after");
}

#[test]
fn a_member_does_not_get_what_it_may_not_see() {
    let mut net = Net::new(2);
    let file = net.place.file("secret.txt", "for nobody else");
    let add = ["data", "add", &file, "--name", "Secret", "--private"];
    let _ = net.nodes[0].cli(&add).expect(0);
    let digest = blake3::hash(b"for nobody else");
    let own = net.nodes[0].json(&["catalog", "search", "name = Secret"]);
    assert_eq!(own.as_array().map(Vec::len), Some(1), "its owner sees it: {own}");
    let mut liar = Liar::admitted(&net.nodes[0].invite(), 1);
    let victim = liar.ticket.node;
    // It asks whether there is anything restricted for it, for all of the author, and for the content by its hash.
    let realm = liar.ticket.realm;
    liar.insist(&NodeMessage::Catalog(SyncMessage::WantRestricted));
    liar.insist(&NodeMessage::Catalog(SyncMessage::Root {
        realm,
        root: Short([0; 8]),
        // Two bytes of each of the sixteen branches.
        top: vec![0; 32].into(),
    }));
    let restricted = liar.hear(|message| match message {
        NodeMessage::Catalog(SyncMessage::Restricted { records, .. }) => {
            panic!("{} restricted records for a stranger", records.len())
        }
        NodeMessage::Catalog(SyncMessage::Compared { restricted, .. }) => Some(restricted.0),
        _ => None,
    });
    assert!(restricted.is_empty(), "not even a sum: {restricted:?}");
    liar.insist(&NodeMessage::Catalog(SyncMessage::List(victim)));
    let public = liar.hear(|message| match message {
        NodeMessage::Catalog(SyncMessage::Listing { hashes, .. }) => Some(hashes.0),
        _ => None,
    });
    let everything =
        Want { author: Short::of(victim), since: Version::ZERO, papers: Short([0; 8]) };
    liar.insist(&NodeMessage::Catalog(SyncMessage::Want(vec![everything])));
    let told = liar.hear(|message| match message {
        NodeMessage::Catalog(SyncMessage::Deltas { parts, .. }) => Some(parts),
        _ => None,
    });
    let records: Vec<_> = told.iter().flat_map(|part| &part.records).collect();
    assert_eq!(records.len() * 32, public.len(), "what is listed is what is given");
    let names_it = |bytes: &[u8]| bytes.windows(6).any(|w| w == b"Secret");
    assert!(!records.iter().any(|record| names_it(&record.0)), "not even its name");
    let into = net.place.path("stolen");
    let from = [liar.victim];
    let fetching = liar.fabric.fetch(&from, *digest.as_bytes(), &into, 1 << 20, |_, _| {});
    let fetched = liar.wait(fetching);
    assert!(
        matches!(fetched, Err(FetchError::Denied { .. } | FetchError::NotFound { .. })),
        "{fetched:?}"
    );
    is_well(&mut net.nodes[0]);
    let neighbours = net.nodes[1].json(&["catalog", "search", "name = Secret"]);
    assert_eq!(neighbours.as_array().map(Vec::len), Some(0));
}
