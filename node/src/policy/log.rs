//! The log of decisions: who wanted what, what was decided, and by which policies.
//!
//! One line of JSON each in `policy.log` of the home. When that is full it takes the place of `policy.log.old`, so that at least
//! [`FILE_BYTES`] less a line are kept, and twice as much at most. What is decided about the owner is not written down: no policy
//! applies to it. The same decision within a minute is counted, not written again, so that whoever asks in a loop does not
//! push out the rest. A line holds names and no secret, and none of the text of a policy.
//!
//! Nothing waits for the disk: a crash may cost the last lines, a full disk those that come meanwhile, which is warned of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Decision, Request};
use crate::schema;

/// A file that would become longer by a line is full.
const FILE_BYTES: u64 = 4 << 20;
/// Longest line that is read; a longer one was not written by this program.
const LINE_LEN_MAX: u64 = 64 << 10;
/// For how long the same decision is counted and not written, in milliseconds.
const SAME_MS: u64 = 60_000;
/// Decisions that are remembered to be counted; at the bound all are forgotten, and written again when they come.
const SAME_MAX: usize = 1_024;
/// Policies named in a line; the others are as good as these.
const POLICIES_MAX: usize = 8;
/// Longest problem in a line, in characters.
const ERROR_LEN_MAX: usize = 400;
/// Most lines in an answer.
pub const PAGE_MAX: usize = 500;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = PolicyLogEntry)]
pub struct Entry {
    /// Its number; they only grow.
    pub seq: u64,
    /// When (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub at_ms: u64,
    /// Who, as `KIND:NAME`.
    pub principal: String,
    /// What it wanted to do.
    pub action: String,
    /// With what, as `KIND:NAME`.
    pub resource: String,
    /// Whether it might.
    pub allowed: bool,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// What went wrong on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// How often the same was decided since the last line that says so.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Lines, newest first.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = PolicyLog)]
pub struct Page {
    /// The lines.
    pub entries: Vec<Entry>,
    /// What to give as `before` for the next page; absent on the last.
    #[schema(required)]
    pub next: Option<u64>,
}

type Key = (String, String, String, bool);

#[derive(Debug, Default)]
struct State {
    seq: u64,
    /// When each was last written, and how often it came since.
    same: BTreeMap<Key, (u64, u64)>,
    is_failing: bool,
}

/// The log of a home.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    state: Mutex<State>,
}

impl Log {
    /// The log of a home; it goes on after the last line there.
    #[must_use]
    pub fn open(home: &Path) -> Self {
        let path = home.join("policy.log");
        let last = |path: &Path| lines(path).ok().and_then(|lines| lines.last().map(|e| e.seq));
        let seq = last(&path).or_else(|| last(&old(&path))).unwrap_or(0);
        Self { path, state: Mutex::new(State { seq, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a decision down.
    pub fn note(&self, request: &Request, decision: &Decision, now_ms: u64) {
        let (principal, resource) = (request.principal.told(), request.resource.told());
        self.write((principal, request.action.to_string(), resource), decision, now_ms);
    }

    fn write(
        &self,
        (principal, action, resource): (String, String, String),
        decision: &Decision,
        now_ms: u64,
    ) {
        let mut state = self.state();
        let key = (principal, action, resource, decision.allowed);
        if let Some((at, count)) = state.same.get_mut(&key)
            && now_ms.saturating_sub(*at) < SAME_MS
        {
            *count += 1;
            return;
        }
        if state.same.len() >= SAME_MAX {
            state.same.clear();
        }
        let repeated = state.same.insert(key.clone(), (now_ms, 0)).map_or(0, |(_, count)| count);
        let (principal, action, resource, allowed) = key;
        state.seq += 1;
        let entry = Entry {
            seq: state.seq,
            at_ms: now_ms,
            principal,
            action,
            resource,
            allowed,
            policies: decision.policies.iter().take(POLICIES_MAX).cloned().collect(),
            error: decision.errors.first().map(|e| e.chars().take(ERROR_LEN_MAX).collect()),
            repeated,
        };
        let mut line = serde_json::to_vec(&entry).expect("an entry is plain data");
        line.push(b'\n');
        let written = append(&self.path, &line);
        match written {
            Err(error) if !state.is_failing => {
                tracing::warn!(path = %self.path.display(), %error, "decisions cannot be written down");
                state.is_failing = true;
            }
            Err(_) => {}
            Ok(()) => state.is_failing = false,
        }
    }

    /// The newest lines, or those before a number; at most [`PAGE_MAX`].
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn read(&self, before: Option<u64>, limit: usize) -> io::Result<Page> {
        let mut entries = {
            // So that no line moves from one file to the other meanwhile.
            let _state = self.state();
            let mut entries = lines(&old(&self.path))?;
            entries.extend(lines(&self.path)?);
            entries
        };
        entries.retain(|entry| before.is_none_or(|before| entry.seq < before));
        let limit = limit.clamp(1, PAGE_MAX);
        let more = entries.len() > limit;
        let entries: Vec<Entry> = entries.into_iter().rev().take(limit).collect();
        let next = entries.last().map(|entry| entry.seq).filter(|_| more);
        Ok(Page { entries, next })
    }
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = || File::options().create(true).append(true).mode(0o600).open(path);
    let mut file = open()?;
    let len = file.metadata()?.len();
    if len > 0 && len.saturating_add(line.len() as u64) > FILE_BYTES {
        fs::rename(path, old(path))?;
        file = open()?;
    }
    file.write_all(line)
}

/// The lines of a file; those that a crash cut off or somebody spoiled are passed over.
fn lines(path: &Path) -> io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut reader = BufReader::new(io::Read::take(file, 2 * FILE_BYTES));
    let (mut entries, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if io::Read::take(&mut reader, LINE_LEN_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(entries);
        }
        entries.extend(serde_json::from_slice::<Entry>(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(allowed: bool) -> Decision {
        Decision { allowed, policies: vec!["default/admins".to_owned()], errors: Vec::new() }
    }

    fn note(log: &Log, who: &str, allowed: bool, now_ms: u64) {
        let words = (who.to_owned(), "submit".to_owned(), "node:x".to_owned());
        log.write(words, &decision(allowed), now_ms);
    }

    #[test]
    fn decisions_are_kept_in_order_over_restarts_and_come_in_pages() {
        let home = tempfile::tempdir().unwrap();
        let log = Log::open(home.path());
        assert_eq!(log.read(None, 10).unwrap(), Page { entries: Vec::new(), next: None });
        (0..5).for_each(|n| note(&log, &format!("user:{n}"), n % 2 == 0, n));
        drop(log);
        // A crash in the middle of a line.
        append(&home.path().join("policy.log"), b"{\"seq\":6,\"at\n").unwrap();
        let log = Log::open(home.path());
        note(&log, "user:5", false, 9);
        let first = log.read(None, 4).unwrap();
        let seqs = |page: &Page| page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>();
        assert_eq!((seqs(&first), first.next), (vec![6, 5, 4, 3], Some(3)));
        let rest = log.read(first.next, 4).unwrap();
        assert_eq!((seqs(&rest), rest.next), (vec![2, 1], None));
        assert_eq!(first.entries[0].policies, ["default/admins"]);
        assert!(!first.entries[0].allowed && first.entries[1].allowed);
    }

    #[test]
    fn the_same_decision_is_counted_for_a_minute() {
        let home = tempfile::tempdir().unwrap();
        let log = Log::open(home.path());
        for now_ms in 0..100 {
            note(&log, "user:a", false, now_ms);
        }
        note(&log, "user:a", true, 100);
        note(&log, "user:a", false, SAME_MS);
        let page = log.read(None, 10).unwrap();
        let told: Vec<_> = page.entries.iter().map(|e| (e.allowed, e.repeated)).collect();
        assert_eq!(told, [(false, 99), (true, 0), (false, 0)]);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let home = tempfile::tempdir().unwrap();
        let log = Log::open(home.path());
        let filler = vec![b' '; usize::try_from(FILE_BYTES).unwrap() - 10];
        for who in ["user:a", "user:b", "user:c"] {
            append(&log.path, &[&filler[..], b"\n"].concat()).unwrap();
            note(&log, who, true, 1);
        }
        let page = log.read(None, 10).unwrap();
        assert_eq!(page.entries[0].principal, "user:c");
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(len(&log.path) + len(&old(&log.path)) <= 2 * FILE_BYTES);
    }
}
