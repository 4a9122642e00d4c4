//! Rotation: a node changes its key and stays the node it was.
//!
//! # Messages
//!
//! None of its own. A **succession** ([`catalog::cert::Succession`]), signed by the old key, stands in the new key's
//! certificate, which the organisation signs for the same name and the next generation. Greetings, papers in the catalogue and
//! the first entries of channels carry the certificate, and so the succession.
//!
//! # States
//!
//! - *Staged*: a new key lies in the home beside the one in use (`shell::keys`), and, where no key of the organisation is at
//!   hand, waits for its papers.
//! - *Draining*: the owner has asked for the change. It is made as soon as no task runs here, nor elsewhere for this node, and at
//!   the latest when the time for that is over; then what runs ends as it does whenever the node is started again.
//! - *Changed*: one atomic write of the home puts the new key in the place of the old one, which stays beside it. The node
//!   starts again under the new key, with the same store. Its records are published anew under it.
//! - *Overlap*: for [`OVERLAP_MS`] after a peer has learned of the succession it lets the old key in, too. Then it puts it
//!   out, and lets it in no more.
//! - *Settled*: the overlap is over and every channel of the old key is at rest, or [`KEPT_MS`] have passed: the old secret
//!   leaves the home. The old channels stay, to be read and checked.
//!
//! # Who does what with the old key
//!
//! - **Channels** stay channels of the keys that opened them. What is still to be signed in them (last acknowledgements) is
//!   signed with the old key, and what is sent for them goes over connections of the new one: whoever is proved to be the
//!   successor of a party carries that party's entries. A channel that is frozen keeps the successor from new work, too.
//! - **Records** of the old key are dropped by whoever takes in papers of the new one, and taken in no more
//!   (`catalog::replica`).
//! - **Rights of an organisation** (relations, membership, limits) are not of a key, and go on. What peers hold of the node by
//!   its key goes over to the successor: its kept copies, in both directions; the old key is dialled no more.
//!
//! # Invariant
//!
//! A key has one successor at a node, the first that it learned with papers in force; it never has another unless the
//! organisation revokes that one. No key is let in after its overlap. Nothing is signed with a new key before the write that
//! puts it in place is durable, and nothing in an old channel with another key than the one that opened it.
//!
//! # What a liar can do
//!
//! - *A thief of the old key, afterwards*: greet as the node until the overlap ends, where nobody revoked the key; sign in the
//!   node's old channels what, beside the node's own entries, is proof that the key was used twice. It publishes nothing where the
//!   new papers are known. Revoking the old key ends that at once and leaves the new one alone.
//! - *The organisation, or who stole its issuer*: certify any key, but as no node's successor without that node's word.
//! - *Both together*: two successors of one key. Each peer keeps the first and refuses the second by name; revoking the false
//!   one makes room for the true.
//! - *Replay*: a succession counts only in a certificate whose key the connection proves. Told again, it moves no time.
//! - *Rollback*: a home put back to before the change speaks with a key that is over: it is let in until the overlap ends, and its
//!   owner is told (`Engine::papers_view`). Its channels are fenced as after any restore.
//! - *A flood of successions* from one organisation fills its own share of a bounded table.

use catalog::NodeId;
use catalog::cert::NodeCert;
use ed25519_dalek::SigningKey;

use super::command::Response;
use super::trust::Answer;
use super::{Effect, Engine};
use crate::schema;

/// For how long a key is let in after its successor was learned of: a day. Then it is put out.
pub const OVERLAP_MS: u64 = 24 * 3_600_000;
/// For how long the secret of an old key is kept at most, for channels whose partners do not come back: as long as a
/// certificate lasts. What has not been signed by then in such a channel stays unsigned.
pub const KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// How often it is looked whether an old key has come to rest.
const LOOK_MS: u64 = 60 * 60_000;
/// How often it is looked whether the node is at rest, while it waits to change its key.
const DRAIN_LOOK_MS: u64 = 500;

/// A key that this node had.
#[derive(Clone)]
pub struct Former {
    /// It.
    pub node: NodeId,
    /// Its secret, while it is kept.
    pub key: Option<SigningKey>,
    /// When another came into its place (Unix ms).
    pub since_ms: u64,
}

impl std::fmt::Debug for Former {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Former").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A key that this node had, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = FormerKey)]
pub struct FormerView {
    /// The node id that it was.
    #[schema(value_type = schema::NodeId)]
    pub node: NodeId,
    /// Until when peers that learned of the change at once let it in (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub accepted_until_ms: u64,
    /// Whether its secret is still here.
    pub is_kept: bool,
    /// Lanes and entries of its channels that are not settled yet.
    pub unsettled: u64,
}

/// How a change of key stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Rotating)]
pub struct RotationView {
    /// Tasks that run here, or elsewhere for this node: the change waits for them.
    pub running: u64,
    /// When it is made at the latest (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub at_latest_ms: u64,
}

/// What is under way with this node's own keys.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    /// When the change is made at the latest, once it was asked for.
    due_ms: Option<u64>,
    look_ms: u64,
}

impl Rotation {
    pub(super) const fn new(now_ms: u64) -> Self {
        Self { due_ms: None, look_ms: now_ms }
    }

    pub(super) const fn poll_timeout(&self) -> u64 {
        self.look_ms
    }
}

impl Engine {
    /// The owner has staged a new key: it is taken into use when nothing runs, at the latest in `drain_ms`.
    pub(super) fn rotate(&mut self, drain_ms: u64, now_ms: u64) -> Response {
        let at_latest_ms = now_ms.saturating_add(drain_ms);
        self.rotation.due_ms = Some(at_latest_ms);
        self.rotation.look_ms = now_ms;
        Response::Trust(Answer::Rotating(RotationView { running: self.n_running(), at_latest_ms }))
    }

    fn n_running(&self) -> u64 {
        let own = self.coordinator.runs().map(|run| run.running().len());
        (self.provider.active().count() + own.sum::<usize>()) as u64
    }

    /// Changes the key when it is time, puts out peers' keys that are over, and lets go of own ones.
    pub(super) fn poll_rotation(&mut self, now_ms: u64) {
        if now_ms < self.rotation.look_ms {
            return;
        }
        if let Some(due_ms) = self.rotation.due_ms
            && (now_ms >= due_ms || self.n_running() == 0)
        {
            self.rotation.due_ms = None;
            self.out.list.push(Effect::Rotate);
        }
        let is_over = |peer: &NodeId| self.admission.is_over(*peer, now_ms);
        let over: Vec<NodeId> = self.connected.iter().copied().filter(is_over).collect();
        for peer in over {
            self.admission.forget(peer);
            self.out.list.push(Effect::Disconnect { peer });
        }
        self.let_go(now_ms);
        let wait_ms = if self.rotation.due_ms.is_some() { DRAIN_LOOK_MS } else { LOOK_MS };
        let ends = self.admission.heirs().all().map(|(_, known)| known.until_ms());
        let next_end_ms = ends.filter(|at| *at > now_ms).min().unwrap_or(u64::MAX);
        self.rotation.look_ms = now_ms.saturating_add(wait_ms).min(next_end_ms);
    }

    /// Own keys that are at rest lose their secrets.
    fn let_go(&mut self, now_ms: u64) {
        for former in self.settings.former.iter_mut().filter(|former| former.key.is_some()) {
            let age_ms = now_ms.saturating_sub(former.since_ms);
            if age_ms >= KEPT_MS || (age_ms >= OVERLAP_MS && self.ledger.is_quiet(former.node)) {
                former.key = None;
                self.ledger.forget_key(former.node);
                self.out.list.push(Effect::ForgetKey { node: former.node });
            }
        }
    }

    /// Follows what papers in the catalogue have told of keys that came after others.
    pub(super) fn learn_successions(&mut self, now_ms: u64) {
        for (_, heir) in self.catalog.take_successions() {
            let Some(cert) = self.catalog.node_cert(heir).cloned() else { continue };
            self.learn_heir(&cert, now_ms);
        }
        self.follow_successions(now_ms);
    }

    fn learn_heir(&mut self, cert: &NodeCert, now_ms: u64) {
        if let Err(old) = self.admission.learn_heir(cert, now_ms) {
            let detail = format!(
                "{} ({}) names {old} as its key before, and another key has come after that one: its organisation has to revoke \
                 one of the two",
                cert.node, cert.org_name
            );
            self.out.list.push(Effect::Notice { detail });
        }
    }

    /// Lets everything follow what was learned about keys since the last time.
    pub(super) fn follow_successions(&mut self, now_ms: u64) {
        for (old, new) in self.admission.take_successions() {
            self.ledger.succeed(old, new);
            if old == self.me {
                let detail =
                    format!("the key {new} has come after that of this home, which is an old copy");
                self.out.list.push(Effect::Notice { detail });
                continue;
            }
            self.catalog.succeed(old, new);
            self.out.list.push(Effect::ForgetReplica { author: old });
            self.directory.succeed(old, new);
            self.succeed_good(old, new, now_ms);
            if !self.connected.contains(&old) {
                self.admission.forget(old);
            }
            let detail = format!("{new} has come after {old}: the same node with a new key");
            self.out.list.push(Effect::Notice { detail });
            // Copies that one key kept, or had kept, are those of the key after it.
            self.keeper.succeed(old, new);
            self.copies.succeed(old, new);
            self.rotation.look_ms = now_ms;
        }
    }

    pub(super) fn former_views(&self) -> Vec<FormerView> {
        let view = |former: &Former| FormerView {
            node: former.node,
            accepted_until_ms: former.since_ms.saturating_add(OVERLAP_MS),
            is_kept: former.key.is_some(),
            unsettled: self.ledger.unsettled(former.node),
        };
        self.settings.former.iter().map(view).collect()
    }
}
