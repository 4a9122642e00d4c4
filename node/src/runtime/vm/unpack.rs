//! Takes the output of a machine, or of a pod of a cluster, into the work directory.
//!
//! The archive was written by a stranger's root, so nothing in it is believed. Names have to stay inside, and each part of a
//! path is opened without following links, from the directory's own descriptor: whatever lies there, nothing outside is
//! touched. Only files, directories, symbolic links, and further names of files that came before are made; pipes are left out,
//! devices, sparse files and everything unknown are refused, as are too many files and bytes. Modes lose what could give
//! rights away, owners and times are the node's own. A symbolic link is as hostile as one that a container has left in its
//! work directory: it may point anywhere, nothing here is made through it, and whoever takes files out of the directory
//! looks where it leads.
//!
//! Format: POSIX.1-2017 `pax`, sections "ustar Interchange Format" and "pax Header Block", and GNU's `L` and `K` entries for
//! long names, since that is what `tar` of GNU and of busybox write.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, symlinkat};
use tar::{Archive, EntryType};

/// Most files, directories and links in an output; one with more is over its quota. Twice a manifest's limit, as in a
/// measured directory.
const ENTRIES_MAX: usize = 200_000;
/// Longest name in bytes, as the kernel has it; a longer one is refused.
const NAME_LEN_MAX: u64 = 4_096;
/// Longest extended header in bytes; a longer one is refused.
const HEADER_LEN_MAX: u64 = 64 << 10;
/// Deepest directory; a deeper one is refused.
const DEPTH_MAX: usize = 256;
/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Why an output is not taken.
#[derive(Debug, thiserror::Error)]
pub(in crate::runtime) enum UnpackError {
    /// It breaks a rule.
    #[error("the task's output is refused: `{name}` {problem}")]
    Refused { name: String, problem: &'static str },
    /// It is not an archive, or ends early.
    #[error("the task's output is no complete tar archive: {0}")]
    Broken(io::ErrorKind),
    /// There is too much of it.
    #[error("the task's output is more than its disk quota")]
    TooMuch,
    /// The host cannot write.
    #[error("cannot write the task's output to `{name}`: {source}")]
    Write { name: String, source: io::Error },
}

/// A name, in parts.
type Parts = Vec<Vec<u8>>;

/// What the next entry's extended headers say.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Replaces what is in `work` by the content of an archive of at most `bytes_max` bytes in files.
pub(in crate::runtime) fn unpack(
    archive: File,
    work: &Path,
    bytes_max: u64,
) -> Result<(), UnpackError> {
    let write = |name: &Path, source| UnpackError::Write { name: shown_path(name), source };
    clear(work).map_err(|error| write(work, error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(work, flags, Mode::empty());
    let root = root.map_err(|error| write(work, error.into()))?;
    let mut target = Target { root, files: BTreeSet::new(), n_entries: 0, bytes_left: bytes_max };
    let mut archive = Archive::new(archive);
    let entries = archive.entries().map_err(|error| UnpackError::Broken(error.kind()))?;
    let mut extended = Extended::default();
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| UnpackError::Broken(error.kind()))?;
        let kind = entry.header().entry_type();
        target.count()?;
        match kind {
            EntryType::GNULongName => extended.name = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => extend(&mut entry, &mut extended)?,
            EntryType::XGlobalHeader => {}
            _ => target.make(&mut entry, kind, std::mem::take(&mut extended))?,
        }
    }
    Ok(())
}

/// Removes all that is in a directory. What was there was the node's own.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where an archive goes.
struct Target {
    root: OwnedFd,
    /// The files that this archive has made.
    files: BTreeSet<Parts>,
    n_entries: usize,
    bytes_left: u64,
}

impl Target {
    fn count(&mut self) -> Result<(), UnpackError> {
        self.n_entries += 1;
        if self.n_entries > ENTRIES_MAX { Err(UnpackError::TooMuch) } else { Ok(()) }
    }

    fn make(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        extended: Extended,
    ) -> Result<(), UnpackError> {
        let header = entry.header();
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let mode = header.mode().unwrap_or(0o644);
        let size = header.entry_size().map_err(|error| UnpackError::Broken(error.kind()))?;
        if extended.size.is_some_and(|said| said != size) {
            return Err(refused(&name, "is larger than an archive's plain header can say"));
        }
        let parts = inside(&name)?;
        match (kind, parts.split_last()) {
            (EntryType::Directory, None) => Ok(()),
            (_, None) => Err(refused(&name, "takes the place of the work directory")),
            (EntryType::Directory, Some(_)) => self.directory(&parts).map(drop),
            (EntryType::Regular | EntryType::Continuous, Some((last, dirs))) => {
                let dir = self.directory(dirs)?;
                self.file(entry, &dir, last, mode, size)?;
                self.files.insert(parts);
                Ok(())
            }
            (EntryType::Symlink, Some((last, dirs))) => {
                let to = link.unwrap_or_default();
                if to.is_empty() || to.contains(&0) {
                    return Err(refused(&name, "is a link to what has no name"));
                }
                let dir = self.directory(dirs)?;
                symlinkat(&to[..], &dir, &last[..]).map_err(|error| failed(&name, error.into()))
            }
            (EntryType::Link, Some((last, dirs))) => {
                let to = inside(&link.unwrap_or_default())?;
                let (true, Some((to_last, to_dirs))) = (self.files.contains(&to), to.split_last())
                else {
                    return Err(refused(
                        &name,
                        "is another name of a file that did not come before",
                    ));
                };
                let (from, dir) = (self.directory(to_dirs)?, self.directory(dirs)?);
                linkat(&from, &to_last[..], &dir, &last[..], AtFlags::empty())
                    .map_err(|error| failed(&name, error.into()))?;
                self.files.insert(parts);
                Ok(())
            }
            // A pipe means nothing outside of its machine.
            (EntryType::Fifo, Some(_)) => Ok(()),
            _ => Err(refused(&name, "is neither a file, a directory nor a link")),
        }
    }

    /// Opens a directory, made where it is not there, without following links.
    fn directory(&self, parts: &[Vec<u8>]) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |error: rustix::io::Errno| failed(&parts.join(&b'/'), error.into());
        let mut dir = openat(&self.root, ".", flags, Mode::empty()).map_err(fail)?;
        for part in parts {
            match mkdirat(&dir, &part[..], Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(fail(error)),
            }
            dir = match openat(&dir, &part[..], flags, Mode::empty()) {
                Ok(dir) => dir,
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    return Err(refused(&parts.join(&b'/'), "leads through what is no directory"));
                }
                Err(error) => return Err(fail(error)),
            };
        }
        Ok(dir)
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        dir: &OwnedFd,
        name: &[u8],
        mode: u32,
        size: u64,
    ) -> Result<(), UnpackError> {
        self.bytes_left = self.bytes_left.checked_sub(size).ok_or(UnpackError::TooMuch)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The node has to read it, whatever the machine thought.
        let mode = Mode::from_raw_mode(mode & 0o755 | 0o600);
        let file = openat(dir, name, flags, mode).map_err(|error| match error {
            rustix::io::Errno::EXIST => refused(name, "is there twice"),
            error => failed(name, error.into()),
        })?;
        let mut file = File::from(file);
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(size).unwrap_or(CHUNK_BYTES))];
        let mut left = size;
        while left > 0 {
            let len = entry.read(&mut chunk).map_err(|error| UnpackError::Broken(error.kind()))?;
            if len == 0 {
                return Err(UnpackError::Broken(io::ErrorKind::UnexpectedEof));
            }
            file.write_all(&chunk[..len]).map_err(|error| failed(name, error))?;
            left = left.saturating_sub(len as u64);
        }
        Ok(())
    }
}

/// The parts of a name below the work directory.
fn inside(name: &[u8]) -> Result<Parts, UnpackError> {
    if name.len() as u64 > NAME_LEN_MAX || name.contains(&0) {
        return Err(refused(name, "is no name"));
    }
    if name.first() == Some(&b'/') {
        return Err(refused(name, "leaves the work directory"));
    }
    let mut parts = Vec::new();
    for part in name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err(refused(name, "leaves the work directory"));
        }
        parts.push(part.to_owned());
    }
    if parts.len() > DEPTH_MAX {
        return Err(refused(name, "lies too deep"));
    }
    Ok(parts)
}

fn long_name(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut name = read_bounded(entry, NAME_LEN_MAX + 1)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Reads the records of an extended header: `LENGTH KEY=VALUE\n`.
fn extend(
    entry: &mut tar::Entry<'_, impl Read>,
    extended: &mut Extended,
) -> Result<(), UnpackError> {
    let bytes = read_bounded(entry, HEADER_LEN_MAX)?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (key, value, after) =
            record(rest).ok_or(UnpackError::Broken(io::ErrorKind::InvalidData))?;
        match key {
            b"path" => extended.name = Some(value.to_owned()),
            b"linkpath" => extended.link = Some(value.to_owned()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extended.size = Some(size.ok_or(UnpackError::Broken(io::ErrorKind::InvalidData))?);
            }
            _ if key.starts_with(b"GNU.sparse") => {
                return Err(refused(key, "is for sparse files; write the archive without them"));
            }
            // Owners, times and comments mean nothing here.
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (this, after) = bytes.split_at_checked(len)?;
    let body = this.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], after))
}

fn read_bounded(entry: &mut tar::Entry<'_, impl Read>, max: u64) -> Result<Vec<u8>, UnpackError> {
    let size = entry.header().entry_size().map_err(|error| UnpackError::Broken(error.kind()))?;
    if size > max {
        return Err(refused(b"(header)", "has a name or header that is too long"));
    }
    let mut bytes = Vec::new();
    entry.take(max).read_to_end(&mut bytes).map_err(|error| UnpackError::Broken(error.kind()))?;
    Ok(bytes)
}

fn refused(name: &[u8], problem: &'static str) -> UnpackError {
    UnpackError::Refused { name: shown(name), problem }
}

fn failed(name: &[u8], source: io::Error) -> UnpackError {
    UnpackError::Write { name: shown(name), source }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect::<String>().escape_debug().to_string()
}

fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Seek as _;

    fn unpacked(bytes: &[u8], work: &Path) -> Result<(), UnpackError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        unpack(file, work, 1 << 20)
    }

    #[test]
    fn names_that_leave_are_refused_and_others_are_taken_apart() {
        let parts = |name: &str| inside(name.as_bytes()).map(|parts| parts.len()).ok();
        assert_eq!(parts("./a//b/./c"), Some(3));
        assert_eq!(parts("."), Some(0));
        for bad in ["..", "/a", "a/../b", "a/..", "x\0y"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn links_are_kept_and_not_followed_and_pipes_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "untouched").unwrap();
        let add = |builder: &mut tar::Builder<Vec<u8>>, kind, name: &str, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path(name).unwrap();
            if !link.is_empty() {
                header.set_link_name_literal(link).unwrap();
            }
            header.set_mode(0o644);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        };
        let mut kept = tar::Builder::new(Vec::new());
        add(&mut kept, EntryType::Symlink, "absolute", outside.to_str().unwrap());
        add(&mut kept, EntryType::Symlink, "up", "..");
        add(&mut kept, EntryType::Fifo, "pipe", "");
        unpacked(&kept.into_inner().unwrap(), &work).unwrap();
        assert_eq!(std::fs::read_link(work.join("absolute")).unwrap(), outside);
        assert!(std::fs::symlink_metadata(work.join("pipe")).is_err());
        for (first, then) in [("..", "link/outside"), (outside.to_str().unwrap(), "link")] {
            let mut through = tar::Builder::new(Vec::new());
            add(&mut through, EntryType::Symlink, "link", first);
            add(&mut through, EntryType::Regular, then, "");
            let error = unpacked(&through.into_inner().unwrap(), &work).unwrap_err();
            assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
        }
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
    }

    #[test]
    fn what_was_there_before_is_gone_and_long_names_of_both_kinds_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("old")).unwrap();
        std::fs::write(dir.path().join("old/file"), "x").unwrap();
        let long = "d/".repeat(60) + "file";
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o6777);
        builder.append_data(&mut header, &long, &b"gnu"[..]).unwrap();
        let record = |text: &str| {
            let len = text.len() + 4;
            format!("{len} {text}\n")
        };
        let pax = record("path=p/pax") + &record("comment=anything");
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(pax.len() as u64);
        header.set_cksum();
        builder.append(&header, pax.as_bytes()).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_size(3);
        header.set_cksum();
        builder.append(&header, &b"pax"[..]).unwrap();
        unpacked(&builder.into_inner().unwrap(), dir.path()).unwrap();
        assert!(!dir.path().join("old").exists());
        assert_eq!(std::fs::read(dir.path().join(long)).unwrap(), b"gnu");
        assert_eq!(std::fs::read(dir.path().join("p/pax")).unwrap(), b"pax");
    }

    #[test]
    fn a_header_that_claims_much_is_refused_before_it_is_read() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let dir = tempfile::tempdir().unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 50);
            header.set_cksum();
            let error = unpacked(header.as_bytes(), dir.path()).unwrap_err();
            assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_archive_makes_it_panic_or_leave(
            entries in proptest::collection::vec(
                (0_usize..9, "[a./\\x00]{0,12}", "[a./]{0,12}", 0_u64..2_000, proptest::bool::ANY), 0..8),
            cut in 0_usize..20_000,
        ) {
            let outer = tempfile::tempdir().unwrap();
            let work = outer.path().join("work");
            std::fs::create_dir(&work).unwrap();
            let mut bytes = Vec::new();
            for (kind, name, link, size, is_honest) in entries {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(EntryType::new(b"05127LKxS"[kind]));
                let raw = header.as_gnu_mut().unwrap();
                raw.name[..name.len()].copy_from_slice(name.as_bytes());
                raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
                header.set_size(size);
                header.set_mode(0o777);
                header.set_cksum();
                bytes.extend_from_slice(header.as_bytes());
                let content = if is_honest { usize::try_from(size).unwrap() } else { 0 };
                bytes.extend(std::iter::repeat_n(b'a', content.next_multiple_of(512)));
            }
            bytes.truncate(cut);
            let _ = unpacked(&bytes, &work);
            let left: Vec<_> = std::fs::read_dir(outer.path()).unwrap().collect();
            prop_assert_eq!(left.len(), 1);
        }
    }
}
