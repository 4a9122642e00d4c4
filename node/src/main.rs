//! The `opencloud` program.

use std::process::ExitCode;

use node::cli::{Cli, LogFormat};
use tracing_subscriber::EnvFilter;

/// Threads of the runtime. Two serve a small board and a large server alike, since heavy work (tasks, hashing, disk) has
/// threads of its own, and every thread costs memory.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    log(cli.verbosity(), cli.log_format());
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

fn log(verbosity: u8, format: LogFormat) {
    let default = match verbosity {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a line that it cannot write on standard error, too, and panic there: a full disk with the log on it
        // would end the node.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
