//! Sessions: a command, or the console, inside a running task, and the protocol `opencloud-session/1` that carries one.
//!
//! It is spoken end to end between the program of the user and the node on which the task runs. In between it goes over an
//! upgraded HTTP connection to the user's own node, which passes frames on and reads them on the way, and from there through
//! a tunnel, if the task runs elsewhere.
//!
//! # Frames
//!
//! | from | frame | kind | payload |
//! |---|---|--:|---|
//! | user | begin | 0 | JSON: `{"argv": ["sh"], "tty": {"columns": 80, "rows": 24}}`; a console has no words, a session without terminal no `tty` |
//! | user | input | 1 | bytes for the standard input or the console |
//! | user | input ends | 2 | none |
//! | user | resize | 3 | columns and rows, 2 bytes each |
//! | task | begun | 16 | none |
//! | task | output | 17 | bytes of the standard output, the terminal or the console |
//! | task | error output | 18 | bytes of the standard error |
//! | task | exit | 19 | exit code, 4 bytes, signed: the last frame |
//! | task | failed | 20 | why there is, or goes on, no session, in UTF-8: the last frame |
//! | task | alive | 21 | none |
//!
//! A frame is its kind, 1 byte, the length of its payload, 2 bytes, at most 32768, and the payload. All integers are big endian.
//!
//! # States
//!
//! `Asked → Begun → Ended`. The user sends begin, once and first, within 10 s; the node answers with begun, or with failed.
//! Then both send what they have, up to exit or failed. The user leaves by closing the connection: what began inside is
//! killed then. Every 5 s the node says that it is alive, so that whoever stands between finds out about a connection that
//! is gone although nobody reads it.
//!
//! # Invariant
//!
//! A user is told an exit code only if that is how the command ended, and then has got all of its output. A connection that
//! closes without exit or failed was cut.
//!
//! # What a liar can do
//!
//! - A user may send anything at any time: what is no frame, or comes before begin or as a second one, ends the session. Nobody
//!   gets as far as begin before the provider's engine has said yes to this node and attempt.
//! - A task may write what it likes, also to the user's terminal: that is what a terminal is for. Its node may say any exit
//!   code. A reason is shown without control characters, and at most 1024 bytes of it.
//! - Either may stop reading: then the other one waits, holding the buffers of one tunnel. A session in which nothing moves
//!   but the words that it is alive is ended by the provider, see `shell::sessions`.

mod frame;
mod stream;

pub(crate) use self::frame::{Begin, Down, FrameError, Up};
pub(crate) use self::stream::{Input, ReadError, Receiver, send};

/// What passes a node that hands on the frames of a user (or of a task), and whether all of it were whole frames. Whatever
/// passes once passes again as it is.
#[must_use]
pub fn passed_on(bytes: &[u8], is_of_user: bool) -> (Vec<u8>, bool) {
    if is_of_user { frame::reread::<Up>(bytes) } else { frame::reread::<Down>(bytes) }
}

/// The protocol's name, in the `Upgrade` header.
pub const PROTOCOL: &str = "opencloud-session/1";
/// Longest payload of a frame in bytes. A longer one is an error; nobody has to send one.
pub const PAYLOAD_MAX: usize = 32 << 10;
/// Most words of a command. More are refused.
pub const ARGV_MAX: usize = 256;
/// Longest command in bytes, all words together. A longer one is refused.
pub const ARGV_BYTES_MAX: usize = 16 << 10;
/// Longest reason of a failure in bytes; what is longer is cut.
pub const REASON_MAX: usize = 1 << 10;
/// Longest command in characters as logs show it; what is longer is cut.
const SHOWN_MAX: usize = 200;

/// What is wanted inside a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A command beside the task's own.
    Exec,
    /// The machine's serial console.
    Console,
}

impl Kind {
    /// The word in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Console => "console",
        }
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A command in one line for logs, without control characters, cut when it is long.
pub(crate) fn shown(argv: &[String]) -> String {
    let line = argv.join(" ");
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = line.chars().take(SHOWN_MAX).map(plain).collect();
    if line.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_in_one_bounded_line() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown(&words(&["sh", "-c", "a\n\x1b[31mb"])), "sh -c a\u{fffd}\u{fffd}[31mb");
        let long = shown(&words(&[&"ü".repeat(10 * SHOWN_MAX)]));
        assert_eq!(long.chars().count(), SHOWN_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
