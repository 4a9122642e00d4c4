//! Nodes on loopback, each with an application that answers by rule.
//!
//! The application looks at the first byte of what it gets. Hello: `y` is accepted with `welcome`,
//! `g` accepted as a guest, `n` refused with `go away`, `h` held without an answer. Gossip: `!` is rejected, all else accepted. Tunnels: see [`Tunnels`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fabric::{
    BlobDenied, BlobFile, BlobSource, Config, Event, Fabric, FarEnd, PeerInfo, PeerKey, Sources,
    TunnelBytes, TunnelDenied, TunnelSource,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What a test looks at, without the parts that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Connected(PeerKey),
    Disconnected(PeerKey),
    Message(PeerKey, Vec<u8>),
    Gossip(PeerKey, String, Vec<u8>),
    Refused(PeerKey, fabric::RefusedWhy),
    Hello(PeerKey, Vec<u8>),
    Wanted(PeerKey),
}

/// How nodes reach each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp,
    Quic,
}

impl Transport {
    fn listen(self) -> Vec<String> {
        match self {
            Self::Tcp => vec!["/ip4/127.0.0.1/tcp/0".into()],
            Self::Quic => vec!["/ip4/127.0.0.1/udp/0/quic-v1".into()],
        }
    }
}

/// Blobs by hash; what a peer may not have is in `denied`.
#[derive(Default)]
pub(crate) struct Blobs {
    pub(crate) files: Mutex<BTreeMap<[u8; 32], BlobFile>>,
    pub(crate) denied: Mutex<Vec<[u8; 32]>>,
}

impl BlobSource for Blobs {
    fn open(
        &self,
        _: PeerKey,
        hash: [u8; 32],
    ) -> Pin<Box<dyn Future<Output = Result<BlobFile, BlobDenied>> + Send>> {
        let found = if self.denied.lock().unwrap().contains(&hash) {
            Err(BlobDenied::Denied)
        } else {
            self.files.lock().unwrap().get(&hash).cloned().ok_or(BlobDenied::NotFound)
        };
        Box::pin(std::future::ready(found))
    }
}

/// What stands at a far end, for the test to play.
pub(crate) struct Opened {
    pub(crate) peer: PeerKey,
    pub(crate) request: Vec<u8>,
    pub(crate) io: DuplexStream,
    pub(crate) bytes: TunnelBytes,
    pub(crate) cut: CancellationToken,
    /// Whether the peer's direction was ended, and not just let go.
    pub(crate) is_ended: Arc<AtomicBool>,
}

/// Notes whether it was shut down.
struct Watched {
    io: DuplexStream,
    is_ended: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_ended.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Decides by the first byte of a request: `y` opens, `n` is refused with the rest as the reason, `b` is busy, `h` is held
/// without a decision. What was opened is told to the test.
pub(crate) struct Tunnels(mpsc::UnboundedSender<Opened>);

/// Bytes that wait in a far end.
pub(crate) const FAR_BYTES: usize = 64 << 10;

impl TunnelSource for Tunnels {
    fn open(
        &self,
        peer: PeerKey,
        request: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<FarEnd, TunnelDenied>> + Send>> {
        let decided = match request.first() {
            Some(b'h') => return Box::pin(std::future::pending()),
            Some(b'b') => Err(TunnelDenied::Busy),
            Some(b'n') => {
                let reason = String::from_utf8(request[1..].to_vec()).unwrap();
                Err(TunnelDenied::Refused { reason })
            }
            _ => {
                let (near, io) = tokio::io::duplex(FAR_BYTES);
                let is_ended = Arc::new(AtomicBool::new(false));
                let watched = Watched { io: near, is_ended: Arc::clone(&is_ended) };
                let far = FarEnd::new(Box::new(watched));
                let (bytes, cut) = (far.bytes.clone(), far.cut.clone());
                let opened = Opened { peer, request, io, bytes, cut, is_ended };
                self.0.send(opened).map(|()| far).map_err(|_| TunnelDenied::Busy)
            }
        };
        Box::pin(std::future::ready(decided))
    }
}

pub(crate) struct Node {
    pub(crate) fabric: Fabric,
    pub(crate) me: PeerKey,
    pub(crate) addresses: Vec<String>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) dir: tempfile::TempDir,
    seen: mpsc::UnboundedReceiver<Seen>,
    opened: mpsc::UnboundedReceiver<Opened>,
    pub(crate) log: Vec<Seen>,
}

static SEED: AtomicU8 = AtomicU8::new(1);

pub(crate) fn config(transport: Transport) -> Config {
    let mut secret = [0x5e; 32];
    secret[0] = SEED.fetch_add(1, Ordering::Relaxed);
    Config::new(secret, transport.listen())
}

impl Node {
    pub(crate) async fn start(transport: Transport) -> Self {
        Self::with(config(transport)).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let blobs = Arc::new(Blobs::default());
        let n_listeners = config.listen.len();
        let (tell, opened) = mpsc::unbounded_channel();
        let sources = Sources { blobs: Arc::clone(&blobs) as _, tunnels: Arc::new(Tunnels(tell)) };
        let (fabric, events) = fabric::start(config, sources).unwrap();
        fabric.set_hello(b"yes please".to_vec()).await;
        let (to, seen) = mpsc::unbounded_channel();
        tokio::spawn(application(events, to));
        let addresses = fabric.addresses().await;
        assert_eq!(addresses.len(), n_listeners.min(1), "{addresses:?}");
        let (me, dir) = (fabric.me(), tempfile::tempdir().unwrap());
        Self { fabric, me, addresses, blobs, dir, seen, opened, log: Vec::new() }
    }

    /// Waits for something; all that came before it is in `log`.
    pub(crate) async fn until(&mut self, what: impl Fn(&Seen) -> bool) -> Seen {
        let log = &mut self.log;
        let found = timeout(DEADLINE, async {
            loop {
                let seen = self.seen.recv().await.expect("the network runs");
                log.push(seen.clone());
                if what(&seen) {
                    return seen;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("it did not happen; seen: {:?}", self.log))
    }

    pub(crate) async fn connected(&mut self, peer: PeerKey) {
        self.until(|s| *s == Seen::Connected(peer)).await;
    }

    pub(crate) async fn disconnected(&mut self, peer: PeerKey) {
        self.until(|s| *s == Seen::Disconnected(peer)).await;
    }

    /// The next far end that this node connected a peer with.
    pub(crate) async fn far_end(&mut self) -> Opened {
        timeout(DEADLINE, self.opened.recv()).await.expect("a tunnel is opened").unwrap()
    }

    /// Whether a tunnel was opened that nobody has looked at.
    pub(crate) fn has_far_end(&mut self) -> bool {
        self.opened.try_recv().is_ok()
    }

    /// Everything that has come.
    pub(crate) fn drain(&mut self) -> &[Seen] {
        while let Ok(seen) = self.seen.try_recv() {
            self.log.push(seen);
        }
        &self.log
    }

    pub(crate) async fn connect(&self, to: &Self) -> Vec<u8> {
        self.fabric.connect(to.me, to.addresses.clone(), None).await.unwrap()
    }

    pub(crate) async fn info(&self, peer: PeerKey) -> Option<PeerInfo> {
        self.fabric.peers().await.into_iter().find(|p| p.peer == peer)
    }

    /// Keeps a blob for serving; gives its hash.
    pub(crate) fn keep(&self, bytes: &[u8]) -> [u8; 32] {
        let path = self.dir.path().join(format!("{}", blake3::hash(bytes)));
        std::fs::write(&path, bytes).unwrap();
        let (hash, size, outboard) = fabric::blob::hash_file(&path).unwrap();
        let file = BlobFile { data: path, outboard: outboard.into(), size };
        self.blobs.files.lock().unwrap().insert(hash, file);
        hash
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

async fn application(mut events: mpsc::Receiver<Event>, to: mpsc::UnboundedSender<Seen>) {
    let mut held = Vec::new();
    while let Some(event) = events.recv().await {
        let seen = match event {
            Event::Hello { peer, payload, respond, .. } => {
                match payload.first() {
                    Some(b'y') => respond.accept(b"welcome".to_vec()),
                    Some(b'g') => respond.accept_guest(b"welcome".to_vec()),
                    Some(b'n') => respond.refuse(b"go away".to_vec()),
                    _ => held.push(respond),
                }
                Seen::Hello(peer, payload)
            }
            Event::Connected { peer } => Seen::Connected(peer),
            Event::Disconnected { peer } => Seen::Disconnected(peer),
            Event::Message { from, payload, .. } => Seen::Message(from, payload),
            Event::Gossip { topic, from, payload, verdict } => {
                match payload.first() {
                    Some(b'!') => verdict.reject(),
                    _ => verdict.accept(),
                }
                Seen::Gossip(from, topic, payload)
            }
            Event::Refused { peer, why } => Seen::Refused(peer, why),
            Event::Wanted { peer } => Seen::Wanted(peer),
            _ => continue,
        };
        if to.send(seen).is_err() {
            return;
        }
    }
}

/// Two nodes, the first connected to the second.
pub(crate) async fn pair(transport: Transport) -> (Node, Node) {
    pair_with(config(transport), config(transport)).await
}

pub(crate) async fn pair_with(a: Config, b: Config) -> (Node, Node) {
    let (mut a, mut b) = (Node::with(a).await, Node::with(b).await);
    assert_eq!(a.connect(&b).await, b"welcome");
    a.connected(b.me).await;
    b.connected(a.me).await;
    (a, b)
}

/// Asks again until it is so; a condition that has no event.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Each test over both transports.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod tcp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Transport::Tcp).await; })*
        }
        mod quic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Transport::Quic).await; })*
        }
    };
}
pub(crate) use suite;
