//! The smallest file system of the ISO 9660 standard: a label and files in one directory.
//!
//! It carries the seed of cloud-init, which looks for a file system labelled `cidata`. Linux shows names of this format in
//! small letters, so `USER-DATA.;1` is `user-data`.
//!
//! Format: ECMA-119, 4th edition, sections 8.4 (primary volume descriptor), 9.1 (directory record), 9.4 (path table).

/// Bytes of a sector.
const SECTOR: usize = 2_048;
/// Sectors before the first descriptor, which belong to the system.
const SYSTEM_SECTORS: usize = 16;
/// The sectors in order: primary descriptor, terminator, both path tables, root directory, files.
const TABLE_LITTLE: u32 = 18;
const TABLE_BIG: u32 = 19;
const ROOT: u32 = 20;
/// Bytes of the path table: one entry, the root.
const TABLE_BYTES: u32 = 10;

/// Writes an image with a label and files. Names are plain and few, contents are small: the callers are in this folder.
pub(super) fn image(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut sector = ROOT + 1;
    let mut directory = Vec::new();
    directory.extend(record(&[0], ROOT, SECTOR, true));
    directory.extend(record(&[1], ROOT, SECTOR, true));
    let mut content = Vec::new();
    for (name, bytes) in files {
        let name = format!("{}.;1", name.to_ascii_uppercase());
        directory.extend(record(name.as_bytes(), sector, bytes.len(), false));
        content.extend_from_slice(bytes);
        content.resize(content.len().next_multiple_of(SECTOR), 0);
        sector += u32::try_from(bytes.len().div_ceil(SECTOR)).unwrap_or(u32::MAX);
    }
    directory.resize(SECTOR, 0);
    let mut image = vec![0; SYSTEM_SECTORS * SECTOR];
    image.extend(primary(label, sector));
    image.extend(terminator());
    for is_big in [false, true] {
        image.extend(path_table(is_big));
    }
    image.extend(directory);
    image.extend(content);
    image
}

fn primary(label: &str, n_sectors: u32) -> Vec<u8> {
    let mut d = Vec::with_capacity(SECTOR);
    d.extend(b"\x01CD001\x01\0");
    text(&mut d, "", 32);
    text(&mut d, label, 32);
    d.extend([0; 8]);
    both32(&mut d, n_sectors);
    d.extend([0; 32]);
    both16(&mut d, 1);
    both16(&mut d, 1);
    both16(&mut d, u16::try_from(SECTOR).unwrap_or(u16::MAX));
    both32(&mut d, TABLE_BYTES);
    d.extend(TABLE_LITTLE.to_le_bytes());
    d.extend([0; 4]);
    d.extend(TABLE_BIG.to_be_bytes());
    d.extend([0; 4]);
    d.extend(record(&[0], ROOT, SECTOR, true));
    for length in [128, 128, 128, 128, 37, 37, 37] {
        text(&mut d, "", length);
    }
    // Times of creation, change, expiry and effect: none.
    for _ in 0..4 {
        d.extend([b'0'; 16]);
        d.push(0);
    }
    d.push(1);
    d.resize(SECTOR, 0);
    d
}

fn terminator() -> Vec<u8> {
    let mut d = b"\xffCD001\x01".to_vec();
    d.resize(SECTOR, 0);
    d
}

fn path_table(is_big: bool) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(if is_big { ROOT.to_be_bytes() } else { ROOT.to_le_bytes() });
    table.extend(if is_big { 1_u16.to_be_bytes() } else { 1_u16.to_le_bytes() });
    table.extend([0, 0]);
    table.resize(SECTOR, 0);
    table
}

fn record(name: &[u8], sector: u32, len: usize, is_directory: bool) -> Vec<u8> {
    let total = (33 + name.len()).next_multiple_of(2);
    let mut r = vec![u8::try_from(total).unwrap_or(u8::MAX), 0];
    both32(&mut r, sector);
    both32(&mut r, u32::try_from(len).unwrap_or(u32::MAX));
    // 1 January 1980, like all archives of no time.
    r.extend([80, 1, 1, 0, 0, 0, 0]);
    r.push(u8::from(is_directory) * 2);
    r.extend([0, 0]);
    both16(&mut r, 1);
    r.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    r.extend_from_slice(name);
    r.resize(total, 0);
    r
}

fn text(out: &mut Vec<u8>, text: &str, length: usize) {
    let end = out.len() + length;
    out.extend(text.bytes().take(length));
    out.resize(end, b' ');
}

fn both16(out: &mut Vec<u8>, n: u16) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

fn both32(out: &mut Vec<u8>, n: u32) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_in_its_sector() {
        let long = vec![b'x'; SECTOR + 1];
        let image = image("cidata", &[("user-data", &long), ("meta-data", b"id: 1\n")]);
        let sector = |n: usize| &image[n * SECTOR..(n + 1) * SECTOR];
        assert_eq!(image.len(), 24 * SECTOR);
        assert_eq!(&sector(16)[..6], b"\x01CD001");
        assert_eq!(&sector(16)[40..46], b"cidata");
        // The root's own record is where the standard has it.
        assert_eq!(sector(16)[156], 34);
        assert_eq!(&sector(17)[..6], b"\xffCD001");
        assert!(sector(20).windows(12).any(|w| w == b"USER-DATA.;1"));
        assert_eq!(&sector(21)[..4], b"xxxx");
        assert_eq!(&sector(23)[..6], b"id: 1\n");
    }
}
