//! `opencloud catalog`.

use catalog::record::Detail;
use clap::Subcommand;

use super::error::{CliError, OK};
use super::units::{bytes, cores};
use super::{Context, EXIT_CODES};
use crate::engine::command::ResourceView;

/// Resources asked for at once.
const LIMIT: &str = "10000";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List all resources of the realm
    #[command(after_help = format!("Example:\n  opencloud catalog list\n\n{EXIT_CODES}"))]
    List,
    /// List the resources that a filter selects
    #[command(after_help = format!("\
Examples:
  opencloud catalog search 'kind = compute and cpu >= 4 and region in [eu, de]'
  opencloud catalog search 'kind = data and name ~ elevation and not personal = true'

{EXIT_CODES}"))]
    Search {
        /// The filter
        filter: String,
    },
    /// Show one resource
    #[command(after_help = format!("Example:\n  opencloud catalog show compute/main\n\n{EXIT_CODES}"))]
    Show {
        /// `AUTHOR/KEY` as `catalog list` prints it, or a key that is unique
        id: String,
    },
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::List => list(context, "").await,
            Self::Search { filter } => list(context, filter).await,
            Self::Show { id } => show(context, id).await,
        }
    }
}

async fn list(context: &Context, filter: &str) -> Result<u8, CliError> {
    let query = [("filter", filter), ("limit", LIMIT)];
    let found: Vec<ResourceView> = context.client()?.get("/catalog", &query).await?;
    if context.out.is_json() {
        context.out.json(&found);
        return Ok(OK);
    }
    let rows = found.into_iter().map(|view| {
        let kind = view.resource.kind().as_str().to_owned();
        vec![
            kind,
            view.resource.name.clone(),
            summary(&view.resource.detail),
            view.org_name,
            view.id,
        ]
    });
    let header = ["kind", "name", "what", "organisation", "id"];
    context.out.table(&header, rows.collect(), "nothing found");
    Ok(OK)
}

/// The most telling facts of a kind, in a few words.
fn summary(detail: &Detail) -> String {
    match detail {
        Detail::Data(data) => format!("{}, {}", data.media_type, bytes(data.size)),
        Detail::Algorithm(algorithm) => format!("{} {}", algorithm.runtime, algorithm.version),
        Detail::Compute(compute) => {
            let region = if compute.region.is_empty() {
                String::new()
            } else {
                format!(", {}", compute.region)
            };
            let (cpu, memory) = (cores(compute.cpu_milli), bytes(compute.memory_bytes));
            format!("{} {cpu} cores, {memory}{region}", compute.arch)
        }
        Detail::Storage(storage) => format!("{}, {}", storage.class, bytes(storage.capacity_bytes)),
        Detail::Workflow(workflow) => format!("{} steps", workflow.steps),
        Detail::Service(service) => format!("{} {}", service.protocol, service.version),
    }
}

async fn show(context: &Context, id: &str) -> Result<u8, CliError> {
    let view: ResourceView = context.client()?.get("/catalog/resource", &[("id", id)]).await?;
    if context.out.is_json() {
        context.out.json(&view);
        return Ok(OK);
    }
    let resource = &view.resource;
    let mut facts = vec![
        ("id", view.id.clone()),
        ("kind", resource.kind().as_str().to_owned()),
        ("name", resource.name.clone()),
        ("organisation", format!("{} ({})", view.org_name, view.org)),
        ("node", format!("{} ({})", view.node_name, view.author)),
    ];
    let texts = [
        ("short", Some(&resource.short)),
        ("long", Some(&resource.long)),
        ("licence", resource.licence.as_ref()),
        ("terms", resource.terms.as_ref()),
    ];
    for (name, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            facts.push((name, text.clone()));
        }
    }
    if let Ok(serde_json::Value::Object(detail)) = serde_json::to_value(&resource.detail) {
        let rest: Vec<String> = detail
            .iter()
            .filter(|(name, _)| *name != "kind")
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        facts.push(("detail", rest.join(", ")));
    }
    if let Some(price) = &resource.price {
        facts.push(("price", price_text(price)));
    }
    context.out.facts(&facts);
    Ok(OK)
}

fn price_text(price: &catalog::record::PriceList) -> String {
    if price.is_free() {
        return "free".to_owned();
    }
    let rows = price.rows.iter().map(|row| {
        let amount = catalog::Amount::from_nano(row.amount_nano);
        format!("{amount} {} per {} {}", price.currency, row.per, row.dimension)
    });
    let fixed = (price.fixed != catalog::Amount::ZERO)
        .then(|| format!("{} {} per use", price.fixed, price.currency));
    rows.chain(fixed).collect::<Vec<_>>().join(", ")
}
