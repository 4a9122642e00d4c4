//! What goes wrong, as `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::error::Error;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use catalog::area::AreaError;
use scheduler::service::{DeployError, RollbackError, ScaleError};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::blobs::BlobError;
use crate::engine::areas::AreasError;
use crate::engine::command::CommandError;
use crate::engine::copies::CopiesError;
use crate::engine::data::DataError;
use crate::engine::disks::DiskError;
use crate::engine::quota::Over;
use crate::engine::services::ServiceError;
use crate::engine::sessions::SessionError;
use crate::engine::workspaces::WorkspaceError;
use crate::runtime::vm::ConvertError;
use crate::shell::{
    CallError, DiskFailed, FetchFailed, ImageFailed, NotConnected, NotInside, NotRead, NotSteered,
};

/// A problem as it goes over the wire. `code` is for programs and never changes its meaning; `detail` is for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
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
    #[schema(value_type = Code)]
    pub code: String,
    /// Of what policies refuse: what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub refusal: Option<Box<Refusal>>,
    /// Of what a quota refuses: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub quota: Option<Box<Over>>,
}

/// What policies refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// Who asked, as `KIND:NAME`.
    pub principal: String,
    /// What it wanted to do.
    pub action: String,
    /// With what, as `KIND:NAME`.
    pub resource: String,
    /// The policies that forbid it, by file and name, without their text; none where nothing permits it.
    pub policies: Vec<String>,
}

macro_rules! codes {
    ($($variant:ident $status:literal $word:literal $title:literal),+ $(,)?) => {
        /// The kinds of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Code {
            $($variant),+
        }

        impl Code {
            /// Every code, for the API's description.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The HTTP status, the word for programs, the sentence for people.
            const fn parts(self) -> (u16, &'static str, &'static str) {
                match self {
                    $(Self::$variant => ($status, $word, $title)),+
                }
            }

            /// The word for programs.
            pub(super) const fn word(self) -> &'static str {
                self.parts().1
            }
        }
    };
}

codes! {
    Token 401 "token" "The bearer token is wrong",
    Host 403 "host" "The Host header is refused",
    Page 403 "page" "A page of another site asks",
    Forbidden 403 "forbidden" "The user may not do this",
    LoginRefused 403 "login_refused" "The login is refused",
    NoProvider 404 "no_provider" "There is no such provider of identities",
    ProviderFailed 502 "provider_failed" "The provider of identities failed",
    NoUser 404 "no_user" "There is no such user",
    UserExists 409 "user_exists" "There is a user of this name",
    UserInvalid 422 "user_invalid" "What is said of a user is refused",
    TooManyUsers 409 "too_many_users" "No more users or tokens are taken",
    NoRoute 404 "no_route" "There is nothing at this address",
    Method 405 "method" "The method is not allowed here",
    Query 400 "query" "The query is not right",
    Body 400 "body" "The body is not right",
    BodyTooLarge 413 "body_too_large" "The body is too large",
    Path 400 "path" "A name in the address is not right",
    NoRun 404 "no_run" "There is no such run",
    NoTask 404 "no_task" "There is no such task",
    RunEnded 409 "run_ended" "The run has ended",
    SubmissionInvalid 422 "submission_invalid" "The submission has errors",
    IdempotencyKey 422 "idempotency_key" "The idempotency key is refused",
    FilterInvalid 400 "filter_invalid" "The filter has an error",
    NoResource 404 "no_resource" "There is no such resource",
    NoAnswer 409 "no_answer" "No peer answered",
    AmbiguousResource 409 "ambiguous_resource" "Several resources have this key",
    ResourceInvalid 422 "resource_invalid" "The resource is refused",
    TicketInvalid 400 "ticket_invalid" "The ticket cannot be read",
    JoinRefused 409 "join_refused" "Joining was refused",
    JoinPending 409 "join_pending" "The inviting owner has not decided yet",
    JoinUnreachable 502 "join_unreachable" "The inviting node cannot be reached",
    RealmRefused 409 "realm_refused" "Something about other realms was refused",
    NoGateway 409 "no_gateway" "No gateway can be asked",
    PapersRefused 422 "papers_refused" "The papers are refused",
    JoinBusy 409 "join_busy" "Another join is under way",
    NoBlob 404 "no_blob" "The blob is not here",
    BlobRefused 422 "blob_refused" "The blob is refused",
    NotPinned 404 "not_pinned" "The content is not pinned",
    TooManyPins 409 "too_many_pins" "No more contents are pinned",
    CopiesRefused 409 "copies_refused" "No more copies are wished",
    RangeOutside 416 "range_outside" "The range is not of the content",
    NoImage 404 "no_image" "There is no such image",
    NoDisk 404 "no_disk" "There is no such disk image",
    DiskExists 409 "disk_exists" "There is a disk image of this name",
    DiskRefused 422 "disk_refused" "The disk image is refused",
    DiskQuota 409 "disk_quota" "No more disk images are taken",
    NoTool 501 "no_tool" "A program of the host is missing",
    NoService 404 "no_service" "There is no such service",
    ServiceInvalid 422 "service_invalid" "The service has errors",
    ServiceState 409 "service_state" "The service is not in a state for this",
    TooManyServices 409 "too_many_services" "No more services are taken",
    NoArea 404 "no_area" "There is no such area, or nothing of the kind in it",
    AreaContent 404 "area_content" "The content is not here",
    AreaState 409 "area_state" "The area is not in the state for it",
    AreaRefused 422 "area_refused" "What is said of the area is refused",
    NoWorkspace 404 "no_workspace" "There is no such workspace",
    WorkspaceState 409 "workspace_state" "The workspace is not as it was read",
    WorkspaceRefused 422 "workspace_refused" "The workspace is refused",
    NoPort 404 "no_port" "The service has no such port",
    LocalPort 409 "local_port" "The local port cannot be listened on",
    NotInside 409 "not_inside" "Nobody gets inside this task",
    InsideRefused 403 "inside_refused" "The node of the task lets nobody inside",
    NotSteered 409 "not_steered" "The task is not suspended or resumed",
    TunnelRefused 403 "tunnel_refused" "The other node opens no such port",
    Upgrade 426 "upgrade" "The connection has to be upgraded",
    NoPolicy 404 "no_policy" "There is no such file of policies",
    PolicyInvalid 422 "policy_invalid" "The policies are refused",
    PolicyChanged 412 "policy_changed" "The policies are not what they were",
    Quota 409 "quota" "A quota is used up",
    NoQuota 404 "no_quota" "There is no such quota",
    QuotaInvalid 422 "quota_invalid" "The quota is refused",
    IsReplica 409 "is_replica" "The run is the replica of a service",
    AmbiguousImage 409 "ambiguous_image" "Several images have this name",
    FetchFailed 502 "fetch_failed" "No other node gave it",
    ImageRefused 409 "image_refused" "The image is refused",
    NoRoom 507 "no_room" "There is no room left",
    Damaged 500 "damaged" "The content was damaged on disk",
    Storage 500 "storage" "The node's storage failed",
    Stopping 503 "stopping" "The node is stopping",
    CursorGone 410 "cursor_gone" "The list has changed",
    TooFast 429 "too_fast" "Too many requests",
    NotReady 503 "not_ready" "The node cannot work now",
    Timeout 504 "timeout" "The node did not answer in time",
    TooManyWatchers 503 "too_many_watchers" "Too many streams are open",
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let words = Self::ALL.iter().map(|code| code.word());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "ProblemCode".into()
    }
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let (status, word, title) = code.parts();
        Self {
            kind: format!("urn:opencloud:problem:{word}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: word.to_owned(),
            refusal: None,
            quota: None,
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

const fn area_code(error: &AreasError) -> Code {
    match error {
        AreasError::Unknown { .. }
        | AreasError::NotShared { .. }
        | AreasError::Workspace(WorkspaceError::Unknown { .. }) => Code::NoArea,
        AreasError::Live { .. }
        | AreasError::TooMany
        | AreasError::Area(
            AreaError::NotMember { .. }
            | AreaError::NotInvited
            | AreaError::Wanted { .. }
            | AreaError::NotThere { .. }
            | AreaError::InForce
            | AreaError::NoProposal { .. }
            | AreaError::NotShared { .. },
        ) => Code::AreaState,
        _ => Code::AreaRefused,
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        use crate::engine::JoinError;
        use crate::engine::images::ImageError;
        use crate::engine::realms::RealmsError;
        let code = match &error {
            CommandError::Submission { .. } => Code::SubmissionInvalid,
            CommandError::NoRun { .. } => Code::NoRun,
            CommandError::Ended { .. } => Code::RunEnded,
            CommandError::Filter { .. } => Code::FilterInvalid,
            CommandError::CursorGone { .. } => Code::CursorGone,
            CommandError::NoResource { .. } | CommandError::NotOwn { .. } => Code::NoResource,
            CommandError::Ambiguous { .. } => Code::AmbiguousResource,
            CommandError::Publish { .. } => Code::ResourceInvalid,
            CommandError::Join(JoinError::Unreachable { .. }) => Code::JoinUnreachable,
            CommandError::Join(JoinError::Pending { .. }) => Code::JoinPending,
            CommandError::Join(_) => Code::JoinRefused,
            CommandError::JoinBusy => Code::JoinBusy,
            CommandError::Ask(_) => Code::NoAnswer,
            CommandError::Quota(error) => return error.clone().into(),
            CommandError::Image(error) => match error {
                ImageError::NoRepository { .. }
                | ImageError::NoImage { .. }
                | ImageError::Unpublished { .. }
                | ImageError::NoContent { .. } => Code::NoImage,
                ImageError::Ambiguous { .. } => Code::AmbiguousImage,
                _ => Code::ImageRefused,
            },
            CommandError::Disk(error) => disk_code(error),
            CommandError::Data(error) => match error {
                DataError::NotPinned { .. } => Code::NotPinned,
                _ => Code::TooManyPins,
            },
            CommandError::Area(error) => area_code(error),
            CommandError::Workspace(error) => match error {
                WorkspaceError::Unknown { .. } => Code::NoWorkspace,
                WorkspaceError::Exists { .. } | WorkspaceError::Changed { .. } => {
                    Code::WorkspaceState
                }
                _ => Code::WorkspaceRefused,
            },
            CommandError::Copies(error) => match error {
                CopiesError::NotHere { .. } => Code::NoBlob,
                _ => Code::CopiesRefused,
            },
            CommandError::Port(_) => Code::TunnelRefused,
            CommandError::Service(error) => service_code(error),
            CommandError::Session(error) => match error {
                SessionError::NoStep { .. } => Code::NoTask,
                SessionError::Closed | SessionError::NotOpen { .. } => Code::InsideRefused,
                _ => Code::NotInside,
            },
            CommandError::Steer(_) => Code::NotSteered,
            CommandError::Trust(_) => Code::PapersRefused,
            CommandError::Realms(error) => match error {
                RealmsError::Unreachable { .. } => Code::JoinUnreachable,
                RealmsError::Pending { .. } => Code::JoinPending,
                RealmsError::Busy => Code::JoinBusy,
                RealmsError::NobodyToAsk => Code::NoGateway,
                _ => Code::RealmRefused,
            },
            CommandError::Replica { .. } => Code::IsReplica,
        };
        Self::of(code, &error)
    }
}

const fn disk_code(error: &DiskError) -> Code {
    match error {
        DiskError::None { .. } => Code::NoDisk,
        DiskError::Ambiguous { .. } => Code::AmbiguousResource,
        DiskError::Exists { .. } => Code::DiskExists,
        DiskError::Count { .. } | DiskError::Bytes { .. } | DiskError::Limit { .. } => {
            Code::DiskQuota
        }
        DiskError::Lost { .. } => Code::Damaged,
        _ => Code::DiskRefused,
    }
}

const fn service_code(error: &ServiceError) -> Code {
    match error {
        ServiceError::Unknown(_)
        | ServiceError::Nowhere { .. }
        | ServiceError::Closed
        | ServiceError::Deploy(DeployError::Unknown(_))
        | ServiceError::Scale(ScaleError::Unknown(_))
        | ServiceError::Rollback(RollbackError::Unknown(_)) => Code::NoService,
        ServiceError::Ambiguous { .. } => Code::AmbiguousResource,
        ServiceError::Deploy(DeployError::Full) => Code::TooManyServices,
        ServiceError::Deploy(DeployError::Removing { .. })
        | ServiceError::Scale(ScaleError::Removing { .. })
        | ServiceError::Rollback(
            RollbackError::Removing { .. }
            | RollbackError::NoRevision { .. }
            | RollbackError::NothingBefore { .. },
        ) => Code::ServiceState,
        _ => Code::ServiceInvalid,
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

impl From<ImageFailed> for Problem {
    fn from(error: ImageFailed) -> Self {
        match error {
            ImageFailed::Call(error) => error.into(),
            ImageFailed::Store(error) => error.into(),
            ImageFailed::Gone { .. } => Self::of(Code::NoImage, &error),
            ImageFailed::Fetch(FetchFailed::Store { source, .. }) => source.into(),
            ImageFailed::Fetch(_) => Self::of(Code::FetchFailed, &error),
            ImageFailed::Refused { .. } => Self::of(Code::ImageRefused, &error),
            ImageFailed::Strange => Self::of(Code::Storage, &error),
        }
    }
}

impl From<DiskFailed> for Problem {
    fn from(error: DiskFailed) -> Self {
        let code = match error {
            DiskFailed::Call(error) => return error.into(),
            DiskFailed::Store(error) => return error.into(),
            DiskFailed::Fetch(_) => Code::NoBlob,
            DiskFailed::Convert(ConvertError::NoTool(_)) => Code::NoTool,
            DiskFailed::Convert(ConvertError::NoRoom { .. }) => Code::NoRoom,
            DiskFailed::Convert(ConvertError::Host(_))
            | DiskFailed::Read { .. }
            | DiskFailed::Strange => Code::Storage,
            DiskFailed::Convert(_) => Code::DiskRefused,
            DiskFailed::Damaged { .. } | DiskFailed::Lie { .. } => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<NotConnected> for Problem {
    fn from(error: NotConnected) -> Self {
        match error {
            NotConnected::Call(error) => error.into(),
            NotConnected::NoPort { .. } | NotConnected::WhichPort { .. } => {
                Self::of(Code::NoPort, &error)
            }
            NotConnected::Listen(_) => Self::of(Code::LocalPort, &error),
            NotConnected::Strange => Self::of(Code::Storage, &error),
            NotConnected::Tunnel(fabric::TunnelError::Refused { .. }) => {
                Self::of(Code::TunnelRefused, &error)
            }
            _ => Self::of(Code::ServiceState, &error),
        }
    }
}

impl From<NotRead> for Problem {
    fn from(error: NotRead) -> Self {
        let code = match error {
            NotRead::Call(error) => return error.into(),
            NotRead::Store(error) => return error.into(),
            NotRead::Fetch(_) => Code::NoBlob,
            NotRead::Disk { .. } => Code::Storage,
        };
        Self::of(code, &error)
    }
}

impl From<NotInside> for Problem {
    fn from(error: NotInside) -> Self {
        use fabric::{TunnelDenied, TunnelError};
        let code = match error {
            NotInside::Call(error) => return error.into(),
            NotInside::Tunnel(TunnelError::Refused { .. })
            | NotInside::Here(TunnelDenied::Refused { .. }) => Code::InsideRefused,
            NotInside::Tunnel(_) | NotInside::Here(_) => Code::NotInside,
            NotInside::Strange => Code::Storage,
        };
        Self::of(code, &error)
    }
}

impl From<NotSteered> for Problem {
    fn from(error: NotSteered) -> Self {
        let code = match error {
            NotSteered::Call(error) => return error.into(),
            NotSteered::Strange => Code::Storage,
            _ => Code::NotSteered,
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
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
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
