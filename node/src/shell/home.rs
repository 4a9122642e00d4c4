//! A node's directory: its keys, its papers, its names, its API token, and where its stores lie.
//!
//! The organisation's root key lies here after `opencloud init`, which makes all in one step, and elsewhere when the node was
//! enrolled: then `papers` holds what the organisation signed, and `issuer.key` the key that it named to sign in its place, if
//! the node asked for one. How the node changes its own key is in [`super::keys`]. What the organisation does with its keys is in [`super::org`].

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use catalog::cert::armour::{self, Kind};
use catalog::cert::{Answer, Authority, NodeCert, Request};
use catalog::id::{from_hex, to_hex};
use catalog::{NodeId, OrgId};
use ed25519_dalek::SigningKey;

use super::keys::{self, Keys, Staged};
use super::org::REVOCATIONS;
use crate::engine::Papers;
use crate::engine::rotation::Former;

pub(super) const ORG_KEY: &str = "org.key";
const ISSUER_KEY: &str = "issuer.key";
const PAPERS: &str = "papers";
pub(super) const NODE_KEY: &str = "node.key";
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
    /// The node asked for papers and has none yet.
    #[error(
        "the node in {} has no papers yet: have its organisation answer the request with `opencloud org enroll`, then use \
         `opencloud org install FILE`", dir.display()
    )]
    NoPapers {
        /// The directory.
        dir: PathBuf,
    },
    /// The node's next key has no papers, and nothing here could make them.
    #[error(
        "no key of the organisation is in {}: have it answer `opencloud org request --rotate` with `org enroll`, use `org install \
         FILE`, then do this again", dir.display()
    )]
    NoNextPapers {
        /// The directory.
        dir: PathBuf,
    },
    /// No key that signs for an organisation is in the directory.
    #[error(
        "no key of an organisation is in {}: do this where the organisation's key is, or make one with `opencloud org create`",
        dir.display()
    )]
    NoOrgKey {
        /// The directory.
        dir: PathBuf,
    },
    /// Only the root does this.
    #[error("{} holds an issuer's key only, and this needs the organisation's root key", dir.display())]
    NotRoot {
        /// The directory.
        dir: PathBuf,
    },
    /// What a file carries is not what it should be.
    #[error("{} cannot be used", path.display())]
    Armour {
        /// The file.
        path: PathBuf,
        /// Why.
        source: armour::ArmourError,
    },
    /// Papers that are refused.
    #[error("the papers are refused")]
    Papers(#[from] catalog::cert::AnswerError),
    /// A certificate, request or list that is refused.
    #[error("what is to be signed or installed is refused")]
    Cert(#[from] catalog::cert::CertError),
    /// The node is not one that this organisation has enrolled.
    #[error(
        "no node, issuer or organisation `{name}` was enrolled from here: `opencloud org show` lists them; a node id or did:key will do, too"
    )]
    Unknown {
        /// As given.
        name: String,
    },
    /// Several nodes have the name.
    #[error(
        "{count} keys go by the name `{name}`: give the node id, as `opencloud org show` lists it"
    )]
    Ambiguous {
        /// As given.
        name: String,
        /// How many.
        count: usize,
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
    /// Too many keys before the one in use are not at rest.
    #[error(
        "{kept} former keys of the node in {} still have something to sign, or it has had too many: change its key again when \
         `opencloud status` shows fewer of them", dir.display()
    )]
    Rotations {
        /// The directory.
        dir: PathBuf,
        /// How many of them are kept.
        kept: usize,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Names {
    /// Empty while the node waits for its papers.
    org_name: String,
    node_name: String,
}

/// A node's directory with its keys.
#[derive(Clone)]
pub struct Home {
    dir: PathBuf,
    keys: Keys,
    papers: Papers,
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
        make_dir(dir)?;
        if dir.join(SETTINGS).exists() || dir.join(ORG_KEY).exists() {
            return Err(HomeError::Initialised { dir: dir.to_owned() });
        }
        make_keys(dir, &[ORG_KEY, NODE_KEY, TOKEN])?;
        // Last, so that a directory with it is whole.
        write_private(&dir.join(SETTINGS), &names.to_json())?;
        Self::open(dir)
    }

    /// Makes a node in `dir` that has no organisation yet, or takes the one that is there, and writes its request for papers.
    /// With `is_issuer` it asks for a key that signs for the organisation, with `is_gateway` for the role of a gateway, which it keeps
    /// when it has it.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn request(
        dir: &Path,
        node_name: Option<&str>,
        (is_issuer, is_gateway): (bool, bool),
        made_ms: u64,
    ) -> Result<(Request, String), HomeError> {
        if !dir.join(SETTINGS).exists() {
            make_dir(dir)?;
            if dir.join(ORG_KEY).exists() {
                return Err(HomeError::Initialised { dir: dir.to_owned() });
            }
            let node_name = checked(node_name.unwrap_or("node-1"))?;
            make_keys(dir, &[NODE_KEY, TOKEN])?;
            let names = Names { org_name: String::new(), node_name };
            write_private(&dir.join(SETTINGS), &names.to_json())?;
        }
        let issuer = dir.join(ISSUER_KEY);
        if is_issuer && !issuer.exists() {
            make_keys(dir, &[ISSUER_KEY])?;
        }
        let keys = Keys::read(dir)?;
        let issuer = if is_issuer { Some(read_key(&issuer)?) } else { None };
        let older = keys.successions.clone();
        let request = Request {
            node: keys.node(),
            name: read_names(dir)?.node_name,
            generation: generation(dir, &keys)?,
            issuer: issuer.map(|key| key.verifying_key().to_bytes()),
            made_ms,
            successions: (!older.is_empty()).then_some(older),
            gateway: (is_gateway || Self::is_gateway(dir)).then_some(true),
        };
        let text = armour::write(Kind::Request, &request.sign(&keys.key));
        Ok((request, text))
    }

    /// Whether the papers that a file brought to `dir` make the node a gateway.
    fn is_gateway(dir: &Path) -> bool {
        Self::open(dir).is_ok_and(|home| match &home.papers {
            Papers::Enrolled(answer) => {
                NodeCert::verify_at_any_time(&answer.cert).is_ok_and(|cert| cert.is_gateway())
            }
            Papers::Authority { .. } => false,
        })
    }

    /// Makes the next key of the node in `dir`, which comes into the place of the one in use at its next start, or finds the one
    /// that was made before.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn stage(dir: &Path, now_ms: u64) -> Result<Staged, HomeError> {
        let home = Self::open(dir)?;
        let generation = generation(dir, &home.keys)?;
        keys::stage(dir, (home.org_id(), generation), now_ms)
    }

    /// Makes the next key, as [`Self::stage`] does, and the request for its papers, where no key of the organisation is at hand.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn request_next(dir: &Path, made_ms: u64) -> Result<(Request, String), HomeError> {
        let staged = Self::stage(dir, made_ms)?;
        let request = Request {
            node: staged.node,
            name: read_names(dir)?.node_name,
            generation: staged.generation,
            issuer: None,
            made_ms,
            successions: Some(staged.successions),
            gateway: Self::is_gateway(dir).then_some(true),
        };
        let text = armour::write(Kind::Request, &request.sign(&staged.key));
        Ok((request, text))
    }

    /// Whether a next key is there that can be taken into use.
    #[must_use]
    pub fn is_next_ready(&self) -> bool {
        let next = self.keys.next.as_ref();
        next.is_some_and(|(_, answer)| answer.is_some() || self.can_certify())
    }

    /// Whether a key of the organisation is here, which makes the node's papers.
    #[must_use]
    pub const fn can_certify(&self) -> bool {
        matches!(self.papers, Papers::Authority { .. })
    }

    /// Takes the next key into use, if one is ready, in one durable write. The caller holds the home's lock: no node runs on the
    /// key before.
    pub(crate) fn take_over(self, now_ms: u64) -> Result<Self, HomeError> {
        if self.is_next_ready() && keys::take_over(&self.dir, self.can_certify(), now_ms)? {
            return Self::open(&self.dir);
        }
        Ok(self)
    }

    /// The keys that the node had before.
    pub(crate) fn former(&self) -> &[Former] {
        &self.keys.former
    }

    /// Removes the secret of a key that the node had.
    pub(crate) fn forget_key(dir: &Path, node: NodeId) -> Result<(), HomeError> {
        keys::forget(dir, node)
    }

    /// What papers for the node in `dir` say, checked to be its own.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn check_papers(dir: &Path, bytes: &[u8], now_ms: u64) -> Result<NodeCert, HomeError> {
        let answer = Answer::decode(bytes)?;
        let keys = Keys::read(dir).map_err(|error| match error {
            HomeError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                HomeError::NotInitialised { dir: dir.to_owned() }
            }
            error => error,
        })?;
        let issuer_key = match answer.issuer {
            Some(_) => Some(read_key(&dir.join(ISSUER_KEY))?.verifying_key().to_bytes()),
            None => None,
        };
        let node = if is_for_next(&keys, &answer) { next_id(&keys) } else { Some(keys.node()) };
        let cert = answer.verify(node.unwrap_or_else(|| keys.node()), issuer_key, now_ms)?;
        if let Some((_, before)) = read_answer(dir)?
            && before.org != cert.org
        {
            return Err(HomeError::Initialised { dir: dir.to_owned() });
        }
        if dir.join(ORG_KEY).exists() {
            return Err(HomeError::Initialised { dir: dir.to_owned() });
        }
        Ok(cert)
    }

    /// Keeps papers that [`Self::check_papers`] found good; the node uses them from its next start on.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn install(dir: &Path, bytes: &[u8], now_ms: u64) -> Result<Self, HomeError> {
        let cert = Self::check_papers(dir, bytes, now_ms)?;
        if Keys::read(dir)?.node() != cert.node {
            keys::keep_answer(dir, bytes)?;
            return Self::open(dir);
        }
        replace_private(&dir.join(PAPERS), armour::write(Kind::Answer, bytes).as_bytes())?;
        let names = Names { org_name: cert.org_name, node_name: cert.name };
        replace_private(&dir.join(SETTINGS), &names.to_json())?;
        Self::open(dir)
    }

    /// Gives the organisation another name for people, where its root key is: the node's papers carry it from its next start on,
    /// those of other nodes from when they are renewed.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn rename(dir: &Path, org_name: &str) -> Result<(), HomeError> {
        let node_name = read_names(dir)?.node_name;
        if !dir.join(ORG_KEY).exists() {
            return Err(HomeError::NoOrgKey { dir: dir.to_owned() });
        }
        let names = Names { org_name: checked(org_name)?, node_name };
        replace_private(&dir.join(SETTINGS), &names.to_json())
    }

    /// Opens a directory that [`Self::init`] made.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let names = read_names(dir)?;
        Ok(Self { keys: Keys::read(dir)?, papers: read_papers(dir)?, names, dir: dir.to_owned() })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The organisation.
    #[must_use]
    pub fn org_id(&self) -> OrgId {
        match &self.papers {
            Papers::Authority { authority, .. } => authority.org(),
            // Only good papers are installed.
            Papers::Enrolled(answer) => NodeCert::verify_at_any_time(&answer.cert)
                .map_or(OrgId::from_bytes([0; 32]), |cert| cert.org),
        }
    }

    /// The node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.keys.node()
    }

    /// The id that the node's files, containers and machines are marked with: that of its first key, which never changes.
    #[must_use]
    pub(crate) fn mark(&self) -> NodeId {
        self.keys.former.first().map_or_else(|| self.node_id(), |former| former.node)
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

    pub(crate) const fn papers(&self) -> &Papers {
        &self.papers
    }

    /// The organisation's signed revocation list, when one was installed.
    pub(crate) fn revocations(&self) -> Result<Option<Vec<u8>>, HomeError> {
        read_armoured(&self.dir.join(REVOCATIONS), Kind::Revocations)
    }

    pub(crate) const fn node_key(&self) -> &SigningKey {
        &self.keys.key
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
pub(crate) fn disk_free(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

impl Names {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names are plain data")
    }
}

fn read_names(dir: &Path) -> Result<Names, HomeError> {
    let path = dir.join(SETTINGS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(HomeError::NotInitialised { dir: dir.to_owned() });
        }
        Err(source) => return Err(HomeError::Io { path, source }),
    };
    serde_json::from_slice(&text).map_err(|_| HomeError::Damaged {
        path,
        expected: "the names of organisation and node in JSON",
    })
}

/// The organisation's answer, if one was installed, with the certificate in it: the one for the key in use where there are two.
fn read_answer(dir: &Path) -> Result<Option<(Answer, NodeCert)>, HomeError> {
    let read = |bytes: &[u8]| -> Result<(Answer, NodeCert), HomeError> {
        let answer = Answer::decode(bytes)?;
        let cert = NodeCert::verify_at_any_time(&answer.cert)?;
        Ok((answer, cert))
    };
    let installed = read_armoured(&dir.join(PAPERS), Kind::Answer)?;
    let installed = installed.as_deref().map(read).transpose()?;
    let keys = Keys::read(dir)?;
    let of_key = keys.answer.as_deref().map(read).transpose()?;
    let is_in_use = |found: &(Answer, NodeCert)| found.1.node == keys.node();
    Ok(match of_key {
        Some(of_key) if !installed.as_ref().is_some_and(is_in_use) => Some(of_key),
        _ => installed,
    })
}

/// Which of the node's keys is in use, from 1.
fn generation(dir: &Path, keys: &Keys) -> Result<u32, HomeError> {
    match keys.generation {
        Some(generation) => Ok(generation),
        None => Ok(read_answer(dir)?.map_or(1, |(_, cert)| cert.generation)),
    }
}

fn next_id(keys: &Keys) -> Option<NodeId> {
    keys.next.as_ref().map(|(key, _)| key.verifying_key().into())
}

/// Whether papers are those that the next key waits for.
fn is_for_next(keys: &Keys, answer: &Answer) -> bool {
    let cert = NodeCert::verify_at_any_time(&answer.cert);
    cert.is_ok_and(|cert| next_id(keys) == Some(cert.node))
}

/// In whose name the node in a directory speaks: with the root key, with the issuer's, or with what it was given.
fn read_papers(dir: &Path) -> Result<Papers, HomeError> {
    let found = || -> Result<(u32, Vec<Vec<u8>>), HomeError> {
        let keys = Keys::read(dir)?;
        Ok((generation(dir, &keys)?, keys.successions))
    };
    if dir.join(ORG_KEY).exists() {
        let authority = Box::new(Authority::root(read_key(&dir.join(ORG_KEY))?));
        let (generation, successions) = found()?;
        return Ok(Papers::Authority { authority, generation, successions });
    }
    let Some((answer, _)) = read_answer(dir)? else {
        return Err(HomeError::NoPapers { dir: dir.to_owned() });
    };
    Ok(match read_issuer(dir)? {
        Some(authority) => {
            let (generation, successions) = found()?;
            Papers::Authority { authority: Box::new(authority), generation, successions }
        }
        None => Papers::Enrolled(Box::new(answer)),
    })
}

/// The issuer that the installed papers name, of whatever key they are, while it may sign.
fn read_issuer(dir: &Path) -> Result<Option<Authority>, HomeError> {
    let Some(bytes) = read_armoured(&dir.join(PAPERS), Kind::Answer)? else { return Ok(None) };
    let Some(cert) = Answer::decode(&bytes)?.issuer else { return Ok(None) };
    let authority = Authority::issuer(read_key(&dir.join(ISSUER_KEY))?, cert)?;
    Ok((authority.until_ms() > super::org::now_ms()).then_some(authority))
}

/// What signs for the organisation of a directory, and the organisation's name.
pub(super) fn read_authority(dir: &Path) -> Result<Option<(Authority, String)>, HomeError> {
    match read_papers(dir)? {
        Papers::Authority { authority, .. } => Ok(Some((*authority, read_names(dir)?.org_name))),
        Papers::Enrolled(_) => Ok(None),
    }
}

pub(super) fn read_armoured(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, HomeError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HomeError::Io { path: path.to_owned(), source }),
    };
    let bytes = armour::read_as(kind, &text);
    bytes.map(Some).map_err(|source| HomeError::Armour { path: path.to_owned(), source })
}

pub(super) fn checked(name: &str) -> Result<String, HomeError> {
    let name = name.trim();
    let is_good =
        !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control);
    if is_good {
        Ok(name.to_owned())
    } else {
        Err(HomeError::Name { name: name.chars().take(80).collect() })
    }
}

pub(super) fn make_dir(dir: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| HomeError::Io { path: dir.to_owned(), source })
}

/// Makes secrets of 32 random bytes each.
pub(super) fn make_keys(dir: &Path, files: &[&str]) -> Result<(), HomeError> {
    files.iter().try_for_each(|file| {
        let bytes: [u8; 32] = random()?;
        write_private(&dir.join(file), format!("{}\n", to_hex(&bytes)).as_bytes())
    })
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], HomeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| HomeError::Random)?;
    Ok(bytes)
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

/// Puts a file in place of the one there: whole, or not at all.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    // A leftover of an interrupted change.
    drop(fs::remove_file(&temp));
    write_private(&temp, bytes)?;
    let renamed = fs::rename(&temp, path).and_then(|()| {
        fs::File::open(path.parent().unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all())
    });
    renamed.map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

pub(super) fn read_key(path: &Path) -> Result<SigningKey, HomeError> {
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
    fn an_organisation_is_renamed_where_its_root_key_is() {
        let dir = tempfile::tempdir().unwrap();
        let made = Home::init(dir.path(), "Survey Office", Some("edge")).unwrap();
        Home::rename(dir.path(), " Survey Office East ").unwrap();
        let again = Home::open(dir.path()).unwrap();
        assert_eq!((again.org_name(), again.node_name()), ("Survey Office East", "edge"));
        assert_eq!(again.org_id(), made.org_id());
        assert!(matches!(Home::rename(dir.path(), "\n"), Err(HomeError::Name { .. })));
        fs::remove_file(dir.path().join(ORG_KEY)).unwrap();
        assert!(matches!(Home::rename(dir.path(), "Other"), Err(HomeError::NoOrgKey { .. })));
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
