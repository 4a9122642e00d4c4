//! Services of WebAssembly: components that answer HTTP requests (`wasi:http/incoming-handler`).
//!
//! Nothing listens anywhere. [`Entrance::connect`] makes two ends in memory: one for the tunnel or probe that wants in, one for
//! an HTTP/1.1 server on the replica's own thread. Whatever the port, it leads to the component.
//!
//! Each request has an instance of its own, made for it and gone after it, so that what is to last lies in the replica's
//! directories. Memory is counted over all instances together, and so are disk and processor time. An instance that fails
//! answers 500, says why on standard error, and ends alone.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections, further ones are refused once [`WAITING_MAX`] wait; [`REQUESTS_MAX`] requests at a
//! time, further ones wait on their connections; [`HEAD_TIMEOUT`] for a request's head.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::DuplexStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use wasmtime::component::Resource;
use wasmtime::{Result as WasmResult, Store};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, WasiHttpView as _};

use super::WasiTask;
use super::gauge::Gauge;
use super::guest::{self, Guest};
use super::module::Loaded;
use crate::runtime::{DoorError, Exit, HostFault, Stream, bounded};

/// Connections of one replica at a time; further ones wait.
const CONNECTIONS_MAX: usize = 256;
/// Connections that may wait for others to end; further ones are refused.
const WAITING_MAX: usize = 256;
/// Requests of one replica that are answered at a time; further ones wait.
const REQUESTS_MAX: usize = 64;
/// How long a client may take for the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head; a longer one is refused with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes that each direction of a connection holds.
const BUFFER_BYTES: usize = 64 << 10;

/// The way in to a replica.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Entrance(mpsc::Sender<DuplexStream>);

impl Entrance {
    /// Connects to the replica.
    ///
    /// # Errors
    /// When it has ended, or has as many connections as it takes.
    pub(in crate::runtime) fn connect(&self) -> Result<DuplexStream, DoorError> {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        match self.0.try_send(far) {
            Ok(()) => Ok(near),
            Err(mpsc::error::TrySendError::Full(_)) => Err(DoorError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(DoorError::Ended),
        }
    }
}

/// An entrance, and where its connections come out.
pub(super) fn entrance() -> (Entrance, mpsc::Receiver<DuplexStream>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Entrance(sender), receiver)
}

/// Requests that a guest would send: none. Connections are the guest's own affair, where it has been granted a network.
pub(super) struct NoRequests;

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

/// Answers the requests to one replica.
pub(super) struct Server {
    pre: ProxyPre<Guest>,
    loaded: Arc<Loaded>,
    task: WasiTask,
    gauge: Arc<Gauge>,
    requests: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(
        pre: ProxyPre<Guest>,
        loaded: Arc<Loaded>,
        task: WasiTask,
        gauge: Arc<Gauge>,
    ) -> Arc<Self> {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        Arc::new(Self { pre, loaded, task, gauge, requests })
    }

    fn store(&self) -> Result<Store<Guest>, HostFault> {
        guest::store(&self.task, &self.loaded, &self.gauge)
    }

    /// Makes one instance to see that it can be made, and drops it.
    pub(super) async fn try_once(&self) -> Result<(), Exit> {
        let mut store = self.store().map_err(Exit::Host)?;
        let begun = Instant::now();
        let made = self.pre.instantiate_async(&mut store).await;
        if made.is_err() && store.data().is_memory_denied() {
            return Err(Exit::OutOfMemory);
        }
        made.map_err(|error| guest::not_started(&error))?;
        self.gauge.note_started(begun.elapsed());
        Ok(())
    }

    /// Serves every connection that comes. Dropped, it ends them all.
    pub(super) async fn accept(self: Arc<Self>, mut connections: mpsc::Receiver<DuplexStream>) {
        let mut served = JoinSet::new();
        loop {
            while served.len() >= CONNECTIONS_MAX {
                served.join_next().await;
            }
            tokio::select! {
                connection = connections.recv() => match connection {
                    Some(connection) => {
                        served.spawn(Arc::clone(&self).converse(connection));
                    }
                    // Nobody can come in any more, but those who are in stay.
                    None if served.is_empty() => return,
                    None => drop(served.join_next().await),
                },
                Some(_) = served.join_next() => {}
            }
        }
    }

    async fn converse(self: Arc<Self>, connection: DuplexStream) {
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(connection), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to a replica ended early");
        }
    }

    /// Has an instance answer. What it still does after that goes on without the client.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<HyperOutgoingBody> {
        // Never closed.
        let permit = Arc::clone(&self.requests).acquire_owned().await.ok();
        let mut store = match self.store() {
            Ok(store) => store,
            Err(fault) => return self.failed(StatusCode::SERVICE_UNAVAILABLE, &fault.to_string()),
        };
        let (sender, told) = oneshot::channel();
        let mut http = store.data_mut().http();
        let parts = http
            .new_incoming_request(Scheme::Http, request)
            .and_then(|request| Ok((request, http.new_response_outparam(sender)?)));
        let Ok((request, out)) = parts else {
            return plain(StatusCode::BAD_REQUEST, "the request names no host\n");
        };
        let server = Arc::clone(&self);
        let running = tokio::spawn(async move {
            let ran = server.run(&mut store, request, out).await;
            guest::note_fuel(&mut store, &server.gauge);
            drop(permit);
            ran.map_err(|error| match store.data().is_memory_denied() {
                true => "needed more memory than the replica has".to_owned(),
                false => bounded(format!("{error:#}")),
            })
        });
        let ending = EndOnDrop(Some(running.abort_handle()));
        match told.await {
            Ok(Ok(response)) => {
                ending.let_go();
                response
            }
            Ok(Err(code)) => self.refused(&code),
            // It ended without an answer.
            Err(_) => {
                let why = match running.await {
                    Ok(Ok(())) => "ended without an answer".to_owned(),
                    Ok(Err(why)) => why,
                    Err(_) => HostFault::Died.to_string(),
                };
                self.failed(StatusCode::INTERNAL_SERVER_ERROR, &why)
            }
        }
    }

    async fn run(
        &self,
        store: &mut Store<Guest>,
        request: Resource<HostIncomingRequest>,
        out: Resource<HostResponseOutparam>,
    ) -> WasmResult<()> {
        let proxy = self.pre.instantiate_async(&mut *store).await?;
        proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
    }

    /// The component says that it cannot answer.
    fn refused(&self, code: &ErrorCode) -> Response<HyperOutgoingBody> {
        self.failed(StatusCode::INTERNAL_SERVER_ERROR, &bounded(code.to_string()))
    }

    fn failed(&self, status: StatusCode, why: &str) -> Response<HyperOutgoingBody> {
        let line = format!("opencloud: a request failed: {why}\n");
        self.gauge.add_stdio(line.len());
        self.task.base.logs.write(Stream::Stderr, line.as_bytes());
        plain(status, "the service failed at this request\n")
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Ends a request's instance when nobody waits for its answer any more.
struct EndOnDrop(Option<AbortHandle>);

impl EndOnDrop {
    /// It may go on by itself.
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}
