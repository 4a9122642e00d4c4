//! Removes blobs that nobody needs, now and then.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use catalog::Digest;
use scheduler::task::RunId;
use tokio::task::JoinHandle;

use crate::blobs::{BlobError, BlobStore, Rules};
use crate::engine::pins::Pins;

/// How often; the first time at the start.
pub(super) const COLLECT_EVERY: Duration = Duration::from_secs(10 * 60);

/// The logs of a run stay so long whatever is known of it.
const LOGS_YOUNG: Duration = Duration::from_secs(3_600);

/// Collects beside the shell, one collection at a time.
#[derive(Debug)]
pub(super) struct Collector {
    blobs: BlobStore,
    rules: Rules,
    /// Where the logs of runs are.
    logs: PathBuf,
    work: Option<JoinHandle<()>>,
}

impl Collector {
    pub(super) fn new(blobs: BlobStore, logs: PathBuf) -> Self {
        Self { blobs, rules: Rules::default(), logs, work: None }
    }

    /// Begins a collection that keeps what is pinned, unless one is under way: then the next time will do.
    pub(super) fn begin(&mut self, pins: Pins) {
        if self.work.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        let (blobs, rules, logs) = (self.blobs.clone(), self.rules, self.logs.clone());
        self.work = Some(tokio::spawn(async move {
            let kept = pins.logs.clone();
            let removing = tokio::task::spawn_blocking(move || forget_logs(&logs, &kept));
            if let Ok(Err(error)) = removing.await {
                tracing::warn!(%error, "logs of forgotten runs cannot be removed");
            }
            match collect(&blobs, pins, rules).await {
                Ok(()) | Err(BlobError::Stopped) => {}
                Err(error) => tracing::warn!(%error, "unused blobs cannot be removed"),
            }
        }));
    }

    pub(super) fn stop(&mut self) {
        if let Some(work) = self.work.take() {
            work.abort();
        }
    }
}

async fn collect(blobs: &BlobStore, pins: Pins, rules: Rules) -> Result<(), BlobError> {
    let wanted = with_files(blobs, pins).await?;
    let collected = blobs.collect(wanted, rules).await?;
    if collected.blobs > 0 {
        let (n, bytes) = (collected.blobs, collected.bytes);
        tracing::info!(contents = n, bytes, "removed what nobody needs");
    }
    Ok(())
}

/// Removes the logs of runs that nobody can ask for any more. A young one may be that of a run which began after the others
/// were counted.
fn forget_logs(logs: &Path, kept: &BTreeSet<RunId>) -> io::Result<()> {
    for entry in std::fs::read_dir(logs)? {
        let entry = entry?;
        let run: Option<RunId> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if run.is_some_and(|run| !kept.contains(&run)) && age >= LOGS_YOUNG {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What is pinned and the files of pinned directories. A manifest that is not here names nothing that is needed here: it
/// comes before its files, and these are young. One that cannot be read ends the collection, rather than its files.
async fn with_files(blobs: &BlobStore, pins: Pins) -> Result<BTreeSet<Digest>, BlobError> {
    let Pins { files: mut wanted, dirs, logs: _ } = pins;
    for dir in dirs {
        match blobs.manifest(dir).await {
            Ok(manifest) => wanted.extend(manifest.files.values().map(|file| file.digest)),
            // A peer may call anything a directory; what is none has no files.
            Err(
                BlobError::NotFound { .. } | BlobError::Manifest { .. } | BlobError::TooLong { .. },
            ) => {}
            Err(error) => return Err(error),
        }
        wanted.insert(dir);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_forgotten_runs_go_once_they_are_old() {
        let home = tempfile::tempdir().unwrap();
        let [known, gone, young] = [1, 2, 3].map(|n| RunId::from_bytes([n; 16]));
        let dir = |run: RunId| home.path().join(run.to_string());
        for path in [dir(known), dir(gone), dir(young), home.path().join("other")] {
            std::fs::create_dir(&path).unwrap();
            let old = std::time::SystemTime::now() - 2 * LOGS_YOUNG;
            if path != dir(young) {
                std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
            }
        }
        forget_logs(home.path(), &BTreeSet::from([known])).unwrap();
        assert!(!dir(gone).exists());
        assert!(dir(known).exists() && dir(young).exists() && home.path().join("other").exists());
    }

    #[tokio::test]
    async fn a_pinned_directory_keeps_its_files_and_what_is_not_here_is_no_hindrance() {
        let home = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs"), None).unwrap();
        std::fs::create_dir(home.path().join("tree")).unwrap();
        for name in ["a", "b"] {
            std::fs::write(home.path().join("tree").join(name), name).unwrap();
        }
        let dir = blobs.add_dir(&home.path().join("tree")).await.unwrap();
        let file = blobs.add_bytes("kept").await.unwrap().digest;
        let idle = blobs.add_bytes("idle").await.unwrap().digest;
        let pins = Pins {
            files: BTreeSet::from([file]),
            dirs: BTreeSet::from([dir.digest, file, Digest::of(b"elsewhere")]),
            logs: BTreeSet::new(),
        };
        let rules = Rules { young: Duration::ZERO, unused: Duration::ZERO };
        collect(&blobs, pins, rules).await.unwrap();
        assert!(!blobs.has(&idle));
        assert!(blobs.has(&file));
        blobs.stage_dir(&dir, &home.path().join("out")).await.unwrap();
    }
}
