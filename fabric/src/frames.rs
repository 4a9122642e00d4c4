//! What peers send, read from bytes alone by the very code that reads it from the network: for tests that feed it with
//! anything. Nothing here opens a connection, and no application needs it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures::future::FutureExt;
use futures::io::Cursor;
use futures::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::{Semaphore, mpsc};

use crate::blob::{Asked, FetchError, Request, WANTED_BYTES, is_stretch, take};
use crate::handle::{HELLO_MAX, MESSAGE_MAX};
use crate::key::PeerKey;
use crate::net::{Frame, Frames, Moved, hello_bytes, read_hello, read_request as read_probe};
use crate::relay::wire;
use crate::tunnel::{self, Pools, Tally, TunnelBytes, Window, Wire};

/// Whose bytes they are said to be.
const PEER: PeerKey = PeerKey::from_bytes([1; 32]);
/// Memory for the frames of one call; a longer one finds no room.
const MEMORY_BYTES: usize = 1 << 16;
/// Events of one call that are kept to be looked at.
const EVENTS: usize = 64;

/// A stream of which everything is there, and that takes whatever is written.
struct There<'a> {
    coming: &'a [u8],
    going: Arc<Mutex<Vec<u8>>>,
}

impl<'a> There<'a> {
    fn new(coming: &'a [u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let going = Arc::<Mutex<Vec<u8>>>::default();
        (Self { coming, going: Arc::clone(&going) }, going)
    }
}

impl AsyncRead for There<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (now, rest) = self.coming.split_at(into.len().min(self.coming.len()));
        into[..now.len()].copy_from_slice(now);
        self.coming = rest;
        Poll::Ready(Ok(now.len()))
    }
}

impl AsyncWrite for There<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(from);
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a future gives that waits for nothing but a stream that is there.
fn at_once<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    future.now_or_never().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
}

/// What a stream of messages brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// One, whole.
    Whole(Vec<u8>),
    /// One for which there was no room.
    NoRoom,
    /// One that announces more than is read.
    Oversized,
}

/// The first message of a stream, and how many bytes were taken off it.
///
/// # Errors
/// When the stream ends within it.
pub fn message(bytes: &[u8]) -> io::Result<(Message, usize)> {
    let memory = Arc::new(Semaphore::new(MEMORY_BYTES));
    let mut stream = Cursor::new(bytes);
    let max = u32::try_from(MESSAGE_MAX).unwrap_or(u32::MAX);
    let read = at_once(Frames::read(&mut stream, max, Some(&memory)))?;
    let taken = usize::try_from(stream.position()).unwrap_or(usize::MAX);
    let message = match read {
        Frame::Whole { bytes, held } => {
            drop(held);
            Message::Whole(bytes)
        }
        Frame::NoRoom => Message::NoRoom,
        Frame::Oversized { .. } => Message::Oversized,
    };
    assert_eq!(memory.available_permits(), MEMORY_BYTES, "what was held is let go");
    Ok((message, taken))
}

/// Kind, generation and payload of a hello, as they would be written: `None` when it is none.
#[must_use]
pub fn hello(bytes: &[u8]) -> Option<Vec<u8>> {
    let (kind, generation, payload) = read_hello(bytes)?;
    (payload.len() <= HELLO_MAX).then(|| hello_bytes(kind, Some(generation), payload))
}

/// The addresses that a peer wants to have tested, each as it came.
///
/// # Errors
/// When the bytes are no request.
pub fn probe(bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut stream = Cursor::new(bytes);
    let addresses = at_once(read_probe(&mut stream))?;
    Ok(addresses.iter().map(libp2p::Multiaddr::to_vec).collect())
}

/// What an opener of a tunnel asks for; `None` when it announces too much.
///
/// # Errors
/// When the stream ends within it.
pub fn tunnel_request(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    at_once(tunnel::read_request(&mut Cursor::new(bytes)))
}

/// Why an acceptor refuses a tunnel, as people are shown it.
///
/// # Errors
/// When the stream ends within it.
pub fn tunnel_reason(bytes: &[u8]) -> io::Result<String> {
    at_once(tunnel::read_reason(&mut Cursor::new(bytes)))
}

/// What a tunnel's reader got, and how it ended.
#[derive(Debug)]
pub struct Read {
    /// The bytes of the peer's direction.
    pub bytes: Vec<u8>,
    /// Whether the peer ended it.
    pub is_whole: bool,
    /// Whether the peer broke the protocol, which is an offence.
    pub is_offence: bool,
    /// What this side wrote meanwhile: its credit, and after the end of all its own end.
    pub written: Vec<u8>,
}

/// Reads a tunnel's frames to their end, in steps of `step` bytes; a writer that has more to say than it has credit for comes
/// first where `is_writing`.
#[must_use]
pub fn tunnel(bytes: &[u8], step: usize, is_writing: bool) -> Read {
    let (stream, going) = There::new(bytes);
    let (told, mut events) = mpsc::channel(EVENTS);
    let tally = Tally::new(PEER, TunnelBytes::default(), Moved(told));
    let window = Window::new(Pools::new(1 << 20).share(PEER), Instant::now());
    let mut wire = Wire::new(stream, window, tally);
    let mut context = Context::from_waker(Waker::noop());
    let (mut got, mut is_whole) = (Vec::new(), false);
    if is_writing {
        let much = [7; 16 << 10];
        // 64 KiB may be sent without credit; the fifth piece waits for some, and takes frames off the stream.
        for _ in 0..8 {
            if !matches!(Pin::new(&mut wire).poll_write(&mut context, &much), Poll::Ready(Ok(_))) {
                break;
            }
        }
    }
    let mut buffer = vec![0; step.max(1)];
    loop {
        let mut into = ReadBuf::new(&mut buffer);
        match Pin::new(&mut wire).poll_read(&mut context, &mut into) {
            Poll::Ready(Ok(())) if into.filled().is_empty() => {
                is_whole = true;
                break;
            }
            Poll::Ready(Ok(())) => got.extend_from_slice(into.filled()),
            Poll::Ready(Err(_)) | Poll::Pending => break,
        }
    }
    let _ended = Pin::new(&mut wire).poll_shutdown(&mut context);
    drop(wire);
    let mut is_offence = false;
    while let Ok(event) = events.try_recv() {
        is_offence |= matches!(event, crate::event::Verdict::Offence { .. });
    }
    let written = std::mem::take(&mut *going.lock().unwrap_or_else(PoisonError::into_inner));
    Read { bytes: got, is_whole, is_offence, written }
}

/// What a fetcher of a blob asks for, when a blob of `size` bytes could serve it: the hash, and the stretch.
#[must_use]
pub fn blob_request(bytes: &[u8; WANTED_BYTES], size: u64) -> Option<([u8; 32], u64, u64)> {
    let Request { hash, from, until } = Request::read(bytes);
    is_stretch(from, until, size).then_some((hash, from, until))
}

/// What a server answers to somebody who wants the bytes of a blob from `from` to before `to`, multiples of
/// [`crate::blob::GROUP_BYTES`]: the verified bytes, where they begin, and the size that it claims.
///
/// # Errors
/// As of a fetch.
pub fn blob_answer(
    bytes: &[u8],
    hash: [u8; 32],
    (from, to): (u64, u64),
) -> Result<(Vec<u8>, u64, u64), FetchError> {
    thread_local! {
        // For the timeouts within, none of which can pass.
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime of this thread needs no more than a clock");
    }
    let (mut stream, _) = There::new(bytes);
    let mut came = 0;
    let asked = Asked { hash, from, to, first: from };
    let part =
        RUNTIME.with(|runtime| runtime.block_on(take(&mut stream, PEER, asked, &mut came)))?;
    Ok((part.bytes, part.at, part.size))
}

/// What the first message of circuit relay on a stream is, and how many bytes were taken off it.
///
/// # Errors
/// When the stream ends within it or it is too long.
pub fn relay(bytes: &[u8]) -> io::Result<(Relay, usize)> {
    let mut stream = Cursor::new(bytes);
    let message = at_once(wire::read(&mut stream))?;
    let taken = usize::try_from(stream.position()).unwrap_or(usize::MAX);
    let asked = match wire::request(&message) {
        Some(wire::Request::Reserve) => Relay::Reserve,
        Some(wire::Request::Connect(peer)) => Relay::Connect(peer),
        None => match wire::is_taken(&message) {
            Some(is_taken) => Relay::Answer { is_taken },
            None => Relay::Nothing,
        },
    };
    Ok((asked, taken))
}

/// What a message of circuit relay says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// To be reachable through this node.
    Reserve,
    /// A circuit to another peer.
    Connect(PeerKey),
    /// The far end's answer.
    Answer {
        /// Whether it takes the circuit.
        is_taken: bool,
    },
    /// Nothing that is known here.
    Nothing,
}

/// Messages of circuit relay as this node writes them: what it tells the far end of a circuit, and an answer.
#[must_use]
pub fn relay_written(from: PeerKey) -> [Vec<u8>; 2] {
    let limit = wire::Limit { seconds: 3600, bytes: 1 << 30 };
    let framed = |message: Vec<u8>| {
        let (mut stream, going) = There::new(&[]);
        let _written = at_once(wire::write(&mut stream, &message));
        std::mem::take(&mut *going.lock().unwrap_or_else(PoisonError::into_inner))
    };
    [framed(wire::stop(from, limit)), framed(wire::answer(wire::Status::Ok, Some(limit)))]
}
