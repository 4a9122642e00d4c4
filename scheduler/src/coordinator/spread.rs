//! Replicas of one service keep away from each other: of the nodes that could take one, those come first that have the
//! fewest of them. It is a wish, not a condition: where there is nowhere else, two share a node.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};

use crate::place::Candidate;
use crate::run::Run;
use crate::service::Spread;
use crate::task::{RunId, TaskId};

use super::{Coordinator, Stage};

/// How much of one service is on a node already. The least is asked first; a run that is no replica finds all nodes equal.
#[derive(Debug, Default)]
pub(super) struct Apart {
    nodes: BTreeMap<NodeId, u32>,
    orgs: BTreeMap<OrgId, u32>,
    org_of: BTreeMap<NodeId, OrgId>,
    avoid: BTreeSet<NodeId>,
}

/// A replica that stays.
const STAYS: u32 = 2;
/// One that is to be replaced: its node is rather taken than one on which another stays.
const LEAVES: u32 = 1;

impl Apart {
    /// Whether the node is to be avoided, how crowded its organisation is, and how crowded it is itself.
    pub(super) fn crowd(&self, node: NodeId) -> (bool, u32, u32) {
        let org = self.org_of.get(&node).and_then(|org| self.orgs.get(org));
        let node_crowd = self.nodes.get(&node).copied().unwrap_or(0);
        (self.avoid.contains(&node), org.copied().unwrap_or(0), node_crowd)
    }
}

impl Coordinator {
    /// Where the other replicas of a run's service are or are asked for.
    pub(super) fn spread(&self, id: RunId, pool: &[Candidate]) -> Apart {
        let Some(own) = self.runs.get(&id).and_then(|run| run.submission().replica.as_ref()) else {
            return Apart::default();
        };
        let mut apart = Apart { avoid: own.avoid.clone(), ..Apart::default() };
        if own.spread == Spread::None {
            return apart;
        }
        if own.spread == Spread::Orgs {
            apart.org_of = pool.iter().map(|c| (c.node, c.org)).collect();
        }
        for other in self.groups.get(&own.service).into_iter().flatten().filter(|o| **o != id) {
            let Some(run) = self.runs.get(other) else { continue };
            let is_same = run.submission().replica.as_ref().map(|r| r.revision);
            let is_leaving = is_same != Some(own.revision)
                || own.replaces == Some(*other)
                || run.is_winding_down();
            let weight = if is_leaving { LEAVES } else { STAYS };
            for node in self.places(*other) {
                *apart.nodes.entry(node).or_default() += weight;
                if let Some(org) = apart.org_of.get(&node) {
                    *apart.orgs.entry(*org).or_default() += weight;
                }
            }
        }
        apart
    }

    /// The node of a replica, or those that are asked to take it.
    fn places(&self, id: RunId) -> Vec<NodeId> {
        let key = (id, TaskId { step: 0, index: 0 });
        match self.live.get(&key).map(|live| &live.stage) {
            Some(Stage::Asking { asked, .. }) => asked.values().copied().collect(),
            Some(
                Stage::Accepted { node, .. }
                | Stage::Running { node }
                | Stage::Collecting { node, .. },
            ) => vec![*node],
            None => Vec::new(),
        }
    }

    pub(super) fn join_group(&mut self, run: &Run) {
        if let Some(replica) = &run.submission().replica {
            self.groups.entry(replica.service.clone()).or_default().insert(run.id());
        }
    }

    pub(super) fn leave_group(&mut self, id: RunId) {
        let replica = self.runs.get(&id).and_then(|run| run.submission().replica.as_ref());
        let Some(service) = replica.map(|replica| replica.service.clone()) else { return };
        if let Some(group) = self.groups.get_mut(&service) {
            group.remove(&id);
            if group.is_empty() {
                self.groups.remove(&service);
            }
        }
    }
}
