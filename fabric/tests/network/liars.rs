//! Peers that do not keep to the protocols: swarms of our own making, with raw bytes.

use std::io;
use std::time::Duration;

use fabric::{RefusedWhy, SendError};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{Codec, Config, Event, Message, OutboundFailure, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, request_response, tcp, yamux,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{DEADLINE, Node, Seen, Transport, config, eventually};

pub(crate) const HELLO: &str = "/opencloud/hello/1";
pub(crate) const MESSAGE: &str = "/opencloud/message/1";
pub(crate) const PRESENT: u8 = 1;
const CONFIRM: u8 = 2;
const LEAVE: u8 = 3;

/// Sends bytes as they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read_response(&StreamProtocol::new(HELLO), io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut all = Vec::new();
        io.take(1 << 20).read_to_end(&mut all).await?;
        Ok(all)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Lies {
    hello: request_response::Behaviour<Raw>,
    message: request_response::Behaviour<Raw>,
    streams: libp2p_stream::Behaviour,
}

pub(crate) struct Liar {
    swarm: Swarm<Lies>,
    pub(crate) victim: PeerId,
}

impl Liar {
    pub(crate) async fn connect(to: &Node) -> Self {
        let mut liar = Self::dial(to);
        liar.until(|e| matches!(e, SwarmEvent::ConnectionEstablished { .. }).then_some(())).await;
        liar
    }

    /// A liar whose connection is under way.
    pub(crate) fn dial(to: &Node) -> Self {
        let raw = |name| {
            let config = Config::default().with_request_timeout(DEADLINE);
            request_response::Behaviour::new(
                [(StreamProtocol::new(name), ProtocolSupport::Full)],
                config,
            )
        };
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| Lies {
                hello: raw(HELLO),
                message: raw(MESSAGE),
                streams: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
            .build();
        swarm.dial(to.addresses[0].parse::<Multiaddr>().unwrap()).unwrap();
        Self { swarm, victim: to.me.to_string().parse().unwrap() }
    }

    pub(crate) fn key(&self) -> fabric::PeerKey {
        self.swarm.local_peer_id().to_string().parse().unwrap()
    }

    async fn until<T>(&mut self, what: impl Fn(&SwarmEvent<LiesEvent>) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = what(&self.swarm.select_next_some().await) {
                    return found;
                }
            }
        };
        timeout(DEADLINE, waiting).await.expect("it happens")
    }

    pub(crate) async fn closed(&mut self) {
        self.until(|e| matches!(e, SwarmEvent::ConnectionClosed { .. }).then_some(())).await;
    }

    /// Sends on the hello protocol; gives the answer, or `None` when there is none.
    pub(crate) async fn hello(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.swarm.behaviour_mut().hello.send_request(&self.victim, bytes);
        self.until(answered).await
    }

    pub(crate) async fn message(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.swarm.behaviour_mut().message.send_request(&self.victim, bytes);
        self.until(answered).await
    }

    /// Dials again; whether a connection came to be that lasted for one answer on the hello protocol.
    pub(crate) async fn is_heard_again(&mut self, by: &Node) -> bool {
        self.swarm.dial(by.addresses[0].parse::<Multiaddr>().unwrap()).unwrap();
        let refused = self.until(|e| match e {
            SwarmEvent::ConnectionEstablished { .. } => Some(false),
            SwarmEvent::OutgoingConnectionError { .. } => Some(true),
            _ => None,
        });
        !refused.await && self.hello(frame(PRESENT, b"yes")).await.is_some()
    }

    /// Sends so many messages without waiting for an answer to any.
    pub(crate) fn shout(&mut self, n: usize) {
        for at in 0..n {
            let bytes = framed(format!("shout {at}").as_bytes());
            self.swarm.behaviour_mut().message.send_request(&self.victim, bytes);
        }
    }

    /// Becomes admitted, as an honest peer would.
    pub(crate) async fn be_admitted(&mut self) {
        let accepted = self.hello(frame(PRESENT, b"yes")).await.unwrap();
        assert_eq!((accepted[4], &accepted[13..]), (1, &b"welcome"[..]));
        let confirmed = self.hello(frame(CONFIRM, b"")).await.unwrap();
        assert_eq!(confirmed[4], 4);
    }
}

impl Liar {
    /// A way to raw streams.
    pub(crate) fn streams(&self) -> libp2p_stream::Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// Does what swarms do, until it is dropped.
    pub(crate) fn drive(mut self) -> JoinSet<()> {
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            loop {
                self.swarm.select_next_some().await;
            }
        });
        driving
    }
}

fn answered(event: &SwarmEvent<LiesEvent>) -> Option<Option<Vec<u8>>> {
    let SwarmEvent::Behaviour(LiesEvent::Hello(event) | LiesEvent::Message(event)) = event else {
        return None;
    };
    match event {
        Event::Message { message: Message::Response { response, .. }, .. } => {
            Some(Some(response.clone()).filter(|r| !r.is_empty()))
        }
        Event::OutboundFailure { error, .. } => {
            let is_silence =
                matches!(error, OutboundFailure::Io(_) | OutboundFailure::ConnectionClosed);
            assert!(is_silence, "{error:?}");
            Some(None)
        }
        _ => None,
    }
}

pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    framed(&[&[kind], &42_u64.to_be_bytes()[..], payload].concat())
}

#[tokio::test]
async fn who_never_presents_itself_is_closed() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_millis(300);
    let mut node = Node::with(hurried).await;
    let mut liar = Liar::connect(&node).await;
    liar.closed().await;
    let refused = Seen::Refused(liar.key(), RefusedWhy::HelloTimeout);
    node.until(|s| *s == refused).await;
    assert!(node.info(liar.key()).await.is_none());
}

#[tokio::test]
async fn who_is_not_admitted_is_not_listened_to() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_millis(700);
    let mut node = Node::with(hurried).await;
    let mut liar = Liar::connect(&node).await;
    // More streams than are parked; none is answered before the connection ends.
    for _ in 0..40 {
        let behaviour = liar.swarm.behaviour_mut();
        behaviour.message.send_request(&liar.victim, framed(b"let me in"));
    }
    liar.closed().await;
    node.until(|s| matches!(s, Seen::Refused(..))).await;
    assert!(!node.drain().iter().any(|s| matches!(s, Seen::Message(..))));
}

#[tokio::test]
async fn early_messages_wait_for_the_admission() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.swarm.behaviour_mut().message.send_request(&liar.victim, framed(b"early"));
    liar.be_admitted().await;
    let early = node.until(|s| matches!(s, Seen::Message(..))).await;
    assert_eq!(early, Seen::Message(liar.key(), b"early".to_vec()));
    let connected = Seen::Connected(liar.key());
    let place = |what: &Seen| node.log.iter().position(|s| s == what).unwrap();
    assert!(place(&connected) < place(&early));
}

#[tokio::test]
async fn confirming_what_nobody_accepted_admits_nobody() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    assert_eq!(liar.hello(frame(CONFIRM, b"")).await.unwrap()[4], 5);
    let refused = liar.hello(frame(PRESENT, b"no")).await.unwrap();
    assert_eq!((refused[4], &refused[13..]), (2, &b"go away"[..]));
    assert_eq!(liar.hello(frame(CONFIRM, b"")).await.unwrap()[4], 5);
    assert!(!node.drain().iter().any(|s| matches!(s, Seen::Connected(_))));
    let sent = node.fabric.send(liar.key(), vec![]).await;
    assert_eq!(sent, Err(SendError::NotConnected { peer: liar.key() }));
}

#[tokio::test]
async fn oversized_messages_are_not_read_and_end_in_a_ban() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let before = node.info(liar.key()).await.unwrap().score;
    let announced = [0x00, 0x10, 0x00, 0x01, 1, 2, 3];
    let answer = liar.message(announced.to_vec()).await.unwrap();
    assert_eq!(answer, framed(&[2]));
    assert_eq!(node.info(liar.key()).await.unwrap().score, before - 20);
    for _ in 0..4 {
        liar.message(announced.to_vec()).await;
    }
    let ended = Seen::Disconnected(liar.key());
    node.until(|s| *s == ended).await;
    assert!(node.info(liar.key()).await.unwrap().banned.is_some());
    assert!(!node.log.iter().any(|s| matches!(s, Seen::Message(..))));
}

#[tokio::test]
async fn nonsense_on_the_hello_ends_in_a_ban() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    for nonsense in
        [vec![0xff; 9], framed(b""), framed(b"x"), frame(LEAVE, b"x"), frame(CONFIRM, b"x")]
    {
        assert_eq!(liar.hello(nonsense).await, None);
    }
    eventually("the liar is banned", async || {
        node.info(liar.key()).await.is_some_and(|i| i.banned.is_some())
    })
    .await;
    assert!(!node.drain().iter().any(|s| matches!(s, Seen::Hello(..))));
}

#[tokio::test]
async fn only_so_many_may_wait_for_their_hello() {
    let mut small = config(Transport::Tcp);
    small.limits.probation = 2;
    let mut node = Node::with(small).await;
    let (mut one, _two) = (Liar::connect(&node).await, Liar::connect(&node).await);
    eventually("two wait", async || node.fabric.peers().await.len() == 2).await;
    let mut three = Liar::connect(&node).await;
    three.closed().await;
    let refused = Seen::Refused(three.key(), RefusedWhy::ProbationFull);
    node.until(|s| *s == refused).await;
    // An admitted peer no longer waits.
    one.be_admitted().await;
    let mut four = Liar::connect(&node).await;
    four.be_admitted().await;
    let admitted = Seen::Connected(four.key());
    node.until(|s| *s == admitted).await;
}

/// A restarted peer names its period anew; the application must hear of it.
#[tokio::test]
async fn a_new_generation_is_a_new_period() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    liar.be_admitted().await;
    let other =
        |kind, payload: &[u8]| framed(&[&[kind], &43_u64.to_be_bytes()[..], payload].concat());
    liar.hello(other(PRESENT, b"yes")).await.unwrap();
    liar.hello(other(CONFIRM, b"")).await.unwrap();
    let (gone, here) = (Seen::Disconnected(liar.key()), Seen::Connected(liar.key()));
    node.until(|s| *s == gone).await;
    node.until(|s| *s == here).await;
    assert_eq!(node.log.iter().filter(|s| **s == here).count(), 2, "{:?}", node.log);
}

#[tokio::test]
async fn who_leaves_closes_its_own_connections_and_nobody_elses() {
    let mut node = Node::start(Transport::Tcp).await;
    let mut one = Liar::connect(&node).await;
    let mut other = Liar::connect(&node).await;
    one.be_admitted().await;
    other.be_admitted().await;
    assert_eq!(one.hello(frame(LEAVE, b"")).await, None);
    let gone = Seen::Disconnected(one.key());
    node.until(|s| *s == gone).await;
    assert_eq!(other.message(framed(b"still here")).await.unwrap(), framed(&[0]));
    // It is no offence, also before the hello.
    let mut three = Liar::connect(&node).await;
    assert_eq!(three.hello(frame(LEAVE, b"")).await, None);
    eventually("its connection is closed", async || node.info(three.key()).await.is_none()).await;
    let standings = node.fabric.peers().await;
    assert!(standings.iter().all(|peer| peer.score >= 0), "{standings:?}");
}
