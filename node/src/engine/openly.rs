//! Which content is public: what live records name that everybody may see, and no record that only some may.
//!
//! Whoever knows a digest can publish a record that names it, without having the content. So that a record is public says
//! nothing about what this node has under that digest from elsewhere; whoever gives content on has to know besides that it
//! came from one who publishes it to all.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId};
use scheduler::place::Trust;

use super::Engine;
use super::directory::content_of;

/// Contents that are looked at; those of the greatest digests are left out.
const CONTENTS_MAX: usize = 50_000;

impl Engine {
    /// The contents that others publish to all and nobody restricts, of those given where some are, and whether each is a
    /// directory.
    pub(super) fn public_contents(
        &self,
        among: Option<&BTreeSet<Digest>>,
        now_ms: u64,
    ) -> BTreeMap<Digest, bool> {
        let (mut public, mut restricted) = (BTreeMap::new(), BTreeSet::new());
        for entry in self.catalog.resources(now_ms) {
            let Some((digest, is_dir)) = content_of(&entry.resource.detail) else { continue };
            if among.is_some_and(|among| !among.contains(&digest)) {
                continue;
            }
            if entry.is_restricted {
                restricted.insert(digest);
            } else if entry.author != self.me && self.trust(entry.org) != Trust::Blocked {
                public.insert(digest, is_dir);
                if public.len() > CONTENTS_MAX {
                    public.pop_last();
                }
            }
        }
        public.retain(|digest, _| !restricted.contains(digest));
        public
    }

    /// Who publishes content to all, if it is public.
    pub(super) fn publishers(&self, digest: Digest, now_ms: u64) -> BTreeSet<NodeId> {
        let named = self.catalog.resources(now_ms).filter(|entry| {
            let content = content_of(&entry.resource.detail);
            content.is_some_and(|(found, _)| found == digest)
        });
        let mut found = BTreeSet::new();
        for entry in named {
            if entry.is_restricted {
                return BTreeSet::new();
            }
            found.insert(entry.author);
        }
        found
    }
}
