//! What the owner has decided about other organisations: what they are to this node, and what they may do here.
//!
//! An organisation that a realm has admitted is a **peer**. Nothing that it or anybody else says makes it more: a **partner** it
//! becomes by the owner's word alone, and a **blocked** one is refused whatever its papers say. Beside that each organisation
//! has rights, all of which a peer has at first: to **ask** for quotes and work, to **fetch** what is published here, to
//! **see** the restricted records that name it, and, where this node is a relay, to be **relayed**: to be reached through it
//! and to reach others. What an agreement promised is kept without regard to them: they say what
//! begins, not what goes on. An owner can also limit how many nodes and tasks of one organisation there are here at once, so
//! that none takes all the room.
//!
//! Decisions are stored before they count, and count at once for those who are connected. The own organisation's nodes are
//! not subject to them.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};
use scheduler::place::Trust;

use super::command::{CommandError, Response};
use super::message::encode;
use super::trust::{Answer, TrustError};
use super::{Effect, Engine, RecoverError};
use crate::schema;
use crate::store::batch::{Batch, Table};

/// How the keys of relations begin in the table of members.
const KEY: &[u8] = b"relation/";
/// Organisations that the owner has decided about; with more a decision is refused.
pub const RELATIONS_MAX: usize = 4_096;
/// Nodes of one organisation that are connected at once when the owner has not said otherwise; further ones are told that
/// this node is full. No organisation alone can fill the places there are.
const NODES_MAX: u32 = 128;
/// An organisation that no record names: what one may see that may see nothing restricted.
const NOBODY: OrgId = OrgId::from_bytes([0; 32]);

/// What an organisation is to this node.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// Any admitted organisation.
    #[default]
    Peer,
    /// One that the owner trusts explicitly.
    Partner,
    /// One that is refused.
    Blocked,
}

/// What the owner has decided about an organisation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Relation {
    /// What it is.
    pub stance: Stance,
    /// Whether it may ask for quotes and have work done here.
    pub ask: bool,
    /// Whether it may fetch what is published here.
    pub fetch: bool,
    /// Whether it may see the restricted records that name it.
    pub see: bool,
    /// Whether this node, as a relay, carries from and to its nodes.
    #[serde(default = "yes")]
    pub relay: bool,
    /// Tasks that it may have here at once; as many as there is room for when absent.
    #[serde(default)]
    pub tasks_max: Option<u32>,
    /// Nodes of it that may be connected at once; `NODES_MAX` when absent.
    #[serde(default)]
    pub nodes_max: Option<u32>,
    /// What it called itself when the owner decided, for those that are away since.
    #[serde(default)]
    pub name: Option<String>,
}

/// What was decided before there was a right says nothing of it.
const fn yes() -> bool {
    true
}

impl Default for Relation {
    fn default() -> Self {
        Self {
            stance: Stance::Peer,
            ask: true,
            fetch: true,
            see: true,
            relay: true,
            tasks_max: None,
            nodes_max: None,
            name: None,
        }
    }
}

impl Relation {
    /// How many nodes of the organisation may be connected at once.
    pub(super) fn nodes(&self) -> usize {
        self.nodes_max.unwrap_or(NODES_MAX) as usize
    }
}

/// A change of a relation; what is absent stays.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct RelationChange {
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stance: Option<Stance>,
    /// Whether it may ask for quotes and have work done here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<bool>,
    /// Whether it may fetch what is published here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<bool>,
    /// Whether it may see the restricted records that name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub see: Option<bool>,
    /// Whether this node, as a relay, carries from and to its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<bool>,
    /// Tasks that it may have here at once; 0 takes the limit away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u32>,
    /// Nodes of it that may be connected at once; 0 takes the limit away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_max: Option<u32>,
}

/// An organisation, as its node's owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Org)]
pub struct OrgView {
    /// It.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name; absent of one that was never here.
    #[schema(required)]
    pub org_name: Option<String>,
    /// The short form of its key, to compare.
    pub fingerprint: String,
    /// `own`, `partner`, `peer`, `blocked`, or `asking` when it waits to be let in.
    #[schema(value_type = schema::OrgStance)]
    pub stance: String,
    /// Whether it may ask for quotes and have work done here.
    pub ask: bool,
    /// Whether it may fetch what is published here.
    pub fetch: bool,
    /// Whether it may see the restricted records that name it.
    pub see: bool,
    /// Whether this node, as a relay, carries from and to its nodes.
    #[serde(default = "yes")]
    #[schema(required)]
    pub relay: bool,
    /// Tasks that it may have here at once.
    #[schema(required)]
    pub tasks_max: Option<u32>,
    /// Nodes of it that may be connected at once.
    pub nodes_max: u32,
    /// Tasks that it has here now.
    pub tasks: u64,
    /// Nodes of it that are connected now.
    pub connected: u64,
}

/// All decisions.
#[derive(Clone, Debug, Default)]
pub(super) struct Relations {
    known: BTreeMap<OrgId, Relation>,
}

impl Relations {
    /// What was decided, and who is refused until the program ends.
    pub(super) fn recover(
        rows: &[(Vec<u8>, Vec<u8>)],
        blocked: &BTreeSet<OrgId>,
    ) -> Result<Self, RecoverError> {
        let row = || RecoverError::Row { table: Table::Members };
        let mut relations = Self::default();
        for (key, value) in rows {
            let Some(org) = key.strip_prefix(KEY) else { continue };
            let org = OrgId::from_bytes(org.try_into().map_err(|_| row())?);
            let relation = ciborium::from_reader(&value[..]).map_err(|_| row())?;
            relations.known.insert(org, relation);
        }
        for org in blocked {
            relations.known.entry(*org).or_default().stance = Stance::Blocked;
        }
        Ok(relations)
    }

    pub(super) fn of(&self, org: OrgId) -> Relation {
        self.known.get(&org).cloned().unwrap_or_default()
    }

    fn set(&mut self, org: OrgId, relation: Relation, batch: &mut Batch) -> bool {
        if self.known.len() >= RELATIONS_MAX && !self.known.contains_key(&org) {
            return false;
        }
        let key = [KEY, org.as_bytes()].concat();
        if (Relation { name: None, ..relation }) == Relation::default() {
            self.known.remove(&org);
            batch.delete(Table::Members, key);
        } else {
            batch.put(Table::Members, key, encode(&relation));
            self.known.insert(org, relation);
        }
        true
    }
}

impl Engine {
    /// What an organisation is to this node.
    pub(super) fn trust(&self, org: OrgId) -> Trust {
        if org == self.admission.org() {
            return Trust::Own;
        }
        match self.relations.of(org).stance {
            Stance::Peer => Trust::Peer,
            Stance::Partner => Trust::Partner,
            Stance::Blocked => Trust::Blocked,
        }
    }

    /// What was decided about an organisation, less what the policies take from it; everything is the own one's.
    pub(super) fn relation(&self, org: OrgId) -> Relation {
        if org == self.admission.org() {
            return Relation::default();
        }
        let (mut relation, judged) = (self.relations.of(org), self.judged(org));
        relation.see &= judged.see;
        relation.fetch &= judged.fetch;
        relation
    }

    /// Whose restricted records an organisation gets: its own, or nobody's.
    pub(super) fn audience(&self, org: OrgId) -> OrgId {
        if self.relation(org).see { org } else { NOBODY }
    }

    pub(super) fn connected_of(&self, org: OrgId) -> impl Iterator<Item = NodeId> + '_ {
        let is_of = move |node: &NodeId| {
            self.admission.peer(*node).is_some_and(|peer| peer.cert.org == org)
        };
        self.connected.iter().copied().filter(is_of)
    }

    /// Whether an organisation may have one more task here.
    pub(super) fn may_have_task(&self, from: NodeId) -> bool {
        let Some(org) = self.admission.peer(from).map(|peer| peer.cert.org) else { return true };
        let max = self.relation(org).tasks_max;
        max.is_none_or(|max| self.tasks_of(org) < u64::from(max))
    }

    fn tasks_of(&self, org: OrgId) -> u64 {
        let is_of = |node: NodeId| {
            let peer = self.admission.peer(node).map(|peer| peer.cert.org);
            peer.or_else(|| self.catalog.node_cert(node).map(|cert| cert.org)) == Some(org)
        };
        self.provider.active().filter(|(_, consumer)| is_of(*consumer)).count() as u64
    }

    /// Tells the gate whether a peer that has just been admitted may fetch what is published here.
    pub(super) fn bar(&mut self, peer: NodeId) {
        let Some(org) = self.admission.peer(peer).map(|peer| peer.cert.org) else { return };
        if !self.relation(org).fetch {
            self.out.list.push(Effect::Bar { peer, is_barred: true });
        }
    }

    /// Tells the network whose a peer is that is being admitted, and whether it is carried for. The own organisation's nodes
    /// share no bounds with each other.
    pub(super) fn tell_terms(&mut self, peer: NodeId) {
        let Some(org) = self.admission.peer(peer).map(|peer| peer.cert.org) else { return };
        self.judge_org(org);
        let group = Some(org).filter(|org| *org != self.admission.org());
        let may_relay = self.relation(org).relay;
        self.out.list.push(Effect::Terms { peer, group, may_relay });
    }

    pub(super) fn relate(
        &mut self,
        org: OrgId,
        change: RelationChange,
    ) -> Result<Response, CommandError> {
        if org == self.admission.org() {
            return Err(TrustError::Own.into());
        }
        let (before, might_fetch) = (self.relations.of(org), self.relation(org).fetch);
        let limit = |new: Option<u32>, old| match new {
            None => old,
            Some(0) => None,
            Some(max) => Some(max),
        };
        let after = Relation {
            stance: change.stance.unwrap_or(before.stance),
            ask: change.ask.unwrap_or(before.ask),
            fetch: change.fetch.unwrap_or(before.fetch),
            see: change.see.unwrap_or(before.see),
            relay: change.relay.unwrap_or(before.relay),
            tasks_max: limit(change.tasks_max, before.tasks_max),
            nodes_max: limit(change.nodes_max, before.nodes_max),
            name: self.name_of(org).or(before.name),
        };
        let may_relay = after.relay;
        let is_blocked = after.stance == Stance::Blocked;
        if !self.relations.set(org, after, &mut self.out.batch) {
            return Err(TrustError::Relations.into());
        }
        if is_blocked {
            for peer in self.admission.drop_org(org) {
                self.out.list.push(Effect::Disconnect { peer });
            }
            self.forget_good_of(org);
        }
        self.put_out_guests();
        self.judge_org(org);
        self.tell_bar(org, might_fetch);
        if may_relay != before.relay {
            let of_org: Vec<NodeId> = self.connected_of(org).collect();
            of_org.into_iter().for_each(|peer| self.tell_terms(peer));
        }
        Ok(Response::Trust(Answer::Org(Box::new(self.org_view(org)))))
    }

    /// This organisation, those of known peers, and those that were decided about.
    pub(super) fn org_views(&self) -> Vec<OrgView> {
        let own = self.admission.org();
        let known = self.admission.peers().map(|(_, peer)| peer.cert.org);
        let all: BTreeSet<OrgId> =
            known.chain(self.relations.known.keys().copied()).filter(|org| *org != own).collect();
        let askers = self.admission.askers().map(|(org, name)| OrgView {
            org_name: Some(name.to_owned()),
            stance: "asking".to_owned(),
            ..self.org_view(org)
        });
        let known = std::iter::once(own).chain(all).map(|org| self.org_view(org));
        known.chain(askers).collect()
    }

    /// The owner's word about an organisation that waits for it.
    pub(super) fn decide(
        &mut self,
        org: OrgId,
        is_admitted: bool,
    ) -> Result<Response, CommandError> {
        if self.admission.decide(org, is_admitted) {
            Ok(Response::Trust(Answer::Org(Box::new(self.org_view(org)))))
        } else {
            Err(TrustError::NotAsking { org }.into())
        }
    }

    /// What an organisation calls itself in the certificates of its nodes.
    pub(super) fn name_of(&self, org: OrgId) -> Option<String> {
        if org == self.admission.org() {
            return Some(self.settings.org_name.clone());
        }
        let mut peers = self.admission.peers().map(|(_, peer)| &peer.cert);
        peers.find(|cert| cert.org == org).map(|cert| cert.org_name.clone())
    }

    fn org_view(&self, org: OrgId) -> OrgView {
        let relation = self.relation(org);
        let name = self.name_of(org).or_else(|| relation.name.clone());
        OrgView {
            org,
            org_name: name,
            fingerprint: org.fingerprint(),
            stance: self.trust(org).as_str().to_owned(),
            ask: relation.ask,
            fetch: relation.fetch,
            see: relation.see,
            relay: relation.relay,
            tasks_max: relation.tasks_max,
            nodes_max: relation.nodes_max.unwrap_or(NODES_MAX),
            tasks: self.tasks_of(org),
            connected: self.connected_of(org).count() as u64,
        }
    }
}
