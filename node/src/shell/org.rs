//! What an organisation does with its keys, as files: it makes them, answers nodes that ask for papers, takes papers back.
//!
//! None of it needs a running node or a network, so the root key may lie on a machine that has neither. The directory of a
//! node that `opencloud init` made is the organisation's as well. Whom it has given papers stands in `issued.json`, so that
//! they can be taken back by name; a key can be taken back without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use catalog::cert::armour::{self, Kind};
use catalog::cert::{Authority, IssuerCert, NodeCert, Request, Revocations, Terms};
use catalog::{NodeId, OrgId};

use super::home::{
    HomeError, ORG_KEY, checked, make_dir, make_keys, random, read_armoured, read_authority,
    read_key, replace_private, write_private,
};

/// The organisation's newest revocation list, in the directory of the root and of nodes.
pub(super) const REVOCATIONS: &str = "revocations";
const ORG: &str = "org.json";
const ISSUED: &str = "issued.json";
/// How long a node's papers hold when nothing else is said, and at most: 30 days.
pub const LIFE_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// The clock, in Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct OrgNames {
    org_name: String,
}

/// Papers that were given out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Issued {
    /// The node's stable name.
    pub name: String,
    /// Its key.
    pub node: NodeId,
    /// Which of its keys that is.
    pub generation: u32,
    /// The issuer that was named with it, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When its papers end (Unix ms).
    pub until_ms: u64,
}

/// Where an organisation's key is.
#[derive(Debug)]
pub struct Org {
    dir: PathBuf,
    name: String,
    authority: Authority,
}

impl Org {
    /// Makes an organisation without a node.
    ///
    /// # Errors
    /// See [`HomeError`]; a directory that holds an organisation or a node is left as it is.
    pub fn create(dir: &Path, name: &str) -> Result<Self, HomeError> {
        let org_name = checked(name)?;
        make_dir(dir)?;
        if dir.join(ORG_KEY).exists() || super::Home::open(dir).is_ok() {
            return Err(HomeError::Initialised { dir: dir.to_owned() });
        }
        make_keys(dir, &[ORG_KEY])?;
        let text = serde_json::to_vec_pretty(&OrgNames { org_name }).expect("a name is plain data");
        write_private(&dir.join(ORG), &text)?;
        Self::open(dir)
    }

    /// Opens the directory of an organisation, or of a node that holds a key of its organisation.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let path = dir.join(ORG);
        let (authority, name) = match fs::read(&path) {
            Ok(text) => {
                let names: OrgNames = serde_json::from_slice(&text).map_err(|_| {
                    HomeError::Damaged { path, expected: "the organisation's name in JSON" }
                })?;
                (Authority::root(read_key(&dir.join(ORG_KEY))?), names.org_name)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let found = match read_authority(dir) {
                    Err(HomeError::NotInitialised { .. }) => None,
                    found => found?,
                };
                found.ok_or_else(|| HomeError::NoOrgKey { dir: dir.to_owned() })?
            }
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        Ok(Self { dir: dir.to_owned(), name, authority })
    }

    /// The organisation.
    #[must_use]
    pub const fn id(&self) -> OrgId {
        self.authority.org()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What signs for it here.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Reads a node's request.
    ///
    /// # Errors
    /// See [`HomeError`]: also when the node's key was taken back.
    pub fn read_request(&self, path: &Path) -> Result<Request, HomeError> {
        let text = fs::read_to_string(path)
            .map_err(|source| HomeError::Io { path: path.to_owned(), source })?;
        let bytes = armour::read_as(Kind::Request, &text)
            .map_err(|source| HomeError::Armour { path: path.to_owned(), source })?;
        Ok(Request::verify(&bytes)?)
    }

    /// Answers a request: signs papers, notes whom they were given, and returns the text to carry back.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn enroll(&self, request: &Request, life_ms: u64) -> Result<(NodeCert, String), HomeError> {
        let now_ms = now_ms();
        let org_name = self.name.clone();
        let terms = Terms { org_name, life_ms, now_ms, nonce: random()?, serial: now_ms };
        let answer = request.answer(&self.authority, &terms)?;
        let cert = answer.verify(request.node, request.issuer, now_ms)?;
        let issuer = match &answer.issuer {
            Some(bytes) => Some(IssuerCert::verify_at_any_time(bytes)?),
            None => None,
        };
        let mut issued = self.issued()?;
        issued.retain(|one| one.node != request.node);
        issued.push(Issued {
            name: request.name.clone(),
            node: request.node,
            generation: request.generation,
            until_ms: issuer.as_ref().map_or(cert.not_after_ms, |issuer| issuer.not_after_ms),
            issuer: issuer.map(|issuer| catalog::id::to_hex(&issuer.key)),
        });
        let text = serde_json::to_vec_pretty(&issued).expect("a register is plain data");
        replace_private(&self.dir.join(ISSUED), &text)?;
        Ok((cert, armour::write(Kind::Answer, &answer.encode())))
    }

    /// Whom papers were given from here.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn issued(&self) -> Result<Vec<Issued>, HomeError> {
        let path = self.dir.join(ISSUED);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|_| HomeError::Damaged {
                path,
                expected: "the nodes that were enrolled, in JSON",
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// The newest list of what was taken back.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn revocations(&self) -> Result<Revocations, HomeError> {
        match read_armoured(&self.dir.join(REVOCATIONS), Kind::Revocations)? {
            Some(bytes) => Ok(Revocations::verify(&bytes)?),
            None => Ok(Revocations::empty(self.id())),
        }
    }

    /// Takes back what was given to these: nodes by name or id, organisations by did:key. Returns the new list and its text.
    ///
    /// # Errors
    /// See [`HomeError`]; nothing is taken back then.
    pub fn revoke(&self, whom: &[String]) -> Result<(Revocations, String), HomeError> {
        let Some(root) = self.authority.root_key() else {
            return Err(HomeError::NotRoot { dir: self.dir.clone() });
        };
        let issued = self.issued()?;
        let mut keys = Vec::new();
        for name in whom {
            keys.extend(keys_of(&issued, name)?);
        }
        let list = self.revocations()?.with(keys)?;
        let text = armour::write(Kind::Revocations, &list.sign(root));
        replace_private(&self.dir.join(REVOCATIONS), text.as_bytes())?;
        Ok((list, text))
    }

    /// Keeps a newer list of the organisation in the directory of one of its nodes. False when it is not newer.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn keep_list(dir: &Path, bytes: &[u8]) -> Result<bool, HomeError> {
        let list = Revocations::verify(bytes)?;
        let path = dir.join(REVOCATIONS);
        if let Some(known) = read_armoured(&path, Kind::Revocations)?
            && !list.supersedes(&Revocations::verify(&known)?)
        {
            return Ok(false);
        }
        replace_private(&path, armour::write(Kind::Revocations, bytes).as_bytes())?;
        Ok(true)
    }
}

/// The node's key, with that of its issuer.
fn keys_given(one: &Issued) -> Vec<[u8; 32]> {
    let issuer = one.issuer.as_deref().and_then(catalog::id::from_hex);
    std::iter::once(*one.node.as_bytes()).chain(issuer).collect()
}

/// Whether entries of one name are the keys of one node, as they came after each other.
fn is_one_node(entries: &[&Issued]) -> bool {
    let mut generations: Vec<u32> = entries.iter().map(|one| one.generation).collect();
    generations.sort_unstable();
    generations.windows(2).all(|pair| pair[0] < pair[1])
}

/// The keys that a name stands for: a node's with that of its issuer, or the one that is written out.
fn keys_of(issued: &[Issued], name: &str) -> Result<Vec<[u8; 32]>, HomeError> {
    let unknown = || HomeError::Unknown { name: name.chars().take(80).collect() };
    if let Ok(org) = name.parse::<OrgId>() {
        return Ok(vec![*org.as_bytes()]);
    }
    let node = name.parse::<NodeId>().ok();
    let fits = |one: &&Issued| node.map_or(one.name == name, |node| one.node == node);
    let found: Vec<&Issued> = issued.iter().filter(fits).collect();
    match (found.as_slice(), node) {
        ([], Some(node)) => Ok(vec![*node.as_bytes()]),
        ([], None) => Err(unknown()),
        ([one], _) => Ok(keys_given(one)),
        // One node with several keys, each its own: none of them is let in any more.
        (many, None) if is_one_node(many) => {
            Ok(many.iter().flat_map(|one| keys_given(one)).collect())
        }
        (many, _) => Err(HomeError::Ambiguous { name: name.to_owned(), count: many.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Papers;
    use crate::shell::Home;

    fn carry(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("carried");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_node_is_enrolled_by_files_and_the_root_stays_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        let node = tempfile::tempdir().unwrap();
        let org = Org::create(root.path(), "Survey Office").unwrap();
        assert!(matches!(Org::create(root.path(), "Other"), Err(HomeError::Initialised { .. })));
        for is_issuer in [false, true] {
            let (_, text) =
                Home::request(node.path(), Some("rack-7"), (is_issuer, false), now_ms()).unwrap();
            if !is_issuer {
                assert!(matches!(Home::open(node.path()), Err(HomeError::NoPapers { .. })));
            }
            let request = org.read_request(&carry(root.path(), &text)).unwrap();
            let (_, text) = org.enroll(&request, LIFE_MS_MAX).unwrap();
            let bytes = armour::read_as(Kind::Answer, &text).unwrap();
            let home = Home::install(node.path(), &bytes, now_ms()).unwrap();
            assert_eq!((home.org_id(), home.org_name()), (org.id(), "Survey Office"));
            assert_eq!(home.node_name(), "rack-7");
            let can_sign = matches!(home.papers(), Papers::Authority { .. });
            assert_eq!(can_sign, is_issuer);
            assert_eq!(Org::open(node.path()).is_ok(), is_issuer);
        }
        assert!(!node.path().join(ORG_KEY).exists());
        assert_eq!(org.issued().unwrap().len(), 1);
        // What an issuer may not do.
        let issuer = Org::open(node.path()).unwrap();
        assert!(matches!(issuer.revoke(&["rack-7".to_owned()]), Err(HomeError::NotRoot { .. })));
        let (list, _) = org.revoke(&["rack-7".to_owned()]).unwrap();
        assert_eq!((list.serial, list.keys.len()), (1, 2), "the node and its issuer");
        assert!(matches!(org.revoke(&["rack-8".to_owned()]), Err(HomeError::Unknown { .. })));
        assert_eq!(org.revocations().unwrap(), list);
    }

    #[test]
    fn papers_of_another_node_or_organisation_are_not_installed() {
        let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
        let orgs = [0, 1].map(|n| Org::create(dirs[n].path(), "Org").unwrap());
        let request =
            |n: usize| Home::request(dirs[n].path(), None, (false, false), now_ms()).unwrap().0;
        let papers = |org: &Org, n: usize| {
            let text = org.enroll(&request(n), LIFE_MS_MAX).unwrap().1;
            armour::read_as(Kind::Answer, &text).unwrap()
        };
        let (own, foreign) = (papers(&orgs[0], 2), papers(&orgs[0], 3));
        assert!(matches!(
            Home::install(dirs[2].path(), &foreign, now_ms()),
            Err(HomeError::Papers(_))
        ));
        Home::install(dirs[2].path(), &own, now_ms()).unwrap();
        let other = papers(&orgs[1], 2);
        assert!(matches!(
            Home::install(dirs[2].path(), &other, now_ms()),
            Err(HomeError::Initialised { .. })
        ));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            Home::install(empty.path(), &own, now_ms()),
            Err(HomeError::NotInitialised { .. })
        ));
    }
}
