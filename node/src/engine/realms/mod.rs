//! Other realms: links between gateways, digests that say what is where, questions that go there.
//!
//! A node is in one realm, and a realm shows its catalogue to nobody else. A **gateway** is a member that its owner
//! (`up --gateway`, which puts the role into its certificate) and its realm (the founder, or who holds a grant as
//! [`catalog::cert::Role::Gateway`]) let speak to other realms. Two gateways are **linked** by a ticket that one owner makes and
//! the other uses; both owners see whom they link with.
//!
//! # Messages
//!
//! The greeting is the usual one. That it names another realm makes its sender a **guest**, when that realm is linked or the
//! greeting brings the secret of a ticket for links, and when its papers say that it speaks for its realm
//! ([`catalog::index::check_gateway`]). Then, as [`RealmsMessage`]:
//!
//! ```text
//!  between gateways
//!    Digest {signed, papers, hops}       what is in a realm; every ten minutes, and on a new connection all that are held
//!    Ask {id, realm, filter, limit, hops}  questions for that realm: answered when it is the own one, else passed on to
//!                                          the guest that its digest came from
//!    Told {id, …}                        the answer: signed heads, papers and records of their authors; passed back
//!    AskLists {held}                     are there newer revocation lists of those in the papers of gateways that I know?
//!    Lists {lists}                       these; also unasked when a gateway learns one of somebody in such papers
//!  between members of one realm
//!    Everywhere {id, filter, limit}      a leaf asks its gateway, which asks each realm that its digest does not rule out
//!    Told {id, …}                        from each that answered
//!    Asked {id, silent, ruled_out}       that was all
//!    LetSpeak {grants}                   the realm lets your organisation speak for it
//! ```
//!
//! # States
//!
//! A guest is in no list of peers: not in `admission`, not in `connected`. Whatever looks there does not find it, and the fabric
//! opens nothing for it but messages ([`fabric::Access::Guest`]), of which [`RealmsMessage`] alone is taken. A question is
//! an errand for each realm asked, with an end ([`ERRAND_MS`]); nothing is asked again.
//!
//! # Invariant
//!
//! Nothing of this realm reaches a guest but digests and answers, and both are made of public records alone
//! ([`catalog::Catalog::public`], [`catalog::Catalog::told`]). What comes of another realm is shown with the name of that realm
//! and goes into no catalogue: to use it takes an invitation.
//!
//! # What a liar can do
//!
//! - *A gateway that invents counts and names* draws questions to its realm. Answers are records that their authors
//!   signed, so it gains nothing, and its realm takes its grant back.
//! - *One that forges another realm's digest*: papers do not lead from that realm's founder to it. Its sender is penalized.
//! - *One that replays old digests*: numbers only grow, and digests end after half an hour.
//! - *One that floods digests of realms it invents*: each link has `DIGESTS_PER_LINK` places, so it drives out what came by
//!   the same link, and a gateway's next digest is taken after `SPACING_MS` at the earliest.
//! - *One that answers with records of its own making*: a reader takes what a catalogue of that realm would take.
//! - *One that does not answer, or answers old*: it is named as silent; a record within its author's lease may be one that was
//!   replaced since. Whoever uses it asks its author.
//! - *One that asks too much*: `ASKS_MAX` in ten seconds of each guest, the rest unanswered.
//! - *One that brings revocation lists*: the root of an organisation signs its list, and its number only grows; lists of
//!   organisations that stand in no papers of gateways known here are left alone. One that holds them back leaves the other links.
//! - *One that lies about hops* changes which way a question goes, at most `HOPS_MAX` links.

mod asking;
mod digests;
mod links;
mod lists;
mod message;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use catalog::cert::{LinkTicket, Membership, NodeCert};
use catalog::{NodeId, OrgId, RealmId};
use rand_core::Rng;

pub use self::message::RealmsMessage;
pub use self::message::Told;
pub use self::view::{
    DigestView, FoundElsewhere, GatewayView, HeldView, LinkView, RealmView, Told as ToldView,
};
use super::command::{CommandError, Response};
use super::message::NodeMessage;
use super::{CommandId, Effect, Engine, RecoverError};
use crate::store::batch::{Batch, Table};

/// Realms that are linked; with more a link is refused.
pub const LINKS_MAX: usize = 64;
/// Gateways kept of each linked realm; further ones are let in, but not looked for after a restart.
const GATEWAYS_MAX: usize = 8;
/// Digests held that came by one link; at the bound the one from the farthest realm goes, of several the oldest.
const DIGESTS_PER_LINK: usize = 64;
/// Links that a digest or a question crosses at the most.
const HOPS_MAX: u8 = 8;
/// A gateway's next digest is not taken before.
const SPACING_MS: u64 = 60_000;
/// How often a digest is published.
const PUBLISH_MS: u64 = 10 * 60_000;
/// By how much earlier that is at most, so that realms that started at one moment do not publish at one moment.
const PUBLISH_SPREAD_MS: u64 = 60_000;
/// Questions of one guest that are answered or passed on in [`WINDOW_MS`]; further ones are left without an answer.
const ASKS_MAX: u32 = 50;
const WINDOW_MS: u64 = 10_000;
/// How long one realm has to answer a question.
pub const ERRAND_MS: u64 = 6_000;
/// How long a leaf waits for its gateways.
const SEARCH_MS: u64 = 9_000;
/// Questions on their way; further ones are not asked, and their realms count as silent.
const ERRANDS_MAX: usize = 1_024;
/// Searches of this node's owner and of members at once; further ones are refused, or left without an answer.
const SEARCHES_MAX: usize = 32;
/// Own gateways that one search asks.
const GATEWAYS_ASKED: usize = 3;
/// Resources that one realm tells of.
const TOLD_MAX: usize = 500;
/// Bytes of one answer, below what a message may have.
const TOLD_BYTES_MAX: usize = 512 * 1024;
/// Bytes that one search takes in; further answers are left out.
const SEARCH_BYTES_MAX: usize = 16 << 20;

/// How the keys of links begin in the table of members.
const LINK_KEY: &[u8] = b"link/";
/// How the keys of organisations begin that this one lets speak for the realm.
const SPEAKER_KEY: &[u8] = b"speaker/";
/// The number of the newest digest signed here.
const NUMBER_KEY: &[u8] = b"index/number";

/// An order or a question about other realms.
#[derive(Clone, Debug)]
pub enum Command {
    /// This realm, and what is known of others.
    Show,
    /// Make a ticket for a gateway of another realm.
    Invite {
        /// How long it can be used, in milliseconds.
        valid_ms: u64,
        /// Whether the owner decides about whoever comes with it.
        is_asking: bool,
    },
    /// Link with the realm of a ticket.
    Link {
        /// It.
        ticket: LinkTicket,
    },
    /// End the link with a realm.
    Unlink {
        /// Which.
        realm: RealmId,
    },
    /// Let a member organisation speak for this realm.
    LetSpeak {
        /// Which.
        org: OrgId,
    },
    /// Look for resources in all realms that are known.
    Search {
        /// Filter text; everything when empty.
        filter: String,
        /// At most this many of each realm.
        limit: usize,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Show`.
    Realm(Box<RealmView>),
    /// To `Invite`.
    Ticket(LinkTicket),
    /// To `Link`.
    Linked(LinkView),
    /// To `Search`.
    Found(Box<ToldView>),
}

/// Why something about other realms is not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RealmsError {
    /// The owner has not made the node a gateway.
    #[error("this node is no gateway: start it with `opencloud up --gateway`")]
    NoGateway,
    /// Nothing at hand can give the role.
    #[error(
        "this node's papers do not make it a gateway, and it holds no key of its organisation to make others: ask it for some \
         with `opencloud org request --gateway`"
    )]
    NoKey,
    /// The realm has not let the organisation.
    #[error(
        "the realm has not let this organisation speak for it: ask its founder for `opencloud realm let-speak {org}`"
    )]
    NotLet {
        /// This node's organisation.
        org: OrgId,
    },
    /// Nobody can be let speak from here.
    #[error(
        "only a node with a key of an organisation that speaks for the realm lets others do so"
    )]
    CannotLet,
    /// It is not a member.
    #[error("no node of {org} is connected: it has to be, to be let speak for the realm")]
    NoMember {
        /// Which.
        org: OrgId,
    },
    /// The ticket's time is over.
    #[error("the ticket has expired: ask for a new one with `opencloud realm invite`")]
    Expired,
    /// It leads nowhere else.
    #[error("the ticket is one of this realm: a link leads to another one")]
    SameRealm,
    /// Another link is being made.
    #[error("another link is being made: wait for it")]
    Busy,
    /// Too many links.
    #[error("{LINKS_MAX} realms are linked, no more are taken: unlink one first")]
    Full,
    /// Nothing to end.
    #[error("{realm} is not linked with this one: `opencloud realm show` lists those that are")]
    NotLinked {
        /// Which.
        realm: RealmId,
    },
    /// The other side's owner has not decided yet.
    #[error("the inviting gateway's owner decides: {detail}")]
    Pending {
        /// What it said.
        detail: String,
    },
    /// The other side said no, or what it said is false.
    #[error("no link was made: {detail}")]
    Refused {
        /// Why.
        detail: String,
    },
    /// Nobody answered.
    #[error("cannot reach the inviting gateway: {detail}")]
    Unreachable {
        /// What happened.
        detail: String,
    },
    /// Nobody to ask.
    #[error(
        "no gateway of this realm is connected: one is a member that was started with `opencloud up --gateway`"
    )]
    NobodyToAsk,
    /// Too many searches.
    #[error("{SEARCHES_MAX} searches are under way, no more are taken: wait for one")]
    Searches,
}

impl From<RealmsError> for CommandError {
    fn from(error: RealmsError) -> Self {
        Self::Realms(error)
    }
}

/// A gateway of another realm whose papers were checked.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Whose gateway it is.
    pub realm: RealmId,
    /// Its certificate.
    pub cert: NodeCert,
    /// By what its organisation speaks for that realm.
    pub membership: Membership,
}

/// A linked realm, as it is stored.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Link {
    /// The organisation that it was linked with.
    org: OrgId,
    /// Its name.
    org_name: String,
    /// Since when (Unix ms).
    since_ms: u64,
    /// Gateways, and where they are.
    gateways: BTreeMap<NodeId, Vec<String>>,
}

/// What a guest may still ask.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since_ms: u64,
    asks: u32,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Realms {
    links: BTreeMap<RealmId, Link>,
    /// Whose papers were checked, here or away.
    guests: BTreeMap<NodeId, Guest>,
    connected: BTreeSet<NodeId>,
    windows: BTreeMap<NodeId, Window>,
    linking: Option<(CommandId, LinkTicket)>,
    /// Organisations that this one has let speak, with the grants.
    speakers: BTreeMap<OrgId, Vec<u8>>,
    digests: digests::Digests,
    asking: asking::Asking,
}

impl Realms {
    pub(super) fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, RecoverError> {
        let row = || RecoverError::Row { table: Table::Members };
        let mut realms = Self::default();
        for (key, value) in rows {
            if let Some(realm) = key.strip_prefix(LINK_KEY) {
                let realm = RealmId::from_bytes(realm.try_into().map_err(|_| row())?);
                let link = ciborium::from_reader(&value[..]).map_err(|_| row())?;
                realms.links.insert(realm, link);
            } else if let Some(org) = key.strip_prefix(SPEAKER_KEY) {
                let org = OrgId::from_bytes(org.try_into().map_err(|_| row())?);
                realms.speakers.insert(org, value.clone());
            } else if key == NUMBER_KEY {
                let number = value.as_slice().try_into().map_err(|_| row())?;
                realms.digests.number = u64::from_be_bytes(number);
            }
        }
        Ok(realms)
    }

    /// Whether the realm is linked, so that its gateways come in as guests.
    pub(super) fn has_link(&self, realm: RealmId) -> bool {
        self.links.contains_key(&realm)
    }

    pub(super) fn is_full(&self) -> bool {
        self.links.len() >= LINKS_MAX
    }

    /// Whether a node is let in as a guest, and as nothing else.
    pub(super) fn is_guest(&self, node: NodeId) -> bool {
        self.guests.contains_key(&node)
    }

    pub(super) fn is_connected(&self, node: NodeId) -> bool {
        self.connected.contains(&node)
    }

    /// The linked realm whose gateway a node is, as far as it is known.
    fn realm_of(&self, node: NodeId) -> Option<RealmId> {
        let by_link = self.links.iter().find(|(_, link)| link.gateways.contains_key(&node));
        by_link.map(|(realm, _)| *realm).or_else(|| Some(self.guests.get(&node)?.realm))
    }

    /// Counts a question of a guest. False when it asks too much.
    fn count_ask(&mut self, guest: NodeId, now_ms: u64) -> bool {
        let window = self.windows.entry(guest).or_default();
        if now_ms >= window.since_ms.saturating_add(WINDOW_MS) {
            *window = Window { since_ms: now_ms, asks: 0 };
        }
        window.asks = window.asks.saturating_add(1);
        window.asks <= ASKS_MAX
    }

    fn store(&self, realm: RealmId, batch: &mut Batch) {
        let key = [LINK_KEY, realm.as_bytes()].concat();
        if let Some(link) = self.links.get(&realm) {
            batch.put(Table::Members, key, super::stored(link));
        }
    }
}

impl Engine {
    pub(super) fn handle_realms_command(
        &mut self,
        id: CommandId,
        command: Command,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let answer = match command {
            Command::Show => Ok(Answer::Realm(Box::new(self.realm_view(now_ms)))),
            Command::Invite { valid_ms, is_asking } => {
                self.invite_gateway((valid_ms, is_asking), super::random(rng), now_ms)
            }
            Command::Link { ticket } => match self.link(id, ticket, now_ms) {
                // The answer comes with the end of the dial.
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Command::Unlink { realm } => self.unlink(realm, now_ms),
            Command::LetSpeak { org } => self.let_speak(org, now_ms),
            Command::Search { filter, limit } => {
                // The answer comes when all have answered, or when their time is over.
                if let Err(error) = self.search_everywhere(id, &filter, limit, now_ms) {
                    self.out.list.push(Effect::Reply { id, result: Err(error) });
                }
                return;
            }
        };
        let result = answer.map(Response::Realms).map_err(CommandError::from);
        self.out.list.push(Effect::Reply { id, result });
    }

    /// A message of a gateway of another realm. There is one kind of them; whatever else it sends is an offence.
    pub(super) fn handle_guest_message(&mut self, from: NodeId, message: NodeMessage, now_ms: u64) {
        match message {
            NodeMessage::Realms(RealmsMessage::Digest { signed, papers, hops }) => {
                self.take_digest(from, (&signed.0, &papers.0, hops), now_ms);
            }
            NodeMessage::Realms(RealmsMessage::Ask { id, realm, filter, limit, hops }) => {
                self.answer_guest(from, (id, realm, hops), (&filter, limit), now_ms);
            }
            NodeMessage::Realms(RealmsMessage::Told(told)) => self.pass_back(from, told, now_ms),
            NodeMessage::Realms(RealmsMessage::AskLists { held }) => {
                self.answer_lists(from, &held, now_ms);
            }
            NodeMessage::Realms(RealmsMessage::Lists { lists }) => {
                self.learn_lists_across(from, &lists, now_ms);
            }
            NodeMessage::Realms(_)
            | NodeMessage::Catalog(_)
            | NodeMessage::Task(_)
            | NodeMessage::Ledger(_)
            | NodeMessage::Fence(_)
            | NodeMessage::Trust(_)
            | NodeMessage::Copies(_)
            | NodeMessage::Ask(_) => {
                let detail = "a gateway of another realm sends what is for members of this one";
                self.penalize(from, detail.to_owned());
            }
        }
    }

    /// A message of a member about other realms.
    pub(super) fn handle_realms(&mut self, from: NodeId, message: RealmsMessage, now_ms: u64) {
        match message {
            RealmsMessage::Everywhere { id, filter, limit } => {
                self.ask_for(from, id, (&filter, limit), now_ms);
            }
            RealmsMessage::Told(told) => self.take_told(from, told, now_ms),
            RealmsMessage::Asked { id, silent, ruled_out } => {
                self.take_asked(from, id, (silent, ruled_out), now_ms);
            }
            RealmsMessage::LetSpeak { grants } => self.take_grants(grants, now_ms),
            RealmsMessage::Digest { .. }
            | RealmsMessage::Ask { .. }
            | RealmsMessage::AskLists { .. }
            | RealmsMessage::Lists { .. } => {
                let detail = "a member sends what gateways of other realms do";
                self.penalize(from, detail.to_owned());
            }
        }
    }

    pub(super) fn poll_realms(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        self.poll_digests(now_ms, rng);
        self.poll_asking(now_ms);
    }

    pub(super) fn realms_timeout(&self) -> Option<u64> {
        [self.realms.digests.timeout(), self.realms.asking.timeout()].into_iter().flatten().min()
    }

    fn send_realms(&mut self, to: NodeId, message: RealmsMessage) {
        self.send(to, &NodeMessage::Realms(message));
    }
}
