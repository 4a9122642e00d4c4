//! Resources: what an author describes in a record's body.
//!
//! A [`Resource`] is the description that people and placement read. In a signed record it is a CBOR map with integer keys
//! of at most [`BODY_LEN_MAX`] bytes; in the API it is JSON. Both forms carry the same bounds, checked by [`Resource::check`].

mod area;
mod ballot;
mod detail;
mod disk;
mod kinds;
mod list;
mod price;

pub use area::{
    AREA_ABOUT_LEN_MAX, AREA_KEY_PREFIX, AREA_MEMBERS_MAX, AREA_NAME_LEN_MAX, AREA_SHARES_MAX,
    AREA_WISHES_MAX, AreaBooks, AreaDetail, AreaForm, AreaPart, AreaRecordError, AreaShares,
    AreaStatement, Charter, NumberedBook, SHARE_LEN_MAX, SHARE_NAME_LEN_MAX, Share, ShareKind,
};
pub use ballot::{Accepted, Ballot, BookRef, LETS_MAX, Passed, RollChange, TRAIL_MAX, is_mask};
pub use detail::{
    AlgorithmDetail, ComputeDetail, DataDetail, Detail, DiskDetail, Insiders, Kind, LIST_MAX,
    Maturity, Port, PortType, ServiceDetail, ServiceEndpoint, ServicePort, ServiceReach,
    StorageDetail, WorkflowDetail,
};
pub use disk::{
    DISK_BYTES_MAX, DISK_NAME_LEN_MAX, DiskFormat, DiskName, DiskNameError, DiskStatement,
    PROPERTIES_BYTES_MAX, PROPERTIES_MAX, PROPERTY_KEY_LEN_MAX, PROPERTY_LEN_MAX, Properties,
    PropertyError, STATEMENT_LEN_MAX, Sha256, Signature, SignatureForm, Signer, StatementError,
};
pub use kinds::{Kinds, KindsError};
pub use list::{ListForm, RevocationsDetail, SignedList};
pub use price::{PRICE_ROWS_MAX, PriceError, PriceList, PriceRow};

use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::id::OrgId;
use crate::text::{TextError, check_line, check_name, check_prose};

/// Largest encoded body in bytes. A longer description belongs in a blob that the long text names.
pub const BODY_LEN_MAX: usize = 4096;
/// Longest key in bytes.
pub const KEY_LEN_MAX: usize = 128;
/// Longest name, in characters.
pub const NAME_LEN_MAX: usize = 64;
/// Longest short description, in characters.
pub const SHORT_LEN_MAX: usize = 200;
/// Longest long description, in characters.
pub const LONG_LEN_MAX: usize = 2000;
/// Longest logo address, in characters.
pub const LOGO_LEN_MAX: usize = 256;
/// Longest licence, in characters: an SPDX expression.
pub const LICENCE_LEN_MAX: usize = 64;
/// Longest terms of use, in characters.
pub const TERMS_LEN_MAX: usize = 500;
/// Most organisations that one restricted resource is shown to.
pub const AUDIENCE_MAX: usize = 64;

/// Who may see a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Every member of the realm.
    #[default]
    Public,
    /// The author's organisation and these, at most [`AUDIENCE_MAX`]. The record never enters the public log.
    Restricted(Vec<OrgId>),
}

/// The description of something that an author shares.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Names it among its author's resources, such as `compute/main` or `data/<hex>`: 1 to [`KEY_LEN_MAX`] visible ASCII
    /// characters.
    pub key: String,
    /// Name for people.
    pub name: String,
    /// What it is, in a line.
    #[serde(default)]
    pub short: String,
    /// What it is, at length.
    #[serde(default)]
    pub long: String,
    /// Address or digest of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo: Option<String>,
    /// Licence, as an SPDX expression where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Terms of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<String>,
    /// What its use costs; absent when that is only said on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceList>,
    /// What only its kind has.
    pub detail: Detail,
}

/// Why a description is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// The key is not 1 to 128 visible ASCII characters.
    #[error("`{key}` is no key: use 1 to {KEY_LEN_MAX} visible ASCII characters, like `data/dem`")]
    Key {
        /// The key, cut to 80 characters.
        key: String,
    },
    /// A text is too long, empty or unprintable.
    #[error("a text is refused")]
    Text(#[from] TextError),
    /// A list is too long.
    #[error("{count} {field}, at most {max} are allowed")]
    Count {
        /// The list.
        field: &'static str,
        /// Items given.
        count: usize,
        /// Items allowed.
        max: usize,
    },
    /// A port that no program can listen on.
    #[error("port `{name}` has the number {port}, 1 to 65535 are allowed")]
    Port {
        /// Its name.
        name: String,
        /// Its number.
        port: u32,
    },
    /// The price list is refused.
    #[error("the price list is refused")]
    Price(#[from] PriceError),
    /// The properties of a disk image are refused.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The signature of a disk image is false, or speaks of another.
    #[error("the signature of the disk image is refused")]
    Statement(#[from] StatementError),
    /// A revocation list is refused.
    #[error("the revocation list is refused")]
    Revocations(#[from] crate::cert::CertError),
    /// The record of an area is refused.
    #[error("the record of the area is refused")]
    Area(#[from] AreaRecordError),
    /// More organisations than a restricted resource may be shown to.
    #[error("{count} organisations may see it, at most {AUDIENCE_MAX} are allowed")]
    Audience {
        /// Organisations given.
        count: usize,
    },
    /// All texts are within their bounds, but not all together.
    #[error("the description has {len} bytes, at most {BODY_LEN_MAX} are allowed: shorten a text")]
    TooLong {
        /// Bytes encoded.
        len: usize,
    },
    /// The bytes are not a description.
    #[error("the description cannot be read")]
    Payload(#[from] CborError),
}

impl Resource {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.detail.kind()
    }

    /// Checks every bound but the encoded length.
    ///
    /// # Errors
    /// See [`ResourceError`].
    pub fn check(&self) -> Result<(), ResourceError> {
        check_key(&self.key)?;
        check_name("name", &self.name, NAME_LEN_MAX)?;
        check_line("short description", &self.short, SHORT_LEN_MAX)?;
        check_prose("long description", &self.long, LONG_LEN_MAX)?;
        check_line("logo", self.logo.as_deref().unwrap_or_default(), LOGO_LEN_MAX)?;
        check_line("licence", self.licence.as_deref().unwrap_or_default(), LICENCE_LEN_MAX)?;
        check_prose("terms", self.terms.as_deref().unwrap_or_default(), TERMS_LEN_MAX)?;
        if let Some(price) = &self.price {
            price.check()?;
        }
        self.detail.check()?;
        if let Detail::Disk(disk) = &self.detail {
            disk.signer(&self.name)?;
        }
        if let Detail::Area(area) = &self.detail {
            area.check(&self.key)?;
        }
        Ok(())
    }

    /// The body of a record. The key is not in it: the record itself names it.
    ///
    /// # Errors
    /// See [`ResourceError`].
    pub fn encode(&self) -> Result<Vec<u8>, ResourceError> {
        self.check()?;
        let body = MapWriter::new()
            .put(1, &self.kind())
            .put(2, &self.name)
            .put(3, &self.short)
            .put(4, &self.long)
            .put_opt(5, self.logo.as_ref())
            .put_opt(6, self.licence.as_ref())
            .put_opt(7, self.terms.as_ref())
            .put_opt(8, self.price.as_ref())
            .put(9, &self.detail.to_value())
            .encode();
        if body.len() > BODY_LEN_MAX {
            return Err(ResourceError::TooLong { len: body.len() });
        }
        Ok(body)
    }

    /// Reads the body of the record with this `key`.
    ///
    /// # Errors
    /// See [`ResourceError`].
    pub fn decode(key: &str, body: &[u8]) -> Result<Self, ResourceError> {
        let value = cbor::decode(body, BODY_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let kind: Kind = map.take(1)?;
        let resource = Self {
            key: key.to_owned(),
            name: map.take(2)?,
            short: map.take(3)?,
            long: map.take(4)?,
            logo: map.take_opt(5)?,
            licence: map.take_opt(6)?,
            terms: map.take_opt(7)?,
            price: map.take_opt(8)?,
            detail: Detail::from_item(kind, &map.item(9)?)?,
        };
        map.finish()?;
        resource.check()?;
        Ok(resource)
    }
}

/// Checks a record's key.
///
/// # Errors
/// [`ResourceError::Key`].
pub(crate) fn check_key(key: &str) -> Result<(), ResourceError> {
    let good = (1..=KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(()) } else { Err(ResourceError::Key { key: key.chars().take(80).collect() }) }
}

#[cfg(test)]
mod tests;
