//! How fast a tunnel carries bytes between two nodes on one machine, memory to memory, against a bare libp2p stream of the
//! same transport and against TCP alone, which encrypts nothing; and how long one byte takes there and back. Both ends share
//! the machine's cores.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use fabric::measure::{BareStream, Carrier};
use fabric::{Config, Event, Fabric, FarEnd, PeerKey, Sources, TunnelDenied, TunnelSource};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const SIZE: u64 = 256 << 20;
/// All ways take turns, so that a slow moment of the machine meets all of them.
const ROUNDS: usize = 5;
/// Round trips of one byte.
const TRIPS: usize = 2_000;
/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A far end of so many zeros, which throws away what it gets.
struct Zeros(u64);

impl AsyncRead for Zeros {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.0.min(into.remaining() as u64);
        into.initialize_unfilled_to(n as usize).fill(0);
        into.advance(n as usize);
        self.0 -= n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Zeros {
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

/// Asks for zeros.
const ZEROS: &[u8] = b"zeros";
/// Asks for what it says to be repeated.
const ECHO: &[u8] = b"echo";

struct Ends;

impl TunnelSource for Ends {
    fn open(
        &self,
        _: PeerKey,
        request: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<FarEnd, TunnelDenied>> + Send>> {
        let far = if request == ZEROS {
            FarEnd::new(Box::new(Zeros(SIZE)))
        } else {
            let (near, far) = tokio::io::duplex(BUFFER_BYTES);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                tokio::io::copy(&mut read, &mut write).await
            });
            FarEnd::new(Box::new(near))
        };
        Box::pin(std::future::ready(Ok(far)))
    }
}

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
    runtime.block_on(measure(dir.path()));
}

#[expect(clippy::cast_precision_loss, reason = "mebibytes of a bench are few")]
async fn measure(dir: &Path) {
    let size = dir.join("size");
    File::create(&size).unwrap().set_len(SIZE).unwrap();
    let tcp = Pair::connect(1, "/ip4/127.0.0.1/tcp/0").await;
    let quic = Pair::connect(3, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let mut bare_tcp = BareStream::open(size.clone(), Carrier::Tcp).await.unwrap();
    let mut bare_quic = BareStream::open(size, Carrier::Quic).await.unwrap();
    let mut took: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        for (way, took) in took.iter_mut().enumerate() {
            let begun = Instant::now();
            match way {
                0 => bare_tcp.move_memory().await.unwrap(),
                1 => tcp.stream().await.unwrap(),
                2 => bare_quic.move_memory().await.unwrap(),
                3 => quic.stream().await.unwrap(),
                _ => plain_tcp().await.unwrap(),
            }
            took.push(begun.elapsed().as_secs_f64());
        }
    }
    let [bare_tcp, tcp_took, bare_quic, quic_took, plain] = took.map(figure::median);
    let rate = |seconds: f64| {
        format!("{:.0} MiB/s ({})", (SIZE >> 20) as f64 / seconds, figure::time(seconds))
    };
    let ratio = |bare: f64, tunnel: f64| format!("{:.2}", bare / tunnel);
    figure::figure("tunnel: TCP alone, 256 MiB", &rate(plain), "");
    figure::figure("tunnel: bare libp2p stream (TCP, noise, yamux), 256 MiB", &rate(bare_tcp), "");
    figure::figure("tunnel: one tunnel over TCP, 256 MiB", &rate(tcp_took), "");
    figure::figure("tunnel: bare libp2p stream (QUIC), 256 MiB", &rate(bare_quic), "");
    figure::figure("tunnel: one tunnel over QUIC, 256 MiB", &rate(quic_took), "");
    figure::figure("tunnel: against bare stream, TCP", &ratio(bare_tcp, tcp_took), ">= 0.80");
    figure::figure("tunnel: against bare stream, QUIC", &ratio(bare_quic, quic_took), ">= 0.80");
    figure::figure("tunnel: against TCP alone, TCP", &ratio(plain, tcp_took), "");
    figure::figure("tunnel: against TCP alone, QUIC", &ratio(plain, quic_took), "");
    for (name, pair) in [("TCP", &tcp), ("QUIC", &quic)] {
        let trip = figure::time(pair.trip().await.unwrap());
        figure::figure(&format!("tunnel: one byte there and back over {name}"), &trip, "");
    }
}

/// The same bytes over a socket.
async fn plain_tcp() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let sending = async move {
        let (mut socket, _) = listener.accept().await?;
        let buffer = vec![0; BUFFER_BYTES];
        for _ in 0..SIZE / BUFFER_BYTES as u64 {
            socket.write_all(&buffer).await?;
        }
        socket.shutdown().await
    };
    let sending = tokio::spawn(sending);
    let mut socket = TcpStream::connect(address).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut received = 0;
    while let n @ 1.. = socket.read(&mut buffer).await? {
        received += n as u64;
    }
    sending.await.map_err(io::Error::other)??;
    if received == SIZE { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Two nodes that are connected.
struct Pair {
    server: Fabric,
    client: Fabric,
}

impl Pair {
    async fn connect(seed: u8, listen: &str) -> Self {
        let (server, client) = (node(seed, listen), node(seed + 1, listen));
        client.connect(server.me(), server.addresses().await, None).await.unwrap();
        Self { server, client }
    }

    /// Reads all zeros.
    async fn stream(&self) -> io::Result<()> {
        let tunnel = self.client.tunnel(self.server.me(), ZEROS.to_vec()).await;
        let mut tunnel = tunnel.map_err(io::Error::other)?;
        tunnel.shutdown().await?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut received = 0;
        while let n @ 1.. = tunnel.read(&mut buffer).await? {
            received += n as u64;
        }
        if received == SIZE { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The middle time of one byte there and back, in seconds.
    async fn trip(&self) -> io::Result<f64> {
        let tunnel = self.client.tunnel(self.server.me(), ECHO.to_vec()).await;
        let mut tunnel = tunnel.map_err(io::Error::other)?;
        let mut took = Vec::with_capacity(TRIPS);
        for _ in 0..TRIPS {
            let begun = Instant::now();
            tunnel.write_all(b"?").await?;
            tunnel.flush().await?;
            tunnel.read_exact(&mut [0]).await?;
            took.push(begun.elapsed().as_secs_f64());
        }
        Ok(figure::median(took))
    }
}

/// A node that lets everybody in.
fn node(seed: u8, listen: &str) -> Fabric {
    let config = Config::new([seed; 32], vec![listen.to_owned()]);
    let sources = Sources { tunnels: Arc::new(Ends), ..Sources::default() };
    let (fabric, events) = fabric::start(config, sources).unwrap();
    tokio::spawn(welcome(events));
    fabric
}

async fn welcome(mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if let Event::Hello { respond, .. } = event {
            respond.accept(Vec::new());
        }
    }
}
