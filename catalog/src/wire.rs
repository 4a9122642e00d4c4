//! How structs and enums of this crate stand in signed CBOR: a struct as a map with the integer keys written beside its
//! fields, an enum as its code. A key or code, once given, never changes its meaning.

/// Gives a struct `to_map`, `from_map` and [`crate::cbor::Field`]. `must` fields always stand, `may` fields are options.
macro_rules! wire_map {
    (@put must $map:ident $key:literal $field:expr) => { $map.put($key, $field) };
    (@put may $map:ident $key:literal $field:expr) => { $map.put_opt($key, $field.as_ref()) };
    (@take must $map:ident $key:literal) => { $map.take($key)? };
    (@take may $map:ident $key:literal) => { $map.take_opt($key)? };
    ($type:ident, $expected:literal, { $($key:literal $mode:ident $field:ident),+ $(,)? }) => {
        impl $type {
            pub(crate) fn to_map(&self) -> $crate::cbor::MapWriter {
                let map = $crate::cbor::MapWriter::new();
                $(let map = $crate::wire::wire_map!(@put $mode map $key &self.$field);)+
                map
            }

            pub(crate) fn from_map(
                item: &$crate::cbor::Item<'_>,
            ) -> Result<Self, $crate::cbor::CborError> {
                let mut map = $crate::cbor::MapReader::new(item)?;
                $(let $field = $crate::wire::wire_map!(@take $mode map $key);)+
                map.finish()?;
                Ok(Self { $($field),+ })
            }
        }

        impl $crate::cbor::Field for $type {
            const EXPECTED: &'static str = $expected;
            fn write(&self, out: &mut Vec<u8>) {
                self.to_map().finish().write(out);
            }
            fn read(item: $crate::cbor::Item<'_>) -> Option<Self> {
                Self::from_map(&item).ok()
            }
        }
    };
}
pub(crate) use wire_map;

/// Defines an enum of words: a code in CBOR, a word in JSON, filters and tables.
macro_rules! word_enum {
    ($(#[$meta:meta])* $name:ident, $expected:literal,
     { $($(#[$doc:meta])* $variant:ident = $code:literal $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every value, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in documents, filters and tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// The value that a word names.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::cbor::Field for $name {
            const EXPECTED: &'static str = $expected;
            fn write(&self, out: &mut Vec<u8>) {
                let code: u64 = match self {
                    $(Self::$variant => $code),+
                };
                code.write(out);
            }
            fn read(item: $crate::cbor::Item<'_>) -> Option<Self> {
                match item.as_u64()? {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use word_enum;
