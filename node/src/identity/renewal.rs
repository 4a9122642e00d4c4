//! Logins that last: a provider that gave a refresh token is asked again, as long as somebody uses the login.
//!
//! ```text
//!   whoever logged in          node                                   provider
//!     │ request, secret ──────► is its grant due? opens it
//!                               refresh token ──────────────────────►
//!                               ◄────── a new word, a new token ────   groups and roles are those of today
//!                               (without a word: who is it? asked with the new access token)
//!                               ◄────── invalid_grant ──────────────   the login has ended: 401
//!                               (no answer, or another)                it goes on, and is asked about again soon
//! ```
//!
//! One request at a time asks for one login, since many providers give a new token each time and take an old one for theft; the
//! others go on meanwhile. The new token is written down before the request goes on. A crash in between leaves the old one, which
//! the provider refuses: then somebody has to log in again. A provider that is down ends nothing: the login goes on to its own end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::federation::LoginError;
use super::grant::{Grant, next_ms};
use super::provider::Provider;
use super::remote::{Offer, RemoteError, Tokens};
use super::rules::Claims;
use super::{Identity, Person, account_id};
use crate::shell::org::now_ms;

/// How long nobody else asks for the same login, and the pause after a provider gave no answer, in milliseconds. Longer than all
/// answers together may take.
const PAUSE_MS: u64 = 60_000;
/// Logins that are asked for, or wait, at the same time; others go on unasked meanwhile.
const ASKED_MAX: usize = 1_024;

/// What a provider says to a token that it gave itself when the login is over (RFC 6749 §5.2). Some say of people whose account was
/// closed that the request is invalid, since there is nobody any more whom it is about.
const OVER: [&str; 3] = ["invalid_grant", "invalid_request", "access_denied"];

/// A login whose provider is to be asked, by the hash of its secret.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) hash: String,
    pub(crate) account: String,
    pub(crate) grant: Grant,
}

/// For which logins a provider is being asked, or was in vain, and until when nobody else does.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<BTreeMap<String, u64>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether whoever wants to may ask for this login now; then nobody else may for a while.
    fn begin(&self, hash: &str, now_ms: u64) -> bool {
        let mut asked = self.lock();
        if asked.get(hash).is_some_and(|until| now_ms < *until) {
            return false;
        }
        if asked.len() >= ASKED_MAX {
            asked.retain(|_, until| now_ms < *until);
        }
        let has_room = asked.len() < ASKED_MAX;
        if has_room {
            asked.insert(hash.to_owned(), now_ms.saturating_add(PAUSE_MS));
        }
        has_room
    }

    fn end(&self, hash: &str) {
        self.lock().remove(hash);
    }
}

/// What a provider said when it was asked again.
enum Said {
    /// The login goes on, with what is known of the person now where it said so.
    Goes { grant: Option<Grant>, person: Option<Box<Person>> },
    /// It is over.
    Over,
}

impl Identity {
    /// Asks the provider at which the login of a secret began whether it goes on, where it is time to.
    pub(crate) async fn renew(self: &Arc<Self>, secret: &str) {
        let look = || self.read(|book, now| book.due(secret, now));
        let Some(Due { hash, .. }) = look() else { return };
        if !self.federation.asked.begin(&hash, now_ms()) {
            return;
        }
        // Somebody else may have asked, and be done, since it was looked up.
        let Some(due) = look() else { return self.federation.asked.end(&hash) };
        match self.ask_again(secret, &due).await {
            Ok(said) => {
                if let Err(error) = self.note_said(due, said).await {
                    tracing::warn!(%error, "what a provider says of a login could not be written down");
                    return;
                }
                self.federation.asked.end(&hash);
            }
            Err(error) => {
                let provider = &due.grant.provider;
                tracing::warn!(provider, %error, "a login goes on without its provider's word");
            }
        }
    }

    async fn note_said(self: &Arc<Self>, due: Due, said: Said) -> Result<(), super::IdentityError> {
        self.change_aside(move |book, (now, _)| {
            match said {
                Said::Over => book.end_login(&due.hash),
                Said::Goes { grant, person } => {
                    if let Some(person) = person {
                        book.meet(&person, now)?;
                    }
                    book.set_grant(&due.hash, grant);
                }
            }
            Ok(())
        })
        .await
    }

    async fn ask_again(&self, secret: &str, due: &Due) -> Result<Said, LoginError> {
        let provider = self.federation.providers.get(&due.grant.provider)?;
        // What nobody can open was not sealed here: nothing can be asked with it.
        let Some(token) = due.grant.open(secret) else { return Ok(Said::Over) };
        let offer = self.federation.remote.offer(&provider, now_ms()).await?;
        let fields: [(&str, &str); 2] =
            [("grant_type", "refresh_token"), ("refresh_token", &token)];
        let to = (&provider, offer.as_ref());
        let asked: Result<Tokens, _> =
            self.federation.remote.ask(to, &offer.token_endpoint, &fields).await;
        let tokens = match asked {
            Err(RemoteError::Refused { code, .. }) if OVER.contains(&code.as_str()) => {
                return Ok(Said::Over);
            }
            asked => asked?,
        };
        let token = tokens.refresh_token.clone().unwrap_or(token);
        let next_ms = next_ms(tokens.expires_in, now_ms());
        let grant = Grant::seal((&provider.name, &token), secret, next_ms, super::nonce()?);
        // The token before may be worth nothing now: the new one is kept whatever becomes of the word.
        let claims = match self.claims_again(to, tokens).await {
            Ok(claims) => claims,
            Err(error) => {
                let provider = &provider.name;
                tracing::warn!(provider, %error, "who logged in is known as before");
                None
            }
        };
        let person = claims.and_then(|claims| self.person(&provider, &claims).ok());
        let Some(person) = person else { return Ok(Said::Goes { grant, person: None }) };
        // Of somebody else it is no word about this login (OpenID Connect Core 1.0 §12.2).
        if account_id(&person.issuer, &person.subject) != due.account {
            return Ok(Said::Over);
        }
        Ok(Said::Goes { grant, person: Some(Box::new(person)) })
    }

    /// What a provider says of a person whose login goes on: in a new word, or to whoever has the new access token.
    async fn claims_again(
        &self,
        (provider, offer): (&Provider, &Offer),
        tokens: Tokens,
    ) -> Result<Option<Claims>, LoginError> {
        if tokens.id_token.is_some() {
            return Ok(Some(self.word(provider, tokens, None).await?));
        }
        match &tokens.access_token {
            Some(token) => Ok(self.federation.remote.about((provider, offer), token).await?),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_asks_for_a_login_and_the_memory_is_bounded() {
        let asked = Asked::default();
        assert!(asked.begin("a", 0) && !asked.begin("a", PAUSE_MS - 1));
        assert!(asked.begin("a", PAUSE_MS), "after a pause another may");
        asked.end("a");
        assert!(asked.begin("a", PAUSE_MS + 1));
        for n in 1..ASKED_MAX {
            assert!(asked.begin(&n.to_string(), PAUSE_MS + 1));
        }
        assert!(!asked.begin("more", PAUSE_MS + 2));
        assert!(asked.begin("more", 3 * PAUSE_MS), "what is over makes room");
    }
}
