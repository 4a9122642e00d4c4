//! Kills nodes and tasks at random and looks what is left: `kills RUNTIME RUNS [SEED]`, such as `kills podman 1000`.
//!
//! The engines are those of `OPENCLOUD_TEST_ENGINES`, which `tests/engines` starts; the machines are those of
//! `OPENCLOUD_TEST_MACHINES`, which `tests/machines` makes.

use std::process::ExitCode;

use tests::conformance::{KillPlan, live, random_kills};

const USAGE: &str = "usage: kills docker|podman|vm|slurm|kubernetes RUNS [SEED]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "live") {
        live(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let number = |index: usize| args.get(index).map(|text| text.parse::<u32>());
    let (Some(runtime), Some(Ok(runs)), seed @ (None | Some(Ok(_)))) =
        (args.first(), number(1), number(2))
    else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let seed = seed.and_then(Result::ok).unwrap_or(1);
    let tally = random_kills(&KillPlan { runtime: runtime.clone(), runs, seed: seed.into() });
    println!("{tally}");
    if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
