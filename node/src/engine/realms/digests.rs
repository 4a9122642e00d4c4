//! Digests: this realm's, published; others', held, bounded and passed on.

use std::collections::BTreeMap;

use catalog::cert::CLOCK_SKEW_MS;
use catalog::index::{RealmDigest, Source};
use catalog::papers::Papers;
use catalog::{NodeId, OrgId, RealmId};
use rand_core::Rng;

use super::lists::Shown;
use super::{
    DIGESTS_PER_LINK, HOPS_MAX, NUMBER_KEY, PUBLISH_MS, PUBLISH_SPREAD_MS, RealmsMessage,
    SPACING_MS,
};
use crate::engine::Engine;
use crate::engine::message::Bytes;
use crate::store::batch::Table;

/// A digest of another realm.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) digest: RealmDigest,
    /// The gateway's organisation.
    pub(super) org: OrgId,
    pub(super) org_name: String,
    pub(super) signed: Vec<u8>,
    pub(super) papers: Vec<u8>,
    /// What they say, to see whether they are taken back.
    pub(super) shown: Shown,
    /// Links between here and there.
    pub(super) hops: u8,
    /// The guest that it came from.
    pub(super) way: NodeId,
    pub(super) taken_ms: u64,
}

/// All digests.
#[derive(Debug, Default)]
pub(super) struct Digests {
    pub(super) held: BTreeMap<(RealmId, NodeId), Held>,
    pub(super) own: Option<(RealmDigest, Vec<u8>)>,
    /// Of the newest own one.
    pub(super) number: u64,
    /// When the next own one is due; none while nobody is linked.
    next_ms: Option<u64>,
}

impl Digests {
    pub(super) fn timeout(&self) -> Option<u64> {
        let ends = self.held.values().map(|held| held.digest.until_ms + CLOCK_SKEW_MS + 1);
        ends.min().into_iter().chain(self.next_ms).min()
    }

    pub(super) fn forget_realm(&mut self, realm: RealmId) {
        self.held.retain(|(of, _), _| *of != realm);
    }

    /// Forgets what came from a guest.
    pub(super) fn forget_way(&mut self, guest: NodeId) {
        self.held.retain(|_, held| held.way != guest);
    }

    /// The nearest way to each realm, of several gateways the newest digest's.
    pub(super) fn ways(&self) -> BTreeMap<RealmId, &Held> {
        let mut ways: BTreeMap<RealmId, &Held> = BTreeMap::new();
        for ((realm, _), held) in &self.held {
            let is_better = ways.get(realm).is_none_or(|known| {
                (held.hops, std::cmp::Reverse(held.digest.made_ms))
                    < (known.hops, std::cmp::Reverse(known.digest.made_ms))
            });
            if is_better {
                ways.insert(*realm, held);
            }
        }
        ways
    }

    fn insert(&mut self, held: Held, ways: &[NodeId]) {
        let key = (held.digest.realm, held.digest.gateway);
        let is_beside = |other: &Held| ways.contains(&other.way);
        while !self.held.contains_key(&key)
            && self.held.values().filter(|other| is_beside(other)).count() >= DIGESTS_PER_LINK
        {
            let worst = self
                .held
                .iter()
                .filter(|(_, other)| is_beside(other))
                .max_by_key(|(_, other)| (other.hops, std::cmp::Reverse(other.taken_ms)));
            let Some(worst) = worst.map(|(key, _)| *key) else { break };
            self.held.remove(&worst);
        }
        self.held.insert(key, held);
    }
}

impl Engine {
    /// What a guest gets first: this realm's digest, and those that are held of others.
    pub(super) fn greet_guest(&mut self, peer: NodeId, now_ms: u64) {
        if self.admission.check_speaks(now_ms).is_err() {
            return;
        }
        let is_fresh =
            |own: &(RealmDigest, Vec<u8>)| now_ms < own.0.made_ms.saturating_add(SPACING_MS);
        if !self.realms.digests.own.as_ref().is_some_and(is_fresh) {
            self.sign_digest(now_ms);
        }
        if let Some((_, signed)) = self.realms.digests.own.clone() {
            let papers = self.admission.own_papers().encode();
            self.send_digest(peer, (signed, papers), 0);
        }
        self.ask_lists(peer, self.realms.orgs_across());
        let Some(realm) = self.realms.realm_of(peer) else { return };
        let passed_on: Vec<_> = self
            .realms
            .digests
            .held
            .values()
            .filter(|held| held.digest.realm != realm && held.way != peer && held.hops < HOPS_MAX)
            .map(|held| ((held.signed.clone(), held.papers.clone()), held.hops + 1))
            .collect();
        passed_on.into_iter().for_each(|(digest, hops)| self.send_digest(peer, digest, hops));
        if self.realms.digests.next_ms.is_none() {
            self.realms.digests.next_ms = Some(now_ms + PUBLISH_MS);
        }
    }

    fn send_digest(&mut self, to: NodeId, (signed, papers): (Vec<u8>, Vec<u8>), hops: u8) {
        let (signed, papers) = (Bytes(signed), Bytes(papers));
        self.send_realms(to, RealmsMessage::Digest { signed, papers, hops });
    }

    /// Sums up the realm anew. The number is stored before the digest goes out, so that none is used twice.
    fn sign_digest(&mut self, now_ms: u64) {
        let digests = &mut self.realms.digests;
        digests.number = now_ms.max(digests.number.saturating_add(1));
        self.out.batch.put(Table::Members, NUMBER_KEY, digests.number.to_be_bytes());
        let addresses = &self.addresses;
        let source = Source { gateway: self.me, number: digests.number, addresses, now_ms };
        let digest = RealmDigest::build(&self.catalog, source);
        let signed = digest.sign(&self.settings.node_key);
        digests.own = Some((digest, signed));
    }

    pub(super) fn poll_digests(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        let is_over = |held: &Held| now_ms > held.digest.until_ms.saturating_add(CLOCK_SKEW_MS);
        self.realms.digests.held.retain(|_, held| !is_over(held));
        if self.realms.digests.next_ms.is_none_or(|next_ms| now_ms < next_ms) {
            return;
        }
        let guests: Vec<NodeId> = self.realms.connected.iter().copied().collect();
        if guests.is_empty() || self.admission.check_speaks(now_ms).is_err() {
            // The next guest has it begin again.
            self.realms.digests.next_ms = None;
            return;
        }
        let spread_ms = rng.next_u64() % PUBLISH_SPREAD_MS;
        self.realms.digests.next_ms = Some(now_ms + PUBLISH_MS - spread_ms);
        self.sign_digest(now_ms);
        if let Some((_, signed)) = self.realms.digests.own.clone() {
            let papers = self.admission.own_papers().encode();
            for guest in guests {
                self.send_digest(guest, (signed.clone(), papers.clone()), 0);
            }
        }
    }

    /// A digest that a guest gives or passes on.
    pub(super) fn take_digest(
        &mut self,
        from: NodeId,
        (signed, papers, hops): (&[u8], &[u8], u8),
        now_ms: u64,
    ) {
        let Some(link) = self.realms.realm_of(from).filter(|_| hops <= HOPS_MAX) else { return };
        let shown = match Papers::decode(papers) {
            Ok(shown) => shown,
            Err(error) => return self.penalize(from, error.to_string()),
        };
        // What is known costs no signature: only the bytes that are held again pass here.
        let is_known = |held: &Held| held.signed == signed && held.hops <= hops;
        if self.realms.digests.held.values().any(is_known) {
            return;
        }
        let (digest, cert) = match RealmDigest::verify(signed, &shown, now_ms) {
            Ok(verified) => verified,
            Err(error) if error.is_about_time() => return,
            Err(error) => return self.penalize(from, error.to_string()),
        };
        let is_own = digest.realm == self.admission.realm();
        if is_own || self.admission.against(&cert, &shown.membership).is_some() {
            return;
        }
        let known = self.realms.digests.held.get(&(digest.realm, digest.gateway));
        let is_taken = known.is_none_or(|held| {
            let is_next = digest.number > held.digest.number
                && now_ms >= held.taken_ms.saturating_add(SPACING_MS);
            is_next || (digest.number == held.digest.number && hops < held.hops)
        });
        if !is_taken {
            return;
        }
        let is_first = known.is_none();
        let ways: Vec<NodeId> = self.realms.guests_of(link);
        self.learn_gateway(digest.realm, digest.gateway, &digest.addresses);
        let realm = digest.realm;
        let shown = Shown::new(cert.clone(), shown.membership);
        if is_first {
            self.ask_lists(from, shown.orgs());
        }
        let held = Held {
            shown,
            org: cert.org,
            org_name: cert.org_name,
            signed: signed.to_vec(),
            papers: papers.to_vec(),
            hops,
            way: from,
            taken_ms: now_ms,
            digest,
        };
        self.realms.digests.insert(held, &ways);
        if hops < HOPS_MAX {
            let others = self.realms.connected.iter().copied().filter(|guest| *guest != from);
            let others: Vec<NodeId> =
                others.filter(|guest| self.realms.realm_of(*guest) != Some(realm)).collect();
            for guest in others {
                self.send_digest(guest, (signed.to_vec(), papers.to_vec()), hops + 1);
            }
        }
    }
}

impl super::Realms {
    /// The guests of a realm.
    fn guests_of(&self, realm: RealmId) -> Vec<NodeId> {
        let of = self.guests.iter().filter(|(_, guest)| guest.realm == realm);
        of.map(|(node, _)| *node).collect()
    }
}
