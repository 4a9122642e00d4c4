use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn realm() -> RealmId {
    RealmId::from_bytes([3; 16])
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn digest() -> RealmDigest {
    let count = |class: &str, count| Count { class: class.to_owned(), count };
    let texts = ["slope", "Zürich"].into_iter();
    RealmDigest {
        realm: realm(),
        gateway: key().verifying_key().into(),
        number: 3,
        made_ms: NOW_MS,
        until_ms: NOW_MS + DIGEST_LIFE_MS,
        authors: 2,
        resources: 3,
        counts: vec![count("arch:aarch64", 1), count("kind:compute", 1), count("kind:data", 2)],
        regions: vec!["de".to_owned(), "eu".to_owned()],
        bands: vec![Band {
            dimension: "cpu_ms".to_owned(),
            currency: Currency::EUR,
            low: 0,
            high: 9,
        }],
        addresses: vec!["/ip4/127.0.0.1/tcp/4610".to_owned()],
        names: Names::build(realm(), texts, 100),
    }
}

fn reads(digest: &RealmDigest) -> Result<RealmDigest, DigestError> {
    RealmDigest::verify_at_any_time(&digest.sign(&key()))
}

#[test]
fn a_digest_reads_back() {
    assert_eq!(reads(&digest()), Ok(digest()));
    let bytes = digest().sign(&key());
    let other = SigningKey::from_bytes(&[8; 32]);
    let forged = digest().sign(&other);
    assert!(matches!(RealmDigest::verify_at_any_time(&forged), Err(DigestError::Envelope(_))));
    let mut cut = bytes;
    cut.pop();
    assert!(RealmDigest::verify_at_any_time(&cut).is_err());
}

#[test]
fn what_breaks_a_bound_is_refused() {
    let swapped = RealmDigest { counts: digest().counts.into_iter().rev().collect(), ..digest() };
    assert_eq!(reads(&swapped), Err(DigestError::Order { field: "counts" }));
    let mut none = digest();
    none.counts[0].count = 0;
    assert_eq!(reads(&none), Err(DigestError::Order { field: "counts" }));
    let twice = RealmDigest { regions: vec!["eu".to_owned(); 2], ..digest() };
    assert_eq!(reads(&twice), Err(DigestError::Order { field: "regions" }));
    let mut band = digest();
    band.bands[0].low = 10;
    assert_eq!(reads(&band), Err(DigestError::Order { field: "bands" }));
    let regions = (0..=REGIONS_MAX).map(|n| format!("r{n:02}")).collect();
    let many = RealmDigest { regions, ..digest() };
    assert!(matches!(reads(&many), Err(DigestError::Count { field: "regions", .. })));
    let lasting = RealmDigest { until_ms: NOW_MS + DIGEST_LIFE_MS + 1, ..digest() };
    assert!(matches!(reads(&lasting), Err(DigestError::Window { .. })));
    let ended = RealmDigest { until_ms: NOW_MS, ..digest() };
    assert!(matches!(reads(&ended), Err(DigestError::Window { life_ms: 0 })));
    let printed = RealmDigest { addresses: vec!["a\nb".to_owned()], ..digest() };
    assert!(matches!(reads(&printed), Err(DigestError::Text(_))));
    let large = RealmDigest { addresses: vec!["\u{1f600}".repeat(128); 4], ..digest() };
    let long = "\u{1f600}".repeat(WORD_LEN_MAX - 2);
    let counts =
        (10..50).map(|n| Count { class: format!("{n}{long}"), count: 1 }).collect::<Vec<_>>();
    let large = RealmDigest { counts, ..large };
    assert!(matches!(reads(&large), Err(DigestError::Envelope(EnvelopeError::TooLong { .. }))));
}

#[test]
fn a_digest_rules_out_kinds_and_names_that_are_not_there() {
    let may = |text: &str| digest().may_hold(&Filter::parse(text).unwrap());
    assert!(may("") && may("kind = data") && may("name = SLOPE and kind = data"));
    assert!(may("name = \"zürich\""));
    assert!(!may("kind = service"));
    assert!(may("kind = service or kind = data"));
    let misses = (0..1_000).filter(|n| may(&format!("name = missing-{n}"))).count();
    assert!(misses < 50, "{misses} of 1000 names seem to be there");
    let unnamed = RealmDigest { names: None, ..digest() };
    assert!(unnamed.may_hold(&Filter::parse("name = anything").unwrap()));
    let empty = RealmDigest { resources: 0, ..digest() };
    assert!(!empty.may_hold(&Filter::default()));
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("dataset {n}")).collect()
}

/// What is stated about mistakes, measured, with room for chance; and that the set takes what a digest can spare.
#[test]
fn a_set_of_names_errs_as_seldom_as_it_says() {
    for (count, room, one_in) in [(100, 3_000, 128), (2_000, 2_500, 128), (4_000, 2_500, 8)] {
        let names = names(count);
        let set = Names::build(realm(), names.iter().map(String::as_str), room).unwrap();
        assert_eq!((set.len(), set.one_mistake_in()), (u64::from(count), one_in), "{count}");
        assert!(names.iter().all(|name| set.may_contain(realm(), name)));
        let tries = 2_000;
        let found = (0..tries).filter(|n| set.may_contain(realm(), &format!("not {n}"))).count();
        let expected = tries / usize::try_from(one_in).unwrap();
        assert!(found <= expected * 3 / 2 + 10, "{found} mistakes of {tries}, {expected} stated");
    }
    let many = names(6_000);
    assert_eq!(Names::build(realm(), many.iter().map(String::as_str), 2_500), None);
}

#[test]
fn no_names_are_a_set_too() {
    let set = Names::build(realm(), std::iter::empty(), 0).unwrap();
    assert!(set.is_empty() && !set.may_contain(realm(), "anything"));
    let digest = RealmDigest { names: Some(set), ..digest() };
    assert_eq!(reads(&digest), Ok(digest));
}

proptest! {
    #[test]
    fn every_name_that_went_in_is_found(
        names in proptest::collection::btree_set("[a-z]{1,6}", 0..60),
        room in 0usize..200,
    ) {
        let built = Names::build(realm(), names.iter().map(String::as_str), room);
        if let Some(set) = built {
            prop_assert!(names.iter().all(|name| set.may_contain(realm(), &name.to_uppercase())));
            let digest = RealmDigest { names: Some(set), ..digest() };
            prop_assert_eq!(reads(&digest), Ok(digest));
        }
    }

    /// One form for one set: no other bytes are read.
    #[test]
    fn only_what_is_written_is_read(payload in any::<Vec<u8>>(), at in any::<prop::sample::Index>()) {
        let mut bytes = digest().to_map().encode();
        for (offset, byte) in payload.iter().take(3).enumerate() {
            let at = (at.index(bytes.len()) + offset) % bytes.len();
            bytes[at] = *byte;
        }
        let signed = envelope::sign(&key(), Typ::RealmDigest, bytes);
        if let Ok(read) = RealmDigest::verify_at_any_time(&signed) {
            prop_assert_eq!(read.sign(&key()), signed);
        }
    }
}
