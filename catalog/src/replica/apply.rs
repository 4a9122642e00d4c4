//! Taking in heads and records: everything is verified before any of it is kept.

use super::{Catalog, DELETES_SLACK, Equivocation, PushError, Pushed};
use crate::author::{Class, Held, HeldHead, Judgement, Rank};
use crate::cert::{CLOCK_SKEW_MS, NodeCert};
use crate::id::NodeId;
use crate::log::{
    AuthorError, Head, LEASE_MS, LogError, Record, Unchecked, Version, check_author, record_hash,
};
use crate::record::Resource;

impl Catalog {
    /// Takes in a head and records of its author.
    pub(crate) fn apply(
        &mut self,
        now_ms: u64,
        head: &[u8],
        records: &[Vec<u8>],
        class: Class,
        pushed: &mut Pushed,
    ) -> Result<NodeId, PushError> {
        let author = Head::peek(head)?.content.author;
        let result = self
            .apply_head(now_ms, head, pushed)
            .and_then(|()| self.apply_records(author, records, class, pushed));
        self.settle(author);
        result.map(|()| author)
    }

    fn apply_head(
        &mut self,
        now_ms: u64,
        bytes: &[u8],
        pushed: &mut Pushed,
    ) -> Result<(), PushError> {
        let unchecked = Head::peek(bytes)?;
        let (head, author) = (&unchecked.content, unchecked.content.author);
        if head.realm != self.realm {
            return Err(PushError::Realm { expected: self.realm, found: head.realm });
        }
        if author == self.me {
            return self.note_own(&unchecked, bytes);
        }
        if self.quarantined.contains_key(&author) {
            return Ok(());
        }
        let hash = record_hash(bytes);
        let rank = Rank { version: head.version, lease_until_ms: head.lease_until_ms, hash };
        let held = self.authors.get(&author).and_then(|author| author.head.as_ref());
        if let Some(held) = held {
            if head.contradicts(&held.head) {
                unchecked.verify(author)?;
                let first = held.bytes.clone();
                self.quarantine(author, head.version, first, bytes.to_vec());
                return Ok(());
            }
            if held.rank() >= rank {
                return Ok(());
            }
        }
        if head.lease_until_ms <= now_ms {
            return Ok(());
        }
        let max_ms = now_ms.saturating_add(LEASE_MS + CLOCK_SKEW_MS);
        if head.lease_until_ms > max_ms {
            return Err(PushError::Lease { author, until_ms: head.lease_until_ms, max_ms });
        }
        if held.is_none() && self.authors.len() >= self.limits.authors {
            return Err(PushError::TooManyAuthors { max: self.limits.authors });
        }
        unchecked.verify(author)?;
        let (cert, author_until_ms) = self.cert_of(head, held, now_ms)?;
        let head = unchecked.content;
        let held = HeldHead { bytes: bytes.to_vec(), hash, head, cert, author_until_ms };
        self.authors.entry(author).or_default().head = Some(held);
        pushed.store.push(bytes.to_vec());
        Ok(())
    }

    /// Checks certificate and membership of a head, or takes the answer for the same bytes from the head held.
    fn cert_of(
        &self,
        head: &Head,
        held: Option<&HeldHead>,
        now_ms: u64,
    ) -> Result<(NodeCert, u64), PushError> {
        let author = head.author;
        let same = held.filter(|held| {
            held.head.cert == head.cert
                && held.head.membership == head.membership
                && now_ms < held.author_until_ms
        });
        let refused = |source| PushError::Author { author, source };
        let (cert, until_ms) = match same {
            Some(held) => (held.cert.clone(), held.author_until_ms),
            None => check_author(author, self.realm, &head.cert, &head.membership, now_ms)
                .map_err(refused)?,
        };
        let list = self.revocations.get(&cert.org);
        if list.is_some_and(|list| list.revokes(&cert)) {
            return Err(refused(AuthorError::Revoked { org: cert.org, serial: cert.serial }));
        }
        Ok((cert, until_ms))
    }

    /// A head of this node from elsewhere is old, or tells that the own log was restored from an old backup.
    fn note_own(&mut self, unchecked: &Unchecked<'_, Head>, bytes: &[u8]) -> Result<(), PushError> {
        let own = self.authors.get(&self.me).and_then(|author| author.head.as_ref());
        if own.is_none_or(|own| own.bytes != bytes) {
            unchecked.verify(self.me)?;
            self.own.note_seen(unchecked.content.version);
        }
        Ok(())
    }

    /// Verifies all records, and only then keeps any.
    fn apply_records(
        &mut self,
        id: NodeId,
        records: &[Vec<u8>],
        class: Class,
        pushed: &mut Pushed,
    ) -> Result<(), PushError> {
        if id == self.me {
            return Ok(());
        }
        let Some(author) = self.authors.get(&id) else {
            return Ok(());
        };
        let Some(head) = author.head.as_ref().map(|held| held.head.version) else {
            return Ok(());
        };
        let mut fresh: Vec<(String, Held)> = Vec::new();
        for bytes in records {
            let unchecked = Record::peek(bytes)?;
            self.check_place(&unchecked.content, (id, head), class)?;
            let record = &unchecked.content;
            let hash = record_hash(bytes);
            match author.judge(class, &record.key, record.version, &hash) {
                Judgement::Stale => {}
                Judgement::Fresh => {
                    unchecked.verify(id)?;
                    fresh.push(held_of(unchecked.content, bytes, hash)?);
                }
                Judgement::Conflict(first) => {
                    unchecked.verify(id)?;
                    let version = record.version;
                    self.quarantine(id, version, first, bytes.clone());
                    return Ok(());
                }
            }
        }
        self.check_quota(id, class, &fresh)?;
        for (key, held) in fresh {
            self.keep(id, class, key, held, pushed);
        }
        Ok(())
    }

    /// Keeps one verified record, unless one before it in the same message made it stale.
    fn keep(&mut self, id: NodeId, class: Class, key: String, held: Held, pushed: &mut Pushed) {
        let Some(author) = self.authors.get_mut(&id) else {
            return;
        };
        match author.judge(class, &key, held.version, &held.hash) {
            Judgement::Stale => {}
            Judgement::Fresh => {
                pushed.store.push(held.bytes.clone());
                pushed.news.push((id, key.clone()));
                author.insert(class, key, held);
            }
            Judgement::Conflict(first) => self.quarantine(id, held.version, first, held.bytes),
        }
    }

    /// Checks that a record belongs beside this head and in this class.
    fn check_place(
        &self,
        record: &Record,
        (author, head): (NodeId, Version),
        class: Class,
    ) -> Result<(), PushError> {
        let version = record.version;
        if record.realm != self.realm {
            return Err(PushError::Realm { expected: self.realm, found: record.realm });
        }
        if record.author != author {
            return Err(PushError::OtherAuthor { expected: author, found: record.author });
        }
        if record.is_restricted != (class == Class::Restricted) {
            return Err(PushError::Misplaced { author, version });
        }
        if version > head {
            return Err(PushError::Uncovered { author, version, head });
        }
        Ok(())
    }

    fn check_quota(
        &self,
        id: NodeId,
        class: Class,
        fresh: &[(String, Held)],
    ) -> Result<(), PushError> {
        let Some(author) = self.authors.get(&id) else {
            return Ok(());
        };
        let (mut count, mut size) = (author.count(), author.bytes());
        for (key, held) in fresh {
            size += held.bytes.len();
            match author.held(class, key) {
                Some(old) => size = size.saturating_sub(old.bytes.len()),
                None => count += 1,
            }
        }
        let records = self.limits.records_per_author;
        let bytes = self.limits.bytes_per_author;
        if count > records.saturating_add(DELETES_SLACK) || size > bytes {
            return Err(PushError::Quota { author: id, records, bytes });
        }
        Ok(())
    }

    /// Brings completeness and the trie in line with what is held of an author.
    pub(crate) fn settle(&mut self, id: NodeId) {
        let leaf = self.authors.get_mut(&id).and_then(|author| {
            author.settle();
            author.leaf()
        });
        match leaf {
            Some(leaf) => self.trie.set(id, leaf),
            None => self.trie.remove(id),
        }
    }

    pub(crate) fn quarantined(&self, author: NodeId) -> Option<&Equivocation> {
        self.quarantined.get(&author)
    }

    /// Drops an author that lied and remembers the proof; beyond as many proofs as there may be authors, it is only dropped.
    pub(crate) fn quarantine(
        &mut self,
        author: NodeId,
        version: Version,
        first: Vec<u8>,
        second: Vec<u8>,
    ) {
        if self.quarantined.len() < self.limits.authors {
            let proof = Equivocation { author, version, first, second };
            self.quarantined.insert(author, proof);
        }
        self.drop_author(author);
    }

    pub(super) fn drop_author(&mut self, author: NodeId) {
        self.authors.remove(&author);
        self.trie.remove(author);
    }
}

fn held_of(record: Record, bytes: &[u8], hash: [u8; 32]) -> Result<(String, Held), PushError> {
    let version = record.version;
    let resource = match &record.body {
        Some(body) => Some(
            Resource::decode(&record.key, body)
                .map_err(|source| LogError::Resource { version, source })?,
        ),
        None => None,
    };
    let not_after_ms = record.not_after_ms;
    let held = Held { bytes: bytes.to_vec(), hash, version, not_after_ms, resource };
    Ok((record.key, held))
}
