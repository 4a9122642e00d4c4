//! The API for other machines, over TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::error::CliError;
use crate::api::{self, Tls};
use crate::shell::Home;
use crate::shell::org::now_ms;

/// Options of `up` about it.
#[derive(Debug, Args)]
pub(super) struct Encrypt {
    /// Serve the API at the address of --api over TLS, with a certificate of the node's own (`tls.crt` in its directory)
    #[arg(long)]
    tls: bool,
    /// The same, with this certificate and those that vouch for it, in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Encrypt {
    /// Where the API listens for the commands of this machine, which know no certificates: nowhere else than on loopback.
    ///
    /// # Errors
    /// When others would reach the API and nothing would be encrypted.
    pub(super) fn plain(&self, api: SocketAddr) -> Result<SocketAddr, CliError> {
        if self.is_wanted() {
            return Ok(SocketAddr::from(([127, 0, 0, 1], 0)));
        }
        if api.ip().is_loopback() {
            return Ok(api);
        }
        Err(CliError::usage(format!(
            "--api {api} is reached by other machines, and what goes there has to be encrypted: give --tls, or --tls-cert and --tls-key"
        )))
    }

    const fn is_wanted(&self) -> bool {
        self.tls || self.tls_cert.is_some()
    }

    /// Opens the encrypted address, if there is to be one.
    pub(super) async fn open(
        &self,
        home: &Home,
        address: SocketAddr,
    ) -> Result<Option<(TcpListener, Tls)>, CliError> {
        if !self.is_wanted() {
            api::serve_none(home.dir())?;
            return Ok(None);
        }
        let tls = match self.tls_cert.as_ref().zip(self.tls_key.as_ref()) {
            Some((cert, key)) => Tls::given(cert, key)?,
            None => Tls::own(home.dir(), &own_name(address), now_ms())?,
        };
        let listening = TcpListener::bind(address).await;
        let listener = listening.map_err(|source| CliError::Listen { address, source })?;
        tls.note(home.dir())?;
        Ok(Some((listener, tls)))
    }
}

/// Under which name others reach the address: itself, or this machine's where it is all addresses.
fn own_name(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.ip().to_string();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let name = name.trim();
    if name.is_empty() || !name.chars().all(is_plain) {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}
