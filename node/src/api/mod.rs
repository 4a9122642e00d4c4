//! The HTTP API of a node, `/api/v1`: what the command line and the owner's programs speak.
//!
//! It translates and decides nothing: a request becomes a [`Command`], the answer becomes
//! JSON, an error becomes a [`Problem`]. Every route needs the bearer token of the home, or what lets a user in (`caller`). The routes and their description
//! (`/api/v1/openapi.json`) come from one table, so neither can be without the other. Beside it stands the image registry
//! (`oci`), whose routes another specification describes, and the dashboard (`web`), which is no part of the API.

mod areas;
mod audit;
mod blobs;
mod body;
mod caller;
mod catalog;
mod certificate;
mod copies;
mod data;
mod disks;
mod docs;
mod documents;
mod etag;
mod events;
mod guard;
mod health;
mod idempotency;
mod images;
mod ledger;
mod limits;
mod linger;
mod listen;
mod live;
mod login;
mod logs;
mod mesh;
mod metrics;
mod named;
mod observe;
mod oci;
mod openapi;
mod orgs;
mod page;
mod policies;
mod ports;
mod problem;
mod providers;
mod quotas;
mod reach;
mod realms;
mod rights;
mod runs;
mod seen;
mod services;
mod sessions;
mod steer;
mod tls;
mod trust;
mod users;
mod web;
mod workspaces;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use scheduler::run::Submitter;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

pub(crate) use self::areas::{AreaVote, NewArea, ProposedRules, ShareInArea, SharedContent};
pub use self::audit::Audit;
pub(crate) use self::audit::{Entry as AuditEntry, read as read_audit};
pub(crate) use self::blobs::Stored;
pub(crate) use self::catalog::Published;
pub use self::certificate::{Tls, TlsError};
pub(crate) use self::certificate::{serve_none, served};
pub(crate) use self::copies::ToCopy;
pub(crate) use self::data::{Listed, Pinned, ToPin};
pub(crate) use self::disks::{AddDisk, ConvertDisk, SetDisk};
pub(crate) use self::events::Numbered;
use self::guard::Token;
pub use self::health::serve_metrics;
use self::idempotency::Answers;
pub(crate) use self::images::Tagged;
use self::limits::Limits;
pub(crate) use self::login::{PersonView, SessionView};
pub(crate) use self::logs::{DROPPED, Piece};
pub(crate) use self::mesh::{Invited, Joined, VALID_MS_MAX};
pub use self::metrics::Metrics;
pub(crate) use self::orgs::{Decide, Relate};
pub(crate) use self::policies::{
    PolicyList, PolicyQuestion, PolicySource, PolicyText, PolicyVerdict,
};
pub(crate) use self::ports::PortSeen;
use self::problem::Code;
pub use self::problem::Problem;
pub(crate) use self::problem::chain;
pub(crate) use self::providers::{
    DeviceAnswer, DeviceLogin, PollDevice, ProviderView, StartDevice, Tested,
};
pub(crate) use self::quotas::SetQuota;
pub(crate) use self::reach::{AddressView, PeerAnswer, ReachView, RenewalView, StatusAnswer};
pub(crate) use self::runs::Submitted;
pub(crate) use self::services::{Connected, Deployed, Traffic};
pub(crate) use self::steer::{Steered, TaskName};
pub(crate) use self::users::{
    LoginLink, MadeToken, NewToken, NewUser, SetUser, TokenView, UserView, Valid,
};
pub(crate) use self::workspaces::PutWorkspace;
use crate::engine::command::{Command, Response};
use crate::identity::{Caller, Identity};
use crate::shell::Handle;

/// Where every route begins.
pub const BASE: &str = "/api/v1";
/// Streams of events and logs open at once; further ones get the problem `too_many_watchers`.
const WATCHERS_MAX: usize = 64;

/// What every route has at hand.
#[derive(Clone)]
struct Api {
    handle: Handle,
    token: Token,
    identity: Arc<Identity>,
    /// Whether browsers come by TLS, so that cookies are kept from everything else.
    is_tls: bool,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    limits: Arc<Limits>,
    answers: Arc<Mutex<Answers>>,
    watchers: Arc<Semaphore>,
    /// Turns true when the server stops, so that open streams end.
    stopping: watch::Receiver<bool>,
}

impl Api {
    async fn ask(&self, command: Command) -> Result<Response, Problem> {
        Ok(self.handle.command(command).await?)
    }

    /// Has something done for whoever asks, for whom it counts.
    async fn ask_by(&self, caller: &Caller, command: Command) -> Result<Response, Problem> {
        match submitter(caller) {
            Some(by) => self.ask(Command::By { by, command: Box::new(command) }).await,
            None => self.ask(command).await,
        }
    }

    /// A place among the open streams.
    fn watcher(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            let detail = format!("{WATCHERS_MAX} streams are open, no more are allowed: close one");
            Problem::new(Code::TooManyWatchers, detail)
        })
    }
}

/// For whom something is done; for nobody, of the owner.
fn submitter(caller: &Caller) -> Option<Box<Submitter>> {
    let Caller::Person(person) = caller else { return None };
    Some(Box::new(Submitter {
        issuer: person.issuer.clone(),
        subject: person.subject.clone(),
        name: person.name.clone(),
        groups: person.groups.clone(),
    }))
}

/// An answer of another kind than the question asked for: a fault of this program, which must not look like data.
fn unexpected() -> Problem {
    Problem::new(Code::Storage, "the node gave an answer to another question: report this as a bug")
}

/// One method at one address, and its description.
struct Route {
    method: &'static str,
    /// Below [`BASE`].
    path: &'static str,
    /// Answers the method, and `HEAD` where it is said so.
    handler: MethodRouter<Api>,
    /// Its description.
    doc: openapi::Described,
}

fn routes() -> Vec<Route> {
    let parts =
        [mesh::routes(), catalog::routes(), runs::routes(), events::routes(), logs::routes()];
    let more = [
        blobs::routes(),
        data::routes(),
        copies::routes(),
        ports::routes(),
        images::routes(),
        disks::routes(),
        services::routes(),
    ];
    let more = more.into_iter().chain([
        sessions::routes(),
        steer::routes(),
        trust::routes(),
        orgs::routes(),
        realms::routes(),
        workspaces::routes(),
        areas::routes(),
        users::routes(),
        providers::routes(),
        login::routes(),
    ]);
    let rest = [
        ledger::routes(),
        documents::routes(),
        live::routes(),
        policies::routes(),
        quotas::routes(),
        openapi::routes(),
    ];
    parts.into_iter().chain(more).chain(rest).flatten().collect()
}

fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(&format!("{BASE}{}", route.path), route.handler);
    }
    router
        .fallback(|| async {
            Problem::new(Code::NoRoute, format!("see {BASE}/openapi.json for all routes"))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                Code::Method,
                format!("see {BASE}/openapi.json for the methods of each route"),
            )
        })
        .layer(axum::middleware::from_fn_with_state(api.clone(), seen::filtered))
        .layer(axum::middleware::from_fn(etag::tag))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api.audit), audit::audit))
        .layer(axum::middleware::from_fn_with_state(api.clone(), rights::decided))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api.limits), limits::admitted))
        .layer(axum::middleware::from_fn_with_state(api.clone(), guard::guard))
        .with_state(api.clone())
        .merge(web::router())
        .merge(oci::router(api.clone()))
        .merge(health::router(api.clone()))
        .merge(docs::router())
        .layer(axum::middleware::from_fn_with_state(api.metrics, observe::observe))
        .layer(axum::middleware::from_fn(linger::linger))
}

/// What the server is given beside the node.
#[derive(Debug)]
pub struct Setup {
    /// The bearer token of the home.
    pub token: String,
    /// The users of this node and who of them is logged in.
    pub identity: Arc<Identity>,
    /// Counts the requests.
    pub metrics: Arc<Metrics>,
    /// Where changes are written down.
    pub audit: Arc<Audit>,
    /// Where the API is served over TLS, too.
    pub tls: Option<(TcpListener, Tls)>,
}

/// Serves the API on `listener` until `shutdown` is ready, and then until the requests at work have ended; streams of events
/// and logs are ended at once.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    handle: Handle,
    listener: TcpListener,
    setup: Setup,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let api = Api {
        handle,
        token: Token::new(&setup.token),
        identity: setup.identity,
        is_tls: false,
        metrics: setup.metrics,
        audit: setup.audit,
        limits: Arc::default(),
        answers: Arc::default(),
        watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        stopping,
    };
    // An upload of an image goes on at the address where it began.
    let secure = Api { is_tls: true, ..api.clone() };
    let encrypted = match setup.tls {
        Some((listener, tls)) => {
            let listener = tls::Encrypting::new(listener, tls).map_err(std::io::Error::other)?;
            Some((listener, router(secure)))
        }
        None => None,
    };
    let app = router(api);
    let mut stopped = stop.subscribe();
    let plain = async {
        let service = app.into_make_service_with_connect_info::<health::Remote>();
        let served = axum::serve(listen::Limited::new(listener), service);
        served
            .with_graceful_shutdown(async move {
                shutdown.await;
                // Nobody listens when no stream is open.
                let _ = stop.send(true);
            })
            .await
    };
    let encrypted = async {
        let Some((listener, app)) = encrypted else { return Ok(()) };
        let app = app.layer(axum::Extension(tls::Encrypted));
        let service = app.into_make_service_with_connect_info::<health::Remote>();
        let until = async move { drop(stopped.wait_for(|stop| *stop).await) };
        axum::serve(listener, service).with_graceful_shutdown(until).await
    };
    tokio::try_join!(plain, encrypted).map(drop)
}
