//! Reading what a step runs: the program, its arguments, environment, standard input, mounts.

use std::collections::BTreeMap;

use super::diagnostic::Problem;
use super::read::{Fields, Reader, join};
use super::source::{Known, Place, element, expect};
use super::steps::{ARGS_MAX, bound};
use super::tree::{Kind, Node};
use super::{Artefact, AssetKind, BootDecl, ProgramDecl, Source, StepRun, Type};
use crate::ssh;
use crate::task::RuntimeKind;
use crate::value::is_plain_path;

const RUNTIMES: [&str; 4] = ["wasi", "container", "vm", "slurm"];
const WASI_KEYS: [&str; 7] = ["module", "args", "argv0", "env", "stdin", "fuel", "mounts"];
const CONTAINER_KEYS: [&str; 6] = ["image", "entrypoint", "args", "env", "stdin", "mounts"];
const VM_KEYS: [&str; 9] =
    ["kernel", "append", "disk", "user_data", "ssh_keys", "args", "env", "stdin", "mounts"];
const SLURM_KEYS: [&str; 5] = ["program", "args", "env", "stdin", "mounts"];
const ARG_KINDS: [&str; 5] = ["param", "in", "var", "index", "expr"];
const ENV_KINDS: [&str; 4] = ["param", "var", "index", "expr"];

/// Reads `run:`.
pub(super) fn run(
    reader: &mut Reader,
    known: &mut Known,
    node: &Node,
    path: &str,
    place: Place<'_>,
) -> Option<StepRun> {
    let fields = reader.fields(node, path, &RUNTIMES)?;
    let mut said = RuntimeKind::ALL.into_iter().filter(|kind| fields.get(kind.as_str()).is_some());
    let (Some(kind), None) = (said.next(), said.next()) else {
        // Of an unknown key the reader has already said what is wrong.
        if fields.keys().all(|key| RUNTIMES.contains(&key) || key.starts_with("x-")) {
            let alternatives = RUNTIMES.map(|word| format!("`{word}`")).join(", ");
            reader.report(node.at, path, Problem::OneOf { alternatives });
        }
        return None;
    };
    let keys: &[&str] = match kind {
        RuntimeKind::Wasi => &WASI_KEYS,
        RuntimeKind::Container => &CONTAINER_KEYS,
        RuntimeKind::Vm => &VM_KEYS,
        RuntimeKind::Slurm => &SLURM_KEYS,
    };
    let fields = reader.fields(fields.get(kind.as_str())?, &fields.path(kind.as_str()), keys)?;
    let program = match kind {
        RuntimeKind::Wasi => wasi(reader, known, &fields),
        RuntimeKind::Container => container(reader, known, &fields),
        RuntimeKind::Vm => vm(reader, known, &fields),
        RuntimeKind::Slurm => slurm(reader, known, &fields),
    };
    // Read even without a program, so that all problems are told at once.
    let args = args(reader, known, &fields, place);
    let env = env(reader, known, &fields, place);
    let stdin = stdin(reader, known, &fields, place);
    let mounts = mounts(reader, known, &fields, place);
    Some(StepRun { program: program?, args, env, stdin, mounts })
}

fn wasi(reader: &mut Reader, known: &mut Known, fields: &Fields<'_>) -> Option<ProgramDecl> {
    let module = artefact(reader, known, fields, "module", AssetKind::File);
    let argv0 = fields.get("argv0");
    let argv0 = argv0.and_then(|node| reader.raw(node, &fields.path("argv0"), "text"));
    let fuel = fields.get("fuel").and_then(|node| reader.bool(node, &fields.path("fuel")));
    let (argv0, fuel) = (argv0.map(str::to_owned), fuel.unwrap_or(false));
    Some(ProgramDecl::Wasi { module: module?, argv0, fuel })
}

fn container(reader: &mut Reader, known: &mut Known, fields: &Fields<'_>) -> Option<ProgramDecl> {
    let image = artefact(reader, known, fields, "image", AssetKind::Dir);
    let entrypoint = fields.get("entrypoint").map(|node| {
        let items = reader.list(node, &fields.path("entrypoint"));
        bound(reader, node, &fields.path("entrypoint"), "words", items.len());
        let mut words = Vec::with_capacity(items.len().min(ARGS_MAX));
        for (n, node) in items.iter().take(ARGS_MAX).enumerate() {
            let word = reader.raw(node, &element(&fields.path, "entrypoint", n), "text");
            words.extend(word.map(str::to_owned));
        }
        words
    });
    Some(ProgramDecl::Container { image: image?, entrypoint })
}

fn vm(reader: &mut Reader, known: &mut Known, fields: &Fields<'_>) -> Option<ProgramDecl> {
    let (kernel, disk) = (fields.get("kernel"), fields.get("disk"));
    if kernel.is_some() == disk.is_some() {
        let alternatives = "`kernel`, `disk`".to_owned();
        reader.report(fields.at, &fields.path, Problem::OneOf { alternatives });
        return None;
    }
    // Each has words that mean nothing to the other: nothing in a bare initramfs reads user data or keys, and a disk has its
    // own boot loader.
    let strangers: &[(&str, &str)] = if kernel.is_some() {
        &[
            ("user_data", "`kernel`, `disk` with `user_data`"),
            ("ssh_keys", "`kernel`, `disk` with `ssh_keys`"),
        ]
    } else {
        &[("append", "`disk`, `kernel` with `append`")]
    };
    for (stranger, alternatives) in strangers {
        if fields.get(stranger).is_some() {
            let alternatives = (*alternatives).to_owned();
            reader.report(fields.at, &fields.path, Problem::OneOf { alternatives });
        }
    }
    let append = fields.get("append");
    let append = append.and_then(|node| reader.text(node, &fields.path("append")));
    let user_data = fields.get("user_data");
    let user_data =
        user_data.and_then(|_| artefact(reader, known, fields, "user_data", AssetKind::File));
    let ssh_keys = ssh_keys(reader, fields);
    let boot = if kernel.is_some() {
        let dir = artefact(reader, known, fields, "kernel", AssetKind::Dir)?;
        BootDecl::Kernel { dir, append: append.unwrap_or_default().to_owned() }
    } else {
        BootDecl::Disk(artefact(reader, known, fields, "disk", AssetKind::File)?)
    };
    Some(ProgramDecl::Vm { boot, user_data, ssh_keys })
}

fn ssh_keys(reader: &mut Reader, fields: &Fields<'_>) -> Vec<String> {
    let mut keys = Vec::new();
    let Some(node) = fields.get("ssh_keys") else {
        return keys;
    };
    let path = fields.path("ssh_keys");
    let items = reader.list(node, &path);
    if items.len() > ssh::KEYS_MAX {
        let (what, found, max) = ("keys", items.len(), ssh::KEYS_MAX);
        reader.report(node.at, &path, Problem::TooMany { what, found, max });
    }
    for (n, node) in items.iter().take(ssh::KEYS_MAX).enumerate() {
        let path = element(&fields.path, "ssh_keys", n);
        let Some(line) = reader.text(node, &path) else {
            continue;
        };
        // A block of YAML ends with a line break.
        let line = line.trim();
        match ssh::check(line) {
            Ok(()) => keys.push(line.to_owned()),
            Err(error) => reader.report(node.at, &path, Problem::SshKey(error)),
        }
    }
    keys
}

fn slurm(reader: &mut Reader, known: &mut Known, fields: &Fields<'_>) -> Option<ProgramDecl> {
    let program = artefact(reader, known, fields, "program", AssetKind::File);
    Some(ProgramDecl::Slurm { program: program? })
}

/// A part of a program: a path, a digest, or a parameter.
fn artefact(
    reader: &mut Reader,
    known: &mut Known,
    fields: &Fields<'_>,
    key: &'static str,
    kind: AssetKind,
) -> Option<Artefact> {
    let node = reader.require(fields, key)?;
    let path = fields.path(key);
    if matches!(node.kind, Kind::Map(_)) {
        let found = known.source(reader, node, &path, (&["param"], &[]), Place::BARE)?;
        let (wanted, name) = match kind {
            AssetKind::File => (Type::File, "a file"),
            AssetKind::Dir => (Type::Dir, "a directory"),
        };
        expect(reader, &found, &path, name, |kind| *kind == wanted);
        return match found.source {
            Source::Param(name) => Some(Artefact::Param(name)),
            _ => None,
        };
    }
    let text = reader.text(node, &path)?;
    if text.starts_with("blake3:") {
        let digest = text.parse().map_err(|e| reader.report(node.at, &path, Problem::Digest(e)));
        return digest.ok().map(Artefact::Blob);
    }
    let file = reader.path(node, &path)?;
    known.asset(node.at, file, kind);
    Some(Artefact::Path(file.to_owned()))
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
