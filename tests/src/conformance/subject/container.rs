//! The container runtime under test, on one engine.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use catalog::Digest;
use node::runtime::container::Unit;
use node::runtime::{ContainerRuntime, ContainerTask, Devices, Running};
use scheduler::device::Held;

use super::{Need, Place, Subject, cgroups};
use crate::conformance::bench::Job;
use crate::conformance::probe::{Platform, probe};
use crate::harness::{pause, write_program_image};

/// Seconds that the engine may take to answer a question of the test.
const ANSWER_S: u64 = 60;
/// Looks at containers that are being put away, and the pause between two.
const LOOKS: u32 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The label by which a node knows its containers.
const OWNER_LABEL: &str = "org.opencloud.node";

pub(super) struct Container {
    name: String,
    runtime: ContainerRuntime,
    docker: Docker,
    image: PathBuf,
    digest: Digest,
    place: Place,
    /// Volumes and networks that were there before.
    before: BTreeSet<String>,
}

impl Container {
    pub(super) fn open(name: &str, socket: &Path, place: Place) -> Result<Self, String> {
        let program = fs::read(probe(Platform::Native)?).expect("the probe was compiled");
        let image = place.dir.join("image");
        if !image.exists() {
            write_program_image(&image, &program);
        }
        let digest =
            Digest::of(&fs::read(image.join("index.json")).expect("the image was written"));
        let (runtime, docker) = place.tokio.block_on(async {
            let runtime = ContainerRuntime::connect(socket, &place.owner, place.workers).await;
            let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
            let prepared = runtime.prepare(&image, digest).await;
            prepared.unwrap_or_else(|error| panic!("the image of the probe cannot run: {error}"));
            (runtime, connect(socket).await)
        });
        let before = place.tokio.block_on(volumes_and_networks(&docker));
        Ok(Self { name: name.to_owned(), runtime, docker, image, digest, place, before })
    }
}

async fn connect(socket: &Path) -> Docker {
    let path = socket.to_str().expect("paths of tests are Unicode");
    let docker =
        Docker::connect_with_unix(path, ANSWER_S, API_DEFAULT_VERSION).expect("it was there");
    docker.negotiate_version().await.expect("it has answered")
}

async fn volumes_and_networks(docker: &Docker) -> BTreeSet<String> {
    let volumes =
        docker.list_volumes(None::<ListVolumesOptions>).await.expect("the engine answers");
    let networks =
        docker.list_networks(None::<ListNetworksOptions>).await.expect("the engine answers");
    let volumes = volumes
        .volumes
        .unwrap_or_default()
        .into_iter()
        .map(|found| format!("volume {}", found.name));
    let networks =
        networks.into_iter().map(|found| format!("network {}", found.name.unwrap_or_default()));
    volumes.chain(networks).collect()
}

impl Subject for Container {
    fn name(&self) -> &str {
        &self.name
    }

    fn lacks(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::NoUserNamespaces if self.name == "podman" => {
                Some("has a filter of system calls that lets tasks make user namespaces")
            }
            Need::Elsewhere => Some("has an engine of the tests, whose networks lead nowhere"),
            _ => None,
        }
    }

    fn device(&self, path: &str) -> Result<Unit, String> {
        let text = format!("it={path}");
        let found = Devices::parse([text.as_str()]);
        let found = found.and_then(|devices| self.runtime.open_devices(devices));
        let unit = Held::from([("it".to_owned(), [0].into())]);
        let mut units = found.and_then(|found| found.units(&unit)).map_err(|e| e.to_string())?;
        Ok(units.remove(0))
    }

    fn start(&self, job: &Job) -> Running {
        let _inside = self.place.tokio.enter();
        self.runtime.start(ContainerTask {
            base: job.base(),
            image: self.image.clone(),
            digest: self.digest,
            entrypoint: None,
            devices: job.devices.clone(),
            has_ports: false,
        })
    }

    fn left_by(&self, owner: &str) -> BTreeSet<String> {
        let label = format!("{OWNER_LABEL}={owner}");
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..Default::default()
        };
        self.place.tokio.block_on(async {
            let mut containers = self.docker.list_containers(Some(options.clone())).await;
            // Podman has a state for a container that is being put away, of which the client knows nothing.
            for _ in 0..LOOKS {
                if !matches!(containers, Err(bollard::errors::Error::JsonDataError { .. })) {
                    break;
                }
                pause(LOOK_PAUSE);
                containers = self.docker.list_containers(Some(options.clone())).await;
            }
            let containers =
                containers.unwrap_or_else(|error| panic!("the containers are not told: {error}"));
            let found = containers.into_iter().map(|found| format!("container {:?}", found.names));
            let others = volumes_and_networks(&self.docker).await;
            found
                .chain(others.difference(&self.before).cloned())
                .chain(
                    cgroups::cgroups(owner).iter().map(|dir| format!("cgroup {}", dir.display())),
                )
                .chain(monitors(owner))
                .collect()
        })
    }

    fn kill_from_outside(&self, job: &Job) -> bool {
        let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
        self.place.tokio.block_on(self.docker.kill_container(&job.name, Some(options))).is_ok()
    }

    fn artefact(&self) -> String {
        format!("localhost/opencloud/{}:image", self.digest.to_hex())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        cgroups::remove_parents(&self.place.owner);
    }
}

/// Podman's supervisors of the owner's containers: they name their container.
fn monitors(owner: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("every Linux has it").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains("/conmon ") && line.contains(&format!("{owner}-"))).collect()
}
