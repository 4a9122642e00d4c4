//! A run's events as server-sent events: what is stored, then what happens, until the run has ended.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::Stream;
use futures::stream::unfold;
use scheduler::run::{Event, EventBody};
use scheduler::task::RunId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::body::{Asked, named};
use super::openapi::{events, operation, query, run_id};
use super::problem::Problem;
use super::{Api, Route, runs};
use crate::shell::{Handle, Progress};

/// A comment goes out this often while nothing happens, so that both sides notice a dead connection.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "get",
        path: "/runs/{id}/events",
        handler: get(follow),
        doc: operation(
            "followRun",
            "The run's events from a sequence number on, live until the run has ended",
            &[run_id(), query("from", "integer", false)],
            &[events("`id` is the sequence number, `data` a JSON object {seq, at_ms, body}")],
        ),
    }]
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    from: Option<u64>,
}

/// One event as it stands in the stream.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Numbered {
    /// Its position in the run's log.
    pub seq: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

async fn follow(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(asked): Asked<From>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run: RunId = named(&id)?;
    // A browser that reconnects says which event it saw last.
    let seen = headers
        .get("last-event-id")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    let next = asked.from.or_else(|| seen.map(|seq| seq.saturating_add(1))).unwrap_or(0);
    let place = api.watcher()?;
    // Subscribed before reading, so that nothing falls between the stored events and the live ones.
    let live = api.handle.watch();
    let is_over = runs::view(&api, run).await?.summary.ended_ms.is_some();
    let stored = api.handle.run_events(run, next).await?;
    let following = Following {
        handle: api.handle.clone(),
        run,
        next,
        waiting: stored.into(),
        is_over,
        live,
        stopping: api.stopping.clone(),
        _place: place,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(following.into_stream()).keep_alive(keep_alive).into_response())
}

struct Following {
    handle: Handle,
    run: RunId,
    /// The sequence number that goes out next; earlier ones are repetitions.
    next: u64,
    waiting: VecDeque<(u64, Event)>,
    /// Whether nothing comes after what waits.
    is_over: bool,
    live: Receiver<Progress>,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Following {
    fn into_stream(self) -> impl Stream<Item = Result<SseEvent, Infallible>> {
        unfold(self, |mut following| async move {
            let event = following.next().await?;
            Some((Ok(event), following))
        })
    }

    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            while let Some((seq, event)) = self.waiting.pop_front() {
                if seq >= self.next {
                    self.next = seq.saturating_add(1);
                    self.is_over |= matches!(event.body, EventBody::Finished { .. });
                    return Some(sse(seq, event));
                }
            }
            if self.is_over {
                return None;
            }
            let received = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stop| *stop) => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(Progress::Event { run, seq, event }) if run == self.run => {
                    if seq > self.next {
                        self.reload().await?;
                    } else {
                        self.waiting.push_back((seq, Event::clone(&event)));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.reload().await?,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Takes what was missed from the store. `None` ends the stream: the client comes back for the rest.
    async fn reload(&mut self) -> Option<()> {
        let stored = self.handle.run_events(self.run, self.next).await.ok()?;
        self.waiting.extend(stored);
        Some(())
    }
}

fn sse(seq: u64, event: Event) -> SseEvent {
    let numbered = Numbered { seq, event };
    let data = serde_json::to_string(&numbered).expect("an event is plain data");
    SseEvent::default().id(seq.to_string()).data(data)
}
