//! The `opencloud` command: the only place that prints.
//!
//! Every verb is a module: it parses nothing but its arguments, asks the node over the API (or works offline where it can),
//! and answers as a table for people or as JSON for programs.

mod area;
mod audit;
mod bar;
mod catalog;
mod client;
mod confirm;
mod copies;
mod dashboard;
mod data;
mod demo;
mod doctor;
mod document;
mod download;
mod encrypt;
mod error;
mod give;
mod home;
mod image;
mod inside;
mod kept;
mod ledger;
mod log;
mod login;
mod mesh;
mod org;
mod output;
mod peers;
mod policy;
mod price;
mod provider;
mod quota;
mod reach;
mod realm;
mod rotate;
mod run;
mod service;
mod sse;
mod tunnel;
mod units;
mod up;
mod upload;
mod user;
mod watching;
mod workflow;
mod workspace;
mod written;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::client::Client;
pub use self::error::{CliError, Place};
pub use self::log::Logging;
use self::output::{Format, Output};
use self::watching::LogFormat;
use crate::shell::Home;

const EXIT_CODES: &str = "Exit codes: 0 all right, 1 failed, 64 wrong command line, 130 cancelled.";

const EXAMPLES: &str = "\
Examples:
  opencloud demo                              three organisations on this machine
  opencloud init --org 'Survey Office'        a new node in ~/.opencloud
  opencloud up                                run it
  opencloud invite                            a ticket for another organisation
  opencloud join TICKET                       what the other one does with it
  opencloud run submit flow.yaml --wait       run a workflow on all nodes there are
  opencloud ledger show                       who used what, and what it costs

The answer goes to standard output, everything else to standard error. With
--output json the answer is JSON, and an error is one JSON object (RFC 9457 problem
details, with `hint` and `exit_code`) in the last line of standard error.

Exit codes: 0 all right, 1 failed, 64 wrong command line, 130 cancelled.
`opencloud ledger verify --help` lists codes of its own.";

/// A sovereign node of a peer-to-peer computing cloud: share data, programs and machines between organisations.
#[derive(Debug, Parser)]
#[command(name = "opencloud", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// The node's directory [default: ~/.opencloud]
    #[arg(long, global = true, env = "OPENCLOUD_HOME", value_name = "DIR", display_order = 900)]
    home: Option<PathBuf>,
    /// In which form to answer: `table` for people, `json` for programs
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        hide_possible_values = true,
        display_order = 901
    )]
    output: Format,
    /// Log more to standard error (-v: what happens, -vv: details); RUST_LOG goes before
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 902)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an organisation and its first node
    Init(home::Init),
    /// Keep the organisation's keys: enrol its nodes by files, take their papers back
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud --home /media/key org create --org 'Survey Office'   the root, kept offline
  opencloud org request --node rack-7 --out rack-7.request       on the new node
  opencloud --home /media/key org enroll rack-7.request --out rack-7.papers
  opencloud org install rack-7.papers                            on the new node
  opencloud --home /media/key org revoke rack-7 --out november.list
  opencloud org install november.list                            on any other node

{EXIT_CODES}"))]
    Org(org::Verb),
    /// Run the node until it is told to stop
    Up(Box<up::Up>),
    /// Show this node
    Status(mesh::Status),
    /// Print a ticket that admits one organisation
    Invite(mesh::Invite),
    /// Join the realm of a ticket
    Join(mesh::Join),
    /// List the nodes this one knows, and decide what their organisations may do here
    Peers(peers::Peers),
    /// Who may do what on this node: policies in Cedar
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud policy list
  opencloud policy show default
  opencloud policy check night.cedar
  opencloud policy set night-shift night.cedar
  opencloud policy can user:ada submit node --role member
  opencloud policy log

{EXIT_CODES}"))]
    Policy(policy::Verb),
    /// How much of this node its organisation's people may take: runs, core hours, spending, records
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud quota list
  opencloud quota set group:interns --runs 2 --cpu-hours 10 --per 7d
  opencloud quota remove group:interns

{EXIT_CODES}"))]
    Quota(quota::Verb),
    /// Link this realm with others: what is public in one is found from the other
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud up --gateway                     a node that speaks for its realm
  opencloud realm invite                     a ticket for another realm's gateway
  opencloud realm link TICKET                what the other gateway does with it
  opencloud realm show
  opencloud catalog list --everywhere        on any node of either realm

{EXIT_CODES}"))]
    Realm(realm::Verb),
    /// Look for data, programs and machines
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud catalog list
  opencloud catalog search 'kind = compute and cpu >= 4'
  opencloud catalog show compute/main

{EXIT_CODES}"))]
    Catalog(catalog::Verb),
    /// Store, publish and fetch files and directories
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud data add elevation.tif
  opencloud data get blake3:0f3a… --out elevation.tif
  opencloud data list

{EXIT_CODES}"))]
    Data(data::Verb),
    /// Keep images of containers and of disks; `docker push` and `skopeo copy` bring the former, too
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud image import debian.tar --name docker.io/library/debian:stable-slim
  opencloud image list
  opencloud image disk add debian-12.qcow2 --name debian-12

{EXIT_CODES}"))]
    Image(image::Verb),
    /// Collect resources, searches, notes and drafts of workflows to work with
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud workspace create floods --about 'the lower valley'
  opencloud workspace add floods data/dem compute/main
  opencloud workspace search floods big --filter 'kind = compute and cpu >= 4'
  opencloud workspace show floods

{EXIT_CODES}"))]
    Workspace(workspace::Verb),
    /// Share workspaces, workflows and services with other organisations under common rules
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud area create valley --about 'floods of the lower valley'
  opencloud area invite valley Bolt
  opencloud area share valley workspace floods
  opencloud area show valley

{EXIT_CODES}"))]
    Area(area::Verb),
    /// Check, draw and plan workflow documents
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud workflow validate workflow.yaml
  opencloud workflow plan workflow.yaml --input dem=valley.pgm

{EXIT_CODES}"))]
    Workflow(workflow::Verb),
    /// Run workflows
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud run submit workflow.yaml --wait
  opencloud run list
  opencloud run show 3f2a

{EXIT_CODES}"))]
    Run(run::Verb),
    /// Keep programs running: replicas on many nodes, probed and replaced
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud service deploy hello.yaml --wait
  opencloud service list
  opencloud service scale hello 4

{EXIT_CODES}"))]
    Service(service::Verb),
    /// Have a port of this machine lead to one that another node opens
    Tunnel(tunnel::Tunnel),
    /// List the ports of this machine that are open to peers
    Ports(tunnel::Ports),
    /// Who used what of whom, and what it costs
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud ledger show
  opencloud ledger export --out november.bundle
  opencloud ledger verify november.bundle

{EXIT_CODES}"))]
    Ledger(ledger::Verb),
    /// Say where the dashboard is, and how to sign in
    Dashboard(dashboard::Dashboard),
    /// Users of this node, and access tokens for their programs
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud user add ada --group staff
  opencloud user link ada                    a link that logs her in, once
  opencloud user token create ada --name nightly

{EXIT_CODES}"))]
    User(user::Verb),
    /// Providers of identities (OpenID Connect) whose people may log in here
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud provider add https://id.example.org --client-id opencloud --secret-file secret.txt
  opencloud provider list
  opencloud provider test id.example.org

{EXIT_CODES}"))]
    Provider(provider::Verb),
    /// Log this command line in at a provider, with a browser anywhere
    Login(login::Login),
    /// Forget the login of this command line
    Logout(login::Logout),
    /// Show who this command line is to the node
    Whoami(user::Whoami),
    /// List what was changed by this node's API, and by whom
    Audit(audit::Audit),
    /// Look for what is wrong with this node, and say what to do about it
    Doctor(doctor::Doctor),
    /// Run three organisations on this machine and let them work together
    Demo(demo::Demo),
}

/// What every verb has at hand.
#[derive(Debug)]
struct Context {
    home: Option<PathBuf>,
    out: Output,
}

impl Context {
    /// The node's directory.
    fn dir(&self) -> Result<PathBuf, CliError> {
        match &self.home {
            Some(dir) => Ok(dir.clone()),
            None => std::env::home_dir().map(|dir| dir.join(".opencloud")).ok_or(CliError::NoHome),
        }
    }

    fn open_home(&self) -> Result<Home, CliError> {
        Ok(Home::open(&self.dir()?)?)
    }

    /// The API of the home's node or, where there is none, of the one where the user has logged in.
    fn client(&self) -> Result<Client, CliError> {
        match self.open_home() {
            Err(CliError::NoNode { dir }) => login::client()?.ok_or(CliError::NoNode { dir }),
            home => Client::of(&home?),
        }
    }
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// The exit code after help, the version or what is wrong has been printed.
    pub fn read() -> Result<Self, u8> {
        Self::try_parse().map_err(|error| {
            if !error.use_stderr() {
                // A reader that has gone away is no error.
                let _ = error.print();
                return error::OK;
            }
            if wants_json(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())) {
                Output::new(Format::Json).error(&CliError::usage(first_paragraph(&error)));
            } else {
                let _ = error.print();
            }
            error::USAGE
        })
    }

    /// Begins to log, as it was asked for. What it returns is to be kept until the end.
    ///
    /// # Errors
    /// The exit code after what is wrong has been printed.
    pub fn log(&self) -> Result<Logging, u8> {
        let (format, otlp) = match &self.verb {
            Verb::Up(up) => (up.watching.log_format, up.watching.otlp.as_deref()),
            _ => (LogFormat::Text, None),
        };
        Logging::begin(self.global.verbose, format, otlp).map_err(|error| {
            Output::new(self.global.output).error(&error);
            error.exit_code()
        })
    }

    /// Does what was asked and returns the exit code. Errors have been printed.
    pub async fn run(self) -> u8 {
        let context = Context { home: self.global.home, out: Output::new(self.global.output) };
        match Box::pin(self.verb.run(&context)).await {
            Ok(code) => code,
            Err(error) => {
                context.out.error(&error);
                error.exit_code()
            }
        }
    }
}

/// Whether a command line that cannot be read asks for JSON all the same.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let mut args = args.take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--output=json" || arg == "--output" && args.next().is_some_and(|v| v == "json") {
            return true;
        }
    }
    false
}

/// What is wrong, without the usage that follows.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").map_or(text.clone(), str::to_owned)
}

impl Verb {
    async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Init(verb) => verb.run(context),
            Self::Org(verb) => verb.run(context).await,
            Self::Up(verb) => Box::pin(verb.run(context)).await,
            Self::Status(verb) => verb.run(context).await,
            Self::Invite(verb) => verb.run(context).await,
            Self::Join(verb) => verb.run(context).await,
            Self::Peers(verb) => verb.run(context).await,
            Self::Policy(verb) => verb.run(context).await,
            Self::Quota(verb) => verb.run(context).await,
            Self::Realm(verb) => verb.run(context).await,
            Self::Catalog(verb) => verb.run(context).await,
            Self::Data(verb) => Box::pin(verb.run(context)).await,
            Self::Workspace(verb) => verb.run(context).await,
            Self::Area(verb) => Box::pin(verb.run(context)).await,
            Self::Image(verb) => Box::pin(verb.run(context)).await,
            Self::Workflow(verb) => Box::pin(verb.run(context)).await,
            Self::Run(verb) => Box::pin(verb.run(context)).await,
            Self::Service(verb) => Box::pin(verb.run(context)).await,
            Self::Tunnel(verb) => Box::pin(verb.run(context)).await,
            Self::Ports(verb) => verb.run(context).await,
            Self::Ledger(verb) => Box::pin(verb.run(context)).await,
            Self::Dashboard(verb) => verb.run(context),
            Self::User(verb) => Box::pin(verb.run(context)).await,
            Self::Provider(verb) => Box::pin(verb.run(context)).await,
            Self::Login(verb) => Box::pin(verb.run(context)).await,
            Self::Logout(verb) => verb.run(context).await,
            Self::Whoami(verb) => verb.run(context).await,
            Self::Audit(verb) => verb.run(context),
            Self::Doctor(verb) => Box::pin(verb.run(context)).await,
            Self::Demo(verb) => Box::pin(verb.run(context)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_seen_in_a_command_line_that_cannot_be_read() {
        let wants = |line: &str| wants_json(line.split(' ').map(str::to_owned));
        assert!(wants("opencloud --output json frob"));
        assert!(wants("opencloud run frob --output=json"));
        for line in ["opencloud frob", "opencloud --output table", "opencloud x -- --output json"] {
            assert!(!wants(line), "{line}");
        }
    }
}
