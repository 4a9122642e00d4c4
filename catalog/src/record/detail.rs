//! What only one kind of resource has.

use super::ResourceError;
use super::area::AreaDetail;
use super::disk::{DiskFormat, Properties, Sha256, Signature};
use super::list::RevocationsDetail;
use crate::cbor::{CborError, Item, ListItem, Value};
use crate::id::{Digest, NodeId};
use crate::text::{check_line, check_name};
use crate::wire::{wire_map, word_enum};

/// Longest text in a detail, in characters.
const TEXT_LEN_MAX: usize = 128;
/// Longest digest of a manifest in a detail, in characters: `sha512:` and 128 hex digits.
const MANIFEST_LEN_MAX: usize = 135;
/// Most items of a list in a detail.
pub const LIST_MAX: usize = 32;

word_enum!(
    /// The kinds of resources.
    Kind, "a resource kind",
    {
        /// A file or directory.
        Data = 1 "data",
        /// A program to run where the data is.
        Algorithm = 2 "algorithm",
        /// A place to run programs.
        Compute = 3 "compute",
        /// A place to keep data.
        Storage = 4 "storage",
        /// A workflow document.
        Workflow = 5 "workflow",
        /// A running program to talk to.
        Service = 6 "service",
        /// The image of a disk, to run machines from.
        Disk = 7 "disk",
        /// What an organisation no longer vouches for.
        Revocations = 8 "revocations",
        /// What a member of a collaborative area says of it; never among what is searched.
        Area = 9 "area",
    }
);

word_enum!(
    /// How far something is developed.
    Maturity, "a maturity",
    {
        /// May change or vanish.
        Experimental = 1 "experimental",
        /// Works, may still change.
        Beta = 2 "beta",
        /// Kept compatible.
        Stable = 3 "stable",
        /// To be replaced.
        Deprecated = 4 "deprecated",
    }
);

word_enum!(
    /// For whom an owner opens more than running tasks: their insides to commands and consoles, or devices of the node.
    Insiders, "for whom something is open",
    {
        /// Those of its own organisation.
        Own = 1 "own",
        /// Those of partners, too.
        Partners = 2 "partners",
        /// Those of every organisation that it works for.
        Realm = 3 "realm",
    }
);

word_enum!(
    /// The type of a port; the words of workflow documents.
    PortType, "a port type",
    {
        /// True or false.
        Bool = 1 "bool",
        /// A whole number.
        Int = 2 "int",
        /// A number with a fraction.
        Float = 3 "float",
        /// Text.
        Text = 4 "text",
        /// A file.
        File = 5 "file",
        /// A directory.
        Dir = 6 "dir",
        /// Values in order.
        List = 7 "list",
        /// Any JSON.
        Json = 8 "json",
    }
);

/// An input or output of an algorithm or workflow.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub port_type: PortType,
    /// Whether it may be left out.
    #[serde(default)]
    pub optional: bool,
}

wire_map!(Port, "a port", {
    1 must name,
    2 must port_type,
    3 must optional,
});
impl ListItem for Port {}

/// A file or directory by digest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataDetail {
    /// Media type, such as `image/tiff`.
    pub media_type: String,
    /// The content; of a directory, its manifest.
    pub digest: Digest,
    /// Bytes in all.
    pub size: u64,
    /// Whether it is a directory.
    #[serde(default)]
    pub directory: bool,
    /// What is known of its quality.
    #[serde(default)]
    pub quality: String,
    /// Whether it is about persons.
    #[serde(default)]
    pub personal: bool,
    /// Whether it was about persons and has been anonymised.
    #[serde(default)]
    pub anonymised: bool,
    /// Whether anyone may use it under its licence.
    #[serde(default)]
    pub open: bool,
    /// Seconds between updates; absent when it never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_s: Option<u64>,
    /// Regions it must not leave; empty when it may go anywhere.
    #[serde(default)]
    pub residency: Vec<String>,
}

wire_map!(DataDetail, "the detail of data", {
    1 must media_type,
    2 must digest,
    3 must size,
    4 must directory,
    5 must quality,
    6 must personal,
    7 must anonymised,
    8 must open,
    9 may update_s,
    10 must residency,
});

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlgorithmDetail {
    /// What runs it, such as `wasi`.
    pub runtime: String,
    /// The module or image.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its own version.
    #[serde(default)]
    pub version: String,
    /// What goes in.
    #[serde(default)]
    pub inputs: Vec<Port>,
    /// What comes out.
    #[serde(default)]
    pub outputs: Vec<Port>,
    /// How far it is developed.
    pub maturity: Maturity,
    /// Of an image the digest of its manifest, by which registries know it, such as `sha256:` and 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

wire_map!(AlgorithmDetail, "the detail of an algorithm", {
    1 must runtime,
    2 must digest,
    3 must size,
    4 must version,
    5 must inputs,
    6 must outputs,
    7 must maturity,
    8 may manifest,
});

/// A place to run programs. What it has, not how much of it is free: load is asked, not published.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeDetail {
    /// Machine architecture, such as `x86_64` or `aarch64`.
    pub arch: String,
    /// What can run here, such as `wasi`.
    pub runtimes: Vec<String>,
    /// Thousandths of a core that tasks may use in all.
    pub cpu_milli: u64,
    /// Memory that tasks may use in all.
    pub memory_bytes: u64,
    /// Disk that tasks may use in all.
    pub disk_bytes: u64,
    /// Accelerators and other devices that tasks may hold, under the names that their owner gave them; one entry for each.
    #[serde(default)]
    pub accelerators: Vec<String>,
    /// Where it stands, such as `eu` or `de`.
    #[serde(default)]
    pub region: String,
    /// Where its energy comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<String>,
    /// Multiaddrs at which peers reach the node.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether tasks that ask for it reach the network.
    #[serde(default)]
    pub network: bool,
    /// Whose people may go inside the tasks that it runs for them; nobody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Insiders>,
    /// Whose tasks may hold its devices; nobody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_for: Option<Insiders>,
}

impl ComputeDetail {
    /// Says where peers reach the node, as far as a record can: what is too long, unprintable or one too many is left out and
    /// returned.
    pub fn set_addresses(&mut self, addresses: &[String]) -> Vec<String> {
        let (mut good, mut left_out) = (Vec::new(), Vec::new());
        for address in addresses {
            let has_room = good.len() < LIST_MAX && line("address", address).is_ok();
            if has_room { &mut good } else { &mut left_out }.push(address.clone());
        }
        self.addresses = good;
        left_out
    }
}

wire_map!(ComputeDetail, "the detail of compute", {
    1 must arch,
    2 must runtimes,
    3 must cpu_milli,
    4 must memory_bytes,
    5 must disk_bytes,
    6 must accelerators,
    7 must region,
    8 may energy,
    9 must addresses,
    10 must network,
    11 may exec,
    12 may device_for,
});

/// A place to keep data.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageDetail {
    /// What it keeps, such as `blob`, `object`, `file` or `block`.
    pub class: String,
    /// Bytes it can keep in all.
    pub capacity_bytes: u64,
    /// Independent copies of every byte.
    pub copies: u32,
    /// How it is spoken to, such as `opencloud` or `s3`.
    pub endpoint: String,
    /// Where it stands.
    #[serde(default)]
    pub region: String,
}

wire_map!(StorageDetail, "the detail of storage", {
    1 must class,
    2 must capacity_bytes,
    3 must copies,
    4 must endpoint,
    5 must region,
});

/// A workflow document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowDetail {
    /// The document.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// How many steps it has.
    pub steps: u32,
    /// Its parameters.
    #[serde(default)]
    pub inputs: Vec<Port>,
    /// What comes out.
    #[serde(default)]
    pub outputs: Vec<Port>,
    /// How far it is developed.
    pub maturity: Maturity,
}

wire_map!(WorkflowDetail, "the detail of a workflow", {
    1 must digest,
    2 must size,
    3 must steps,
    4 must inputs,
    5 must outputs,
    6 must maturity,
});

/// A running program to talk to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceDetail {
    /// How it is spoken to, such as `http` or `tcp`.
    pub protocol: String,
    /// Its own version.
    #[serde(default)]
    pub version: String,
    /// Its interface description, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Digest>,
    /// Where it runs.
    #[serde(default)]
    pub region: String,
    /// How far it is developed.
    pub maturity: Maturity,
    /// Where it can be reached now; absent of a service that is only described.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<ServiceReach>,
}

wire_map!(ServiceDetail, "the detail of a service", {
    1 must protocol,
    2 must version,
    3 may interface,
    4 must region,
    5 must maturity,
    6 may reach,
});

/// Where a running service can be reached: its ports, and the replicas that are healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceReach {
    /// Its ports by name, the same on every replica.
    pub ports: Vec<ServicePort>,
    /// Healthy replicas, as their owner last knew.
    pub endpoints: Vec<ServiceEndpoint>,
}

wire_map!(ServiceReach, "where a service can be reached", {
    1 must ports,
    2 must endpoints,
});

/// A named port of a service.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    /// Its name, such as `http`.
    pub name: String,
    /// Its number inside a replica, above 0.
    pub port: u32,
}

wire_map!(ServicePort, "a port of a service", {
    1 must name,
    2 must port,
});
impl ListItem for ServicePort {}

/// A replica of a service.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceEndpoint {
    /// Where it runs.
    pub node: NodeId,
    /// What its provider knows it by: the attempt under agreement, as text.
    pub attempt: String,
}

wire_map!(ServiceEndpoint, "a replica of a service", {
    1 must node,
    2 must attempt,
});
impl ListItem for ServiceEndpoint {}

/// The image of a disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskDetail {
    /// Its format.
    pub format: DiskFormat,
    /// BLAKE3 of the file, by which it is fetched.
    pub digest: Digest,
    /// SHA-256 of the file, as other tools know it.
    pub sha256: Sha256,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk that it describes.
    pub virtual_bytes: u64,
    /// Machine architecture, such as `x86_64`; empty when that is not said.
    #[serde(default)]
    pub arch: String,
    /// Least memory in bytes that a machine needs with it; 0 when that is not said.
    #[serde(default)]
    pub min_memory_bytes: u64,
    /// What else is said of it.
    #[serde(default)]
    pub properties: Properties,
    /// An organisation's word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

wire_map!(DiskDetail, "the detail of a disk", {
    1 must format,
    2 must digest,
    3 must sha256,
    4 must size,
    5 must virtual_bytes,
    6 must arch,
    7 must min_memory_bytes,
    8 must properties,
    9 may signature,
});

/// What only a resource's kind has. In JSON the field `kind` tells which.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Detail {
    /// Of data.
    Data(DataDetail),
    /// Of an algorithm.
    Algorithm(AlgorithmDetail),
    /// Of compute.
    Compute(ComputeDetail),
    /// Of storage.
    Storage(StorageDetail),
    /// Of a workflow.
    Workflow(WorkflowDetail),
    /// Of a service.
    Service(ServiceDetail),
    /// Of a disk.
    Disk(DiskDetail),
    /// Of a revocation list.
    Revocations(RevocationsDetail),
    /// Of an area.
    Area(AreaDetail),
}

impl Detail {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Data(_) => Kind::Data,
            Self::Algorithm(_) => Kind::Algorithm,
            Self::Compute(_) => Kind::Compute,
            Self::Storage(_) => Kind::Storage,
            Self::Workflow(_) => Kind::Workflow,
            Self::Service(_) => Kind::Service,
            Self::Disk(_) => Kind::Disk,
            Self::Revocations(_) => Kind::Revocations,
            Self::Area(_) => Kind::Area,
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let map = match self {
            Self::Data(detail) => detail.to_map(),
            Self::Algorithm(detail) => detail.to_map(),
            Self::Compute(detail) => detail.to_map(),
            Self::Storage(detail) => detail.to_map(),
            Self::Workflow(detail) => detail.to_map(),
            Self::Service(detail) => detail.to_map(),
            Self::Disk(detail) => detail.to_map(),
            Self::Revocations(detail) => detail.to_map(),
            Self::Area(detail) => detail.to_map(),
        };
        map.finish()
    }

    pub(super) fn from_item(kind: Kind, item: &Item<'_>) -> Result<Self, CborError> {
        match kind {
            Kind::Data => DataDetail::from_map(item).map(Self::Data),
            Kind::Algorithm => AlgorithmDetail::from_map(item).map(Self::Algorithm),
            Kind::Compute => ComputeDetail::from_map(item).map(Self::Compute),
            Kind::Storage => StorageDetail::from_map(item).map(Self::Storage),
            Kind::Workflow => WorkflowDetail::from_map(item).map(Self::Workflow),
            Kind::Service => ServiceDetail::from_map(item).map(Self::Service),
            Kind::Disk => DiskDetail::from_map(item).map(Self::Disk),
            Kind::Revocations => RevocationsDetail::from_map(item).map(Self::Revocations),
            Kind::Area => AreaDetail::from_map(item).map(Self::Area),
        }
    }

    /// Checks texts and lists.
    pub(super) fn check(&self) -> Result<(), ResourceError> {
        match self {
            Self::Data(data) => {
                name("media type", &data.media_type)?;
                line("quality", &data.quality)?;
                words("residency regions", &data.residency)
            }
            Self::Algorithm(algorithm) => {
                name("runtime", &algorithm.runtime)?;
                line("version", &algorithm.version)?;
                let manifest = algorithm.manifest.as_deref().unwrap_or_default();
                check_line("manifest", manifest, MANIFEST_LEN_MAX)?;
                ports(&algorithm.inputs)?;
                ports(&algorithm.outputs)
            }
            Self::Compute(compute) => {
                name("arch", &compute.arch)?;
                words("runtimes", &compute.runtimes)?;
                words("accelerators", &compute.accelerators)?;
                line("region", &compute.region)?;
                count("addresses", compute.addresses.len())?;
                compute.addresses.iter().try_for_each(|address| line("address", address))?;
                line("energy", compute.energy.as_deref().unwrap_or_default())
            }
            Self::Storage(storage) => {
                name("class", &storage.class)?;
                name("endpoint", &storage.endpoint)?;
                line("region", &storage.region)
            }
            Self::Workflow(workflow) => {
                ports(&workflow.inputs)?;
                ports(&workflow.outputs)
            }
            Self::Service(service) => {
                name("protocol", &service.protocol)?;
                line("version", &service.version)?;
                line("region", &service.region)?;
                service.reach.as_ref().map_or(Ok(()), reach)
            }
            Self::Disk(disk) => {
                line("arch", &disk.arch)?;
                Ok(disk.properties.check()?)
            }
            Self::Revocations(list) => Ok(list.check()?),
            // With its key: see `Resource::check`.
            Self::Area(_) => Ok(()),
        }
    }
}

fn reach(reach: &ServiceReach) -> Result<(), ResourceError> {
    count("service ports", reach.ports.len())?;
    reach.ports.iter().try_for_each(|port| name("a port's name", &port.name))?;
    if let Some(port) = reach.ports.iter().find(|p| !(1..=65_535).contains(&p.port)) {
        return Err(ResourceError::Port { name: port.name.clone(), port: port.port });
    }
    count("service endpoints", reach.endpoints.len())?;
    reach.endpoints.iter().try_for_each(|e| name("an endpoint's attempt", &e.attempt))
}

fn name(field: &'static str, text: &str) -> Result<(), ResourceError> {
    Ok(check_name(field, text, TEXT_LEN_MAX)?)
}

fn line(field: &'static str, text: &str) -> Result<(), ResourceError> {
    Ok(check_line(field, text, TEXT_LEN_MAX)?)
}

fn count(field: &'static str, count: usize) -> Result<(), ResourceError> {
    if count > LIST_MAX {
        return Err(ResourceError::Count { field, count, max: LIST_MAX });
    }
    Ok(())
}

fn words(field: &'static str, items: &[String]) -> Result<(), ResourceError> {
    count(field, items.len())?;
    items.iter().try_for_each(|item| name(field, item))
}

fn ports(ports: &[Port]) -> Result<(), ResourceError> {
    count("ports", ports.len())?;
    ports.iter().try_for_each(|port| name("a port's name", &port.name))
}
