//! Rule books as people write them: YAML or JSON with places for what is wrong.
//!
//! ```
//! let book = scheduler::rules::parse("opencloud: rules/v1\nrules:\n  - residency: [de, fr]\n  - personal: stays\n")?;
//! assert_eq!(book.rules().len(), 2);
//! assert_eq!(scheduler::rules::parse(&scheduler::rules::print(&book))?, book);
//! # Ok::<(), scheduler::workflow::Diagnostics>(())
//! ```

use catalog::rules::{
    CapForm, MoneyForm, PriceUnit, RULES_MAX, Rule, RuleBook, RuleForm, RulesError, Stays,
};

use crate::workflow::{Diagnostics, Fields, Node, Problem, Reader, check_version, parse_tree};

/// What the first key of a rule book says.
pub const VERSION: &str = "rules/v1";

const KEYS: [&str; 2] = ["opencloud", "rules"];
const RULE_KEYS: [&str; 7] =
    ["name", "residency", "licences", "personal", "organisations", "price", "runtimes"];

/// Reads a rule book, YAML or JSON.
///
/// # Errors
/// Every problem found, in the order of the text.
pub fn parse(source: &str) -> Result<RuleBook, Diagnostics> {
    let (tree, found) = parse_tree(source)?;
    let mut reader = Reader::with(found);
    let book = read(&mut reader, &tree);
    reader.finish(book)
}

/// The book as YAML that [`parse`] reads.
#[must_use]
pub fn print(book: &RuleBook) -> String {
    let mut text = format!("opencloud: {VERSION}\nrules:");
    if book.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for rule in book.rules() {
        // JSON is YAML, and needs no second set of rules for what has to be quoted.
        let form = serde_json::to_string(&RuleForm::from(rule.clone()));
        text.push_str(&format!("  - {}\n", form.unwrap_or_default()));
    }
    text
}

fn read(reader: &mut Reader, tree: &Node) -> Option<RuleBook> {
    let fields = reader.fields(tree, "", &KEYS)?;
    check_version(reader, &fields, VERSION)?;
    let node = reader.require(&fields, "rules")?;
    let items = reader.list(node, "rules");
    if items.len() > RULES_MAX {
        let problem = Problem::TooMany { what: "rules", found: items.len(), max: RULES_MAX };
        reader.report(node.at, "rules", problem);
        return None;
    }
    let mut rules = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        rules.extend(rule(reader, item, &format!("rules[{at}]")));
    }
    // A rule that could not be read is reported already, and the positions of the others mean nothing then.
    if rules.len() != items.len() {
        return None;
    }
    RuleBook::new(rules).map_err(|error| refused(reader, node, items, &error)).ok()
}

/// Says what is wrong with the rules at the one that it is about.
fn refused(reader: &mut Reader, node: &Node, items: &[Node], error: &RulesError) {
    let at = error.rule().and_then(|at| Some((at, items.get(at)?)));
    let (place, path) =
        at.map_or((node.at, "rules".to_owned()), |(at, item)| (item.at, format!("rules[{at}]")));
    reader.report(place, &path, Problem::Rules(error.clone()));
}

fn rule(reader: &mut Reader, node: &Node, path: &str) -> Option<Rule> {
    let fields = reader.fields(node, path, &RULE_KEYS)?;
    let form = RuleForm {
        name: fields.get("name").and_then(|node| text(reader, node, &fields.path("name"))),
        residency: words(reader, &fields, "residency"),
        licences: words(reader, &fields, "licences"),
        personal: fields.get("personal").and_then(|node| stays(reader, node, &fields)),
        organisations: organisations(reader, &fields),
        price: fields.get("price").and_then(|node| cap(reader, node, &fields.path("price"))),
        runtimes: words(reader, &fields, "runtimes"),
    };
    // A key with nothing behind it is as good as none.
    let n_kinds = RULE_KEYS[1..].iter().filter(|key| fields.get(key).is_some()).count();
    if n_kinds != 1 {
        let alternatives = RULE_KEYS[1..].join(", ");
        reader.report(node.at, path, Problem::OneOf { alternatives });
        return None;
    }
    // What could not be read of its one kind is reported already.
    Rule::try_from(form).ok()
}

fn text(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    reader.text(node, path).map(str::to_owned)
}

fn words(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> Option<Vec<String>> {
    let node = fields.get(key)?;
    let path = fields.path(key);
    let items = reader.list(node, &path);
    let word = |(at, item)| text(reader, item, &format!("{path}[{at}]"));
    items.iter().enumerate().map(word).collect()
}

fn organisations(reader: &mut Reader, fields: &Fields<'_>) -> Option<Vec<catalog::OrgId>> {
    let node = fields.get("organisations")?;
    let path = fields.path("organisations");
    let mut orgs = Vec::new();
    for (at, item) in reader.list(node, &path).iter().enumerate() {
        let path = format!("{path}[{at}]");
        match reader.text(item, &path)?.parse() {
            Ok(org) => orgs.push(org),
            Err(error) => reader.report(item.at, &path, Problem::Digest(error)),
        }
    }
    Some(orgs)
}

fn stays(reader: &mut Reader, node: &Node, fields: &Fields<'_>) -> Option<Stays> {
    let path = fields.path("personal");
    let word = reader.text(node, &path)?;
    if word == "stays" {
        return Some(Stays::Stays);
    }
    let word = word.chars().take(80).collect();
    let problem = Problem::UnknownWord { what: "rule for personal data", word };
    reader.report_hint(node.at, &path, problem, Some("write `stays`".to_owned()));
    None
}

fn cap(reader: &mut Reader, node: &Node, path: &str) -> Option<CapForm> {
    let fields = reader.fields(node, path, &["per", "max"])?;
    let (per, max) = (reader.require(&fields, "per"), reader.require(&fields, "max"));
    let (per, max) = (per?, max?);
    let word = reader.text(per, &fields.path("per"))?;
    let unit = PriceUnit::from_word(word);
    if unit.is_none() {
        let units: Vec<&str> = PriceUnit::ALL.iter().map(|unit| unit.as_str()).collect();
        let word = word.chars().take(80).collect();
        let hint = Some(format!("one of {}", units.join(", ")));
        let problem = Problem::UnknownWord { what: "unit", word };
        reader.report_hint(per.at, &fields.path("per"), problem, hint);
    }
    let text = reader.text(max, &fields.path("max"))?;
    let money = MoneyForm::try_from(text.to_owned()).ok();
    if money.is_none() {
        let text = text.chars().take(80).collect();
        reader.report(max.at, &fields.path("max"), Problem::Price { text });
    }
    Some(CapForm { per: unit?, max: money? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORG: &str = "did:key:z6MkehRgf7yJbgaGfYsdoAsKdBPE3dj2CYhowQdcjqSJgvVd";

    fn full() -> String {
        format!(
            "opencloud: rules/v1\nrules:\n  - residency: [de, fr]\n  - {{name: open, licences: [MIT, CC-BY-4.0]}}\n\
             \x20 - personal: stays\n  - organisations: [\"{ORG}\"]\n\
             \x20 - price: {{per: run, max: 5 EUR}}\n  - price: {{per: cpu_hour, max: 0.10 EUR}}\n  - runtimes: [wasi]\n"
        )
    }

    #[test]
    fn every_kind_of_rule_is_read_and_printed() {
        let book = parse(&full()).unwrap();
        let names: Vec<&str> = book.rules().iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "residency",
                "open",
                "personal",
                "organisations",
                "price-run",
                "price-cpu-hour",
                "runtimes"
            ]
        );
        assert_eq!(parse(&print(&book)), Ok(book.clone()));
        // What the API takes is the same document without its first key.
        let json = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<RuleBook>(&json).unwrap(), book);
        assert_eq!(parse(&print(&RuleBook::default())), Ok(RuleBook::default()));
    }

    #[test]
    fn the_example_is_a_rule_book() {
        let book = parse(include_str!("../../examples/terrain/rules.yaml")).unwrap();
        let said: Vec<String> = book.rules().iter().map(Rule::to_string).collect();
        assert_eq!(
            said,
            [
                "residency: data is kept and work runs in de, fr",
                "licences: what is used is under Apache-2.0 or CC-BY-4.0 or CC0-1.0 or MIT",
                "personal: personal data stays with who published it",
                "price-run: one run costs at most 5.00 EUR",
                "fair-price: one cpu_hour costs at most 0.10 EUR",
                "runtimes: programs run with wasi",
            ]
        );
    }

    #[test]
    fn every_problem_of_a_rule_book_is_reported_with_its_place() {
        let text = "opencloud: rules/v1\nrules:\n  - residency: de\n  - {licence: [MIT]}\n  - personal: leaves\n\
                    \x20 - price: {per: core, max: 5}\n  - {residency: [de], runtimes: [wasi]}\n  - organisations: [me]\n";
        let found = parse(text).unwrap_err().to_string();
        let places: Vec<&str> =
            found.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            places,
            ["3:16", "4:5", "4:6", "5:15", "6:18", "6:29", "7:5", "8:21"],
            "{found}"
        );
        for part in [
            "rules[0].residency: expected a list, found text",
            "unknown key `licence` (did you mean `licences`?)",
            "unknown rule for personal data `leaves` (write `stays`)",
            "unknown unit `core` (one of run, cpu_hour,",
            "rules[4]: expected exactly one of residency, licences,",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        let twice = "opencloud: rules/v1\nrules:\n  - residency: [de]\n  - residency: [fr]\n";
        assert_eq!(
            parse(twice).unwrap_err().to_string(),
            "4:5: rules[1]: rule 2: another is called `residency` already: give one of them a `name` of its own"
        );
        let empty = "opencloud: rules/v1\nrules:\n  - residency: []\n";
        assert!(
            parse(empty)
                .unwrap_err()
                .to_string()
                .starts_with("3:5: rules[0]: rule 1: the list is empty")
        );
        // Found by fuzzing: it was refused, and nothing said why.
        let nothing = "opencloud: rules/v1\nrules:\n  - {licences: }\n";
        let found = parse(nothing).unwrap_err().to_string();
        assert!(found.starts_with("3:5: rules[0]: expected exactly one of residency"), "{found}");
        let many = format!("opencloud: rules/v1\nrules:\n{}", "  - personal: stays\n".repeat(17));
        assert_eq!(
            parse(&many).unwrap_err().to_string(),
            "3:3: rules: 17 rules, at most 16 are allowed"
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(words in proptest::collection::vec("[^\\pC]{1,10}", 1..5), nano in 0..i64::MAX) {
            let max = catalog::Amount::from_nano(nano);
            let cap = catalog::rules::RuleKind::PriceCap { unit: PriceUnit::Run, max, currency: catalog::Currency::EUR };
            let kinds = [catalog::rules::RuleKind::Residency(words), cap];
            if let Ok(book) = RuleBook::new(kinds.map(Rule::new).into()) {
                prop_assert_eq!(parse(&print(&book)), Ok(book));
            }
        }
    }
}
