//! A port of this machine whose connections go somewhere else, as through a tunnel to a service of a peer.
//!
//! A [`Forward`] listens on `127.0.0.1` alone. For every connection it opens a far side and copies both ways, each direction
//! up to its own end. A connection whose far side cannot be opened, or is cut in the middle, is reset, so that no program
//! takes half an answer for a whole one. Every program of this machine can use the port: who must not belongs on another
//! machine.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Connections at once; further ones wait in the system's queue, and are refused when that is full.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes that wait in each direction of a connection.
const BUFFER_BYTES: usize = 64 << 10;
/// How long to wait when the system has no socket to spare for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a port is not listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// It is taken, or not for everybody.
    #[error(
        "cannot listen on port {port} of 127.0.0.1: choose another one, or 0 for any that is free"
    )]
    Listen {
        /// Which.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// What a forward does and has done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ForwardStatus {
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were taken since it began.
    pub taken: u64,
    /// Of those, how many had no far side or were cut.
    pub failed: u64,
    /// Bytes that went to far sides.
    pub sent: u64,
    /// Bytes that came from far sides.
    pub received: u64,
    /// Why the last one failed.
    pub last_failure: Option<Arc<dyn Error + Send + Sync>>,
}

/// A port that is forwarded. Dropped, it is closed and its connections are cut.
pub struct Forward {
    local: SocketAddr,
    counts: Arc<Counts>,
    stopping: CancellationToken,
    cut: CancellationToken,
    main: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    open: AtomicU64,
    taken: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    last_failure: Mutex<Option<Arc<dyn Error + Send + Sync>>>,
}

impl Forward {
    /// Listens on a port of `127.0.0.1` (0 for any that is free) and opens a far side for each connection with `open`, which
    /// has to come to an end by itself.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub async fn listen<O, F, T, E>(port: u16, open: O) -> Result<Self, ForwardError>
    where
        O: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let failed = |source| ForwardError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let counts = Arc::new(Counts::default());
        let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
        let main = Main {
            open,
            counts: Arc::clone(&counts),
            stopping: stopping.clone(),
            cut: cut.clone(),
            connections: JoinSet::new(),
        };
        let main = tokio::spawn(main.run(listener));
        Ok(Self { local, counts, stopping, cut, main })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it does and has done.
    #[must_use]
    pub fn status(&self) -> ForwardStatus {
        let Counts { open, taken, failed, sent, received, last_failure } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ForwardStatus {
            open: read(open),
            taken: read(taken),
            failed: read(failed),
            sent: read(sent),
            received: read(received),
            last_failure: last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Closes the port, lets the open connections come to their ends for so long, and cuts the rest.
    pub async fn stop(mut self, grace: Duration) {
        self.stopping.cancel();
        if timeout(grace, &mut self.main).await.is_err() {
            self.cut.cancel();
            // A connection that is cut ends with its next step, and nothing in it blocks.
            if let Err(error) = (&mut self.main).await {
                tracing::warn!(%error, "a forwarded port ended badly");
            }
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cut.cancel();
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The task that takes connections.
struct Main<O> {
    open: O,
    counts: Arc<Counts>,
    stopping: CancellationToken,
    cut: CancellationToken,
    connections: JoinSet<()>,
}

impl<O, F, T, E> Main<O>
where
    O: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    async fn run(mut self, listener: TcpListener) {
        loop {
            let has_room = self.connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = self.stopping.cancelled() => break,
                Some(ended) = self.connections.join_next() => log(ended),
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((socket, _)) => self.take(socket),
                    Err(error) => {
                        tracing::warn!(%error, "a connection to a forwarded port was not taken");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // From here on the system refuses connections.
        drop(listener);
        while let Some(ended) = self.connections.join_next().await {
            log(ended);
        }
    }

    fn take(&mut self, socket: TcpStream) {
        let opening = (self.open)();
        let (counts, cut) = (Arc::clone(&self.counts), self.cut.clone());
        counts.taken.fetch_add(1, Ordering::Relaxed);
        let open = Open::new(&counts);
        self.connections.spawn(async move {
            let mut near = Counted { socket, counts };
            let carried = tokio::select! {
                carried = near.carry(opening) => carried,
                () = cut.cancelled() => Err(Arc::from(Box::<dyn Error + Send + Sync>::from(
                    "the forwarded port was closed",
                ))),
            };
            if let Err(error) = carried {
                near.reset(error);
            }
            drop(near);
            drop(open);
        });
    }
}

fn log(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::warn!(%error, "a forwarded connection ended badly");
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A local connection, whose bytes are counted.
struct Counted {
    socket: TcpStream,
    counts: Arc<Counts>,
}

impl Counted {
    async fn carry<T, E>(
        &mut self,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<(), Arc<dyn Error + Send + Sync>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut far = opening.await.map_err(|error| Arc::from(error.into()))?;
        // Without it a program's small writes wait for each other.
        let copied = match self.socket.set_nodelay(true) {
            Ok(()) => {
                copy_bidirectional_with_sizes(self, &mut far, BUFFER_BYTES, BUFFER_BYTES).await
            }
            Err(error) => Err(error),
        };
        copied.map(|_| ()).map_err(|error| Arc::new(error) as _)
    }

    /// Makes the end of the connection a reset, and notes why.
    fn reset(&self, error: Arc<dyn Error + Send + Sync>) {
        tracing::debug!(%error, "a forwarded connection is reset");
        if let Err(error) = self.socket.set_zero_linger() {
            tracing::debug!(%error, "a connection ends as if it were complete");
        }
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        *self.counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, into))?;
        let n = into.filled().len() - before;
        self.counts.sent.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.socket).poll_write(cx, from))?;
        self.counts.received.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;

    /// Far above what anything here takes.
    const DEADLINE: Duration = Duration::from_secs(30);

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(DEADLINE, what).await.expect("it happens in time")
    }

    /// A forward whose far sides the test plays.
    async fn forwarding() -> (Forward, mpsc::UnboundedReceiver<DuplexStream>) {
        let (tell, told) = mpsc::unbounded_channel();
        let open = move || {
            let (near, far) = tokio::io::duplex(1000);
            tell.send(far).unwrap();
            std::future::ready(Ok::<_, Infallible>(near))
        };
        (Forward::listen(0, open).await.unwrap(), told)
    }

    async fn client(forward: &Forward) -> TcpStream {
        TcpStream::connect(forward.local_addr()).await.unwrap()
    }

    async fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let asking = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn is_reset(client: &mut TcpStream) {
        let error = soon(client.read_to_end(&mut Vec::new())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn bytes_go_both_ways_each_to_its_end_and_are_counted() {
        let (forward, mut far_sides) = forwarding().await;
        assert!(forward.local_addr().ip().is_loopback());
        let mut near = client(&forward).await;
        let mut far = soon(far_sides.recv()).await.unwrap();
        let question: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let asking = async {
            near.write_all(&question).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let ((), n) = soon(async { tokio::join!(asking, far.read_to_end(&mut heard)) }).await;
        assert_eq!(n.unwrap(), 300_000);
        assert!(heard == question);
        // The answer comes after the end of the question.
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        soon(near.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "answer");
        eventually("it is over", || forward.status().open == 0).await;
        let status = forward.status();
        assert_eq!((status.taken, status.failed), (1, 0));
        assert_eq!((status.sent, status.received), (300_000, 6));
    }

    #[tokio::test]
    async fn a_connection_without_a_far_side_is_reset_and_the_reason_kept() {
        let open = || std::future::ready(Err::<DuplexStream, _>(io::Error::other("no such peer")));
        let forward = Forward::listen(0, open).await.unwrap();
        is_reset(&mut client(&forward).await).await;
        let status = forward.status();
        assert_eq!((status.taken, status.failed), (1, 1));
        assert_eq!(status.last_failure.unwrap().to_string(), "no such peer");
    }

    /// Gives some bytes and fails.
    struct Failing(bool);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            into.put_slice(b"half an ans");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            from: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(from.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn half_an_answer_does_not_look_like_a_whole_one() {
        let open = || std::future::ready(Ok::<_, Infallible>(Failing(false)));
        let forward = Forward::listen(0, open).await.unwrap();
        is_reset(&mut client(&forward).await).await;
        eventually("it is noted", || forward.status().failed == 1).await;
    }

    #[tokio::test]
    async fn beyond_the_bound_connections_wait_for_room() {
        let (forward, mut far_sides) = forwarding().await;
        let mut near = Vec::new();
        let mut far = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            near.push(client(&forward).await);
            far.push(soon(far_sides.recv()).await.unwrap());
        }
        let mut waiting = client(&forward).await;
        waiting.write_all(b"hello").await.unwrap();
        assert_eq!(forward.status().taken, CONNECTIONS_MAX as u64);
        assert!(far_sides.try_recv().is_err());
        // One end makes room.
        near.pop();
        far.pop();
        let mut far = soon(far_sides.recv()).await.unwrap();
        let mut hello = [0; 5];
        soon(far.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
    }

    #[tokio::test]
    async fn a_stop_lets_connections_finish_and_takes_no_new_ones() {
        let (forward, mut far_sides) = forwarding().await;
        let address = forward.local_addr();
        let mut near = client(&forward).await;
        let mut far = soon(far_sides.recv()).await.unwrap();
        let stopping = tokio::spawn(forward.stop(DEADLINE));
        let is_closed = async { while TcpStream::connect(address).await.is_ok() {} };
        soon(is_closed).await;
        far.write_all(b"last words").await.unwrap();
        drop(far);
        let mut words = String::new();
        soon(near.read_to_string(&mut words)).await.unwrap();
        assert_eq!(words, "last words");
        drop(near);
        soon(stopping).await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_finish_in_time_is_cut() {
        let (forward, mut far_sides) = forwarding().await;
        let mut near = client(&forward).await;
        let mut far = soon(far_sides.recv()).await.unwrap();
        soon(forward.stop(Duration::ZERO)).await;
        is_reset(&mut near).await;
        assert_eq!(soon(far.read(&mut [0; 9])).await.unwrap(), 0);
        // Dropping is the same without waiting.
        let (forward, mut far_sides) = forwarding().await;
        let mut near = client(&forward).await;
        let _far = soon(far_sides.recv()).await.unwrap();
        drop(forward);
        is_reset(&mut near).await;
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (first, _far_sides) = forwarding().await;
        let port = first.local_addr().port();
        let open = || std::future::ready(Err::<DuplexStream, _>(io::Error::other("unused")));
        let error = Forward::listen(port, open).await.unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
