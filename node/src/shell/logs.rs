//! What tasks write: while a task runs here its streams go to files that are read as they grow; what runs elsewhere on
//! behalf of this node arrives in pieces. Both are kept per attempt below `logs/`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use scheduler::negotiate::{LOG_TOTAL_MAX, Stream};
use scheduler::task::{AttemptId, RunId, TaskId};

use crate::runtime::{LogSink, Stream as RuntimeStream};

/// Takes a running task's output into two files. Beyond the bound the rest is dropped.
#[derive(Debug)]
pub(super) struct FileSink {
    files: [Mutex<(File, u64)>; 2],
    max: u64,
}

impl FileSink {
    pub(super) fn create(stdout: &Path, stderr: &Path, max: u64) -> io::Result<Self> {
        let open = |path: &Path| File::create(path).map(|file| Mutex::new((file, 0)));
        Ok(Self { files: [open(stdout)?, open(stderr)?], max })
    }
}

impl LogSink for FileSink {
    fn write(&self, stream: RuntimeStream, bytes: &[u8]) {
        let index = usize::from(stream == RuntimeStream::Stderr);
        let mut slot = self.files[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (file, written) = &mut *slot;
        let room = self.max.saturating_sub(*written).min(bytes.len() as u64);
        let kept = &bytes[..usize::try_from(room).unwrap_or(bytes.len())];
        // A log that cannot be written must not stop the task; the disk's state is reported elsewhere.
        if file.write_all(kept).is_ok() {
            *written += room;
        }
    }
}

/// Where an attempt's stream is kept at the node that runs the workflow.
pub(super) fn log_path(logs: &Path, attempt: AttemptId, stream: Stream) -> PathBuf {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let task = attempt.task;
    logs.join(attempt.run.to_string())
        .join(format!("{}.{}.{}.{name}", task.step, task.index, attempt.number))
}

/// The newest attempt of a replica's one task of which anything is kept.
pub(super) fn newest_replica(logs: &Path, run: RunId) -> io::Result<Option<AttemptId>> {
    let entries = match std::fs::read_dir(logs.join(run.to_string())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut newest = None;
    for entry in entries {
        let name = entry?.file_name();
        // As `log_path` makes it: step, index, number, stream.
        let number = name.to_str().and_then(|name| name.strip_prefix("0.0."));
        let number = number.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        newest = newest.max(number);
    }
    let task = TaskId { step: 0, index: 0 };
    Ok(newest.map(|number| AttemptId { run, task, number }))
}

/// Appends a piece at its offset; a piece that was kept already, or that leaves a gap after a loss, is put where it belongs.
pub(super) fn keep(
    logs: &Path,
    attempt: AttemptId,
    stream: Stream,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    if offset.saturating_add(bytes.len() as u64) > LOG_TOTAL_MAX {
        return Ok(());
    }
    let path = log_path(logs, attempt, stream);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().create(true).truncate(false).write(true).open(path)?.write_all_at(bytes, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_attempt_of_a_replica_is_found_by_its_files() {
        let home = tempfile::tempdir().unwrap();
        let run = RunId::from_bytes([1; 16]);
        let task = TaskId { step: 0, index: 0 };
        assert_eq!(newest_replica(home.path(), run).unwrap(), None);
        for number in [9, 10, 2] {
            let attempt = AttemptId { run, task, number };
            keep(home.path(), attempt, Stream::Stderr, 0, b"up").unwrap();
        }
        let found = newest_replica(home.path(), run).unwrap();
        assert_eq!(found, Some(AttemptId { run, task, number: 10 }));
    }
}
