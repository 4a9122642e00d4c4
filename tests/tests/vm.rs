//! What only the virtual-machine runtime has: machines, images of disks, their hostile outputs, pausing, forwarded ports. What it
//! shares with the other runtimes is in the conformance suite, as `vm`.
//!
//! `OPENCLOUD_TEST_MACHINES` names the directory that `tests/machines` has filled; `tests/run` does so and sets it. Machines run
//! by translation (TCG), as on every host without KVM. Each boot takes seconds, so a test asks much of one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vm {
    mod disk;
    mod hostile;
    mod kernel;
    mod life;
    mod network;

    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use catalog::Digest;
    use node::runtime::vm::{Accel, Machine, VmOptions};
    use node::runtime::{Exit, Meters, Stream, TaskBase, VmRuntime, VmTask};
    use tempfile::TempDir;
    use tests::conformance::Kept;
    use tests::conformance::subject::machine;
    use tests::conformance::subject::vm::{BOOT_TIMEOUT, forget, left_in};

    /// How long a machine may take for what should take it seconds.
    const PATIENCE: Duration = Duration::from_secs(120);
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

    /// A runtime, and a place for its tasks.
    struct Bench {
        dir: TempDir,
        runtime: VmRuntime,
        owner: String,
        n_tasks: AtomicU32,
    }

    /// As machines run in tests.
    fn options(dir: PathBuf, owner: &str) -> VmOptions {
        let mut options = VmOptions::new(dir, owner);
        options.accel = Some(Accel::Tcg);
        options.boot_timeout = BOOT_TIMEOUT;
        options
    }

    impl Bench {
        async fn new(change: impl FnOnce(&mut VmOptions)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            // Machines run as users of their own.
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
            let owner = format!("test-{}", dir.path().file_name().unwrap().display());
            let mut options = options(dir.path().join("vm"), &owner);
            change(&mut options);
            let runtime = VmRuntime::open(options).await.unwrap();
            Self { dir, runtime, owner, n_tasks: AtomicU32::new(0) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// A path as a text.
        fn text(&self, name: &str) -> String {
            self.path(name).to_str().unwrap().to_owned()
        }

        /// A task of the kernel machine.
        fn task(&self, args: &[&str]) -> (VmTask, Arc<Kept>) {
            let n = self.n_tasks.fetch_add(1, Ordering::Relaxed);
            let private = |name: &str| {
                let path = self.path(&format!("{name}-{n}"));
                fs::create_dir(&path).unwrap();
                path
            };
            let kept = Arc::new(Kept::default());
            let task = VmTask {
                base: TaskBase {
                    name: format!("task-{n}"),
                    args: args.iter().map(|&arg| arg.to_owned()).collect(),
                    env: BTreeMap::new(),
                    stdin: None,
                    work: private("work"),
                    tmp: private("tmp"),
                    mounts: Vec::new(),
                    cpu_milli: 1_000,
                    memory_bytes: 160 * MIB,
                    disk_bytes: 16 * MIB,
                    timeout: PATIENCE,
                    network: false,
                    logs: Arc::<Kept>::clone(&kept),
                },
                machine: Machine::Kernel { dir: machine("kernel").unwrap(), append: String::new() },
                digest: Digest::of(b"the kernel machine"),
                grace: Duration::ZERO,
                ports: Vec::new(),
            };
            (task, kept)
        }

        fn script(&self, script: &str) -> (VmTask, Arc<Kept>) {
            self.task(&["sh", "-c", script])
        }

        async fn run(&self, (task, kept): (VmTask, Arc<Kept>)) -> Ended {
            let work = task.base.work.clone();
            let begun = Instant::now();
            let (exit, meters) = self.runtime.start(task).wait().await;
            println!("{exit:?} after {:?}, {meters:?}", begun.elapsed());
            let (stdout, stderr) = (kept.text(Stream::Stdout), kept.text(Stream::Stderr));
            Ended { exit, meters, stdout, stderr, work }
        }
    }

    /// Runs a check on a runtime with other options than usual, and looks that nothing stays.
    fn on_machines_with(change: impl FnOnce(&mut VmOptions), check: impl AsyncFn(&Bench)) {
        if let Err(reason) = machine("kernel") {
            println!("skipped: {reason}");
            return;
        }
        let mut tokio = tokio::runtime::Builder::new_multi_thread();
        tokio.worker_threads(2).enable_all().build().unwrap().block_on(async {
            let bench = Bench::new(change).await;
            check(&bench).await;
            let left = left_in(&bench.path("vm"), &bench.owner);
            assert!(left.is_empty(), "left behind: {left:?}");
            forget(&bench.owner);
        });
    }

    fn on_machines(check: impl AsyncFn(&Bench)) {
        on_machines_with(|_| {}, check);
    }
}
