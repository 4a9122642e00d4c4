//! Runs many simulated worlds: `soak --seeds 1000 [--from N]`, or one again: `soak --seed N`.

use std::process::ExitCode;

use tests::sim::{Plan, World};

const USAGE: &str =
    "usage: soak --seeds COUNT [--from FIRST] [--nodes N] | soak --seed N [--nodes N]";

fn main() -> ExitCode {
    let mut seeds = (0, 20);
    let mut nodes = None;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let Some(value) = args.next().and_then(|text| text.parse::<u64>().ok()) else {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        };
        match flag.as_str() {
            "--seeds" => seeds.1 = value,
            "--from" => seeds.0 = value,
            "--seed" => seeds = (value, 1),
            "--nodes" => nodes = usize::try_from(value).ok(),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(64);
            }
        }
    }
    let mut failed = 0;
    for seed in seeds.0..seeds.0 + seeds.1 {
        let plan = Plan::ci(seed);
        let mut world = World::new(Plan { nodes: nodes.unwrap_or(plan.nodes), ..plan });
        let result = world.run();
        let (steps, restores) = (world.n_steps(), world.n_restores());
        println!("seed {seed}: {steps} steps, {restores} restores, trace {}", world.trace());
        if let Err(problem) = result {
            failed += 1;
            println!("seed {seed} FAILED: {problem}\nreplay: soak --seed {seed}");
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
