//! `opencloud image disk`.

mod args;

use std::path::{Path, PathBuf};

use catalog::record::{DiskFormat, DiskName, Properties};
use clap::Subcommand;
use serde_json::json;

use self::args::{Add, Convert, Set, map, name_of, raw_only};
use crate::api::{AddDisk, ConvertDisk, SetDisk};
use crate::cli::bar::Bar;
use crate::cli::client::Client;
use crate::cli::error::{CliError, OK};
use crate::cli::units::{bytes, parse_size, time};
use crate::cli::upload::Sink;
use crate::cli::{Context, EXIT_CODES, download};
use crate::engine::disks::{DiskView, Usage};
use crate::runtime::vm::{Converter, Facts};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Store the image of a disk on the node
    #[command(after_help = format!("\
Raw, qcow2, VHD, VHDX, VDI and VMDK are taken, in one file. The node looks into it
first, confined, and refuses what is none of them, is cut off, or names other files.

Examples:
  opencloud image disk add debian-12-genericcloud-amd64.qcow2 --name debian-12
  opencloud image disk add win.vhdx --name win --min-memory 4GiB --property os_type=windows
  opencloud image disk add debian.raw --name debian --visibility public --sign
  opencloud image disk add lab.vmdk --name lab --visibility partner --org 'Survey Office'

{EXIT_CODES}"))]
    Add(Add),
    /// List the disk images of this node
    #[command(after_help = format!("\
Those of others: opencloud catalog search 'kind = disk'

Example:
  opencloud image disk list

{EXIT_CODES}"))]
    List,
    /// Show what is said of a disk image
    #[command(after_help = format!("\
Examples:
  opencloud image disk show debian-12
  opencloud image disk show 'Survey Office/debian-12'
  opencloud image disk show blake3:0f3a

{EXIT_CODES}"))]
    Show {
        /// Its name; of another node's `ORGANISATION/NAME` or `AUTHOR/disk/NAME`, too; or a digest
        name: String,
    },
    /// Look into a disk image or a file
    #[command(after_help = format!("\
Says what the bytes are, whatever is said of them. A file needs no node; with a
file of that name in this directory the file is meant.

Examples:
  opencloud image disk inspect debian-12
  opencloud image disk inspect ./download.vmdk

{EXIT_CODES}"))]
    Inspect {
        /// A file, or a disk image as `show` takes it
        #[arg(value_name = "NAME|FILE")]
        name: String,
        /// Vouch for a raw disk without a boot sector
        #[arg(long, value_name = "FORMAT", value_parser = raw_only)]
        format: Option<DiskFormat>,
    },
    /// Make another disk image of the same disk
    #[command(after_help = format!("\
The new one is private and not signed unless that is said; properties, architecture
and memory are those of the old one.

Examples:
  opencloud image disk convert lab --to qcow2 --compress
  opencloud image disk convert debian-12 --to vhd --name debian-12-azure

{EXIT_CODES}"))]
    Convert(Convert),
    /// Change what is said of a disk image
    #[command(after_help = format!("\
What this organisation has signed it signs again. What another one has signed is
changed only with --sign or --no-sign.

Examples:
  opencloud image disk set debian-12 --property os_version=12.8 --drop os_codename
  opencloud image disk set debian-12 --visibility partner --org 'Survey Office'
  opencloud image disk set debian-12 --visibility private

{EXIT_CODES}"))]
    Set(Set),
    /// Write a disk image to a file
    #[command(after_help = format!("\
Another node's is fetched. Every byte is checked against both digests; the file is in
place only when it is whole.

Example:
  opencloud image disk export debian-12 --out debian-12.qcow2

{EXIT_CODES}"))]
    Export {
        /// As `show` takes it
        name: String,
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make another node's disk image one of this node
    #[command(after_help = format!("\
It is fetched and verified first, and private here. Under its own name it keeps the
signature of its owner, whoever publishes it.

Examples:
  opencloud image disk copy 'Survey Office/debian-12'
  opencloud image disk copy 'Survey Office/debian-12' --name debian-12-survey

{EXIT_CODES}"))]
    Copy {
        /// As `show` takes it
        name: String,
        /// What it is called here [default: the same]
        #[arg(long = "name", value_name = "NEW")]
        new_name: Option<DiskName>,
    },
    /// Forget a disk image of this node
    #[command(after_help = format!("\
It leaves the catalogue at once, and the disk when nothing needs it any more.

Example:
  opencloud image disk remove debian-11

{EXIT_CODES}"))]
    Remove {
        /// Its name
        name: DiskName,
    },
    /// Read every byte of a disk image again, and tell who signed it
    #[command(after_help = format!("\
Another node's is fetched first. An own one that is damaged is marked as lost and
leaves the catalogue until it is whole again.

Examples:
  opencloud image disk verify debian-12
  opencloud image disk verify 'Survey Office/debian-12'

{EXIT_CODES}"))]
    Verify {
        /// As `show` takes it
        name: String,
    },
    /// Show how much the disk images use, or say how much they may
    #[command(after_help = format!("\
Examples:
  opencloud image disk quota
  opencloud image disk quota --images 50 --bytes 200GiB

{EXIT_CODES}"))]
    Quota {
        /// At most so many
        #[arg(long, value_name = "N")]
        images: Option<u64>,
        /// At most so many bytes together
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        bytes: Option<u64>,
    },
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Add(verb) => add(context, verb).await,
            Self::List => list(context).await,
            Self::Show { name } => {
                let disk = show(&context.client()?, &name, false).await?;
                told(context, &disk)
            }
            Self::Inspect { name, format } => inspect(context, &name, format).await,
            Self::Convert(verb) => convert(context, verb).await,
            Self::Set(verb) => set(context, verb).await,
            Self::Export { name, out } => export(context, &name, &out).await,
            Self::Copy { name, new_name } => {
                let (client, bar) = (context.client()?, Bar::work("fetching"));
                let asked = json!({"name": name, "new_name": new_name});
                let copied: Result<DiskView, CliError> =
                    client.post_slowly("/images/disks/copy", &asked).await;
                bar.end();
                told(context, &copied?)
            }
            Self::Remove { name } => {
                context.client()?.delete("/images/disks", &[("name", name.as_str())]).await?;
                said(context, &json!({"name": name}), &format!("{name} is removed"))
            }
            Self::Verify { name } => verify(context, &name).await,
            Self::Quota { images, bytes } => quota(context, images, bytes).await,
        }
    }
}

async fn show(client: &Client, name: &str, here: bool) -> Result<DiskView, CliError> {
    let here = if here { "true" } else { "false" };
    client.get_slowly("/images/disks/disk", &[("name", name), ("here", here)]).await
}

/// A disk image as workflows and parameters name it: `image:NAME`.
pub(crate) async fn named(client: &Client, name: &str, here: bool) -> Result<DiskView, CliError> {
    show(client, name, here).await
}

async fn add(context: &Context, verb: Add) -> Result<u8, CliError> {
    let name = match verb.name {
        Some(name) => name,
        None => name_of(&verb.file)?,
    };
    let client = context.client()?;
    let (visibility, orgs) = verb.shared.who(&client).await?;
    // What this program refuses itself costs no upload.
    let file = Sink::Node(&client).file(&verb.file).await?;
    let asked = AddDisk {
        name,
        digest: file.digest,
        format: verb.format,
        arch: verb.arch.unwrap_or_default(),
        min_memory_bytes: verb.min_memory.unwrap_or(0),
        properties: Properties(map(verb.properties)),
        visibility,
        orgs,
        sign: verb.shared.sign,
    };
    let bar = Bar::work("looking into it");
    let added: Result<DiskView, CliError> = client.post_slowly("/images/disks", &asked).await;
    bar.end();
    told(context, &added?)
}

async fn list(context: &Context) -> Result<u8, CliError> {
    let disks: Vec<DiskView> = context.client()?.get("/images/disks", &[]).await?;
    if context.out.is_json() {
        context.out.json(&disks);
        return Ok(OK);
    }
    let rows = disks.into_iter().map(|disk| {
        vec![
            disk.name,
            disk.format.to_string(),
            bytes(disk.size),
            bytes(disk.virtual_bytes),
            disk.state.as_str().to_owned(),
            disk.visibility.unwrap_or_default(),
            disk.digest.to_string(),
        ]
    });
    let header = ["name", "format", "size", "disk", "state", "visibility", "digest"];
    context.out.table(&header, rows.collect(), "no disk images");
    Ok(OK)
}

async fn inspect(
    context: &Context,
    name: &str,
    format: Option<DiskFormat>,
) -> Result<u8, CliError> {
    let path = Path::new(name);
    let facts = if path.is_file() {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let converter = Converter::beside(dir.unwrap_or(Path::new(".")), "cli");
        let found = converter.inspect(path, format == Some(DiskFormat::Raw)).await;
        found.map_err(|source| CliError::Inspect {
            path: path.to_owned(),
            source: Box::new(source),
        })?
    } else {
        let client = context.client()?;
        let bar = Bar::work("fetching");
        let disk = show(&client, name, true).await;
        bar.end();
        let disk = disk?;
        // What its owner vouched for is not asked again.
        let format = format.or((disk.format == DiskFormat::Raw).then_some(DiskFormat::Raw));
        let asked = json!({"digest": disk.digest, "format": format});
        client.post_slowly::<Facts>("/images/disks/inspection", &asked).await?
    };
    if context.out.is_json() {
        context.out.json(&facts);
        return Ok(OK);
    }
    let mut lines = vec![
        ("format", facts.format.to_string()),
        ("size", bytes(facts.size)),
        ("disk", bytes(facts.virtual_bytes)),
    ];
    lines.extend(facts.cluster_bytes.map(|n| ("cluster", bytes(n))));
    lines.extend(facts.snapshots.map(|n| ("snapshots", n.to_string())));
    lines.extend(facts.is_dirty.map(|is_dirty| {
        ("closed", if is_dirty { "not in good order" } else { "in good order" }.to_owned())
    }));
    lines.extend(facts.headers_only.map(|why| ("headers only", why)));
    context.out.facts(&lines);
    Ok(OK)
}

async fn convert(context: &Context, verb: Convert) -> Result<u8, CliError> {
    let client = context.client()?;
    if verb.compress && verb.to != DiskFormat::Qcow2 {
        return Err(CliError::usage("`--compress` is for `--to qcow2` only"));
    }
    let (visibility, orgs) = verb.shared.who(&client).await?;
    let new_name = match verb.new_name {
        Some(name) => name,
        None => {
            let disk = show(&client, &verb.name, false).await?;
            let name = format!("{}.{}", disk.name, verb.to);
            let named = name.parse();
            named.map_err(|error| CliError::usage(format!("{error}: choose one with --name")))?
        }
    };
    let asked = ConvertDisk {
        name: verb.name,
        to: verb.to,
        new_name,
        compress: verb.compress,
        visibility,
        orgs,
        sign: verb.shared.sign,
    };
    let bar = Bar::work("converting");
    let made: Result<DiskView, CliError> =
        client.post_slowly("/images/disks/conversion", &asked).await;
    bar.end();
    told(context, &made?)
}

async fn set(context: &Context, verb: Set) -> Result<u8, CliError> {
    let client = context.client()?;
    let (visibility, orgs) = verb.shared.who(&client).await?;
    let put = map(verb.properties).into_iter().map(|(key, value)| (key, Some(value)));
    let properties = verb.drops.into_iter().map(|key| (key, None)).chain(put).collect();
    let sign = match (verb.shared.sign, verb.no_sign) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let (arch, min_memory_bytes) = (verb.arch, verb.min_memory);
    let asked = SetDisk { arch, min_memory_bytes, properties, visibility, orgs, sign };
    let query = [("name", verb.name.as_str())];
    told(context, &client.patch("/images/disks", &query, &asked).await?)
}

async fn export(context: &Context, name: &str, out: &Path) -> Result<u8, CliError> {
    let client = context.client()?;
    let bar = Bar::work("fetching");
    let disk = show(&client, name, true).await;
    bar.end();
    let disk = disk?;
    download::checked(&client, &disk.digest, Some(disk.sha256), out).await?;
    said(context, &json!({"name": disk.name, "path": out}), &out.display().to_string())
}

async fn verify(context: &Context, name: &str) -> Result<u8, CliError> {
    let client = context.client()?;
    let bar = Bar::work("reading");
    let checked: Result<DiskView, CliError> =
        client.post_slowly("/images/disks/verification", &json!({"name": name})).await;
    bar.end();
    let disk = checked?;
    if context.out.is_json() {
        context.out.json(&disk);
        return Ok(OK);
    }
    context.out.line(&format!("{} is whole: {} bytes, {}", disk.name, disk.size, disk.digest));
    context.out.line(&match signature(&disk) {
        Some(signature) => format!("signed by {signature}"),
        None => "nobody has signed it".to_owned(),
    });
    Ok(OK)
}

/// Who signed it, and when.
fn signature(disk: &DiskView) -> Option<String> {
    let signer = disk.signer.as_ref()?;
    let name = signer.org_name.as_deref().unwrap_or("an organisation not known here");
    Some(format!("{name} ({}) at {}", signer.org, time(signer.signed_ms)))
}

async fn quota(context: &Context, images: Option<u64>, most: Option<u64>) -> Result<u8, CliError> {
    let client = context.client()?;
    let mut usage: Usage = client.get("/images/disks/quota", &[]).await?;
    if images.is_some() || most.is_some() {
        usage.quota.images = images.unwrap_or(usage.quota.images);
        usage.quota.bytes = most.unwrap_or(usage.quota.bytes);
        usage = client.put("/images/disks/quota", &usage.quota).await?;
    }
    if context.out.is_json() {
        context.out.json(&usage);
        return Ok(OK);
    }
    context.out.facts(&[
        ("images", format!("{} of {}", usage.images, usage.quota.images)),
        ("bytes", format!("{} of {}", bytes(usage.bytes), bytes(usage.quota.bytes))),
    ]);
    Ok(OK)
}

fn told(context: &Context, disk: &DiskView) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(disk);
        return Ok(OK);
    }
    let mut facts = vec![
        ("name", disk.name.clone()),
        ("format", disk.format.to_string()),
        ("size", bytes(disk.size)),
        ("disk", bytes(disk.virtual_bytes)),
        ("digest", disk.digest.to_string()),
        ("SHA-256", disk.sha256.to_string()),
        ("state", disk.state.as_str().to_owned()),
        ("owner", format!("{} ({})", disk.owner_name, disk.owner)),
        ("node", disk.node.to_string()),
    ];
    let orgs: Vec<String> = disk.orgs.iter().map(ToString::to_string).collect();
    facts.extend(disk.visibility.clone().map(|visibility| ("visibility", visibility)));
    if !orgs.is_empty() {
        facts.push(("shown to", orgs.join("\n")));
    }
    if !disk.arch.is_empty() {
        facts.push(("architecture", disk.arch.clone()));
    }
    if disk.min_memory_bytes > 0 {
        facts.push(("least memory", bytes(disk.min_memory_bytes)));
    }
    let properties = disk.properties.0.iter().map(|(key, value)| format!("{key}={value}"));
    let properties: Vec<String> = properties.collect();
    if !properties.is_empty() {
        facts.push(("properties", properties.join("\n")));
    }
    facts.push(("signed by", signature(disk).unwrap_or_else(|| "nobody".to_owned())));
    facts.extend(disk.added_ms.map(|at| ("added", time(at))));
    context.out.facts(&facts);
    Ok(OK)
}

fn said(context: &Context, json: &serde_json::Value, line: &str) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(json);
    } else {
        context.out.line(line);
    }
    Ok(OK)
}
