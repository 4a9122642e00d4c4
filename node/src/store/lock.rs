//! One process per home: two daemons with one key would sign twice under one number.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Why a home could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process works in this home.
    #[error(
        "{} is in use by another opencloud process{}: stop it, or choose another home",
        home.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Held {
        /// The home directory.
        home: PathBuf,
        /// The other process, when it wrote its number.
        pid: Option<u32>,
    },
    /// The lock file could not be made, locked or written.
    #[error("cannot lock {}: check that the directory can be written", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Holds a home for this process. The system releases it when the value is dropped or the process ends in any way, so a
/// lock file left behind by a crash holds nobody up.
#[derive(Debug)]
pub struct HomeLock {
    file: File,
}

/// Name of the lock file in a home.
const LOCK_FILE: &str = "lock";
/// Longest text read from a lock file: a decimal pid and a line end.
const PID_TEXT_MAX: u64 = 16;

impl HomeLock {
    /// Takes the home, making the directory when there is none, and writes this process's number into `home/lock`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(home: &Path) -> Result<Self, LockError> {
        let path = home.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(home).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { home: home.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // An empty file tells that nobody is there; the lock itself ends with the descriptor, so a failure is harmless.
        let _ = self.file.set_len(0);
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_TEXT_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let first = HomeLock::acquire(&home).unwrap();
        let refused = HomeLock::acquire(&home).unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { pid: Some(pid), .. } if *pid == std::process::id()),
            "{refused}"
        );
        drop(first);
        HomeLock::acquire(&home).unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_crash_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), "999999999 and more text than a pid").unwrap();
        HomeLock::acquire(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, "");
    }

    #[test]
    fn a_home_that_is_a_file_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::write(&home, "").unwrap();
        let refused = HomeLock::acquire(&home).unwrap_err();
        assert!(refused.to_string().contains("home/lock"), "{refused}");
    }
}
