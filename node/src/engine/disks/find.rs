//! Images by name: those of this node first, then those that the catalogue describes.

use catalog::record::{Detail, DiskDetail, DiskName, Signer};
use catalog::{Entry, OrgId};

use super::{Disk, DiskError, DiskView, SignerView, State};
use crate::engine::Engine;
use crate::engine::command::CANDIDATES_MAX;

impl Engine {
    /// The image that a text names: an own one by its name, one of the catalogue by name, id or key, or the only one of either
    /// with whose id, key or digest the text begins.
    pub(in crate::engine) fn find_disk(
        &self,
        text: &str,
        now_ms: u64,
    ) -> Result<DiskView, DiskError> {
        let own = text.parse::<DiskName>().ok();
        if let Some(name) = own
            && let Ok(disk) = self.disks.own(&name)
        {
            return Ok(self.disk_view(&name, disk));
        }
        let begins = |disk: &DiskDetail| {
            text.len() > "blake3:".len() && disk.digest.to_string().starts_with(text)
        };
        let mut found: Vec<DiskView> = self
            .disks
            .iter()
            .filter(|(name, disk)| name.key() == text || begins(&disk.detail))
            .map(|(name, disk)| self.disk_view(name, disk))
            .collect();
        let listed: Vec<(Entry<'_>, &DiskDetail)> = self
            .known(now_ms)
            .filter(|entry| entry.author != self.me)
            .filter_map(|entry| match &entry.resource.detail {
                Detail::Disk(disk) => Some((entry, disk)),
                _ => None,
            })
            .collect();
        let is_it = |entry: &Entry<'_>| {
            entry.resource.name == text
                || entry.key == text
                || format!("{}/{}", entry.author, entry.key) == text
                || text.rsplit_once('/').is_some_and(|(org, name)| {
                    name == entry.resource.name
                        && (org == entry.org_name || org == entry.org.to_string())
                })
        };
        found.extend(
            listed
                .iter()
                .filter(|(e, disk)| is_it(e) || begins(disk))
                .map(|(e, d)| self.listed(e, d)),
        );
        if found.is_empty() && !text.is_empty() {
            let fits = |entry: &Entry<'_>| {
                text.split_once('/').is_some_and(|(author, key)| {
                    let is_author =
                        !author.is_empty() && entry.author.to_string().ends_with(author);
                    is_author && entry.key.starts_with(key)
                })
            };
            found.extend(listed.iter().filter(|(e, _)| fits(e)).map(|(e, d)| self.listed(e, d)));
        }
        let count = found.len();
        let candidates = found.iter().take(CANDIDATES_MAX).map(DiskView::id).collect();
        match <[DiskView; 1]>::try_from(found) {
            Ok([view]) => Ok(view),
            Err(_) if count == 0 => Err(DiskError::None { name: text.chars().take(200).collect() }),
            Err(_) => Err(DiskError::Ambiguous { name: text.to_owned(), count, candidates }),
        }
    }

    pub(super) fn disk_view(&self, name: &DiskName, disk: &Disk) -> DiskView {
        DiskView {
            node: self.me,
            owner: self.admission.org(),
            owner_name: self.settings.org_name.clone(),
            state: disk.state,
            visibility: Some(disk.sharing.as_str().to_owned()),
            orgs: disk.sharing.orgs(),
            added_ms: Some(disk.added_ms),
            changed_ms: Some(disk.changed_ms),
            ..self.view_of(name.as_str(), &disk.detail)
        }
    }

    fn listed(&self, entry: &Entry<'_>, disk: &DiskDetail) -> DiskView {
        DiskView {
            node: entry.author,
            owner: entry.org,
            owner_name: entry.org_name.to_owned(),
            ..self.view_of(&entry.resource.name, disk)
        }
    }

    /// What is said of an image wherever it is.
    fn view_of(&self, name: &str, disk: &DiskDetail) -> DiskView {
        // A false one is in no catalogue: a record that has it is refused.
        let signer = disk.signer(name).ok().flatten();
        DiskView {
            name: name.to_owned(),
            node: self.me,
            owner: self.admission.org(),
            owner_name: String::new(),
            state: State::Remote,
            visibility: None,
            orgs: Vec::new(),
            format: disk.format,
            digest: disk.digest,
            sha256: disk.sha256,
            size: disk.size,
            virtual_bytes: disk.virtual_bytes,
            arch: disk.arch.clone(),
            min_memory_bytes: disk.min_memory_bytes,
            properties: disk.properties.clone(),
            signer: signer.map(|Signer { org, signed_ms }| SignerView {
                org,
                org_name: self.name_of_org(org),
                signed_ms,
            }),
            signature: disk.signature.clone(),
            added_ms: None,
            changed_ms: None,
        }
    }

    /// What an organisation calls itself in the certificates of its nodes.
    fn name_of_org(&self, org: OrgId) -> Option<String> {
        if org == self.admission.org() {
            return Some(self.settings.org_name.clone());
        }
        let mut peers = self.admission.peers();
        peers.find(|(_, peer)| peer.cert.org == org).map(|(_, peer)| peer.cert.org_name.clone())
    }
}

impl DiskView {
    /// `AUTHOR/KEY`, as the catalogue names it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}{}", self.node, DiskName::KEY_PREFIX, self.name)
    }
}
