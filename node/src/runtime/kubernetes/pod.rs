//! The pod of a task: made of it by a pure function.
//!
//! ```text
//!  pod ── volume given   busybox, the start script, read-only inputs           read-only for the task
//!     ├── volume own     work, tmp, streams; held to the task's disk           the task's
//!     ├── init files     takes both from the node, by `exec`
//!     ├── task           the step's image, with the start script in front of its program
//!     └── keep           has the files until the node has taken what the task leaves
//! ```
//!
//! Everything in it runs as one user that is nobody's, without a capability, a way to gain one, a token of the cluster, or a
//! root that can be written. Requests are limits, so no pod lives on what others leave.

use serde_json::{Value, json};

use super::script::{self, GIVEN, STAGE, STREAMS};
use super::stage::TAKEN;
use super::{MEMORY_MIN_BYTES, Options, WORK_DIR};
use crate::runtime::vm::archive::is_free_place;

/// The container that takes the pod's files.
pub(super) const FILES: &str = "files";
/// The container of the task.
pub(super) const TASK: &str = "task";
/// The container that keeps the files.
pub(super) const KEEP: &str = "keep";
/// The label by which a node knows its pods.
pub(super) const NODE_LABEL: &str = "opencloud.org/node";
/// The label by which the site's policy knows pods that have no network, and those that have.
pub(super) const NETWORK_LABEL: &str = "opencloud.org/network";
/// Where the task's name stands for people.
pub(super) const TASK_NOTE: &str = "opencloud.org/task";
/// As whom everything in a pod runs.
const USER: u32 = 65_534;
/// Memory of each container of the node in a pod, in bytes: a shell and tar.
const HELPER_MEMORY: &str = "64Mi";
/// Processor of each container of the node in a pod: enough to copy some ten MiB/s.
const HELPER_CPU: &str = "100m";
/// Bytes that a pod takes on its machine beside its task's files: its logs, busybox, the start script.
const DISK_SLACK_BYTES: u64 = 64 << 20;
/// Seconds that a pod may stay beyond its task's time and the wait for its files: to be given its files, and to give back.
const DEADLINE_SLACK_S: u64 = 1_800;
/// Seconds between the signal that ends a container and the one that no process survives.
const GRACE_S: u64 = 1;
/// Hexadecimal digits of a digest that stand for it in a name.
const SHORT_LEN: usize = 16;

/// What a pod needs to know of a task.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    pub(super) task: &'a str,
    /// Where the cluster's machines get the image.
    pub(super) image: &'a str,
    /// Paths that the image wants to be written to.
    pub(super) volumes: &'a [String],
    /// Where read-only directories are found, in the order of their numbers.
    pub(super) mounts: Vec<&'a str>,
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    /// By which the task's own files may grow.
    pub(super) disk_bytes: u64,
    /// What the task's own directories hold at its start.
    pub(super) own_bytes: u64,
    /// What it may only read.
    pub(super) given_bytes: u64,
    pub(super) timeout_s: u64,
    pub(super) network: bool,
}

/// A digest in few characters, as labels and names take them.
fn short(text: &str) -> String {
    let digest = catalog::Digest::of(text.as_bytes());
    catalog::id::to_hex(digest.as_bytes()).chars().take(SHORT_LEN).collect()
}

/// An owner as a label has it.
pub(super) fn owner_label(owner: &str) -> String {
    short(owner)
}

/// The name of a task's pod.
pub(super) fn name(owner: &str, task: &str) -> String {
    format!("opencloud-{}-{}", short(owner), short(task))
}

/// Bytes that the task's own volume may hold.
fn own_limit(plan: &Plan<'_>) -> u64 {
    plan.own_bytes.saturating_add(plan.disk_bytes).saturating_add(1 << 20)
}

/// The pod of a task, as the API takes it.
pub(super) fn pod(plan: &Plan<'_>, options: &Options) -> Value {
    let own = own_limit(plan);
    let given = plan.given_bytes.saturating_add(DISK_SLACK_BYTES / 2);
    let deadline = plan
        .timeout_s
        .saturating_add(script::FILES_TIMEOUT_S)
        .saturating_add(DEADLINE_SLACK_S)
        .min(u64::from(u32::MAX / 2));
    let network = if plan.network { "granted" } else { "none" };
    let mut spec = json!({
        "restartPolicy": "Never",
        "activeDeadlineSeconds": deadline,
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "hostname": "task",
        "securityContext": {
            "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": options.arch},
        "volumes": [
            {"name": "given", "emptyDir": {"sizeLimit": given.to_string()}},
            {"name": "own", "emptyDir": {"sizeLimit": own.to_string()}},
        ],
        "initContainers": [helper(FILES, &script::files(), options, false)],
        "containers": [
            task(plan, own.saturating_add(given).saturating_add(DISK_SLACK_BYTES)),
            helper(KEEP, &script::keep(deadline), options, true),
        ],
    });
    if !plan.network {
        // The cluster's resolver would be a way out where its policy forgets it.
        spec["dnsPolicy"] = json!("None");
        spec["dnsConfig"] = json!({"nameservers": ["127.0.0.1"]});
    }
    if let Some(secret) = &options.pull_secret {
        spec["imagePullSecrets"] = json!([{"name": secret}]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(&options.owner, plan.task),
            "namespace": options.namespace,
            "labels": {
                (NODE_LABEL): owner_label(&options.owner),
                (NETWORK_LABEL): network,
                "app.kubernetes.io/managed-by": "opencloud",
            },
            "annotations": {
                (TASK_NOTE): plan.task,
                // Who scales the cluster in shall wait for it.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        },
        "spec": spec,
    })
}

/// What no container of a pod may.
fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
    })
}

fn resources(cpu: &str, memory: &str, disk: &str) -> Value {
    let all = json!({"cpu": cpu, "memory": memory, "ephemeral-storage": disk});
    json!({"requests": all, "limits": all})
}

fn helper(name: &str, script: &str, options: &Options, is_fixed: bool) -> Value {
    json!({
        "name": name,
        "image": options.helper_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "securityContext": confined(),
        "resources": resources(HELPER_CPU, HELPER_MEMORY, "16Mi"),
        "volumeMounts": [
            {"name": "given", "mountPath": format!("{STAGE}/given"), "readOnly": is_fixed},
            {"name": "own", "mountPath": format!("{STAGE}/own")},
        ],
    })
}

fn task(plan: &Plan<'_>, disk_bytes: u64) -> Value {
    let own = |sub: String, path: &str| json!({"name": "own", "subPath": sub, "mountPath": path});
    let mut mounts = vec![
        json!({"name": "given", "mountPath": GIVEN, "readOnly": true}),
        own("work".to_owned(), WORK_DIR),
        own("tmp".to_owned(), "/tmp"),
        own("io".to_owned(), STREAMS),
    ];
    for (n, guest) in plan.mounts.iter().enumerate() {
        mounts.push(json!({
            "name": "given", "subPath": format!("mounts/{n}"), "mountPath": guest.trim_end_matches('/'), "readOnly": true,
        }));
    }
    let taken: Vec<&str> = plan.mounts.iter().map(|path| path.trim_end_matches('/')).collect();
    // A volume of the image is a wish for a place to write.
    let free = plan
        .volumes
        .iter()
        .filter(|path| is_free_place(path, &TAKEN) && !taken.contains(&path.trim_end_matches('/')));
    mounts.extend(free.enumerate().map(|(n, path)| own(format!("volume-{n}"), path)));
    let memory = plan.memory_bytes.max(MEMORY_MIN_BYTES).to_string();
    json!({
        "name": TASK,
        "image": plan.image,
        // It is named by its digest.
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("{GIVEN}/busybox"), "sh", format!("{GIVEN}/start")],
        "workingDir": WORK_DIR,
        "securityContext": confined(),
        "resources": resources(
            &format!("{}m", plan.cpu_milli.max(1)), &memory, &disk_bytes.to_string(),
        ),
        "volumeMounts": mounts,
    })
}

#[cfg(test)]
mod tests {
    use super::super::POLICY;
    use super::*;

    fn options() -> Options {
        Options::new("node-1", "tasks", "registry.example.org/oc")
    }

    fn plan() -> Plan<'static> {
        Plan {
            task: "run-1.0.0.1",
            image: "registry.example.org/oc@sha256:00",
            volumes: &[],
            mounts: vec!["/share"],
            cpu_milli: 500,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 20,
            own_bytes: 4_096,
            given_bytes: 10,
            timeout_s: 60,
            network: false,
        }
    }

    fn containers(pod: &Value) -> Vec<&Value> {
        let of = |name: &str| pod["spec"][name].as_array().unwrap().iter();
        of("initContainers").chain(of("containers")).collect()
    }

    #[test]
    fn it_is_a_pod_of_the_api() {
        let made = pod(&plan(), &options());
        let read: k8s_openapi::api::core::v1::Pod = serde_json::from_value(made.clone()).unwrap();
        // Nothing was passed over because it was spelled wrong.
        let mut again = serde_json::to_value(&read).unwrap();
        again["kind"] = made["kind"].clone();
        again["apiVersion"] = made["apiVersion"].clone();
        assert_eq!(again, made);
        assert!(made["metadata"]["name"].as_str().unwrap().len() <= 63);
    }

    #[test]
    fn nothing_in_it_has_any_right() {
        let made = pod(&plan(), &options());
        assert_eq!(made["spec"]["automountServiceAccountToken"], false);
        assert_eq!(made["spec"]["securityContext"]["runAsNonRoot"], true);
        assert_eq!(made["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert_eq!(made["spec"].get(name), None);
        }
        assert_eq!(containers(&made).len(), 3);
        for container in containers(&made) {
            let context = &container["securityContext"];
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            let resources = &container["resources"];
            assert_eq!(resources["requests"], resources["limits"]);
            assert!(resources["limits"]["memory"].is_string());
        }
    }

    #[test]
    fn the_policies_of_the_readme_are_about_the_label_that_pods_bear() {
        let readme = include_str!("../../../../README.md");
        let denies = format!(
            "matchExpressions: [{{key: {NETWORK_LABEL}, operator: NotIn, values: [granted]}}]"
        );
        let grants = format!("matchLabels: {{{NETWORK_LABEL}: granted}}");
        for text in [
            &denies,
            &grants,
            &format!("metadata: {{name: {POLICY}, "),
            &format!("resourceNames: [{POLICY}]"),
        ] {
            assert!(readme.contains(text), "{text}");
        }
    }

    #[test]
    fn a_network_is_there_only_when_granted() {
        let without = pod(&plan(), &options());
        assert_eq!(without["metadata"]["labels"][NETWORK_LABEL], "none");
        assert_eq!(without["spec"]["dnsPolicy"], "None");
        let with = pod(&Plan { network: true, ..plan() }, &options());
        assert_eq!(with["metadata"]["labels"][NETWORK_LABEL], "granted");
        assert_eq!(with["spec"].get("dnsPolicy"), None);
    }

    #[test]
    fn what_a_task_names_stands_in_no_place_that_is_expanded() {
        let made = pod(&Plan { task: "$(X)", ..plan() }, &options());
        for container in containers(&made) {
            assert_eq!(container.get("args"), None);
            assert!(!container["command"].to_string().contains("$(X)"));
            assert_eq!(container.get("env"), None);
        }
    }

    #[test]
    fn volumes_of_the_image_are_the_tasks_own_and_take_nobodys_place() {
        let volumes = ["/data", "/tmp/", "/share"].map(str::to_owned);
        let made = pod(&Plan { volumes: &volumes, ..plan() }, &options());
        let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        let mut paths: Vec<&str> =
            mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
        assert!(paths.contains(&"/data"));
        paths.sort_unstable();
        let n = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), n);
    }

    #[test]
    fn names_tell_tasks_and_nodes_apart() {
        assert_ne!(name("a", "t"), name("b", "t"));
        assert_ne!(name("a", "t"), name("a", "u"));
        assert_eq!(name("a", "t"), name("a", "t"));
        assert_eq!(owner_label("a").len(), SHORT_LEN);
    }

    #[test]
    fn huge_wishes_do_not_overflow() {
        let huge = Plan {
            cpu_milli: u64::MAX,
            memory_bytes: u64::MAX,
            disk_bytes: u64::MAX,
            own_bytes: u64::MAX,
            given_bytes: u64::MAX,
            timeout_s: u64::MAX,
            ..plan()
        };
        let deadline = pod(&huge, &options())["spec"]["activeDeadlineSeconds"].as_u64().unwrap();
        assert!(i32::try_from(deadline).is_ok());
    }
}
