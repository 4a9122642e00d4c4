//! `opencloud provider`: the organisation's own providers of identities.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::confirm::confirm;
use super::error::{CliError, OK};
use super::output::note;
use super::{Context, EXIT_CODES};
use crate::api::{ProviderView, Tested};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Connect a provider
    #[command(after_help = format!("\
The provider has to know this node as a client that may come back to
http://127.0.0.1:PORT/api/v1/login/callback (start it with `opencloud up --api
127.0.0.1:PORT`) and, for `opencloud login`, that may use the device grant.

Rules are a JSON list. Each looks at one claim; a value that fits gives a group or a role:
  [{{\"claim\": \"groups\", \"begins\": \"cloud-\", \"group\": \"{{}}\"}},
   {{\"claim\": \"groups\", \"is\": \"it-staff\", \"role\": \"admin\"}}]

Examples:
  opencloud provider add https://id.example.org/realms/main --client-id opencloud --secret-file secret.txt
  opencloud provider add https://id.example.org --name work --client-id cli --scope groups --rules rules.json
  opencloud provider test work

{EXIT_CODES}"))]
    Add(Box<Add>),
    /// List the connected providers
    #[command(after_help = format!("Example:\n  opencloud provider list\n\n{EXIT_CODES}"))]
    List,
    /// Disconnect a provider: nobody logs in there any more
    #[command(after_help = format!("Example:\n  opencloud provider remove work\n\n{EXIT_CODES}"))]
    Remove {
        /// As `opencloud provider list` shows it
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Ask a provider what it offers
    #[command(after_help = format!("Example:\n  opencloud provider test work\n\n{EXIT_CODES}"))]
    Test {
        /// As `opencloud provider list` shows it
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its address, exactly as it calls itself
    #[arg(value_name = "ISSUER")]
    issuer: String,
    /// What this node is called there
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// What the provider is called here [default: its host]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A file with the client's secret in its first line
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// What is asked for beside `openid`; may be repeated [default: profile, email]
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Take tokens of programs that are for this audience; may be repeated [default: none]
    #[arg(long = "audience", value_name = "AUDIENCE")]
    audiences: Vec<String>,
    /// A JSON file with the rules that give groups and roles [default: the claim `groups` gives groups]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl Add {
    fn body(self) -> Result<Value, CliError> {
        let host = self.issuer.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default().to_owned();
        let mut body = json!({
            "name": self.name.unwrap_or(host),
            "issuer": self.issuer,
            "client_id": self.client_id,
            "audiences": self.audiences,
        });
        if !self.scopes.is_empty() {
            body["scopes"] = json!(self.scopes);
        }
        if let Some(path) = &self.secret_file {
            let text = std::fs::read_to_string(path).map_err(CliError::io(path))?;
            body["client_secret"] = json!(text.lines().next().unwrap_or_default().trim());
        }
        if let Some(path) = &self.rules {
            let text = std::fs::read_to_string(path).map_err(CliError::io(path))?;
            let rules: Value = serde_json::from_str(&text)
                .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
            body["rules"] = rules;
        }
        Ok(body)
    }
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::Add(add) => {
                let provider: ProviderView = client.post("/providers", &add.body()?).await?;
                let tested = format!("/providers/{}/test", provider.name);
                show(context, &[provider]);
                if let Err(error) = client.post::<Tested>(&tested, &json!({})).await {
                    note(&format!("it is connected, but: {}", error.message()));
                }
            }
            Self::List => {
                let all: Vec<ProviderView> = client.get("/providers", &[]).await?;
                show(context, &all);
            }
            Self::Remove { name, yes } => {
                confirm(&[("provider", name.clone())], "Disconnect this provider?", yes)?;
                client.delete(&format!("/providers/{}", super::user::part(&name)?), &[]).await?;
                if context.out.is_json() {
                    context.out.json(&json!({"removed": name}));
                }
            }
            Self::Test { name } => {
                let path = format!("/providers/{}/test", super::user::part(&name)?);
                let tested: Tested = client.post(&path, &json!({})).await?;
                if context.out.is_json() {
                    context.out.json(&tested);
                } else {
                    let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
                    context.out.facts(&[
                        ("keys", tested.keys.to_string()),
                        ("login of devices", word(tested.devices)),
                        ("logout", word(tested.logout)),
                    ]);
                }
            }
        }
        Ok(OK)
    }
}

fn show(context: &Context, all: &[ProviderView]) {
    if context.out.is_json() {
        return context.out.json(&all);
    }
    let row = |provider: &ProviderView| {
        vec![
            provider.name.clone(),
            provider.issuer.clone(),
            provider.client_id.clone(),
            if provider.has_secret { "yes" } else { "no" }.to_owned(),
            provider.audiences.join(", "),
            provider.rules.len().to_string(),
        ]
    };
    let head = ["name", "issuer", "client", "secret", "audiences", "rules"];
    let none = "no provider is connected: users have login links (`opencloud user link`)";
    context.out.table(&head, all.iter().map(row).collect(), none);
}
