//! Which providers of identities an organisation has connected, and how: the file `providers.json` of the home.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use openidconnect::url::{Host, Url};
use serde::{Deserialize, Serialize};

use super::book::NAME_LEN_MAX;
use super::rules::{RULES_MAX, Rule, usual};
use crate::shell::{HomeError, replace_private};

/// The file in the home.
const FILE: &str = "providers.json";
/// Providers of one node; no more are taken.
pub(crate) const PROVIDERS_MAX: usize = 16;
/// Scopes, and audiences, of one provider; no more are taken.
const LIST_MAX: usize = 32;
/// Longest address, name of a client, scope or audience in bytes; longer ones are refused.
const TEXT_LEN_MAX: usize = 255;
/// Longest secret in bytes; a longer one is refused.
const SECRET_LEN_MAX: usize = 4_096;

/// A secret of this node at a provider: in the file, and in no debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewProvider)]
pub(crate) struct Provider {
    /// What it is called here.
    pub(crate) name: String,
    /// Its address, exactly as it says itself.
    pub(crate) issuer: String,
    /// What this node is called there.
    pub(crate) client_id: String,
    /// The secret of this node there; it is never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) client_secret: Option<Hidden>,
    /// What is asked for beside `openid`.
    #[serde(default = "usual_scopes")]
    pub(crate) scopes: Vec<String>,
    /// Tokens of programs that are for one of these are good here; none are when there is none.
    #[serde(default)]
    pub(crate) audiences: Vec<String>,
    /// What its claims give people here.
    #[serde(default = "usual")]
    pub(crate) rules: Vec<Rule>,
}

fn usual_scopes() -> Vec<String> {
    ["profile", "email"].map(str::to_owned).to_vec()
}

/// Why a provider was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error("there is no provider `{name}`: `opencloud provider list` shows all")]
    None { name: String },
    #[error("there is a provider `{name}` already: remove it first")]
    Exists { name: String },
    #[error("{PROVIDERS_MAX} providers are connected, no more are taken")]
    TooMany,
    #[error(
        "`{issuer}` is not the address of a provider: it is an https URL without query, or http on this machine"
    )]
    Issuer { issuer: String },
    #[error("the {what} of the provider is not taken: {why}")]
    Field { what: &'static str, why: &'static str },
}

impl Provider {
    /// Checks what an owner has written.
    pub(crate) fn checked(self) -> Result<Self, ProviderError> {
        let field = |what, why| Err(ProviderError::Field { what, why });
        if !is_address(&self.issuer) {
            return Err(ProviderError::Issuer { issuer: self.issuer.chars().take(80).collect() });
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty()
            || self.name.len() > NAME_LEN_MAX
            || !self.name.chars().all(is_plain)
        {
            return field("name", "letters, digits, `-`, `_` and `.`, at most 64");
        }
        let is_text = |text: &String| {
            !text.is_empty()
                && text.len() <= TEXT_LEN_MAX
                && text.chars().all(|c| c.is_ascii_graphic())
        };
        if !is_text(&self.client_id) {
            return field("client id", "1 to 255 printable characters");
        }
        let secret = self.client_secret.as_ref().map_or(1, |secret| secret.0.len());
        if secret == 0 || secret > SECRET_LEN_MAX {
            return field("secret", "1 to 4096 bytes");
        }
        for (what, list) in [("scopes", &self.scopes), ("audiences", &self.audiences)] {
            if list.len() > LIST_MAX || !list.iter().all(is_text) {
                return field(what, "at most 32 of 1 to 255 printable characters");
            }
        }
        if self.rules.len() > RULES_MAX || !self.rules.iter().all(Rule::is_good) {
            return field("rules", "at most 128, each with a claim and a group or role");
        }
        Ok(self)
    }
}

/// Whether an address may be spoken to: secrets go there, so it has TLS or never leaves this machine.
pub(crate) fn is_address(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return false,
    };
    let is_safe = url.scheme() == "https" || url.scheme() == "http" && is_here;
    is_safe
        && text.len() <= TEXT_LEN_MAX
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

/// All providers of a home.
#[derive(Debug)]
pub(crate) struct Providers {
    path: PathBuf,
    all: Mutex<Vec<Provider>>,
}

impl Providers {
    /// Reads the file of a home.
    pub(crate) fn open(dir: &Path) -> Result<Self, HomeError> {
        let path = dir.join(FILE);
        let damaged = |expected| HomeError::Damaged { path: path.clone(), expected };
        let all: Vec<Provider> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| {
                damaged("a JSON list of providers, as `opencloud provider add` makes it,")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        let are_good = all.iter().all(|provider| provider.clone().checked().is_ok());
        if all.len() > PROVIDERS_MAX || !are_good {
            return Err(damaged(
                "at most 16 providers, each as `opencloud provider add` would take it,",
            ));
        }
        Ok(Self { path, all: Mutex::new(all) })
    }

    pub(crate) fn all(&self) -> Vec<Provider> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The provider of a name.
    pub(crate) fn get(&self, name: &str) -> Result<Provider, ProviderError> {
        let found = self.all().into_iter().find(|provider| provider.name == name);
        found.ok_or_else(|| ProviderError::None { name: name.chars().take(80).collect() })
    }

    /// The one that is meant when nobody says which, or the one of a name.
    pub(crate) fn pick(&self, name: Option<&str>) -> Result<Provider, ProviderError> {
        match name {
            Some(name) => self.get(name),
            None => {
                let mut all = self.all();
                if all.len() > 1 {
                    return Err(ProviderError::Field {
                        what: "name",
                        why: "there are several: say which",
                    });
                }
                all.pop().ok_or_else(|| ProviderError::None { name: "(any)".to_owned() })
            }
        }
    }

    /// Adds a provider, written down before it counts.
    pub(crate) fn add(&self, provider: Provider) -> Result<Result<(), ProviderError>, HomeError> {
        let provider = match provider.checked() {
            Ok(provider) => provider,
            Err(error) => return Ok(Err(error)),
        };
        self.change(|all| {
            if all.iter().any(|other| other.name == provider.name) {
                return Err(ProviderError::Exists { name: provider.name });
            }
            if all.len() >= PROVIDERS_MAX {
                return Err(ProviderError::TooMany);
            }
            all.push(provider);
            Ok(())
        })
    }

    /// Removes a provider.
    pub(crate) fn remove(&self, name: &str) -> Result<Result<(), ProviderError>, HomeError> {
        self.get(name).map_or_else(
            |error| Ok(Err(error)),
            |_| {
                self.change(|all| {
                    all.retain(|provider| provider.name != name);
                    Ok(())
                })
            },
        )
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Provider>) -> Result<(), ProviderError>,
    ) -> Result<Result<(), ProviderError>, HomeError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = all.clone();
        if let Err(error) = change(&mut next) {
            return Ok(Err(error));
        }
        let text = serde_json::to_vec_pretty(&next).expect("providers are plain data");
        replace_private(&self.path, &text)?;
        *all = next;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(issuer: &str) -> Provider {
        let value = serde_json::json!({"name": "work", "issuer": issuer, "client_id": "c", "client_secret": "s3cret"});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn secrets_go_by_tls_or_stay_on_this_machine() {
        for good in [
            "https://id.example",
            "https://id.example:8443/realms/x",
            "http://127.0.0.1:4444",
            "http://localhost:1",
            "http://[::1]:1/",
        ] {
            assert!(provider(good).checked().is_ok(), "{good}");
        }
        for bad in [
            "http://id.example",
            "http://10.0.0.1",
            "ftp://x",
            "",
            "https://u:p@id.example",
            "https://id.example/#x",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(provider(bad).checked().is_err(), "{bad}");
        }
    }

    #[test]
    fn providers_are_there_after_a_restart_and_their_secrets_in_no_debug_output() {
        let dir = tempfile::tempdir().unwrap();
        let providers = Providers::open(dir.path()).unwrap();
        providers.add(provider("https://id.example")).unwrap().unwrap();
        assert!(matches!(
            providers.add(provider("https://b")).unwrap(),
            Err(ProviderError::Exists { .. })
        ));
        let again = Providers::open(dir.path()).unwrap();
        assert_eq!(again.pick(None).unwrap().client_secret, Some(Hidden("s3cret".to_owned())));
        assert!(!format!("{again:?}").contains("s3cret"));
        again.remove("work").unwrap().unwrap();
        assert!(Providers::open(dir.path()).unwrap().all().is_empty());
        std::fs::write(dir.path().join(FILE), "[{}]").unwrap();
        assert!(Providers::open(dir.path()).is_err());
    }
}
