//! Container tasks as pods of a Kubernetes cluster, with the node in front of it.
//!
//! A site joins the mesh with the cluster it has. Steps that name a container image run there; for whoever writes them
//! nothing is different from an engine behind the node. The node needs the API of the cluster, a registry from which the
//! cluster's machines get images, and rights in one namespace; the cluster needs no way to the node, and no storage.
//!
//! ```text
//!  push image ─► create pod ─► pending ─► give files ─► running ──► task ends ─► take logs, meters, files ─► delete ─► outcome
//!                                 │                        ├─ cancelled, out of time or disk ─────────────────┤
//!                                 └────────────────────────┴─ evicted, preempted, machine lost ─► fault ──────┘
//! ```
//!
//! # Files and streams
//!
//! Everything goes by the API's `exec`, as `kubectl cp` does (room `exec`): a pod waits for an archive of its inputs,
//! runs the task with its streams in files, and stays until the node has taken them, and an archive of the work directory. So
//! no volume has to be shared and nothing in the cluster has to be opened; but what large tasks read and write passes through
//! the API server. What comes back is a stranger's archive and is treated so.
//!
//! # Isolation
//!
//! As in [`container`](super::container): the image's root is read-only; a task has its work directory, `/tmp`, and nothing else;
//! no capability, no way to gain one, the runtime's filter of system calls, no token of the cluster. Memory and processor are
//! held by cgroups (requests are limits), the disk by measuring, by the kubelet, and by a limit to each file. The number of
//! processes is left to the kubelet (`podPidsLimit`). The network is kept away by a policy that the site makes
//! ([`POLICY`]); a cluster whose network does not heed policies gives every task its network, which the API does not tell. All
//! pods of a namespace have one user, so none may see another's volumes or processes, which Kubernetes grants by itself.
//!
//! # Meters
//!
//! What the kernel counts for the task's container is read from inside it by the node once a second, and by the task's start
//! when the program has ended. The last word is thus the task's own user's: a hostile one can hide what it used since the last
//! look. Where containers show no counters, what was allotted counts.
//!
//! Nothing outlives its task: a pod is deleted on every way out, also when the API made it without saying so (room `stray`), ends
//! by itself when its node has died (`activeDeadlineSeconds`), and what a node that was killed left behind is deleted when its
//! next life connects ([`KubernetesRuntime::connect`]).

mod drive;
mod exec;
mod meter;
mod pod;
mod registry;
mod script;
mod site;
mod stage;
mod stray;
#[cfg(test)]
mod tests;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use catalog::Digest;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::sync::{OnceCell, Semaphore, watch as channel};

use self::registry::Registry;
pub use self::registry::RegistryError;
pub use self::site::{Cluster, ConnectError, HELPER_IMAGE, Options, POLICY};
pub use self::verdict::Lost;
use self::watch::Watch;
use super::container::{ContainerTask, MEMORY_MIN_BYTES, OpenImage, WORK_DIR};
use super::control::TaskControl;
use super::{
    Control as _, HostFault, Origin, PrepareError, Prepared, Running, Runtime, Shut, bounded,
};

/// Most pods of a node at one time; a larger setting counts as this. All are asked for in one list.
pub const PODS_MAX: usize = 1_024;
/// Images of which the node remembers that the registry has them; beyond that it forgets all and asks again.
const IMAGES_MAX: usize = 1_024;

/// An image that the cluster's machines can get.
#[derive(Debug)]
struct Ready {
    /// Its name for them.
    reference: String,
    image: OpenImage,
}

/// Images by their digests; empty while they are being pushed.
type Images = BTreeMap<Digest, Arc<OnceCell<Arc<Ready>>>>;

/// Runs container tasks as pods of a cluster.
#[derive(Clone)]
pub struct KubernetesRuntime {
    options: Arc<Options>,
    cluster: Arc<Cluster>,
    pods: Api<Pod>,
    registry: Arc<Registry>,
    /// Each is pushed once, however many tasks wait for it, and none waits for another.
    images: Arc<Mutex<Images>>,
    watch: Arc<Watch>,
    /// One permit per pod that may be there now.
    workers: Arc<Semaphore>,
}

impl fmt::Debug for KubernetesRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesRuntime").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl KubernetesRuntime {
    /// Connects to a cluster and deletes pods that an earlier life of the same owner left there.
    ///
    /// # Errors
    /// When an option is wrong, or no cluster answers, or not as one that can be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (client, registry, cluster) = site::connect(&options).await?;
        let pods: Api<Pod> = Api::namespaced(client, &options.namespace);
        site::remove_leftovers(&pods, &options).await?;
        if !cluster.has_policy {
            tracing::warn!(
                namespace = options.namespace,
                "no policy keeps tasks off the cluster's network, as the owner has allowed"
            );
        }
        Ok(Self {
            watch: Watch::start(pods.clone(), &options.owner),
            workers: Arc::new(Semaphore::new(options.pods_max.clamp(1, PODS_MAX))),
            options: Arc::new(options),
            cluster: Arc::new(cluster),
            pods,
            registry: Arc::new(registry),
            images: Arc::default(),
        })
    }

    /// The cluster that runs the pods.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Starts a task and returns at once. Its ports cannot be connected to.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(&self, task: ContainerTask) -> Running {
        let control = Arc::new(TaskControl::shut(Shut::Pod));
        let (done, end) = channel::channel(None);
        let (runtime, shared) = (self.clone(), Arc::clone(&control));
        tokio::spawn(async move {
            let exit = runtime.drive(&task, &shared).await;
            done.send_replace(Some((exit, shared.meters())));
        });
        Running { control, done: end }
    }

    /// Makes an image ready to start: in the registry, from which the cluster's machines get it.
    ///
    /// # Errors
    /// When the image can never run here, or the host or the registry fails.
    pub async fn prepare(&self, image: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Ok(self.load(image, digest).await?.1)
    }

    async fn load(
        &self,
        dir: &Path,
        digest: Digest,
    ) -> Result<(Arc<Ready>, Prepared), PrepareError> {
        let begun = Instant::now();
        let image = {
            let mut images = self.images();
            if images.len() >= IMAGES_MAX && !images.contains_key(&digest) {
                images.clear();
            }
            Arc::clone(images.entry(digest).or_default())
        };
        let mut origin = Origin::Warm;
        let ready = image.get_or_try_init(|| async {
            let dir = dir.to_owned();
            let opening = tokio::task::spawn_blocking(move || OpenImage::open(&dir));
            let image = opening.await.map_err(|_| HostFault::Died)??;
            let pushed = self.registry.push(&image).await;
            let (reference, is_new) = pushed.map_err(|error| HostFault::Kubernetes {
                action: "be given the image",
                detail: bounded(error.to_string()),
            })?;
            origin = if is_new { Origin::Cold } else { Origin::Cached };
            Ok::<_, PrepareError>(Arc::new(Ready { reference, image }))
        });
        let ready = Arc::clone(ready.await?);
        Ok((ready, Prepared { origin, elapsed: begun.elapsed() }))
    }

    /// Forgets that the registry has an image.
    fn forget(&self, digest: Digest) {
        self.images().remove(&digest);
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for KubernetesRuntime {
    type Task = ContainerTask;

    async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Self::prepare(self, artefact, digest).await
    }

    fn start(&self, task: ContainerTask) -> Running {
        Self::start(self, task)
    }
}
