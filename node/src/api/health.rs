//! What watchers of the process ask: whether it lives, whether it can work, what is counted.
//!
//! `/healthz` and `/readyz` are for anybody on this machine, and elsewhere for whoever has the token; `/metrics` needs the token, except
//! at the address that `up --metrics` gives it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use super::listen::Limited;
use super::metrics::{CONTENT_TYPE, Metrics};
use super::problem::{Code, Problem};
use super::{Api, guard};
use crate::engine::command::Command;
use crate::shell::Handle;

/// How long the engine may take before the node counts as not ready.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Limited>> for Remote {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Where the request comes from, as far as it is known.
pub(super) fn remote(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<Remote>>().map(|info| info.0.0)
}

/// The part of the server that watchers of the process ask.
pub(super) fn router(api: Api) -> Router {
    let open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .layer(axum::middleware::from_fn_with_state(api.clone(), local_or_guarded));
    let counted = Router::new()
        .route("/metrics", get(metrics))
        .layer(axum::middleware::from_fn_with_state(api.clone(), guard::guard));
    open.merge(counted).with_state(api)
}

/// Lets this machine pass, and everybody else with the token.
async fn local_or_guarded(state: State<Api>, request: Request, next: Next) -> HttpResponse {
    let is_local = remote(&request).is_some_and(|address| address.ip().is_loopback());
    match guard::check_host(&request) {
        Err(problem) => problem.into_response(),
        Ok(()) if is_local => next.run(request).await,
        Ok(()) => guard::guard(state, request, next).await,
    }
}

async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    is_ready(&api.handle).await
}

/// Whether the store takes writes and the engine answers.
async fn is_ready(handle: &Handle) -> Result<&'static str, Problem> {
    match tokio::time::timeout(READY_TIMEOUT, handle.command(Command::Status)).await {
        Ok(Ok(_)) => Ok("ready\n"),
        Ok(Err(error)) => Err(Problem::of(Code::NotReady, &error)),
        Err(_) => {
            let detail = format!("the engine gave no answer within {} s", READY_TIMEOUT.as_secs());
            Err(Problem::new(Code::NotReady, detail))
        }
    }
}

async fn metrics(State(api): State<Api>) -> HttpResponse {
    text(&api.metrics).await
}

async fn text(metrics: &Metrics) -> HttpResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text().await).into_response()
}

/// Serves `/metrics`, `/healthz` and `/readyz` alone, to whoever reaches the listener, until `shutdown` is ready.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_metrics(
    metrics: Arc<Metrics>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router =
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route(
                "/readyz",
                get(|State(metrics): State<Arc<Metrics>>| async move {
                    is_ready(metrics.handle()).await
                }),
            )
            .route(
                "/metrics",
                get(|State(metrics): State<Arc<Metrics>>| async move { text(&metrics).await }),
            )
            .with_state(metrics);
    axum::serve(Limited::new(listener), router).with_graceful_shutdown(shutdown).await
}
