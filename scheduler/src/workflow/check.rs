//! Reading a whole document: the parts in their order, then what only the whole can show.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;

use super::diagnostic::Problem;
use super::read::{Reader, join};
use super::source::{Head, Known, Place};
use super::tree::{Key, Kind, Mark, Node};
use super::{OutputDecl, STEPS_MAX, Source, Step, VERSION, Workflow, params, steps};

const KEYS: [&str; 6] = ["opencloud", "name", "description", "params", "steps", "outputs"];

/// Reads a workflow; problems go to the reader.
pub(super) fn document(reader: &mut Reader, tree: &Node, digest: Digest) -> Option<Workflow> {
    let fields = reader.fields(tree, "", &KEYS)?;
    check_version(reader, &fields, VERSION)?;
    let name = document_name(reader, &fields, "workflow name");
    let description = fields.get("description");
    let description = description.and_then(|node| reader.text(node, "description"));
    let params_node = fields.get("params");
    let params = params_node.map(|node| params::read(reader, node)).unwrap_or_default();
    let entries = step_entries(reader, &fields)?;

    let mut known = known(reader, params, params_node, entries);
    let mut read = Vec::with_capacity(entries.len());
    for (position, (key, node)) in entries.iter().enumerate() {
        let outputs = known.heads[position].outputs.clone();
        read.push(steps::step(reader, &mut known, (key, node), outputs));
    }
    let outputs = fields.get("outputs");
    let outputs = outputs.map(|node| outputs_of(reader, &mut known, node)).unwrap_or_default();
    // Cycles are looked for among the steps that could be read, so that one bad step does not hide them.
    let places: Vec<Mark> = entries.iter().map(|(key, _)| key.at).collect();
    find_cycles(reader, &read, &places);

    let steps: Vec<Step> = read.into_iter().collect::<Option<_>>()?;
    let index = known.steps.iter().map(|(id, (step, _))| (id.clone(), *step)).collect();
    Some(Workflow {
        name: name?,
        description: description.map(str::to_owned),
        digest,
        params: known.params.clone(),
        steps,
        outputs,
        index,
        assets: known.into_assets(),
    })
}

/// Checks the first key. A document of another kind is not read further: everything else in it would be wrong too.
pub(crate) fn check_version(
    reader: &mut Reader,
    fields: &super::Fields<'_>,
    expected: &'static str,
) -> Option<()> {
    let node = reader.require(fields, "opencloud")?;
    let found = reader.text(node, "opencloud")?;
    if found == expected {
        return Some(());
    }
    let found = found.chars().take(80).collect();
    reader.report(node.at, "opencloud", Problem::Version { found, expected });
    None
}

/// Reads `name:`, a word that can stand in an address.
pub(crate) fn document_name(
    reader: &mut Reader,
    fields: &super::Fields<'_>,
    what: &'static str,
) -> Option<String> {
    let node = reader.require(fields, "name")?;
    let name = reader.text(node, "name")?;
    if !is_document_name(name) {
        let rule = DOCUMENT_NAME;
        let name = name.chars().take(80).collect();
        reader.report(node.at, "name", Problem::Name { name, what, rule });
    }
    Some(name.to_owned())
}

/// What [`is_document_name`] asks, for people.
pub(crate) const DOCUMENT_NAME: &str =
    "begin with a small letter, then small letters, digits and `-`, at most 64";

/// Whether a name can stand in an address.
pub(crate) fn is_document_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= super::NAME_LEN_MAX
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn step_entries<'t>(reader: &mut Reader, fields: &super::Fields<'t>) -> Option<&'t [(Key, Node)]> {
    let node = reader.require(fields, "steps")?;
    let entries = reader.entries(node, "steps");
    if entries.len() > STEPS_MAX {
        let (what, found) = ("steps", entries.len());
        reader.report(node.at, "steps", Problem::TooMany { what, found, max: STEPS_MAX });
        return None;
    }
    if entries.is_empty() && matches!(node.kind, Kind::Map(_)) {
        let expected = "at least one step";
        reader.report(node.at, "steps", Problem::Expected { expected, found: "none" });
    }
    Some(entries)
}

/// First pass: what each step is called and leaves behind, for references may point forward.
fn known(
    reader: &mut Reader,
    params: BTreeMap<String, super::ParamDecl>,
    params_node: Option<&Node>,
    entries: &[(Key, Node)],
) -> Known {
    let mut names: BTreeSet<String> = params.keys().cloned().collect();
    if let Some(Kind::Map(declared)) = params_node.map(|node| &node.kind) {
        names.extend(declared.iter().map(|(key, _)| key.text.clone()));
    }
    let mut known = Known {
        params,
        param_names: names,
        heads: Vec::with_capacity(entries.len()),
        steps: BTreeMap::new(),
        assets: BTreeMap::new(),
    };
    for (position, (key, node)) in (0_u32..).zip(entries) {
        let path = join("steps", &key.text);
        reader.name(key, &path, "step id");
        let find = |wanted: &str| match &node.kind {
            Kind::Map(entries) => {
                let found = entries.iter().find(|(key, _)| key.text == wanted);
                found.map(|(_, node)| node).filter(|node| !super::read::is_null(node))
            }
            _ => None,
        };
        let outputs = steps::outputs(reader, find("out"), &path);
        let declared = match find("out").map(|node| &node.kind) {
            Some(Kind::Map(entries)) => entries.iter().map(|(key, _)| key.text.clone()).collect(),
            _ => BTreeSet::new(),
        };
        known.steps.insert(key.text.clone(), (position, declared));
        known.heads.push(Head {
            id: key.text.clone(),
            outputs,
            mapped: find("map").is_some(),
            skippable: find("when").is_some(),
        });
    }
    known
}

fn outputs_of(reader: &mut Reader, known: &mut Known, node: &Node) -> BTreeMap<String, OutputDecl> {
    let mut outputs = BTreeMap::new();
    for (key, node) in reader.entries(node, "outputs") {
        let path = join("outputs", &key.text);
        reader.name(key, &path, "output name");
        let Some(fields) = reader.fields(node, &path, &["from", "optional"]) else {
            continue;
        };
        let optional = fields.get("optional");
        let optional = optional.and_then(|node| reader.bool(node, &fields.path("optional")));
        let optional = optional.unwrap_or(false);
        let place = Place { optional, ..Place::BARE };
        if let Some(found) = known.source_of(reader, &fields, &["from"], place)
            && let Source::Output { step, output } = found.source
        {
            let kind = found.kind;
            outputs.insert(key.text.clone(), OutputDecl { step, output, kind, optional });
        }
    }
    outputs
}

/// Reports one cycle of each knot of steps. Linear in steps and references, and without recursion.
fn find_cycles(reader: &mut Reader, steps: &[Option<Step>], places: &[Mark]) {
    #[derive(Clone, Copy, PartialEq)]
    enum Colour {
        New,
        Open,
        Done,
    }
    let deps = |step: usize| -> Vec<usize> {
        let deps = steps[step].as_ref().map(|step| &step.deps);
        deps.into_iter().flatten().map(|dep| *dep as usize).collect()
    };
    let id = |step: usize| steps[step].as_ref().map_or_else(String::new, |s| s.id.clone());
    let mut colours = vec![Colour::New; steps.len()];
    for start in 0..steps.len() {
        if colours[start] != Colour::New {
            continue;
        }
        colours[start] = Colour::Open;
        let mut stack = vec![(start, deps(start))];
        while let Some((step, rest)) = stack.last_mut() {
            let step = *step;
            match rest.pop() {
                None => {
                    colours[step] = Colour::Done;
                    stack.pop();
                }
                Some(next) if colours[next] == Colour::New => {
                    colours[next] = Colour::Open;
                    stack.push((next, deps(next)));
                }
                Some(next) if colours[next] == Colour::Open => {
                    // The stack leads from a step to what it waits for; printed in the order of work.
                    let from = stack.iter().position(|(s, _)| *s == next).unwrap_or(0);
                    let mut cycle: Vec<String> =
                        stack[from..].iter().rev().map(|(step, _)| id(*step)).collect();
                    let least = (0..cycle.len()).min_by_key(|n| &cycle[*n]).unwrap_or(0);
                    cycle.rotate_left(least);
                    cycle.push(cycle[0].clone());
                    let path = join("steps", &id(next));
                    reader.report(places[next], &path, Problem::Cycle { steps: cycle });
                }
                Some(_) => {}
            }
        }
    }
}
