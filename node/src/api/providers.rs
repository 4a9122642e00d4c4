//! Providers of identities, and logins at them.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};

use super::body::{Asked, bytes, json};
use super::caller::{cookie, set_cookie};
use super::login::{logged_in, open};
use super::openapi::{answers, lists, named_part, no_body, operation, query, reads, web_page};
use super::problem::{Code, Problem};
use super::{Api, BASE, Route};
use crate::identity::{
    Back, DeviceState, LOGIN_MS, LoginError, Provider, ProviderError, RemoteError, Rule,
};
use crate::schema;
use crate::shell::org::now_ms;

/// Longest form in bytes that a provider may send; a longer one is refused.
const FORM_LEN_MAX: usize = 32 << 10;

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    let name = || [named_part("name", "What the provider is called here")];
    let mut all = vec![
        route(
            "get",
            "/providers",
            get(list),
            operation(
                "providers",
                "Connected providers of identities",
                &[],
                &[lists::<ProviderView>("Providers")],
            ),
        ),
        route(
            "post",
            "/providers",
            post(add),
            reads::<Provider>(operation(
                "addProvider",
                "Connect a provider",
                &[],
                &[answers::<ProviderView>(201)],
            )),
        ),
        route(
            "delete",
            "/providers/{name}",
            delete(remove),
            operation(
                "removeProvider",
                "Disconnect a provider",
                &name(),
                &[no_body(204, "It is gone")],
            ),
        ),
        route(
            "post",
            "/providers/{name}/test",
            post(test),
            operation(
                "testProvider",
                "Ask a provider what it offers",
                &name(),
                &[answers::<Tested>(200)],
            ),
        ),
    ];
    all.push(route(
        "post",
        "/providers/test",
        post(test_new),
        reads::<Provider>(operation(
            "testNewProvider",
            "Ask a provider that is not connected what it offers; nothing is kept",
            &[],
            &[answers::<Tested>(200)],
        )),
    ));
    all.extend(logins());
    all
}

fn logins() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc: open(doc) };
    let back = ["code", "iss", "error"].map(|name| query(name, "string", false));
    let back = back.into_iter().chain([query("state", "string", true)]).collect::<Vec<_>>();
    let name = [named_part("name", "What the provider is called here")];
    vec![
        route(
            "get",
            "/login/providers",
            get(choices),
            operation(
                "loginProviders",
                "Where one may log in",
                &[],
                &[lists::<Choice>("LoginProviders")],
            ),
        ),
        route(
            "get",
            "/login/start",
            get(start),
            operation(
                "startLogin",
                "Go to a provider to log in",
                &[query("provider", "string", false)],
                &[no_body(303, "On to the provider")],
            ),
        ),
        route(
            "get",
            "/login/callback",
            get(callback),
            operation("finishLogin", "Come back from a provider", &back, &[web_page()]),
        ),
        route(
            "post",
            "/login/device",
            post(start_device),
            reads::<StartDevice>(operation(
                "startDevice",
                "Log a device in",
                &[],
                &[answers::<DeviceLogin>(201)],
            )),
        ),
        route(
            "post",
            "/login/device/state",
            post(poll_device),
            reads::<PollDevice>(operation(
                "pollDevice",
                "Whether a device is logged in",
                &[],
                &[answers::<DeviceAnswer>(200)],
            )),
        ),
        route(
            "post",
            "/login/out/{name}",
            post(logged_out),
            operation(
                "loggedOut",
                "A provider's word that somebody has logged out there (back-channel logout)",
                &name,
                &[no_body(200, "The sessions have ended")],
            ),
        ),
    ]
}

/// A provider, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Provider)]
pub(crate) struct ProviderView {
    /// What it is called here.
    pub(crate) name: String,
    /// Its address, exactly as it calls itself.
    pub(crate) issuer: String,
    /// What this node is called there.
    pub(crate) client_id: String,
    /// Whether there is one.
    pub(crate) has_secret: bool,
    /// What is asked for beside `openid`.
    pub(crate) scopes: Vec<String>,
    /// Tokens of programs that are for one of these are good here.
    pub(crate) audiences: Vec<String>,
    pub(crate) rules: Vec<Rule>,
}

impl From<Provider> for ProviderView {
    fn from(provider: Provider) -> Self {
        Self {
            name: provider.name,
            issuer: provider.issuer,
            client_id: provider.client_id,
            has_secret: provider.client_secret.is_some(),
            scopes: provider.scopes,
            audiences: provider.audiences,
            rules: provider.rules,
        }
    }
}

/// What a provider offers.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Tested {
    /// Keys that it signs with.
    pub(crate) keys: usize,
    /// It has a login for devices.
    pub(crate) devices: bool,
    /// It has a page to log out.
    pub(crate) logout: bool,
}

/// Where one may log in.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = LoginProvider)]
pub(crate) struct Choice {
    /// What it is called here.
    pub(crate) name: String,
    /// Its address.
    pub(crate) issuer: String,
}

/// A login of a device to be.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartDevice {
    /// Which, where several are connected.
    pub(crate) provider: Option<String>,
}

/// Which login of a device is asked about. Whoever knows the id gets its token: it stands in no address, for those are written down.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PollDevice {
    /// As the login began.
    pub(crate) id: String,
}

/// A login of a device under way.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct DeviceLogin {
    /// What the login is asked about by: a secret.
    pub(crate) id: String,
    /// What a person enters.
    pub(crate) user_code: String,
    /// Where.
    pub(crate) url: String,
    /// The same with the code in it.
    #[schema(required)]
    pub(crate) url_with_code: Option<String>,
    /// How long to wait before asking.
    pub(crate) wait_ms: u64,
    /// How long the person may take.
    pub(crate) expires_in_s: u64,
}

/// What has become of it.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DeviceState)]
pub(crate) struct DeviceAnswer {
    /// `pending` or `done`.
    #[schema(value_type = schema::DeviceProgress)]
    pub(crate) state: String,
    /// How long to wait before asking again.
    #[schema(required)]
    pub(crate) wait_ms: Option<u64>,
    /// An access token, which is shown this once.
    #[schema(required)]
    pub(crate) secret: Option<String>,
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub(crate) expires_ms: Option<u64>,
}

impl From<ProviderError> for Problem {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::None { .. } => Code::NoProvider,
            ProviderError::Exists { .. } => Code::UserExists,
            ProviderError::TooMany => Code::TooManyUsers,
            _ => Code::UserInvalid,
        };
        Self::of(code, &error)
    }
}

impl From<RemoteError> for Problem {
    fn from(error: RemoteError) -> Self {
        let code = match &error {
            RemoteError::Down { .. } | RemoteError::Strange { .. } => Code::ProviderFailed,
            _ => Code::LoginRefused,
        };
        Self::of(code, &error)
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Provider(error) => error.into(),
            LoginError::Remote(error) => error.into(),
            LoginError::Identity(error) => error.into(),
            error => Self::of(Code::LoginRefused, &error),
        }
    }
}

async fn list(State(api): State<Api>) -> Json<Vec<ProviderView>> {
    let all = api.identity.providers().all();
    Json(all.into_iter().map(ProviderView::from).collect())
}

async fn add(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<ProviderView>), Problem> {
    let provider: Provider = json(&bytes(body).await?)?;
    let view = ProviderView::from(provider.clone());
    api.identify(move |identity| Ok(identity.providers().add(provider)?)).await??;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    api.identify(move |identity| Ok(identity.providers().remove(&name)?)).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn test(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Tested>, Problem> {
    Ok(Json(tested(&api, &api.identity.providers().get(&name)?).await?))
}

async fn test_new(State(api): State<Api>, body: Body) -> Result<Json<Tested>, Problem> {
    let provider: Provider = json(&bytes(body).await?)?;
    Ok(Json(tested(&api, &provider.checked()?).await?))
}

async fn tested(api: &Api, provider: &Provider) -> Result<Tested, Problem> {
    let (offer, keys) = api.identity.remote().test(provider, now_ms()).await?;
    let devices = offer.device_authorization_endpoint.is_some();
    Ok(Tested { keys, devices, logout: offer.end_session_endpoint.is_some() })
}

async fn choices(State(api): State<Api>) -> Json<Vec<Choice>> {
    let all = api.identity.providers().all().into_iter();
    Json(all.map(|provider| Choice { name: provider.name, issuer: provider.issuer }).collect())
}

#[derive(Deserialize)]
struct Which {
    provider: Option<String>,
}

fn login_cookie(api: &Api) -> String {
    format!("{}-login", api.identity.cookie())
}

async fn start(
    State(api): State<Api>,
    Asked(Which { provider }): Asked<Which>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // Checked to be this machine's: the provider sends the browser nowhere that it was not told of beforehand.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let scheme = if api.is_tls { "https" } else { "http" };
    let redirect = format!("{scheme}://{host}{BASE}/login/callback");
    let started = api.identity.start(provider.as_deref(), redirect).await?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let strange =
        |_| Problem::new(Code::ProviderFailed, "the provider's address cannot be gone to");
    let url = HeaderValue::try_from(started.url).map_err(strange)?;
    response.headers_mut().insert(header::LOCATION, url);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // It has to come along when the provider sends the browser back, so it is not strict.
    let pair = (login_cookie(&api), started.cookie);
    if let Some(cookie) = set_cookie((&pair.0, &pair.1), LOGIN_MS / 1_000, (false, api.is_tls)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

#[derive(Deserialize)]
struct Brought {
    state: String,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

async fn callback(
    State(api): State<Api>,
    Asked(brought): Asked<Brought>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = login_cookie(&api);
    let back = Back {
        code: brought.code.as_deref(),
        state: &brought.state,
        issuer: brought.iss.as_deref(),
        error: brought.error.as_deref(),
        cookie: cookie(&headers, &name).unwrap_or_default(),
    };
    let secret = api.identity.finish(back).await?;
    let mut response = logged_in(&api, &secret);
    if let Some(cookie) = set_cookie((&name, ""), 0, (false, api.is_tls)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

async fn start_device(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<DeviceLogin>), Problem> {
    let StartDevice { provider } = json(&bytes(body).await?)?;
    let started = api.identity.start_device(provider.as_deref()).await?;
    let login = DeviceLogin {
        id: started.id,
        user_code: started.start.user_code,
        url: started.start.verification_uri,
        url_with_code: started.start.verification_uri_complete,
        wait_ms: started.pause_ms,
        expires_in_s: started.start.expires_in,
    };
    Ok((StatusCode::CREATED, Json(login)))
}

async fn poll_device(State(api): State<Api>, body: Body) -> Result<Json<DeviceAnswer>, Problem> {
    let PollDevice { id } = json(&bytes(body).await?)?;
    Ok(Json(match api.identity.poll_device(&id).await? {
        DeviceState::Pending { wait_ms } => DeviceAnswer {
            state: "pending".to_owned(),
            wait_ms: Some(wait_ms),
            secret: None,
            expires_ms: None,
        },
        DeviceState::Done { secret, expires_ms } => DeviceAnswer {
            state: "done".to_owned(),
            wait_ms: None,
            secret: Some(secret.text().to_owned()),
            expires_ms: Some(expires_ms),
        },
    }))
}

async fn logged_out(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let refused = |_| Problem::new(Code::BodyTooLarge, "no provider's word is so long");
    let form = axum::body::to_bytes(body, FORM_LEN_MAX).await.map_err(refused)?;
    let mut fields = openidconnect::url::form_urlencoded::parse(&form);
    let token = fields.find(|(name, _)| name == "logout_token").map(|(_, value)| value);
    let token =
        token.ok_or_else(|| Problem::new(Code::Body, "a form with `logout_token` is expected"))?;
    let ended = api.identity.logged_out(&name, &token).await?;
    tracing::info!(provider = name, ended, "a provider says that somebody has logged out");
    Ok(StatusCode::OK)
}
