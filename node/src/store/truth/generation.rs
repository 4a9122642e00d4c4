//! The memory outside the database of how far the database had come.
//!
//! The file `generation` holds the store's instance id, the number of its last commit and the inode of the database file.
//! It is written after each commit, without fsync: it may lag behind the database, never run ahead of it. So a database
//! that is behind its generation, carries another instance id or stands in another inode was put there from somewhere
//! else: a backup, a snapshot or a copy of the home whose original may still be running.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// Random id given to the store when it was made.
    pub(super) instance: [u8; 16],
    /// Number of the last commit that was acknowledged, or an earlier one after a power cut.
    pub(super) commits: u64,
    /// Inode of the database file.
    pub(super) inode: u64,
}

/// First line of the file; another one means another program's or a newer version's file.
const HEAD: &str = "opencloud generation 1";
/// Longest file read; ours are shorter.
const FILE_LEN_MAX: u64 = 256;

impl Generation {
    /// Fixed width, so that rewriting in place never changes the length and stays within one sector.
    fn encode(self) -> String {
        let instance = catalog::id::to_hex(&self.instance);
        format!("{HEAD}\n{instance}\n{:020}\n{:020}\n", self.commits, self.inode)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        Some(Self {
            instance: catalog::id::from_hex(lines.next()?)?,
            commits: lines.next()?.parse().ok()?,
            inode: lines.next()?.parse().ok()?,
        })
    }

    /// Reads the file. `None` when there is none or it cannot be understood.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
        Ok(std::str::from_utf8(&bytes).ok().and_then(Self::decode))
    }

    /// Writes the file durably (the caller syncs the directory) and keeps it open for [`GenerationFile::advance`].
    pub(super) fn write(self, path: &Path) -> io::Result<GenerationFile> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(self.encode().as_bytes(), 0)?;
        file.sync_all()?;
        Ok(GenerationFile { file, value: self })
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct GenerationFile {
    file: File,
    value: Generation,
}

impl GenerationFile {
    /// Notes that commit number `commits` is durable. Not synced: the page cache survives a killed process, and after a
    /// power cut an older number only makes the check weaker, never wrong.
    pub(super) fn advance(&mut self, commits: u64) -> io::Result<()> {
        self.value.commits = commits;
        self.file.write_all_at(self.value.encode().as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_generation_reads_back_and_advances_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        assert_eq!(Generation::read(&path).unwrap(), None);
        let first = Generation { instance: [7; 16], commits: 1, inode: u64::MAX };
        let mut file = first.write(&path).unwrap();
        assert_eq!(Generation::read(&path).unwrap(), Some(first));
        file.advance(u64::MAX).unwrap();
        let last = Generation { commits: u64::MAX, ..first };
        assert_eq!(Generation::read(&path).unwrap(), Some(last));
    }

    #[test]
    fn a_file_of_another_kind_is_no_generation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        for bad in [
            &b""[..],
            b"\xff\xfe",
            b"opencloud generation 2\n",
            b"opencloud generation 1\nzz\n1\n2\n",
        ] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(Generation::read(&path).unwrap(), None);
        }
    }
}
