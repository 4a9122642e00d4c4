//! The Kubernetes runtime under test, on a cluster that the environment names; `tests/kubernetes` starts one.
//!
//! `OPENCLOUD_TEST_KUBERNETES` is a kubeconfig whose user has the rights that the README lists, in the namespace
//! `OPENCLOUD_TEST_KUBERNETES_NAMESPACE` (`opencloud` without it). `OPENCLOUD_TEST_KUBERNETES_REGISTRY` is where images go, and
//! `OPENCLOUD_TEST_KUBERNETES_HELPER` an image with a static busybox, if not the usual one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use catalog::Digest;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use node::runtime::kubernetes::Options;
use node::runtime::{ContainerTask, KubernetesRuntime, Running};

use super::{Figures, Need, Place, Subject};
use crate::conformance::bench::Job;
use crate::conformance::probe::{Platform, probe};
use crate::harness::write_program_image;

/// Its name in the list of tests.
pub(super) const NAME: &str = "kubernetes";
/// The kubeconfig of a cluster.
const CLUSTER: &str = "OPENCLOUD_TEST_KUBERNETES";
/// How long a pod may wait, on a busy machine.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(120);
/// How much longer than others a task may take to start and to end: three containers, and a look each second.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// What the shell in front of a task's program, and the one that reads its meters, have of its memory.
const SHELLS_BYTES: u64 = 4 << 20;

pub(super) struct Kubernetes {
    runtime: KubernetesRuntime,
    pods: Api<Pod>,
    image: PathBuf,
    digest: Digest,
    place: Place,
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("{CLUSTER}{name}")).ok().filter(|value| !value.is_empty())
}

impl Kubernetes {
    pub(super) fn open(place: Place) -> Result<Self, String> {
        let config = setting("").ok_or("no Kubernetes cluster (name its kubeconfig)")?;
        let registry = setting("_REGISTRY").ok_or("no registry of the Kubernetes cluster")?;
        let program = fs::read(probe(Platform::Native)?).expect("the probe was compiled");
        let image = place.dir.join("image");
        if !image.exists() {
            write_program_image(&image, &program);
        }
        let digest =
            Digest::of(&fs::read(image.join("index.json")).expect("the image was written"));
        let namespace = setting("_NAMESPACE").unwrap_or_else(|| "opencloud".to_owned());
        let usual = Options::new(&place.owner, &namespace, &registry);
        let options = Options {
            config: Some(PathBuf::from(&config)),
            helper_image: setting("_HELPER").unwrap_or(usual.helper_image),
            queue_timeout: QUEUE_TIMEOUT,
            pods_max: place.workers,
            ..usual
        };
        let (runtime, pods) = place.tokio.block_on(async {
            let runtime = KubernetesRuntime::connect(options).await;
            let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
            let prepared = runtime.prepare(&image, digest).await;
            prepared.unwrap_or_else(|error| panic!("the image of the probe cannot run: {error}"));
            let read = Kubeconfig::read_from(config).expect("the runtime has read it");
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            let client = Client::try_from(config.expect("the runtime has used it"));
            (runtime, Api::namespaced(client.expect("the runtime has one"), &namespace))
        });
        Ok(Self { runtime, pods, image, digest, place })
    }

    /// The pods whose task's name begins with an owner's, by their own names.
    fn found(&self, owner: &str) -> Vec<(String, String)> {
        let all = ListParams::default().labels("app.kubernetes.io/managed-by=opencloud");
        let pods = self.place.tokio.block_on(self.pods.list(&all)).expect("the cluster answers");
        let named = pods.items.into_iter().filter_map(|pod| {
            let task = pod.metadata.annotations?.remove("opencloud.org/task")?;
            Some((pod.metadata.name?, task))
        });
        named.filter(|(_, task)| task.starts_with(owner)).collect()
    }
}

impl Subject for Kubernetes {
    fn name(&self) -> &str {
        NAME
    }

    fn lacks(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::Devices => Some("leaves devices to the cluster"),
            Need::NoInterface => Some("has an interface in every pod, wherever it leads"),
            Need::SharedFiles => Some("has files of its own, which it gives back in the end"),
            Need::NamelessFiles => Some("runs on machines whose open files the node cannot see"),
            Need::BoundedProcesses => Some("leaves the number of processes to the kubelet"),
            Need::StreamedOutput => {
                Some("has output in files of the task until the node has read it")
            }
            Need::EvenStarts => Some("has a shell in front of each program"),
            Need::PromptMeters => Some("is asked for its meters once a second"),
            Need::NoUserNamespaces => Some("has the filter of system calls that its machines have"),
            Need::Elsewhere => Some("has a cluster of the tests, whose networks lead nowhere"),
            Need::SettledStarts => Some(
                "takes pods that a killed node was just handing in, which the life after next ends",
            ),
            _ => None,
        }
    }

    fn figures(&self) -> Figures {
        Figures { memory_overhead_bytes: SHELLS_BYTES, delay_max: DELAY_MAX, one_try_in: 4 }
    }

    fn start(&self, job: &Job) -> Running {
        let _inside = self.place.tokio.enter();
        self.runtime.start(ContainerTask {
            base: job.base(),
            image: self.image.clone(),
            digest: self.digest,
            entrypoint: None,
            has_ports: false,
            devices: Vec::new(),
        })
    }

    fn left_by(&self, owner: &str) -> BTreeSet<String> {
        self.found(owner).into_iter().map(|(pod, task)| format!("pod {pod} of {task}")).collect()
    }

    fn kill_from_outside(&self, job: &Job) -> bool {
        let found = self.found(&self.place.owner);
        let Some((pod, _)) = found.iter().find(|(_, task)| *task == job.name) else {
            return false;
        };
        let params = DeleteParams::default();
        let deleting = self.pods.delete(pod, &params);
        self.place.tokio.block_on(deleting).is_ok()
    }
}
