//! What starting a container costs, beside what `docker run` takes for the same image with the same limits, and beside a
//! WebAssembly task that does the same. Needs the engines of `tests/engines`, and the `docker` command.

#[path = "support/figure.rs"]
#[expect(dead_code, reason = "this bench has no use for the directory")]
mod figure;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use node::runtime::Exit;
use tests::conformance::{Bench, subject};

/// Starts of each kind, one after the other, so that both meet the same moments of the machine.
const ROUNDS: usize = 15;
/// Tasks beside each other that a node should carry.
const N_WASI: usize = 200;
const N_CONTAINERS: usize = 30;

/// From the start of a task to its first byte of output, in seconds.
fn first_byte(bench: &Bench) -> f64 {
    let job = bench.job(&["say", "x"]);
    let begun = Instant::now();
    let ended = bench.start(&job).end();
    assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
    let first = job.logs.first_byte().expect("it has spoken");
    first.duration_since(begun).as_secs_f64()
}

/// The same by the engine's own command.
fn first_byte_of_command(bench: &Bench, socket: &str, image: &str) -> f64 {
    let job = bench.job(&[]);
    let mount = |path: &std::path::Path, at: &str| format!("{}:{at}", path.display());
    let begun = Instant::now();
    let mut child = Command::new("docker")
        .args([
            "--host",
            &format!("unix://{socket}"),
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
        ])
        .args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"])
        .args([
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--cpus",
            "2",
            "--log-driver",
            "none",
            "--user",
            "65534",
        ])
        .args([
            "--volume",
            &mount(&job.work, "/work"),
            "--volume",
            &mount(&job.tmp, "/tmp"),
            "--workdir",
            "/work",
        ])
        .args([image, "say", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the docker command is installed");
    let mut byte = [0];
    let read = child.stdout.as_mut().expect("it is piped").read_exact(&mut byte);
    let elapsed = begun.elapsed().as_secs_f64();
    let status = child.wait().expect("it is our child");
    assert!(read.is_ok() && status.success(), "docker run: {status}");
    elapsed
}

/// Runs tasks beside each other; gives the seconds until all have ended well.
fn crowd(bench: &Bench, n: usize) -> f64 {
    let jobs: Vec<_> =
        (0..n).map(|n| bench.job(&["say", &n.to_string(), "then", "sleep", "1000"])).collect();
    let begun = Instant::now();
    let handles: Vec<_> = jobs.iter().map(|job| bench.start(job)).collect();
    for (n, handle) in handles.into_iter().enumerate() {
        let ended = handle.end();
        assert_eq!((&ended.exit, ended.text()), (&Exit::Code(0), format!("{n}\n")), "{ended:?}");
    }
    begun.elapsed().as_secs_f64()
}

fn seconds_each(total: f64) -> String {
    format!("{total:.1} s, all well")
}

fn on_engine(engine: &str, wasi: f64) {
    let bench = match Bench::with_workers(engine, N_CONTAINERS) {
        Ok(bench) => bench,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let socket = subject::socket(engine).expect("the bench has it");
    let socket = socket.to_str().expect("paths of tests are Unicode");
    let image = bench.subject().artefact();
    first_byte(&bench);
    first_byte_of_command(&bench, socket, &image);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(first_byte(&bench));
        theirs.push(first_byte_of_command(&bench, socket, &image));
    }
    let (ours, theirs) = (figure::median(ours), figure::median(theirs));
    let name = |what: &str| format!("{engine}: {what}");
    figure::figure(&name("start to first byte"), &figure::time(ours), "");
    figure::figure(&name("the same by `docker run`"), &figure::time(theirs), "");
    figure::figure(&name("ours to `docker run`"), &format!("{:.2}", ours / theirs), "<= 1.05");
    figure::figure(
        &name("a WebAssembly task to a container"),
        &format!("1/{:.0}", ours / wasi),
        "<= 1/100",
    );
    let total = crowd(&bench, N_CONTAINERS);
    figure::figure(
        &name(&format!("{N_CONTAINERS} tasks of 1 s at once")),
        &seconds_each(total),
        "no failure",
    );
    bench.must_be_clean();
}

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let bench = match Bench::with_workers("wasi", N_WASI) {
        Ok(bench) => bench,
        Err(reason) => return println!("skipped: {reason}"),
    };
    first_byte(&bench);
    let wasi = figure::median((0..ROUNDS * 10).map(|_| first_byte(&bench)).collect());
    figure::figure("wasi: start to first byte", &figure::time(wasi), "");
    let total = crowd(&bench, N_WASI);
    figure::figure(
        &format!("wasi: {N_WASI} tasks of 1 s at once"),
        &seconds_each(total),
        "no failure",
    );
    for engine in ["docker", "podman"] {
        // Whatever the last one still has to put away.
        std::thread::park_timeout(Duration::from_secs(1));
        on_engine(engine, wasi);
    }
}
