//! The vocabulary: CBOR, envelopes, certificates, greetings, records, filters.

mod replica;
mod rules;

use catalog::cbor;
use catalog::cert::{
    ASSERTION_MS_MAX, Assertion, Grant, Hello, HelloReply, Membership, NodeCert, RefuseCode,
    ReplayError, Replays, Revocations, Succession, Ticket,
};
use catalog::envelope::{self, Typ};
use catalog::index::{Band, Count, DIGEST_LEN_MAX, Names, RealmDigest, Source};
use catalog::log::{Head, NO_END_MS, Record, Version};
use catalog::papers::{Papers, papers_hash};
use catalog::record::{
    AlgorithmDetail, ComputeDetail, DataDetail, Detail, DiskDetail, DiskFormat, DiskName,
    DiskStatement, Insiders, Maturity, Port, PortType, Properties, Resource, ServiceDetail, Sha256,
    Signature, Signer, StorageDetail, WorkflowDetail,
};
use catalog::{Amount, Catalog, Currency, Digest, Filter, Limits, NodeId, OrgId, RealmId};
use ciborium::Value as Any;

use super::areas;
use super::support::{
    NOW_MS, cert, grant, identity, key, node, org, other_node, papers, payload, realm,
};
use crate::fuzz::Target;

/// More than any payload may have.
const LEN_MAX: usize = 64 * 1024;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    let mut all = vec![
        target("cbor", check_cbor, cbor_seeds),
        target("envelope", check_envelope, envelope_seeds),
        target("cert", check_cert, cert_seeds),
        target("succession", check_succession, succession_seeds),
        target("assertion", check_assertion, assertion_seeds),
        target("grant", check_grant, grant_seeds),
        target("ticket", check_ticket, ticket_seeds),
        target("hello", check_hello, hello_seeds),
        target("hello_reply", check_hello_reply, hello_reply_seeds),
        target("revocations", check_revocations, revocations_seeds),
        target("head", check_head, head_seeds),
        target("papers", check_papers, papers_seeds),
        target("realm_digest", check_digest, digest_seeds),
        target("record", check_record, record_seeds),
        target("resource", check_resource, resource_seeds),
        target("disk_statement", check_disk_statement, disk_statement_seeds),
        target("filter", check_filter, filter_seeds),
        target("ids", check_ids, id_seeds),
    ];
    all.extend(rules::targets());
    all.extend(replica::targets());
    all
}

/// A general library of the same format accepts what we accept, writes the same bytes again, and refuses or changes what we
/// refuse.
fn check_cbor(bytes: &[u8]) -> bool {
    let ours = cbor::decode(bytes, LEN_MAX);
    if let Ok(item) = &ours {
        assert_eq!(item.encoded(), bytes, "an item is all of its bytes");
        if let Some(items) = item.as_list() {
            let n = items.n_left();
            assert_eq!(items.count(), n, "a list has as many items as it says");
        }
    }
    assert_eq!(ours.is_ok(), bytes.len() <= LEN_MAX && is_plain_to_ciborium(bytes));
    ours.is_ok()
}

/// As deep as `catalog::cbor` goes.
const DEPTH_MAX: usize = 16;

fn is_plain_to_ciborium(bytes: &[u8]) -> bool {
    let read = ciborium::de::from_reader_with_recursion_limit::<Any, _>(bytes, DEPTH_MAX);
    let Ok(value) = read else { return false };
    let mut again = Vec::new();
    ciborium::into_writer(&value, &mut again).expect("writing to memory");
    again == bytes && is_plain(&value)
}

fn is_plain(value: &Any) -> bool {
    match value {
        Any::Integer(_) | Any::Bytes(_) | Any::Text(_) | Any::Bool(_) | Any::Null => true,
        Any::Array(items) => items.iter().all(is_plain),
        Any::Map(entries) => {
            let number = |key: &Any| key.as_integer().and_then(|n| u64::try_from(n).ok());
            let keys: Option<Vec<u64>> = entries.iter().map(|(key, _)| number(key)).collect();
            keys.is_some_and(|keys| keys.is_sorted_by(|a, b| a < b))
                && entries.iter().all(|(_, value)| is_plain(value))
        }
        _ => false,
    }
}

fn cbor_seeds() -> Vec<Vec<u8>> {
    let deep = [vec![0x81; DEPTH_MAX], vec![0x00]].concat();
    let too_deep = [vec![0x81; DEPTH_MAX + 1], vec![0x00]].concat();
    let claims_much = vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    vec![
        payload(Typ::NodeCert, &identity().cert),
        vec![0xa3, 1, 0xf6, 2, 0x39, 0xff, 0xff, 3, 0x82, 0xf4, 0xf5],
        deep,
        too_deep,
        claims_much,
    ]
}

/// What opens is a list of four to a general library too, with the same payload; what verifies is what the key signs.
fn check_envelope(bytes: &[u8]) -> bool {
    let Ok(opened) = envelope::open(bytes, Typ::NodeCert, LEN_MAX) else {
        return false;
    };
    let parts = ciborium::from_reader::<Any, _>(bytes).ok().and_then(|v| v.into_array().ok());
    let parts = parts.expect("an envelope is a list");
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[2].as_bytes().map(Vec::as_slice), Some(opened.payload()));
    if let Ok(payload) = opened.verify(&key().verifying_key()) {
        assert_eq!(envelope::sign(&key(), Typ::NodeCert, payload.to_vec()), bytes);
    }
    true
}

fn envelope_seeds() -> Vec<Vec<u8>> {
    vec![identity().cert, envelope::sign(&key(), Typ::NodeCert, Vec::new())]
}

fn check_cert(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::NodeCert, payload.to_vec());
    let Ok(cert) = NodeCert::verify_at_any_time(&bytes) else {
        return false;
    };
    assert_eq!(cert.sign(&key()), bytes);
    assert_eq!(cert.check(), Ok(()));
    let in_force = NodeCert::verify(&bytes, NOW_MS);
    assert_eq!(in_force.is_ok(), cert.check_in_force(NOW_MS).is_ok());
    true
}

fn cert_seeds() -> Vec<Vec<u8>> {
    vec![payload(Typ::NodeCert, &cert(node()).sign(&key()))]
}

/// What one key says of the next is read by itself and in the certificate that it is for, and nowhere else.
fn check_succession(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Succession, payload.to_vec());
    let Ok(word) = Succession::verify(&bytes) else {
        return false;
    };
    assert_eq!((word.old, word.sign(&key())), (node(), bytes.clone()));
    let with = |generation| {
        let successions = Some(vec![bytes.clone()]);
        let cert = NodeCert { generation, successions, ..cert(word.new) };
        NodeCert::verify_at_any_time(&cert.sign(&key())).map(|cert| cert.predecessors())
    };
    let is_usable = word.org == org() && word.new != node() && word.generation > 1;
    assert_eq!(with(word.generation).is_ok_and(|older| older == [node()]), is_usable);
    assert!(with(word.generation.wrapping_add(1)).is_err());
    true
}

fn succession_seeds() -> Vec<Vec<u8>> {
    let (old, new) = (node(), other_node());
    let word = Succession { old, new, org: org(), generation: 2, made_ms: NOW_MS };
    vec![payload(Typ::Succession, &word.sign(&key()))]
}

/// A word about a person counts at the node that it is for, of the node and organisation that say it, and nowhere else.
fn check_assertion(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Assertion, payload.to_vec());
    let verify = |home, audience| Assertion::verify(&bytes, home, audience, NOW_MS);
    let Ok(word) = verify((node(), org()), other_node()) else {
        return false;
    };
    assert_eq!((word.sign(&key()), word.check()), (bytes.clone(), Ok(())));
    assert!(word.expires_ms > word.made_ms && word.expires_ms - word.made_ms <= ASSERTION_MS_MAX);
    assert!(verify((node(), org()), node()).is_err());
    assert!(verify((other_node(), org()), other_node()).is_err());
    let other_org = OrgId::from_bytes(*other_node().as_bytes());
    assert!(verify((node(), other_org), other_node()).is_err());
    let mut replays = Replays::default();
    assert_eq!(replays.take(&word, NOW_MS), Ok(()));
    assert_eq!(replays.take(&word, NOW_MS), Err(ReplayError::Again));
    true
}

fn assertion_seeds() -> Vec<Vec<u8>> {
    let word = Assertion {
        home: node(),
        org: org(),
        issuer: "https://id.example".to_owned(),
        subject: "s-1".to_owned(),
        groups: vec!["field".to_owned(), "staff".to_owned()],
        run: Some("run-1".to_owned()),
        audience: other_node(),
        nonce: [7; 16],
        made_ms: NOW_MS,
        expires_ms: NOW_MS + ASSERTION_MS_MAX,
    };
    let bare = Assertion { groups: Vec::new(), run: None, ..word.clone() };
    [word, bare].iter().map(|word| payload(Typ::Assertion, &word.sign(&key()))).collect()
}

fn check_grant(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Grant, payload.to_vec());
    let Ok(grant) = Grant::verify_at_any_time(&bytes) else {
        return false;
    };
    assert_eq!(grant.sign(&key()), bytes);
    let chain = Membership { grants: vec![bytes] };
    if let Ok(member) = chain.verify(grant.realm, grant.member, NOW_MS) {
        assert_eq!(member.org, org(), "only a founder is a member by one grant");
        assert_eq!(member.not_after_ms, grant.not_after_ms);
    }
    true
}

fn grant_seeds() -> Vec<Vec<u8>> {
    vec![payload(Typ::Grant, &grant().sign(&key()))]
}

/// What is read of a digest is within its bounds and is what its gateway signed; what it rules out it has no name for.
fn check_digest(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::RealmDigest, payload.to_vec());
    let Ok(digest) = RealmDigest::verify_at_any_time(&bytes) else {
        return false;
    };
    assert_eq!(digest.sign(&key()), bytes);
    assert_eq!(digest.check(), Ok(()));
    assert!(bytes.len() <= DIGEST_LEN_MAX);
    if let Some(names) = &digest.names {
        assert!(!names.is_empty() || !names.may_contain(digest.realm, "anything"));
    }
    assert_eq!(digest.may_hold(&Filter::default()), digest.resources > 0);
    true
}

fn digest_seeds() -> Vec<Vec<u8>> {
    let catalog = Catalog::new(node(), realm(), Limits::default());
    let addresses = ["/ip4/127.0.0.1/tcp/4610".to_owned()];
    let source = Source { gateway: node(), number: 1, addresses: &addresses, now_ms: NOW_MS };
    let empty = RealmDigest::build(&catalog, source);
    let count = |class: &str, count| Count { class: class.to_owned(), count };
    let (dimension, currency) = ("cpu_ms".to_owned(), Currency::EUR);
    let full = RealmDigest {
        authors: 2,
        resources: 9,
        counts: vec![count("arch:aarch64", 1), count("kind:data", 8)],
        regions: vec!["de".to_owned(), "eu".to_owned()],
        bands: vec![Band { dimension, currency, low: 0, high: 9 }],
        names: Names::build(realm(), ["Slope", "Elevation", "Tides"].into_iter(), 100),
        ..empty.clone()
    };
    let unnamed = RealmDigest { names: None, ..full.clone() };
    let signed = [empty, full, unnamed].map(|digest| digest.sign(&key()));
    signed.iter().map(|signed| payload(Typ::RealmDigest, signed)).collect()
}

/// The bytes of a ticket before its checksum, which mutation never hits.
fn check_ticket(payload: &[u8]) -> bool {
    let hash = blake3::hash(payload);
    let body = bs58::encode([payload, &hash.as_bytes()[..4]].concat()).into_string();
    let text = format!("{TICKET_START}{body}");
    let Ok(ticket) = text.parse::<Ticket>() else {
        return false;
    };
    assert_eq!(ticket.to_string(), text);
    assert_eq!(ticket.check(), Ok(()));
    true
}

const TICKET_START: &str = "opencloud-ticket1:";

fn ticket_seeds() -> Vec<Vec<u8>> {
    let ticket = Ticket {
        node: node(),
        org: org(),
        org_name: "Acme".to_owned(),
        realm: realm(),
        addresses: vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned()],
        secret: [0xab; 16],
        expires_ms: NOW_MS,
    };
    let text = ticket.to_string();
    let body = text.strip_prefix(TICKET_START).and_then(|b| bs58::decode(b).into_vec().ok());
    let mut bytes = body.expect("a ticket is base58 after its prefix");
    bytes.truncate(bytes.len() - 4);
    vec![bytes]
}

fn check_hello(bytes: &[u8]) -> bool {
    let Ok(hello) = Hello::decode(bytes) else {
        return false;
    };
    assert_eq!(hello.encode(), bytes);
    let cert = NodeCert::verify(&hello.cert, NOW_MS);
    let member = hello.membership.verify(hello.realm, org(), NOW_MS);
    if let (Ok(cert), Ok(member)) = (cert, member) {
        assert_eq!((cert.org, member.org), (org(), org()), "nobody else has signed anything");
    }
    true
}

fn hello(secret: Option<[u8; 16]>) -> Hello {
    let identity = identity();
    Hello { cert: identity.cert, realm: realm(), membership: identity.membership, secret }
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let newcomer = Hello { membership: Membership::default(), ..hello(Some([1; 16])) };
    vec![hello(None).encode(), newcomer.encode()]
}

fn check_hello_reply(bytes: &[u8]) -> bool {
    let Ok(reply) = HelloReply::decode(bytes) else {
        return false;
    };
    assert_eq!(reply.encode(), bytes);
    true
}

fn hello_reply_seeds() -> Vec<Vec<u8>> {
    let accepted = |granted| HelloReply::Accepted { hello: hello(None), granted }.encode();
    let refused = HelloReply::Refused { code: RefuseCode::Full, detail: "no room".to_owned() };
    vec![accepted(None), accepted(Some(identity().membership)), refused.encode()]
}

fn check_revocations(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Revocations, payload.to_vec());
    let Ok(list) = Revocations::verify(&bytes) else {
        return false;
    };
    assert_eq!(list.sign(&key()), bytes);
    assert!(!list.supersedes(&list));
    true
}

fn revocations_seeds() -> Vec<Vec<u8>> {
    let list = Revocations { org: org(), serial: 2, revoked: vec![3, 7, 900], keys: vec![[4; 32]] };
    vec![payload(Typ::Revocations, &list.sign(&key()))]
}

fn check_head(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Head, payload.to_vec());
    let Ok(head) = Head::verify(&bytes) else {
        return false;
    };
    assert_eq!(head.sign(&key()), bytes);
    assert!(!head.contradicts(&head));
    true
}

/// A head that no set of records stands behind.
pub(super) fn head() -> Head {
    Head {
        realm: realm(),
        author: node(),
        papers: papers_hash(&papers()),
        version: Version { epoch: 1, seq: 4 },
        live_count: 2,
        root: [5; 32],
        lease_until_ms: NOW_MS + 60_000,
        gc_floor: Version::ZERO,
    }
}

fn check_papers(bytes: &[u8]) -> bool {
    let Ok(papers) = Papers::decode(bytes) else {
        return false;
    };
    assert_eq!(papers.encode(), bytes);
    true
}

fn papers_seeds() -> Vec<Vec<u8>> {
    vec![papers()]
}

fn head_seeds() -> Vec<Vec<u8>> {
    vec![payload(Typ::Head, &head().sign(&key()))]
}

fn check_record(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Record, payload.to_vec());
    let Ok(record) = Record::verify(&bytes) else {
        return false;
    };
    assert_eq!(record.sign(&key()), bytes);
    if let Some(body) = &record.body {
        check_body(&record.key, body);
    }
    true
}

fn record(resource: &Resource) -> Record {
    Record {
        realm: realm(),
        author: node(),
        version: Version { epoch: 1, seq: 2 },
        key: resource.key.clone(),
        not_after_ms: NO_END_MS,
        body: resource.encode().ok(),
        is_restricted: false,
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let of = |record: Record| payload(Typ::Record, &record.sign(&key()));
    let first = record(&resources()[0]);
    let deleted = Record { body: None, not_after_ms: NOW_MS, is_restricted: true, ..first.clone() };
    vec![of(first), of(deleted)]
}

/// Reads a body; what is accepted is written as it was, and reads the same through JSON, which documents and the API use.
fn check_body(key: &str, body: &[u8]) -> bool {
    let Ok(resource) = Resource::decode(key, body) else {
        return false;
    };
    assert_eq!(resource.encode().as_deref(), Ok(body));
    let json = serde_json::to_vec(&resource).expect("a resource is plain data");
    let again: Resource = serde_json::from_slice(&json).expect("what was written reads back");
    assert_eq!(again, resource);
    true
}

fn check_resource(body: &[u8]) -> bool {
    check_body("key", body)
}

fn resource_seeds() -> Vec<Vec<u8>> {
    let all = resources().into_iter().chain(areas::records());
    all.map(|r| r.encode().expect("a seed is within its bounds")).collect()
}

/// One of each kind but areas, whose keys are what they say.
pub(super) fn resources() -> Vec<Resource> {
    let one = |detail| Resource {
        key: "key".to_owned(),
        name: "Heights".to_owned(),
        short: "Heights of a valley".to_owned(),
        long: String::new(),
        logo: None,
        licence: Some("CC-BY-4.0".to_owned()),
        terms: None,
        price: None,
        detail,
    };
    details().into_iter().map(one).collect()
}

fn details() -> Vec<Detail> {
    let digest = Digest::of(b"content");
    let text = str::to_owned;
    let port = Port { name: text("dem"), port_type: PortType::File, optional: false };
    vec![
        Detail::Data(DataDetail {
            media_type: text("image/tiff"),
            digest,
            size: 12,
            directory: false,
            quality: text("checked"),
            personal: false,
            anonymised: true,
            open: true,
            update_s: Some(3600),
            residency: vec![text("eu")],
        }),
        Detail::Algorithm(AlgorithmDetail {
            runtime: text("wasi"),
            digest,
            size: 9,
            version: text("1.2"),
            inputs: vec![port.clone()],
            outputs: vec![port],
            maturity: Maturity::Stable,
            manifest: None,
        }),
        Detail::Compute(ComputeDetail {
            arch: text("aarch64"),
            runtimes: vec![text("wasi")],
            cpu_milli: 4000,
            memory_bytes: 1 << 33,
            disk_bytes: 1 << 36,
            exec: Some(Insiders::Own),
            ..ComputeDetail::default()
        }),
        Detail::Storage(StorageDetail {
            class: text("blob"),
            capacity_bytes: 1 << 40,
            copies: 2,
            endpoint: text("opencloud"),
            region: text("de"),
        }),
        Detail::Workflow(WorkflowDetail {
            digest,
            size: 700,
            steps: 5,
            inputs: Vec::new(),
            outputs: Vec::new(),
            maturity: Maturity::Beta,
        }),
        Detail::Service(ServiceDetail {
            protocol: text("http"),
            version: String::new(),
            interface: Some(digest),
            region: text("de"),
            maturity: Maturity::Experimental,
            reach: None,
        }),
        Detail::Disk(disk()),
    ]
}

fn disk() -> DiskDetail {
    DiskDetail {
        format: DiskFormat::Qcow2,
        digest: Digest::of(b"content"),
        sha256: Sha256([1; 32]),
        size: 1,
        virtual_bytes: 1 << 31,
        arch: "aarch64".to_owned(),
        min_memory_bytes: 1 << 29,
        properties: Properties([("os_distro".to_owned(), "debian".to_owned())].into()),
        signature: None,
    }
}

fn check_disk_statement(payload: &[u8]) -> bool {
    let signed = Signature(envelope::sign(&key(), Typ::Disk, payload.to_vec()));
    let Ok(statement) = DiskStatement::verify(&signed) else {
        return false;
    };
    assert_eq!(statement.sign(&key()), signed);
    true
}

fn disk_statement_seeds() -> Vec<Vec<u8>> {
    let signer = Signer { org: org(), signed_ms: NOW_MS };
    let statement = DiskStatement::of("debian", &disk(), signer);
    vec![payload(Typ::Disk, &statement.sign(&key()).0)]
}

/// A filter prints as one that reads the same.
fn check_filter(bytes: &[u8]) -> bool {
    let Some(Ok(filter)) = std::str::from_utf8(bytes).ok().map(Filter::parse) else {
        return false;
    };
    let printed = filter.to_string();
    assert_eq!(Filter::parse(&printed).as_ref(), Ok(&filter), "{printed}");
    true
}

fn filter_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "kind = data and not (size > 10 GiB or name ~ \"a\\\"b\")",
        "kind in [data, algorithm] and region = \"de\"",
        "cpu >= 4 and personal = false",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// What names something, or an amount, prints as a text that reads the same.
fn check_ids(bytes: &[u8]) -> bool {
    fn holds<T>(text: &str) -> bool
    where
        T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug,
    {
        let Ok(value) = text.parse::<T>() else { return false };
        let printed = value.to_string();
        assert_eq!(printed.parse::<T>().ok(), Some(value), "{printed}");
        true
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let all = [
        holds::<NodeId>(text),
        holds::<OrgId>(text),
        holds::<RealmId>(text),
        holds::<Digest>(text),
        holds::<Amount>(text),
        holds::<Currency>(text),
        holds::<DiskName>(text),
    ];
    all.contains(&true)
}

fn id_seeds() -> Vec<Vec<u8>> {
    let texts = [
        node().to_string(),
        org().to_string(),
        realm().to_string(),
        Digest::of(b"content").to_string(),
        "-12.000000001".to_owned(),
        "EUR".to_owned(),
        "debian-13".to_owned(),
    ];
    texts.map(String::into_bytes).into()
}
