//! The text form of what people carry between machines: it survives mail and paper, and says what it is.
//!
//! ```text
//! -----BEGIN OPENCLOUD REQUEST-----
//! 3mJr7AoUXx2Wqd…
//! =5Kd3NBAUAnhFNiZ
//! -----END OPENCLOUD REQUEST-----
//! ```
//!
//! Lines of base58, 48 bytes each, then a checksum, so that a lost line is noticed here and not as a wrong signature later.
//! What stands before and after is ignored.

use std::fmt::Write as _;

use super::{ANSWER_LEN_MAX, REQUEST_LEN_MAX, REVOCATIONS_LEN_MAX};

/// Longest text that is looked at, in bytes; a longer one is refused unread.
pub const ARMOUR_LEN_MAX: usize = 64 * 1024;
/// Bytes in one line.
const LINE_LEN: usize = 48;
/// Longest line in characters: base58 spends under 1.4 characters a byte.
const LINE_CHARS_MAX: usize = 80;
/// Bytes of the checksum: the first of BLAKE3 over kind and content.
const CHECKSUM_LEN: usize = 8;

/// What a text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`super::Request`].
    Request,
    /// An [`super::Answer`].
    Answer,
    /// A [`super::Revocations`].
    Revocations,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Request, Self::Answer, Self::Revocations];

    /// The words between the dashes, after `OPENCLOUD`.
    const fn label(self) -> &'static str {
        match self {
            Self::Request => "REQUEST",
            Self::Answer => "ANSWER",
            Self::Revocations => "REVOCATIONS",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "a request for papers",
            Self::Answer => "papers of a node",
            Self::Revocations => "a revocation list",
        }
    }

    const fn max(self) -> usize {
        match self {
            Self::Request => REQUEST_LEN_MAX,
            Self::Answer => ANSWER_LEN_MAX,
            Self::Revocations => REVOCATIONS_LEN_MAX,
        }
    }
}

/// Why a text holds nothing of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArmourError {
    /// More than anything of ours.
    #[error("a text of {len} bytes, at most {ARMOUR_LEN_MAX} are read")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// No line begins it.
    #[error("nothing of OpenCloud's is in it: a line `-----BEGIN OPENCLOUD …-----` is missing")]
    NoBegin,
    /// It begins something that this version does not know.
    #[error("it holds `{label}`, which this version does not know")]
    Unknown {
        /// The words found, cut to 40 characters.
        label: String,
    },
    /// It is something else than was asked for.
    #[error("it holds {}, and {} is wanted here", found.as_str(), expected.as_str())]
    Other {
        /// What was asked for.
        expected: Kind,
        /// What is there.
        found: Kind,
    },
    /// A line is missing, added or changed.
    #[error("it is damaged at line {line}: copy it again, whole")]
    Damaged {
        /// The line, from 1.
        line: usize,
    },
    /// It has no end.
    #[error("its end is missing: copy it again, whole")]
    NoEnd,
}

/// The text form of some bytes.
#[must_use]
pub fn write(kind: Kind, bytes: &[u8]) -> String {
    let label = kind.label();
    let mut text = format!("-----BEGIN OPENCLOUD {label}-----\n");
    for line in bytes.chunks(LINE_LEN) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", bs58::encode(line).into_string());
    }
    let sum = bs58::encode(checksum(kind, bytes)).into_string();
    let _ = writeln!(text, "={sum}\n-----END OPENCLOUD {label}-----");
    text
}

/// What a text holds, and its bytes.
///
/// # Errors
/// See [`ArmourError`].
pub fn read(text: &str) -> Result<(Kind, Vec<u8>), ArmourError> {
    if text.len() > ARMOUR_LEN_MAX {
        return Err(ArmourError::TooLong { len: text.len() });
    }
    let mut lines = (1..).zip(text.lines().map(str::trim));
    let label = lines
        .find_map(|(_, line)| line.strip_prefix("-----BEGIN OPENCLOUD ")?.strip_suffix("-----"))
        .ok_or(ArmourError::NoBegin)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.label() == label);
    let kind =
        kind.ok_or_else(|| ArmourError::Unknown { label: label.chars().take(40).collect() })?;
    let mut bytes = Vec::new();
    let mut sum = None;
    for (number, line) in lines {
        let damaged = ArmourError::Damaged { line: number };
        if line.starts_with("-----END ") {
            return match sum {
                Some(sum) if sum == checksum(kind, &bytes) => Ok((kind, bytes)),
                _ => Err(damaged),
            };
        }
        if line.is_empty() {
            continue;
        }
        let body = line.strip_prefix('=');
        let chunk = decode_line(body.unwrap_or(line));
        let Some(chunk) = chunk.filter(|_| sum.is_none()) else { return Err(damaged) };
        if body.is_some() {
            sum = Some(<[u8; CHECKSUM_LEN]>::try_from(chunk).map_err(|_| damaged)?);
        } else if bytes.len() + chunk.len() > kind.max() {
            return Err(damaged);
        } else {
            bytes.extend(chunk);
        }
    }
    Err(ArmourError::NoEnd)
}

/// The bytes of a text that must hold a certain thing.
///
/// # Errors
/// See [`ArmourError`].
pub fn read_as(expected: Kind, text: &str) -> Result<Vec<u8>, ArmourError> {
    let (found, bytes) = read(text)?;
    if found == expected { Ok(bytes) } else { Err(ArmourError::Other { expected, found }) }
}

/// Base58 of at most [`LINE_CHARS_MAX`] characters, so that a long line costs nothing (base58 is quadratic).
fn decode_line(line: &str) -> Option<Vec<u8>> {
    (line.len() <= LINE_CHARS_MAX).then(|| bs58::decode(line).into_vec().ok()).flatten()
}

fn checksum(kind: Kind, bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.label().as_bytes()).update(&[0]).update(bytes);
    let mut sum = [0; CHECKSUM_LEN];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_with_a_text_is_told() {
        let text = write(Kind::Request, &[7; 100]);
        assert_eq!(read("hello\n"), Err(ArmourError::NoBegin));
        assert_eq!(
            read_as(Kind::Answer, &text),
            Err(ArmourError::Other { expected: Kind::Answer, found: Kind::Request })
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().join("\n");
        for n in 1..5 {
            assert!(matches!(read(&without(n)), Err(ArmourError::Damaged { .. })), "line {n}");
        }
        assert_eq!(read(&without(5)), Err(ArmourError::NoEnd));
        assert!(matches!(read("-----BEGIN OPENCLOUD POEM-----"), Err(ArmourError::Unknown { .. })));
        let swapped = text.replace("REQUEST", "REVOCATIONS");
        assert!(matches!(read(&swapped), Err(ArmourError::Damaged { .. })), "the kind is summed");
        let huge = "z".repeat(ARMOUR_LEN_MAX + 1);
        assert!(matches!(read(&huge), Err(ArmourError::TooLong { .. })));
        let much = write(Kind::Request, &[7; REQUEST_LEN_MAX + 1]);
        assert!(matches!(read(&much), Err(ArmourError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn a_text_reads_back_with_other_words_around_it(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            for kind in Kind::ALL {
                let text = format!("Dear all,\r\n\r\n{}\r\nbye\r\n", write(kind, &bytes).replace('\n', "\r\n"));
                prop_assert_eq!(read(&text), Ok((kind, bytes.clone())));
            }
        }

        #[test]
        fn no_text_panics_the_reader(text in "(-----BEGIN OPENCLOUD (REQUEST|ANSWER)-----\n)?(.{0,50}\n){0,5}(-----END )?") {
            let _ = read(&text);
        }
    }
}
