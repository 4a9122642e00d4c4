//! Content that comes in piece by piece: written, hashed and counted as it comes, named when it is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use catalog::Digest;
use fabric::blob::BlobHasher;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::{BlobError, io_at};
use super::files::{Temp, Unsynced};
use super::hash::Hashed;
use super::quota::Room;
use super::{Added, BlobStore, Inner};

/// Bytes of a stream that go to disk at once. Two pieces are in memory: one that comes in, one that is written.
const PIECE_LEN: usize = 512 << 10;

/// Content on its way in. It has no name yet; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Intake {
    inner: Arc<Inner>,
    temp: Temp,
    file: File,
    room: Room,
    hasher: BlobHasher,
}

impl Intake {
    pub(super) fn new(inner: &Arc<Inner>) -> Result<Self, BlobError> {
        let room = Room::new(Arc::clone(inner));
        let (temp, file) = inner.temp_file()?;
        Ok(Self { inner: Arc::clone(inner), temp, file, room, hasher: BlobHasher::new() })
    }

    /// Takes the next bytes. Blocks.
    ///
    /// # Errors
    /// [`BlobError::Quota`], [`BlobError::TooLarge`] and those of the disk; then none of these bytes count.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let size = self.size();
        let missing = (size + bytes.len() as u64).saturating_sub(self.room.bytes());
        self.room.grow(missing)?;
        self.file.write_all_at(bytes, size).map_err(io_at(&self.temp.path))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.hasher.size()
    }

    /// What was taken so far, to be read from the start. Blocks while it is read.
    pub fn reader(&self) -> impl io::Read {
        io::Read::take(Offset { file: &self.file, at: 0 }, self.size())
    }

    /// Gives it its name, durably. Blocks.
    ///
    /// # Errors
    /// Those of the quota and the disk.
    pub fn finish(self) -> Result<Added, BlobError> {
        let Self { inner, temp, file, room, hasher } = self;
        // A write that failed may have left bytes behind the end.
        file.set_len(hasher.size()).map_err(io_at(&temp.path))?;
        drop(file);
        let (hash, size, outboard) = hasher.finish().map_err(io_at(&temp.path))?;
        let hashed = Hashed { digest: Digest::from_bytes(hash), size, outboard };
        let mut unsynced = Unsynced::default();
        let added = inner.publish(&temp.path, &hashed, room, &mut unsynced)?;
        unsynced.sync()?;
        Ok(added)
    }
}

/// Reads a file from a place of its own.
struct Offset<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for Offset<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl BlobStore {
    /// Begins content that comes in piece by piece.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn intake(&self) -> Result<Intake, BlobError> {
        self.run(Intake::new).await
    }

    /// Gives the pieces of a stream to `take`, one after another, on the store's threads; reads on meanwhile. A slow stream
    /// holds none of these threads. What came before the stream failed has been taken. Dropping the future lets the piece
    /// at work be taken, and then drops the state.
    ///
    /// # Errors
    /// Those of `take`; [`BlobError::Stream`] when the stream fails. The state is gone then.
    pub(crate) async fn feed<S: Send + 'static>(
        &self,
        mut stream: impl AsyncRead + Unpin,
        state: S,
        take: impl Fn(&mut S, &[u8]) -> Result<(), BlobError> + Copy + Send + 'static,
    ) -> Result<S, BlobError> {
        let mut received = 0;
        let mut at_work = tokio::spawn(std::future::ready(Ok(state)));
        loop {
            let (piece, end) = read_piece(&mut stream).await;
            received += piece.len() as u64;
            let mut state = at_work.await.map_err(|_| BlobError::Stopped)??;
            let store = self.clone();
            at_work = tokio::spawn(async move {
                store.run(move |_| take(&mut state, &piece).map(|()| state)).await
            });
            match end {
                None => {}
                Some(Ok(())) => return at_work.await.map_err(|_| BlobError::Stopped)?,
                Some(Err(source)) => {
                    at_work.await.map_err(|_| BlobError::Stopped)??;
                    return Err(BlobError::Stream { received, source });
                }
            }
        }
    }

    /// Does work that waits for the disk on one of the store's threads.
    ///
    /// # Errors
    /// Those of the work; [`BlobError::Stopped`] when the node stops.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        self.run(move |_| work()).await
    }
}

/// The next bytes of a stream, and how it ended if it did.
async fn read_piece(stream: &mut (impl AsyncRead + Unpin)) -> (Bytes, Option<io::Result<()>>) {
    let mut piece = BytesMut::with_capacity(PIECE_LEN);
    let mut end = None;
    while piece.len() < PIECE_LEN && end.is_none() {
        end = match stream.read_buf(&mut piece).await {
            Ok(0) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
    }
    (piece.freeze(), end)
}

/// Copies a stream in.
pub(super) async fn add_stream(
    store: &BlobStore,
    stream: impl AsyncRead + Unpin,
) -> Result<Added, BlobError> {
    let intake = store.intake().await?;
    let intake = store.feed(stream, intake, Intake::write).await?;
    store.run(move |_| intake.finish()).await
}
