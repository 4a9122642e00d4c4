//! A task in the making: values to files, arguments and mounts.

use std::collections::BTreeMap;

use catalog::Digest;

use super::materialise::{EvalError, INLINE_FILES_MAX, JSON_LEN_MAX, MAP_ITEMS_MAX, Scope};
use super::{Artefact, BootDecl, Input, ProgramDecl, Source, Step, Type, Workflow, kind_of};
use crate::expr::{EvalFailure, Expr, Inputs};
use crate::task::{Boot, Program, Stage};
use crate::value::{DirRef, FileRef, MANIFEST_FILES_MAX, Manifest, ManifestFile, Value};

/// A task in the making.
pub(super) struct Stager<'a> {
    pub(super) workflow: &'a Workflow,
    pub(super) step: &'a Step,
    pub(super) scope: &'a Scope<'a>,
    pub(super) inputs: BTreeMap<String, Stage>,
    /// Paths of each input, in order.
    pub(super) staged: BTreeMap<&'a str, Vec<String>>,
    pub(super) blobs: BTreeMap<Digest, Vec<u8>>,
}

impl<'a> Stager<'a> {
    pub(super) fn id(&self) -> String {
        self.step.id.clone()
    }

    pub(super) fn wrong(&self, place: &str, expected: &'static str, found: &Value) -> EvalError {
        let (step, place) = (self.id(), format!("`{place}`"));
        EvalError::Type { step, place, expected, found: kind_of(found) }
    }

    pub(super) fn expr(&self, expr: &Expr) -> Result<Value, EvalError> {
        let Scope { params, outputs, item, .. } = *self.scope;
        expr.evaluate(&Inputs { params, outputs, item }).map_err(|source| match source {
            EvalFailure::NotReady { step, output } => self.not_ready(step, &output),
            source => EvalError::Expr { step: self.id(), expr: expr.source().to_owned(), source },
        })
    }

    fn not_ready(&self, step: u32, output: &str) -> EvalError {
        let step = self.workflow.step(step).map_or_else(String::new, |step| step.id.clone());
        EvalError::NotReady { step, output: output.to_owned() }
    }

    fn asset(&self, path: &str) -> Result<&'a Stage, EvalError> {
        let missing = || EvalError::Asset { step: self.id(), path: path.to_owned() };
        self.scope.assets.get(path).ok_or_else(missing)
    }

    /// The value of a source other than a staged input.
    pub(super) fn value(&self, source: &Source, place: &str) -> Result<Value, EvalError> {
        Ok(match source {
            Source::Param(name) => {
                let value = self.scope.params.get(name).cloned();
                value.ok_or_else(|| EvalError::Param { name: name.clone() })?
            }
            Source::Output { step, output } => {
                (self.scope.outputs)(*step, output).ok_or_else(|| self.not_ready(*step, output))?
            }
            Source::Var(fields) => self.var(fields)?,
            Source::Index => Value::Int(i64::from(self.item()?.0)),
            Source::File(path) | Source::Dir(path) => match self.asset(path)? {
                Stage::File(file) => Value::File(file.clone()),
                Stage::Dir(dir) => Value::Dir(dir.clone()),
            },
            Source::Literal(value) => value.clone(),
            Source::Expr(expr) => self.expr(expr)?,
            Source::Range(first, last) => self.range(first, last, place)?,
            Source::Input(name) => {
                let paths = self.staged.get(name.as_str()).into_iter().flatten();
                Value::List(paths.map(|path| Value::Text(path.clone())).collect())
            }
        })
    }

    fn item(&self) -> Result<(u32, &'a Value), EvalError> {
        self.scope.item.ok_or_else(|| EvalError::NoItem { step: self.id() })
    }

    fn var(&self, fields: &[String]) -> Result<Value, EvalError> {
        let mut value = self.item()?.1.clone();
        for field in fields {
            let found = match (value, field.as_str()) {
                (Value::Map(mut map), field) => map.remove(field),
                (Value::File(FileRef { name, .. }) | Value::Dir(DirRef { name, .. }), "name") => {
                    Some(Value::Text(name))
                }
                (Value::File(FileRef { size, .. }) | Value::Dir(DirRef { size, .. }), "size") => {
                    i64::try_from(size).ok().map(Value::Int)
                }
                (
                    Value::File(FileRef { digest, .. }) | Value::Dir(DirRef { digest, .. }),
                    "digest",
                ) => Some(Value::Text(digest.to_string())),
                _ => None,
            };
            value =
                found.ok_or_else(|| EvalError::Field { step: self.id(), field: field.clone() })?;
        }
        Ok(value)
    }

    fn range(&self, first: &Source, last: &Source, place: &str) -> Result<Value, EvalError> {
        let end = |source| match self.value(source, place)? {
            Value::Int(int) => Ok(int),
            other => Err(self.wrong(place, "a range of whole numbers", &other)),
        };
        let (first, last) = (end(first)?, end(last)?);
        if last < first {
            return Ok(Value::List(Vec::new()));
        }
        let items = last.abs_diff(first).saturating_add(1);
        if items > MAP_ITEMS_MAX as u64 {
            return Err(EvalError::Items { step: self.id(), items });
        }
        Ok(Value::List((first..=last).map(Value::Int).collect()))
    }

    pub(super) fn inputs(&mut self) -> Result<(), EvalError> {
        for (name, input) in &self.step.inputs {
            let place = format!("in.{name}");
            let value = self.value(&input.source, &place)?;
            let paths = self.stage(input, value, &place)?;
            self.staged.insert(name, paths);
        }
        Ok(())
    }

    /// Stages a value and returns its paths.
    fn stage(
        &mut self,
        input: &Input,
        value: Value,
        place: &str,
    ) -> Result<Vec<String>, EvalError> {
        let path = &input.path;
        match value {
            Value::Null if input.optional => return Ok(Vec::new()),
            Value::Null => return Err(self.wrong(place, "there", &Value::Null)),
            Value::File(file) => {
                self.inputs.insert(path.clone(), Stage::File(file));
            }
            Value::Dir(dir) => {
                self.inputs.insert(path.clone(), Stage::Dir(dir));
            }
            Value::List(items) => {
                let mut stages = Vec::new();
                if flatten(&items, input.optional, &mut stages)
                    && (!stages.is_empty() || holds_files(&input.kind))
                {
                    return self.stage_list(path, &stages, place);
                }
                self.stage_json(path, &Value::List(items), place)?;
            }
            other => self.stage_json(path, &other, place)?,
        }
        Ok(vec![path.clone()])
    }

    /// Files of a list become `path/0000.ext`, `path/0001.ext`, … in the order of the list.
    fn stage_list(
        &mut self,
        path: &str,
        stages: &[Stage],
        place: &str,
    ) -> Result<Vec<String>, EvalError> {
        if stages.len() > MANIFEST_FILES_MAX {
            let (step, place) = (self.id(), format!("`{place}`"));
            return Err(EvalError::Files { step, place, files: stages.len() });
        }
        // Wide enough for the last number, so that the order of names is the order of the list.
        let width = stages.len().saturating_sub(1).to_string().len().max(4);
        let named: Vec<(String, &Stage)> = (0_usize..)
            .zip(stages)
            .map(|(n, stage)| (format!("{n:0width$}{}", extension(stage)), stage))
            .collect();
        let paths = named.iter().map(|(name, _)| format!("{path}/{name}")).collect();
        let files = named.iter().map(|(name, stage)| match stage {
            Stage::File(FileRef { digest, size, .. }) => {
                Some((name.clone(), ManifestFile { digest: *digest, size: *size }))
            }
            Stage::Dir(_) => None,
        });
        if stages.len() > INLINE_FILES_MAX
            && let Some(files) = files.collect::<Option<BTreeMap<_, _>>>()
        {
            let manifest = Manifest { files };
            let size = manifest.size();
            let digest = self.blob(manifest.encode());
            let dir = DirRef { digest, size, name: last_component(path) };
            self.inputs.insert(path.to_owned(), Stage::Dir(dir));
            return Ok(paths);
        }
        for (name, stage) in named {
            self.inputs.insert(format!("{path}/{name}"), stage.clone());
        }
        Ok(paths)
    }

    fn stage_json(&mut self, path: &str, value: &Value, place: &str) -> Result<(), EvalError> {
        let bytes = to_json(value).and_then(|json| serde_json::to_vec(&json).ok());
        let bytes = bytes.filter(|bytes| bytes.len() <= JSON_LEN_MAX);
        let bytes = bytes
            .ok_or_else(|| EvalError::Json { step: self.id(), place: format!("`{place}`") })?;
        let size = bytes.len() as u64;
        let digest = self.blob(bytes);
        let file = FileRef { digest, size, name: last_component(path) };
        self.inputs.insert(path.to_owned(), Stage::File(file));
        Ok(())
    }

    fn blob(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    /// The program, and the arguments that it is called with.
    pub(super) fn program(&self) -> Result<(Program, Vec<String>), EvalError> {
        let mut argv = Vec::new();
        let program = match &self.step.run.program {
            ProgramDecl::Wasi { module, argv0, fuel } => {
                let file = self.program_file(module, "module")?;
                argv.push(match (argv0, module) {
                    (Some(name), _) => name.clone(),
                    (None, Artefact::Path(path)) => stem(path),
                    (None, Artefact::Param(_) | Artefact::Blob(_)) => stem(&file.name),
                });
                Program::Wasi { module: file, fuel: *fuel }
            }
            ProgramDecl::Container { image, entrypoint } => Program::Container {
                image: self.program_dir(image, "image")?,
                entrypoint: entrypoint.clone(),
            },
            ProgramDecl::Vm { boot, user_data, ssh_keys } => {
                let boot = match boot {
                    BootDecl::Kernel { dir, append } => Boot::Kernel {
                        dir: self.program_dir(dir, "kernel")?,
                        append: append.clone(),
                    },
                    BootDecl::Disk(disk) => Boot::Disk { disk: self.program_file(disk, "disk")? },
                };
                let user_data = user_data.as_ref();
                let user_data =
                    user_data.map(|file| self.program_file(file, "user_data")).transpose()?;
                Program::Vm { boot, user_data, ssh_keys: ssh_keys.clone() }
            }
            ProgramDecl::Slurm { program } => {
                Program::Slurm { program: self.program_file(program, "program")? }
            }
        };
        self.args(&mut argv)?;
        Ok((program, argv))
    }

    fn program_dir(&self, artefact: &Artefact, place: &str) -> Result<DirRef, EvalError> {
        match self.artefact(artefact, Source::Dir, place)? {
            Value::Dir(dir) => Ok(dir),
            other => Err(self.wrong(place, "a directory", &other)),
        }
    }

    fn program_file(&self, artefact: &Artefact, place: &str) -> Result<FileRef, EvalError> {
        match self.artefact(artefact, Source::File, place)? {
            Value::File(file) => Ok(file),
            other => Err(self.wrong(place, "a file", &other)),
        }
    }

    fn artefact(
        &self,
        artefact: &Artefact,
        source: fn(String) -> Source,
        place: &str,
    ) -> Result<Value, EvalError> {
        match artefact {
            Artefact::Path(path) => self.value(&source(path.clone()), place),
            Artefact::Blob(digest) => self.value(&source(digest.to_string()), place),
            Artefact::Param(name) => self.value(&Source::Param(name.clone()), place),
        }
    }

    fn args(&self, argv: &mut Vec<String>) -> Result<(), EvalError> {
        for (n, source) in self.step.run.args.iter().enumerate() {
            let place = format!("args[{n}]");
            match self.value(source, &place)? {
                Value::List(items) => {
                    for item in &items {
                        argv.extend(self.text(item, &place)?);
                    }
                }
                value => argv.extend(self.text(&value, &place)?),
            }
        }
        Ok(())
    }

    /// A scalar as text; nothing for null.
    fn text(&self, value: &Value, place: &str) -> Result<Option<String>, EvalError> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            // The guest's arguments and variables end at a zero byte.
            Value::Text(text) if !text.contains('\0') => text.clone(),
            other => return Err(self.wrong(place, "text without zero bytes, or a number", other)),
        }))
    }

    pub(super) fn env(&self) -> Result<BTreeMap<String, String>, EvalError> {
        let mut env = BTreeMap::new();
        for (name, source) in &self.step.run.env {
            let place = format!("env.{name}");
            if let Some(text) = self.text(&self.value(source, &place)?, &place)? {
                env.insert(name.clone(), text);
            }
        }
        Ok(env)
    }

    pub(super) fn stdin(&self) -> Result<Option<FileRef>, EvalError> {
        let value = match &self.step.run.stdin {
            None => return Ok(None),
            Some(Source::Input(name)) => {
                let paths = self.staged.get(name.as_str()).map_or(&[][..], Vec::as_slice);
                match paths {
                    [] => Value::Null,
                    [path] => match self.inputs.get(path) {
                        Some(Stage::File(file)) => Value::File(file.clone()),
                        Some(Stage::Dir(dir)) => Value::Dir(dir.clone()),
                        None => Value::Null,
                    },
                    _ => Value::List(Vec::new()),
                }
            }
            Some(source) => self.value(source, "stdin")?,
        };
        match value {
            Value::Null => Ok(None),
            Value::File(file) => Ok(Some(file)),
            other => Err(self.wrong("stdin", "a file", &other)),
        }
    }

    pub(super) fn mounts(&self) -> Result<BTreeMap<String, DirRef>, EvalError> {
        let mut mounts = BTreeMap::new();
        for (path, source) in &self.step.run.mounts {
            let place = format!("mounts.{path}");
            match self.value(source, &place)? {
                Value::Null => {}
                Value::Dir(dir) => {
                    mounts.insert(path.clone(), dir);
                }
                other => return Err(self.wrong(&place, "a directory", &other)),
            }
        }
        Ok(mounts)
    }
}

fn holds_files(kind: &Type) -> bool {
    match kind {
        Type::List(inner) => matches!(**inner, Type::File | Type::Dir) || holds_files(inner),
        _ => false,
    }
}

/// Files and directories of nested lists in order; whether there is nothing else in them.
fn flatten(items: &[Value], skip_null: bool, stages: &mut Vec<Stage>) -> bool {
    items.iter().all(|item| match item {
        Value::File(file) => {
            stages.push(Stage::File(file.clone()));
            true
        }
        Value::Dir(dir) => {
            stages.push(Stage::Dir(dir.clone()));
            true
        }
        Value::List(items) => flatten(items, skip_null, stages),
        Value::Null => skip_null,
        _ => false,
    })
}

/// The extension of a file's name with its dot. The name may come from a stranger, so only a plain one is kept.
fn extension(stage: &Stage) -> &str {
    let Stage::File(FileRef { name, .. }) = stage else {
        return "";
    };
    let Some(dot) = name.rfind('.').filter(|dot| *dot > 0) else {
        return "";
    };
    let letters = &name[dot + 1..];
    let plain = (1..=16).contains(&letters.len())
        && letters.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { &name[dot..] } else { "" }
}

fn last_component(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn stem(path: &str) -> String {
    let name = last_component(path);
    match name.rfind('.') {
        Some(dot) if dot > 0 => name[..dot].to_owned(),
        _ => name,
    }
}

/// Plain JSON; `None` when there is a file in it or a number that JSON cannot say.
fn to_json(value: &Value) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => Json::Number(serde_json::Number::from_f64(*value)?),
        Value::Text(value) => Json::String(value.clone()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        Value::Map(map) => {
            let entries = map.iter().map(|(key, value)| Some((key.clone(), to_json(value)?)));
            Json::Object(entries.collect::<Option<_>>()?)
        }
        Value::File(_) | Value::Dir(_) => return None,
    })
}
