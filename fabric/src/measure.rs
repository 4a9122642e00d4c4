//! What blobs and tunnels are measured against: the same bytes over a bare stream of the same transport.
//!
//! A [`BareStream`] is two swarms in this process, connected on loopback over TCP with noise and yamux or over QUIC, as nodes
//! use them, and with nothing of OpenCloud's: no admission, no hash, no resume. For benches; a node never starts one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use libp2p_stream::{Behaviour, Control, IncomingStreams};
use tokio::task::JoinSet;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/opencloud/bare/1");
/// Bytes moved at once.
const BUFFER_BYTES: usize = 256 << 10;
/// How long the connection lives that nothing uses.
const IDLE: Duration = Duration::from_secs(60);
/// Asks for the length of the file in zeros.
const MEMORY: u8 = 0;
/// Asks for the file.
const FILE: u8 = 1;

/// What carries a bare stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// TCP with noise and yamux.
    Tcp,
    /// QUIC.
    Quic,
}

impl Carrier {
    const fn loopback(self) -> &'static str {
        match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        }
    }
}

/// Two connected swarms, one of which has a file.
pub struct BareStream {
    control: Control,
    peer: PeerId,
    size: u64,
    _swarms: JoinSet<()>,
}

impl std::fmt::Debug for BareStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareStream").field("size", &self.size).finish_non_exhaustive()
    }
}

impl BareStream {
    /// Connects; `source` is the file that will be moved. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the file cannot be read or loopback cannot be listened on.
    pub async fn open(source: PathBuf, carrier: Carrier) -> io::Result<Self> {
        let size = std::fs::metadata(&source)?.len();
        let (mut server, mut client) = (swarm()?, swarm()?);
        let loopback: Multiaddr = carrier.loopback().parse().map_err(io::Error::other)?;
        server.listen_on(loopback).map_err(io::Error::other)?;
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
                break address;
            }
        };
        let peer = *server.local_peer_id();
        let incoming =
            server.behaviour().new_control().accept(PROTOCOL).map_err(io::Error::other)?;
        let control = client.behaviour().new_control();
        let mut swarms = JoinSet::new();
        swarms.spawn(drive(server));
        swarms.spawn(serve(incoming, source, size));
        client.dial(address).map_err(io::Error::other)?;
        loop {
            match client.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    return Err(io::Error::other(error));
                }
                _ => {}
            }
        }
        swarms.spawn(drive(client));
        Ok(Self { control, peer, size, _swarms: swarms })
    }

    /// Moves as many bytes as the file has from memory to memory, without a look at them.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn move_memory(&mut self) -> io::Result<()> {
        let mut stream = self.ask(MEMORY).await?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut received = 0;
        while let n @ 1.. = fill(&mut stream, &mut buffer).await? {
            received += n as u64;
        }
        self.check(received)
    }

    /// Moves the file to `into`.
    ///
    /// # Errors
    /// When the stream or a file fails.
    pub async fn copy(&mut self, into: &Path) -> io::Result<()> {
        let mut stream = self.ask(FILE).await?;
        let mut file = File::create(into)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut received = 0;
        while let n @ 1.. = fill(&mut stream, &mut buffer).await? {
            received += n as u64;
            let written = tokio::task::spawn_blocking(move || {
                file.write_all(&buffer[..n]).map(|()| (file, buffer))
            });
            (file, buffer) = written.await.map_err(io::Error::other)??;
        }
        self.check(received)
    }

    async fn ask(&mut self, what: u8) -> io::Result<Stream> {
        let opened = self.control.open_stream(self.peer, PROTOCOL).await;
        let mut stream = opened.map_err(io::Error::other)?;
        stream.write_all(&[what]).await?;
        stream.flush().await?;
        Ok(stream)
    }

    fn check(&self, received: u64) -> io::Result<()> {
        if received == self.size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn swarm() -> io::Result<Swarm<Behaviour>> {
    let tcp = tcp::Config::default().nodelay(true);
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)
        .map_err(io::Error::other)?
        .with_quic()
        .with_behaviour(|_| Behaviour::new())
        .map_err(io::Error::other)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

async fn serve(mut incoming: IncomingStreams, source: PathBuf, size: u64) {
    while let Some((_, stream)) = incoming.next().await {
        if let Err(error) = answer(stream, &source, size).await {
            tracing::debug!(%error, "a bare stream was not served to its end");
        }
    }
}

async fn answer(mut stream: Stream, source: &Path, size: u64) -> io::Result<()> {
    let mut what = [0];
    stream.read_exact(&mut what).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    if what[0] == MEMORY {
        let mut left = size;
        while left > 0 {
            let n = left.min(BUFFER_BYTES as u64);
            stream.write_all(&buffer[..n as usize]).await?;
            left -= n;
        }
        return stream.close().await;
    }
    let mut file = File::open(source)?;
    loop {
        let read =
            tokio::task::spawn_blocking(move || file.read(&mut buffer).map(|n| (n, file, buffer)));
        let n;
        (n, file, buffer) = read.await.map_err(io::Error::other)??;
        if n == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..n]).await?;
    }
}

/// Reads until the buffer is full or the stream ends.
async fn fill(stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match stream.read(&mut buffer[n..]).await? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_moves_what_the_file_has() {
        let dir = tempfile::tempdir().unwrap();
        let (from, into) = (dir.path().join("from"), dir.path().join("into"));
        let bytes: Vec<u8> = (0..700_001_u32).map(|i| i.to_le_bytes()[1]).collect();
        std::fs::write(&from, &bytes).unwrap();
        for carrier in [Carrier::Tcp, Carrier::Quic] {
            let mut bare = BareStream::open(from.clone(), carrier).await.unwrap();
            bare.move_memory().await.unwrap();
            bare.copy(&into).await.unwrap();
            assert!(std::fs::read(&into).unwrap() == bytes);
            std::fs::remove_file(&into).unwrap();
        }
    }
}
