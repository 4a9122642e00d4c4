//! A member of the realm that keeps to no rule: real papers, got with a ticket, and whatever messages a test makes up.

use std::time::Duration;

use catalog::cert::{Hello, HelloReply, Membership, NodeCert, RefuseCode, Ticket};
use catalog::log::{Head, LEASE_MS, NO_END_MS, Record, Version};
use catalog::papers::{Papers, papers_hash};
use catalog::sync::{Delta, SyncMessage};
use catalog::{Identity, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use fabric::{Config, Event, Fabric, PeerKey, SendError, Sources};
use node::engine::message::NodeMessage;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, channel};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Events that wait to be heard. Beyond it the liar listens no more until a test has heard some of them, and its victim is
/// told that it is busy.
const HEARD_MAX: usize = 4_096;
/// How long the papers hold.
const LIFE_MS: u64 = 24 * 3_600_000;

/// Its keys and its end of the network.
pub struct Liar {
    /// The node's key, which signs what it publishes.
    pub key: SigningKey,
    /// The organisation's.
    pub org_key: SigningKey,
    /// Who invited it: whom it lies to.
    pub victim: PeerKey,
    /// What it was told by the victim.
    pub ticket: Ticket,
    /// Its papers, once it was let in.
    pub identity: Identity,
    /// The network, for what is not done by the methods here.
    pub fabric: Fabric,
    /// What the victim says.
    heard: Receiver<Event>,
    runtime: Runtime,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liar").field("victim", &self.victim).finish_non_exhaustive()
    }
}

/// The time, Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Liar {
    /// A liar of an organisation of its own, told apart by `seed`, that has not spoken yet.
    ///
    /// # Panics
    /// When the ticket is none.
    #[must_use]
    pub fn new(ticket: &str, seed: u8) -> Self {
        let ticket: Ticket = ticket.parse().expect("a ticket");
        let (key, org_key) =
            (SigningKey::from_bytes(&[seed; 32]), SigningKey::from_bytes(&[!seed; 32]));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (to, heard) = channel(HEARD_MAX);
        let config = Config::new(key.to_bytes(), Vec::new());
        let (fabric, mut events) = runtime
            .block_on(async { fabric::start(config, Sources::default()) })
            .expect("a network");
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    // Whoever dials a liar is let in.
                    Event::Hello { respond, .. } => respond.accept(Vec::new()),
                    Event::Gossip { verdict, .. } => verdict.ignore(),
                    event => drop(to.send(event).await),
                }
            }
        });
        let cert = cert(&org_key, key.verifying_key().into());
        let identity = Identity { cert: cert.sign(&org_key), membership: Membership::default() };
        let victim = PeerKey::from_bytes(*ticket.node.as_bytes());
        Self { key, org_key, victim, ticket, identity, fabric, heard, runtime }
    }

    /// A liar that the victim has let in.
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn admitted(ticket: &str, seed: u8) -> Self {
        let mut liar = Self::new(ticket, seed);
        let hello = liar.hello(Some(liar.ticket.secret));
        let granted = liar.greet(&hello);
        liar.identity.membership =
            granted.expect("the ticket is good").expect("and brings a grant");
        liar
    }

    /// Its node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.key.verifying_key().into()
    }

    /// What it would present.
    #[must_use]
    pub fn hello(&self, secret: Option<[u8; 16]>) -> Hello {
        let Identity { cert, membership } = self.identity.clone();
        Hello { cert, realm: self.ticket.realm, membership, secret }
    }

    /// Presents something; what it was granted, or why it was refused.
    ///
    /// # Errors
    /// The code of the refusal.
    ///
    /// # Panics
    /// When the victim gives no answer that can be read.
    pub fn greet(&self, hello: &Hello) -> Result<Option<Membership>, RefuseCode> {
        self.greet_with(hello.encode())
    }

    /// The same with any bytes.
    ///
    /// # Errors
    /// The code of the refusal.
    ///
    /// # Panics
    /// When the victim gives no answer that can be read.
    pub fn greet_with(&self, hello: Vec<u8>) -> Result<Option<Membership>, RefuseCode> {
        // A connection that ended with a refusal is closed by the other side, a little later.
        super::wait_until(ANSWER_TIMEOUT, "no refused connection is left", || {
            let peers = self.wait(self.fabric.peers());
            peers.iter().all(|info| info.peer != self.victim || info.admitted)
        });
        let addresses = self.ticket.addresses.clone();
        let connecting = self.fabric.connect(self.victim, addresses, Some(hello));
        let answer = match self.runtime.block_on(connecting) {
            Ok(answer) => answer,
            Err(fabric::ConnectError::Refused(reply)) => reply,
            Err(error) => panic!("no answer: {error}"),
        };
        match HelloReply::decode(&answer).expect("an answer that can be read") {
            HelloReply::Accepted { granted, .. } => Ok(granted),
            HelloReply::Refused { code, .. } => Err(code),
        }
    }

    /// Sends bytes as a message.
    ///
    /// # Errors
    /// As [`Fabric::send`].
    pub fn send_bytes(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        self.runtime.block_on(self.fabric.send(self.victim, bytes))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As [`Fabric::send`].
    pub fn send(&self, message: &NodeMessage) -> Result<(), SendError> {
        self.send_bytes(message.encode())
    }

    /// Sends a message, again as long as the victim says that it is busy.
    ///
    /// # Panics
    /// When it cannot be sent for long.
    pub fn insist(&self, message: &NodeMessage) {
        super::wait_until(ANSWER_TIMEOUT, "the message is taken", || self.send(message).is_ok());
    }

    /// Waits for a message of the victim.
    ///
    /// # Panics
    /// When none comes for which `pick` gives something.
    pub fn hear<T>(&mut self, pick: impl Fn(NodeMessage) -> Option<T>) -> T {
        self.wait_for(|event| match event {
            Event::Message { payload, .. } => NodeMessage::decode(payload).ok().and_then(&pick),
            _ => None,
        })
    }

    /// Waits until the victim has closed the connection.
    ///
    /// # Panics
    /// When it does not.
    pub fn is_thrown_out(&mut self) {
        self.wait_for(|event| matches!(event, Event::Disconnected { .. }).then_some(()));
    }

    fn wait_for<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let heard = &mut self.heard;
        let waiting = async {
            loop {
                let event = heard.recv().await.expect("the network runs");
                if let Some(found) = pick(&event) {
                    return found;
                }
            }
        };
        let found =
            self.runtime.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, waiting).await });
        found.expect("the victim does it in time")
    }

    /// Does something on the network and waits for it.
    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// A head that says nothing but that it is the newest.
    #[must_use]
    pub fn head(&self, seq: u64) -> Head {
        Head {
            realm: self.ticket.realm,
            author: self.node(),
            papers: papers_hash(&self.papers()),
            version: Version { epoch: 1, seq },
            live_count: seq,
            root: [0; 32],
            lease_until_ms: now_ms() + LEASE_MS,
            gc_floor: Version::ZERO,
        }
    }

    /// What its heads name by hash.
    #[must_use]
    pub fn papers(&self) -> Vec<u8> {
        let Identity { cert, membership } = self.identity.clone();
        Papers { author: self.node(), cert, membership }.encode()
    }

    /// A record with any body.
    #[must_use]
    pub fn record(&self, seq: u64, key: &str, body: Option<Vec<u8>>) -> Record {
        Record {
            realm: self.ticket.realm,
            author: self.node(),
            version: Version { epoch: 1, seq },
            key: key.to_owned(),
            not_after_ms: NO_END_MS,
            body,
            is_restricted: false,
        }
    }

    /// A page of records under a head, as they are, with its papers.
    #[must_use]
    pub fn page(&self, head: Vec<u8>, records: Vec<Vec<u8>>) -> NodeMessage {
        let records = records.into_iter().map(Into::into).collect();
        let papers = Some(self.papers().into());
        let delta = Delta {
            head: head.into(),
            papers,
            since: Version::ZERO,
            records,
            has_more: false,
            passed: Vec::new(),
        };
        NodeMessage::Catalog(SyncMessage::Deltas { parts: vec![delta], rest: Vec::new() })
    }
}

fn cert(org_key: &SigningKey, node: NodeId) -> NodeCert {
    let org: OrgId = org_key.verifying_key().into();
    NodeCert {
        org,
        org_name: "Liars".to_owned(),
        name: "liar".to_owned(),
        node,
        generation: 1,
        roles: Vec::new(),
        realms: Vec::new(),
        not_before_ms: now_ms() - 60_000,
        not_after_ms: now_ms() + LIFE_MS,
        serial: 1,
        issuer: None,
        successions: None,
    }
}
