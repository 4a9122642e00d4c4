//! Errors in the form of the registry specification.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::problem::chain;
use crate::blobs::BlobError;
use crate::engine::command::CommandError;
use crate::engine::images::ImageError;
use crate::engine::images::document::DocumentError;
use crate::engine::images::name::NameError;
use crate::shell::{CallError, FetchFailed, ImageFailed};

/// What can go wrong, in the words of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// No such blob.
    BlobUnknown,
    /// An upload that is not right.
    UploadInvalid,
    /// No such upload.
    UploadUnknown,
    /// A digest that is none, or is another content's.
    DigestInvalid,
    /// A manifest names what is not there.
    ManifestBlobUnknown,
    /// A manifest that is not right.
    ManifestInvalid,
    /// No such manifest.
    ManifestUnknown,
    /// No name of a repository.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// Another length than said.
    SizeInvalid,
    /// No token.
    Unauthorized,
    /// Refused.
    Denied,
    /// Not possible here.
    Unsupported,
    /// Too much at once.
    TooManyRequests,
    /// The node failed; not of the specification, as registries have it.
    Unknown,
}

impl Code {
    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::UploadInvalid => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestBlobUnknown => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::SizeInvalid => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Self::Unsupported => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }
}

/// An error as clients of registries read it.
#[derive(Clone, Debug)]
pub(crate) struct RegistryError {
    status: StatusCode,
    code: Code,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    is_broken_off: bool,
}

impl RegistryError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let (status, _) = code.parts();
        Self { status, code, message: message.into(), headers: Vec::new(), is_broken_off: false }
    }

    fn of(code: Code, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    /// With another status than the code's own.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Whether a body ended too early, and its sender may go on with the rest.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.is_broken_off
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Nothing that may be asked of the registry that way.
    pub(crate) fn denied(message: String) -> Self {
        Self::new(Code::Denied, message)
    }

    /// Nobody who may speak to the registry.
    pub(crate) fn unauthorized(message: String) -> Self {
        let challenge = HeaderValue::from_static("Basic realm=\"opencloud\"");
        let (name, value) = super::VERSION;
        Self::new(Code::Unauthorized, message)
            .with_header(header::WWW_AUTHENTICATE, challenge)
            .with_header(name, value)
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let error = serde_json::json!({"code": self.code.parts().1, "message": self.message});
        let body = Json(serde_json::json!({"errors": [error]}));
        let mut response = (self.status, body).into_response();
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

impl From<NameError> for RegistryError {
    fn from(error: NameError) -> Self {
        let code = match error {
            NameError::Repository { .. } => Code::NameInvalid,
            NameError::Tag { .. } => Code::ManifestInvalid,
            NameError::Digest { .. } => Code::DigestInvalid,
        };
        Self::of(code, &error)
    }
}

impl From<DocumentError> for RegistryError {
    fn from(error: DocumentError) -> Self {
        let is_long = matches!(error, DocumentError::TooLong { .. });
        let answer = Self::of(Code::ManifestInvalid, &error);
        if is_long { answer.with_status(StatusCode::PAYLOAD_TOO_LARGE) } else { answer }
    }
}

impl From<ImageError> for RegistryError {
    fn from(error: ImageError) -> Self {
        let code = match &error {
            ImageError::NoRepository { .. } => Code::NameUnknown,
            ImageError::NoImage { .. }
            | ImageError::Unpublished { .. }
            | ImageError::Ambiguous { .. } => Code::ManifestUnknown,
            ImageError::NoContent { .. } => Code::BlobUnknown,
            ImageError::Missing { .. } => Code::ManifestBlobUnknown,
            ImageError::Size { .. } => Code::ManifestInvalid,
            ImageError::InUse { .. } => {
                return Self::of(Code::Denied, &error).with_status(StatusCode::METHOD_NOT_ALLOWED);
            }
            ImageError::Tags { .. } | ImageError::Full => Code::Denied,
        };
        Self::of(code, &error)
    }
}

impl From<ImageFailed> for RegistryError {
    fn from(error: ImageFailed) -> Self {
        match error {
            ImageFailed::Call(CallError::Command(CommandError::Image(error))) => error.into(),
            ImageFailed::Call(error) => {
                Self::of(Code::Unknown, &error).with_status(StatusCode::SERVICE_UNAVAILABLE)
            }
            ImageFailed::Store(error) => error.into(),
            ImageFailed::Gone { .. } => Self::of(Code::ManifestBlobUnknown, &error),
            ImageFailed::Fetch(FetchFailed::Store { source, .. }) if source.is_no_room() => {
                source.into()
            }
            ImageFailed::Fetch(_) | ImageFailed::Refused { .. } => {
                Self::of(Code::Unknown, &error).with_status(StatusCode::BAD_GATEWAY)
            }
            ImageFailed::Strange => Self::of(Code::Unknown, &error),
        }
    }
}

impl From<BlobError> for RegistryError {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::NotFound { .. } | BlobError::Corrupt { .. } => {
                Self::of(Code::BlobUnknown, &error)
            }
            BlobError::Stream { .. } => {
                Self { is_broken_off: true, ..Self::of(Code::UploadInvalid, &error) }
            }
            BlobError::TooLarge { .. } => {
                Self::of(Code::SizeInvalid, &error).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            BlobError::Stopped => {
                Self::of(Code::Unknown, &error).with_status(StatusCode::SERVICE_UNAVAILABLE)
            }
            refused if refused.is_no_room() => {
                Self::of(Code::Denied, &error).with_status(StatusCode::INSUFFICIENT_STORAGE)
            }
            _ => Self::of(Code::Unknown, &error),
        }
    }
}
