//! A node's directory: its keys, its names, its API token, and where its stores lie.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use catalog::id::{from_hex, to_hex};
use catalog::{NodeId, OrgId};
use ed25519_dalek::SigningKey;

const ORG_KEY: &str = "org.key";
const NODE_KEY: &str = "node.key";
const TOKEN: &str = "api.token";
const ADDRESS: &str = "api.address";
const SETTINGS: &str = "node.json";
/// Longest name of an organisation or node, as certificates allow.
const NAME_LEN_MAX: usize = 64;

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// There is no node in the directory.
    #[error("there is no node in {}: make one with `opencloud init --org NAME`", dir.display())]
    NotInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// There is a node in the directory already.
    #[error("{} holds a node already; choose another directory with --home", dir.display())]
    Initialised {
        /// The directory.
        dir: PathBuf,
    },
    /// The node is not running.
    #[error("the node in {} is not running: start it with `opencloud up`", dir.display())]
    NotRunning {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} is damaged: {expected} expected", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A name that certificates cannot carry.
    #[error("`{name}` is not a name: 1 to {NAME_LEN_MAX} printable characters without line breaks")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Names {
    org_name: String,
    node_name: String,
}

/// A node's directory with its keys.
#[derive(Clone)]
pub struct Home {
    dir: PathBuf,
    org_key: SigningKey,
    node_key: SigningKey,
    names: Names,
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Home")
            .field("dir", &self.dir)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Home {
    /// Makes an organisation and a node of it in `dir`: two Ed25519 keys and an API token, readable by the owner only.
    ///
    /// # Errors
    /// See [`HomeError`]; a directory that holds a node is left as it is.
    pub fn init(dir: &Path, org_name: &str, node_name: Option<&str>) -> Result<Self, HomeError> {
        let names = Names {
            org_name: checked(org_name)?,
            node_name: checked(node_name.unwrap_or("node-1"))?,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| HomeError::Io { path: dir.to_owned(), source })?;
        if dir.join(SETTINGS).exists() || dir.join(ORG_KEY).exists() {
            return Err(HomeError::Initialised { dir: dir.to_owned() });
        }
        for file in [ORG_KEY, NODE_KEY, TOKEN] {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|_| HomeError::Random)?;
            write_private(&dir.join(file), format!("{}\n", to_hex(&bytes)).as_bytes())?;
        }
        // Last, so that a directory with it is whole.
        let text = serde_json::to_vec_pretty(&names).expect("names are plain data");
        write_private(&dir.join(SETTINGS), &text)?;
        Self::open(dir)
    }

    /// Opens a directory that [`Self::init`] made.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let path = dir.join(SETTINGS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::NotInitialised { dir: dir.to_owned() });
            }
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        let names = serde_json::from_slice(&text).map_err(|_| HomeError::Damaged {
            path,
            expected: "the names of organisation and node in JSON",
        })?;
        Ok(Self {
            org_key: read_key(&dir.join(ORG_KEY))?,
            node_key: read_key(&dir.join(NODE_KEY))?,
            names,
            dir: dir.to_owned(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The organisation.
    #[must_use]
    pub fn org_id(&self) -> OrgId {
        self.org_key.verifying_key().into()
    }

    /// The node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_key.verifying_key().into()
    }

    /// The organisation's name for people.
    #[must_use]
    pub fn org_name(&self) -> &str {
        &self.names.org_name
    }

    /// The node's name within its organisation.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.names.node_name
    }

    pub(crate) const fn org_key(&self) -> &SigningKey {
        &self.org_key
    }

    pub(crate) const fn node_key(&self) -> &SigningKey {
        &self.node_key
    }

    /// The bearer token of the local API.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn api_token(&self) -> Result<String, HomeError> {
        let path = self.dir.join(TOKEN);
        let bytes = read_hex(&path)?;
        Ok(to_hex(&bytes))
    }

    /// Where the running node's API listens.
    ///
    /// # Errors
    /// [`HomeError::NotRunning`] when no node wrote it.
    pub fn api_address(&self) -> Result<SocketAddr, HomeError> {
        let path = self.dir.join(ADDRESS);
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| HomeError::Damaged { path, expected: "an address and port" }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(HomeError::NotRunning { dir: self.dir.clone() })
            }
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// Writes down where the API listens, for the command line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_api_address(&self, address: SocketAddr) -> Result<(), HomeError> {
        let path = self.dir.join(ADDRESS);
        let temp = self.dir.join("api.address.new");
        fs::write(&temp, format!("{address}\n"))
            .and_then(|()| fs::rename(&temp, &path))
            .map_err(|source| HomeError::Io { path, source })
    }

    /// Removes what [`Self::set_api_address`] wrote.
    pub fn clear_api_address(&self) {
        // Absent is as good as removed; a stale address only means "connection refused" to the command line.
        drop(fs::remove_file(self.dir.join(ADDRESS)));
    }
}

/// Bytes that this user may still write on the file system of a directory.
pub(super) fn disk_free(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn checked(name: &str) -> Result<String, HomeError> {
    let name = name.trim();
    let is_good =
        !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if is_good {
        Ok(name.to_owned())
    } else {
        Err(HomeError::Name { name: name.chars().take(80).collect() })
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<SigningKey, HomeError> {
    read_hex(path).map(|bytes| SigningKey::from_bytes(&bytes))
}

fn read_hex(path: &Path) -> Result<[u8; 32], HomeError> {
    let text = fs::read_to_string(path)
        .map_err(|source| HomeError::Io { path: path.to_owned(), source })?;
    from_hex(text.trim())
        .ok_or_else(|| HomeError::Damaged { path: path.to_owned(), expected: "64 hex digits" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_home_reopens_with_its_keys_and_keeps_them_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let made = Home::init(dir.path(), "Survey Office", None).unwrap();
        let again = Home::open(dir.path()).unwrap();
        assert_eq!((made.org_id(), made.node_id()), (again.org_id(), again.node_id()));
        for file in [ORG_KEY, NODE_KEY, TOKEN] {
            let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert!(matches!(
            Home::init(dir.path(), "Other", None),
            Err(HomeError::Initialised { .. })
        ));
        assert!(matches!(again.api_address(), Err(HomeError::NotRunning { .. })));
    }

    #[test]
    fn the_free_disk_is_told_and_a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk_free(dir.path()).unwrap() > 0);
        assert!(disk_free(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn an_empty_directory_a_damaged_key_and_a_bad_name_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Home::open(dir.path()), Err(HomeError::NotInitialised { .. })));
        assert!(matches!(Home::init(dir.path(), "a\nb", None), Err(HomeError::Name { .. })));
        Home::init(dir.path(), "Org", None).unwrap();
        fs::write(dir.path().join(NODE_KEY), "short").unwrap();
        assert!(matches!(Home::open(dir.path()), Err(HomeError::Damaged { .. })));
    }
}
