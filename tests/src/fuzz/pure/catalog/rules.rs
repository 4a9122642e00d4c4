//! Rule books, as records and as people have them.

use catalog::rules::{InputFacts, Placement, PriceUnit, Rule, RuleBook, RuleKind};
use catalog::{Currency, OrgId};

use super::super::support::org;
use crate::fuzz::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("rules", check_rules, rules_seeds),
        target("rules_text", check_rules_text, rules_text_seeds),
    ]
}

fn books() -> Vec<RuleBook> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let cap = |unit| RuleKind::PriceCap {
        unit,
        max: "0.10".parse().expect("an amount"),
        currency: Currency::EUR,
    };
    let kinds = vec![
        RuleKind::Residency(words(&["de", "fr"])),
        RuleKind::Licences(words(&["MIT", "CC-BY-4.0"])),
        RuleKind::PersonalStays,
        RuleKind::Organisations(vec![org()]),
        cap(PriceUnit::Run),
        cap(PriceUnit::CpuHour),
        RuleKind::Runtimes(words(&["wasi"])),
    ];
    let book = |kinds: Vec<RuleKind>| {
        RuleBook::new(kinds.into_iter().map(Rule::new).collect()).expect("within its bounds")
    };
    let home = Rule { name: "home".to_owned(), kind: RuleKind::Residency(words(&["eu"])) };
    let home = RuleBook::new(vec![home]).expect("within its bounds");
    vec![book(kinds), home, RuleBook::default()]
}

fn check_rules(bytes: &[u8]) -> bool {
    let Ok(book) = RuleBook::decode(bytes) else { return false };
    assert_eq!(book.encode(), bytes, "one form");
    let json = serde_json::to_string(&book).expect("it is JSON");
    let again: RuleBook = serde_json::from_str(&json).expect("written by it");
    assert_eq!(again, book);
    let text = scheduler::rules::print(&book);
    assert_eq!(scheduler::rules::parse(&text), Ok(book.clone()), "{text}");
    decide(&book);
    true
}

/// Decisions never panic, name a rule of the book, and personal data goes nowhere else when a rule says so.
fn decide(book: &RuleBook) {
    let stranger = OrgId::from_bytes([3; 32]);
    let body = &super::resources()[0];
    let named = |rule: &str| book.rules().iter().any(|other| other.name == rule);
    for author in [org(), stranger] {
        if let Err(broken) = book.check_resource(body, author) {
            assert!(named(&broken.rule), "{broken}");
        }
        let facts = InputFacts { personal: true, ..InputFacts::of(body, author) };
        let keeps = book.rules().iter().any(|rule| rule.kind == RuleKind::PersonalStays);
        assert_eq!(book.check_fetch(&facts, org()).is_err(), keeps && author != org());
        let placement = Placement {
            step: "slope",
            node: "rack-7",
            org: org(),
            region: "de-by",
            runtime: "wasi",
            inputs: std::slice::from_ref(&facts),
            price: body.price.as_ref(),
        };
        let placed = book.check_placement(&placement);
        assert!(!(keeps && author != org()) || placed.is_err());
    }
}

fn rules_seeds() -> Vec<Vec<u8>> {
    books().iter().map(RuleBook::encode).collect()
}

fn check_rules_text(bytes: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(bytes) else { return false };
    match scheduler::rules::parse(source) {
        Err(problems) => {
            assert!(!problems.0.is_empty(), "a refusal says why");
            false
        }
        Ok(book) => {
            assert_eq!(RuleBook::decode(&book.encode()), Ok(book.clone()));
            assert_eq!(scheduler::rules::parse(&scheduler::rules::print(&book)), Ok(book));
            true
        }
    }
}

fn rules_text_seeds() -> Vec<Vec<u8>> {
    let printed = books().iter().map(|book| scheduler::rules::print(book).into_bytes()).collect();
    let plain = "opencloud: rules/v1\nrules:\n  - residency: [de, fr]\n  - personal: stays\n\
                 \x20 - {name: cheap, price: {per: cpu_hour, max: 0.10 EUR}}\n";
    [printed, vec![plain.as_bytes().to_vec()]].concat()
}
