//! A copy of a realm's catalogue in the hands of a member who lies: gossip and sync.

use std::sync::OnceLock;

use catalog::cbor::MapWriter;
use catalog::envelope::{self, Typ};
use catalog::record::Visibility;
use catalog::replica::Equivocation;
use catalog::sync::{Delta, PAGE_LEN_MAX, SyncMessage};
use catalog::{Catalog, Change, Limits};

use super::super::support::{
    NOW_MS, from_cbor, identity, join, key, node, org, other_node, papers, payload, realm, split,
    to_cbor,
};
use super::resources;
use crate::fuzz::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("push", check_push, signed_seeds),
        target("sync", check_sync, sync_seeds),
        target("sync_signed", check_sync_signed, sync_signed_seeds),
    ]
}

/// The liar's honest copy of what it has published, as of the reader's last look and as of now.
struct Author {
    /// When the reader looked.
    before: Catalog,
    /// The head, then each record, as signed now.
    signed: Vec<Vec<u8>>,
    /// Gossip of the first publication, and of the second.
    pushes: [Vec<Vec<u8>>; 2],
    now: Catalog,
}

fn author() -> &'static Author {
    static AUTHOR: OnceLock<Author> = OnceLock::new();
    AUTHOR.get_or_init(|| {
        let mut catalog = Catalog::new(node(), realm(), Limits::default());
        catalog.restore_own(1, vec![]).expect("an empty log can be restored");
        let mut all = resources().into_iter().enumerate().map(|(at, mut resource)| {
            resource.key = format!("key-{at}");
            let seen =
                if at % 3 == 2 { Visibility::Restricted(vec![org()]) } else { Visibility::Public };
            Change::Put(resource, seen)
        });
        let first: Vec<Change> = all.by_ref().take(3).collect();
        let publish = |catalog: &mut Catalog, changes| {
            let published = catalog.publish(&key(), &identity(), NOW_MS, changes);
            published.expect("seeds are within their bounds").push
        };
        let early = publish(&mut catalog, first);
        let before = catalog.clone();
        let mut changes: Vec<Change> = all.collect();
        changes.push(Change::Delete("key-0".to_owned()));
        let late = publish(&mut catalog, changes);
        let signed = signed_parts(&late);
        Author { before, signed, pushes: [early, late], now: catalog }
    })
}

/// The head and the records in the first of some gossip messages.
fn signed_parts(pushes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let message: ciborium::Value = from_cbor(&pushes[0]).expect("gossip is CBOR");
    let map = message.into_map().expect("gossip is a map");
    let mut fields = map.into_iter().map(|(_, value)| value);
    let (head, records) = (fields.next(), fields.next());
    let records = records.and_then(|list| list.into_array().ok()).unwrap_or_default();
    head.into_iter().chain(records).filter_map(|part| part.into_bytes().ok()).collect()
}

/// A reader that has seen the author's first publication.
fn reader() -> Catalog {
    static READER: OnceLock<Catalog> = OnceLock::new();
    READER
        .get_or_init(|| {
            let mut catalog = Catalog::new(other_node(), realm(), Limits::default());
            catalog.restore_own(1, vec![]).expect("an empty log can be restored");
            for push in &author().pushes[0] {
                catalog.handle_push(NOW_MS, push).expect("honest gossip is taken");
            }
            catalog
        })
        .clone()
}

/// What holds of a reader whatever it was told.
fn assert_sound(reader: &Catalog) {
    let limits = Limits::default();
    for entry in reader.resources(NOW_MS) {
        assert_eq!(entry.author, node(), "nobody else has signed anything");
        assert_eq!(entry.org, org());
    }
    assert!(reader.resources(NOW_MS).count() <= limits.records_per_author);
    for proof in reader.equivocations() {
        let again = Equivocation::prove(realm(), &proof.first, &proof.second);
        assert_eq!(again.as_ref(), Some(proof), "a proof convinces everybody");
        assert_eq!(reader.resources(NOW_MS).count(), 0, "and nothing of the liar is shown");
    }
}

fn sign_parts(parts: &[&[u8]]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let (head, records) = parts.split_first()?;
    let sign = |typ, payload: &[u8]| envelope::sign(&key(), typ, payload.to_vec());
    let records = records.iter().take(64).map(|record| sign(Typ::Record, record)).collect();
    Some((sign(Typ::Head, head), records))
}

/// Payloads of a head and of records, which the author signs. What was taken once brings nothing again.
fn check_push(bytes: &[u8]) -> bool {
    let Some((head, records)) = sign_parts(&split(bytes)) else {
        return false;
    };
    let push = MapWriter::new().put(1, &head).put(2, &records).put(3, &papers()).encode();
    let mut reader = reader();
    let taken = reader.handle_push(NOW_MS, &push);
    assert_sound(&reader);
    let Ok(taken) = taken else { return false };
    assert!(taken.store.len() <= records.len() + 2, "only head, papers and records are kept");
    let fingerprint = reader.fingerprint();
    let again = reader.handle_push(NOW_MS, &push).expect("what was taken is not refused later");
    assert_eq!(again.news, [], "once is enough");
    assert_eq!(reader.fingerprint(), fingerprint);
    true
}

fn signed_seeds() -> Vec<Vec<u8>> {
    let types = std::iter::once(Typ::Head).chain(std::iter::repeat(Typ::Record));
    let signed = author().signed.iter().zip(types);
    let payloads: Vec<Vec<u8>> = signed.map(|(bytes, typ)| payload(typ, bytes)).collect();
    vec![join(&payloads), join(&payloads[..1]), join(&payloads[..2])]
}

/// Most bytes that any one message may be answered with: what pages are cut to, several times.
const ANSWER_LEN_MAX: usize = 3 * PAGE_LEN_MAX;

fn check_answers(before: [u8; 16], reader: &mut Catalog, message: SyncMessage) -> bool {
    let synced = reader.handle_sync(NOW_MS, (node(), org()), message);
    assert_sound(reader);
    let Ok(synced) = synced else { return false };
    let len: usize = synced.replies.iter().map(|reply| to_cbor(reply).len()).sum();
    assert!(len <= ANSWER_LEN_MAX, "{} replies of {len} bytes", synced.replies.len());
    if synced.store.is_empty() && reader.equivocations().next().is_none() {
        assert_eq!(reader.fingerprint(), before, "only what is signed changes anything");
    }
    true
}

/// A message as it is: whatever is signed in it is true, for nothing else verifies.
fn check_sync(bytes: &[u8]) -> bool {
    let Some(message) = from_cbor::<SyncMessage>(bytes) else {
        return false;
    };
    let encoded = to_cbor(&message);
    assert_eq!(from_cbor::<SyncMessage>(&encoded).as_ref(), Some(&message));
    let mut reader = reader();
    check_answers(reader.fingerprint(), &mut reader, message)
}

fn sync_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let (mut author, mut reader) = (author().now.clone(), reader());
    for first in [reader.start_sync(), SyncMessage::WantRestricted] {
        let mut is_for_author = true;
        let mut waiting = vec![first];
        while let Some(message) = waiting.pop() {
            seeds.push(to_cbor(&message));
            let (to, from) =
                if is_for_author { (&mut author, other_node()) } else { (&mut reader, node()) };
            let synced = to.handle_sync(NOW_MS, (from, org()), message).expect("both are honest");
            waiting = synced.replies;
            is_for_author = !is_for_author;
            seeds.extend(waiting.iter().skip(1).map(to_cbor));
        }
    }
    let by = node();
    seeds.push(to_cbor(&SyncMessage::List(by)));
    seeds.push(to_cbor(&SyncMessage::Fetch { author: by, hashes: vec![0; 64].into() }));
    seeds.dedup();
    seeds
}

/// The first byte chooses the message, the rest are payloads of a head and of records, which the author signs.
fn check_sync_signed(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    let Some((head, records)) = sign_parts(&split(rest)) else {
        return false;
    };
    let (head, since) = (head.into(), author().before.own_version());
    let records: Vec<_> = records.into_iter().map(Into::into).collect();
    let message = match kind % 4 {
        0 => {
            let papers = Some(papers().into());
            let part =
                Delta { head, papers, since, records, has_more: kind & 4 != 0, passed: Vec::new() };
            SyncMessage::Deltas { parts: vec![part], rest: Vec::new() }
        }
        1 => SyncMessage::Records { head, records },
        2 => SyncMessage::Restricted { head, papers: papers().into(), records },
        _ => {
            let hashes = split(rest).last().map(|last| last.to_vec()).unwrap_or_default();
            SyncMessage::Listing { head, hashes: hashes.into() }
        }
    };
    let mut reader = reader();
    check_answers(reader.fingerprint(), &mut reader, message)
}

fn sync_signed_seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8| signed_seeds().into_iter().map(move |seed| [&[kind][..], &seed].concat());
    (0..4).flat_map(of).collect()
}
