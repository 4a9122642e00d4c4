//! `opencloud image`.

mod disk;
mod import;
mod source;

use std::path::PathBuf;

use clap::Subcommand;

pub(super) use self::disk::named;
pub(crate) use self::source::ImportError;
use super::error::{CliError, OK};
use super::units::bytes;
use super::{Context, EXIT_CODES};
use crate::api::{Published, Tagged};
use crate::engine::images::ImageView;
use crate::engine::images::name::{ImageName, Tag};
use crate::engine::images::offer;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the images of this node
    #[command(after_help = format!("Example:\n  opencloud image list\n\n{EXIT_CODES}"))]
    List,
    /// Show one image
    #[command(after_help = format!("\
Prints the digest of its directory, too, by which workflows name it.

Examples:
  opencloud image show docker.io/library/debian:stable-slim
  opencloud image show debian@sha256:0f3a…

{EXIT_CODES}"))]
    Show {
        /// `REPOSITORY[:TAG][@DIGEST]`; the tag `latest` when none is said
        name: ImageName,
    },
    /// Take a tag away, or with a digest an image and all its tags
    #[command(after_help = format!("\
What no tag leads to leaves the disk when the room is needed.

Examples:
  opencloud image remove debian:old
  opencloud image remove debian@sha256:0f3a…

{EXIT_CODES}"))]
    Remove {
        /// `REPOSITORY[:TAG][@DIGEST]`
        name: ImageName,
    },
    /// Give an image another tag
    #[command(after_help = format!("Example:\n  opencloud image tag debian:13.2 stable\n\n{EXIT_CODES}"))]
    Tag {
        /// `REPOSITORY[:TAG][@DIGEST]`
        name: ImageName,
        /// The tag
        tag: Tag,
    },
    /// Keep images of disks, to run virtual machines from
    #[command(subcommand, after_help = format!("\
Examples:
  opencloud image disk add debian-12.qcow2 --name debian-12 --arch x86_64
  opencloud image disk list
  opencloud image disk convert debian-12 --to vmdk

A workflow names one as `vm: {{disk: image:debian-12}}`, or by its digest.

{EXIT_CODES}"))]
    Disk(disk::Verb),
    /// Put an image into the catalogue, for other nodes to fetch
    #[command(after_help = format!("\
Every member of the realm then finds it as an algorithm with the key `image/NAME:TAG`,
and can have it by `image pull`, or by pulling the name from the registry of the own
node. A tag that is moved later has to be published again.

Examples:
  opencloud image publish docker.io/library/debian:stable-slim
  opencloud image publish tools:1 --private

{EXIT_CODES}"))]
    Publish {
        /// `REPOSITORY[:TAG]`
        name: ImageName,
        /// For your own organisation alone: nobody else sees it in the catalogue or can fetch it
        #[arg(long)]
        private: bool,
    },
    /// Take an image out of the catalogue
    #[command(after_help = format!("\
It stays on this node. Copies that others fetched before are theirs.

Example:
  opencloud image withdraw tools:1

{EXIT_CODES}"))]
    Withdraw {
        /// `REPOSITORY[:TAG]`, as it was published
        name: ImageName,
    },
    /// Fetch an image that other nodes publish
    #[command(after_help = format!("\
Comes from every node that publishes it at once, is checked, and is kept like one
that was pushed here. A registry client gets it, too: `docker pull localhost:PORT/NAME`
fetches what this node does not have. A name that is here already means what it means
here for such clients; this command gets what it means to others now.

Where organisations use one name for different images, put the organisation in front:
its name in small letters, with hyphens for all but letters and digits.

Examples:
  opencloud image pull docker.io/library/debian:stable-slim
  opencloud image pull acme/tools:1
  opencloud image pull tools@sha256:0f3a…

{EXIT_CODES}"))]
    Pull {
        /// `REPOSITORY[:TAG][@DIGEST]`
        name: ImageName,
    },
    /// Bring an image from a directory or archive to the node
    #[command(after_help = format!("\
Takes a directory in the OCI image layout, and archives as `docker save` and
`skopeo copy … oci-archive:FILE` make them. Every part is checked against its digest.
With a registry client there is `docker push localhost:PORT/NAME` instead, after
`docker login -u any localhost:PORT` with the text in `api.token` of the node's home.

Examples:
  opencloud image import debian.tar --name docker.io/library/debian:stable-slim
  opencloud image import layout/ --name tools:1 --ref v1

{EXIT_CODES}"))]
    Import {
        /// The directory or archive
        path: PathBuf,
        /// What the image is to be called: `REPOSITORY[:TAG]`
        #[arg(long, value_name = "NAME")]
        name: ImageName,
        /// Which one, when there are several: its reference or tag in there
        #[arg(long = "ref", value_name = "REF")]
        reference: Option<String>,
    },
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::List => list(context).await,
            Self::Show { name } => show(context, &name).await,
            Self::Remove { name } => remove(context, &name).await,
            Self::Tag { name, tag } => {
                let body = serde_json::json!({"name": name.to_string(), "tag": tag});
                let tagged: Tagged = context.client()?.post("/images/tags", &body).await?;
                told(context, &tagged.name)
            }
            Self::Disk(verb) => Box::pin(verb.run(context)).await,
            Self::Publish { name, private } => {
                let body = serde_json::json!({"name": name.to_string(), "private": private});
                let published: Published = context.client()?.post("/images/publish", &body).await?;
                if context.out.is_json() {
                    context.out.json(&published);
                } else {
                    context.out.line(&published.key);
                }
                Ok(OK)
            }
            Self::Withdraw { name } => withdraw(context, &name).await,
            Self::Pull { name } => {
                let body = serde_json::json!({"name": name.to_string()});
                let _pulled: ImageView = context.client()?.post_long("/images/pull", &body).await?;
                show(context, &name).await
            }
            Self::Import { path, name, reference } => {
                import::import(&context.client()?, &path, &name, reference.as_deref()).await?;
                show(context, &name).await
            }
        }
    }
}

async fn list(context: &Context) -> Result<u8, CliError> {
    let client = context.client()?;
    let mut images: Vec<ImageView> = client.get("/images", &[]).await?;
    while let Some(last) = images.last().map(|image| image.name.clone()) {
        let more: Vec<ImageView> = client.get("/images", &[("after", &last)]).await?;
        if more.is_empty() {
            break;
        }
        images.extend(more);
    }
    if context.out.is_json() {
        context.out.json(&images);
        return Ok(OK);
    }
    let rows = images.into_iter().map(|image| {
        let directory = image.directory.map_or("-".to_owned(), |dir| dir.digest.to_string());
        vec![image.name, bytes(image.size), directory]
    });
    context.out.table(&["name", "size", "directory"], rows.collect(), "no images");
    Ok(OK)
}

async fn show(context: &Context, name: &ImageName) -> Result<u8, CliError> {
    let query = [("name", &*name.to_string())];
    let image: ImageView = context.client()?.get("/images/image", &query).await?;
    if context.out.is_json() {
        context.out.json(&image);
        return Ok(OK);
    }
    let directory = match &image.directory {
        Some(dir) => dir.digest.to_string(),
        None => "none: a part of the image is not on this node".to_owned(),
    };
    context.out.facts(&[
        ("name", image.name),
        ("digest", image.digest.to_string()),
        ("kind", image.media_type),
        ("size", bytes(image.size)),
        ("tags", image.tags.join(", ")),
        ("directory", directory),
    ]);
    Ok(OK)
}

async fn remove(context: &Context, name: &ImageName) -> Result<u8, CliError> {
    let text = name.to_string();
    context.client()?.delete("/images", &[("name", &text)]).await?;
    if context.out.is_json() {
        context.out.json(&serde_json::json!({"name": text}));
    } else {
        context.out.line(&format!("{text} is removed"));
    }
    Ok(OK)
}

async fn withdraw(context: &Context, name: &ImageName) -> Result<u8, CliError> {
    let key = offer::key_of(name).map_err(|error| CliError::usage(error.to_string()))?;
    context.client()?.delete("/resources", &[("key", &key)]).await?;
    if context.out.is_json() {
        context.out.json(&serde_json::json!({"key": key}));
    } else {
        context.out.line(&format!("{name} is withdrawn"));
    }
    Ok(OK)
}

fn told(context: &Context, name: &str) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(&serde_json::json!({"name": name}));
    } else {
        context.out.line(name);
    }
    Ok(OK)
}
