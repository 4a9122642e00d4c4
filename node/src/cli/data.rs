//! `opencloud data`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use catalog::record::{DataDetail, Detail, NAME_LEN_MAX, Resource};
use catalog::{Digest, OrgId};
use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::error::{CliError, OK};
use super::run::pick;
use super::units::parse_duration;
use super::upload::Sink;
use super::{Context, EXIT_CODES, copies, download, kept};
use crate::api::{Published, ToCopy};
use crate::engine::command::ResourceView;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Store a file or directory on the node and publish it
    #[command(after_help = format!("\
Prints the digest, under which every member of the realm can fetch it.

Examples:
  opencloud data add elevation.tif --name 'Elevation of the valley'
  opencloud data add measurements/ --private

{EXIT_CODES}"))]
    Add {
        /// The file or directory
        path: PathBuf,
        /// Its name in the catalogue [default: that of the file]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// For your own organisation alone: nobody else sees it in the catalogue or can fetch it
        #[arg(long)]
        private: bool,
    },
    /// Withdraw what `add` stored on this node
    #[command(after_help = format!("\
It leaves the catalogue at once, and the disk when nothing needs it any more. Copies
that others fetched before are theirs.

Example:
  opencloud data remove blake3:0f3a

{EXIT_CODES}"))]
    Remove {
        /// Its digest, or a beginning of it
        digest: String,
    },
    /// Fetch a file or directory
    #[command(after_help = format!("\
Every byte is checked against the digest; the result is in place only when it is
whole.

Examples:
  opencloud data get blake3:0f3a --out elevation.tif
  opencloud data get blake3:77c1 --dir --out measurements
  opencloud data get blake3:0f3a --range 0-1023 --out header.bin

{EXIT_CODES}"))]
    Get {
        /// What `data add` printed; of published data a beginning that is unique will do
        digest: String,
        /// Where to write it
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// It is a directory [default: what the catalogue says]
        #[arg(long)]
        dir: bool,
        /// Of a file these bytes alone, the first and the last counted from 0; no more of it is fetched
        #[arg(long, value_name = "A-B", conflicts_with = "dir", value_parser = parse_range)]
        range: Option<RangeInclusive<u64>>,
    },
    /// List the data that this node describes or has pinned
    #[command(after_help = format!("Example:\n  opencloud data list\n\n{EXIT_CODES}"))]
    List,
    /// Show what this node serves and fetches, and what it fetched lately
    #[command(after_help = format!("Example:\n  opencloud data transfers\n\n{EXIT_CODES}"))]
    Transfers,
    /// Keep content on this node; it is fetched first when it is not here
    #[command(after_help = format!("\
What is fetched from others is a cache: it goes a week after its last use, or when its
room is needed. What is pinned stays. Others cannot fetch it from here for that.

Examples:
  opencloud data pin blake3:0f3a
  opencloud data pin blake3:77c1 --dir

{EXIT_CODES}"))]
    Pin {
        /// Its digest; of published data a beginning that is unique will do
        digest: String,
        /// It is a directory [default: what the catalogue says]
        #[arg(long)]
        dir: bool,
    },
    /// Keep content no longer for a pin
    #[command(after_help = format!("Example:\n  opencloud data unpin blake3:0f3a\n\n{EXIT_CODES}"))]
    Unpin {
        /// Its digest, or a beginning of it
        digest: String,
    },
    /// Have willing peers keep copies of data, and others when one of them is lost
    #[command(after_help = format!("\
Copies are made at nodes whose owners let them keep data for this organisation
(`opencloud up --keep`), of as many organisations as there are. Each is proven when it
has come, and every hour, by a random part of it that is read back. One that is lost is
replaced at once; one whose node is away, when the patience is over. --copies 0 ends it.

Examples:
  opencloud data share blake3:0f3a --copies 3
  opencloud data share blake3:0f3a --copies 2 --among did:key:z6Mk…
  opencloud data share blake3:0f3a --copies 0

{EXIT_CODES}"))]
    Share {
        /// Its digest or a beginning of it; `data list` shows what is here
        digest: String,
        /// How many copies, besides the one here
        #[arg(long, value_name = "N")]
        copies: u32,
        /// Among these organisations alone; may be repeated [default: any]
        #[arg(long, value_name = "ORG", value_parser = copies::parse_org)]
        among: Vec<OrgId>,
        /// How long a node may be away before another one is asked, like `30m` [default: 15m]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        patience: Option<u64>,
    },
    /// Show the copies of data at peers
    #[command(after_help = format!("Example:\n  opencloud data copies\n\n{EXIT_CODES}"))]
    Copies,
    /// Show what this node keeps for others
    #[command(after_help = format!("Example:\n  opencloud data kept\n\n{EXIT_CODES}"))]
    Kept,
    /// Read what is kept here again, and check every byte
    #[command(after_help = format!("\
Damaged content is moved to `blobs/quarantine` of the node's home and never handed out.

Examples:
  opencloud data verify
  opencloud data verify blake3:0f3a

{EXIT_CODES}"))]
    Verify {
        /// What, by its digest or a beginning of it [default: everything that `data list` shows]
        digest: Option<String>,
    },
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Add { path, name, private } => add(context, &path, name, private).await,
            Self::Remove { digest } => remove(context, &digest).await,
            Self::Get { digest, out, range: Some(range), .. } => {
                get_range(context, &digest, &range, &out).await
            }
            Self::Get { digest, out, dir, range: None } => get(context, &digest, &out, dir).await,
            Self::List => kept::list(context).await,
            Self::Transfers => kept::transfers(context).await,
            Self::Pin { digest, dir } => kept::pin(context, &digest, dir).await,
            Self::Unpin { digest } => kept::unpin(context, &digest).await,
            Self::Share { digest, copies, among, patience } => {
                let wanted = ToCopy { copies, among, patience_ms: patience };
                copies::share(context, &digest, wanted).await
            }
            Self::Copies => copies::list(context).await,
            Self::Kept => copies::kept(context).await,
            Self::Verify { digest } => kept::verify(context, digest.as_deref()).await,
        }
    }
}

async fn add(
    context: &Context,
    path: &Path,
    name: Option<String>,
    is_private: bool,
) -> Result<u8, CliError> {
    let client = context.client()?;
    let found = std::fs::metadata(path).map_err(CliError::io(path))?;
    let sink = Sink::Node(&client);
    let (digest, size, own_name, is_dir) = if found.is_dir() {
        let dir = sink.dir(path).await?;
        (dir.digest, dir.size, dir.name, true)
    } else {
        let file = sink.file(path).await?;
        (file.digest, file.size, file.name, false)
    };
    let name = name.unwrap_or_else(|| own_name.chars().take(NAME_LEN_MAX).collect());
    let detail = data_detail(path, digest, size, is_dir);
    let key = publish(&client, name, detail, is_private).await?;
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest, "size": size, "directory": is_dir, "key": key}));
    } else {
        context.out.line(&digest.to_string());
    }
    Ok(OK)
}

fn data_detail(path: &Path, digest: Digest, size: u64, directory: bool) -> DataDetail {
    DataDetail {
        media_type: if directory { "inode/directory" } else { media_type(path) }.to_owned(),
        digest,
        size,
        directory,
        quality: String::new(),
        personal: false,
        anonymised: false,
        open: false,
        update_s: None,
        residency: Vec::new(),
    }
}

/// What data is called among its node's resources.
fn key_of(digest: &Digest) -> String {
    format!("data/{}", digest.to_hex())
}

async fn remove(context: &Context, digest: &str) -> Result<u8, CliError> {
    let client = context.client()?;
    let digest = resolve(&client, digest).await?;
    client.delete("/resources", &[("key", &key_of(&digest))]).await?;
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest}));
    } else {
        context.out.line(&format!("{digest} is withdrawn"));
    }
    Ok(OK)
}

async fn publish(
    client: &Client,
    name: String,
    detail: DataDetail,
    is_private: bool,
) -> Result<String, CliError> {
    let resource = Resource {
        key: key_of(&detail.digest),
        name,
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Data(detail),
    };
    let path = if is_private { "/resources?private=true" } else { "/resources" };
    let published: Published = client.post(path, &resource).await?;
    Ok(published.key)
}

async fn get(context: &Context, digest: &str, out: &Path, is_dir: bool) -> Result<u8, CliError> {
    let client = context.client()?;
    let digest = &resolve(&client, digest).await?;
    let is_dir = is_dir || is_known_dir(&client, digest).await?;
    if is_dir {
        download::dir(&client, digest, out).await?;
    } else {
        download::file(&client, digest, out).await?;
    }
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest, "path": out, "directory": is_dir}));
    } else {
        context.out.line(&out.display().to_string());
    }
    Ok(OK)
}

async fn get_range(
    context: &Context,
    digest: &str,
    range: &RangeInclusive<u64>,
    out: &Path,
) -> Result<u8, CliError> {
    let client = context.client()?;
    let digest = resolve(&client, digest).await?;
    let bytes = download::range(&client, &digest, range, out).await?;
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest, "path": out, "bytes": bytes}));
    } else {
        context.out.line(&out.display().to_string());
    }
    Ok(OK)
}

/// `A-B`, the first and the last byte.
fn parse_range(text: &str) -> Result<RangeInclusive<u64>, &'static str> {
    let wrong = "it is written FIRST-LAST, like 0-1023, with the last not before the first";
    let (from, to) = text.split_once('-').ok_or(wrong)?;
    let (from, to): (u64, u64) = (from.parse().map_err(|_| wrong)?, to.parse().map_err(|_| wrong)?);
    if from <= to && to < u64::MAX { Ok(from..=to) } else { Err(wrong) }
}

/// The digest that a text is, or the only one of published data that begins with it.
pub(super) async fn resolve(client: &Client, text: &str) -> Result<Digest, CliError> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    let digits = text.strip_prefix("blake3:").unwrap_or(text).to_ascii_lowercase();
    if digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let what = format!(
            "`{text}` is not a digest: one looks like `blake3:0f3a…`, 64 hex digits in all"
        );
        return Err(CliError::usage(what));
    }
    let query = [("filter", "kind = data"), ("limit", "10000")];
    let found: Vec<ResourceView> = client.get("/catalog", &query).await?;
    let named = found.into_iter().filter_map(|view| match view.resource.detail {
        Detail::Data(data) => Some((data.digest, view.resource.name)),
        _ => None,
    });
    // One content may be published by many, under many names.
    let known: BTreeMap<Digest, String> = named.collect();
    let ids = known.into_iter().map(|(digest, name)| (digest, format!("{digest} ({name})")));
    pick("data set", text, ids, |digest| digest.to_hex().starts_with(&digits))
}

/// Whether the catalogue says that the content is a directory.
pub(super) async fn is_known_dir(client: &Client, digest: &Digest) -> Result<bool, CliError> {
    let filter = format!("kind = data and digest = \"{digest}\"");
    let found: Vec<ResourceView> =
        client.get("/catalog", &[("filter", &filter), ("limit", "16")]).await?;
    Ok(found.iter().any(|view| {
        matches!(&view.resource.detail, Detail::Data(data) if data.directory && data.digest == *digest)
    }))
}

/// The media type that a file's name suggests.
fn media_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "csv" => "text/csv",
        "gz" | "tgz" => "application/gzip",
        "htm" | "html" => "text/html",
        "jpeg" | "jpg" => "image/jpeg",
        "json" => "application/json",
        "geojson" => "application/geo+json",
        "md" => "text/markdown",
        "nc" => "application/netcdf",
        "pdf" => "application/pdf",
        "pgm" => "image/x-portable-graymap",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "tar" => "application/x-tar",
        "tif" | "tiff" => "image/tiff",
        "txt" => "text/plain",
        "wasm" => "application/wasm",
        "xml" => "application/xml",
        "yaml" | "yml" => "application/yaml",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}
