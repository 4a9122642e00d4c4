//! Values that flow along a workflow's edges: plain data, files and directories by digest.

use std::collections::BTreeMap;

use catalog::Digest;

/// A file's content and the name it was made under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// Last component of the path it was made under; used when a list of files is staged.
    pub name: String,
}

/// A directory tree: the blob `digest` is its [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirRef {
    /// BLAKE3 of the encoded manifest.
    pub digest: Digest,
    /// Sum of the files' lengths in bytes.
    pub size: u64,
    /// Last component of the path it was made under.
    pub name: String,
}

/// The content of a directory blob: every file below it, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Files by relative path with `/`; no `.`, `..`, empty or absolute component.
    pub files: BTreeMap<String, ManifestFile>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// Most files one directory may hold.
pub const MANIFEST_FILES_MAX: usize = 100_000;
/// Longest relative path in a manifest or a task, in bytes.
pub const PATH_LEN_MAX: usize = 1024;

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the CBOR of a manifest.
    #[error("not a directory manifest")]
    Malformed,
    /// More files than a manifest may hold.
    #[error("{files} files in one directory, at most {MANIFEST_FILES_MAX} are allowed")]
    TooMany {
        /// Files listed.
        files: usize,
    },
    /// A path that leaves the directory or is not in plain form.
    #[error("`{path}` is not a plain relative path")]
    Path {
        /// The path, cut to 80 characters.
        path: String,
    },
}

impl Manifest {
    /// The bytes whose digest names the directory. `BTreeMap` order makes them deterministic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data")
    }

    /// Decodes and checks every path.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|_| ManifestError::Malformed)?;
        if manifest.files.len() > MANIFEST_FILES_MAX {
            return Err(ManifestError::TooMany { files: manifest.files.len() });
        }
        match manifest.files.keys().find(|path| !is_plain_path(path)) {
            Some(path) => Err(ManifestError::Path { path: path.chars().take(80).collect() }),
            None => Ok(manifest),
        }
    }

    /// Sum of the files' lengths, saturating.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.values().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

/// Whether `path` is relative with plain components only: no empty one, `.`, `..`, backslash or NUL.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_LEN_MAX
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// A value of a parameter, a step's input or output.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Absent: the output of a skipped step, an optional parameter not given.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// Values in order; also the collected outputs of a mapped step.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
    /// A file by digest.
    File(FileRef),
    /// A directory by digest.
    Dir(DirRef),
}

impl Value {
    /// From plain JSON; numbers become [`Value::Int`] when whole and in range.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(int) => Self::Int(int),
                None => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Self::List(items.iter().map(Self::from_json).collect())
            }
            serde_json::Value::Object(map) => {
                Self::Map(map.iter().map(|(k, v)| (k.clone(), Self::from_json(v))).collect())
            }
        }
    }

    /// Every blob the value names, directories by their manifest.
    pub fn blobs(&self, found: &mut Vec<(Digest, u64)>) {
        match self {
            Self::File(file) => found.push((file.digest, file.size)),
            Self::Dir(dir) => found.push((dir.digest, dir.size)),
            Self::List(items) => items.iter().for_each(|item| item.blobs(found)),
            Self::Map(map) => map.values().for_each(|item| item.blobs(found)),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["a", "a/b.c", "a b/ü"] {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in ["", "/a", "a//b", "a/", "./a", "a/../b", "..", "a\\b", "a\0b"] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_manifest_that_climbs_out_is_refused() {
        let file = ManifestFile { digest: Digest::of(b""), size: 0 };
        let good = Manifest { files: BTreeMap::from([("a/b".to_owned(), file.clone())]) };
        assert_eq!(Manifest::decode(&good.encode()).unwrap(), good);
        let bad = Manifest { files: BTreeMap::from([("../b".to_owned(), file)]) };
        assert!(matches!(Manifest::decode(&bad.encode()), Err(ManifestError::Path { .. })));
    }
}
