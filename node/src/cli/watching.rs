//! How a running node is watched: its log, its figures.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::error::CliError;
use crate::api::{self, Audit, Metrics, Setup};
use crate::identity::Identity;
use crate::shell::{Handle, Home};

/// Options of `up` about it.
#[derive(Debug, Args)]
pub(super) struct Watching {
    /// Serve `/metrics`, `/healthz` and `/readyz` at ADDR, too, where they need no token: whoever reaches ADDR sees what is counted
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// In which form to log
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(super) log_format: LogFormat,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// The listener of `--metrics`; dropping it closes it.
#[derive(Debug)]
pub(super) struct Watched(Option<(SocketAddr, JoinHandle<std::io::Result<()>>)>);

impl Watching {
    /// Opens what is wanted beside the API, and gives what that needs.
    pub(super) async fn open(
        &self,
        home: &Home,
        handle: Handle,
    ) -> Result<(Watched, Setup), CliError> {
        let audit = Audit::open(home.dir()).map_err(CliError::io(home.dir().join("audit.log")))?;
        let audit = Arc::new(audit);
        let metrics = Arc::new(Metrics::new(handle, Arc::clone(&audit)));
        let watched = self.listen(&metrics).await?;
        let identity = Arc::new(Identity::open(home)?);
        Ok((watched, Setup { token: home.api_token()?, identity, metrics, audit }))
    }

    async fn listen(&self, metrics: &Arc<Metrics>) -> Result<Watched, CliError> {
        let Some(address) = self.metrics else { return Ok(Watched(None)) };
        let failed = |source| CliError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let served = api::serve_metrics(Arc::clone(metrics), listener, std::future::pending());
        Ok(Watched(Some((bound, tokio::spawn(served)))))
    }
}

impl Watched {
    /// Where it listens, if anywhere.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.0.as_ref().map(|(address, _)| *address)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.0 {
            task.abort();
        }
    }
}
