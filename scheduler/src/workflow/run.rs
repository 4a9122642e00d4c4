//! Reading what a step runs: module, arguments, environment, standard input, mounts.

use std::collections::BTreeMap;

use super::diagnostic::Problem;
use super::read::{Fields, Reader, join};
use super::source::{Known, Place, element, expect};
use super::steps::{ARGS_MAX, bound};
use super::tree::{Kind, Node};
use super::{AssetKind, Module, Source, Type, WasiRun};
use crate::value::is_plain_path;

const WASI_KEYS: [&str; 7] = ["module", "args", "argv0", "env", "stdin", "fuel", "mounts"];
const ARG_KINDS: [&str; 5] = ["param", "in", "var", "index", "expr"];
const ENV_KINDS: [&str; 4] = ["param", "var", "index", "expr"];

/// Reads `run:`.
pub(super) fn run(
    reader: &mut Reader,
    known: &mut Known,
    node: &Node,
    path: &str,
    place: Place<'_>,
) -> Option<WasiRun> {
    let fields = reader.fields(node, path, &["wasi"])?;
    let wasi = reader.require(&fields, "wasi")?;
    let fields = reader.fields(wasi, &fields.path("wasi"), &WASI_KEYS)?;
    let module = reader.require(&fields, "module");
    let module = module.and_then(|node| module_of(reader, known, node, &fields.path("module")));
    let argv0 = fields.get("argv0");
    let argv0 = argv0.and_then(|node| reader.raw(node, &fields.path("argv0"), "text"));
    let fuel = fields.get("fuel").and_then(|node| reader.bool(node, &fields.path("fuel")));
    let run = WasiRun {
        module: Module::Param(String::new()),
        argv0: argv0.map(str::to_owned),
        args: args(reader, known, &fields, place),
        env: env(reader, known, &fields, place),
        stdin: stdin(reader, known, &fields, place),
        fuel: fuel.unwrap_or(false),
        mounts: mounts(reader, known, &fields, place),
    };
    Some(WasiRun { module: module?, ..run })
}

fn module_of(reader: &mut Reader, known: &mut Known, node: &Node, path: &str) -> Option<Module> {
    if matches!(node.kind, Kind::Map(_)) {
        let found = known.source(reader, node, path, (&["param"], &[]), Place::BARE)?;
        expect(reader, &found, path, "a file", |kind| *kind == Type::File);
        return match found.source {
            Source::Param(name) => Some(Module::Param(name)),
            _ => None,
        };
    }
    let text = reader.text(node, path)?;
    if text.starts_with("blake3:") {
        let digest = text.parse().map_err(|e| reader.report(node.at, path, Problem::Digest(e)));
        return digest.ok().map(Module::Blob);
    }
    let file = reader.path(node, path)?;
    known.asset(node.at, file, AssetKind::File);
    Some(Module::Path(file.to_owned()))
}

fn is_scalar(kind: &Type) -> bool {
    matches!(kind, Type::Bool | Type::Int | Type::Float | Type::Text)
}

fn args(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    place: Place<'_>,
) -> Vec<Source> {
    let Some(node) = fields.get("args") else {
        return Vec::new();
    };
    let items = reader.list(node, &fields.path("args"));
    bound(reader, node, &fields.path("args"), "arguments", items.len());
    let mut args = Vec::with_capacity(items.len().min(ARGS_MAX));
    for (n, node) in items.iter().take(ARGS_MAX).enumerate() {
        let path = element(&fields.path, "args", n);
        let expected = "text, a number or a reference";
        let Some(found) = known.argument(reader, node, &path, (&ARG_KINDS, expected), place) else {
            continue;
        };
        if !matches!(found.source, Source::Input(_)) {
            expect(reader, &found, &path, "text or a number", |kind| match kind {
                Type::List(inner) => is_scalar(inner) || **inner == Type::Any,
                kind => is_scalar(kind),
            });
        }
        args.push(found.source);
    }
    args
}

fn env(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    place: Place<'_>,
) -> BTreeMap<String, Source> {
    let mut env = BTreeMap::new();
    let Some(node) = fields.get("env") else {
        return env;
    };
    let entries = reader.entries(node, &fields.path("env"));
    bound(reader, node, &fields.path("env"), "variables", entries.len());
    for (key, node) in entries.iter().take(ARGS_MAX) {
        let path = join(&fields.path("env"), &key.text);
        reader.name(key, &path, "variable name");
        let expected = "text, a number or a reference";
        if let Some(found) = known.argument(reader, node, &path, (&ENV_KINDS, expected), place) {
            expect(reader, &found, &path, "text or a number", is_scalar);
            env.insert(key.text.clone(), found.source);
        }
    }
    env
}

fn stdin(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    place: Place<'_>,
) -> Option<Source> {
    const KINDS: [&str; 4] = ["in", "from", "param", "file"];
    let path = fields.path("stdin");
    let found = known.source(reader, fields.get("stdin")?, &path, (&KINDS, &[]), place)?;
    let staged = matches!(found.source, Source::Input(_));
    // An input that is a plain value is staged as a JSON file, which can be read like any other.
    expect(reader, &found, &path, "a file", |kind| match kind {
        Type::File => true,
        kind => staged && is_scalar(kind),
    });
    Some(found.source)
}

fn mounts(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    place: Place<'_>,
) -> BTreeMap<String, Source> {
    let mut mounts = BTreeMap::new();
    let Some(node) = fields.get("mounts") else {
        return mounts;
    };
    let entries = reader.entries(node, &fields.path("mounts"));
    bound(reader, node, &fields.path("mounts"), "mounts", entries.len());
    for (key, node) in entries.iter().take(ARGS_MAX) {
        let path = join(&fields.path("mounts"), &key.text);
        if !key.text.strip_prefix('/').is_some_and(is_plain_path) {
            let text = key.text.chars().take(80).collect();
            reader.report(key.at, &path, Problem::GuestPath { path: text });
        }
        let kinds = (&["param", "from", "dir"][..], &[][..]);
        if let Some(found) = known.source(reader, node, &path, kinds, place) {
            expect(reader, &found, &path, "a directory", |kind| *kind == Type::Dir);
            mounts.insert(key.text.clone(), found.source);
        }
    }
    mounts
}
