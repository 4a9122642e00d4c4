//! What starting a machine costs, beside the same machine started by QEMU alone: the same command line in a directory with the
//! same files, without staging, cgroups, other users and control connections. Needs the kernel machine of `tests/machines`;
//! runs by KVM where that works.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
#[expect(dead_code, reason = "this bench has no use for the directory")]
mod figure;

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use node::runtime::Exit;
use tests::conformance::Bench;
use tests::conformance::subject::vm::{FASTEST, MachineProcess, processes};

/// Starts of each kind, one after the other, so that both meet the same moments of the machine.
const ROUNDS: usize = 9;
/// Machines beside each other that a node should carry.
const CROWD: usize = 4;
/// How long a machine may take until it speaks.
const PATIENCE: Duration = Duration::from_secs(240);
/// In which Linux counts processor time for programs.
const TICKS_PER_S: f64 = 100.0;
/// What each machine does: speaks, and waits to be ended.
const VERBS: [&str; 5] = ["say", "x", "then", "sleep", "600000"];

/// From the start of a task to its first byte of output, in seconds; what is asked of the machine then, and its end.
fn first_byte<T>(bench: &Bench, ask: impl FnOnce() -> T) -> (f64, T) {
    let job = bench.job(&VERBS);
    let begun = Instant::now();
    let handle = bench.start(&job);
    handle.until_heard();
    let answer = ask();
    handle.running.cancel();
    let ended = handle.end();
    assert_eq!(ended.exit, Exit::Cancelled, "{ended:?}");
    let first = job.logs.first_byte().unwrap();
    (first.duration_since(begun).as_secs_f64(), answer)
}

/// A machine that QEMU runs without the runtime.
struct Bare {
    program: PathBuf,
    args: Vec<std::ffi::OsString>,
    dir: PathBuf,
}

impl Bare {
    /// Takes the files and the command line of a machine that runs.
    fn of(process: &MachineProcess, dir: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        for entry in fs::read_dir(&process.dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
            }
        }
        let of_process = Path::new("/proc").join(process.pid.to_string());
        let line = fs::read(of_process.join("cmdline")).unwrap();
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let args = words.skip(1).map(|word| std::ffi::OsStr::from_bytes(word).to_owned());
        let program = fs::read_link(of_process.join("exe")).unwrap();
        Self { program, args: args.collect(), dir: dir.to_owned() }
    }

    /// From its start to the first byte of its task's output, and the processor time until then, in seconds.
    fn first_byte(&self) -> (f64, f64) {
        let listen = |name: &str| {
            let path = self.dir.join(name);
            // From the round before.
            let _ = fs::remove_file(&path);
            UnixListener::bind(path).unwrap()
        };
        let begun = Instant::now();
        let stdout = listen("stdout");
        let _others = ["qmp", "console", "control", "stderr"].map(listen);
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (mut stream, _) = stdout.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = stream.read_exact(&mut [0]);
        let elapsed = begun.elapsed().as_secs_f64();
        let used = processor_time(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(read.is_ok(), "the machine does not speak: {read:?}");
        (elapsed, used)
    }
}

/// Processor time of a process so far, in seconds.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks = fields.skip(11).take(2).map(|field| field.parse::<u32>().unwrap());
    f64::from(ticks.sum::<u32>()) / TICKS_PER_S
}

/// The only machine of this bench that runs now.
fn running(bench: &Bench) -> MachineProcess {
    let runtimes = fs::read_dir(bench.path("")).unwrap().flatten().map(|entry| entry.path());
    let found = runtimes.flat_map(|dir| processes(&dir)).find(|process| process.is_qemu);
    found.expect("a machine that has spoken runs")
}

/// Runs tasks beside each other; gives the seconds until all have ended well.
fn crowd(bench: &Bench) -> f64 {
    let jobs: Vec<_> = (0..CROWD).map(|n| bench.job(&["say", &n.to_string()])).collect();
    let begun = Instant::now();
    let handles: Vec<_> = jobs.iter().map(|job| bench.start(job)).collect();
    for (n, handle) in handles.into_iter().enumerate() {
        let ended = handle.end();
        assert_eq!((&ended.exit, ended.text()), (&Exit::Code(0), format!("{n}\n")), "{ended:?}");
    }
    begun.elapsed().as_secs_f64()
}

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let bench = match Bench::with_workers(FASTEST, CROWD) {
        Ok(bench) => bench,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (_, bare) = first_byte(&bench, || Bare::of(&running(&bench), &bench.path("bare")));
    let way = if bare.args.iter().any(|word| word == "kvm") { "KVM" } else { "TCG" };
    bare.first_byte();
    let (mut ours, mut theirs, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (own, own_used) = first_byte(&bench, || processor_time(running(&bench).pid));
        let (other, other_used) = bare.first_byte();
        ours.push(own);
        theirs.push(other);
        used.push(own_used / other_used);
    }
    let (ours, theirs) = (figure::median(ours), figure::median(theirs));
    figure::figure(&format!("vm: start to first byte, by {way}"), &figure::time(ours), "");
    figure::figure("vm: the same by QEMU alone", &figure::time(theirs), "");
    figure::figure("vm: ours to QEMU alone", &format!("{:.3}", ours / theirs), "<= 1.05");
    // On a machine that has other work, a group of processes gets another share of it than a process alone.
    let name = "vm: processor time of QEMU until then, ours to alone";
    figure::figure(name, &format!("{:.3}", figure::median(used)), "");
    let total = crowd(&bench);
    figure::figure(
        &format!("vm: {CROWD} tasks at once"),
        &format!("{total:.1} s, all well"),
        "no failure",
    );
    bench.must_be_clean();
}
