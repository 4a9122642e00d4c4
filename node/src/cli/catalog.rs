//! `opencloud catalog`.

use std::path::{Path, PathBuf};

use catalog::record::{ComputeDetail, DataDetail, Detail, DiskDetail, Insiders, Port, Resource};
use clap::{Args, Subcommand};
use scheduler::workflow::Plain;

use super::client::Client;
use super::error::{CliError, OK, Place};
use super::units::{bytes, cores, span};
use super::{Context, EXIT_CODES};
use super::{document, peers, price};
use crate::api::Published;
use crate::engine::command::ResourceView;
use crate::engine::realms::ToldView;
use crate::engine::variants::OwnView;

/// Resources asked for at once.
const LIMIT: &str = "10000";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List all resources of the realm
    #[command(after_help = format!("\
Examples:
  opencloud catalog list
  opencloud catalog list --mine      what was published from here, and who sees it
  opencloud catalog list --everywhere

{EXIT_CODES}"))]
    List {
        /// Only what was published from this node, with who sees it
        #[arg(long, conflicts_with_all = ["ask", "everywhere"])]
        mine: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Publish a resource of this node, or show some organisations another one in its place
    #[command(after_help = format!("\
The file is YAML or JSON, as `catalog show` prints one with `--output json`. With `--for`
the organisations named see it in place of what others see under its key, and what
they see is what they are quoted by: under `compute/main` only price and words
count. Nobody learns that others see something else.

Examples:
  opencloud catalog publish service.yaml
  opencloud catalog show compute/main --output json > cheaper.json
  opencloud catalog publish cheaper.json --for 'Survey Office' --for Harbour

{EXIT_CODES}"))]
    Publish {
        /// The description
        file: PathBuf,
        /// An organisation that sees it in place of what others see: its name or id; may be repeated
        #[arg(long = "for", value_name = "ORG", conflicts_with = "private")]
        orgs: Vec<String>,
        /// Show it to this organisation alone
        #[arg(long)]
        private: bool,
    },
    /// Withdraw a resource of this node
    #[command(after_help = format!("\
Examples:
  opencloud catalog withdraw service/maps
  opencloud catalog withdraw compute/main --for Harbour      it sees what others see again

{EXIT_CODES}"))]
    Withdraw {
        /// Its key, as `catalog list --mine` prints it
        key: String,
        /// Only what this organisation sees in place of what others do; may be repeated
        #[arg(long = "for", value_name = "ORG")]
        orgs: Vec<String>,
    },
    /// List the resources that a filter selects
    #[command(after_help = format!("\
A comparison is `FIELD OPERATOR VALUE` with =, !=, <, <=, >, >=, ~ (contains) and
in [A, B]; `not`, `and`, `or` and parentheses join them. Texts need quotes around
spaces and symbols, sizes are written 512MiB, cores 4 or 0.5. Fields of all kinds:
kind (data, algorithm, compute, storage, workflow, service, disk,
revocations), key, name, text, org, node, licence, free, currency; of compute: arch, runtime, cpu, memory, disk,
region; of data: type, size, digest, directory, personal, open; of disks: format,
size, disk (its own size), digest, sha256, arch, memory, property (KEY=VALUE), signed.

Examples:
  opencloud catalog search 'kind = compute and cpu >= 4 and region in [eu, de]'
  opencloud catalog search 'kind = data and name ~ elevation and not personal = true'

{EXIT_CODES}"))]
    Search {
        /// The filter
        filter: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one resource
    #[command(after_help = format!("\
Examples:
  opencloud catalog show compute/main
  opencloud catalog show 4BjnT4/compute/main       the end of an author's id will do
  opencloud catalog show blake3:670e               data by the beginning of its digest

{EXIT_CODES}"))]
    Show {
        /// `AUTHOR/KEY` as `catalog list` prints it, a key, a digest, or a beginning that is unique
        id: String,
    },
}

/// How far a search goes.
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// Ask two peers, too, for what this node may not have got yet
    #[arg(long)]
    ask: bool,
    /// Search the realms that are linked with this one, and those behind them: what is public there, by way of a gateway
    #[arg(long, conflicts_with = "ask")]
    everywhere: bool,
}

impl Scope {
    async fn list(&self, context: &Context, filter: &str) -> Result<u8, CliError> {
        if self.everywhere {
            everywhere(context, filter).await
        } else {
            list(context, filter, self.ask).await
        }
    }
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::List { mine: true, .. } => mine(context).await,
            Self::List { mine: false, scope } => scope.list(context, "").await,
            Self::Publish { file, orgs, private } => publish(context, file, orgs, *private).await,
            Self::Withdraw { key, orgs } => withdraw(context, key, orgs).await,
            Self::Search { filter, scope } => scope.list(context, filter).await,
            Self::Show { id } => show(context, id).await,
        }
    }
}

/// What is public in other realms.
async fn everywhere(context: &Context, filter: &str) -> Result<u8, CliError> {
    let query = [("filter", filter), ("limit", LIMIT)];
    let told: ToldView = context.client()?.get("/catalog/everywhere", &query).await?;
    if context.out.is_json() {
        context.out.json(&told);
        return Ok(OK);
    }
    let rows = told.resources.iter().map(|found| {
        let view = &found.resource;
        vec![
            view.resource.kind().as_str().to_owned(),
            view.resource.name.clone(),
            summary(&view.resource.detail),
            view.org_name.clone(),
            found.realm.to_string(),
            view.id.clone(),
        ]
    });
    let header = ["kind", "name", "what", "organisation", "realm", "id"];
    context.out.table(&header, rows.collect(), "nothing was found in other realms");
    super::realm::notes(&told);
    Ok(OK)
}

pub(super) async fn list(context: &Context, filter: &str, is_asking: bool) -> Result<u8, CliError> {
    let ask = if is_asking { "true" } else { "false" };
    let query = [("filter", filter), ("limit", LIMIT), ("ask", ask)];
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

async fn mine(context: &Context) -> Result<u8, CliError> {
    let found: Vec<OwnView> = context.client()?.get("/resources", &[]).await?;
    if context.out.is_json() {
        context.out.json(&found);
        return Ok(OK);
    }
    let rows = found.into_iter().map(|view| {
        let orgs: Vec<String> = view.orgs.iter().map(ToString::to_string).collect();
        let whom = match (view.public, view.variant, orgs.is_empty()) {
            (true, ..) => "everybody".to_owned(),
            (false, true, _) => format!("only {}", orgs.join(", ")),
            (false, false, true) => "own nodes".to_owned(),
            (false, false, false) => format!("own nodes, {}", orgs.join(", ")),
        };
        let price =
            view.resource.price.as_ref().map_or_else(String::new, |p| price::lines(p).join("; "));
        vec![view.resource.key.clone(), view.resource.name, whom, price]
    });
    let header = ["key", "name", "who sees it", "price"];
    context.out.table(&header, rows.collect(), "nothing was published from here");
    Ok(OK)
}

/// The ids of organisations, with commas between them, as the API takes them.
async fn named(client: &Client, orgs: &[String]) -> Result<String, CliError> {
    let mut ids = Vec::new();
    for org in orgs {
        ids.push(peers::find(client, org).await?.to_string());
    }
    Ok(ids.join(","))
}

async fn publish(
    context: &Context,
    file: &Path,
    orgs: &[String],
    is_private: bool,
) -> Result<u8, CliError> {
    let text = document::read_text(file)?;
    let plain = Plain::parse(&text).map_err(|all| document::refuse(file, document::places(all)))?;
    // As `catalog show` prints it, or the description alone.
    let inner = plain.json.get("resource");
    let resource = inner.unwrap_or(&plain.json);
    if let Err(error) = serde_json::from_value::<Resource>(resource.clone()) {
        let path = inner.map_or("", |_| "resource");
        let (line, column) = plain.value_at(path);
        let hint = "`opencloud catalog show compute/main --output json` prints a whole one";
        let (path, hint) = (path.to_owned(), Some(hint.to_owned()));
        let place = Place { line, column, path, problem: error.to_string(), hint };
        return Err(document::refuse(file, vec![place]));
    }
    let client = context.client()?;
    let path = if orgs.is_empty() {
        format!("/resources?private={is_private}")
    } else {
        format!("/resources?for={}", named(&client, orgs).await?)
    };
    let published: Published = client.post(&path, resource).await?;
    if context.out.is_json() {
        context.out.json(&published);
    } else {
        context.out.line(&published.key);
    }
    Ok(OK)
}

async fn withdraw(context: &Context, key: &str, orgs: &[String]) -> Result<u8, CliError> {
    let client = context.client()?;
    let named = named(&client, orgs).await?;
    let query = [("key", key), ("for", named.as_str())];
    client.delete("/resources", &query[..if orgs.is_empty() { 1 } else { 2 }]).await?;
    if context.out.is_json() {
        context.out.json(&serde_json::json!({"key": key}));
    }
    Ok(OK)
}

/// `1 fpga, 2 gpu, for partners`: what tasks may hold, and whose.
fn devices(compute: &ComputeDetail) -> String {
    let counts = scheduler::device::listed(&compute.accelerators);
    let mut words: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    if !words.is_empty() {
        let whom = compute.device_for.map_or("nobody", Insiders::as_str);
        words.push(format!("for {whom}"));
    }
    words.join(", ")
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
        Detail::Revocations(list) => format!("{} taken back by {}", list.count, list.of),
        Detail::Area(area) => format!("area {}", area.area.to_hex()),
        Detail::Disk(disk) => format!("{}, {}", disk.format, bytes(disk.size)),
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
    facts.extend(details(&resource.detail));
    if let Some(price) = &resource.price {
        facts.push(("price", price::lines(price).join("\n")));
    }
    context.out.facts(&facts);
    Ok(OK)
}

/// What only the resource's kind has; what is not said is left out.
fn details(detail: &Detail) -> Vec<(&'static str, String)> {
    let ports = |ports: &[Port]| {
        ports
            .iter()
            .map(|port| format!("{} ({})", port.name, word(&port.port_type)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let facts = match detail {
        Detail::Data(data) => return data_details(data),
        Detail::Algorithm(algorithm) => vec![
            ("runtime", algorithm.runtime.clone()),
            ("version", algorithm.version.clone()),
            ("maturity", word(&algorithm.maturity)),
            ("size", bytes(algorithm.size)),
            ("digest", algorithm.digest.to_string()),
            ("manifest", algorithm.manifest.clone().unwrap_or_default()),
            ("inputs", ports(&algorithm.inputs)),
            ("outputs", ports(&algorithm.outputs)),
        ],
        Detail::Compute(compute) => vec![
            ("architecture", compute.arch.clone()),
            ("runtimes", compute.runtimes.join(", ")),
            ("cores", cores(compute.cpu_milli)),
            ("memory", bytes(compute.memory_bytes)),
            ("disk", bytes(compute.disk_bytes)),
            ("devices", devices(compute)),
            ("region", compute.region.clone()),
            ("network", if compute.network { "for tasks that ask" } else { "none" }.to_owned()),
            ("exec", compute.exec.map_or("nobody", Insiders::as_str).to_owned()),
            ("energy", compute.energy.clone().unwrap_or_default()),
            ("addresses", compute.addresses.join("\n")),
        ],
        Detail::Storage(storage) => vec![
            ("class", storage.class.clone()),
            ("capacity", bytes(storage.capacity_bytes)),
            ("copies", storage.copies.to_string()),
            ("endpoint", storage.endpoint.clone()),
            ("region", storage.region.clone()),
        ],
        Detail::Workflow(workflow) => vec![
            ("steps", workflow.steps.to_string()),
            ("maturity", word(&workflow.maturity)),
            ("size", bytes(workflow.size)),
            ("digest", workflow.digest.to_string()),
            ("inputs", ports(&workflow.inputs)),
            ("outputs", ports(&workflow.outputs)),
        ],
        Detail::Service(service) => vec![
            ("protocol", service.protocol.clone()),
            ("version", service.version.clone()),
            ("maturity", word(&service.maturity)),
            ("interface", service.interface.map(|digest| digest.to_string()).unwrap_or_default()),
            ("region", service.region.clone()),
        ],
        Detail::Area(area) => vec![("area", area.area.to_hex())],
        Detail::Revocations(list) => vec![
            ("of", list.of.to_string()),
            ("number", list.serial.to_string()),
            ("entries", list.count.to_string()),
        ],
        Detail::Disk(disk) => disk_details(disk),
    };
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn disk_details(disk: &DiskDetail) -> Vec<(&'static str, String)> {
    let memory =
        if disk.min_memory_bytes == 0 { String::new() } else { bytes(disk.min_memory_bytes) };
    let properties = disk.properties.0.iter().map(|(key, value)| format!("{key}={value}"));
    vec![
        ("format", disk.format.to_string()),
        ("size", bytes(disk.size)),
        ("disk", bytes(disk.virtual_bytes)),
        ("digest", disk.digest.to_string()),
        ("SHA-256", disk.sha256.to_string()),
        ("architecture", disk.arch.clone()),
        ("least memory", memory),
        ("properties", properties.collect::<Vec<_>>().join("\n")),
        ("signed", if disk.signature.is_some() { "yes" } else { "no" }.to_owned()),
    ]
}

fn data_details(data: &DataDetail) -> Vec<(&'static str, String)> {
    let flags = [
        (data.directory, "a directory"),
        (data.personal, "about persons"),
        (data.anonymised, "anonymised"),
        (data.open, "open to anyone under its licence"),
    ];
    let flags = flags.iter().filter(|(is_so, _)| *is_so).map(|(_, word)| *word);
    let facts = [
        ("type", data.media_type.clone()),
        ("size", bytes(data.size)),
        ("digest", data.digest.to_string()),
        ("it is", flags.collect::<Vec<_>>().join(", ")),
        ("quality", data.quality.clone()),
        (
            "updated",
            data.update_s
                .map_or(String::new(), |s| format!("every {}", span(s.saturating_mul(1000)))),
        ),
        ("stays in", data.residency.join(", ")),
        ("fetch", format!("opencloud data get {} --out PATH", data.digest)),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// The word that documents use for a value.
fn word(value: &impl serde::Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_in_units_for_people_with_its_addresses_on_lines() {
        let compute = ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: 2_500,
            memory_bytes: 3 << 29,
            disk_bytes: 64 << 30,
            accelerators: ["fpga", "gpu", "gpu"].map(str::to_owned).to_vec(),
            device_for: Some(Insiders::Partners),
            addresses: vec!["/ip4/1.2.3.4/tcp/1".to_owned(), "/ip4/1.2.3.4/udp/1".to_owned()],
            ..ComputeDetail::default()
        };
        let facts = details(&Detail::Compute(compute));
        let find = |name| facts.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(find("cores"), Some("2.5"));
        assert_eq!(find("memory"), Some("1.5 GiB"));
        assert_eq!(find("disk"), Some("64.0 GiB"));
        assert_eq!(find("addresses"), Some("/ip4/1.2.3.4/tcp/1\n/ip4/1.2.3.4/udp/1"));
        assert_eq!(find("devices"), Some("1 fpga, 2 gpu, for partners"));
        assert_eq!(find("region"), None);
    }
}
