//! The images of disks of this node: their names, what is said of each, who may see it, and how many there may be.
//!
//! A state machine beside that of container images. A change is [planned](Disks::plan_add) first, which decides everything, and
//! [committed](Disks::commit) when the catalogue has taken the record that follows from it, so that a refusal leaves nothing
//! half done. Content is in the store under its BLAKE3 hash and pinned as long as an image has it; whether it still is there
//! and whole only the shell knows, which says so with [`Command::Mark`].
//!
//! ```text
//!  Add ──► ready ◄──► lost        lost: its content is damaged or gone; it is in nobody's catalogue meanwhile
//!            │          │
//!            └─ Remove ─┘
//! ```
//!
//! What is signed of an image ([`catalog::record::DiskStatement`]) never stands beside other words: a change of it renews this
//! organisation's own signature, and is refused where it would break that of another.

mod find;
mod publish;
mod rows;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{
    AUDIENCE_MAX, DISK_BYTES_MAX, DiskDetail, DiskName, DiskStatement, Signature, Signer,
};
use catalog::{Digest, OrgId};

pub use self::words::{Answer, Command, DiskError, DiskView, SignerView, Usage};
use super::pins::Pins;
use crate::store::batch::Batch;

/// Most images that any node has, whatever its owner allows. About 4 KiB of memory each.
pub const IMAGES_MAX: u64 = 10_000;
/// What an owner has not said otherwise: at most so many images, with so many bytes together.
pub const QUOTA: Quota = Quota { images: 256, bytes: 1 << 40 };
/// Longest word for an architecture, in bytes.
const ARCH_LEN_MAX: usize = 32;

/// How much the images of a node may be. What is beyond it stays, but nothing is added.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[schema(as = DiskQuota)]
pub struct Quota {
    /// How many.
    pub images: u64,
    /// Bytes of all files together. Content that two images share counts once.
    pub bytes: u64,
}

/// Who may see an image, and fetch it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Nobody else; it is in no catalogue.
    #[default]
    Private,
    /// This organisation's nodes and these organisations, 1 to [`AUDIENCE_MAX`].
    Partner(BTreeSet<OrgId>),
    /// Every member of the realm.
    Public,
}

impl Sharing {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Partner(_) => "partner",
            Self::Public => "public",
        }
    }

    /// The organisations, of those that are named.
    #[must_use]
    pub fn orgs(&self) -> Vec<OrgId> {
        match self {
            Self::Partner(orgs) => orgs.iter().copied().collect(),
            Self::Private | Self::Public => Vec::new(),
        }
    }
}

/// Whether an image can be used.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = DiskState)]
pub enum State {
    /// Its content is here.
    Ready,
    /// Its content is damaged or gone.
    Lost,
    /// It is another node's, and fetched when it is used.
    Remote,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Lost => "lost",
            Self::Remote => "remote",
        }
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Disk {
    /// What is said of it, as its record says it.
    pub detail: DiskDetail,
    /// Who may see it.
    pub sharing: Sharing,
    /// Whether it can be used: [`State::Ready`] or [`State::Lost`].
    pub state: State,
    /// When it was added (Unix ms).
    pub added_ms: u64,
    /// When something was last changed (Unix ms).
    pub changed_ms: u64,
}

/// What is to be changed; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Another architecture.
    pub arch: Option<String>,
    /// Another least memory, in bytes.
    pub min_memory_bytes: Option<u64>,
    /// Properties that get these values.
    pub put: BTreeMap<String, String>,
    /// Properties that go. What is not there is fine.
    pub drop: BTreeSet<String>,
    /// Who may see it.
    pub sharing: Option<Sharing>,
    /// Whether this organisation signs it; `false` takes any signature away.
    pub sign: Option<bool>,
}

/// What signs for the organisation.
pub trait Pen {
    /// The organisation.
    fn org(&self) -> OrgId;
    /// Signs.
    fn sign(&self, statement: &DiskStatement) -> Signature;
}

/// A change that is decided and not done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Of which image.
    pub name: DiskName,
    /// As it was.
    pub before: Option<Disk>,
    /// As it will be.
    pub after: Option<Disk>,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disks {
    images: BTreeMap<DiskName, Disk>,
    /// How many images have a content.
    contents: BTreeMap<Digest, u64>,
    bytes: u64,
    quota: Quota,
}

impl Default for Disks {
    fn default() -> Self {
        Self { images: BTreeMap::new(), contents: BTreeMap::new(), bytes: 0, quota: QUOTA }
    }
}

impl Disks {
    /// Decides about a new image.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn plan_add(
        &self,
        name: DiskName,
        detail: DiskDetail,
        sharing: Sharing,
        pen: Option<&dyn Pen>,
        now_ms: u64,
    ) -> Result<Planned, DiskError> {
        self.check_room(&name, detail.size, Some(detail.digest))?;
        if detail.virtual_bytes > DISK_BYTES_MAX {
            return Err(DiskError::Virtual { bytes: detail.virtual_bytes });
        }
        check_words(&detail)?;
        check_sharing(&sharing)?;
        detail
            .signer(name.as_str())
            .map_err(|error| DiskError::Signature { detail: error.to_string() })?;
        let mut disk =
            Disk { detail, sharing, state: State::Ready, added_ms: now_ms, changed_ms: now_ms };
        if let Some(pen) = pen {
            disk.detail.signature = Some(signed(&name, &disk.detail, pen, now_ms));
        }
        Ok(Planned { name, before: None, after: Some(disk) })
    }

    /// Decides about a change of what is said of an image.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn plan_set(
        &self,
        name: &DiskName,
        change: Change,
        pen: Option<&dyn Pen>,
        now_ms: u64,
    ) -> Result<Planned, DiskError> {
        let before = self.own(name)?;
        let mut after = before.clone();
        let detail = &mut after.detail;
        detail.arch = change.arch.unwrap_or_else(|| detail.arch.clone());
        detail.min_memory_bytes = change.min_memory_bytes.unwrap_or(detail.min_memory_bytes);
        detail.properties.0.retain(|key, _| !change.drop.contains(key));
        detail.properties.0.extend(change.put);
        check_words(detail)?;
        if let Some(sharing) = change.sharing {
            check_sharing(&sharing)?;
            after.sharing = sharing;
        }
        let signer = before.detail.signer(name.as_str()).ok().flatten();
        let is_other = after.detail != before.detail;
        after.detail.signature = match (change.sign, signer) {
            (Some(true), _) => {
                Some(signed(name, &after.detail, pen.ok_or(DiskError::NoKey)?, now_ms))
            }
            (Some(false), _) => None,
            (None, Some(signer)) if is_other => match pen {
                Some(pen) if signer.org == pen.org() => {
                    Some(signed(name, &after.detail, pen, now_ms))
                }
                _ => return Err(DiskError::Signed { org: signer.org }),
            },
            (None, _) => after.detail.signature,
        };
        if after != *before {
            after.changed_ms = now_ms;
        }
        Ok(Planned { name: name.clone(), before: Some(before.clone()), after: Some(after) })
    }

    /// Decides about an image's end.
    ///
    /// # Errors
    /// [`DiskError::None`].
    pub fn plan_remove(&self, name: &DiskName) -> Result<Planned, DiskError> {
        let before = self.own(name)?.clone();
        Ok(Planned { name: name.clone(), before: Some(before), after: None })
    }

    /// Decides about what was found when an image's content was looked at.
    ///
    /// # Errors
    /// [`DiskError::None`].
    pub fn plan_mark(
        &self,
        name: &DiskName,
        is_whole: bool,
        now_ms: u64,
    ) -> Result<Planned, DiskError> {
        let before = self.own(name)?.clone();
        let state = if is_whole { State::Ready } else { State::Lost };
        let changed_ms = if before.state == state { before.changed_ms } else { now_ms };
        let after = Disk { state, changed_ms, ..before.clone() };
        Ok(Planned { name: name.clone(), before: Some(before), after: Some(after) })
    }

    /// Does what was planned; what has to be durable before anyone hears of it is added to `batch`. A plan is committed before
    /// the next is made.
    pub fn commit(&mut self, planned: Planned, batch: &mut Batch) {
        let Planned { name, before, after } = planned;
        debug_assert_eq!(self.images.get(&name), before.as_ref(), "a plan is committed at once");
        match after {
            Some(disk) => self.put(name, disk, batch),
            None => self.drop(&name, batch),
        }
    }

    /// Allows more or less.
    ///
    /// # Errors
    /// [`DiskError::Limit`].
    pub fn limit(&mut self, quota: Quota, batch: &mut Batch) -> Result<Usage, DiskError> {
        if quota.images > IMAGES_MAX {
            return Err(DiskError::Limit { images: quota.images });
        }
        self.set_quota(quota, batch);
        Ok(self.usage())
    }

    /// How much is used of what.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { images: self.images.len() as u64, bytes: self.bytes, quota: self.quota }
    }

    /// Whether an image of this name and size may be added; of which content, when that is known.
    ///
    /// # Errors
    /// [`DiskError::Exists`], [`DiskError::Count`] or [`DiskError::Bytes`].
    pub fn check_room(
        &self,
        name: &DiskName,
        size: u64,
        digest: Option<Digest>,
    ) -> Result<(), DiskError> {
        if self.images.contains_key(name) {
            return Err(DiskError::Exists { name: name.clone() });
        }
        let max = self.quota.images;
        if self.images.len() as u64 >= max {
            return Err(DiskError::Count { max });
        }
        let is_here = digest.is_some_and(|digest| self.contents.contains_key(&digest));
        let free = self.quota.bytes.saturating_sub(self.bytes);
        if !is_here && size > free {
            return Err(DiskError::Bytes { bytes: size, free, max: self.quota.bytes });
        }
        Ok(())
    }

    /// An image of this node.
    ///
    /// # Errors
    /// [`DiskError::None`].
    pub fn own(&self, name: &DiskName) -> Result<&Disk, DiskError> {
        self.images.get(name).ok_or_else(|| DiskError::None { name: name.to_string() })
    }

    /// Every image by name.
    pub fn iter(&self) -> impl Iterator<Item = (&DiskName, &Disk)> {
        self.images.iter()
    }

    /// Adds the content that must stay in the store.
    pub fn pin(&self, pins: &mut Pins) {
        pins.files.extend(self.contents.keys());
    }
}

fn signed(name: &DiskName, detail: &DiskDetail, pen: &dyn Pen, now_ms: u64) -> Signature {
    let signer = Signer { org: pen.org(), signed_ms: now_ms };
    pen.sign(&DiskStatement::of(name.as_str(), detail, signer))
}

fn check_words(detail: &DiskDetail) -> Result<(), DiskError> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if detail.arch.len() > ARCH_LEN_MAX || !detail.arch.bytes().all(is_word) {
        return Err(DiskError::Arch { arch: detail.arch.chars().take(80).collect() });
    }
    Ok(detail.properties.check()?)
}

fn check_sharing(sharing: &Sharing) -> Result<(), DiskError> {
    match sharing {
        Sharing::Partner(orgs) if !(1..=AUDIENCE_MAX).contains(&orgs.len()) => {
            Err(DiskError::Orgs { count: orgs.len() })
        }
        _ => Ok(()),
    }
}
