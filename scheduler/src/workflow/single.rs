//! A workflow of one step, for documents of other kinds that run a program the way a step does.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;

use super::read::Reader;
use super::source::{Known, Place};
use super::tree::Node;
use super::{Asset, Backoff, Step, StepRun, Workflow, policy, run};
use crate::task::{Needs, RuntimeKind};

/// Longest duration a document may name, in milliseconds.
pub(crate) const DURATION_MAX_MS: u64 = policy::DURATION_MAX_MS;

/// Reads `run:` of constants, for there are neither parameters nor other steps, and the local files it names.
pub(crate) fn read_run(
    reader: &mut Reader,
    node: &Node,
    path: &str,
) -> (Option<StepRun>, Vec<Asset>) {
    let mut known = Known {
        params: BTreeMap::new(),
        param_names: BTreeSet::new(),
        heads: Vec::new(),
        steps: BTreeMap::new(),
        assets: BTreeMap::new(),
    };
    let run = run::run(reader, &mut known, node, path, Place::BARE);
    (run, known.into_assets())
}

/// Reads `needs:`.
pub(crate) fn read_needs(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    runtime: Option<RuntimeKind>,
) -> Needs {
    policy::needs(reader, node, path, runtime)
}

/// Reads `backoff:`; what is not said stays as in `default`.
pub(crate) fn read_backoff(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    default: Backoff,
) -> Backoff {
    policy::backoff(reader, node, path, default)
}

impl Workflow {
    /// The workflow that consists of this step alone.
    pub(crate) fn of_one_step(
        name: String,
        description: Option<String>,
        digest: Digest,
        step: Step,
        assets: Vec<Asset>,
    ) -> Self {
        let index = BTreeMap::from([(step.id.clone(), 0)]);
        Self {
            name,
            description,
            digest,
            params: BTreeMap::new(),
            steps: vec![step],
            outputs: BTreeMap::new(),
            assets,
            index,
        }
    }
}
