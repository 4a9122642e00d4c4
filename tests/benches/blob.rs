//! How fast a blob moves between two nodes on one machine, against a plain copy over TCP of the same file to the same disk,
//! and against a bare libp2p stream of the same transport, all in the same run. Both ends share the machine's cores, so what a fetch does beside its stream (hashing,
//! and the disk that the memory row does without) takes time from the cipher.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::fs::File;
use std::future::Future;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use fabric::measure::{BareStream, Carrier};
use fabric::{BlobDenied, BlobFile, BlobSource, Config, Event, Fabric, PeerKey, Sources};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const SIZE: u64 = 1 << 30;
/// All ways take turns, so that a slow moment of the machine meets all of them.
const ROUNDS: usize = 3;

/// One blob for everybody.
struct One {
    hash: [u8; 32],
    file: BlobFile,
}

impl BlobSource for One {
    fn open(
        &self,
        _: PeerKey,
        hash: [u8; 32],
    ) -> Pin<Box<dyn Future<Output = Result<BlobFile, BlobDenied>> + Send>> {
        let found =
            if hash == self.hash { Ok(self.file.clone()) } else { Err(BlobDenied::NotFound) };
        Box::pin(std::future::ready(found))
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
    let (from, into) = (dir.join("from"), dir.join("into"));
    write_noise(&from).unwrap();
    let (hash, size, outboard) = fabric::blob::hash_file(&from).unwrap();
    let file = BlobFile { data: from.clone(), outboard: outboard.into(), size };
    let tcp = Pair::connect(1, "/ip4/127.0.0.1/tcp/0", One { hash, file: file.clone() }).await;
    let quic = Pair::connect(3, "/ip4/127.0.0.1/udp/0/quic-v1", One { hash, file }).await;
    let mut bare = BareStream::open(from.clone(), Carrier::Tcp).await.unwrap();
    let mut bare_quic = BareStream::open(from.clone(), Carrier::Quic).await.unwrap();
    let mut took: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        for (way, took) in took.iter_mut().enumerate() {
            let begun = Instant::now();
            match way {
                0 => copy(&from, &into).await.unwrap(),
                1 => bare.copy(&into).await.unwrap(),
                2 => bare.move_memory().await.unwrap(),
                3 => tcp.fetch(hash, &into).await,
                4 => bare_quic.copy(&into).await.unwrap(),
                _ => quic.fetch(hash, &into).await,
            }
            took.push(begun.elapsed().as_secs_f64());
            // The next way writes a new file, too.
            if way != 2 {
                std::fs::remove_file(&into).unwrap();
            }
        }
    }
    let [plain, stream, memory, fetched, stream_quic, by_quic] = took.map(figure::median);
    let rate = |seconds: f64| {
        format!("{:.0} MiB/s ({})", (SIZE >> 20) as f64 / seconds, figure::time(seconds))
    };
    let ratio = |other: f64, ours: f64| format!("{:.2}", other / ours);
    figure::figure("blob: plain TCP copy, 1 GiB on loopback", &rate(plain), "");
    figure::figure("blob: bare libp2p stream (TCP, noise, yamux), file to file", &rate(stream), "");
    figure::figure("blob: bare libp2p stream, memory to memory", &rate(memory), "");
    figure::figure("blob: bare libp2p stream (QUIC), file to file", &rate(stream_quic), "");
    figure::figure("blob: verified fetch over TCP and noise, file to file", &rate(fetched), "");
    figure::figure("blob: verified fetch over QUIC, file to file", &rate(by_quic), "");
    figure::figure("blob: fetch over TCP against plain copy", &ratio(plain, fetched), "");
    figure::figure("blob: fetch over QUIC against plain copy", &ratio(plain, by_quic), "");
    let against = "blob: fetch over TCP against bare stream, file to file";
    figure::figure(against, &ratio(stream, fetched), ">= 0.80");
    let against = "blob: fetch over QUIC against bare QUIC stream, file to file";
    figure::figure(against, &ratio(stream_quic, by_quic), ">= 0.80");
    let against = "blob: fetch over TCP against bare stream, memory to memory";
    figure::figure(against, &ratio(memory, fetched), "");
}

/// Two nodes that are connected.
struct Pair {
    server: Fabric,
    client: Fabric,
}

impl Pair {
    async fn connect(seed: u8, listen: &str, blobs: One) -> Self {
        let server = node(seed, listen, Arc::new(blobs));
        let client = node(seed + 1, listen, Arc::new(fabric::blob::NoBlobs));
        client.connect(server.me(), server.addresses().await, None).await.unwrap();
        Self { server, client }
    }

    async fn fetch(&self, hash: [u8; 32], into: &Path) {
        self.client.fetch(&[self.server.me()], hash, into, SIZE, |_, _| {}).await.unwrap();
    }
}

/// A node that lets everybody in.
fn node(seed: u8, listen: &str, blobs: Arc<dyn BlobSource>) -> Fabric {
    let config = Config::new([seed; 32], vec![listen.to_owned()]);
    let (fabric, events) = fabric::start(config, Sources { blobs, ..Sources::default() }).unwrap();
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

/// Bytes that no layer can make smaller.
fn write_noise(path: &Path) -> io::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut file = BufWriter::new(File::create(path)?);
    let mut block = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        rng.fill_bytes(&mut block);
        file.write_all(&block)?;
    }
    file.into_inner()?.sync_all()
}

/// File to socket to file, nothing else.
async fn copy(from: &Path, into: &Path) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, from) = (listener.local_addr()?, from.to_owned());
    let sender = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address)?;
        io::copy(&mut File::open(from)?, &mut BufWriter::with_capacity(1 << 20, &mut socket))
    });
    let (socket, _) = listener.accept().await?;
    let into = into.to_owned();
    let receiver = tokio::task::spawn_blocking(move || receive(socket, &into));
    sender.await??;
    receiver.await??;
    Ok(())
}

fn receive(socket: TcpStream, into: &Path) -> io::Result<()> {
    let mut socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(into)?);
    io::copy(&mut socket, &mut file)?;
    file.flush()
}
