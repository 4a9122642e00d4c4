//! The bundle: channels as one file that anyone can check without a node, a network or our code.
//!
//! # Format, version 1
//!
//! A bundle is a CBOR sequence (RFC 8742). Every item is the array `[kind, value]` in the deterministic encoding of RFC 8949
//! §4.2.1 (shortest integers, definite lengths, map keys ascending); so is every map below. In this order:
//!
//! | kind | value | how often |
//! |--:|---|---|
//! | 0 | manifest: map `{1: 1 (version), 2: exported_ms, 3: node that exported (32 bytes), 4: number of channels}` | once, first |
//! | 1 | begins a channel: byte string, the channel's id | per channel |
//! | 2 | quote: byte string, its envelope | each one that an agreement of the channel names |
//! | 3 | byte string, an envelope of the provider's log | each entry, in the order of the log |
//! | 4 | byte string, an envelope of the consumer's log | each entry, in the order of the log |
//! | 5 | evidence: byte string, an envelope of either log that contradicts one above | seldom |
//! | 9 | seal: byte string, SHA-256 of all bytes of the bundle before this item | once, last |
//!
//! The seal finds damage; it is no signature, nor is the manifest signed. Everything else is.
//!
//! **Envelope** (byte string of an item): CBOR array of four, untagged: `[protected, {}, payload, signature]` (`COSE_Sign1`, RFC
//! 9052). `protected` is the byte string of the map `{1: -19, 4: kid (8 bytes), 16: typ (text)}`; `kid` is the first 8 bytes of
//! SHA-256 of the signer's public key. The 64-byte Ed25519 signature is over the CBOR of
//! `["Signature1", protected, h'', payload]`. The hash of an envelope is SHA-256 of its bytes. `typ` is `oc-entry`,
//! `oc-quote` or `oc-cert`. Longest: entry 16384 bytes, quote 4096, certificate 2560.
//!
//! **Payloads**: maps with unsigned keys; unknown or missing keys make them invalid (`?` marks keys that may be missing). Entry
//! header and channel id: [`crate::entry`]; bodies: [`crate::body`]; quote: [`crate::quote::Quote`]. Node ids, organisation ids
//! and node keys are 32-byte Ed25519 public keys, as byte strings; amounts are signed 64-bit nano-units of the currency
//! (three upper-case letters). A node certificate is `{1: organisation, 2: its name, 3: node's name, 4: node, 5: generation, 6:
//! [roles], 7: [realms], 8: not_before_ms, 9: not_after_ms, 10: serial}`, signed by the organisation's key.
//!
//! # Checks, in this order
//!
//! Framing. (F1) Each item is `[kind, value]`, deterministic, nothing is left over; reading stops at the first that is not.
//! (F2) First item a manifest of version 1, last a seal with the right hash, no second of either. (F3) Kinds stand in the order
//! of the table; the manifest's number of channels is right; no channel twice.
//!
//! Per channel. (C1) The first provider entry has a right envelope and payload, type 1, writer 0, opened by 0 (body 8), two
//! different nodes, and the SHA-256 of its payload without key 2 equals its key 2 and the id of kind 1; its signature is by the
//! provider of the body. (C2) Both certificates have the right envelope, are signed by the organisation they name, or by an
//! issuer (`11`) that this organisation named for at most 90 days and within whose time they lie, and name the node of their side. (C3) Each quote has a right envelope by the provider (`2` of its payload; also checked where C1 or C2 does not hold), no negative amount or price,
//! every `per` and the volume at least 1, rows and meters ascending by dimension, and the bounds `granularity_ms` ≤ 86400000,
//! 1000 ≤ `interval_ms` ≤ 3600000, `interval_ms` ≤ `ack_timeout_ms` ≤ 86400000, `dispute_window_s` ≤ 31622400.
//!
//! Per entry, each log in order, and an entry not before the entry that its `peer_seq` names. At its first wrong entry a log ends.
//! (E1) Envelope, payload and signature by the node of its side. (E2) Channel id; `incarnation` is that of the other
//! log's newest fence that was read so far, 0 without one, and then `peer_seq` is not below that fence's `seq`; `seq` is 1, 2, 3…;
//! the writer is that of the item's kind; `prev` is the hash of the log's previous entry, zeros for the first; `peer_seq` does not fall; `peer_head` is the hash of that
//! entry of the other log (zeros for 0). (E3) The type is one the writer writes (see [`crate::body`]); type 1 exactly at `seq` 1.
//!
//! 1. *Open*: the same body in both logs; `peer_seq` is 0 for the provider and 1 for the consumer.
//! 2. *Agreement*: `peer_seq` ≥ 1; `lane` above every earlier one (so ≥ 1); `max_amount` ≥ 0; the quote is in the bundle; its
//!    provider, provider's organisation (of the certificate), consumer, currency and spec are those of channel and
//!    agreement; at most `volume` agreements name it; `wall_ms` ≤ its `valid_until_ms`.
//! 3. *Receipt*: the lane is not closed, had no final receipt, and was agreed by an Ack whose `seq` ≤ the receipt's `peer_seq`;
//!    `lane_seq` is 1, 2, 3…; no counter falls; with the sum of the lane's periods as elapsed time no counter exceeds its cap
//!    ([`crate::Caps::limit`]); `amount = min(max_amount, fixed + Σ floor(counter * amount_nano / per))`.
//! 4. *Ack*: it is up to the provider's entry `peer_seq`. Of each lane proposed up to there it accepts all receipts and the close up to there; of a lane among its exceptions only receipts up to `last_ok_lane_seq`. A lane without
//!    an answer is agreed, or refused for good when it is excepted (then `last_ok_lane_seq` is 0). An exception never names
//!    a refused lane or one whose close was accepted, and its `last_ok_lane_seq` is that of the newest accepted receipt (0
//!    before the first) or of one covered and not yet accepted. A lane's earned amount is that of its newest accepted receipt
//!    or close; `accepted_total` is the sum over all lanes.
//! 5. *LaneClose*: the lane exists and is not closed; `last_receipt` and `lane_seq` are those of its newest receipt (zeros
//!    without one); `amount` is 0 for reason 3 or without a receipt, else `min(max_amount, max(minimum, fixed + Σ floor(c *
//!    amount_nano / per)))`, where `c` is the newest counter, and for rows of basis 0, when granularity `g` > 1 and elapsed `e` is
//!    no multiple of it, `min(2^64 - 1, floor(counter * ceil(e / g) * g / e))`. A receipt's claim is its amount, a close's
//!    amount replaces it.
//! 6. *Fence* (type 13, either writer): `peer_seq` ≥ 1; `seq` and `head` equal `peer_seq` and `peer_head`, and the other log, as far
//!    as it was read, ends there; `incarnation` is one above that of the other log; its `token` is in no earlier fence of the
//!    log, which has fewer than 1000 of them.
//!
//! No sum may leave the signed 64-bit range. A lane's number in a finding's `seq` is never meant: `seq` is the place in the log,
//! counted from 1.
//!
//! Evidence and equivocation. (Q1) Two different envelopes of one writer with right signatures and the same channel,
//! writer, incarnation and `seq`, among kinds 3, 4 and 5 of the channel, prove equivocation. (Q2) An item of kind 5 that contradicts nothing is
//! an error.
//!
//! # Verdict
//!
//! Equivocation (exit code 2) if proven, else invalid (1) if anything is wrong, else valid with tail (3) if a channel has provider
//! entries above the newest acknowledged one (the consumer's Open counts as 1), a lane without answer, an exception or an
//! unaccepted claim, else valid (0). Totals: `claimed` is the sum over the lanes of the newest receipt's or the close's amount,
//! `earned` that of the newest accepted one.

use catalog::NodeId;
use catalog::cbor::{self, CborError, Field as _, MapReader, MapWriter};
use catalog::envelope;

use crate::channel::Channel;
use crate::entry::Side;

/// The only version of the format.
const VERSION: u64 = 1;

/// When and by whom a bundle was made; not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Manifest {
    /// Unix milliseconds.
    pub exported_ms: u64,
    /// The node that exported.
    pub by: NodeId,
}

/// The kinds of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Manifest = 0,
    Channel = 1,
    Quote = 2,
    Provider = 3,
    Consumer = 4,
    Evidence = 5,
    Seal = 9,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Manifest,
        Self::Channel,
        Self::Quote,
        Self::Provider,
        Self::Consumer,
        Self::Evidence,
        Self::Seal,
    ];

    pub(crate) const fn log(side: Side) -> Self {
        match side {
            Side::Provider => Self::Provider,
            Side::Consumer => Self::Consumer,
        }
    }
}

/// Writes channels as a bundle.
#[must_use]
pub fn export(manifest: Manifest, channels: &[&Channel]) -> Vec<u8> {
    let mut out = Vec::new();
    let map = MapWriter::new()
        .put(1, &VERSION)
        .put(2, &manifest.exported_ms)
        .put(3, &manifest.by)
        .put(4, &(channels.len() as u64))
        .finish();
    begin(&mut out, Kind::Manifest);
    map.write(&mut out);
    for channel in channels {
        push_bytes(&mut out, Kind::Channel, channel.id());
        for (_, quote) in channel.used_quotes() {
            push_bytes(&mut out, Kind::Quote, quote);
        }
        for side in Side::BOTH {
            for entry in channel.entries(side, 0) {
                push_bytes(&mut out, Kind::log(side), entry.bytes);
            }
        }
        for bytes in evidence(channel) {
            push_bytes(&mut out, Kind::Evidence, bytes);
        }
    }
    seal(&mut out);
    out
}

/// The entries of a frozen channel's proof that are not in its logs.
fn evidence(channel: &Channel) -> Vec<&[u8]> {
    let Some(proof) = channel.frozen() else {
        return Vec::new();
    };
    let in_log = |bytes: &[u8]| {
        Side::BOTH.into_iter().any(|side| channel.entries(side, 0).any(|e| e.bytes == bytes))
    };
    [&proof.first, &proof.second]
        .into_iter()
        .map(Vec::as_slice)
        .filter(|bytes| !in_log(bytes))
        .collect()
}

/// Begins an item, whose value the caller writes after it.
fn begin(out: &mut Vec<u8>, kind: Kind) {
    cbor::write_list_head(out, 2);
    (kind as u64).write(out);
}

fn push_bytes(out: &mut Vec<u8>, kind: Kind, bytes: &[u8]) {
    begin(out, kind);
    cbor::write_bytes(out, bytes);
}

/// Ends a bundle with the hash of what it holds.
pub(crate) fn seal(out: &mut Vec<u8>) {
    let hash = envelope::hash(out);
    push_bytes(out, Kind::Seal, &hash);
}

/// An item of a bundle.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) kind: Kind,
    pub(crate) value: cbor::Item<'a>,
    /// Where it begins in the bundle, in bytes.
    pub(crate) at: usize,
}

impl<'a> Item<'a> {
    /// The byte string that every kind but the manifest holds.
    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        self.value.as_bytes()
    }
}

/// Takes a bundle apart; `Err` holds the items before the first that cannot be read.
pub(crate) fn split(bundle: &[u8]) -> Result<Vec<Item<'_>>, Vec<Item<'_>>> {
    let mut items = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        let at = bundle.len().saturating_sub(rest.len());
        match next(&mut rest) {
            Some((kind, value)) => items.push(Item { kind, value, at }),
            None => return Err(items),
        }
    }
    Ok(items)
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(Kind, cbor::Item<'a>)> {
    let (item, after) = cbor::split_first(rest).ok()?;
    let mut parts = item.as_list().filter(|parts| parts.n_left() == 2)?;
    let (number, value) = (parts.next()?.as_u64()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|k| *k as u64 == number)?;
    *rest = after;
    (value.as_bytes().is_some() || kind == Kind::Manifest).then_some((kind, value))
}

/// Reads a manifest and its number of channels.
pub(crate) fn read_manifest(value: &cbor::Item<'_>) -> Result<(Manifest, u64), CborError> {
    let mut map = MapReader::new(value)?;
    if map.take::<u64>(1)? != VERSION {
        return Err(CborError::Field { key: 1, expected: "version 1" });
    }
    let manifest = Manifest { exported_ms: map.take(2)?, by: map.take(3)? };
    let channels = map.take(4)?;
    map.finish()?;
    Ok((manifest, channels))
}
