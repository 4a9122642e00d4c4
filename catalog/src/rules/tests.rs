use proptest::prelude::*;

use super::form::MoneyForm;
use super::*;
use crate::record::{DataDetail, Detail, PriceList, PriceRow, Resource};

fn org(seed: u8) -> OrgId {
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key().into()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn book(kinds: Vec<RuleKind>) -> RuleBook {
    RuleBook::new(kinds.into_iter().map(Rule::new).collect()).unwrap()
}

fn cap(unit: PriceUnit, max: &str) -> RuleKind {
    RuleKind::PriceCap { unit, max: max.parse().unwrap(), currency: Currency::EUR }
}

fn data(residency: &[&str], licence: Option<&str>) -> Resource {
    Resource {
        key: "data/dem".to_owned(),
        name: "dem".to_owned(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: licence.map(str::to_owned),
        terms: None,
        price: None,
        detail: Detail::Data(DataDetail {
            media_type: "image/tiff".to_owned(),
            digest: Digest::of(b"dem"),
            size: 3,
            directory: false,
            quality: String::new(),
            personal: true,
            anonymised: false,
            open: false,
            update_s: None,
            residency: words(residency),
        }),
    }
}

fn prices(rows: &[(&str, i64, u64)]) -> PriceList {
    let row = |(dimension, amount_nano, per): &(&str, i64, u64)| PriceRow {
        dimension: (*dimension).to_owned(),
        amount_nano: *amount_nano,
        per: *per,
    };
    PriceList { currency: Currency::EUR, rows: rows.iter().map(row).collect(), fixed: Amount::ZERO }
}

fn placement<'a>(inputs: &'a [InputFacts], price: Option<&'a PriceList>) -> Placement<'a> {
    let (step, node, region, runtime) = ("slope", "rack-7", "de-by", "wasi");
    Placement { step, node, org: org(1), region, runtime, inputs, price }
}

fn said(result: Result<(), RuleBreak>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_shared_meets_every_rule_or_is_told_which_not() {
    let rules = book(vec![
        RuleKind::Residency(words(&["fr", "de"])),
        RuleKind::Licences(words(&["CC-BY-4.0"])),
        RuleKind::PersonalStays,
        RuleKind::Organisations(vec![org(1)]),
    ]);
    let check =
        |residency: &[&str], licence| rules.check_resource(&data(residency, licence), org(1));
    assert_eq!(check(&["de-by", "fr"], Some("CC-BY-4.0")), Ok(()));
    assert_eq!(
        said(check(&["de", "us"], Some("CC-BY-4.0"))),
        "rule `residency`: data `dem` may be kept in de, us, allowed are de, fr: publish it with a residency inside of them"
    );
    assert!(said(check(&[], Some("CC-BY-4.0"))).contains("may be kept in any region"));
    assert!(
        said(check(&["de"], None)).starts_with("rule `licences`: data `dem` is under no licence")
    );
    let other = rules.check_resource(&data(&["de"], Some("CC-BY-4.0")), org(2)).unwrap_err();
    assert_eq!(*other.offence, Offence::Organisation { org: org(2) });
    assert_eq!(RuleBook::default().check_resource(&data(&[], None), org(2)), Ok(()));
}

#[test]
fn a_step_goes_where_every_rule_allows_it() {
    let rules = book(vec![
        RuleKind::Residency(words(&["de", "fr"])),
        RuleKind::PersonalStays,
        RuleKind::Runtimes(words(&["wasi"])),
    ]);
    let facts = InputFacts::of(&data(&["de"], None), org(1));
    let inputs = [facts.clone()];
    let here = placement(&inputs, None);
    assert_eq!(rules.check_placement(&here), Ok(()));
    assert_eq!(
        said(rules.check_placement(&Placement { region: "dex", ..here })),
        "rule `residency`: node `rack-7` is in region `dex`, allowed are de, fr: choose one that stands there"
    );
    let leaves = rules.check_placement(&Placement { region: "fr", ..here }).unwrap_err();
    assert!(matches!(*leaves.offence, Offence::LeavesRegion { .. }), "{leaves}");
    let personal = said(rules.check_placement(&Placement { org: org(2), ..here }));
    assert!(
        personal.starts_with("rule `personal`: input `dem` of step `slope` is personal data of")
    );
    let runtime = said(rules.check_placement(&Placement { runtime: "vm", ..here }));
    assert!(runtime.starts_with("rule `runtimes`: step `slope` runs with `vm`"), "{runtime}");
    assert_eq!(rules.check_fetch(&facts, org(1)), Ok(()));
    assert_eq!(rules.check_fetch(&facts, org(2)).unwrap_err().rule, "personal");
    let open = InputFacts { personal: false, ..facts };
    assert_eq!(rules.check_fetch(&open, org(2)), Ok(()));
}

#[test]
fn a_cap_holds_for_the_sum_of_what_a_unit_costs() {
    let rules = book(vec![cap(PriceUnit::CpuHour, "0.10"), cap(PriceUnit::Run, "5")]);
    let check = |rows: &[(&str, i64, u64)]| {
        let list = prices(rows);
        rules.check_placement(&placement(&[], Some(&list)))
    };
    // 0.10 EUR an hour is 100 000 000 nano-units for 3 600 000 000 microseconds.
    assert_eq!(check(&[("cpu", 1, 36)]), Ok(()));
    assert_eq!(check(&[("cpu", 1, 72), ("vcpu_alloc", 1, 72), ("mem", i64::MAX, 1)]), Ok(()));
    let dear = check(&[("cpu", 1, 36), ("vcpu_alloc", 1, 3_600_000_000)]);
    assert_eq!(
        said(dear),
        "rule `price-cpu-hour`: node `rack-7` costs 0.100000001 EUR for one cpu_hour, allowed are 0.10: choose a cheaper \
         one, or have the cap raised"
    );
    assert!(check(&[("cpu", i64::MAX, 1)]).is_err(), "what does not fit is above every cap");
    let mut other = prices(&[("cpu", 1, 36)]);
    other.currency = "USD".parse().unwrap();
    let broken = rules.check_placement(&placement(&[], Some(&other))).unwrap_err();
    assert!(matches!(*broken.offence, Offence::Currency { .. }));
    other.rows.clear();
    assert_eq!(rules.check_placement(&placement(&[], Some(&other))), Ok(()));
    let run = |text: &str, currency| rules.check_run(text.parse().unwrap(), currency);
    assert_eq!(run("5", Currency::EUR), Ok(()));
    assert_eq!(run("0", other.currency), Ok(()));
    assert_eq!(run("5.01", Currency::EUR).unwrap_err().rule, "price-run");
    assert!(run("1", other.currency).is_err());
    assert!(rules.caps_runs() && !RuleBook::default().caps_runs());
}

#[test]
fn bytes_from_the_network_are_bounded_and_have_one_form() {
    let many =
        |count| (0..count).map(|n| Rule { name: format!("r{n}"), kind: RuleKind::PersonalStays });
    assert!(RuleBook::new(many(RULES_MAX).collect()).is_ok());
    let error = RuleBook::new(many(RULES_MAX + 1).collect()).unwrap_err();
    assert_eq!(error, RulesError::Count { count: RULES_MAX + 1 });
    let long = RuleKind::Residency((0..RULE_LIST_MAX).map(|n| format!("{n:060}")).collect());
    let error = RuleBook::new(vec![Rule::new(long)]).unwrap_err();
    assert!(matches!(error, RulesError::TooLong { .. }), "{error}");
    let twice = vec![Rule::new(RuleKind::PersonalStays); 2];
    assert!(matches!(RuleBook::new(twice), Err(RulesError::Twice { at: 2, .. })));
    for (kind, name) in [
        (RuleKind::Residency(vec![]), "empty"),
        (RuleKind::Residency(words(&["a\u{1b}b"])), "unprintable"),
        (cap(PriceUnit::Run, "-1"), "negative"),
    ] {
        assert!(RuleBook::new(vec![Rule::new(kind)]).is_err(), "{name}");
    }
    // What is not sorted is not what `encode` writes.
    let sorted = book(vec![RuleKind::Residency(words(&["a", "b"]))]).encode();
    let at = sorted.iter().position(|byte| *byte == b'a').unwrap();
    let mut unsorted = sorted.clone();
    (unsorted[at], unsorted[at + 2]) = (b'b', b'a');
    assert!(RuleBook::decode(&sorted).is_ok() && RuleBook::decode(&unsorted).is_err());
    // A kind of a newer version.
    let personal = book(vec![RuleKind::PersonalStays]).encode();
    let mut newer = personal.clone();
    *newer.last_mut().unwrap() = 9;
    assert!(RuleBook::decode(&personal).is_ok() && RuleBook::decode(&newer).is_err());
}

#[test]
fn json_is_what_people_write_and_refusals_say_which_rule() {
    let text = r#"{"rules":[{"name":"home","residency":["de"]},{"personal":"stays"},{"price":{"per":"cpu_hour","max":"0.10 EUR"}}]}"#;
    let read: RuleBook = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    let names: Vec<&str> = read.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["home", "personal", "price-cpu-hour"]);
    for (bad, why) in [
        (r#"{"rules":[{}]}"#, "rule 1: write one of"),
        (r#"{"rules":[{"personal":"stays","runtimes":["wasi"]}]}"#, "rule 1: write one of"),
        (r#"{"rules":[{"residenz":["de"]}]}"#, "unknown field `residenz`"),
        (r#"{"rules":[{"price":{"per":"run","max":"5"}}]}"#, "`5` is not a price"),
        (r#"{"rules":[{"name":"A","personal":"stays"}]}"#, "rule 1: `A` is no name"),
    ] {
        let error = serde_json::from_str::<RuleBook>(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(String::from(MoneyForm(Amount::MAX, Currency::EUR)), "9223372036.854775807 EUR");
}

fn any_kind() -> impl Strategy<Value = RuleKind> {
    let list = || proptest::collection::vec("[a-zA-Z0-9.-]{1,12}", 1..6);
    let unit = proptest::sample::select(PriceUnit::ALL);
    prop_oneof![
        list().prop_map(RuleKind::Residency),
        list().prop_map(RuleKind::Licences),
        Just(RuleKind::PersonalStays),
        proptest::collection::vec(1..9u8, 1..4)
            .prop_map(|seeds| RuleKind::Organisations(seeds.into_iter().map(org).collect())),
        (unit, 0..i64::MAX, "[A-Z]{3}").prop_map(|(unit, nano, currency)| RuleKind::PriceCap {
            unit,
            max: Amount::from_nano(nano),
            currency: currency.parse().unwrap(),
        }),
        list().prop_map(RuleKind::Runtimes),
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(any_kind(), 0..8).prop_map(|kinds| {
        let named = |(at, kind)| Rule { name: format!("rule-{at}"), kind };
        kinds.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    #[test]
    fn a_book_is_the_same_through_bytes_and_json(rules in any_rules()) {
        let book = RuleBook::new(rules).unwrap();
        let bytes = book.encode();
        prop_assert!(bytes.len() <= BOOK_LEN_MAX);
        prop_assert_eq!(&RuleBook::decode(&bytes).unwrap(), &book);
        let json = serde_json::to_string(&book).unwrap();
        prop_assert_eq!(serde_json::from_str::<RuleBook>(&json).unwrap(), book);
    }

    /// Taking a rule away never forbids what was allowed, and what is forbidden is so by a rule of the book.
    #[test]
    fn rules_only_ever_forbid(
        rules in any_rules(), seed in 1..9u8, region in "[a-z]{1,2}(-[a-z]{1,2})?", nano in 0..i64::MAX,
    ) {
        let book = RuleBook::new(rules).unwrap();
        let inputs = [InputFacts::of(&data(&["de"], Some("MIT")), org(3))];
        let list = prices(&[("cpu", nano, 1)]);
        let at = Placement { org: org(seed), region: &region, ..placement(&inputs, Some(&list)) };
        let whole = book.check_placement(&at);
        if let Err(broken) = &whole {
            prop_assert!(book.rules().iter().any(|rule| rule.name == broken.rule));
        }
        for left_out in 0..book.rules().len() {
            let mut fewer = book.rules().to_vec();
            let name = fewer.remove(left_out).name;
            let fewer = RuleBook::new(fewer).unwrap().check_placement(&at);
            prop_assert!(whole.is_err() || fewer.is_ok());
            if let Err(broken) = fewer {
                prop_assert!(broken.rule != name);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(book) = RuleBook::decode(&bytes) {
            prop_assert_eq!(book.encode(), bytes);
        }
    }
}
