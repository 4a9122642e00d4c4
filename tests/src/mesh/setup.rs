//! How a world begins: organisations of four nodes, their papers and records, connections at random.

use catalog::cert::{Grant, Membership, NodeCert, Role, realm_id};
use catalog::memo::Memo;
use catalog::record::{DataDetail, Detail, Kind, Kinds, Resource, StorageDetail, Visibility};
use catalog::sync::pace::Pace;
use catalog::{Catalog, Change, Digest, Identity, Limits, NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;
use rand_core::Rng as _;

use super::gossip::Gossip;
use super::network::REGIONS;
use super::tally::Tally;
use super::{Event, MS, Node, SECOND, START_MS, World};

const NONCE: [u8; 16] = [7; 16];
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Nodes of one organisation.
const ORG_NODES: u32 = 4;
/// What light nodes keep.
const LIGHT_KINDS: Kinds = Kinds::of(Kind::Storage);
/// The last heads are at most this old when a world begins, so that renewals come evenly.
const HEAD_AGE_MS: u64 = 12 * 60 * 1000;

fn key(kind: u8, n: u32) -> SigningKey {
    let mut bytes = [kind; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

fn org(n: u32) -> OrgId {
    key(1, n).verifying_key().into()
}

pub(super) fn realm() -> RealmId {
    realm_id(org(0), &NONCE)
}

fn grant(member: u32) -> Vec<u8> {
    Grant {
        realm: realm(),
        founder_nonce: (member == 0).then_some(NONCE),
        issuer: org(0),
        member: org(member),
        member_name: format!("Organisation {member}"),
        role: Role::Peer,
        not_before_ms: START_MS - DAY_MS,
        not_after_ms: START_MS + 300 * DAY_MS,
        serial: u64::from(member),
        issuer_cert: None,
    }
    .sign(&key(1, 0))
}

fn identity(of_org: u32, node: NodeId, serial: u32) -> Identity {
    let cert = NodeCert {
        org: org(of_org),
        org_name: format!("Organisation {of_org}"),
        name: format!("node-{serial}"),
        node,
        generation: 1,
        roles: vec![],
        realms: vec![],
        not_before_ms: START_MS - DAY_MS,
        not_after_ms: START_MS + 20 * DAY_MS,
        serial: u64::from(serial),
        issuer: None,
        successions: None,
    };
    let founder = Membership { grants: vec![grant(0)] };
    let membership = if of_org == 0 { founder } else { founder.extend(grant(of_org)) };
    Identity { cert: cert.sign(&key(1, of_org)), membership }
}

/// What every node offers: a record of a kind that light nodes keep.
fn storage() -> Resource {
    let detail = StorageDetail {
        class: "disk".to_owned(),
        capacity_bytes: 1 << 40,
        copies: 1,
        endpoint: "s3".to_owned(),
        region: "eu".to_owned(),
    };
    Resource { detail: Detail::Storage(detail), ..data("storage/main", "Disk") }
}

/// A data set as somebody would describe it.
pub(super) fn data(key: &str, name: &str) -> Resource {
    Resource {
        key: key.to_owned(),
        name: name.to_owned(),
        short: "Elevation, 30 m".to_owned(),
        long: String::new(),
        logo: None,
        licence: Some("CC-BY-4.0".to_owned()),
        terms: None,
        price: None,
        detail: Detail::Data(DataDetail {
            media_type: "image/tiff".to_owned(),
            digest: Digest::of(name.as_bytes()),
            size: 5_000_000,
            directory: false,
            quality: String::new(),
            personal: false,
            anonymised: false,
            open: true,
            update_s: None,
            residency: vec!["eu".to_owned()],
        }),
    }
}

/// Node `n` with its first records, and the gossip messages that carried them.
fn node(n: u32, records: u32, age_ms: u64, memo: &Memo) -> (Node, Vec<Vec<u8>>) {
    let (key, of_org) = (key(2, n), n / ORG_NODES);
    let id: NodeId = key.verifying_key().into();
    let identity = identity(of_org, id, n);
    let limits = Limits { authors: 2_000, ..Limits::default() };
    let mut catalog = Catalog::new(id, realm(), limits).sharing(memo.clone());
    catalog.restore_own(1, vec![]).expect("an empty log can be restored");
    let put = |n| Change::Put(data(&format!("data/{n}"), &format!("Set {n}")), Visibility::Public);
    let mut puts: Vec<Change> = (0..records).map(put).collect();
    puts.push(Change::Put(storage(), Visibility::Public));
    let published = catalog
        .publish(&key, &identity, START_MS - age_ms, puts)
        .expect("a simulated node may publish");
    let node = Node {
        id,
        org: org(of_org),
        key,
        identity,
        catalog,
        pace: Pace::default(),
        region: n as usize % REGIONS,
        is_up: true,
        side: 0,
        links: Vec::new(),
        gossip: Gossip::default(),
        tally: Tally::default(),
    };
    (node, published.push)
}

/// A reader of everything that `pushes` carry.
pub(super) fn reader(seed: u32, memo: &Memo) -> Catalog {
    let id: NodeId = key(3, seed).verifying_key().into();
    Catalog::new(id, realm(), Limits::default()).sharing(memo.clone())
}

/// Two readers of the same authors.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) authors: Vec<Node>,
    /// With who they are.
    pub(super) two: [((NodeId, OrgId), Catalog); 2],
}

impl Pair {
    pub(super) fn new(authors: u32, seed: u64, memo: &Memo) -> Self {
        let base = u32::try_from(seed % 1_000).unwrap_or_default() * authors;
        let mut two = [1, 2].map(|n| {
            let catalog = reader(n, memo);
            ((key(3, n).verifying_key().into(), org(0)), catalog)
        });
        let mut all = Vec::new();
        for n in base..base + authors {
            let (node, pushes) = node(n, 2, 0, memo);
            for (_, reader) in &mut two {
                for push in &pushes {
                    reader.handle_push(START_MS, push).expect("an honest message is taken in");
                }
            }
            all.push(node);
        }
        Self { authors: all, two }
    }
}

pub(super) fn populate(world: &mut World, memo: &Memo) {
    let mut all = reader(0, memo);
    for n in 0..world.plan.nodes {
        let age_ms = world.below(HEAD_AGE_MS);
        let (node, pushes) = node(n, world.plan.records, age_ms, memo);
        for push in pushes {
            all.handle_push(START_MS, &push).expect("an honest message is taken in");
        }
        world.index.insert(node.id, n);
        world.nodes.push(node);
    }
    for at in 0..world.plan.nodes {
        let is_light = world.is_light(at);
        let node = world.node_mut(at);
        let own = std::mem::replace(&mut node.catalog, reader(1, memo));
        let own = if is_light { own.light(LIGHT_KINDS) } else { own };
        node.catalog = own.with_replicas_of(&all);
    }
    for at in 0..world.plan.nodes {
        while world.node(at).links.iter().filter(|link| link.is_own).count() < world.plan.dials {
            let to = u32::try_from(world.below(u64::from(world.plan.nodes))).unwrap_or_default();
            if to != at && !world.is_linked(at, to) {
                world.link(at, to);
            }
        }
    }
    for at in 0..world.plan.nodes {
        let now_ms = world.now_ms();
        let random = world.rng.next_u64();
        let is_light = world.is_light(at);
        let pace = if is_light { Pace::light(now_ms, random) } else { Pace::new(now_ms, random) };
        world.node_mut(at).pace = pace;
        let first_ms = world.node(at).pace.next_ms() - now_ms;
        world.schedule(first_ms * MS, Event::Round { at });
        let renew_ms = world.node(at).catalog.next_renewal_ms().saturating_sub(now_ms);
        world.schedule(renew_ms * MS, Event::Renew { at });
        world.first_beat(at);
    }
    // Every mesh is grown before anything is counted.
    world.run_for(10);
    world.nodes.iter_mut().for_each(|node| node.tally = Tally::default());
    debug_assert!(world.now_us >= 10 * SECOND, "the world has begun");
}
