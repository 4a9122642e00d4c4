//! Images: what kind one is, and whether it may be opened at all.
//!
//! Formats of disks were made by people who trusted them: an image can name a file below it (a backing file, a parent), or a
//! file with its data, and whoever opens it opens those, with the node's rights. So the node reads the headers itself, before
//! any program of QEMU does, and refuses an image that is not alone. Whatever it opens later it opens under the format that was
//! found here, with "no backing file" as an explicit option.
//!
//! Formats: QEMU `docs/interop/qcow2.txt`; VMware "Virtual Disk Format 5.0"; Microsoft "Virtual Hard Disk Image Format
//! Specification" and MS-VHDX; the header of `VDICore.h` of `VirtualBox`. How each is read stands in `formats`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

pub(crate) use catalog::record::DiskFormat as Format;

use super::formats;

/// Largest disk that an image may describe, in bytes; a larger one is refused.
const VIRTUAL_BYTES_MAX: u64 = catalog::record::DISK_BYTES_MAX;
/// Bytes of a sector; a raw image consists of whole ones.
pub(super) const SECTOR: u64 = 512;
/// Bytes of the head and of the end of a file that tell its format.
const HEAD_BYTES: usize = 512;

/// Why a machine can never run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMachine {
    /// A directory is no kernel machine.
    #[error("the machine's directory {problem}; it has to hold the files `kernel` and `initramfs`")]
    Layout {
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not what its name says.
    #[error("the image is damaged: it does not have its BLAKE3")]
    Damaged,
    /// It is in no format that is taken.
    #[error("the image {problem}; convert it with `qemu-img convert -O qcow2`")]
    Format {
        /// What is wrong with it.
        problem: String,
    },
    /// It is not alone.
    #[error("the image is not whole: it {refers}; flatten it with `qemu-img convert -O qcow2`")]
    Refers {
        /// To what it refers, and how.
        refers: &'static str,
    },
    /// It says that it is longer than it is.
    #[error("the image is cut off: {what} lies beyond its end; copy it again")]
    CutOff {
        /// What of it is missing.
        what: &'static str,
    },
    /// It is too large.
    #[error("the {what} has {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// The part in question.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// QEMU does not take it.
    #[error("qemu refuses the image: {detail}")]
    Refused {
        /// QEMU's message, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// The task cannot be given to a machine.
    #[error("the machine cannot be given its task: {problem}")]
    Task {
        /// Why not.
        problem: String,
    },
    /// It ended or hung before its task began.
    #[error("the machine {what} before its task began; its console ends with:\n{console}")]
    NoStart {
        /// What it did.
        what: String,
        /// The end of its console.
        console: String,
    },
}

/// As QEMU calls a format.
pub(crate) const fn driver(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
        Format::Vhd => "vpc",
        Format::Vhdx => "vhdx",
        Format::Vdi => "vdi",
        Format::Vmdk => "vmdk",
    }
}

/// Whether a machine runs on it as it is; others are converted.
pub(super) const fn is_native(format: Format) -> bool {
    matches!(format, Format::Raw | Format::Qcow2)
}

/// What a file is taken for that bears no format's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmarked {
    /// A raw disk if it has a boot sector, else nothing.
    Bootable,
    /// A raw disk, because its owner says so.
    Raw,
}

/// Bytes of a file at a place.
pub(crate) trait Bytes {
    /// Fills `buffer`, as far as there is something.
    fn at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// How many there are.
    fn size(&self) -> io::Result<u64>;
}

impl Bytes for File {
    fn at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset.saturating_add(done as u64))? {
                0 => break,
                len => done += len,
            }
        }
        Ok(done)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Bytes for &[u8] {
    fn at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Finds out the format of an image, the size of its disk, and whether it is alone and not cut off.
pub(crate) fn inspect(
    image: &impl Bytes,
    unmarked: Unmarked,
) -> io::Result<Result<(Format, u64), InvalidMachine>> {
    let len = image.size()?;
    let mut head = [0; HEAD_BYTES];
    image.at(0, &mut head)?;
    let mut tail = [0; HEAD_BYTES];
    image.at(len.saturating_sub(HEAD_BYTES as u64), &mut tail)?;
    let head = &head[..];
    let (format, found) = if head.starts_with(b"QFI\xfb") {
        (Format::Qcow2, formats::qcow2(image, head, len)?)
    } else if head.starts_with(b"KDMV") {
        (Format::Vmdk, formats::vmdk(image, head)?)
    } else if head.starts_with(b"COWD") {
        return Ok(format("is an old kind of VMDK"));
    } else if head.starts_with(b"# Disk DescriptorFile") {
        return Ok(Err(formats::VMDK_REFERS));
    } else if head.starts_with(b"vhdxfile") {
        (Format::Vhdx, formats::vhdx(image)?)
    } else if head.starts_with(b"conectix") {
        (Format::Vhd, formats::vhd(head, len))
    } else if tail.starts_with(b"conectix") {
        (Format::Vhd, formats::vhd(&tail, len))
    } else if u32_le(head, 64) == 0xbeda_107f {
        (Format::Vdi, formats::vdi(head, len))
    } else {
        (Format::Raw, raw(head, len, unmarked))
    };
    Ok(found.and_then(|bytes| check_size(bytes).map(|()| (format, bytes))))
}

/// The format of an image in memory, and the size of its disk: what is found in a file of these bytes.
///
/// # Errors
/// [`InvalidMachine`], as of a file.
pub fn inspect_bytes(bytes: &[u8]) -> Result<(Format, u64), InvalidMachine> {
    match inspect(&bytes, Unmarked::Bootable) {
        Ok(found) => found,
        Err(error) => format(&error.to_string()),
    }
}

pub(super) fn format<T>(problem: &str) -> Result<T, InvalidMachine> {
    Err(InvalidMachine::Format { problem: problem.to_owned() })
}

/// Refuses a disk that is too large.
pub(crate) fn check_size(bytes: u64) -> Result<(), InvalidMachine> {
    if bytes > VIRTUAL_BYTES_MAX {
        return Err(InvalidMachine::TooLarge { what: "disk", bytes, max: VIRTUAL_BYTES_MAX });
    }
    Ok(())
}

fn raw(head: &[u8], len: u64, unmarked: Unmarked) -> Result<u64, InvalidMachine> {
    if head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(b"\xfd7zXZ")
        || head.starts_with(b"PK\x03\x04")
    {
        let problem = "is compressed; unpack it first".to_owned();
        return Err(InvalidMachine::Format { problem });
    }
    if len == 0 || !len.is_multiple_of(SECTOR) {
        return format("is in no known format, and no raw disk of whole sectors");
    }
    if unmarked == Unmarked::Bootable && head.get(510..512) != Some(&[0x55, 0xaa]) {
        return format("is in no known format, nor a bootable raw disk");
    }
    Ok(len)
}

pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(part(bytes, at))
}

pub(super) fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

pub(super) fn u64_be(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(part(bytes, at))
}

pub(super) fn u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(image: &[u8]) -> Result<(Format, u64), InvalidMachine> {
        inspect(&image, Unmarked::Bootable).unwrap()
    }

    fn with(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; 4_096];
        for (at, bytes) in fields {
            image[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    /// A qcow2 of 1 GiB with what is changed of its header.
    fn qcow2(fields: &[(usize, &[u8])]) -> Result<(Format, u64), InvalidMachine> {
        let mut all: Vec<(usize, Vec<u8>)> = vec![
            (0, b"QFI\xfb\0\0\0\x03".to_vec()),
            (20, 16_u32.to_be_bytes().to_vec()),
            (24, (1_u64 << 30).to_be_bytes().to_vec()),
            (36, 2_u32.to_be_bytes().to_vec()),
            (40, 1_024_u64.to_be_bytes().to_vec()),
            (100, 104_u32.to_be_bytes().to_vec()),
        ];
        all.extend(fields.iter().map(|(at, bytes)| (*at, bytes.to_vec())));
        let all: Vec<(usize, &[u8])> = all.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
        found(&with(&all))
    }

    #[test]
    fn a_qcow2_that_is_not_alone_is_refused() {
        assert_eq!(qcow2(&[]), Ok((Format::Qcow2, 1 << 30)));
        let refers = |fields: &[(usize, &[u8])]| {
            let refused = qcow2(fields);
            assert!(matches!(refused, Err(InvalidMachine::Refers { .. })), "{refused:?}");
        };
        refers(&[(8, &200_u64.to_be_bytes())]);
        refers(&[(72, &4_u64.to_be_bytes())]);
        // An external data file that only an extension of the header names.
        refers(&[(104, b"DATA\0\0\0\x0b/etc/shadow")]);
        // The same after an extension that is fine.
        refers(&[(104, b"\x68\x03\xf8\x57\0\0\0\x01x\0\0\0\0\0\0\0DATA\0\0\0\x01x")]);
    }

    #[test]
    fn a_qcow2_whose_tables_are_too_large_or_not_there_is_refused() {
        let format = |fields: &[(usize, &[u8])]| {
            let refused = qcow2(fields);
            assert!(matches!(refused, Err(InvalidMachine::Format { .. })), "{refused:?}");
        };
        format(&[(32, &1_u32.to_be_bytes())]);
        // Tables of 32 GiB, more snapshots than anyone has, clusters of 4 GiB, features of the future.
        format(&[(36, &u32::MAX.to_be_bytes())]);
        format(&[(60, &u32::MAX.to_be_bytes())]);
        format(&[(20, &32_u32.to_be_bytes())]);
        format(&[(72, &(1_u64 << 40).to_be_bytes())]);
        format(&[(104, b"\x05\x37\xbe\x77\0\0\0\x10")]);
        // Too few entries for the disk.
        format(&[(36, &1_u32.to_be_bytes())]);
        let cut = qcow2(&[(40, &u64::MAX.to_be_bytes())]);
        assert!(matches!(cut, Err(InvalidMachine::CutOff { .. })), "{cut:?}");
        let cut = qcow2(&[(56, &9_u32.to_be_bytes())]);
        assert!(matches!(cut, Err(InvalidMachine::CutOff { .. })), "{cut:?}");
        let huge = qcow2(&[(24, &u64::MAX.to_be_bytes())]);
        assert!(matches!(huge, Err(InvalidMachine::TooLarge { .. })), "{huge:?}");
    }

    #[test]
    fn a_vmdk_that_names_other_files_is_refused() {
        let text = b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n";
        assert!(matches!(found(&with(&[(0, text)])), Err(InvalidMachine::Refers { .. })));
        let (capacity, at, n) = (8_u64.to_le_bytes(), 1_u64.to_le_bytes(), 1_u64.to_le_bytes());
        let sparse = |text: &[u8], capacity: &[u8]| {
            found(&with(&[(0, b"KDMV"), (12, capacity), (28, &at), (36, &n), (512, text)]))
        };
        let alone: &[u8] = b"parentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
        assert_eq!(sparse(alone, &capacity), Ok((Format::Vmdk, 4_096)));
        assert!(sparse(alone, &[0; 8]).is_err());
        for bad in [
            "createType=\"monolithicFlat\"\n",
            "# createType=\"monolithicSparse\"\ncreateType=\"vmfs\"\n",
            "createType=\"monolithicSparse\"\ncreateType=\"monolithicFlat\"\n",
            "createType=\"monolithicSparse\"\nparentFileNameHint=\"/etc/shadow\"\n",
            "createType=\"monolithicSparse\"\nparentCID=12345678\n",
            "createType=\"monolithicSparse\"\nRW 8 FLAT \"/etc/shadow\" 0\n",
            "createType=\"streamOptimized\"\nRW 8 SPARSE \"json:{}\"\nRW 8 SPARSE \"b\"\n",
            "",
        ] {
            let refused = sparse(bad.as_bytes(), &capacity);
            assert!(matches!(refused, Err(InvalidMachine::Refers { .. })), "{bad}: {refused:?}");
        }
        // A parent behind what the header calls the description's end, where QEMU looks all the same.
        let mut hidden = alone.to_vec();
        hidden.resize(1_024, b' ');
        hidden.extend(b"\nparentFileNameHint=\"/etc/shadow\"\n");
        assert!(matches!(sparse(&hidden, &capacity), Err(InvalidMachine::Refers { .. })));
    }

    #[test]
    fn a_raw_image_has_whole_sectors_and_a_boot_sector_unless_its_owner_vouches() {
        let raw = with(&[(510, &[0x55, 0xaa])]);
        assert_eq!(found(&raw), Ok((Format::Raw, 4_096)));
        for bad in [&raw[..4_000], &[], b"\x1f\x8b", &with(&[])] {
            assert!(matches!(found(bad), Err(InvalidMachine::Format { .. })));
        }
        let vouched = |image: &[u8]| inspect(&image, Unmarked::Raw).unwrap();
        assert_eq!(vouched(&with(&[])), Ok((Format::Raw, 4_096)));
        assert!(vouched(&raw[..4_000]).is_err() && vouched(&[]).is_err());
        // Whoever vouches for a raw disk does not vouch for what a format's mark would lead to.
        let backed = with(&[(0, b"QFI\xfb\0\0\0\x03"), (8, &200_u64.to_be_bytes())]);
        assert!(matches!(vouched(&backed), Err(InvalidMachine::Refers { .. })));
    }

    #[test]
    fn disks_that_need_a_parent_are_refused() {
        let size = 1_024_u64.to_be_bytes();
        let vhd =
            |kind: u32| found(&with(&[(0, b"conectix"), (48, &size), (60, &kind.to_be_bytes())]));
        assert_eq!(vhd(2), Ok((Format::Vhd, 1_024)));
        assert!(vhd(4).is_err() && vhd(9).is_err());
        let long = found(&with(&[
            (0, b"conectix"),
            (48, &8_192_u64.to_be_bytes()),
            (60, &2_u32.to_be_bytes()),
        ]));
        assert!(matches!(long, Err(InvalidMachine::CutOff { .. })), "{long:?}");
        let magic = 0xbeda_107f_u32.to_le_bytes();
        let vdi = |kind: u32, more: (usize, &[u8])| {
            let size = (1_u64 << 20).to_le_bytes();
            found(&with(&[(64, &magic), (76, &kind.to_le_bytes()), (368, &size), more]))
        };
        let nothing = (0, &[][..]);
        assert_eq!(vdi(1, nothing), Ok((Format::Vdi, 1 << 20)));
        assert!(vdi(4, nothing).is_err());
        assert!(matches!(vdi(1, (440, &[1])), Err(InvalidMachine::Refers { .. })));
        assert!(matches!(vdi(1, (384, &[0, 0, 1, 0])), Err(InvalidMachine::CutOff { .. })));
    }

    /// A VHDX with a region table, a table of metadata, and its flags.
    fn vhdx(flags: u32, is_second: bool) -> Vec<u8> {
        let mut image = vec![0; 320 << 10];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"vhdxfile");
        for (at, table) in [(192 << 10, false), (256 << 10, true)] {
            let metadata = if table { 264 << 10 } else { 200_u64 << 10 };
            put(at, b"regi");
            put(at + 8, &1_u32.to_le_bytes());
            put(at + 16, &formats::VHDX_METADATA);
            put(at + 32, &metadata.to_le_bytes());
            let metadata = usize::try_from(metadata).unwrap();
            put(metadata, b"metadata");
            put(metadata + 10, &2_u16.to_le_bytes());
            for (n, item) in [formats::VHDX_PARAMETERS, formats::VHDX_SIZE].iter().enumerate() {
                put(metadata + 32 + n * 32, item);
                put(metadata + 48 + n * 32, &(4_096 + n as u32 * 64).to_le_bytes());
            }
            let flags = if table == is_second { flags } else { 0 };
            put(metadata + 4_100, &flags.to_le_bytes());
            put(metadata + 4_160, &(1_u64 << 30).to_le_bytes());
        }
        image
    }

    #[test]
    fn a_vhdx_tells_its_size_and_is_refused_with_a_parent_in_either_table() {
        assert_eq!(found(&vhdx(1, false)), Ok((Format::Vhdx, 1 << 30)));
        for is_second in [false, true] {
            let refused = found(&vhdx(2, is_second));
            assert!(matches!(refused, Err(InvalidMachine::Refers { .. })), "{refused:?}");
        }
        assert!(matches!(found(&with(&[(0, b"vhdxfile")])), Err(InvalidMachine::CutOff { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), magic in 0_usize..6, at in 0_usize..400_000) {
            let mut image = bytes;
            let magic: &[u8] = [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"conectix", b"vhdxfile", b"COWD", b""][magic];
            if image.len() >= magic.len() { image[..magic.len()].copy_from_slice(magic); }
            let _ = found(&image);
            // The same bytes somewhere in an image whose beginning is right.
            let mut tables = vhdx(0, false);
            for (n, byte) in image.iter().enumerate() {
                if let Some(there) = tables.get_mut(at + n) { *there = *byte; }
            }
            let _ = found(&tables);
        }
    }
}
