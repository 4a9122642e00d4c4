//! Bundles: what is right verifies, and nothing that was changed does.

use crate::common::*;
use accounting::verify::Problem;
use accounting::{CloseReason, Side, Verdict, Violation, export, verify};
use catalog::envelope;

/// A bundle of about twenty entries, everything acknowledged.
fn settled() -> (Pair, Vec<u8>) {
    let mut pair = Pair::new();
    for salt in 1..=2 {
        let lane = pair.agree(salt);
        pair.receipt(lane, reading(1_000_000, 100, false));
        pair.ack(&[]);
        pair.receipt(lane, reading(2_000_000, 200, true));
        pair.close(lane, CloseReason::Completed);
        pair.ack(&[]);
    }
    let bundle = export(manifest(), &[&pair.provider]);
    (pair, bundle)
}

/// The bundle with another seal, as one who can compute SHA-256 makes it.
fn resealed(bundle: &[u8]) -> Vec<u8> {
    let body = &bundle[..bundle.len() - 36];
    let mut out = body.to_vec();
    out.extend([0x82, 0x09, 0x58, 0x20]);
    out.extend(envelope::hash(body));
    out
}

/// Where the items lie.
fn items(bundle: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut rest = bundle;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let start = bundle.len() - rest.len();
        let _: ciborium::Value = ciborium::from_reader(&mut rest).unwrap();
        items.push(start..bundle.len() - rest.len());
    }
    items
}

/// Where an envelope's bytes lie in the bundle.
fn position(bundle: &[u8], part: &[u8]) -> usize {
    bundle.windows(part.len()).position(|window| window == part).unwrap()
}

#[test]
fn a_settled_channel_verifies_on_both_sides_with_the_same_totals() {
    let (pair, bundle) = settled();
    let report = verify(&bundle);
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict, Verdict::Valid);
    assert_eq!(report.exit_code(), 0);
    let channel = &report.channels[0];
    assert_eq!(channel.earned, pair.consumer.earned());
    assert_eq!(channel.claimed, channel.earned);
    assert_eq!(channel.receipts, 4);
    assert_eq!(channel.lanes.len(), 2);
    assert_eq!(channel.provider.name, "node-1");
    assert_eq!(channel.consumer.org_name, "Org 2");
    let other = verify(&export(manifest(), &[&pair.consumer]));
    assert_eq!(other, report);
}

#[test]
fn an_unacknowledged_tail_is_reported_as_one() {
    let (mut pair, _) = settled();
    let lane = pair.propose(3);
    assert_eq!(verify(&export(manifest(), &[&pair.provider])).verdict, Verdict::ValidWithTail);
    pair.ack(&[]);
    assert_eq!(verify(&export(manifest(), &[&pair.provider])).verdict, Verdict::Valid);
    pair.receipt(lane, reading(1_000, 0, false));
    let report = verify(&export(manifest(), &[&pair.provider]));
    assert_eq!(report.verdict, Verdict::ValidWithTail);
    assert_eq!(report.exit_code(), 3);
    assert!(report.channels[0].claimed > report.channels[0].earned);
}

#[test]
fn no_changed_bit_verifies_and_the_first_finding_is_its_item() {
    let (_, bundle) = settled();
    for (item, range) in items(&bundle).into_iter().enumerate() {
        // Every bit of what says kind and length, one of every other byte.
        let head = range.start..range.end.min(range.start + 5);
        let heads = head.flat_map(|at| (0..8).map(move |bit| (at, bit)));
        for (at, bit) in heads.chain(range.clone().map(|at| (at, at % 8))) {
            let mut changed = bundle.clone();
            changed[at] ^= 1 << bit;
            let report = verify(&changed);
            assert_eq!(report.verdict, Verdict::Invalid, "byte {at} bit {bit}");
            let found = &report.findings[0];
            // The manifest is not signed: where it can be read it is the seal that tells. An item of another length than it
            // had may make the next one unreadable.
            let is_placed = found.item == item
                || item == 0 && found.problem == Problem::Seal
                || found.item == item + 1 && found.problem == Problem::Framing;
            assert!(is_placed, "byte {at} bit {bit} of item {item}: {:#?}", report.findings);
        }
    }
}

#[test]
fn a_changed_byte_is_found_at_its_entry_even_under_a_new_seal() {
    let (pair, bundle) = settled();
    for side in Side::BOTH {
        for entry in pair.provider.entries(side, 0) {
            let start = position(&bundle, entry.bytes);
            for at in (start..start + entry.bytes.len()).step_by(7) {
                let mut changed = bundle.clone();
                changed[at] ^= 0x04;
                let report = verify(&resealed(&changed));
                assert_eq!(report.verdict, Verdict::Invalid);
                let found = report
                    .findings
                    .iter()
                    .any(|finding| (finding.writer, finding.seq) == (Some(side), Some(entry.seq)));
                assert!(found, "{side} {} byte {}: {:?}", entry.seq, at - start, report.findings);
            }
        }
    }
    for (_, quote) in pair.provider.used_quotes() {
        let mut changed = bundle.clone();
        changed[position(&bundle, quote) + quote.len() - 1] ^= 1;
        let report = verify(&resealed(&changed));
        assert!(report.findings.iter().any(|f| matches!(f.problem, Problem::Quote { .. })));
        assert_eq!(report.verdict, Verdict::Invalid);
    }
}

#[test]
fn a_cut_or_extended_file_is_invalid() {
    let (_, bundle) = settled();
    for len in (0..bundle.len()).step_by(13) {
        assert_eq!(verify(&bundle[..len]).verdict, Verdict::Invalid, "{len} bytes");
    }
    let mut longer = bundle.clone();
    longer.push(0);
    assert_eq!(verify(&longer).verdict, Verdict::Invalid);
    let twice = [bundle.clone(), bundle].concat();
    assert_eq!(verify(&twice).verdict, Verdict::Invalid);
}

#[test]
fn removed_and_swapped_entries_are_invalid() {
    let (pair, bundle) = settled();
    let entries: Vec<_> = pair.provider.entries(Side::Provider, 0).collect();
    for entry in &entries {
        let start = position(&bundle, entry.bytes) - 5;
        let end = start + 5 + entry.bytes.len();
        let removed = [&bundle[..start], &bundle[end..]].concat();
        assert_eq!(verify(&resealed(&removed)).verdict, Verdict::Invalid, "{}", entry.seq);
    }
}

#[test]
fn equivocation_is_proven_with_both_hashes_and_the_right_writer() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let mut twin = pair.provider.clone();
    let first = pair.receipt(lane, reading(1_000, 0, false));
    let second = twin.receipt(&key(PROVIDER), NOW, lane, reading(2_000, 0, false)).unwrap();
    let Err(accounting::EntryError::Equivocation(proof)) =
        pair.consumer.handle_entry(&second.bytes, NOW)
    else {
        panic!("two entries at one place are proof")
    };
    pair.consumer.freeze(*proof).unwrap();
    let report = verify(&export(manifest(), &[&pair.consumer]));
    assert_eq!(report.verdict, Verdict::Equivocation);
    assert_eq!(report.exit_code(), 2);
    let finding = &report.findings[0];
    assert_eq!((finding.writer, finding.seq), (Some(Side::Provider), Some(3)));
    let expected = Problem::Equivocation { first: first.hash, second: second.hash };
    assert_eq!(finding.problem, expected);
}

#[test]
fn one_channel_twice_or_the_wrong_count_is_invalid() {
    let (pair, _) = settled();
    let report = verify(&export(manifest(), &[&pair.provider, &pair.consumer]));
    assert_eq!(report.verdict, Verdict::Invalid);
    assert!(report.findings.iter().any(|f| f.problem == Problem::ChannelTwice));
    let empty = verify(&export(manifest(), &[]));
    assert_eq!(empty.verdict, Verdict::Valid);
    assert_eq!(verify(&[]).verdict, Verdict::Invalid);
}

#[test]
fn a_false_amount_is_found_with_both_numbers() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let good =
        pair.provider.clone().receipt(&key(PROVIDER), NOW, lane, reading(9_000_000, 0, false));
    let mut entry = good.unwrap().entry;
    let accounting::Body::Receipt(receipt) = &mut entry.body else { panic!("a receipt") };
    receipt.amount = catalog::Amount::from_nano(receipt.amount.nano() * 2);
    let bundle = export(manifest(), &[&pair.provider]);
    let forged = forge(&entry, PROVIDER);
    // After the provider's last entry.
    let last = pair.provider.entries(Side::Provider, 0).last().unwrap().bytes.to_vec();
    let at = position(&bundle, &last) + last.len();
    let mut item = vec![0x82, 0x03];
    catalog::cbor::write_bytes(&mut item, &forged);
    let report = verify(&resealed(&[&bundle[..at], &item, &bundle[at..]].concat()));
    assert_eq!(report.verdict, Verdict::Invalid);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].seq, Some(3));
    assert!(matches!(
        report.findings[0].problem,
        Problem::Rule { source: Violation::Amount { .. } }
    ));
    assert!(report.findings[0].problem.message().contains("the counters and prices give"));
}

#[test]
fn the_report_is_plain_json() {
    let (_, bundle) = settled();
    let json = serde_json::to_value(verify(&bundle)).unwrap();
    assert_eq!(json["verdict"], "valid");
    assert_eq!(json["channels"][0]["lanes"][0]["state"], "closed");
    assert_eq!(json["channels"][0]["earned_nano"], json["channels"][0]["claimed_nano"]);
    assert_eq!(json["channels"][0]["lanes"][0]["counters"]["cpu"], 2_000_000);
}

/// The bytes of the format are frozen: signatures are deterministic, so the same channel gives the same bundle. A second
/// verifier reads these files too. Set `OPENCLOUD_BLESS=1` to write them again after a change of the format.
#[test]
fn the_format_is_the_recorded_one() {
    let (mut pair, valid) = settled();
    let lane = pair.propose(3);
    pair.ack(&[]);
    pair.receipt(lane, reading(3_000_000, 5, false));
    let tail = export(manifest(), &[&pair.provider]);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (name, bundle) in [("valid.bundle", valid), ("tail.bundle", tail)] {
        let path = dir.join(name);
        if std::env::var_os("OPENCLOUD_BLESS").is_some() {
            std::fs::write(&path, &bundle).unwrap();
        }
        let recorded = std::fs::read(&path).unwrap();
        assert!(recorded == bundle, "{name} differs from what this version writes");
    }
}
