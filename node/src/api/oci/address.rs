//! What an address of the registry names. A repository's name has slashes in it, so the end of the address decides.

use std::fmt;
use std::str::FromStr;

use axum::http::StatusCode;

use super::BASE;
use super::error::{Code, RegistryError};
use crate::engine::images::name::{ImageName, NameError, OciDigest, Repository};

/// Names an upload under way; nobody guesses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UploadId([u8; 16]);

impl UploadId {
    /// From random bytes.
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = catalog::id::to_hex(&self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl FromStr for UploadId {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let id = catalog::id::from_hex(&text.replace('-', "")).map(Self);
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| RegistryError::new(Code::UploadUnknown, "this names no upload"))
    }
}

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The registry.
    Root,
    /// Its repositories.
    Catalog,
    /// A repository's tags.
    Tags(Repository),
    /// What refers to a manifest.
    Referrers(Repository, OciDigest),
    /// A configuration or layer.
    Blob(Repository, OciDigest),
    /// A manifest.
    Manifest(ImageName),
    /// Where uploads begin.
    Uploads(Repository),
    /// An upload under way.
    Upload(Repository, UploadId),
}

impl Address {
    /// Reads the path of a request.
    pub(super) fn parse(path: &str) -> Result<Self, RegistryError> {
        let path = decoded(path);
        let rest = path.strip_prefix(BASE).unwrap_or(&path);
        let parts: Vec<&str> = rest.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            [] | [""] => Ok(Self::Root),
            ["_catalog"] => Ok(Self::Catalog),
            [name @ .., "tags", "list"] => Ok(Self::Tags(repository(name)?)),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads(repository(name)?))
            }
            [name @ .., "blobs", "uploads", id] => Ok(Self::Upload(repository(name)?, id.parse()?)),
            [name @ .., "blobs", digest] => Ok(Self::Blob(repository(name)?, digest.parse()?)),
            [name @ .., "referrers", digest] => {
                Ok(Self::Referrers(repository(name)?, digest.parse()?))
            }
            [name @ .., "manifests", reference] => {
                let (repository, reference) = (repository(name)?, reference.parse()?);
                Ok(Self::Manifest(ImageName { repository, reference }))
            }
            _ => {
                let message = "there is nothing at this address of the registry";
                let error = RegistryError::new(Code::Unsupported, message);
                Err(error.with_status(StatusCode::NOT_FOUND))
            }
        }
    }
}

fn repository(parts: &[&str]) -> Result<Repository, NameError> {
    parts.join("/").parse()
}

/// The path without percent encoding; what is no UTF-8 then names nothing.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::images::name::Algorithm;

    #[test]
    fn the_end_of_an_address_says_what_it_names() {
        let digest = OciDigest::of(Algorithm::Sha256, b"");
        let name: Repository = "docker.io/library/blobs".parse().unwrap();
        let id = UploadId::from_bytes([0xab; 16]);
        let check = |path: &str, address: Address| {
            assert_eq!(Address::parse(path).unwrap(), address, "{path}");
        };
        check("/v2", Address::Root);
        check("/v2/", Address::Root);
        check("/v2/_catalog", Address::Catalog);
        check("/v2/docker.io/library/blobs/tags/list", Address::Tags(name.clone()));
        let encoded = digest.to_string().replace(':', "%3A");
        for text in [digest.to_string(), encoded] {
            let path = format!("/v2/docker.io/library/blobs/blobs/{text}");
            check(&path, Address::Blob(name.clone(), digest));
        }
        check(&format!("/v2/{name}/blobs/uploads/"), Address::Uploads(name.clone()));
        check(&format!("/v2/{name}/blobs/uploads"), Address::Uploads(name.clone()));
        check(&format!("/v2/{name}/blobs/uploads/{id}"), Address::Upload(name.clone(), id));
        check(&format!("/v2/{name}/referrers/{digest}"), Address::Referrers(name.clone(), digest));
        for reference in ["latest", &digest.to_string()] {
            let image =
                ImageName { repository: name.clone(), reference: reference.parse().unwrap() };
            check(&format!("/v2/{name}/manifests/{reference}"), Address::Manifest(image));
        }
    }

    #[test]
    fn hostile_addresses_name_nothing() {
        for path in [
            "/v2/x",
            "/v2/../etc/passwd",
            "/v2//manifests/latest",
            "/v2/a/../b/manifests/latest",
            "/v2/a/%2e%2e/b/manifests/latest",
            "/v2/A/manifests/latest",
            "/v2/a/manifests/..",
            "/v2/a/manifests/",
            "/v2/a/manifests/sha256:baddigeststring",
            "/v2/a/blobs/latest",
            "/v2/a/blobs/sha256:00",
            "/v2/a/blobs/uploads/../../x",
            "/v2/a/blobs/uploads/abababab",
            "/v2/a%00b/tags/list",
            "/v2/a%/tags/list",
            "/v2/a%ff/tags/list",
            "/v2/tags/list",
        ] {
            assert!(Address::parse(path).is_err(), "{path}");
        }
    }
}
