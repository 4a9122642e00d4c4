//! What was changed by the API, by whom, as lines that are only ever added: `audit.log` in the home.
//!
//! Each line is a JSON object and names the hash of the line before it, so that one which was changed or taken out later is seen by
//! whoever has a newer line or looks at the whole. Nothing of bodies and no secret stands there. The log is the owner's: other users
//! of the machine cannot read it. A full file makes room for the next by becoming `audit.log.1`, and so on up to [`FILES_MAX`].
//!
//! A change whose line cannot be written has been made all the same; the node's log says so and the figures count it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use catalog::Digest;

use super::health::remote;
use super::observe::RequestId;
use crate::identity::Caller;

/// The newest file.
const FILE: &str = "audit.log";
/// Bytes of a file after which the next one begins.
const FILE_LEN_MAX: u64 = 8 << 20;
/// Files in all; the oldest goes when there would be more.
const FILES_MAX: u32 = 5;
/// Longest path in bytes that is written down; of a longer one the beginning.
const PATH_LEN_MAX: usize = 256;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Entry {
    /// When it was answered (Unix ms).
    pub(crate) at_ms: u64,
    /// `owner`, a person as `organisation issuer subject`, or `nobody` on the way to a login.
    pub(crate) caller: String,
    /// From where, as far as it is known.
    pub(crate) from: Option<IpAddr>,
    pub(crate) method: String,
    /// The described route.
    pub(crate) route: String,
    /// What was asked for, without the query.
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) request: String,
    /// The hash of the line before.
    pub(crate) after: Option<Digest>,
}

/// The log of one home.
#[derive(Debug)]
pub struct Audit {
    dir: PathBuf,
    open: Mutex<Open>,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    last: Option<Digest>,
}

impl Audit {
    /// Opens the log of a home, and goes on after its last line.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let last = read_file(&dir.join(FILE))?.last().map(|line| Digest::of(line.as_bytes()));
        let file = append(&dir.join(FILE))?;
        let length = file.metadata()?.len();
        let open = Mutex::new(Open { file, length, last });
        Ok(Self { dir: dir.to_owned(), open, failures: AtomicU64::new(0) })
    }

    /// Lines that could not be written since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Adds a line.
    fn add(&self, mut entry: Entry) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.length >= FILE_LEN_MAX {
            rotate(&self.dir)?;
            let file = append(&self.dir.join(FILE))?;
            *open = Open { file, length: 0, last: open.last };
        }
        entry.after = open.last;
        let text = serde_json::to_string(&entry)?;
        open.file.write_all(format!("{text}\n").as_bytes())?;
        open.length += text.len() as u64 + 1;
        open.last = Some(Digest::of(text.as_bytes()));
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn numbered(dir: &Path, number: u32) -> PathBuf {
    if number == 0 { dir.join(FILE) } else { dir.join(format!("{FILE}.{number}")) }
}

/// Each file becomes the one after it; the oldest goes.
fn rotate(dir: &Path) -> io::Result<()> {
    for number in (0..FILES_MAX - 1).rev() {
        match fs::rename(numbered(dir, number), numbered(dir, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(path) {
        // A line that a power cut left unfinished counts as one: the next names it.
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The log as it lies in a home.
#[derive(Debug)]
pub(crate) struct Read {
    /// The newest last.
    pub(crate) entries: Vec<Entry>,
    /// Lines that are no entries, or whose line before is another one than they name.
    pub(crate) broken: usize,
}

/// Reads the whole log of a home.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn read(dir: &Path) -> io::Result<Read> {
    let mut found = Read { entries: Vec::new(), broken: 0 };
    let mut last: Option<Digest> = None;
    for number in (0..FILES_MAX).rev() {
        for line in read_file(&numbered(dir, number))? {
            let entry = serde_json::from_str::<Entry>(&line).ok();
            // What came before the first line that is kept is not known.
            let follows = entry.as_ref().is_some_and(|e| last.is_none() || e.after == last);
            found.broken += usize::from(!follows);
            found.entries.extend(entry);
            last = Some(Digest::of(line.as_bytes()));
        }
    }
    Ok(found)
}

/// Writes down what changes something, when it has been answered. It stands behind the guard: what that refuses changes nothing.
pub(super) async fn audit(
    State(audit): State<Arc<Audit>>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let mut entry = Entry {
        at_ms: 0,
        caller: caller(request.extensions().get::<Caller>()),
        from: remote(&request).map(|address| address.ip()),
        method: request.method().as_str().chars().take(16).collect(),
        route: request.extensions().get::<MatchedPath>().map_or("none", |p| p.as_str()).to_owned(),
        path: cut(request.uri().path(), PATH_LEN_MAX).to_owned(),
        status: 0,
        request: request.extensions().get::<RequestId>().map_or("", |id| &id.0).to_owned(),
        after: None,
    };
    let response = next.run(request).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    entry.at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    entry.status = response.status().as_u16();
    let log = Arc::clone(&audit);
    // Written before the answer goes out.
    let written = tokio::task::spawn_blocking(move || log.add(entry)).await;
    let error = match written {
        Ok(Ok(())) => return response,
        Ok(Err(error)) => error,
        Err(error) => io::Error::other(error),
    };
    audit.failures.fetch_add(1, Ordering::Relaxed);
    tracing::error!(%error, "a change cannot be written to the audit log");
    response
}

fn caller(caller: Option<&Caller>) -> String {
    match caller {
        None => "nobody".to_owned(),
        Some(Caller::Owner) => "owner".to_owned(),
        Some(Caller::Person(person)) => {
            format!("{} {} {}", person.org, person.issuer, person.subject)
        }
    }
}

/// The beginning of a text, not longer than that.
fn cut(text: &str, length: usize) -> &str {
    let end = (0..=length.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry {
            at_ms: n,
            caller: "owner".to_owned(),
            from: None,
            method: "POST".to_owned(),
            route: "/api/v1/runs".to_owned(),
            path: "/api/v1/runs".to_owned(),
            status: 201,
            request: n.to_string(),
            after: None,
        }
    }

    #[test]
    fn lines_are_added_over_restarts_and_a_changed_one_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 {
            Audit::open(dir.path()).unwrap().add(entry(n)).unwrap();
        }
        let found = read(dir.path()).unwrap();
        assert_eq!((found.entries.len(), found.broken), (3, 0));
        assert_eq!(found.entries[2].at_ms, 2);
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"status\":201", "\"status\":403", 1)).unwrap();
        assert_eq!(read(dir.path()).unwrap().broken, 1);
        let rest: Vec<&str> = text.lines().collect();
        fs::write(&path, format!("{}\n{}\n", rest[0], rest[2])).unwrap();
        assert_eq!(read(dir.path()).unwrap().broken, 1);
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        for n in 0..u64::from(FILES_MAX) + 2 {
            audit.add(entry(n)).unwrap();
            audit.open.lock().unwrap().length = FILE_LEN_MAX;
        }
        let found = read(dir.path()).unwrap();
        let kept: Vec<u64> = found.entries.iter().map(|entry| entry.at_ms).collect();
        assert_eq!((kept, found.broken), (vec![2, 3, 4, 5, 6], 0));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("", 2), "");
    }
}
