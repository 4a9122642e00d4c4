//! The fields that filters can name: their types, and where their values stand in a resource.

use std::borrow::Cow;

use crate::record::{Detail, DiskDetail, Port};
use crate::replica::Entry;

/// What can be compared with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldType {
    /// One text or several.
    Text,
    /// A word out of few.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A count.
    Count,
    /// Bytes, written with a unit.
    Size,
    /// Cores, written with up to three decimals and kept in thousandths.
    Cores,
}

impl FieldType {
    /// What to write, for error messages.
    pub(super) fn expected(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Bool => "true or false".to_owned(),
            Self::Count => "a whole number".to_owned(),
            Self::Size => "a size, like 512MiB or 4GB".to_owned(),
            Self::Cores => "a number of cores, like 4 or 0.5".to_owned(),
        }
    }

    pub(super) const fn is_ordered(self) -> bool {
        matches!(self, Self::Count | Self::Size | Self::Cores)
    }
}

/// The values that a resource has in a field.
#[derive(Debug)]
pub(super) enum Values<'a> {
    Texts(Vec<Cow<'a, str>>),
    Bool(bool),
    Number(u64),
}

macro_rules! fields {
    ($($variant:ident $name:literal $type:expr),+ $(,)?) => {
        /// A field that a filter can name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($variant),+
        }

        impl Field {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            pub(super) const fn field_type(self) -> FieldType {
                match self {
                    $(Self::$variant => $type),+
                }
            }
        }
    };
}

const KINDS: &[&str] = &[
    "data",
    "algorithm",
    "compute",
    "storage",
    "workflow",
    "service",
    "disk",
    "revocations",
    "area",
];
const INSIDERS: &[&str] = &["own", "partners", "realm"];
const MATURITIES: &[&str] = &["experimental", "beta", "stable", "deprecated"];

fields! {
    Kind "kind" FieldType::Word(KINDS),
    Key "key" FieldType::Text,
    Name "name" FieldType::Text,
    Short "short" FieldType::Text,
    Long "long" FieldType::Text,
    Text "text" FieldType::Text,
    Licence "licence" FieldType::Text,
    Terms "terms" FieldType::Text,
    Org "org" FieldType::Text,
    Node "node" FieldType::Text,
    Free "free" FieldType::Bool,
    Priced "priced" FieldType::Bool,
    Currency "currency" FieldType::Text,
    Restricted "restricted" FieldType::Bool,
    Arch "arch" FieldType::Text,
    Runtime "runtime" FieldType::Text,
    Cpu "cpu" FieldType::Cores,
    Memory "memory" FieldType::Size,
    Disk "disk" FieldType::Size,
    Accelerator "accelerator" FieldType::Text,
    Region "region" FieldType::Text,
    Energy "energy" FieldType::Text,
    Network "network" FieldType::Bool,
    Exec "exec" FieldType::Word(INSIDERS),
    Type "type" FieldType::Text,
    Digest "digest" FieldType::Text,
    Size "size" FieldType::Size,
    Quality "quality" FieldType::Text,
    Directory "directory" FieldType::Bool,
    Personal "personal" FieldType::Bool,
    Anonymised "anonymised" FieldType::Bool,
    Open "open" FieldType::Bool,
    Static "static" FieldType::Bool,
    Residency "residency" FieldType::Text,
    Maturity "maturity" FieldType::Word(MATURITIES),
    Version "version" FieldType::Text,
    Input "input" FieldType::Text,
    Output "output" FieldType::Text,
    Class "class" FieldType::Text,
    Capacity "capacity" FieldType::Size,
    Copies "copies" FieldType::Count,
    Endpoint "endpoint" FieldType::Text,
    Steps "steps" FieldType::Count,
    Protocol "protocol" FieldType::Text,
    Format "format" FieldType::Text,
    Sha256 "sha256" FieldType::Text,
    Property "property" FieldType::Text,
    Signed "signed" FieldType::Bool,
}

fn text(text: &str) -> Option<Values<'_>> {
    Some(Values::Texts(vec![Cow::Borrowed(text)]))
}

fn made(text: impl ToString) -> Option<Values<'static>> {
    Some(Values::Texts(vec![Cow::Owned(text.to_string())]))
}

fn texts<'a>(items: impl IntoIterator<Item = &'a String>) -> Option<Values<'a>> {
    Some(Values::Texts(items.into_iter().map(|item| Cow::Borrowed(item.as_str())).collect()))
}

fn ports(ports: &[Port]) -> Option<Values<'_>> {
    texts(ports.iter().map(|port| &port.name))
}

impl Field {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.name() == name)
    }

    /// A number in the form that reads back as itself.
    pub(super) fn print_number(self, value: u64) -> String {
        match self.field_type() {
            FieldType::Cores if !value.is_multiple_of(1000) => {
                let text = format!("{}.{:03}", value / 1000, value % 1000);
                text.trim_end_matches('0').to_owned()
            }
            FieldType::Cores => (value / 1000).to_string(),
            _ => value.to_string(),
        }
    }

    /// What a resource has in this field; `None` when its kind, or it, does not have it.
    pub(super) fn values<'a>(self, entry: &Entry<'a>) -> Option<Values<'a>> {
        let resource = entry.resource;
        match self {
            Self::Kind => text(resource.kind().as_str()),
            Self::Key => text(entry.key),
            Self::Name => text(&resource.name),
            Self::Short => text(&resource.short),
            Self::Long => text(&resource.long),
            Self::Text => texts([&resource.name, &resource.short, &resource.long]),
            Self::Licence => text(resource.licence.as_deref()?),
            Self::Terms => text(resource.terms.as_deref()?),
            Self::Org => {
                let id = Cow::Owned(entry.org.to_string());
                Some(Values::Texts(vec![Cow::Borrowed(entry.org_name), id]))
            }
            Self::Node => {
                let id = Cow::Owned(entry.author.to_string());
                Some(Values::Texts(vec![Cow::Borrowed(entry.node_name), id]))
            }
            Self::Free => Some(Values::Bool(resource.price.as_ref()?.is_free())),
            Self::Priced => Some(Values::Bool(resource.price.is_some())),
            Self::Currency => made(resource.price.as_ref()?.currency),
            Self::Restricted => Some(Values::Bool(entry.is_restricted)),
            _ => self.detail_values(&resource.detail),
        }
    }

    fn detail_values(self, detail: &Detail) -> Option<Values<'_>> {
        let number = |n| Some(Values::Number(n));
        let flag = |b| Some(Values::Bool(b));
        match (detail, self) {
            (Detail::Compute(d), Self::Arch) => text(&d.arch),
            (Detail::Compute(d), Self::Runtime) => texts(&d.runtimes),
            (Detail::Compute(d), Self::Cpu) => number(d.cpu_milli),
            (Detail::Compute(d), Self::Memory) => number(d.memory_bytes),
            (Detail::Compute(d), Self::Disk) => number(d.disk_bytes),
            (Detail::Compute(d), Self::Accelerator) => texts(&d.accelerators),
            (Detail::Compute(d), Self::Region) => text(&d.region),
            (Detail::Compute(d), Self::Energy) => text(d.energy.as_deref()?),
            (Detail::Compute(d), Self::Network) => flag(d.network),
            (Detail::Compute(d), Self::Exec) => text(d.exec?.as_str()),
            (Detail::Data(d), Self::Type) => text(&d.media_type),
            (Detail::Data(d), Self::Digest) => made(d.digest),
            (Detail::Data(d), Self::Size) => number(d.size),
            (Detail::Data(d), Self::Quality) => text(&d.quality),
            (Detail::Data(d), Self::Directory) => flag(d.directory),
            (Detail::Data(d), Self::Personal) => flag(d.personal),
            (Detail::Data(d), Self::Anonymised) => flag(d.anonymised),
            (Detail::Data(d), Self::Open) => flag(d.open),
            (Detail::Data(d), Self::Static) => flag(d.update_s.is_none()),
            (Detail::Data(d), Self::Residency) => texts(&d.residency),
            (Detail::Algorithm(d), Self::Runtime) => text(&d.runtime),
            (Detail::Algorithm(d), Self::Digest) => made(d.digest),
            (Detail::Algorithm(d), Self::Size) => number(d.size),
            (Detail::Algorithm(d), Self::Version) => text(&d.version),
            (Detail::Algorithm(d), Self::Input) => ports(&d.inputs),
            (Detail::Algorithm(d), Self::Output) => ports(&d.outputs),
            (Detail::Algorithm(d), Self::Maturity) => text(d.maturity.as_str()),
            (Detail::Storage(d), Self::Class) => text(&d.class),
            (Detail::Storage(d), Self::Capacity) => number(d.capacity_bytes),
            (Detail::Storage(d), Self::Copies) => number(u64::from(d.copies)),
            (Detail::Storage(d), Self::Endpoint) => text(&d.endpoint),
            (Detail::Storage(d), Self::Region) => text(&d.region),
            (Detail::Workflow(d), Self::Digest) => made(d.digest),
            (Detail::Workflow(d), Self::Size) => number(d.size),
            (Detail::Workflow(d), Self::Steps) => number(u64::from(d.steps)),
            (Detail::Workflow(d), Self::Input) => ports(&d.inputs),
            (Detail::Workflow(d), Self::Output) => ports(&d.outputs),
            (Detail::Workflow(d), Self::Maturity) => text(d.maturity.as_str()),
            (Detail::Service(d), Self::Protocol) => text(&d.protocol),
            (Detail::Service(d), Self::Version) => text(&d.version),
            (Detail::Service(d), Self::Region) => text(&d.region),
            (Detail::Service(d), Self::Maturity) => text(d.maturity.as_str()),
            (Detail::Disk(d), field) => field.disk_values(d),
            _ => None,
        }
    }

    fn disk_values(self, disk: &DiskDetail) -> Option<Values<'_>> {
        match self {
            Self::Format => text(disk.format.as_str()),
            Self::Digest => made(disk.digest),
            Self::Sha256 => made(disk.sha256),
            Self::Size => Some(Values::Number(disk.size)),
            Self::Disk => Some(Values::Number(disk.virtual_bytes)),
            Self::Memory => Some(Values::Number(disk.min_memory_bytes)),
            Self::Arch => text(&disk.arch),
            Self::Signed => Some(Values::Bool(disk.signature.is_some())),
            Self::Property => {
                let pairs = disk.properties.0.iter();
                let texts = pairs.map(|(key, value)| Cow::Owned(format!("{key}={value}")));
                Some(Values::Texts(texts.collect()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Insiders, Kind, Maturity};

    #[test]
    fn words_in_filters_are_those_of_the_records() {
        assert_eq!(KINDS, Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>());
        assert_eq!(INSIDERS, Insiders::ALL.iter().map(|who| who.as_str()).collect::<Vec<_>>());
        assert_eq!(MATURITIES, Maturity::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>());
    }
}
