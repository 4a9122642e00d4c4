//! Questions across realms: of a leaf to its gateways, of a gateway to others, and what comes back.

use std::collections::{BTreeMap, BTreeSet};

use catalog::index::RealmDigest;
use catalog::papers::Papers;
use catalog::{Catalog, Filter, Limits, NodeId, RealmId};

use super::view::{DigestView, FoundElsewhere};
use super::{
    Answer, ERRAND_MS, ERRANDS_MAX, GATEWAYS_ASKED, HOPS_MAX, RealmsError, RealmsMessage,
    SEARCH_BYTES_MAX, SEARCH_MS, SEARCHES_MAX, TOLD_BYTES_MAX, TOLD_MAX, Told,
};
use crate::engine::command::{CommandError, ResourceView, Response};
use crate::engine::message::Bytes;
use crate::engine::{CommandId, Effect, Engine};

/// Realms that one search shows; further answers are left out. More than gateways hold digests of by a few links.
const REALMS_SHOWN_MAX: usize = 512;

/// A question on its way to one realm.
#[derive(Clone, Copy, Debug)]
struct Errand {
    /// Who asked, this node among them.
    asker: NodeId,
    /// What the asker calls it.
    id: u64,
    realm: RealmId,
    /// The guest that was asked.
    way: NodeId,
    until_ms: u64,
    /// The round that it is part of, when a member asked for all realms.
    round: Option<u64>,
}

/// A question for all realms.
#[derive(Clone, Debug)]
struct Round {
    asker: NodeId,
    id: u64,
    /// Errands that are under way.
    open: BTreeSet<u64>,
    silent: Vec<RealmId>,
    ruled_out: u64,
}

/// A search of this node's owner.
#[derive(Debug)]
struct Search {
    command: CommandId,
    filter: Filter,
    until_ms: u64,
    /// Gateways that have not said that this was all.
    open: BTreeSet<NodeId>,
    found: BTreeMap<RealmId, (Catalog, DigestView, bool)>,
    /// Bytes that it may still take in.
    room: usize,
    silent: BTreeSet<RealmId>,
    ruled_out: u64,
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Asking {
    next_id: u64,
    errands: BTreeMap<u64, Errand>,
    rounds: BTreeMap<u64, Round>,
    searches: BTreeMap<u64, Search>,
}

impl Asking {
    pub(super) fn timeout(&self) -> Option<u64> {
        let errands = self.errands.values().map(|errand| errand.until_ms);
        errands.chain(self.searches.values().map(|search| search.until_ms)).min()
    }

    fn name(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Engine {
    /// Whether a member speaks for this realm, by the papers that let it in.
    fn is_own_gateway(&self, node: NodeId, now_ms: u64) -> bool {
        let Some(peer) = self.admission.peer(node) else { return false };
        let (realm, org) = (self.admission.realm(), peer.cert.org);
        peer.cert.is_gateway()
            && peer.membership.verify(realm, org, now_ms).is_ok_and(|member| member.is_gateway)
    }

    /// Gateways of this realm that can be asked now, this node among them.
    pub(super) fn own_gateways(&self, now_ms: u64) -> Vec<NodeId> {
        let me = self.admission.check_speaks(now_ms).is_ok().then_some(self.me);
        let others = self.connected.iter().copied();
        me.into_iter().chain(others.filter(|node| self.is_own_gateway(*node, now_ms))).collect()
    }

    pub(super) fn search_everywhere(
        &mut self,
        command: CommandId,
        filter: &str,
        limit: usize,
        now_ms: u64,
    ) -> Result<(), CommandError> {
        let parsed = Filter::parse(filter)
            .map_err(|error| CommandError::Filter { detail: error.to_string() })?;
        let gateways: Vec<NodeId> =
            self.own_gateways(now_ms).into_iter().take(GATEWAYS_ASKED).collect();
        if gateways.is_empty() {
            return Err(RealmsError::NobodyToAsk.into());
        }
        if self.realms.asking.searches.len() >= SEARCHES_MAX {
            return Err(RealmsError::Searches.into());
        }
        let id = self.realms.asking.name();
        let search = Search {
            command,
            filter: parsed,
            until_ms: now_ms + SEARCH_MS,
            open: gateways.iter().copied().collect(),
            found: BTreeMap::new(),
            room: SEARCH_BYTES_MAX,
            silent: BTreeSet::new(),
            ruled_out: 0,
        };
        self.realms.asking.searches.insert(id, search);
        let (filter, limit) = (filter.to_owned(), limit.min(TOLD_MAX) as u64);
        for gateway in gateways {
            if gateway == self.me {
                self.ask_for(self.me, id, (&filter, limit), now_ms);
            } else {
                let filter = filter.clone();
                self.send_realms(gateway, RealmsMessage::Everywhere { id, filter, limit });
            }
        }
        Ok(())
    }

    /// Asks every realm that its digest does not rule out, for a member or for this node.
    pub(super) fn ask_for(
        &mut self,
        asker: NodeId,
        id: u64,
        (filter, limit): (&str, u64),
        now_ms: u64,
    ) {
        let Ok(parsed) = Filter::parse(filter) else { return };
        let of_asker = self.realms.asking.rounds.values().filter(|round| round.asker == asker);
        if of_asker.count() >= SEARCHES_MAX || self.admission.check_speaks(now_ms).is_err() {
            return;
        }
        let ways = self.realms.digests.ways();
        let (asked, ruled_out): (Vec<_>, Vec<_>) =
            ways.into_iter().partition(|(_, held)| held.digest.may_hold(&parsed));
        let ruled_out = ruled_out.len() as u64;
        let asked: Vec<(RealmId, NodeId)> =
            asked.into_iter().map(|(realm, held)| (realm, held.way)).collect();
        let name = self.realms.asking.name();
        let mut round = Round { asker, id, open: BTreeSet::new(), silent: Vec::new(), ruled_out };
        for (realm, way) in asked {
            let errand =
                Errand { asker, id, realm, way, until_ms: now_ms + ERRAND_MS, round: Some(name) };
            match self.send_errand(errand, (filter, limit), 0) {
                Some(errand) => drop(round.open.insert(errand)),
                None => round.silent.push(realm),
            }
        }
        self.realms.asking.rounds.insert(name, round);
        self.end_round(name, now_ms);
    }

    fn send_errand(
        &mut self,
        errand: Errand,
        (filter, limit): (&str, u64),
        hops: u8,
    ) -> Option<u64> {
        let Errand { realm, way, .. } = errand;
        if self.realms.asking.errands.len() >= ERRANDS_MAX || !self.realms.is_connected(way) {
            return None;
        }
        let id = self.realms.asking.name();
        self.realms.asking.errands.insert(id, errand);
        let filter = filter.to_owned();
        self.send_realms(way, RealmsMessage::Ask { id, realm, filter, limit, hops });
        Some(id)
    }

    /// A question of a guest: for this realm, or for one that lies behind it.
    pub(super) fn answer_guest(
        &mut self,
        from: NodeId,
        (id, realm, hops): (u64, RealmId, u8),
        (filter, limit): (&str, u64),
        now_ms: u64,
    ) {
        let is_heard =
            self.realms.count_ask(from, now_ms) && self.admission.check_speaks(now_ms).is_ok();
        let Ok(parsed) = Filter::parse(filter) else { return };
        if !is_heard {
            return;
        }
        if realm != self.admission.realm() {
            let way = self.realms.digests.ways().get(&realm).map(|held| held.way);
            if let Some(way) = way.filter(|way| *way != from && hops < HOPS_MAX) {
                let until_ms = now_ms + ERRAND_MS;
                let errand = Errand { asker: from, id, realm, way, until_ms, round: None };
                // Without room nobody answers, and whoever asked says so.
                let _no_room = self.send_errand(errand, (filter, limit), hops + 1).is_none();
            }
            return;
        }
        let limit = usize::try_from(limit).unwrap_or(TOLD_MAX).min(TOLD_MAX);
        let (pushes, is_all) = self.catalog.told(&parsed, now_ms, (limit, TOLD_BYTES_MAX));
        let Some((_, digest)) = self.realms.digests.own.clone() else { return };
        let pushes = pushes.into_iter().map(Bytes).collect();
        let papers = Bytes(self.admission.own_papers().encode());
        let told = Told { id, realm, pushes, is_all, digest: Bytes(digest), papers };
        self.send_realms(from, RealmsMessage::Told(told));
    }

    /// An answer of a guest, for whoever has asked.
    pub(super) fn pass_back(&mut self, from: NodeId, told: Told, now_ms: u64) {
        let errands = &mut self.realms.asking.errands;
        let is_asked = |errand: &Errand| errand.way == from && errand.realm == told.realm;
        if !errands.get(&told.id).is_some_and(is_asked) {
            // Late, or never asked for.
            return;
        }
        let Some(errand) = errands.remove(&told.id) else { return };
        let Errand { asker, id, round, .. } = errand;
        let name = told.id;
        let told = Told { id, ..told };
        if asker == self.me {
            self.take_told(self.me, told, now_ms);
        } else {
            self.send_realms(asker, RealmsMessage::Told(told));
        }
        if let Some(round) = round {
            if let Some(round) = self.realms.asking.rounds.get_mut(&round) {
                round.open.remove(&name);
            }
            self.end_round(round, now_ms);
        }
    }

    /// Tells the asker of a round that it is over, once it is.
    fn end_round(&mut self, name: u64, now_ms: u64) {
        let rounds = &mut self.realms.asking.rounds;
        if rounds.get(&name).is_none_or(|round| !round.open.is_empty()) {
            return;
        }
        let Some(round) = rounds.remove(&name) else { return };
        let Round { asker, id, silent, ruled_out, .. } = round;
        if asker == self.me {
            self.take_asked(self.me, id, (silent, ruled_out), now_ms);
        } else {
            self.send_realms(asker, RealmsMessage::Asked { id, silent, ruled_out });
        }
    }

    /// What a gateway of this realm tells of another one: checked as that realm's members would, and kept apart.
    pub(super) fn take_told(&mut self, from: NodeId, told: Told, now_ms: u64) {
        let me = self.me;
        let Told { id, realm, pushes, is_all, digest, papers } = told;
        let asked = self.realms.asking.searches.get(&id).is_some_and(|s| s.open.contains(&from));
        let papers = Papers::decode(&papers.0);
        if !asked || realm == self.admission.realm() {
            return;
        }
        let Ok(papers) = papers else { return };
        let Ok((digest, cert)) = RealmDigest::verify(&digest.0, &papers, now_ms) else { return };
        if digest.realm != realm || self.admission.against(&cert, &papers.membership).is_some() {
            return;
        }
        let lists: Vec<_> = self.admission.lists().cloned().collect();
        let Some(search) = self.realms.asking.searches.get_mut(&id) else { return };
        if search.found.len() >= REALMS_SHOWN_MAX && !search.found.contains_key(&realm) {
            return;
        }
        let fresh = || {
            let mut aside = Catalog::new(me, realm, Limits::default());
            lists.into_iter().for_each(|list| drop(aside.revoke(list)));
            (aside, DigestView::of(&digest, &cert), true)
        };
        let (aside, _, has_all) = search.found.entry(realm).or_insert_with(fresh);
        *has_all &= is_all;
        for push in pushes {
            let Some(room) = search.room.checked_sub(push.0.len()) else {
                *has_all = false;
                break;
            };
            search.room = room;
            // Whoever tells may be honest about what somebody else made up: what is false is left out.
            let _refused = aside.handle_push(now_ms, &push.0).is_err();
        }
        search.silent.remove(&realm);
    }

    pub(super) fn take_asked(
        &mut self,
        from: NodeId,
        id: u64,
        (silent, ruled_out): (Vec<RealmId>, u64),
        now_ms: u64,
    ) {
        let Some(search) = self.realms.asking.searches.get_mut(&id) else { return };
        if !search.open.remove(&from) {
            return;
        }
        let found = &search.found;
        let unheard = silent.into_iter().filter(|realm| !found.contains_key(realm));
        search.silent.extend(unheard.take(REALMS_SHOWN_MAX));
        search.ruled_out = search.ruled_out.max(ruled_out);
        if search.open.is_empty() {
            self.end_search(id, now_ms);
        }
    }

    fn end_search(&mut self, id: u64, now_ms: u64) {
        let Some(search) = self.realms.asking.searches.remove(&id) else { return };
        let Search { command, filter, open, found, silent, ruled_out, .. } = search;
        let mut resources = Vec::new();
        let (mut is_all, mut asked) = (true, Vec::new());
        for (aside, gateway, has_all) in found.into_values() {
            is_all &= has_all;
            let passing = aside.search(&filter, now_ms, TOLD_MAX);
            resources.extend(passing.into_iter().map(|entry| FoundElsewhere {
                realm: gateway.realm,
                resource: ResourceView {
                    id: format!("{}/{}", entry.author, entry.key),
                    author: entry.author,
                    org: entry.org,
                    org_name: entry.org_name.to_owned(),
                    node_name: entry.node_name.to_owned(),
                    resource: entry.resource.clone(),
                },
            }));
            asked.push(gateway);
        }
        let told = super::ToldView {
            resources,
            realms: asked,
            silent: silent.into_iter().collect(),
            silent_gateways: open.into_iter().collect(),
            ruled_out,
            is_all,
        };
        let result = Ok(Response::Realms(Answer::Found(Box::new(told))));
        self.out.list.push(Effect::Reply { id: command, result });
    }

    /// Ends what nobody has answered.
    pub(super) fn poll_asking(&mut self, now_ms: u64) {
        let asking = &mut self.realms.asking;
        let overdue: Vec<(u64, Errand)> = asking
            .errands
            .iter()
            .filter(|(_, errand)| errand.until_ms <= now_ms)
            .map(|(name, errand)| (*name, *errand))
            .collect();
        for (name, errand) in overdue {
            self.realms.asking.errands.remove(&name);
            let Some(round) = errand.round else { continue };
            if let Some(round) = self.realms.asking.rounds.get_mut(&round)
                && round.open.remove(&name)
            {
                round.silent.push(errand.realm);
            }
            self.end_round(round, now_ms);
        }
        let searches = &self.realms.asking.searches;
        let over = searches.iter().filter(|(_, search)| search.until_ms <= now_ms);
        let over: Vec<u64> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_search(id, now_ms));
    }
}
