//! What a provider gave for a login to be asked again: its refresh token.
//!
//! It is kept sealed under a key that the secret of the session, or access token, makes. Of that secret this node keeps a hash, so a
//! copy of the home opens nothing, and a provider is asked only when whoever logged in comes with its secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use serde::{Deserialize, Serialize};

/// Longest refresh token in bytes; a longer one is not kept, and the login goes on to its end unasked.
pub(crate) const TOKEN_LEN_MAX: usize = 4 << 10;
/// Grants that are kept; logins beyond go on to their end unasked.
pub(crate) const GRANTS_MAX: usize = 4_096;
/// How long nobody is asked again, at most.
const ASK_MS_MAX: u64 = 10 * 60_000;
/// How long nobody is asked again, however short the provider says that its word is good.
const ASK_MS_MIN: u64 = 1_000;
const CONTEXT: &str = "opencloud 2026-11 identity grant";
/// Bytes of the number used once, before what is sealed.
const NONCE_LEN: usize = 12;

/// A refresh token, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) provider: String,
    sealed: String,
    /// When the provider is asked again.
    pub(crate) next_ms: u64,
}

/// When a provider whose word is good for some seconds is asked again: after half of them, since some take the token to ask with for
/// as long only.
pub(crate) fn next_ms(good_s: Option<u64>, now_ms: u64) -> u64 {
    let good_ms = good_s.map_or(ASK_MS_MAX, |s| s.saturating_mul(500));
    now_ms.saturating_add(good_ms.clamp(ASK_MS_MIN, ASK_MS_MAX))
}

fn cipher(secret: &str) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&blake3::derive_key(CONTEXT, secret.as_bytes()).into())
}

impl Grant {
    /// Seals a token for whoever knows the secret; nothing for one that is too long.
    pub(crate) fn seal(
        (provider, token): (&str, &str),
        secret: &str,
        next_ms: u64,
        nonce: [u8; NONCE_LEN],
    ) -> Option<Self> {
        if token.is_empty() || token.len() > TOKEN_LEN_MAX {
            return None;
        }
        let payload = Payload { msg: token.as_bytes(), aad: provider.as_bytes() };
        let sealed = cipher(secret).encrypt(&nonce.into(), payload).ok()?;
        let sealed = BASE64.encode([nonce.as_slice(), &sealed].concat());
        Some(Self { provider: provider.to_owned(), sealed, next_ms })
    }

    /// The token, for whoever knows the secret that it was sealed for.
    pub(crate) fn open(&self, secret: &str) -> Option<String> {
        let bytes = BASE64.decode(&self.sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let payload = Payload { msg: sealed, aad: self.provider.as_bytes() };
        let token = cipher(secret).decrypt(&(*nonce).into(), payload).ok()?;
        String::from_utf8(token).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_whoever_knows_the_secret_and_of_its_provider() {
        let sealed = Grant::seal(("work", "r3fresh"), "ocs_a", 5, [1; NONCE_LEN]).unwrap();
        assert_eq!(sealed.open("ocs_a").as_deref(), Some("r3fresh"));
        assert_eq!(sealed.open("ocs_b"), None);
        assert!(!serde_json::to_string(&sealed).unwrap().contains("r3fresh"));
        let moved = Grant { provider: "other".to_owned(), ..sealed.clone() };
        assert_eq!(moved.open("ocs_a"), None, "it goes to nobody else");
        let cut = Grant { sealed: "AAAA".to_owned(), ..sealed };
        assert_eq!(cut.open("ocs_a"), None);
        let long = "x".repeat(TOKEN_LEN_MAX + 1);
        assert_eq!(Grant::seal(("work", &long), "ocs_a", 5, [1; NONCE_LEN]), None);
    }

    #[test]
    fn a_provider_is_asked_as_often_as_it_says_within_bounds() {
        assert_eq!(next_ms(None, 1), 1 + ASK_MS_MAX);
        assert_eq!(next_ms(Some(60), 1), 30_001);
        assert_eq!((next_ms(Some(0), 0), next_ms(Some(u64::MAX), 0)), (ASK_MS_MIN, ASK_MS_MAX));
    }
}
