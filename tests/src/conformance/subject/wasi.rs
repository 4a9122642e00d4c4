//! The WASI runtime under test.

use std::collections::BTreeSet;
use std::path::PathBuf;

use catalog::Digest;
use node::runtime::{Running, TaskBase, WasiRuntime, WasiTask};

use super::{Need, Place, Subject};
use crate::conformance::bench::Job;
use crate::conformance::probe::{Platform, probe};

pub(super) struct Wasi {
    runtime: WasiRuntime,
    module: PathBuf,
    digest: Digest,
}

impl Wasi {
    pub(super) fn open(place: Place) -> Result<Self, String> {
        let module = probe(Platform::Wasi)?;
        let digest = Digest::of(&std::fs::read(&module).expect("the probe was compiled"));
        let runtime = WasiRuntime::new(place.dir.join("cache"), place.workers);
        let runtime = runtime.expect("the runtime needs nothing but a directory");
        let prepared = place.tokio.block_on(runtime.prepare(&module, digest));
        prepared.unwrap_or_else(|error| panic!("the probe cannot run: {error}"));
        Ok(Self { runtime, module, digest })
    }
}

impl Subject for Wasi {
    fn name(&self) -> &'static str {
        "wasi"
    }

    fn lacks(&self, need: Need) -> Option<&'static str> {
        Some(match need {
            Need::Apart
            | Need::Confined
            | Need::SharedFiles
            | Need::FilesOnDisk
            | Need::PromptMeters
            | Need::StreamedOutput
            | Need::NamelessFiles
            | Need::EvenStarts => {
                return None;
            }
            Need::Processes | Need::BoundedProcesses => "has no processes and no signals",
            Need::Sockets | Need::NoInterface | Need::GrantedNetwork | Need::Elsewhere => {
                "has no sockets: preview 1 cannot open one"
            }
            Need::Kernel | Need::NoUserNamespaces => {
                "shows no kernel: no modes, no users, no /proc"
            }
            Need::Devices => "has no devices",
            Need::CpuShare => "gives each task one thread, and no less",
            Need::Outside => "runs tasks on threads, which nobody else can kill",
            Need::OutlivesNode | Need::SettledStarts | Need::TwoLives => {
                "runs tasks on threads of the node, which end with it"
            }
        })
    }

    fn start(&self, job: &Job) -> Running {
        let program = std::iter::once("probe".to_owned());
        self.runtime.start(WasiTask {
            base: TaskBase {
                args: program.chain(job.args.iter().cloned()).collect(),
                ..job.base()
            },
            module: self.module.clone(),
            digest: self.digest,
            fuel: false,
            serves: false,
        })
    }

    fn left_by(&self, _: &str) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn kill_from_outside(&self, _: &Job) -> bool {
        false
    }
}
