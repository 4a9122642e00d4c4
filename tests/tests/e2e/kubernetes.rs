//! Container steps as pods of a Kubernetes cluster that stands behind a node.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tests::harness::{Node, wait_until, workflow};
use tokio::runtime::Runtime;

use crate::containers::{ENDLESS, TIMEOUT, kill_and_cancel, net_with, work_together};

/// A cluster that the environment names.
struct Cluster {
    tokio: Runtime,
    pods: Api<Pod>,
    /// What a node is told of it.
    options: Vec<String>,
}

impl Cluster {
    fn new() -> Option<Self> {
        let setting = |name: &str| std::env::var(format!("OPENCLOUD_TEST_KUBERNETES{name}")).ok();
        let Some((config, registry)) = setting("").zip(setting("_REGISTRY")) else {
            println!("skipped: no cluster (tests/run starts one)");
            return None;
        };
        let namespace = setting("_NAMESPACE").unwrap_or_else(|| "opencloud".to_owned());
        let helper = setting("_HELPER").map(|image| format!("--kubernetes-helper={image}"));
        let options = [
            format!("--kubernetes={config}"),
            format!("--kubernetes-registry={registry}"),
            format!("--kubernetes-namespace={namespace}"),
        ];
        let tokio = Runtime::new().unwrap();
        let pods = tokio.block_on(async {
            let read = Kubeconfig::read_from(config).unwrap();
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            Api::namespaced(Client::try_from(config.unwrap()).unwrap(), &namespace)
        });
        Some(Self { tokio, pods, options: options.into_iter().chain(helper).collect() })
    }

    /// How many pods of a node there are.
    fn n_pods_of(&self, node: &Node) -> usize {
        let id = node.json(&["status"])["id"].as_str().unwrap().to_owned();
        let owner = format!("opencloud-{id}-");
        let found = self.tokio.block_on(self.pods.list(&ListParams::default())).unwrap();
        let tasks = found.items.into_iter().filter_map(|pod| {
            pod.metadata.annotations.and_then(|mut notes| notes.remove("opencloud.org/task"))
        });
        tasks.filter(|task| task.starts_with(&owner)).count()
    }
}

#[test]
fn a_container_step_is_a_pod_in_a_run_over_three_organisations_with_bills() {
    let Some(cluster) = Cluster::new() else { return };
    let (net, image) = net_with(3, cluster.options.clone());
    work_together(&net, &image);
    assert_eq!(cluster.n_pods_of(&net.nodes[2]), 0);
}

#[test]
fn pods_of_a_killed_node_are_gone_after_its_restart_and_cancelled_ones_at_once() {
    let Some(cluster) = Cluster::new() else { return };
    let (net, image) = net_with(2, cluster.options.clone());
    kill_and_cancel(net, &image, |node| cluster.n_pods_of(node));
}

#[test]
fn nobody_gets_inside_a_pod_and_whoever_asks_is_told_that_it_is_one() {
    let Some(cluster) = Cluster::new() else { return };
    let options = cluster.options.iter().cloned().chain(["--exec=realm".to_owned()]);
    let (net, image) = net_with(2, options);
    let file = workflow(&net.place, ENDLESS, &[]);
    let node = &net.nodes[0];
    let id = node.submit(&file, &["--input", &image]);
    wait_until(TIMEOUT, "the pod is up", || node.cli(&["run", "logs", &id]).stdout.contains("up"));
    let told = node.cli(&["run", "exec", &id, "wait", "--", "/bin/true"]).expect(125);
    assert!(told.stderr.contains("the task is a pod of a Kubernetes cluster"), "{told}");
    assert!(!told.stderr.contains("starting"), "{told}");
    let _ = node.cli(&["run", "cancel", &id]).expect(0);
    let _ = node.wait_for_end(&id, TIMEOUT);
}
