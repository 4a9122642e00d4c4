//! What a pushed manifest says, as far as a registry has to know: its kind, its parts, what it refers to. Its bytes are kept
//! as they came; this is what is kept beside them.

use std::collections::BTreeMap;

use super::name::OciDigest;

/// Longest manifest in bytes, as registries have it; a longer one is refused.
pub const MANIFEST_LEN_MAX: usize = 4 << 20;
/// Most parts (configuration, layers, or manifests of an index) of one manifest; one with more is refused.
pub const PARTS_MAX: usize = 1_024;
/// Most bytes of annotations of a manifest with a subject, names and values: they are kept for the list of referrers. One
/// with more is refused. Other manifests' annotations are not kept apart, and so not limited.
pub const ANNOTATIONS_LEN_MAX: usize = 16 << 10;
/// Longest media or artifact type in bytes (RFC 6838 allows 127 on each side of the slash).
pub const TYPE_LEN_MAX: usize = 255;

/// Media type of an index of the OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image's manifest of the OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Layers that need not be in a registry: their owners have them.
const FOREIGN: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
];

/// Why bytes are not a manifest that can be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Longer than [`MANIFEST_LEN_MAX`].
    #[error("the manifest has {size} bytes, at most {MANIFEST_LEN_MAX} are taken")]
    TooLong {
        /// Its length in bytes, or how far it was read.
        size: u64,
    },
    /// Of a kind that this registry does not keep.
    #[error(
        "`{media_type}` is no kind of manifest that is kept here: push an OCI manifest or index, or one of Docker's schema 2"
    )]
    Kind {
        /// The kind, cut to 100 characters.
        media_type: String,
    },
    /// It says that it is of another kind than it was sent as.
    #[error("the manifest says that it is `{says}` and was sent as `{sent}`")]
    OtherKind {
        /// In the manifest, cut to 100 characters.
        says: String,
        /// In the request.
        sent: String,
    },
    /// Not the JSON it should be.
    #[error("the manifest cannot be read: {detail}")]
    Malformed {
        /// What is wrong and where.
        detail: String,
    },
    /// More parts than [`PARTS_MAX`].
    #[error("the manifest has {found} parts, at most {PARTS_MAX} are taken")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// A type or annotations that are too long.
    #[error("{what} of the manifest have {found} bytes, at most {max} are taken")]
    Long {
        /// Which.
        what: &'static str,
        /// How many bytes.
        found: usize,
        /// The most.
        max: usize,
    },
}

/// What a part is in its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The configuration or a layer.
    Blob,
    /// A layer that may be somewhere else.
    Foreign,
    /// A manifest of an index.
    Manifest,
}

/// A part of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// Its content.
    pub digest: OciDigest,
    /// Its length in bytes, as the manifest says.
    pub size: u64,
    /// What it is.
    pub role: Role,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Document {
    /// Its kind; one of the four known ones.
    pub media_type: String,
    /// What it consists of, the configuration first.
    pub parts: Vec<Part>,
    /// The manifest it is about.
    pub subject: Option<OciDigest>,
    /// What kind of artifact it is, for the list of referrers.
    pub artifact_type: Option<String>,
    /// Kept when it has a subject.
    pub annotations: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: OciDigest,
    size: u64,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads a manifest that was sent as `sent` (a media type without parameters; what the manifest says when it is empty).
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse(bytes: &[u8], sent: &str) -> Result<Self, DocumentError> {
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(DocumentError::TooLong { size: bytes.len() as u64 });
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if raw.schema_version != 2 {
            return Err(malformed(format!("its `schemaVersion` is {}, not 2", raw.schema_version)));
        }
        let media_type = kind(&raw, sent)?;
        let is_index = media_type == OCI_INDEX || media_type == DOCKER_LIST;
        let (parts, config_type) = if is_index { index_parts(&raw)? } else { image_parts(&raw)? };
        if parts.len() > PARTS_MAX {
            return Err(DocumentError::TooMany { found: parts.len() });
        }
        // The specification: an image without an artifact type is listed under its configuration's kind.
        let artifact_type = raw.artifact_type.filter(|text| !text.is_empty()).or(config_type);
        let type_len = artifact_type.as_ref().map_or(0, String::len);
        check_len("types", type_len, TYPE_LEN_MAX)?;
        let subject = raw.subject.map(|descriptor| descriptor.digest);
        let annotations = match (&subject, raw.annotations) {
            (Some(_), Some(annotations)) => annotations,
            _ => BTreeMap::new(),
        };
        let len = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        check_len("the annotations", len, ANNOTATIONS_LEN_MAX)?;
        Ok(Self { media_type: media_type.to_owned(), parts, subject, artifact_type, annotations })
    }

    /// Whether it lists manifests rather than layers.
    #[must_use]
    pub fn is_index(&self) -> bool {
        self.media_type == OCI_INDEX || self.media_type == DOCKER_LIST
    }
}

fn malformed(detail: String) -> DocumentError {
    DocumentError::Malformed { detail }
}

fn check_len(what: &'static str, found: usize, max: usize) -> Result<(), DocumentError> {
    if found > max { Err(DocumentError::Long { what, found, max }) } else { Ok(()) }
}

/// The kind of manifest, by what was said outside and what it says itself.
fn kind(raw: &Raw, sent: &str) -> Result<&'static str, DocumentError> {
    let cut = |text: &str| text.chars().take(100).collect::<String>();
    let says = raw.media_type.as_deref().unwrap_or_default();
    let guessed = if raw.manifests.is_some() { OCI_INDEX } else { OCI_MANIFEST };
    let media_type =
        [sent, says, guessed].into_iter().find(|text| !text.is_empty()).unwrap_or(guessed);
    let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    let Some(known) = known.into_iter().find(|known| *known == media_type) else {
        return Err(DocumentError::Kind { media_type: cut(media_type) });
    };
    if says.is_empty() || says == known {
        Ok(known)
    } else {
        Err(DocumentError::OtherKind { says: cut(says), sent: known.to_owned() })
    }
}

fn index_parts(raw: &Raw) -> Result<(Vec<Part>, Option<String>), DocumentError> {
    let Some(manifests) = &raw.manifests else {
        return Err(malformed("it has no `manifests`".to_owned()));
    };
    if raw.config.is_some() || raw.layers.is_some() {
        return Err(malformed("it is an index and has a `config` or `layers`".to_owned()));
    }
    let part =
        |found: &Descriptor| Part { digest: found.digest, size: found.size, role: Role::Manifest };
    Ok((manifests.iter().map(part).collect(), None))
}

fn image_parts(raw: &Raw) -> Result<(Vec<Part>, Option<String>), DocumentError> {
    let (Some(config), Some(layers)) = (&raw.config, &raw.layers) else {
        return Err(malformed("it has no `config` or no `layers`".to_owned()));
    };
    if raw.manifests.is_some() {
        return Err(malformed("it is an image and has `manifests`".to_owned()));
    }
    let part = |found: &Descriptor| {
        let is_foreign = FOREIGN.iter().any(|kind| found.media_type.starts_with(kind));
        let role = if is_foreign { Role::Foreign } else { Role::Blob };
        Part { digest: found.digest, size: found.size, role }
    };
    let parts = std::iter::once(config).chain(layers).map(part).collect();
    Ok((parts, Some(config.media_type.clone()).filter(|text| !text.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::images::name::Algorithm;
    use serde_json::{Value, json};

    fn descriptor(media_type: &str, bytes: &str) -> Value {
        let digest = OciDigest::of(Algorithm::Sha256, bytes.as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "data": "e30="})
    }

    fn image() -> Value {
        let layer = |bytes| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", bytes);
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", "{}"),
            "layers": [layer("a"), layer("b")],
            "annotations": {"a": "b"},
            "custom": [1, 2],
        })
    }

    fn parse(value: &Value, sent: &str) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes(), sent)
    }

    #[test]
    fn an_image_and_an_index_say_what_they_consist_of() {
        let document = parse(&image(), OCI_MANIFEST).unwrap();
        assert_eq!(document.parts.len(), 3);
        assert!(document.parts.iter().all(|part| part.role == Role::Blob));
        assert_eq!(
            document.artifact_type.as_deref(),
            Some("application/vnd.oci.image.config.v1+json")
        );
        assert!(document.annotations.is_empty() && !document.is_index());
        let index = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, "m")]});
        let index = parse(&index, OCI_INDEX).unwrap();
        assert!(index.is_index() && index.parts[0].role == Role::Manifest);
        assert_eq!(index.artifact_type, None);
    }

    #[test]
    fn a_subject_brings_its_annotations_and_their_bound() {
        let mut with = image();
        with["subject"] = descriptor(OCI_MANIFEST, "subject");
        assert_eq!(parse(&with, "").unwrap().annotations["a"], "b");
        with["annotations"]["a"] = json!("x".repeat(ANNOTATIONS_LEN_MAX));
        assert!(matches!(parse(&with, ""), Err(DocumentError::Long { .. })));
        with["subject"] = Value::Null;
        assert!(parse(&with, "").is_ok());
    }

    #[test]
    fn a_foreign_layer_is_known_as_one() {
        let mut with = image();
        let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        with["layers"][1] = descriptor(kind, "elsewhere");
        assert_eq!(parse(&with, OCI_MANIFEST).unwrap().parts[2].role, Role::Foreign);
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_the_reason() {
        let check = |value: &Value, sent: &str, part: &str| {
            let error = parse(value, sent).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(&image(), OCI_INDEX, "was sent as");
        check(&image(), "text/plain", "no kind of manifest");
        check(&json!([]), "", "cannot be read");
        check(&json!({"schemaVersion": 1}), "", "not 2");
        check(&json!({"schemaVersion": 2}), "", "no `config`");
        check(&json!({"schemaVersion": 2}), DOCKER_LIST, "no `manifests`");
        let mut bad = image();
        bad["manifests"] = json!([]);
        check(&bad, OCI_MANIFEST, "has `manifests`");
        bad = image();
        bad["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
        check(&bad, OCI_MANIFEST, "no digest");
        bad = image();
        bad["layers"][0]["size"] = json!(-1);
        check(&bad, OCI_MANIFEST, "cannot be read");
        bad = image();
        let layer = bad["layers"][0].clone();
        bad["layers"] = json!(vec![layer; PARTS_MAX]);
        check(&bad, OCI_MANIFEST, "at most 1024");
        let twice = br#"{"schemaVersion":2,"config":{},"config":{}}"#;
        assert!(Document::parse(twice, OCI_MANIFEST).is_err());
        let deep = "[".repeat(100_000);
        assert!(Document::parse(deep.as_bytes(), "").is_err());
        let long = vec![b' '; MANIFEST_LEN_MAX + 1];
        assert!(matches!(Document::parse(&long, ""), Err(DocumentError::TooLong { .. })));
    }
}
