//! Secrets that let somebody in: shown once, kept as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Random bytes in a secret.
pub(crate) const SECRET_BYTES: usize = 32;
/// Longest text that is looked at as a secret; a longer one is none.
const TEXT_LEN_MAX: usize = 128;

/// What a secret is good for. One kind is never taken for another: each has a hash of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A login link, which is good once.
    Link,
    /// An access token of a program.
    Token,
    /// A session of a browser.
    Session,
}

impl Kind {
    /// How the text of one begins.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Link => "ocl_",
            Self::Token => "oct_",
            Self::Session => "ocs_",
        }
    }

    const fn context(self) -> &'static str {
        match self {
            Self::Link => "opencloud 2026-11 identity login link",
            Self::Token => "opencloud 2026-11 identity access token",
            Self::Session => "opencloud 2026-11 identity session",
        }
    }
}

/// The text of a secret, for its owner alone: it is in no log and no debug output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Makes one of random bytes.
    pub(crate) fn new(kind: Kind, random: &[u8; SECRET_BYTES]) -> Self {
        Self(format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(random)))
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// The hash under which a secret of this kind is kept; none for a text that is no such secret. Secrets are as random as their
/// hashes, so a look-up by hash tells nobody who measures its time anything.
pub(crate) fn hash(kind: Kind, text: &str) -> Option<String> {
    let is_one = text.len() <= TEXT_LEN_MAX && text.starts_with(kind.prefix());
    is_one.then(|| {
        let hash = blake3::Hash::from_bytes(blake3::derive_key(kind.context(), text.as_bytes()));
        hash.to_hex().to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_of_one_kind_and_never_in_debug_output() {
        let secret = Secret::new(Kind::Token, &[7; SECRET_BYTES]);
        assert!(hash(Kind::Token, secret.text()).is_some());
        assert!(hash(Kind::Session, secret.text()).is_none());
        let renamed = secret.text().replacen("oct_", "ocs_", 1);
        assert_ne!(hash(Kind::Session, &renamed), hash(Kind::Token, secret.text()));
        assert_eq!(format!("{secret:?}"), "Secret");
        assert!(hash(Kind::Token, &format!("oct_{}", "x".repeat(10_000))).is_none());
    }
}
