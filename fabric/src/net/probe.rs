//! Tests of addresses, both sides of them: `/opencloud/probe/1`. What it is for: [`crate::reach`].
//!
//! One stream for each request: the number of addresses (1 byte, at most [`PROBE_ADDRESSES_MAX`]), then each as its length
//! (2 bytes, big endian) and its bytes; the answer is one byte for each: 0 reached, 1 not reached, 2 not tried.
//!
//! What dials is a swarm of its own, with an identity and ports that the tested node has never talked to: what its router
//! lets in for the asking peer would prove nothing. It does no more than the handshake, which proves who answers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent, dummy};
use libp2p::{Multiaddr, Stream, StreamProtocol, Swarm, SwarmBuilder, identity, noise, tcp, yamux};
use libp2p_stream::Control;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Asking, Incoming};
use crate::error::StartError;
use crate::key::PeerKey;
use crate::places::Places;
use crate::reach::PROBE_ADDRESSES_MAX;
use crate::reach::address;

pub(crate) const PROBE: StreamProtocol = StreamProtocol::new("/opencloud/probe/1");
/// How long one dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a whole request may take its asker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer has for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in work at once, of all peers and of one. Beyond it they are dropped, and their askers ask again later.
const REQUESTS: (u32, u32) = (16, 1);
/// Dials that wait; there are never more, by the bound on requests.
const DIALS: usize = 64;
/// Longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = 256;

const REACHED: u8 = 0;
const MISSED: u8 = 1;
const NOT_TRIED: u8 = 2;

struct Dial {
    peer: PeerKey,
    address: Multiaddr,
    reply: oneshot::Sender<bool>,
}

/// Serves requests until the network ends.
pub(crate) struct Prober {
    asking: Asking,
    dials: mpsc::Sender<Dial>,
}

impl Prober {
    /// `seed` is this node's secret; the identity that dials is derived from it.
    pub(crate) fn start(seed: &[u8; 32], asking: Asking) -> Result<Arc<Self>, StartError> {
        let mut seed = blake3::derive_key("opencloud 2026 identity of address tests", seed);
        let failed = |source| StartError::Network { source };
        let key = identity::Keypair::ed25519_from_bytes(&mut seed).map_err(|e| failed(e.into()))?;
        let swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .map_err(|source| failed(source.into()))?
            .with_quic()
            .with_behaviour(|_| dummy::Behaviour)
            .map_err(|source| failed(source.into()))?
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::ZERO))
            .with_connection_timeout(DIAL_TIMEOUT)
            .build();
        let (dials, queue) = mpsc::channel(DIALS);
        tokio::spawn(dial_all(swarm, queue));
        Ok(Arc::new(Self { asking, dials }))
    }

    pub(crate) async fn serve(self: Arc<Self>, incoming: Incoming) {
        let answer = |peer, stream| {
            let prober = Arc::clone(&self);
            async move {
                if let Err(error) = prober.answer(peer, stream).await {
                    tracing::debug!(%peer, %error, "addresses were not tested");
                }
            }
        };
        incoming.serve(Places::new(REQUESTS.0, REQUESTS.1), answer).await;
    }

    async fn answer(&self, peer: PeerKey, mut stream: Stream) -> io::Result<()> {
        let addresses = timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await??;
        let from = self.asking.remote_ips(peer).await;
        let tests = addresses.into_iter().map(|address| self.test(peer, &from, address));
        let answer = futures::future::join_all(tests).await;
        timeout(REQUEST_TIMEOUT, stream.write_all(&answer)).await??;
        timeout(REQUEST_TIMEOUT, stream.close()).await?
    }

    async fn test(&self, peer: PeerKey, from: &[IpAddr], address: Multiaddr) -> u8 {
        let parts = address::ip(&address).zip(address::transport(&address));
        let Some((ip, port)) = parts.filter(|(ip, _)| from.contains(ip)) else {
            return NOT_TRIED;
        };
        let (reply, answer) = oneshot::channel();
        // Put together anew, so that nothing but IP, transport and port is dialled.
        let dial = Dial { peer, address: address::direct(ip, port), reply };
        if self.dials.send(dial).await.is_err() {
            return NOT_TRIED;
        }
        match answer.await {
            Ok(true) => REACHED,
            Ok(false) => MISSED,
            Err(_) => NOT_TRIED,
        }
    }
}

async fn dial_all(mut swarm: Swarm<dummy::Behaviour>, mut queue: mpsc::Receiver<Dial>) {
    let mut waiting: HashMap<ConnectionId, oneshot::Sender<bool>> = HashMap::new();
    let settle = |waiting: &mut HashMap<_, oneshot::Sender<bool>>, id, is_reached| {
        if let Some(reply) = waiting.remove(&id) {
            // Whoever asked may be gone.
            let _nobody_waits = reply.send(is_reached);
        }
    };
    loop {
        tokio::select! {
            dial = queue.recv() => {
                let Some(Dial { peer, address, reply }) = dial else {
                    return;
                };
                let opts = DialOpts::peer_id(peer.to_peer_id())
                    .addresses(vec![address])
                    .condition(PeerCondition::Always)
                    .allocate_new_port()
                    .build();
                let id = opts.connection_id();
                waiting.insert(id, reply);
                if swarm.dial(opts).is_err() {
                    settle(&mut waiting, id, false);
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    settle(&mut waiting, connection_id, true);
                    swarm.close_connection(connection_id);
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    tracing::debug!(%error, "an address was not reached");
                    settle(&mut waiting, connection_id, false);
                }
                _ => {}
            }
        }
    }
}

pub(crate) async fn read_request(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Vec<Multiaddr>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut count = [0];
    from.read_exact(&mut count).await?;
    if usize::from(count[0]) > PROBE_ADDRESSES_MAX {
        return Err(bad("too many addresses"));
    }
    let mut addresses = Vec::new();
    for _ in 0..count[0] {
        let mut length = [0; 2];
        from.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > ADDRESS_BYTES_MAX {
            return Err(bad("an address is too long"));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await?;
        addresses.push(Multiaddr::try_from(bytes).map_err(|_| bad("an address makes no sense"))?);
    }
    Ok(addresses)
}

/// Asks a peer to dial addresses of this node; `None` for each that it did not.
pub(crate) async fn ask(
    control: Control,
    peer: PeerKey,
    addresses: Vec<Multiaddr>,
) -> Vec<(Multiaddr, Option<bool>)> {
    let answer = match timeout(ANSWER_TIMEOUT, exchange(control, peer, &addresses)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a peer does not test addresses");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let mut answer = answer.into_iter();
    let results = addresses.into_iter().map(|address| {
        let result = match answer.next() {
            Some(REACHED) => Some(true),
            Some(MISSED) => Some(false),
            _ => None,
        };
        (address, result)
    });
    results.collect()
}

async fn exchange(
    mut control: Control,
    peer: PeerKey,
    addresses: &[Multiaddr],
) -> io::Result<Vec<u8>> {
    let opened = control.open_stream(peer.to_peer_id(), PROBE).await;
    let mut stream = opened.map_err(io::Error::other)?;
    let mut request = vec![u8::try_from(addresses.len()).unwrap_or(0)];
    for address in addresses {
        let bytes = address.to_vec();
        request.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        request.extend(bytes);
    }
    stream.write_all(&request).await?;
    stream.close().await?;
    let mut answer = vec![0; addresses.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
