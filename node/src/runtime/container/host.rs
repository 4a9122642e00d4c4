//! The container engine: reaching it, and what it can do.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    DeviceInfo, SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum,
};
use bollard::query_parameters::{
    ListContainersOptions, PruneContainersOptions, RemoveContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::runtime::cgroup;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long the engine may take to answer one call. Waiting for a container's end is repeated beyond it.
const CALL_TIMEOUT_S: u64 = 120;
/// How long the engine may take to say who it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks for containers of an earlier life, and the pause between two: processes that were killed take a moment to leave.
const SWEEPS_MAX: u32 = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// The label by which a node knows its own containers.
pub(super) const OWNER_LABEL: &str = "org.opencloud.node";
/// The user of tasks on a host where the node is root: `nobody`.
const NOBODY: u32 = 65_534;

/// Why containers cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no such socket, or it cannot be used.
    #[error(
        "no container engine at {}: {detail}; start Docker or `podman system service`, and let this user use its socket",
        socket.display()
    )]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        detail: String,
    },
    /// It answers, but cannot hold tasks to their limits.
    #[error("the container engine at {} cannot {lacking}", socket.display())]
    Unfit {
        /// Where it is.
        socket: PathBuf,
        /// What it cannot do.
        lacking: &'static str,
    },
}

/// Whether this process may enter the networks of others, as it has to for services: a thread tries with its own.
pub(crate) fn may_enter_networks() -> io::Result<()> {
    let trying = std::thread::Builder::new().name("netns".into()).spawn(|| {
        let own = std::fs::File::open("/proc/thread-self/ns/net")?;
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(own.as_fd(), network).map_err(io::Error::from)
    })?;
    trying.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
}

/// What runs the containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its own name and version, for people.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
    /// Processors that it can give, in thousandths.
    pub cpu_milli: u64,
    /// Whether its cgroups are of the second version.
    pub is_cgroup_v2: bool,
    /// Whether the node may give containers a cgroup of its own, whose counters outlive them.
    pub(super) has_own_cgroups: bool,
    /// The Container Device Interface, when it has it.
    pub(super) cdi: Option<Cdi>,
    /// User and group of tasks inside, and, when the node has to hand files over, outside of the container.
    pub(super) user: User,
    pub(super) owner: String,
}

/// How an engine finds devices by the names that their vendors gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cdi {
    /// Those that it found; engines before Docker 28.2 do not say.
    pub(super) known: Option<BTreeSet<String>>,
}

fn cdi(info: &SystemInfo) -> Option<Cdi> {
    let dirs = info.cdi_spec_dirs.as_ref()?;
    let ids = |found: &Vec<DeviceInfo>| found.iter().filter_map(|one| one.id.clone()).collect();
    (!dirs.is_empty()).then(|| Cdi { known: info.discovered_devices.as_ref().map(ids) })
}

/// As whom tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) inside: (u32, u32),
    /// Who has to own the task's directories, when that is not the node's own user.
    pub(super) outside: Option<(u32, u32)>,
    /// Who they are to the host, that is, to its devices.
    pub(super) host: (u32, u32),
    /// Whether a group of the host is the same group inside.
    pub(super) has_host_groups: bool,
}

pub(super) async fn connect(socket: &Path, owner: &str) -> Result<(Docker, Engine), ConnectError> {
    let unreachable =
        |detail: String| ConnectError::Unreachable { socket: socket.to_owned(), detail };
    let path = socket.to_str().ok_or_else(|| unreachable("its path is not Unicode".to_owned()))?;
    let docker = Docker::connect_with_unix(path, CALL_TIMEOUT_S, API_DEFAULT_VERSION)
        .map_err(|error| unreachable(error.to_string()))?;
    let probe = async {
        // Engines refuse versions newer than their own.
        let docker = docker.negotiate_version().await?;
        let (version, info) = (docker.version().await?, docker.info().await?);
        Ok::<_, bollard::errors::Error>((docker, version, info))
    };
    let probed = tokio::time::timeout(PROBE_TIMEOUT, probe).await;
    let (docker, version, info) = match probed {
        Ok(Ok(probed)) => probed,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => {
            return Err(unreachable(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())));
        }
    };
    let lacks = |lacking| ConnectError::Unfit { socket: socket.to_owned(), lacking };
    if info.memory_limit == Some(false) {
        return Err(lacks("limit memory"));
    }
    if info.pids_limit == Some(false) {
        return Err(lacks("limit the number of processes"));
    }
    let security = info.security_options.clone().unwrap_or_default();
    let has = |name: &str| security.iter().any(|option| option.contains(name));
    let own_uid = own_user().map_err(|error| unreachable(error.to_string()))?;
    let user = user(own_uid, has("name=rootless"), userns_base(info.docker_root_dir.as_deref()));
    let named = version.components.as_ref().and_then(|parts| parts.first());
    let name = named.map_or_else(|| "engine".to_owned(), |part| part.name.clone());
    let n_cpus = u64::try_from(info.ncpu.unwrap_or(1)).unwrap_or(1).max(1);
    let engine = Engine {
        name: format!("{name} {}", version.version.unwrap_or_default()),
        socket: socket.to_owned(),
        cpu_milli: n_cpus * 1_000,
        is_cgroup_v2: info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_2),
        has_own_cgroups: own_uid.0 == 0
            && !has("name=rootless")
            && info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cdi: cdi(&info),
        user,
        owner: owner.to_owned(),
    };
    Ok((docker, engine))
}

/// The node's own user and group.
fn own_user() -> io::Result<(u32, u32)> {
    let meta = std::fs::metadata("/proc/self")?;
    Ok((meta.uid(), meta.gid()))
}

/// As whom tasks run: as nobody if the node is root, else as the node itself, which owns their directories.
fn user(own: (u32, u32), is_rootless: bool, userns_base: Option<(u32, u32)>) -> User {
    let (inside, outside) = match (own, userns_base) {
        // Root inside is the node's user outside.
        _ if is_rootless => ((0, 0), None),
        ((0, _), Some((uid, gid))) => {
            let outside = (uid.saturating_add(NOBODY), gid.saturating_add(NOBODY));
            ((NOBODY, NOBODY), Some(outside))
        }
        ((0, _), None) => ((NOBODY, NOBODY), Some((NOBODY, NOBODY))),
        (own, _) => (own, None),
    };
    let has_host_groups = !is_rootless && userns_base.is_none();
    User { inside, outside, host: outside.unwrap_or(own), has_host_groups }
}

/// With user namespaces, Docker keeps its state in a directory named after the first user and group of them.
fn userns_base(root_dir: Option<&str>) -> Option<(u32, u32)> {
    let last = Path::new(root_dir?).file_name()?.to_str()?;
    let (uid, gid) = last.split_once('.')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Removes what an earlier life of this node left behind.
pub(super) async fn remove_leftovers(docker: &Docker, engine: &Engine) -> Result<(), ConnectError> {
    let unreachable = |error: bollard::errors::Error| ConnectError::Unreachable {
        socket: engine.socket.clone(),
        detail: error.to_string(),
    };
    let label = format!("{OWNER_LABEL}={}", engine.owner);
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    for _ in 0..SWEEPS_MAX {
        let listing = ListContainersOptions {
            all: true,
            filters: Some(filters.clone()),
            ..Default::default()
        };
        let found = match docker.list_containers(Some(listing)).await {
            Ok(found) => found,
            // Podman has a state more, for a container that has ended and is not put away.
            Err(bollard::errors::Error::JsonDataError { .. }) => {
                let pruning = PruneContainersOptions { filters: Some(filters.clone()) };
                docker.prune_containers(Some(pruning)).await.map_err(unreachable)?;
                tokio::time::sleep(SWEEP_PAUSE).await;
                continue;
            }
            Err(error) => return Err(unreachable(error)),
        };
        for id in found.iter().filter_map(|found| found.id.as_deref()) {
            tracing::info!(%id, "removing a container that an earlier run of this node left behind");
            let removed = docker.remove_container(id, Some(removal())).await;
            if let Err(error) = removed.or_else(ignore_absent) {
                // The engine may be busy with its end.
                tracing::warn!(%id, %error, "a container cannot be removed yet");
            }
        }
        if found.is_empty() && cgroup::remove_leftovers(&engine.owner) {
            return Ok(());
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    let lacking = "remove containers of an earlier run of this node; remove them by hand";
    Err(ConnectError::Unfit { socket: engine.socket.clone(), lacking })
}

/// With its processes and anonymous volumes.
pub(super) fn removal() -> RemoveContainerOptions {
    RemoveContainerOptions { v: true, force: true, link: false }
}

/// Nothing to remove is fine.
pub(super) fn ignore_absent(error: bollard::errors::Error) -> Result<(), bollard::errors::Error> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code: 404, .. } => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_never_root_outside_its_container() {
        let nobody = (NOBODY, NOBODY);
        for (own, is_rootless, base, inside, outside) in [
            ((0, 0), false, None, nobody, Some(nobody)),
            ((0, 0), false, Some((100_000, 100_000)), nobody, Some((165_534, 165_534))),
            ((1_000, 1_000), false, None, (1_000, 1_000), None),
            ((1_000, 1_000), true, None, (0, 0), None),
        ] {
            let found = user(own, is_rootless, base);
            assert_eq!((found.inside, found.outside), (inside, outside));
            assert_ne!(found.host.0, 0);
            assert_eq!(found.has_host_groups, !is_rootless && base.is_none());
        }
    }

    #[test]
    fn the_base_of_a_user_namespace_is_read_from_the_engines_directory() {
        assert_eq!(userns_base(Some("/var/lib/docker/165536.165537")), Some((165_536, 165_537)));
        for none in ["/var/lib/docker", "/var/lib/docker.d", "/x/1.a"] {
            assert_eq!(userns_base(Some(none)), None, "{none}");
        }
    }
}
