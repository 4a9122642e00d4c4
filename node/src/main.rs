//! The `opencloud` program.

use std::process::ExitCode;

use node::cli::Cli;

/// Threads of the runtime. Two serve a small board and a large server alike, since heavy work (tasks, hashing, disk) has
/// threads of its own, and every thread costs memory.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    // Kept until the end, when the last traces are sent.
    let _logging = match cli.log() {
        Ok(logging) => logging,
        Err(code) => return ExitCode::from(code),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the threads of the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli.run());
    // Reads of standard input cannot be cancelled; they must not hold up the end.
    runtime.shutdown_background();
    ExitCode::from(code)
}
