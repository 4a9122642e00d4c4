//! Copies of data at peers, and what this node keeps for others: what [`scheduler::copies`] decides, told to peers, stored and
//! shown.
//!
//! What is kept for others may be fetched from here by its owner's organisation, and by everybody where the owner says that it is
//! public: then this node describes it in the catalogue, too, under `copy/` and its digest, so that it is found when its owner is
//! gone.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{DataDetail, Detail, Resource, Visibility};
use catalog::{Change, Digest, NodeId, OrgId};
use rand_core::Rng;
use scheduler::copies::{
    Action, Among, Content, Copies, CopyState, Keep, Keeper, KeeperAction, KeptKey, KeptState,
    Message, Peer, Wish, WishError, Wished,
};
use scheduler::place::Trust;

use super::command::{CommandError, Response};
use super::directory::OwnResource;
use super::message::NodeMessage;
use super::pins::Pins;
use super::{Blob, Effect, Engine, FetchJob, stored};
use crate::schema;
use crate::store::batch::Table;

/// How the rows of wishes begin; the digest follows.
const WISH: u8 = b'w';
/// How the rows of what is kept begin; its owner and its digest follow.
const KEPT: u8 = b'k';
/// How the keys of records begin that tell of what is kept.
const KEY_PREFIX: &str = "copy/";

/// A question or an order about copies.
#[derive(Clone, Debug)]
pub enum Command {
    /// How many copies of a content there are to be, and among whom; the answer is [`Answer::Wished`].
    Wish {
        /// Of which; this node describes it, has pinned it or keeps it for others.
        digest: Digest,
        /// How many; none ends it.
        copies: u32,
        /// Among which organisations; any when none is named.
        among: Vec<OrgId>,
        /// How long a keeper may be away before another one is asked, in milliseconds.
        patience_ms: u64,
    },
    /// Every wish and its copies; the answer is [`Answer::List`].
    List,
    /// What is kept here for others; the answer is [`Answer::Kept`].
    Kept,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Wish`.
    Wished,
    /// To `List`.
    List(Vec<WishView>),
    /// To `Kept`.
    Kept(KeptView),
}

/// A wish and its copies.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = CopiesWished)]
pub struct WishView {
    /// Of which content.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// For people.
    pub name: String,
    /// How many are wished.
    pub wished: u32,
    /// How many there are that were proven.
    pub counting: u32,
    /// Among whom; any when nobody is named.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub among: Vec<OrgId>,
    /// How long a keeper may be away before another one is asked, in milliseconds.
    pub patience_ms: u64,
    /// Where.
    pub copies: Vec<CopyView>,
    /// Who said no lately, and why.
    pub refused: Vec<RefusedView>,
}

/// A copy.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Copy)]
pub struct CopyView {
    /// At which node.
    #[schema(value_type = schema::NodeId)]
    pub node: NodeId,
    /// Of which organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known.
    #[schema(required)]
    pub org_name: Option<String>,
    /// `asked`, `coming`, `kept` or `leaving`.
    #[schema(value_type = schema::CopyState)]
    pub state: CopyState,
    /// Whether it is one of those that are wished.
    pub counts: bool,
    /// When it was last proven (Unix ms), if ever.
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub proven_ms: Option<u64>,
    /// Since when its keeper is away (Unix ms), if it is.
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub away_ms: Option<u64>,
}

/// A peer that said no.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = CopyRefused)]
pub struct RefusedView {
    /// Which.
    #[schema(value_type = schema::NodeId)]
    pub node: NodeId,
    /// Why.
    pub why: String,
    /// When it is asked again (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub until_ms: u64,
}

/// What is kept here for others.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Kept)]
pub struct KeptView {
    /// Bytes that may be kept.
    pub bytes_max: u64,
    /// Bytes that are promised.
    pub bytes: u64,
    /// What.
    pub contents: Vec<KeepView>,
}

/// A content that is kept here for another node.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = KeptContent)]
pub struct KeepView {
    /// Which.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// For people.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// For whom.
    #[schema(value_type = schema::NodeId)]
    pub owner: NodeId,
    /// The name of its organisation, when it is known.
    #[schema(required)]
    pub owner_name: Option<String>,
    /// `coming` or `kept`.
    #[schema(value_type = schema::KeptState)]
    pub state: KeptState,
}

/// Why an order about copies is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopiesError {
    /// This node keeps nothing of the kind itself.
    #[error("this node does not keep {digest}: `opencloud data add` or `data pin` it first")]
    NotHere {
        /// As asked.
        digest: Digest,
    },
    /// The wish is refused.
    #[error(transparent)]
    Wish(#[from] WishError),
}

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the copies cannot be read")]
pub struct BadRow;

/// Takes back what the rows say.
pub(super) fn recover(
    rows: &[(Vec<u8>, Vec<u8>)],
    (copies, keeper): (&mut Copies, &mut Keeper),
    now_ms: u64,
) -> Result<(), BadRow> {
    for (key, value) in rows {
        match key.split_first() {
            Some((&WISH, _)) => {
                let wished: Wished = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
                copies.restore(wished, now_ms);
            }
            Some((&KEPT, rest)) => {
                let owner: [u8; 32] =
                    rest.get(..32).and_then(|id| id.try_into().ok()).ok_or(BadRow)?;
                let keep: Keep = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
                keeper.restore(NodeId::from_bytes(owner), keep, now_ms);
            }
            _ => return Err(BadRow),
        }
    }
    Ok(())
}

fn wish_key(digest: &Digest) -> Vec<u8> {
    [&[WISH], digest.as_bytes().as_slice()].concat()
}

fn kept_key((owner, digest): &KeptKey) -> Vec<u8> {
    [&[KEPT], owner.as_bytes().as_slice(), digest.as_bytes().as_slice()].concat()
}

/// What the catalogue calls what is kept.
fn record_key(digest: &Digest) -> String {
    format!("{KEY_PREFIX}{}", digest.to_hex())
}

/// Whether a key is that of a record which follows from what is kept.
pub(super) fn is_record_key(key: &str) -> bool {
    key.starts_with(KEY_PREFIX)
}

fn record_of(content: &Content) -> OwnResource {
    let media_type = if content.directory { "inode/directory" } else { "application/octet-stream" };
    let resource = Resource {
        key: record_key(&content.digest),
        name: if content.name.is_empty() {
            content.digest.to_string()
        } else {
            content.name.clone()
        },
        short: "a copy that is kept for another node".to_owned(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Data(DataDetail {
            media_type: media_type.to_owned(),
            digest: content.digest,
            size: content.size,
            directory: content.directory,
            quality: String::new(),
            personal: false,
            anonymised: false,
            open: false,
            update_s: None,
            residency: Vec::new(),
        }),
    };
    OwnResource { resource, visibility: Visibility::Public }
}

impl Engine {
    pub(super) fn handle_copies_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::Wish { digest, copies, among, patience_ms } => {
                let known = self.copies.get(&digest).map(|wished| wished.wish.content.clone());
                let content = self.content_here(&digest).or(known.filter(|_| copies == 0));
                let content = content.ok_or(CopiesError::NotHere { digest })?;
                let among = Among(among.into_iter().collect());
                let wish = Wish { content, copies, among, patience_ms };
                self.copies.wish(wish).map_err(CopiesError::Wish)?;
                Answer::Wished
            }
            Command::List => Answer::List(self.wish_list(now_ms)),
            Command::Kept => Answer::Kept(self.kept_list()),
        };
        Ok(Response::Copies(answer))
    }

    /// What this node describes or has pinned.
    fn content_here(&self, digest: &Digest) -> Option<Content> {
        let view = self.data_list().into_iter().find(|view| view.digest == *digest)?;
        Some(Content {
            digest: *digest,
            size: view.size,
            directory: view.directory,
            name: view.name,
            public: view.public,
        })
    }

    fn wish_list(&self, now_ms: u64) -> Vec<WishView> {
        let view = |(digest, wished): (&Digest, &Wished)| WishView {
            digest: *digest,
            name: wished.wish.content.name.clone(),
            wished: wished.wish.copies,
            counting: wished.counting(now_ms),
            among: wished.wish.among.0.iter().copied().collect(),
            patience_ms: wished.wish.patience_ms,
            copies: wished
                .copies
                .iter()
                .map(|(node, copy)| CopyView {
                    node: *node,
                    org: copy.org,
                    org_name: self.org_name(*node),
                    state: copy.state,
                    counts: copy.counts(wished.wish.patience_ms, now_ms),
                    proven_ms: Some(copy.proven_ms).filter(|ms| *ms > 0),
                    away_ms: copy.away_ms,
                })
                .collect(),
            refused: wished
                .refused
                .iter()
                .map(|(node, (why, until_ms))| RefusedView {
                    node: *node,
                    why: why.as_str().to_owned(),
                    until_ms: *until_ms,
                })
                .collect(),
        };
        self.copies.iter().map(view).collect()
    }

    fn kept_list(&self) -> KeptView {
        let view = |((owner, digest), keep): (&KeptKey, &Keep)| KeepView {
            digest: *digest,
            name: keep.content.name.clone(),
            size: keep.content.size,
            directory: keep.content.directory,
            owner: *owner,
            owner_name: self.org_name(*owner),
            state: keep.state,
        };
        KeptView {
            bytes_max: self.settings.offers.keep.bytes,
            bytes: self.keeper.bytes(),
            contents: self.keeper.iter().map(view).collect(),
        }
    }

    /// A peer has said something of copies.
    pub(super) fn handle_copies_message(&mut self, from: NodeId, message: Message, now_ms: u64) {
        let org = self.admission.peer(from).map(|peer| peer.cert.org);
        let is_welcome =
            org.is_some_and(|org| self.settings.offers.keep.audience.has(org, self.trust(org)));
        match &message {
            Message::Keep { .. } | Message::Drop { .. } => {
                self.keeper.handle_message(from, message, is_welcome, now_ms);
            }
            Message::No { .. }
            | Message::Coming { .. }
            | Message::Kept { .. }
            | Message::Dropped { .. } => self.copies.handle_message(from, &message, now_ms),
        }
    }

    /// True when there was something to route.
    pub(super) fn route_copies(&mut self, now_ms: u64, rng: &mut dyn Rng) -> bool {
        if self.copies.poll_timeout().is_some_and(|at| at <= now_ms) {
            let peers: Vec<Peer> =
                self.connected.iter().filter_map(|node| self.asked(*node)).collect();
            self.copies.poll(now_ms, &peers, &mut || rng.next_u64());
        }
        if self.keeper.poll_timeout().is_some_and(|at| at <= now_ms) {
            self.keeper.poll(now_ms);
        }
        let (wanted, kept) = (self.copies.drain_actions(), self.keeper.drain_actions());
        let is_busy = !wanted.is_empty() || !kept.is_empty();
        for action in wanted {
            self.perform_copies(action);
        }
        for action in kept {
            self.perform_keeper(action, now_ms);
        }
        is_busy
    }

    /// A peer that may be asked to keep something.
    fn asked(&self, node: NodeId) -> Option<Peer> {
        let org = self.admission.peer(node)?.cert.org;
        (self.trust(org) != Trust::Blocked).then_some(Peer { node, org })
    }

    fn perform_copies(&mut self, action: Action) {
        match action {
            Action::Send { to, message } => self.send(to, &NodeMessage::Copies(message)),
            Action::Prove { at, content, seed } => {
                // The keeper fetches from here, and so may everybody who was asked.
                self.expose(content.digest);
                let Content { digest, size, directory, .. } = content;
                let blob = Blob { digest, is_dir: directory, size };
                self.out.list.push(Effect::Prove { at, blob, seed });
            }
            Action::Persist { digest } => {
                match self.copies.get(&digest) {
                    Some(wished) => {
                        self.out.batch.put(Table::Copies, wish_key(&digest), stored(wished));
                    }
                    None => self.out.batch.delete(Table::Copies, wish_key(&digest)),
                }
                self.expose(digest);
            }
        }
    }

    fn perform_keeper(&mut self, action: KeeperAction, now_ms: u64) {
        match action {
            KeeperAction::Persist { key } => match self.keeper.get(&key) {
                Some(keep) => self.out.batch.put(Table::Copies, kept_key(&key), stored(keep)),
                None => self.out.batch.delete(Table::Copies, kept_key(&key)),
            },
            KeeperAction::Send { to, message } => self.send(to, &NodeMessage::Copies(message)),
            KeeperAction::Fetch { key: (owner, digest), content } => {
                let blob = Blob { digest, is_dir: content.directory, size: content.size };
                let blobs = vec![blob];
                let others = self.others_with(&blobs, now_ms);
                let job = FetchJob::Copy { owner, digest };
                self.out.list.push(Effect::Fetch { job, from: owner, blobs, others });
            }
            KeeperAction::Changed { digest } => {
                self.announce_copy(&digest, now_ms);
                self.expose(digest);
            }
        }
    }

    /// The content as the catalogue may tell of it: kept, public, and not described by this node's owner anyhow.
    fn public_copy(&self, digest: &Digest) -> Option<&Content> {
        let mut all = self.keeper.iter().filter(|((_, kept), keep)| {
            kept == digest && keep.state == KeptState::Kept && keep.content.public
        });
        all.next().map(|(_, keep)| &keep.content)
    }

    /// Tells of a copy in the catalogue, or no longer.
    fn announce_copy(&mut self, digest: &Digest, now_ms: u64) {
        let refused = match self.public_copy(digest).map(record_of) {
            Some(record) => self.announce(record, now_ms),
            None => {
                let key = record_key(digest);
                let is_told = {
                    let mut all = self.catalog.resources(now_ms);
                    all.any(|entry| entry.author == self.me && entry.key == key)
                };
                if !is_told {
                    return;
                }
                self.change(Change::Delete(key), now_ms)
            }
        };
        if let Some(detail) = refused {
            // It is kept all the same, and its owner knows where it is.
            self.out
                .list
                .push(Effect::Notice { detail: format!("a copy is not told of: {detail}") });
        }
    }

    /// Tells of every copy, in a catalogue that is new.
    pub(super) fn announce_copies(&mut self, now_ms: u64) {
        let kept = self.keeper.iter().filter(|(_, keep)| keep.state == KeptState::Kept);
        let public: BTreeMap<Digest, OwnResource> = kept
            .filter(|(_, keep)| keep.content.public)
            .map(|((_, digest), keep)| (*digest, record_of(&keep.content)))
            .collect();
        for record in public.into_values() {
            self.announce(record, now_ms);
        }
    }

    /// What is kept for others must stay.
    pub(super) fn pin_copies(&self, pins: &mut Pins) {
        for ((_, digest), keep) in self.keeper.iter() {
            pins.add(*digest, keep.content.directory);
        }
    }

    /// To whom contents are open because they are kept for others, or copies of them are wished: everybody where their owner
    /// says so, else the nodes of the owner's organisation; and the keepers that were asked.
    pub(super) fn reached_by_copies(&self) -> Vec<(Digest, bool, BTreeSet<NodeId>)> {
        let mut found = Vec::new();
        for ((owner, digest), keep) in self.keeper.iter() {
            let org = self.admission.peer(*owner).map(|peer| peer.cert.org);
            let siblings = self.admission.peers().filter(|(_, peer)| Some(peer.cert.org) == org);
            let nodes = siblings.map(|(id, _)| *id).chain([*owner]).collect();
            found.push((*digest, keep.content.public, nodes));
        }
        for (digest, wished) in self.copies.iter() {
            let asked = wished.copies.iter().filter(|(_, copy)| copy.state != CopyState::Leaving);
            found.push((*digest, false, asked.map(|(node, _)| *node).collect()));
        }
        found
    }

    /// Keepers of a content that this node wished copies of, for when it needs it back.
    pub(super) fn keepers_of(&self, digest: &Digest) -> Vec<NodeId> {
        let wished = self.copies.get(digest).into_iter();
        let kept = wished.flat_map(|wished| wished.copies.iter());
        kept.filter(|(_, copy)| copy.state == CopyState::Kept).map(|(node, _)| *node).collect()
    }
}
