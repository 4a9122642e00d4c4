//! The description of the API: OpenAPI 3.1, put together from the table of routes by `utoipa`.
//!
//! A route says which types it reads and answers with, and their shapes come from the types themselves, as do those of everything
//! inside them: nothing has to be registered. What is no type of this crate has its shape in [`crate::schema`].

use std::collections::BTreeMap;

use axum::Json;
use axum::routing::get;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ComponentsBuilder, Content, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref,
    RefOr, Required, Response, ResponseBuilder, Schema, Server,
};

use super::problem::Problem;
use super::{BASE, Route, routes as all_routes};
use crate::schema;

/// Shapes by name.
type Shapes = Vec<(String, RefOr<Schema>)>;

/// An operation, and the shapes that it names.
pub(super) struct Described {
    pub(super) operation: Operation,
    shapes: Shapes,
}

/// One of the answers of an operation, and the shapes that it names.
#[derive(Clone)]
pub(super) struct Answer {
    status: u16,
    response: Response,
    shapes: Shapes,
}

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "get",
        path: "/openapi.json",
        handler: get(|| async { Json(document()) }),
        doc: operation("describe", "This description", &[], &[answers::<schema::OpenApi>(200)]),
    }]
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut document = serde_json::to_value(described()).expect("each key in it is a text");
    widen(&mut document);
    document
}

/// Takes the formats `int32` and `int64` from numbers that have no sign: they reach twice as far, and there is no format for that.
fn widen(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_unsigned = members.get("minimum").and_then(Value::as_u64).is_some();
            let is_narrow =
                matches!(members.get("format").and_then(Value::as_str), Some("int32" | "int64"));
            if is_unsigned && is_narrow {
                members.remove("format");
            }
            members.values_mut().for_each(widen);
        }
        Value::Array(items) => items.iter_mut().for_each(widen),
        _ => {}
    }
}

fn described() -> OpenApi {
    let mut paths = Paths::new();
    let mut shapes = Shapes::new();
    let problem = named::<Problem>(&mut shapes);
    let problem = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/problem+json", Content::new(Some(problem)));
    for Route { method, path, doc, .. } in all_routes() {
        paths.add_path_operation(path, vec![http_method(method)], doc.operation);
        shapes.extend(doc.shapes);
    }
    let shapes: BTreeMap<_, _> = shapes.into_iter().collect();
    let components = ComponentsBuilder::new()
        .schemas_from_iter(shapes)
        .response("Problem", problem.build())
        .security_scheme("token", token())
        .security_scheme("session", session());
    let about = "The API of one node, for its owner and its users. Listens on the loopback interface unless told otherwise.";
    let info = InfoBuilder::new()
        .title("OpenCloud node")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about));
    let nothing: [&str; 0] = [];
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new(BASE)]))
        .paths(paths)
        .components(Some(components.build()))
        .security(Some(["token", "session"].map(|way| SecurityRequirement::new(way, nothing))))
        .build()
}

fn token() -> SecurityScheme {
    let about = "The text in `api.token` of the node's home, or an access token of a user.";
    SecurityScheme::Http(
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build(),
    )
}

fn session() -> SecurityScheme {
    let about =
        "A session of a browser; what changes something carries the header `X-Opencloud`, too.";
    SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description("opencloud-*", about)))
}

/// The method of a route; the tests hold that each is one of these.
fn http_method(name: &str) -> HttpMethod {
    match name {
        "put" => HttpMethod::Put,
        "post" => HttpMethod::Post,
        "patch" => HttpMethod::Patch,
        "delete" => HttpMethod::Delete,
        "head" => HttpMethod::Head,
        _ => HttpMethod::Get,
    }
}

/// A reference to the shape of a type, which is kept with those of everything inside it.
fn named<T: ToSchema>(shapes: &mut Shapes) -> Ref {
    shapes.push((T::name().into_owned(), T::schema()));
    T::schemas(shapes);
    Ref::from_schema_name(T::name())
}

fn plain(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

/// An operation. Problems are added to its answers.
pub(super) fn operation(
    id: &str,
    summary: &str,
    parameters: &[Parameter],
    answers: &[Answer],
) -> Described {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(id))
        .summary(Some(summary))
        .parameters(Some(parameters.iter().cloned()));
    let mut shapes = Shapes::new();
    for answer in answers {
        operation = operation.response(answer.status.to_string(), answer.response.clone());
        shapes.extend(answer.shapes.iter().cloned());
    }
    let operation = operation.response("default", Ref::from_response_name("Problem")).build();
    Described { operation, shapes }
}

/// The operation with a JSON body.
pub(super) fn reads<T: ToSchema>(mut operation: Described) -> Described {
    let shape = named::<T>(&mut operation.shapes);
    with_body(operation, "application/json", shape.into(), Required::True)
}

/// Like [`reads`] where nothing need be said.
pub(super) fn may_read<T: ToSchema>(mut operation: Described) -> Described {
    let shape = named::<T>(&mut operation.shapes);
    with_body(operation, "application/json", shape.into(), Required::False)
}

/// The operation with bytes as its body. No body is a content, too: that of no bytes.
pub(super) fn takes_bytes(operation: Described) -> Described {
    let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    with_body(operation, "application/octet-stream", anything.into(), Required::False)
}

fn with_body(
    mut operation: Described,
    kind: &str,
    shape: RefOr<Schema>,
    is_required: Required,
) -> Described {
    let body = RequestBodyBuilder::new()
        .content(kind, Content::new(Some(shape)))
        .required(Some(is_required));
    operation.operation.request_body = Some(RefOr::T(body.build()));
    operation
}

/// An answer in JSON.
pub(super) fn answers<T: ToSchema>(status: u16) -> Answer {
    let mut shapes = Shapes::new();
    let shape = named::<T>(&mut shapes);
    Answer { shapes, ..said(status, &T::name(), "application/json", Some(shape.into())) }
}

/// An answer in JSON that is a list, which has a name, too.
pub(super) fn lists<T: ToSchema>(name: &str) -> Answer {
    let mut shapes = Shapes::new();
    let items = named::<T>(&mut shapes);
    shapes.push((name.to_owned(), ArrayBuilder::new().items(items).into()));
    let shape = Ref::from_schema_name(name);
    Answer { shapes, ..said(200, name, "application/json", Some(shape.into())) }
}

/// An answer in bytes.
pub(super) fn bytes(kind: &str) -> Answer {
    said(200, "The bytes", kind, None)
}

/// An answer that is a page.
pub(super) fn web_page() -> Answer {
    said(200, "A page for people", "text/html", Some(plain(Type::String).into()))
}

fn said(status: u16, about: &str, kind: &str, shape: Option<RefOr<Schema>>) -> Answer {
    let mut answer = no_body(status, about);
    answer.response.content.insert(kind.to_owned(), Content::new(shape).into());
    answer
}

/// An answer without a body.
pub(super) fn no_body(status: u16, description: &str) -> Answer {
    Answer { status, response: Response::new(description), shapes: Shapes::new() }
}

/// One server-sent event, as clients take the stream apart.
fn event() -> RefOr<Schema> {
    let text = || plain(Type::String);
    plain(Type::Object)
        .description(Some("Each event of the stream"))
        .property("id", text())
        .property("event", text())
        .property("data", text())
        .into()
}

/// An answer as server-sent events.
pub(super) fn events(description: &str) -> Answer {
    said(200, description, "text/event-stream", Some(event()))
}

/// A log: text, or events with `follow`.
pub(super) fn text_or_events() -> Answer {
    let mut answer = events(
        "The text, of which `tail` wants so many last lines alone; with `follow`, events whose `data` is {offset, text}, and `dropped` where bytes before it are not kept",
    );
    let text = Content::new(Some(plain(Type::String)));
    answer.response.content.insert("text/plain".to_owned(), text.into());
    let dropped = HeaderBuilder::new()
        .schema(Some(plain(Type::Integer)))
        .description(Some("Bytes of the text that were written and are not kept"));
    answer.response.headers.insert(super::logs::DROPPED.to_owned(), dropped.build().into());
    answer
}

fn parameter(name: &str, place: ParameterIn, schema: impl Into<RefOr<Schema>>) -> ParameterBuilder {
    ParameterBuilder::new().name(name).parameter_in(place).schema(Some(schema))
}

/// A parameter of the query.
pub(super) fn query(name: &str, kind: &str, is_required: bool) -> Parameter {
    let kind = match kind {
        "integer" => Type::Integer,
        "boolean" => Type::Boolean,
        _ => Type::String,
    };
    let required = if is_required { Required::True } else { Required::False };
    parameter(name, ParameterIn::Query, plain(kind)).required(required).build()
}

/// A parameter of the query that need not be there and is at least 1.
pub(super) fn from_one(name: &str) -> Parameter {
    parameter(name, ParameterIn::Query, plain(Type::Integer).minimum(Some(1))).build()
}

/// An optional header.
pub(super) fn header(name: &str, description: &str) -> Parameter {
    parameter(name, ParameterIn::Header, plain(Type::String)).description(Some(description)).build()
}

/// A header that has to be there and be this.
pub(super) fn fixed_header(name: &str, value: &str) -> Parameter {
    let schema = plain(Type::String).enum_values(Some([value]));
    parameter(name, ParameterIn::Header, schema).required(Required::True).build()
}

/// A part of the address.
pub(super) fn part(name: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    parameter(name, ParameterIn::Path, schema).required(Required::True).build()
}

/// A part of the address that is a text, with what it is.
pub(super) fn named_part(name: &str, description: &str) -> Parameter {
    parameter(name, ParameterIn::Path, plain(Type::String))
        .required(Required::True)
        .description(Some(description))
        .build()
}

/// A part of the address that is a text of one form.
pub(super) fn formed_part(name: &str, pattern: &str) -> Parameter {
    part(name, plain(Type::String).pattern(Some(pattern)))
}

/// The run in the address.
pub(super) fn run_id() -> Parameter {
    part("id", Ref::from_schema_name("RunId"))
}

/// The service in the address.
pub(super) fn service_name() -> Parameter {
    part("name", plain(Type::String))
}

/// The workspace in the address.
pub(super) fn workspace_name() -> Parameter {
    part("name", plain(Type::String))
}

/// The digest in the address.
pub(super) fn digest() -> Parameter {
    part("digest", Ref::from_schema_name("Digest"))
}

/// Method and path of everything in the document.
#[cfg(test)]
pub(super) fn described_routes() -> std::collections::BTreeSet<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| (method.clone(), path.clone()))
        })
        .collect()
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
        let described = described_routes();
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
    fn a_name_stands_for_one_shape() {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for (name, shape) in all_routes().into_iter().flat_map(|route| route.doc.shapes) {
            let shape = serde_json::to_value(shape).unwrap();
            let known = all.entry(name.clone()).or_insert_with(|| shape.clone());
            assert_eq!(
                *known, shape,
                "two types are called {name}: give one of them `schema(as = …)`"
            );
        }
    }

    #[test]
    fn parameters_in_addresses_are_described() {
        for route in all_routes() {
            let doc = serde_json::to_value(&route.doc.operation).unwrap();
            let named: BTreeSet<&str> = doc["parameters"]
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
        let ids: BTreeSet<String> =
            all_routes().iter().map(|r| r.doc.operation.operation_id.clone().unwrap()).collect();
        assert_eq!(ids.len(), all_routes().len());
    }
}
