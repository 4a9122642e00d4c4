//! What a task wrote: as plain text, or as server-sent events until its attempt has ended. What was written and is not kept is
//! counted: for the text in the header [`DROPPED`], in events where it is missing.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::Stream as Futures;
use futures::stream::unfold;
use scheduler::negotiate::Stream;
use scheduler::run::EventBody;
use scheduler::task::{AttemptId, RunId, TaskId};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::body::{Asked, named};
use super::events::HEARTBEAT;
use super::openapi::{operation, query, run_id, text_or_events};
use super::problem::{Code, Problem};
use super::{Api, Route, runs};
use crate::engine::command::RunView;
use crate::shell::{Handle, Kept, Progress};

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "get",
        path: "/runs/{id}/logs",
        handler: get(logs),
        doc: operation(
            "readLog",
            "What one attempt of a task wrote; the newest attempt when none is named",
            &[
                run_id(),
                query("step", "string", true),
                query("index", "integer", false),
                query("attempt", "integer", false),
                query("stream", "string", false),
                query("follow", "boolean", false),
                query("tail", "integer", false),
            ],
            &[text_or_events()],
        ),
    }]
}

/// The header that says how many bytes of what is asked for were written and are not kept.
pub(crate) const DROPPED: &str = "opencloud-log-dropped";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    step: String,
    #[serde(default)]
    index: u32,
    attempt: Option<u32>,
    stream: Option<Named>,
    #[serde(default)]
    follow: bool,
    /// So many last lines alone.
    tail: Option<u64>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Named {
    Stdout,
    Stderr,
}

impl From<Named> for Stream {
    fn from(named: Named) -> Self {
        match named {
            Named::Stdout => Self::Stdout,
            Named::Stderr => Self::Stderr,
        }
    }
}

/// A piece of a log as it stands in the stream.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Piece {
    /// Position of its first byte in the log.
    pub offset: u64,
    /// Bytes right before it that were written and are not kept.
    #[serde(default)]
    pub dropped: u64,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(asked): Asked<Query>,
) -> Result<Response, Problem> {
    let run: RunId = named(&id)?;
    let stream = asked.stream.map_or(Stream::Stdout, Stream::from);
    let live = api.handle.watch();
    let view = runs::view(&api, run).await?;
    let (attempt, has_ended) = find(&view, &asked)?;
    let stored = api.handle.run_log(attempt, stream).await?;
    let stored = match asked.tail {
        Some(lines) => stored.tail(lines),
        None => stored,
    };
    if !asked.follow {
        return Ok(plain(&stored));
    }
    follow(&api, (attempt, stream), (stored, has_ended), live)
}

/// What is stored as plain text.
pub(super) fn plain(stored: &Kept) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let dropped = HeaderValue::from(stored.dropped());
    let headers = [(header::CONTENT_TYPE, kind), (HeaderName::from_static(DROPPED), dropped)];
    (headers, stored.text()).into_response()
}

/// What is stored of an attempt's log, then what comes, until the attempt has ended. News are those since before the log was
/// read.
pub(super) fn follow(
    api: &Api,
    (attempt, stream): (AttemptId, Stream),
    (stored, has_ended): (Kept, bool),
    live: Receiver<Progress>,
) -> Result<Response, Problem> {
    let following = Following {
        handle: api.handle.clone(),
        attempt,
        stream,
        next: stored.start,
        waiting: waiting(stored),
        has_ended,
        live,
        stopping: api.stopping.clone(),
        _place: api.watcher()?,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(following.into_stream()).keep_alive(keep_alive).into_response())
}

/// What is stored, piece by piece; an empty one at the end tells that more was written.
fn waiting(stored: Kept) -> VecDeque<(u64, Vec<u8>)> {
    let end = (stored.end, Vec::new());
    stored.pieces.into_iter().map(|piece| (piece.offset, piece.bytes)).chain([end]).collect()
}

/// The attempt asked for, and whether it has ended.
fn find(view: &RunView, asked: &Query) -> Result<(AttemptId, bool), Problem> {
    let none = |detail: String| Problem::new(Code::NoTask, detail);
    let run = view.summary.id;
    let Some(step) = view.steps.iter().position(|step| step.step == asked.step) else {
        let known: Vec<&str> = view.steps.iter().map(|step| step.step.as_str()).collect();
        return Err(none(format!(
            "{run} has no step `{}`; its steps are {}",
            asked.step,
            known.join(", ")
        )));
    };
    let mut tries = view
        .tasks
        .iter()
        .filter(|task| task.step == asked.step && task.index == asked.index && task.attempt > 0);
    let found = match asked.attempt {
        Some(number) => tries.rfind(|task| task.attempt == number),
        None => tries.max_by_key(|task| task.attempt),
    };
    let Some(found) = found else {
        let which =
            asked.attempt.map_or("no attempt yet".to_owned(), |n| format!("no attempt {n}"));
        return Err(none(format!("{}[{}] of {run} has {which}", asked.step, asked.index)));
    };
    // A run has at most 10,000 steps.
    let step = u32::try_from(step).unwrap_or(u32::MAX);
    let task = TaskId { step, index: asked.index };
    Ok((AttemptId { run, task, number: found.attempt }, found.ended_ms.is_some()))
}

struct Following {
    handle: Handle,
    attempt: AttemptId,
    stream: Stream,
    /// The position behind the last byte that went out.
    next: u64,
    waiting: VecDeque<(u64, Vec<u8>)>,
    has_ended: bool,
    live: Receiver<Progress>,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Following {
    fn into_stream(self) -> impl Futures<Item = Result<SseEvent, Infallible>> {
        unfold(self, |mut following| async move {
            let piece = following.next().await?;
            let data = serde_json::to_string(&piece).expect("a piece of a log is plain data");
            Some((Ok(SseEvent::default().data(data)), following))
        })
    }

    async fn next(&mut self) -> Option<Piece> {
        loop {
            while let Some((offset, bytes)) = self.waiting.pop_front() {
                if let Some(piece) = self.take(offset, &bytes) {
                    return Some(piece);
                }
            }
            if self.has_ended {
                return None;
            }
            let received = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stop| *stop) => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(Progress::Log { attempt, stream, offset, bytes }) => {
                    if attempt == self.attempt && stream == self.stream {
                        self.waiting.push_back((offset, bytes.to_vec()));
                    }
                }
                Ok(Progress::Event { run, event, .. }) => {
                    if run == self.attempt.run && self.ends(&event.body) {
                        self.has_ended = true;
                        self.reload().await?;
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    self.reload().await?;
                    self.has_ended = self.is_over().await?;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What of a piece is new. What is missing before it was never kept, or came while nobody could be told.
    fn take(&mut self, offset: u64, bytes: &[u8]) -> Option<Piece> {
        let dropped = offset.saturating_sub(self.next);
        let known = usize::try_from(self.next.saturating_sub(offset)).ok()?;
        let fresh = bytes.get(known..)?;
        if fresh.is_empty() && dropped == 0 {
            return None;
        }
        let offset = offset.max(self.next);
        self.next = offset.saturating_add(fresh.len() as u64);
        Some(Piece { offset, dropped, text: String::from_utf8_lossy(fresh).into_owned() })
    }

    const fn ends(&self, body: &EventBody) -> bool {
        match body {
            EventBody::AttemptEnded { task, number, .. }
            | EventBody::TaskCommitted { task, number, .. } => {
                task.step == self.attempt.task.step
                    && task.index == self.attempt.task.index
                    && *number == self.attempt.number
            }
            EventBody::Finished { .. } => true,
            _ => false,
        }
    }

    async fn reload(&mut self) -> Option<()> {
        let stored = self.handle.run_log(self.attempt, self.stream).await.ok()?;
        self.waiting.extend(waiting(stored));
        Some(())
    }

    /// Whether the stored events say that the attempt has ended.
    async fn is_over(&self) -> Option<bool> {
        let stored = self.handle.run_events(self.attempt.run, 0).await.ok()?;
        // Of a replica that has ended nothing is stored any more.
        Some(stored.is_empty() || stored.iter().any(|(_, event)| self.ends(&event.body)))
    }
}
