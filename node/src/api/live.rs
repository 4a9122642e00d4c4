//! The node and its peers as server-sent events: whoever shows them need not ask again and again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream::unfold;

use super::events::HEARTBEAT;
use super::mesh;
use super::openapi::{events, operation};
use super::problem::Problem;
use super::reach::{PeerAnswer, StatusAnswer};
use super::{Api, Route};

/// How often the node is looked at for whoever follows it. What is still the same is not told again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "get",
        path: "/mesh/events",
        handler: get(follow),
        doc: operation(
            "followMesh",
            "This node and its peers, again whenever something about them changes",
            &[],
            &[events(
                "`data` is a JSON object {status, peers}, as `GET /status` and `GET /peers` answer",
            )],
        ),
    }]
}

/// What stands in one event.
#[derive(serde::Serialize)]
struct Seen {
    status: StatusAnswer,
    peers: Vec<PeerAnswer>,
}

async fn look(api: &Api) -> Result<String, Problem> {
    let seen = Seen { status: mesh::seen(api).await?, peers: mesh::peers_seen(api).await? };
    Ok(serde_json::to_string(&seen).expect("a view is plain data"))
}

async fn follow(State(api): State<Api>) -> Result<Response, Problem> {
    let place = api.watcher()?;
    let first = look(&api).await?;
    let stopping = api.stopping.clone();
    let stream = unfold((None::<String>, Some(first)), move |(mut told, mut waiting)| {
        let (api, mut stopping) = (api.clone(), stopping.clone());
        let kept = &place;
        let _place = kept;
        async move {
            loop {
                if let Some(seen) = waiting.take().filter(|seen| told.as_ref() != Some(seen)) {
                    told = Some(seen.clone());
                    return Some((Ok::<_, Infallible>(Event::default().data(seen)), (told, None)));
                }
                tokio::select! {
                    _ = stopping.wait_for(|stop| *stop) => return None,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                // A node that does not answer is stopping, or its disk is full: the reader comes back.
                waiting = Some(look(&api).await.ok()?);
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}
