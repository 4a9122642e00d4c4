//! An image as a directory in the OCI image layout: what a task names, a node fetches and a runtime loads.
//!
//! The directory's bytes follow from the manifest alone, so an image has one name wherever and however often it is pushed.
//! Format: OCI image specification 1.1, `image-layout.md`.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;
use scheduler::value::{DirRef, Manifest as Tree, ManifestFile};

use super::document::{OCI_INDEX, Role};
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
        let size = parts.get(&digest).map_or(0, |content| content.size);
        let media_type = &top.document.media_type;
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX,
            manifests: [Descriptor { media_type, digest, size }],
        };
        let index = serde_json::to_vec(&index).expect("an index is plain data");
        Ok(layout(repository, parts, index))
    }
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
