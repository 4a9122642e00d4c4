//! What stands behind the verbs of `opencloud image disk`, and how it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use catalog::OrgId;
use catalog::record::{DiskFormat, DiskName};
use clap::{Args, ValueEnum};

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::run::pick;
use crate::cli::units::parse_size;
use crate::engine::command::PeerView;

/// Who may see a disk image, and who vouches for it.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct Shared {
    /// Who may see and fetch it: nobody else, named organisations, or every member of the realm
    #[arg(long, value_enum, value_name = "WHO")]
    pub(super) visibility: Option<Visibility>,
    /// An organisation that may, with `--visibility partner`: its name or id; may be repeated
    #[arg(long = "org", value_name = "ORG")]
    pub(super) orgs: Vec<String>,
    /// Sign it for this organisation
    #[arg(long)]
    pub(super) sign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Visibility {
    Private,
    Partner,
    Public,
}

impl Visibility {
    const fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Partner => "partner",
            Self::Public => "public",
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Add {
    /// The file
    pub(super) file: PathBuf,
    /// Its name on this node [default: that of the file]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<DiskName>,
    /// Something else that is said of it; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE")]
    pub(super) properties: Vec<Property>,
    /// Least memory that a machine needs with it, like 512MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) min_memory: Option<u64>,
    /// The machine's architecture, like x86_64 or aarch64
    #[arg(long, value_name = "ARCH")]
    pub(super) arch: Option<String>,
    /// Vouch for a raw disk without a boot sector
    #[arg(long, value_name = "FORMAT", value_parser = raw_only)]
    pub(super) format: Option<DiskFormat>,
    #[command(flatten)]
    pub(super) shared: Shared,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Convert {
    /// As `show` takes it
    pub(super) name: String,
    /// The new format: raw, qcow2, vhd, vhdx, vdi or vmdk
    #[arg(long, value_name = "FORMAT", value_parser = format_word)]
    pub(super) to: DiskFormat,
    /// What the new one is called [default: NAME.FORMAT]
    #[arg(long = "name", value_name = "NEW")]
    pub(super) new_name: Option<DiskName>,
    /// Pack the clusters; of a qcow2 only
    #[arg(long)]
    pub(super) compress: bool,
    #[command(flatten)]
    pub(super) shared: Shared,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    /// Its name
    pub(super) name: DiskName,
    /// A property that it gets; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE")]
    pub(super) properties: Vec<Property>,
    /// A property that goes; may be repeated
    #[arg(long = "drop", value_name = "KEY")]
    pub(super) drops: Vec<String>,
    /// Least memory that a machine needs with it
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) min_memory: Option<u64>,
    /// The machine's architecture
    #[arg(long, value_name = "ARCH")]
    pub(super) arch: Option<String>,
    #[command(flatten)]
    pub(super) shared: Shared,
    /// Take any signature away
    #[arg(long, conflicts_with = "sign")]
    pub(super) no_sign: bool,
}

/// `KEY=VALUE`.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Property(String, String);

/// The text has no key in front of an equals sign.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("write KEY=VALUE")]
pub(in crate::cli) struct PropertyForm;

impl FromStr for Property {
    type Err = PropertyForm;
    fn from_str(text: &str) -> Result<Self, PropertyForm> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err(PropertyForm),
        }
    }
}

fn format_word(text: &str) -> Result<DiskFormat, String> {
    let known = || DiskFormat::ALL.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(", ");
    DiskFormat::from_word(text).ok_or_else(|| format!("write one of {}", known()))
}

pub(super) fn raw_only(text: &str) -> Result<DiskFormat, String> {
    match text {
        "raw" => Ok(DiskFormat::Raw),
        _ => Err("only `raw` can be vouched for; the others tell themselves".to_owned()),
    }
}

pub(super) fn map(properties: Vec<Property>) -> BTreeMap<String, String> {
    properties.into_iter().map(|Property(key, value)| (key, value)).collect()
}

/// The name that a file suggests.
pub(super) fn name_of(file: &Path) -> Result<DiskName, CliError> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
    let stem = stem.unwrap_or_default();
    stem.parse().map_err(|error| CliError::usage(format!("{error}: choose one with --name")))
}

impl Shared {
    /// The word of the API, and the organisations.
    pub(super) async fn who(
        &self,
        client: &Client,
    ) -> Result<(Option<String>, Vec<OrgId>), CliError> {
        match self.visibility {
            Some(Visibility::Partner) if self.orgs.is_empty() => {
                return Err(CliError::usage("`--visibility partner` needs an `--org` at least"));
            }
            Some(Visibility::Partner) => {}
            _ if !self.orgs.is_empty() => {
                return Err(CliError::usage("`--org` goes with `--visibility partner` only"));
            }
            _ => {}
        }
        let visibility = self.visibility.map(|visibility| visibility.word().to_owned());
        Ok((visibility, orgs(client, &self.orgs).await?))
    }
}

/// Organisations by id, or by the name that nodes known here have in their certificates.
async fn orgs(client: &Client, texts: &[String]) -> Result<Vec<OrgId>, CliError> {
    if texts.iter().all(|text| text.parse::<OrgId>().is_ok()) {
        return Ok(texts.iter().filter_map(|text| text.parse().ok()).collect());
    }
    let peers: Vec<PeerView> = client.get("/peers", &[]).await?;
    texts.iter().map(|text| org(&peers, text)).collect()
}

fn org(peers: &[PeerView], text: &str) -> Result<OrgId, CliError> {
    if let Ok(org) = text.parse() {
        return Ok(org);
    }
    let known: BTreeMap<OrgId, &str> =
        peers.iter().map(|peer| (peer.org, peer.org_name.as_str())).collect();
    let labels = known.into_iter().filter(|(_, name)| *name == text);
    let labels = labels.map(|(org, name)| (org, format!("{org} ({name})")));
    pick("organisation", text, labels, |_| true)
}
