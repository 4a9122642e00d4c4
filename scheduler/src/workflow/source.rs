//! Reading where a value comes from: `{param: x}`, `{from: step.output}` and their kin.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::Problem;
use super::read::{Fields, Reader, did_you_mean, join};
use super::tree::{Kind, Mark, Node};
use super::{Asset, AssetKind, Input, ParamDecl, Source, Type, collected};
use crate::expr::{Expr, Names};
use crate::task::Collect;
use crate::value::Value;

/// What is known of a step before it is read as a whole.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) outputs: BTreeMap<String, Collect>,
    pub(super) mapped: bool,
    pub(super) skippable: bool,
}

/// What references can name, and the local files named so far.
pub(super) struct Known {
    pub(super) params: BTreeMap<String, ParamDecl>,
    pub(super) param_names: BTreeSet<String>,
    pub(super) heads: Vec<Head>,
    pub(super) steps: BTreeMap<String, (u32, BTreeSet<String>)>,
    pub(super) assets: BTreeMap<(String, AssetKind), Mark>,
}

/// The item of a step's map.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) kind: Type,
}

/// What a reference may use besides parameters and steps.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) item: Option<&'a Item>,
    pub(super) inputs: Option<&'a BTreeMap<String, Input>>,
    /// Whether null is fine here.
    pub(super) optional: bool,
}

impl Place<'_> {
    /// Parameters and steps only.
    pub(super) const BARE: Self = Self { item: None, inputs: None, optional: false };
}

/// A source and what is known of its value.
pub(super) struct Found {
    pub(super) source: Source,
    pub(super) kind: Type,
    pub(super) at: Mark,
}

impl Known {
    /// Names for an expression.
    pub(super) fn names<'a>(&'a self, item: Option<&'a Item>) -> Names<'a> {
        Names {
            params: &self.param_names,
            steps: &self.steps,
            item: item.map(|item| item.name.as_str()),
        }
    }

    pub(super) fn asset(&mut self, at: Mark, path: &str, kind: AssetKind) {
        self.assets.entry((path.to_owned(), kind)).or_insert(at);
    }

    /// Assets in the order of paths, at the first place that names each.
    pub(super) fn into_assets(self) -> Vec<Asset> {
        let assets = self.assets.into_iter();
        assets
            .map(|((path, kind), at)| Asset { path, kind, line: at.line, column: at.column })
            .collect()
    }

    /// Reads `{<kind>: …}` where the kind is one of `kinds`; `extra` keys are left to the caller.
    pub(super) fn source(
        &mut self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        (kinds, extra): (&[&'static str], &[&'static str]),
        place: Place<'_>,
    ) -> Option<Found> {
        let known: Vec<&str> = kinds.iter().chain(extra).copied().collect();
        let fields = reader.fields(node, path, &known)?;
        self.source_of(reader, &fields, kinds, place)
    }

    /// As [`Self::source`], for a map already read.
    pub(super) fn source_of(
        &mut self,
        reader: &mut Reader,
        fields: &Fields<'_>,
        kinds: &[&'static str],
        place: Place<'_>,
    ) -> Option<Found> {
        let mut given = kinds.iter().filter(|kind| fields.get(kind).is_some());
        let (Some(kind), None) = (given.next(), given.next()) else {
            // With an unknown key the reader has already said what is wrong.
            let stranger = fields.keys().any(|key| !kinds.contains(&key) && !key.starts_with("x-"));
            if !stranger || fields.keys().count() > 1 {
                let alternatives = kinds.map_braces();
                reader.report(fields.at, &fields.path, Problem::OneOf { alternatives });
            }
            return None;
        };
        let node = fields.get(kind)?;
        let path = fields.path(kind);
        let (source, kind) = match *kind {
            "param" => self.param(reader, node, &path)?,
            "from" => self.output(reader, node, &path, place)?,
            "var" => var(reader, node, &path, place)?,
            "index" => index(reader, node, &path, place)?,
            "in" => input(reader, node, &path, place)?,
            "file" => {
                let file = reader.path(node, &path)?;
                self.asset(node.at, file, AssetKind::File);
                (Source::File(file.to_owned()), Type::File)
            }
            "dir" => {
                let dir = reader.path(node, &path)?;
                self.asset(node.at, dir, AssetKind::Dir);
                (Source::Dir(dir.to_owned()), Type::Dir)
            }
            "value" => literal(node),
            "range" => self.range(reader, node, &path, place)?,
            _ => (Source::Expr(self.expr(reader, node, &path, place.item)?), Type::Any),
        };
        Some(Found { source, kind, at: node.at })
    }

    /// Reads the name of a parameter.
    pub(super) fn param(
        &self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
    ) -> Option<(Source, Type)> {
        let name = reader.text(node, path)?;
        let Some(decl) = self.params.get(name) else {
            // A declaration that was itself refused is not reported a second time.
            if !self.param_names.contains(name) {
                let problem = Problem::UnknownParam { name: cut(name) };
                let names = self.param_names.iter().map(String::as_str);
                reader.report_near(node.at, path, problem, (name, names));
            }
            return None;
        };
        Some((Source::Param(name.to_owned()), decl.kind.type_of()))
    }

    /// Reads `step.output`.
    fn output(
        &self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        place: Place<'_>,
    ) -> Option<(Source, Type)> {
        let (step, output) = self.output_name(reader, node, path)?;
        let head = &self.heads[step as usize];
        if head.skippable && !place.optional {
            let problem = Problem::MaybeSkipped { step: head.id.clone() };
            // Only where a program is called are inputs known, and there nothing can be optional.
            let hint = match place.inputs {
                None => "add `optional: true` and expect nothing there",
                Some(_) => "take it through an `in:` with `optional: true`",
            };
            reader.report_hint(node.at, path, problem, Some(hint.to_owned()));
        }
        let kind = collected(head.outputs.get(&output)?, head.mapped);
        Some((Source::Output { step, output }, kind))
    }

    /// Reads `step.output` and looks it up.
    fn output_name(&self, reader: &mut Reader, node: &Node, path: &str) -> Option<(u32, String)> {
        let text = reader.text(node, path)?;
        let Some((id, output)) = text.split_once('.') else {
            let problem = Problem::Reference { text: cut(text) };
            let hint = self.steps.get(text).and_then(|(_, outputs)| outputs.first());
            let hint = hint.map(|output| format!("for example `{text}.{output}`"));
            reader.report_hint(node.at, path, problem, hint);
            return None;
        };
        let Some((step, outputs)) = self.steps.get(id) else {
            let problem = Problem::UnknownStep { id: cut(id) };
            let ids = self.steps.keys().map(String::as_str);
            reader.report_near(node.at, path, problem, (id, ids));
            return None;
        };
        if !outputs.contains(output) {
            let problem = Problem::UnknownOutput { step: id.to_owned(), output: cut(output) };
            let outputs = outputs.iter().map(String::as_str);
            reader.report_near(node.at, path, problem, (output, outputs));
            return None;
        }
        Some((*step, output.to_owned()))
    }

    /// `[first, last]`, each a whole number, `{param: …}` or `{expr: …}`.
    fn range(
        &mut self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        place: Place<'_>,
    ) -> Option<(Source, Type)> {
        let [first, last] = reader.list(node, path) else {
            if let Kind::List(_) = &node.kind {
                let (expected, found) = ("two numbers: first and last", "a list of another length");
                reader.report(node.at, path, Problem::Expected { expected, found });
            }
            return None;
        };
        let first = self.range_end(reader, first, path, place);
        let last = self.range_end(reader, last, path, place);
        let range = Source::Range(Box::new(first?), Box::new(last?));
        Some((range, Type::List(Box::new(Type::Int))))
    }

    fn range_end(
        &mut self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        place: Place<'_>,
    ) -> Option<Source> {
        if let Value::Int(int) = node.value() {
            return Some(Source::Literal(Value::Int(int)));
        }
        if !matches!(node.kind, Kind::Map(_)) {
            let problem = Problem::Expected { expected: "a whole number", found: node.describe() };
            reader.report(node.at, path, problem);
            return None;
        }
        let found = self.source(reader, node, path, (&["param", "expr"], &[]), place)?;
        expect(reader, &found, path, "a whole number", |kind| matches!(kind, Type::Int));
        Some(found.source)
    }

    /// Reads an expression.
    pub(super) fn expr(
        &self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        item: Option<&Item>,
    ) -> Option<Expr> {
        if let Some(hint) = misplaced(node, path) {
            let problem = Problem::Expected { expected: "an expression", found: node.describe() };
            reader.report_hint(node.at, path, problem, Some(hint));
            return None;
        }
        let text = reader.raw(node, path, "an expression")?;
        let names = self.names(item);
        match Expr::compile(text, names) {
            Ok(expr) => Some(expr),
            Err(error) => {
                let hint = names.suggest(&error).map(did_you_mean);
                reader.report_hint(node.at, path, Problem::Expr(error), hint);
                None
            }
        }
    }

    /// A scalar as written, or a source of one.
    pub(super) fn argument(
        &mut self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        (kinds, expected): (&[&'static str], &'static str),
        place: Place<'_>,
    ) -> Option<Found> {
        if !matches!(node.kind, Kind::Map(_)) {
            let raw = reader.raw(node, path, expected)?;
            if raw.contains('\0') {
                let problem = Problem::Expected { expected: "text", found: "a zero byte" };
                reader.report(node.at, path, problem);
            }
            let source = Source::Literal(Value::Text(raw.to_owned()));
            return Some(Found { source, kind: Type::Text, at: node.at });
        }
        self.source(reader, node, path, (kinds, &[]), place)
    }
}

/// Reports when the type is known and does not fit.
pub(super) fn expect(
    reader: &mut Reader,
    found: &Found,
    path: &str,
    expected: &'static str,
    fits: impl Fn(&Type) -> bool,
) {
    if found.kind == Type::Any || fits(&found.kind) {
        return;
    }
    let problem = Problem::Type { expected, found: found.kind.clone() };
    let staged = matches!(found.source, Source::Param(_) | Source::Output { .. } | Source::Var(_));
    let hint = (staged && expected.starts_with("text") && !matches!(found.kind, Type::List(_)))
        .then(|| "stage it with `in:` and write `{in: name}` for its path".to_owned());
    reader.report_hint(found.at, path, problem, hint);
}

/// What to write where the text of an expression is wanted and a list or map stands: the text itself when it can be guessed
/// from what stands there.
fn misplaced(node: &Node, path: &str) -> Option<String> {
    let inner = match &node.kind {
        Kind::Scalar { .. } => return None,
        Kind::List(_) => None,
        Kind::Map(entries) => entries.first(),
    };
    let text = inner.and_then(|(key, value)| match (&value.kind, key.text.as_str()) {
        (Kind::Scalar { raw, .. }, "expr") => Some(cut(raw)),
        (Kind::Scalar { raw, .. }, "param") => Some(format!("params.{}", cut(raw))),
        (Kind::Scalar { raw, .. }, "from") => Some(format!("steps.{}", cut(raw))),
        (Kind::Scalar { raw, .. }, "var") => Some(cut(raw)),
        _ => None,
    });
    let key = path.rsplit('.').next().unwrap_or(path);
    let example = text.unwrap_or_else(|| "params.count > 1".to_owned());
    // A colon or a hash would end a plain text in YAML.
    let is_plain = !example.contains([':', '#', '{', '[', '"', '\'', '!']);
    let example = if is_plain { example } else { format!("'{}'", example.replace('\'', "''")) };
    Some(format!("`{key}` takes the text of a CEL expression, as in `{key}: {example}`"))
}

fn literal(node: &Node) -> (Source, Type) {
    let value = node.value();
    let kind = match &value {
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Float(_) => Type::Float,
        Value::Text(_) => Type::Text,
        Value::List(_) => Type::List(Box::new(Type::Any)),
        _ => Type::Any,
    };
    (Source::Literal(value), kind)
}

fn var(reader: &mut Reader, node: &Node, path: &str, place: Place<'_>) -> Option<(Source, Type)> {
    let text = reader.text(node, path)?;
    let mut parts = text.split('.').map(str::to_owned);
    let name = parts.next().unwrap_or_default();
    let Some(item) = place.item else {
        reader.report(node.at, path, Problem::OutsideMap { name: cut(&name) });
        return None;
    };
    if name != item.name {
        let problem = Problem::UnknownVar { name: cut(&name) };
        reader.report_near(node.at, path, problem, (&name, std::iter::once(item.name.as_str())));
        return None;
    }
    let fields: Vec<String> = parts.collect();
    let kind = match (&item.kind, fields.first().map(String::as_str)) {
        (kind, None) => kind.clone(),
        (Type::File | Type::Dir, Some("size")) => Type::Int,
        (Type::File | Type::Dir, Some("name" | "digest")) => Type::Text,
        (Type::Any, Some(_)) => Type::Any,
        (kind, Some(_)) => {
            let problem = Problem::Type { expected: "a map", found: kind.clone() };
            reader.report(node.at, path, problem);
            return None;
        }
    };
    Some((Source::Var(fields), kind))
}

fn index(reader: &mut Reader, node: &Node, path: &str, place: Place<'_>) -> Option<(Source, Type)> {
    if place.item.is_none() {
        reader.report(node.at, path, Problem::OutsideMap { name: "index".to_owned() });
        return None;
    }
    if reader.bool(node, path)? {
        return Some((Source::Index, Type::Int));
    }
    reader.report(node.at, path, Problem::Expected { expected: "true", found: "false" });
    None
}

fn input(reader: &mut Reader, node: &Node, path: &str, place: Place<'_>) -> Option<(Source, Type)> {
    let name = reader.text(node, path)?;
    let inputs = place.inputs?;
    let Some(input) = inputs.get(name) else {
        let problem = Problem::UnknownInput { name: cut(name) };
        reader.report_near(node.at, path, problem, (name, inputs.keys().map(String::as_str)));
        return None;
    };
    Some((Source::Input(name.to_owned()), input.kind.clone()))
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

trait Braces {
    fn map_braces(&self) -> String;
}

impl Braces for [&'static str] {
    /// `{param: …}, {from: …}`.
    fn map_braces(&self) -> String {
        let all: Vec<String> = self.iter().map(|kind| format!("{{{kind}: …}}")).collect();
        all.join(", ")
    }
}

/// The path of an element of a list.
pub(super) fn element(path: &str, key: &str, n: usize) -> String {
    format!("{}[{n}]", join(path, key))
}
