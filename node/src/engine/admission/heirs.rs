//! Which key of a node came after which, as papers have told: kept for good, for a key that is over stays over.

use std::collections::BTreeMap;

use catalog::cert::{NodeCert, Revocations};
use catalog::{NodeId, OrgId};

use crate::engine::RecoverError;
use crate::engine::message::encode;
use crate::engine::rotation::OVERLAP_MS;
use crate::store::batch::{Batch, Table};

/// How the keys of successions begin in the table of members.
const KEY: &[u8] = b"heir/";
/// Successions that are kept of one organisation; at the bound the one that was learned first gives way, when its old key's
/// certificates have all ended, and else the new one is not kept: its old key is let in until its certificate ends, and
/// channels of it rest.
const HEIRS_PER_ORG: usize = 256;
/// Successions that are kept in all; at the bound those of further organisations are not.
const HEIRS_MAX: usize = 8_192;

/// The key that came after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::engine) struct Heir {
    /// It.
    pub(in crate::engine) heir: NodeId,
    /// Whose node it is.
    org: OrgId,
    /// When that was learned here first (Unix ms): the overlap counts from then, so that nobody draws it out by telling again.
    learned_ms: u64,
}

impl Heir {
    /// Until when the older key is let in.
    pub(in crate::engine) const fn until_ms(&self) -> u64 {
        self.learned_ms.saturating_add(OVERLAP_MS)
    }
}

/// Every succession that is known.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Heirs {
    known: BTreeMap<NodeId, Heir>,
    news: Vec<(NodeId, NodeId)>,
}

impl Heirs {
    pub(super) fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, RecoverError> {
        let row = || RecoverError::Row { table: Table::Members };
        let mut heirs = Self::default();
        for (key, value) in rows {
            let Some(old) = key.strip_prefix(KEY) else { continue };
            let old = NodeId::from_bytes(old.try_into().map_err(|_| row())?);
            heirs.known.insert(old, ciborium::from_reader(&value[..]).map_err(|_| row())?);
        }
        Ok(heirs)
    }

    /// Takes in what verified papers say of the keys before theirs.
    ///
    /// # Errors
    /// The key that another one came after already: then nothing is taken in.
    pub(super) fn learn(
        &mut self,
        cert: &NodeCert,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<(), NodeId> {
        let older = cert.predecessors();
        let newer = std::iter::once(cert.node).chain(older.iter().copied());
        let steps: Vec<(NodeId, NodeId)> = older.iter().copied().zip(newer).collect();
        let is_other = |(old, new): &&(NodeId, NodeId)| {
            self.known.get(old).is_some_and(|known| known.heir != *new)
        };
        if let Some((old, _)) = steps.iter().find(is_other) {
            return Err(*old);
        }
        for (old, heir) in steps {
            if !self.known.contains_key(&old) && self.make_room(cert.org, now_ms, batch) {
                let known = Heir { heir, org: cert.org, learned_ms: now_ms };
                batch.put(Table::Members, [KEY, old.as_bytes()].concat(), encode(&known));
                self.known.insert(old, known);
                self.news.push((old, heir));
            }
        }
        Ok(())
    }

    fn make_room(&mut self, org: OrgId, now_ms: u64, batch: &mut Batch) -> bool {
        let of_org = self.known.iter().filter(|(_, known)| known.org == org);
        let (count, first) = (of_org.clone().count(), of_org.min_by_key(|(_, k)| k.learned_ms));
        if count < HEIRS_PER_ORG {
            return self.known.len() < HEIRS_MAX;
        }
        let ended_ms = now_ms.saturating_sub(2 * catalog::cert::CERT_LIFE_MS_MAX);
        let ended = first.filter(|(_, known)| known.learned_ms < ended_ms).map(|(old, _)| *old);
        ended.is_some_and(|old| {
            batch.delete(Table::Members, [KEY, old.as_bytes()].concat());
            self.known.remove(&old).is_some()
        })
    }

    /// What an organisation has taken back came after nothing: the key before it counts again.
    pub(super) fn unlearn(&mut self, list: &Revocations, batch: &mut Batch) {
        let is_void =
            |known: &Heir| known.org == list.org && list.contains_key(known.heir.as_bytes());
        let void: Vec<NodeId> =
            self.known.iter().filter(|(_, k)| is_void(k)).map(|(old, _)| *old).collect();
        for old in void {
            self.known.remove(&old);
            batch.delete(Table::Members, [KEY, old.as_bytes()].concat());
        }
    }

    /// The key that came after one.
    pub(in crate::engine) fn of(&self, old: NodeId) -> Option<&Heir> {
        self.known.get(&old)
    }

    /// The newest key of a node that is known by an older one.
    pub(in crate::engine) fn latest(&self, node: NodeId) -> NodeId {
        let line = std::iter::successors(Some(node), |key| Some(self.known.get(key)?.heir));
        line.take(HEIRS_PER_ORG).last().unwrap_or(node)
    }

    /// Why a key is not let in any more.
    pub(super) fn against(&self, node: NodeId, now_ms: u64) -> Option<String> {
        let known = self.known.get(&node).filter(|known| now_ms >= known.until_ms())?;
        Some(format!("the key {} has come after this one, whose time is over", known.heir))
    }

    /// Every pair of an older and a newer key.
    pub(in crate::engine) fn all(&self) -> impl Iterator<Item = (NodeId, &Heir)> {
        self.known.iter().map(|(old, known)| (*old, known))
    }

    /// The pairs that were learned since this was last called.
    pub(super) fn take_news(&mut self) -> Vec<(NodeId, NodeId)> {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use catalog::cert::Succession;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn id(seed: u8) -> NodeId {
        key(seed).verifying_key().into()
    }

    /// A certificate of the last of some keys, each of which named the next.
    fn cert(keys: &[u8]) -> NodeCert {
        let org = key(1).verifying_key().into();
        let generation = u32::try_from(keys.len()).unwrap();
        let steps = keys.windows(2).zip(2..).map(|(pair, generation)| {
            let (old, new) = (id(pair[0]), id(pair[1]));
            Succession { old, new, org, generation, made_ms: NOW }.sign(&key(pair[0]))
        });
        let mut steps: Vec<_> = steps.collect();
        steps.reverse();
        NodeCert {
            org,
            org_name: "Acme".to_owned(),
            name: "rack-7".to_owned(),
            node: id(keys[keys.len() - 1]),
            generation,
            roles: vec![],
            realms: vec![],
            not_before_ms: NOW,
            not_after_ms: NOW + 1,
            serial: 7,
            issuer: None,
            successions: Some(steps),
        }
    }

    #[test]
    fn the_overlap_counts_from_when_it_was_first_told_and_ends_for_good() {
        let (mut heirs, mut batch) = (Heirs::default(), Batch::default());
        heirs.learn(&cert(&[10, 11]), NOW, &mut batch).unwrap();
        assert_eq!(heirs.take_news(), [(id(10), id(11))]);
        heirs.learn(&cert(&[10, 11]), NOW + OVERLAP_MS / 2, &mut batch).unwrap();
        assert!(heirs.take_news().is_empty());
        assert!(heirs.against(id(10), NOW + OVERLAP_MS - 1).is_none());
        assert!(heirs.against(id(10), NOW + OVERLAP_MS).is_some());
        let rows = batch.ops.iter().map(|op| (op.key.clone(), op.value.clone().unwrap()));
        let again = Heirs::recover(&rows.collect::<Vec<_>>()).unwrap();
        assert_eq!(again.known, heirs.known);
        // The next rotation, told with the one before it, ends the key between.
        heirs.learn(&cert(&[10, 11, 12]), NOW + 9, &mut batch).unwrap();
        assert!(heirs.against(id(11), NOW + OVERLAP_MS + 9).is_some());
        assert!(heirs.against(id(12), u64::MAX).is_none());
    }

    #[test]
    fn of_two_successors_the_first_counts_until_it_is_revoked() {
        let (mut heirs, mut batch) = (Heirs::default(), Batch::default());
        heirs.learn(&cert(&[10, 11]), NOW, &mut batch).unwrap();
        assert_eq!(heirs.learn(&cert(&[10, 12]), NOW, &mut batch), Err(id(10)));
        let list = Revocations::empty(key(2).verifying_key().into());
        heirs.unlearn(&list.with([*id(11).as_bytes()]).unwrap(), &mut batch);
        assert!(heirs.of(id(10)).is_some(), "another organisation has no say in it");
        let list = Revocations::empty(key(1).verifying_key().into());
        heirs.unlearn(&list.with([*id(11).as_bytes()]).unwrap(), &mut batch);
        heirs.learn(&cert(&[10, 12]), NOW, &mut batch).unwrap();
        assert_eq!(heirs.of(id(10)).map(|known| known.heir), Some(id(12)));
    }

    proptest! {
        #[test]
        fn a_key_keeps_its_first_successor_in_whatever_order_papers_come(
            told in proptest::collection::vec((10u8..14, 10u8..14), 1..12),
        ) {
            let (mut heirs, mut batch) = (Heirs::default(), Batch::default());
            let mut first = BTreeMap::new();
            for (old, new) in told.into_iter().filter(|(old, new)| old != new) {
                let learned = heirs.learn(&cert(&[old, new]), NOW, &mut batch);
                let expected = *first.entry(old).or_insert(new);
                prop_assert_eq!(learned.is_ok(), expected == new);
                prop_assert_eq!(heirs.of(id(old)).map(|known| known.heir), Some(id(expected)));
            }
        }
    }
}
