//! The headers of disk images, format by format: what a disk's size is, whether the image is alone, whether it is all there.
//!
//! Each function gives the bytes of the disk. Numbers from a header are nowhere trusted to fit; what QEMU reads more
//! generously than the format's description is read as generously here, so that nothing passes that it would follow.

use std::io;

use super::image::{Bytes, InvalidMachine, SECTOR, format, u32_be, u32_le, u64_be, u64_le};

type Found = Result<u64, InvalidMachine>;

/// Bits of "incompatible features" of a qcow2: marked as damaged; an external data file; all that are known here.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = 0b1_1111;
/// Extensions of a qcow2's header: the name of an external data file, the place of an encryption's header.
const EXTENSION_DATA: u32 = u32::from_be_bytes(*b"DATA");
const EXTENSION_CRYPTO: u32 = 0x0537_be77;
/// Bytes of a qcow2's beginning that are searched for extensions. Real ones end within 600 bytes.
const EXTENSIONS_BYTES: usize = 4_096;
/// Largest first-level table in bytes, as in QEMU: for 2 EiB in clusters of 2 MiB.
const L1_BYTES_MAX: u64 = 32 << 20;
/// Most internal snapshots; an image with more is refused. Each costs memory when it is opened.
const SNAPSHOTS_MAX: u32 = 1_024;
/// Shortest description of a VMDK that is looked at, in sectors: what QEMU reads of each, whatever its header says.
const DESCRIPTION_SECTORS_MIN: u64 = 20;
/// Longest description inside a VMDK, in sectors; one with more is refused. Real ones have 20.
const DESCRIPTION_SECTORS_MAX: u64 = 128;
/// Kinds of VMDK that are one file.
const VMDK_ALONE: [&str; 2] = ["\"monolithicSparse\"", "\"streamOptimized\""];
/// A VMDK's word for a parent that there is none of.
const VMDK_NO_PARENT: &str = "ffffffff";
/// Most blocks of a VDI, as in QEMU; an image with more is refused.
const VDI_BLOCKS_MAX: u32 = 0x3fff_ffff;
/// Where a VHDX has its two region tables, and how long they are.
const VHDX_REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const VHDX_REGIONS_BYTES: usize = 64 << 10;
/// Most entries of a table in a VHDX, by its specification.
const VHDX_ENTRIES_MAX: usize = 2_047;
/// GUIDs in a VHDX as they lie there: the region with metadata; the parameters of the file and the size of the disk in it.
pub(super) const VHDX_METADATA: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
pub(super) const VHDX_PARAMETERS: [u8; 16] = [
    0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b,
];
pub(super) const VHDX_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
/// The bit of a VHDX's parameters that says that it has a parent.
const VHDX_HAS_PARENT: u32 = 1 << 1;

pub(super) const VMDK_REFERS: InvalidMachine =
    InvalidMachine::Refers { refers: "is a VMDK description of other files" };

fn refers(refers: &'static str) -> Found {
    Err(InvalidMachine::Refers { refers })
}

/// Fails when `bytes` at `at` are not all within `len`.
fn within(at: u64, bytes: u64, len: u64, what: &'static str) -> Result<(), InvalidMachine> {
    match at.checked_add(bytes) {
        Some(end) if end <= len => Ok(()),
        _ => Err(InvalidMachine::CutOff { what }),
    }
}

pub(super) fn qcow2(image: &impl Bytes, head: &[u8], len: u64) -> io::Result<Found> {
    let version = u32_be(head, 4);
    if !(2..=3).contains(&version) {
        return Ok(format("is a qcow of a version that is not taken"));
    }
    let mut start = vec![0; EXTENSIONS_BYTES];
    image.at(0, &mut start)?;
    // A cut-off file's missing part reads as zeros, which end the extensions.
    Ok(qcow2_refers(version, &start).and_then(|()| qcow2_tables(version, head, len)))
}

fn qcow2_refers(version: u32, start: &[u8]) -> Result<(), InvalidMachine> {
    let features = if version == 3 { u64_be(start, 72) } else { 0 };
    if u64_be(start, 8) != 0 {
        return refers("needs a backing file").map(drop);
    }
    if features & EXTERNAL_DATA != 0 {
        return refers("has its data in another file").map(drop);
    }
    if u32_be(start, 32) != 0 {
        return format("is encrypted");
    }
    if features & CORRUPT != 0 {
        return format("is marked as damaged; mend it first with `qemu-img check -r all`");
    }
    if features & !KNOWN_FEATURES != 0 {
        return format("is a qcow2 with features that are not known");
    }
    let mut at = if version == 3 { u32_be(start, 100) as usize } else { 72 };
    while at + 8 <= start.len() {
        let (kind, bytes) = (u32_be(start, at), u32_be(start, at + 4) as usize);
        match kind {
            0 => break,
            EXTENSION_DATA => return refers("has its data in another file").map(drop),
            EXTENSION_CRYPTO => return format("is encrypted"),
            _ => at = at.saturating_add(8).saturating_add(bytes.next_multiple_of(8)),
        }
    }
    Ok(())
}

fn qcow2_tables(version: u32, head: &[u8], len: u64) -> Found {
    let (cluster_bits, size) = (u32_be(head, 20), u64_be(head, 24));
    if !(9..=21).contains(&cluster_bits) {
        return format("has clusters of a size that is not taken");
    }
    // Before anything is reckoned with it.
    super::image::check_size(size)?;
    let features = if version == 3 { u64_be(head, 72) } else { 0 };
    let entry_bits = if features & EXTENDED_L2 == 0 { 3 } else { 4 };
    let l1_entries = u64::from(u32_be(head, 36));
    if l1_entries * 8 > L1_BYTES_MAX {
        return format("has a first-level table larger than 32 MiB");
    }
    let bytes_per_entry = 1_u64 << (2 * cluster_bits - entry_bits);
    if l1_entries < size.div_ceil(bytes_per_entry) {
        return format("has a first-level table too small for its disk");
    }
    if u32_be(head, 60) > SNAPSHOTS_MAX {
        return format(
            "has more than 1024 internal snapshots; remove some with `qemu-img snapshot -d`",
        );
    }
    within(u64_be(head, 40), l1_entries * 8, len, "its first-level table")?;
    let refcounts = u64::from(u32_be(head, 56)) << cluster_bits;
    within(u64_be(head, 48), refcounts, len, "its table of reference counts")?;
    Ok(size)
}

/// A VMDK with its description inside. One without a capacity is read as a description of other files.
pub(super) fn vmdk(image: &impl Bytes, head: &[u8]) -> io::Result<Found> {
    let (capacity, at, sectors) = (u64_le(head, 12), u64_le(head, 28), u64_le(head, 36));
    if capacity == 0 {
        return Ok(Err(VMDK_REFERS));
    }
    if at == 0 || sectors == 0 || sectors > DESCRIPTION_SECTORS_MAX {
        return Ok(format("is a VMDK without a plain description inside"));
    }
    let sectors = sectors.max(DESCRIPTION_SECTORS_MIN);
    let mut text = vec![0; usize::try_from(sectors * SECTOR).unwrap_or(0)];
    let n = image.at(at.saturating_mul(SECTOR), &mut text)?;
    let text = String::from_utf8_lossy(&text[..n]);
    if text.contains("parentFileNameHint") {
        return Ok(refers("is a VMDK that needs its parent"));
    }
    // Grains may follow a description that is shorter than what QEMU reads of it.
    let text = text.split('\0').next().unwrap_or_default();
    if !is_one_file(text) {
        return Ok(Err(VMDK_REFERS));
    }
    Ok(Ok(capacity.saturating_mul(SECTOR)))
}

/// Whether a VMDK's description speaks of one file, this one, and of no parent.
fn is_one_file(text: &str) -> bool {
    let mut kinds = 0;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        match key.trim() {
            "createType" if VMDK_ALONE.contains(&value.trim()) => kinds += 1,
            "createType" => return false,
            "parentCID" if !value.trim().eq_ignore_ascii_case(VMDK_NO_PARENT) => return false,
            _ => {}
        }
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            extents += 1;
            if words.nth(1) != Some("SPARSE") {
                return false;
            }
        }
    }
    kinds == 1 && extents <= 1
}

pub(super) fn vhd(footer: &[u8], len: u64) -> Found {
    let size = u64_be(footer, 48);
    match u32_be(footer, 60) {
        2 => within(0, size, len, "its data").map(|()| size),
        3 => Ok(size),
        4 => refers("is a VHD that needs its parent"),
        _ => format("is a VHD of an unknown kind"),
    }
}

pub(super) fn vdi(head: &[u8], len: u64) -> Found {
    match u32_le(head, 76) {
        1 | 2 => {}
        3 | 4 => return refers("is a VDI that needs its parent"),
        _ => return format("is a VDI of an unknown kind"),
    }
    // What it is linked to, and its parent.
    if head.get(424..456).is_none_or(|ids| ids.iter().any(|byte| *byte != 0)) {
        return refers("is a VDI that needs its parent");
    }
    let blocks = u32_le(head, 384);
    if blocks > VDI_BLOCKS_MAX {
        return format("is a VDI with more blocks than are taken");
    }
    let map = u64::from(u32_le(head, 340));
    within(map, u64::from(blocks) * 4, len, "its map of blocks")?;
    // No program of QEMU looks whether they are there.
    let allocated = u64::from(u32_le(head, 388)) * u64::from(u32_le(head, 376));
    within(u64::from(u32_le(head, 344)), allocated, len, "a part of its blocks")?;
    Ok(u64_le(head, 368))
}

/// A VHDX: two tables of regions, either of which may count. Each leads to a table of metadata with the disk's size, and with
/// what is said of a parent.
pub(super) fn vhdx(image: &impl Bytes) -> io::Result<Found> {
    let mut size = None;
    for at in VHDX_REGIONS {
        let regions = read(image, at, VHDX_REGIONS_BYTES)?;
        if !regions.starts_with(b"regi") {
            continue;
        }
        let n = u32_le(&regions, 8) as usize;
        let mut found = entries(&regions, 16, n).filter(|e| e.starts_with(&VHDX_METADATA));
        let Some(entry) = found.next() else { continue };
        if found.next().is_some() {
            return Ok(format("is a VHDX with several regions of metadata"));
        }
        match vhdx_metadata(image, u64_le(entry, 16))? {
            Ok(found) => size = size.or(found),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(size.ok_or(InvalidMachine::CutOff { what: "the size of its disk" }))
}

fn vhdx_metadata(image: &impl Bytes, at: u64) -> io::Result<Result<Option<u64>, InvalidMachine>> {
    let table = read(image, at, VHDX_REGIONS_BYTES)?;
    if !table.starts_with(b"metadata") {
        return Ok(Ok(None));
    }
    let n = usize::from(u16::from_le_bytes(super::image::part(&table, 10)));
    let mut size = None;
    for entry in entries(&table, 32, n) {
        if !entry.starts_with(&VHDX_PARAMETERS) && !entry.starts_with(&VHDX_SIZE) {
            continue;
        }
        let value = read(image, at.saturating_add(u64::from(u32_le(entry, 16))), 8)?;
        if entry.starts_with(&VHDX_PARAMETERS) && u32_le(&value, 4) & VHDX_HAS_PARENT != 0 {
            return Ok(refers("is a VHDX that needs its parent").map(Some));
        }
        if entry.starts_with(&VHDX_SIZE) && value.len() == 8 {
            size = Some(u64_le(&value, 0));
        }
    }
    Ok(Ok(size))
}

/// The entries of a table, after its head.
fn entries(table: &[u8], head: usize, n: usize) -> impl Iterator<Item = &[u8]> {
    let entries = table.get(head..).unwrap_or_default().chunks_exact(32);
    entries.take(n.min(VHDX_ENTRIES_MAX))
}

/// As many of these bytes as there are.
fn read(image: &impl Bytes, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = image.at(at, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}
