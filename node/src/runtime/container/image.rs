//! Images: from a directory in the OCI image layout into the engine's store.
//!
//! The directory came by its digest and is what its owner published. What it names inside is checked all the same before the
//! engine gets it: every file against the SHA-256 that names it, sizes, kinds, the architecture. The engine is given an
//! archive that both older engines (`manifest.json`) and newer ones understand, and keeps the image under a name made of the
//! digest, so the next task finds it there.
//!
//! Format: OCI image specification 1.1, `image-layout.md`, `manifest.md`, `config.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bollard::Docker;
use bollard::query_parameters::ImportImageOptions;
use bytes::Bytes;
use catalog::Digest;
use futures::{Stream, StreamExt as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{ContainerRuntime, fault};
use crate::runtime::{HostFault, Origin, PrepareError, Prepared, bounded};

/// Longest JSON document of an image in bytes, as registries have it; a longer one is refused.
const DOCUMENT_LEN_MAX: u64 = 4 << 20;
/// Most layers of an image, as the engines have it; an image with more is refused.
const LAYERS_MAX: usize = 127;
/// Most manifests in one index; an image with more is refused.
const MANIFESTS_MAX: usize = 256;
/// How deep an index may lie in an index.
const INDEX_DEPTH_MAX: usize = 2;
/// Bytes of an archive handed to the engine at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for the engine; when it is slower, reading waits.
const CHUNKS: usize = 8;
/// What images of tasks are called in the engine's store. A host name in front, so that no engine ever asks a registry.
const REPOSITORY: &str = "localhost/opencloud";
const TAG: &str = "image";

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// Why an image can never run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidImage {
    /// The directory is not in the OCI image layout.
    #[error(
        "the image is not in the OCI layout: `{file}` {problem}; make it with `skopeo copy … oci:DIR`"
    )]
    Layout {
        /// The file in question.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not what its name says.
    #[error("the image is damaged: `{file}` does not have its SHA-256")]
    Damaged {
        /// The file in question.
        file: String,
    },
    /// It has no variant for this machine.
    #[error(
        "the image is for {found}, and this machine is {wanted}; ask for it with `needs: {{arch: …}}`"
    )]
    Platform {
        /// What there is.
        found: String,
        /// What is wanted, as `os/architecture`.
        wanted: String,
    },
    /// It is larger than the formats allow.
    #[error("the image has {found} {what}, at most {max} are taken")]
    TooMany {
        /// Layers or manifests.
        what: &'static str,
        /// How many.
        found: usize,
        /// The most.
        max: usize,
    },
    /// The engine refuses it or its command.
    #[error("the container engine refuses it: {detail}")]
    Refused {
        /// The engine's message, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The files of one image, checked.
#[derive(Debug)]
struct Layout {
    /// Path in the archive and on disk, the configuration first.
    files: Vec<(String, PathBuf)>,
    /// The archive's `manifest.json`.
    manifest: Vec<u8>,
}

impl ContainerRuntime {
    /// The image in the engine's store, into which it is loaded when it is not there; how long that took does not count the
    /// wait for others.
    pub(super) async fn load(
        &self,
        dir: &Path,
        digest: Digest,
    ) -> Result<(Image, Prepared), PrepareError> {
        let name = format!("{REPOSITORY}/{}", catalog::id::to_hex(digest.as_bytes()));
        let reference = format!("{name}:{TAG}");
        let _once = self.loading.lock().await;
        let begun = Instant::now();
        let prepared = |origin| Prepared { origin, elapsed: begun.elapsed() };
        if let Some(image) = find(&self.docker, &reference).await? {
            return Ok((image, prepared(Origin::Warm)));
        }
        let (dir, tag) = (dir.to_owned(), reference.clone());
        let layout = tokio::task::spawn_blocking(move || Layout::read(&dir, &tag)).await;
        let layout = layout.unwrap_or(Err(PrepareError::Host(HostFault::Died)))?;
        let options = ImportImageOptions { quiet: true, ..Default::default() };
        let mut loading =
            Box::pin(self.docker.import_image_stream(options, layout.into_archive(), None));
        while let Some(told) = loading.next().await {
            let told = told.map_err(|error| refused_or_fault("load the image", &error))?;
            if let Some(error) = told.error_detail {
                let detail = bounded(error.message.unwrap_or_default());
                return Err(InvalidImage::Refused { detail }.into());
            }
        }
        if let Some(image) = find(&self.docker, &reference).await? {
            return Ok((image, prepared(Origin::Cold)));
        }
        let detail = "it took the archive and does not know the image".to_owned();
        Err(HostFault::Container { action: "load the image", detail }.into())
    }
}

/// An image in the engine's store.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) reference: String,
    /// Directories that it wants to be written to.
    pub(super) volumes: Vec<String>,
}

async fn find(docker: &Docker, reference: &str) -> Result<Option<Image>, HostFault> {
    match docker.inspect_image(reference).await {
        Ok(found) => {
            let volumes = found.config.and_then(|config| config.volumes).unwrap_or_default();
            Ok(Some(Image { reference: reference.to_owned(), volumes }))
        }
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(fault("look for the image", &error)),
    }
}

/// A message of the engine about what it was given, or a fault of the host.
pub(super) fn refused_or_fault(
    action: &'static str,
    error: &bollard::errors::Error,
) -> PrepareError {
    use bollard::errors::Error as E;
    match error {
        E::DockerStreamError { error } => {
            InvalidImage::Refused { detail: bounded(error.clone()) }.into()
        }
        E::DockerResponseServerError { status_code: 400..=403 | 405..=499, message } => {
            InvalidImage::Refused { detail: bounded(message.clone()) }.into()
        }
        error => fault(action, error).into(),
    }
}

/// An image as registries take it, checked.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct OpenImage {
    /// Of its manifest.
    pub(in crate::runtime) digest: String,
    pub(in crate::runtime) media_type: String,
    pub(in crate::runtime) manifest: Vec<u8>,
    /// Its configuration and its layers.
    pub(in crate::runtime) blobs: Vec<Blob>,
    /// What it runs when nobody says otherwise: its entry point, and the arguments of that.
    pub(in crate::runtime) entrypoint: Vec<String>,
    pub(in crate::runtime) command: Vec<String>,
    /// Directories that it wants to be written to.
    pub(in crate::runtime) volumes: Vec<String>,
}

/// A file of an image.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Blob {
    pub(in crate::runtime) digest: String,
    pub(in crate::runtime) size: u64,
    pub(in crate::runtime) path: PathBuf,
}

/// The part of an image's configuration that says how it is run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    config: Option<Execution>,
}

impl OpenImage {
    /// Reads the image for this machine out of a directory in the OCI image layout. It reads all of it, to check it.
    pub(in crate::runtime) fn open(dir: &Path) -> Result<Self, PrepareError> {
        let (descriptor, manifest) = checked(dir)?;
        let (file, path) = place(dir, &descriptor)?;
        let configuration: Configuration = checked_document(dir, &manifest.config)?;
        let execution = configuration.config.unwrap_or_default();
        let mut blobs = Vec::with_capacity(manifest.layers.len() + 1);
        for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let (_, path) = place(dir, part)?;
            blobs.push(Blob { digest: part.digest.clone(), size: part.size, path });
        }
        Ok(Self {
            digest: descriptor.digest,
            media_type: descriptor.media_type,
            manifest: read_bounded(&file, &path)?,
            blobs,
            entrypoint: execution.entrypoint.unwrap_or_default(),
            command: execution.cmd.unwrap_or_default(),
            volumes: execution.volumes.unwrap_or_default().into_keys().collect(),
        })
    }
}

/// The manifest for this machine, with its descriptor, of an image whose every file is what its name says.
fn checked(dir: &Path) -> Result<(Descriptor, Manifest), PrepareError> {
    document::<serde_json::Value>(dir, "oci-layout")?;
    let index: Index = document(dir, "index.json")?;
    let descriptor = choose(dir, index, INDEX_DEPTH_MAX)?;
    let manifest: Manifest = checked_document(dir, &descriptor)?;
    let platform: Platform = checked_document(dir, &manifest.config)?;
    if platform != here() {
        return Err(other_platform(&[platform]));
    }
    if manifest.layers.len() > LAYERS_MAX {
        let found = manifest.layers.len();
        return Err(InvalidImage::TooMany { what: "layers", found, max: LAYERS_MAX }.into());
    }
    for layer in &manifest.layers {
        let (file, path) = place(dir, layer)?;
        if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
            let problem = format!("is a layer of the unknown kind `{}`", cut(&layer.media_type));
            return Err(InvalidImage::Layout { file, problem }.into());
        }
        check_file(&file, &path, layer)?;
    }
    Ok((descriptor, manifest))
}

impl Layout {
    fn read(dir: &Path, reference: &str) -> Result<Self, PrepareError> {
        let (_, manifest) = checked(dir)?;
        let mut files = vec![place(dir, &manifest.config)?];
        for layer in &manifest.layers {
            files.push(place(dir, layer)?);
        }
        let names: Vec<&String> = files.iter().skip(1).map(|(name, _)| name).collect();
        let manifest = serde_json::json!([{
            "Config": files[0].0, "RepoTags": [reference], "Layers": names,
        }]);
        Ok(Self { files, manifest: manifest.to_string().into_bytes() })
    }

    /// The archive as it is read from disk, in step with whoever takes it.
    fn into_archive(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (send, receive) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let out = Chunks { send: send.clone(), chunk: Vec::with_capacity(CHUNK_BYTES) };
            if let Err(error) = self.write(out) {
                // Nobody who listens is fine: then the engine has given up.
                let _ = send.blocking_send(Err(error));
            }
        });
        futures::stream::unfold(receive, async |mut receive| {
            receive.recv().await.map(|chunk| (chunk, receive))
        })
    }

    fn write(&self, out: Chunks) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        archive.mode(tar::HeaderMode::Deterministic);
        let mut header = tar::Header::new_ustar();
        header.set_size(self.manifest.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "manifest.json", &self.manifest[..])?;
        let mut written = std::collections::BTreeSet::new();
        for (name, path) in &self.files {
            // Empty layers are often the same one.
            if written.insert(name) {
                archive.append_file(name, &mut File::open(path)?)?;
            }
        }
        archive.into_inner()?.flush()
    }
}

/// Hands on what is written in chunks.
struct Chunks {
    send: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.send.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The manifest for this machine.
fn choose(dir: &Path, index: Index, depth: usize) -> Result<Descriptor, PrepareError> {
    let n = index.manifests.len();
    if n > MANIFESTS_MAX {
        let what = "manifests";
        return Err(InvalidImage::TooMany { what, found: n, max: MANIFESTS_MAX }.into());
    }
    let fits = |found: &Descriptor| found.platform.as_ref().is_none_or(|p| *p == here());
    let platforms: Vec<Platform> =
        index.manifests.iter().filter_map(|found| found.platform.clone()).collect();
    let Some(found) = index.manifests.into_iter().find(fits) else {
        return Err(other_platform(&platforms));
    };
    if MANIFEST_TYPES.contains(&found.media_type.as_str()) {
        return Ok(found);
    }
    if INDEX_TYPES.contains(&found.media_type.as_str()) && depth > 0 {
        return choose(dir, checked_document(dir, &found)?, depth - 1);
    }
    let problem = format!("names a manifest of the unknown kind `{}`", cut(&found.media_type));
    Err(InvalidImage::Layout { file: "index.json".to_owned(), problem }.into())
}

fn other_platform(found: &[Platform]) -> PrepareError {
    let name =
        |platform: &Platform| format!("{}/{}", cut(&platform.os), cut(&platform.architecture));
    let found: Vec<String> = found.iter().take(8).map(name).collect();
    let found = if found.is_empty() { "no machine".to_owned() } else { found.join(", ") };
    InvalidImage::Platform { found, wanted: name(&here()) }.into()
}

/// This machine, in the words of images.
fn here() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned() }
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Where a descriptor's file lies, in the layout and on disk.
fn place(dir: &Path, descriptor: &Descriptor) -> Result<(String, PathBuf), PrepareError> {
    let hex = descriptor.digest.strip_prefix("sha256:").filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    let Some(hex) = hex else {
        let file = "index.json".to_owned();
        let problem = format!("leads to `{}`, which is no SHA-256", cut(&descriptor.digest));
        return Err(InvalidImage::Layout { file, problem }.into());
    };
    let name = format!("blobs/sha256/{hex}");
    let path = dir.join(&name);
    Ok((name, path))
}

fn document<T: for<'de> Deserialize<'de>>(dir: &Path, file: &str) -> Result<T, PrepareError> {
    parse(file, &read_bounded(file, &dir.join(file))?)
}

fn checked_document<T: for<'de> Deserialize<'de>>(
    dir: &Path,
    descriptor: &Descriptor,
) -> Result<T, PrepareError> {
    let (file, path) = place(dir, descriptor)?;
    check_file(&file, &path, descriptor)?;
    parse(&file, &read_bounded(&file, &path)?)
}

fn parse<T: for<'de> Deserialize<'de>>(file: &str, bytes: &[u8]) -> Result<T, PrepareError> {
    serde_json::from_slice(bytes).map_err(|error| {
        InvalidImage::Layout { file: file.to_owned(), problem: format!("cannot be read: {error}") }
            .into()
    })
}

fn read_bounded(file: &str, path: &Path) -> Result<Vec<u8>, PrepareError> {
    let mut bytes = Vec::new();
    open(file, path)?
        .take(DOCUMENT_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| HostFault::file("read", path, &error))?;
    if bytes.len() as u64 > DOCUMENT_LEN_MAX {
        let problem = format!("is longer than {DOCUMENT_LEN_MAX} bytes");
        return Err(InvalidImage::Layout { file: file.to_owned(), problem }.into());
    }
    Ok(bytes)
}

fn open(file: &str, path: &Path) -> Result<File, PrepareError> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let problem = "is not there".to_owned();
            InvalidImage::Layout { file: file.to_owned(), problem }.into()
        }
        _ => HostFault::file("open", path, &error).into(),
    })
}

/// Compares a file with the size and hash that it should have.
fn check_file(file: &str, path: &Path, descriptor: &Descriptor) -> Result<(), PrepareError> {
    let mut open = open(file, path)?;
    let len = open.metadata().map_err(|error| HostFault::file("read", path, &error))?.len();
    let damaged = || InvalidImage::Damaged { file: file.to_owned() };
    if len != descriptor.size {
        return Err(damaged().into());
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let len = open.read(&mut buffer).map_err(|error| HostFault::file("read", path, &error))?;
        if len == 0 {
            break;
        }
        hasher.update(&buffer[..len]);
    }
    let found = catalog::id::to_hex(&hasher.finalize());
    if descriptor.digest.strip_prefix("sha256:") != Some(found.as_str()) {
        return Err(damaged().into());
    }
    Ok(())
}
