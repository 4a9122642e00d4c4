//! Reading the steps of a workflow.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::Problem;
use super::policy::{self, DURATION_MAX_MS};
use super::read::{Fields, Reader, join};
use super::run;
use super::source::{Found, Item, Known, Place, element, expect};
use super::tree::{Key, Kind, Node};
use super::{DEFAULT_TIMEOUT_MS, Input, MapDecl, Source, Step, StepRun, Type};
use crate::task::Collect;
use crate::value::{Value, is_plain_path};

/// Most steps of a workflow; more are refused.
pub const STEPS_MAX: usize = 10_000;
/// Most arguments, environment variables, inputs, outputs or mounts of one step; more are refused.
pub const ARGS_MAX: usize = 4096;

/// Keys of a step.
const STEP_KEYS: [&str; 10] =
    ["description", "run", "in", "out", "after", "map", "when", "retry", "timeout", "needs"];
const IN_KINDS: [&str; 8] = ["param", "from", "var", "index", "file", "dir", "value", "expr"];
const OVER_KINDS: [&str; 4] = ["from", "param", "range", "expr"];

/// Reads what a step declares to leave behind.
pub(super) fn outputs(
    reader: &mut Reader,
    node: Option<&Node>,
    path: &str,
) -> BTreeMap<String, Collect> {
    let Some(node) = node else {
        return BTreeMap::new();
    };
    let path = join(path, "out");
    let mut outputs = BTreeMap::new();
    let entries = reader.entries(node, &path);
    bound(reader, node, &path, "outputs", entries.len());
    for (key, node) in entries.iter().take(ARGS_MAX) {
        let path = join(&path, &key.text);
        reader.name(key, &path, "output name");
        if let Some(collect) = output(reader, node, &path) {
            outputs.insert(key.text.clone(), collect);
        }
    }
    outputs
}

fn output(reader: &mut Reader, node: &Node, path: &str) -> Option<Collect> {
    const KINDS: [&str; 5] = ["file", "dir", "files", "value", "stdout"];
    let fields = reader.fields(node, path, &KINDS)?;
    let mut given = KINDS.iter().filter(|kind| fields.get(kind).is_some());
    let (Some(kind), None) = (given.next(), given.next()) else {
        let alternatives = "`file`, `dir`, `files`, `value`, `stdout`".to_owned();
        reader.report(node.at, path, Problem::OneOf { alternatives });
        return None;
    };
    let (node, path) = (fields.get(kind)?, fields.path(kind));
    match *kind {
        "stdout" => reader.bool(node, &path)?.then_some(Collect::Stdout),
        "files" => {
            let pattern = reader.text(node, &path)?;
            let (dir, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
            if is_plain_path(pattern) && last.contains('*') && !dir.contains('*') {
                return Some(Collect::Files(pattern.to_owned()));
            }
            let pattern = pattern.chars().take(80).collect();
            reader.report(node.at, &path, Problem::Pattern { pattern });
            None
        }
        "dir" => reader.path(node, &path).map(|path| Collect::Dir(path.to_owned())),
        "value" => reader.path(node, &path).map(|path| Collect::Value(path.to_owned())),
        _ => reader.path(node, &path).map(|path| Collect::File(path.to_owned())),
    }
}

pub(super) fn bound(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    what: &'static str,
    found: usize,
) {
    if found > ARGS_MAX {
        reader.report(node.at, path, Problem::TooMany { what, found, max: ARGS_MAX });
    }
}

/// Reads one step; references are looked up in `known`.
pub(super) fn step(
    reader: &mut Reader,
    known: &mut Known,
    (key, node): (&Key, &Node),
    outputs: BTreeMap<String, Collect>,
) -> Option<Step> {
    let fields = reader.fields(node, &join("steps", &key.text), &STEP_KEYS)?;
    let mapped = fields.get("map");
    let (map, item) = match mapped {
        Some(node) => map(reader, known, node, &fields.path("map")),
        None => (None, None),
    };
    let inputs = inputs(reader, known, &fields, item.as_ref());
    let place = Place { item: item.as_ref(), inputs: Some(&inputs), optional: false };
    let run = reader.require(&fields, "run");
    let run = run.and_then(|node| run::run(reader, known, node, &fields.path("run"), place));
    let when = fields.get("when");
    let when = when.and_then(|node| known.expr(reader, node, &fields.path("when"), item.as_ref()));
    let description = fields.get("description");
    let description = description.and_then(|node| reader.text(node, &fields.path("description")));
    let after = after(reader, known, &fields);
    let retry = fields.get("retry");
    let retry = retry.map(|node| policy::retry(reader, node, &fields.path("retry")));
    let timeout = fields.get("timeout");
    let timeout =
        timeout.and_then(|node| reader.duration(node, &fields.path("timeout"), 1, DURATION_MAX_MS));
    let needs = fields.get("needs");
    let runtime = run.as_ref().map(StepRun::runtime);
    let needs = needs.map(|node| policy::needs(reader, node, &fields.path("needs"), runtime));
    let mut step = Step {
        id: key.text.clone(),
        description: description.map(str::to_owned),
        run: run?,
        inputs,
        outputs,
        deps: BTreeSet::new(),
        after,
        map,
        when,
        retry: retry.unwrap_or_default(),
        timeout_ms: timeout.unwrap_or(DEFAULT_TIMEOUT_MS),
        needs: needs.unwrap_or_default(),
        service: None,
    };
    step.deps = data_deps(&step);
    step.after.retain(|dep| !step.deps.contains(dep));
    step.deps.extend(&step.after);
    Some(step)
}

fn map(
    reader: &mut Reader,
    known: &mut Known,
    node: &Node,
    path: &str,
) -> (Option<MapDecl>, Option<Item>) {
    let Some(fields) = reader.fields(node, path, &["over", "as", "max_parallel"]) else {
        return (None, None);
    };
    let max_parallel = fields.get("max_parallel");
    let max_parallel = max_parallel
        .and_then(|node| reader.number(node, &fields.path("max_parallel"), 1, u32::MAX));
    let name = match fields.get("as") {
        None => "item".to_owned(),
        Some(node) => {
            let path = fields.path("as");
            let name = reader.text(node, &path).unwrap_or("item");
            if ["params", "steps", "index"].contains(&name) {
                let rule = "`params`, `steps` and `index` have a meaning of their own";
                let name = name.to_owned();
                reader.report(node.at, &path, Problem::Name { name, what: "map variable", rule });
            } else {
                reader.check_name(node.at, name, &path, "map variable");
            }
            name.to_owned()
        }
    };
    let over = reader.require(&fields, "over");
    let over = over.and_then(|node| over_of(reader, known, node, &fields.path("over")));
    // When the list itself is refused, uses of the item are not refused a second time.
    let kind = match over.as_ref().map(|found| &found.kind) {
        Some(Type::List(inner)) => inner.as_ref().clone(),
        _ => Type::Any,
    };
    let item = Item { name: name.clone(), kind };
    let decl = over.map(|over| MapDecl { over: over.source, item: name, max_parallel });
    (decl, Some(item))
}

fn over_of(reader: &mut Reader, known: &mut Known, node: &Node, path: &str) -> Option<Found> {
    if let Kind::List(items) = &node.kind {
        let items: Vec<Value> = items.iter().map(Node::value).collect();
        let all = |f: fn(&Value) -> bool| !items.is_empty() && items.iter().all(f);
        let kind = if all(|v| matches!(v, Value::Int(_))) {
            Type::Int
        } else if all(|v| matches!(v, Value::Text(_))) {
            Type::Text
        } else {
            Type::Any
        };
        let kind = Type::List(Box::new(kind));
        return Some(Found { source: Source::Literal(Value::List(items)), kind, at: node.at });
    }
    let fields = reader.fields(node, path, &["from", "param", "range", "expr", "optional"])?;
    let optional = fields.get("optional");
    let optional = optional.and_then(|node| reader.bool(node, &fields.path("optional")));
    let place = Place { optional: optional.unwrap_or(false), ..Place::BARE };
    let found = known.source_of(reader, &fields, &OVER_KINDS, place)?;
    expect(reader, &found, path, "a list", |kind| matches!(kind, Type::List(_)));
    Some(found)
}

fn inputs(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    item: Option<&Item>,
) -> BTreeMap<String, Input> {
    let mut inputs = BTreeMap::new();
    let Some(node) = fields.get("in") else {
        return inputs;
    };
    let path = fields.path("in");
    let entries = reader.entries(node, &path);
    bound(reader, node, &path, "inputs", entries.len());
    let mut staged: BTreeMap<String, &Node> = BTreeMap::new();
    for (key, node) in entries.iter().take(ARGS_MAX) {
        let path = join(&path, &key.text);
        reader.name(key, &path, "input name");
        let input = input(reader, known, (key, node), &path, item);
        if let Some(other) = clash(&staged, &input.path) {
            let problem = Problem::PathClash { path: input.path.clone(), other };
            reader.report_hint(node.at, &path, problem, Some("give one a `path:`".to_owned()));
        }
        staged.insert(input.path.clone(), node);
        inputs.insert(key.text.clone(), input);
    }
    inputs
}

/// A staged path that is the same, above or below.
fn clash(staged: &BTreeMap<String, &Node>, path: &str) -> Option<String> {
    let above = path.match_indices('/').map(|(at, _)| &path[..at]);
    if let Some(other) = above.chain([path]).find(|p| staged.contains_key(*p)) {
        return Some(other.to_owned());
    }
    let below = format!("{path}/");
    let next = staged.range(below.clone()..).next()?.0;
    next.starts_with(&below).then(|| next.clone())
}

/// Reads an input. One that is refused still counts as there, so that its uses are not refused too.
fn input(
    reader: &mut Reader,
    known: &mut Known,
    (key, node): (&Key, &Node),
    path: &str,
    item: Option<&Item>,
) -> Input {
    let mut input = Input {
        source: Source::Literal(Value::Null),
        path: key.text.clone(),
        optional: false,
        kind: Type::Any,
    };
    let keys: Vec<&str> = IN_KINDS.into_iter().chain(["path", "optional"]).collect();
    let Some(fields) = reader.fields(node, path, &keys) else {
        return input;
    };
    if let Some(node) = fields.get("path")
        && let Some(path) = reader.path(node, &fields.path("path"))
    {
        input.path = path.to_owned();
    }
    if let Some(node) = fields.get("optional") {
        input.optional = reader.bool(node, &fields.path("optional")).unwrap_or(false);
    }
    let place = Place { item, inputs: None, optional: input.optional };
    if let Some(found) = known.source_of(reader, &fields, &IN_KINDS, place) {
        if let Source::Param(name) = &found.source
            && !input.optional
            && known.params.get(name).is_some_and(|p| p.optional && p.default.is_none())
        {
            let problem = Problem::Expected { expected: "a value", found: "an optional parameter" };
            let hint = Some("add `optional: true` and expect nothing there".to_owned());
            reader.report_hint(found.at, path, problem, hint);
        }
        input.source = found.source;
        input.kind = found.kind;
    }
    input
}

fn after(reader: &mut Reader, known: &Known, fields: &Fields<'_>) -> BTreeSet<u32> {
    let mut after = BTreeSet::new();
    let Some(node) = fields.get("after") else {
        return after;
    };
    for (n, node) in reader.list(node, &fields.path("after")).iter().enumerate() {
        let path = element(&fields.path, "after", n);
        let Some(id) = reader.text(node, &path) else {
            continue;
        };
        match known.steps.get(id) {
            Some((step, _)) => {
                after.insert(*step);
            }
            None => {
                let problem = Problem::UnknownStep { id: id.chars().take(80).collect() };
                let ids = known.steps.keys().map(String::as_str);
                reader.report_near(node.at, &path, problem, (id, ids));
            }
        }
    }
    after
}

/// The steps whose outputs the step reads.
fn data_deps(step: &Step) -> BTreeSet<u32> {
    let mut deps = BTreeSet::new();
    let run = &step.run;
    let sources = step.inputs.values().map(|input| &input.source);
    let sources = sources.chain(&run.args).chain(run.env.values()).chain(run.mounts.values());
    let sources = sources.chain(&run.stdin).chain(step.map.as_ref().map(|map| &map.over));
    for source in sources {
        source_deps(source, &mut deps);
    }
    if let Some(when) = &step.when {
        deps.extend(when.outputs().iter().map(|(step, _)| *step));
    }
    deps
}

fn source_deps(source: &Source, deps: &mut BTreeSet<u32>) {
    match source {
        Source::Output { step, .. } => {
            deps.insert(*step);
        }
        Source::Expr(expr) => deps.extend(expr.outputs().iter().map(|(step, _)| *step)),
        Source::Range(first, last) => {
            source_deps(first, deps);
            source_deps(last, deps);
        }
        Source::Param(_)
        | Source::Var(_)
        | Source::Index
        | Source::File(_)
        | Source::Dir(_)
        | Source::Literal(_)
        | Source::Input(_) => {}
    }
}
