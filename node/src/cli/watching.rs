//! How a running node is watched: its log, its figures.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::error::CliError;
use crate::api::{self, Audit, Metrics, Setup, Tls};
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
    /// Send traces to a collector, by OTLP over HTTP; `/v1/traces` is added where URL has no path
    #[arg(long, value_name = "URL")]
    pub(super) otlp: Option<String>,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// What is open beside the API; dropping it closes the listener of `--metrics`.
#[derive(Debug, Default)]
pub(super) struct Watched {
    metrics: Option<(SocketAddr, JoinHandle<std::io::Result<()>>)>,
    tls: Option<(SocketAddr, String)>,
}

impl Watching {
    /// Opens what is wanted beside the API, and gives what that needs.
    pub(super) async fn open(
        &self,
        home: &Home,
        handle: Handle,
        tls: Option<(TcpListener, Tls)>,
    ) -> Result<(Watched, Setup), CliError> {
        let audit = Audit::open(home.dir()).map_err(CliError::io(home.dir().join("audit.log")))?;
        let audit = Arc::new(audit);
        let metrics = Arc::new(Metrics::new(handle, Arc::clone(&audit)));
        let mut watched = self.listen(&metrics).await?;
        if let Some((listener, tls)) = &tls {
            let address = listener.local_addr().map_err(CliError::io("the address of --api"))?;
            watched.tls = Some((address, tls.fingerprint()));
        }
        let identity = Arc::new(Identity::open(home)?);
        Ok((watched, Setup { token: home.api_token()?, identity, metrics, audit, tls }))
    }

    async fn listen(&self, metrics: &Arc<Metrics>) -> Result<Watched, CliError> {
        let Some(address) = self.metrics else { return Ok(Watched::default()) };
        let failed = |source| CliError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let served = api::serve_metrics(Arc::clone(metrics), listener, std::future::pending());
        Ok(Watched { metrics: Some((bound, tokio::spawn(served))), tls: None })
    }
}

impl Watched {
    /// Where the figures are without a token, if anywhere.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(address, _)| *address)
    }

    /// Where the API is served over TLS, and the fingerprint of its certificate.
    pub(super) const fn tls(&self) -> Option<&(SocketAddr, String)> {
        self.tls.as_ref()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.metrics {
            task.abort();
        }
    }
}
