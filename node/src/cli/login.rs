//! `opencloud login`: this command line acts for a person who logs in at a provider, with a browser anywhere.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Client;
use super::error::{CliError, OK};
use super::output::note;
use super::units::time;
use super::{Context, EXIT_CODES};
use crate::api::{DeviceAnswer, DeviceLogin, PollDevice, SessionView, StartDevice};

/// Shortest pause between two questions whether the login is finished, whatever the node says.
const PAUSE_MIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = format!("\
Shows an address and a code. Open the address with a browser, on this machine or any
other, enter the code, and log in: then this command line acts for you wherever it has
no node of its own (--home), until `opencloud logout` or seven days have passed.

Examples:
  opencloud login
  opencloud login --node 127.0.0.1:4700 --provider work

{EXIT_CODES}"))]
pub(super) struct Login {
    /// The provider, where several are connected
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The address of the node's API [default: that of the node in --home]
    #[arg(long, value_name = "ADDR")]
    node: Option<SocketAddr>,
}

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud logout\n\n{EXIT_CODES}"))]
pub(super) struct Logout {}

/// What is kept of a login, readable by its user only.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    node: SocketAddr,
    token: String,
    expires_ms: u64,
}

/// `login.json` in the user's own directory of configuration.
fn file() -> Result<PathBuf, CliError> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let dir = config.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    Ok(dir.ok_or(CliError::NoHome)?.join("opencloud").join("login.json"))
}

fn read() -> Result<Option<Kept>, CliError> {
    let path = file()?;
    match std::fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(path)(error)),
    }
}

/// The API of the node where this user has logged in, if it has.
pub(super) fn client() -> Result<Option<Client>, CliError> {
    read()?.map(|kept| Client::at(kept.node, kept.token)).transpose()
}

fn write(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temp = path.with_extension("new");
    // A leftover of an interrupted login.
    drop(std::fs::remove_file(&temp));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&temp)?;
    file.write_all(&serde_json::to_vec(kept).expect("a login is plain data"))?;
    file.sync_all()?;
    std::fs::rename(&temp, path)
}

impl Login {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let node = match self.node {
            Some(node) => node,
            None => context.open_home()?.api_address()?,
        };
        // Nobody has logged in yet: what begins a login needs no token.
        let client = Client::at(node, String::new())?;
        let begin = StartDevice { provider: self.provider.clone() };
        let login: DeviceLogin = client.post("/login/device", &begin).await?;
        if context.out.is_json() {
            let url = login.url_with_code.as_ref();
            context.out.json_line(
                &json!({"url": login.url, "code": login.user_code, "url_with_code": url}),
            );
        } else {
            note(&format!("open {} and enter the code {}", login.url, login.user_code));
            if let Some(url) = &login.url_with_code {
                note(&format!("or open {url}"));
            }
        }
        let poll = PollDevice { id: login.id };
        let mut wait = login.wait_ms;
        let (token, expires_ms) = loop {
            tokio::time::sleep(Duration::from_millis(wait).max(PAUSE_MIN)).await;
            let answer: DeviceAnswer = client.post("/login/device/state", &poll).await?;
            match (answer.secret, answer.expires_ms) {
                (Some(secret), Some(expires_ms)) => break (secret, expires_ms),
                _ => wait = answer.wait_ms.unwrap_or(wait),
            }
        };
        let session: SessionView = Client::at(node, token.clone())?.get("/session", &[]).await?;
        let path = file()?;
        write(&path, &Kept { node, token, expires_ms }).map_err(CliError::io(&path))?;
        let name = session.person.map_or_else(|| "owner".to_owned(), |person| person.name);
        if context.out.is_json() {
            context.out.json_line(&json!({"logged_in": name, "expires_ms": expires_ms}));
        } else {
            context.out.line(&format!("logged in as {name} until {}", time(expires_ms)));
        }
        Ok(OK)
    }
}

impl Logout {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let Some(client) = client()? else {
            note("nobody is logged in");
            return Ok(OK);
        };
        // The token goes from here in any case; where the node cannot be asked, it ends by itself.
        let ended = client.delete("/session", &[]).await;
        let path = file()?;
        std::fs::remove_file(&path).map_err(CliError::io(path))?;
        if let Err(error) = ended {
            note(&format!("the node was not told: {}", error.message()));
        }
        if context.out.is_json() {
            context.out.json(&json!({"logged_out": true}));
        }
        Ok(OK)
    }
}
