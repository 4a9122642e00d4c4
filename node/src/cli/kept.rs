//! `opencloud data list | transfers | pin | unpin | verify`: what is kept on this node, and what is on its way.

use catalog::Digest;
use catalog::record::Detail;
use scheduler::value::Manifest;
use serde_json::json;

use super::Context;
use super::bar::Bar;
use super::client::Client;
use super::data::{is_known_dir, resolve};
use super::download;
use super::error::{CliError, OK};
use super::run::pick;
use super::units;
use crate::api::{Listed, Pinned, Stored, ToPin};
use crate::engine::command::ResourceView;
use crate::shell::{Transfer, TransferState};

/// What of `verify` was not all right.
const FAILED: u8 = 1;

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let all: Vec<Listed> = context.client()?.get("/data", &[]).await?;
    if context.out.is_json() {
        context.out.json(&all);
        return Ok(OK);
    }
    let rows = all.into_iter().map(|Listed { data, here }| {
        let whom = match (&data.only_for, data.public) {
            (_, true) => "the realm".to_owned(),
            (Some(orgs), false) if orgs.is_empty() => "own nodes".to_owned(),
            (Some(orgs), false) => format!("own nodes and {} organisations", orgs.len()),
            (None, false) => "nobody".to_owned(),
        };
        vec![
            data.digest.to_string(),
            data.name,
            units::bytes(data.size),
            if data.directory { "directory" } else { "file" }.to_owned(),
            whom,
            if data.pinned { "yes" } else { "" }.to_owned(),
            if here { "yes" } else { "no" }.to_owned(),
        ]
    });
    let header = ["digest", "name", "size", "kind", "open to", "pinned", "here"];
    let empty = "no data is kept here: `opencloud data add` stores some";
    context.out.table(&header, rows.collect(), empty);
    Ok(OK)
}

pub(super) async fn transfers(context: &Context) -> Result<u8, CliError> {
    let all: Vec<Transfer> = context.client()?.get("/transfers", &[]).await?;
    if context.out.is_json() {
        context.out.json(&all);
        return Ok(OK);
    }
    let rows = all.into_iter().map(|one| {
        let (state, to) = match one.state {
            TransferState::Fetching => ("fetching", "from"),
            TransferState::Done => ("fetched", "from"),
            TransferState::Failed => ("not fetched", "from"),
            TransferState::Serving => ("serving", "to"),
        };
        let named = |node: &catalog::NodeId| match one.found.contains(node) {
            true => format!("{} (found by its hash)", node.short()),
            false => node.short(),
        };
        let peers: Vec<String> = one.peers.iter().map(named).collect();
        let part = match one.total {
            Some(total) if total > 0 => {
                format!(
                    "{} of {} ({} %)",
                    units::bytes(one.bytes),
                    units::bytes(total),
                    one.bytes.saturating_mul(100).checked_div(total).unwrap_or(0).min(100)
                )
            }
            _ => units::bytes(one.bytes),
        };
        vec![
            state.to_owned(),
            one.digest.to_string(),
            part,
            format!("{to} {}", peers.join(", ")),
            one.ended_ms.or(one.began_ms).map(units::time).unwrap_or_default(),
        ]
    });
    let header = ["state", "digest", "bytes", "peers", "since"];
    context.out.table(&header, rows.collect(), "nothing is on its way, and nothing was lately");
    Ok(OK)
}

pub(super) async fn pin(context: &Context, digest: &str, is_dir: bool) -> Result<u8, CliError> {
    let client = context.client()?;
    let digest = resolve(&client, digest).await?;
    let directory = is_dir || is_known_dir(&client, &digest).await?;
    let name = name_of(&client, &digest).await?;
    let bar = Bar::work("fetching what is not here");
    let to_pin = ToPin { name, directory };
    let pinned: Pinned = client.put_slowly(&format!("/data/{digest}/pin"), &to_pin).await?;
    bar.end();
    if context.out.is_json() {
        let size = pinned.size;
        context.out.json(&json!({"digest": digest, "size": size, "directory": directory}));
    } else {
        context.out.line(&format!("{digest} stays here ({})", units::bytes(pinned.size)));
    }
    Ok(OK)
}

/// What the catalogue calls a content, if it does.
async fn name_of(client: &Client, digest: &Digest) -> Result<String, CliError> {
    let filter = format!("kind = data and digest = \"{digest}\"");
    let found: Vec<ResourceView> =
        client.get("/catalog", &[("filter", &filter), ("limit", "16")]).await?;
    let is_it = |view: &ResourceView| matches!(&view.resource.detail, Detail::Data(data) if data.digest == *digest);
    Ok(found.into_iter().find(is_it).map(|view| view.resource.name).unwrap_or_default())
}

pub(super) async fn unpin(context: &Context, digest: &str) -> Result<u8, CliError> {
    let client = context.client()?;
    let digest = kept(&client, digest).await?.0;
    client.delete(&format!("/data/{digest}/pin"), &[]).await?;
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest}));
    } else {
        context.out.line(&format!("{digest} is pinned no more"));
    }
    Ok(OK)
}

/// The content that is kept here and begins so, and whether it is a directory.
pub(super) async fn kept(client: &Client, text: &str) -> Result<(Digest, bool), CliError> {
    let all: Vec<Listed> = client.get("/data", &[]).await?;
    if let Ok(digest) = text.parse::<Digest>() {
        let is_dir = all.iter().any(|one| one.data.digest == digest && one.data.directory);
        return Ok((digest, is_dir));
    }
    let digits = text.strip_prefix("blake3:").unwrap_or(text).to_ascii_lowercase();
    let ids = all.into_iter().map(|Listed { data, .. }| {
        let label = format!("{} ({})", data.digest, data.name);
        ((data.digest, data.directory), label)
    });
    pick("data set that is kept here", text, ids, |(digest, _)| {
        digest.to_hex().starts_with(&digits)
    })
}

/// What `verify` found.
#[derive(Debug, Default, serde::Serialize)]
struct Checked {
    contents: u64,
    bytes: u64,
    /// Those that are not what they are called; they are moved away.
    damaged: Vec<Digest>,
    /// Those that are not here.
    missing: Vec<Digest>,
}

pub(super) async fn verify(context: &Context, digest: Option<&str>) -> Result<u8, CliError> {
    let client = context.client()?;
    let sets = match digest {
        Some(text) => vec![kept(&client, text).await?],
        None => {
            let all: Vec<Listed> = client.get("/data", &[]).await?;
            all.into_iter().map(|one| (one.data.digest, one.data.directory)).collect()
        }
    };
    let bar = Bar::work("reading what is kept here");
    let mut checked = Checked::default();
    for (digest, is_dir) in sets {
        let is_sound = check(&client, digest, &mut checked).await?;
        if is_dir && is_sound {
            let bytes = download::small(&client, &digest).await?;
            let manifest =
                Manifest::decode(&bytes).map_err(|source| CliError::Manifest { digest, source })?;
            for file in manifest.files.values() {
                check(&client, file.digest, &mut checked).await?;
            }
        }
    }
    bar.end();
    let is_good = checked.damaged.is_empty() && checked.missing.is_empty();
    if context.out.is_json() {
        context.out.json(&checked);
    } else {
        let Checked { contents, bytes, damaged, missing } = &checked;
        context.out.line(&format!("{contents} contents are sound ({})", units::bytes(*bytes)));
        for digest in damaged {
            context.out.line(&format!("{digest} was damaged and is moved away: `opencloud data pin {digest}` brings it from a peer"));
        }
        for digest in missing {
            context.out.line(&format!(
                "{digest} is not here: `opencloud data pin {digest}` brings it from a peer"
            ));
        }
    }
    Ok(if is_good { OK } else { FAILED })
}

/// Has one content read again.
async fn check(client: &Client, digest: Digest, checked: &mut Checked) -> Result<bool, CliError> {
    match client.post_slowly::<Stored>(&format!("/blobs/{digest}/verify"), &json!({})).await {
        Ok(stored) => {
            checked.contents += 1;
            checked.bytes += stored.size;
            return Ok(true);
        }
        Err(CliError::Problem(problem)) if problem.code == "damaged" => {
            checked.damaged.push(digest);
        }
        Err(CliError::Problem(problem)) if problem.code == "no_blob" => {
            checked.missing.push(digest);
        }
        Err(error) => return Err(error),
    }
    Ok(false)
}
