//! Texts from outside: bounded, printable, and unable to forge a terminal line.

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Nothing where a text must stand.
    #[error("{field} is empty: give it a text")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// Longer than the field may be.
    #[error("{field} has {chars} characters, at most {max} are allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Characters given.
        chars: usize,
        /// Characters allowed.
        max: usize,
    },
    /// A control character or one that turns the direction of writing.
    #[error("{field} holds the character U+{code:04X}, which does not print")]
    Unprintable {
        /// The field.
        field: &'static str,
        /// The character's code point.
        code: u32,
    },
}

/// Whether a character may stand in a one-line text. Controls and bidirectional overrides let a peer's name rewrite the
/// line it is printed in.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks a text of one line.
///
/// # Errors
/// See [`TextError`]; an empty text is fine.
pub(crate) fn check_line(field: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    check(field, text, max, is_printable)
}

/// Checks a text of one line that must not be empty.
///
/// # Errors
/// See [`TextError`].
pub(crate) fn check_name(field: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.trim().is_empty() {
        return Err(TextError::Empty { field });
    }
    check_line(field, text, max)
}

/// Checks a text that may have several lines.
///
/// # Errors
/// See [`TextError`]; an empty text is fine.
pub(crate) fn check_prose(field: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    check(field, text, max, |c| c == '\n' || c == '\t' || is_printable(c))
}

fn check(
    field: &'static str,
    text: &str,
    max: usize,
    allowed: impl Fn(char) -> bool,
) -> Result<(), TextError> {
    let chars = text.chars().count();
    if chars > max {
        return Err(TextError::TooLong { field, chars, max });
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(TextError::Unprintable { field, code: u32::from(c) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_printable_and_not_empty() {
        assert_eq!(check_name("name", "Grün & Söhne", 64), Ok(()));
        assert_eq!(check_name("name", "  ", 64), Err(TextError::Empty { field: "name" }));
        assert!(matches!(check_name("name", "abc", 2), Err(TextError::TooLong { chars: 3, .. })));
        for bad in ["a\nb", "a\u{1b}[2J", "a\u{202e}b"] {
            assert!(matches!(check_line("name", bad, 64), Err(TextError::Unprintable { .. })));
        }
        assert_eq!(check_prose("long", "two\nlines", 64), Ok(()));
    }
}
