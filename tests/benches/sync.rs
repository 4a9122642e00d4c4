//! What a node that joins pays: 100 000 records of 1000 authors from one peer over real libp2p on loopback. Both sides run in
//! this process; the memory is that of both, less what the giver held before.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[expect(dead_code, reason = "it writes no files and measures once")]
#[path = "support/figure.rs"]
mod figure;

use std::time::{Duration, Instant};

use catalog::cert::{Grant, Membership, NodeCert, Role, realm_id};
use catalog::record::{DataDetail, Detail, Resource, Visibility};
use catalog::sync::SyncMessage;
use catalog::{Catalog, Change, Digest, Identity, Limits, NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;
use fabric::{Config, Event, Fabric, Sources};
use tokio::sync::mpsc;

const AUTHORS: u32 = 1_000;
const RECORDS: u32 = 100;
const NOW_MS: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;
const NONCE: [u8; 16] = [7; 16];
/// Longer than this is a failure.
const LIMIT: Duration = Duration::from_secs(600);

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure());
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn measure() {
    let (giver, giver_events) = node(1);
    let (taker, taker_events) = node(2);
    let mut full = Catalog::new(id(1), realm(), Limits::default());
    for n in 0..AUTHORS {
        for push in pushes(n) {
            full.handle_push(NOW_MS, &push).unwrap();
        }
    }
    let before_mib = rss_mib();
    let side = Side { fabric: giver.clone(), catalog: full, peer: id(2), bytes: 0, got: 0 };
    tokio::spawn(serve(side, giver_events, None));
    let empty = Catalog::new(id(2), realm(), Limits::default());
    let (done, mut finished) = mpsc::channel(1);
    let side = Side { fabric: taker.clone(), catalog: empty, peer: id(1), bytes: 0, got: 0 };
    tokio::spawn(serve(side, taker_events, Some(done)));
    let begun = Instant::now();
    taker.connect(giver.me(), giver.addresses().await, None).await.unwrap();
    let bytes = tokio::time::timeout(LIMIT, finished.recv()).await.unwrap().unwrap();
    let took = begun.elapsed().as_secs_f64();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let memory = rss_mib() - before_mib;
    figure::figure(
        "sync: first sync of 10^5 records, TCP on loopback",
        &figure::time(took),
        "<= 60 s",
    );
    figure::figure("sync: bytes of its messages", &format!("{:.1} MiB", mib(bytes)), "<= 64 MiB");
    figure::figure("sync: memory that it took", &format!("{memory:.0} MiB"), "<= 150 MiB");
}

/// One node's half.
struct Side {
    fabric: Fabric,
    catalog: Catalog,
    peer: NodeId,
    bytes: u64,
    /// Records that came.
    got: usize,
}

/// Lets everybody in and answers; the one that waits for everything tells how many bytes went both ways when it has it.
async fn serve(mut side: Side, mut events: mpsc::Receiver<Event>, done: Option<mpsc::Sender<u64>>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Hello { respond, .. } => respond.accept(Vec::new()),
            Event::Connected { .. } if done.is_some() => {
                let message = side.catalog.start_sync();
                side.send(&message).await;
            }
            Event::Message { payload, .. } => {
                side.bytes += payload.len() as u64;
                let message: SyncMessage = ciborium::from_reader(payload.as_slice()).unwrap();
                let from = (side.peer, org());
                let synced = side.catalog.handle_sync(NOW_MS, from, message).unwrap();
                side.got += synced.news.len();
                for reply in synced.replies {
                    side.send(&reply).await;
                }
                let is_all = side.got == (AUTHORS * RECORDS) as usize;
                if let Some(done) = done.as_ref().filter(|_| is_all) {
                    done.send(side.bytes).await.unwrap();
                    return;
                }
            }
            _ => {}
        }
    }
}

impl Side {
    async fn send(&mut self, message: &SyncMessage) {
        let mut bytes = Vec::new();
        ciborium::into_writer(message, &mut bytes).unwrap();
        self.bytes += bytes.len() as u64;
        let to = fabric::PeerKey::from_bytes(*self.peer.as_bytes());
        self.fabric.send(to, bytes).await.unwrap();
    }
}

fn node(seed: u8) -> (Fabric, mpsc::Receiver<Event>) {
    let config = Config::new([seed; 32], vec!["/ip4/127.0.0.1/tcp/0".to_owned()]);
    fabric::start(config, Sources::default()).unwrap()
}

fn id(seed: u8) -> NodeId {
    SigningKey::from_bytes(&[seed; 32]).verifying_key().into()
}

fn key(n: u32) -> SigningKey {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

fn org_key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

fn org() -> OrgId {
    org_key().verifying_key().into()
}

fn realm() -> RealmId {
    realm_id(org(), &NONCE)
}

/// The gossip messages with all records of an author.
fn pushes(n: u32) -> Vec<Vec<u8>> {
    let node: NodeId = key(n).verifying_key().into();
    let (not_before_ms, not_after_ms) = (NOW_MS - DAY_MS, NOW_MS + 20 * DAY_MS);
    let cert = NodeCert {
        org: org(),
        org_name: "Bench".to_owned(),
        name: format!("node-{n}"),
        node,
        generation: 1,
        roles: vec![],
        realms: vec![],
        not_before_ms,
        not_after_ms,
        serial: u64::from(n),
        issuer: None,
        successions: None,
    };
    let grant = Grant {
        realm: realm(),
        founder_nonce: Some(NONCE),
        issuer: org(),
        issuer_cert: None,
        member: org(),
        member_name: "Bench".to_owned(),
        role: Role::Peer,
        not_before_ms,
        not_after_ms,
        serial: 1,
    };
    let membership = Membership { grants: vec![grant.sign(&org_key())] };
    let identity = Identity { cert: cert.sign(&org_key()), membership };
    let mut catalog = Catalog::new(node, realm(), Limits::default());
    catalog.restore_own(1, vec![]).unwrap();
    let put = |at| Change::Put(data(n, at), Visibility::Public);
    catalog.publish(&key(n), &identity, NOW_MS, (0..RECORDS).map(put).collect()).unwrap().push
}

fn data(n: u32, at: u32) -> Resource {
    Resource {
        key: format!("data/{at}"),
        name: format!("Tile {at} of survey {n}"),
        short: "Elevation, 30 m".to_owned(),
        long: String::new(),
        logo: None,
        licence: Some("CC-BY-4.0".to_owned()),
        terms: None,
        price: None,
        detail: Detail::Data(DataDetail {
            media_type: "image/tiff".to_owned(),
            digest: Digest::of(format!("{n}/{at}").as_bytes()),
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

/// Memory of this process.
fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1_024.0
}
