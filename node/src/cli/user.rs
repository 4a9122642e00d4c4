//! `opencloud user`: who may log in at this node without a provider of identities, and access tokens for programs.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::output::note;
use super::units::{parse_duration, time};
use super::{Context, EXIT_CODES};
use crate::api::{
    LoginLink, MadeToken, NewToken, NewUser, PersonView, SessionView, SetUser, TokenView, UserView,
    Valid,
};
use crate::engine::quota::QuotaView;
use crate::identity::is_address;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a user
    #[command(after_help = format!("Example:\n  opencloud user add ada --group staff\n\n{EXIT_CODES}"))]
    Add(Named),
    /// List all users
    #[command(after_help = format!("Example:\n  opencloud user list\n\n{EXIT_CODES}"))]
    List,
    /// Set the groups or roles of a user: those named, and no others
    #[command(after_help = format!("Example:\n  opencloud user set ada --group staff --group field\n\n{EXIT_CODES}"))]
    Set(Named),
    /// Remove a user with its sessions and access tokens
    #[command(after_help = format!("Example:\n  opencloud user remove ada\n\n{EXIT_CODES}"))]
    Remove {
        /// The user's name, or its id as `opencloud user list` shows it
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Print a link that logs a user in, once; `owner` means the owner of this node
    #[command(after_help = format!("\
Whoever opens the link first is that user: hand it over as carefully as a password.

Examples:
  opencloud user link owner
  opencloud user link ada --valid 1d
  opencloud user link ada --at https://cloud.example.org:8443    for another machine (see `up --tls`)

{EXIT_CODES}"))]
    Link {
        /// The user's name or id, or `owner`
        #[arg(value_name = "NAME")]
        name: String,
        /// How long it can be used, like `15m`, `1h` or `7d`; at most `7d`
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
        valid: u64,
        /// Where her browser reaches this node; on this machine when absent
        #[arg(long, value_name = "URL", value_parser = origin)]
        at: Option<String>,
    },
    /// Access tokens, with which programs act for a user
    #[command(subcommand)]
    Token(TokenVerb),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The user's name
    #[arg(value_name = "NAME")]
    name: String,
    /// A group that it is in; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A role that it has; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make an access token and print it, this once
    #[command(after_help = format!("Example:\n  opencloud user token create ada --name nightly --valid 90d\n\n{EXIT_CODES}"))]
    Create {
        /// The user for whom programs act with it
        #[arg(value_name = "USER")]
        user: String,
        /// What it is for
        #[arg(long, value_name = "NAME")]
        name: String,
        /// How long it can be used; at most `366d`
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_duration)]
        valid: u64,
    },
    /// List the access tokens of a user
    #[command(after_help = format!("Example:\n  opencloud user token list ada\n\n{EXIT_CODES}"))]
    List {
        /// The user
        #[arg(value_name = "USER")]
        user: String,
    },
    /// Make an access token worthless
    #[command(after_help = format!("Example:\n  opencloud user token revoke ada t-0f3a6c1b9d2e\n\n{EXIT_CODES}"))]
    Revoke {
        /// The user
        #[arg(value_name = "USER")]
        user: String,
        /// The token's id, as `list` shows it
        #[arg(value_name = "TOKEN")]
        id: String,
    },
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::Add(Named { name, groups, roles }) => {
                let (groups, roles) = (set(groups), set(roles));
                let user = client.post("/users", &NewUser { name, groups, roles }).await?;
                show(context, &[user]);
            }
            Self::List => {
                let users: Vec<UserView> = client.get("/users", &[]).await?;
                show(context, &users);
            }
            Self::Set(Named { name, groups, roles }) => {
                let given = |names: Vec<String>| Some(set(names)).filter(|names| !names.is_empty());
                let change = SetUser { groups: given(groups), roles: given(roles) };
                let user = client.patch(&of(&name)?, &[], &change).await?;
                show(context, &[user]);
            }
            Self::Remove { name, yes } => {
                confirm(&[("user", name.clone())], "Remove this user?", yes)?;
                client.delete(&of(&name)?, &[]).await?;
                if context.out.is_json() {
                    context.out.json(&json!({"removed": name}));
                }
            }
            Self::Link { name, valid, at } => link(context, &client, (&name, at), valid).await?,
            Self::Token(verb) => verb.run(context, &client).await?,
        }
        Ok(OK)
    }
}

impl TokenVerb {
    async fn run(self, context: &Context, client: &Client) -> Result<(), CliError> {
        match self {
            Self::Create { user, name, valid } => {
                let path = format!("{}/tokens", of(&user)?);
                let made: MadeToken =
                    client.post(&path, &NewToken { name, valid_ms: Some(valid) }).await?;
                if context.out.is_json() {
                    context.out.json(&made);
                } else {
                    context.out.line(&made.secret);
                    note(&format!(
                        "shown this once; {} is good until {}: send it as `Authorization: Bearer TOKEN`",
                        made.token.id,
                        time(made.token.expires_ms)
                    ));
                }
            }
            Self::List { user } => {
                let tokens: Vec<TokenView> =
                    client.get(&format!("{}/tokens", of(&user)?), &[]).await?;
                if context.out.is_json() {
                    context.out.json(&tokens);
                } else {
                    let row = |token: &TokenView| {
                        let (made, until) = (time(token.made_ms), time(token.expires_ms));
                        vec![token.id.clone(), token.name.clone(), made, until]
                    };
                    let rows = tokens.iter().map(row).collect();
                    let head = ["id", "name", "made", "good until"];
                    context.out.table(&head, rows, "the user has no access tokens");
                }
            }
            Self::Revoke { user, id } => {
                client.delete(&format!("{}/tokens/{}", of(&user)?, part(&id)?), &[]).await?;
                if context.out.is_json() {
                    context.out.json(&json!({"revoked": id}));
                }
            }
        }
        Ok(())
    }
}

fn set(names: Vec<String>) -> BTreeSet<String> {
    names.into_iter().collect()
}

/// A name as a part of an address. Those of users hold no slash; what would lead elsewhere is none.
pub(super) fn part(name: &str) -> Result<String, CliError> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        let what = format!("give the id of `{name}`, as `opencloud user list` shows it");
        return Err(CliError::usage(what));
    }
    Ok(name.to_owned())
}

fn of(user: &str) -> Result<String, CliError> {
    Ok(format!("/users/{}", part(user)?))
}

/// An address of a web server and nothing behind it, which has TLS unless it is on this machine.
fn origin(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
    if !is_address(text) || url.path() != "/" || url.query().is_some() {
        return Err("an address like `https://cloud.example.org:8443` is wanted".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

async fn link(
    context: &Context,
    client: &Client,
    (name, at): (&str, Option<String>),
    valid: u64,
) -> Result<(), CliError> {
    let path = format!("{}/link", of(name)?);
    let link: LoginLink = client.post(&path, &Valid { valid_ms: Some(valid) }).await?;
    let at = match at {
        Some(at) => at,
        None => format!("http://{}", context.open_home()?.api_address()?),
    };
    let url = format!("{at}{}", link.path);
    if context.out.is_json() {
        context.out.json(&json!({"url": url, "expires_ms": link.expires_ms}));
    } else {
        context.out.line(&url);
        note(&format!("logs in as {name}, once, until {}", time(link.expires_ms)));
    }
    Ok(())
}

fn show(context: &Context, users: &[UserView]) {
    if context.out.is_json() {
        return context.out.json(&users);
    }
    let joined = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let row = |user: &UserView| {
        vec![
            user.name.clone(),
            user.id.clone(),
            user.issuer.clone(),
            joined(&user.groups),
            joined(&user.roles),
            user.seen_ms.map_or_else(|| "never".to_owned(), time),
            user.tokens.to_string(),
        ]
    };
    let head = ["name", "id", "known by", "groups", "roles", "logged in", "tokens"];
    let none = "there are no users: make one with `opencloud user add NAME`";
    context.out.table(&head, users.iter().map(row).collect(), none);
}

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud whoami\n\n{EXIT_CODES}"))]
pub(super) struct Whoami {}

impl Whoami {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let session: SessionView = client.get("/session", &[]).await?;
        if context.out.is_json() {
            context.out.json(&session);
            return Ok(OK);
        }
        let joined = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
        let mut facts = vec![("by", session.entrance.replace('_', " "))];
        match session.person {
            None => facts.insert(0, ("who", "the owner of this node".to_owned())),
            Some(PersonView { org, issuer, subject, name, groups, roles }) => facts
                .splice(
                    0..0,
                    [
                        ("who", name),
                        ("subject", subject),
                        ("known by", issuer),
                        ("organisation", org.to_string()),
                        ("groups", joined(groups)),
                        ("roles", joined(roles)),
                    ],
                )
                .for_each(drop),
        }
        facts.extend(session.expires_ms.map(|ms| ("until", time(ms))));
        context.out.facts(&facts);
        let quotas: Vec<QuotaView> = client.get("/session/quotas", &[]).await?;
        if !quotas.is_empty() {
            super::quota::show(context, &quotas);
        }
        Ok(OK)
    }
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn links_lead_to_web_servers_with_tls() {
        assert_eq!(origin("https://a.example:8443/").as_deref(), Ok("https://a.example:8443"));
        assert_eq!(origin("http://127.0.0.1:80").as_deref(), Ok("http://127.0.0.1:80"));
        for wrong in
            ["http://a.example", "https://a.example/x", "https://a.example/?x", "a.example", ""]
        {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
