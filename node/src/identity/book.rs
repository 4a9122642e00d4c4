//! The book of accounts and of what lets them in: login links, access tokens, sessions.
//!
//! Pure: time and random bytes come as arguments, and whoever changes the book puts it on disk before anybody is told
//! ([`super::Identity`]). Secrets stand in it as hashes alone.

use std::collections::{BTreeMap, BTreeSet};

use catalog::OrgId;
use serde::{Deserialize, Serialize};

use super::grant::{GRANTS_MAX, Grant};
use super::renewal::Due;
use super::secret::{Kind, SECRET_BYTES, Secret, hash};
use super::{LOCAL, Person, account_id};

/// Accounts that are kept; nobody new is taken beyond.
pub(crate) const ACCOUNTS_MAX: usize = 4_096;
/// Login links that wait to be used; the one that ends first makes room for a new one.
pub(crate) const LINKS_MAX: usize = 256;
/// Access tokens of one account; no more are made beyond.
pub(crate) const TOKENS_OF_ONE_MAX: usize = 32;
/// Access tokens of all accounts; no more are made beyond.
pub(crate) const TOKENS_MAX: usize = 8_192;
/// Sessions of one account; the one that was used longest ago ends for a new one.
pub(crate) const SESSIONS_OF_ONE_MAX: usize = 16;
/// Sessions of all accounts; the one that was used longest ago ends for a new one.
pub(crate) const SESSIONS_MAX: usize = 4_096;
/// Groups, and roles, of one account; no account with more is taken.
pub(crate) const GROUPS_MAX: usize = 64;
/// Longest name of a user, group, role or token in bytes; longer ones are refused.
pub(crate) const NAME_LEN_MAX: usize = 64;
/// Longest time that a login link may be good; longer ones are refused.
pub(crate) const LINK_MS_MAX: u64 = 7 * 86_400_000;
/// Longest time that an access token may be good; longer ones are refused.
pub(crate) const TOKEN_MS_MAX: u64 = 366 * 86_400_000;
/// How long a session lasts without being used.
pub(crate) const SESSION_IDLE_MS: u64 = 12 * 3_600_000;
/// How long a session lasts at most.
pub(crate) const SESSION_MS: u64 = 7 * 86_400_000;
/// How much later the use of a session has to be than the one on disk to be written there. A crash makes a session end by
/// so much earlier, never later.
pub(crate) const USE_STEP_MS: u64 = 5 * 60_000;
/// The name that means the owner of the home, and that no account may have.
pub(crate) const OWNER: &str = "owner";

/// Why something about accounts was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BookError {
    #[error("there is no user `{name}`: `opencloud user list` shows all")]
    NoUser { name: String },
    #[error("{count} users are called `{name}`: give the id that `opencloud user list` shows")]
    Ambiguous { name: String, count: usize },
    #[error("there is a user `{name}` already")]
    Exists { name: String },
    #[error(
        "`{name}` is not a name for a {what}: 1 to {NAME_LEN_MAX} bytes without spaces, slashes and control characters"
    )]
    Name { what: &'static str, name: String },
    #[error("`{OWNER}` means the owner of this node: choose another name")]
    Reserved,
    #[error("a user is in at most {GROUPS_MAX} groups and has at most {GROUPS_MAX} roles")]
    TooManyGroups,
    #[error("{ACCOUNTS_MAX} users are known, no more are taken: remove some")]
    TooManyUsers,
    #[error("there are {count} access tokens, no more are made: revoke some")]
    TooManyTokens { count: usize },
    #[error("the user has no access token `{id}`")]
    NoToken { id: String },
    #[error("it may be good for some time, and at most {} days", max_ms / 86_400_000)]
    Validity { max_ms: u64 },
    #[error(
        "the login link is not good: it was used, it is too old, or its user was removed; ask for another"
    )]
    Link,
}

/// A person that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) roles: BTreeSet<String>,
    pub(crate) made_ms: u64,
    /// When it last logged in; zero before.
    pub(crate) seen_ms: u64,
}

impl Account {
    /// The account as the person whom it stands for.
    pub(crate) fn person(&self, org: OrgId) -> Person {
        Person {
            org,
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            name: self.name.clone(),
            groups: self.groups.clone(),
            roles: self.roles.clone(),
        }
    }
}

/// Who is let in: the owner of the home, or an account by its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    Owner,
    Account(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    who: Who,
    expires_ms: u64,
}

/// An access token, without what lets its holder in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) made_ms: u64,
    pub(crate) expires_ms: u64,
}

/// At which provider a session began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) provider: String,
    /// What the provider calls its own session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sid: Option<String>,
}

/// A session, without what lets its holder in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) who: Who,
    pub(crate) made_ms: u64,
    pub(crate) used_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
}

impl Session {
    /// When it ends, if it is not used before.
    pub(crate) fn expires_ms(&self) -> u64 {
        let idle = self.used_ms.saturating_add(SESSION_IDLE_MS);
        idle.min(self.made_ms.saturating_add(SESSION_MS))
    }

    /// Whether it is good. One from the future is not: a clock was set back, and its end would never come.
    fn is_good(&self, now_ms: u64) -> bool {
        self.made_ms <= now_ms.saturating_add(USE_STEP_MS) && now_ms < self.expires_ms()
    }
}

/// The book. Links, tokens and sessions are found by the hashes of their secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    #[serde(default)]
    accounts: BTreeMap<String, Account>,
    #[serde(default)]
    links: BTreeMap<String, Link>,
    #[serde(default)]
    tokens: BTreeMap<String, Token>,
    #[serde(default)]
    sessions: BTreeMap<String, Session>,
    /// Of sessions and access tokens that began at a provider which can be asked again, by the same hashes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    grants: BTreeMap<String, Grant>,
}

fn checked(what: &'static str, name: &str) -> Result<String, BookError> {
    let is_bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.chars().any(is_bad) {
        return Err(BookError::Name { what, name: name.chars().take(80).collect() });
    }
    Ok(name.to_owned())
}

fn checked_set(
    what: &'static str,
    names: &BTreeSet<String>,
) -> Result<BTreeSet<String>, BookError> {
    if names.len() > GROUPS_MAX {
        return Err(BookError::TooManyGroups);
    }
    names.iter().map(|name| checked(what, name)).collect()
}

fn short(random: &[u8; SECRET_BYTES], len: usize) -> String {
    random.iter().take(len).map(|byte| format!("{byte:02x}")).collect()
}

impl Book {
    /// All accounts, by id.
    pub(crate) const fn accounts(&self) -> &BTreeMap<String, Account> {
        &self.accounts
    }

    /// Makes a user whom this node itself knows, and gives its id.
    pub(crate) fn add(
        &mut self,
        name: &str,
        groups: &BTreeSet<String>,
        roles: &BTreeSet<String>,
        (now_ms, random): (u64, &[u8; SECRET_BYTES]),
    ) -> Result<String, BookError> {
        let name = checked("user", name)?;
        if name == OWNER {
            return Err(BookError::Reserved);
        }
        if self.accounts.values().any(|account| account.issuer == LOCAL && account.name == name) {
            return Err(BookError::Exists { name });
        }
        let (groups, roles) = (checked_set("group", groups)?, checked_set("role", roles)?);
        if self.accounts.len() >= ACCOUNTS_MAX {
            return Err(BookError::TooManyUsers);
        }
        // Random, and not the name: a name may be given again after its user was removed.
        let id = format!("u-{}", short(random, 8));
        let account = Account {
            issuer: LOCAL.to_owned(),
            subject: id.clone(),
            name,
            groups,
            roles,
            made_ms: now_ms,
            seen_ms: 0,
        };
        self.accounts.insert(id.clone(), account);
        Ok(id)
    }

    /// The account that goes by an id or, of those that this node itself knows first, by a name.
    pub(crate) fn find(&self, name: &str) -> Result<(&String, &Account), BookError> {
        if let Some(found) = self.accounts.get_key_value(name) {
            return Ok(found);
        }
        let called = || self.accounts.iter().filter(|(_, account)| account.name == name);
        if let Some(found) = called().find(|(_, account)| account.issuer == LOCAL) {
            return Ok(found);
        }
        let count = called().count();
        match called().next() {
            Some(found) if count == 1 => Ok(found),
            Some(_) => Err(BookError::Ambiguous { name: name.to_owned(), count }),
            None => Err(BookError::NoUser { name: name.chars().take(80).collect() }),
        }
    }

    /// Whom a name means.
    pub(crate) fn who(&self, name: &str) -> Result<Who, BookError> {
        if name == OWNER {
            return Ok(Who::Owner);
        }
        self.find(name).map(|(id, _)| Who::Account(id.clone()))
    }

    /// Sets the groups and roles of a user; what is none stays as it is. What a provider says of its people goes before at
    /// their next login.
    pub(crate) fn set(
        &mut self,
        name: &str,
        groups: Option<&BTreeSet<String>>,
        roles: Option<&BTreeSet<String>>,
    ) -> Result<String, BookError> {
        let groups = groups.map(|groups| checked_set("group", groups)).transpose()?;
        let roles = roles.map(|roles| checked_set("role", roles)).transpose()?;
        let id = self.find(name)?.0.clone();
        if let Some(account) = self.accounts.get_mut(&id) {
            account.groups = groups.unwrap_or_else(|| std::mem::take(&mut account.groups));
            account.roles = roles.unwrap_or_else(|| std::mem::take(&mut account.roles));
        }
        Ok(id)
    }

    /// Removes a user with all that lets it in.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), BookError> {
        let id = self.find(name)?.0.clone();
        let who = Who::Account(id.clone());
        self.accounts.remove(&id);
        self.links.retain(|_, link| link.who != who);
        self.tokens.retain(|_, token| token.account != id);
        self.sessions.retain(|_, session| session.who != who);
        Ok(())
    }

    /// Makes a login link for somebody, good once within a time.
    pub(crate) fn link(
        &mut self,
        name: &str,
        valid_ms: u64,
        (now_ms, random): (u64, &[u8; SECRET_BYTES]),
    ) -> Result<(Secret, u64), BookError> {
        if valid_ms == 0 || valid_ms > LINK_MS_MAX {
            return Err(BookError::Validity { max_ms: LINK_MS_MAX });
        }
        let who = self.who(name)?;
        self.links.retain(|_, link| now_ms < link.expires_ms);
        while self.links.len() >= LINKS_MAX {
            let first = self.links.iter().min_by_key(|(_, link)| link.expires_ms);
            let Some(first) = first.map(|(hash, _)| hash.clone()) else { break };
            self.links.remove(&first);
        }
        let secret = Secret::new(Kind::Link, random);
        let expires_ms = now_ms.saturating_add(valid_ms);
        if let Some(hash) = hash(Kind::Link, secret.text()) {
            self.links.insert(hash, Link { who, expires_ms });
        }
        Ok((secret, expires_ms))
    }

    /// For whom a login link is, without using it.
    pub(crate) fn peek(&self, link: &str, now_ms: u64) -> Result<&str, BookError> {
        let link = hash(Kind::Link, link).and_then(|hash| self.links.get(&hash));
        let link = link.filter(|link| now_ms < link.expires_ms).ok_or(BookError::Link)?;
        match &link.who {
            Who::Owner => Ok(OWNER),
            Who::Account(id) => {
                self.accounts.get(id).map(|account| account.name.as_str()).ok_or(BookError::Link)
            }
        }
    }

    /// Uses a login link up: a session for it.
    pub(crate) fn redeem(
        &mut self,
        link: &str,
        (now_ms, random): (u64, &[u8; SECRET_BYTES]),
    ) -> Result<Secret, BookError> {
        self.peek(link, now_ms)?;
        let link = hash(Kind::Link, link).and_then(|hash| self.links.remove(&hash));
        let link = link.ok_or(BookError::Link)?;
        Ok(self.begin(link.who, (now_ms, random)))
    }

    /// Begins a session of somebody who has shown who it is.
    pub(crate) fn begin(&mut self, who: Who, at: (u64, &[u8; SECRET_BYTES])) -> Secret {
        self.begin_from(who, None, at)
    }

    /// Begins a session of somebody who has shown at a provider who it is.
    pub(crate) fn begin_from(
        &mut self,
        who: Who,
        origin: Option<Origin>,
        (now_ms, random): (u64, &[u8; SECRET_BYTES]),
    ) -> Secret {
        self.sessions.retain(|_, session| session.is_good(now_ms));
        let is_own = |session: &Session| session.who == who;
        let own = self.sessions.values().filter(|session| is_own(session)).count();
        if own >= SESSIONS_OF_ONE_MAX {
            self.end_oldest(is_own);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            self.end_oldest(|_| true);
        }
        if let Who::Account(id) = &who
            && let Some(account) = self.accounts.get_mut(id)
        {
            account.seen_ms = now_ms;
        }
        let secret = Secret::new(Kind::Session, random);
        if let Some(hash) = hash(Kind::Session, secret.text()) {
            self.sessions.insert(hash, Session { who, made_ms: now_ms, used_ms: now_ms, origin });
        }
        secret
    }

    fn end_oldest(&mut self, is_meant: impl Fn(&Session) -> bool) {
        let meant = self.sessions.iter().filter(|(_, session)| is_meant(session));
        let oldest = meant.min_by_key(|(_, session)| session.used_ms);
        if let Some(hash) = oldest.map(|(hash, _)| hash.clone()) {
            self.sessions.remove(&hash);
        }
    }

    /// Whose session it is, with the account unless it is the owner's.
    pub(crate) fn session(
        &self,
        secret: &str,
        now_ms: u64,
    ) -> Option<(&Session, Option<&Account>)> {
        let session = self.sessions.get(&hash(Kind::Session, secret)?)?;
        if !session.is_good(now_ms) {
            return None;
        }
        match &session.who {
            Who::Owner => Some((session, None)),
            Who::Account(id) => Some((session, Some(self.accounts.get(id)?))),
        }
    }

    /// Notes that a session is used; true when that is to be written down.
    pub(crate) fn touch(&mut self, secret: &str, now_ms: u64) -> bool {
        let Some(hash) = hash(Kind::Session, secret) else { return false };
        let Some(session) = self.sessions.get_mut(&hash) else { return false };
        let is_late = now_ms >= session.used_ms.saturating_add(USE_STEP_MS);
        if is_late {
            session.used_ms = now_ms;
        }
        is_late
    }

    /// Whether the use of a session at this time is to be written down.
    pub(crate) const fn is_used_late(session: &Session, now_ms: u64) -> bool {
        now_ms >= session.used_ms.saturating_add(USE_STEP_MS)
    }

    /// Keeps with what to ask the provider again at which the login of a secret began; nothing where there is no such login, or are
    /// too many.
    pub(crate) fn keep_grant(&mut self, secret: &str, grant: Option<Grant>) {
        let Some(hash) = self.login_of(secret) else { return };
        if self.grants.len() < GRANTS_MAX {
            self.set_grant(&hash, grant);
        }
    }

    /// Replaces the grant of a login, or takes it away, where the login is there.
    pub(crate) fn set_grant(&mut self, hash: &str, grant: Option<Grant>) {
        let is_there = self.sessions.contains_key(hash) || self.tokens.contains_key(hash);
        match grant.filter(|_| is_there) {
            Some(grant) => self.grants.insert(hash.to_owned(), grant),
            None => self.grants.remove(hash),
        };
    }

    /// Forgets the grants of logins that are gone.
    pub(crate) fn forget_grants(&mut self) {
        let (sessions, tokens) = (&self.sessions, &self.tokens);
        self.grants.retain(|hash, _| sessions.contains_key(hash) || tokens.contains_key(hash));
    }

    fn login_of(&self, secret: &str) -> Option<String> {
        let session = hash(Kind::Session, secret).filter(|hash| self.sessions.contains_key(hash));
        session.or_else(|| hash(Kind::Token, secret).filter(|hash| self.tokens.contains_key(hash)))
    }

    /// The login of a secret, if it is good and its provider is to be asked whether it goes on.
    pub(crate) fn due(&self, secret: &str, now_ms: u64) -> Option<Due> {
        let hash = self.login_of(secret)?;
        let grant = self.grants.get(&hash).filter(|grant| grant.next_ms <= now_ms)?.clone();
        let account = match self.session(secret, now_ms) {
            Some((Session { who: Who::Account(id), .. }, _)) => id.clone(),
            _ => self.token(secret, now_ms)?.0.account.clone(),
        };
        Some(Due { hash, account, grant })
    }

    /// Ends a login, by its hash.
    pub(crate) fn end_login(&mut self, hash: &str) {
        self.sessions.remove(hash);
        self.tokens.remove(hash);
    }

    /// Ends a session; true when it was there.
    pub(crate) fn end(&mut self, secret: &str) -> bool {
        hash(Kind::Session, secret).and_then(|hash| self.sessions.remove(&hash)).is_some()
    }

    /// Ends the sessions that began at a provider by a time, of whom it means by its own name of the session or of the person; says
    /// how many.
    pub(crate) fn end_of(
        &mut self,
        provider: &str,
        issuer: &str,
        (sid, subject): (Option<&str>, Option<&str>),
        until_ms: u64,
    ) -> usize {
        let id = subject.map(|subject| account_id(issuer, subject));
        let before = self.sessions.len();
        self.sessions.retain(|_, session| {
            let origin = session.origin.as_ref().filter(|origin| origin.provider == provider);
            let Some(origin) = origin else { return true };
            let is_sid = sid.is_none_or(|sid| origin.sid.as_deref() == Some(sid));
            let is_who = id.as_ref().is_none_or(|id| session.who == Who::Account(id.clone()));
            let is_meant = (sid.is_some() || id.is_some()) && is_sid && is_who;
            !is_meant || session.made_ms > until_ms
        });
        before - self.sessions.len()
    }

    /// Ends every session of a user; says how many.
    pub(crate) fn end_all(&mut self, user: &str) -> Result<usize, BookError> {
        let who = Who::Account(self.find(user)?.0.clone());
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.who != who);
        Ok(before - self.sessions.len())
    }

    /// Notes what a provider says of a person that logs in, and gives its account.
    pub(crate) fn meet(&mut self, person: &Person, now_ms: u64) -> Result<String, BookError> {
        let id = account_id(&person.issuer, &person.subject);
        if !self.accounts.contains_key(&id) && self.accounts.len() >= ACCOUNTS_MAX {
            return Err(BookError::TooManyUsers);
        }
        let made_ms = self.accounts.get(&id).map_or(now_ms, |account| account.made_ms);
        let account = Account {
            issuer: person.issuer.clone(),
            subject: person.subject.clone(),
            name: person.name.clone(),
            groups: person.groups.clone(),
            roles: person.roles.clone(),
            made_ms,
            seen_ms: now_ms,
        };
        self.accounts.insert(id.clone(), account);
        Ok(id)
    }

    /// Makes the access token worthless that this secret is; true when it was there.
    pub(crate) fn end_token(&mut self, secret: &str) -> bool {
        hash(Kind::Token, secret).and_then(|hash| self.tokens.remove(&hash)).is_some()
    }

    /// Sessions of an account that are good.
    pub(crate) fn sessions_of(&self, id: &str, now_ms: u64) -> usize {
        let is_own = |session: &&Session| matches!(&session.who, Who::Account(own) if own == id);
        self.sessions.values().filter(is_own).filter(|session| session.is_good(now_ms)).count()
    }

    /// Makes an access token of a user.
    pub(crate) fn add_token(
        &mut self,
        user: &str,
        name: &str,
        valid_ms: u64,
        (now_ms, random): (u64, &[u8; SECRET_BYTES]),
    ) -> Result<(Secret, Token), BookError> {
        let name = checked("token", name)?;
        if valid_ms == 0 || valid_ms > TOKEN_MS_MAX {
            return Err(BookError::Validity { max_ms: TOKEN_MS_MAX });
        }
        let account = self.find(user)?.0.clone();
        self.tokens.retain(|_, token| now_ms < token.expires_ms);
        let own = self.tokens.values().filter(|token| token.account == account).count();
        if own >= TOKENS_OF_ONE_MAX || self.tokens.len() >= TOKENS_MAX {
            return Err(BookError::TooManyTokens { count: own.max(self.tokens.len()) });
        }
        let secret = Secret::new(Kind::Token, random);
        let hash = hash(Kind::Token, secret.text()).unwrap_or_default();
        let token = Token {
            // Of the hash, so that it says nothing of the secret.
            id: format!("t-{}", hash.get(..12).unwrap_or_default()),
            account,
            name,
            made_ms: now_ms,
            expires_ms: now_ms.saturating_add(valid_ms),
        };
        self.tokens.insert(hash, token.clone());
        Ok((secret, token))
    }

    /// The access tokens of a user that are good.
    pub(crate) fn tokens(&self, user: &str, now_ms: u64) -> Result<Vec<&Token>, BookError> {
        let id = self.find(user)?.0;
        let is_own = |token: &&Token| &token.account == id && now_ms < token.expires_ms;
        Ok(self.tokens.values().filter(is_own).collect())
    }

    /// Makes an access token of a user worthless.
    pub(crate) fn revoke(&mut self, user: &str, id: &str) -> Result<(), BookError> {
        let account = self.find(user)?.0.clone();
        let is_it = |token: &Token| token.account == account && token.id == id;
        let found = self.tokens.iter().find(|(_, token)| is_it(token));
        let hash = found.map(|(hash, _)| hash.clone());
        let no_token = || BookError::NoToken { id: id.chars().take(80).collect() };
        self.tokens.remove(&hash.ok_or_else(no_token)?);
        Ok(())
    }

    /// Whose access token it is.
    pub(crate) fn token(&self, secret: &str, now_ms: u64) -> Option<(&Token, &Account)> {
        let token = self.tokens.get(&hash(Kind::Token, secret)?)?;
        let account = self.accounts.get(&token.account)?;
        (now_ms < token.expires_ms).then_some((token, account))
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
