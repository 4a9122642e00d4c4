//! The users whom this node knows, and what lets them in.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, patch, post};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::openapi::path::Parameter;

use super::body::{bytes, json};
use super::openapi::{Answer, Described, answers, lists, named_part, no_body, operation, reads};
use super::problem::{Code, Problem};
use super::{Api, Route};
use crate::identity::{
    Account, Book, BookError, Caller, Entrance, Identity, IdentityError, Person, Secret, Token,
    account_id,
};
use crate::schema;

/// How long a login link is good when nobody says.
const LINK_MS: u64 = 15 * 60_000;
/// How long an access token is good when nobody says.
const TOKEN_MS: u64 = 90 * 86_400_000;

pub(super) fn routes() -> Vec<Route> {
    let mut all = of_users();
    all.extend(of_tokens());
    all
}

fn op(id: &str, summary: &str, parameters: &[Parameter], found: Answer) -> Described {
    operation(id, summary, parameters, &[found])
}

fn gone() -> Answer {
    no_body(204, "It is gone")
}

fn user() -> Parameter {
    named_part("name", "The user's name or id")
}

fn token() -> Parameter {
    named_part("id", "The token's id")
}

fn of_users() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    vec![
        route("get", "/users", get(list), op("users", "Users", &[], lists::<UserView>("Users"))),
        route(
            "post",
            "/users",
            post(add),
            reads::<NewUser>(op("addUser", "Make a user", &[], answers::<UserView>(201))),
        ),
        route(
            "patch",
            "/users/{name}",
            patch(set),
            reads::<SetUser>(op(
                "setUser",
                "Set groups and roles of a user",
                &[user()],
                answers::<UserView>(200),
            )),
        ),
        route(
            "delete",
            "/users/{name}",
            delete(remove),
            op("removeUser", "Remove a user with all that lets it in", &[user()], gone()),
        ),
        route(
            "post",
            "/users/{name}/link",
            post(link),
            reads::<Valid>(op(
                "linkUser",
                "Make a login link, good once",
                &[user()],
                answers::<LoginLink>(201),
            )),
        ),
        route(
            "delete",
            "/users/{name}/sessions",
            delete(end_sessions),
            op("endSessions", "End every session of a user", &[user()], gone()),
        ),
    ]
}

fn of_tokens() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    vec![
        route(
            "get",
            "/users/{name}/tokens",
            get(tokens),
            op("tokens", "Access tokens of a user", &[user()], lists::<TokenView>("Tokens")),
        ),
        route(
            "post",
            "/users/{name}/tokens",
            post(add_token),
            reads::<NewToken>(op(
                "addToken",
                "Make an access token of a user",
                &[user()],
                answers::<MadeToken>(201),
            )),
        ),
        route(
            "delete",
            "/users/{name}/tokens/{id}",
            delete(revoke),
            op("revokeToken", "Revoke an access token", &[user(), token()], gone()),
        ),
        route(
            "get",
            "/session/tokens",
            get(own_tokens),
            op("ownTokens", "The caller's own access tokens", &[], lists::<TokenView>("Tokens")),
        ),
        route(
            "post",
            "/session/tokens",
            post(add_own_token),
            reads::<NewToken>(op(
                "addOwnToken",
                "Make an own access token",
                &[],
                answers::<MadeToken>(201),
            )),
        ),
        route(
            "delete",
            "/session/tokens/{id}",
            delete(revoke_own),
            op("revokeOwnToken", "Revoke an own access token", &[token()], gone()),
        ),
    ]
}

/// A user, for its owner.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// What it is found by.
    pub(crate) id: String,
    /// For people.
    pub(crate) name: String,
    /// Who knows it: `local`, or a provider's URL.
    pub(crate) issuer: String,
    /// The issuer's own name of it, which never changes.
    pub(crate) subject: String,
    /// Groups that it is in.
    pub(crate) groups: BTreeSet<String>,
    /// Roles that it has.
    pub(crate) roles: BTreeSet<String>,
    #[schema(value_type = schema::UnixMs)]
    pub(crate) made_ms: u64,
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub(crate) seen_ms: Option<u64>,
    /// Sessions that go on.
    pub(crate) sessions: usize,
    /// Access tokens that are good.
    pub(crate) tokens: usize,
}

/// A user to be.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    /// Not `owner`.
    pub(crate) name: String,
    /// Groups that it is in.
    #[serde(default)]
    pub(crate) groups: BTreeSet<String>,
    /// Roles that it has.
    #[serde(default)]
    pub(crate) roles: BTreeSet<String>,
}

/// What is to be changed of a user.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetUser {
    /// Groups that it is in.
    pub(crate) groups: Option<BTreeSet<String>>,
    /// Roles that it has.
    pub(crate) roles: Option<BTreeSet<String>>,
}

/// For how long.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Valid {
    /// For how many milliseconds it is good.
    pub(crate) valid_ms: Option<u64>,
}

/// A login link.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct LoginLink {
    /// Below the address of the API's server.
    pub(crate) path: String,
    #[schema(value_type = schema::UnixMs)]
    pub(crate) expires_ms: u64,
}

/// An access token to be.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What it is for.
    pub(crate) name: String,
    /// For how many milliseconds it is good.
    pub(crate) valid_ms: Option<u64>,
}

/// An access token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenView {
    /// What it is revoked by.
    pub(crate) id: String,
    /// What it is for.
    pub(crate) name: String,
    #[schema(value_type = schema::UnixMs)]
    pub(crate) made_ms: u64,
    #[schema(value_type = schema::UnixMs)]
    pub(crate) expires_ms: u64,
}

/// A new access token with its secret, which is shown this once.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct MadeToken {
    #[serde(flatten)]
    pub(crate) token: TokenView,
    /// The token itself, which is shown this once.
    pub(crate) secret: String,
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            made_ms: token.made_ms,
            expires_ms: token.expires_ms,
        }
    }
}

fn made((secret, token): (Secret, Token)) -> (StatusCode, Json<MadeToken>) {
    let secret = secret.text().to_owned();
    (StatusCode::CREATED, Json(MadeToken { token: (&token).into(), secret }))
}

fn view(book: &Book, now_ms: u64, (id, account): (&String, &Account)) -> UserView {
    UserView {
        id: id.clone(),
        name: account.name.clone(),
        issuer: account.issuer.clone(),
        subject: account.subject.clone(),
        groups: account.groups.clone(),
        roles: account.roles.clone(),
        made_ms: account.made_ms,
        seen_ms: Some(account.seen_ms).filter(|ms| *ms > 0),
        sessions: book.sessions_of(id, now_ms),
        tokens: book.tokens(id, now_ms).map_or(0, |tokens| tokens.len()),
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        let code = match &error {
            IdentityError::Home(_) => Code::Storage,
            IdentityError::Stopping => Code::Stopping,
            IdentityError::Book(error) => return error.clone().into(),
        };
        Self::of(code, &error)
    }
}

impl From<BookError> for Problem {
    fn from(error: BookError) -> Self {
        let code = match &error {
            BookError::NoUser { .. } | BookError::NoToken { .. } => Code::NoUser,
            BookError::Link => Code::LoginRefused,
            BookError::Exists { .. } => Code::UserExists,
            BookError::TooManyUsers | BookError::TooManyTokens { .. } => Code::TooManyUsers,
            _ => Code::UserInvalid,
        };
        Self::of(code, &error)
    }
}

impl Api {
    /// Changes something about users, where the disk may be waited for.
    pub(super) async fn identify<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Identity) -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, Problem> {
        let identity = std::sync::Arc::clone(&self.identity);
        let done = tokio::task::spawn_blocking(move || change(&identity)).await;
        Ok(done.map_err(|error| Problem::of(Code::Stopping, &error))??)
    }

    fn user(&self, id: &str) -> Result<Json<UserView>, Problem> {
        let found =
            self.identity.read(|book, now| Ok::<_, BookError>(view(book, now, book.find(id)?)));
        Ok(Json(found?))
    }
}

async fn list(State(api): State<Api>) -> Json<Vec<UserView>> {
    Json(
        api.identity.read(|book, now| {
            book.accounts().iter().map(|account| view(book, now, account)).collect()
        }),
    )
}

async fn add(State(api): State<Api>, body: Body) -> Result<(StatusCode, Json<UserView>), Problem> {
    let NewUser { name, groups, roles } = json(&bytes(body).await?)?;
    let id = api.identify(move |identity| identity.add(&name, &groups, &roles)).await?;
    Ok((StatusCode::CREATED, api.user(&id)?))
}

async fn set(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<UserView>, Problem> {
    let SetUser { groups, roles } = json(&bytes(body).await?)?;
    let set = move |identity: &Identity| {
        identity.change(|book, _| book.set(&name, groups.as_ref(), roles.as_ref()))
    };
    let id = api.identify(set).await?;
    api.user(&id)
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    api.identify(move |identity| identity.change(|book, _| book.remove(&name))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn end_sessions(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.identify(move |identity| identity.change(|book, _| book.end_all(&name))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn link(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<LoginLink>), Problem> {
    let Valid { valid_ms } = json(&bytes(body).await?)?;
    let valid_ms = valid_ms.unwrap_or(LINK_MS);
    let link =
        move |identity: &Identity| identity.change(|book, at| book.link(&name, valid_ms, at));
    let (secret, expires_ms) = api.identify(link).await?;
    let path = format!("{}/login/link?code={}", super::BASE, secret.text());
    Ok((StatusCode::CREATED, Json(LoginLink { path, expires_ms })))
}

fn tokens_of(api: &Api, user: &str) -> Result<Json<Vec<TokenView>>, Problem> {
    let views = api.identity.read(|book, now| {
        Ok::<_, BookError>(book.tokens(user, now)?.into_iter().map(TokenView::from).collect())
    });
    Ok(Json(views?))
}

async fn make_token(
    api: &Api,
    user: String,
    body: Body,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let NewToken { name, valid_ms } = json(&bytes(body).await?)?;
    let valid_ms = valid_ms.unwrap_or(TOKEN_MS);
    let make = move |identity: &Identity| {
        identity.change(|book, at| book.add_token(&user, &name, valid_ms, at))
    };
    api.identify(make).await.map(made)
}

async fn revoke_token(api: &Api, user: String, id: String) -> Result<StatusCode, Problem> {
    api.identify(move |identity| identity.change(|book, _| book.revoke(&user, &id))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn tokens(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Vec<TokenView>>, Problem> {
    tokens_of(&api, &name)
}

async fn add_token(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    make_token(&api, name, body).await
}

async fn revoke(
    State(api): State<Api>,
    Path((name, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    revoke_token(&api, name, id).await
}

/// The account of the caller itself, which it changes by a login alone: a token that could make tokens would never end.
fn own(caller: &Caller, entrance: Option<&Entrance>) -> Result<String, Problem> {
    if matches!(entrance, Some(Entrance::Token { .. })) {
        let detail = "an access token makes and revokes no access tokens: log in";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    match caller {
        Caller::Owner => {
            let detail = "the owner of the home has its token and no others: make one for a user, see POST /users/{name}/tokens";
            Err(Problem::new(Code::NoUser, detail))
        }
        Caller::Person(person) => Ok(id_of(person)),
    }
}

fn id_of(person: &Person) -> String {
    account_id(&person.issuer, &person.subject)
}

async fn own_tokens(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TokenView>>, Problem> {
    tokens_of(&api, &own(&caller, None)?)
}

async fn add_own_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(entrance): Extension<Entrance>,
    body: Body,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    make_token(&api, own(&caller, Some(&entrance))?, body).await
}

async fn revoke_own(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(entrance): Extension<Entrance>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    revoke_token(&api, own(&caller, Some(&entrance))?, id).await
}
