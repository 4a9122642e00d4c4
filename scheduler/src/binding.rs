//! The binding document: where the steps of a workflow may go and what they may cost, apart from the portable workflow.
//!
//! A workflow that runs at one organisation is re-bound at another without being edited.

use std::collections::BTreeMap;

use catalog::{Amount, Currency};

use crate::place::{Rule, Strategy, WEIGHT_MAX};
use crate::workflow::{
    Diagnostics, Fields, Mark, Node, Problem, Reader, Workflow, check_version, join, parse_tree,
};

/// What the first key of a binding document says.
pub const VERSION: &str = "binding/v1";
/// Most entries of one list of a rule; more are refused.
pub const LIST_MAX: usize = 1000;

const KEYS: [&str; 5] = ["opencloud", "strategy", "max_price", "defaults", "steps"];
const RULE_KEYS: [&str; 5] = ["orgs", "forbid", "nodes", "regions", "max_price"];

/// A checked binding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    strategy: Option<Strategy>,
    defaults: Rule,
    steps: BTreeMap<String, Rule>,
}

impl Binding {
    /// Reads a binding, YAML or JSON, and checks its step ids against the workflow.
    ///
    /// # Errors
    /// Every problem found, in the order of the text.
    pub fn parse(source: &str, workflow: &Workflow) -> Result<Self, Diagnostics> {
        let (tree, found) = parse_tree(source)?;
        let mut reader = Reader::with(found);
        let binding = read(&mut reader, &tree, workflow);
        reader.finish(binding)
    }

    /// What placement optimises, when the document says so.
    #[must_use]
    pub const fn strategy(&self) -> Option<Strategy> {
        self.strategy
    }

    /// The rule of a step. What the step says replaces the default list by list; what is forbidden by default stays
    /// forbidden.
    #[must_use]
    pub fn rule(&self, step_id: &str) -> Rule {
        let Some(own) = self.steps.get(step_id) else {
            return self.defaults.clone();
        };
        let pick = |own: &[String], default: &[String]| {
            if own.is_empty() { default.to_vec() } else { own.to_vec() }
        };
        let mut forbid_orgs = self.defaults.forbid_orgs.clone();
        forbid_orgs.extend(own.forbid_orgs.iter().cloned());
        forbid_orgs.sort_unstable();
        forbid_orgs.dedup();
        Rule {
            orgs: pick(&own.orgs, &self.defaults.orgs),
            forbid_orgs,
            nodes: pick(&own.nodes, &self.defaults.nodes),
            regions: pick(&own.regions, &self.defaults.regions),
            max_price: own.max_price.or(self.defaults.max_price),
        }
    }
}

fn read(reader: &mut Reader, tree: &Node, workflow: &Workflow) -> Option<Binding> {
    let fields = reader.fields(tree, "", &KEYS)?;
    check_version(reader, &fields, VERSION)?;
    let mut binding = Binding::default();
    if let Some(node) = fields.get("strategy") {
        binding.strategy = strategy(reader, node);
    }
    if let Some(node) = fields.get("defaults") {
        binding.defaults = rule(reader, node, "defaults");
    }
    if let Some(price) = max_price(reader, &fields) {
        binding.defaults.max_price.get_or_insert(price);
    }
    let Some(node) = fields.get("steps") else {
        return Some(binding);
    };
    for (key, node) in reader.entries(node, "steps") {
        let path = join("steps", &key.text);
        if workflow.step_index(&key.text).is_none() {
            let problem = Problem::UnknownStep { id: key.text.chars().take(80).collect() };
            let ids = workflow.steps.iter().map(|step| step.id.as_str());
            reader.report_near(key.at, &path, problem, (&key.text, ids));
        }
        let rule = rule(reader, node, &path);
        binding.steps.insert(key.text.clone(), rule);
    }
    Some(binding)
}

/// A word or text as [`Strategy`] reads it, or a map of weights.
fn strategy(reader: &mut Reader, node: &Node) -> Option<Strategy> {
    let path = "strategy";
    if !node.is_map() {
        let text = reader.text(node, path)?;
        return match text.parse() {
            Ok(strategy) => Some(strategy),
            Err(_) => {
                let word = text.chars().take(80).collect();
                let hint = "one of sovereignty, performance, cost, or a map of their weights";
                let problem = Problem::UnknownWord { what: "strategy", word };
                reader.report_hint(node.at, path, problem, Some(hint.to_owned()));
                None
            }
        };
    }
    let names = ["sovereignty", "performance", "cost"];
    let fields = reader.fields(node, path, &names)?;
    let [sovereignty, performance, cost] = names.map(|name| match fields.get(name) {
        None => 0,
        Some(node) => reader.number(node, &fields.path(name), 0, WEIGHT_MAX).unwrap_or(0),
    });
    if (sovereignty, performance, cost) == (0, 0, 0) {
        let problem = Problem::Expected { expected: "a weight above 0", found: "none" };
        reader.report(node.at, path, problem);
    }
    Some(Strategy::Weights { sovereignty, performance, cost })
}

fn rule(reader: &mut Reader, node: &Node, path: &str) -> Rule {
    let Some(fields) = reader.fields(node, path, &RULE_KEYS) else {
        return Rule::default();
    };
    Rule {
        orgs: list(reader, &fields, "orgs"),
        forbid_orgs: list(reader, &fields, "forbid"),
        nodes: list(reader, &fields, "nodes"),
        regions: list(reader, &fields, "regions"),
        max_price: max_price(reader, &fields),
    }
}

/// A list of names. An empty one is refused: it would read as nowhere and mean anywhere.
fn list(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> Vec<String> {
    let Some(node) = fields.get(key) else {
        return Vec::new();
    };
    let path = fields.path(key);
    let Some(items) = node.items() else {
        let problem = Problem::Expected { expected: "a list", found: node.describe() };
        reader.report(node.at, &path, problem);
        return Vec::new();
    };
    if items.len() > LIST_MAX {
        let problem = Problem::TooMany { what: "entries", found: items.len(), max: LIST_MAX };
        reader.report(node.at, &path, problem);
        return Vec::new();
    }
    if items.is_empty() {
        let problem = Problem::Expected { expected: "at least one entry", found: "none" };
        let hint = Some("leave the key out to allow everything".to_owned());
        reader.report_hint(node.at, &path, problem, hint);
    }
    let mut names = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let path = format!("{path}[{n}]");
        match reader.text(item, &path) {
            Some("") => not_empty(reader, item.at, &path),
            Some(name) => names.push(name.to_owned()),
            None => {}
        }
    }
    names
}

fn not_empty(reader: &mut Reader, at: Mark, path: &str) {
    let problem = Problem::Expected { expected: "a name or an id", found: "an empty text" };
    reader.report(at, path, problem);
}

/// `0.05 EUR`, for one task.
fn max_price(reader: &mut Reader, fields: &Fields<'_>) -> Option<(Amount, Currency)> {
    let node = fields.get("max_price")?;
    let path = fields.path("max_price");
    let text = reader.text(node, &path)?;
    let price = text.split_once(' ').and_then(|(amount, currency)| {
        let amount: Amount = amount.parse().ok().filter(|a: &Amount| !a.is_negative())?;
        Some((amount, currency.parse().ok()?))
    });
    if price.is_none() {
        let text = text.chars().take(80).collect();
        reader.report(node.at, &path, Problem::Price { text });
    }
    price
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow() -> Workflow {
        let text = "opencloud: workflow/v1\nname: w\nsteps:\n\
                    \x20 split: {run: {wasi: {module: a.wasm}}}\n\
                    \x20 mosaic: {run: {wasi: {module: a.wasm}}}\n";
        Workflow::parse(text).unwrap()
    }

    fn problems(text: &str) -> String {
        Binding::parse(text, &workflow()).unwrap_err().to_string()
    }

    #[test]
    fn a_steps_lists_replace_the_defaults_and_bans_add_up() {
        let text = "opencloud: binding/v1\n\
                    strategy: {sovereignty: 1, performance: 2}\n\
                    max_price: 0.05 EUR\n\
                    defaults: {orgs: [home, uni], forbid: [evil], regions: [eu]}\n\
                    steps:\n  split: {orgs: [home], forbid: [slow], max_price: 1 EUR}\n";
        let binding = Binding::parse(text, &workflow()).unwrap();
        let weights = Strategy::Weights { sovereignty: 1, performance: 2, cost: 0 };
        assert_eq!(binding.strategy(), Some(weights));
        let price = |text: &str| Some((text.parse().unwrap(), Currency::EUR));
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let default = Rule {
            orgs: names(&["home", "uni"]),
            forbid_orgs: names(&["evil"]),
            nodes: vec![],
            regions: names(&["eu"]),
            max_price: price("0.05"),
        };
        assert_eq!(binding.rule("mosaic"), default);
        let split = Rule {
            orgs: names(&["home"]),
            forbid_orgs: names(&["evil", "slow"]),
            max_price: price("1"),
            ..default
        };
        assert_eq!(binding.rule("split"), split);
    }

    #[test]
    fn strategies_are_words_or_weights() {
        for (text, strategy) in [
            ("cost", Some(Strategy::Cost)),
            ("sovereignty", Some(Strategy::Sovereignty)),
            ("~", None),
        ] {
            let text = format!("opencloud: binding/v1\nstrategy: {text}\n");
            assert_eq!(Binding::parse(&text, &workflow()).unwrap().strategy(), strategy);
        }
    }

    #[test]
    fn every_problem_of_a_binding_is_reported_with_its_place() {
        let text = "opencloud: binding/v1\n\
                    strategy: cheap\n\
                    max_price: 5\n\
                    defaults: {org: [a], nodes: [], regions: eu}\n\
                    steps:\n  splt: {max_price: -1 EUR}\n";
        assert_eq!(
            problems(text),
            "2:11: strategy: unknown strategy `cheap` (one of sovereignty, performance, cost, or a map of their weights)\n\
             3:12: max_price: expected text, found a whole number (put it in quotes)\n\
             4:12: defaults: unknown key `org` (did you mean `orgs`?)\n\
             4:29: defaults.nodes: expected at least one entry, found none (leave the key out to allow everything)\n\
             4:42: defaults.regions: expected a list, found text\n\
             6:3: steps.splt: unknown step `splt` (did you mean `split`?)\n\
             6:21: steps.splt.max_price: `-1 EUR` is not a price: write an amount and a currency, as in `0.05 EUR`"
        );
        assert_eq!(
            problems("opencloud: workflow/v1\nname: x\n"),
            "1:12: opencloud: `workflow/v1` is not a document of this kind: expected `binding/v1`\n\
             2:1: unknown key `name` (known keys: opencloud, strategy, max_price, defaults, steps)"
        );
        assert_eq!(
            problems("opencloud: binding/v1\nstrategy: {cost: 1001, speed: 2}\n"),
            "2:11: strategy: expected a weight above 0, found none\n\
             2:18: strategy.cost: 1001 is out of range, 0 to 1000 is allowed\n\
             2:24: strategy: unknown key `speed` (known keys: sovereignty, performance, cost)"
        );
    }
}
