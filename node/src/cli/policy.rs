//! `opencloud policy`: who may do what on this node.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::document::{read_text, refuse};
use super::error::{CliError, OK, Place};
use super::units::time;
use super::{Context, EXIT_CODES};
use crate::api::{PolicyList, PolicyQuestion, PolicySource, PolicyText, PolicyVerdict};
use crate::policy::{Page, Policies, PolicyError, SCHEMA};

const NAMES: &str = "\
WHO is `owner`, user:ISSUER|SUBJECT (user:NAME of those whom the node itself knows),
group:NAME, org:did:key:…, or node:12D3…. WHAT is `node` for this node as a whole, or
KIND:NAME, like run:run-0123… or data:blake3:…. `opencloud policy schema` lists the
actions and kinds.";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the files of policies, and what is in them
    #[command(after_help = format!("Example:\n  opencloud policy list\n\n{EXIT_CODES}"))]
    List,
    /// Print a file of policies
    #[command(after_help = format!("Example:\n  opencloud policy show default\n\n{EXIT_CODES}"))]
    Show(Named),
    /// Write a file of policies and have it hold; one that is refused changes nothing
    #[command(after_help = format!("\
The files are in `policies/` of the home. The one called `default` stands in place of the
policies that every node has; others add to it. What nothing permits is refused, and what
anything forbids is refused whatever permits it. The owner, who has the token of the home,
is above policies.

Examples:
  opencloud policy show default > default.cedar
  opencloud policy set default default.cedar
  opencloud policy set night-shift night.cedar

{EXIT_CODES}"))]
    Set(Set),
    /// Remove a file of policies; without a file called `default` the built-in one holds
    #[command(after_help = format!("Example:\n  opencloud policy remove night-shift\n\n{EXIT_CODES}"))]
    Remove(Named),
    /// Say what is wrong with a file of policies; needs no node
    #[command(after_help = format!("Example:\n  opencloud policy check night.cedar\n\n{EXIT_CODES}"))]
    Check(File),
    /// Print what policies speak of, as a Cedar schema; needs no node
    #[command(after_help = format!("Example:\n  opencloud policy schema\n\n{EXIT_CODES}"))]
    Schema,
    /// Read the files again that were changed in the home
    #[command(after_help = format!("Example:\n  opencloud policy reload\n\n{EXIT_CODES}"))]
    Reload,
    /// Say whether somebody could do something, and which policy decides
    #[command(after_help = format!("\
{NAMES}

Examples:
  opencloud policy can user:ada submit node --role member
  opencloud policy can org:did:key:z6Mk… fetch node
  opencloud policy can 'user:https://login.example.org|1234' cancel run:run-0123… --group night

{EXIT_CODES}"))]
    Can(Can),
    /// Say who could do something, of those that the node and its policies know
    #[command(after_help = format!("\
{NAMES}

Example:
  opencloud policy who submit node

{EXIT_CODES}"))]
    Who(Who),
    /// Show what was decided, newest first; what the owner did is not decided about
    #[command(after_help = format!("Example:\n  opencloud policy log --limit 20\n\n{EXIT_CODES}"))]
    Log(Log),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The file's name, without `.cedar`
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The file's name in the home, without `.cedar`: small letters, digits and `-`
    name: String,
    /// The policies
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The policies
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Can {
    /// Who
    who: String,
    /// Does what
    action: String,
    /// With what
    what: String,
    /// A group that the person is in; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// A role that the person has; may be repeated
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,
    /// Take the resource for one that is published to the organisation that asks
    #[arg(long)]
    listed: bool,
}

#[derive(Debug, Args)]
pub(super) struct Who {
    /// Does what
    action: String,
    /// With what
    what: String,
}

#[derive(Debug, Args)]
pub(super) struct Log {
    /// How many lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Those before the one of this number
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let out = context.out;
        match self {
            Self::List => show_list(context, &context.client()?.get("/policies", &[]).await?),
            Self::Reload => {
                let list: PolicyList = context.client()?.post("/policy/reload", &()).await?;
                show_list(context, &list)
            }
            Self::Show(Named { name }) => {
                let text: PolicyText = context.client()?.get(&address(&name)?, &[]).await?;
                match out.is_json() {
                    true => out.json(&text),
                    false => out.bytes(text.text.as_bytes()),
                }
                Ok(OK)
            }
            Self::Set(set) => set.run(context).await,
            Self::Remove(Named { name }) => {
                context.client()?.delete(&address(&name)?, &[]).await?;
                Ok(OK)
            }
            Self::Check(File { file }) => {
                let policies = check(&file, "file", read_text(&file)?)?;
                let rules: Vec<_> = policies
                    .all()
                    .find(|(name, ..)| *name == "file")
                    .map(|(.., rules)| rules.to_vec())
                    .unwrap_or_default();
                match out.is_json() {
                    true => out.json(&serde_json::json!({"valid": true, "policies": rules.len()})),
                    false => {
                        out.line(&format!("{}: {} policies, all good", file.display(), rules.len()))
                    }
                }
                Ok(OK)
            }
            Self::Schema => {
                out.bytes(SCHEMA.as_bytes());
                Ok(OK)
            }
            Self::Can(can) => can.run(context).await,
            Self::Who(Who { action, what }) => {
                let query = [("action", &*action), ("resource", &*what)];
                let verdicts: Vec<PolicyVerdict> =
                    context.client()?.get("/policy/who", &query).await?;
                show_verdicts(context, verdicts)
            }
            Self::Log(log) => log.run(context).await,
        }
    }
}

/// The address of a file; a name that none can have is refused here, since it would lead elsewhere.
fn address(name: &str) -> Result<String, CliError> {
    if crate::policy::is_file_name(name) {
        return Ok(format!("/policies/{name}"));
    }
    let name = name.chars().take(80).collect();
    Err(CliError::usage(PolicyError::Name { name }.to_string()))
}

/// Reads policies as the node would; what is wrong is told with its places.
fn check(path: &Path, name: &str, text: String) -> Result<Policies, CliError> {
    Policies::read([(name.to_owned(), text)].into()).map_err(|error| match error {
        PolicyError::Text { spots, .. } => {
            let place = |spot: crate::policy::Spot| Place {
                line: spot.line,
                column: spot.column,
                path: String::new(),
                problem: spot.problem,
                hint: spot.hint,
            };
            refuse(path, spots.into_iter().map(place).collect())
        }
        error => CliError::usage(error.to_string()),
    })
}

impl Set {
    async fn run(self, context: &Context) -> Result<u8, CliError> {
        let (address, text) = (address(&self.name)?, read_text(&self.file)?);
        check(&self.file, &self.name, text.clone())?;
        let set: PolicyText = context.client()?.put(&address, &PolicySource { text }).await?;
        match context.out.is_json() {
            true => context.out.json(&set.file),
            false => context.out.line(&format!(
                "{}.cedar holds, with {} policies",
                set.file.name,
                set.file.rules.len()
            )),
        }
        Ok(OK)
    }
}

fn show_list(context: &Context, list: &PolicyList) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(list);
        return Ok(OK);
    }
    if let Some(closed) = &list.closed {
        super::output::note(&format!(
            "The policies are refused, so that only the owner may do anything: {closed}. Mend the file, then `opencloud policy reload`"
        ));
    }
    let rows = list.files.iter().flat_map(|file| {
        let of = if file.is_own { "this home" } else { "built in" };
        file.rules.iter().map(move |rule| {
            let effect = match rule.effect {
                crate::policy::Effect::Permit => "permit",
                crate::policy::Effect::Forbid => "forbid",
            };
            vec![rule.id.clone(), effect.to_owned(), of.to_owned()]
        })
    });
    let empty = "no policies hold: nobody but the owner may do anything";
    context.out.table(&["policy", "effect", "of"], rows.collect(), empty);
    Ok(OK)
}

impl Can {
    async fn run(self, context: &Context) -> Result<u8, CliError> {
        let question = PolicyQuestion {
            principal: self.who,
            groups: self.group.into_iter().collect(),
            roles: self.role.into_iter().collect(),
            action: self.action,
            resource: self.what,
            listed: self.listed,
        };
        let verdict: PolicyVerdict = context.client()?.post("/policy/can", &question).await?;
        if context.out.is_json() {
            context.out.json(&verdict);
        } else {
            let word = if verdict.decision.allowed { "yes" } else { "no" };
            context.out.line(&format!("{word}: {}", verdict.decision.because()));
        }
        Ok(OK)
    }
}

fn show_verdicts(context: &Context, verdicts: Vec<PolicyVerdict>) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(&verdicts);
        return Ok(OK);
    }
    let rows = verdicts.into_iter().map(|verdict| {
        let word = if verdict.decision.allowed { "yes" } else { "no" };
        vec![verdict.principal, word.to_owned(), verdict.decision.because()]
    });
    context.out.table(&["who", "may", "by"], rows.collect(), "nobody is known");
    Ok(OK)
}

impl Log {
    async fn run(self, context: &Context) -> Result<u8, CliError> {
        let (limit, before) = (self.limit.to_string(), self.before.map(|seq| seq.to_string()));
        let mut query = vec![("limit", &*limit)];
        query.extend(before.as_deref().map(|before| ("before", before)));
        let page: Page = context.client()?.get("/policy/log", &query).await?;
        if context.out.is_json() {
            context.out.json(&page);
            return Ok(OK);
        }
        let rows = page.entries.into_iter().map(|entry| {
            let by = match (entry.policies.is_empty(), entry.error) {
                (false, _) => entry.policies.join(", "),
                (true, Some(error)) => error,
                (true, None) => "nothing permits it".to_owned(),
            };
            let word = if entry.allowed { "yes" } else { "no" };
            let again = entry.repeated.to_string();
            vec![
                entry.seq.to_string(),
                time(entry.at_ms),
                entry.principal,
                entry.action,
                entry.resource,
                word.to_owned(),
                by,
                again,
            ]
        });
        let header = ["seq", "time", "who", "action", "what", "may", "by", "again"];
        context.out.table(&header, rows.collect(), "nothing was decided yet");
        if let Some(next) = page.next {
            super::output::note(&format!("there are more: --before {next}"));
        }
        Ok(OK)
    }
}
