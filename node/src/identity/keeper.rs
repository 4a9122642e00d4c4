//! The book on disk: every change is there, whole and durable, before anybody is told of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::OrgId;

use super::book::{Account, Book, BookError, Origin, Session, Token};
use super::federation::Federation;
use super::provider::Providers;
use super::remote::Remote;
use super::secret::{SECRET_BYTES, Secret};
use super::{Caller, Person};
use crate::shell::org::now_ms;
use crate::shell::{Home, HomeError, replace_private};

/// The file in the home.
const FILE: &str = "identity.json";
/// Longest file that is read; a longer one was not written by this program, whose own bounds keep it below.
const FILE_LEN_MAX: u64 = 64 << 20;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("the change could not be written down")]
    Home(#[from] HomeError),
    #[error("this node is stopping: nothing is written down any more")]
    Stopping,
}

/// What let somebody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// The token of the home.
    HomeToken,
    /// A cookie of a browser.
    Session {
        /// When the session ends, if it is not used before.
        expires_ms: u64,
    },
    /// An access token.
    Token {
        /// When it ends.
        expires_ms: u64,
    },
}

/// Who a node's users are and what lets them in.
#[derive(Debug)]
pub struct Identity {
    path: PathBuf,
    org: OrgId,
    cookie: String,
    book: Mutex<Book>,
    /// Held by whoever makes a change, so that nobody who only looks waits for the disk.
    writer: Mutex<()>,
    pub(super) federation: Federation,
}

impl Identity {
    /// Reads the book of a home, which is empty where there is none. The caller holds the home's lock.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged: people are never locked out, or let in, by a book that was silently begun anew.
    pub fn open(home: &Home) -> Result<Self, HomeError> {
        let path = home.dir().join(FILE);
        let book = read(&path)?;
        // Browsers send cookies to every port of a host, so that of each node has a name of its own.
        let mark = blake3::hash(home.mark().as_bytes()).to_hex();
        let cookie = format!("opencloud-{}", mark.get(..8).unwrap_or_default());
        let federation = Federation::open(home)?;
        Ok(Self {
            path,
            org: home.org_id(),
            cookie,
            book: Mutex::new(book),
            writer: Mutex::default(),
            federation,
        })
    }

    /// The name of the cookie that carries a session.
    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// The organisation whose people these are.
    pub(crate) const fn org(&self) -> OrgId {
        self.org
    }

    /// The connected providers.
    pub(crate) const fn providers(&self) -> &Providers {
        &self.federation.providers
    }

    /// What is asked of them.
    pub(crate) const fn remote(&self) -> &Remote {
        &self.federation.remote
    }

    /// At which provider a session began.
    pub(crate) fn origin(&self, secret: &str) -> Option<Origin> {
        self.read(|book, now| book.session(secret, now)?.0.origin.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // A change is made to a copy, so a panic leaves the book as it was.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Book, u64) -> T) -> T {
        look(&self.lock(), now_ms())
    }

    /// Makes a change, with the time and fresh random bytes, and writes it down. Blocks while the disk works.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Book, (u64, &[u8; SECRET_BYTES])) -> Result<T, BookError>,
    ) -> Result<T, IdentityError> {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).map_err(|_| HomeError::Random)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lock().clone();
        let mut next = before.clone();
        let changed = change(&mut next, (now_ms(), &random))?;
        next.forget_grants();
        if next != before {
            write(&self.path, &next)?;
            *self.lock() = next;
        }
        Ok(changed)
    }

    /// As [`Self::change`], on a thread that may wait for the disk.
    pub(crate) async fn change_aside<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Book, (u64, &[u8; SECRET_BYTES])) -> Result<T, BookError>
        + Send
        + 'static,
    ) -> Result<T, IdentityError> {
        let identity = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || identity.change(change)).await;
        done.map_err(|_| IdentityError::Stopping)?
    }

    /// Who a session's secret stands for, and until when; and whether [`Self::note_use`] is to be called.
    pub(crate) fn by_session(&self, secret: &str) -> Option<((Caller, Entrance), bool)> {
        let book = self.lock();
        let now = now_ms();
        let (session, account) = book.session(secret, now)?;
        let entered = (caller(self.org, account), entrance(session));
        Some((entered, Book::is_used_late(session, now)))
    }

    /// Notes that a session is used. Nobody waits for it.
    pub(crate) fn note_use(self: &Arc<Self>, secret: &str) {
        let (identity, secret) = (Arc::clone(self), secret.to_owned());
        // Nobody needs its end.
        drop(tokio::task::spawn_blocking(move || {
            let noted = identity.change(|book, (now, _)| {
                let _ = book.touch(&secret, now);
                Ok(())
            });
            if let Err(error) = noted {
                // The session goes on, and ends earlier.
                tracing::warn!(%error, "the use of a session could not be written down");
            }
        }));
    }

    /// Who an access token stands for, and until when.
    pub(crate) fn by_token(&self, secret: &str) -> Option<(Caller, Entrance)> {
        let book = self.lock();
        let (Token { expires_ms, .. }, account) = book.token(secret, now_ms())?;
        Some((caller(self.org, Some(account)), Entrance::Token { expires_ms: *expires_ms }))
    }

    /// Uses a login link up.
    pub(crate) fn redeem(&self, link: &str) -> Result<Secret, IdentityError> {
        self.change(|book, at| book.redeem(link, at))
    }

    /// Makes a user.
    pub(crate) fn add(
        &self,
        name: &str,
        groups: &BTreeSet<String>,
        roles: &BTreeSet<String>,
    ) -> Result<String, IdentityError> {
        self.change(|book, at| book.add(name, groups, roles, at))
    }
}

fn caller(org: OrgId, account: Option<&Account>) -> Caller {
    let person = |account: &Account| -> Person { account.person(org) };
    account.map_or(Caller::Owner, |account| Caller::Person(Box::new(person(account))))
}

fn entrance(session: &Session) -> Entrance {
    Entrance::Session { expires_ms: session.expires_ms() }
}

fn read(path: &std::path::Path) -> Result<Book, HomeError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    let damaged = || HomeError::Damaged {
        path: path.to_owned(),
        expected: "the users of this node in JSON, as it wrote them,",
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Book::default()),
        Ok(meta) if meta.len() > FILE_LEN_MAX => return Err(damaged()),
        found => found.map(drop).map_err(io)?,
    }
    serde_json::from_slice(&std::fs::read(path).map_err(io)?).map_err(|_| damaged())
}

fn write(path: &std::path::Path, book: &Book) -> Result<(), HomeError> {
    replace_private(path, &serde_json::to_vec(book).expect("a book is plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_was_promised_is_there_after_a_restart_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::init(dir.path(), "Org", None).unwrap();
        let identity = Identity::open(&home).unwrap();
        identity.add("ada", &BTreeSet::from(["staff".to_owned()]), &BTreeSet::new()).unwrap();
        let (link, _) = identity.change(|book, at| book.link("ada", 60_000, at)).unwrap();
        let session = identity.redeem(link.text()).unwrap();
        let again = Identity::open(&home).unwrap();
        let Some(((Caller::Person(person), Entrance::Session { .. }), false)) =
            again.by_session(session.text())
        else {
            panic!("the session is gone");
        };
        assert_eq!((person.org, person.name.as_str()), (home.org_id(), "ada"));
        assert!(again.redeem(link.text()).is_err(), "used before the restart");
        let file = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(Identity::open(&home), Err(HomeError::Damaged { .. })));
    }

    #[test]
    fn what_could_not_be_written_down_did_not_happen() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::init(dir.path(), "Org", None).unwrap();
        let mut identity = Identity::open(&home).unwrap();
        identity.path = dir.path().join("absent").join(FILE);
        assert!(identity.add("ada", &BTreeSet::new(), &BTreeSet::new()).is_err());
        assert!(identity.read(|book, _| book.accounts().is_empty()));
    }
}
