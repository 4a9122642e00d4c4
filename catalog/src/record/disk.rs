//! Images of disks: what is said of one, and the signature that vouches for it.
//!
//! A record is signed by the node that publishes it, which says who offers an image. A [`DiskStatement`] says who vouches for
//! it: an organisation signs the name, both digests and everything else that makes an image what it is. The statement travels
//! in the record and outlives it: who has fetched an image and publishes it again keeps the statement, and whoever reads a
//! record refuses it when its statement speaks of another image.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;

use super::detail::DiskDetail;
use crate::cbor::{self, CborError, Field, Item, ListItem, MapReader, MapWriter};
use crate::envelope::{self, EnvelopeError, Typ};
use crate::id::{Digest, IdError, OrgId, from_hex, to_hex};
use crate::text::{TextError, check_line};
use crate::wire::word_enum;

/// Largest disk that an image may describe, in bytes: 2 TiB. A larger one is refused.
pub const DISK_BYTES_MAX: u64 = 2 << 40;
/// Longest name of a disk image, in characters.
pub const DISK_NAME_LEN_MAX: usize = 64;
/// Most properties of one disk image; with more it is refused.
pub const PROPERTIES_MAX: usize = 32;
/// Longest key of a property, in characters.
pub const PROPERTY_KEY_LEN_MAX: usize = 64;
/// Longest value of a property, in characters.
pub const PROPERTY_LEN_MAX: usize = 255;
/// Most bytes of all keys and values together. A record holds them twice, plain and under the signature, and has
/// [`super::BODY_LEN_MAX`] bytes.
pub const PROPERTIES_BYTES_MAX: usize = 1024;
/// Largest signed statement in bytes: properties and name at their bounds, with numbers and envelope.
pub const STATEMENT_LEN_MAX: usize = 2048;

word_enum!(
    /// The formats of disk images.
    DiskFormat, "a format of disk images",
    {
        /// The bytes of the disk as they are.
        Raw = 1 "raw",
        /// QEMU's own.
        Qcow2 = 2 "qcow2",
        /// Microsoft's older one, fixed or dynamic.
        Vhd = 3 "vhd",
        /// Microsoft's newer one.
        Vhdx = 4 "vhdx",
        /// `VirtualBox`'s.
        Vdi = 5 "vdi",
        /// VMware's, in one file.
        Vmdk = 6 "vmdk",
    }
);

/// Why a text is no name of a disk image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no name of a disk image: 1 to {DISK_NAME_LEN_MAX} lower-case letters, digits, `.`, `_` and `-`, beginning with a \
     letter or digit"
)]
pub struct DiskNameError {
    /// The text, cut to 80 characters.
    pub text: String,
}

/// The name of a disk image among those of its node, such as `debian-12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

impl DiskName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the record that describes it.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", Self::KEY_PREFIX, self.0)
    }

    /// How the keys of disk images begin.
    pub const KEY_PREFIX: &'static str = "disk/";
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for DiskName {
    type Err = DiskNameError;

    fn from_str(text: &str) -> Result<Self, DiskNameError> {
        let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_good = text.len() <= DISK_NAME_LEN_MAX
            && text.bytes().next().is_some_and(is_word)
            && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'_' | b'-'));
        if is_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(DiskNameError { text: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for DiskName {
    type Error = DiskNameError;
    fn try_from(text: String) -> Result<Self, DiskNameError> {
        text.parse()
    }
}

impl From<DiskName> for String {
    fn from(name: DiskName) -> Self {
        name.0
    }
}

/// The SHA-256 of some bytes, as everyone else's tools print it. Prints as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", to_hex(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Sha256 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("sha256:").and_then(from_hex).map(Self).ok_or_else(|| IdError::Form {
            text: text.chars().take(80).collect(),
            kind: "a SHA-256",
            example: "sha256:e3b0c442…",
        })
    }
}

impl TryFrom<String> for Sha256 {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.to_string()
    }
}

impl Field for Sha256 {
    const EXPECTED: &'static str = "the 32 bytes of a SHA-256";
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        Field::read(item).map(Self)
    }
}

/// Why properties are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PropertyError {
    /// A key is none.
    #[error(
        "`{key}` is no key of a property: 1 to {PROPERTY_KEY_LEN_MAX} lower-case letters, digits, `.`, `_`, `:` and `-`"
    )]
    Key {
        /// The key, cut to 80 characters.
        key: String,
    },
    /// A value is too long or does not print.
    #[error("the property `{key}` is refused")]
    Value {
        /// Its key.
        key: String,
        /// Why.
        source: TextError,
    },
    /// Too many of them.
    #[error("{count} properties, at most {PROPERTIES_MAX} are taken")]
    Count {
        /// How many.
        count: usize,
    },
    /// Too long together.
    #[error("the properties have {bytes} bytes together, at most {PROPERTIES_BYTES_MAX} are taken")]
    Bytes {
        /// How many.
        bytes: usize,
    },
}

/// What else is said of a disk image, by key: the operating system, its version, the bus that its disk wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl Properties {
    /// Checks every bound.
    ///
    /// # Errors
    /// See [`PropertyError`].
    pub fn check(&self) -> Result<(), PropertyError> {
        let count = self.0.len();
        if count > PROPERTIES_MAX {
            return Err(PropertyError::Count { count });
        }
        for (key, value) in &self.0 {
            let is_good = |b: u8| {
                b.is_ascii_lowercase()
                    || b.is_ascii_digit()
                    || matches!(b, b'.' | b'_' | b':' | b'-')
            };
            if key.is_empty() || key.len() > PROPERTY_KEY_LEN_MAX || !key.bytes().all(is_good) {
                return Err(PropertyError::Key { key: key.chars().take(80).collect() });
            }
            check_line("the value", value, PROPERTY_LEN_MAX)
                .map_err(|source| PropertyError::Value { key: key.clone(), source })?;
        }
        let bytes = self.0.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > PROPERTIES_BYTES_MAX {
            return Err(PropertyError::Bytes { bytes });
        }
        Ok(())
    }
}

/// Keys and values one after the other, by key.
impl Field for Properties {
    const EXPECTED: &'static str = "properties in the order of their keys";
    fn write(&self, out: &mut Vec<u8>) {
        let words = self.0.iter().flat_map(|(key, value)| [key.clone(), value.clone()]);
        words.collect::<Vec<String>>().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let words = Vec::<String>::read(item)?;
        let mut properties = BTreeMap::new();
        let mut last: Option<&String> = None;
        for pair in words.chunks(2) {
            let [key, value] = pair else { return None };
            if last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            properties.insert(key.clone(), value.clone());
        }
        Some(Self(properties))
    }
}

/// A signed [`DiskStatement`]: the exact bytes of its envelope. In JSON they are hex digits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub Vec<u8>);

/// The text is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is written in hex digits, at most {} of them", 2 * STATEMENT_LEN_MAX)]
pub struct SignatureForm;

impl TryFrom<String> for Signature {
    type Error = SignatureForm;
    fn try_from(text: String) -> Result<Self, SignatureForm> {
        if text.len() > 2 * STATEMENT_LEN_MAX || !text.len().is_multiple_of(2) || !text.is_ascii() {
            return Err(SignatureForm);
        }
        let byte = |at: usize| from_hex::<1>(&text[at..at + 2]).map(|[byte]| byte);
        (0..text.len()).step_by(2).map(byte).collect::<Option<_>>().map(Self).ok_or(SignatureForm)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        to_hex(&signature.0)
    }
}

impl Field for Signature {
    const EXPECTED: &'static str = "a signed statement";
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        Field::read(item).map(Self)
    }
}

impl ListItem for Signature {}

/// Why a statement is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The envelope is not one, or not signed by the organisation it names.
    #[error("the signature is refused")]
    Envelope(#[from] EnvelopeError),
    /// The payload is no statement.
    #[error("what is signed cannot be read")]
    Payload(#[from] CborError),
    /// The organisation's id is no usable key.
    #[error("the signer has no usable key")]
    Key(#[from] IdError),
    /// It speaks of something else.
    #[error("what is signed says another {field} than the record")]
    Other {
        /// The first thing in which they differ.
        field: &'static str,
    },
}

/// Who vouches for a disk image, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The organisation.
    pub org: OrgId,
    /// When it signed, by its own clock (Unix ms).
    pub signed_ms: u64,
}

/// What an organisation signs of a disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatement {
    /// Who signs, and when.
    pub signer: Signer,
    /// The image's name.
    pub name: String,
    /// BLAKE3 of the file.
    pub digest: Digest,
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// The format.
    pub format: DiskFormat,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk.
    pub virtual_bytes: u64,
    /// Machine architecture.
    pub arch: String,
    /// Least memory in bytes.
    pub min_memory_bytes: u64,
    /// Everything else.
    pub properties: Properties,
}

impl DiskStatement {
    /// What `signer` would say of an image.
    #[must_use]
    pub fn of(name: &str, disk: &DiskDetail, signer: Signer) -> Self {
        Self {
            signer,
            name: name.to_owned(),
            digest: disk.digest,
            sha256: disk.sha256,
            format: disk.format,
            size: disk.size,
            virtual_bytes: disk.virtual_bytes,
            arch: disk.arch.clone(),
            min_memory_bytes: disk.min_memory_bytes,
            properties: disk.properties.clone(),
        }
    }

    /// Signs with the organisation's key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Signature {
        let payload = MapWriter::new()
            .put(1, &self.signer.org)
            .put(2, &self.signer.signed_ms)
            .put(3, &self.name)
            .put(4, &self.digest)
            .put(5, &self.sha256)
            .put(6, &self.format)
            .put(7, &self.size)
            .put(8, &self.virtual_bytes)
            .put(9, &self.arch)
            .put(10, &self.min_memory_bytes)
            .put(11, &self.properties);
        Signature(envelope::sign(key, Typ::Disk, payload.encode()))
    }

    /// Reads a statement and checks its signer's signature.
    ///
    /// # Errors
    /// See [`StatementError`].
    pub fn verify(signature: &Signature) -> Result<Self, StatementError> {
        let opened = envelope::open(&signature.0, Typ::Disk, STATEMENT_LEN_MAX)?;
        let value = cbor::decode(opened.payload(), STATEMENT_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let statement = Self {
            signer: Signer { org: map.take(1)?, signed_ms: map.take(2)? },
            name: map.take(3)?,
            digest: map.take(4)?,
            sha256: map.take(5)?,
            format: map.take(6)?,
            size: map.take(7)?,
            virtual_bytes: map.take(8)?,
            arch: map.take(9)?,
            min_memory_bytes: map.take(10)?,
            properties: map.take(11)?,
        };
        map.finish()?;
        opened.verify(&statement.signer.org.verifying_key()?)?;
        Ok(statement)
    }

    /// The first thing in which the statement differs from what is said of the image.
    fn differs_from(&self, name: &str, disk: &DiskDetail) -> Option<&'static str> {
        let other = Self::of(name, disk, self.signer);
        let differences = [
            (self.name != other.name, "name"),
            (self.digest != other.digest, "BLAKE3"),
            (self.sha256 != other.sha256, "SHA-256"),
            (self.format != other.format, "format"),
            (self.size != other.size, "size"),
            (self.virtual_bytes != other.virtual_bytes, "size of the disk"),
            (self.arch != other.arch, "architecture"),
            (self.min_memory_bytes != other.min_memory_bytes, "least memory"),
            (self.properties != other.properties, "set of properties"),
        ];
        differences.into_iter().find_map(|(differs, field)| differs.then_some(field))
    }
}

impl DiskDetail {
    /// Who vouches for the image of this name; `None` when nobody does.
    ///
    /// # Errors
    /// See [`StatementError`].
    pub fn signer(&self, name: &str) -> Result<Option<Signer>, StatementError> {
        let Some(signature) = &self.signature else { return Ok(None) };
        let statement = DiskStatement::verify(signature)?;
        match statement.differs_from(name, self) {
            Some(field) => Err(StatementError::Other { field }),
            None => Ok(Some(statement.signer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn disk() -> DiskDetail {
        DiskDetail {
            format: DiskFormat::Qcow2,
            digest: Digest::of(b"disk"),
            sha256: Sha256([7; 32]),
            size: 4,
            virtual_bytes: 1 << 30,
            arch: "x86_64".to_owned(),
            min_memory_bytes: 512 << 20,
            properties: Properties([("os_distro".to_owned(), "debian".to_owned())].into()),
            signature: None,
        }
    }

    fn signed(seed: u8) -> DiskDetail {
        let signer = Signer { org: key(seed).verifying_key().into(), signed_ms: 5 };
        let signature = DiskStatement::of("debian-12", &disk(), signer).sign(&key(seed));
        DiskDetail { signature: Some(signature), ..disk() }
    }

    #[test]
    fn a_signature_says_who_vouches_for_exactly_this_image() {
        assert_eq!(disk().signer("debian-12"), Ok(None));
        let good = signed(1);
        let signer = good.signer("debian-12").unwrap().unwrap();
        assert_eq!(signer, Signer { org: key(1).verifying_key().into(), signed_ms: 5 });
        let differ = |changed: DiskDetail, name: &str| changed.signer(name).unwrap_err();
        let other = |field| StatementError::Other { field };
        assert_eq!(differ(good.clone(), "debian-13"), other("name"));
        let changed = DiskDetail { digest: Digest::of(b"other"), ..good.clone() };
        assert_eq!(differ(changed, "debian-12"), other("BLAKE3"));
        let changed = DiskDetail { sha256: Sha256([8; 32]), ..good.clone() };
        assert_eq!(differ(changed, "debian-12"), other("SHA-256"));
        let changed = DiskDetail { virtual_bytes: 1, ..good.clone() };
        assert_eq!(differ(changed, "debian-12"), other("size of the disk"));
        let changed = DiskDetail { properties: Properties::default(), ..good };
        assert_eq!(differ(changed, "debian-12"), other("set of properties"));
    }

    #[test]
    fn a_flipped_bit_of_a_signature_is_noticed_wherever_it_is() {
        let good = signed(1);
        let len = good.signature.as_ref().map_or(0, |signature| signature.0.len());
        for at in 0..len {
            let mut bad = good.clone();
            if let Some(signature) = &mut bad.signature {
                signature.0[at] ^= 1;
            }
            assert!(bad.signer("debian-12").is_err(), "byte {at}");
        }
    }

    #[test]
    fn names_keep_to_the_grammar() {
        let longest = "a".repeat(DISK_NAME_LEN_MAX);
        for good in ["a", "debian-12", "9front", "a.b_c-", &longest] {
            assert_eq!(good.parse::<DiskName>().unwrap().key(), format!("disk/{good}"));
        }
        let long = "a".repeat(DISK_NAME_LEN_MAX + 1);
        for bad in ["", "-a", ".", "..", "a/b", "A", "a b", "ä", "a:b", "a\0", "json:{}", &long] {
            assert!(bad.parse::<DiskName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn properties_are_bounded() {
        let of = |n: usize, value: &str| {
            Properties((0..n).map(|n| (format!("key-{n:02}"), value.to_owned())).collect())
        };
        assert_eq!(of(PROPERTIES_MAX, "value").check(), Ok(()));
        let count = PROPERTIES_MAX + 1;
        assert_eq!(of(count, "").check(), Err(PropertyError::Count { count }));
        assert_eq!(of(1, &"x".repeat(PROPERTY_LEN_MAX)).check(), Ok(()));
        let long = of(1, &"x".repeat(PROPERTY_LEN_MAX + 1)).check();
        assert!(matches!(long, Err(PropertyError::Value { .. })), "{long:?}");
        let bytes = 5 * (6 + 200);
        assert_eq!(of(5, &"x".repeat(200)).check(), Err(PropertyError::Bytes { bytes }));
        for key in ["", "A", "a b", "ä", "a\n", &"k".repeat(PROPERTY_KEY_LEN_MAX + 1)] {
            let bad = Properties([(key.to_owned(), String::new())].into()).check();
            assert!(matches!(bad, Err(PropertyError::Key { .. })), "{key:?}");
        }
    }

    #[test]
    fn a_signature_reads_back_from_its_digits_and_nothing_else_does() {
        let signature = Signature(vec![0, 0xab, 0xff]);
        assert_eq!(String::from(signature.clone()), "00abff");
        assert_eq!(Signature::try_from("00abff".to_owned()), Ok(signature));
        let long = "00".repeat(STATEMENT_LEN_MAX + 1);
        for bad in ["0", "zz", "äb", &long] {
            assert_eq!(Signature::try_from(bad.to_owned()), Err(SignatureForm), "{bad:.8}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_signature(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(DiskStatement::verify(&Signature(bytes)).is_err());
        }

        #[test]
        fn properties_keep_their_one_encoding(all in proptest::collection::btree_map("[a-z]{1,8}", "[ -~]{0,9}", 0..9)) {
            let properties = Properties(all);
            let bytes = cbor::encode(&properties);
            let back = cbor::decode(&bytes, bytes.len()).ok().and_then(Properties::read);
            prop_assert_eq!(back, Some(properties));
        }
    }
}
