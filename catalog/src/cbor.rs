//! Deterministic CBOR (RFC 8949 §4.2.1) for everything that is signed.
//!
//! Signed payloads are maps with small unsigned keys in ascending order, definite lengths, shortest integers, no floats and
//! no tags. [`MapWriter`] can write nothing else, and [`decode`] accepts nothing else: one pass over the bytes checks every
//! item before a field of it is read, and each head against the one form in which ciborium writes it. Items are read where
//! they lie ([`Item`]); only fields that are kept are copied.

use ciborium_ll::{Decoder, Encoder, Header, simple};

use crate::id::{Digest, NodeId, OrgId, RealmId};

/// Deepest nesting of lists and maps accepted in a signed payload; what is deeper is malformed.
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

/// Longest head of an item in bytes.
const HEAD_LEN_MAX: usize = 9;

/// The first bytes of an item (its kind, and its value, length or count), and how many they are.
struct Head {
    header: Header,
    len: usize,
}

impl Head {
    /// Reads a head in its shortest form.
    fn read(bytes: &[u8]) -> Result<Self, CborError> {
        let mut decoder = Decoder::from(bytes);
        let header = decoder.pull().map_err(|_| CborError::Malformed)?;
        let len = decoder.offset();
        let (shortest, shortest_len) = encoded(header);
        if bytes.get(..len) != shortest.get(..shortest_len) {
            return Err(CborError::NotDeterministic);
        }
        Ok(Self { header, len })
    }

    fn write(out: &mut Vec<u8>, header: Header) {
        let (bytes, len) = encoded(header);
        out.extend_from_slice(&bytes[..len]);
    }

    /// The `len` bytes after the head, and where they end.
    fn content<'a>(&self, bytes: &'a [u8], len: usize) -> Result<(&'a [u8], usize), CborError> {
        let end = self.len.checked_add(len).ok_or(CborError::Malformed)?;
        Ok((bytes.get(self.len..end).ok_or(CborError::Malformed)?, end))
    }
}

/// A head in its one deterministic form, and its length.
fn encoded(header: Header) -> ([u8; HEAD_LEN_MAX], usize) {
    let mut bytes = [0; HEAD_LEN_MAX];
    let mut room = &mut bytes[..];
    Encoder::from(&mut room).push(header).expect("a head has at most nine bytes");
    let len = HEAD_LEN_MAX - room.len();
    (bytes, len)
}

/// The length of the item that `bytes` begin with, after checking all of it: deterministic, and only integers, byte and text
/// strings, booleans, null, lists, and maps with strictly ascending unsigned keys. `depth` more levels may follow.
fn measure(bytes: &[u8], depth: usize) -> Result<usize, CborError> {
    let head = Head::read(bytes)?;
    match head.header {
        Header::Positive(_)
        | Header::Negative(_)
        | Header::Simple(simple::FALSE | simple::TRUE | simple::NULL) => Ok(head.len),
        Header::Bytes(Some(len)) => head.content(bytes, len).map(|(_, end)| end),
        Header::Text(Some(len)) => {
            let (text, end) = head.content(bytes, len)?;
            std::str::from_utf8(text).map_err(|_| CborError::Malformed)?;
            Ok(end)
        }
        Header::Array(Some(count)) => {
            let depth = depth.checked_sub(1).ok_or(CborError::Malformed)?;
            (0..count).try_fold(head.len, |at, _| {
                Ok(at + measure(bytes.get(at..).unwrap_or_default(), depth)?)
            })
        }
        Header::Map(Some(count)) => {
            let depth = depth.checked_sub(1).ok_or(CborError::Malformed)?;
            let mut at = head.len;
            let mut last = None;
            for _ in 0..count {
                let key = Head::read(bytes.get(at..).unwrap_or_default())?;
                match key.header {
                    Header::Positive(key) if last.is_none_or(|last| last < key) => last = Some(key),
                    _ => return Err(CborError::NotDeterministic),
                }
                at += key.len;
                at += measure(bytes.get(at..).unwrap_or_default(), depth)?;
            }
            Ok(at)
        }
        _ => Err(CborError::NotDeterministic),
    }
}

/// An item of checked CBOR, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a>(&'a [u8]);

impl<'a> Item<'a> {
    fn head(self) -> Option<Head> {
        Head::read(self.0).ok()
    }

    /// The item's encoding.
    #[must_use]
    pub const fn encoded(self) -> &'a [u8] {
        self.0
    }

    /// The unsigned integer that it is.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        match self.head()?.header {
            Header::Positive(n) => Some(n),
            _ => None,
        }
    }

    /// The content of the byte string that it is.
    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        let head = self.head()?;
        match head.header {
            Header::Bytes(Some(len)) => Some(head.content(self.0, len).ok()?.0),
            _ => None,
        }
    }

    /// The text that it is.
    #[must_use]
    pub fn as_text(self) -> Option<&'a str> {
        let head = self.head()?;
        match head.header {
            Header::Text(Some(len)) => std::str::from_utf8(head.content(self.0, len).ok()?.0).ok(),
            _ => None,
        }
    }

    /// The items of the list that it is.
    #[must_use]
    pub fn as_list(self) -> Option<Items<'a>> {
        let head = self.head()?;
        match head.header {
            Header::Array(Some(left)) => Some(Items { rest: self.0.get(head.len..)?, left }),
            _ => None,
        }
    }
}

/// The items of a list, in order.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: usize,
}

impl Items<'_> {
    /// How many are left.
    #[must_use]
    pub const fn n_left(&self) -> usize {
        self.left
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (item, rest) = split_first(self.rest).ok()?;
        self.rest = rest;
        Some(item)
    }
}

/// Takes the first item off `bytes`, which must be deterministic; what follows it is returned unchecked.
///
/// # Errors
/// [`CborError::Malformed`] or [`CborError::NotDeterministic`].
pub fn split_first(bytes: &[u8]) -> Result<(Item<'_>, &[u8]), CborError> {
    let len = measure(bytes, DEPTH_MAX)?;
    let (item, rest) = bytes.split_at_checked(len).ok_or(CborError::Malformed)?;
    Ok((Item(item), rest))
}

/// Decodes at most `max` bytes, all of them one item, and insists on the deterministic encoding.
///
/// # Errors
/// [`CborError::TooLong`], [`CborError::Malformed`] or [`CborError::NotDeterministic`].
pub fn decode(bytes: &[u8], max: usize) -> Result<Item<'_>, CborError> {
    if bytes.len() > max {
        return Err(CborError::TooLong { len: bytes.len(), max });
    }
    match split_first(bytes)? {
        (item, []) => Ok(item),
        _ => Err(CborError::NotDeterministic),
    }
}

/// Encodes a field by itself.
#[must_use]
pub fn encode<T: Field>(field: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    field.write(&mut out);
    out
}

/// Writes a byte string.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    Head::write(out, Header::Bytes(Some(bytes.len())));
    out.extend_from_slice(bytes);
}

/// Writes a text string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    Head::write(out, Header::Text(Some(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// Begins a list of `len` items, which the caller writes after it.
pub fn write_list_head(out: &mut Vec<u8>, len: usize) {
    Head::write(out, Header::Array(Some(len)));
}

/// Something that has one form in signed payloads.
pub trait Field: Sized {
    /// What it is called in an error.
    const EXPECTED: &'static str;
    /// Writes its one encoding.
    fn write(&self, out: &mut Vec<u8>);
    /// Back from an item; `None` when it is not one.
    fn read(item: Item<'_>) -> Option<Self>;
}

impl Field for u64 {
    const EXPECTED: &'static str = "an unsigned integer";
    fn write(&self, out: &mut Vec<u8>) {
        Head::write(out, Header::Positive(*self));
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_u64()
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit integer";
    fn write(&self, out: &mut Vec<u8>) {
        u64::from(*self).write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_u64().and_then(|n| Self::try_from(n).ok())
    }
}

impl Field for i64 {
    const EXPECTED: &'static str = "a 64-bit integer";
    fn write(&self, out: &mut Vec<u8>) {
        // CBOR writes -1 - n as n: the complement of a two's complement.
        match u64::try_from(*self) {
            Ok(n) => Head::write(out, Header::Positive(n)),
            Err(_) => Head::write(out, Header::Negative((!*self).unsigned_abs())),
        }
    }
    fn read(item: Item<'_>) -> Option<Self> {
        match item.head()?.header {
            Header::Positive(n) => Self::try_from(n).ok(),
            Header::Negative(n) => Self::try_from(n).ok().map(|n| !n),
            _ => None,
        }
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "a boolean";
    fn write(&self, out: &mut Vec<u8>) {
        Head::write(out, Header::Simple(if *self { simple::TRUE } else { simple::FALSE }));
    }
    fn read(item: Item<'_>) -> Option<Self> {
        match item.head()?.header {
            Header::Simple(simple::FALSE) => Some(false),
            Header::Simple(simple::TRUE) => Some(true),
            _ => None,
        }
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text string";
    fn write(&self, out: &mut Vec<u8>) {
        write_text(out, self);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_text().map(str::to_owned)
    }
}

impl Field for Vec<u8> {
    const EXPECTED: &'static str = "a byte string";
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, self);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_bytes().map(<[u8]>::to_vec)
    }
}

impl<const N: usize> Field for [u8; N] {
    const EXPECTED: &'static str = "a byte string of the right length";
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, self);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_bytes().and_then(|bytes| bytes.try_into().ok())
    }
}

impl Field for crate::amount::Amount {
    const EXPECTED: &'static str = "an amount in nano-units";
    fn write(&self, out: &mut Vec<u8>) {
        self.nano().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        i64::read(item).map(Self::from_nano)
    }
}

impl Field for crate::amount::Currency {
    const EXPECTED: &'static str = "a currency";
    fn write(&self, out: &mut Vec<u8>) {
        write_text(out, self.as_str());
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_text().and_then(|text| text.parse().ok())
    }
}

macro_rules! id_field {
    ($($name:ident),*) => {$(
        impl Field for $name {
            const EXPECTED: &'static str = concat!("the bytes of ", stringify!($name));
            fn write(&self, out: &mut Vec<u8>) {
                self.as_bytes().write(out);
            }
            fn read(item: Item<'_>) -> Option<Self> {
                Field::read(item).map(Self::from_bytes)
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
    fn write(&self, out: &mut Vec<u8>) {
        write_list_head(out, self.len());
        self.iter().for_each(|item| item.write(out));
    }
    fn read(item: Item<'_>) -> Option<Self> {
        item.as_list()?.map(T::read).collect()
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
impl<const N: usize> ListItem for [u8; N] {}

/// An encoded item: a map that is finished and may be put into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Vec<u8>);

impl Field for Value {
    const EXPECTED: &'static str = "a value";
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        Some(Self(item.0.to_vec()))
    }
}

/// Builds a map with ascending unsigned keys.
#[derive(Clone, Debug)]
pub struct MapWriter {
    /// One byte for the head of a map of up to 23 entries, then the entries.
    out: Vec<u8>,
    count: usize,
    last: Option<u64>,
}

impl Default for MapWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl MapWriter {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        let mut out = Vec::with_capacity(256);
        Head::write(&mut out, Header::Map(Some(0)));
        Self { out, count: 0, last: None }
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// When `key` is not above the last one: that is a mistake in the code of a record type, not in data.
    #[must_use]
    pub fn put<T: Field>(mut self, key: u64, field: &T) -> Self {
        assert!(self.last.is_none_or(|last| last < key), "map keys must ascend: {key}");
        self.last = Some(key);
        self.count += 1;
        key.write(&mut self.out);
        field.write(&mut self.out);
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
        Value(self.encode())
    }

    /// The encoded map.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        let (head, len) = encoded(Header::Map(Some(self.count)));
        self.out.splice(..1, head.into_iter().take(len));
        self.out
    }
}

/// Takes a map apart, key by key in ascending order, and refuses what it does not know.
#[derive(Clone, Debug)]
pub struct MapReader<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> MapReader<'a> {
    /// Reads `item`.
    ///
    /// # Errors
    /// [`CborError::NotMap`].
    pub fn new(item: &Item<'a>) -> Result<Self, CborError> {
        let head = item.head().ok_or(CborError::NotMap)?;
        let Header::Map(Some(left)) = head.header else {
            return Err(CborError::NotMap);
        };
        Ok(Self { rest: item.0.get(head.len..).unwrap_or_default(), left })
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
        let Some(item) = self.item_opt(key)? else {
            return Ok(None);
        };
        T::read(item).map(Some).ok_or(CborError::Field { key, expected: T::EXPECTED })
    }

    /// The item of the field `key`, which must be there.
    ///
    /// # Errors
    /// [`CborError::Field`] when it is missing, [`CborError::UnknownField`] when another stands before it.
    pub fn item(&mut self, key: u64) -> Result<Item<'a>, CborError> {
        self.item_opt(key)?.ok_or(CborError::Field { key, expected: Value::EXPECTED })
    }

    fn item_opt(&mut self, key: u64) -> Result<Option<Item<'a>>, CborError> {
        if self.left == 0 {
            return Ok(None);
        }
        let head = Head::read(self.rest)?;
        let Header::Positive(found) = head.header else {
            return Err(CborError::NotMap);
        };
        match found.cmp(&key) {
            std::cmp::Ordering::Less => Err(CborError::UnknownField { key: found }),
            std::cmp::Ordering::Greater => Ok(None),
            std::cmp::Ordering::Equal => {
                let (item, rest) = split_first(self.rest.get(head.len..).unwrap_or_default())?;
                (self.rest, self.left) = (rest, self.left - 1);
                Ok(Some(item))
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CborError::UnknownField`] when fields are left.
    pub fn finish(self) -> Result<(), CborError> {
        if self.left == 0 {
            return Ok(());
        }
        let key = match Head::read(self.rest) {
            Ok(Head { header: Header::Positive(key), .. }) => key,
            _ => u64::MAX,
        };
        Err(CborError::UnknownField { key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciborium::Value as Any;
    use proptest::prelude::*;

    /// What a general CBOR library makes of the same rules: it reads the bytes, writes the same ones again, and nothing in them
    /// is of another kind.
    fn is_plain_by_ciborium(bytes: &[u8]) -> bool {
        fn is_plain(value: &Any) -> bool {
            match value {
                Any::Integer(_) | Any::Bytes(_) | Any::Text(_) | Any::Bool(_) | Any::Null => true,
                Any::Array(items) => items.iter().all(is_plain),
                Any::Map(entries) => {
                    let key = |k: &Any| k.as_integer().and_then(|i| u64::try_from(i).ok());
                    let keys: Option<Vec<u64>> = entries.iter().map(|(k, _)| key(k)).collect();
                    keys.is_some_and(|keys| keys.windows(2).all(|pair| pair[0] < pair[1]))
                        && entries.iter().all(|(_, v)| is_plain(v))
                }
                _ => false,
            }
        }
        let Ok(value) = ciborium::de::from_reader_with_recursion_limit::<Any, _>(bytes, DEPTH_MAX)
        else {
            return false;
        };
        let mut again = Vec::new();
        ciborium::into_writer(&value, &mut again).unwrap();
        again == bytes && is_plain(&value)
    }

    fn any_value() -> impl Strategy<Value = Any> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(|n| Any::Integer(n.into())),
            any::<i64>().prop_map(|n| Any::Integer(n.into())),
            (0..300u64).prop_map(|n| Any::Integer(n.into())),
            any::<Vec<u8>>().prop_map(Any::Bytes),
            ".{0,20}".prop_map(Any::Text),
            any::<bool>().prop_map(Any::Bool),
            any::<f64>().prop_map(Any::Float),
            Just(Any::Null),
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            let map = proptest::collection::btree_map(0..300u64, inner.clone(), 0..6);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..30).prop_map(Any::Array),
                map.prop_map(|m| {
                    Any::Map(m.into_iter().map(|(k, v)| (Any::Integer(k.into()), v)).collect())
                }),
                (any::<u64>(), inner).prop_map(|(tag, v)| Any::Tag(tag, Box::new(v))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            n in any::<u64>(), i in any::<i64>(), t in ".{0,40}", b in any::<Vec<u8>>(), l in any::<Vec<u64>>(), yes in any::<bool>(),
        ) {
            let inner = MapWriter::new().put(0, &l).put(1, &yes).finish();
            let map = MapWriter::new().put(1, &n).put(3, &i).put(5, &t).put(7, &b).put(900, &inner);
            let bytes = map.encode();
            prop_assert!(is_plain_by_ciborium(&bytes));
            let item = decode(&bytes, 8192).unwrap();
            let mut map = MapReader::new(&item).unwrap();
            prop_assert_eq!(map.take::<u64>(1).unwrap(), n);
            prop_assert_eq!(map.take_opt::<u64>(2).unwrap(), None);
            prop_assert_eq!(map.take::<i64>(3).unwrap(), i);
            prop_assert_eq!(map.take::<String>(5).unwrap(), t);
            prop_assert_eq!(map.take::<Vec<u8>>(7).unwrap(), b);
            let mut inner = MapReader::new(&map.item(900).unwrap()).unwrap();
            prop_assert_eq!(inner.take::<Vec<u64>>(0).unwrap(), l);
            prop_assert_eq!(inner.take::<bool>(1).unwrap(), yes);
            prop_assert!(map.finish().is_ok() && inner.finish().is_ok());
        }

        #[test]
        fn no_bytes_panic_the_decoder_and_a_general_library_agrees(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(decode(&bytes, 1024).is_ok(), is_plain_by_ciborium(&bytes));
        }

        #[test]
        fn a_general_library_agrees_on_values_and_on_damaged_ones(
            value in any_value(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes, 1 << 20).is_ok(), is_plain_by_ciborium(&bytes));
            let at = at.index(bytes.len());
            bytes[at] = byte;
            prop_assert_eq!(decode(&bytes, 1 << 20).is_ok(), is_plain_by_ciborium(&bytes));
            bytes.truncate(at);
            prop_assert!(decode(&bytes, 1 << 20).is_err());
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
            (&[0xf7], "undefined"),
            (&[0xf8, 0x20], "a simple value of two bytes"),
            (&[0x61, 0xff], "text that is no UTF-8"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "a list without end"),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "a string without end"),
        ] {
            assert!(decode(bytes, 64).is_err(), "{why}");
        }
    }

    #[test]
    fn a_map_of_more_than_23_entries_and_the_deepest_nesting_are_read() {
        let map = (0..40u64).fold(MapWriter::new(), |map, key| map.put(key, &key));
        let bytes = map.encode();
        assert!(is_plain_by_ciborium(&bytes));
        let item = decode(&bytes, 1024).unwrap();
        let mut map = MapReader::new(&item).unwrap();
        assert!((0..40u64).all(|key| map.take::<u64>(key) == Ok(key)));
        let nested = |levels: usize| [vec![0x81; levels], vec![0x00]].concat();
        assert!(decode(&nested(DEPTH_MAX), 64).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1), 64), Err(CborError::Malformed));
    }
}
