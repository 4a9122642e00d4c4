//! Balances, and the bundle that proves them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;

use super::body::Asked;
use super::openapi::{answer, bytes, operation};
use super::page::{self, Page};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{ChannelView, Command, Response};

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
                &[answer(200, "Ledger")],
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
    match api.ask(Command::LedgerExport).await? {
        Response::Bundle(bundle) => {
            Ok(([(header::CONTENT_TYPE, "application/cbor")], bundle).into_response())
        }
        _ => Err(unexpected()),
    }
}
