//! Taking in heads and records: everything is verified before any of it is kept.

use std::sync::Arc;

use super::{Catalog, DELETES_SLACK, Equivocation, PushError, Pushed};
use crate::author::{CheckedRecord, Class, Held, HeldHead, Judgement, Rank};
use crate::cert::CLOCK_SKEW_MS;
use crate::id::NodeId;
use crate::log::{
    AuthorError, Head, LEASE_MS, LogError, Record, Unchecked, Version, check_author, record_hash,
};
use crate::papers::{HeldPapers, Papers, papers_hash};
use crate::record::Resource;
use crate::sync::Short;

/// Signed parts as a message brings them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) head: &'a [u8],
    /// The papers that the head names, when the sender thought that they are new here.
    pub(crate) papers: Option<&'a [u8]>,
    pub(crate) class: Class,
}

/// A head on its way in.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, on the stack")]
enum HeadIn<'a> {
    /// Verified before, by a catalogue that shares the memo.
    Known(Arc<HeldHead>),
    New(Unchecked<'a, Head>),
}

impl HeadIn<'_> {
    fn head(&self) -> &Head {
        match self {
            Self::Known(held) => &held.head,
            Self::New(unchecked) => &unchecked.content,
        }
    }

    fn verify(&self, author: NodeId) -> Result<(), LogError> {
        match self {
            Self::Known(_) => Ok(()),
            Self::New(unchecked) => unchecked.verify(author),
        }
    }
}

/// A record on its way in.
enum RecordIn<'a> {
    Known(Arc<CheckedRecord>),
    New(Unchecked<'a, Record>),
}

impl RecordIn<'_> {
    fn record(&self) -> &Record {
        match self {
            Self::Known(known) => &known.record,
            Self::New(unchecked) => &unchecked.content,
        }
    }

    fn verify(&self, author: NodeId) -> Result<(), LogError> {
        match self {
            Self::Known(_) => Ok(()),
            Self::New(unchecked) => unchecked.verify(author),
        }
    }
}

impl Catalog {
    /// Takes in a head and records of its author.
    pub(crate) fn apply<'a>(
        &mut self,
        now_ms: u64,
        parts: Parts<'_>,
        records: impl Iterator<Item = &'a [u8]>,
        pushed: &mut Pushed,
    ) -> Result<NodeId, PushError> {
        let hash = record_hash(parts.head);
        let head = match self.memo.as_ref().and_then(|memo| memo.head(&hash)) {
            Some(held) => HeadIn::Known(held),
            None => HeadIn::New(Head::peek(parts.head)?),
        };
        let author = head.head().author;
        let before = pushed.store.len();
        let result = self
            .apply_head(now_ms, head, hash, parts, pushed)
            .and_then(|()| self.apply_records(author, records, parts.class, pushed));
        // Whatever is kept is stored; who is quarantined is gone already.
        if pushed.store.len() != before {
            self.settle(author);
        }
        result.map(|()| author)
    }

    fn apply_head(
        &mut self,
        now_ms: u64,
        reading: HeadIn<'_>,
        hash: [u8; 32],
        parts: Parts<'_>,
        pushed: &mut Pushed,
    ) -> Result<(), PushError> {
        let (head, author) = (reading.head(), reading.head().author);
        if head.realm != self.realm {
            return Err(PushError::Realm { expected: self.realm, found: head.realm });
        }
        if author == self.me {
            return self.note_own(&reading, parts.head);
        }
        if self.quarantined.contains_key(&author) || self.is_succeeded(author) {
            return Ok(());
        }
        let rank = Rank { version: head.version, lease_until_ms: head.lease_until_ms, hash };
        let held = self.authors.get(&author).and_then(|author| author.head.as_ref());
        if let Some(held) = held {
            if head.contradicts(&held.head) {
                reading.verify(author)?;
                let (version, first) = (head.version, held.bytes.clone());
                self.quarantine(author, version, first, parts.head.to_vec());
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
        reading.verify(author)?;
        let known = held.map(|held| held.papers.clone());
        let papers = self.papers_of(head, known.as_ref(), parts.papers, now_ms)?;
        let is_new = known.is_none_or(|known| known.hash != papers.hash);
        if !self.note_succession(author, &papers.cert) {
            return Ok(());
        }
        if is_new {
            pushed.store.push(papers.bytes.clone());
        }
        pushed.store.push(parts.head.to_vec());
        let held = match reading {
            HeadIn::Known(held) if Arc::ptr_eq(&held.papers, &papers) => held,
            HeadIn::Known(held) => Arc::new(HeldHead { papers, ..held.as_ref().clone() }),
            HeadIn::New(unchecked) => Arc::new(HeldHead {
                bytes: parts.head.to_vec(),
                hash,
                head: unchecked.content,
                papers,
            }),
        };
        if let Some(memo) = &self.memo {
            memo.put_head(&held);
        }
        self.look_again_ms = self.look_again_ms.min(held.valid_until_ms());
        self.authors.entry(author).or_default().head = Some(held);
        Ok(())
    }

    /// The papers that a head names, found good at `now_ms`: those given, or those of the head held before.
    fn papers_of(
        &self,
        head: &Head,
        held: Option<&Arc<HeldPapers>>,
        given: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<Arc<HeldPapers>, PushError> {
        let author = head.author;
        let refused = |source| PushError::Author { author, source };
        let is_good =
            |papers: &Arc<HeldPapers>| papers.hash == head.papers && now_ms < papers.until_ms;
        let known = held.cloned().filter(&is_good);
        let shared = |hash| self.memo.as_ref().and_then(|memo| memo.papers(hash)).filter(&is_good);
        // What another node was told counts only for who was told it too.
        let given_hash = given.map(papers_hash);
        if given_hash.is_some_and(|hash| hash != head.papers) {
            return Err(PushError::OtherPapers { author });
        }
        let is_known = known.is_some();
        let papers = match known.or_else(|| given_hash.as_ref().and_then(shared)) {
            Some(papers) => papers,
            None => {
                let bytes = given.map(<[u8]>::to_vec).or_else(|| {
                    held.filter(|held| held.hash == head.papers).map(|held| held.bytes.clone())
                });
                let bytes = bytes.ok_or(PushError::Papers { author })?;
                let papers = Papers::decode(&bytes)?;
                let (cert, until_ms) =
                    check_author(author, self.realm, &papers.cert, &papers.membership, now_ms)
                        .map_err(refused)?;
                Arc::new(HeldPapers { bytes, hash: head.papers, cert, until_ms })
            }
        };
        let (org, serial) = (papers.cert.org, papers.cert.serial);
        if self.revocations.get(&org).is_some_and(|list| list.revokes(&papers.cert)) {
            return Err(refused(AuthorError::Revoked { org, serial }));
        }
        // Papers that are held have outlived every list that is.
        if !is_known && !self.revocations.is_empty() {
            let list_of = |org| self.revocations.get(&org);
            if let Some(by) = papers.membership().and_then(|member| member.revoked_by(list_of)) {
                return Err(refused(AuthorError::GrantRevoked { by }));
            }
        }
        if let Some(memo) = &self.memo {
            memo.put_papers(&papers);
        }
        Ok(papers)
    }

    /// A head of this node from elsewhere is old, or tells that the own log was restored from an old backup.
    fn note_own(&mut self, reading: &HeadIn<'_>, bytes: &[u8]) -> Result<(), PushError> {
        let own = self.authors.get(&self.me).and_then(|author| author.head.as_ref());
        if own.is_none_or(|own| own.bytes != bytes) {
            reading.verify(self.me)?;
            self.own.note_seen(reading.head().version);
        }
        Ok(())
    }

    /// Verifies all records, and only then keeps any.
    fn apply_records<'a>(
        &mut self,
        id: NodeId,
        records: impl Iterator<Item = &'a [u8]>,
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
        let mut fresh: Vec<(String, Arc<Held>)> = Vec::new();
        for bytes in records {
            let hash = record_hash(bytes);
            let reading = match self.memo.as_ref().and_then(|memo| memo.record(&hash)) {
                Some(known) => RecordIn::Known(known),
                None => RecordIn::New(Record::peek(bytes)?),
            };
            let record = reading.record();
            self.check_place(record, (id, head), class)?;
            match author.judge(class, &record.key, record.version, &hash) {
                Judgement::Stale => {}
                Judgement::Fresh => {
                    reading.verify(id)?;
                    fresh.push(self.held_of(reading, bytes, hash)?);
                }
                Judgement::Conflict(first) => {
                    reading.verify(id)?;
                    let version = record.version;
                    self.quarantine(id, version, first, bytes.to_vec());
                    return Ok(());
                }
            }
        }
        if self.is_light() && class == Class::Public {
            self.choose(id, &mut fresh, pushed);
        } else {
            self.check_quota(id, class, &fresh)?;
        }
        for (key, held) in fresh {
            self.keep(id, class, key, held, pushed);
        }
        Ok(())
    }

    /// A verified record as it is kept.
    fn held_of(
        &self,
        reading: RecordIn<'_>,
        bytes: &[u8],
        hash: [u8; 32],
    ) -> Result<(String, Arc<Held>), PushError> {
        let unchecked = match reading {
            RecordIn::Known(known) => return Ok((known.record.key.clone(), known.held.clone())),
            RecordIn::New(unchecked) => unchecked,
        };
        let mut record = unchecked.content;
        let version = record.version;
        let resource = match record.body.take() {
            Some(body) => Some(
                Resource::decode(&record.key, &body)
                    .map_err(|source| LogError::Resource { version, source })?,
            ),
            None => None,
        };
        let not_after_ms = record.not_after_ms;
        let held = Arc::new(Held { bytes: bytes.to_vec(), hash, version, not_after_ms, resource });
        let key = record.key.clone();
        if let Some(memo) = &self.memo {
            memo.put_record(&Arc::new(CheckedRecord { record, held: held.clone() }));
        }
        Ok((key, held))
    }

    /// Keeps one verified record, unless one before it in the same message made it stale.
    fn keep(
        &mut self,
        id: NodeId,
        class: Class,
        key: String,
        held: Arc<Held>,
        pushed: &mut Pushed,
    ) {
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
            Judgement::Conflict(first) => {
                self.quarantine(id, held.version, first, held.bytes.clone());
            }
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
        // Versions of restricted records count by key, so that a head says nothing of them.
        if class == Class::Public && version > head {
            return Err(PushError::Uncovered { author, version, head });
        }
        Ok(())
    }

    fn check_quota(
        &self,
        id: NodeId,
        class: Class,
        fresh: &[(String, Arc<Held>)],
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

    pub(crate) fn quarantined(&self, author: Short) -> Option<&Equivocation> {
        let from = NodeId::from_bytes(author.start());
        let (found, proof) = self.quarantined.range(from..).next()?;
        (Short::of(*found) == author).then_some(proof)
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
