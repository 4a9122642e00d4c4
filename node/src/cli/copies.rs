//! `opencloud data share | copies | kept`: copies of data at peers, and what is kept here for others.

use catalog::OrgId;
use scheduler::copies::CopyState;
use serde_json::json;

use super::error::{CliError, OK};
use super::kept::kept as kept_here;
use super::{Context, units};
use crate::api::ToCopy;
use crate::engine::copies::{KeptView, WishView};

pub(super) async fn share(context: &Context, digest: &str, wanted: ToCopy) -> Result<u8, CliError> {
    let client = context.client()?;
    let (digest, _) = kept_here(&client, digest).await?;
    client.put_told(&format!("/data/{digest}/copies"), &wanted).await?;
    if context.out.is_json() {
        context.out.json(&json!({"digest": digest, "copies": wanted.copies}));
    } else if wanted.copies == 0 {
        context.out.line(&format!("no more copies of {digest} are kept at peers"));
    } else {
        let n = wanted.copies;
        context.out.line(&format!(
            "{n} copies of {digest} are wished: `opencloud data copies` shows where they are"
        ));
    }
    Ok(OK)
}

/// How a copy stands, in a word.
const fn word(state: CopyState) -> &'static str {
    match state {
        CopyState::Asked => "asked",
        CopyState::Coming => "coming",
        CopyState::Kept => "kept",
        CopyState::Leaving => "leaving",
    }
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let all: Vec<WishView> = context.client()?.get("/copies", &[]).await?;
    if context.out.is_json() {
        context.out.json(&all);
        return Ok(OK);
    }
    let mut rows = Vec::new();
    for wish in all {
        let there = format!("{} of {}", wish.counting, wish.wished);
        let head = [wish.digest.to_string(), wish.name, there];
        let mut lines: Vec<[String; 3]> = Vec::new();
        for copy in wish.copies {
            let state = match (copy.away_ms, copy.counts, copy.state) {
                (Some(since), _, _) => format!("away since {}", units::time(since)),
                (None, false, CopyState::Kept) => "to be proven".to_owned(),
                (None, _, state) => word(state).to_owned(),
            };
            let proven = copy.proven_ms.map(units::time).unwrap_or_default();
            let node = copy.node.short();
            let whose = copy.org_name.map_or(node.clone(), |org| format!("{org} ({node})"));
            lines.push([whose, state, proven]);
        }
        for no in wish.refused {
            lines.push([no.node.short(), no.why, String::new()]);
        }
        if lines.is_empty() {
            let nobody = "nobody that may be asked is connected";
            lines.push([String::new(), nobody.to_owned(), String::new()]);
        }
        rows.extend(lines.into_iter().map(|line| head.iter().cloned().chain(line).collect()));
    }
    let header = ["digest", "name", "copies", "at", "state", "proven"];
    let empty = "no copies are wished: `opencloud data share DIGEST --copies N` wishes some";
    context.out.table(&header, rows, empty);
    Ok(OK)
}

pub(super) async fn kept(context: &Context) -> Result<u8, CliError> {
    let kept: KeptView = context.client()?.get("/kept", &[]).await?;
    if context.out.is_json() {
        context.out.json(&kept);
        return Ok(OK);
    }
    let (used, most) = (units::bytes(kept.bytes), units::bytes(kept.bytes_max));
    let empty = format!(
        "nothing is kept for others, of {most} that may be: `opencloud up --keep SIZE` lets this node"
    );
    let rows: Vec<Vec<String>> = kept
        .contents
        .into_iter()
        .map(|keep| {
            let state = match keep.state {
                scheduler::copies::KeptState::Coming => "coming",
                scheduler::copies::KeptState::Kept => "kept",
            };
            let owner = keep.owner.short();
            let owner = keep.owner_name.map_or(owner.clone(), |org| format!("{org} ({owner})"));
            let size = units::bytes(keep.size);
            vec![keep.digest.to_string(), keep.name, size, owner, state.to_owned()]
        })
        .collect();
    let is_some = !rows.is_empty();
    context.out.table(&["digest", "name", "size", "for", "state"], rows, &empty);
    if is_some {
        super::output::note(&format!("{used} of {most} are promised"));
    }
    Ok(OK)
}

/// An organisation by its key.
pub(super) fn parse_org(text: &str) -> Result<OrgId, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an organisation: one looks like `did:key:z6Mk…`"))
}
