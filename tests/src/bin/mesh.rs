//! Runs the gates of the mesh: `mesh [--nodes N] [--seed N] [GATE…]`, and prints each figure beside its target.

use std::process::ExitCode;
use std::time::Instant;

use tests::mesh::Plan;
use tests::mesh::gates::{GATES, half_hour};

const USAGE: &str =
    "usage: mesh [--nodes N] [--seed N] [change|idle|light|partition|lone|author|speed]…";
/// Virtual minutes of the gate `speed`, and the seconds it may take.
const SPEED: (u64, f64) = (30, 60.0);

fn main() -> ExitCode {
    let mut plan = Plan::thousand(1);
    let mut wanted: Vec<String> = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let is_flag = arg.starts_with("--");
        let value =
            if is_flag { args.next().and_then(|text| text.parse::<u64>().ok()) } else { None };
        match (arg.as_str(), value) {
            ("--nodes", Some(n)) => plan.nodes = u32::try_from(n).unwrap_or(plan.nodes),
            ("--seed", Some(n)) => plan.seed = n,
            (name, None) if name == "speed" || GATES.iter().any(|(gate, _)| *gate == name) => {
                wanted.push(name.to_owned());
            }
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(64);
            }
        }
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|gate| gate == name);
    let mut is_met = true;
    for (name, run) in GATES.iter().filter(|(name, _)| is_wanted(name)) {
        let started = Instant::now();
        for figure in run(plan) {
            is_met &= figure.is_met();
            let verdict = if figure.is_met() { "" } else { "MISSED" };
            let target = if figure.target.is_nan() {
                String::new()
            } else {
                format!("≤ {}", figure.target)
            };
            println!(
                "{:<50} {:>10.2} {:<6} {target:<10} {verdict}",
                figure.name, figure.measured, figure.unit
            );
        }
        eprintln!("{name}: {:.1} s of wall time", started.elapsed().as_secs_f64());
    }
    if is_wanted("speed") {
        let started = Instant::now();
        let world = half_hour(plan, SPEED.0);
        let wall = started.elapsed().as_secs_f64();
        is_met &= wall <= SPEED.1;
        let (events, trace) = (world.n_events(), world.trace());
        println!("{:<50} {wall:>10.2} {:<6} ≤ {}", "30 virtual minutes of all nodes", "s", SPEED.1);
        println!("{events} events, trace {trace:016x} of seed {}", plan.seed);
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
