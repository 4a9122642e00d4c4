//! What a user asks to run, and the checks it passes before there is a run: the documents are valid, every file they name
//! is given, and the parameters fit. What depends on values that only the run makes is found out later.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;

use crate::place::Strategy;
use crate::service::{Document, ReplicaOf};
use crate::task::{RunId, Stage};
use crate::value::Value;
use crate::workflow::{Diagnostics, ParamError, Workflow};

use super::{Event, EventBody, Run};

/// What a user asks to run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Submission {
    /// The workflow document's text.
    pub source: String,
    /// Parameters by name; text values are read as the declared type.
    pub params: BTreeMap<String, Value>,
    /// Files and directories the document names, by the path written there.
    pub assets: BTreeMap<String, Stage>,
    /// The binding document's text.
    pub binding: Option<String>,
    /// What placement optimises; the binding's own choice, else performance, when absent.
    pub strategy: Option<Strategy>,
    /// Of which service the run is a replica. Its source is then that of a service document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaOf>,
    /// The collaborative area in which it is done: its name when it is asked for, its id in a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<String>,
}

/// For whom a run was submitted, as the node where it was submitted knew the person then. What an identity provider says of it later
/// changes nothing in what was submitted before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Submitter {
    /// Who knows the person: a provider's address, or `local`.
    pub issuer: String,
    /// The issuer's own name of it.
    pub subject: String,
    /// For people.
    pub name: String,
    /// Groups that it was in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
}

impl Submission {
    /// The area in which it is done.
    #[must_use]
    pub fn area_id(&self) -> Option<Digest> {
        self.area.as_deref()?.parse().ok()
    }

    /// What is run: the workflow of the document, or the one step that a replica is.
    ///
    /// # Errors
    /// Every problem of the document.
    pub fn workflow(&self) -> Result<Workflow, Diagnostics> {
        match &self.replica {
            None => Workflow::parse(&self.source),
            Some(replica) => {
                let mut document = Document::parse(&self.source)?;
                document.name.clone_from(&replica.service);
                Ok(document.workflow())
            }
        }
    }
}

/// Why a submission is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The workflow document has errors.
    #[error("the workflow is not valid:\n{0}")]
    Workflow(Diagnostics),
    /// The binding document has errors.
    #[error("the binding is not valid:\n{0}")]
    Binding(Diagnostics),
    /// Parameters are missing, unknown or of the wrong type.
    #[error("the parameters do not fit: {}", list(.0))]
    Params(Vec<ParamError>),
    /// Files the document names were not given.
    #[error("the workflow names files that were not given: {}", .0.join(", "))]
    Assets(Vec<String>),
    /// What stands for the area is no area's id, and nobody has said which is meant.
    #[error("`{0}` is no id of an area")]
    Area(String),
}

fn list(errors: &[ParamError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Run {
    /// Checks a submission and makes the run with its first event.
    ///
    /// # Errors
    /// See [`SubmitError`]; everything wrong of one kind is reported at once.
    pub fn submit(
        id: RunId,
        mut submission: Submission,
        by: Option<Box<Submitter>>,
        now_ms: u64,
    ) -> Result<(Self, Event), SubmitError> {
        let workflow = submission.workflow().map_err(SubmitError::Workflow)?;
        if let Some(binding) = &submission.binding {
            crate::binding::Binding::parse(binding, &workflow).map_err(SubmitError::Binding)?;
        }
        let missing: Vec<String> = workflow
            .asset_paths()
            .into_iter()
            .map(|asset| asset.path)
            .filter(|path| !submission.assets.contains_key(path))
            .collect();
        if !missing.is_empty() {
            return Err(SubmitError::Assets(missing));
        }
        if let (Some(area), None) = (&submission.area, submission.area_id()) {
            return Err(SubmitError::Area(area.chars().take(80).collect()));
        }
        let given = std::mem::take(&mut submission.params);
        submission.params = workflow.bind_params(given).map_err(SubmitError::Params)?;
        let body = EventBody::Submitted { submission: submission.clone(), by: by.clone() };
        let event = Event { at_ms: now_ms, body };
        Ok((Self::new(id, workflow, (submission, by), now_ms), event))
    }
}
