//! The files of policies in a home, `policies/*.cedar`, and the policies that hold now.
//!
//! What holds is replaced as a whole, by what was read and checked as a whole: first on disk, then in memory. Whoever changes a
//! file may say which text it means to replace, by its mark ([`mark`]), so that two who edit at once do not undo each other.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::{FILE_LEN_MAX, FILES_MAX, Policies, PolicyError, is_file_name};

/// The directory in the home.
const DIR: &str = "policies";
/// How the names of files of policies end; others are passed over.
const END: &str = ".cedar";

/// Why the policies are not changed. They are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The new ones are refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There is no such file in the home.
    #[error(
        "there is no {file}.cedar in this node's home: `opencloud policy list` shows the files"
    )]
    Unknown {
        /// Which.
        file: String,
    },
    /// Somebody else has changed the file.
    #[error("{file}.cedar is not what it was when you read it: read it again, then change that")]
    Changed {
        /// Which.
        file: String,
    },
    /// The disk does not do it.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The mark of a text: another one for every other text.
#[must_use]
pub fn mark(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

/// Keeps the files, and the policies that hold.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    holds: RwLock<Arc<Policies>>,
}

impl Keeper {
    /// Reads the files of a home. When they are refused, nobody but the owner may do anything
    /// ([`Policies::is_closed`] says why): to go on without one of them might open what it forbids.
    #[must_use]
    pub fn open(home: &Path) -> Self {
        let dir = home.join(DIR);
        let holds = load(&dir).unwrap_or_else(Policies::closed);
        Self { dir, holds: RwLock::new(Arc::new(holds)) }
    }

    /// The policies that hold now.
    #[must_use]
    pub fn now(&self) -> Arc<Policies> {
        Arc::clone(&self.holds.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, as somebody has changed them.
    ///
    /// # Errors
    /// When they are refused; then what held holds on.
    pub fn reload(&self) -> Result<Arc<Policies>, KeepError> {
        let read = load(&self.dir)?;
        Ok(self.hold(read))
    }

    /// Writes a file, and has it hold. `replaces` is the mark of the text in whose place it comes.
    ///
    /// # Errors
    /// See [`KeepError`]. The files are read from disk first, so one that somebody has spoiled there is told as well.
    pub fn put(
        &self,
        file: &str,
        text: String,
        replaces: Option<&str>,
    ) -> Result<Arc<Policies>, KeepError> {
        if !is_file_name(file) {
            return Err(PolicyError::Name { name: file.chars().take(80).collect() }.into());
        }
        let mut files = read_dir(&self.dir)?;
        check_mark(&files, file, replaces)?;
        files.insert(file.to_owned(), text.clone());
        let policies = Policies::read(files)?;
        let path = self.path(file);
        let io = |source| KeepError::Io { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(io)?;
        crate::shell::replace_private(&path, text.as_bytes())
            .map_err(|error| io(io::Error::other(error)))?;
        Ok(self.hold(policies))
    }

    /// Removes a file; the default policies come back when it stood in their place.
    ///
    /// # Errors
    /// See [`KeepError`].
    pub fn remove(&self, file: &str, replaces: Option<&str>) -> Result<Arc<Policies>, KeepError> {
        let mut files = match is_file_name(file) {
            true => read_dir(&self.dir)?,
            false => BTreeMap::new(),
        };
        if !files.contains_key(file) {
            return Err(KeepError::Unknown { file: file.chars().take(80).collect() });
        }
        check_mark(&files, file, replaces)?;
        files.remove(file);
        let policies = Policies::read(files)?;
        let path = self.path(file);
        fs::remove_file(&path)
            .and_then(|()| fs::File::open(&self.dir)?.sync_all())
            .map_err(|source| KeepError::Io { path, source })?;
        Ok(self.hold(policies))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(format!("{file}{END}"))
    }

    fn hold(&self, policies: Policies) -> Arc<Policies> {
        let policies = Arc::new(policies);
        let mut holds = self.holds.write().unwrap_or_else(PoisonError::into_inner);
        *holds = Arc::clone(&policies);
        policies
    }
}

fn check_mark(
    files: &BTreeMap<String, String>,
    file: &str,
    replaces: Option<&str>,
) -> Result<(), KeepError> {
    match (replaces, files.get(file)) {
        (Some(expected), Some(text)) if mark(text) == expected => Ok(()),
        (None, _) => Ok(()),
        (Some(_), _) => Err(KeepError::Changed { file: file.to_owned() }),
    }
}

fn load(dir: &Path) -> Result<Policies, PolicyError> {
    Policies::read(read_dir(dir)?)
}

/// The files by name; none where there is no directory.
fn read_dir(dir: &Path) -> Result<BTreeMap<String, String>, PolicyError> {
    let whole =
        |error: &io::Error| PolicyError::Read { file: DIR.to_owned(), detail: error.to_string() };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(|error| whole(&error))?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| whole(&error))?;
        let name = entry.file_name();
        let Some(file) = name.to_str().and_then(|name| name.strip_suffix(END)) else { continue };
        if !is_file_name(file) {
            return Err(PolicyError::Name { name: file.chars().take(80).collect() });
        }
        if files.len() == FILES_MAX {
            return Err(PolicyError::Files);
        }
        files.insert(file.to_owned(), read_file(file, &entry.path())?);
    }
    Ok(files)
}

fn read_file(file: &str, path: &Path) -> Result<String, PolicyError> {
    let read = || {
        let mut text = String::new();
        // One byte more, so that one that is too long is seen.
        fs::File::open(path)?.take(FILE_LEN_MAX as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: io::Error| PolicyError::Read {
        file: file.to_owned(),
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::BUILT_IN;

    const GOOD: &str = "permit (principal is User, action == Action::\"see\", resource);";

    fn names(policies: &Policies) -> Vec<String> {
        policies.all().map(|(name, ..)| name.to_owned()).collect()
    }

    #[test]
    fn files_hold_over_restarts_and_a_bad_one_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let keeper = Keeper::open(home.path());
        assert_eq!(names(&keeper.now()), [BUILT_IN]);
        keeper.put("team", GOOD.to_owned(), None).unwrap();
        let refused = keeper.put("team", "permit".to_owned(), None).unwrap_err();
        assert!(matches!(refused, KeepError::Policy(PolicyError::Text { .. })), "{refused}");
        assert!(matches!(keeper.put("../x", GOOD.to_owned(), None), Err(KeepError::Policy(_))));
        assert_eq!(keeper.now().files()["team"], GOOD);
        let again = Keeper::open(home.path());
        assert_eq!(names(&again.now()), [BUILT_IN, "team"]);
        again.remove("team", None).unwrap();
        assert!(matches!(again.remove("team", None), Err(KeepError::Unknown { .. })));
        assert!(matches!(again.remove("..", None), Err(KeepError::Unknown { .. })));
        assert_eq!(names(&Keeper::open(home.path()).now()), [BUILT_IN]);
    }

    #[test]
    fn a_change_that_names_another_text_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let keeper = Keeper::open(home.path());
        let put =
            |text: &str, replaces: Option<&str>| keeper.put("team", text.to_owned(), replaces);
        assert!(matches!(put(GOOD, Some("x")), Err(KeepError::Changed { .. })));
        put(GOOD, None).unwrap();
        put("", Some(&mark(GOOD))).unwrap();
        assert!(matches!(put(GOOD, Some(&mark(GOOD))), Err(KeepError::Changed { .. })));
        assert!(matches!(keeper.remove("team", Some("x")), Err(KeepError::Changed { .. })));
        keeper.remove("team", Some(&mark(""))).unwrap();
    }

    #[test]
    fn a_file_spoiled_on_disk_opens_nothing() {
        let home = tempfile::tempdir().unwrap();
        let keeper = Keeper::open(home.path());
        keeper.put("team", GOOD.to_owned(), None).unwrap();
        let path = home.path().join(DIR).join("team.cedar");
        for bad in [&b"forbid (principal"[..], b"\xff\xfe", &vec![b' '; FILE_LEN_MAX + 1]] {
            fs::write(&path, bad).unwrap();
            // While the node runs, what held holds on.
            assert!(keeper.reload().is_err());
            assert_eq!(keeper.now().files()["team"], GOOD);
            assert!(keeper.put("other", GOOD.to_owned(), None).is_err());
            assert!(Keeper::open(home.path()).now().is_closed().is_some());
        }
        fs::write(&path, GOOD).unwrap();
        fs::write(home.path().join(DIR).join("notes.txt"), "not a policy").unwrap();
        keeper.reload().unwrap();
        let closed = Keeper::open(home.path());
        assert!(closed.now().is_closed().is_none());
        fs::write(home.path().join(DIR).join("Bad Name.cedar"), GOOD).unwrap();
        assert!(matches!(keeper.reload(), Err(KeepError::Policy(PolicyError::Name { .. }))));
    }
}
