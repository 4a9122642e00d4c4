//! The images of disks for their owner: add, list, show, change, look into, convert, verify, remove.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{delete, get, patch, post, put};
use catalog::record::{DiskFormat, DiskName, Properties};
use catalog::{Digest, OrgId};

use super::body::{self, Asked, named};
use super::openapi::{answers, lists, no_body, operation, query, reads};
use super::page::{self, Page};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::disks::{Answer, Change, Command, DiskView, Quota, Sharing, Usage};
use crate::runtime::vm::Facts;
use crate::schema;
use crate::shell::{Conversion, NewDisk};

pub(super) fn routes() -> Vec<Route> {
    said().into_iter().chain(done()).chain(allowed()).collect()
}

/// What is said of images.
fn said() -> Vec<Route> {
    let name = || query("name", "string", true);
    let one = || [answers::<DiskView>(200)];
    vec![
        Route {
            method: "get",
            path: "/images/disks",
            handler: get(list),
            doc: operation(
                "listDisks",
                "The disk images of this node",
                &page::parameters(),
                &[lists::<DiskView>("Disks")],
            ),
        },
        Route {
            method: "post",
            path: "/images/disks",
            handler: post(add),
            doc: reads::<AddDisk>(operation(
                "addDisk",
                "Make a blob of this node the image of a disk: looked into first, and refused when it is none or names other \
                     files",
                &[],
                &[answers::<DiskView>(201)],
            )),
        },
        Route {
            method: "patch",
            path: "/images/disks",
            handler: patch(set),
            doc: reads::<SetDisk>(operation(
                "setDisk",
                "Change what is said of a disk image",
                &[name()],
                &one(),
            )),
        },
        Route {
            method: "delete",
            path: "/images/disks",
            handler: delete(remove),
            doc: operation(
                "removeDisk",
                "Forget a disk image",
                &[name()],
                &[no_body(204, "It is gone")],
            ),
        },
        Route {
            method: "get",
            path: "/images/disks/disk",
            handler: get(show),
            doc: operation(
                "showDisk",
                "One disk image, of this node or of the catalogue, by name, `ORGANISATION/NAME`, `AUTHOR/disk/NAME` or digest; \
                 with `here`, its content is fetched when it is another node's",
                &[name(), query("here", "boolean", false)],
                &one(),
            ),
        },
    ]
}

/// What is done with their content.
fn done() -> Vec<Route> {
    vec![
        Route {
            method: "post",
            path: "/images/disks/inspection",
            handler: post(inspect),
            doc: reads::<DiskContent>(operation(
                "inspectDisk",
                "What a blob of this node is as the image of a disk",
                &[],
                &[answers::<Facts>(200)],
            )),
        },
        Route {
            method: "post",
            path: "/images/disks/conversion",
            handler: post(convert),
            doc: reads::<ConvertDisk>(operation(
                "convertDisk",
                "Make another disk image of the same disk; the answer comes when it is done",
                &[],
                &[answers::<DiskView>(201)],
            )),
        },
        Route {
            method: "post",
            path: "/images/disks/copy",
            handler: post(copy),
            doc: reads::<CopyDisk>(operation(
                "copyDisk",
                "Make another node's disk image one of this node, with its signature when it keeps its name",
                &[],
                &[answers::<DiskView>(201)],
            )),
        },
        Route {
            method: "post",
            path: "/images/disks/verification",
            handler: post(verify),
            doc: reads::<Name>(operation(
                "verifyDisk",
                "Read every byte of a disk image again and compare it with what is said of it; another node's is fetched first",
                &[],
                &[answers::<DiskView>(200)],
            )),
        },
    ]
}

/// How much there may be.
fn allowed() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/images/disks/quota",
            handler: get(usage),
            doc: operation(
                "diskUsage",
                "How much the disk images use of what they may",
                &[],
                &[answers::<Usage>(200)],
            ),
        },
        Route {
            method: "put",
            path: "/images/disks/quota",
            handler: put(limit),
            doc: reads::<Quota>(operation(
                "limitDisks",
                "Allow more or less disk images; what is beyond it stays, but nothing is added",
                &[],
                &[answers::<Usage>(200)],
            )),
        },
    ]
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiskNamed)]
struct Name {
    /// Which, as `showDisk` takes it.
    name: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    name: String,
    #[serde(default)]
    here: bool,
}

async fn list(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<DiskView>>), Problem> {
    match api.handle.disk(Command::List).await? {
        Answer::Disks(disks) => page.of(&uri, disks, |one| one.name.clone()),
        _ => Err(unexpected()),
    }
}

async fn show(
    State(api): State<Api>,
    Asked(asked): Asked<Show>,
) -> Result<Json<DiskView>, Problem> {
    let disk = match asked.here {
        true => api.handle.resolve_disk(&asked.name).await?,
        false => api.handle.show_disk(&asked.name).await?,
    };
    Ok(Json(disk))
}

/// What is to become the image of a disk.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewDisk)]
pub(crate) struct AddDisk {
    /// Its name.
    #[schema(value_type = String)]
    pub name: DiskName,
    /// Its content, a blob of the node.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// `raw` vouches for a raw disk without a boot sector.
    #[serde(default)]
    #[schema(value_type = Option<schema::DiskFormat>)]
    pub format: Option<DiskFormat>,
    /// Machine architecture, such as `x86_64`; empty when that is not said.
    #[serde(default)]
    pub arch: String,
    /// Least memory in bytes; 0 when that is not said.
    #[serde(default)]
    pub min_memory_bytes: u64,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub properties: Properties,
    /// `private` when it is absent.
    #[serde(default)]
    #[schema(value_type = Option<schema::DiskVisibility>)]
    pub visibility: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
    /// Whether this organisation signs it.
    #[serde(default)]
    pub sign: bool,
}

/// The words of the API for who may see an image.
fn sharing(visibility: Option<&str>, orgs: Vec<OrgId>) -> Result<Option<Sharing>, Problem> {
    let refuse = |detail: String| Err(Problem::new(Code::Body, detail));
    match visibility {
        Some("partner") => Ok(Some(Sharing::Partner(orgs.into_iter().collect()))),
        _ if !orgs.is_empty() => {
            refuse("`orgs` are named with the visibility `partner` only".to_owned())
        }
        None => Ok(None),
        Some("private") => Ok(Some(Sharing::Private)),
        Some("public") => Ok(Some(Sharing::Public)),
        Some(other) => {
            let other: String = other.chars().take(80).collect();
            refuse(format!("`{other}` is no visibility: private, partner or public"))
        }
    }
}

async fn add(State(api): State<Api>, body: Body) -> Result<(StatusCode, Json<DiskView>), Problem> {
    let asked: AddDisk = body::json(&body::bytes(body).await?)?;
    let new = NewDisk {
        name: asked.name,
        digest: asked.digest,
        is_raw: asked.format == Some(DiskFormat::Raw),
        arch: asked.arch,
        min_memory_bytes: asked.min_memory_bytes,
        properties: asked.properties,
        sharing: sharing(asked.visibility.as_deref(), asked.orgs)?.unwrap_or_default(),
        sign: asked.sign,
    };
    Ok((StatusCode::CREATED, Json(api.handle.add_disk(new).await?)))
}

/// What is to be changed of a disk image; what is absent stays.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiskChange)]
pub(crate) struct SetDisk {
    /// Machine architecture, such as `x86_64`; empty when that is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Least memory in bytes; 0 when that is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory_bytes: Option<u64>,
    /// Properties by key; null takes one away.
    #[serde(default)]
    pub properties: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DiskVisibility>)]
    pub visibility: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
    /// Whether this organisation signs it; false takes any signature away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<bool>,
}

async fn set(
    State(api): State<Api>,
    Asked(asked): Asked<Name>,
    body: Body,
) -> Result<Json<DiskView>, Problem> {
    let name: DiskName = named(&asked.name)?;
    let asked: SetDisk = body::json(&body::bytes(body).await?)?;
    let mut change = Change {
        arch: asked.arch,
        min_memory_bytes: asked.min_memory_bytes,
        put: BTreeMap::new(),
        drop: BTreeSet::new(),
        sharing: sharing(asked.visibility.as_deref(), asked.orgs)?,
        sign: asked.sign,
    };
    for (key, value) in asked.properties {
        match value {
            Some(value) => drop(change.put.insert(key, value)),
            None => drop(change.drop.insert(key)),
        }
    }
    Ok(Json(api.handle.disk_view(Command::Set { name, change: Box::new(change) }).await?))
}

async fn remove(State(api): State<Api>, Asked(asked): Asked<Name>) -> Result<StatusCode, Problem> {
    let name = named(&asked.name)?;
    api.handle.disk(Command::Remove { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Content that may be the image of a disk.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskContent {
    /// A blob of the node.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// `raw` vouches for a raw disk without a boot sector.
    #[serde(default)]
    #[schema(value_type = Option<schema::DiskFormat>)]
    pub format: Option<DiskFormat>,
}

async fn inspect(State(api): State<Api>, body: Body) -> Result<Json<Facts>, Problem> {
    let asked: DiskContent = body::json(&body::bytes(body).await?)?;
    let is_raw = asked.format == Some(DiskFormat::Raw);
    Ok(Json(api.handle.inspect_disk(asked.digest, is_raw).await?))
}

/// A conversion.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiskConversion)]
pub(crate) struct ConvertDisk {
    /// Of which.
    pub name: String,
    /// The new format.
    #[schema(value_type = schema::DiskFormat)]
    pub to: DiskFormat,
    /// What the new image is called.
    #[schema(value_type = String)]
    pub new_name: DiskName,
    /// Whether its clusters are packed; of a qcow2 only.
    #[serde(default)]
    pub compress: bool,
    /// `private` when it is absent.
    #[serde(default)]
    #[schema(value_type = Option<schema::DiskVisibility>)]
    pub visibility: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
    /// Whether this organisation signs it.
    #[serde(default)]
    pub sign: bool,
}

async fn convert(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<DiskView>), Problem> {
    let asked: ConvertDisk = body::json(&body::bytes(body).await?)?;
    if asked.compress && asked.to != DiskFormat::Qcow2 {
        return Err(Problem::new(Code::Body, "`compress` is for the format qcow2 only"));
    }
    let wish = Conversion {
        name: asked.name,
        format: asked.to,
        new_name: asked.new_name,
        compress: asked.compress,
        sharing: sharing(asked.visibility.as_deref(), asked.orgs)?.unwrap_or_default(),
        sign: asked.sign,
    };
    Ok((StatusCode::CREATED, Json(api.handle.convert_disk(wish).await?)))
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiskCopy)]
struct CopyDisk {
    /// Of which, as `showDisk` takes it.
    name: String,
    /// Its name here; the same when absent.
    #[schema(value_type = Option<String>)]
    new_name: Option<DiskName>,
}

async fn copy(State(api): State<Api>, body: Body) -> Result<(StatusCode, Json<DiskView>), Problem> {
    let asked: CopyDisk = body::json(&body::bytes(body).await?)?;
    let new_name = match asked.new_name {
        Some(name) => name,
        None => named(&api.handle.show_disk(&asked.name).await?.name)?,
    };
    let copied = api.handle.copy_disk(&asked.name, new_name).await?;
    Ok((StatusCode::CREATED, Json(copied)))
}

async fn verify(State(api): State<Api>, body: Body) -> Result<Json<DiskView>, Problem> {
    let asked: Name = body::json(&body::bytes(body).await?)?;
    Ok(Json(api.handle.verify_disk(&asked.name).await?))
}

async fn usage(State(api): State<Api>) -> Result<Json<Usage>, Problem> {
    used(api.handle.disk(Command::Usage).await?)
}

async fn limit(State(api): State<Api>, body: Body) -> Result<Json<Usage>, Problem> {
    let quota: Quota = body::json(&body::bytes(body).await?)?;
    used(api.handle.disk(Command::Limit { quota }).await?)
}

fn used(answer: Answer) -> Result<Json<Usage>, Problem> {
    match answer {
        Answer::Usage(usage) => Ok(Json(usage)),
        _ => Err(unexpected()),
    }
}
