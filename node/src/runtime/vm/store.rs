//! Prepared images: checked, in a format that machines run on, and where QEMU can read them.
//!
//! The node's own files are not for the users that machines run as, and some formats can only be read from. So an image is
//! taken into the runtime's directory once, under its digest, and each machine gets a link to it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use catalog::Digest;

use super::fault;
use super::host::Host;
use super::image::{self, Format, InvalidMachine, Unmarked};
use super::tool::{Output, readable};
use crate::runtime::{HostFault, Origin, PrepareError, Prepared};

/// Largest kernel in bytes; a larger one is refused. Real ones have 15 MB, on some architectures 60.
const KERNEL_BYTES_MAX: u64 = 256 << 20;
/// Largest initramfs in bytes; a larger one is refused: it is unpacked in memory.
const INITRAMFS_BYTES_MAX: u64 = 2 << 30;
/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 1 << 20;
/// The parts of a kernel machine.
const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";

/// A machine that is ready to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    Kernel { kernel: PathBuf, initramfs: PathBuf },
    Disk { path: PathBuf, format: Format, virtual_bytes: u64 },
}

/// The images of one node.
#[derive(Debug)]
pub(super) struct Store {
    host: Arc<Host>,
    /// Held while an image is prepared, so that it is prepared once.
    preparing: tokio::sync::Mutex<()>,
}

impl Store {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host, preparing: tokio::sync::Mutex::default() }
    }

    /// The image that an artefact is, prepared when it is not yet; how long that took does not count the wait for others.
    pub(super) async fn load(
        &self,
        artefact: &Path,
        digest: Digest,
    ) -> Result<(Image, Prepared), PrepareError> {
        let _once = self.preparing.lock().await;
        let begun = Instant::now();
        let prepared = |origin| Prepared { origin, elapsed: begun.elapsed() };
        let name = digest.to_hex();
        if let Some(image) = self.find(&name)? {
            return Ok((image, prepared(Origin::Cached)));
        }
        let work = Work::new(&self.host.machines)?;
        if fs::metadata(artefact).is_ok_and(|meta| meta.is_dir()) {
            let (from, to) = (artefact.to_owned(), work.0.clone());
            blocking(move || take_kernel(&from, &to)).await?;
        } else {
            self.take_disk(artefact, digest, &work.0).await?;
        }
        let made = self.host.images.join(&name);
        fs::rename(&work.0, &made).map_err(|error| HostFault::file("rename", &work.0, &error))?;
        let (images, most) = (self.host.images.clone(), self.host.options.cache_bytes);
        blocking(move || {
            evict(&images, &name, most);
            Ok(())
        })
        .await?;
        let image = self.find(&digest.to_hex())?;
        let image = image.ok_or_else(|| fault("keep an image", "it is gone again"))?;
        Ok((image, prepared(Origin::Cold)))
    }

    /// A prepared image.
    fn find(&self, name: &str) -> Result<Option<Image>, PrepareError> {
        let dir = self.host.images.join(name);
        if !dir.is_dir() {
            return Ok(None);
        }
        // The time of its last use; images that are used are kept.
        let _ = File::open(&dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        let (kernel, initramfs) = (dir.join(KERNEL), dir.join(INITRAMFS));
        if kernel.exists() {
            return Ok(Some(Image::Kernel { kernel, initramfs }));
        }
        let path = dir.join("disk");
        let fail = |error: io::Error| HostFault::file("read", &path, &error);
        let (format, virtual_bytes) =
            image::inspect(&File::open(&path).map_err(fail)?, Unmarked::Bootable)
                .map_err(fail)??;
        Ok(Some(Image::Disk { path, format, virtual_bytes }))
    }

    async fn take_disk(&self, from: &Path, digest: Digest, dir: &Path) -> Result<(), PrepareError> {
        let (from, to) = (from.to_owned(), dir.join("disk"));
        let copied = to.clone();
        let (format, _) = blocking(move || {
            copy_checked(&from, &copied, digest)?;
            let fail = |error: io::Error| HostFault::file("read", &copied, &error);
            let file = File::open(&copied).map_err(fail)?;
            Ok(image::inspect(&file, Unmarked::Bootable).map_err(fail)??)
        })
        .await?;
        self.host.tool.info(dir, "disk", format).await?;
        if !image::is_native(format) {
            self.convert(dir, format, &to).await?;
        }
        Ok(())
    }

    async fn convert(&self, dir: &Path, from: Format, disk: &Path) -> Result<(), PrepareError> {
        let converted = dir.join("converted");
        let to = Output {
            name: "converted",
            format: Format::Qcow2,
            compress: false,
            bytes_max: self.host.options.cache_bytes,
        };
        self.host.tool.convert(dir, ("disk", from), &to).await?;
        fs::rename(&converted, disk)
            .map_err(|error| HostFault::file("rename", &converted, &error))?;
        readable(disk).map_err(Into::into)
    }
}

/// A directory in which an image is prepared, reachable for `qemu-img`; removed when that fails.
struct Work(PathBuf);

impl Work {
    fn new(machines: &Path) -> Result<Self, HostFault> {
        let dir = machines.join(super::stage::random_hex()?);
        fs::create_dir(&dir).map_err(|error| HostFault::file("make", &dir, &error))?;
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&dir, mode)
            .map_err(|e| HostFault::file("set the mode of", &dir, &e))?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // It has been renamed when all went well.
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrepareError> + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PrepareError::Host(HostFault::Died)))
}

fn take_kernel(from: &Path, to: &Path) -> Result<(), PrepareError> {
    for (name, max) in [(KERNEL, KERNEL_BYTES_MAX), (INITRAMFS, INITRAMFS_BYTES_MAX)] {
        let path = from.join(name);
        let layout = |problem: String| InvalidMachine::Layout { problem };
        let meta = fs::symlink_metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => layout(format!("has no file `{name}`")).into(),
            _ => PrepareError::Host(HostFault::file("read", &path, &error)),
        })?;
        if !meta.is_file() {
            return Err(layout(format!("has a `{name}` that is no file")).into());
        }
        if meta.len() > max {
            return Err(InvalidMachine::TooLarge { what: name, bytes: meta.len(), max }.into());
        }
        let target = to.join(name);
        fs::copy(&path, &target).map_err(|error| HostFault::file("copy", &path, &error))?;
        readable(&target)?;
    }
    Ok(())
}

/// Copies a file whose content has to have a digest.
fn copy_checked(from: &Path, to: &Path, digest: Digest) -> Result<(), PrepareError> {
    let reading = |error: io::Error| HostFault::file("read", from, &error);
    let writing = |error: io::Error| HostFault::file("write", to, &error);
    let mut source = File::open(from).map_err(reading)?;
    let mut target = File::create(to).map_err(writing)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = source.read(&mut chunk).map_err(reading)?;
        if len == 0 {
            break;
        }
        hasher.update(&chunk[..len]);
        target.write_all(&chunk[..len]).map_err(writing)?;
    }
    if hasher.finalize().as_bytes() != digest.as_bytes() {
        return Err(InvalidMachine::Damaged.into());
    }
    readable(to).map_err(Into::into)
}

/// Removes the images that were not used for longest until the rest is within bounds; never the newest. Machines that run
/// have links of their own.
fn evict(images: &Path, newest: &str, most: u64) {
    let Ok(entries) = fs::read_dir(images) else { return };
    let mut found: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_name() != newest)
        .map(|entry| {
            let path = entry.path();
            let used = entry.metadata().and_then(|meta| meta.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            (used, size(&path), path)
        })
        .collect();
    found.sort();
    let mut total = found.iter().map(|(_, bytes, _)| *bytes).sum::<u64>();
    total = total.saturating_add(size(&images.join(newest)));
    for (_, bytes, path) in found {
        if total <= most {
            break;
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => total = total.saturating_sub(bytes),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an image cannot be removed")
            }
        }
    }
}

fn size(dir: &Path) -> u64 {
    crate::runtime::disk::measure(&[dir.to_owned()]).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_were_not_used_for_longest_go_first() {
        use std::time::Duration;
        let dir = tempfile::tempdir().unwrap();
        for (age_s, name) in [(30, "old"), (20, "middle"), (10, "new")] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("disk"), vec![1; 100_000]).unwrap();
            let used = SystemTime::now() - Duration::from_secs(age_s);
            File::open(&path).unwrap().set_modified(used).unwrap();
        }
        evict(dir.path(), "new", 250_000);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["middle", "new"]);
        evict(dir.path(), "new", 0);
        assert!(dir.path().join("new").exists() && !dir.path().join("middle").exists());
    }
}
