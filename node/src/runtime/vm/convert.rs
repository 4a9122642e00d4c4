//! Looks into images of disks and makes other formats of them, for whoever has some and no machine to run them.
//!
//! Headers are read here; everything beyond them by `qemu-img`, confined (see `tool`). A host without `qemu-img` still has
//! the headers.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::{OnceCell, Semaphore};

use super::OpenError;
use super::image::{self, Format, InvalidMachine, Unmarked};
use super::tool::{Output, TOO_LARGE, Tool};
use crate::runtime::{HostFault, PrepareError};
use crate::schema;

/// Jobs at a time; further ones wait. Each may take gigabytes of disk and a core.
const JOBS_MAX: usize = 2;
/// Names in the directory of a job.
const IMAGE: &str = "disk";
const MADE: &str = "made";

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = DiskFacts)]
pub struct Facts {
    /// Its format.
    #[schema(value_type = schema::DiskFormat)]
    pub format: Format,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of its disk.
    pub virtual_bytes: u64,
    /// Bytes of a cluster, where the format has them and more than the headers was looked at.
    #[schema(required)]
    pub cluster_bytes: Option<u64>,
    /// Internal snapshots, where more than the headers was looked at.
    #[schema(required)]
    pub snapshots: Option<u64>,
    /// Whether it was not closed in good order, where more than the headers was looked at.
    #[schema(required)]
    pub is_dirty: Option<bool>,
    /// Why no more than its headers was looked at; absent when `qemu-img` has read it.
    #[schema(required)]
    pub headers_only: Option<String>,
}

/// Why an image was not looked into or converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// It is not taken.
    #[error(transparent)]
    Refused(#[from] InvalidMachine),
    /// The disk's own content would make the new file something else.
    #[error(
        "the disk begins like a {format} image that is not its own: as a raw file it would be opened as one; convert it to another \
         format than raw"
    )]
    Nested {
        /// What it begins like.
        format: String,
    },
    /// It would be larger than there is room for.
    #[error(
        "the new image would have more than the {max} bytes that are free: make room, or raise the quota"
    )]
    NoRoom {
        /// Bytes that are free.
        max: u64,
    },
    /// There is no `qemu-img`.
    #[error("converting needs a program of this host")]
    NoTool(#[source] OpenError),
    /// The host failed.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl From<PrepareError> for ConvertError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::InvalidMachine(why) => Self::Refused(why),
            PrepareError::Host(fault) => Self::Host(fault),
            // No other runtime has a part in it.
            _ => Self::Host(HostFault::Died),
        }
    }
}

/// What to make of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The new format.
    pub format: Format,
    /// Whether its clusters are packed; of a qcow2 only.
    pub compress: bool,
    /// Most bytes that the new file may have.
    pub bytes_max: u64,
}

/// A file that was made; gone when dropped.
#[derive(Debug)]
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    _job: TempDir,
}

/// Looks into images and converts them.
#[derive(Debug)]
pub struct Converter {
    /// Where jobs have their directories; on the file system of the images where it can be.
    dir: PathBuf,
    owner: String,
    tool: OnceCell<Tool>,
    /// How the tool is looked for.
    find: fn(&str) -> Result<Tool, OpenError>,
    turns: Semaphore,
}

impl Converter {
    /// One whose jobs lie in `dir`, which is made and emptied. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path, owner: &str) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(dir)?;
        Ok(Self::beside(dir, owner))
    }

    /// One whose jobs lie in `dir`, which is there and may have files of others.
    #[must_use]
    pub fn beside(dir: &Path, owner: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            owner: owner.to_owned(),
            tool: OnceCell::new(),
            find: Tool::find,
            turns: Semaphore::new(JOBS_MAX),
        }
    }

    /// What an image is, and whether it is taken at all. `is_raw` vouches for what bears no format's mark.
    ///
    /// # Errors
    /// See [`ConvertError`]; without `qemu-img` the headers still count.
    pub async fn inspect(&self, image: &Path, is_raw: bool) -> Result<Facts, ConvertError> {
        let (format, virtual_bytes, size) = headers(image, is_raw).await?;
        let mut facts = Facts {
            format,
            size,
            virtual_bytes,
            cluster_bytes: None,
            snapshots: None,
            is_dirty: None,
            headers_only: None,
        };
        let tool = match self.tool().await {
            Ok(tool) => tool,
            Err(error) => {
                facts.headers_only = Some(error.to_string());
                return Ok(facts);
            }
        };
        let _turn = self.turns.acquire().await;
        let job = match self.job(image).await? {
            Ok(job) => job,
            Err(why) => {
                facts.headers_only = Some(why);
                return Ok(facts);
            }
        };
        let info = tool.info(job.path(), IMAGE, format).await?;
        tool.check(job.path(), IMAGE, format).await?;
        facts.virtual_bytes = info.virtual_bytes;
        facts.cluster_bytes = info.cluster_bytes;
        facts.snapshots = Some(info.snapshots.len() as u64);
        facts.is_dirty = Some(info.is_dirty);
        Ok(facts)
    }

    /// Makes another image of the same disk.
    ///
    /// # Errors
    /// See [`ConvertError`].
    pub async fn convert(
        &self,
        image: &Path,
        is_raw: bool,
        wish: Wish,
    ) -> Result<Made, ConvertError> {
        let (format, _, _) = headers(image, is_raw).await?;
        let tool = self.tool().await.map_err(ConvertError::NoTool)?;
        let _turn = self.turns.acquire().await;
        let job = self.job(image).await?.map_err(|why| unreadable(image, &why))?;
        tool.info(job.path(), IMAGE, format).await?;
        tool.check(job.path(), IMAGE, format).await?;
        let to = Output {
            name: MADE,
            format: wish.format,
            compress: wish.compress,
            bytes_max: wish.bytes_max,
        };
        let path = job.path().join(MADE);
        let done = tool.convert(job.path(), (IMAGE, format), &to).await;
        if let Err(PrepareError::InvalidMachine(InvalidMachine::Refused { detail })) = &done
            && is_too_large(detail)
        {
            return Err(ConvertError::NoRoom { max: wish.bytes_max });
        }
        done?;
        // What was made is looked at like everything else that comes from outside: a raw file is whatever its first bytes say.
        match headers(&path, true).await {
            Ok((made, _, _)) if made == wish.format => Ok(Made { path, _job: job }),
            Ok((made, _, _)) => Err(ConvertError::Nested { format: made.to_string() }),
            Err(ConvertError::Refused(_)) if wish.format == Format::Raw => {
                Err(ConvertError::Nested { format: "disk".to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// The tool, looked for until it is there: it may be installed while the node runs.
    async fn tool(&self) -> Result<&Tool, OpenError> {
        self.tool.get_or_try_init(async || (self.find)(&self.owner)).await
    }

    /// A directory with a link to the image, or why the tool cannot read that.
    async fn job(&self, image: &Path) -> Result<Result<TempDir, String>, ConvertError> {
        let (dir, image) = (self.dir.clone(), image.to_owned());
        let made = tokio::task::spawn_blocking(move || make_job(&dir, &image)).await;
        made.unwrap_or(Err(HostFault::Died.into()))
    }
}

/// The format, the bytes of the disk and those of the file.
async fn headers(path: &Path, is_raw: bool) -> Result<(Format, u64, u64), ConvertError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let fail = |error: io::Error| HostFault::file("read", &path, &error);
        // Looked at before it is opened, since opening a pipe waits for its other end.
        if !fs::metadata(&path).map_err(fail)?.is_file() {
            return Err(fail(io::ErrorKind::InvalidInput.into()).into());
        }
        let file = File::open(&path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let unmarked = if is_raw { Unmarked::Raw } else { Unmarked::Bootable };
        let (format, virtual_bytes) = image::inspect(&file, unmarked).map_err(fail)??;
        Ok((format, virtual_bytes, size))
    });
    read.await.unwrap_or(Err(HostFault::Died.into()))
}

fn make_job(dir: &Path, image: &Path) -> Result<Result<TempDir, String>, ConvertError> {
    // Others may pass through, who see nothing: the tool is such a one.
    let mode = fs::Permissions::from_mode(0o711);
    let made = tempfile::Builder::new().prefix(".image-").permissions(mode).tempdir_in(dir);
    let job = match made {
        Ok(job) => job,
        Err(error) => {
            return Ok(Err(format!("no directory can be made in {}: {error}", dir.display())));
        }
    };
    let meta = fs::metadata(image).map_err(|error| HostFault::file("read", image, &error))?;
    if rustix::process::geteuid().is_root() && meta.mode() & 0o004 == 0 {
        return Ok(Err("only its owner may read the file".to_owned()));
    }
    match fs::hard_link(image, job.path().join(IMAGE)) {
        Ok(()) => Ok(Ok(job)),
        Err(error) => Ok(Err(format!("the file cannot be linked to: {error}"))),
    }
}

fn unreadable(image: &Path, why: &str) -> HostFault {
    super::fault("hand an image over", format!("{}: {why}", image.display()))
}

/// Whether `qemu-img` has met the limit for its file, or a full disk.
fn is_too_large(detail: &str) -> bool {
    [TOO_LARGE, "No space left on device"].iter().any(|words| detail.contains(words))
}

#[cfg(test)]
mod tests;
