//! The durable store: redb in one file, `truth.redb`, beside a `generation` file.
//!
//! - **Atomic and durable.** [`Truth::commit`] returns when all its batches are on disk, or with an error. After an error
//!   the batches may be there whole or not at all; committing them again is harmless, and nothing of the step they belong
//!   to may be done before a commit has succeeded.
//! - **A full disk is a state.** The store opens itself again at the next use. A failed fsync is final: the process has to
//!   be restarted, because the kernel may show data that never reached the disk.
//! - **Never silently empty.** A missing, truncated or altered file is an error that names it.
//! - **A restore is noticed.** See [`Truth::was_restored`].
//!
//! All calls block; callers on an async runtime use a thread of their own.

mod disk;
mod generation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadableDatabase, TableDefinition, TableHandle, WriteTransaction,
};

use self::disk::{Disk, Health};
use self::generation::{Generation, GenerationFile};
use super::batch::{Batch, COMMIT_OPS_MAX, KEY_LEN_MAX, Op, Table, VALUE_LEN_MAX};

/// The database file in the store's directory.
const DATABASE: &str = "truth.redb";
/// The database while it is being made; renamed when it is whole.
const DATABASE_NEW: &str = "truth.redb.new";
/// The file that remembers how far the database had come.
const GENERATION: &str = "generation";
/// Version of the layout inside the database.
const FORMAT: u32 = 1;
/// redb's page cache in bytes: the working set of a node is small, and an idle one should stay so.
const CACHE_BYTES: usize = 8 << 20;
/// Files up to this many bytes have every page's checksum verified at each open (under a second from a laptop's disk).
/// Larger ones are verified after a crash only.
const CHECK_LEN_MAX: u64 = 256 << 20;

/// Facts about the store itself.
const STORE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("_store");
const KEY_FORMAT: &str = "format";
const KEY_INSTANCE: &str = "instance";
const KEY_COMMITS: &str = "commits";
const KEY_RESTORED: &str = "restored";

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn definition(table: Table) -> Bytes {
    TableDefinition::new(table.name())
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file could not be read or written.
    #[error("cannot open {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database is not what was written: cut, altered, or no database at all.
    #[error(
        "{} is damaged: check the disk, and start a new node in another home with `opencloud init`; the damaged file is left as it is",
        path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What redb said; none when the file is empty or redb gave up without an answer.
        source: Option<Box<redb::Error>>,
    },
    /// There was a database here, and it is gone.
    #[error(
        "{} is missing, though it held {commits} commits: bring it back from a backup, or, to begin anew and give up what it held, remove {} too",
        path.display(), generation.display()
    )]
    Missing {
        /// Where the database should be.
        path: PathBuf,
        /// The file that remembers it.
        generation: PathBuf,
        /// Commits it held.
        commits: u64,
    },
    /// Written by another version of this program.
    #[error("{} has format {found}, this version knows {FORMAT}: use the version that wrote it", path.display())]
    Format {
        /// The database file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another handle has it open.
    #[error("{} is open in another process: stop that one first", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The system's random source failed while the store got its id.
    #[error("the system gives no random bytes for the id of {}", path.display())]
    Random {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: getrandom::Error,
    },
}

impl OpenError {
    /// Whether the disk, or this user's share of it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }
}

/// Why batches were not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A key or value is longer than [`KEY_LEN_MAX`] or [`VALUE_LEN_MAX`]; nothing was written.
    #[error("a {part} of {len} bytes for table {}: at most {max} are kept there, larger data belongs in a blob", table.name())]
    TooLong {
        /// Which table.
        table: Table,
        /// `key` or `value`.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// More changes at once than [`COMMIT_OPS_MAX`]; nothing was written.
    #[error("{ops} changes in one commit, at most {COMMIT_OPS_MAX} are taken: split them")]
    TooMany {
        /// Changes given.
        ops: usize,
    },
    /// The disk, or this user's share of it, is full. Committing again works once there is room.
    #[error("no room left on the disk of {}: free some space", path.display())]
    DiskFull {
        /// The database file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// The database could not be opened again after the disk was full.
    #[error("the store could not be opened again")]
    Reopen(#[from] OpenError),
    /// The disk refused to make data durable. Nothing more is committed until the process restarts.
    #[error("the disk did not confirm a write to {}: check the disk, then restart the node", path.display())]
    NotDurable {
        /// The database file.
        path: PathBuf,
    },
    /// Any other failure of the database.
    #[error("cannot write {}: check the disk, then restart the node", path.display())]
    Failed {
        /// The database file.
        path: PathBuf,
        /// What redb said; none when it gave up without an answer.
        source: Option<Box<redb::Error>>,
    },
}

impl CommitError {
    /// Whether the disk, or this user's share of it, is full: the same batches may be committed again later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Reopen(open) => open.is_disk_full(),
            _ => false,
        }
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The database could not be opened again after the disk was full.
    #[error("the store could not be opened again")]
    Reopen(#[from] OpenError),
    /// The disk failed earlier; see [`CommitError::NotDurable`].
    #[error("the disk did not confirm a write to {}: check the disk, then restart the node", path.display())]
    NotDurable {
        /// The database file.
        path: PathBuf,
    },
    /// The database failed or is damaged.
    #[error("cannot read table {} of {}: check the disk", table.name(), path.display())]
    Failed {
        /// The database file.
        path: PathBuf,
        /// Which table.
        table: Table,
        /// What redb said; none when it gave up without an answer.
        source: Option<Box<redb::Error>>,
    },
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The durable store of one node.
#[derive(Debug)]
pub struct Truth {
    path: PathBuf,
    health: Arc<Health>,
    /// `None` after the disk was full, until the next use opens it again.
    database: RwLock<Option<Database>>,
    writer: Mutex<Writer>,
    restored: AtomicBool,
}

/// What only the one writer touches.
#[derive(Debug)]
struct Writer {
    commits: u64,
    generation: GenerationFile,
}

impl Truth {
    /// Opens the store in `dir`, making both when neither the database nor a trace of one is there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).map_err(io_at(dir))?;
        let path = dir.join(DATABASE);
        let health = Arc::new(Health::default());
        let remembered_at = dir.join(GENERATION);
        let mut remembered = Generation::read(&remembered_at).map_err(io_at(&remembered_at))?;
        if !path.try_exists().map_err(io_at(&path))? {
            remembered = Some(create(dir, remembered, &health)?);
        }
        let inode = std::fs::metadata(&path).map_err(io_at(&path))?.ino();
        let database = open_database(&path, &health, Expect::Existing)?;
        let facts = read_facts(&database, &path)?;
        let is_foreign = remembered.is_none_or(|known| {
            known.instance != facts.instance
                || known.commits > facts.commits
                || known.inode != inode
        });
        add_tables(&database).map_err(|e| open_failed(&path, e))?;
        let mut commits = facts.commits;
        if is_foreign && !facts.restored {
            commits += 1;
            write_facts(&database, commits, Some(true)).map_err(|e| open_failed(&path, e))?;
        }
        let generation = Generation { instance: facts.instance, commits, inode }
            .write(&remembered_at)
            .map_err(io_at(&remembered_at))?;
        sync_dir(dir).map_err(io_at(dir))?;
        Ok(Self {
            path,
            health,
            database: RwLock::new(Some(database)),
            writer: Mutex::new(Writer { commits, generation }),
            restored: AtomicBool::new(is_foreign || facts.restored),
        })
    }

    /// Makes all batches durable in one transaction, in order. Changes nothing when there is nothing to change.
    ///
    /// # Errors
    /// See [`CommitError`]; after any of them the batches must be taken as not durable.
    pub fn commit(&self, batches: &[Batch]) -> Result<(), CommitError> {
        check_bounds(batches)?;
        if batches.iter().all(Batch::is_empty) {
            return Ok(());
        }
        self.write(|transaction, commits| apply(transaction, batches, commits))
    }

    /// Every entry of a table, by key.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn load(&self, table: Table) -> Result<Vec<Entry>, ReadError> {
        self.scan_prefix(table, &[])
    }

    /// The entries whose key starts with `prefix`, by key.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn scan_prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<Entry>, ReadError> {
        self.read(table, |rows| {
            let mut found = Vec::new();
            for row in rows.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// The value of one key.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.read(table, |rows| Ok(rows.get(key)?.map(|value| value.value().to_vec())))
    }

    /// Whether the database was put back from a backup, copied from elsewhere or rolled back, now or at an earlier open,
    /// and [`Truth::restore_handled`] has not been called since. While it is so, nothing may be signed in a channel that is
    /// not fenced, and the catalogue epoch has to be raised: numbers may be used that were used before. `engine::ledger::fence`
    /// says what is done.
    #[must_use]
    pub fn was_restored(&self) -> bool {
        self.restored.load(Ordering::Acquire)
    }

    /// Notes durably that every channel is marked to be fenced and the epoch is raised.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn restore_handled(&self) -> Result<(), CommitError> {
        self.write(|transaction, commits| put_facts(transaction, commits, Some(false)))?;
        self.restored.store(false, Ordering::Release);
        Ok(())
    }

    /// Reads the whole database and compares it with its checksums; false when something was amiss and has been mended.
    ///
    /// # Errors
    /// When it is damaged beyond that, or cannot be read.
    pub fn check(&self) -> Result<bool, redb::DatabaseError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        match database.as_mut() {
            Some(database) => database.check_integrity(),
            // It is opened again, and mended, at the next use.
            None => Ok(false),
        }
    }

    /// Bytes of the database file.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn size_bytes(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(&self.path)?.len())
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction, u64) -> Result<(), redb::Error>,
    ) -> Result<(), CommitError> {
        let mut writer = lock(&self.writer);
        let commits = writer.commits + 1;
        let result = {
            let database = self.opened().map_err(|closed| closed.commit(&self.path))?;
            let database = database.as_ref().expect("just opened");
            // redb may panic on pages that were altered behind its back; the transaction ends with it.
            catch_unwind(AssertUnwindSafe(|| {
                transact(database, |transaction| change(transaction, commits))
            }))
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(self.commit_failed(source)),
            Err(_) => {
                return Err(CommitError::Failed { path: self.path.clone(), source: None });
            }
        }
        writer.commits = commits;
        if let Err(e) = writer.generation.advance(commits) {
            tracing::warn!(error = %e, "the generation file lags behind: a restored backup may go unnoticed");
        }
        Ok(())
    }

    fn read<T>(
        &self,
        table: Table,
        look: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, ReadError> {
        let failed = |source| ReadError::Failed { path: self.path.clone(), table, source };
        let database = self.opened().map_err(|closed| closed.read(&self.path))?;
        let database = database.as_ref().expect("just opened");
        // redb may panic on pages that were altered behind its back; nothing of ours is half-changed by a read.
        catch_unwind(AssertUnwindSafe(|| {
            look(&database.begin_read()?.open_table(definition(table))?)
        }))
        .map_err(|_| failed(None))?
        .map_err(|source| failed(Some(Box::new(source))))
    }

    /// The database, opened again when a full disk had closed it.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, Closed> {
        if self.health.has_sync_failed() {
            return Err(Closed::NotDurable);
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if database.is_some() {
            return Ok(database);
        }
        drop(database);
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            let opened = open_database(&self.path, &self.health, Expect::Existing);
            *database = Some(opened.map_err(Closed::Reopen)?);
        }
        drop(database);
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn commit_failed(&self, source: redb::Error) -> CommitError {
        let path = self.path.clone();
        if self.health.has_sync_failed() {
            return CommitError::NotDurable { path };
        }
        let source = Box::new(source);
        match &*source {
            redb::Error::Io(e) if is_full(e) => {
                // redb refuses everything after a failed write until it is opened again.
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
                CommitError::DiskFull { path, source }
            }
            _ => CommitError::Failed { path, source: Some(source) },
        }
    }
}

/// Why there is no open database.
enum Closed {
    NotDurable,
    Reopen(OpenError),
}

impl Closed {
    fn commit(self, path: &Path) -> CommitError {
        match self {
            Self::NotDurable => CommitError::NotDurable { path: path.to_owned() },
            Self::Reopen(source) => CommitError::Reopen(source),
        }
    }

    fn read(self, path: &Path) -> ReadError {
        match self {
            Self::NotDurable => ReadError::NotDurable { path: path.to_owned() },
            Self::Reopen(source) => ReadError::Reopen(source),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded value is only replaced whole, so a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_bounds(batches: &[Batch]) -> Result<(), CommitError> {
    let ops = batches.iter().map(|batch| batch.ops.len()).sum();
    if ops > COMMIT_OPS_MAX {
        return Err(CommitError::TooMany { ops });
    }
    for Op { table, key, value } in batches.iter().flat_map(|batch| &batch.ops) {
        let value_len = value.as_ref().map_or(0, Vec::len);
        for (part, len, max) in
            [("key", key.len(), KEY_LEN_MAX), ("value", value_len, VALUE_LEN_MAX)]
        {
            if len > max {
                return Err(CommitError::TooLong { table: *table, part, len, max });
            }
        }
    }
    Ok(())
}

/// One durable transaction.
fn transact(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    change(&transaction)?;
    Ok(transaction.commit()?)
}

fn apply(
    transaction: &WriteTransaction,
    batches: &[Batch],
    commits: u64,
) -> Result<(), redb::Error> {
    for table in Table::ALL {
        let mut ops =
            batches.iter().flat_map(|batch| &batch.ops).filter(|op| op.table == table).peekable();
        if ops.peek().is_none() {
            continue;
        }
        let mut rows = transaction.open_table(definition(table))?;
        for op in ops {
            match &op.value {
                Some(value) => rows.insert(op.key.as_slice(), value.as_slice())?,
                None => rows.remove(op.key.as_slice())?,
            };
        }
    }
    put_facts(transaction, commits, None)
}

fn put_facts(
    transaction: &WriteTransaction,
    commits: u64,
    restored: Option<bool>,
) -> Result<(), redb::Error> {
    let mut rows = transaction.open_table(STORE)?;
    rows.insert(KEY_COMMITS, commits.to_le_bytes().as_slice())?;
    if let Some(restored) = restored {
        rows.insert(KEY_RESTORED, [u8::from(restored)].as_slice())?;
    }
    Ok(())
}

fn write_facts(
    database: &Database,
    commits: u64,
    restored: Option<bool>,
) -> Result<(), redb::Error> {
    transact(database, |transaction| put_facts(transaction, commits, restored))
}

/// What the database says about itself.
struct Facts {
    instance: [u8; 16],
    commits: u64,
    restored: bool,
}

fn read_facts(database: &Database, path: &Path) -> Result<Facts, OpenError> {
    let damaged = |source| OpenError::Damaged { path: path.to_owned(), source };
    let fact = |name: &str| -> Result<Vec<u8>, redb::Error> {
        let rows = database.begin_read()?.open_table(STORE)?;
        Ok(rows.get(name)?.map(|value| value.value().to_vec()).unwrap_or_default())
    };
    let guarded = |name| {
        catch_unwind(AssertUnwindSafe(|| fact(name)))
            .map_err(|_| damaged(None))?
            .map_err(|e| open_failed(path, e))
    };
    let format = guarded(KEY_FORMAT)?.try_into().map(u32::from_le_bytes);
    match format {
        Ok(FORMAT) => {}
        Ok(found) => {
            return Err(OpenError::Format { path: path.to_owned(), found });
        }
        Err(_) => return Err(damaged(None)),
    }
    let instance = guarded(KEY_INSTANCE)?.try_into().map_err(|_| damaged(None))?;
    let commits = guarded(KEY_COMMITS)?.try_into().map_err(|_| damaged(None))?;
    let restored = guarded(KEY_RESTORED)? == [1];
    Ok(Facts { instance, commits: u64::from_le_bytes(commits), restored })
}

/// Makes a database that is whole before it gets its name, and the generation file just before that. A crash in between
/// leaves a whole database of that generation under the temporary name, which the next call picks up.
fn create(
    dir: &Path,
    remembered: Option<Generation>,
    health: &Arc<Health>,
) -> Result<Generation, OpenError> {
    let (path, new) = (dir.join(DATABASE), dir.join(DATABASE_NEW));
    let generation = match remembered {
        Some(known) => {
            let is_ours = new.try_exists().map_err(io_at(&new))?
                && read_facts(&open_database(&new, health, Expect::Existing)?, &new)?.instance
                    == known.instance;
            if !is_ours {
                let generation = dir.join(GENERATION);
                return Err(OpenError::Missing { path, generation, commits: known.commits });
            }
            known
        }
        None => initialise(dir, &new, health)?,
    };
    std::fs::rename(&new, &path).map_err(io_at(&path))?;
    sync_dir(dir).map_err(io_at(dir))?;
    Ok(generation)
}

fn initialise(dir: &Path, new: &Path, health: &Arc<Health>) -> Result<Generation, OpenError> {
    if let Err(e) = std::fs::remove_file(new)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(io_at(new)(e));
    }
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|source| OpenError::Random { path: new.to_owned(), source })?;
    let database = open_database(new, health, Expect::New)?;
    transact(&database, |transaction| {
        for table in Table::ALL {
            transaction.open_table(definition(table))?;
        }
        let mut rows = transaction.open_table(STORE)?;
        rows.insert(KEY_FORMAT, FORMAT.to_le_bytes().as_slice())?;
        rows.insert(KEY_INSTANCE, instance.as_slice())?;
        drop(rows);
        put_facts(transaction, 1, None)
    })
    .map_err(|e| open_failed(new, e))?;
    drop(database);
    let file = File::open(new).map_err(io_at(new))?;
    file.sync_all().map_err(io_at(new))?;
    let inode = file.metadata().map_err(io_at(new))?.ino();
    let generation = Generation { instance, commits: 1, inode };
    let remembered_at = dir.join(GENERATION);
    generation.write(&remembered_at).map_err(io_at(&remembered_at))?;
    sync_dir(dir).map_err(io_at(dir))?;
    Ok(generation)
}

/// Makes the tables that stores of earlier versions have not. Any other table that is missing is damage, and its read fails.
fn add_tables(database: &Database) -> Result<(), redb::Error> {
    let there: BTreeSet<String> =
        database.begin_read()?.list_tables()?.map(|table| table.name().to_owned()).collect();
    let missing = Table::ADDED.into_iter().filter(|table| !there.contains(table.name()));
    let missing: Vec<Table> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    transact(database, |transaction| {
        missing
            .iter()
            .try_for_each(|table| transaction.open_table(definition(*table)).map(drop))?;
        Ok(())
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    New,
    Existing,
}

fn open_database(path: &Path, health: &Arc<Health>, expect: Expect) -> Result<Database, OpenError> {
    let damaged = |source| OpenError::Damaged { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(expect == Expect::New)
        .open(path)
        .map_err(io_at(path))?;
    let len = file.metadata().map_err(io_at(path))?.len();
    if expect == Expect::Existing && len == 0 {
        // redb would take an empty file for a new database.
        return Err(damaged(None));
    }
    let health = Arc::clone(health);
    // redb may panic on a file that was altered behind its back; what it held is dropped with it.
    catch_unwind(AssertUnwindSafe(|| {
        let file = FileBackend::new(file)?;
        redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(expect == Expect::Existing && len <= CHECK_LEN_MAX)
            .create_with_backend(Disk { file, health })
    }))
    .map_err(|_| damaged(None))?
    .map_err(|e| open_failed(path, e.into()))
}

/// Sorts redb's errors at open by what the owner can do about them.
fn open_failed(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::InUse { path },
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Damaged { path, source: Some(Box::new(other)) },
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes renames and new names in `dir` durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
