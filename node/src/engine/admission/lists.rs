//! What organisations have taken back: the newest revocation list of each, kept for good.

use std::collections::BTreeMap;

use catalog::OrgId;
use catalog::cert::{Membership, NodeCert, Revocations};

use crate::engine::RecoverError;
use crate::store::batch::{Batch, Table};

/// How the keys of lists begin in the table of members.
const KEY: &[u8] = b"revocations/";
/// Organisations whose lists are kept; at the bound lists of further ones are not believed. More than a realm has.
const LISTS_MAX: usize = 2_000;

/// The newest list of each organisation.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    known: BTreeMap<OrgId, (Revocations, Vec<u8>)>,
}

impl Lists {
    pub(super) fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, RecoverError> {
        let mut lists = Self::default();
        for (_, bytes) in rows.iter().filter(|(key, _)| key.starts_with(KEY)) {
            let list = Revocations::verify(bytes)
                .map_err(|_| RecoverError::Row { table: Table::Members })?;
            lists.known.insert(list.org, (list, bytes.clone()));
        }
        Ok(lists)
    }

    /// Keeps a list when it is newer than the one known. False when it is not.
    pub(super) fn take(&mut self, list: Revocations, bytes: &[u8], batch: &mut Batch) -> bool {
        let known = self.known.get(&list.org);
        let is_newer = known.is_none_or(|(known, _)| list.supersedes(known));
        if !is_newer || (known.is_none() && self.known.len() >= LISTS_MAX) {
            return false;
        }
        batch.put(Table::Members, [KEY, list.org.as_bytes()].concat(), bytes.to_vec());
        self.known.insert(list.org, (list, bytes.to_vec()));
        true
    }

    pub(super) fn of(&self, org: OrgId) -> Option<&Revocations> {
        self.known.get(&org).map(|(list, _)| list)
    }

    pub(super) fn bytes_of(&self, org: OrgId) -> Option<&[u8]> {
        self.known.get(&org).map(|(_, bytes)| bytes.as_slice())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Revocations> {
        self.known.values().map(|(list, _)| list)
    }

    /// Why a node is not let in although its papers are in force; nothing when no list speaks against it.
    pub(super) fn against(&self, cert: &NodeCert, membership: &Membership) -> Option<String> {
        if self.known.is_empty() {
            return None;
        }
        if self.of(cert.org).is_some_and(|list| list.revokes(cert)) {
            return Some(format!("{} ({}) has revoked this node", cert.org_name, cert.org));
        }
        let by = membership.revoked_by(|org| self.of(org))?;
        Some(format!("{by} has taken back what made {} a member", cert.org_name))
    }
}
