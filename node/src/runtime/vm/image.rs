//! Images: what kind one is, and whether it may be opened at all.
//!
//! Formats of disks were made by people who trusted them: an image can name a file below it (a backing file, a parent), or a
//! file with its data, and whoever opens it opens those, with the node's rights. So the node reads the headers itself, before
//! any program of QEMU does, and refuses an image that is not alone. Whatever it opens later it opens under the format that was
//! found here, with "no backing file" as an explicit option.
//!
//! Formats: QEMU `docs/interop/qcow2.txt`; VMware "Virtual Disk Format 5.0"; Microsoft "Virtual Hard Disk Image Format
//! Specification" and MS-VHDX; the header of `VDICore.h` of `VirtualBox`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Largest disk that an image may describe, in bytes; a larger one is refused.
pub(super) const VIRTUAL_BYTES_MAX: u64 = 2 << 40;
/// Bytes of a sector; a raw image consists of whole ones.
pub(super) const SECTOR: u64 = 512;
/// Bytes of the head and of the end of a file that tell its format.
const HEAD_BYTES: usize = 512;
/// Longest description inside a VMDK, in sectors; one with more is refused. Real ones have 20.
const DESCRIPTION_SECTORS_MAX: u64 = 128;

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

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
    Vhd,
    Vhdx,
    Vdi,
    Vmdk,
}

impl Format {
    /// As QEMU calls it.
    pub(super) const fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
        }
    }

    /// Whether a machine runs on it as it is; others are converted.
    pub(super) const fn is_native(self) -> bool {
        matches!(self, Self::Raw | Self::Qcow2)
    }
}

/// Bytes of a file at a place.
pub(super) trait Bytes {
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

/// Finds out the format of an image and whether it is alone. Gives the size of its disk, too, where the node itself reads it.
pub(super) fn inspect(
    image: &impl Bytes,
) -> io::Result<Result<(Format, Option<u64>), InvalidMachine>> {
    let len = image.size()?;
    let mut head = [0; HEAD_BYTES];
    image.at(0, &mut head)?;
    let mut tail = [0; HEAD_BYTES];
    image.at(len.saturating_sub(HEAD_BYTES as u64), &mut tail)?;
    let head = &head[..];
    Ok(if head.starts_with(b"QFI\xfb") {
        qcow2(head).map(|bytes| (Format::Qcow2, Some(bytes)))
    } else if head.starts_with(b"KDMV") {
        vmdk(image, head)?.map(|()| (Format::Vmdk, None))
    } else if head.starts_with(b"COWD") {
        format("is an old kind of VMDK")
    } else if head.starts_with(b"# Disk DescriptorFile") {
        Err(InvalidMachine::Refers { refers: "is a VMDK description of other files" })
    } else if head.starts_with(b"vhdxfile") {
        Ok((Format::Vhdx, None))
    } else if head.starts_with(b"conectix") {
        vhd(head).map(|()| (Format::Vhd, None))
    } else if tail.starts_with(b"conectix") {
        vhd(&tail).map(|()| (Format::Vhd, None))
    } else if u32_le(head, 64) == 0xbeda_107f {
        vdi(head).map(|()| (Format::Vdi, None))
    } else {
        raw(head, len).map(|()| (Format::Raw, Some(len)))
    })
}

fn format<T>(problem: &str) -> Result<T, InvalidMachine> {
    Err(InvalidMachine::Format { problem: problem.to_owned() })
}

/// What a qcow2's header says of the disk's size.
pub(super) fn qcow2(head: &[u8]) -> Result<u64, InvalidMachine> {
    /// Bits of "incompatible features": an external data file; a format that only the newest programs read.
    const EXTERNAL_DATA: u64 = 1 << 2;
    let version = u32_be(head, 4);
    if !(2..=3).contains(&version) {
        return format("is a qcow of a version that is not taken");
    }
    if u64_be(head, 8) != 0 {
        return Err(InvalidMachine::Refers { refers: "needs a backing file" });
    }
    if u32_be(head, 32) != 0 {
        return format("is encrypted");
    }
    if version == 3 && u64_be(head, 72) & EXTERNAL_DATA != 0 {
        return Err(InvalidMachine::Refers { refers: "has its data in another file" });
    }
    let bytes = u64_be(head, 24);
    check_size(bytes)?;
    Ok(bytes)
}

/// Refuses a disk that is too large.
pub(super) fn check_size(bytes: u64) -> Result<(), InvalidMachine> {
    if bytes > VIRTUAL_BYTES_MAX {
        return Err(InvalidMachine::TooLarge { what: "disk", bytes, max: VIRTUAL_BYTES_MAX });
    }
    Ok(())
}

/// A VMDK with its description inside. One without a capacity is read as a description of other files.
fn vmdk(image: &impl Bytes, head: &[u8]) -> io::Result<Result<(), InvalidMachine>> {
    const REFERS: InvalidMachine =
        InvalidMachine::Refers { refers: "is a VMDK description of other files" };
    let (capacity, at, sectors) = (u64_le(head, 12), u64_le(head, 28), u64_le(head, 36));
    if capacity == 0 {
        return Ok(Err(REFERS));
    }
    if at == 0 || sectors == 0 || sectors > DESCRIPTION_SECTORS_MAX {
        return Ok(format("is a VMDK without a plain description inside"));
    }
    let mut text = vec![0; usize::try_from(sectors * SECTOR).unwrap_or(0)];
    image.at(at.saturating_mul(SECTOR), &mut text)?;
    let text = String::from_utf8_lossy(&text);
    if text.contains("parentFileNameHint") {
        return Ok(Err(InvalidMachine::Refers { refers: "is a VMDK that needs its parent" }));
    }
    let is_alone = ["monolithicSparse", "streamOptimized"]
        .iter()
        .any(|kind| text.contains(&format!("createType=\"{kind}\"")));
    Ok(if is_alone { Ok(()) } else { Err(REFERS) })
}

fn vhd(footer: &[u8]) -> Result<(), InvalidMachine> {
    match u32_be(footer, 60) {
        2 | 3 => Ok(()),
        4 => Err(InvalidMachine::Refers { refers: "is a VHD that needs its parent" }),
        _ => format("is a VHD of an unknown kind"),
    }
}

fn vdi(head: &[u8]) -> Result<(), InvalidMachine> {
    match u32_le(head, 76) {
        1 | 2 => Ok(()),
        3 | 4 => Err(InvalidMachine::Refers { refers: "is a VDI that needs its parent" }),
        _ => format("is a VDI of an unknown kind"),
    }
}

fn raw(head: &[u8], len: u64) -> Result<(), InvalidMachine> {
    if head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(b"\xfd7zXZ")
        || head.starts_with(b"PK\x03\x04")
    {
        let problem = "is compressed; unpack it first".to_owned();
        return Err(InvalidMachine::Format { problem });
    }
    if len == 0 || !len.is_multiple_of(SECTOR) || head.get(510..512) != Some(&[0x55, 0xaa]) {
        return format("is in no known format, nor a bootable raw disk");
    }
    check_size(len)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(part(bytes, at))
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

fn u64_be(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(part(bytes, at))
}

fn u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(image: &[u8]) -> Result<(Format, Option<u64>), InvalidMachine> {
        inspect(&image).unwrap()
    }

    fn with(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; 4_096];
        for (at, bytes) in fields {
            image[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    #[test]
    fn a_qcow2_that_is_not_alone_is_refused() {
        let head: &[u8] = b"QFI\xfb\0\0\0\x03";
        let size = &(1_u64 << 30).to_be_bytes()[..];
        let alone = with(&[(0, head), (24, size)]);
        assert_eq!(found(&alone), Ok((Format::Qcow2, Some(1 << 30))));
        let backed = with(&[(0, head), (24, size), (8, &200_u64.to_be_bytes())]);
        assert!(matches!(found(&backed), Err(InvalidMachine::Refers { .. })));
        let outside = with(&[(0, head), (24, size), (72, &4_u64.to_be_bytes())]);
        assert!(matches!(found(&outside), Err(InvalidMachine::Refers { .. })));
        let secret = with(&[(0, head), (24, size), (32, &1_u32.to_be_bytes())]);
        assert!(matches!(found(&secret), Err(InvalidMachine::Format { .. })));
        let huge = with(&[(0, head), (24, &u64::MAX.to_be_bytes())]);
        assert!(matches!(found(&huge), Err(InvalidMachine::TooLarge { .. })));
    }

    #[test]
    fn a_vmdk_that_names_other_files_is_refused() {
        let text = b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n";
        assert!(matches!(found(&with(&[(0, text)])), Err(InvalidMachine::Refers { .. })));
        let (capacity, at, n) = (8_u64.to_le_bytes(), 1_u64.to_le_bytes(), 1_u64.to_le_bytes());
        let sparse = |text: &[u8], capacity: &[u8]| {
            found(&with(&[(0, b"KDMV"), (12, capacity), (28, &at), (36, &n), (512, text)]))
        };
        let alone: &[u8] = b"createType=\"monolithicSparse\"\n";
        assert_eq!(sparse(alone, &capacity), Ok((Format::Vmdk, None)));
        assert!(sparse(alone, &[0; 8]).is_err());
        assert!(sparse(b"createType=\"monolithicFlat\"\n", &capacity).is_err());
        let child = b"createType=\"monolithicSparse\"\nparentFileNameHint=\"/etc/shadow\"\n";
        assert!(sparse(child, &capacity).is_err());
    }

    #[test]
    fn a_raw_image_has_a_boot_sector_and_whole_sectors() {
        let raw = with(&[(510, &[0x55, 0xaa])]);
        assert_eq!(found(&raw), Ok((Format::Raw, Some(4_096))));
        for bad in [&raw[..4_000], &[], b"\x1f\x8b", &with(&[])] {
            assert!(matches!(found(bad), Err(InvalidMachine::Format { .. })));
        }
    }

    #[test]
    fn disks_that_need_a_parent_are_refused() {
        let vhd = |kind: u32| found(&with(&[(0, b"conectix"), (60, &kind.to_be_bytes())]));
        assert_eq!(vhd(3), Ok((Format::Vhd, None)));
        assert!(vhd(4).is_err() && vhd(9).is_err());
        let magic = 0xbeda_107f_u32.to_le_bytes();
        let vdi = |kind: u32| found(&with(&[(64, &magic), (76, &kind.to_le_bytes())]));
        assert_eq!(vdi(1), Ok((Format::Vdi, None)));
        assert!(vdi(4).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), magic in 0_usize..6) {
            let mut image = bytes;
            let magic: &[u8] = [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"conectix", b"vhdxfile", b"COWD", b""][magic];
            if image.len() >= magic.len() { image[..magic.len()].copy_from_slice(magic); }
            let _ = found(&image);
        }
    }
}
