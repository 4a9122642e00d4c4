//! `/api/docs`: the description of the API as a page to read.
//!
//! The page is written here, from the same document that programs get, without a script and without anything from elsewhere. It shows
//! nothing of the node but the version of its program, so it needs no token: a browser could not send one.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use super::openapi::document;
use super::{BASE, guard};

/// Nothing but the styles of the page itself; nobody may show it inside a page of theirs.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("docs.css");
/// Deepest shape inside shapes that is written out; deeper ones are named.
const DEPTH_MAX: usize = 4;

static PAGE: LazyLock<String> = LazyLock::new(|| page(&document()));

/// The part of the server that shows the page.
pub(super) fn router() -> Router {
    Router::new()
        .route("/api/docs", get(|| async { with("text/html; charset=utf-8", PAGE.as_str()) }))
        .route("/api/docs/style.css", get(|| async { with("text/css; charset=utf-8", STYLE) }))
        .route("/api/docs/openapi.json", get(|| async { axum::Json(document()) }))
        .layer(axum::middleware::from_fn(local_name))
}

async fn local_name(request: Request, next: Next) -> Response {
    match guard::check_host(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn with(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

fn page(document: &Value) -> String {
    let mut out = String::new();
    let version = escaped(text(&document["info"]["version"]));
    // Writing into a text does not fail, here and below.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>OpenCloud API {version}</title><link rel=\"stylesheet\" href=\"/api/docs/style.css\"></head><body>\
         <header><h1>OpenCloud API {version}</h1><p>{}</p>\
         <p>Every route is below <code>{BASE}</code> and needs <code>Authorization: Bearer TOKEN</code>. \
         For programs: <a href=\"/api/docs/openapi.json\">openapi.json</a> (OpenAPI 3.1).</p>\
         <pre>curl -H \"Authorization: Bearer $(cat ~/.opencloud/api.token)\" http://$(cat ~/.opencloud/api.address){BASE}/status</pre></header>",
        escaped(text(&document["info"]["description"]))
    );
    let operations = operations(document);
    out.push_str("<nav aria-label=\"Routes\"><ul>");
    for (method, path, operation) in &operations {
        let id = escaped(text(&operation["operationId"]));
        let _ = write!(
            out,
            "<li><a href=\"#{id}\"><b class=\"{method}\">{}</b> {}</a></li>",
            method.to_uppercase(),
            escaped(path)
        );
    }
    out.push_str("</ul></nav><main>");
    for (method, path, operation) in &operations {
        describe(&mut out, document, (method, path), operation);
    }
    out.push_str("</main></body></html>");
    out
}

/// Method, path and description of every operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        })
        .collect()
}

fn describe(out: &mut String, document: &Value, (method, path): (&str, &str), operation: &Value) {
    let _ = write!(
        out,
        "<section id=\"{}\"><h2><b class=\"{method}\">{}</b> <code>{}</code></h2><p>{}</p>",
        escaped(text(&operation["operationId"])),
        method.to_uppercase(),
        escaped(path),
        escaped(text(&operation["summary"])),
    );
    let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    if !parameters.is_empty() {
        out.push_str("<table><caption>Parameters</caption><tr><th>Name</th><th>In</th><th>Type</th><th>About</th></tr>");
        for parameter in parameters {
            let about = match parameter["required"].as_bool() {
                Some(true) => format!("required. {}", text(&parameter["description"])),
                _ => text(&parameter["description"]).to_owned(),
            };
            let _ = write!(
                out,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(text(&parameter["name"])),
                escaped(text(&parameter["in"])),
                shape(document, &parameter["schema"], 0),
                escaped(&about),
            );
        }
        out.push_str("</table>");
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        for (kind, body) in content {
            let shape = shape(document, &body["schema"], 0);
            let _ = write!(out, "<h3>Body: {}</h3>{shape}", escaped(kind));
        }
    }
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let name = if status == "default" { "Otherwise" } else { status };
        let answer = resolved(document, answer);
        let _ = write!(out, "<h3>{name}: {}</h3>", escaped(text(&answer["description"])));
        for (kind, body) in answer["content"].as_object().into_iter().flatten() {
            let shape = shape(document, &body["schema"], 0);
            let _ = write!(out, "<p><code>{}</code></p>{shape}", escaped(kind));
        }
    }
    out.push_str("</section>");
}

/// What a reference leads to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

/// A shape, with those in it that can be unfolded.
fn shape(document: &Value, schema: &Value, depth: usize) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let to = resolved(document, schema);
        // What is said here says more than what is said of the shape in general.
        let said = [schema, to].map(|shape| text(&shape["description"]));
        let about = escaped(said.into_iter().find(|about| !about.is_empty()).unwrap_or_default());
        if to["enum"].is_array() {
            return format!("{}: {about}", shape(document, to, depth));
        }
        let name = escaped(reference.rsplit('/').next().unwrap_or_default());
        let has_parts = ["properties", "items", "allOf", "anyOf", "oneOf"];
        if depth >= DEPTH_MAX || has_parts.iter().all(|part| to[part].is_null()) {
            return format!("{name} {about}");
        }
        let inside = shape(document, to, depth + 1);
        return format!("<details><summary>{name} {about}</summary>{inside}</details>");
    }
    if let Some(properties) = schema["properties"].as_object() {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut out = String::from("<dl>");
        for (name, property) in properties {
            let mark = if required.contains(&name.as_str()) { "" } else { " <i>optional</i>" };
            let inside = shape(document, property, depth + 1);
            let _ = write!(out, "<dt><code>{}</code>{mark}</dt><dd>{inside}</dd>", escaped(name));
        }
        out.push_str("</dl>");
        return out;
    }
    if schema["type"] == "array" {
        let about = escaped(text(&schema["description"]));
        return format!("{about} list of {}", shape(document, &schema["items"], depth));
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().map(|part| shape(document, part, depth)).collect();
    }
    if let Some(any) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        let parts: Vec<String> = any.iter().map(|one| shape(document, one, depth)).collect();
        return parts.join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> =
            words.iter().map(|word| format!("<code>{}</code>", escaped(text(word)))).collect();
        return words.join(" ");
    }
    let kind = match &schema["type"] {
        Value::Null => "any".to_owned(),
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        kind => text(kind).to_owned(),
    };
    format!("{} {}", escaped(&kind), escaped(text(&schema["description"])))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_on_the_page_and_nothing_comes_from_elsewhere() {
        let document = document();
        for (method, path, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(PAGE.contains(&format!("<section id=\"{id}\">")), "{method} {path}");
        }
        for word in ["<script", "src=", "https://", "style=\""] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn what_a_description_says_is_text() {
        assert_eq!(escaped("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
