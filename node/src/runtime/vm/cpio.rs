//! Archives in the `newc` format, as kernels unpack them into their first file system.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the Linux kernel.

/// A kind of file and its permissions, as in `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// To what the archive's length is filled up with zeros; kernels skip them.
const BLOCK_BYTES: usize = 512;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Cpio {
    bytes: Vec<u8>,
    n_entries: u32,
}

impl Cpio {
    /// Adds a directory. Its parents have to be added before.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, (0, 0), &[]);
    }

    /// Adds a program.
    pub(super) fn executable(&mut self, name: &str, content: &[u8]) {
        self.entry(name, EXECUTABLE, (0, 0), content);
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// Ends the archive; its length is a multiple of 512.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.n_entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let n_links = 1;
        let fields =
            [self.n_entries, mode, 0, 0, n_links, 0, size, 0, 0, major, minor, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_entries_at_their_places() {
        let mut cpio = Cpio::default();
        cpio.directory("opencloud");
        cpio.executable("opencloud/init", b"#!/bin/sh\n");
        cpio.device("dev/console", 5, 1);
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ED"), "{text}");
        let second = 110 + "opencloud\0".len();
        assert_eq!(&bytes[second..second + 6], b"070701");
        assert!(text.contains("opencloud/init\0"));
        assert!(text.contains("TRAILER!!!\0"));
    }
}
