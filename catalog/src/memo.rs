//! What many catalogues in one process have verified, once for all of them.
//!
//! A verdict on exact bytes is the same at every node. A simulator that runs a thousand catalogues gives them one
//! [`Memo`]: then each signature is checked once, and each verified record is held in memory once. A node by itself has
//! none, and checks everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::author::{CheckedRecord, HeldHead};
use crate::papers::HeldPapers;

type Hash = [u8; 32];

#[derive(Debug, Default)]
struct Known {
    heads: BTreeMap<Hash, Arc<HeldHead>>,
    records: BTreeMap<Hash, Arc<CheckedRecord>>,
    papers: BTreeMap<Hash, Arc<HeldPapers>>,
}

/// Verdicts by the hash of the bytes. It only grows: it is for worlds that end.
#[derive(Clone, Debug, Default)]
pub struct Memo(Arc<Mutex<Known>>);

impl Memo {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is one insertion, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self, hash: &Hash) -> Option<Arc<HeldHead>> {
        self.known().heads.get(hash).cloned()
    }

    pub(crate) fn put_head(&self, head: &Arc<HeldHead>) {
        self.known().heads.insert(head.hash, head.clone());
    }

    pub(crate) fn record(&self, hash: &Hash) -> Option<Arc<CheckedRecord>> {
        self.known().records.get(hash).cloned()
    }

    pub(crate) fn put_record(&self, record: &Arc<CheckedRecord>) {
        self.known().records.insert(record.held.hash, record.clone());
    }

    pub(crate) fn papers(&self, hash: &Hash) -> Option<Arc<HeldPapers>> {
        self.known().papers.get(hash).cloned()
    }

    pub(crate) fn put_papers(&self, papers: &Arc<HeldPapers>) {
        self.known().papers.insert(papers.hash, papers.clone());
    }
}
