//! What of a partial blob is in its file, for the next try.
//!
//! A file that grew from its beginning says it by its length. One that was filled from several peers has gaps; beside it lies
//! a list of what is there, with `.parts` after the file's name:
//!
//! ```text
//! magic, 8 bytes; how many ranges, 8 bytes; for each its first group and the one after its last, 8 bytes each;
//! the first 8 bytes of the BLAKE3 hash of all that. Little endian.
//! ```
//!
//! It is there before the first byte after a gap, and is written again after each piece, so that a process that is killed
//! loses one piece per peer of what it had verified. Neither is believed after all: what was resumed is hashed again as a whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::plan::Groups;
use super::tree::GROUP_BYTES;

const MAGIC: &[u8; 8] = b"ocparts1";
const CHECK_BYTES: usize = 8;
/// Most ranges that are listed: those that begin first. What is in others is fetched again.
const RANGES_MAX: usize = 250;

/// The list's file, open once it has been written.
#[derive(Debug, Default)]
pub(super) struct Parts(Option<File>);

fn path_of(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".parts");
    PathBuf::from(name)
}

impl Parts {
    /// Writes the list for `file`; blocks.
    pub(super) fn save(&mut self, file: &Path, there: &Groups) -> io::Result<()> {
        let list = match &mut self.0 {
            Some(list) => list,
            None => {
                let path = path_of(file);
                self.0.insert(File::options().create(true).truncate(true).write(true).open(path)?)
            }
        };
        list.write_all_at(&encode(there), 0)
    }

    /// Removes it; blocks.
    pub(super) fn remove(&mut self, file: &Path) -> io::Result<()> {
        self.0 = None;
        match std::fs::remove_file(path_of(file)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// What is in `file`, but for the last group of what has no gaps; blocks. Nothing when the list is damaged.
pub(super) fn load(file: &Path) -> io::Result<Groups> {
    let len = match std::fs::metadata(file) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Groups::default()),
        Err(e) => return Err(e),
    };
    let there = match std::fs::read(path_of(file)) {
        Ok(list) => decode(&list).unwrap_or_default(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Groups::first(len.div_ceil(GROUP_BYTES)),
        Err(e) => return Err(e),
    };
    // A file without gaps may be whole, or end within a group: its last group is fetched again.
    Ok(match there.prefix() {
        Some(n) => Groups::first(n.saturating_sub(1)),
        None => there,
    })
}

fn encode(there: &Groups) -> Vec<u8> {
    let ranges: Vec<(u64, u64)> = there.ranges().take(RANGES_MAX).collect();
    let mut list = MAGIC.to_vec();
    list.extend((ranges.len() as u64).to_le_bytes());
    for (from, to) in ranges {
        list.extend(from.to_le_bytes());
        list.extend(to.to_le_bytes());
    }
    let check = *blake3::hash(&list).as_bytes();
    list.extend_from_slice(&check[..CHECK_BYTES]);
    list
}

fn decode(list: &[u8]) -> Option<Groups> {
    let number = |at: usize| {
        let bytes = list.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let n = usize::try_from(number(8)?).ok().filter(|n| *n <= RANGES_MAX)?;
    let end = 16 + n * 16;
    let said = list.get(end..end + CHECK_BYTES)?;
    let check = *blake3::hash(&list[..end]).as_bytes();
    if list[..8] != MAGIC[..] || said != &check[..CHECK_BYTES] {
        return None;
    }
    let mut there = Groups::default();
    for i in 0..n {
        there.insert(number(16 + i * 16)?, number(24 + i * 16)?);
    }
    Some(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_comes_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("partial");
        assert_eq!(load(&file).unwrap(), Groups::default());
        std::fs::write(&file, vec![0; 40_000]).unwrap();
        assert_eq!(load(&file).unwrap(), Groups::first(2), "the length tells");
        let mut there = Groups::first(7);
        let mut parts = Parts::default();
        for from in [100, 300, 20] {
            there.insert(from, from + 5);
            parts.save(&file, &there).unwrap();
            assert_eq!(load(&file).unwrap(), there);
        }
        // A shorter list over a longer one.
        parts.save(&file, &Groups::first(400)).unwrap();
        assert_eq!(load(&file).unwrap(), Groups::first(399));
        let path = path_of(&file);
        let whole = std::fs::read(&path).unwrap();
        for (n, _) in whole.iter().enumerate().take(40) {
            let mut wrong = whole.clone();
            wrong[n] ^= 1;
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(load(&file).unwrap(), Groups::default(), "byte {n}");
            std::fs::write(&path, &whole[..n]).unwrap();
            assert_eq!(load(&file).unwrap(), Groups::default(), "{n} bytes");
        }
        parts.remove(&file).unwrap();
        assert_eq!(load(&file).unwrap(), Groups::first(2));
    }

    #[test]
    fn of_too_many_ranges_the_first_are_kept() {
        let mut there = Groups::default();
        (0..1_000).for_each(|n| there.insert(n * 3, n * 3 + 1));
        let kept = decode(&encode(&there)).unwrap();
        assert!(kept.ranges().eq(there.ranges().take(RANGES_MAX)));
    }
}
