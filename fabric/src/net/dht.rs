//! Who has content of an exact hash: Kademlia, for members only, with its mode set by this node.
//!
//! The messages are libp2p's (`FIND_NODE`, `GET_PROVIDERS`, `ADD_PROVIDER`), on a protocol of our own name. Of what it can do
//! only provider records of keys of 32 bytes are used: no values, no addresses. Where members are is known otherwise; here a
//! member's name is all that travels, so nothing that somebody says here is ever dialled.
//!
//! ## States
//!
//! A node **answers** (it is asked, and keeps records of others) while it can be dialled directly: at an address that was
//! reached from outside, or within the network where all its peers are; a relay that leads to it is not enough. Otherwise it
//! only **asks**. Peers that answer come into its table when they are admitted.
//!
//! A key that this node provides is told to the [`REPLICATION`] nearest nodes every [`REPUBLISH`], and sooner while the table
//! is small and grows. Each of them keeps it for [`KEEP`]. A key that is provided no more is not told again, and is forgotten
//! in that time.
//!
//! A search that comes to a member that is not connected asks the application for it ([`Event::Wanted`]), and goes on without
//! it after [`WANTED_TIME`]. It ends after [`SEARCH_TIME`] at the latest, with what it has found.
//!
//! ## Invariant
//!
//! Nothing of it goes to or comes from a peer that is not admitted: it is behind the gate. A record is kept only from its
//! provider itself. A banned peer's records are dropped, and it is in no answer to the application.
//!
//! ## What a liar can do
//!
//! - Say that it provides what it has not: whoever fetches finds out at the first byte, as content is verified, and goes on.
//! - Name others as providers in its answers, or hide them: the same, and a search takes several ways that share no member.
//! - Fill its own share of a node's store (256 keys), never another's; all of a node's store by very many admitted peers.
//! - Have a node look for members that are away: at most [`WANTED_MAX`] at once, whom only the application dials, if it knows
//!   and wants them.
//! - Ask as often as it likes on at most 32 streams of a connection; an answer is some hundred bytes from memory.

mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::kad::{
    self, BucketInserts, GetProvidersOk, InboundRequest, Mode, QueryId, QueryResult, RecordKey,
    StoreInserts,
};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::actor::{Actor, answer};
use crate::error::{DhtError, StartError};
use crate::event::Event;
use crate::key::PeerKey;
use store::{Store, nowhere};

/// Nodes that a key is told to.
const REPLICATION: NonZeroUsize = NonZeroUsize::new(8).expect("it is not zero");
/// How often a key is told again. At [`PROVIDED_MAX`] keys it costs about 0.1 KiB/s.
const REPUBLISH: Duration = Duration::from_secs(2 * 3600);
/// How long others keep it: two tellings may fail.
const KEEP: Duration = Duration::from_secs(6 * 3600);
/// How soon a key is told again that reached nobody.
const RETRY: Duration = Duration::from_secs(60);
/// How long to wait for more peers before keys are told to new ones.
const GATHER: Duration = Duration::from_secs(1);
/// How often the table is refreshed: some 50 questions each time.
const REFRESH: Duration = Duration::from_secs(6 * 3600);
/// Keys that this node provides. More are an error.
pub const PROVIDED_MAX: usize = 128;
/// Keys told at once; further ones wait for their turn.
const PUBLISHING_MAX: usize = 2;
/// Searches at once. More are an error.
const SEARCHES_MAX: usize = 16;
/// Providers that one search gives. It ends as soon as it has so many.
pub const PROVIDERS_MAX: usize = 16;
/// How long a search takes at most.
const SEARCH_TIME: Duration = Duration::from_secs(10);
/// Members at once that searches wait for. They go on without further ones.
const WANTED_MAX: usize = 16;
/// How long a search waits for a member.
const WANTED_TIME: Duration = Duration::from_secs(3);
/// Largest message, in bytes. Larger ones end the stream.
const PACKET_MAX: usize = 8 << 10;

type Reply<T> = oneshot::Sender<T>;

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Ask {
    Provide { key: [u8; 32], reply: Reply<Result<(), DhtError>> },
    StopProviding { key: [u8; 32] },
    Providers { key: [u8; 32], limit: usize, reply: Reply<Result<Vec<PeerKey>, DhtError>> },
    View(Reply<DhtView>),
}

/// What a node knows of who has what, as it is told to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtView {
    /// Whether others ask it.
    pub is_answering: bool,
    /// Peers in its table.
    pub peers: usize,
    /// Keys that it provides.
    pub provided: usize,
    /// Records of others that it keeps.
    pub kept: usize,
}

/// What the behaviour tells the network task.
#[derive(Debug)]
pub(crate) enum DhtEvent {
    /// A search needs a member that is not connected.
    Wanted(PeerKey),
    /// A search ended.
    Found { providers: BTreeSet<PeerKey>, reply: Reply<Result<Vec<PeerKey>, DhtError>> },
}

struct Search {
    limit: usize,
    found: BTreeSet<PeerKey>,
    reply: Reply<Result<Vec<PeerKey>, DhtError>>,
}

/// Kademlia without its own will: it dials nobody, tells no address, and chooses neither its mode nor its peers.
pub(crate) struct Behaviour {
    me: PeerId,
    kad: kad::Behaviour<Store>,
    /// Keys that this node provides, and when each is told next.
    provided: BTreeMap<[u8; 32], Instant>,
    publishing: HashMap<QueryId, [u8; 32]>,
    searches: HashMap<QueryId, Search>,
    /// Members that searches wait for, and until when.
    wanted: BTreeMap<PeerId, (ConnectionId, Instant)>,
    out: VecDeque<DhtEvent>,
    timer: Pin<Box<Sleep>>,
}

impl Behaviour {
    /// Needs a tokio runtime around it.
    pub(super) fn new(me: PeerId, prefix: &str) -> Result<Self, StartError> {
        let name = StreamProtocol::try_from_owned(format!("{prefix}kad/1"))
            .map_err(|source| StartError::Network { source: source.into() })?;
        let mut config = kad::Config::new(name);
        config
            .disjoint_query_paths(true)
            .set_record_filtering(StoreInserts::FilterBoth)
            .set_kbucket_inserts(BucketInserts::Manual)
            .set_caching(kad::Caching::Disabled)
            .set_replication_factor(REPLICATION)
            .set_query_timeout(SEARCH_TIME)
            .set_max_packet_size(PACKET_MAX)
            .set_provider_record_ttl(Some(KEEP))
            .set_provider_publication_interval(None)
            .set_replication_interval(None)
            .set_publication_interval(None)
            .set_periodic_bootstrap_interval(Some(REFRESH));
        let mut kad = kad::Behaviour::with_config(me, Store::new(me), config);
        kad.set_mode(Some(Mode::Client));
        Ok(Self {
            me,
            kad,
            provided: BTreeMap::new(),
            publishing: HashMap::new(),
            searches: HashMap::new(),
            wanted: BTreeMap::new(),
            out: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep(REFRESH)),
        })
    }

    /// Whether others may ask this node.
    pub(super) fn serve(&mut self, is_answering: bool) {
        let mode = if is_answering { Mode::Server } else { Mode::Client };
        if self.kad.mode() != mode {
            tracing::debug!(%mode, "who has what is asked of this node, or no longer");
            self.kad.set_mode(Some(mode));
        }
    }

    /// Takes over what an earlier one provided; its searches end.
    pub(super) fn inherit(&mut self, old: &mut Self) {
        let now = Instant::now();
        self.provided = std::mem::take(&mut old.provided).into_keys().map(|k| (k, now)).collect();
    }

    /// Forgets a peer and what it said.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.kad.remove_peer(peer);
        self.kad.store_mut().forget(peer);
    }

    fn provide(&mut self, key: [u8; 32]) -> Result<(), DhtError> {
        if self.provided.len() >= PROVIDED_MAX && !self.provided.contains_key(&key) {
            return Err(DhtError::Full { limit: PROVIDED_MAX });
        }
        self.provided.entry(key).or_insert_with(Instant::now);
        Ok(())
    }

    fn stop_providing(&mut self, key: [u8; 32]) {
        self.provided.remove(&key);
        self.kad.stop_providing(&RecordKey::new(&key));
    }

    fn search(
        &mut self,
        key: [u8; 32],
        limit: usize,
        reply: Reply<Result<Vec<PeerKey>, DhtError>>,
    ) {
        if self.searches.len() >= SEARCHES_MAX {
            return answer(reply, Err(DhtError::Busy { limit: SEARCHES_MAX }));
        }
        let id = self.kad.get_providers(RecordKey::new(&key));
        let limit = limit.min(PROVIDERS_MAX);
        self.searches.insert(id, Search { limit, found: BTreeSet::new(), reply });
    }

    fn n_peers(&mut self) -> usize {
        self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    fn view(&mut self) -> DhtView {
        DhtView {
            is_answering: self.kad.mode() == Mode::Server,
            peers: self.n_peers(),
            provided: self.provided.len(),
            kept: self.kad.store_mut().n_records(),
        }
    }

    /// An admitted peer answers.
    fn learn(&mut self, peer: PeerId, now: Instant) {
        let before = self.n_peers();
        self.kad.add_address(&peer, nowhere(peer));
        if before < REPLICATION.get() && self.n_peers() > before {
            // Few know what this node provides yet: the new one is among the nearest of every key.
            let soon = now + GATHER;
            self.provided.values_mut().for_each(|at| *at = soon.min(*at));
        }
    }

    fn on_dial(&mut self, opts: &DialOpts, now: Instant) {
        let Some(peer) = opts.get_peer_id() else {
            return;
        };
        if self.wanted.contains_key(&peer) {
            return;
        }
        let wanted = PeerKey::from_peer_id(&peer).filter(|_| self.wanted.len() < WANTED_MAX);
        match wanted {
            Some(key) => {
                self.wanted.insert(peer, (opts.connection_id(), now + WANTED_TIME));
                self.out.push_back(DhtEvent::Wanted(key));
            }
            None => self.give_up(peer, opts.connection_id()),
        }
    }

    /// Has the searches go on without a member.
    fn give_up(&mut self, peer: PeerId, connection_id: ConnectionId) {
        let error = &DialError::Aborted;
        let failure = DialFailure { peer_id: Some(peer), error, connection_id };
        self.kad.on_swarm_event(FromSwarm::DialFailure(failure));
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        let overdue = self.wanted.iter().filter(|(_, (_, until))| *until <= now);
        let overdue: Vec<(PeerId, ConnectionId)> =
            overdue.map(|(peer, (id, _))| (*peer, *id)).collect();
        for (peer, id) in overdue {
            self.wanted.remove(&peer);
            self.give_up(peer, id);
        }
        while let Some(key) = self.due().filter(|(_, at)| *at <= now).map(|(key, _)| key) {
            let told = self.kad.start_providing(RecordKey::new(&key));
            let again = if told.is_ok() { REPUBLISH } else { RETRY };
            if let Ok(id) = told {
                self.publishing.insert(id, key);
            }
            self.provided.insert(key, now + again);
        }
    }

    /// The key that is told next, and when; none while there is nobody to tell or enough is under way.
    fn due(&mut self) -> Option<([u8; 32], Instant)> {
        let first = self.provided.iter().min_by_key(|(_, at)| **at).map(|(key, at)| (*key, *at))?;
        let may_tell = self.publishing.len() < PUBLISHING_MAX && self.n_peers() > 0;
        may_tell.then_some(first)
    }

    fn next(&mut self) -> Option<Instant> {
        let told = self.due().map(|(_, at)| at);
        self.wanted.values().map(|(_, until)| *until).chain(told).min()
    }

    fn on_kad(&mut self, event: kad::Event, now: Instant) {
        match event {
            // Whoever says so is past the gate: before, nobody hears its handler.
            kad::Event::RoutablePeer { peer, .. }
            | kad::Event::PendingRoutablePeer { peer, .. }
            | kad::Event::UnroutablePeer { peer } => self.learn(peer, now),
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => self.kad.store_mut().take(now, record),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => match result {
                QueryResult::GetProviders(found) => {
                    if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = found {
                        self.on_found(id, &providers);
                    }
                    if step.last {
                        self.end_search(id);
                    }
                }
                QueryResult::StartProviding(told) => {
                    let key = self.publishing.remove(&id);
                    let next = key.and_then(|key| self.provided.get_mut(&key));
                    if let (Some(next), Err(error)) = (next, told) {
                        tracing::debug!(%error, "a key was told to nobody");
                        *next = now + RETRY;
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn on_found<'a>(&mut self, id: QueryId, providers: impl IntoIterator<Item = &'a PeerId>) {
        let Some(search) = self.searches.get_mut(&id) else {
            return;
        };
        let others = providers.into_iter().filter(|peer| **peer != self.me);
        for peer in others.filter_map(PeerKey::from_peer_id) {
            if search.found.len() < search.limit {
                search.found.insert(peer);
            }
        }
        if search.found.len() >= search.limit {
            if let Some(mut query) = self.kad.query_mut(&id) {
                query.finish();
            }
            self.end_search(id);
        }
    }

    fn end_search(&mut self, id: QueryId) {
        if let Some(Search { found, reply, .. }) = self.searches.remove(&id) {
            self.out.push_back(DhtEvent::Found { providers: found, reply });
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<kad::Behaviour<Store>>;
    type ToSwarm = DhtEvent;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(id, peer, local, remote)
    }

    /// No address of it: what somebody said in an answer is never dialled.
    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.wanted.remove(&established.peer_id);
                self.kad.on_swarm_event(event);
            }
            FromSwarm::ConnectionClosed(_)
            | FromSwarm::AddressChange(_)
            | FromSwarm::DialFailure(_) => self.kad.on_swarm_event(event),
            // It tells nobody where this node is, and chooses no mode by it.
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.kad.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            let now = Instant::now();
            self.tick(now);
            match self.kad.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => self.on_kad(event, now),
                Poll::Ready(ToSwarm::Dial { opts }) => self.on_dial(&opts, now),
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event }) => {
                    return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
                }
                // Addresses, of which it has none.
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let Some(next) = self.next() else {
                        return Poll::Pending;
                    };
                    self.timer.as_mut().reset(next.into());
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Actor {
    pub(super) fn on_dht_ask(&mut self, ask: Ask) {
        let dht = &mut self.swarm.behaviour_mut().gate.inner.dht;
        match ask {
            Ask::Provide { key, reply } => answer(reply, dht.provide(key)),
            Ask::StopProviding { key } => dht.stop_providing(key),
            Ask::Providers { key, limit, reply } => dht.search(key, limit, reply),
            Ask::View(reply) => answer(reply, dht.view()),
        }
    }

    pub(super) fn on_dht(&mut self, event: DhtEvent) {
        match event {
            DhtEvent::Wanted(peer) => {
                let is_banned = self.peers.banned_for(Instant::now(), peer).is_some();
                if !is_banned && self.events.offer(Event::Wanted { peer }).is_err() {
                    tracing::debug!(%peer, "the application is too far behind to hear who is wanted");
                }
            }
            DhtEvent::Found { providers, reply } => {
                let now = Instant::now();
                let good = providers.into_iter();
                let good = good.filter(|peer| self.peers.banned_for(now, *peer).is_none());
                answer(reply, Ok(good.collect()));
            }
        }
    }
}
