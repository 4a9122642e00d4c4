//! The API for other machines: what is not loopback is served encrypted or not at all.
//!
//! The owner's commands on this machine go on using a loopback address with places of its own, so whatever strangers do at the
//! encrypted one, the owner is heard. There, a stranger who knows no token can do no more than hold connections: each has
//! [`HANDSHAKE_TIMEOUT`] until it is encrypted, beside the others, and one machine gets at most [`ADDRESS_MAX`] of the places.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use super::certificate::Tls;
use super::health::Remote;
use super::listen::{Connection, Limited};
use crate::held::Held;
use crate::shell::org::now_ms;

/// How long a caller may take until the connection is encrypted; a slower one is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Encrypted connections that wait to be served; further ones wait with their callers.
const READY_MAX: usize = 16;
/// Connections of one address at once; further ones are closed. A quarter of all places.
const ADDRESS_MAX: usize = 64;
/// How often it is looked whether the certificate has been renewed, or is to be.
const REFRESH: Duration = Duration::from_secs(600);

/// Stands in what comes over TLS: a name that another page's server gave would not be in the certificate, so any name is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encrypted;

/// A connection that is counted until it is dropped.
type Plain = Held<Connection, Place>;

/// A listener whose connections are encrypted when they are given out.
#[derive(Debug)]
pub(super) struct Encrypting {
    ready: mpsc::Receiver<(TlsStream<Plain>, SocketAddr)>,
    address: io::Result<SocketAddr>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Encrypting {
    pub(super) fn new(listener: TcpListener, tls: Tls) -> Result<Self, rustls::Error> {
        let acceptor = TlsAcceptor::from(Arc::new(tls.config()?));
        let address = listener.local_addr();
        let (send, ready) = mpsc::channel(READY_MAX);
        let listening = tokio::spawn(encrypt(Limited::new(listener), acceptor, send));
        Ok(Self { ready, address, tasks: [listening, tokio::spawn(renew(tls))] })
    }
}

/// Takes connections and encrypts them beside each other, so that a slow one holds up nobody. Their number is that of the places.
async fn encrypt(
    mut listener: Limited,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<Plain>, SocketAddr)>,
) {
    let callers = Callers::default();
    loop {
        let (stream, from) = listener.accept().await;
        let Some(place) = callers.place(from.ip()) else {
            tracing::debug!(%from, "too many connections of one address");
            continue;
        };
        let plain = Held::new(stream, place);
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

/// Sees to it that the certificate holds, for as long as it is served.
async fn renew(tls: Tls) {
    let mut timer = tokio::time::interval(REFRESH);
    loop {
        timer.tick().await;
        let files = tls.clone();
        let seen = tokio::task::spawn_blocking(move || files.refresh(now_ms())).await;
        match seen {
            Ok(Ok(true)) => {
                let sha256 = tls.fingerprint();
                tracing::info!(%sha256, "another certificate is served at the API from now on");
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let error = super::chain(&error);
                tracing::warn!(%error, "the API's certificate is not renewed");
            }
            Err(error) => tracing::warn!(%error, "the API's certificate is not looked at"),
        }
    }
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Callers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

impl Callers {
    /// A place for a connection, unless the address has all of its own.
    fn place(&self, from: IpAddr) -> Option<Place> {
        let from = machine(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_insert(0);
        if *count >= ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { callers: self.clone(), from })
    }
}

/// One machine has a whole /64 of IPv6.
fn machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let net = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(net.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A connection of an address; dropping it takes it back.
#[derive(Debug)]
pub(super) struct Place {
    callers: Callers,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

impl Drop for Encrypting {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
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
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpStream;

    #[test]
    fn an_address_has_its_share_of_the_places_and_gives_them_back() {
        let callers = Callers::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut held: Vec<Place> = (0..ADDRESS_MAX).filter_map(|_| callers.place(one)).collect();
        assert_eq!(held.len(), ADDRESS_MAX);
        assert!(callers.place(one).is_none() && callers.place(other).is_some());
        held.pop();
        assert!(callers.place(one).is_some());
        held.clear();
        assert!(callers.0.lock().unwrap().is_empty());
        let same = |a: &str, b: &str| machine(a.parse().unwrap()) == machine(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1") && !same("192.0.2.1", "192.0.2.2"));
    }

    #[tokio::test]
    async fn who_is_slow_to_encrypt_holds_up_nobody_and_no_more_places_than_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::own(dir.path(), "localhost", now_ms()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut encrypting = Encrypting::new(listener, tls.clone()).unwrap();
        // One less than all of its places: connected, and silent.
        let mut silent = Vec::new();
        for _ in 1..ADDRESS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let cert = std::fs::read(dir.path().join("tls.crt")).unwrap();
        let root = reqwest::Certificate::from_pem(&cert).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        let asked = tokio::spawn(http.get(format!("https://localhost:{}/", address.port())).send());
        let (stream, from) =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, encrypting.accept()).await.unwrap();
        assert!(from.ip().is_loopback());
        // Now they are all taken: the next one is closed before it says a word.
        let mut further = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        let closed = tokio::time::timeout(HANDSHAKE_TIMEOUT / 2, further.read(&mut byte)).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
        asked.abort();
        drop(stream);
    }
}
