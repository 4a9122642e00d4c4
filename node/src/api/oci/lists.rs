//! Lists: repositories, tags, what refers to a manifest.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::{Code, RegistryError};
use super::manifests::unexpected;
use super::{Asked, BASE, Registry, text_header};
use crate::engine::images::document::OCI_INDEX;
use crate::engine::images::name::{OciDigest, Repository};
use crate::engine::images::{Answer, Command, Page, Query, Referrer};

/// Referrers in one answer; more come with the next. Each may have 16 KiB of annotations.
const REFERRERS_MAX: usize = 100;

impl Registry {
    pub(super) async fn repositories(&self, asked: &Asked) -> Result<Response, RegistryError> {
        let page = page(asked)?;
        let limit = page.limit;
        let names = self.names(Query::Repositories { page }).await?;
        Ok(listed(
            &format!("{BASE}/_catalog"),
            limit,
            names,
            |names| json!({"repositories": names}),
        ))
    }

    pub(super) async fn tags(
        &self,
        repository: Repository,
        asked: &Asked,
    ) -> Result<Response, RegistryError> {
        let page = page(asked)?;
        let limit = page.limit;
        let address = format!("{BASE}/{repository}/tags/list");
        let names = self.names(Query::Tags { repository: repository.clone(), page }).await?;
        Ok(listed(&address, limit, names, |names| json!({"name": repository, "tags": names})))
    }

    async fn names(&self, query: Query) -> Result<(Vec<String>, bool), RegistryError> {
        match self.api.handle.image(Command::Ask(query)).await? {
            Answer::Names(names, is_more) => Ok((names, is_more)),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn referrers(
        &self,
        repository: Repository,
        subject: OciDigest,
        asked: &Asked,
    ) -> Result<Response, RegistryError> {
        let artifact_type = asked.param("artifactType").map(str::to_owned);
        let after = asked.param("last").map(str::to_owned);
        let query = Query::Referrers {
            repository: repository.clone(),
            subject,
            artifact_type: artifact_type.clone(),
            page: Page { after, limit: REFERRERS_MAX },
        };
        let Answer::Referrers(found, is_more) = self.api.handle.image(Command::Ask(query)).await?
        else {
            return Err(unexpected());
        };
        let manifests: Vec<Value> = found.iter().map(descriptor).collect();
        let body = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let mut response = Json(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        if artifact_type.is_some() {
            let name = HeaderName::from_static("oci-filters-applied");
            headers.insert(name, HeaderValue::from_static("artifactType"));
        }
        if let Some(last) = found.last().filter(|_| is_more) {
            let filter = artifact_type
                .map_or(String::new(), |kind| format!("&artifactType={}", encoded(&kind)));
            let next =
                format!("{BASE}/{repository}/referrers/{subject}?last={}{filter}", last.digest);
            headers.insert(header::LINK, text_header(&format!("<{next}>; rel=\"next\"")));
        }
        Ok(response)
    }
}

fn descriptor(found: &Referrer) -> Value {
    let document = &found.document;
    let mut value = json!({
        "mediaType": document.media_type,
        "digest": found.digest,
        "size": found.size,
    });
    if let Some(kind) = &document.artifact_type {
        value["artifactType"] = json!(kind);
    }
    if !document.annotations.is_empty() {
        value["annotations"] = json!(document.annotations);
    }
    value
}

/// Which part of a list is wanted.
fn page(asked: &Asked) -> Result<Page, RegistryError> {
    let limit = match asked.param("n").filter(|text| !text.is_empty()) {
        Some(text) => text.parse::<usize>().map_err(|_| {
            let message = "`n` is not a number: it says how many names are wanted";
            RegistryError::new(Code::Unsupported, message)
        })?,
        None => Page::LIMIT_MAX,
    };
    Ok(Page { after: asked.param("last").map(str::to_owned), limit: limit.min(Page::LIMIT_MAX) })
}

/// A list, with the address of what comes next when there is more.
fn listed(
    address: &str,
    limit: usize,
    (names, is_more): (Vec<String>, bool),
    body: impl Fn(&[String]) -> Value,
) -> Response {
    let mut response = Json(body(&names)).into_response();
    if let Some(last) = names.last().filter(|_| is_more) {
        let next = format!("<{address}?n={limit}&last={}>; rel=\"next\"", encoded(last));
        response.headers_mut().insert(header::LINK, text_header(&next));
    }
    response
}

/// Text as it may stand in a query.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_query_cannot_end_it() {
        assert_eq!(encoded("a/b.c-1"), "a/b.c-1");
        assert_eq!(encoded("a b&c=\"<>ä"), "a%20b%26c%3D%22%3C%3E%C3%A4");
    }
}
