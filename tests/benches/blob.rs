//! How fast a blob moves between two nodes on one machine, against a plain copy over TCP of the same file to the same disk.

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

use fabric::{BlobDenied, BlobFile, BlobSource, Config, Event, Fabric, PeerKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const SIZE: u64 = 256 << 20;
/// Both ways take turns, so that a slow moment of the machine meets both.
const ROUNDS: usize = 5;

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
    let server = node(1, "/ip4/127.0.0.1/tcp/0", Arc::new(One { hash, file }));
    let client = node(2, "/ip4/127.0.0.1/tcp/0", Arc::new(fabric::blob::NoBlobs));
    client.connect(server.me(), server.addresses().await, None).await.unwrap();
    let (mut plain, mut fetched) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        copy(&from, &into).await.unwrap();
        plain.push(begun.elapsed().as_secs_f64());
        std::fs::remove_file(&into).unwrap();
        let begun = Instant::now();
        client.fetch(server.me(), hash, &into, SIZE, |_, _| {}).await.unwrap();
        fetched.push(begun.elapsed().as_secs_f64());
        std::fs::remove_file(&into).unwrap();
    }
    let (plain, fetched) = (figure::median(plain), figure::median(fetched));
    let rate = |seconds: f64| {
        format!("{:.0} MiB/s ({})", (SIZE >> 20) as f64 / seconds, figure::time(seconds))
    };
    figure::figure("blob: plain TCP copy, 256 MiB on loopback", &rate(plain), "");
    figure::figure("blob: verified fetch over TCP and noise, the same", &rate(fetched), "");
    figure::figure("blob: fetch against plain copy", &format!("{:.2}", plain / fetched), "");
}

/// A node that lets everybody in.
fn node(seed: u8, listen: &str, blobs: Arc<dyn BlobSource>) -> Fabric {
    let config = Config::new([seed; 32], vec![listen.to_owned()]);
    let (fabric, events) = fabric::start(config, blobs).unwrap();
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
