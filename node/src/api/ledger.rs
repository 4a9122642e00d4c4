//! Balances, and the bundle that proves them.

use accounting::{Report, Verdict};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;

use super::body::Asked;
use super::openapi::{answers, bytes, lists, operation};
use super::page::{self, Page};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{ChannelView, Command, Response};
use crate::schema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/ledger",
            handler: get(show),
            doc: operation(
                "ledger",
                "Balances of every channel",
                &page::parameters(),
                &[lists::<ChannelView>("Ledger")],
            ),
        },
        Route {
            method: "get",
            path: "/ledger/export",
            handler: get(export),
            doc: operation(
                "exportLedger",
                "Every channel with its proofs, for `opencloud ledger verify`",
                &[],
                &[bytes("application/cbor")],
            ),
        },
        Route {
            method: "get",
            path: "/ledger/verification",
            handler: get(verify),
            doc: operation(
                "verifyLedger",
                "The same check as `opencloud ledger verify` of what is exported now: every signature, link and amount",
                &[],
                &[answers::<Verification>(200)],
            ),
        },
    ]
}

async fn show(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<ChannelView>>), Problem> {
    match api.ask(Command::Ledger).await? {
        Response::Ledger(channels) => page.of(&uri, channels, |one| one.channel.to_string()),
        _ => Err(unexpected()),
    }
}

async fn export(State(api): State<Api>) -> Result<HttpResponse, Problem> {
    Ok(([(header::CONTENT_TYPE, "application/cbor")], bundle(&api).await?).into_response())
}

async fn bundle(api: &Api) -> Result<Vec<u8>, Problem> {
    match api.ask(Command::LedgerExport).await? {
        Response::Bundle(bundle) => Ok(bundle),
        _ => Err(unexpected()),
    }
}

/// What a check of the exported channels found.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct Verification {
    #[schema(value_type = schema::Verdict)]
    verdict: Verdict,
    /// Channels that were read.
    channels: usize,
    /// Receipts in them.
    receipts: u64,
    /// What is wrong, and with which item.
    findings: Vec<String>,
    /// How many more there are.
    findings_omitted: u64,
}

impl From<Report> for Verification {
    fn from(report: Report) -> Self {
        Self {
            verdict: report.verdict,
            channels: report.channels.len(),
            receipts: report.channels.iter().map(|channel| channel.receipts).sum(),
            findings: report
                .findings
                .iter()
                .map(|finding| format!("item {}: {}", finding.item, finding.problem))
                .collect(),
            findings_omitted: report.findings_omitted,
        }
    }
}

async fn verify(State(api): State<Api>) -> Result<Json<Verification>, Problem> {
    let bundle = bundle(&api).await?;
    // Thousands of signatures take a while, and others wait for this thread.
    let report = tokio::task::spawn_blocking(move || accounting::verify(&bundle)).await;
    report.map(|report| Json(report.into())).map_err(|error| Problem::of(Code::Storage, &error))
}
