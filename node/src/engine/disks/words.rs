//! What is asked about the images of disks, what is answered, and why something is refused.

use catalog::record::{
    AUDIENCE_MAX, DISK_BYTES_MAX, DiskDetail, DiskFormat, DiskName, Properties, PropertyError,
    Sha256, Signature,
};
use catalog::{Digest, NodeId, OrgId};

use super::{Change, IMAGES_MAX, Quota, Sharing, State};
use crate::engine::command::named;
use crate::schema;

/// A question or an order about the images of disks.
#[derive(Clone, Debug)]
pub enum Command {
    /// Content that is in the store becomes an image; the answer is [`Answer::Disk`].
    Add {
        /// Its name, which must be free.
        name: DiskName,
        /// What it is. A signature in it must be good.
        detail: Box<DiskDetail>,
        /// Who may see it.
        sharing: Sharing,
        /// Whether this organisation signs it.
        sign: bool,
    },
    /// Change what is said of one; the answer is [`Answer::Disk`].
    Set {
        /// Which.
        name: DiskName,
        /// What.
        change: Box<Change>,
    },
    /// Forget one; the answer is [`Answer::Done`].
    Remove {
        /// Which.
        name: DiskName,
    },
    /// Its content was looked at, and is whole or not; the answer is [`Answer::Done`].
    Mark {
        /// Which.
        name: DiskName,
        /// Whether it is.
        is_whole: bool,
    },
    /// Allow more or less; the answer is [`Answer::Usage`].
    Limit {
        /// How much.
        quota: Quota,
    },
    /// How much is used; the answer is [`Answer::Usage`].
    Usage,
    /// Whether content of this size may become an image of this name; the answer is [`Answer::Usage`].
    Check {
        /// The name.
        name: DiskName,
        /// Bytes of the file, as far as they are known.
        size: u64,
    },
    /// Every image of this node; the answer is [`Answer::Disks`].
    List,
    /// One image, of this node or of the catalogue; the answer is [`Answer::Disk`].
    Show {
        /// Its name, the id of its record or its digest, or the beginning of one of them.
        name: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, nothing to say.
    Done,
    /// One image.
    Disk(Box<DiskView>),
    /// Images.
    Disks(Vec<DiskView>),
    /// How much is used of what.
    Usage(Usage),
}

/// How much is used of what.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[schema(as = DiskUsage)]
pub struct Usage {
    /// Images.
    pub images: u64,
    /// Bytes of their files together.
    pub bytes: u64,
    /// How much there may be.
    pub quota: Quota,
}

/// Who vouches for an image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = DiskSigner)]
pub struct SignerView {
    /// The organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known here.
    #[schema(required)]
    pub org_name: Option<String>,
    /// When it signed, by its own clock (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub signed_ms: u64,
}

/// An image as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Disk)]
pub struct DiskView {
    /// Its name.
    pub name: String,
    /// The node that has it.
    #[schema(value_type = schema::NodeId)]
    pub node: NodeId,
    /// The organisation that owns it.
    #[schema(value_type = schema::OrgId)]
    pub owner: OrgId,
    /// That organisation's name.
    pub owner_name: String,
    /// Whether it can be used.
    pub state: State,
    /// `private`, `partner` or `public`; of another node's image absent, for it does not say to whom else it is shown.
    #[schema(value_type = Option<schema::DiskVisibility>, required)]
    pub visibility: Option<String>,
    /// The organisations that may see it, where they are named.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
    /// Its format.
    #[schema(value_type = schema::DiskFormat)]
    pub format: DiskFormat,
    /// BLAKE3 of the file, by which workflows may name it.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// SHA-256 of the file.
    #[schema(value_type = schema::Sha256)]
    pub sha256: Sha256,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk.
    pub virtual_bytes: u64,
    /// Machine architecture; empty when that is not said.
    pub arch: String,
    /// Least memory in bytes; 0 when that is not said.
    pub min_memory_bytes: u64,
    /// What else is said of it.
    #[schema(value_type = BTreeMap<String, String>)]
    pub properties: Properties,
    /// Who vouches for it.
    #[schema(required)]
    pub signer: Option<SignerView>,
    /// The signed statement.
    #[schema(value_type = Option<String>, required)]
    pub signature: Option<Signature>,
    /// When it was added (Unix ms); of another node's image absent.
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub added_ms: Option<u64>,
    /// When something was last changed (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub changed_ms: Option<u64>,
}

/// Why something cannot be done. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// No such image.
    #[error(
        "there is no disk image `{name}` on this node, and none in the catalogue that this node may see"
    )]
    None {
        /// As asked.
        name: String,
    },
    /// Several images fit.
    #[error("`{name}` may mean {count} disk images: {}; write more of it", named(candidates, *count))]
    Ambiguous {
        /// As asked.
        name: String,
        /// How many.
        count: usize,
        /// The ids of the first of them.
        candidates: Vec<String>,
    },
    /// The name is taken.
    #[error(
        "there is a disk image `{name}` on this node already: choose another name, or remove it first"
    )]
    Exists {
        /// The name.
        name: DiskName,
    },
    /// As many images as there may be.
    #[error(
        "there are {max} disk images on this node, no more are allowed: remove some, or raise the quota"
    )]
    Count {
        /// How many there may be.
        max: u64,
    },
    /// As many bytes as there may be.
    #[error(
        "the disk image has {bytes} bytes, and of {max} for all of them {free} are free: remove some, or raise the quota"
    )]
    Bytes {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes left.
        free: u64,
        /// Bytes that there may be.
        max: u64,
    },
    /// The disk is too large.
    #[error("the disk has {bytes} bytes, at most {DISK_BYTES_MAX} are taken")]
    Virtual {
        /// Bytes of the disk.
        bytes: u64,
    },
    /// A quota above every bound.
    #[error("{images} disk images, at most {IMAGES_MAX} can be allowed")]
    Limit {
        /// As asked.
        images: u64,
    },
    /// The word for an architecture is none.
    #[error("`{arch}` is no architecture: write one like `x86_64` or `aarch64`")]
    Arch {
        /// The word, cut to 80 characters.
        arch: String,
    },
    /// Properties are refused.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// Too many or too few organisations.
    #[error(
        "{count} organisations may see it, 1 to {AUDIENCE_MAX} are to be named; `private` shows it to nobody"
    )]
    Orgs {
        /// How many were named.
        count: usize,
    },
    /// It came with a signature that is not good.
    #[error("the signature of the disk image is refused: {detail}")]
    Signature {
        /// Why.
        detail: String,
    },
    /// The change would break the signature of another organisation.
    #[error(
        "{org} has signed what this would change: sign it yourself, or take the signature away"
    )]
    Signed {
        /// Who.
        org: OrgId,
    },
    /// Its content is not here.
    #[error(
        "the content of disk image `{name}` is damaged or gone: bring the file again and verify it"
    )]
    Lost {
        /// The name.
        name: DiskName,
    },
    /// Only the organisation's root signs images, and it is elsewhere.
    #[error(
        "this node does not hold the root key of its organisation, which alone signs disk images: do it where that key is"
    )]
    NoKey,
    /// The record is refused.
    #[error("the disk image cannot be described in the catalogue: {detail}")]
    Publish {
        /// Why.
        detail: String,
    },
}
