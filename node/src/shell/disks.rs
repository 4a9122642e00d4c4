//! Images of disks: what the engine says of them, and what has to be on disk, read and computed for that.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use catalog::Digest;
use catalog::record::{DiskDetail, DiskFormat, DiskName, Properties, Sha256};
use sha2::Digest as _;

use super::fetch::FetchFailed;
use super::handle::{CallError, Handle};
use crate::blobs::{BLOB_LEN_MAX, BlobError};
use crate::engine::command::{Command, Response};
use crate::engine::disks::{Answer, Command as DiskCommand, DiskError, DiskView, Sharing, State};
use crate::runtime::vm::{ConvertError, Facts, Wish};

/// Bytes read from disk at once.
const READ_LEN: usize = 1 << 20;

/// Why something about a disk image was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskFailed {
    /// The node refuses, or does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The content cannot be kept or read.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// It is not here and cannot be fetched.
    #[error("the disk image cannot be fetched")]
    Fetch(#[from] FetchFailed),
    /// It is not taken, or cannot be converted.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is damaged.
    #[error("the disk image `{name}` is damaged")]
    Damaged {
        /// Its name.
        name: String,
        /// What was found.
        source: BlobError,
    },
    /// Its content is whole, and not what its record says.
    #[error(
        "the content of disk image `{name}` is not what its owner says: its {what} is {found}, and {said} is said"
    )]
    Lie {
        /// Its name.
        name: String,
        /// In what it differs.
        what: &'static str,
        /// As it is.
        found: String,
        /// As it is said to be.
        said: String,
    },
    /// The node answered something else: a fault of this program.
    #[error("the node gave an answer to another question: report this as a bug")]
    Strange,
}

/// What is to become an image.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// Its name.
    pub name: DiskName,
    /// Its content, which is in the store.
    pub digest: Digest,
    /// Whether it is a raw disk even without a boot sector.
    pub is_raw: bool,
    /// Machine architecture; empty when that is not said.
    pub arch: String,
    /// Least memory in bytes; 0 when that is not said.
    pub min_memory_bytes: u64,
    /// What else is said of it.
    pub properties: Properties,
    /// Who may see it.
    pub sharing: Sharing,
    /// Whether this organisation signs it.
    pub sign: bool,
}

/// What is to be made of an image.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// Of which.
    pub name: String,
    /// The new format.
    pub format: DiskFormat,
    /// What the new image is called.
    pub new_name: DiskName,
    /// Whether its clusters are packed; of a qcow2 only.
    pub compress: bool,
    /// Who may see it.
    pub sharing: Sharing,
    /// Whether this organisation signs it.
    pub sign: bool,
}

impl Handle {
    /// Asks or tells the node something about the images of disks. What was answered is durable.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn disk(&self, command: DiskCommand) -> Result<Answer, DiskFailed> {
        match self.command(Command::Disk(command)).await? {
            Response::Disk(answer) => Ok(answer),
            _ => Err(DiskFailed::Strange),
        }
    }

    /// One image, of this node or of the catalogue.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn show_disk(&self, name: &str) -> Result<DiskView, DiskFailed> {
        self.disk_view(DiskCommand::Show { name: name.to_owned() }).await
    }

    /// Does something that ends with one image.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn disk_view(&self, command: DiskCommand) -> Result<DiskView, DiskFailed> {
        match self.disk(command).await? {
            Answer::Disk(view) => Ok(*view),
            _ => Err(DiskFailed::Strange),
        }
    }

    /// What content of the store is as the image of a disk.
    ///
    /// # Errors
    /// See [`DiskFailed`]: among them that it is none that is taken.
    pub async fn inspect_disk(&self, digest: Digest, is_raw: bool) -> Result<Facts, DiskFailed> {
        let path = self.blobs.verified_path(digest).await?;
        Ok(self.converter.inspect(&path, is_raw).await?)
    }

    /// Makes content of the store an image.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn add_disk(&self, new: NewDisk) -> Result<DiskView, DiskFailed> {
        let size =
            self.blobs.size(&new.digest).ok_or(BlobError::NotFound { digest: new.digest })?;
        // What is refused is refused before a large file is read.
        self.disk(DiskCommand::Check { name: new.name.clone(), size: 0 }).await?;
        let facts = self.inspect_disk(new.digest, new.is_raw).await?;
        let path = self.blobs.verified_path(new.digest).await?;
        let detail = DiskDetail {
            format: facts.format,
            digest: new.digest,
            sha256: sha256(&path).await?,
            size,
            virtual_bytes: facts.virtual_bytes,
            arch: new.arch,
            min_memory_bytes: new.min_memory_bytes,
            properties: new.properties,
            signature: None,
        };
        let (detail, sharing) = (Box::new(detail), new.sharing);
        self.disk_view(DiskCommand::Add { name: new.name, detail, sharing, sign: new.sign }).await
    }

    /// Makes another image of the same disk.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn convert_disk(&self, wish: Conversion) -> Result<DiskView, DiskFailed> {
        let from = self.show_disk(&wish.name).await?;
        let check = DiskCommand::Check { name: wish.new_name.clone(), size: 0 };
        let Answer::Usage(usage) = self.disk(check).await? else {
            return Err(DiskFailed::Strange);
        };
        let stored = self.blobs.usage();
        let room = stored.quota.map_or(u64::MAX, |quota| quota.saturating_sub(stored.bytes));
        let free = usage.quota.bytes.saturating_sub(usage.bytes);
        let path = self.disk_content(&from).await?;
        let made = Wish {
            format: wish.format,
            compress: wish.compress,
            bytes_max: room.min(free).min(BLOB_LEN_MAX),
        };
        let is_raw = from.format == DiskFormat::Raw;
        let made = self.converter.convert(&path, is_raw, made).await?;
        let added = self.blobs.add_file(&made.path).await?;
        drop(made);
        self.add_disk(NewDisk {
            name: wish.new_name,
            digest: added.digest,
            is_raw: wish.format == DiskFormat::Raw,
            arch: from.arch,
            min_memory_bytes: from.min_memory_bytes,
            properties: from.properties,
            sharing: wish.sharing,
            sign: wish.sign,
        })
        .await
    }

    /// The file of an image, whole; another node's is fetched.
    async fn disk_content(&self, disk: &DiskView) -> Result<PathBuf, DiskFailed> {
        if disk.state == State::Remote {
            self.fetch(disk.digest, false).await?;
        }
        Ok(self.blobs.verified_path(disk.digest).await?)
    }

    /// Reads every byte of an image again: whether it has both its digests, and is what is said of it. What an own one is found
    /// to be is remembered. Another node's is fetched first.
    ///
    /// # Errors
    /// See [`DiskFailed`]: among them what is wrong with it.
    pub async fn verify_disk(&self, name: &str) -> Result<DiskView, DiskFailed> {
        let disk = self.show_disk(name).await?;
        if disk.state == State::Remote {
            self.fetch(disk.digest, false).await?;
        }
        let checked = self.check_disk(&disk).await;
        if disk.state == State::Remote {
            return checked.map(|()| disk);
        }
        // Whoever cannot be read now may be whole all the same.
        let is_whole = match &checked {
            Ok(()) => true,
            Err(DiskFailed::Damaged { .. } | DiskFailed::Lie { .. }) => false,
            Err(_) => return checked.map(|()| disk),
        };
        let name: DiskName = disk.name.parse().map_err(|_| DiskFailed::Strange)?;
        let marked = self.disk_view(DiskCommand::Mark { name, is_whole }).await?;
        checked.map(|()| marked)
    }

    async fn check_disk(&self, disk: &DiskView) -> Result<(), DiskFailed> {
        let name = || disk.name.clone();
        let path = match self.blobs.verify(disk.digest).await {
            Ok(path) => path,
            Err(source @ (BlobError::Corrupt { .. } | BlobError::NotFound { .. })) => {
                return Err(DiskFailed::Damaged { name: name(), source });
            }
            Err(error) => return Err(error.into()),
        };
        let lie = |what, found: String, said: String| {
            if found == said {
                Ok(())
            } else {
                Err(DiskFailed::Lie { name: name(), what, found, said })
            }
        };
        lie("SHA-256", sha256(&path).await?.to_string(), disk.sha256.to_string())?;
        let facts = self.converter.inspect(&path, disk.format == DiskFormat::Raw).await?;
        lie("format", facts.format.to_string(), disk.format.to_string())?;
        lie("size", facts.size.to_string(), disk.size.to_string())?;
        lie("disk's size", facts.virtual_bytes.to_string(), disk.virtual_bytes.to_string())
    }

    /// Makes another node's image one of this node, once every byte of it is checked. Its owner's signature stays with the name
    /// that it speaks of.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn copy_disk(&self, name: &str, new_name: DiskName) -> Result<DiskView, DiskFailed> {
        let check = DiskCommand::Check { name: new_name.clone(), size: 0 };
        self.disk(check).await?;
        let disk = self.verify_disk(name).await?;
        let signature = disk.signature.filter(|_| disk.name == new_name.as_str());
        let detail = Box::new(DiskDetail {
            format: disk.format,
            digest: disk.digest,
            sha256: disk.sha256,
            size: disk.size,
            virtual_bytes: disk.virtual_bytes,
            arch: disk.arch,
            min_memory_bytes: disk.min_memory_bytes,
            properties: disk.properties,
            signature,
        });
        let (sharing, sign) = (Sharing::Private, false);
        self.disk_view(DiskCommand::Add { name: new_name, detail, sharing, sign }).await
    }

    /// The content of an image as workflows name it; another node's is fetched, so that this node can give it on.
    ///
    /// # Errors
    /// See [`DiskFailed`].
    pub async fn resolve_disk(&self, name: &str) -> Result<DiskView, DiskFailed> {
        let disk = self.show_disk(name).await?;
        match disk.state {
            State::Lost => {
                let name = disk.name.parse().map_err(|_| DiskFailed::Strange)?;
                Err(CallError::Command(DiskError::Lost { name }.into()).into())
            }
            State::Ready | State::Remote => self.disk_content(&disk).await.map(|_| disk),
        }
    }
}

/// The SHA-256 of a file, as it is read.
async fn sha256(path: &Path) -> Result<Sha256, DiskFailed> {
    let path = path.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let read = || {
            let mut file = File::open(&path)?;
            let (mut hasher, mut chunk) = (sha2::Sha256::new(), vec![0; READ_LEN]);
            loop {
                match file.read(&mut chunk)? {
                    0 => return Ok(Sha256(hasher.finalize().into())),
                    n => hasher.update(&chunk[..n]),
                }
            }
        };
        read().map_err(|source| DiskFailed::Read { path: path.clone(), source })
    });
    hashing.await.unwrap_or(Err(DiskFailed::Call(CallError::Stopped)))
}
