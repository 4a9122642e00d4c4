//! Random workflows, and what their tasks do.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use catalog::Digest;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use scheduler::negotiate::Outcome;
use scheduler::run::Submission;
use scheduler::task::{Collect, Failure, FailureClass, Stage, TaskSpec};
use scheduler::value::{DirRef, FileRef, Value};

/// A number below `n`.
pub fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    rng.next_u64() % n.max(1)
}

/// Whether something with this chance in a thousand happens.
pub fn chance(rng: &mut ChaCha8Rng, per_mille: u64) -> bool {
    below(rng, 1_000) < per_mille
}

/// The one module every simulated task "runs".
#[must_use]
pub fn module() -> Digest {
    Digest::of(b"simulated module")
}

/// A workflow of 1 to 8 steps: plain and mapped ones, data edges and control edges, values, files and directories.
#[must_use]
pub fn submission(rng: &mut ChaCha8Rng) -> Submission {
    let n_steps = 1 + below(rng, 8);
    let mut text = String::from("opencloud: workflow/v1\nname: simulated\nsteps:\n");
    for step in 0..n_steps {
        let mut inputs = String::new();
        let mut after = Vec::new();
        for earlier in 0..step {
            if chance(rng, 350) {
                if chance(rng, 250) {
                    after.push(format!("s{earlier}"));
                } else {
                    let _ = writeln!(inputs, "      i{earlier}: {{from: s{earlier}.out}}");
                }
            }
        }
        let _ = writeln!(text, "  s{step}:");
        let _ =
            writeln!(text, "    run: {{wasi: {{module: \"{}\", args: [x, {step}]}}}}", module());
        if !inputs.is_empty() {
            let _ = write!(text, "    in:\n{inputs}");
        }
        let out = ["{file: out.bin}", "{dir: out}", "{files: out/*.bin}"]
            [usize::try_from(below(rng, 3)).unwrap_or(0)];
        let _ = writeln!(text, "    out: {{out: {out}, n: {{value: n.json}}}}");
        if !after.is_empty() {
            let _ = writeln!(text, "    after: [{}]", after.join(", "));
        }
        if chance(rng, 400) {
            let width = 1 + below(rng, 6);
            let parallel = if chance(rng, 300) { ", max_parallel: 2" } else { "" };
            let _ =
                writeln!(text, "    map: {{over: {{range: [1, {width}]}}, as: item{parallel}}}");
        }
        let _ = writeln!(
            text,
            "    retry: {{attempts: 6, backoff: {{initial: 500ms}}, on: [exit, timeout, oom, output]}}"
        );
        let _ = writeln!(text, "    needs: {{cpu: 1, memory: 64MiB, disk: 64MiB}}");
        let _ = writeln!(text, "    timeout: 10m");
    }
    let file = FileRef { digest: module(), size: 16, name: "simulated.wasm".to_owned() };
    let assets = BTreeMap::from([(module().to_string(), Stage::File(file))]);
    Submission {
        source: text,
        params: BTreeMap::new(),
        assets,
        binding: None,
        strategy: None,
        replica: None,
        area: None,
    }
}

fn file(seed: Digest, name: &str) -> FileRef {
    let digest = Digest::of(format!("{seed}/{name}").as_bytes());
    FileRef { digest, size: 1_000, name: name.to_owned() }
}

/// What a task leaves behind: a function of the task alone, so that two runs of it agree.
#[must_use]
pub fn outputs(spec: &TaskSpec) -> BTreeMap<String, Value> {
    let seed = spec.digest();
    spec.outputs
        .iter()
        .map(|(name, collect)| {
            let value = match collect {
                Collect::File(path) => Value::File(file(seed, path)),
                Collect::Dir(path) => {
                    let digest = Digest::of(format!("{seed}/{path}/").as_bytes());
                    Value::Dir(DirRef { digest, size: 3_000, name: path.clone() })
                }
                Collect::Files(_) => Value::List(
                    (0..3).map(|i| Value::File(file(seed, &format!("{i}.bin")))).collect(),
                ),
                Collect::Value(_) => Value::Int(i64::from(seed.as_bytes()[0])),
                Collect::Stdout => Value::File(file(seed, "stdout")),
            };
            (name.clone(), value)
        })
        .collect()
}

/// How a task ends this time: mostly well.
pub fn outcome(rng: &mut ChaCha8Rng, spec: &TaskSpec, faults: bool) -> Outcome {
    if faults && chance(rng, 40) {
        return Outcome::Failed(Failure {
            class: FailureClass::Exit,
            exit_code: Some(7),
            detail: "simulated".to_owned(),
        });
    }
    Outcome::Done { outputs: outputs(spec) }
}
