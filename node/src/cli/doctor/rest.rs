//! What can be seen of a node that is not running.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use catalog::cert::NodeCert;

use super::Finding;
use crate::api::{self, chain};
use crate::cli::units::{bytes, span, time};
use crate::engine::Papers;
use crate::shell::{Home, disk_free};
use crate::store::lock::HomeLock;
use crate::store::truth::Truth;

/// Files that nobody but the owner may read, by the end of their names.
const SECRETS: [&str; 4] = [".key", "api.token", "identity.json", "providers.json"];
/// Files of a home that are looked at for their rights and times; further ones are not.
const FILES_MAX: usize = 256;
/// Papers that end sooner should have been renewed by now.
const PAPERS_SOON_MS: u64 = 7 * 24 * 3_600_000;
/// Clocks may differ so much from what a file's time says.
const CLOCK_SLACK_MS: u64 = 5 * 60_000;
/// Free disk below which a node is warned about, and below which it cannot go on for long.
const DISK_LOW: u64 = 2 << 30;
const DISK_OUT: u64 = 64 << 20;

/// Whether secrets are the owner's alone.
pub(super) fn permissions(dir: &Path) -> Vec<Finding> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) => {
            let found = format!("{} cannot be read: {error}", dir.display());
            let way_out =
                "give the node's directory with --home, or make a node with `opencloud init`";
            return vec![Finding::wrong("home", found, way_out)];
        }
    };
    let mut open = Vec::new();
    for entry in list.flatten().take(FILES_MAX) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_secret = SECRETS.iter().any(|end| name.ends_with(end));
        let mode = entry.metadata().map_or(0, |meta| meta.permissions().mode());
        if is_secret && mode & 0o077 != 0 {
            open.push(name);
        }
    }
    if open.is_empty() {
        let found = format!("{}: keys and token are the owner's alone", dir.display());
        return vec![Finding::ok("home", found)];
    }
    open.sort();
    let found = format!("others of this machine may read {}", open.join(", "));
    let paths: Vec<String> = open.iter().map(|name| dir.join(name).display().to_string()).collect();
    let way_out = format!("chmod 600 {}", paths.join(" "));
    vec![Finding::wrong("home", found, way_out)]
}

/// How long the node's papers hold.
pub(super) fn papers(home: &Home, now_ms: u64) -> Vec<Finding> {
    match home.papers() {
        Papers::Authority { authority, .. } => {
            let found = format!(
                "{} of {} ({}), signed here with a key of the organisation",
                home.node_name(),
                home.org_name(),
                authority.org()
            );
            vec![Finding::ok("papers", found)]
        }
        Papers::Enrolled(answer) => match NodeCert::verify_at_any_time(&answer.cert) {
            Ok(cert) => vec![term(home.node_name(), cert.not_before_ms, cert.not_after_ms, now_ms)],
            Err(error) => {
                let way_out = "ask the organisation for new ones: `opencloud org request`";
                vec![Finding::wrong("papers", chain(&error), way_out)]
            }
        },
    }
}

fn term(name: &str, from_ms: u64, until_ms: u64, now_ms: u64) -> Finding {
    let renew = "start the node where another node of its organisation is reached, or have `opencloud org request` answered";
    if now_ms >= until_ms {
        let found = format!("the certificate of {name} ended {}", time(until_ms));
        return Finding::wrong("papers", found, renew);
    }
    if now_ms.saturating_add(CLOCK_SLACK_MS) < from_ms {
        let found = format!("the certificate of {name} begins {}, which is not yet", time(from_ms));
        return Finding::wrong("papers", found, "set the clock of this machine");
    }
    let found = format!("the certificate of {name} holds until {}", time(until_ms));
    if until_ms.saturating_sub(now_ms) < PAPERS_SOON_MS {
        return Finding::warning("papers", found, renew);
    }
    Finding::ok("papers", found)
}

/// How long the certificate holds with which the API is served to other machines.
pub(super) fn served(dir: &Path, now_ms: u64) -> Option<Finding> {
    match api::served(dir) {
        Ok(served) => served.map(|(path, until_ms)| encrypted(&path, until_ms, now_ms)),
        Err(error) => {
            let way_out = "start the node with --tls, or with the files that --tls-cert and --tls-key are to name";
            Some(Finding::wrong("tls", chain(&error), way_out))
        }
    }
}

fn encrypted(path: &Path, until_ms: u64, now_ms: u64) -> Finding {
    let renew =
        "put a newer one in its place; with --tls the node makes its own anew while it runs";
    let path = path.display();
    if now_ms >= until_ms {
        let found = format!("the API's certificate {path} ended {}", time(until_ms));
        return Finding::wrong("tls", found, renew);
    }
    let found = format!("the API's certificate {path} holds until {}", time(until_ms));
    if until_ms - now_ms < PAPERS_SOON_MS {
        return Finding::warning("tls", found, renew);
    }
    Finding::ok("tls", found)
}

/// Whether the clock is behind what this node has done already.
pub(super) fn clock(home: &Home, now_ms: u64) -> Vec<Finding> {
    let list = fs::read_dir(home.dir()).into_iter().flatten().flatten().take(FILES_MAX);
    let times = list.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.mtime());
    let newest_ms = times.filter_map(|s| u64::try_from(s).ok()).max().unwrap_or(0) * 1_000;
    let behind_ms = newest_ms.saturating_sub(now_ms);
    if behind_ms > CLOCK_SLACK_MS {
        let found = format!("the clock is {} behind files of the home", span(behind_ms));
        let way_out = "set the clock of this machine; leases and certificates are told by it";
        return vec![Finding::wrong("clock", found, way_out)];
    }
    vec![Finding::ok("clock", time(now_ms))]
}

/// Whether there is room to go on.
pub(super) fn disk(dir: &Path) -> Finding {
    match disk_free(dir) {
        Ok(free) if free < DISK_OUT => {
            let way_out = "make room: the node takes nothing in while it cannot write";
            Finding::wrong("disk", format!("{} free", bytes(free)), way_out)
        }
        Ok(free) if free < DISK_LOW => {
            let way_out = "make room, or offer less with `opencloud up --disk SIZE`";
            Finding::warning("disk", format!("{} free", bytes(free)), way_out)
        }
        Ok(free) => Finding::ok("disk", format!("{} free", bytes(free))),
        Err(error) => Finding::wrong("disk", error.to_string(), "look at the file system"),
    }
}

/// Whether the store of a stopped node is whole.
pub(super) fn store(dir: &Path) -> Finding {
    let truth = dir.join("truth");
    match fs::metadata(&truth) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::ok("store", "there is none yet: the first start makes it");
        }
        Err(error) => {
            let way_out = "look at the rights of the directory";
            return Finding::wrong("store", format!("{}: {error}", truth.display()), way_out);
        }
    }
    let restore = "put the directory `truth` back from a backup: partners give what is missing after a restore; it is never begun anew by itself";
    let checked = HomeLock::acquire(dir).map_err(|error| chain(&error)).and_then(|_lock| {
        let truth = Truth::open(&truth).map_err(|error| chain(&error))?;
        let is_whole = truth.check().map_err(|error| chain(&error))?;
        Ok((is_whole, truth.was_restored(), truth.size_bytes().unwrap_or(0)))
    });
    match checked {
        Ok((_, true, _)) => {
            let found = "it was put back from a backup or copied";
            let way_out = "start the node: its ledgers wait until their partners have fenced them; never run the copy beside the original";
            Finding::warning("store", found, way_out)
        }
        Ok((true, _, size)) => Finding::ok("store", format!("whole, {}", bytes(size))),
        Ok((false, _, size)) => {
            let found = format!("it was not closed properly and has been mended, {}", bytes(size));
            Finding::ok("store", found)
        }
        Err(found) => Finding::wrong("store", found, restore),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn papers_are_told_by_when_they_end() {
        let (from, until) = (1_000_000_000, 1_000_000_000 + 30 * 24 * 3_600_000);
        let level = |now| term("rack-1", from, until, now).level;
        assert_eq!(level(from + 1), Level::Ok);
        assert_eq!(level(until - PAPERS_SOON_MS + 1), Level::Warning);
        assert_eq!(level(until), Level::Wrong);
        assert_eq!(level(from - CLOCK_SLACK_MS - 1), Level::Wrong);
        assert!(term("rack-1", from, until, until).way_out.is_some());
    }

    #[test]
    fn the_certificate_of_the_api_is_told_by_when_it_ends() {
        let until = 1_000_000_000;
        let level = |now| encrypted(Path::new("tls.crt"), until, now).level;
        assert_eq!(level(until - PAPERS_SOON_MS), Level::Ok);
        assert_eq!(level(until - PAPERS_SOON_MS + 1), Level::Warning);
        assert_eq!(level(until), Level::Wrong);
        let dir = tempfile::tempdir().unwrap();
        assert!(served(dir.path(), 0).is_none());
        fs::write(dir.path().join("tls.path"), "/nowhere/tls.crt").unwrap();
        assert_eq!(served(dir.path(), 0).unwrap().level, Level::Wrong);
    }
}
