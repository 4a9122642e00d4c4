//! Ports that this node opens to peers, and ports of this machine that lead to those of others.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use catalog::NodeId;

use super::body::{Asked, named};
use super::openapi::{events, lists, operation, query};
use super::problem::Problem;
use super::services::told;
use super::{Api, Connected, Route, unexpected};
use crate::engine::command::{Command as EngineCommand, Response as Told};
use crate::engine::ports::{Answer, Command, PortView};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/ports",
            handler: get(list),
            doc: operation(
                "listPorts",
                "The ports of this machine that its owner opens to peers, and what went through them",
                &[],
                &[lists::<PortSeen>("Ports")],
            ),
        },
        Route {
            method: "get",
            path: "/tunnel",
            handler: get(tunnel),
            doc: operation(
                "forwardPort",
                "Have a port of this machine lead to one that the owner of another node opens by name; `local` is its number, 0 for any that is free",
                &[
                    query("node", "string", true),
                    query("name", "string", true),
                    query("local", "integer", false),
                ],
                &[events(
                    "the first `data` is {local, port}, later ones are {open, taken, failed, sent, received, trouble}; the port lives as long as somebody reads",
                )],
            ),
        },
    ]
}

/// A port that is open to peers, and what went through it since the node started.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Port)]
pub(crate) struct PortSeen {
    /// It.
    #[serde(flatten)]
    pub port: PortView,
    /// Tunnels that were opened to it.
    pub opened: u64,
    /// Bytes that came by them.
    pub received: u64,
    /// Bytes that went.
    pub sent: u64,
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<PortSeen>>, Problem> {
    let Told::Port(Answer::List(ports)) = api.ask(EngineCommand::Port(Command::List)).await? else {
        return Err(unexpected());
    };
    let seen = |port: PortView| {
        let (opened, received, sent) = api.handle.port_seen(&port.name);
        PortSeen { port, opened, received, sent }
    };
    Ok(Json(ports.into_iter().map(seen).collect()))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunnel {
    node: String,
    name: String,
    local: Option<u16>,
}

async fn tunnel(State(api): State<Api>, Asked(asked): Asked<Tunnel>) -> Result<Response, Problem> {
    let node: NodeId = named(&asked.node)?;
    let place = api.watcher()?;
    let forward = api.handle.forward_port(node, &asked.name, asked.local.unwrap_or(0)).await?;
    let connected = Connected { local: forward.local_addr(), port: asked.name };
    Ok(told(&api, place, forward, &connected))
}
