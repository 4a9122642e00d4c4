//! A tunnel's bytes on a stream: chunks, credit and ends.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Instant;

use futures::task::AtomicWaker;
use futures::{AsyncRead as StreamRead, AsyncWrite as StreamWrite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tally::Tally;
use super::window::{UNIT_BYTES, WINDOW_BYTES, Window};

/// Bytes of a frame's head: its kind and a number.
const HEAD_BYTES: usize = 3;
/// Largest chunk that this side sends: with its head 64 KiB, which is four whole frames of yamux.
pub(super) const CHUNK_BYTES: usize = (64 << 10) - HEAD_BYTES;
/// Room that an emptied inbox keeps.
const INBOX_BYTES: usize = 64 << 10;

const END: u8 = 0;
const CHUNK: u8 = 1;
const CREDIT: u8 = 2;

/// What a chunk takes of the credit: its head counts too, else a writer of single bytes would fill four windows with one.
const fn cost(n: usize) -> u64 {
    (HEAD_BYTES + n) as u64
}

/// What either direction says once the peer has sent what is no frame.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the peer broke the protocol of tunnels")
}

/// Wakes whoever reads and whoever writes: either may be the one who takes a frame off the stream that the other waits for,
/// and a stream remembers only the last who asked.
#[derive(Debug, Default)]
struct Both {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// What comes next from the peer.
enum Coming {
    /// A head, of which so many bytes are there.
    Head([u8; HEAD_BYTES], usize),
    /// So many bytes of a chunk.
    Chunk(usize),
}

/// A stream that carries chunks. Dropped before it was shut down, it is cut.
pub(crate) struct Wire<S> {
    stream: S,
    both: Arc<Both>,
    waker: Waker,
    coming: Coming,
    /// What came while somebody wrote and nobody read; at most a window.
    inbox: VecDeque<u8>,
    window: Window,
    is_peer_done: bool,
    /// The peer sent what is no frame, so that nothing behind it means anything.
    is_broken: bool,
    /// Frames on their way out.
    going: Vec<u8>,
    /// How many bytes of them are out.
    gone: usize,
    /// Credit was given to the stream, or waits for it, and no flush has come after it.
    owes_flush: bool,
    /// Bytes that the peer takes.
    credit: u64,
    is_ended: bool,
    /// Whether the end is out, so that this side owes nothing more.
    is_done: bool,
    tally: Tally,
}

impl<S: StreamRead + StreamWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S, window: Window, tally: Tally) -> Self {
        let both = Arc::<Both>::default();
        Self {
            stream,
            waker: Arc::clone(&both).into(),
            both,
            coming: Coming::Head([0; HEAD_BYTES], 0),
            inbox: VecDeque::new(),
            window,
            is_peer_done: false,
            is_broken: false,
            going: Vec::new(),
            gone: 0,
            owes_flush: false,
            credit: WINDOW_BYTES.into(),
            is_ended: false,
            is_done: false,
            tally,
        }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Gives the waiting frames to the stream.
    fn poll_drain(&mut self) -> Poll<io::Result<()>> {
        let mut cx = Context::from_waker(&self.waker);
        while self.gone < self.going.len() {
            let rest = &self.going[self.gone..];
            match ready!(Pin::new(&mut self.stream).poll_write(&mut cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.gone += n,
            }
        }
        self.going.clear();
        self.gone = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self) -> Poll<io::Result<()>> {
        ready!(self.poll_drain())?;
        let mut cx = Context::from_waker(&self.waker);
        ready!(Pin::new(&mut self.stream).poll_flush(&mut cx))?;
        self.owes_flush = false;
        Poll::Ready(Ok(()))
    }

    /// A frame behind those that wait.
    fn queue(&mut self, kind: u8, n: u16, bytes: &[u8]) {
        let [high, low] = n.to_be_bytes();
        self.going.extend_from_slice(&[kind, high, low]);
        self.going.extend_from_slice(bytes);
    }

    /// Gives credit to the stream while nobody writes. An error is of no interest here: a peer that has got everything closes
    /// without waiting for credit, and any other loss shows to who reads or writes.
    fn send_credit(&mut self) {
        if self.owes_flush && matches!(self.poll_send(), Poll::Ready(Err(_))) {
            self.owes_flush = false;
            if self.is_done {
                self.going.clear();
                self.gone = 0;
            }
        }
    }

    /// The application has read so many bytes.
    fn read(&mut self, n: usize) {
        self.tally.add(0, n);
        self.ask(n);
        self.send_credit();
    }

    /// So many bytes are off the stream and out of the inbox.
    fn ask(&mut self, n: usize) {
        if !self.is_peer_done
            && let Some(units) = self.window.read(n as u64, Instant::now())
        {
            self.queue(CREDIT, units, &[]);
            self.owes_flush = true;
        }
    }

    /// Closes the stream when both directions are complete, and not before: a stream that is half closed cannot be reset by
    /// yamux any more, and a peer that waits for credit on it would wait for ever after a cut. Nothing depends on the close,
    /// so what it says is of no interest.
    fn close_when_complete(&mut self) {
        if self.is_done && self.is_peer_done {
            let mut cx = Context::from_waker(&self.waker);
            let _too_late_to_matter = Pin::new(&mut self.stream).poll_close(&mut cx);
        }
    }

    /// Reads into the buffer; no bytes are a cut, because a direction that is complete has an end.
    fn poll_some(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(&self.waker);
        match ready!(Pin::new(&mut self.stream).poll_read(&mut cx, into))? {
            0 => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the tunnel was cut before its end",
            ))),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Goes on to the next chunk, end or credit; bytes of a chunk are left where they are.
    fn poll_head(&mut self) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(broken()));
        }
        while let Coming::Head(mut head, have) = self.coming
            && have < HEAD_BYTES
        {
            let n = ready!(self.poll_some(&mut head[have..]))?;
            self.coming = Coming::Head(head, have + n);
        }
        let Coming::Head([kind, high, low], _) = self.coming else {
            return Poll::Ready(Ok(()));
        };
        self.coming = Coming::Head([0; HEAD_BYTES], 0);
        let n = u16::from_be_bytes([high, low]);
        match kind {
            CHUNK if n > 0 && !self.is_peer_done && self.window.take(cost(n.into())) => {
                self.coming = Coming::Chunk(n.into());
                self.ask(HEAD_BYTES);
            }
            CREDIT if n > 0 => {
                self.credit = self.credit.saturating_add(u64::from(n) * UNIT_BYTES);
                self.both.writer.wake();
            }
            END if n == 0 && !self.is_peer_done => {
                self.is_peer_done = true;
                self.close_when_complete();
                self.both.reader.wake();
            }
            _ => {
                self.is_broken = true;
                self.tally.offence();
                self.both.wake_by_ref();
                return Poll::Ready(Err(broken()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn passed(&mut self, left: usize, n: usize) {
        self.coming = match left - n {
            0 => Coming::Head([0; HEAD_BYTES], 0),
            left => Coming::Chunk(left),
        };
    }

    /// Takes frames off the stream until the peer has given credit.
    fn poll_credit(&mut self) -> Poll<io::Result<()>> {
        while self.credit <= cost(0) {
            self.send_credit();
            let Coming::Chunk(left) = self.coming else {
                ready!(self.poll_head())?;
                continue;
            };
            let mut some = [0; 16 << 10];
            let room = left.min(some.len());
            let n = ready!(self.poll_some(&mut some[..room]))?;
            self.inbox.extend(&some[..n]);
            self.passed(left, n);
            self.both.reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives what came while nobody read.
    fn unpack(&mut self, into: &mut ReadBuf<'_>) {
        let (front, _) = self.inbox.as_slices();
        let n = front.len().min(into.remaining());
        into.put_slice(&front[..n]);
        self.inbox.drain(..n);
        if self.inbox.is_empty() {
            self.inbox.shrink_to(INBOX_BYTES);
        }
        self.read(n);
    }
}

impl<S: StreamRead + StreamWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.both.reader.register(cx.waker());
        this.send_credit();
        while into.remaining() > 0 {
            if !this.inbox.is_empty() {
                this.unpack(into);
                break;
            }
            if let Coming::Chunk(left) = this.coming {
                let room = into.remaining().min(left);
                let n = ready!(this.poll_some(into.initialize_unfilled_to(room)))?;
                into.advance(n);
                this.passed(left, n);
                this.read(n);
                break;
            }
            if this.is_peer_done {
                break;
            }
            ready!(this.poll_head())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: StreamRead + StreamWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.is_broken {
            return Poll::Ready(Err(broken()));
        }
        if from.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.both.writer.register(cx.waker());
        ready!(this.poll_drain())?;
        if this.credit <= cost(0) {
            // What waits in the stream's own buffers is what the peer must read before it gives more.
            ready!(this.poll_send())?;
            ready!(this.poll_credit())?;
        }
        let credit = usize::try_from(this.credit - cost(0)).unwrap_or(usize::MAX);
        let n = from.len().min(CHUNK_BYTES).min(credit);
        this.credit -= cost(n);
        this.queue(CHUNK, n as u16, &from[..n]);
        this.tally.add(n, 0);
        // What the stream does not take now goes with the next call or the flush that every writer owes.
        if let Poll::Ready(Err(error)) = this.poll_drain() {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.both.writer.register(cx.waker());
        if self.is_done { Poll::Ready(Ok(())) } else { self.poll_send() }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_broken && !this.is_done {
            return Poll::Ready(Err(broken()));
        }
        this.both.writer.register(cx.waker());
        if !this.is_ended {
            ready!(this.poll_drain())?;
            this.is_ended = true;
            this.queue(END, 0, &[]);
        }
        if !this.is_done {
            ready!(this.poll_send())?;
            this.is_done = true;
        }
        this.close_when_complete();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
