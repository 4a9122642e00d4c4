//! The handle: what the application calls. It holds no state but the way to the network task.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::blob::{
    self, BlobSource, FETCH_PEERS_MAX, FetchError, Fetched, Lanes, NoBlobs, Served, Server,
    Serving, Shares, Wanted, Ways,
};
use crate::config::{Config, Limits};
use crate::error::{ConnectError, DhtError, PublishError, SendError, StartError};
use crate::event::{Access, Event, Offence, Payload, PeerInfo, VERDICT_QUEUE};
use crate::key::PeerKey;
use crate::net::{
    self, Actor, Ask, Command, DhtView, EVENT_QUEUE, Ground, MESSAGE_TIMEOUT, Moved, Opener,
    Peering, Streams,
};
use crate::places::Places;
use crate::reach::Reachability;
use crate::terms::{Terms, TermsBook};
use crate::tunnel::{
    self, Acceptor, Asked, NoTunnels, Pools, TUNNEL_REQUEST_MAX, Tunnel, TunnelError, TunnelSource,
};

/// Largest hello and largest reply, in bytes.
pub const HELLO_MAX: usize = 16 << 10;
/// Largest message, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Largest gossip payload, in bytes.
pub const GOSSIP_MAX: usize = 32 << 10;
/// Addresses tried for one peer; further ones are not looked at.
pub const ADDRESSES_MAX: usize = 8;
/// Commands that wait for the network task; callers beyond it wait.
const COMMAND_QUEUE: usize = 256;
/// Streams by which blobs are fetched at once; further ones wait.
const FETCH_STREAMS: usize = 64;
/// How often a request for a tunnel is made anew when its stream ends without an answer: a peer drops streams unread that
/// come faster than it can take them.
const TUNNEL_TRIES: u32 = 5;
/// How long to wait before the second try; each further one waits twice as long.
const TUNNEL_PAUSE: Duration = Duration::from_millis(10);

/// The way to the network. Clones lead to the same network; when the last is dropped, it stops.
#[derive(Clone)]
pub struct Fabric {
    me: PeerKey,
    commands: mpsc::Sender<Command>,
    streams: Opener,
    moved: Moved,
    lanes: Arc<Lanes>,
    fetches: Arc<Semaphore>,
    /// The largest blob that comes through a relay.
    relayed_max: u64,
    served: Arc<Served>,
    terms: Arc<TermsBook>,
    /// Those of tunnels that this node opens.
    tunnels: Arc<Places>,
    pools: Arc<Pools>,
    tunnels_max: u32,
    tunnel_patience: Duration,
}

/// Where what peers ask for comes from.
#[derive(Clone)]
pub struct Sources {
    /// Blobs; nothing is here by default.
    pub blobs: Arc<dyn BlobSource>,
    /// Tunnels; all are refused by default.
    pub tunnels: Arc<dyn TunnelSource>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { blobs: Arc::new(NoBlobs), tunnels: Arc::new(NoTunnels) }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Starts the network task; call it within a tokio runtime. Nothing is admitted before the
/// application answers the first [`Event::Hello`] or connects.
///
/// # Errors
/// See [`StartError`]. One working address to listen on is enough; the others are logged.
pub fn start(
    config: Config,
    sources: Sources,
) -> Result<(Fabric, mpsc::Receiver<Event>), StartError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(StartError::NoRuntime);
    }
    let mut ground = Ground::new(&config)?;
    let me = PeerKey::from_peer_id(ground.swarm.local_peer_id()).expect("the identity is Ed25519");
    let (commands, commands_rx) = mpsc::channel(COMMAND_QUEUE);
    let (verdicts, verdicts_rx) = mpsc::channel(VERDICT_QUEUE);
    let (events, events_rx) = mpsc::channel(EVENT_QUEUE);
    let terms = Arc::<TermsBook>::default();
    let reaching = net::reaching(&mut ground.streams, &config, &commands, &terms)?;
    let moved = Moved(verdicts.clone());
    let limits = &config.limits;
    let pools = Pools::new(limits.tunnel_window_bytes);
    let served = Arc::<Served>::default();
    let fabric = Fabric {
        me,
        commands,
        streams: ground.streams.opener(),
        moved: moved.clone(),
        lanes: Arc::default(),
        fetches: Arc::new(Semaphore::new(FETCH_STREAMS)),
        relayed_max: config.relayed_blob_bytes,
        served: Arc::clone(&served),
        terms: Arc::clone(&terms),
        tunnels: Places::new(limits.tunnels_out, limits.tunnels_out_per_peer),
        pools: Arc::clone(&pools),
        tunnels_max: limits.tunnels_out,
        tunnel_patience: 2 * limits.tunnel_decision,
    };
    let tunnels = Places::shared(limits.tunnels_in, limits.tunnels_in_per_peer, Arc::clone(&terms));
    serve(
        &mut ground.streams,
        limits,
        sources,
        (moved, served, &terms),
        (Arc::clone(&tunnels), pools),
    );
    // Differs from run to run; a clock that went back only makes a restart look like none.
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let queues = (commands_rx, verdicts_rx);
    let actor = Actor::new(
        ground,
        config,
        (me, run),
        (tunnels, reaching, terms),
        queues,
        (verdicts, events),
    );
    tokio::spawn(actor.run());
    Ok((fabric, events_rx))
}

/// Serves what peers open streams for.
fn serve(
    streams: &mut Streams,
    limits: &Limits,
    sources: Sources,
    (moved, served, terms): (Moved, Arc<Served>, &Arc<TermsBook>),
    (tunnels, pools): (Arc<Places>, Arc<Pools>),
) {
    let server = Server {
        source: sources.blobs,
        places: Places::shared(
            limits.blobs_served,
            limits.blobs_served_per_peer,
            Arc::clone(terms),
        ),
        shares: Shares::new(limits.blob_rate, limits.blob_rate_per_peer),
        served,
        terms: Arc::clone(terms),
        moved: moved.clone(),
    };
    tokio::spawn(blob::serve(streams.accept(blob::PROTOCOL), server));
    let acceptor = Acceptor {
        source: sources.tunnels,
        places: tunnels,
        pools,
        moved,
        decision: limits.tunnel_decision,
        idle: limits.tunnel_idle,
    };
    tokio::spawn(tunnel::accept(streams.accept(tunnel::PROTOCOL), acceptor));
}

impl Fabric {
    /// This node's identity.
    #[must_use]
    pub fn me(&self) -> PeerKey {
        self.me
    }

    /// Where this node is reached, the best first, then where it listens, loopback included; direct ones with `/p2p/<id>`.
    /// Waits until each listener has said so; empty when there is none or the fabric is shut down.
    pub async fn addresses(&self) -> Vec<String> {
        self.ask(Command::Addresses).await.unwrap_or_default()
    }

    /// Sets what this node presents on every connection that it opens from now on. At most
    /// [`HELLO_MAX`] bytes; more make every [`Self::connect`] fail.
    pub async fn set_hello(&self, bytes: Vec<u8>) {
        self.tell(Command::SetHello(bytes)).await;
    }

    /// Connects, presents this node (`hello` instead of the usual one, if given) and admits the
    /// peer as soon as it accepts; gives its reply. Use [`Self::introduce`] where the reply must
    /// be judged before anything flows. With a peer that is connected already only the hello is
    /// done again.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        peer: PeerKey,
        addresses: Vec<String>,
        hello: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ConnectError> {
        self.introduce(peer, addresses, hello).await?.admit().await
    }

    /// The first half of [`Self::connect`]: the peer has accepted this node, this node has not
    /// yet accepted the peer.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn introduce(
        &self,
        peer: PeerKey,
        addresses: Vec<String>,
        hello: Option<Vec<u8>>,
    ) -> Result<Introduced, ConnectError> {
        if peer == self.me {
            return Err(ConnectError::Myself);
        }
        if let Some(bytes) = hello.as_ref().map(Vec::len).filter(|n| *n > HELLO_MAX) {
            return Err(ConnectError::HelloTooLarge { bytes });
        }
        let parsed = addresses.iter().take(ADDRESSES_MAX).map(|text| parse_address(peer, text));
        let addresses = parsed.collect::<Result<Vec<_>, _>>()?;
        let ask = |reply| Command::Introduce { peer, addresses, hello, reply };
        let Peering { id, reply } = self.ask(ask).await.ok_or(ConnectError::Stopped)??;
        Ok(Introduced { id: Some(id), peer, reply, commands: self.commands.clone() })
    }

    /// Sends one message of at most [`MESSAGE_MAX`] bytes. `Ok` says that the peer's node took it
    /// into its queue. A send that begins after another one to the same peer returned `Ok` arrives
    /// after it; sends that overlap may overtake each other.
    ///
    /// # Errors
    /// See [`SendError`]; after 15 s without an answer it is `Timeout`.
    pub async fn send(&self, to: PeerKey, payload: Vec<u8>) -> Result<(), SendError> {
        if payload.len() > MESSAGE_MAX {
            return Err(SendError::TooLarge { bytes: payload.len() });
        }
        let ask = self.ask(|reply| Command::Send { to, payload, reply });
        match timeout(MESSAGE_TIMEOUT, ask).await {
            Ok(answer) => answer.unwrap_or(Err(SendError::Stopped)),
            Err(_) => Err(SendError::Timeout { peer: to }),
        }
    }

    /// Listens to a gossip topic from now on. At most 64 topics; further ones are logged and left.
    pub async fn subscribe(&self, topic: String) {
        self.tell(Command::Subscribe(topic)).await;
    }

    /// Gossips to the admitted peers that listen to the topic; at most [`GOSSIP_MAX`] bytes. The
    /// same bytes within two minutes are one message. Delivery is likely, not certain.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), PublishError> {
        if payload.len() > GOSSIP_MAX {
            return Err(PublishError::TooLarge { bytes: payload.len() });
        }
        let answer = self.ask(|reply| Command::Publish { topic, payload, reply }).await;
        answer.unwrap_or(Err(PublishError::Stopped))
    }

    /// Closes all connections with the peer, also those that come about until the last is closed;
    /// [`Event::Disconnected`] says when. A [`Self::connect`] before that fails with `Closed`.
    pub async fn disconnect(&self, peer: PeerKey) {
        self.tell(Command::Disconnect(peer)).await;
    }

    /// Says what a connected peer is to this node. Best before it is admitted; counts at once, until its last connection
    /// closes. Without a word it is in no group, and carried for.
    pub fn set_terms(&self, peer: PeerKey, terms: Terms) {
        self.terms.set(peer, terms);
    }

    /// Keeps a place for connections with these peers, at most 16, and for no others any more: they are let in and dialled also
    /// when all places are taken. They still do the hello like everybody else.
    pub async fn hold(&self, peers: Vec<PeerKey>) {
        self.tell(Command::Hold(peers)).await;
    }

    /// Notes an offence. Enough of them ban the peer: it is disconnected and gets nothing until
    /// the ban ends. Points are forgiven with time.
    pub async fn penalize(&self, peer: PeerKey, offence: Offence) {
        self.tell(Command::Penalize(peer, offence)).await;
    }

    /// The connected and the banned peers.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// What all peers together have moved; nothing when the fabric is shut down.
    pub async fn payload(&self) -> Option<Payload> {
        self.ask(Command::Payload).await
    }

    /// How others reach this node; nothing when the fabric is shut down.
    pub async fn reachability(&self) -> Option<Reachability> {
        self.ask(Command::Reachability).await
    }

    /// How far peers are, in their order: the shortest round trip of the last two minutes in microseconds; nothing of those that
    /// are not connected or were not measured yet, and of all when the fabric is shut down.
    pub async fn round_trips(&self, peers: Vec<PeerKey>) -> Vec<Option<u64>> {
        let none = vec![None; peers.len()];
        self.ask(|reply| Command::RoundTrips(peers, reply)).await.unwrap_or(none)
    }

    /// Tells members that this node has the content of this hash, until [`Self::stop_providing`] or the end of the program.
    /// Whether a peer gets it is decided when it asks.
    ///
    /// # Errors
    /// See [`DhtError`]: at most [`crate::PROVIDED_MAX`].
    pub async fn provide(&self, key: [u8; 32]) -> Result<(), DhtError> {
        let told = self.ask(|reply| Command::Dht(Ask::Provide { key, reply })).await;
        told.unwrap_or(Err(DhtError::Stopped))
    }

    /// Tells it no more. Others forget it within hours.
    pub async fn stop_providing(&self, key: [u8; 32]) {
        self.tell(Command::Dht(Ask::StopProviding { key })).await;
    }

    /// Members who say that they have the content of this hash: at most `limit` and [`crate::PROVIDERS_MAX`], none that is
    /// banned, in no order that means anything. They may not be connected. Takes 10 s at most.
    ///
    /// # Errors
    /// See [`DhtError`].
    pub async fn providers(&self, key: [u8; 32], limit: usize) -> Result<Vec<PeerKey>, DhtError> {
        let found = self.ask(|reply| Command::Dht(Ask::Providers { key, limit, reply })).await;
        found.unwrap_or(Err(DhtError::Stopped))
    }

    /// What this node knows of who has what; nothing when the fabric is shut down.
    pub async fn dht(&self) -> Option<DhtView> {
        self.ask(|reply| Command::Dht(Ask::View(reply))).await
    }

    /// Fetches a blob of at most `limit` bytes into the file `into`, and goes on with what is in it. Of the peers in `from`
    /// the first [`FETCH_PEERS_MAX`] that are admitted are asked, the least busy first: one alone for a small blob, all at
    /// once for parts of a large one. One that fails is left, and counts an offence when it lied; the fetch fails when all
    /// have. The file holds only verified bytes of this blob at any time, if nobody else writes to it; it is not synced to
    /// disk. What is there of a blob that came in parts is told by a second file, with `.parts` after the name, until it is
    /// whole. `on_progress` gets the bytes that are there and, as a peer says, the total: at the beginning, when nobody has said
    /// anything yet, with a total of 0. Dropping the future leaves the
    /// files for a later resume.
    ///
    /// # Errors
    /// See [`FetchError`]; [`FetchError::Several`] when more than one peer failed.
    pub async fn fetch(
        &self,
        from: &[PeerKey],
        hash: [u8; 32],
        into: &Path,
        limit: u64,
        on_progress: impl Fn(u64, u64) + Send + Sync,
    ) -> Result<Fetched, FetchError> {
        let (mut peers, mut failed) = (Vec::new(), Vec::new());
        for peer in from {
            if peers.len() >= FETCH_PEERS_MAX {
                break;
            }
            if peers.contains(peer) {
                continue;
            }
            match self.ask(|reply| Command::IsAdmitted(*peer, reply)).await {
                Some(true) => peers.push(*peer),
                _ => failed.push(FetchError::NotConnected { peer: *peer }),
            }
        }
        let limit = self.prefer_direct(&mut peers, limit).await;
        peers.sort_by_key(|peer| self.lanes.load(*peer));
        let wanted = Wanted { hash, limit, into: into.to_owned() };
        blob::fetch(self.ways(), wanted, peers, failed, &on_progress).await
    }

    fn ways(&self) -> Ways {
        Ways {
            control: self.streams.control(),
            lanes: Arc::clone(&self.lanes),
            all: Arc::clone(&self.fetches),
            moved: self.moved.clone(),
        }
    }

    /// Reads a range of a peer's blob into memory, at most [`crate::blob::READ_MAX`] bytes; verified, and shorter where the
    /// blob ends. A peer that lies is counted an offence.
    ///
    /// # Errors
    /// See [`FetchError`]; [`FetchError::Outside`] when the blob ends before the range.
    pub async fn read(
        &self,
        from: PeerKey,
        hash: [u8; 32],
        range: Range<u64>,
    ) -> Result<Vec<u8>, FetchError> {
        self.admitted(from).await?;
        blob::read(self.ways(), from, hash, range).await
    }

    /// The size of a peer's blob, proven by its last bytes.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn size(&self, from: PeerKey, hash: [u8; 32]) -> Result<u64, FetchError> {
        self.admitted(from).await?;
        blob::size(self.ways(), from, hash).await
    }

    async fn admitted(&self, peer: PeerKey) -> Result<(), FetchError> {
        match self.ask(|reply| Command::IsAdmitted(peer, reply)).await {
            Some(true) => Ok(()),
            _ => Err(FetchError::NotConnected { peer }),
        }
    }

    /// What is being served to peers at this moment.
    #[must_use]
    pub fn serving(&self) -> Vec<Serving> {
        self.served.now()
    }

    /// Leaves out peers that are only reached through a relay where another one has the blob, too. Where there is none, only
    /// what may come through a relay is fetched.
    async fn prefer_direct(&self, peers: &mut Vec<PeerKey>, limit: u64) -> u64 {
        let mut direct = Vec::new();
        for peer in peers.iter() {
            if self.ask(|reply| Command::IsOnlyRelayed(*peer, reply)).await != Some(true) {
                direct.push(*peer);
            }
        }
        if direct.is_empty() {
            return limit.min(self.relayed_max);
        }
        *peers = direct;
        limit
    }

    /// Asks an admitted peer for a tunnel; what `request` means (at most [`TUNNEL_REQUEST_MAX`] bytes) is between the two
    /// applications. Dropping the future takes the request back.
    ///
    /// # Errors
    /// See [`TunnelError`]. The peer has twice [`Limits::tunnel_decision`] to answer.
    pub async fn tunnel(&self, to: PeerKey, request: Vec<u8>) -> Result<Tunnel, TunnelError> {
        if request.len() > TUNNEL_REQUEST_MAX {
            return Err(TunnelError::RequestTooLong { bytes: request.len() });
        }
        let Some(place) = self.tunnels.take(to) else {
            return Err(TunnelError::TooMany { limit: self.tunnels_max });
        };
        if let Some(limit) = place.refused_at() {
            return Err(TunnelError::TooMany { limit });
        }
        let asked = Asked { peer: to, request: &request, patience: self.tunnel_patience };
        let mut tries = 0;
        loop {
            match self.ask(|reply| Command::IsAdmitted(to, reply)).await {
                Some(true) => {}
                Some(false) => return Err(TunnelError::NotConnected { peer: to }),
                None => return Err(TunnelError::Stopped),
            }
            match tunnel::open(self.streams.control(), asked).await {
                Ok(stream) => {
                    let share = self.pools.share(to);
                    return Ok(Tunnel::new(stream, share, self.moved.clone(), place));
                }
                Err(TunnelError::Lost { .. }) if tries + 1 < TUNNEL_TRIES => {
                    tokio::time::sleep(TUNNEL_PAUSE * (1 << tries)).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes all connections and stops. Waits until that is done, 3 s at most.
    pub async fn shutdown(self) {
        self.ask(Command::Shutdown).await;
    }

    /// `None` when the network task is gone.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a command came after the network was shut down");
        }
    }
}

/// A peer that has accepted this node and waits to be accepted. Dropped, it is turned away.
pub struct Introduced {
    id: Option<u64>,
    peer: PeerKey,
    /// What the peer replied with; at most [`HELLO_MAX`] bytes, not looked into.
    pub reply: Vec<u8>,
    commands: mpsc::Sender<Command>,
}

impl Introduced {
    /// Admits the peer; gives its reply.
    ///
    /// # Errors
    /// When the peer is gone or has forgotten this node meanwhile (10 s).
    pub async fn admit(self) -> Result<Vec<u8>, ConnectError> {
        self.admit_as(Access::Member).await
    }

    /// Admits the peer to messages alone; gives its reply.
    ///
    /// # Errors
    /// When the peer is gone or has forgotten this node meanwhile (10 s).
    pub async fn admit_guest(self) -> Result<Vec<u8>, ConnectError> {
        self.admit_as(Access::Guest).await
    }

    async fn admit_as(mut self, access: Access) -> Result<Vec<u8>, ConnectError> {
        let (reply, answer) = oneshot::channel();
        let id = self.id.take().expect("taken only here and on drop");
        let command = Command::Admit { id, peer: self.peer, access, reply };
        self.commands.send(command).await.map_err(|_| ConnectError::Stopped)?;
        answer.await.map_err(|_| ConnectError::Stopped)??;
        Ok(std::mem::take(&mut self.reply))
    }
}

impl Drop for Introduced {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // A full queue is no harm: the deadline of the hello turns the peer away too.
            let _too_late = self.commands.try_send(Command::Decline { id });
        }
    }
}

impl fmt::Debug for Introduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introduced").field("reply_bytes", &self.reply.len()).finish_non_exhaustive()
    }
}

/// Reads an address; `/p2p/<id>` at its end must name the peer.
fn parse_address(peer: PeerKey, text: &str) -> Result<Multiaddr, ConnectError> {
    let err = || ConnectError::Address { text: text.chars().take(200).collect() };
    let mut address: Multiaddr = text.parse().map_err(|_| err())?;
    if let Some(Protocol::P2p(id)) = address.iter().last() {
        if id != peer.to_peer_id() {
            return Err(err());
        }
        address.pop();
    }
    if address.is_empty() { Err(err()) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_its_peer_but_no_other() {
        let (a, b) = (PeerKey::from_bytes([1; 32]), PeerKey::from_bytes([2; 32]));
        let plain: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
        assert_eq!(parse_address(a, "/ip4/127.0.0.1/tcp/9").unwrap(), plain);
        assert_eq!(parse_address(a, &format!("{plain}/p2p/{a}")).unwrap(), plain);
        for bad in [format!("{plain}/p2p/{b}"), format!("/p2p/{a}"), String::new(), "x".into()] {
            assert!(parse_address(a, &bad).is_err(), "{bad}");
        }
    }
}
