//! From a checked workflow and the state of a run to tasks and results.

use std::collections::BTreeMap;

use catalog::Digest;

use super::Workflow;
use super::stage::Stager;
use crate::expr::EvalFailure;
use crate::task::{SPEC_LEN_MAX, Stage, TaskSpec};
use crate::value::{MANIFEST_FILES_MAX, Value};

/// Most items of a map; a longer list fails the step.
pub const MAP_ITEMS_MAX: usize = 100_000;
/// Largest JSON file made of a value, in bytes; a larger value fails the step.
pub const JSON_LEN_MAX: usize = 1 << 20;
/// Most files of a list that are staged one by one. A longer list is staged as one directory, so that the task's text
/// stays small; the program sees the same either way.
pub const INLINE_FILES_MAX: usize = 256;

/// What a step sees of its run.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Parameters, as [`Workflow::bind_params`] returns them.
    pub params: &'a BTreeMap<String, Value>,
    /// The files and directories of [`Workflow::asset_paths`] by path, and the blobs of [`Workflow::blobs`] by digest text.
    pub assets: &'a BTreeMap<String, Stage>,
    /// Outputs by step and name: null of a skipped step, the list of all items' outputs of a mapped one, `None` when the
    /// step has not finished.
    pub outputs: &'a dyn Fn(u32, &str) -> Option<Value>,
    /// Index and value of the map's item.
    pub item: Option<(u32, &'a Value)>,
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("params", self.params)
            .field("assets", self.assets)
            .field("item", &self.item)
            .finish_non_exhaustive()
    }
}

/// A task and the blobs that were made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Materialised {
    /// The task.
    pub spec: TaskSpec,
    /// JSON files and directory manifests that the task names and nobody has stored yet, by digest.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

/// Why a step cannot be turned into tasks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// No step at that position.
    #[error("the workflow has no step at position {step}")]
    NoStep {
        /// The position.
        step: u32,
    },
    /// An expression failed.
    #[error("`{expr}` of step `{step}` has no value")]
    Expr {
        /// The step.
        step: String,
        /// The expression.
        expr: String,
        /// Why.
        #[source]
        source: EvalFailure,
    },
    /// A step whose output is needed has not finished.
    #[error("output `{output}` of step `{step}` is not there yet")]
    NotReady {
        /// The step that makes it.
        step: String,
        /// The output.
        output: String,
    },
    /// A parameter that was not bound.
    #[error("parameter `{name}` is not bound")]
    Param {
        /// The parameter.
        name: String,
    },
    /// A local file or directory that the caller did not bring.
    #[error("`{path}`, named by step `{step}`, is not among the workflow's files")]
    Asset {
        /// The step.
        step: String,
        /// The path or digest.
        path: String,
    },
    /// A mapped step without an item.
    #[error("step `{step}` is mapped: it makes a task for an item only")]
    NoItem {
        /// The step.
        step: String,
    },
    /// A value of another kind.
    #[error("{place} of step `{step}` has to be {expected}, not {found}")]
    Type {
        /// The step.
        step: String,
        /// Where, such as `in.dem`.
        place: String,
        /// What is needed.
        expected: &'static str,
        /// What there is.
        found: &'static str,
    },
    /// The item has no such field.
    #[error("the map item of step `{step}` has no field `{field}`")]
    Field {
        /// The step.
        step: String,
        /// The field.
        field: String,
    },
    /// More items than [`MAP_ITEMS_MAX`].
    #[error("step `{step}` maps over {items} items, at most {MAP_ITEMS_MAX} are allowed")]
    Items {
        /// The step.
        step: String,
        /// Items there are.
        items: u64,
    },
    /// More files than a directory may hold.
    #[error(
        "{place} of step `{step}` lists {files} files, at most {MANIFEST_FILES_MAX} are allowed"
    )]
    Files {
        /// The step.
        step: String,
        /// Where, such as `in.dem`.
        place: String,
        /// Files there are.
        files: usize,
    },
    /// A value that cannot be written as JSON, or is larger than [`JSON_LEN_MAX`].
    #[error(
        "{place} of step `{step}` cannot be written as JSON: it holds a file or an infinite \
         number, or is larger than {JSON_LEN_MAX} bytes"
    )]
    Json {
        /// The step.
        step: String,
        /// Where, such as `in.dem`.
        place: String,
    },
    /// The task is larger than a provider accepts.
    #[error(
        "a task of step `{step}` takes {bytes} bytes, at most {SPEC_LEN_MAX} are allowed: pass fewer arguments"
    )]
    TooLarge {
        /// The step.
        step: String,
        /// Its size.
        bytes: usize,
    },
}

impl Workflow {
    /// Whether the step runs, by its `when`. Of a condition that reads the map's item, the answer without an item is
    /// yes, and the caller asks again for each item (see [`Step::is_skipped_by_item`](super::Step::is_skipped_by_item)).
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn should_run(&self, step: u32, scope: &Scope<'_>) -> Result<bool, EvalError> {
        let stager = self.stager(step, scope)?;
        let Some(when) = &stager.step.when else {
            return Ok(true);
        };
        if when.uses_item() && scope.item.is_none() {
            return Ok(true);
        }
        match stager.expr(when)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(stager.wrong("when", "true or false", &other)),
        }
    }

    /// The items a mapped step runs over; `None` for a step without `map`. Nothing in place of a list means no items.
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn expand(&self, step: u32, scope: &Scope<'_>) -> Result<Option<Vec<Value>>, EvalError> {
        let stager = self.stager(step, scope)?;
        let Some(map) = &stager.step.map else {
            return Ok(None);
        };
        match stager.value(&map.over, "map.over")? {
            Value::Null => Ok(Some(Vec::new())),
            Value::List(items) if items.len() > MAP_ITEMS_MAX => {
                let (step, items) = (stager.id(), items.len() as u64);
                Err(EvalError::Items { step, items })
            }
            Value::List(items) => Ok(Some(items)),
            other => Err(stager.wrong("map.over", "a list", &other)),
        }
    }

    /// The task of a step, or of one item of a mapped step, and the blobs that have to be stored before it is sent. Equal
    /// scopes make equal tasks and blobs.
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn materialise(&self, step: u32, scope: &Scope<'_>) -> Result<Materialised, EvalError> {
        let mut stager = self.stager(step, scope)?;
        if stager.step.map.is_some() && scope.item.is_none() {
            return Err(EvalError::NoItem { step: stager.id() });
        }
        stager.inputs()?;
        let step = stager.step;
        let stdin = stager.stdin()?;
        let (program, argv) = stager.program()?;
        let spec = TaskSpec {
            program,
            argv,
            env: stager.env()?,
            stdin,
            mounts: stager.mounts()?,
            inputs: stager.inputs,
            outputs: step.outputs.clone(),
            needs: step.needs.clone(),
            timeout_ms: step.timeout_ms,
            service: step.service.clone(),
            area: None,
        };
        let bytes = serde_json::to_vec(&spec).map_or(usize::MAX, |bytes| bytes.len());
        if bytes > SPEC_LEN_MAX {
            return Err(EvalError::TooLarge { step: step.id.clone(), bytes });
        }
        Ok(Materialised { spec, blobs: stager.blobs })
    }

    /// The outputs of the whole workflow.
    ///
    /// # Errors
    /// [`EvalError::NotReady`] when a step that makes one has not finished.
    pub fn collect_outputs(&self, scope: &Scope<'_>) -> Result<BTreeMap<String, Value>, EvalError> {
        let mut outputs = BTreeMap::new();
        for (name, decl) in &self.outputs {
            let value = (scope.outputs)(decl.step, &decl.output).ok_or_else(|| {
                let step = self.step(decl.step).map_or_else(String::new, |step| step.id.clone());
                EvalError::NotReady { step, output: decl.output.clone() }
            })?;
            outputs.insert(name.clone(), value);
        }
        Ok(outputs)
    }

    fn stager<'a>(&'a self, step: u32, scope: &'a Scope<'a>) -> Result<Stager<'a>, EvalError> {
        Ok(Stager {
            workflow: self,
            step: self.step(step).ok_or(EvalError::NoStep { step })?,
            scope,
            inputs: BTreeMap::new(),
            staged: BTreeMap::new(),
            blobs: BTreeMap::new(),
        })
    }
}
