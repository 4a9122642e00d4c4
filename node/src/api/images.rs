//! The images of this node for its owner: list, show, tag, remove, publish. They come in by the registry, or from other nodes.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Extension, Json};

use super::body::{self, Asked, named};
use super::openapi::{answers, lists, no_body, operation, query, reads};
use super::problem::{Code, Problem};
use super::{Api, Published, Route, catalog, unexpected};
use crate::engine::images::name::{ImageName, Reference, Tag};
use crate::engine::images::offer;
use crate::engine::images::{Answer, Command, ImageView, Page, Query};
use crate::identity::Caller;

pub(super) fn routes() -> Vec<Route> {
    let name = || query("name", "string", true);
    let kept = [
        Route {
            method: "get",
            path: "/images",
            handler: get(list),
            doc: operation(
                "listImages",
                "The images of this node by name and tag; those after `after`, at most `limit` of them",
                &[query("after", "string", false), query("limit", "integer", false)],
                &[lists::<ImageView>("Images")],
            ),
        },
        Route {
            method: "delete",
            path: "/images",
            handler: delete(remove),
            doc: operation(
                "removeImage",
                "Take a tag away, or with a digest a manifest and all its tags",
                &[name()],
                &[no_body(204, "It is gone")],
            ),
        },
        Route {
            method: "get",
            path: "/images/image",
            handler: get(show),
            doc: operation(
                "showImage",
                "One image, by `REPOSITORY[:TAG][@DIGEST]`, with its directory made ready for use",
                &[name()],
                &[answers::<ImageView>(200)],
            ),
        },
        Route {
            method: "post",
            path: "/images/tags",
            handler: post(tag),
            doc: reads::<TagImage>(operation(
                "tagImage",
                "Give an image another tag",
                &[],
                &[answers::<Tagged>(201)],
            )),
        },
    ];
    kept.into_iter().chain(between_nodes()).collect()
}

/// Images of other nodes, and for them.
fn between_nodes() -> [Route; 2] {
    [
        Route {
            method: "post",
            path: "/images/pull",
            handler: post(pull),
            doc: reads::<Name>(operation(
                "pullImage",
                "Fetch the image that other nodes publish under a name, whatever it means here; answers when it is whole",
                &[],
                &[answers::<ImageView>(201)],
            )),
        },
        Route {
            method: "post",
            path: "/images/publish",
            handler: post(publish),
            doc: reads::<Publish>(operation(
                "publishImage",
                "Put an image of this node into the catalogue, under its name, for other nodes to fetch",
                &[],
                &[answers::<Published>(201)],
            )),
        },
    ]
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(
    State(api): State<Api>,
    Asked(asked): Asked<List>,
) -> Result<Json<Vec<ImageView>>, Problem> {
    if let Some(after) = &asked.after {
        named::<ImageName>(after)?;
    }
    let page = Page { after: asked.after, limit: asked.limit.unwrap_or(Page::LIMIT_MAX) };
    match api.handle.image(Command::Ask(Query::List { page })).await? {
        Answer::Images(images) => Ok(Json(images)),
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImagePull)]
struct Name {
    /// `REPOSITORY[:TAG]` or `REPOSITORY@DIGEST`, with the organisation and `/` in front where several use the name.
    name: String,
}

async fn show(
    State(api): State<Api>,
    Asked(asked): Asked<Name>,
) -> Result<Json<ImageView>, Problem> {
    let name: ImageName = named(&asked.name)?;
    let image = view(&api, name.clone()).await?;
    if image.directory.is_some() {
        api.handle.resolve_image(&name).await?;
    }
    Ok(Json(image))
}

async fn view(api: &Api, name: ImageName) -> Result<ImageView, Problem> {
    let Answer::Images(images) = api.handle.image(Command::Ask(Query::Show { name })).await? else {
        return Err(unexpected());
    };
    images.into_iter().next().ok_or_else(unexpected)
}

async fn remove(State(api): State<Api>, Asked(asked): Asked<Name>) -> Result<StatusCode, Problem> {
    let name = named(&asked.name)?;
    api.handle.image(Command::Remove { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pull(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<ImageView>), Problem> {
    let asked: Name = body::json(&body::bytes(body).await?)?;
    let name: ImageName = named(&asked.name)?;
    api.handle.pull_image(&name).await?;
    Ok((StatusCode::CREATED, Json(view(&api, name).await?)))
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImagePublish)]
struct Publish {
    /// The image: `REPOSITORY:TAG`.
    name: String,
    /// For the own organisation alone.
    #[serde(default)]
    private: bool,
}

async fn publish(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<(StatusCode, Json<Published>), Problem> {
    let asked: Publish = body::json(&body::bytes(body).await?)?;
    let name: ImageName = named(&asked.name)?;
    let image = view(&api, name.clone()).await?;
    if image.directory.is_some() {
        api.handle.resolve_image(&name).await?;
    }
    let resource = offer::record_of(&name, &image)
        .map_err(|error| Problem::of(Code::ResourceInvalid, &error))?;
    let key = resource.key.clone();
    catalog::put((&api, &caller), resource, asked.private).await?;
    Ok((StatusCode::CREATED, Json(Published { key })))
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImageTag)]
struct TagImage {
    /// The image, as `Image` names it.
    name: String,
    /// What it is to be called, too.
    tag: String,
}

/// An image's new name.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Tagged {
    /// `REPOSITORY:TAG`.
    pub name: String,
}

async fn tag(State(api): State<Api>, body: Body) -> Result<(StatusCode, Json<Tagged>), Problem> {
    let asked: TagImage = body::json(&body::bytes(body).await?)?;
    let name: ImageName = named(&asked.name)?;
    let tag: Tag = named(&asked.tag)?;
    let repository = name.repository.clone();
    let tagged = ImageName { repository, reference: Reference::Tag(tag.clone()) };
    api.handle.image(Command::Tag { name, tag }).await?;
    Ok((StatusCode::CREATED, Json(Tagged { name: tagged.to_string() })))
}
