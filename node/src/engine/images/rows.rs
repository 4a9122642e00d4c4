//! Every change of the state together with the rows that make it durable, and the way back from the rows.
//!
//! ```text
//! c DIGEST               content of the store: its BLAKE3 hash and length
//! b REPOSITORY \0 DIGEST a configuration or layer of a repository, and when it came
//! m REPOSITORY \0 DIGEST a manifest of a repository: what it says, and when it came or lost a tag
//! t REPOSITORY \0 TAG    which manifest has the tag
//! ```

use super::name::{OciDigest, Repository, Tag};
use super::{Content, Held, Images, Manifest, Shelf};
use crate::engine::stored;
use crate::store::batch::{Batch, Table};

const TABLE: Table = Table::Images;
const CONTENT: u8 = b'c';
const BLOB: u8 = b'b';
const MANIFEST: u8 = b'm';
const TAG: u8 = b't';
/// Ends a repository's name in a key.
const END: u8 = 0;

fn content_key(digest: &OciDigest) -> Vec<u8> {
    [&[CONTENT], digest.to_string().as_bytes()].concat()
}

fn key(kind: u8, repository: &Repository, rest: &str) -> Vec<u8> {
    [&[kind], repository.as_str().as_bytes(), &[END], rest.as_bytes()].concat()
}

impl Images {
    /// The images as the rows say.
    ///
    /// # Errors
    /// `BadRow` for a row that this program did not write, or that does not fit to the others.
    pub fn recover(rows: &[(Vec<u8>, Vec<u8>)], now_ms: u64) -> Result<Self, BadRow> {
        let mut images = Self::default();
        // A throw-away batch: the rows are there.
        let mut batch = Batch::default();
        for (key, value) in rows.iter().filter(|(key, _)| key.first() == Some(&CONTENT)) {
            let digest = text(&key[1..])?.parse().map_err(|_| BadRow)?;
            images.contents.insert(digest, Held { content: read(value)?, n_links: 0 });
        }
        let tags = rows.iter().filter(|(key, _)| key.first() == Some(&TAG));
        for (key, value) in rows.iter().filter(|(key, _)| key.first() != Some(&TAG)).chain(tags) {
            let Some((kind, key)) = key.split_first() else { return Err(BadRow) };
            if *kind == CONTENT {
                continue;
            }
            let end = key.iter().position(|b| *b == END).ok_or(BadRow)?;
            let repository: Repository = text(&key[..end])?.parse().map_err(|_| BadRow)?;
            let rest = text(&key[end + 1..])?;
            if *kind == TAG {
                let (tag, digest) = (rest.parse().map_err(|_| BadRow)?, read(value)?);
                let shelf = images.shelves.get(&repository).ok_or(BadRow)?;
                let manifest = shelf.manifests.get(&digest).ok_or(BadRow)?;
                let since_ms = manifest.since_ms;
                images.set_tag(&repository, tag, digest, since_ms, &mut batch);
                continue;
            }
            let digest: OciDigest = rest.parse().map_err(|_| BadRow)?;
            let content = images.contents.get(&digest).ok_or(BadRow)?.content;
            match *kind {
                BLOB => images.link(&repository, digest, content, read(value)?, &mut batch),
                MANIFEST => {
                    images.put_manifest(&repository, (digest, content), read(value)?, &mut batch);
                }
                _ => return Err(BadRow),
            }
        }
        if images.contents.values().any(|held| held.n_links == 0) {
            return Err(BadRow);
        }
        images.next_sweep_ms = (!images.shelves.is_empty()).then_some(now_ms);
        Ok(images)
    }

    /// A configuration or layer belongs to a repository.
    pub(super) fn link(
        &mut self,
        repository: &Repository,
        digest: OciDigest,
        content: Content,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        if self.open(repository).blobs.insert(digest, now_ms).is_none() {
            self.n_entries += 1;
            self.hold(digest, content, batch);
        } else {
            self.renew(digest, content, batch);
        }
        batch.put(TABLE, key(BLOB, repository, &digest.to_string()), stored(&now_ms));
    }

    /// It does not any more.
    pub(super) fn unlink(
        &mut self,
        repository: &Repository,
        digest: &OciDigest,
        batch: &mut Batch,
    ) {
        let Some(shelf) = self.shelves.get_mut(repository) else { return };
        if shelf.blobs.remove(digest).is_some() {
            self.n_entries -= 1;
            batch.delete(TABLE, key(BLOB, repository, &digest.to_string()));
            self.release(digest, batch);
            self.close(repository);
        }
    }

    /// A manifest belongs to a repository.
    pub(super) fn put_manifest(
        &mut self,
        repository: &Repository,
        (digest, content): (OciDigest, Content),
        manifest: Manifest,
        batch: &mut Batch,
    ) {
        batch.put(TABLE, key(MANIFEST, repository, &digest.to_string()), stored(&manifest));
        self.n_entries += 1 + manifest.document.parts.len();
        match self.open(repository).manifests.insert(digest, manifest) {
            Some(old) => {
                self.n_entries -= 1 + old.document.parts.len();
                self.renew(digest, content, batch);
            }
            None => self.hold(digest, content, batch),
        }
    }

    /// A manifest and its tags are gone.
    pub(super) fn drop_manifest(
        &mut self,
        repository: &Repository,
        digest: &OciDigest,
        batch: &mut Batch,
    ) {
        let Some(shelf) = self.shelves.get_mut(repository) else { return };
        let Some(old) = shelf.manifests.remove(digest) else { return };
        let n_tags = shelf.tags.len();
        shelf.tags.retain(|tag, tagged| {
            if tagged == digest {
                batch.delete(TABLE, key(TAG, repository, tag.as_str()));
            }
            tagged != digest
        });
        self.n_entries -= 1 + old.document.parts.len() + (n_tags - shelf.tags.len());
        batch.delete(TABLE, key(MANIFEST, repository, &digest.to_string()));
        self.release(digest, batch);
        self.close(repository);
    }

    /// A tag leads to a manifest that is there; the one that had it may be forgotten some time after `now_ms`.
    pub(super) fn set_tag(
        &mut self,
        repository: &Repository,
        tag: Tag,
        digest: OciDigest,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        batch.put(TABLE, key(TAG, repository, tag.as_str()), stored(&digest));
        match self.open(repository).tags.insert(tag, digest) {
            Some(old) if old != digest => self.touch(repository, &old, now_ms, batch),
            Some(_) => {}
            None => self.n_entries += 1,
        }
    }

    /// A tag is gone.
    pub(super) fn drop_tag(
        &mut self,
        repository: &Repository,
        tag: &Tag,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        let Some(shelf) = self.shelves.get_mut(repository) else { return };
        if let Some(old) = shelf.tags.remove(tag) {
            self.n_entries -= 1;
            batch.delete(TABLE, key(TAG, repository, tag.as_str()));
            self.touch(repository, &old, now_ms, batch);
        }
    }

    /// A manifest that has lost a tag counts as one that has just come.
    fn touch(
        &mut self,
        repository: &Repository,
        digest: &OciDigest,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        let manifest = self.shelves.get_mut(repository).and_then(|s| s.manifests.get_mut(digest));
        if let Some(manifest) = manifest {
            manifest.since_ms = now_ms;
            batch.put(TABLE, key(MANIFEST, repository, &digest.to_string()), stored(manifest));
        }
    }

    /// The repository, made when there is none.
    fn open(&mut self, repository: &Repository) -> &mut Shelf {
        if !self.shelves.contains_key(repository) {
            self.n_entries += 1;
        }
        self.shelves.entry(repository.clone()).or_default()
    }

    /// A repository that holds nothing is none.
    fn close(&mut self, repository: &Repository) {
        if self.shelves.get(repository).is_some_and(Shelf::is_empty) {
            self.shelves.remove(repository);
            self.n_entries -= 1;
        }
    }

    fn hold(&mut self, digest: OciDigest, content: Content, batch: &mut Batch) {
        self.contents.entry(digest).or_insert(Held { content, n_links: 0 }).n_links += 1;
        self.renew(digest, content, batch);
    }

    fn renew(&mut self, digest: OciDigest, content: Content, batch: &mut Batch) {
        if let Some(held) = self.contents.get_mut(&digest) {
            held.content = content;
            batch.put(TABLE, content_key(&digest), stored(&content));
        }
    }

    fn release(&mut self, digest: &OciDigest, batch: &mut Batch) {
        let Some(held) = self.contents.get_mut(digest) else { return };
        held.n_links -= 1;
        if held.n_links == 0 {
            self.contents.remove(digest);
            batch.delete(TABLE, content_key(digest));
        }
    }
}

/// A row that this program did not write, or that does not fit to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the images cannot be read")]
pub struct BadRow;

fn text(bytes: &[u8]) -> Result<&str, BadRow> {
    std::str::from_utf8(bytes).map_err(|_| BadRow)
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BadRow> {
    ciborium::from_reader(bytes).map_err(|_| BadRow)
}
