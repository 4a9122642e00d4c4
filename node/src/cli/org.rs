//! `opencloud org`: the organisation's keys and its nodes' papers, as files.

use std::path::{Path, PathBuf};

use catalog::cert::NodeCert;
use catalog::cert::armour::{self, Kind};
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::output::note;
use super::rotate::Rotate;
use super::units::{parse_duration, time};
use super::{Context, EXIT_CODES};
use crate::engine::trust::InstalledView;
use crate::shell::org::{LIFE_MS_MAX, Org, now_ms};
use crate::shell::{Home, HomeError};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Make an organisation's root key in a directory of its own, which no node needs
    Create(Create),
    /// Ask an organisation for papers: makes the node, if need be, and the file to carry
    Request(Ask),
    /// Answer a node's request with papers, where a key of the organisation is
    Enroll(Enroll),
    /// Use papers or a revocation list that a file brings
    Install(Install),
    /// Take papers back from nodes, or an organisation's membership: makes the list to carry
    Revoke(Revoke),
    /// Give this node a new key; it keeps its name, realm, catalogue and ledgers
    Rotate(Rotate),
    /// Show the organisation, what signs for it here, and to whom papers were given
    Show,
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
The directory (--home) holds the root key and nothing that a node needs: keep it on
a machine or a medium without a network. Whoever has it speaks for the organisation.

Example:
  opencloud --home /media/key org create --org 'Survey Office'

{EXIT_CODES}"))]
pub(super) struct Create {
    /// The organisation's name for people
    #[arg(long, value_name = "NAME")]
    org: String,
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
In a home without a node it makes one that waits for its papers; in one that has
papers it asks for newer ones. With --issuer the node gets a key that signs for the
organisation for 90 days: it then renews its own papers and those of the
organisation's other nodes, and admits other organisations.

Examples:
  opencloud org request --node rack-7 --out rack-7.request
  opencloud org request --issuer --out front.request
  opencloud org request --gateway --out gate.request
  opencloud org request --rotate --out rack-7.request      for its next key

{EXIT_CODES}"))]
pub(super) struct Ask {
    /// The node's stable name within the organisation, when it is made now
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Ask for a key that signs for the organisation, too
    #[arg(long)]
    issuer: bool,
    /// Ask to be a gateway, which speaks for its realm to others (`opencloud up --gateway`)
    #[arg(long)]
    gateway: bool,
    /// Ask papers for a new key of this node, which `opencloud org rotate` takes into use
    #[arg(long, conflicts_with_all = ["node", "issuer", "gateway"])]
    rotate: bool,
    /// Where to write the request; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
Example:
  opencloud --home /media/key org enroll rack-7.request --out rack-7.papers

{EXIT_CODES}"))]
pub(super) struct Enroll {
    /// What `opencloud org request` wrote
    #[arg(value_name = "FILE")]
    request: PathBuf,
    /// How long the papers hold, like `7d`; at most `30d`
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_life)]
    valid: u64,
    /// Where to write the papers; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
A node that runs uses them at once; one that does not, at its next start.

Examples:
  opencloud org install rack-7.papers
  opencloud org install november.list

{EXIT_CODES}"))]
pub(super) struct Install {
    /// What `opencloud org enroll` or `opencloud org revoke` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
Needs the root key. The list counts everywhere as soon as one node of the organisation
has it (`opencloud org install`): it spreads as a record of the catalogue. Nothing is
ever taken off it by accident: a newer list holds all of the one before.

Examples:
  opencloud org revoke rack-7
  opencloud --home /media/key org revoke rack-7 --out november.list
  opencloud org revoke did:key:z6Mk…        an organisation that this one admitted

{EXIT_CODES}"))]
pub(super) struct Revoke {
    /// Nodes by name or id, issuers with their node, organisations by did:key
    #[arg(value_name = "WHOM", required = true)]
    whom: Vec<String>,
    /// Where to write the list; it always stays in the organisation's directory, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn parse_life(text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        0 => Err("papers have to hold for some time".to_owned()),
        ms if ms > LIFE_MS_MAX => Err("no node accepts papers of more than 30d".to_owned()),
        ms => Ok(ms),
    }
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let dir = context.dir()?;
        match self {
            Self::Create(verb) => verb.run(context, &dir),
            Self::Request(verb) => verb.run(context, &dir),
            Self::Enroll(verb) => verb.run(context, &dir),
            Self::Install(verb) => verb.run(context, &dir).await,
            Self::Revoke(verb) => verb.run(context, &dir).await,
            Self::Rotate(verb) => verb.run(context, &dir).await,
            Self::Show => show(context, &dir),
        }
    }
}

impl Create {
    fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let org = Org::create(dir, &self.org)?;
        let facts = [
            ("home", dir.display().to_string()),
            ("organisation", format!("{} ({})", org.name(), org.id())),
            ("fingerprint", org.id().fingerprint()),
            ("next", "opencloud org request, on the machine of the first node".to_owned()),
        ];
        let json = json!({"home": dir, "org": org.id(), "org_name": org.name(), "fingerprint": org.id().fingerprint()});
        tell(context, &facts, &json);
        Ok(OK)
    }
}

impl Ask {
    fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let (request, text) = if self.rotate {
            Home::request_next(dir, now_ms())?
        } else {
            Home::request(dir, self.node.as_deref(), (self.issuer, self.gateway), now_ms())?
        };
        let facts = [
            ("node", format!("{} ({})", request.name, request.node)),
            (
                "asks for",
                if self.issuer { "papers and an issuer's key" } else { "papers" }.to_owned(),
            ),
            ("as", role(request.is_gateway())),
        ];
        let json = json!({"node": request.node, "node_name": request.name, "text": text});
        hand_over(context, self.out.as_deref(), &text, &facts, &json)
    }
}

impl Enroll {
    fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let org = Org::open(dir)?;
        let request = org.read_request(&self.request)?;
        let revoked = org.revocations()?;
        if revoked.contains_key(request.node.as_bytes()) {
            return Err(CliError::usage(format!(
                "the key of {} was taken back: it gets no papers again; make the node anew",
                request.node
            )));
        }
        let issuer = request.issuer.is_some() && org.authority().is_root();
        let facts = [
            ("organisation", format!("{} ({})", org.name(), org.id())),
            ("node", format!("{} ({})", request.name, request.node)),
            ("key", format!("number {} of this node", request.generation)),
            (
                "may sign",
                if issuer { "for the organisation, for 90 days" } else { "for itself" }.to_owned(),
            ),
            ("as", role(request.is_gateway())),
        ];
        confirm(&facts, "Give this node papers of the organisation?", self.yes)?;
        if request.issuer.is_some() && !issuer {
            note(
                "only the root names an issuer, and this is none: the node gets papers without a key",
            );
        }
        let (cert, text) = org.enroll(&request, self.valid)?;
        let json = json!({
            "org": cert.org, "org_name": cert.org_name, "node": cert.node, "node_name": cert.name,
            "generation": cert.generation, "until_ms": cert.not_after_ms, "text": text,
        });
        hand_over(context, self.out.as_deref(), &text, &facts, &json)
    }
}

impl Install {
    async fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let text = std::fs::read_to_string(&self.file).map_err(CliError::io(&self.file))?;
        let (kind, bytes) = armour::read(&text)
            .map_err(|source| HomeError::Armour { path: self.file.clone(), source })?;
        let installed = match kind {
            Kind::Request => {
                return Err(CliError::usage(
                    "this is a request: answer it with `opencloud org enroll`",
                ));
            }
            Kind::Answer => {
                let cert = Home::check_papers(dir, &bytes, now_ms())?;
                confirm(
                    &papers_facts(&cert),
                    "Does this node belong to this organisation?",
                    self.yes,
                )?;
                let home = Home::install(dir, &bytes, now_ms())?;
                if home.node_id() != cert.node {
                    return Ok(next_key(context, &cert));
                }
                InstalledView { kind: "papers".to_owned(), org: cert.org, is_new: true }
            }
            Kind::Revocations => {
                let list = catalog::cert::Revocations::verify(&bytes).map_err(HomeError::Cert)?;
                let home = Home::open(dir)?;
                let is_own = home.org_id() == list.org;
                let is_new = if is_own { Org::keep_list(dir, &bytes)? } else { false };
                InstalledView { kind: "revocations".to_owned(), org: list.org, is_new }
            }
        };
        let told = tell_node(dir, &text).await?;
        let is_new = installed.is_new || told.as_ref().is_some_and(|told| told.is_new);
        let used = if told.is_some() { "by the running node" } else { "at the next start" };
        let facts = [
            ("installed", installed.kind.clone()),
            ("of", installed.org.to_string()),
            ("fingerprint", installed.org.fingerprint()),
            ("new", if is_new { "yes" } else { "no, it was known" }.to_owned()),
            ("used", used.to_owned()),
        ];
        let json = json!({
            "kind": installed.kind, "org": installed.org, "is_new": is_new, "in_use": told.is_some(),
        });
        tell(context, &facts, &json);
        Ok(OK)
    }
}

impl Revoke {
    async fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let org = Org::open(dir)?;
        let facts = [
            ("organisation", format!("{} ({})", org.name(), org.id())),
            ("revoke", self.whom.join(", ")),
        ];
        confirm(&facts, "Take their papers back for good?", self.yes)?;
        let (list, text) = org.revoke(&self.whom)?;
        if let Some(path) = &self.out {
            write_new(path, &text)?;
        }
        // Of a directory without a node there is nobody to tell.
        let told = match Home::open(dir) {
            Ok(_) => tell_node(dir, &text).await?.is_some(),
            Err(_) => false,
        };
        let next = match (told, &self.out) {
            (true, _) => "the running node spreads it".to_owned(),
            (false, Some(path)) => {
                format!("opencloud org install {}, on any other node", path.display())
            }
            (false, None) => {
                format!(
                    "carry {} to any other node: opencloud org install",
                    dir.join("revocations").display()
                )
            }
        };
        let facts =
            [("list", format!("number {}, {} keys", list.serial, list.keys.len())), ("next", next)];
        let json = json!({"org": list.org, "serial": list.serial, "keys": list.keys.len(), "in_use": told, "text": text});
        tell(context, &facts, &json);
        Ok(OK)
    }
}

fn show(context: &Context, dir: &Path) -> Result<u8, CliError> {
    let org = Org::open(dir)?;
    let (issued, list) = (org.issued()?, org.revocations()?);
    let issuer = org.authority().issuer_cert();
    let is_revoked = |node: &catalog::NodeId| list.contains_key(node.as_bytes());
    if context.out.is_json() {
        let issued: Vec<Value> = issued
            .iter()
            .map(|one| {
                json!({
                    "node_name": one.name, "node": one.node, "generation": one.generation,
                    "until_ms": one.until_ms, "is_issuer": one.issuer.is_some(), "is_revoked": is_revoked(&one.node),
                })
            })
            .collect();
        context.out.json(&json!({
            "org": org.id(), "org_name": org.name(), "fingerprint": org.id().fingerprint(),
            "signs_with": if org.authority().is_root() { "root" } else { "issuer" },
            "issuer_until_ms": issuer.map(|cert| cert.not_after_ms),
            "revocations": {"serial": list.serial, "keys": list.keys.len()},
            "issued": issued,
        }));
        return Ok(OK);
    }
    let signs = issuer.map_or("the root key".to_owned(), |cert| {
        format!("an issuer's key, until {}", time(cert.not_after_ms))
    });
    context.out.facts(&[
        ("organisation", format!("{} ({})", org.name(), org.id())),
        ("fingerprint", org.id().fingerprint()),
        ("signs with", signs),
        ("taken back", format!("{} keys (list number {})", list.keys.len(), list.serial)),
    ]);
    let rows = issued.into_iter().map(|one| {
        let state = if is_revoked(&one.node) { "revoked" } else { "in force" };
        let signs = if one.issuer.is_some() { "yes" } else { "no" };
        let key = one.generation.to_string();
        let until = time(one.until_ms);
        vec![one.name, key, state.to_owned(), signs.to_owned(), until, one.node.to_string()]
    });
    let header = ["node", "key", "state", "issuer", "until", "id"];
    context.out.table(&header, rows.collect(), "no node was enrolled from here by file");
    Ok(OK)
}

/// Papers were kept for a key that is not in use yet.
fn next_key(context: &Context, cert: &NodeCert) -> u8 {
    let mut facts = papers_facts(cert);
    facts.push(("next", "opencloud org rotate".to_owned()));
    let json = json!({"kind": "papers", "org": cert.org, "is_new": true, "in_use": false, "node": cert.node});
    tell(context, &facts, &json);
    OK
}

fn papers_facts(cert: &NodeCert) -> Vec<(&'static str, String)> {
    vec![
        ("organisation", format!("{} ({})", cert.org_name, cert.org)),
        ("fingerprint", cert.org.fingerprint()),
        ("node", format!("{} ({})", cert.name, cert.node)),
        ("as", role(cert.is_gateway())),
        ("valid until", time(cert.not_after_ms)),
    ]
}

/// What an organisation uses a node for.
fn role(is_gateway: bool) -> String {
    if is_gateway { "a gateway, which speaks for its realm to others" } else { "a node" }.to_owned()
}

/// Has the node of a directory use what a file holds, when it runs.
async fn tell_node(dir: &Path, text: &str) -> Result<Option<InstalledView>, CliError> {
    let client = match Client::of(&Home::open(dir)?) {
        Ok(client) => client,
        Err(CliError::NotRunning) => return Ok(None),
        Err(error) => return Err(error),
    };
    match client.post("/org/install", &json!({"text": text})).await {
        Ok(installed) => Ok(Some(installed)),
        Err(CliError::NotRunning) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn tell(context: &Context, facts: &[(&str, String)], json: &Value) {
    if context.out.is_json() {
        context.out.json(json);
    } else {
        context.out.facts(facts);
    }
}

/// Gives a text to be carried: into a file, or as the answer.
fn hand_over(
    context: &Context,
    out: Option<&Path>,
    text: &str,
    facts: &[(&str, String)],
    json: &Value,
) -> Result<u8, CliError> {
    if let Some(path) = out {
        write_new(path, text)?;
    }
    match (context.out.is_json(), out) {
        (true, _) => context.out.json(json),
        (false, None) => context.out.line(text.trim_end()),
        (false, Some(path)) => {
            let written = ("written to", path.display().to_string());
            let facts: Vec<_> = facts.iter().cloned().chain([written]).collect();
            context.out.facts(&facts);
        }
    }
    Ok(OK)
}

/// Writes a file that was not there: others' files are never replaced.
fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    let file = std::fs::File::options().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(CliError::io(path))
}
