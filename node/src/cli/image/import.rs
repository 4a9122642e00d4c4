//! Brings an image from a file to the node, the way registry clients do.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::source::{ImportError, Source};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::upload::blocking;
use crate::engine::images::document::{Document, OCI_MANIFEST, Role};
use crate::engine::images::name::{Algorithm, Hasher, ImageName, OciDigest, Reference, Repository};

/// Bytes read from disk at once.
const READ_LEN: usize = 256 << 10;
/// How deep an index may lie in an index.
const DEPTH_MAX: usize = 3;
/// References named when several fit.
const KNOWN_MAX: usize = 8;
/// By this annotation an image in a layout has a name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: OciDigest,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// An image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<OciDigest>,
}

/// Brings the image at `path` to the node, under `name`.
pub(super) async fn import(
    client: &Client,
    path: &Path,
    name: &ImageName,
    reference: Option<&str>,
) -> Result<(), CliError> {
    if !matches!(name.reference, Reference::Tag(_)) {
        let what = "an image is brought in under a tag: its digest follows from what it is";
        return Err(CliError::usage(what.to_owned()));
    }
    let path = path.to_owned();
    let source = blocking(move || Source::open(&path)).await?;
    let push = Push { client, source, repository: &name.repository };
    if push.source.has("oci-layout") && push.source.has("index.json") {
        push.layout(&name.reference, reference).await
    } else if push.source.has("manifest.json") {
        push.saved(&name.reference, reference).await
    } else {
        Err(push.bad(ImportError::Unknown))
    }
}

struct Push<'a> {
    client: &'a Client,
    source: Source,
    repository: &'a Repository,
}

impl Push<'_> {
    fn bad(&self, error: ImportError) -> CliError {
        CliError::import(self.source.path())(error)
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, CliError> {
        let bytes = self.source.document(name)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            self.bad(ImportError::Malformed { name: name.to_owned(), detail: error.to_string() })
        })
    }

    /// Of several the only one that fits.
    fn choose<T>(
        &self,
        all: Vec<T>,
        wanted: Option<&str>,
        names: impl Fn(&T) -> Vec<String>,
    ) -> Result<T, CliError> {
        let known = all.iter().flat_map(&names).take(KNOWN_MAX).collect();
        let fits =
            |one: &T| wanted.is_none_or(|wanted| names(one).iter().any(|name| name == wanted));
        let fitting: Vec<T> = all.into_iter().filter(fits).collect();
        let count = fitting.len();
        <[T; 1]>::try_from(fitting)
            .map(|[one]| one)
            .map_err(|_| self.bad(ImportError::Choice { count, known }))
    }

    /// An image of a layout: everything it consists of, the manifest last.
    async fn layout(&self, tag: &Reference, wanted: Option<&str>) -> Result<(), CliError> {
        let index: Index = self.json("index.json")?;
        let names =
            |found: &Descriptor| found.annotations.get(REF_NAME).cloned().into_iter().collect();
        let top = self.choose(index.manifests, wanted, names)?;
        // Manifests with how deep they lie, each after what it lies in; they are sent the other way round.
        let mut found = vec![(top.digest, top.media_type, 0)];
        let mut manifests = Vec::new();
        let mut next = 0;
        while let Some((digest, kind, depth)) = found.get(next).cloned() {
            next += 1;
            let name = file_of(&digest);
            let bytes = self.source.document(&name)?;
            let is = OciDigest::of(digest.algorithm(), &bytes);
            if is != digest {
                let (said, found) = (Box::new(digest), Box::new(is));
                return Err(self.bad(ImportError::Damaged { name, said, found }));
            }
            let document = Document::parse(&bytes, &kind)
                .map_err(|source| self.bad(ImportError::Document { name, source }))?;
            for part in &document.parts {
                match part.role {
                    Role::Manifest if depth >= DEPTH_MAX => {
                        return Err(self.bad(ImportError::Deep { max: DEPTH_MAX }));
                    }
                    Role::Manifest if found.iter().any(|(known, ..)| *known == part.digest) => {}
                    Role::Manifest => found.push((part.digest, String::new(), depth + 1)),
                    Role::Foreign if !self.source.has(&file_of(&part.digest)) => {}
                    Role::Foreign | Role::Blob => {
                        self.content(&file_of(&part.digest), part.digest).await?
                    }
                }
            }
            manifests.push((digest, document.media_type, bytes));
        }
        for (n, (digest, kind, bytes)) in manifests.into_iter().enumerate().rev() {
            let reference = if n == 0 { tag.clone() } else { Reference::Digest(digest) };
            self.client.push_manifest(self.repository, &reference, &kind, bytes).await?;
        }
        Ok(())
    }

    /// An image of `docker save`: its manifest is made here.
    async fn saved(&self, tag: &Reference, wanted: Option<&str>) -> Result<(), CliError> {
        let all: Vec<Saved> = self.json("manifest.json")?;
        let image =
            self.choose(all, wanted, |saved| saved.repo_tags.clone().unwrap_or_default())?;
        let config: Config = self.json(&image.config)?;
        let config_bytes = self.source.document(&image.config)?;
        let config_digest = OciDigest::of(Algorithm::Sha256, &config_bytes);
        if config.rootfs.diff_ids.len() != image.layers.len() {
            let (said, found) = (config.rootfs.diff_ids.len(), image.layers.len());
            let detail = format!("it names {said} layers and `manifest.json` {found}");
            return Err(self.bad(ImportError::Malformed { name: image.config, detail }));
        }
        let mut layers = Vec::new();
        for (name, said) in image.layers.iter().zip(config.rootfs.diff_ids) {
            layers.push(self.saved_layer(name, said).await?);
        }
        self.content(&image.config, config_digest).await?;
        let config = serde_json::json!({
            "mediaType": CONFIG, "digest": config_digest, "size": config_bytes.len(),
        });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        self.client.push_manifest(self.repository, tag, OCI_MANIFEST, bytes).await
    }

    /// Sends a layer and describes it. What is not compressed has to be what the configuration says.
    async fn saved_layer(
        &self,
        name: &str,
        said: OciDigest,
    ) -> Result<serde_json::Value, CliError> {
        let (source, file) = (self.source.clone(), name.to_owned());
        let (digest, size, is_packed) = blocking(move || hash(&source, &file)).await?;
        if !is_packed && digest != said {
            let (said, found) = (Box::new(said), Box::new(digest));
            return Err(self.bad(ImportError::Damaged { name: name.to_owned(), said, found }));
        }
        self.content(name, digest).await?;
        let kind = if is_packed { format!("{LAYER}+gzip") } else { LAYER.to_owned() };
        Ok(serde_json::json!({"mediaType": kind, "digest": digest, "size": size}))
    }

    /// Sends a file, unless the repository has it. The node checks its digest.
    async fn content(&self, name: &str, digest: OciDigest) -> Result<(), CliError> {
        if self.client.has_content(self.repository, &digest).await? {
            return Ok(());
        }
        let (source, file) = (self.source.clone(), name.to_owned());
        let (file, size) = blocking(move || source.file(&file)).await?;
        let bytes = tokio::fs::File::from_std(file).take(size);
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(bytes, READ_LEN));
        self.client.push_content(self.repository, &digest, body).await
    }
}

/// Where a layout has content.
fn file_of(digest: &OciDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.to_hex())
}

/// Digest, length and whether it is packed by gzip. Blocks.
fn hash(source: &Source, name: &str) -> Result<(OciDigest, u64, bool), CliError> {
    let (file, size) = source.file(name)?;
    let mut file = file.take(size);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; READ_LEN];
    let mut is_packed = None;
    loop {
        let n = file.read(&mut buffer).map_err(CliError::io(source.path()))?;
        is_packed.get_or_insert(buffer[..n].starts_with(&[0x1f, 0x8b]));
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok((hasher.finish(), size, is_packed.unwrap_or(false)))
}
