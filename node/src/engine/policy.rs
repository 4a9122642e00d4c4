//! What the owner's policies say of organisations and nodes, beside what the owner has decided about each of them.
//!
//! The policies come as a command, and decisions are a function of them. They only take away: what [`super::relations`] refuses
//! stays refused. An organisation is asked about when it comes, when its relation changes and when the policies do: whether it may
//! **see** the restricted records that name it, and **fetch** what is published here. A node is asked about with each of its
//! requests for a **quote**, with what is known of the work; where it asks for a person (`people`), the person is.
//! What an agreement promised is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{NodeId, OrgId};
use scheduler::place::Trust;
use scheduler::task::TaskSpec;

use super::command::{CommandError, Response};
use super::names::Sought;
use super::relations::RELATIONS_MAX;
use super::{Effect, Engine};
use crate::identity::Person;
use crate::policy::{Action, Decision, Policies, Principal, Request, Resource, Stance, Work};

/// A question or a change.
#[derive(Clone, Debug)]
pub enum Command {
    /// These hold from now on.
    Set(Arc<Policies>),
    /// What an organisation is to this node; the answer is [`Answer::Known`].
    Org(OrgId),
    /// Whose node it is, and what that is to this one; the answer is [`Answer::Known`].
    Node(NodeId),
    /// Every organisation that is known; the answer is [`Answer::Orgs`].
    Orgs,
    /// What things are called here, for somebody of an organisation; the answer is [`Answer::Names`].
    Names(OrgId, Vec<Sought>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The organisation and what it is; nothing of a node that is not known.
    Known(Option<(OrgId, Stance)>),
    /// Every organisation, this node's own first.
    Orgs(Vec<(OrgId, Stance)>),
    /// As many as were sought, in the same order.
    Names(Vec<Resource>),
}

/// What organisations may, as the policies said when they were last asked.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) policies: Arc<Policies>,
    /// No more than organisations that come; at [`RELATIONS_MAX`] all are forgotten and asked about again.
    judged: BTreeMap<OrgId, Judged>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub see: bool,
    pub fetch: bool,
}

impl Default for Judge {
    fn default() -> Self {
        Self { policies: Arc::new(Policies::built_in()), judged: BTreeMap::new() }
    }
}

const fn stance_of(trust: Trust) -> Stance {
    match trust {
        Trust::Own => Stance::Own,
        Trust::Partner => Stance::Partner,
        Trust::Peer => Stance::Peer,
        Trust::Blocked => Stance::Blocked,
    }
}

impl Engine {
    pub(super) fn handle_policy_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::Names(asking, sought) => Answer::Names(self.names(asking, sought, now_ms)),
            Command::Set(policies) => {
                self.set_policies(policies);
                return Ok(Response::Done);
            }
            Command::Org(org) => Answer::Known(Some((org, self.stance(org)))),
            Command::Node(node) => {
                let org = match node == self.me {
                    true => Some(self.admission.org()),
                    false => self.admission.peer(node).map(|peer| peer.cert.org),
                };
                Answer::Known(org.map(|org| (org, self.stance(org))))
            }
            Command::Orgs => {
                let views = self.org_views().into_iter().map(|view| view.org);
                let orgs: Vec<OrgId> = views.collect();
                Answer::Orgs(orgs.into_iter().map(|org| (org, self.stance(org))).collect())
            }
        };
        Ok(Response::Policy(answer))
    }

    /// What an organisation is, also one that was never here.
    fn stance(&self, org: OrgId) -> Stance {
        let stance = stance_of(self.trust(org));
        let is_here = || self.admission.peers().any(|(_, peer)| peer.cert.org == org);
        if stance == Stance::Peer && !is_here() { Stance::Stranger } else { stance }
    }

    /// Has other policies hold.
    pub(crate) fn set_policies(&mut self, policies: Arc<Policies>) {
        let orgs: std::collections::BTreeSet<OrgId> =
            self.admission.peers().map(|(_, peer)| peer.cert.org).collect();
        let before: Vec<(OrgId, bool)> =
            orgs.into_iter().map(|org| (org, self.relation(org).fetch)).collect();
        self.judge = Judge { policies, judged: BTreeMap::new() };
        for (org, may_fetch) in before {
            self.judge_org(org);
            self.tell_bar(org, may_fetch);
        }
    }

    /// Tells the gate of an organisation's nodes whether they may fetch, when that is not what it was. Of those that are away,
    /// too: the gate remembers them.
    pub(super) fn tell_bar(&mut self, org: OrgId, before: bool) {
        let may_fetch = self.relation(org).fetch;
        if may_fetch != before {
            let of_org = self.admission.peers().filter(|(_, peer)| peer.cert.org == org);
            let bars = of_org.map(|(peer, _)| Effect::Bar { peer: *peer, is_barred: !may_fetch });
            self.out.list.extend(bars);
        }
    }

    /// Asks the policies about an organisation, since it has come or is something else than before.
    pub(super) fn judge_org(&mut self, org: OrgId) {
        if org == self.admission.org() {
            return;
        }
        let before = self.judge.judged.get(&org).copied();
        let (judged, decisions) = self.ask_about(org);
        if self.judge.judged.len() >= RELATIONS_MAX {
            self.judge.judged.clear();
        }
        self.judge.judged.insert(org, judged);
        if before != Some(judged) {
            let refused = decisions.into_iter().filter(|(_, decision)| !decision.allowed);
            for (request, decision) in refused {
                self.out.list.push(Effect::Decided { request: Box::new(request), decision });
            }
        }
    }

    fn ask_about(&self, org: OrgId) -> (Judged, [(Request, Decision); 2]) {
        let decisions = [Action::See, Action::Fetch].map(|action| {
            let principal = Principal::Org { org, stance: stance_of(self.trust(org)) };
            let resource = Resource::node(self.me);
            let request = Request { principal, action, resource, work: None };
            let decision = self.judge.policies.decide(&request);
            (request, decision)
        });
        let [see, fetch] = [0, 1].map(|n: usize| decisions[n].1.allowed);
        (Judged { see, fetch }, decisions)
    }

    /// What the policies leave an organisation; everything is the own one's.
    pub(super) fn judged(&self, org: OrgId) -> Judged {
        match self.judge.judged.get(&org) {
            Some(judged) => *judged,
            None => self.ask_about(org).0,
        }
    }

    /// Whether the policies let a node, or the person for whom it asks, have this work priced. Every quote that a peer asks for
    /// passes here; the own organisation's nodes are not asked about. What forbids a node forbids its people, too; what permits
    /// it permits them nothing.
    pub(super) fn policies_quote(
        &mut self,
        from: NodeId,
        person: Option<Box<Person>>,
        spec: &TaskSpec,
    ) -> bool {
        if from == self.me {
            return true;
        }
        let Some(org) = self.admission.peer(from).map(|peer| peer.cert.org) else { return false };
        if org == self.admission.org() {
            return true;
        }
        let stance = stance_of(self.trust(org));
        let node = self.ask_for_quote(Principal::Node { node: from, org, stance }, spec);
        let is_forbidden = !node.1.allowed && node.1 != Decision::default();
        let (request, decision) = match person {
            Some(person) if !is_forbidden => {
                self.ask_for_quote(Principal::Person { person, stance }, spec)
            }
            _ => node,
        };
        let allowed = decision.allowed;
        self.out.list.push(Effect::Decided { request: Box::new(request), decision });
        allowed
    }

    fn ask_for_quote(&self, principal: Principal, spec: &TaskSpec) -> (Request, Decision) {
        let (action, resource) = (Action::Quote, Resource::node(self.me));
        let request = Request { principal, action, resource, work: Some(work_of(spec)) };
        let decision = self.judge.policies.decide(&request);
        (request, decision)
    }
}

fn work_of(spec: &TaskSpec) -> Work {
    Work {
        runtime: spec.program.runtime().as_str().to_owned(),
        cpu_milli: spec.needs.cpu_milli,
        memory_bytes: spec.needs.memory_bytes,
        network: spec.needs.network,
        devices: spec.needs.devices.keys().cloned().collect(),
    }
}
