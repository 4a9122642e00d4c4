//! What only the container runtime has: images, their commands and volumes. What it shares with the other runtimes is in the
//! conformance suite.
//!
//! `OPENCLOUD_TEST_ENGINES` holds the sockets of the engines, apart by colons; `tests/run` starts Docker and Podman and sets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catalog::Digest;
use node::runtime::{
    ContainerRuntime, ContainerTask, DeviceError, Devices, Exit, InvalidImage, Meters, Origin,
    Stream, TaskBase,
};
use scheduler::device::Held;
use tempfile::TempDir;
use tests::conformance::Kept;
use tests::harness::{architecture, has_busybox, write_image, write_image_of};

/// How long an engine may take for what should take it a second.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// How a task ended.
#[derive(Debug)]
struct Ended {
    exit: Exit,
    meters: Meters,
    stdout: String,
    stderr: String,
    work: PathBuf,
}

/// One engine, and a place for its tasks.
struct Bench {
    dir: TempDir,
    runtime: ContainerRuntime,
    socket: PathBuf,
    owner: String,
    n_tasks: AtomicU32,
}

impl Bench {
    async fn new(socket: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_image(&dir.path().join("image"), architecture());
        // Tests run beside each other, and a runtime removes what it finds of its own name.
        let owner = format!("test-{}", dir.path().file_name().unwrap().to_str().unwrap());
        let runtime = ContainerRuntime::connect(socket, &owner, 4).await.unwrap();
        Self { dir, runtime, socket: socket.to_owned(), owner, n_tasks: AtomicU32::new(0) }
    }

    fn task(&self, script: &str) -> (ContainerTask, Arc<Kept>) {
        let n = self.n_tasks.fetch_add(1, Ordering::Relaxed);
        let private = |name: &str| {
            let path = self.dir.path().join(format!("{name}-{n}"));
            std::fs::create_dir(&path).unwrap();
            path
        };
        let kept = Arc::new(Kept::default());
        let image = self.dir.path().join("image");
        let digest = Digest::of(&std::fs::read(image.join("index.json")).unwrap());
        let task = ContainerTask {
            base: TaskBase {
                name: format!("{}-{n}", self.owner),
                args: ["/bin/sh", "-c", script].map(str::to_owned).into(),
                env: BTreeMap::from([("GIVEN".to_owned(), "two words".to_owned())]),
                stdin: None,
                work: private("work"),
                tmp: private("tmp"),
                mounts: Vec::new(),
                cpu_milli: 1_000,
                memory_bytes: 64 * MIB,
                disk_bytes: 32 * MIB,
                network: false,
                timeout: PATIENCE,
                logs: Arc::<Kept>::clone(&kept),
            },
            image,
            digest,
            entrypoint: None,
            devices: Vec::new(),
            has_ports: false,
        };
        (task, kept)
    }

    async fn run(&self, (task, kept): (ContainerTask, Arc<Kept>)) -> Ended {
        let work = task.base.work.clone();
        let (exit, meters) = self.runtime.start(task).wait().await;
        Ended {
            exit,
            meters,
            stdout: kept.text(Stream::Stdout),
            stderr: kept.text(Stream::Stderr),
            work,
        }
    }

    async fn sh(&self, script: &str) -> Ended {
        let ended = self.run(self.task(script)).await;
        println!("{script}\n    {ended:?}");
        ended
    }

    async fn docker(&self) -> bollard::Docker {
        let socket = self.socket.to_str().unwrap();
        let docker = bollard::Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION);
        docker.unwrap().negotiate_version().await.unwrap()
    }

    /// Volumes that the engine knows; nobody else makes any.
    async fn n_volumes(&self) -> usize {
        let options = None::<bollard::query_parameters::ListVolumesOptions>;
        self.docker().await.list_volumes(options).await.unwrap().volumes.unwrap_or_default().len()
    }

    /// Containers of this bench that the engine still knows.
    async fn n_left(&self) -> usize {
        let label = format!("org.opencloud.node={}", self.owner);
        let options = bollard::query_parameters::ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..Default::default()
        };
        self.docker().await.list_containers(Some(options)).await.unwrap().len()
    }
}

/// Runs a check on each engine in turn.
fn on_each_engine(check: impl AsyncFn(&Bench)) {
    let sockets = std::env::var("OPENCLOUD_TEST_ENGINES").unwrap_or_default();
    if sockets.is_empty() || !has_busybox() {
        println!("skipped: no container engine (tests/run starts Docker and Podman)");
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for socket in sockets.split(':') {
        tokio.block_on(async {
            let bench = Bench::new(Path::new(socket)).await;
            println!("on {:?}", bench.runtime.engine());
            check(&bench).await;
            assert_eq!(bench.n_left().await, 0, "containers are left behind");
        });
    }
}

#[test]
fn the_command_is_the_images_own_or_the_tasks() {
    on_each_engine(async |bench| {
        let (mut task, kept) = bench.task("");
        task.base.args = Vec::new();
        let ended = bench.run((task, kept)).await;
        assert_eq!((ended.exit, ended.stdout.as_str()), (Exit::Code(0), "default\n"));
        let (mut task, kept) = bench.task("");
        (task.entrypoint, task.base.args) =
            (Some(vec!["/bin/echo".to_owned()]), vec!["a  b".to_owned()]);
        let ended = bench.run((task, kept)).await;
        assert_eq!((ended.exit, ended.stdout.as_str()), (Exit::Code(0), "a  b\n"));
        let (mut task, kept) = bench.task("");
        task.base.args = vec!["/no/such/program".to_owned()];
        let exit = bench.run((task, kept)).await.exit;
        assert!(matches!(exit, Exit::InvalidImage(InvalidImage::Refused { .. })), "{exit:?}");
    });
}

#[test]
fn an_image_is_loaded_once_and_a_bad_one_is_refused_by_reason() {
    on_each_engine(async |bench| {
        let (task, _) = bench.task("true");
        let first = bench.runtime.prepare(&task.image, task.digest).await.unwrap();
        let second = bench.runtime.prepare(&task.image, task.digest).await.unwrap();
        assert_eq!(second.origin, Origin::Warm, "after {first:?}");

        let other = bench.dir.path().join("other");
        write_image(&other, "riscv64");
        let damaged = bench.dir.path().join("damaged");
        write_image(&damaged, architecture());
        let blobs = std::fs::read_dir(damaged.join("blobs/sha256")).unwrap();
        let largest = blobs
            .flatten()
            .map(|entry| entry.path())
            .max_by_key(|path| path.metadata().unwrap().len());
        let largest = largest.unwrap();
        let mut bytes = std::fs::read(&largest).unwrap();
        bytes[1_000] ^= 1;
        std::fs::write(&largest, bytes).unwrap();
        let empty = bench.dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for (image, facts) in [
            (&other, ["linux/riscv64", "linux/"]),
            (&damaged, ["damaged", "blobs/sha256/"]),
            (&empty, ["oci-layout", "skopeo"]),
        ] {
            let digest = Digest::of(image.as_os_str().as_encoded_bytes());
            let error = bench.runtime.prepare(image, digest).await.unwrap_err().to_string();
            assert!(facts.iter().all(|fact| error.contains(fact)), "{error}");
        }
    });
}

#[test]
fn the_environment_of_the_image_is_there_and_the_task_may_change_it() {
    on_each_engine(async |bench| {
        let ended = bench.sh("echo $GIVEN $FROM_IMAGE $PWD").await;
        assert_eq!((ended.exit, ended.stdout.as_str()), (Exit::Code(0), "two words yes /work\n"));
        let (mut task, kept) = bench.task("echo $FROM_IMAGE");
        task.base.env.insert("FROM_IMAGE".to_owned(), "no".to_owned());
        assert_eq!(bench.run((task, kept)).await.stdout, "no\n");
    });
}

#[test]
fn a_volume_of_the_image_is_memory_of_the_task() {
    on_each_engine(async |bench| {
        let image = bench.dir.path().join("volumes");
        let own = serde_json::json!({"Env": ["PATH=/bin"], "Volumes": {"/data": {}, "/work": {}, "/mnt": {}}});
        write_image_of(&image, architecture(), &own);
        let with_volumes = |script: &str| {
            let (mut task, kept) = bench.task(script);
            task.digest = Digest::of(&std::fs::read(image.join("index.json")).unwrap());
            task.image.clone_from(&image);
            (task, kept)
        };
        let ended =
            bench.run(with_volumes("echo kept > /data/f && cat /data/f && echo mine > f")).await;
        assert_eq!(
            (&ended.exit, ended.stdout.as_str(), ended.stderr.as_str()),
            (&Exit::Code(0), "kept\n", "")
        );
        assert_eq!(std::fs::read_to_string(ended.work.join("f")).unwrap(), "mine\n");
        let ended = bench
            .run(with_volumes(
                "for n in 1 2 3 4; do dd if=/dev/zero of=/data/$n bs=1M count=30; done",
            ))
            .await;
        assert_ne!(ended.exit, Exit::Code(0), "{ended:?}");
        assert!(ended.meters.memory_peak_bytes <= 65 * MIB, "{ended:?}");
        assert_eq!(bench.n_volumes().await, 0, "volumes are left behind");
    });
}

/// What the engines of the tests call it.
const BY_INTERFACE: &str = "it=opencloud.test/device=zero";

#[test]
fn a_device_is_found_by_the_container_device_interface_where_the_engine_has_it() {
    on_each_engine(async |bench| {
        let opened = bench.runtime.open_devices(Devices::parse([BY_INTERFACE]).unwrap());
        let devices = match opened {
            Ok(devices) => devices,
            Err(reason @ (DeviceError::NoCdi { .. } | DeviceError::Unknown { .. })) => {
                println!("skipped: {reason}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let script = "test -c /dev/opencloud-zero && head -c 3 /dev/opencloud-zero | wc -c";
        let ended = bench.sh(script).await;
        assert_ne!(ended.exit, Exit::Code(0), "it was not granted");
        let (mut task, kept) = bench.task(script);
        task.devices = devices.units(&Held::from([("it".to_owned(), [0].into())])).unwrap();
        let ended = bench.run((task, kept)).await;
        assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
        assert_eq!(ended.stdout.trim(), "3");
        let unknown = Devices::parse(["it=opencloud.test/device=other"]).unwrap();
        let told = bench.runtime.open_devices(unknown).unwrap_err();
        assert!(told.to_string().contains("opencloud.test/device=zero"), "{told}");
    });
}
