//! How images are called: repositories, tags, digests, and names made of them. Grammar: OCI distribution specification 1.1,
//! "Pulling manifests", and OCI image specification 1.1, `descriptor.md`.

use std::fmt;
use std::str::FromStr;

use catalog::id::{from_hex, to_hex};

/// Longest repository name in bytes, as clients have it: with a host and port in front a name has at most 255.
pub const REPOSITORY_LEN_MAX: usize = 229;
/// Longest tag in bytes.
pub const TAG_LEN_MAX: usize = 128;
/// The tag that is meant when none is said.
pub const TAG_DEFAULT: &str = "latest";

/// Why a text names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No name of a repository.
    #[error(
        "`{text}` is no name of a repository: at most {REPOSITORY_LEN_MAX} lower-case letters and digits, parts divided by `/`, \
         words by `.`, `_`, `__` or hyphens"
    )]
    Repository {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// No tag.
    #[error(
        "`{text}` is no tag: at most {TAG_LEN_MAX} letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`"
    )]
    Tag {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// No digest.
    #[error(
        "`{text}` is no digest: `sha256:` with 64 hex digits in lower case, or `sha512:` with 128"
    )]
    Digest {
        /// The text, cut to 80 characters.
        text: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

/// The name of a repository, like `docker.io/library/debian`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(String);
text_type!(Repository);

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_good = text.len() <= REPOSITORY_LEN_MAX && text.split('/').all(is_path_component);
        if is_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Repository { text: cut(text) })
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(*first)
        && is_word(*last)
        && bytes.split(|b| is_word(*b)).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
        })
}

/// A tag, like `stable-slim`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);
text_type!(Tag);

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let is_good = text.len() <= TAG_LEN_MAX
            && bytes.next().is_some_and(is_word)
            && bytes.all(|b| is_word(b) || b == b'.' || b == b'-');
        if is_good { Ok(Self(text.to_owned())) } else { Err(NameError::Tag { text: cut(text) }) }
    }
}

/// The hash functions that name content in registries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which every client and registry knows.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Its name, as digests begin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|known| known.as_str() == word)
    }
}

/// The name of content in registries: the hash of its bytes. Inside a node content is named by its BLAKE3 hash.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub enum OciDigest {
    /// By SHA-256.
    Sha256([u8; 32]),
    /// By SHA-512.
    Sha512([u8; 64]),
}

impl OciDigest {
    /// The digest of bytes in memory.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// By which function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        match self {
            Self::Sha256(bytes) => to_hex(bytes),
            Self::Sha512(bytes) => to_hex(bytes),
        }
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.to_hex())
    }
}

impl FromStr for OciDigest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digest =
            text.split_once(':').and_then(|(algorithm, hex)| {
                match Algorithm::from_word(algorithm)? {
                    Algorithm::Sha256 => from_hex(hex).map(Self::Sha256),
                    Algorithm::Sha512 => from_hex(hex).map(Self::Sha512),
                }
            });
        digest.ok_or_else(|| NameError::Digest { text: cut(text) })
    }
}

impl TryFrom<String> for OciDigest {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<OciDigest> for String {
    fn from(digest: OciDigest) -> Self {
        digest.to_string()
    }
}

/// Hashes bytes that come in pieces.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// By SHA-256.
    Sha256(sha2::Sha256),
    /// By SHA-512.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Digest::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(sha2::Digest::new())),
        }
    }

    /// By which function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            Self::Sha512(hasher) => sha2::Digest::update(&mut **hasher, bytes),
        }
    }

    /// The digest of all of them.
    #[must_use]
    pub fn finish(self) -> OciDigest {
        match self {
            Self::Sha256(hasher) => OciDigest::Sha256(sha2::Digest::finalize(hasher).into()),
            Self::Sha512(hasher) => OciDigest::Sha512(sha2::Digest::finalize(*hasher).into()),
        }
    }
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The one that has the tag now.
    Tag(Tag),
    /// This one.
    Digest(OciDigest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            text.parse().map(Self::Digest)
        } else {
            text.parse().map(Self::Tag)
        }
    }
}

/// The name of an image, `REPOSITORY[:TAG][@DIGEST]`: with a digest that one whatever the tag, without both the tag
/// [`TAG_DEFAULT`]. The address of the node in front (`localhost:PORT/`), as it stands in names that clients push to, is left
/// out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Where.
    pub repository: Repository,
    /// Which there.
    pub reference: Reference,
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if matches!(self.reference, Reference::Tag(_)) { ':' } else { '@' };
        write!(f, "{}{between}{}", self.repository, self.reference)
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text
            .split_once('/')
            .filter(|(host, _)| is_this_node(host))
            .map_or(text, |(_, rest)| rest);
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse()?)),
            None => (text, None),
        };
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (text, TAG_DEFAULT),
        };
        let (repository, tag) = (repository.parse()?, tag.parse()?);
        let reference = digest.map_or(Reference::Tag(tag), Reference::Digest);
        Ok(Self { repository, reference })
    }
}

/// Whether the first part of a name is the address of this machine with a port.
fn is_this_node(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(name, port)| {
        port.parse::<u16>().is_ok() && matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_keep_to_the_grammar() {
        let longest = "a".repeat(REPOSITORY_LEN_MAX);
        for good in
            ["a", "debian", "docker.io/library/debian", "a__b/c---d/0", "x_y", "a.b-c", &longest]
        {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let long = "a".repeat(REPOSITORY_LEN_MAX + 1);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a_", "_a", "a..b", "a___b", "a.-b", "../a",
            "a/../b", "a b", "ä", "a:b", "a@b", "a\0", "-a", "a-", ".", "a\n", &long,
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tags_keep_to_the_grammar() {
        for good in ["a", "_", "v1.2-rc", "A_b", &"x".repeat(TAG_LEN_MAX)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", "..", &"x".repeat(TAG_LEN_MAX + 1)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_are_of_two_kinds_and_lower_case() {
        let empty = OciDigest::of(Algorithm::Sha256, b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.to_string(), text);
        assert_eq!(text.parse(), Ok(empty));
        let long = OciDigest::of(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse(), Ok(long));
        for bad in
            ["", "sha256:", "sha256:E3", "md5:00", "sha256:baddigeststring", &text.to_uppercase()]
        {
            assert!(bad.parse::<OciDigest>().is_err(), "{bad}");
        }
        assert!(format!("sha512:{}", empty.to_hex()).parse::<OciDigest>().is_err());
    }

    #[test]
    fn names_of_images_have_a_tag_or_a_digest() {
        let check = |text: &str, shown: &str| {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), shown, "{text}");
        };
        let digest = OciDigest::of(Algorithm::Sha256, b"");
        check("debian", "debian:latest");
        check("docker.io/library/debian:stable-slim", "docker.io/library/debian:stable-slim");
        check("localhost:5000/app:1", "app:1");
        check("127.0.0.1:5000/a/b", "a/b:latest");
        check(&format!("app@{digest}"), &format!("app@{digest}"));
        check(&format!("app:1@{digest}"), &format!("app@{digest}"));
        for bad in [
            "",
            ":1",
            "app:",
            "app@",
            "app@sha256:00",
            "registry.example:5000/app",
            "localhost:5000/",
            "a:b:c",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
