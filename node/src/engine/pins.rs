//! What the blobs on this node are needed for.

use std::collections::BTreeSet;

use catalog::Digest;
use scheduler::run::{Run, StepStatus, TaskStatus};
use scheduler::task::{RunId, Stage};
use scheduler::value::Value;

use super::Engine;
use super::directory::content_of;
use super::route::{files_of, inputs_of};

/// How long the outputs of a run that has ended are kept for its owner, in milliseconds: 30 days. After that they are a
/// cache like everything else that nobody names.
pub const OUTPUTS_KEPT_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Blobs that must not be removed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Files.
    pub files: BTreeSet<Digest>,
    /// Directories by their manifests; the files these name are needed, too.
    pub dirs: BTreeSet<Digest>,
    /// Runs whose logs are kept; the others' may go.
    pub logs: BTreeSet<RunId>,
}

impl Pins {
    pub(super) fn add(&mut self, digest: Digest, is_dir: bool) {
        if is_dir {
            self.dirs.insert(digest)
        } else {
            self.files.insert(digest)
        };
    }

    pub(super) fn add_stage(&mut self, stage: &Stage) {
        self.add(stage.digest(), matches!(stage, Stage::Dir(_)));
    }

    fn add_values<'a>(&mut self, values: impl IntoIterator<Item = &'a Value>) {
        let mut blobs = Vec::new();
        values.into_iter().for_each(|value| files_of(value, &mut blobs));
        for blob in blobs {
            self.add(blob.digest, blob.is_dir);
        }
    }
}

impl Engine {
    /// What must stay: content this node describes, publicly or not, everything a run that has not ended names or has made, the outputs
    /// of runs that ended within [`OUTPUTS_KEPT_MS`], inputs and outputs of the attempts this node works on, what the kept
    /// revisions of services name, tagged images, images of disks, what the owner pinned, what members of areas share, and what is kept for others.
    #[must_use]
    pub fn pins(&self, now_ms: u64) -> Pins {
        let mut pins = Pins::default();
        for own in self.own_resources.values() {
            if let Some((digest, is_dir)) = content_of(&own.resource.detail) {
                pins.add(digest, is_dir);
            }
        }
        pins.logs.extend(self.coordinator.runs().map(Run::id));
        self.pin_services(&mut pins);
        for run in self.coordinator.runs() {
            match run.ending() {
                None => pin_run(run, &mut pins),
                Some((ended_ms, _, outputs)) => {
                    if now_ms.saturating_sub(*ended_ms) < OUTPUTS_KEPT_MS {
                        pins.add_values(outputs.values());
                    }
                }
            }
        }
        for record in self.provider.records() {
            for blob in inputs_of(&record.spec) {
                pins.add(blob.digest, blob.is_dir);
            }
            if let Some((_, scheduler::negotiate::Outcome::Done { outputs })) = &record.ended {
                pins.add_values(outputs.values());
            }
        }
        self.images.pin(now_ms, &mut pins);
        self.disks.pin(&mut pins);
        self.kept.add_to(&mut pins);
        self.pin_copies(&mut pins);
        self.pin_areas(&mut pins);
        pins
    }
}

fn pin_run(run: &Run, pins: &mut Pins) {
    let submission = run.submission();
    submission.assets.values().for_each(|stage| pins.add_stage(stage));
    pins.add_values(submission.params.values());
    for step in run.steps() {
        let StepStatus::Open { items, tasks, .. } = step else {
            continue;
        };
        pins.add_values(items.iter().flatten());
        for task in tasks {
            if let TaskStatus::Committed { outputs, .. } = &task.status {
                pins.add_values(outputs.values());
            }
        }
    }
    // Files that the document itself gives have no other name than the spec's.
    for task in run.running() {
        if let Ok(made) = run.materialise(*task) {
            for blob in inputs_of(&made.spec) {
                pins.add(blob.digest, blob.is_dir);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catalog::{NodeId, OrgId};
    use scheduler::run::{Event, EventBody, Submission};
    use scheduler::task::{RunId, TaskId};
    use scheduler::value::{DirRef, FileRef};

    use super::*;

    const TWO_STEPS: &str = "\
opencloud: workflow/v1
name: two
steps:
  first:
    run: {wasi: {module: guest.wasm}}
    out: {made: {dir: made}}
  second:
    run: {wasi: {module: guest.wasm}}
    in: {made: {from: first.made}}
    out: {result: {file: result.txt}}
outputs:
  result: {from: second.result}
";

    #[test]
    fn a_run_that_has_not_ended_keeps_its_program_and_what_its_steps_made() {
        let module = Digest::of(b"module");
        let file = FileRef { digest: module, size: 6, name: "guest.wasm".into() };
        let submission = Submission {
            source: TWO_STEPS.into(),
            params: BTreeMap::new(),
            assets: BTreeMap::from([("guest.wasm".into(), Stage::File(file))]),
            binding: None,
            strategy: None,
            replica: None,
            area: None,
        };
        let id = RunId::from_bytes([1; 16]);
        let (mut run, _) = Run::submit(id, submission, None, 1).unwrap();
        let pinned = |run: &Run| {
            let mut pins = Pins::default();
            pin_run(run, &mut pins);
            pins
        };
        assert_eq!(pinned(&run).files, BTreeSet::from([module]));
        let apply = |run: &mut Run, body| run.apply(&Event { at_ms: 2, body });
        let opened = run.next().unwrap();
        apply(&mut run, opened);
        let task = TaskId { step: 0, index: 0 };
        let (node, org) = (NodeId::from_bytes([2; 32]), OrgId::from_bytes([3; 32]));
        let started = EventBody::AttemptStarted { task, number: 1, node, org, lane: None };
        apply(&mut run, started);
        let made = Digest::of(b"made");
        let outputs = BTreeMap::from([(
            "made".to_owned(),
            Value::Dir(DirRef { digest: made, size: 9, name: "made".into() }),
        )]);
        apply(&mut run, EventBody::TaskCommitted { task, number: 1, outputs });
        let pins = pinned(&run);
        assert_eq!((pins.files, pins.dirs), (BTreeSet::from([module]), BTreeSet::from([made])));
    }
}
