//! Targets for what a task's machine says and leaves behind: all of it is written by a stranger's root.

use std::path::Path;

use node::runtime::vm::said;

use super::Target;

/// What ends a stream.
const TOKEN: &str = "\u{1}end-7\u{2}";
/// Most bytes in files of an output.
const OUTPUT_BYTES_MAX: u64 = 4_096;

/// Every target of machines.
pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("machine_words", check_words, words_seeds),
        target("machine_stream", check_stream, stream_seeds),
        target("machine_output", check_output, output_seeds),
    ]
}

/// Words are the same wherever their bytes are cut.
fn check_words(bytes: &[u8]) -> bool {
    let whole = said::words(bytes, 0);
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(whole.len() <= lines, "{} words in {lines} lines", whole.len());
    for cut in [1, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        assert_eq!(said::words(bytes, cut), whole);
    }
    !whole.is_empty()
}

fn words_seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 3] =
        [b"begin\nexit 0 self\ndone 0 \n", b"exit 137 memory\n", b"noise\ndone 2 tar: no room\n"];
    texts.map(<[u8]>::to_vec).into()
}

/// What comes before the token is passed on, whole, and nothing behind it.
fn check_stream(bytes: &[u8]) -> bool {
    let at = bytes.windows(TOKEN.len()).position(|part| part == TOKEN.as_bytes());
    let expected = &bytes[..at.unwrap_or(bytes.len())];
    for step in [1, 3, 4_096] {
        let (passed, is_over) = said::stream(bytes, TOKEN, step);
        assert_eq!((&passed[..], is_over), (expected, at.is_some()));
    }
    at.is_some()
}

fn stream_seeds() -> Vec<Vec<u8>> {
    vec![[b"out", TOKEN.as_bytes(), b"rest"].concat(), b"\x01end-\x01end-7\x01end-7\x02".to_vec()]
}

/// Nothing outside of the work directory changes, and what is in it is bounded.
fn check_output(bytes: &[u8]) -> bool {
    let outer = tempfile::tempdir().expect("a directory for the test");
    let work = outer.path().join("work");
    std::fs::create_dir(&work).expect("it is empty");
    std::fs::write(outer.path().join("outside"), "untouched").expect("the disk has room");
    let file = tempfile::tempfile().expect("a file for the test");
    let taken = said::output(file, bytes, &work, OUTPUT_BYTES_MAX);
    let names: Vec<_> = std::fs::read_dir(outer.path()).expect("it is there").collect();
    assert_eq!(names.len(), 2, "something was made beside the work directory");
    let outside = std::fs::read(outer.path().join("outside")).expect("it is there");
    assert_eq!(outside, b"untouched");
    let held = held_bytes(&work);
    assert!(held <= OUTPUT_BYTES_MAX, "{held} bytes");
    taken.is_ok()
}

/// Bytes of the files below a directory, each counted once for each of its names; links are not followed.
fn held_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>());
    let of = |entry: &std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => held_bytes(&entry.path()),
        Ok(kind) if kind.is_file() => {
            use std::os::unix::fs::MetadataExt as _;
            entry.metadata().map_or(0, |meta| meta.len() / meta.nlink().max(1))
        }
        _ => 0,
    };
    entries.unwrap_or_default().iter().map(of).sum()
}

/// An archive of these entries: kind, name, where it links, content.
fn archive(entries: &[(u8, &str, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(*kind));
        let raw = header.as_gnu_mut().expect("it was made so");
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fn output_seeds() -> Vec<Vec<u8>> {
    vec![
        archive(&[(b'5', "d/", "", b""), (b'0', "d/f", "", b"content"), (b'1', "g", "d/f", b"")]),
        archive(&[(b'2', "link", "../outside", b""), (b'0', "link/f", "", b"no")]),
        archive(&[(b'L', "././@LongLink", "", b"a/long/name\0"), (b'0', "short", "", b"x")]),
        archive(&[(b'x', "pax", "", b"10 path=p\n"), (b'0', "q", "", b"y")]),
    ]
}
