//! Nodes on loopback, each with an application that answers by rule.
//!
//! The application looks at the first byte of what it gets. Hello: `y` is accepted with `welcome`,
//! `n` refused with `go away`, `h` held without an answer. Gossip: `!` is rejected, all else accepted.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric::{BlobDenied, BlobFile, BlobSource, Config, Event, Fabric, PeerInfo, PeerKey};
use tokio::sync::mpsc;
use tokio::time::timeout;

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

pub(crate) struct Node {
    pub(crate) fabric: Fabric,
    pub(crate) me: PeerKey,
    pub(crate) addresses: Vec<String>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) dir: tempfile::TempDir,
    seen: mpsc::UnboundedReceiver<Seen>,
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
        let source: Arc<dyn BlobSource> = Arc::clone(&blobs) as _;
        let (fabric, events) = fabric::start(config, source).unwrap();
        fabric.set_hello(b"yes please".to_vec()).await;
        let (to, seen) = mpsc::unbounded_channel();
        tokio::spawn(application(events, to));
        let addresses = fabric.addresses().await;
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        let (me, dir) = (fabric.me(), tempfile::tempdir().unwrap());
        Self { fabric, me, addresses, blobs, dir, seen, log: Vec::new() }
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
            _ => continue,
        };
        if to.send(seen).is_err() {
            return;
        }
    }
}

/// Two nodes, the first connected to the second.
pub(crate) async fn pair(transport: Transport) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(transport).await, Node::start(transport).await);
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
