//! Images that other nodes publish: how a record names one, and which one a name means.
//!
//! A record of the kind algorithm with the runtime [`RUNTIME`] and the key `image/REPOSITORY:TAG` offers an image: its digest
//! is that of the image's directory, which peers fetch, its `manifest` that by which registries know it. The key is the name;
//! nobody owns names, so two organisations may use one for different images. Then whoever asks has to say which is meant.

use std::collections::BTreeMap;

use catalog::record::{AlgorithmDetail, Detail, KEY_LEN_MAX, Maturity, NAME_LEN_MAX, Resource};
use catalog::{Digest, Entry};

use super::name::{ImageName, OciDigest, Reference};
use super::{ImageError, ImageView};
use crate::engine::command::CANDIDATES_MAX;

/// What runs images.
pub const RUNTIME: &str = "container";
/// How the keys of images begin.
pub const KEY_PREFIX: &str = "image/";

/// Why an image cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Its name has no tag.
    #[error(
        "`{name}` has no tag: an image is published under a tag, and found by its digest as well"
    )]
    NoTag {
        /// As asked.
        name: String,
    },
    /// Its name is too long for a record.
    #[error(
        "`{name}` has {len} characters, and the catalogue takes {max}: give the image a shorter name first, with `opencloud image \
         import` or a push"
    )]
    Long {
        /// As asked.
        name: String,
        /// Its length.
        len: usize,
        /// The most.
        max: usize,
    },
    /// A part of it is somewhere else.
    #[error(
        "a part of `{name}` is not on this node, so others could not fetch it: push the image with all its layers"
    )]
    Parts {
        /// As asked.
        name: String,
    },
}

/// The key of an image's record.
///
/// # Errors
/// See [`OfferError`].
pub fn key_of(name: &ImageName) -> Result<String, OfferError> {
    let text = name.to_string();
    if !matches!(name.reference, Reference::Tag(_)) {
        return Err(OfferError::NoTag { name: text });
    }
    let max = KEY_LEN_MAX - KEY_PREFIX.len();
    if text.len() > max {
        return Err(OfferError::Long { len: text.len(), name: text, max });
    }
    Ok(format!("{KEY_PREFIX}{text}"))
}

/// The record that offers an image of this node under its name.
///
/// # Errors
/// See [`OfferError`].
pub fn record_of(name: &ImageName, image: &ImageView) -> Result<Resource, OfferError> {
    let key = key_of(name)?;
    let text = name.to_string();
    let Some(dir) = &image.directory else {
        return Err(OfferError::Parts { name: text });
    };
    // The end of a long name tells more than its beginning.
    let skipped = text.chars().count().saturating_sub(NAME_LEN_MAX);
    Ok(Resource {
        key,
        name: text.chars().skip(skipped).collect(),
        short: "a container image".to_owned(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Algorithm(AlgorithmDetail {
            runtime: RUNTIME.to_owned(),
            digest: dir.digest,
            size: dir.size,
            version: name.reference.to_string(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            maturity: Maturity::Stable,
            manifest: Some(image.digest.to_string()),
        }),
    })
}

/// An image that a node offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The organisation as it may stand in a name, or nothing when its name has no letter or digit of those.
    pub org: String,
    /// What it is called there.
    pub name: ImageName,
    /// Its directory.
    pub digest: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Its manifest.
    pub manifest: Option<OciDigest>,
}

impl Offer {
    /// What a record offers, if it does.
    #[must_use]
    pub fn of(entry: &Entry<'_>) -> Option<Self> {
        let Detail::Algorithm(algorithm) = &entry.resource.detail else {
            return None;
        };
        let name: ImageName = entry.key.strip_prefix(KEY_PREFIX)?.parse().ok()?;
        let is_image = algorithm.runtime == RUNTIME && matches!(name.reference, Reference::Tag(_));
        is_image.then(|| Self {
            org: word_of(entry.org_name),
            name,
            digest: algorithm.digest,
            size: algorithm.size,
            manifest: algorithm.manifest.as_deref().and_then(|text| text.parse().ok()),
        })
    }

    /// Whether a name means it.
    fn is(&self, name: &ImageName) -> bool {
        let is_reference = match &name.reference {
            Reference::Tag(_) => self.name.reference == name.reference,
            Reference::Digest(digest) => self.manifest == Some(*digest),
        };
        is_reference && self.name.repository == name.repository
    }

    /// Whether a name with the organisation in front means it.
    fn is_of_org(&self, name: &ImageName) -> bool {
        let rest = name.repository.as_str().split_once('/');
        let Some((org, Ok(repository))) = rest.map(|(org, rest)| (org, rest.parse())) else {
            return false;
        };
        !self.org.is_empty()
            && org == self.org
            && self.is(&ImageName { repository, reference: name.reference.clone() })
    }

    /// A name that means this one and no other image.
    fn exact(&self, is_org_enough: bool) -> String {
        match self.manifest {
            Some(manifest) if !is_org_enough || self.org.is_empty() => {
                format!("{}@{manifest}", self.name.repository)
            }
            _ => format!("{}/{}", self.org, self.name),
        }
    }
}

/// An organisation's name as a part of a repository's: small letters, digits and hyphens.
fn word_of(org_name: &str) -> String {
    let plain = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
    };
    org_name.chars().map(plain).collect::<String>().trim_matches('-').to_owned()
}

/// The image that a name means. A name as it was published wins over one with the organisation in front.
///
/// # Errors
/// [`ImageError::Unpublished`], and [`ImageError::Ambiguous`] when there are different images of that name.
pub fn choose(name: &ImageName, offers: impl Iterator<Item = Offer>) -> Result<Offer, ImageError> {
    let (mut plain, mut by_org) = (BTreeMap::new(), BTreeMap::new());
    for offer in offers {
        if offer.is(name) {
            plain.insert((offer.digest, offer.org.clone()), offer);
        } else if offer.is_of_org(name) {
            by_org.insert((offer.digest, offer.org.clone()), offer);
        }
    }
    let found = if plain.is_empty() { by_org } else { plain };
    let Some(((first, _), offer)) = found.first_key_value() else {
        return Err(ImageError::Unpublished { name: name.to_string() });
    };
    if found.keys().all(|(digest, _)| digest == first) {
        return Ok(offer.clone());
    }
    let is_of_one = |offer: &Offer| {
        found.values().all(|other| other.org != offer.org || other.digest == offer.digest)
    };
    let mut names: Vec<String> =
        found.values().map(|offer| offer.exact(is_of_one(offer))).collect();
    names.sort();
    names.dedup();
    let count = names.len();
    names.truncate(CANDIDATES_MAX);
    Err(ImageError::Ambiguous { name: name.to_string(), count, candidates: names })
}

#[cfg(test)]
mod tests {
    use super::super::name::Algorithm;
    use super::*;

    fn offer(org: &str, name: &str, content: &[u8]) -> Offer {
        Offer {
            org: word_of(org),
            name: name.parse().unwrap(),
            digest: Digest::of(content),
            size: 1,
            manifest: Some(OciDigest::of(Algorithm::Sha256, content)),
        }
    }

    fn chosen(name: &str, offers: &[Offer]) -> Result<Digest, ImageError> {
        choose(&name.parse().unwrap(), offers.iter().cloned()).map(|found| found.digest)
    }

    #[test]
    fn a_name_that_all_use_for_one_image_means_it() {
        let offers = [offer("Acme", "tools:1", b"a"), offer("Other", "tools:1", b"a")];
        assert_eq!(chosen("tools:1", &offers).unwrap(), Digest::of(b"a"));
        assert_eq!(chosen("acme/tools:1", &offers).unwrap(), Digest::of(b"a"));
        for none in ["tools:2", "tool:1", "strange/tools:1", "acme/other/tools:1"] {
            let error = chosen(none, &offers).unwrap_err();
            assert!(matches!(&error, ImageError::Unpublished { name } if name == none), "{error}");
        }
    }

    #[test]
    fn a_name_for_different_images_is_refused_and_each_way_out_that_is_named_works() {
        let offers = [
            offer("Acme & Sons", "tools:1", b"a"),
            offer("Other", "tools:1", b"b"),
            offer("Other", "tools:2", b"c"),
        ];
        let Err(ImageError::Ambiguous { count: 2, candidates, .. }) = chosen("tools:1", &offers)
        else {
            panic!("it is ambiguous");
        };
        assert_eq!(candidates, ["acme---sons/tools:1", "other/tools:1"]);
        let found: Vec<Digest> =
            candidates.iter().map(|name| chosen(name, &offers).unwrap()).collect();
        assert_eq!(found, [Digest::of(b"a"), Digest::of(b"b")]);
        // Two organisations of one name, and one without letters.
        let offers = [
            offer("Acme", "tools:1", b"a"),
            offer("acme", "tools:1", b"b"),
            offer("§", "tools:1", b"c"),
        ];
        let Err(ImageError::Ambiguous { count: 3, candidates, .. }) = chosen("tools:1", &offers)
        else {
            panic!("it is ambiguous");
        };
        let mut found: Vec<Digest> =
            candidates.iter().map(|name| chosen(name, &offers).unwrap()).collect();
        found.sort();
        let mut all = [b"a", b"b", b"c"].map(|content| Digest::of(content));
        all.sort();
        assert_eq!(found, all, "{candidates:?}");
    }

    #[test]
    fn an_image_is_published_under_a_tag_that_fits_and_with_all_its_parts() {
        let image = |directory| ImageView {
            name: "tools:1".to_owned(),
            digest: OciDigest::of(Algorithm::Sha256, b"m"),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 1,
            directory,
            tags: vec!["1".to_owned()],
            since_ms: 0,
        };
        let dir = scheduler::value::DirRef {
            digest: Digest::of(b"dir"),
            size: 12,
            name: "tools".to_owned(),
        };
        let name = |text: &str| text.parse::<ImageName>().unwrap();
        let made = record_of(&name("a/tools:1"), &image(Some(dir.clone()))).unwrap();
        assert_eq!(made.key, "image/a/tools:1");
        made.check().unwrap();
        let long = format!("{}:1", "x".repeat(121));
        assert!(matches!(
            record_of(&name(&long), &image(Some(dir.clone()))),
            Err(OfferError::Long { len: 123, max: 122, .. })
        ));
        record_of(&name(&long[1..]), &image(Some(dir))).unwrap().check().unwrap();
        let by_digest = format!("tools@{}", OciDigest::of(Algorithm::Sha512, b"m"));
        assert!(matches!(key_of(&name(&by_digest)), Err(OfferError::NoTag { .. })));
        assert!(matches!(record_of(&name("tools:1"), &image(None)), Err(OfferError::Parts { .. })));
    }
}
