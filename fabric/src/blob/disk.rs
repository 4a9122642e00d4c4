//! The disk's side of one stream of a fetch: a thread verifies and writes a piece while the next comes in.

use std::fs::File;
use std::future::pending;
use std::io::{self, IoSlice, Seek};
use std::sync::Arc;

use bao_tree::BaoTree;
use tokio::task::{JoinError, JoinHandle};

use super::check::Check;
use super::error::FetchError;
use super::fetch::Shared;
use super::piece::{Piece, write_all_vectored};
use super::tree::GROUP_BYTES;
use crate::key::PeerKey;

type Job = JoinHandle<Result<(Sink, Piece), FetchError>>;

/// The sink, and the disk thread's work on one piece.
pub(super) struct Disk {
    shared: Arc<Shared>,
    /// Up to here the stretch is verified and in the file.
    at: u64,
    /// The sink and a piece to use again; absent while there is work, and after a failure.
    idle: Option<(Sink, Piece)>,
    work: Option<Job>,
}

impl Disk {
    /// For a stretch that begins at byte `from`.
    pub(super) fn new(
        shared: Arc<Shared>,
        (index, peer): (usize, PeerKey),
        shape: BaoTree,
        from: u64,
    ) -> Self {
        let check = Check::new(peer, shared.hash);
        let own = Arc::clone(&shared);
        let sink = Sink { shared: own, index, shape, file: None, check, at: from };
        Self { shared, at: from, idle: Some((sink, Piece::default())), work: None }
    }

    /// Up to which byte the stretch is verified and in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Begins work on a piece once the one before is done, and gives a piece to fill meanwhile.
    pub(super) async fn take(&mut self, piece: Piece) -> Result<Piece, FetchError> {
        self.settle().await?;
        let Some((mut sink, spare)) = self.idle.take() else {
            return Ok(piece);
        };
        self.work = Some(tokio::task::spawn_blocking(move || {
            sink.take(&piece)?;
            Ok((sink, piece))
        }));
        Ok(spare)
    }

    /// Waits until nothing is being worked on.
    pub(super) async fn settle(&mut self) -> Result<(), FetchError> {
        match self.work.take() {
            Some(work) => {
                let done = work.await;
                self.end(done)
            }
            None => Ok(()),
        }
    }

    /// Resolves when the work fails, and never otherwise. Cancel-safe.
    pub(super) async fn failure(&mut self) -> FetchError {
        if let Some(work) = &mut self.work {
            let done = work.await;
            self.work = None;
            if let Err(error) = self.end(done) {
                return error;
            }
        }
        pending().await
    }

    fn end(
        &mut self,
        done: Result<Result<(Sink, Piece), FetchError>, JoinError>,
    ) -> Result<(), FetchError> {
        let (sink, piece) = done.map_err(|error| self.shared.failed(io::Error::other(error)))??;
        self.at = sink.at;
        self.idle = Some((sink, piece));
        Ok(())
    }
}

/// Verifies pieces and only then writes them; blocks.
struct Sink {
    shared: Arc<Shared>,
    index: usize,
    shape: BaoTree,
    /// Opened with the first piece.
    file: Option<File>,
    check: Check,
    at: u64,
}

impl Sink {
    /// Writes what verifies, as far as the piece's bytes go.
    fn take(&mut self, piece: &Piece) -> Result<(), FetchError> {
        let mut pairs = Vec::new();
        let (mut good, verdict) = self.check.verify(piece, self.at, &mut pairs);
        self.shared.keep_pairs(&self.shape, &pairs);
        self.write(&mut good).map_err(|source| self.shared.failed(source))?;
        verdict
    }

    fn write(&mut self, good: &mut [IoSlice<'_>]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = self.shared.open_file(self.at)?;
                file.seek(io::SeekFrom::Start(self.at))?;
                self.file.insert(file)
            }
        };
        let bytes: u64 = good.iter().map(|group| group.len() as u64).sum();
        let is_some = !good.is_empty();
        write_all_vectored(file, good)?;
        let from = self.at / GROUP_BYTES;
        self.at += bytes;
        if is_some {
            self.shared.written(self.index, from, self.at.div_ceil(GROUP_BYTES).max(1))?;
        }
        Ok(())
    }
}
