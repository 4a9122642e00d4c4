//! Public keys of OpenSSH: lines as they stand in `authorized_keys`, without options before the key.
//!
//! A key comes from an author and ends in a machine at somebody else's, so it is checked where it is written and again where it
//! is used: one line, a kind that is known, and in its Base64 the same kind once more.
//!
//! Format: OpenSSH, `sshd(8)`, "authorized_keys file format"; RFC 4253, section 6.6.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most keys of a machine; more are refused.
pub const KEYS_MAX: usize = 64;
/// Longest line in bytes, as long as OpenSSH reads; a longer one is refused. A key of 16384 bits has 2.8 KiB.
pub const KEY_LEN_MAX: usize = 8_192;

/// Kinds of keys that servers of today take.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Why a text is no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Longer than [`KEY_LEN_MAX`].
    #[error("a public key of {len} bytes, at most {KEY_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A line break, or another character that has no place in a line.
    #[error("a public key is one line: it holds a line break or another control character")]
    NotALine,
    /// It does not begin with a kind that is known.
    #[error("not a public key: it begins with `{word}`, not with a kind such as `ssh-ed25519`")]
    Kind {
        /// Its first word, cut to 40 characters.
        word: String,
    },
    /// What follows the kind is no key.
    #[error("not a public key: what follows `{kind}` is not the Base64 of such a key")]
    Content {
        /// What it says to be.
        kind: &'static str,
    },
}

/// Checks a public key, such as the content of `id_ed25519.pub`.
///
/// # Errors
/// See [`KeyError`].
pub fn check(line: &str) -> Result<(), KeyError> {
    if line.len() > KEY_LEN_MAX {
        return Err(KeyError::TooLong { len: line.len() });
    }
    if line.contains(char::is_control) {
        return Err(KeyError::NotALine);
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let Some(kind) = KINDS.into_iter().find(|kind| *kind == word) else {
        return Err(KeyError::Kind { word: word.chars().take(40).collect() });
    };
    let content = words.next().and_then(|text| STANDARD.decode(text).ok());
    let is_such = content.is_some_and(|content| {
        // The kind with its length before it, and the key itself.
        let (len, rest) = content.split_at_checked(4).unwrap_or_default();
        let is_kind = len == u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes()
            && rest.starts_with(kind.as_bytes());
        is_kind && rest.len() > kind.len()
    });
    if is_such { Ok(()) } else { Err(KeyError::Content { kind }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqV8dHYqyKpCqIRCz6Dn5JDwSrmWwNQnGSVSjLK6qZ9";

    #[test]
    fn a_line_with_or_without_a_comment_is_a_key() {
        assert_eq!(check(KEY), Ok(()));
        assert_eq!(check(&format!("{KEY} somebody at home")), Ok(()));
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        let kind = "ssh-ed25519";
        for (line, expected) in [
            (String::new(), KeyError::Kind { word: String::new() }),
            (format!("restrict {KEY}"), KeyError::Kind { word: "restrict".to_owned() }),
            (format!("{KEY}\nssh-rsa AAAA"), KeyError::NotALine),
            (kind.to_owned(), KeyError::Content { kind }),
            (format!("{kind} ????"), KeyError::Content { kind }),
            (format!("{kind} AAAA"), KeyError::Content { kind }),
            // A kind, and nothing of a key.
            (format!("{kind} AAAAC3NzaC1lZDI1NTE5"), KeyError::Content { kind }),
            (KEY.replace("ssh-ed25519", "ssh-rsa"), KeyError::Content { kind: "ssh-rsa" }),
            ("x".repeat(8_193), KeyError::TooLong { len: 8_193 }),
        ] {
            assert_eq!(check(&line), Err(expected), "{line}");
        }
    }
}
