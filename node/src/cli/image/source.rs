//! Images in files: a directory in the OCI image layout, or a tar archive of one or of `docker save`.
//!
//! An archive is not unpacked: its list of contents says where each file lies in it. Nothing in it can lead to another file
//! of this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use scheduler::value::is_plain_path;

use crate::cli::error::CliError;
use crate::engine::images::document::{DocumentError, MANIFEST_LEN_MAX};
use crate::engine::images::name::{NameError, OciDigest};

/// Most names in one archive; one with more is refused.
const NAMES_MAX: usize = 20_000;
/// Links followed from one name.
const LINKS_MAX: usize = 4;

/// Why an image cannot be brought in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Neither of the forms.
    #[error(
        "it holds neither an OCI image layout (`oci-layout`, `index.json`) nor what `docker save` writes (`manifest.json`)"
    )]
    Unknown,
    /// Compressed as a whole.
    #[error("it is compressed: unpack it first, with `gunzip` or `zstd -d`")]
    Compressed,
    /// The archive breaks off, or is none.
    #[error("it is no whole tar archive")]
    Archive(#[source] std::io::Error),
    /// The archive has too many files.
    #[error("it holds more than {NAMES_MAX} names")]
    TooMany,
    /// A file that should be there is not, or is no regular one.
    #[error("it has no file `{name}`")]
    NoFile {
        /// Which.
        name: String,
    },
    /// A document in it is too long.
    #[error("`{name}` has {size} bytes, at most {MANIFEST_LEN_MAX} are taken")]
    TooLong {
        /// Which.
        name: String,
        /// Its length in bytes.
        size: u64,
    },
    /// A document in it cannot be read.
    #[error("`{name}` cannot be read: {detail}")]
    Malformed {
        /// Which.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// A manifest in it cannot be kept.
    #[error("`{name}` cannot be used")]
    Document {
        /// Which.
        name: String,
        /// Why.
        source: DocumentError,
    },
    /// A digest in it is none.
    #[error("`{name}` cannot be used")]
    Digest {
        /// Where.
        name: String,
        /// Why.
        source: NameError,
    },
    /// A file is not what its name or the configuration says.
    #[error("`{name}` should be {said} and is {found}: the file is damaged")]
    Damaged {
        /// Which.
        name: String,
        /// As it should be.
        said: Box<OciDigest>,
        /// As it is.
        found: Box<OciDigest>,
    },
    /// An index in an index in an index.
    #[error("it holds indexes of indexes, deeper than {max}")]
    Deep {
        /// How deep they may be.
        max: usize,
    },
    /// Several images, or none, fit.
    #[error("{count} images in it fit: choose one with `--ref`; there are {}", .known.join(", "))]
    Choice {
        /// How many.
        count: usize,
        /// What they are called, the first ones.
        known: Vec<String>,
    },
}

/// Where a file lies in an archive.
#[derive(Clone, Debug)]
enum Entry {
    File { at: u64, size: u64 },
    Link { to: String },
}

/// A directory or archive.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// Of an archive.
    entries: Option<BTreeMap<String, Entry>>,
}

impl Source {
    /// Looks at what lies at the path. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let found = std::fs::metadata(path).map_err(CliError::io(path))?;
        let entries = if found.is_dir() {
            None
        } else if found.is_file() {
            let file = File::open(path).map_err(CliError::io(path))?;
            Some(list(file, found.len()).map_err(CliError::import(path))?)
        } else {
            let reason = "it is neither a regular file nor a directory";
            return Err(CliError::BadPath { path: path.to_owned(), reason });
        };
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).is_ok()
    }

    /// A file at its beginning, and its length. Reading further leads into what follows.
    pub(super) fn file(&self, name: &str) -> Result<(File, u64), CliError> {
        let absent = || CliError::import(&self.path)(ImportError::NoFile { name: name.to_owned() });
        let io = CliError::io(&self.path);
        let Some(entries) = &self.entries else {
            let path = self.path.join(name);
            // A link could lead to any file of this machine.
            let found = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file);
            let size = found.ok_or_else(absent)?.len();
            return Ok((File::open(&path).map_err(CliError::io(&path))?, size));
        };
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match entries.get(name) {
                Some(Entry::Link { to }) => name = to,
                Some(Entry::File { at, size }) => {
                    let mut file = File::open(&self.path).map_err(CliError::io(&self.path))?;
                    file.seek(SeekFrom::Start(*at)).map_err(io)?;
                    return Ok((file, *size));
                }
                None => break,
            }
        }
        Err(absent())
    }

    /// A document of bounded length.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, CliError> {
        let (file, size) = self.file(name)?;
        if size > MANIFEST_LEN_MAX as u64 {
            let error = ImportError::TooLong { name: name.to_owned(), size };
            return Err(CliError::import(&self.path)(error));
        }
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).map_err(CliError::io(&self.path))?;
        Ok(bytes)
    }
}

/// Where the files of an archive lie.
fn list(mut file: File, len: u64) -> Result<BTreeMap<String, Entry>, ImportError> {
    let mut magic = [0; 4];
    let is_long = file.read_exact(&mut magic).is_ok();
    if is_long && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(ImportError::Compressed);
    }
    file.rewind().map_err(ImportError::Archive)?;
    let mut archive = tar::Archive::new(file);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(ImportError::Archive)? {
        let entry = entry.map_err(ImportError::Archive)?;
        if found.len() >= NAMES_MAX {
            return Err(ImportError::TooMany);
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        if !is_plain_path(&name) {
            continue;
        }
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (at, size) = (entry.raw_file_position(), entry.size());
            if at.checked_add(size).is_none_or(|end| end > len) {
                return Err(ImportError::Archive(std::io::ErrorKind::UnexpectedEof.into()));
            }
            found.insert(name, Entry::File { at, size });
        } else if kind.is_symlink() || kind.is_hard_link() {
            let to = entry.link_name_bytes().unwrap_or_default();
            let to = String::from_utf8_lossy(&to).into_owned();
            let to = if kind.is_symlink() { beside(&name, &to) } else { Some(to) };
            if let Some(to) = to.filter(|to| is_plain_path(to)) {
                found.insert(name, Entry::Link { to });
            }
        }
    }
    Ok(found)
}

/// Where a symbolic link leads within the archive.
fn beside(name: &str, to: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            ".." => {
                parts.pop()?;
            }
            "." => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), builder.into_inner().unwrap()).unwrap();
        file
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        // Written as it is: a name that the library would refuse to make is what is to be tried.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, name: &str, to: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.as_mut_bytes()[157..157 + to.len()].copy_from_slice(to.as_bytes());
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    }

    #[test]
    fn files_of_an_archive_are_read_where_they_lie_and_links_stay_inside() {
        let file = archive(|builder| {
            add(builder, "./a/layer.tar", b"layer");
            add(builder, "../../etc/evil", b"evil");
            add(builder, "/abs", b"abs");
            link(builder, "b/layer.tar", "../a/layer.tar");
            link(builder, "out", "../../../etc/passwd");
            link(builder, "abs-link", "/etc/passwd");
            link(builder, "round", "trip");
            link(builder, "trip", "round");
        });
        let source = Source::open(file.path()).unwrap();
        assert_eq!(source.document("a/layer.tar").unwrap(), b"layer");
        assert_eq!(source.document("b/layer.tar").unwrap(), b"layer");
        for name in ["out", "abs-link", "round", "../../etc/evil", "/abs", "abs", "nowhere"] {
            assert!(!source.has(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_archive_or_breaks_off_is_told() {
        let check = |bytes: &[u8], part: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let error = Source::open(file.path()).unwrap_err();
            let text = crate::api::chain(&error);
            assert!(text.contains(part), "{text}");
        };
        check(&[0x1f, 0x8b, 8, 0], "compressed");
        check(&[0xff; 2_000], "no whole tar archive");
        let whole = archive(|builder| add(builder, "a", &[7; 5_000]));
        let whole = std::fs::read(whole.path()).unwrap();
        check(&whole[..3_000], "no whole tar archive");
    }

    #[test]
    fn a_link_in_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("index.json")).unwrap();
        assert!(!Source::open(dir.path()).unwrap().has("index.json"));
    }
}
