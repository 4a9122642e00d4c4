//! `opencloud service`.

mod connect;
mod deploy;
mod exec;
mod logs;
mod show;
mod wait;

use clap::{Args, Subcommand};
use serde_json::json;

pub(super) use self::connect::follow_port;
use self::wait::{Wanted, wait_for};
use super::error::{CANCELLED, CliError, OK};
use super::{Context, EXIT_CODES};
use crate::api::Deployed;
use crate::engine::services::ServiceView;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Deploy a service, or another revision of one
    #[command(after_help = format!("\
A service document says what every replica runs, its ports, how its health is probed
and how replicas are replaced:

  opencloud: service/v1
  name: hello
  run: {{container: {{image: image, args: [/bin/httpd, -f, -p, '8080']}}}}
  ports: {{http: 8080}}
  replicas: 2
  health: {{http: {{port: http, path: /healthz}}, every: 5s, failures: 3}}
  needs: {{cpu: 0.5, memory: 64MiB, disk: 64MiB}}
  access: realm

Only `opencloud`, `name`, `run` and `ports` have to be there. Deploying again under the
same name is a rolling update; one whose replicas do not get healthy stops by itself and
what ran before goes on. Each replica runs under an agreement of at most 24 hours (`term:`)
that is renewed in time. `access` is `owner`, `realm`, or a list of organisations.

`--wait` ends with 0 when all replicas are healthy; with another code when the update stopped, or
when a replica ended that `restart: {{policy: …}}` (always, on_failure, never) does not replace.

Replicas go where services are offered: `opencloud up --services`, with `--containers`
for those that are containers.

Examples:
  opencloud service deploy hello.yaml
  opencloud service deploy hello.yaml --name hello-test --wait
  opencloud service deploy hello.yaml --binding eu-only.yaml --strategy cost

{EXIT_CODES}"))]
    Deploy(deploy::Deploy),
    /// List all services
    #[command(after_help = format!("\
A service is running, rolling (an update goes on), degraded (replicas are missing),
stopped (its last update failed), idle (none is wanted), or removing.

Example:
  opencloud service list

{EXIT_CODES}"))]
    List,
    /// Show a service: its replicas, revisions and last events
    #[command(after_help = format!("\
A replica is waiting (for a node), placed (a node agreed), starting (no probe succeeded
yet), healthy, unhealthy, unreachable, draining (it gets no new connections), or ending.

Example:
  opencloud service show hello

{EXIT_CODES}"))]
    Show(Named),
    /// Want another number of replicas
    #[command(after_help = format!("\
Another number than before also starts replicas again that ended for good.

Examples:
  opencloud service scale hello 4 --wait
  opencloud service scale hello 0

{EXIT_CODES}"))]
    Scale {
        /// The service
        name: String,
        /// How many; 0 keeps the service and ends its replicas
        replicas: u32,
        /// Wait until so many are healthy, or cannot get so
        #[arg(long)]
        wait: bool,
    },
    /// Deploy another revision of a service that is there
    #[command(after_help = format!("\
As `deploy`, but never a new service, and whatever name the document has.

Example:
  opencloud service update hello hello-2.yaml --wait

{EXIT_CODES}"))]
    Update(deploy::Update),
    /// Want an earlier revision again
    #[command(after_help = format!("\
Examples:
  opencloud service rollback hello
  opencloud service rollback hello --to 3

{EXIT_CODES}"))]
    Rollback {
        /// The service
        name: String,
        /// The revision [default: the one before]
        #[arg(long, value_name = "N")]
        to: Option<u32>,
        /// Wait until all replicas are of it and healthy, or cannot get so
        #[arg(long)]
        wait: bool,
    },
    /// Print what replicas wrote
    #[command(after_help = format!("\
Of each replica the newest MiB of each stream is kept (less of many small pieces), for an
hour at least after its end. It is said how many bytes are not kept: what is older, and what a
replica wrote faster than it could travel, 64 KiB a second in the long run.

Examples:
  opencloud service logs hello
  opencloud service logs hello --since 10m --tail 100
  opencloud service logs hello --replica 3f2a --stream stderr --follow --tail 0

{EXIT_CODES}"))]
    Logs(logs::Logs),
    /// Listen on a port of this machine whose connections go to the service
    #[command(after_help = format!("\
The service may run from this node or be one of the catalogue that this node may reach.
Connections are spread over its healthy replicas, by tunnels of the nodes: near ones get more,
by the round trips that this node measures. The port is on
127.0.0.1, for every program of this machine, until the command ends.

Examples:
  opencloud service connect hello
  opencloud service connect hello --port http:8080

{EXIT_CODES}"))]
    Connect(connect::Connect),
    /// Run a command inside a replica
    #[command(after_help = "\
As `opencloud run exec`, see there, for a replica of a service that runs from this node.

Examples:
  opencloud service exec hello -- ps
  opencloud service exec hello/3f2a --tty -- sh

The exit code is the command's: 127 and 126 when there is no such program, or it cannot be
executed; 125 when there is no session, or it was cut; 64 wrong command line, 130 cancelled.")]
    Exec(exec::Exec),
    /// End every replica and forget the service
    #[command(after_help = format!("Example:\n  opencloud service remove hello\n\n{EXIT_CODES}"))]
    Remove(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The service
    name: String,
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Deploy(verb) => Box::pin(verb.run(context)).await,
            Self::List => show::list(context).await,
            Self::Show(Named { name }) => show::show(context, &name).await,
            Self::Scale { name, replicas, wait } => {
                let body = json!({"replicas": replicas});
                let client = context.client()?;
                client.tell(&format!("{}/scale", path(&name)), &body).await?;
                if wait {
                    let view: ServiceView = client.get(&path(&name), &[]).await?;
                    if !Box::pin(wait_for(&client, &Wanted::number(&view, replicas))).await? {
                        return Ok(CANCELLED);
                    }
                }
                let text = format!("{replicas} replicas of {name} are wanted");
                told(context, &json!({"name": name, "replicas": replicas}), &text)
            }
            Self::Update(verb) => Box::pin(verb.run(context)).await,
            Self::Rollback { name, to, wait } => {
                let body = json!({"revision": to});
                let client = context.client()?;
                let done: Deployed =
                    client.post(&format!("{}/rollback", path(&name)), &body).await?;
                if wait && !Box::pin(wait_for(&client, &Wanted::update(&done))).await? {
                    return Ok(CANCELLED);
                }
                let text = format!("revision {} of {name} is wanted again", done.revision);
                told(context, &json!(done), &text)
            }
            Self::Logs(verb) => Box::pin(verb.run(context)).await,
            Self::Connect(verb) => Box::pin(verb.run(context)).await,
            Self::Exec(verb) => Box::pin(verb.run(context)).await,
            Self::Remove(Named { name }) => {
                context.client()?.delete(&path(&name), &[]).await?;
                told(context, &json!({"name": name}), &format!("{name} is being removed"))
            }
        }
    }
}

/// Where a service is in the API. What cannot be a name is no other address for that.
fn path(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let mut path = "/services/".to_owned();
    for byte in name.bytes() {
        match byte {
            byte if is_plain(byte) => path.push(char::from(byte)),
            byte => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

fn told(context: &Context, json: &serde_json::Value, text: &str) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(json);
    } else {
        context.out.line(text);
    }
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_an_address() {
        assert_eq!(path("web-1"), "/services/web-1");
        assert_eq!(path("../runs?x"), "/services/%2E%2E%2Fruns%3Fx");
    }
}
