//! Workflow documents: checked without running anything.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use catalog::Digest;
use scheduler::workflow::{AssetKind, Diagnostics, Workflow};

use super::body::{bytes, json};
use super::openapi::{answers, operation, reads};
use super::problem::{Code, Problem};
use super::{Api, Route};
use crate::schema;

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "post",
        path: "/workflow/check",
        handler: post(check),
        doc: reads::<Document>(operation(
            "checkWorkflow",
            "Every problem of a workflow document with its place, or what it consists of",
            &[],
            &[answers::<Checked>(200)],
        )),
    }]
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Document {
    /// The workflow document, YAML or JSON.
    source: String,
}

/// What was found: problems, or the parts of a sound document.
#[derive(Debug, Default, serde::Serialize, utoipa::ToSchema)]
struct Checked {
    valid: bool,
    /// The workflow's name.
    #[schema(required)]
    name: Option<String>,
    problems: Vec<Found>,
    params: Vec<Param>,
    steps: Vec<Step>,
    assets: Vec<Asset>,
    blobs: Vec<Blob>,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = NamedBlob)]
struct Blob {
    #[schema(value_type = schema::Digest)]
    digest: Digest,
    directory: bool,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = DocumentProblem)]
struct Found {
    /// From 1.
    line: u32,
    /// From 1.
    column: u32,
    /// Keys that lead there, such as `steps.slope.in.dem`.
    path: String,
    /// What is wrong.
    problem: String,
    /// What to do about it.
    #[schema(required)]
    hint: Option<String>,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = DocumentParam)]
struct Param {
    /// Its name.
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = schema::ParamKind)]
    kind: &'static str,
    /// For people.
    #[schema(required)]
    description: Option<String>,
    /// Whether a run needs to be given it.
    required: bool,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = DocumentStep)]
struct Step {
    /// Its name.
    id: String,
    /// What runs it.
    runtime: &'static str,
    /// Whether it is many tasks.
    mapped: bool,
    /// A step that ends before it begins.
    after: Vec<String>,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = DocumentAsset)]
struct Asset {
    /// As the document names it.
    path: String,
    directory: bool,
}

async fn check(State(_api): State<Api>, body: Body) -> Result<Json<Checked>, Problem> {
    let Document { source } = json(&bytes(body).await?)?;
    // A document of a mebibyte takes a while, and others wait for this thread.
    let checked = tokio::task::spawn_blocking(move || checked(Workflow::parse(&source))).await;
    checked.map(Json).map_err(|error| Problem::of(Code::Storage, &error))
}

fn checked(parsed: Result<Workflow, Diagnostics>) -> Checked {
    let workflow = match parsed {
        Ok(workflow) => workflow,
        Err(Diagnostics(found)) => {
            let problems = found.into_iter().map(|found| Found {
                line: found.line,
                column: found.column,
                path: found.path,
                problem: found.problem.to_string(),
                hint: found.hint,
            });
            return Checked { problems: problems.collect(), ..Checked::default() };
        }
    };
    let params = workflow.params.values().map(|param| Param {
        name: param.name.clone(),
        kind: param.kind.as_str(),
        description: param.description.clone(),
        required: param.default.is_none() && !param.optional,
    });
    let named = |deps: &std::collections::BTreeSet<u32>| {
        deps.iter().filter_map(|dep| workflow.step(*dep)).map(|step| step.id.clone()).collect()
    };
    let steps = workflow.steps.iter().map(|step| Step {
        id: step.id.clone(),
        runtime: step.runtime().as_str(),
        mapped: step.map.is_some(),
        after: named(&step.deps),
    });
    let assets = workflow
        .asset_paths()
        .into_iter()
        .map(|asset| Asset { path: asset.path, directory: asset.kind == AssetKind::Dir });
    let blobs = workflow
        .blobs()
        .into_iter()
        .map(|(digest, kind)| Blob { digest, directory: kind == AssetKind::Dir });
    Checked {
        valid: true,
        name: Some(workflow.name.clone()),
        problems: Vec::new(),
        params: params.collect(),
        steps: steps.collect(),
        assets: assets.collect(),
        blobs: blobs.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_document_is_told_by_its_parts_and_another_by_its_problems() {
        let source = "opencloud: workflow/v1\nname: g\nparams: {n: {type: int}, m: {type: int, default: 1}}\nsteps:\n\
             \x20 a: {run: {wasi: {module: a.wasm}}, out: {f: {file: f}}}\n\
             \x20 b: {run: {wasi: {module: b.wasm}}, in: {f: {from: a.f}}}\n";
        let found = checked(Workflow::parse(source));
        assert!(found.valid && found.problems.is_empty(), "{found:?}");
        assert_eq!(found.steps[1].after, ["a"]);
        assert!(found.params.iter().any(|p| p.name == "n" && p.required));
        assert!(found.params.iter().any(|p| p.name == "m" && !p.required));
        assert_eq!(found.assets.len(), 2);
        let found = checked(Workflow::parse(&source.replace("a.f}", "a.g}")));
        assert!(!found.valid && found.steps.is_empty());
        assert_eq!((found.problems[0].line, found.problems.len()), (6, 1), "{found:?}");
    }
}
