//! The API for other machines: TLS with a certificate that the owner gives, or with one of the node's own.
//!
//! What is not loopback is served encrypted or not at all. The owner's commands on this machine go on using a loopback address.
//! A certificate of its own is made at the first start and kept in the home (`tls.crt`, `tls.key`): whoever connects has to be given
//! it, or its fingerprint, by another way.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::health::Remote;
use super::listen::Limited;
use crate::held::Held;

/// How long a caller may take until the connection is encrypted; a slower one is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Encrypted connections that wait to be served.
const READY_MAX: usize = 16;
/// The node's own certificate and its key, in the home.
const OWN_CERT: &str = "tls.crt";
const OWN_KEY: &str = "tls.key";

/// Why nothing is served over TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// Certificate and key do not go together, or are of a kind that is not taken.
    #[error("the certificate and the key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// A certificate of the node's own cannot be made.
    #[error("a certificate for {name} cannot be made")]
    Make {
        /// For which name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A certificate with its key, ready to serve with.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Tls {
    /// Takes a chain of certificates and its key, both in PEM form.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn given(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let (chain, secret) = (read(cert)?, read(key)?);
        let certs: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&chain).filter_map(Result::ok).collect();
        let Some(first) = certs.first() else {
            return Err(TlsError::Pem { path: cert.to_owned(), what: "certificate" });
        };
        let hash = <sha2::Sha256 as sha2::Digest>::digest(first.as_ref());
        let fingerprint = hash.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
        let secret = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| TlsError::Pem { path: key.to_owned(), what: "private key" })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, secret))
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), fingerprint })
    }

    /// The node's own certificate, made when there is none yet: for this machine's loopback names and `name`, under which others
    /// are to reach it.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn own(home: &Path, name: &str) -> Result<Self, TlsError> {
        let (cert, key) = (home.join(OWN_CERT), home.join(OWN_KEY));
        if !cert.exists() || !key.exists() {
            make(name, &cert, &key)?;
        }
        Self::given(&cert, &key)
    }

    /// SHA-256 of the certificate, as browsers and `openssl x509 -fingerprint -sha256` show it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

fn make(name: &str, cert: &Path, key: &Path) -> Result<(), TlsError> {
    let failed = |source| TlsError::Make { name: name.to_owned(), source };
    let names = ["localhost", "127.0.0.1", "::1", name].map(str::to_owned);
    let params = CertificateParams::new(names).map_err(failed)?;
    let pair = KeyPair::generate().map_err(failed)?;
    let made = params.self_signed(&pair).map_err(failed)?;
    for (path, text, mode) in [(key, pair.serialize_pem(), 0o600), (cert, made.pem(), 0o644)] {
        write(path, &text, mode)
            .map_err(|source| TlsError::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Stands in what comes over TLS: a name that another page's server gave would not be in the certificate, so any name is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encrypted;

type Plain = Held<TcpStream, Option<OwnedSemaphorePermit>>;

/// A listener whose connections are encrypted when they are given out.
#[derive(Debug)]
pub(super) struct Encrypting {
    ready: mpsc::Receiver<(TlsStream<Plain>, SocketAddr)>,
    address: io::Result<SocketAddr>,
    task: tokio::task::JoinHandle<()>,
}

impl Encrypting {
    pub(super) fn new(listener: TcpListener, tls: &Tls) -> Self {
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
        let address = listener.local_addr();
        let (send, ready) = mpsc::channel(READY_MAX);
        let task = tokio::spawn(encrypt(Limited::new(listener), acceptor, send));
        Self { ready, address, task }
    }
}

/// Takes connections and encrypts them beside each other, so that a slow one holds up nobody. Their number is that of the places.
async fn encrypt(
    mut listener: Limited,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<Plain>, SocketAddr)>,
) {
    loop {
        let (plain, from) = listener.accept().await;
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(plain)).await {
                // Nobody takes it any more when the server has stopped.
                Ok(Ok(stream)) => drop(ready.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a connection is not encrypted"),
                Err(_) => tracing::debug!(%from, "a connection was too slow to encrypt"),
            }
        });
    }
}

impl Drop for Encrypting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener for Encrypting {
    type Io = TlsStream<Plain>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The task that listens never ends by itself.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}

impl Connected<IncomingStream<'_, Encrypting>> for Remote {
    fn connect_info(stream: IncomingStream<'_, Encrypting>) -> Self {
        Self(*stream.remote_addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_certificate_is_made_once_and_its_key_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = Tls::own(dir.path(), "192.0.2.7").unwrap();
        let again = Tls::own(dir.path(), "node.example").unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 95);
        let mode = fs::metadata(dir.path().join(OWN_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A key of another certificate.
        let other = tempfile::tempdir().unwrap();
        let _ = Tls::own(other.path(), "192.0.2.7").unwrap();
        let mixed = Tls::given(&dir.path().join(OWN_CERT), &other.path().join(OWN_KEY));
        assert!(matches!(mixed, Err(TlsError::Pair(_))), "{mixed:?}");
        let swapped = Tls::given(&dir.path().join(OWN_KEY), &dir.path().join(OWN_CERT));
        assert!(matches!(swapped, Err(TlsError::Pem { what: "certificate", .. })), "{swapped:?}");
    }
}
