//! What may be lost: others' records, peer addresses, the blob index, cached task results. sled in a directory.
//!
//! sled does not keep every acknowledged write after a crash and can refuse to open its own files, so nothing here may be
//! the only copy. A cache that cannot be read is set aside, reported and started anew; it fills itself again from peers.

use std::fs::TryLockError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A tree of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// Others' catalogue records and heads.
    Replicas,
    /// Addresses and impressions of peers.
    Peers,
    /// Which blobs are where.
    BlobIndex,
    /// Results of tasks by what they were made from.
    Tasks,
    /// Blobs that came here as public content.
    Public,
}

impl Tree {
    const ALL: [Self; 5] =
        [Self::Replicas, Self::Peers, Self::BlobIndex, Self::Tasks, Self::Public];

    const fn name(self) -> &'static str {
        match self {
            Self::Replicas => "replicas",
            Self::Peers => "peers",
            Self::BlobIndex => "blob_index",
            Self::Tasks => "tasks",
            Self::Public => "public",
        }
    }
}

/// Longest key in bytes; a longer one is refused.
pub const KEY_LEN_MAX: usize = 1024;
/// Longest value in bytes; a longer one is refused. sled never syncs what it moves out to files of its own, which begins
/// far above this.
pub const VALUE_LEN_MAX: usize = 16 * 1024;
/// Most entries one scan gives; the rest is left out, as if it had been lost. Ask with longer prefixes for more.
pub const SCAN_MAX: usize = 65_536;
/// sled's page cache in bytes (its own default is 1 GiB).
const CACHE_BYTES: u64 = 16 << 20;
/// How often sled writes and syncs by itself. Nothing here is worth more.
const FLUSH_EVERY_MS: u64 = 2_000;
/// Damaged caches kept for a look; with more, the one set aside first is removed.
const DAMAGED_KEPT_MAX: usize = 2;
/// Longest wait for the threads of a closed cache, and the time between two looks.
const RELEASE_MAX: Duration = Duration::from_secs(5);
const RELEASE_CHECKED_EVERY: Duration = Duration::from_millis(5);
/// Most caches numbered in one directory; above it, setting aside fails.
const DAMAGED_NUMBER_MAX: u32 = 1_000_000;

/// A cache was damaged: it has been set aside, and an empty one is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the damaged one stands.
    pub set_aside: PathBuf,
}

/// Why the cache could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory or a file in it could not be used.
    #[error("cannot open the cache in {}", path.display())]
    Io {
        /// The cache directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The damaged cache could not be moved away.
    #[error("the cache in {} is damaged and cannot be set aside: remove it, it is rebuilt by itself", path.display())]
    SetAside {
        /// The cache directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An empty cache could not be made in place of the damaged one.
    #[error("a new cache in {} cannot be used either: check the disk", path.display())]
    Unusable {
        /// The cache directory.
        path: PathBuf,
    },
}

/// Why the cache did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A key or value is longer than [`KEY_LEN_MAX`] or [`VALUE_LEN_MAX`].
    #[error("a {part} of {len} bytes in the cache, at most {max} are taken")]
    TooLong {
        /// `key` or `value`.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The cache failed. Its content can be fetched again; the next start sets it aside when it is damaged.
    #[error("the cache failed: restart the node, it is rebuilt by itself")]
    Failed(#[from] sled::Error),
}

impl CacheError {
    /// Whether the disk, or this user's share of it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Failed(sled::Error::Io(e))
                if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        )
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The open cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    database: sled::Db,
    trees: [sled::Tree; Tree::ALL.len()],
}

impl Cache {
    /// Opens the cache in `dir`, making it when there is none. A damaged one is renamed to `<dir>.damaged-<n>` and an empty
    /// one opened; then the second value says so. The caller holds the home's lock.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path) -> Result<(Self, Option<Recovered>), OpenError> {
        let io = |source| OpenError::Io { path: dir.into(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        wait_until_released(dir).map_err(io)?;
        remove_half_snapshots(dir).map_err(io)?;
        if let Some(cache) = try_open(dir)? {
            return Ok((cache, None));
        }
        let set_aside =
            set_aside(dir).map_err(|source| OpenError::SetAside { path: dir.into(), source })?;
        tracing::warn!(set_aside = %set_aside.display(), "the cache was damaged and is rebuilt");
        let cache = try_open(dir)?.ok_or_else(|| OpenError::Unusable { path: dir.into() })?;
        Ok((cache, Some(Recovered { set_aside })))
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn put(&self, tree: Tree, key: &[u8], value: &[u8]) -> Result<(), CacheError> {
        for (part, len, max) in
            [("key", key.len(), KEY_LEN_MAX), ("value", value.len(), VALUE_LEN_MAX)]
        {
            if len > max {
                return Err(CacheError::TooLong { part, len, max });
            }
        }
        self.tree(tree).insert(key, value)?;
        Ok(())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.tree(tree).get(key)?.map(|value| value.to_vec()))
    }

    /// Removes a key; an absent one is fine.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn remove(&self, tree: Tree, key: &[u8]) -> Result<(), CacheError> {
        self.tree(tree).remove(key)?;
        Ok(())
    }

    /// The entries whose key starts with `prefix`, by key, at most [`SCAN_MAX`] of them.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn scan(&self, tree: Tree, prefix: &[u8]) -> Result<Vec<Entry>, CacheError> {
        self.tree(tree)
            .scan_prefix(prefix)
            .take(SCAN_MAX)
            .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(Into::into))
            .collect()
    }

    /// Removes every entry of a tree.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn clear(&self, tree: Tree) -> Result<(), CacheError> {
        Ok(self.tree(tree).clear()?)
    }

    /// Forgets every entry whose key begins with `prefix`.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn remove_all(&self, tree: Tree, prefix: &[u8]) -> Result<(), CacheError> {
        for entry in self.tree(tree).scan_prefix(prefix) {
            self.tree(tree).remove(entry?.0)?;
        }
        Ok(())
    }

    /// Writes out what is in memory, for an orderly end. Blocks.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn flush(&self) -> Result<(), CacheError> {
        self.database.flush()?;
        Ok(())
    }

    fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree as usize]
    }
}

/// `None` when the files there are damaged or of a form this sled does not know.
fn try_open(dir: &Path) -> Result<Option<Cache>, OpenError> {
    let open = || -> Result<Cache, sled::Error> {
        let database = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .mode(sled::Mode::LowSpace)
            .open()?;
        let [a, b, c, d, e] = Tree::ALL.map(|tree| database.open_tree(tree.name()));
        Ok(Cache { trees: [a?, b?, c?, d?, e?], database })
    };
    // sled panics on some kinds of damage; what it had opened is dropped with it.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(cache)) => Ok(Some(cache)),
        Ok(Err(sled::Error::Io(source))) if !is_damage(&source) => {
            Err(OpenError::Io { path: dir.into(), source })
        }
        Ok(Err(e)) => {
            tracing::warn!(error = %e, "the cache cannot be opened");
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Waits until no thread of sled holds the cache in `dir`, at most [`RELEASE_MAX`]; an opening after that says who does.
/// sled's threads keep a closed cache for some milliseconds more; as the caller holds the home's lock, nobody else does.
fn wait_until_released(dir: &Path) -> io::Result<()> {
    let file = match std::fs::File::options().read(true).write(true).open(dir.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if since.elapsed() < RELEASE_MAX => {
                std::thread::sleep(RELEASE_CHECKED_EVERY);
            }
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

/// sled writes a snapshot as `snap.<n>.generating` and renames it, but reads one that a kill left half-written and then
/// fails for ever. The snapshot only saves time at start.
fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves the directory to the first free number above all others, and removes the oldest of too many.
fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut numbers = damaged_numbers(dir)?;
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last + 1);
    let to = damaged_path(dir, next);
    std::fs::rename(dir, &to)?;
    numbers.push(next);
    let n_excess = numbers.len().saturating_sub(DAMAGED_KEPT_MAX);
    for number in &numbers[..n_excess] {
        std::fs::remove_dir_all(damaged_path(dir, *number))?;
    }
    std::fs::create_dir_all(dir)?;
    Ok(to)
}

fn damaged_path(dir: &Path, number: u32) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".damaged-{number}"));
    name.into()
}

fn damaged_numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut prefix = dir.file_name().unwrap_or_default().to_owned();
    prefix.push(".damaged-");
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(parent.unwrap_or_else(|| Path::new(".")))? {
        let name = entry?.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let number = rest.and_then(|rest| std::str::from_utf8(rest).ok()?.parse::<u32>().ok());
        numbers.extend(number.filter(|number| *number < DAMAGED_NUMBER_MAX));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(dir: &Path) -> Cache {
        let (cache, recovered) = Cache::open(dir).unwrap();
        assert_eq!(recovered, None);
        cache
    }

    #[test]
    fn what_was_put_is_there_after_reopening() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        let cache = opened(&dir);
        cache.put(Tree::Peers, b"a1", b"one").unwrap();
        cache.put(Tree::Peers, b"a2", b"two").unwrap();
        cache.put(Tree::Peers, b"b1", b"three").unwrap();
        cache.put(Tree::Tasks, b"a1", b"other tree").unwrap();
        cache.remove(Tree::Peers, b"a2").unwrap();
        cache.flush().unwrap();
        drop(cache);
        let cache = opened(&dir);
        assert_eq!(cache.get(Tree::Peers, b"a1").unwrap().unwrap(), b"one");
        assert_eq!(cache.get(Tree::Peers, b"a2").unwrap(), None);
        let found = cache.scan(Tree::Peers, b"").unwrap();
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_slice()).collect();
        assert_eq!(keys, [&b"a1"[..], b"b1"]);
        assert_eq!(cache.scan(Tree::Peers, b"b").unwrap(), [(b"b1".to_vec(), b"three".to_vec())]);
        cache.remove_all(Tree::Peers, b"a").unwrap();
        assert_eq!(cache.scan(Tree::Peers, b"").unwrap(), [(b"b1".to_vec(), b"three".to_vec())]);
        cache.clear(Tree::Peers).unwrap();
        assert_eq!(cache.scan(Tree::Peers, b"").unwrap(), []);
        assert_eq!(cache.get(Tree::Tasks, b"a1").unwrap().unwrap(), b"other tree");
    }

    #[test]
    fn long_keys_and_values_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let cache = opened(&home.path().join("cache"));
        cache.put(Tree::Tasks, b"k", &[0; VALUE_LEN_MAX]).unwrap();
        let value = cache.put(Tree::Tasks, b"k", &[0; VALUE_LEN_MAX + 1]);
        assert!(matches!(value, Err(CacheError::TooLong { part: "value", .. })));
        let key = cache.put(Tree::Tasks, &[0; KEY_LEN_MAX + 1], b"");
        assert!(matches!(key, Err(CacheError::TooLong { part: "key", .. })));
    }

    #[test]
    fn damaged_caches_are_set_aside_numbered_and_only_the_newest_kept() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        drop(opened(&dir));
        for number in 1..=3 {
            std::fs::write(dir.join("conf"), b"this is no configuration of sled").unwrap();
            let (cache, recovered) = Cache::open(&dir).unwrap();
            let set_aside = home.path().join(format!("cache.damaged-{number}"));
            assert_eq!(recovered, Some(Recovered { set_aside: set_aside.clone() }));
            assert!(set_aside.join("conf").exists());
            cache.put(Tree::Replicas, b"k", b"v").unwrap();
            drop(cache);
        }
        assert!(!home.path().join("cache.damaged-1").exists());
        assert!(home.path().join("cache.damaged-2").exists());
    }

    #[test]
    fn a_snapshot_half_written_by_a_kill_does_not_cost_the_cache() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        let cache = opened(&dir);
        cache.put(Tree::Peers, b"k", b"v").unwrap();
        cache.flush().unwrap();
        drop(cache);
        std::fs::write(dir.join("snap.FFFFFFFFFFFFFFFF.generating"), b"half").unwrap();
        assert_eq!(opened(&dir).get(Tree::Peers, b"k").unwrap().unwrap(), b"v");
    }

    #[test]
    fn any_flipped_or_cut_file_gives_a_cache_that_works() {
        for (name, harm) in [("db", Harm::Cut), ("db", Harm::Noise), ("conf", Harm::Cut)] {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("cache");
            let cache = opened(&dir);
            for n in 0_u32..2_000 {
                cache.put(Tree::Replicas, &n.to_be_bytes(), &[7; 300]).unwrap();
            }
            cache.flush().unwrap();
            drop(cache);
            wait_until_released(&dir).unwrap();
            harm.apply(&dir.join(name));
            let (cache, _) = Cache::open(&dir).unwrap();
            cache.put(Tree::Peers, b"k", b"v").unwrap();
            assert_eq!(cache.get(Tree::Peers, b"k").unwrap().unwrap(), b"v");
        }
    }

    #[derive(Clone, Copy)]
    enum Harm {
        Cut,
        Noise,
    }

    impl Harm {
        fn apply(self, path: &Path) {
            let mut bytes = std::fs::read(path).unwrap();
            match self {
                Self::Cut => bytes.truncate(bytes.len() / 2),
                Self::Noise => bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55),
            }
            std::fs::write(path, bytes).unwrap();
        }
    }
}
