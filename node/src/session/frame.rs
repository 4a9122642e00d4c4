//! Frames: bytes to meanings and back. Pure; what comes in is hostile.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{ARGV_BYTES_MAX, ARGV_MAX, PAYLOAD_MAX, REASON_MAX, Window};

/// Bytes before a payload: its kind and its length.
const HEAD: usize = 3;

const BEGIN: u8 = 0;
const INPUT: u8 = 1;
const INPUT_ENDS: u8 = 2;
const RESIZE: u8 = 3;
const BEGUN: u8 = 16;
const OUTPUT: u8 = 17;
const ERROR_OUTPUT: u8 = 18;
const EXIT: u8 = 19;
const FAILED: u8 = 20;
const ALIVE: u8 = 21;

/// Why bytes are no frame of this protocol, or none that may stand there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame has {bytes} bytes, the limit is {PAYLOAD_MAX}")]
    TooLong { bytes: usize },
    #[error("a frame of kind {kind} means nothing here")]
    Kind { kind: u8 },
    #[error("a frame of kind {kind} has {bytes} bytes, which cannot be")]
    Payload { kind: u8, bytes: usize },
    #[error("the beginning of the session cannot be read: {detail}")]
    Begin { detail: String },
    #[error("the command has {words} words, the limit is {ARGV_MAX}")]
    TooManyWords { words: usize },
    #[error("the command has {bytes} bytes, the limit is {ARGV_BYTES_MAX}")]
    CommandTooLong { bytes: usize },
    #[error("a word of the command has a zero byte in it, which no program can be given")]
    ZeroByte,
}

/// How a session begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Begin {
    /// The command with its arguments; of a console nothing.
    #[serde(default)]
    pub argv: Vec<String>,
    /// The terminal that the command is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<Window>,
}

impl Begin {
    /// What is wrong with it, if anything is.
    pub(crate) fn check(&self) -> Result<(), FrameError> {
        let (words, bytes) = (self.argv.len(), self.argv.iter().map(String::len).sum());
        if words > ARGV_MAX {
            return Err(FrameError::TooManyWords { words });
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Err(FrameError::ZeroByte);
        }
        // Control characters take six times their room in JSON.
        if bytes > ARGV_BYTES_MAX || self.parts().len() > PAYLOAD_MAX {
            return Err(FrameError::CommandTooLong { bytes });
        }
        Ok(())
    }

    fn parts(&self) -> Bytes {
        serde_json::to_vec(self).expect("words are plain data").into()
    }
}

/// What a user says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    Begin(Begin),
    Input(Bytes),
    InputEnds,
    Resize(Window),
}

/// What the task's node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    Begun,
    Output(Bytes),
    ErrorOutput(Bytes),
    Exit(i32),
    Failed(String),
    Alive,
}

/// One side's frames.
pub(crate) trait Frame: Sized {
    /// Reads a frame whose length is right.
    fn read(kind: u8, payload: Bytes) -> Result<Self, FrameError>;
    /// Its kind and its payload, of which no more than [`PAYLOAD_MAX`] bytes may go into one frame.
    fn parts(&self) -> (u8, Bytes);
}

/// The bytes of a frame; of a longer payload those of several.
pub(super) fn encode(frame: &impl Frame) -> BytesMut {
    let (kind, mut payload) = frame.parts();
    let mut bytes = BytesMut::with_capacity(HEAD + payload.len());
    loop {
        let part = payload.split_to(payload.len().min(PAYLOAD_MAX));
        bytes.extend_from_slice(&[kind]);
        // At most `PAYLOAD_MAX`, which fits.
        bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&part);
        if payload.is_empty() {
            return bytes;
        }
    }
}

/// Takes the next frame off what has come; nothing when it is not complete.
pub(super) fn decode<F: Frame>(bytes: &mut BytesMut) -> Result<Option<F>, FrameError> {
    let Some(head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
    let (kind, len) = (head[0], usize::from(u16::from_be_bytes([head[1], head[2]])));
    if len > PAYLOAD_MAX {
        return Err(FrameError::TooLong { bytes: len });
    }
    if bytes.len() < HEAD + len {
        return Ok(None);
    }
    bytes.advance(HEAD);
    F::read(kind, bytes.split_to(len).freeze()).map(Some)
}

/// Reads frames and writes them again: the bytes, and whether all that came were frames.
pub(super) fn reread<F: Frame>(bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut held, mut again) = (BytesMut::from(bytes), Vec::new());
    loop {
        match decode::<F>(&mut held) {
            Ok(Some(frame)) => again.extend_from_slice(&encode(&frame)),
            Ok(None) => return (again, held.is_empty()),
            Err(_) => return (again, false),
        }
    }
}

fn empty(kind: u8, payload: &Bytes) -> Result<(), FrameError> {
    let bytes = payload.len();
    if bytes == 0 { Ok(()) } else { Err(FrameError::Payload { kind, bytes }) }
}

fn four(kind: u8, payload: &Bytes) -> Result<[u8; 4], FrameError> {
    let bytes = payload.len();
    payload[..].try_into().map_err(|_| FrameError::Payload { kind, bytes })
}

impl Frame for Up {
    fn read(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        match kind {
            BEGIN => {
                let read = serde_json::from_slice::<Begin>(&payload);
                let begin = read.map_err(|e| FrameError::Begin { detail: e.to_string() })?;
                begin.check()?;
                Ok(Self::Begin(begin))
            }
            INPUT => Ok(Self::Input(payload)),
            INPUT_ENDS => empty(kind, &payload).map(|()| Self::InputEnds),
            RESIZE => {
                let [a, b, c, d] = four(kind, &payload)?;
                let (columns, rows) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Ok(Self::Resize(Window { columns, rows }))
            }
            kind => Err(FrameError::Kind { kind }),
        }
    }

    fn parts(&self) -> (u8, Bytes) {
        match self {
            Self::Begin(begin) => (BEGIN, begin.parts()),
            Self::Input(bytes) => (INPUT, bytes.clone()),
            Self::InputEnds => (INPUT_ENDS, Bytes::new()),
            Self::Resize(Window { columns, rows }) => {
                let (columns, rows) = (columns.to_be_bytes(), rows.to_be_bytes());
                (RESIZE, Bytes::copy_from_slice(&[columns, rows].concat()))
            }
        }
    }
}

impl Frame for Down {
    fn read(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        match kind {
            BEGUN => empty(kind, &payload).map(|()| Self::Begun),
            OUTPUT => Ok(Self::Output(payload)),
            ERROR_OUTPUT => Ok(Self::ErrorOutput(payload)),
            EXIT => four(kind, &payload).map(|code| Self::Exit(i32::from_be_bytes(code))),
            FAILED => {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(REASON_MAX)]);
                Ok(Self::Failed(text.chars().filter(|c| !c.is_control()).collect()))
            }
            ALIVE => empty(kind, &payload).map(|()| Self::Alive),
            kind => Err(FrameError::Kind { kind }),
        }
    }

    fn parts(&self) -> (u8, Bytes) {
        match self {
            Self::Begun => (BEGUN, Bytes::new()),
            Self::Output(bytes) => (OUTPUT, bytes.clone()),
            Self::ErrorOutput(bytes) => (ERROR_OUTPUT, bytes.clone()),
            Self::Exit(code) => (EXIT, Bytes::copy_from_slice(&code.to_be_bytes())),
            Self::Failed(reason) => {
                let fits = &reason[..reason.floor_char_boundary(REASON_MAX)];
                (FAILED, Bytes::copy_from_slice(fits.as_bytes()))
            }
            Self::Alive => (ALIVE, Bytes::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ups() -> impl Strategy<Value = Up> {
        let window = (any::<u16>(), any::<u16>());
        let window = window.prop_map(|(columns, rows)| Window { columns, rows });
        let words = proptest::collection::vec("[^\\x00]{0,20}", 0..8);
        let begin = (words, proptest::option::of(window.clone()));
        prop_oneof![
            begin.prop_map(|(argv, tty)| Up::Begin(Begin { argv, tty })),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(|b| Up::Input(b.into())),
            Just(Up::InputEnds),
            window.prop_map(Up::Resize),
        ]
    }

    fn downs() -> impl Strategy<Value = Down> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            Just(Down::Begun),
            bytes().prop_map(Down::Output),
            bytes().prop_map(Down::ErrorOutput),
            any::<i32>().prop_map(Down::Exit),
            "[a-zü ]{0,40}".prop_map(Down::Failed),
            Just(Down::Alive),
        ]
    }

    /// What a reader takes of bytes that come in pieces, and what it says of the rest.
    fn read<F: Frame>(bytes: &[u8], piece: usize) -> (Vec<F>, Option<FrameError>) {
        let (mut held, mut frames) = (BytesMut::new(), Vec::new());
        for part in bytes.chunks(piece) {
            held.extend_from_slice(part);
            loop {
                match decode(&mut held) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            assert!(held.len() < HEAD + PAYLOAD_MAX + piece);
        }
        (frames, None)
    }

    fn written<F: Frame>(frames: &[F]) -> Vec<u8> {
        frames.iter().flat_map(|frame| encode(frame).to_vec()).collect()
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            up in proptest::collection::vec(ups(), 0..12),
            down in proptest::collection::vec(downs(), 0..12),
            piece in 1_usize..40,
        ) {
            prop_assert_eq!(read(&written(&up), piece), (up, None));
            prop_assert_eq!(read(&written(&down), piece), (down, None));
        }

        #[test]
        fn noise_is_frames_or_an_error_and_is_read_the_same_however_it_is_cut(
            noise in proptest::collection::vec(prop_oneof![0_u8..24, any::<u8>()], 0..400),
            piece in 1_usize..40,
        ) {
            prop_assert_eq!(read::<Up>(&noise, piece), read::<Up>(&noise, noise.len().max(1)));
            prop_assert_eq!(read::<Down>(&noise, piece), read::<Down>(&noise, noise.len().max(1)));
        }

        #[test]
        fn hostile_text_is_no_beginning_that_breaks_the_bounds(text in "[\\[\\]{}\":,a-z0-9]{0,200}") {
            let bytes = [&[BEGIN], &(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
            if let (frames, None) = read::<Up>(&bytes, bytes.len()) {
                prop_assert!(frames.iter().all(|f| matches!(f, Up::Begin(b) if b.check().is_ok())));
            }
        }
    }

    #[test]
    fn what_is_longer_than_a_frame_goes_into_several() {
        let long = Bytes::from(vec![7; 2 * PAYLOAD_MAX + 1]);
        let (frames, error) = read::<Up>(&encode(&Up::Input(long.clone())), 1_000);
        assert_eq!((frames.len(), error), (3, None));
        let parts = frames.iter().map(|f| match f {
            Up::Input(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        });
        assert_eq!(parts.collect::<Vec<_>>().concat(), long);
    }

    #[test]
    fn bounds_hold_and_say_which() {
        let words = |n: usize, len: usize| Begin { argv: vec!["x".repeat(len); n], tty: None };
        assert_eq!(words(ARGV_MAX, 1).check(), Ok(()));
        for (begin, expected) in [
            (words(ARGV_MAX + 1, 1), FrameError::TooManyWords { words: ARGV_MAX + 1 }),
            (words(2, ARGV_BYTES_MAX), FrameError::CommandTooLong { bytes: 2 * ARGV_BYTES_MAX }),
            (Begin { argv: vec!["a\0b".to_owned()], tty: None }, FrameError::ZeroByte),
            (
                Begin { argv: vec!["\u{1}".repeat(ARGV_BYTES_MAX)], tty: None },
                FrameError::CommandTooLong { bytes: ARGV_BYTES_MAX },
            ),
        ] {
            assert_eq!(begin.check(), Err(expected));
        }
        let (_, error) = read::<Up>(&[INPUT, 0xff, 0xff], 3);
        assert_eq!(error, Some(FrameError::TooLong { bytes: 65_535 }));
        let (_, error) = read::<Up>(&[OUTPUT, 0, 0], 3);
        assert_eq!(error, Some(FrameError::Kind { kind: OUTPUT }));
        let (_, error) = read::<Down>(&[EXIT, 0, 1, 9], 4);
        assert_eq!(error, Some(FrameError::Payload { kind: EXIT, bytes: 1 }));
        let deep = "[".repeat(5_000);
        let bytes = [&[BEGIN], &(deep.len() as u16).to_be_bytes()[..], deep.as_bytes()].concat();
        assert!(matches!(read::<Up>(&bytes, 64).1, Some(FrameError::Begin { .. })));
    }

    #[test]
    fn a_reason_is_bounded_and_cannot_paint_on_a_terminal() {
        let reason = format!("no\x1b[31m{}", "ü".repeat(REASON_MAX));
        let (frames, _) = read::<Down>(&encode(&Down::Failed(reason)), 64);
        let [Down::Failed(reason)] = &frames[..] else { panic!("{frames:?}") };
        assert!(reason.starts_with("no[31mü") && reason.len() <= REASON_MAX, "{reason}");
    }
}
