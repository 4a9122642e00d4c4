//! The cluster: reaching it, whether it can be used, and what an earlier life of the node left there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::pod::{NODE_LABEL, owner_label};
use super::registry::{self, RegistryError};
use crate::runtime::bounded;

/// How long the cluster may take to answer one question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the cluster may take to end pods of an earlier life.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two looks for them.
const LEFTOVER_POLL: Duration = Duration::from_millis(500);
/// Longest name of what the site names, in bytes, as the API has it (RFC 1123).
const NAME_LEN_MAX: usize = 63;
/// The image of the node's own containers, unless the site names another: a static busybox.
pub const HELPER_IMAGE: &str = "docker.io/library/busybox:1.37.0-musl";
/// The policy that keeps pods off the network; the site makes it.
pub const POLICY: &str = "opencloud-no-network";

/// How a site lets a node use its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Names this node among all that use the cluster.
    pub owner: String,
    /// A kubeconfig; without it `KUBECONFIG`, then `~/.kube/config`, then what a pod of the cluster is given.
    pub config: Option<PathBuf>,
    /// Where all pods are. Nobody who is no administrator of this node should have rights there.
    pub namespace: String,
    /// Where images go and come from: `HOST[:PORT]/PREFIX`, by TLS, or `http://HOST[:PORT]/PREFIX`.
    pub registry: String,
    /// A `config.json` as Docker has it, with the node's credentials for the registry.
    pub registry_config: Option<PathBuf>,
    /// The secret in the namespace with which machines get images from the registry, if they need one.
    pub pull_secret: Option<String>,
    /// An image with a static busybox, for the node's own containers.
    pub helper_image: String,
    /// The machines' architecture, in the words of images (`amd64`).
    pub arch: String,
    /// Longest time that a pod may wait for its machine, its images and its files.
    pub queue_timeout: Duration,
    /// Most pods at one time, at least one; further tasks wait in the node.
    pub pods_max: usize,
    /// Whether pods are taken to a cluster in which no policy of the name [`POLICY`] keeps them off the network.
    pub allow_open_network: bool,
}

impl Options {
    /// With what most sites want; for machines of this node's own architecture.
    #[must_use]
    pub fn new(owner: &str, namespace: &str, registry: &str) -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            owner: owner.to_owned(),
            config: None,
            namespace: namespace.to_owned(),
            registry: registry.to_owned(),
            registry_config: None,
            pull_secret: None,
            helper_image: HELPER_IMAGE.to_owned(),
            arch: arch.to_owned(),
            queue_timeout: Duration::from_secs(24 * 3_600),
            pods_max: 64,
            allow_open_network: false,
        }
    }
}

/// The cluster as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Where its API is.
    pub address: String,
    /// Its release.
    pub version: String,
    /// Whether a policy stands that keeps pods off the network. Whether the cluster's network heeds policies at all, the API
    /// does not tell.
    pub has_policy: bool,
}

/// Why a cluster cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option cannot be used.
    #[error("the option `{option}` of the cluster is `{value}`: {problem}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// There is no kubeconfig that can be read.
    #[error("the kubeconfig cannot be used: {detail}; name one with `--kubernetes=FILE`")]
    Config {
        /// What is wrong.
        detail: String,
    },
    /// The API does not answer, or says no.
    #[error("the cluster does not let the node {action}: {detail}")]
    Api {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it said, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// No policy keeps pods off the network.
    #[error(
        "the namespace `{namespace}` has no network policy `{POLICY}`: make it (the manual has it), or give every task the cluster's network with `--kubernetes-open-network`"
    )]
    NoPolicy {
        /// Where.
        namespace: String,
    },
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It does not end what an earlier life of this node left.
    #[error(
        "{n_pods} pods of an earlier run of this node do not end; look at them with `kubectl -n {namespace} get pods -l {label}`"
    )]
    Leftovers {
        /// How many.
        n_pods: usize,
        /// Where.
        namespace: String,
        /// What finds them.
        label: String,
    },
}

/// Checks what can be checked without the cluster.
pub(super) fn check(options: &Options) -> Result<(), ConnectError> {
    let refused = |option, value: &str, problem: &str| ConnectError::Option {
        option,
        value: value.chars().take(200).collect(),
        problem: problem.to_owned(),
    };
    let names = "use up to 63 small letters, digits and `-`, as the cluster does";
    if !is_name(&options.namespace) {
        return Err(refused("namespace", &options.namespace, names));
    }
    if let Some(secret) = options.pull_secret.as_ref().filter(|secret| !is_name(secret)) {
        return Err(refused("pull secret", secret, names));
    }
    let is_image = |c: char| c.is_ascii_alphanumeric() || "./:@_-".contains(c);
    if options.helper_image.is_empty() || !options.helper_image.chars().all(is_image) {
        return Err(refused("helper image", &options.helper_image, "this is no name of an image"));
    }
    Ok(())
}

/// Whether a text is a name by RFC 1123.
fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= NAME_LEN_MAX
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.chars().all(is_plain)
}

/// Reaches the cluster and looks whether it can be used.
pub(super) async fn connect(
    options: &Options,
) -> Result<(Client, registry::Registry, Cluster), ConnectError> {
    check(options)?;
    let registry = registry::Registry::open(&options.registry, options.registry_config.as_deref())?;
    let mut config = config(options).await?;
    config.connect_timeout = Some(ANSWER_TIMEOUT);
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| api("be reached", &error))?;
    let version = answer("tell its release", client.apiserver_version()).await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), &options.namespace);
    let policy = answer("look for its network policy", policies.get_opt(POLICY)).await?;
    if policy.is_none() && !options.allow_open_network {
        return Err(ConnectError::NoPolicy { namespace: options.namespace.clone() });
    }
    let cluster = Cluster { address, version: version.git_version, has_policy: policy.is_some() };
    Ok((client, registry, cluster))
}

async fn config(options: &Options) -> Result<Config, ConnectError> {
    let wrong = |error: &dyn std::error::Error| ConnectError::Config { detail: chain(error) };
    match &options.config {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let made = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            made.map_err(|error| wrong(&error))
        }
        None => Config::infer().await.map_err(|error| wrong(&error)),
    }
}

/// Waits for an answer of the cluster, but not for ever.
async fn answer<T>(
    action: &'static str,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, ConnectError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answered) => answered.map_err(|error| api(action, &error)),
        Err(_) => {
            let detail = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(ConnectError::Api { action, detail })
        }
    }
}

fn api(action: &'static str, error: &kube::Error) -> ConnectError {
    ConnectError::Api { action, detail: said(error) }
}

/// What the API said, without the words of the client around it.
pub(super) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => bounded(format!("{} ({})", status.message, status.code)),
        error => chain(error),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let further = error.to_string();
        if !text.ends_with(&further) {
            text = format!("{text}: {further}");
        }
        cause = error.source();
    }
    bounded(text)
}

/// What finds all pods of an owner.
pub(super) fn own(owner: &str) -> ListParams {
    ListParams::default().labels(&format!("{NODE_LABEL}={}", owner_label(owner)))
}

/// Ends what an earlier life of this node left behind.
pub(super) async fn remove_leftovers(
    pods: &Api<Pod>,
    options: &Options,
) -> Result<(), ConnectError> {
    let begun = Instant::now();
    loop {
        let left = answer("list its pods", pods.list(&own(&options.owner))).await?.items;
        if left.is_empty() {
            return Ok(());
        }
        let is_late = begun.elapsed() > LEFTOVER_TIMEOUT;
        if begun.elapsed() > LEFTOVER_TIMEOUT * 2 {
            return Err(ConnectError::Leftovers {
                n_pods: left.len(),
                namespace: options.namespace.clone(),
                label: format!("{NODE_LABEL}={}", owner_label(&options.owner)),
            });
        }
        tracing::info!(n_pods = left.len(), "ending pods that an earlier run of this node left");
        for name in left.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
            // A machine that has gone confirms nothing any more.
            let how = if is_late {
                DeleteParams::default().grace_period(0)
            } else {
                DeleteParams::default()
            };
            match answer("delete its pods", async { ignore_absent(pods.delete(name, &how).await) })
                .await
            {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, name, "a pod cannot be deleted yet"),
            }
        }
        tokio::time::sleep(LEFTOVER_POLL).await;
    }
}

/// Nothing to delete is fine.
pub(super) fn ignore_absent<T>(deleted: kube::Result<T>) -> kube::Result<()> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_a_cluster_would_not_take_are_refused() {
        let options = Options::new("node-1", "tasks", "registry.example.org/oc");
        assert!(check(&options).is_ok());
        for namespace in ["", "A", "a_b", "-a", "a-", "a.b", "a/b", &"a".repeat(64)] {
            let options = Options { namespace: namespace.to_owned(), ..options.clone() };
            assert!(check(&options).is_err(), "{namespace}");
        }
        for image in ["", "a b", "a\n", "a;b"] {
            let options = Options { helper_image: image.to_owned(), ..options.clone() };
            assert!(check(&options).is_err(), "{image:?}");
        }
        let options = Options { pull_secret: Some("Secret!".to_owned()), ..options };
        assert!(check(&options).unwrap_err().to_string().contains("pull secret"));
    }

    #[test]
    fn an_owner_is_found_by_a_label_that_the_api_takes() {
        let label = own("opencloud-12D3KooWxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
        let label = label.label_selector.unwrap();
        let (_, value) = label.split_once('=').unwrap();
        assert!(value.len() <= 63 && value.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
