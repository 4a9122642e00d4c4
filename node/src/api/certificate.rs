//! The certificate of the API for other machines: one that the owner gives, or one of the node's own.
//!
//! A certificate of its own is made at the first start and kept in the home (`tls.crt`, `tls.key`): whoever connects has to be given
//! it, or its fingerprint, by another way. It is made anew, with the same key, before it ends and when the node is to be reached
//! under another name. Files that the owner gives are read again from time to time, so that what renews them need not stop the node;
//! while they cannot be used, the certificate that was read before goes on being served.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::shell::{HomeError, replace_private};

/// The node's own certificate and its key, in the home.
const OWN_CERT: &str = "tls.crt";
const OWN_KEY: &str = "tls.key";
/// In the home, too: which certificate is served, for `doctor`.
const SERVED: &str = "tls.path";
/// How long an own certificate holds: browsers take none that holds longer than 398 days.
const OWN_TERM_MS: u64 = 397 * DAY_MS;
/// It is made anew when it ends sooner than this.
const RENEW_MS: u64 = 30 * DAY_MS;
/// It holds from a day before it is made, for those whose clocks are behind.
const SLACK_MS: u64 = DAY_MS;
const DAY_MS: u64 = 24 * 3_600_000;
/// Largest file of certificates or of a key; a larger one is none.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Why nothing is served over TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file holds something else.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// Certificate and key do not go together, or are of a kind that is not taken.
    #[error("the certificate {} and the key {} cannot be used together", cert.display(), key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate of the node's own cannot be made.
    #[error("a certificate for {name} cannot be made")]
    Make {
        /// For which name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A certificate with its key, ready to serve with. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    /// Of an own certificate: the home, and the name under which others are to reach the node.
    own: Option<String>,
    serving: Arc<Serving>,
}

/// What is served now.
#[derive(Debug)]
struct Serving(RwLock<Read>);

/// What stands in the files.
#[derive(Clone, Debug)]
struct Read {
    pair: Arc<CertifiedKey>,
    fingerprint: String,
    until_ms: u64,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().pair)
    }
}

impl Serving {
    fn now(&self) -> Read {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tls {
    /// Takes a chain of certificates and its key, both in PEM form.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn given(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let serving = Arc::new(Serving(RwLock::new(read(cert, key)?)));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), own: None, serving })
    }

    /// The node's own certificate, made when there is none that holds: for this machine's loopback names and `name`, under which
    /// others are to reach it.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn own(home: &Path, name: &str, now_ms: u64) -> Result<Self, TlsError> {
        let (cert, key) = (home.join(OWN_CERT), home.join(OWN_KEY));
        keep(name, &cert, &key, now_ms)?;
        Ok(Self { own: Some(name.to_owned()), ..Self::given(&cert, &key)? })
    }

    /// Looks at the files again, and makes an own certificate anew when it is time; whether another one is served from now on.
    ///
    /// # Errors
    /// See [`TlsError`]; then what was served is served on.
    pub fn refresh(&self, now_ms: u64) -> Result<bool, TlsError> {
        if let Some(name) = &self.own {
            keep(name, &self.cert, &self.key, now_ms)?;
        }
        let found = read(&self.cert, &self.key)?;
        let is_other = found.fingerprint != self.fingerprint();
        if is_other {
            *self.serving.0.write().unwrap_or_else(PoisonError::into_inner) = found;
        }
        Ok(is_other)
    }

    /// SHA-256 of the certificate, as browsers and `openssl x509 -fingerprint -sha256` show it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.serving.now().fingerprint
    }

    /// When the certificate ends.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        self.serving.now().until_ms
    }

    /// Notes in the home which certificate is served, for the program that looks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, home: &Path) -> Result<(), TlsError> {
        let path = std::path::absolute(&self.cert)
            .map_err(|source| TlsError::Io { path: self.cert.clone(), source })?;
        let text = path.as_os_str().as_encoded_bytes();
        Ok(replace_private(&home.join(SERVED), text)?)
    }

    /// What a server needs to serve with it.
    pub(super) fn config(&self) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config =
            builder.with_cert_resolver(Arc::clone(&self.serving) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificate that was served last from this home, and when it ends; `None` when the last start served none.
///
/// # Errors
/// When it cannot be read any more.
pub(crate) fn served(home: &Path) -> Result<Option<(PathBuf, u64)>, TlsError> {
    let note = home.join(SERVED);
    match fs::read_to_string(&note) {
        Ok(path) => {
            let path = PathBuf::from(path);
            let certs = certificates(&path)?;
            Ok(Some((path.clone(), end(&path, &certs)?)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Io { path: note, source }),
    }
}

/// Forgets what [`Tls::note`] noted.
///
/// # Errors
/// When the file cannot be removed.
pub(crate) fn serve_none(home: &Path) -> Result<(), TlsError> {
    let note = home.join(SERVED);
    match fs::remove_file(&note) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TlsError::Io { path: note, source })
        }
        _ => Ok(()),
    }
}

/// Reads a certificate with its key and sees that they belong together.
fn read(cert: &Path, key: &Path) -> Result<Read, TlsError> {
    let (certs, secret) = (certificates(cert)?, bytes(key)?);
    let until_ms = end(cert, &certs)?;
    let none = || TlsError::Pem { path: cert.to_owned(), what: "certificate" };
    let hash = <sha2::Sha256 as sha2::Digest>::digest(certs.first().ok_or_else(none)?.as_ref());
    let fingerprint = hash.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
    let secret = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|_| TlsError::Pem { path: key.to_owned(), what: "private key" })?;
    let pair = CertifiedKey::from_der(certs, secret, &aws_lc_rs::default_provider());
    let pair = pair.map_err(|source| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(Read { pair: Arc::new(pair), fingerprint, until_ms })
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::Io { path: path.to_owned(), source }),
    }
}

/// The certificates in a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    certs.ok().filter(|certs| !certs.is_empty()).ok_or_else(none)
}

/// When the first of the certificates ends.
fn end(path: &Path, certs: &[CertificateDer<'_>]) -> Result<u64, TlsError> {
    let none = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let first = certs.first().ok_or_else(none)?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| none())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(seconds.saturating_mul(1_000))
}

/// Makes the own certificate when there is none, or none that holds for `name` for a while.
fn keep(name: &str, cert: &Path, key: &Path, now_ms: u64) -> Result<(), TlsError> {
    let holds = read(cert, key).is_ok_and(|found| {
        let first = found.pair.cert.first();
        found.until_ms > now_ms.saturating_add(RENEW_MS)
            && first.is_some_and(|first| is_for(first, name))
    });
    if holds {
        return Ok(());
    }
    let failed = |source| TlsError::Make { name: name.to_owned(), source };
    // The key stays, for those who know the node by it; one that cannot be used is none.
    let old = fs::read_to_string(key).ok().and_then(|text| KeyPair::from_pem(&text).ok());
    let pair = match old {
        Some(pair) => pair,
        None => {
            let pair = KeyPair::generate().map_err(failed)?;
            replace_private(key, pair.serialize_pem().as_bytes())?;
            pair
        }
    };
    let names = ["localhost", "127.0.0.1", "::1", name].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "OpenCloud node");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now_ms.saturating_sub(SLACK_MS));
    params.not_after = epoch + Duration::from_millis(now_ms.saturating_add(OWN_TERM_MS));
    let made = params.self_signed(&pair).map_err(failed)?;
    Ok(replace_private(cert, made.pem().as_bytes())?)
}

/// Whether the certificate holds for the name or address.
fn is_for(cert: &CertificateDer<'_>, name: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(cert) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    let address = name.parse::<std::net::IpAddr>().ok().map(|address| match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    names.value.general_names.iter().any(|one| match one {
        GeneralName::DNSName(dns) => dns.eq_ignore_ascii_case(name),
        GeneralName::IPAddress(bytes) => address.as_deref() == Some(bytes),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any time at which certificates are made.
    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn an_own_certificate_is_made_once_and_its_key_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = Tls::own(dir.path(), "192.0.2.7", NOW_MS).unwrap();
        let again = Tls::own(dir.path(), "192.0.2.7", NOW_MS + DAY_MS).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 95);
        assert_eq!(first.until_ms(), NOW_MS + OWN_TERM_MS);
        let mode = fs::metadata(dir.path().join(OWN_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(served(dir.path()).unwrap().is_none());
        first.note(dir.path()).unwrap();
        let cert = dir.path().join(OWN_CERT);
        assert_eq!(served(dir.path()).unwrap(), Some((cert.clone(), NOW_MS + OWN_TERM_MS)));
        serve_none(dir.path()).unwrap();
        assert!(served(dir.path()).unwrap().is_none());
        // A key of another certificate.
        let other = tempfile::tempdir().unwrap();
        let _ = Tls::own(other.path(), "192.0.2.7", NOW_MS).unwrap();
        let mixed = Tls::given(&cert, &other.path().join(OWN_KEY));
        assert!(matches!(mixed, Err(TlsError::Pair { .. })), "{mixed:?}");
        let swapped = Tls::given(&dir.path().join(OWN_KEY), &cert);
        assert!(matches!(swapped, Err(TlsError::Pem { what: "certificate", .. })), "{swapped:?}");
    }

    #[test]
    fn an_own_certificate_is_made_anew_before_it_ends_and_for_another_name_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::own(dir.path(), "192.0.2.7", NOW_MS).unwrap();
        let key = fs::read(dir.path().join(OWN_KEY)).unwrap();
        let first = tls.fingerprint();
        let late = NOW_MS + OWN_TERM_MS - RENEW_MS;
        assert!(!tls.refresh(late - 1).unwrap());
        assert!(tls.refresh(late).unwrap());
        assert_eq!(tls.until_ms(), late + OWN_TERM_MS);
        let renewed = tls.fingerprint();
        assert_ne!(first, renewed);
        let named = Tls::own(dir.path(), "node.example", late).unwrap();
        assert_ne!(named.fingerprint(), renewed);
        assert_eq!(fs::read(dir.path().join(OWN_KEY)).unwrap(), key);
        // What a crash or a hand left there is no certificate; a broken key ends with its certificate.
        fs::write(dir.path().join(OWN_KEY), &key[..key.len() / 2]).unwrap();
        let mended = Tls::own(dir.path(), "node.example", late).unwrap();
        assert_ne!(mended.fingerprint(), named.fingerprint());
    }

    #[test]
    fn given_files_are_read_again_and_broken_ones_change_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = Tls::own(dir.path(), "192.0.2.7", NOW_MS).unwrap();
        let next = Tls::own(other.path(), "192.0.2.7", NOW_MS).unwrap();
        let paths = (dir.path().join("given.crt"), dir.path().join("given.key"));
        fs::copy(&own.cert, &paths.0).unwrap();
        fs::copy(&own.key, &paths.1).unwrap();
        let given = Tls::given(&paths.0, &paths.1).unwrap();
        fs::copy(&next.cert, &paths.0).unwrap();
        // Only one of the two files has been replaced yet.
        assert!(matches!(given.refresh(NOW_MS), Err(TlsError::Pair { .. })));
        assert_eq!(given.fingerprint(), own.fingerprint());
        fs::copy(&next.key, &paths.1).unwrap();
        assert!(given.refresh(NOW_MS).unwrap());
        assert_eq!(given.fingerprint(), next.fingerprint());
        // A given certificate is the owner's: nobody makes another in its place.
        assert!(!given.refresh(NOW_MS + 2 * OWN_TERM_MS).unwrap());
    }
}
