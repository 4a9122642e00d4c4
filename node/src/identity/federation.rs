//! Logins at providers: of browsers by authorization code with PKCE, state and nonce, of devices by a code that a person enters
//! elsewhere (RFC 8628), of programs by signed tokens; and the providers' word that somebody has logged out.
//!
//! A login of a browser:
//!
//! ```text
//!  browser            node                                     provider
//!    │ start ─────────► keeps {state, nonce, verifier, cookie}
//!    │ ◄──── redirect, cookie
//!    │ ───── state, nonce, SHA-256 of the verifier ────────────► who are you?
//!    │ ◄──────────────────────────────── code, state, issuer ───
//!    │ callback ──────► is it this browser's, this provider's?
//!                       code, verifier ────────────────────────►
//!                       ◄───────────────── a signed word, nonce ─
//!    │ ◄──── session
//! ```
//!
//! A code that somebody stole is worthless without the verifier and the cookie; a word meant for another node has another audience;
//! one of another login has another nonce; a provider that pretends to be another is found out by the issuer in its answer and in its
//! word. A provider that is down lets nobody in anew, and sessions go on to their end. Where the provider gave a refresh token it is
//! asked meanwhile whether the login goes on ([`super::renewal`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use openidconnect::{PkceCodeChallenge, PkceCodeVerifier};

use super::book::{Origin, Who};
use super::grant::{Grant, next_ms};
use super::jwt::{Expected, Use, peek_issuer, subject, text};
use super::pending::{Device, Login, Pending, Poll};
use super::provider::{Provider, ProviderError, Providers};
use super::remote::{DeviceStart, Remote, RemoteError, Tokens, with_query, word};
use super::renewal::Asked;
use super::rules::{Claims, apply, called};
use super::{Caller, Entrance, Identity, IdentityError, Person, Secret};
use crate::shell::org::now_ms;
use crate::shell::{Home, HomeError};

/// How long the access token of a device that has logged in is good.
const DEVICE_TOKEN_MS: u64 = 7 * 86_400_000;
/// Pause between two questions of a device when the provider does not say one (RFC 8628 §3.2).
const PAUSE_S: u64 = 5;
/// Longest code or state in bytes that is looked at; a longer one belongs to no login.
const CODE_LEN_MAX: usize = 2_048;

/// The scope that asks for a login which lasts.
const LASTING: &str = "offline_access";

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "the login is not known: it was finished, it took too long, or another browser began it; begin anew"
    )]
    Unknown,
    #[error("the answer is of another provider than was asked")]
    MixedUp,
    #[error("the provider let nobody in: {code}")]
    Denied { code: String },
    #[error("the provider has no login for devices")]
    NoDevices,
    #[error("too many logins are under way: try it again later")]
    TooMany,
    #[error("the provider gave no word about who logged in")]
    NoWord,
}

impl From<HomeError> for LoginError {
    fn from(error: HomeError) -> Self {
        Self::Identity(error.into())
    }
}

/// A login of a browser that begins.
pub(crate) struct Started {
    /// Where the browser goes.
    pub(crate) url: String,
    /// What its cookie holds.
    pub(crate) cookie: String,
}

/// A login of a device that begins.
pub(crate) struct DeviceStarted {
    pub(crate) id: String,
    pub(crate) start: DeviceStart,
    pub(crate) pause_ms: u64,
}

/// What has become of a login of a device.
pub(crate) enum DeviceState {
    Pending { wait_ms: u64 },
    Done { secret: Secret, expires_ms: u64 },
}

/// What a browser brings back from a provider.
pub(crate) struct Back<'a> {
    pub(crate) code: Option<&'a str>,
    pub(crate) state: &'a str,
    pub(crate) issuer: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) cookie: &'a str,
}

/// What this node knows of providers.
#[derive(Debug)]
pub(crate) struct Federation {
    pub(crate) providers: Providers,
    pub(crate) remote: Remote,
    pending: Mutex<Pending>,
    /// Of whom it is asking whether a login goes on.
    pub(super) asked: Asked,
}

impl Federation {
    pub(super) fn open(home: &Home) -> Result<Self, HomeError> {
        let remote = Remote::new().map_err(|error| HomeError::Io {
            path: home.dir().to_owned(),
            source: std::io::Error::other(error),
        })?;
        let (pending, asked) = (Mutex::default(), Asked::default());
        Ok(Self { providers: Providers::open(home.dir())?, remote, pending, asked })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // What is under way is whole after every call.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> Result<String, HomeError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| HomeError::Random)?;
    Ok(BASE64.encode(bytes))
}

fn own(provider: &Provider) -> [String; 1] {
    [provider.client_id.clone()]
}

fn scopes(provider: &Provider) -> String {
    let mut scopes = "openid".to_owned();
    for scope in provider.scopes.iter().filter(|scope| *scope != "openid") {
        scopes.push(' ');
        scopes.push_str(scope);
    }
    scopes
}

/// With what a provider can be asked again about a login that begins.
struct Lasting {
    provider: String,
    token: String,
    next_ms: u64,
    nonce: [u8; 12],
}

impl Lasting {
    fn of(provider: &Provider, tokens: &Tokens) -> Result<Option<Self>, HomeError> {
        let Some(token) = tokens.refresh_token.clone() else { return Ok(None) };
        let next_ms = next_ms(tokens.expires_in, now_ms());
        Ok(Some(Self { provider: provider.name.clone(), token, next_ms, nonce: super::nonce()? }))
    }

    fn seal(self, secret: &Secret) -> Option<Grant> {
        Grant::seal((&self.provider, &self.token), secret.text(), self.next_ms, self.nonce)
    }
}

impl Identity {
    /// Begins a login of a browser.
    pub(crate) async fn start(
        &self,
        name: Option<&str>,
        redirect: String,
    ) -> Result<Started, LoginError> {
        let provider = self.federation.providers.pick(name)?;
        let offer = self.federation.remote.offer(&provider, now_ms()).await?;
        let (state, nonce, cookie) = (random()?, random()?, random()?);
        let verifier = PkceCodeVerifier::new(random()?);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let scopes = scopes(&provider);
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", provider.client_id.as_str()),
            ("redirect_uri", redirect.as_str()),
            ("scope", scopes.as_str()),
            ("state", state.as_str()),
            ("nonce", nonce.as_str()),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        if provider.scopes.iter().any(|scope| scope == LASTING) {
            // Without it no provider has to heed that scope (OpenID Connect Core 1.0 §11).
            query.push(("prompt", "consent"));
        }
        let url = with_query(&offer.authorization_endpoint, &query);
        let what = "its address cannot be read";
        let strange = || RemoteError::Strange { provider: provider.name.clone(), what };
        let url = url.ok_or_else(strange)?;
        let login = Login {
            provider: provider.name,
            nonce,
            verifier: verifier.into_secret(),
            redirect,
            browser: cookie.clone(),
            begun_ms: now_ms(),
        };
        self.federation.pending().begin(state, login);
        Ok(Started { url, cookie })
    }

    /// Finishes a login of a browser: its session.
    pub(crate) async fn finish(self: &Arc<Self>, back: Back<'_>) -> Result<Secret, LoginError> {
        let login = self.federation.pending().finish(back.state, back.cookie, now_ms());
        let login = login.ok_or(LoginError::Unknown)?;
        let provider = self.federation.providers.get(&login.provider)?;
        let offer = self.federation.remote.offer(&provider, now_ms()).await?;
        let is_named =
            back.issuer.is_some() || !offer.authorization_response_iss_parameter_supported;
        if !is_named || back.issuer.is_some_and(|issuer| issuer != provider.issuer) {
            return Err(LoginError::MixedUp);
        }
        if let Some(code) = back.error {
            return Err(LoginError::Denied { code: word(code) });
        }
        let code =
            back.code.filter(|code| code.len() <= CODE_LEN_MAX).ok_or(LoginError::Unknown)?;
        let fields: [(&str, &str); 4] = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &login.redirect),
            ("code_verifier", &login.verifier),
        ];
        let to = (&provider, offer.as_ref());
        let tokens: Tokens = self.federation.remote.ask(to, &offer.token_endpoint, &fields).await?;
        let lasting = Lasting::of(&provider, &tokens)?;
        let claims = self.word(&provider, tokens, Some(&login.nonce)).await?;
        let origin = Origin {
            provider: provider.name.clone(),
            sid: text(&claims, "sid").map(|sid| sid.chars().take(255).collect()),
        };
        let person = self.person(&provider, &claims)?;
        Ok(self
            .change_aside(move |book, at| {
                let id = book.meet(&person, at.0)?;
                let secret = book.begin_from(Who::Account(id), Some(origin), at);
                book.keep_grant(secret.text(), lasting.and_then(|l| l.seal(&secret)));
                Ok(secret)
            })
            .await?)
    }

    /// What a provider says about who has logged in.
    pub(super) async fn word(
        &self,
        provider: &Provider,
        tokens: Tokens,
        nonce: Option<&str>,
    ) -> Result<Claims, LoginError> {
        let token = tokens.id_token.ok_or(LoginError::NoWord)?;
        let used_for = Use::Login { nonce };
        let expected = Expected { issuer: &provider.issuer, audiences: &own(provider), used_for };
        Ok(self.federation.remote.verify(provider, &token, expected, now_ms()).await?)
    }

    pub(super) fn person(
        &self,
        provider: &Provider,
        claims: &Claims,
    ) -> Result<Person, LoginError> {
        let subject = subject(claims).ok_or(LoginError::NoWord)?;
        let (groups, roles) = apply(&provider.rules, claims);
        Ok(Person {
            org: self.org(),
            issuer: provider.issuer.clone(),
            subject: subject.to_owned(),
            name: called(claims, subject),
            groups,
            roles,
        })
    }

    /// Begins a login of a device.
    pub(crate) async fn start_device(
        &self,
        name: Option<&str>,
    ) -> Result<DeviceStarted, LoginError> {
        let provider = self.federation.providers.pick(name)?;
        let offer = self.federation.remote.offer(&provider, now_ms()).await?;
        let address = offer.device_authorization_endpoint.clone().ok_or(LoginError::NoDevices)?;
        let scopes = scopes(&provider);
        let fields: [(&str, &str); 2] = [("client_id", &provider.client_id), ("scope", &scopes)];
        // Those without a secret say who they are by that field already.
        let fields = if provider.client_secret.is_some() { &fields[..] } else { &fields[1..] };
        let to = (&provider, offer.as_ref());
        let start: DeviceStart = self.federation.remote.ask(to, &address, fields).await?;
        let (id, now) = (random()?, now_ms());
        let device = Device {
            provider: provider.name,
            code: start.device_code.clone(),
            pause_ms: start.interval.unwrap_or(PAUSE_S).saturating_mul(1_000),
            next_ms: now,
            expires_ms: now.saturating_add(start.expires_in.saturating_mul(1_000)),
        };
        let pause_ms = device.pause_ms;
        if !self.federation.pending().begin_device(id.clone(), device, now) {
            return Err(LoginError::TooMany);
        }
        Ok(DeviceStarted { id, start, pause_ms })
    }

    /// Whether a device's login is finished: then an access token for it.
    pub(crate) async fn poll_device(self: &Arc<Self>, id: &str) -> Result<DeviceState, LoginError> {
        let poll = self.federation.pending().poll(id, now_ms());
        let device = match poll {
            Poll::Gone => return Err(LoginError::Unknown),
            Poll::Wait { ms } => return Ok(DeviceState::Pending { wait_ms: ms }),
            Poll::Ask(device) => device,
        };
        let provider = self.federation.providers.get(&device.provider)?;
        let offer = self.federation.remote.offer(&provider, now_ms()).await?;
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let fields: [(&str, &str); 2] = [("grant_type", grant), ("device_code", &device.code)];
        let to = (&provider, offer.as_ref());
        let asked: Result<Tokens, _> =
            self.federation.remote.ask(to, &offer.token_endpoint, &fields).await;
        let tokens = match asked {
            Ok(tokens) => tokens,
            Err(RemoteError::Refused { code, .. }) if code == "authorization_pending" => {
                return Ok(DeviceState::Pending { wait_ms: device.pause_ms });
            }
            Err(RemoteError::Refused { code, .. }) if code == "slow_down" => {
                self.federation.pending().slow_down(id, now_ms());
                return Ok(DeviceState::Pending { wait_ms: device.pause_ms + PAUSE_S * 1_000 });
            }
            // The person may still be at it when the provider comes back.
            Err(RemoteError::Down { .. }) => {
                return Ok(DeviceState::Pending { wait_ms: device.pause_ms });
            }
            Err(error) => {
                self.federation.pending().end_device(id);
                return Err(error.into());
            }
        };
        self.federation.pending().end_device(id);
        let lasting = Lasting::of(&provider, &tokens)?;
        let claims = self.word(&provider, tokens, None).await?;
        let person = self.person(&provider, &claims)?;
        let (secret, token) = self
            .change_aside(move |book, at| {
                let id = book.meet(&person, at.0)?;
                let (secret, token) = book.add_token(&id, "login", DEVICE_TOKEN_MS, at)?;
                book.keep_grant(secret.text(), lasting.and_then(|l| l.seal(&secret)));
                Ok((secret, token))
            })
            .await?;
        Ok(DeviceState::Done { secret, expires_ms: token.expires_ms })
    }

    /// Who a signed token of a provider stands for.
    pub(crate) async fn by_bearer(&self, token: &str) -> Result<(Caller, Entrance), LoginError> {
        let issuer = peek_issuer(token).ok_or(LoginError::NoWord)?;
        let all = self.federation.providers.all();
        let found = all.into_iter().find(|p| p.issuer == issuer && !p.audiences.is_empty());
        let provider = found.ok_or(ProviderError::None { name: word(&issuer) })?;
        let expected = Expected {
            issuer: &provider.issuer,
            audiences: &provider.audiences,
            used_for: Use::Access,
        };
        let claims = self.federation.remote.verify(&provider, token, expected, now_ms()).await?;
        let expires_s = claims.get("exp").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let person = self.person(&provider, &claims)?;
        let entrance = Entrance::Token { expires_ms: expires_s.saturating_mul(1_000) };
        Ok((Caller::Person(Box::new(person)), entrance))
    }

    /// Ends the sessions of whom a provider says that it has logged out. Said again, it ends none that began later.
    pub(crate) async fn logged_out(
        self: &Arc<Self>,
        name: &str,
        token: &str,
    ) -> Result<usize, LoginError> {
        let provider = self.federation.providers.get(name)?;
        let expected = Expected {
            issuer: &provider.issuer,
            audiences: &own(&provider),
            used_for: Use::Logout,
        };
        let claims = self.federation.remote.verify(&provider, token, expected, now_ms()).await?;
        let said_s = claims.get("iat").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let until_ms = said_s.saturating_add(super::jwt::SKEW_S).saturating_mul(1_000);
        Ok(self
            .change_aside(move |book, _| {
                let meant = (text(&claims, "sid"), subject(&claims));
                Ok(book.end_of(&provider.name, &provider.issuer, meant, until_ms))
            })
            .await?)
    }

    /// Where a browser goes to log out at its provider, too.
    pub(crate) async fn farewell(&self, origin: &Origin) -> Option<String> {
        let provider = self.federation.providers.get(&origin.provider).ok()?;
        let offer = self.federation.remote.offer(&provider, now_ms()).await.ok()?;
        with_query(offer.end_session_endpoint.as_deref()?, &[("client_id", &provider.client_id)])
    }
}
