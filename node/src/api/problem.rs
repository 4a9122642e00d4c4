//! What goes wrong, as `application/problem+json` (RFC 9457).

use std::error::Error;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::blobs::BlobError;
use crate::engine::command::CommandError;
use crate::shell::CallError;

/// A problem as it goes over the wire. `code` is for programs and never changes its meaning; `detail` is for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// `urn:opencloud:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and the way out.
    pub detail: String,
    /// One word for programs.
    pub code: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Token,
    Host,
    NoRoute,
    Method,
    Query,
    Body,
    BodyTooLarge,
    Path,
    NoRun,
    NoTask,
    RunEnded,
    SubmissionInvalid,
    IdempotencyKey,
    FilterInvalid,
    NoResource,
    AmbiguousResource,
    ResourceInvalid,
    TicketInvalid,
    JoinRefused,
    JoinUnreachable,
    JoinBusy,
    NoBlob,
    BlobRefused,
    NoRoom,
    Damaged,
    Storage,
    Stopping,
    Timeout,
    TooManyWatchers,
}

impl Code {
    /// Every code, for the API's description.
    pub(super) const ALL: [Self; 29] = [
        Self::Token,
        Self::Host,
        Self::NoRoute,
        Self::Method,
        Self::Query,
        Self::Body,
        Self::BodyTooLarge,
        Self::Path,
        Self::NoRun,
        Self::NoTask,
        Self::RunEnded,
        Self::SubmissionInvalid,
        Self::IdempotencyKey,
        Self::FilterInvalid,
        Self::NoResource,
        Self::AmbiguousResource,
        Self::ResourceInvalid,
        Self::TicketInvalid,
        Self::JoinRefused,
        Self::JoinUnreachable,
        Self::JoinBusy,
        Self::NoBlob,
        Self::BlobRefused,
        Self::NoRoom,
        Self::Damaged,
        Self::Storage,
        Self::Stopping,
        Self::Timeout,
        Self::TooManyWatchers,
    ];

    /// The word for programs, the sentence for people, the HTTP status.
    pub(super) const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Token => ("token", "The bearer token is wrong", StatusCode::UNAUTHORIZED),
            Self::Host => ("host", "The Host header is refused", StatusCode::FORBIDDEN),
            Self::NoRoute => ("no_route", "There is nothing at this address", StatusCode::NOT_FOUND),
            Self::Method => ("method", "The method is not allowed here", StatusCode::METHOD_NOT_ALLOWED),
            Self::Query => ("query", "The query is not right", StatusCode::BAD_REQUEST),
            Self::Body => ("body", "The body is not right", StatusCode::BAD_REQUEST),
            Self::BodyTooLarge => ("body_too_large", "The body is too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::Path => ("path", "A name in the address is not right", StatusCode::BAD_REQUEST),
            Self::NoRun => ("no_run", "There is no such run", StatusCode::NOT_FOUND),
            Self::NoTask => ("no_task", "There is no such task", StatusCode::NOT_FOUND),
            Self::RunEnded => ("run_ended", "The run has ended", StatusCode::CONFLICT),
            Self::SubmissionInvalid => {
                ("submission_invalid", "The submission has errors", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::IdempotencyKey => {
                ("idempotency_key", "The idempotency key is refused", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::FilterInvalid => ("filter_invalid", "The filter has an error", StatusCode::BAD_REQUEST),
            Self::NoResource => ("no_resource", "There is no such resource", StatusCode::NOT_FOUND),
            Self::AmbiguousResource => {
                ("ambiguous_resource", "Several resources have this key", StatusCode::CONFLICT)
            }
            Self::ResourceInvalid => {
                ("resource_invalid", "The resource is refused", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::TicketInvalid => ("ticket_invalid", "The ticket cannot be read", StatusCode::BAD_REQUEST),
            Self::JoinRefused => ("join_refused", "Joining was refused", StatusCode::CONFLICT),
            Self::JoinUnreachable => {
                ("join_unreachable", "The inviting node cannot be reached", StatusCode::BAD_GATEWAY)
            }
            Self::JoinBusy => ("join_busy", "Another join is under way", StatusCode::CONFLICT),
            Self::NoBlob => ("no_blob", "The blob is not here", StatusCode::NOT_FOUND),
            Self::BlobRefused => ("blob_refused", "The blob is refused", StatusCode::UNPROCESSABLE_ENTITY),
            Self::NoRoom => ("no_room", "There is no room left", StatusCode::INSUFFICIENT_STORAGE),
            Self::Damaged => ("damaged", "The content was damaged on disk", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Storage => ("storage", "The node's storage failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Stopping => ("stopping", "The node is stopping", StatusCode::SERVICE_UNAVAILABLE),
            Self::Timeout => ("timeout", "The node did not answer in time", StatusCode::GATEWAY_TIMEOUT),
            Self::TooManyWatchers => {
                ("too_many_watchers", "Too many streams are open", StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let (word, title, status) = code.parts();
        Self {
            kind: format!("urn:opencloud:problem:{word}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: word.to_owned(),
        }
    }

    /// A problem whose detail is an error with its causes.
    pub(super) fn of(code: Code, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// The error and its causes in one line. A cause that the line before already says is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        use crate::engine::JoinError;
        let code = match &error {
            CommandError::Submission { .. } => Code::SubmissionInvalid,
            CommandError::NoRun { .. } => Code::NoRun,
            CommandError::Ended { .. } => Code::RunEnded,
            CommandError::Filter { .. } => Code::FilterInvalid,
            CommandError::NoResource { .. } => Code::NoResource,
            CommandError::Ambiguous { .. } => Code::AmbiguousResource,
            CommandError::Publish { .. } => Code::ResourceInvalid,
            CommandError::Join(JoinError::Unreachable { .. }) => Code::JoinUnreachable,
            CommandError::Join(_) => Code::JoinRefused,
            CommandError::JoinBusy => Code::JoinBusy,
        };
        Self::of(code, &error)
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let code = match error {
            CallError::Command(error) => return error.into(),
            CallError::Storage { .. } => Code::Storage,
            CallError::Stopped => Code::Stopping,
            CallError::Timeout => Code::Timeout,
        };
        Self::of(code, &error)
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let code = match &error {
            BlobError::NotFound { .. } => Code::NoBlob,
            BlobError::Corrupt { .. } => Code::Damaged,
            BlobError::Stopped => Code::Stopping,
            BlobError::Io { .. } => Code::Storage,
            error if error.is_no_room() => Code::NoRoom,
            _ => Code::BlobRefused,
        };
        Self::of(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_word_of_its_own() {
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.parts().0).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn a_problem_is_problem_json_with_all_members() {
        let response = Problem::new(Code::Token, "no token").into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let json = serde_json::to_value(Problem::new(Code::NoRun, "x")).unwrap();
        for key in ["type", "title", "status", "detail", "code"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
