//! The one task that owns the swarm, and what it is made of.

mod actor;
mod codec;
mod dht;
mod gate;
mod gossip;
mod hello;
mod listening;
mod probe;
mod queue;
mod reaching;
mod renewing;
mod streams;
mod traffic;
mod views;

use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, connection_limits, dcutr, dns, identify,
    identity, mdns, memory_connection_limits, noise, ping, relay as circuit, request_response, tcp,
    upnp, yamux,
};
use tokio::sync::{Semaphore, mpsc};

pub(crate) use actor::{Actor, Command, Peering};
pub(crate) use codec::{Frame, Frames};
pub(crate) use dht::Ask;
pub use dht::{DhtView, PROVIDED_MAX, PROVIDERS_MAX};
pub(crate) use hello::{frame as hello_bytes, parse as read_hello};
pub(crate) use probe::read_request;
pub(crate) use queue::EVENT_QUEUE;
pub(crate) use reaching::Asking;
pub(crate) use streams::{Incoming, Opener, Streams};

use crate::config::{Config, Limits};
use crate::error::StartError;
use crate::event::{Offence, Verdict};
use crate::handle::MESSAGE_MAX;
use crate::key::PeerKey;
use crate::peers::SILENCE_MAX;
use crate::reach::Wishes;
use crate::reach::address::bare;
use crate::relay::{HOP, Relay};
use crate::terms::TermsBook;
use crate::tunnel::WINDOW_BYTES;
use gate::Gate;
use listening::Listening;

const HELLO: StreamProtocol = StreamProtocol::new("/opencloud/hello/1");
const MESSAGE: StreamProtocol = StreamProtocol::new("/opencloud/message/1");
/// What identify says the node speaks.
const IDENTIFY: &str = "/opencloud/1";
/// A hello frame: the payload and what is around it.
const HELLO_FRAME_MAX: u32 = crate::handle::HELLO_MAX as u32 + 16;
/// How long an answer to a message may take. The handle gives up at the same time.
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Streams of one connection that may be in work at once, both ways; more are reset. Own sends are
/// held well below, so that they do not starve the peer's.
const MESSAGE_STREAMS: usize = 128;
const HELLO_STREAMS: usize = 8;
/// QUIC gives a silent connection up after this.
const QUIC_IDLE_MS: u32 = 30_000;
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a transport may take to connect and to authenticate.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection lives that nothing uses: an un-admitted one after its hello.
const IDLE: Duration = Duration::from_secs(30);
/// How long after an answer the next ping goes out. On an idle connection of TCP pings are most of what moves.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a ping waits for its answer: until the connection is dead, because a stream loses nothing while it lives.
const PING_TIMEOUT: Duration = SILENCE_MAX.saturating_sub(PING_INTERVAL);

/// What members may use, besides messages.
#[derive(NetworkBehaviour)]
pub(crate) struct Admitted {
    gossip: gossip::Behaviour,
    circuit: circuit::client::Behaviour,
    punch: dcutr::Behaviour,
    streams: libp2p_stream::Behaviour,
    dht: dht::Behaviour,
}

/// Everything. The order matters: what may deny a connection comes before the hello, because
/// request-response keeps a connection in its table that a later behaviour denies.
#[derive(NetworkBehaviour)]
pub(crate) struct Net {
    limits: connection_limits::Behaviour,
    memory: Toggle<memory_connection_limits::Behaviour>,
    gate: Gate<Admitted>,
    /// Messages, which guests may use, too. It counts and bans nobody: the gate before it does.
    talk: Gate<request_response::Behaviour<Frames>>,
    hello: request_response::Behaviour<Frames>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    upnp: Toggle<upnp::tokio::Behaviour>,
}

/// Tells the network task what happened on streams that it does not see into.
#[derive(Clone)]
pub(crate) struct Moved(pub(crate) mpsc::Sender<Verdict>);

impl Moved {
    pub(crate) fn sent(&self, peer: PeerKey, bytes: u64) {
        let _lost_when_full = self.both(peer, bytes, 0);
    }

    pub(crate) fn received(&self, peer: PeerKey, bytes: u64) {
        let _lost_when_full = self.both(peer, 0, bytes);
    }

    /// Payload bytes; false when the task is too far behind to take them. A count for people: losing one does no harm.
    pub(crate) fn both(&self, peer: PeerKey, sent: u64, received: u64) -> bool {
        self.0.try_send(Verdict::Moved { peer, sent, received }).is_ok()
    }

    /// An offence. Lost when the task is too far behind; whoever keeps at it is noted the next time.
    pub(crate) fn offence(&self, peer: PeerKey, offence: Offence) {
        let _lost_when_full = self.0.try_send(Verdict::Offence { peer, offence });
    }
}

fn connection_limits(limits: &Limits) -> connection_limits::Behaviour {
    let numbers = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending))
        .with_max_pending_outgoing(Some(limits.pending))
        .with_max_established_incoming(Some(limits.established_in))
        .with_max_established_outgoing(Some(limits.established_out))
        .with_max_established(Some(limits.established))
        .with_max_established_per_peer(Some(limits.per_peer));
    connection_limits::Behaviour::new(numbers)
}

fn messages(memory: &Arc<Semaphore>) -> request_response::Behaviour<Frames> {
    let memory = Some(Arc::clone(memory));
    let frames = Frames { request_max: MESSAGE_MAX as u32, response_max: 16, memory };
    let config = request_response::Config::default()
        .with_request_timeout(MESSAGE_TIMEOUT)
        .with_max_concurrent_streams(MESSAGE_STREAMS);
    let protocols = [(MESSAGE, request_response::ProtocolSupport::Full)];
    request_response::Behaviour::with_codec(frames, protocols, config)
}

fn hello(limits: &Limits) -> request_response::Behaviour<Frames> {
    let frames =
        Frames { request_max: HELLO_FRAME_MAX, response_max: HELLO_FRAME_MAX, memory: None };
    let config = request_response::Config::default()
        .with_request_timeout(limits.hello_timeout)
        .with_max_concurrent_streams(HELLO_STREAMS);
    let protocols = [(HELLO, request_response::ProtocolSupport::Full)];
    request_response::Behaviour::with_codec(frames, protocols, config)
}

/// QUIC's window of a connection. Tunnels may stand unread for hours, and what they hold must leave room for everything else.
fn connection_bytes(limits: &Limits) -> u32 {
    let window = limits.quic_stream_bytes;
    let tunnels = limits.tunnels_in_per_peer.saturating_add(limits.tunnels_out_per_peer);
    window
        .saturating_add(window / 2)
        .saturating_add(tunnels.saturating_mul(WINDOW_BYTES))
        .saturating_add(limits.tunnel_window_bytes)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn behaviour(
    (config, message_memory): (&Config, &Arc<Semaphore>),
    key: &identity::Keypair,
    circuit: circuit::client::Behaviour,
) -> Result<Net, BoxError> {
    let limits = &config.limits;
    let me = key.public().to_peer_id();
    let admitted = Admitted {
        gossip: gossip::behaviour(&config.topic_prefix)?,
        circuit,
        punch: dcutr::Behaviour::new(me),
        streams: libp2p_stream::Behaviour::new(),
        dht: dht::Behaviour::new(me, &config.topic_prefix)?,
    };
    let mdns = match config.mdns {
        true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), me)?),
        false => None,
    };
    let ping = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT);
    let identify = identify::Config::new(IDENTIFY.into(), key.public())
        .with_agent_version(concat!("opencloud/", env!("CARGO_PKG_VERSION")).into())
        .with_push_listen_addr_updates(true);
    Ok(Net {
        limits: connection_limits(limits),
        memory: limits.memory_bytes.map(memory_connection_limits::Behaviour::with_max_bytes).into(),
        gate: Gate::new(admitted, limits.probation, limits.probation_per_network)
            .bounded(limits.per_peer),
        talk: Gate::new(messages(message_memory), u32::MAX, u32::MAX),
        hello: hello(limits),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
        mdns: mdns.into(),
        upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
    })
}

/// What the network task stands on: the swarm, and what outlives it.
pub(crate) struct Ground {
    pub(crate) swarm: Swarm<Net>,
    pub(crate) listening: Listening,
    pub(crate) streams: Streams,
    pub(crate) message_memory: Arc<Semaphore>,
}

impl Ground {
    /// Builds it and listens; needs a tokio runtime around it.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let message_memory = Arc::new(Semaphore::new(config.limits.message_memory_bytes as usize));
        let mut swarm = swarm(config, &message_memory)?;
        let listening = Listening::open(&mut swarm, &config.listen)?;
        let streams = Streams::new(control(&swarm));
        Ok(Self { swarm, listening, streams, message_memory })
    }
}

/// Builds a swarm. The network task does it again when it begins anew, so all of its state must follow from the arguments.
fn swarm(config: &Config, message_memory: &Arc<Semaphore>) -> Result<Swarm<Net>, StartError> {
    let mut seed = config.secret;
    let key = identity::Keypair::ed25519_from_bytes(&mut seed)
        .map_err(|source| StartError::Network { source: source.into() })?;
    let window = config.limits.quic_stream_bytes;
    // Yamux's windows begin at 256 KiB and grow to twice what the path holds, all of one connection together to 1 GiB at
    // most, and only as fast as this side reads. libp2p lets neither number be set.
    let builder = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|source| StartError::Network { source: source.into() })?
        .with_quic_config(|mut quic| {
            quic.max_idle_timeout = QUIC_IDLE_MS;
            quic.keep_alive_interval = QUIC_KEEP_ALIVE;
            quic.max_stream_data = window;
            quic.max_connection_data = connection_bytes(&config.limits);
            quic
        });
    // The two builders are of different types that have no names.
    macro_rules! build {
        ($builder:expr) => {
            $builder
                .with_relay_client(noise::Config::new, yamux::Config::default)
                .map_err(|source| StartError::Network { source: source.into() })?
                .with_behaviour(|key, circuit| behaviour((config, message_memory), key, circuit))
                .map_err(|source| StartError::Network { source: source.into() })?
                .with_swarm_config(|c| c.with_idle_connection_timeout(IDLE).with_smart_dial())
                .with_connection_timeout(CONNECT_TIMEOUT)
                .build()
        };
    }
    // Without a resolver names fail, and everything else works.
    if dns::tokio::Transport::system(()).is_err() {
        tracing::warn!("this machine resolves no names: addresses of peers by name are of no use");
        return Ok(build!(builder));
    }
    let builder = builder.with_dns();
    Ok(build!(builder.map_err(|source| StartError::Network { source: source.into() })?))
}

/// A way to open and to accept streams of this swarm.
fn control(swarm: &Swarm<Net>) -> libp2p_stream::Control {
    swarm.behaviour().gate.inner.streams.new_control()
}

/// Starts what serves relays and tests of addresses, and gives what the network task needs of it.
pub(crate) fn reaching(
    streams: &mut Streams,
    config: &Config,
    commands: &mpsc::Sender<Command>,
    terms: &Arc<TermsBook>,
) -> Result<reaching::Reaching, StartError> {
    let asking = Asking::new(commands);
    let prober = probe::Prober::start(&config.secret, asking.clone())?;
    tokio::spawn(prober.serve(streams.accept(probe::PROBE)));
    let relay = config.relay.map(|limits| {
        let relay = Relay::new(limits, streams.opener(), asking, Arc::clone(terms));
        tokio::spawn(Arc::clone(&relay).serve(streams.accept(HOP)));
        relay
    });
    let announced = config.announce.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    let wishes = Wishes { announced, is_relayed: config.use_relays };
    Ok(reaching::Reaching::new(wishes, relay, streams.opener()))
}

fn parse(text: &str) -> Result<Multiaddr, StartError> {
    let address = text.parse::<Multiaddr>();
    address.map(bare).map_err(|_| StartError::Address { text: text.to_owned() })
}
