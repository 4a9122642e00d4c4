//! Brings local files and directories to the node as blobs, skipping what it has.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use catalog::Digest;
use futures::TryStreamExt as _;
use scheduler::value::{
    DirRef, FileRef, MANIFEST_FILES_MAX, Manifest, ManifestFile, is_plain_path,
};
use tokio_util::io::ReaderStream;

use super::bar::Bar;
use super::client::Client;
use super::error::CliError;
use crate::api::Stored;

/// Bytes read from disk at once.
const READ_LEN: usize = 256 << 10;

/// Where blobs go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink<'a> {
    /// To a node.
    Node(&'a Client),
    /// Nowhere: only their names are wanted.
    Nowhere,
}

impl Sink<'_> {
    /// A file.
    pub(crate) async fn file(self, path: &Path) -> Result<FileRef, CliError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let ManifestFile { digest, size } = self.content(path).await?;
        Ok(FileRef { digest, size, name: name.unwrap_or_default() })
    }

    /// A directory with its files.
    pub(crate) async fn dir(self, path: &Path) -> Result<DirRef, CliError> {
        let root = fs::canonicalize(path).map_err(CliError::io(path))?;
        let name = root.file_name().map(|name| name.to_string_lossy().into_owned());
        let files = blocking(move || find_files(&root)).await?;
        let mut manifest = Manifest::default();
        for (name, path) in files {
            manifest.files.insert(name, self.content(&path).await?);
        }
        let bytes = manifest.encode();
        let digest = Digest::of(&bytes);
        if let Self::Node(client) = self
            && client.blob_size(&digest).await?.is_none()
        {
            let stored: Stored = client.add_blob(bytes).await?;
            same(digest, stored.digest)?;
        }
        Ok(DirRef { digest, size: manifest.size(), name: name.unwrap_or_default() })
    }

    async fn content(self, path: &Path) -> Result<ManifestFile, CliError> {
        let found = {
            let path = path.to_owned();
            blocking(move || hash(&path)).await?
        };
        let Self::Node(client) = self else {
            return Ok(found);
        };
        if client.blob_size(&found.digest).await?.is_some() {
            return Ok(found);
        }
        let file = tokio::fs::File::open(path).await.map_err(CliError::io(path))?;
        let bar = Bar::bytes("storing", found.size);
        let counted = bar.clone();
        let stream = ReaderStream::with_capacity(file, READ_LEN)
            .inspect_ok(move |bytes| counted.add(bytes.len()));
        let stored = client.add_blob(reqwest::Body::wrap_stream(stream)).await;
        bar.end();
        let stored: Stored = stored?;
        if stored.digest == found.digest {
            Ok(found)
        } else {
            Err(CliError::Changed { path: path.to_owned() })
        }
    }
}

/// Fails when a blob is not the one it should be.
pub(crate) fn same(wanted: Digest, found: Digest) -> Result<(), CliError> {
    if wanted == found { Ok(()) } else { Err(CliError::Mismatch { wanted, found }) }
}

/// Does work that waits for the disk away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CliError::Interrupted)?
}

fn hash(path: &Path) -> Result<ManifestFile, CliError> {
    // Looked at before it is opened, since opening a pipe waits for its other end.
    if !fs::metadata(path).map_err(CliError::io(path))?.is_file() {
        let reason = "it is neither a regular file nor a directory";
        return Err(CliError::BadPath { path: path.to_owned(), reason });
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(File::open(path).map_err(CliError::io(path))?)
        .map_err(CliError::io(path))?;
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    Ok(ManifestFile { digest, size: hasher.count() })
}

/// The regular files below `root` by manifest path. A link counts as what it leads to, when that is below `root`, too.
fn find_files(root: &Path) -> Result<Vec<(String, PathBuf)>, CliError> {
    let mut files = Vec::new();
    // Links can make a directory its own child; a manifest path has at most 1024 bytes, so this ends.
    let mut waiting = vec![(String::new(), root.to_owned())];
    while let Some((prefix, dir)) = waiting.pop() {
        let real_dir = fs::canonicalize(&dir).map_err(CliError::io(&dir))?;
        for entry in fs::read_dir(&dir).map_err(CliError::io(&dir))? {
            let path = entry.map_err(CliError::io(&dir))?.path();
            let bad = |reason| CliError::BadPath { path: path.clone(), reason };
            let name =
                path.file_name()
                    .and_then(|name| name.to_str())
                    .map(|name| {
                        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
                    })
                    .filter(|name| is_plain_path(name))
                    .ok_or_else(|| bad("its name is not plain UTF-8 of at most 1024 bytes"))?;
            let real = fs::canonicalize(&path).map_err(CliError::io(&path))?;
            if !real.starts_with(root) {
                return Err(bad("it is a link that leads out of the directory"));
            }
            if files.len() + waiting.len() >= MANIFEST_FILES_MAX {
                return Err(bad("the directory holds too many files: pack or split it"));
            }
            if real.is_dir() {
                if real_dir.starts_with(&real) {
                    return Err(bad("it is a link to a directory that it lies in"));
                }
                waiting.push((name, path));
            } else {
                files.push((name, path));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_with_plain_names_and_a_link_that_leads_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("a.txt"), "a").unwrap();
        fs::write(root.join("sub/b.txt"), "b").unwrap();
        std::os::unix::fs::symlink("a.txt", root.join("link")).unwrap();
        let root = root.canonicalize().unwrap();
        let mut names: Vec<String> =
            find_files(&root).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["a.txt", "link", "sub/b.txt"]);
        fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        assert!(matches!(find_files(&root), Err(CliError::BadPath { .. })));
    }

    #[test]
    fn a_directory_linked_into_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        std::os::unix::fs::symlink("..", root.join("sub/up")).unwrap();
        assert!(matches!(find_files(&root), Err(CliError::BadPath { .. })));
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "hello").unwrap();
        assert_eq!(hash(&path).unwrap(), ManifestFile { digest: Digest::of(b"hello"), size: 5 });
        assert!(matches!(hash(dir.path()), Err(CliError::BadPath { .. })));
    }
}
