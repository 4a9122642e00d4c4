//! The Slurm runtime on a real cluster: how tasks end, what they are held to, and that nothing of them stays.
//!
//! `OPENCLOUD_TEST_SLURM` holds the path of a cluster's `slurm.conf`; `tests/slurm start DIR` starts one of one machine and
//! prints it. `OPENCLOUD_TEST_SLURM_USER` names the user of jobs, if not `nobody`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use catalog::Digest;
use node::runtime::slurm::{ConnectError, Lost, Metering, Options};
use node::runtime::{
    Exit, HostFault, InvalidProgram, Meters, Mount, Running, SlurmRuntime, SlurmTask, Stream,
    TaskBase,
};
use tempfile::TempDir;
use tests::conformance::Kept;

/// How long a cluster may take for what should take it seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// As many processors as the test cluster says it has.
const CPUS: u64 = 64;

/// How a task ended.
#[derive(Debug)]
struct Ended {
    exit: Exit,
    meters: Meters,
    stdout: String,
    stderr: String,
    work: PathBuf,
}

/// The cluster, and a place for tasks.
struct Bench {
    dir: TempDir,
    runtime: SlurmRuntime,
    options: Options,
    n_tasks: AtomicU32,
}

fn user() -> String {
    std::env::var("OPENCLOUD_TEST_SLURM_USER").unwrap_or_else(|_| "nobody".to_owned())
}

impl Bench {
    async fn new(config: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("oc").rand_bytes(12).tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        // Tests run beside each other, and a runtime ends what it finds of its own name.
        let owner = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let options = Options {
            dir: dir.path().join("jobs"),
            owner,
            user: user(),
            config: Some(config.to_owned()),
            partition: None,
            account: None,
            qos: None,
            queue_timeout: PATIENCE,
            jobs_max: 100,
            processes_max: 4_096,
        };
        let runtime = SlurmRuntime::connect(options.clone()).await.unwrap();
        Self { dir, runtime, options, n_tasks: AtomicU32::new(0) }
    }

    /// A task that runs a program of this machine.
    fn program(&self, program: &str, args: &[&str]) -> (SlurmTask, Arc<Kept>) {
        let n = self.n_tasks.fetch_add(1, Ordering::Relaxed);
        let private = |name: &str| {
            let path = self.dir.path().join(format!("{name}-{n}"));
            std::fs::create_dir(&path).unwrap();
            path
        };
        let kept = Arc::new(Kept::default());
        let task = SlurmTask {
            base: TaskBase {
                name: format!("task-{n}"),
                args: args.iter().map(|&arg| arg.to_owned()).collect(),
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
            program: program.into(),
            digest: Digest::of(&std::fs::read(program).unwrap()),
        };
        (task, kept)
    }

    fn task(&self, script: &str) -> (SlurmTask, Arc<Kept>) {
        self.program("/bin/bash", &["-c", script])
    }

    async fn run(&self, (task, kept): (SlurmTask, Arc<Kept>)) -> Ended {
        let work = task.base.work.clone();
        let begun = Instant::now();
        let (exit, meters) = self.runtime.start(task).wait().await;
        println!("{exit:?} after {:?}, {meters:?}", begun.elapsed());
        Ended {
            exit,
            meters,
            stdout: kept.text(Stream::Stdout),
            stderr: kept.text(Stream::Stderr),
            work,
        }
    }

    async fn sh(&self, script: &str) -> Ended {
        self.run(self.task(script)).await
    }

    /// What a tool of Slurm answers.
    fn ask(&self, tool: &str, args: &[&str]) -> String {
        let config = self.options.config.as_ref().unwrap();
        let answer = Command::new(tool).args(args).env("SLURM_CONF", config).output().unwrap();
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// The jobs of this bench that have not ended: number and state.
    fn jobs(&self) -> Vec<(String, String)> {
        let comment = format!("opencloud:{}", self.options.owner);
        let all = self.ask("squeue", &["--noheader", "--Format=JobID:|,State:|,Comment:|"]);
        let rows = all.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let own = rows.filter(|row| row.get(2) == Some(&comment.as_str()));
        own.map(|row| (row[0].to_owned(), row[1].to_owned())).collect()
    }

    /// Starts a task and waits until it has spoken.
    async fn speaking(&self, script: &str) -> Running {
        let (task, kept) = self.task(script);
        let running = self.runtime.start(task);
        wait_until("the task has spoken", || !kept.is_empty()).await;
        running
    }
}

/// Waits for a condition.
async fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a check on the cluster, and looks that nothing stays.
fn on_the_cluster(check: impl AsyncFn(&Bench)) {
    let Some(config) = std::env::var_os("OPENCLOUD_TEST_SLURM") else {
        println!("skipped: no cluster (tests/slurm starts one)");
        return;
    };
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let bench = Bench::new(Path::new(&config)).await;
        println!("on {:?}", bench.runtime.cluster());
        check(&bench).await;
        assert_eq!(bench.jobs(), [], "jobs are left behind");
        let root = bench.options.dir.join(&bench.options.owner);
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0, "directories are left behind");
    });
}

#[test]
fn a_task_ends_as_it_says() {
    on_the_cluster(async |bench| {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 125", 125),
            ("kill -9 $$", 137),
            ("kill -TERM $$", 143),
            ("kill -SEGV $$", 139),
            ("exec /bin/false", 1),
            ("exec /no/such/program", 127),
        ] {
            let ended = bench.sh(script).await;
            assert_eq!(ended.exit, Exit::Code(code), "{script}");
            let is_said = script.contains("no/such");
            assert_eq!(!ended.stderr.is_empty(), is_said, "{script}: {ended:?}");
        }
    });
}

#[test]
fn a_script_and_an_executable_are_programs_and_other_files_are_not() {
    on_the_cluster(async |bench| {
        let path = bench.dir.path().join("a script");
        std::fs::write(&path, "#!/bin/bash\necho \"$0 got $1\"\n").unwrap();
        let path = path.to_str().unwrap();
        let ended = bench.run(bench.program(path, &["it"])).await;
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(ended.stdout.ends_with("/program got it\n"), "{ended:?}");

        std::fs::write(path, "echo I am nothing\n").unwrap();
        let ended = bench.run(bench.program(path, &[])).await;
        assert_eq!(ended.exit, Exit::InvalidProgram(InvalidProgram::Format));

        let (mut task, kept) = bench.task("true");
        task.digest = Digest::of(b"another");
        let ended = bench.run((task, kept)).await;
        assert!(
            matches!(ended.exit, Exit::InvalidProgram(InvalidProgram::Digest { .. })),
            "{ended:?}"
        );

        let (mut task, kept) = bench.task("true");
        task.base.name = "../escape".to_owned();
        let ended = bench.run((task, kept)).await;
        assert!(
            matches!(ended.exit, Exit::InvalidProgram(InvalidProgram::Name { .. })),
            "{ended:?}"
        );
    });
}

#[test]
fn arguments_and_variables_arrive_exactly() {
    on_the_cluster(async |bench| {
        let hostile = [
            "",
            " ",
            "a  b",
            "'",
            "\"",
            "\\",
            "$HOME",
            "$(touch /tmp/owned)",
            "`id`",
            "*",
            "a\nb",
            "\r\n",
            "\r",
            "\n#SBATCH --hold\n",
            "-n",
            "--",
            "=",
            "ü🦀",
            "\u{81}\u{1}\t",
            ";exit 9;",
            "%j",
            "${r}",
        ];
        let show = "import os, sys; [sys.stdout.buffer.write(os.fsencode(a) + b'\\0') for a in sys.argv[1:] + \
                    [os.environ['V-%d' % n] for n in range(len(sys.argv) - 1)]]";
        let args: Vec<&str> = ["-c", show].into_iter().chain(hostile).collect();
        let (mut task, kept) = bench.program("/usr/bin/python3", &args);
        for (n, value) in hostile.iter().enumerate() {
            task.base.env.insert(format!("V-{n}"), (*value).to_owned());
        }
        let ended = bench.run((task, kept)).await;
        assert_eq!((ended.exit, ended.stderr.as_str()), (Exit::Code(0), ""));
        let found: Vec<&str> = ended.stdout.split_terminator('\0').collect();
        let expected: Vec<&str> = hostile.iter().chain(hostile.iter()).copied().collect();
        assert_eq!(found, expected);

        let ended = bench.run(bench.program("/usr/bin/env", &["-0"])).await;
        let mut names: Vec<&str> =
            ended.stdout.split_terminator('\0').map(|v| v.split('=').next().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["GIVEN", "HOME", "PATH", "TMPDIR"], "nothing of the host's");
    });
}

#[test]
fn a_task_has_its_streams_and_directories() {
    on_the_cluster(async |bench| {
        let script = "echo $GIVEN $PWD; echo wrong >&2; mkdir d; echo made > d/f; echo x > $TMPDIR/t; chmod 700 d; id -u";
        let ended = bench.sh(script).await;
        assert_eq!((ended.exit, ended.stderr.as_str()), (Exit::Code(0), "wrong\n"));
        assert!(
            ended.stdout.starts_with(&format!("two words {}\n", ended.work.display())),
            "{}",
            ended.stdout
        );
        assert_ne!(ended.stdout.lines().last(), Some("0"), "a task is root");
        let made = ended.work.join("d/f");
        assert_eq!(std::fs::read_to_string(&made).unwrap(), "made\n");
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(made.metadata().unwrap().uid(), own, "the node cannot take the output away");

        let (mut task, kept) = bench.task(
            "wc -c; cat \"$OPENCLOUD_MOUNT_DATA_IN/in\"; touch \"$OPENCLOUD_MOUNT_DATA_IN/x\"",
        );
        let input = bench.dir.path().join("input");
        std::fs::write(&input, vec![b'i'; 3_000_001]).unwrap();
        std::fs::set_permissions(&input, Permissions::from_mode(0o600)).unwrap();
        task.base.stdin = Some(input);
        let data = bench.dir.path().join("it's data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("in"), "read only").unwrap();
        task.base.mounts = vec![Mount { host: data.clone(), guest: "/data/in".to_owned() }];
        let ended = bench.run((task.clone(), kept)).await;
        assert_eq!((ended.exit, ended.stdout.as_str()), (Exit::Code(1), "3000001\nread only"));
        assert!(!data.join("x").exists());
        let outputs: Vec<_> = std::fs::read_dir(&ended.work).unwrap().flatten().collect();
        assert!(outputs.is_empty(), "mounts are among the outputs: {outputs:?}");

        std::fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
        let exit = bench.run((task, Arc::default())).await.exit;
        let said = "the directory for `/data/in` cannot be read";
        assert!(
            matches!(&exit, Exit::Host(HostFault::Slurm { detail, .. }) if detail == said),
            "{exit:?}"
        );
    });
}

#[test]
fn output_comes_while_the_task_runs_and_large_output_is_whole() {
    on_the_cluster(async |bench| {
        let mut running = bench.speaking("echo first; read -t 100 < <(sleep 100)").await;
        assert_eq!(bench.jobs().len(), 1);
        running.cancel();
        assert_eq!(running.wait().await.0, Exit::Cancelled);

        let (task, kept) = bench.task("head -c 20000000 /dev/zero | tr '\\0' x; echo end >&2");
        let ended = bench.run((task, Arc::clone(&kept))).await;
        assert_eq!((ended.exit, ended.stderr.as_str()), (Exit::Code(0), "end\n"));
        assert_eq!(kept.len(), 20_000_000);
        assert!(ended.meters.io_bytes >= 20_000_000, "{:?}", ended.meters);
    });
}

#[test]
fn a_task_is_held_to_its_time() {
    on_the_cluster(async |bench| {
        for script in ["sleep 100", "trap '' TERM; while :; do sleep 1; done"] {
            let (mut task, kept) = bench.task(script);
            task.base.timeout = Duration::from_millis(1_500);
            let ended = bench.run((task, kept)).await;
            assert_eq!(ended.exit, Exit::Timeout);
            let elapsed = Duration::from_micros(ended.meters.elapsed_us);
            assert!(elapsed >= Duration::from_millis(1_500), "{elapsed:?}");
            assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
        }
    });
}

#[test]
fn a_task_is_held_to_its_memory() {
    on_the_cluster(async |bench| {
        let hog = "exec python3 -c 'import time; b = b\"x\" * 200_000_000; time.sleep(60)'";
        assert_eq!(bench.sh(hog).await.exit, Exit::OutOfMemory);
        let fits = "exec python3 -c 'import time; b = b\"x\" * 30_000_000; time.sleep(3)'";
        let ended = bench.sh(fits).await;
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(ended.meters.memory_peak_bytes >= 30_000_000, "{:?}", ended.meters);
        assert!(ended.meters.memory_kib_s > 0, "{:?}", ended.meters);
    });
}

#[test]
fn a_task_is_held_to_its_disk() {
    on_the_cluster(async |bench| {
        let ended = bench
            .sh("for n in 1 2 3 4; do dd if=/dev/zero of=$n bs=1M count=10; done; sleep 60")
            .await;
        assert_eq!(ended.exit, Exit::DiskQuota);
        let ended = bench.sh("exec dd if=/dev/zero of=$TMPDIR/a bs=1M count=400").await;
        assert_eq!(ended.exit, Exit::DiskQuota);
        assert!(ended.meters.storage_bytes <= 33 * MIB, "{:?}", ended.meters);
        let ended = bench.sh("exec yes").await;
        assert_eq!(ended.exit, Exit::DiskQuota, "output counts");
        let ended = bench.sh("truncate -s 1T hole").await;
        assert_eq!(ended.exit, Exit::DiskQuota);
    });
}

#[test]
fn a_fork_bomb_ends_with_its_job() {
    on_the_cluster(async |bench| {
        let owner = format!("{}-bomb", bench.options.owner);
        let options = Options { owner, processes_max: 150, ..bench.options.clone() };
        let small = SlurmRuntime::connect(options).await.unwrap();
        let (mut task, _) = bench.task("f() { f | f & }; f; sleep 2; echo still here");
        task.base.timeout = Duration::from_secs(20);
        let mark = task.base.work.to_str().unwrap().to_owned();
        let exit = small.start(task).wait().await.0;
        println!("{exit:?}");
        assert!(!matches!(exit, Exit::Host(_)), "{exit:?}");
        assert_eq!(n_processes_in(&mark), 0, "some of it lives on");
        assert!(bench.sh("true").await.exit.is_success(), "the cluster is not harmed");
    });
}

/// Processes whose work directory is this one.
fn n_processes_in(dir: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == Path::new(dir))
    })
    .count()
}

#[test]
fn what_a_task_leaves_running_ends_with_it() {
    on_the_cluster(async |bench| {
        let ended = bench.sh("setsid sleep 1000 & echo $!").await;
        assert_eq!(ended.exit, Exit::Code(0));
        let pid = ended.stdout.trim().parse::<u32>().unwrap();
        // Nobody may have collected it yet.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "process {pid} lives on: {stat}");
    });
}

#[test]
fn a_task_can_be_cancelled_at_any_time() {
    on_the_cluster(async |bench| {
        let (task, _) = bench.task("sleep 100");
        let mut at_once = bench.runtime.start(task);
        at_once.cancel();
        assert_eq!(at_once.wait().await.0, Exit::Cancelled);

        let begun = Instant::now();
        let mut running = bench.speaking("trap '' TERM; echo up; while :; do sleep 1; done").await;
        running.cancel();
        assert_eq!(running.wait().await.0, Exit::Cancelled);
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());

        // A handle that is dropped is as good.
        drop(bench.speaking("echo up; sleep 100").await);
        wait_until("the job is gone", || bench.jobs().is_empty()).await;
        let root = bench.options.dir.join(&bench.options.owner);
        let n_dirs = || std::fs::read_dir(&root).unwrap().count();
        wait_until("its directory is gone", || n_dirs() == 0).await;
    });
}

#[test]
fn a_task_that_waits_for_the_cluster_can_be_cancelled_and_does_not_wait_for_ever() {
    on_the_cluster(async |bench| {
        let (mut large, kept) = bench.task("echo up; sleep 1000");
        large.base.cpu_milli = CPUS * 1_000;
        let mut holder = bench.runtime.start(large.clone());
        wait_until("the cluster is full", || !kept.is_empty()).await;

        let waits = |bench: &Bench| bench.jobs().iter().any(|(_, state)| state == "PENDING");
        (large.base.name, large.base.logs) = ("second".to_owned(), Arc::<Kept>::default());
        let mut second = bench.runtime.start(large.clone());
        wait_until("the second task waits", || waits(bench)).await;
        second.cancel();
        assert_eq!(second.wait().await.0, Exit::Cancelled);

        let owner = format!("{}-other", bench.options.owner);
        let queue_timeout = Duration::from_secs(1);
        let impatient = Options { owner, queue_timeout, ..bench.options.clone() };
        let impatient = SlurmRuntime::connect(impatient).await.unwrap();
        let exit = impatient.start(large.clone()).wait().await.0;
        assert!(
            matches!(&exit, Exit::Host(HostFault::Slurm { detail, .. }) if detail.contains("waited")),
            "{exit:?}"
        );

        holder.cancel();
        assert_eq!(holder.wait().await.0, Exit::Cancelled);
    });
}

#[test]
fn what_the_cluster_cannot_give_is_said() {
    on_the_cluster(async |bench| {
        let (mut task, kept) = bench.task("true");
        task.base.cpu_milli = (CPUS + 1) * 1_000;
        let exit = bench.run((task, kept)).await.exit;
        assert!(
            matches!(&exit, Exit::Host(HostFault::Slurm { action: "take the job", .. })),
            "{exit:?}"
        );
        let (mut task, kept) = bench.task("true");
        task.base.memory_bytes = bench.runtime.cluster().machine_memory_bytes * 2;
        let exit = bench.run((task, kept)).await.exit;
        assert!(
            matches!(&exit, Exit::Host(HostFault::Slurm { action: "take the job", .. })),
            "{exit:?}"
        );
    });
}

#[test]
fn a_job_that_somebody_else_cancels_is_a_fault_of_the_host() {
    on_the_cluster(async |bench| {
        for options in [&["--signal=KILL", "--full"][..], &[]] {
            let mut running = bench.speaking("echo up; sleep 1000").await;
            let job = bench.jobs()[0].0.clone();
            bench.ask("scancel", &[options, &[job.as_str()]].concat());
            let exit = running.wait().await.0;
            let is_it = matches!(exit, Exit::Host(HostFault::Job { why: Lost::Cancelled, .. }));
            assert!(is_it, "{options:?}: {exit:?}");
        }
    });
}

#[test]
fn what_a_killed_node_left_behind_is_removed_when_it_comes_back() {
    on_the_cluster(async |bench| {
        let mut running = bench.speaking("echo up; sleep 1000").await;
        assert_eq!(bench.jobs().len(), 1);
        let again = SlurmRuntime::connect(bench.options.clone()).await.unwrap();
        assert_eq!(bench.jobs(), []);
        let exit = running.wait().await.0;
        assert!(matches!(exit, Exit::Host(_)), "{exit:?}");
        drop(again);
    });
}

#[test]
fn a_hostile_job_deceives_neither_the_node_nor_its_files() {
    on_the_cluster(async |bench| {
        // It says that it has ended with success, lets itself go, and stays.
        let lie = "d=${0%/*}; d=$(dirname $(readlink -f /proc/$$/fd/1)); \
                   printf '0\\n0m0s 0m0s\\n0m0s 0m0s\\n' > $d/ended; touch $d/release; echo lied; \
                   rm -f $d/stdout; ln -sf /etc/shadow $d/stdout; ls -l $d >&2; sleep 3; exit 9";
        let ended = bench.sh(lie).await;
        assert_eq!(ended.exit, Exit::Code(9), "{ended:?}");
        assert_eq!(ended.stdout, "lied\n", "{ended:?}");

        // It kills the shell around it.
        let ended = bench.sh("kill -9 $PPID; sleep 1000").await;
        assert_eq!(ended.exit, Exit::Code(137), "{ended:?}");
    });
}

#[test]
fn fifty_jobs_beside_each_other_all_end_well() {
    on_the_cluster(async |bench| {
        let begun = Instant::now();
        let mut running: Vec<_> = (0..50)
            .map(|n| {
                let (task, kept) = bench.task(&format!("echo {n}; sleep 1"));
                (n, kept, bench.runtime.start(task))
            })
            .collect();
        for (n, kept, running) in &mut running {
            assert_eq!(running.wait().await.0, Exit::Code(0), "task {n}");
            assert_eq!(kept.text(Stream::Stdout), format!("{n}\n"));
        }
        println!("50 jobs in {:?}", begun.elapsed());
    });
}

#[test]
fn processor_time_is_metered_within_a_twentieth() {
    on_the_cluster(async |bench| {
        // Python counts its own time; a child's is there as well, and one that nobody waits for.
        let load = "import os, time\n\
                    def burn(s):\n  while time.process_time() < s: pass\n\
                    pid = os.fork()\n\
                    if pid == 0:\n  burn(0.7); os._exit(0)\n\
                    burn(1.0); os.waitpid(pid, 0); t = os.times(); print(t.user + t.system + t.children_user + t.children_system)";
        let ended = bench.run(bench.program("/usr/bin/python3", &["-c", load])).await;
        assert_eq!((ended.exit, ended.stderr.as_str()), (Exit::Code(0), ""));
        let own: f64 = ended.stdout.trim().parse().unwrap();
        let metered = Duration::from_micros(ended.meters.cpu_us).as_secs_f64();
        println!("{metered} s, of which {own} s by its own count");
        assert!(
            metered >= own * 0.95 && metered <= own * 1.05 + 0.05,
            "{metered} s, of which {own} s by its own count"
        );
    });
}

#[test]
fn a_job_cannot_make_its_processor_time_disappear() {
    on_the_cluster(async |bench| {
        // A child that nobody waits for says what it used; its parent ends with it, and says that there was nothing.
        let load = "import os, time\n\
                    d = os.path.dirname(os.readlink('/proc/self/fd/1'))\n\
                    r, w = os.pipe()\n\
                    if os.fork() == 0:\n\
                    \x20 if os.fork() == 0:\n\
                    \x20   while time.process_time() < 3: pass\n\
                    \x20   print(time.process_time(), flush=True)\n\
                    \x20 os._exit(0)\n\
                    os.close(w); os.wait(); os.read(r, 1)\n\
                    open(d + '/ended', 'w').write('0\\n0m0s 0m0s\\n0m0s 0m0s\\n')\n";
        let ended = bench.run(bench.program("/usr/bin/python3", &["-c", load])).await;
        assert_eq!((&ended.exit, ended.stderr.as_str()), (&Exit::Code(0), ""));
        let own: f64 = ended.stdout.trim().parse().unwrap();
        let metered = Duration::from_micros(ended.meters.cpu_us).as_secs_f64();
        println!("{metered} s of {own} s");
        // Elsewhere only living processes are counted.
        if bench.runtime.cluster().metering == Metering::Cgroup {
            assert!(metered >= 3.0, "{metered} s of {own} s");
        }
    });
}

#[test]
fn a_cluster_that_cannot_be_used_is_refused_by_reason() {
    on_the_cluster(async |bench| {
        let with = |change: &dyn Fn(&mut Options)| {
            let mut options = bench.options.clone();
            options.owner.push_str("-x");
            change(&mut options);
            options
        };
        for (options, fact) in [
            (with(&|o| o.user = "root".to_owned()), "must not run as root"),
            (with(&|o| o.user = "no-such-user".to_owned()), "does not know"),
            (with(&|o| o.dir = "/a b".into()), "`dir`"),
            (with(&|o| o.config = Some("/no/such/slurm.conf".into())), "scontrol"),
        ] {
            let error = SlurmRuntime::connect(options).await.unwrap_err();
            assert!(error.to_string().contains(fact), "{error}");
        }
        let closed = bench.dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        let error =
            SlurmRuntime::connect(with(&|o| o.dir = closed.join("jobs"))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Option { option: "dir", .. }), "{error}");
    });
}
