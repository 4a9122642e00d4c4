//! An image as a directory in the OCI image layout: what a task names, a node fetches and a runtime loads.
//!
//! The directory's bytes follow from the manifest alone, so an image has one name wherever and however often it is pushed.
//! Format: OCI image specification 1.1, `image-layout.md`.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;
use scheduler::value::{DirRef, Manifest as Tree, ManifestFile};

use super::document::{DocumentError, OCI_INDEX, Role};
use super::name::{OciDigest, Repository};
use super::{Content, Images};

/// The file that says that a directory is in this layout.
const MARK: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image as a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDir {
    /// The directory.
    pub dir: DirRef,
    /// Content that has to be in the store for it beside what was pushed: the layout's own files, then the directory's
    /// manifest.
    pub own: [Vec<u8>; 3],
    /// What was pushed: by its name in the registry and in the store.
    pub parts: BTreeMap<OciDigest, Content>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: [Descriptor<'a>; 1],
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: OciDigest,
    size: u64,
}

impl Images {
    /// The directory of a manifest.
    ///
    /// # Errors
    /// What of it is not there.
    pub(super) fn directory(
        &self,
        repository: &Repository,
        digest: OciDigest,
    ) -> Result<ImageDir, BTreeSet<OciDigest>> {
        let absent = || BTreeSet::from([digest]);
        let shelf = self.shelves.get(repository).ok_or_else(absent)?;
        let top = shelf.manifests.get(&digest).ok_or_else(absent)?;
        let (mut parts, mut missing) = (BTreeMap::new(), BTreeSet::new());
        let mut waiting = vec![(digest, Role::Manifest)];
        while let Some((digest, role)) = waiting.pop() {
            if parts.contains_key(&digest) {
                continue;
            }
            let Some(content) = self.content_in(repository, &digest) else {
                missing.insert(digest);
                continue;
            };
            parts.insert(digest, content);
            if role == Role::Manifest {
                match shelf.manifests.get(&digest) {
                    Some(found) => waiting
                        .extend(found.document.parts.iter().map(|part| (part.digest, part.role))),
                    None => {
                        missing.insert(digest);
                    }
                }
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        Ok(ImageDir::new(repository, digest, &top.document.media_type, parts))
    }
}

impl ImageDir {
    /// Of an image that consists of these parts, among them its manifest `digest`.
    pub(crate) fn new(
        repository: &Repository,
        digest: OciDigest,
        media_type: &str,
        parts: BTreeMap<OciDigest, Content>,
    ) -> Self {
        let size = parts.get(&digest).map_or(0, |content| content.size);
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX,
            manifests: [Descriptor { media_type, digest, size }],
        };
        let index = serde_json::to_vec(&index).expect("an index is plain data");
        layout(repository, parts, index)
    }
}

/// Why a directory of another node is no image as nodes make them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A file that does not belong there, or a missing one.
    #[error("`{path}` is {}", if *is_there { "not a file of an image" } else { "missing" })]
    File {
        /// Which, cut to 200 characters.
        path: String,
        /// Whether it is there.
        is_there: bool,
    },
    /// The index cannot be read.
    #[error("`index.json` cannot be read: {detail}")]
    Index {
        /// Why.
        detail: String,
    },
    /// A manifest cannot be read.
    #[error("the manifest {digest} is refused")]
    Document {
        /// Which.
        digest: OciDigest,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// More manifests than [`MANIFESTS_MAX`].
    #[error("it has more than {MANIFESTS_MAX} manifests")]
    Manifests,
    /// Content has not the digest that it is filed under.
    #[error("what is filed under {said} is {found}")]
    Damaged {
        /// As its name says.
        said: OciDigest,
        /// As it is.
        found: Box<OciDigest>,
    },
    /// It is another image than was asked for.
    #[error("it is the image {found}, and {asked} was asked for")]
    Other {
        /// Which was.
        asked: OciDigest,
        /// Which it is.
        found: Box<OciDigest>,
    },
    /// It is put together in another way.
    #[error("its directory would be {made} if a node had made it, and is {is}")]
    Form {
        /// As it should be.
        made: Digest,
        /// As it is.
        is: Digest,
    },
}

/// Most manifests of one image of another node: an index has one for each architecture. One with more is refused.
pub const MANIFESTS_MAX: usize = 1_024;

/// What a directory says that should be an image. Nothing of it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What it has, by the names that it gives.
    pub(crate) contents: BTreeMap<OciDigest, Content>,
    /// The content of `index.json`.
    pub(crate) index: Content,
}

impl Layout {
    /// Reads a directory's manifest.
    pub(crate) fn read(tree: &Tree) -> Result<Self, LayoutError> {
        let (mut contents, mut index) = (BTreeMap::new(), None);
        for (path, file) in &tree.files {
            let content = Content { digest: file.digest, size: file.size };
            match path.as_str() {
                "index.json" => index = Some(content),
                "oci-layout" => {}
                path => {
                    let strange = || LayoutError::File {
                        path: path.chars().take(200).collect(),
                        is_there: true,
                    };
                    let name = path.strip_prefix("blobs/").ok_or_else(strange)?;
                    let digest = name.replacen('/', ":", 1).parse().map_err(|_| strange())?;
                    contents.insert(digest, content);
                }
            }
        }
        let missing = || LayoutError::File { path: "index.json".to_owned(), is_there: false };
        Ok(Self { contents, index: index.ok_or_else(missing)? })
    }

    /// The manifest that an index names, and its kind.
    pub(crate) fn top(index: &[u8]) -> Result<(OciDigest, String), LayoutError> {
        let index: GivenIndex = serde_json::from_slice(index)
            .map_err(|error| LayoutError::Index { detail: error.to_string() })?;
        let [top] = index.manifests;
        Ok((top.digest, top.media_type))
    }
}

#[derive(serde::Deserialize)]
struct GivenIndex {
    manifests: [GivenDescriptor; 1],
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct GivenDescriptor {
    media_type: String,
    digest: OciDigest,
}

fn layout(
    repository: &Repository,
    parts: BTreeMap<OciDigest, Content>,
    index: Vec<u8>,
) -> ImageDir {
    let mark = MARK.as_bytes().to_vec();
    let mut tree = Tree::default();
    for (digest, content) in &parts {
        let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.to_hex());
        let file = ManifestFile { digest: content.digest, size: content.size };
        tree.files.insert(path, file);
    }
    for (name, bytes) in [("oci-layout", &mark), ("index.json", &index)] {
        let file = ManifestFile { digest: Digest::of(bytes), size: bytes.len() as u64 };
        tree.files.insert(name.to_owned(), file);
    }
    let manifest = tree.encode();
    let name = repository.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let dir = DirRef { digest: Digest::of(&manifest), size: tree.size(), name };
    ImageDir { dir, own: [mark, index, manifest], parts }
}
