//! The keys of a node in its home: the one in use, those before it, and the one that comes next.
//!
//! A node begins with one key in `node.key`. From its first change of key on all of them are in `node.keys`, one file that is
//! replaced whole, so that a crash at any moment leaves either the state before or the one after: the old key in use with the
//! new one ready, or the new one in use with the old one beside it. Whoever changes the file holds `node.keys.lock`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use catalog::NodeId;
use catalog::OrgId;
use catalog::cert::{Answer, NodeCert, SUCCESSIONS_MAX, Succession};
use catalog::id::{from_hex, to_hex};
use ed25519_dalek::SigningKey;

use super::home::{HomeError, NODE_KEY, random, read_key, replace_private};
use crate::engine::rotation::Former;

/// All keys of a node that has changed its key, or is about to.
const KEYS: &str = "node.keys";
const LOCK: &str = "node.keys.lock";
/// Keys that a node may have had: their public halves stay, for its old channels. At the bound the node is made anew.
const FORMER_MAX: usize = 256;

/// The file.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Stored {
    key: String,
    generation: u32,
    /// What the keys before it say, the newest first.
    successions: Vec<String>,
    /// What the organisation answered for this key, when it was asked by file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    former: Vec<StoredFormer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredFormer {
    node: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    since_ms: u64,
}

/// A key that is ready to come into the place of the one in use.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Next {
    key: String,
    /// The old key's word for it.
    succession: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

/// A node's keys.
#[derive(Clone)]
pub(super) struct Keys {
    /// The one in use.
    pub(super) key: SigningKey,
    /// Which that is, from 1; nothing where only the papers say it.
    pub(super) generation: Option<u32>,
    pub(super) successions: Vec<Vec<u8>>,
    pub(super) answer: Option<Vec<u8>>,
    pub(super) former: Vec<Former>,
    /// The next one, with what the organisation answered for it.
    pub(super) next: Option<(SigningKey, Option<Vec<u8>>)>,
}

/// A new key that waits to be taken into use.
#[derive(Clone, Debug)]
pub struct Staged {
    /// It.
    pub node: NodeId,
    /// Which of the node's keys it is.
    pub generation: u32,
    /// What it and the keys before it say of each other, the newest first.
    pub successions: Vec<Vec<u8>>,
    pub(super) key: SigningKey,
}

impl Keys {
    /// The keys in a home.
    pub(super) fn read(dir: &Path) -> Result<Self, HomeError> {
        let Some(stored) = Stored::read(dir)? else {
            let key = read_key(&dir.join(NODE_KEY))?;
            let (successions, former) = (Vec::new(), Vec::new());
            return Ok(Self {
                key,
                generation: None,
                successions,
                answer: None,
                former,
                next: None,
            });
        };
        let former = stored.former.iter().map(|one| {
            let key = one.key.as_deref().map(|hex| secret(dir, hex)).transpose()?;
            Ok(Former { node: one.node, key, since_ms: one.since_ms })
        });
        let next = match &stored.next {
            Some(next) => {
                let answer = next.answer.as_deref().map(|hex| bytes(dir, hex)).transpose()?;
                Some((secret(dir, &next.key)?, answer))
            }
            None => None,
        };
        let successions = stored.successions.iter().map(|hex| bytes(dir, hex));
        Ok(Self {
            key: secret(dir, &stored.key)?,
            generation: Some(stored.generation),
            successions: successions.collect::<Result<_, _>>()?,
            answer: stored.answer.as_deref().map(|hex| bytes(dir, hex)).transpose()?,
            former: former.collect::<Result<_, HomeError>>()?,
            next,
        })
    }

    /// The id of the key in use.
    pub(super) fn node(&self) -> NodeId {
        self.key.verifying_key().into()
    }
}

/// Makes the next key, and has the one in use name it; or finds the one that was made before.
///
/// # Errors
/// See [`HomeError`]; [`HomeError::Rotations`] when too many keys before it are not at rest yet.
pub(super) fn stage(
    dir: &Path,
    (org, generation): (OrgId, u32),
    now_ms: u64,
) -> Result<Staged, HomeError> {
    let _held = lock(dir)?;
    let keys = Keys::read(dir)?;
    let mut stored = match Stored::read(dir)? {
        Some(stored) => stored,
        None => Stored {
            key: to_hex(&keys.key.to_bytes()),
            generation,
            successions: Vec::new(),
            answer: None,
            former: Vec::new(),
            next: None,
        },
    };
    if stored.next.is_none() {
        let kept = stored.former.iter().filter(|former| former.key.is_some()).count();
        if kept >= SUCCESSIONS_MAX || stored.former.len() >= FORMER_MAX {
            return Err(HomeError::Rotations { dir: dir.to_owned(), kept });
        }
        let next = SigningKey::from_bytes(&random()?);
        let word = Succession {
            old: keys.node(),
            new: next.verifying_key().into(),
            org,
            generation: stored.generation.saturating_add(1),
            made_ms: now_ms,
        };
        stored.next = Some(Next {
            key: to_hex(&next.to_bytes()),
            succession: to_hex(&word.sign(&keys.key)),
            answer: None,
        });
        stored.write(dir)?;
    }
    let next = stored.next.as_ref().ok_or_else(|| damaged(dir))?;
    let key = secret(dir, &next.key)?;
    Ok(Staged {
        node: key.verifying_key().into(),
        generation: stored.generation.saturating_add(1),
        successions: stored.chain(dir, next)?,
        key,
    })
}

/// Keeps what the organisation answered for the next key.
pub(super) fn keep_answer(dir: &Path, answer: &[u8]) -> Result<(), HomeError> {
    let _held = lock(dir)?;
    let mut stored = Stored::read(dir)?.ok_or_else(|| damaged(dir))?;
    let next = stored.next.as_mut().ok_or_else(|| damaged(dir))?;
    next.answer = Some(to_hex(answer));
    stored.write(dir)
}

/// Takes the next key into use, when there is one that can be: with `can_certify` the home makes its papers by itself, and else
/// they have to be there. One write does it. True when the key has changed.
pub(super) fn take_over(dir: &Path, can_certify: bool, now_ms: u64) -> Result<bool, HomeError> {
    let _held = lock(dir)?;
    let Some(mut stored) = Stored::read(dir)? else { return Ok(false) };
    let Some(next) = stored.next.clone() else { return Ok(false) };
    let successions = match (&next.answer, can_certify) {
        (Some(answer), false) => {
            let answer = Answer::decode(&bytes(dir, answer)?)?;
            NodeCert::verify_at_any_time(&answer.cert)?.successions.unwrap_or_default()
        }
        (_, true) => stored.chain(dir, &next)?,
        (None, false) => return Ok(false),
    };
    let old = SigningKey::from_bytes(&from_hex(&stored.key).ok_or_else(|| damaged(dir))?);
    stored.former.push(StoredFormer {
        node: old.verifying_key().into(),
        key: Some(std::mem::replace(&mut stored.key, next.key)),
        since_ms: now_ms,
    });
    stored.generation = stored.generation.saturating_add(1);
    stored.successions = successions.iter().map(|word| to_hex(word)).collect();
    (stored.answer, stored.next) = (next.answer, None);
    stored.write(dir)?;
    Ok(true)
}

/// Removes the secret of a key that the node had.
pub(super) fn forget(dir: &Path, node: NodeId) -> Result<(), HomeError> {
    let _held = lock(dir)?;
    let Some(mut stored) = Stored::read(dir)? else { return Ok(()) };
    stored.former.iter_mut().filter(|former| former.node == node).for_each(|f| f.key = None);
    stored.write(dir)
}

impl Stored {
    fn read(dir: &Path) -> Result<Option<Self>, HomeError> {
        let path = dir.join(KEYS);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|_| damaged(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// Replaces the file, and removes the one that it has come in the place of.
    fn write(&self, dir: &Path) -> Result<(), HomeError> {
        let text = serde_json::to_vec_pretty(self).expect("keys are plain data");
        replace_private(&dir.join(KEYS), &text)?;
        match fs::remove_file(dir.join(NODE_KEY)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(HomeError::Io { path: dir.join(NODE_KEY), source })
            }
            _ => Ok(()),
        }
    }

    /// What the keys up to the next one say, the newest first, as many as a certificate holds.
    fn chain(&self, dir: &Path, next: &Next) -> Result<Vec<Vec<u8>>, HomeError> {
        let all = std::iter::once(&next.succession).chain(&self.successions);
        all.take(SUCCESSIONS_MAX).map(|hex| bytes(dir, hex)).collect()
    }
}

/// Waits until nobody else changes the keys; others wait until the file is dropped.
fn lock(dir: &Path) -> Result<File, HomeError> {
    let path = dir.join(LOCK);
    let opened =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let locked = opened.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| HomeError::Io { path, source })
}

fn damaged(dir: &Path) -> HomeError {
    HomeError::Damaged { path: dir.join(KEYS), expected: "the node's keys in JSON" }
}

fn secret(dir: &Path, hex: &str) -> Result<SigningKey, HomeError> {
    Ok(SigningKey::from_bytes(&from_hex(hex).ok_or_else(|| damaged(dir))?))
}

fn bytes(dir: &Path, hex: &str) -> Result<Vec<u8>, HomeError> {
    let digits: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    digits.filter(|_| hex.len().is_multiple_of(2) && hex.is_ascii()).ok_or_else(|| damaged(dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::org::{LIFE_MS_MAX, Org, now_ms};
    use super::*;
    use crate::engine::Papers;
    use crate::shell::Home;

    fn ids(dir: &Path) -> (NodeId, Vec<(NodeId, bool)>) {
        let home = Home::open(dir).unwrap();
        let former = home.former().iter().map(|former| (former.node, former.key.is_some()));
        (home.node_id(), former.collect())
    }

    #[test]
    fn the_next_key_comes_into_use_by_one_write_and_the_one_before_stays_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::init(dir.path(), "Org", Some("rack-7")).unwrap();
        let before = fs::read(dir.path().join(NODE_KEY)).unwrap();
        assert!(!first.is_next_ready());
        let staged = Home::stage(dir.path(), now_ms()).unwrap();
        assert_eq!(staged.generation, 2);
        assert_eq!(
            Home::stage(dir.path(), now_ms()).unwrap().node,
            staged.node,
            "it is not made twice"
        );
        assert_eq!(ids(dir.path()), (first.node_id(), vec![]));
        let mode = fs::metadata(dir.path().join(KEYS)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.path().join(NODE_KEY).exists(), "no secret lies in two places");

        let home = Home::open(dir.path()).unwrap();
        assert!(home.is_next_ready());
        let home = home.take_over(5).unwrap();
        assert_eq!(ids(dir.path()), (staged.node, vec![(first.node_id(), true)]));
        let Papers::Authority { generation, successions, .. } = home.papers() else {
            panic!("the root key is here")
        };
        assert_eq!((*generation, successions), (2, &staged.successions));
        // Nothing is ready any more; the next start changes nothing.
        assert_eq!(home.clone().take_over(6).unwrap().node_id(), staged.node);
        // A crash between the write and the removal of what it came in the place of.
        fs::write(dir.path().join(NODE_KEY), before).unwrap();
        assert_eq!(ids(dir.path()).0, staged.node);
        Home::forget_key(dir.path(), first.node_id()).unwrap();
        assert_eq!(ids(dir.path()), (staged.node, vec![(first.node_id(), false)]));
        assert!(!dir.path().join(NODE_KEY).exists());
    }

    #[test]
    fn no_more_keys_change_than_can_be_told_while_the_ones_before_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let mut home = Home::init(dir.path(), "Org", None).unwrap();
        let first = home.node_id();
        for n in 0..SUCCESSIONS_MAX {
            let _ = Home::stage(dir.path(), 1).unwrap();
            home = Home::open(dir.path()).unwrap().take_over(n as u64).unwrap();
        }
        assert!(matches!(Home::stage(dir.path(), 1), Err(HomeError::Rotations { kept: 3, .. })));
        Home::forget_key(dir.path(), first).unwrap();
        assert_eq!(Home::stage(dir.path(), 1).unwrap().successions.len(), SUCCESSIONS_MAX);
        assert_ne!(home.node_id(), first);
    }

    #[test]
    fn a_node_without_a_key_of_its_organisation_changes_when_its_papers_have_come() {
        let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let org = Org::create(root.path(), "Survey Office").unwrap();
        let answer = |text: &str| {
            let path = root.path().join("carried");
            fs::write(&path, text).unwrap();
            let request = org.read_request(&path).unwrap();
            let (_, text) = org.enroll(&request, LIFE_MS_MAX).unwrap();
            catalog::cert::armour::read_as(catalog::cert::armour::Kind::Answer, &text).unwrap()
        };
        let (_, text) =
            Home::request(dir.path(), Some("rack-7"), (false, false), now_ms()).unwrap();
        let first = Home::install(dir.path(), &answer(&text), now_ms()).unwrap();
        let (request, text) = Home::request_next(dir.path(), now_ms()).unwrap();
        assert_eq!((request.name.as_str(), request.generation), ("rack-7", 2));
        let home = Home::open(dir.path()).unwrap();
        assert!(!home.is_next_ready());
        assert_eq!(home.take_over(1).unwrap().node_id(), first.node_id(), "not without papers");
        let home = Home::install(dir.path(), &answer(&text), now_ms()).unwrap();
        assert_eq!(home.node_id(), first.node_id(), "not while the node may run");
        let home = home.take_over(2).unwrap();
        assert_eq!(home.node_id(), request.node);
        let Papers::Enrolled(papers) = home.papers() else { panic!("no key is here") };
        let cert = NodeCert::verify(&papers.cert, now_ms()).unwrap();
        assert_eq!((cert.node, cert.predecessors()), (request.node, vec![first.node_id()]));
        // It asks for newer papers of the key that it has now, and its name stands for all its keys.
        let (again, text) = Home::request(dir.path(), None, (false, false), now_ms()).unwrap();
        assert_eq!((again.node, again.generation), (request.node, 2));
        Home::install(dir.path(), &answer(&text), now_ms()).unwrap();
        let (list, _) = org.revoke(&["rack-7".to_owned()]).unwrap();
        assert_eq!(list.keys.len(), 2);
    }
}
