//! What comes out of a machine: its two output streams up to their tokens, its words, its console's end. All of it is
//! hostile, so each is bounded here.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use super::life::{self, WORD_LEN_MAX, Word};
use crate::runtime::{LogSink, Stream};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of the console's end that are kept; of what comes before nothing is.
const CONSOLE_BYTES_MAX: usize = 16 << 10;
/// Pieces of the console, of at most 4 KiB, that wait for one who watches; who is slower misses the oldest.
const WATCHED_CHUNKS: usize = 64;
/// With what a kernel begins its last words.
pub(super) const PANIC: &str = "Kernel panic";
/// Words that wait to be read; a machine that says more waits.
const WORDS: usize = 16;
/// Connections of one stream that wait until the one before has ended: a machine that is resumed makes the next.
pub(super) const NEXT: usize = 1;

/// Passes on what comes before a token.
#[derive(Debug)]
pub(super) struct UntilToken {
    token: Vec<u8>,
    /// The end of what came, as far as it may be the beginning of the token.
    held: Vec<u8>,
    is_over: bool,
}

impl UntilToken {
    pub(super) fn new(token: &str) -> Self {
        Self { token: token.as_bytes().to_owned(), held: Vec::new(), is_over: false }
    }

    /// Takes the next bytes; gives those that are certainly before the token.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_over {
            return Vec::new();
        }
        self.held.extend_from_slice(bytes);
        let found = self.held.windows(self.token.len()).position(|part| part == self.token);
        if let Some(at) = found {
            self.is_over = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let most = self.held.len().min(self.token.len().saturating_sub(1));
        let kept = (1..=most)
            .rev()
            .find(|&n| self.token.starts_with(&self.held[self.held.len() - n..]))
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether the token has come.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Hands a stream's bytes to the sink until its token or its end. Counts them in `moved`. The stream goes on from one
/// connection to the next, and ends with the last of them: when no more can come.
pub(super) fn pass(
    mut connections: mpsc::Receiver<UnixStream>,
    token: &str,
    stream: Stream,
    sink: Arc<dyn LogSink>,
    moved: Arc<AtomicU64>,
) -> JoinHandle<()> {
    let mut until = UntilToken::new(token);
    tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(mut from) = connections.recv().await {
            while !until.is_over() {
                let bytes = match from.read(&mut chunk).await {
                    Ok(len) if len > 0 => until.take(&chunk[..len]),
                    _ => break,
                };
                hand_on(&*sink, stream, &bytes, &moved);
            }
            if until.is_over() {
                break;
            }
        }
        let rest = until.finish();
        hand_on(&*sink, stream, &rest, &moved);
    })
}

fn hand_on(sink: &dyn LogSink, stream: Stream, bytes: &[u8], moved: &AtomicU64) {
    if !bytes.is_empty() {
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        sink.write(stream, bytes);
    }
}

/// Reads a machine's words until its port has closed for the last time, as [`pass`] does.
pub(super) fn words(mut connections: mpsc::Receiver<OwnedReadHalf>) -> mpsc::Receiver<Word> {
    let (send, receive) = mpsc::channel(WORDS);
    tokio::spawn(async move {
        let mut line = Vec::new();
        let mut chunk = vec![0; WORD_LEN_MAX];
        while let Some(mut from) = connections.recv().await {
            while let Ok(len) = from.read(&mut chunk).await {
                if len == 0 {
                    break;
                }
                if hear(&chunk[..len], &mut line, &send).await.is_err() {
                    return;
                }
            }
        }
    });
    receive
}

/// Takes the next bytes of a machine's words, the last of which may not be whole yet. Fails when nobody listens any more.
pub(super) async fn hear(
    bytes: &[u8],
    line: &mut Vec<u8>,
    words: &mpsc::Sender<Word>,
) -> Result<(), ()> {
    for &byte in bytes {
        if byte != b'\n' {
            if line.len() < WORD_LEN_MAX {
                line.push(byte);
            }
            continue;
        }
        if let Some(word) = life::word(line) {
            words.send(word).await.map_err(drop)?;
        }
        line.clear();
    }
    Ok(())
}

/// A machine's console: what it says is kept, the end of it, and passed on to whoever watches; what watchers say goes to the
/// machine. Nobody who watches can hold the machine up: who is too slow misses some.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    said: broadcast::Sender<Bytes>,
    /// There while the machine runs.
    keyboard: Arc<tokio::sync::Mutex<Option<OwnedWriteHalf>>>,
}

impl Default for Console {
    fn default() -> Self {
        let (said, _) = broadcast::channel(WATCHED_CHUNKS);
        Self { kept: Arc::default(), said, keyboard: Arc::default() }
    }
}

impl Console {
    /// Keeps the console's end until it closes. May begin again, with the machine.
    pub(super) async fn begin(&self, console: UnixStream) -> JoinHandle<()> {
        let (mut from, keyboard) = console.into_split();
        *self.keyboard.lock().await = Some(keyboard);
        let console = self.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0; 4 << 10];
            while let Ok(len) = from.read(&mut chunk).await {
                if len == 0 {
                    return;
                }
                console.push(&chunk[..len]);
            }
        })
    }

    /// Nobody listens until it begins again.
    pub(super) async fn rest(&self) {
        *self.keyboard.lock().await = None;
    }

    /// Adds what it says.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept();
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(CONSOLE_BYTES_MAX);
        kept.drain(..excess);
        // Nobody may be watching. Under the lock, so that a watcher gets every byte once.
        let _ = self.said.send(Bytes::copy_from_slice(bytes));
    }

    /// The end of what it has said, and what it says from then on.
    pub(crate) fn watch(&self) -> (Bytes, broadcast::Receiver<Bytes>) {
        let kept = self.kept();
        (kept.iter().copied().collect(), self.said.subscribe())
    }

    /// Says something to the machine. Waits while the machine does not listen; an error means that it runs no more, or not now.
    pub(crate) async fn say(&self, bytes: &[u8]) -> io::Result<()> {
        match &mut *self.keyboard.lock().await {
            Some(keyboard) => keyboard.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says last, in at most so many characters without what is not to be printed: from the beginning of a kernel's
    /// panic, or else the last lines.
    pub(super) fn tail(&self, n_chars: usize) -> String {
        let text = self.text();
        let text = text.trim();
        if let Some(at) = text.rfind(PANIC) {
            let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            return text[line..].chars().take(n_chars).collect();
        }
        let n = text.chars().count();
        if n <= n_chars {
            return text.to_owned();
        }
        let cut: String = text.chars().skip(n - n_chars).collect();
        cut.split_once('\n').map_or(cut.clone(), |(_, lines)| lines.to_owned())
    }

    fn text(&self) -> String {
        let kept: Vec<u8> = self.kept().iter().copied().collect();
        plain(&String::from_utf8_lossy(&kept))
    }

    /// Whether a text is in what is kept.
    pub(super) fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }
}

/// Without escape sequences and control characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            if chars.next_if_eq(&'[').is_some() {
                // Parameters, then one letter that ends the sequence.
                while chars.next_if(|c| ('\x20'..='\x3f').contains(c)).is_some() {}
            }
            chars.next();
        } else if c == '\n' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_before_the_token_is_passed_on_however_it_is_cut(
            before in proptest::collection::vec(0_u8..4, 0..200),
            cuts in proptest::collection::vec(1_usize..20, 1..60),
        ) {
            // Few different bytes, so that beginnings of the token are common.
            let token = "\u{1}\u{1}\u{2}\u{1}\u{1}\u{3}\u{7}";
            let mut whole = before.clone();
            whole.extend_from_slice(token.as_bytes());
            whole.extend_from_slice(b"after");
            let mut until = UntilToken::new(token);
            let mut passed = Vec::new();
            let mut rest = &whole[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at(rest.len().min(*cut));
                passed.extend(until.take(now));
                rest = later;
            }
            prop_assert!(until.is_over());
            prop_assert_eq!(passed, before);
        }
    }

    #[test]
    fn without_a_token_nothing_is_lost() {
        let mut until = UntilToken::new("abc");
        let mut passed = until.take(b"xxab");
        assert_eq!(passed, b"xx");
        passed.extend(until.finish());
        assert_eq!(passed, b"xxab");
        assert!(!until.is_over());
    }

    /// Keeps what it is given.
    #[derive(Default)]
    struct Kept(Mutex<Vec<u8>>);

    impl LogSink for Kept {
        fn write(&self, _: Stream, bytes: &[u8]) {
            self.0.lock().unwrap().extend_from_slice(bytes);
        }
    }

    #[tokio::test]
    async fn a_stream_goes_on_from_one_connection_to_the_next_and_its_token_may_be_cut_there() {
        let (kept, moved) = (Arc::new(Kept::default()), Arc::new(AtomicU64::new(0)));
        let (send, connections) = mpsc::channel(NEXT);
        let sink: Arc<dyn LogSink> = Arc::<Kept>::clone(&kept);
        let passing = pass(connections, "token", Stream::Stdout, sink, Arc::clone(&moved));
        for bytes in [&b"one to"[..], b"two tok", b"en three"] {
            let (mut machine, socket) = UnixStream::pair().unwrap();
            send.send(socket).await.unwrap();
            machine.write_all(bytes).await.unwrap();
        }
        passing.await.unwrap();
        assert_eq!(*kept.0.lock().unwrap(), b"one totwo ");
        assert_eq!(moved.load(Ordering::Relaxed), 10);
        // Without its token it ends when no connection can come any more.
        let (send, connections) = mpsc::channel(NEXT);
        let sink: Arc<dyn LogSink> = Arc::<Kept>::clone(&kept);
        let passing = pass(connections, "token", Stream::Stdout, sink, moved);
        drop(send);
        passing.await.unwrap();
    }

    #[tokio::test]
    async fn a_word_that_is_cut_by_the_end_of_a_connection_is_whole_with_the_next() {
        let (send, connections) = mpsc::channel(NEXT);
        let mut words = words(connections);
        for bytes in [&b"beg"[..], b"in\nexit 3 se", b"lf\n"] {
            let (mut machine, socket) = UnixStream::pair().unwrap();
            send.send(socket.into_split().0).await.unwrap();
            machine.write_all(bytes).await.unwrap();
        }
        drop(send);
        assert_eq!(words.recv().await, Some(Word::Begin));
        assert_eq!(words.recv().await, Some(Word::Exit { code: 3, why: life::Why::Itself }));
        assert_eq!(words.recv().await, None);
    }

    #[tokio::test]
    async fn who_watches_a_console_gets_every_byte_once_and_can_answer() {
        let console = Console::default();
        assert!(console.say(b"x").await.is_err(), "nothing listens yet");
        let (mut machine, socket) = UnixStream::pair().unwrap();
        let reading = console.begin(socket).await;
        console.push(b"booting ");
        let (before, mut live) = console.watch();
        assert_eq!(before, "booting ");
        machine.write_all(b"login: ").await.unwrap();
        assert_eq!(live.recv().await.unwrap(), "login: ");
        console.say(b"root\n").await.unwrap();
        let mut typed = [0; 5];
        machine.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\n");
        // Nobody reads, and the console goes on.
        for _ in 0..3 * WATCHED_CHUNKS {
            console.push(&[b'x'; 4 << 10]);
        }
        assert!(matches!(live.recv().await, Err(broadcast::error::RecvError::Lagged(_))));
        drop(machine);
        reading.await.unwrap();
    }

    #[test]
    fn a_consoles_end_is_bounded_and_plain() {
        let console = Console::default();
        console.push(&vec![b'x'; 10 * CONSOLE_BYTES_MAX]);
        assert_eq!(console.tail(usize::MAX).len(), CONSOLE_BYTES_MAX);
        console.push(b"\nlast words\x1b[1;31m:\x1b[0m none\x07\r\n");
        assert_eq!(console.tail(40), "last words: none");
        console.push(b"[1.0] Kernel panic - not syncing\n[1.1] Call trace\n[1.2] and so on\n");
        assert_eq!(console.tail(45), "[1.0] Kernel panic - not syncing\n[1.1] Call t");
        assert!(console.has(PANIC));
    }
}
