//! The relay: carries bytes between two members of which one cannot be reached otherwise.
//!
//! It speaks circuit relay v2 (`/libp2p/circuit/relay/0.2.0/hop` towards who asks, `…/stop` towards the far end), so what
//! asks it is libp2p's own client. The service is our own, because libp2p's cannot be metered or paced, and would serve
//! strangers.
//!
//! ## Messages
//!
//! | from | stream | message |
//! |---|---|---|
//! | a member | hop | *reserve*: let others reach me through you |
//! | relay | hop | *status* ok with the time it holds until and the relay's addresses, or the number of a refusal |
//! | a member | hop | *connect* to a peer |
//! | relay | stop, to that peer | *connect* from the member |
//! | the far end | stop | *status* ok or not; after ok the stream is the circuit |
//! | relay | hop | *status* ok, after which the stream is the circuit, or the number of a refusal |
//!
//! The two ends then do their own handshake through the circuit: the relay sees ciphertext and its length.
//!
//! ## Invariant
//!
//! Both ends of a circuit are admitted by the relay when it begins, and both may be carried for ([`crate::Terms`]) as long as it
//! carries anything; both count every byte of it, and neither moves more than
//! [`RelayLimits::daily_bytes`] in a day, which two directions in flight may pass by their buffers.
//!
//! ## What a liar can do
//!
//! - Ask without being admitted: its stream is parked unread by the gate, as all of its streams are.
//! - Be one of many of a group: its reservations, circuits and bytes of a day together leave some for others.
//! - Use up its own reservations, circuits and bytes; nobody else's, but for the bounds that all share.
//! - As a relay, refuse, delay, or count wrongly what it shows its own owner; it cannot read or change what it carries.

mod book;
pub(crate) mod wire;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Stream, StreamProtocol};
use tokio::time::{sleep, timeout};

use crate::key::PeerKey;
use crate::net::{Asking, Incoming, Opener};
use crate::places::Places;
use crate::terms::TermsBook;
use book::Book;
use wire::{Limit, Request, Status};

/// What a relay is asked on.
pub(crate) const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// What it tells the far end on.
const STOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");
/// How long a peer has for each message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the far end is asked: a stream takes one of its connections by chance, and only one of them has the reservation.
const STOP_TRIES: u32 = 8;
/// Bytes of one direction of a circuit that the relay holds.
const BUFFER_BYTES: usize = 16 << 10;
/// Bytes that may go at once before the rate holds them back.
const BURST: Duration = Duration::from_millis(250);
/// Requests in work at once, of all peers and of one; beyond it they are dropped.
const REQUESTS: (u32, u32) = (256, 16);

/// How much a relay gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Peers that are reachable through it. More are refused.
    pub reservations: u32,
    /// How long a reservation holds; peers renew theirs in time.
    pub reservation: Duration,
    /// Circuits at once. More are refused.
    pub circuits: u32,
    /// Circuits at once of which one peer is an end. More are refused.
    pub circuits_per_peer: u32,
    /// How long a circuit may last before it is cut; its ends may open another.
    pub duration: Duration,
    /// Bytes of one circuit, both ways together, before it is cut.
    pub circuit_bytes: u64,
    /// Bytes per second of all circuits together. Beyond it they wait.
    pub bytes_per_s: u64,
    /// Bytes from and to one peer in a day. Beyond it its circuits are cut, and further ones refused.
    pub daily_bytes: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            reservations: 256,
            reservation: Duration::from_secs(3600),
            circuits: 64,
            circuits_per_peer: 16,
            duration: Duration::from_secs(3600),
            circuit_bytes: 1 << 30,
            bytes_per_s: 8 << 20,
            daily_bytes: 8 << 30,
        }
    }
}

impl RelayLimits {
    fn reservation_ms(&self) -> u64 {
        u64::try_from(self.reservation.as_millis()).unwrap_or(u64::MAX)
    }

    fn limit(&self) -> Limit {
        let seconds = u32::try_from(self.duration.as_secs()).unwrap_or(u32::MAX);
        Limit { seconds, bytes: self.circuit_bytes }
    }
}

/// What a relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayUse {
    /// Peers that are reachable through it now.
    pub reservations: u32,
    /// Circuits open now.
    pub circuits: u32,
    /// Bytes that it carried since it started.
    pub bytes: u64,
}

/// The service of one node.
pub(crate) struct Relay {
    limits: RelayLimits,
    streams: Opener,
    asking: Asking,
    terms: Arc<TermsBook>,
    book: Mutex<Book>,
    pace: Mutex<Pace>,
}

/// Why a circuit ended before its ends closed it; for the log.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("a stream failed")]
    Io(#[from] io::Error),
    #[error("a peer was too slow with a message")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("a message makes no sense")]
    Malformed,
    #[error("a circuit moved as much as one may")]
    CircuitBytes,
    #[error("one of its ends is not carried for any more")]
    Barred,
    #[error("one of its ends has used its day up")]
    DailyBytes,
}

impl Relay {
    pub(crate) fn new(
        limits: RelayLimits,
        streams: Opener,
        asking: Asking,
        terms: Arc<TermsBook>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            streams,
            asking,
            book: Mutex::new(Book::new(limits, Arc::clone(&terms))),
            terms,
            pace: Mutex::new(Pace { free_at: Instant::now() }),
        })
    }

    /// Serves until the network ends.
    pub(crate) async fn serve(self: Arc<Self>, incoming: Incoming) {
        let places = Places::shared(REQUESTS.0, REQUESTS.1, Arc::clone(&self.terms));
        let answer = |peer, stream| {
            let relay = Arc::clone(&self);
            async move {
                if let Err(cut) = relay.answer(peer, stream).await {
                    tracing::debug!(%peer, error = &cut as &dyn std::error::Error, "a peer was not relayed");
                }
            }
        };
        incoming.serve(places, answer).await;
    }

    /// What it is doing now.
    pub(crate) fn in_use(&self) -> RelayUse {
        let book = self.book();
        RelayUse {
            reservations: book.n_reservations(unix_ms()),
            circuits: book.n_circuits(),
            bytes: book.bytes(),
        }
    }

    /// What was relayed from and to the peer today.
    pub(crate) fn used(&self, peer: PeerKey) -> u64 {
        self.book().used(unix_ms(), peer)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, peer: PeerKey, mut stream: Stream) -> Result<(), Cut> {
        let message = timeout(MESSAGE_TIMEOUT, wire::read(&mut stream)).await??;
        match wire::request(&message) {
            Some(Request::Reserve) => self.reserve(peer, stream).await,
            Some(Request::Connect(to)) => self.connect(peer, to, stream).await,
            None => {
                end(stream, Status::Malformed).await?;
                Err(Cut::Malformed)
            }
        }
    }

    async fn reserve(&self, peer: PeerKey, mut stream: Stream) -> Result<(), Cut> {
        if !self.may_relay(peer) {
            return Ok(end(stream, Status::Denied).await?);
        }
        let addresses = self.asking.relay_addresses(peer).await;
        if addresses.is_empty() {
            return Ok(end(stream, Status::Refused).await?);
        }
        let reserved = self.book().reserve(unix_ms(), peer);
        match reserved {
            Ok(until_ms) => {
                let message = wire::reserved(until_ms / 1000, &addresses, self.limits.limit());
                timeout(MESSAGE_TIMEOUT, wire::write(&mut stream, &message)).await??;
                timeout(MESSAGE_TIMEOUT, stream.close()).await??;
                tracing::debug!(%peer, "a peer is reachable through this node");
                Ok(())
            }
            Err(status) => Ok(end(stream, status).await?),
        }
    }

    async fn connect(&self, from: PeerKey, to: PeerKey, stream: Stream) -> Result<(), Cut> {
        if !self.may_relay(from) {
            return Ok(end(stream, Status::Denied).await?);
        }
        // Who asks learns no more of one that is not carried for than of one that is not here.
        if !self.may_relay(to) || !self.asking.is_admitted(to).await {
            return Ok(end(stream, Status::NoReservation).await?);
        }
        let opened = self.book().open(unix_ms(), from, to);
        if let Err(status) = opened {
            return Ok(end(stream, status).await?);
        }
        let open = Open { relay: self, from, to };
        let Some(far) = self.far_end(from, to).await else {
            return Ok(end(stream, Status::ConnectionFailed).await?);
        };
        let mut near = stream;
        let ok = wire::answer(Status::Ok, Some(self.limits.limit()));
        timeout(MESSAGE_TIMEOUT, wire::write(&mut near, &ok)).await??;
        tracing::debug!(%from, %to, "a circuit is open");
        // The end of the time is no failure: the two open another circuit if they need it.
        let _cut_in_time = timeout(self.limits.duration, open.carry(near, far)).await;
        Ok(())
    }

    /// Whether the application lets the peer be carried for.
    fn may_relay(&self, peer: PeerKey) -> bool {
        self.terms.of(peer).may_relay
    }

    /// The far end's stream, when it takes the circuit.
    async fn far_end(&self, from: PeerKey, to: PeerKey) -> Option<Stream> {
        for _ in 0..STOP_TRIES {
            let mut control = self.streams.control();
            let opening = control.open_stream(to.to_peer_id(), STOP);
            let mut stream = timeout(MESSAGE_TIMEOUT, opening).await.ok()?.ok()?;
            let asked = async {
                wire::write(&mut stream, &wire::stop(from, self.limits.limit())).await?;
                wire::read(&mut stream).await
            };
            let answer = timeout(MESSAGE_TIMEOUT, asked).await.ok()?.ok()?;
            if wire::is_taken(&answer)? {
                return Some(stream);
            }
        }
        None
    }
}

/// An open circuit; what it took is given back when it is dropped.
struct Open<'a> {
    relay: &'a Relay,
    from: PeerKey,
    to: PeerKey,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.relay.book().close(self.from, self.to);
    }
}

impl Open<'_> {
    async fn carry(&self, near: Stream, far: Stream) -> Result<(), Cut> {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let moved = std::sync::atomic::AtomicU64::new(0);
        let there = self.copy(near_in, far_out, &moved);
        let back = self.copy(far_in, near_out, &moved);
        tokio::try_join!(there, back).map(|_| ())
    }

    async fn copy(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        moved: &std::sync::atomic::AtomicU64,
    ) -> Result<(), Cut> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(to.close().await?);
            }
            if ![self.from, self.to].into_iter().all(|peer| self.relay.may_relay(peer)) {
                return Err(Cut::Barred);
            }
            let bytes = n as u64;
            let all = moved.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            if all > self.relay.limits.circuit_bytes {
                return Err(Cut::CircuitBytes);
            }
            let is_left = self.relay.book().spend(unix_ms(), [self.from, self.to], bytes);
            if !is_left {
                return Err(Cut::DailyBytes);
            }
            let wait = self.relay.pace.lock().unwrap_or_else(PoisonError::into_inner).take(
                Instant::now(),
                bytes,
                self.relay.limits.bytes_per_s,
            );
            if !wait.is_zero() {
                sleep(wait).await;
            }
            to.write_all(&buffer[..n]).await?;
            to.flush().await?;
        }
    }
}

async fn end(mut stream: Stream, status: Status) -> io::Result<()> {
    let closing = async {
        wire::write(&mut stream, &wire::answer(status, None)).await?;
        stream.close().await
    };
    timeout(MESSAGE_TIMEOUT, closing).await?
}

/// The rate that all circuits share: each piece waits for those before it.
#[derive(Debug)]
struct Pace {
    free_at: Instant,
}

impl Pace {
    /// How long to wait before the next so many bytes go.
    fn take(&mut self, now: Instant, bytes: u64, bytes_per_s: u64) -> Duration {
        let time = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
        self.free_at = self.free_at.max(now) + time;
        self.free_at.saturating_duration_since(now).saturating_sub(BURST)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_keeps_to_the_rate() {
        let start = Instant::now();
        let mut pace = Pace { free_at: start };
        let mut now = start;
        for _ in 0..100 {
            now += pace.take(now, 100_000, 1_000_000);
        }
        let took = now.saturating_duration_since(start);
        assert!(took > Duration::from_millis(9_600) && took < Duration::from_secs(10), "{took:?}");
        // After a rest nothing waits.
        assert_eq!(pace.take(now + BURST * 2, 100_000, 1_000_000), Duration::ZERO);
    }
}
