//! The description of the API: OpenAPI 3.1, put together from the table of routes.

use axum::Json;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::problem::Code;
use super::schemas::schemas;
use super::{BASE, Route, routes as all_routes};

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "get",
        path: "/openapi.json",
        handler: get(|| async { Json(document()) }),
        doc: operation("describe", "This description", &[], &[answer(200, "OpenApi")]),
    }]
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in all_routes() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = route.doc;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenCloud node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of one node, for its owner and its users. Listens on the loopback interface unless told otherwise.",
        },
        "servers": [{"url": BASE}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The text in `api.token` of the node's home, or an access token of a user."},
                "session": {"type": "apiKey", "in": "cookie", "name": "opencloud-*", "description": "A session of a browser; what changes something carries the header `X-Opencloud`, too."},
            },
            "responses": {
                "Problem": {
                    "description": "What went wrong",
                    "content": {"application/problem+json": {"schema": schema("Problem")}},
                },
            },
            "schemas": with_problem(schemas()),
        },
    })
}

fn with_problem(mut schemas: Value) -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    schemas["Problem"] = json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What happened this time, and the way out"},
            "code": {"enum": codes},
            "refusal": {
                "type": "object",
                "description": "Of what policies refuse: what it was",
                "required": ["principal", "action", "resource", "policies"],
                "properties": {
                    "principal": {"type": "string", "description": "Who asked, as KIND:NAME"},
                    "action": {"type": "string", "description": "What it wanted to do"},
                    "resource": {"type": "string", "description": "With what, as KIND:NAME"},
                    "policies": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "The policies that forbid it, as FILE/NAME; none where nothing permits it",
                    },
                },
            },
            "quota": {"$ref": "#/components/schemas/QuotaOver"},
        },
    });
    schemas
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An operation. Problems are added to its answers.
pub(super) fn operation(
    id: &str,
    summary: &str,
    parameters: &[Value],
    answers: &[(u16, Value)],
) -> Value {
    let mut responses = Map::new();
    for (status, answer) in answers {
        responses.insert(status.to_string(), answer.clone());
    }
    responses.insert("default".to_owned(), json!({"$ref": "#/components/responses/Problem"}));
    json!({"operationId": id, "summary": summary, "parameters": parameters, "responses": responses})
}

/// The operation with a JSON body.
pub(super) fn takes(name: &str, operation: Value) -> Value {
    with_body(operation, "application/json", schema(name))
}

/// Like [`takes`] where nothing need be said.
pub(super) fn may_take(name: &str, operation: Value) -> Value {
    let mut operation = takes(name, operation);
    operation["requestBody"]["required"] = json!(false);
    operation
}

/// The operation with bytes as its body.
pub(super) fn takes_bytes(operation: Value) -> Value {
    let mut operation = with_body(operation, "application/octet-stream", json!({}));
    // No body is a content, too: that of no bytes.
    operation["requestBody"]["required"] = json!(false);
    operation
}

fn with_body(mut operation: Value, kind: &str, schema: Value) -> Value {
    let mut content = Map::new();
    content.insert(kind.to_owned(), json!({"schema": schema}));
    operation["requestBody"] = json!({"required": true, "content": content});
    operation
}

/// An answer in JSON.
pub(super) fn answer(status: u16, name: &str) -> (u16, Value) {
    let content = json!({"application/json": {"schema": schema(name)}});
    (status, json!({"description": name, "content": content}))
}

/// An answer in bytes.
pub(super) fn bytes(kind: &str) -> (u16, Value) {
    let mut content = Map::new();
    content.insert(kind.to_owned(), json!({}));
    (200, json!({"description": "The bytes", "content": content}))
}

/// An answer without a body.
pub(super) fn no_body(status: u16, description: &str) -> (u16, Value) {
    (status, json!({"description": description}))
}

/// One server-sent event, as clients take the stream apart.
fn event() -> Value {
    json!({
        "type": "object",
        "description": "Each event of the stream",
        "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    })
}

/// An answer as server-sent events.
pub(super) fn events(description: &str) -> (u16, Value) {
    let content = json!({"text/event-stream": {"schema": event()}});
    (200, json!({"description": description, "content": content}))
}

/// A log: text, or events with `follow`.
pub(super) fn text_or_events() -> (u16, Value) {
    let content = json!({
        "text/plain": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": event()},
    });
    let mut headers = Map::new();
    headers.insert(
        super::logs::DROPPED.to_owned(),
        json!({
            "description": "Bytes of the text that were written and are not kept",
            "schema": {"type": "integer"},
        }),
    );
    (
        200,
        json!({
            "description": "The text, of which `tail` wants so many last lines alone; with `follow`, events whose `data` is {offset, text}, and `dropped` where bytes before it are not kept",
            "content": content,
            "headers": headers,
        }),
    )
}

/// A parameter of the query.
pub(super) fn query(name: &str, kind: &str, is_required: bool) -> Value {
    json!({"name": name, "in": "query", "required": is_required, "schema": {"type": kind}})
}

/// An optional header.
pub(super) fn header(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
}

/// The run in the address.
pub(super) fn run_id() -> Value {
    json!({"name": "id", "in": "path", "required": true, "schema": schema("RunId")})
}

/// The service in the address.
pub(super) fn service_name() -> Value {
    json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}})
}

/// The workspace in the address.
pub(super) fn workspace_name() -> Value {
    json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}})
}

/// The digest in the address.
pub(super) fn digest() -> Value {
    json!({"name": "digest", "in": "path", "required": true, "schema": schema("Digest")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let document = document();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| (method.clone(), path.clone()))
            })
            .collect();
        let served: BTreeSet<(String, String)> = all_routes()
            .iter()
            .map(|route| (route.method.to_owned(), route.path.to_owned()))
            .collect();
        assert_eq!(described, served);
        assert_eq!(served.len(), all_routes().len(), "a route stands twice");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }

    #[test]
    fn parameters_in_addresses_are_described() {
        for route in all_routes() {
            let named: BTreeSet<&str> = route.doc["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let in_path: BTreeSet<&str> = route.path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(named, in_path, "{}", route.path);
        }
    }

    /// The dashboard's types are made of this file; where the API was changed, the test is run with the variable
    /// `OPENCLOUD_WRITE` set, which writes it, and then `npm run types` in `node/dashboard`.
    #[test]
    fn the_dashboard_knows_this_api() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard/openapi.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("OPENCLOUD_WRITE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap();
        let way_out = "run this test with OPENCLOUD_WRITE=1, then `npm ci && npm run types` in node/dashboard";
        assert!(known == text, "{} is not this API: {way_out}", path.display());
    }

    #[test]
    fn operation_ids_are_unique() {
        let ids: BTreeSet<String> = all_routes()
            .iter()
            .map(|r| r.doc["operationId"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), all_routes().len());
    }
}
