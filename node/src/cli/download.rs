//! Brings blobs from the node to local files and directories: verified, and in place only when they are whole.

use std::fs::{self, Permissions};
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use catalog::Digest;
use catalog::record::Sha256;
use scheduler::value::Manifest;
use sha2::Digest as _;
use tempfile::NamedTempFile;

use super::bar::Bar;
use super::client::Client;
use super::error::CliError;
use super::upload::same;

/// Largest manifest taken, in bytes: that of the node's store.
const MANIFEST_LEN_MAX: usize = 64 << 20;

/// Writes a blob to a file, replacing what is there at once and only when all of it has come and is right.
pub(crate) async fn file(client: &Client, digest: &Digest, path: &Path) -> Result<(), CliError> {
    checked(client, digest, None, path).await
}

/// The same for a blob that is to have a SHA-256, too.
pub(crate) async fn checked(
    client: &Client,
    digest: &Digest,
    sha256: Option<Sha256>,
    path: &Path,
) -> Result<(), CliError> {
    let dir = parent(path);
    fs::create_dir_all(&dir).map_err(CliError::io(&dir))?;
    let mut temp = temp_file(&dir)?;
    let mut response = client.open(&format!("/blobs/{digest}"), &[]).await?;
    let bar = Bar::bytes("bringing", response.content_length().unwrap_or(0));
    let (mut hasher, mut other) = (blake3::Hasher::new(), sha256.map(|_| sha2::Sha256::new()));
    while let Some(bytes) = response.chunk().await? {
        hasher.update(&bytes);
        if let Some(other) = &mut other {
            other.update(&bytes);
        }
        temp.write_all(&bytes).map_err(CliError::io(path))?;
        bar.add(bytes.len());
    }
    bar.end();
    same(*digest, Digest::from_bytes(*hasher.finalize().as_bytes()))?;
    let found = other.map(|other| Sha256(other.finalize().into()));
    if let (Some(wanted), Some(found)) = (sha256, found)
        && wanted != found
    {
        return Err(CliError::Sha256 { wanted, found });
    }
    keep(temp, path)
}

/// Writes a part of a blob to a file, which is in place only when all of it has come. The node has checked it.
pub(crate) async fn range(
    client: &Client,
    digest: &Digest,
    range: &RangeInclusive<u64>,
    path: &Path,
) -> Result<u64, CliError> {
    let dir = parent(path);
    fs::create_dir_all(&dir).map_err(CliError::io(&dir))?;
    let mut temp = temp_file(&dir)?;
    let mut response = client.open_range(digest, range).await?;
    let bar = Bar::bytes("bringing", response.content_length().unwrap_or(0));
    let mut n = 0;
    while let Some(bytes) = response.chunk().await? {
        temp.write_all(&bytes).map_err(CliError::io(path))?;
        n += bytes.len() as u64;
        bar.add(bytes.len());
    }
    bar.end();
    keep(temp, path)?;
    Ok(n)
}

/// The bytes of something that is on the node and small, like a manifest.
pub(crate) async fn small(client: &Client, digest: &Digest) -> Result<Vec<u8>, CliError> {
    let mut response = client.open(&format!("/blobs/{digest}"), &[]).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(CliError::Stream { what: "a directory's manifest is too long" });
        }
    }
    same(*digest, Digest::of(&bytes))?;
    Ok(bytes)
}

/// Writes a directory with its files to `path`, where nothing or an empty directory may be.
pub(crate) async fn dir(client: &Client, digest: &Digest, path: &Path) -> Result<(), CliError> {
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
        return Err(CliError::Exists { path: path.to_owned() });
    }
    let manifest = manifest(client, digest).await?;
    let above = parent(path);
    fs::create_dir_all(&above).map_err(CliError::io(&above))?;
    let temp = tempfile::Builder::new()
        .prefix(".opencloud-")
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(&above)
        .map_err(CliError::io(&above))?;
    for (name, content) in &manifest.files {
        // Names are plain relative paths, checked by `decode`, so nothing lands outside.
        file(client, &content.digest, &temp.path().join(name)).await?;
    }
    fs::rename(temp.path(), path).map_err(CliError::io(path))?;
    // The directory has another name already, so there is nothing to remove.
    let _ = temp.keep();
    Ok(())
}

/// What is in a directory; the node fetches it with its files when it has them not.
pub(crate) async fn manifest(client: &Client, digest: &Digest) -> Result<Manifest, CliError> {
    let mut response = client.open(&format!("/blobs/{digest}"), &[("dir", "true")]).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(CliError::Stream { what: "a directory's manifest is too long" });
        }
    }
    same(*digest, Digest::of(&bytes))?;
    Manifest::decode(&bytes).map_err(|source| CliError::Manifest { digest: *digest, source })
}

/// Writes bytes to a file at once.
pub(crate) fn bytes(bytes: &[u8], path: &Path) -> Result<(), CliError> {
    let dir = parent(path);
    fs::create_dir_all(&dir).map_err(CliError::io(&dir))?;
    let mut temp = temp_file(&dir)?;
    temp.write_all(bytes).map_err(CliError::io(path))?;
    keep(temp, path)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A hidden file in `dir`, with the permissions a new file of this user gets; it is removed unless it is kept.
fn temp_file(dir: &Path) -> Result<NamedTempFile, CliError> {
    tempfile::Builder::new()
        .prefix(".opencloud-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(CliError::io(dir))
}

fn keep(temp: NamedTempFile, path: &Path) -> Result<(), CliError> {
    temp.as_file().sync_all().map_err(CliError::io(path))?;
    temp.persist(path)
        .map_err(|error| CliError::Io { path: path.to_owned(), source: error.error })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_replace_a_file_and_leave_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/out.json");
        bytes(b"one", &path).unwrap();
        bytes(b"two", &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
