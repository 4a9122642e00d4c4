//! The fabric: moves opaque bytes between proven identities, and knows nothing of jobs or money.
//!
//! One task owns the libp2p swarm (TCP with noise and yamux, QUIC, circuit relays, mDNS if asked for). The
//! application holds a [`Fabric`] to command it and reads [`Event`]s; every queue between them is
//! bounded. What bytes mean, who is admitted and which gossip is true is the application's verdict;
//! the fabric's work is that nobody gets anything before that verdict, and nobody gets too much
//! after it. No libp2p type shows.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fabric::{Config, Event, Sources};
//!
//! let config = Config::new([7; 32], vec!["/ip4/127.0.0.1/tcp/0".into()]);
//! let (fabric, mut events) = fabric::start(config, Sources::default())?;
//! println!("listening on {:?}", fabric.addresses().await);
//! while let Some(event) = events.recv().await {
//!     match event {
//!         Event::Hello { payload, respond, .. } if payload == b"let me in" => {
//!             respond.accept(b"welcome".to_vec());
//!         }
//!         Event::Hello { respond, .. } => respond.refuse(b"who are you?".to_vec()),
//!         Event::Message { from, payload, .. } => fabric.send(from, payload).await?,
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The hello: `/opencloud/hello/1`
//!
//! Noise or TLS proves who a peer is. The hello settles whether it may stay.
//!
//! ## Messages
//!
//! Requests and responses on a stream each: length (4 bytes, big endian), kind (1 byte),
//! generation (8 bytes, big endian; zero where it means nothing), payload of at most 16 KiB.
//!
//! | from | kind | payload |
//! |---|---|---|
//! | dialler | 1 present: this is me; my name of this period is *generation* | what it presents |
//! | listener | 1 accepted: you may stay; my name of this period is *generation* | what it presents in turn |
//! | listener | 2 refused | why |
//! | listener | 3 busy: nobody has time to judge | none |
//! | dialler | 2 confirm: you may stay too; *generation* as presented | none |
//! | listener | 4 confirmed | none |
//! | listener | 5 unknown: I have not accepted you, or too long ago | none |
//! | either | 3 leave, a request without a response: close all our connections, I am shutting down | none |
//!
//! A node that shuts down closes its TCP connections itself and asks the peers of its QUIC connections to do it, for 2 s; then
//! it closes what is left. A close on QUIC may not get through while much is being sent, and a peer that is not told notices
//! after 30 s of silence, as with a node that dies.
//!
//! ## States
//!
//! For a peer, not for a connection: `Strange → Presented → Accepted → Admitted`, and back to
//! `Strange` when its last connection closes. The dialler lets the peer through when it sends
//! *confirm*, the listener when it gets it; each tells its application [`Event::Connected`] when
//! it knows that both do: the listener at *confirm*, the dialler at *confirmed* or at the first
//! other thing that an admitted peer sends. When both dial at once, two hellos run side by side on
//! two connections; either of them admits, and the second finds the peer admitted. Each step has
//! 10 s, all together have 30 s; then the connection is closed.
//!
//! A generation that differs from the one of an admitted period says that the other side started
//! afresh (a restart, a connection that only one side saw die): the application is told
//! `Disconnected` and `Connected`.
//!
//! ## Invariant
//!
//! No message, no gossip (not even the names of topics), no blob and no tunnel passes in either direction
//! between two nodes of which one has not accepted the other. Of a peer that one of them has accepted as a guest
//! ([`HelloResponder::accept_guest`], [`Introduced::admit_guest`]) messages pass, and nothing else does.
//!
//! ## What a liar can do
//!
//! - Hold one of 32 places (4 for each public network) for 30 s, with at most 16 unread streams.
//! - Replay another's hello: it proves nothing here, so the application must bind what it presents
//!   to [`PeerKey`], which is proven.
//! - Claim to be admitted, and wait: streams of a peer that is not let through are not read.
//! - Say that it leaves: its own connections are closed.
//! - Change its generation at will: its own period ends, nobody else's.
//!
//! # Terms
//!
//! With [`Fabric::set_terms`] the application says of a peer, before it admits it, which group it belongs to and whether this
//! node relays for it. The peers of a group share bounds: of connections, waiting messages, streams that are served, circuits
//! and reservations three quarters of what there is for all; of messages, gossip and bytes relayed in a day four times what
//! one peer may; of the bytes of blobs the same share as a peer that is in no group. What meets a bound is answered as it is
//! at a peer's own.
//!
//! # Messages: `/opencloud/message/1`
//!
//! One stream each: length, bytes (at most 1 MiB); the answer is one byte: 0 taken into the
//! queue, 1 busy, 2 too large. A peer that sends too often is answered "busy"; one that announces
//! an oversized frame is penalized, and the frame is not read. Order: see [`Fabric::send`].
//!
//! # Reachability
//!
//! Addresses are tested by peers; whoever is not reached keeps reservations at members that relay, is dialled through them,
//! and punches a direct connection (DCUtR) where the routers allow it; then the relayed one is closed. See [`Reachability`].
//! Everything of it is for admitted peers only: relays serve members, and both ends of a circuit do the usual hello in it.
//!
//! # Who has what: `/opencloud/1/kad/1`
//!
//! Content that this node has may be [provided](Fabric::provide), and others [find](Fabric::providers) who provides it by its
//! exact hash, through members that answer: Kademlia's provider records, and nothing else of it. What comes is a hint that
//! everybody can give falsely; content is verified when it is fetched.
//!
//! # Alone
//!
//! Sockets can go deaf without an error. A node that has lost everybody opens its listeners anew after a while, and then
//! builds its whole network anew under the same identity, again and again with growing pauses: see [`Alone`]. The
//! application notices nothing but time.
//!
//! # Gossip
//!
//! gossipsub 1.1 to 1.3, unsigned (payloads carry their own signatures), named by content, passed
//! on only after [`GossipVerdict::accept`]. It is lossy by design: what must arrive needs
//! anti-entropy.

#![forbid(unsafe_code)]

pub mod blob;
mod config;
mod error;
mod event;
pub mod frames;
mod handle;
mod island;
mod key;
pub mod measure;
mod net;
mod peers;
mod places;
mod reach;
mod relay;
mod room;
mod terms;
pub mod tunnel;

pub use blob::{BlobDenied, BlobFile, BlobSource, FETCH_PEERS_MAX, FetchError, Fetched, Serving};
pub use config::{Alone, Config, Limits};
pub use error::{ConnectError, DhtError, PublishError, SendError, StartError};
pub use event::{
    Access, Event, GossipVerdict, Held, HelloResponder, Offence, Path, Payload, PeerInfo,
    RefusedWhy,
};
pub use handle::{
    ADDRESSES_MAX, Fabric, GOSSIP_MAX, HELLO_MAX, Introduced, MESSAGE_MAX, Sources, start,
};
pub use island::{Renewal, Renewed};
pub use key::{PeerKey, PeerKeyError};
pub use net::{DhtView, PROVIDED_MAX, PROVIDERS_MAX};
pub use reach::{AddressKind, AddressSource, OwnAddress, Reachability, RelayInfo, Standing};
pub use relay::{RelayLimits, RelayUse};
pub use terms::Terms;
pub use tunnel::{FarEnd, Tunnel, TunnelBytes, TunnelDenied, TunnelEnd, TunnelError, TunnelSource};
