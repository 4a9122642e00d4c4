//! The ledger: entries, quotes, bundles, price plans, and a channel in the hands of a party who lies.

mod channel;

use accounting::quote::{Meter, Refusal, RefusalCode};
use accounting::{
    Dimension, Entry, EquivocationProof, PricePlan, Quote, SignedEntry, Verdict, verify,
};
use catalog::envelope::{self, Typ};
use catalog::{Digest, OrgId};

use super::support::{key, node, org, other_node, payload};
use crate::fuzz::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    let mut all = vec![
        target("entry", check_entry, channel::entry_seeds),
        target("equivocation", check_equivocation, equivocation_seeds),
        target("bundle", check_bundle, bundle_seeds),
        target("quote", check_quote, quote_seeds),
        target("refusal", check_refusal, refusal_seeds),
        target("price_plan", check_price_plan, price_plan_seeds),
    ];
    all.extend(channel::targets());
    all
}

fn check_entry(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Entry, payload.to_vec());
    let decoded = Entry::decode(payload);
    let opened = SignedEntry::open(&bytes, &node());
    assert_eq!(decoded.is_ok(), opened.is_ok(), "two ways to the same entry");
    let Ok(opened) = opened else { return false };
    assert_eq!(opened.entry.encode(), payload);
    assert_eq!(opened.bytes, bytes);
    assert!(SignedEntry::open(&bytes, &other_node()).is_err());
    true
}

fn check_equivocation(bytes: &[u8]) -> bool {
    let Ok(proof) = EquivocationProof::decode(bytes) else {
        return false;
    };
    assert_eq!(proof.encode(), bytes);
    if proof.verify().is_ok() {
        assert_ne!(proof.first, proof.second);
    }
    true
}

fn equivocation_seeds() -> Vec<Vec<u8>> {
    let [first, second] = channel::two_for_one_place();
    vec![EquivocationProof { signer: node(), first, second }.encode()]
}

/// A bundle without its seal, which the target puts behind it: mutation would never hit it.
fn check_bundle(bytes: &[u8]) -> bool {
    let unsealed = verify(bytes);
    let sealed = [bytes, &[0x82, 9, 0x58, 32], &envelope::hash(bytes)].concat();
    let report = verify(&sealed);
    for report in [&unsealed, &report] {
        let json = serde_json::to_string(report).expect("a report is plain data");
        assert!(json.len() <= REPORT_LEN_MAX.max(64 * bytes.len()), "{} bytes", json.len());
    }
    assert_ne!(unsealed.verdict, Verdict::Valid, "no seal, no valid bundle");
    matches!(report.verdict, Verdict::Valid | Verdict::ValidWithTail)
}

/// More than the report on a bundle of a few items may have.
const REPORT_LEN_MAX: usize = 1 << 20;

fn bundle_seeds() -> Vec<Vec<u8>> {
    let mut bundle = channel::bundle();
    bundle.truncate(bundle.len() - 36);
    vec![bundle]
}

fn check_quote(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Quote, payload.to_vec());
    let Ok(quote) = Quote::open(&bytes, &node()) else {
        return false;
    };
    assert_eq!(quote.sign(&key()), bytes);
    let most = accounting::Counters::from_array([u64::MAX; accounting::DIMENSIONS]);
    for counters in [accounting::Counters::default(), most] {
        let cost = quote.estimate(&counters);
        assert!(cost.is_none_or(|cost| cost.nano() >= 0), "nobody is paid for being served");
    }
    true
}

/// A quote of [`node()`] for the other node.
pub(super) fn quote(salt: u8) -> Quote {
    Quote {
        offer_id: [salt; 16],
        provider: node(),
        provider_org: org(),
        consumer: other_node(),
        plan: PricePlan::default(),
        meters: vec![Meter { dimension: Dimension::Cpu, id: "thread".to_owned() }],
        valid_until_ms: super::support::NOW_MS + 60_000,
        volume: 1,
        salt: [salt; 16],
        spec: Digest::of(b"the task"),
        request: [salt; 16],
    }
}

fn quote_seeds() -> Vec<Vec<u8>> {
    let other = Quote { provider_org: OrgId::from_bytes([1; 32]), meters: Vec::new(), ..quote(2) };
    [quote(1), other].iter().map(|quote| payload(Typ::Quote, &quote.sign(&key()))).collect()
}

fn check_refusal(payload: &[u8]) -> bool {
    let bytes = envelope::sign(&key(), Typ::Refusal, payload.to_vec());
    let Ok(refusal) = Refusal::open(&bytes, &node()) else {
        return false;
    };
    assert_eq!(refusal.sign(&key()), bytes);
    true
}

fn refusal_seeds() -> Vec<Vec<u8>> {
    let refusal = |code, retry_after_ms, rule: Option<&str>| Refusal {
        provider: node(),
        consumer: other_node(),
        request: [1; 16],
        code,
        retry_after_ms,
        rule: rule.map(str::to_owned),
    };
    let signed = [
        refusal(RefusalCode::Full, None, None),
        refusal(RefusalCode::Full, Some(1000), None),
        refusal(RefusalCode::Rule, None, Some("residency")),
    ]
    .map(|refusal| refusal.sign(&key()));
    signed.iter().map(|bytes| payload(Typ::Refusal, bytes)).collect()
}

fn check_price_plan(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice(bytes) else {
        return false;
    };
    let Ok(plan) = PricePlan::from_json(&json) else {
        return false;
    };
    assert!(plan.check().is_ok());
    assert_eq!(PricePlan::from_json(&plan.to_json()).as_ref(), Ok(&plan));
    true
}

fn price_plan_seeds() -> Vec<Vec<u8>> {
    vec![PricePlan::default().to_json().to_string().into_bytes()]
}
