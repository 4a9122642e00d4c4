//! Deterministic CBOR (RFC 8949 §4.2.1) for everything that is signed.
//!
//! Signed payloads are maps with small unsigned keys in ascending order, definite lengths, shortest integers, no floats and
//! no tags. ciborium writes the shortest forms but keeps map order as given, so [`MapWriter`] fixes the order and
//! [`decode`] accepts bytes only if encoding what it read gives the same bytes again.

use ciborium::Value;

use crate::id::{Digest, NodeId, OrgId, RealmId};

/// Deepest nesting accepted in a signed payload.
const DEPTH_MAX: usize = 16;

/// Why bytes are not a payload we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// Longer than this kind of object may be.
    #[error("{len} bytes, at most {max} are allowed")]
    TooLong {
        /// Length given.
        len: usize,
        /// Length allowed.
        max: usize,
    },
    /// Not CBOR, or nested too deep.
    #[error("not well-formed CBOR, or nested deeper than {DEPTH_MAX}")]
    Malformed,
    /// Well-formed but not the deterministic encoding (or trailing bytes follow).
    #[error("not the deterministic encoding of RFC 8949 §4.2.1")]
    NotDeterministic,
    /// A field is missing, of another type or out of range.
    #[error("field {key}: expected {expected}")]
    Field {
        /// The map key.
        key: u64,
        /// What should stand there.
        expected: &'static str,
    },
    /// A key this version does not know.
    #[error("unknown field {key}")]
    UnknownField {
        /// The map key.
        key: u64,
    },
    /// The value is not a map with ascending unsigned keys.
    #[error("expected a map with ascending unsigned keys")]
    NotMap,
}

/// Encodes a value. The caller has put maps in order (see [`MapWriter`]).
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    ciborium::into_writer(value, &mut out).expect("writing CBOR to memory cannot fail");
    out
}

/// Decodes at most `max` bytes and insists on the deterministic encoding.
///
/// # Errors
/// [`CborError::TooLong`], [`CborError::Malformed`] or [`CborError::NotDeterministic`].
pub fn decode(bytes: &[u8], max: usize) -> Result<Value, CborError> {
    if bytes.len() > max {
        return Err(CborError::TooLong { len: bytes.len(), max });
    }
    let value: Value = ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX)
        .map_err(|_| CborError::Malformed)?;
    if encode(&value) == bytes && is_plain(&value) {
        Ok(value)
    } else {
        Err(CborError::NotDeterministic)
    }
}

/// Only integers, byte and text strings, booleans, null, arrays, and maps with strictly ascending unsigned keys.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Integer(_) | Value::Bytes(_) | Value::Text(_) | Value::Bool(_) | Value::Null => true,
        Value::Array(items) => items.iter().all(is_plain),
        Value::Map(entries) => {
            let keys: Option<Vec<u64>> = entries.iter().map(|(k, _)| as_u64(k)).collect();
            keys.is_some_and(|k| k.windows(2).all(|w| w[0] < w[1]))
                && entries.iter().all(|(_, v)| is_plain(v))
        }
        _ => false,
    }
}

fn as_u64(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(i) => u64::try_from(*i).ok(),
        _ => None,
    }
}

/// Something that has one form as a CBOR value inside signed payloads.
pub trait Field: Sized {
    /// What it is called in an error.
    const EXPECTED: &'static str;
    /// The CBOR value.
    fn to_value(&self) -> Value;
    /// Back from the CBOR value; `None` when it is not one.
    fn from_value(value: &Value) -> Option<Self>;
}

impl Field for u64 {
    const EXPECTED: &'static str = "an unsigned integer";
    fn to_value(&self) -> Value {
        Value::Integer((*self).into())
    }
    fn from_value(value: &Value) -> Option<Self> {
        as_u64(value)
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit integer";
    fn to_value(&self) -> Value {
        Value::Integer((*self).into())
    }
    fn from_value(value: &Value) -> Option<Self> {
        as_u64(value).and_then(|n| Self::try_from(n).ok())
    }
}

impl Field for i64 {
    const EXPECTED: &'static str = "a 64-bit integer";
    fn to_value(&self) -> Value {
        Value::Integer((*self).into())
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(i) => Self::try_from(*i).ok(),
            _ => None,
        }
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "a boolean";
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text string";
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_text().map(str::to_owned)
    }
}

impl Field for Vec<u8> {
    const EXPECTED: &'static str = "a byte string";
    fn to_value(&self) -> Value {
        Value::Bytes(self.clone())
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_bytes().cloned()
    }
}

impl<const N: usize> Field for [u8; N] {
    const EXPECTED: &'static str = "a byte string of the right length";
    fn to_value(&self) -> Value {
        Value::Bytes(self.to_vec())
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_bytes().and_then(|b| b.as_slice().try_into().ok())
    }
}

impl Field for Value {
    const EXPECTED: &'static str = "a value";
    fn to_value(&self) -> Value {
        self.clone()
    }
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl Field for crate::amount::Amount {
    const EXPECTED: &'static str = "an amount in nano-units";
    fn to_value(&self) -> Value {
        self.nano().to_value()
    }
    fn from_value(value: &Value) -> Option<Self> {
        i64::from_value(value).map(Self::from_nano)
    }
}

impl Field for crate::amount::Currency {
    const EXPECTED: &'static str = "a currency";
    fn to_value(&self) -> Value {
        Value::Text(self.as_str().to_owned())
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_text().and_then(|t| t.parse().ok())
    }
}

macro_rules! id_field {
    ($($name:ident),*) => {$(
        impl Field for $name {
            const EXPECTED: &'static str = concat!("the bytes of ", stringify!($name));
            fn to_value(&self) -> Value {
                self.as_bytes().to_value()
            }
            fn from_value(value: &Value) -> Option<Self> {
                Field::from_value(value).map(Self::from_bytes)
            }
        }
    )*};
}
id_field!(NodeId, OrgId, RealmId, Digest);

impl<T: Field> Field for Vec<T>
where
    T: ListItem,
{
    const EXPECTED: &'static str = "a list";
    fn to_value(&self) -> Value {
        Value::Array(self.iter().map(Field::to_value).collect())
    }
    fn from_value(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::from_value).collect()
    }
}

/// Marks what may stand in a list (everything but a bare byte, which makes a byte string).
pub trait ListItem {}
impl ListItem for u64 {}
impl ListItem for String {}
impl ListItem for Vec<u8> {}
impl ListItem for Value {}
impl ListItem for NodeId {}
impl ListItem for OrgId {}
impl ListItem for RealmId {}
impl ListItem for Digest {}

/// Builds a map with ascending unsigned keys.
#[derive(Clone, Debug, Default)]
pub struct MapWriter {
    entries: Vec<(Value, Value)>,
    last: Option<u64>,
}

impl MapWriter {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// When `key` is not above the last one: that is a mistake in the code of a record type, not in data.
    #[must_use]
    pub fn put<T: Field>(mut self, key: u64, field: &T) -> Self {
        assert!(self.last.is_none_or(|last| last < key), "map keys must ascend: {key}");
        self.last = Some(key);
        self.entries.push((Value::Integer(key.into()), field.to_value()));
        self
    }

    /// Adds an entry when there is one; an absent field is left out, never null.
    #[must_use]
    pub fn put_opt<T: Field>(self, key: u64, field: Option<&T>) -> Self {
        match field {
            Some(field) => self.put(key, field),
            None => self,
        }
    }

    /// The map.
    #[must_use]
    pub fn finish(self) -> Value {
        Value::Map(self.entries)
    }

    /// The encoded map.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        encode(&self.finish())
    }
}

/// Takes a map apart, key by key in ascending order, and refuses what it does not know.
#[derive(Clone, Debug)]
pub struct MapReader<'a> {
    entries: &'a [(Value, Value)],
}

impl<'a> MapReader<'a> {
    /// Reads `value`.
    ///
    /// # Errors
    /// [`CborError::NotMap`].
    pub fn new(value: &'a Value) -> Result<Self, CborError> {
        match value {
            Value::Map(entries) if entries.iter().all(|(k, _)| as_u64(k).is_some()) => {
                Ok(Self { entries })
            }
            _ => Err(CborError::NotMap),
        }
    }

    /// The field `key`, which must be there.
    ///
    /// # Errors
    /// [`CborError::Field`] when it is missing or of another type, [`CborError::UnknownField`] when another stands before it.
    pub fn take<T: Field>(&mut self, key: u64) -> Result<T, CborError> {
        self.take_opt(key)?.ok_or(CborError::Field { key, expected: T::EXPECTED })
    }

    /// The field `key`, when it is there.
    ///
    /// # Errors
    /// [`CborError::Field`] when it is of another type, [`CborError::UnknownField`] when an unknown one stands before it.
    pub fn take_opt<T: Field>(&mut self, key: u64) -> Result<Option<T>, CborError> {
        let Some(((found, value), rest)) = self.entries.split_first() else {
            return Ok(None);
        };
        let found = as_u64(found).ok_or(CborError::NotMap)?;
        match found.cmp(&key) {
            std::cmp::Ordering::Less => Err(CborError::UnknownField { key: found }),
            std::cmp::Ordering::Greater => Ok(None),
            std::cmp::Ordering::Equal => {
                self.entries = rest;
                T::from_value(value)
                    .map(Some)
                    .ok_or(CborError::Field { key, expected: T::EXPECTED })
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CborError::UnknownField`] when fields are left.
    pub fn finish(self) -> Result<(), CborError> {
        match self.entries.first() {
            Some((key, _)) => Err(CborError::UnknownField { key: as_u64(key).unwrap_or(u64::MAX) }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(n in any::<u64>(), i in any::<i64>(), t in ".{0,40}", b in any::<Vec<u8>>()) {
            let bytes = MapWriter::new().put(1, &n).put(3, &i).put(5, &t).put(7, &b).encode();
            let value = decode(&bytes, 4096).unwrap();
            let mut map = MapReader::new(&value).unwrap();
            prop_assert_eq!(map.take::<u64>(1).unwrap(), n);
            prop_assert_eq!(map.take_opt::<u64>(2).unwrap(), None);
            prop_assert_eq!(map.take::<i64>(3).unwrap(), i);
            prop_assert_eq!(map.take::<String>(5).unwrap(), t);
            prop_assert_eq!(map.take::<Vec<u8>>(7).unwrap(), b);
            prop_assert!(map.finish().is_ok());
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in any::<Vec<u8>>()) {
            let _ = decode(&bytes, 1024);
        }
    }

    #[test]
    fn only_the_deterministic_form_is_accepted() {
        for (bytes, why) in [
            (&[0x18, 0x01][..], "long form of 1"),
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], "descending keys"),
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], "duplicate keys"),
            (&[0xa1, 0x61, 0x61, 0x00], "text key"),
            (&[0x9f, 0x01, 0xff], "indefinite length"),
            (&[0x01, 0x01], "trailing byte"),
            (&[0xf9, 0x3c, 0x00], "float"),
            (&[0xc0, 0x60], "tag"),
        ] {
            assert!(decode(bytes, 64).is_err(), "{why}");
        }
    }
}
