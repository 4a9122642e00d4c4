//! The images of this node for its owner: list, show, tag, remove. They come in by the registry.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};

use super::body::{self, Asked, named};
use super::openapi::{answer, no_body, operation, query, takes};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::images::name::{ImageName, Reference, Tag};
use crate::engine::images::{Answer, Command, ImageView, Page, Query};

pub(super) fn routes() -> Vec<Route> {
    let name = || query("name", "string", true);
    vec![
        Route {
            method: "get",
            path: "/images",
            handler: get(list),
            doc: operation(
                "listImages",
                "The images of this node by name and tag; those after `after`, at most `limit` of them",
                &[query("after", "string", false), query("limit", "integer", false)],
                &[answer(200, "Images")],
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
                &[answer(200, "Image")],
            ),
        },
        Route {
            method: "post",
            path: "/images/tags",
            handler: post(tag),
            doc: takes(
                "ImageTag",
                operation("tagImage", "Give an image another tag", &[], &[answer(201, "Tagged")]),
            ),
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

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

async fn show(
    State(api): State<Api>,
    Asked(asked): Asked<Name>,
) -> Result<Json<ImageView>, Problem> {
    let name: ImageName = named(&asked.name)?;
    let Answer::Images(images) =
        api.handle.image(Command::Ask(Query::Show { name: name.clone() })).await?
    else {
        return Err(unexpected());
    };
    let image = images.into_iter().next().ok_or_else(unexpected)?;
    if image.directory.is_some() {
        api.handle.resolve_image(&name).await?;
    }
    Ok(Json(image))
}

async fn remove(State(api): State<Api>, Asked(asked): Asked<Name>) -> Result<StatusCode, Problem> {
    let name = named(&asked.name)?;
    api.handle.image(Command::Remove { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TagImage {
    name: String,
    tag: String,
}

/// An image's new name.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
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
