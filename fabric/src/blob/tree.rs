//! The shape and the arithmetic of a blob's BLAKE3 tree, in groups of 16 KiB.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges, TreeNode};
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes that are verified together, and the grain of a resume.
pub const GROUP_BYTES: u64 = 16 << 10;
/// BLAKE3 chunks of 1 KiB in a group, as a power of two.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of one inner node: the chaining values of its two children.
pub(super) const PAIR_BYTES: usize = 64;
/// Read-ahead when a file is hashed.
const READ_BYTES: usize = 1 << 20;

pub(super) fn tree(size: u64) -> BaoTree {
    BaoTree::new(size, GROUP)
}

/// Bytes of the outboard of a blob of this size: 1/256 of it, roughly.
#[must_use]
pub fn outboard_bytes(size: u64) -> u64 {
    tree(size).outboard_size()
}

/// The chunks from byte `from` to before byte `to` of a blob of `size` bytes; multiples of [`GROUP_BYTES`], or `to` beyond
/// the end.
pub(super) fn ranges(from: u64, to: u64, size: u64) -> ChunkRanges {
    let chunk = |byte: u64| ChunkNum(byte / 1024);
    match (from, to >= size) {
        (0, true) => ChunkRanges::all(),
        (_, true) => ChunkRanges::from(chunk(from)..),
        (_, false) => ChunkRanges::from(chunk(from)..chunk(to)),
    }
}

pub(super) fn leaf_hash(start: ChunkNum, bytes: &[u8], is_root: bool) -> [u8; 32] {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(start.to_bytes()).update(bytes).finalize_non_root()
}

pub(super) fn pair_hash(left: &[u8; 32], right: &[u8; 32], is_root: bool) -> [u8; 32] {
    if is_root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

/// The two hashes of a pair of [`PAIR_BYTES`].
pub(super) fn split(pair: &[u8]) -> ([u8; 32], [u8; 32]) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    (left, right)
}

/// Where a node's pair lies in an outboard, if the outboard keeps it.
pub(super) fn place(tree: &BaoTree, node: TreeNode) -> Option<usize> {
    let at = tree.pre_order_offset(node)?.checked_mul(PAIR_BYTES as u64)?;
    usize::try_from(at).ok()
}

/// The hash, the size and the outboard of a file. Reads it once; blocks.
///
/// # Errors
/// When the file cannot be read, or shrinks while it is read.
pub fn hash_file(path: &Path) -> io::Result<([u8; 32], u64, Vec<u8>)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let (hash, outboard) = hash_reader(BufReader::with_capacity(READ_BYTES, file), size)?;
    Ok((hash, size, outboard))
}

fn hash_reader(mut reader: impl Read, size: u64) -> io::Result<([u8; 32], Vec<u8>)> {
    let mut group = vec![0; GROUP_BYTES as usize];
    fold(size, |start, size, is_root| {
        let bytes = &mut group[..size];
        reader.read_exact(bytes)?;
        Ok(leaf_hash(start, bytes, is_root))
    })
}

/// The hash and the outboard of a blob of this size, whose groups' hashes `leaf` gives in order.
fn fold(
    size: u64,
    mut leaf: impl FnMut(ChunkNum, usize, bool) -> io::Result<[u8; 32]>,
) -> io::Result<([u8; 32], Vec<u8>)> {
    let tree = tree(size);
    let too_big = || io::Error::from(io::ErrorKind::FileTooLarge);
    let len = usize::try_from(tree.outboard_size()).map_err(|_| too_big())?;
    let mut outboard = vec![0; len];
    let mut stack: Vec<[u8; 32]> = Vec::new();
    for chunk in tree.post_order_chunks_iter() {
        match chunk {
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                stack.push(leaf(start_chunk, size, is_root)?);
            }
            BaoChunk::Parent { node, is_root, .. } => {
                let (right, left) = (stack.pop(), stack.pop());
                let (left, right) = left.zip(right).expect("children come before their parent");
                if let Some(at) = place(&tree, node) {
                    outboard[at..at + 32].copy_from_slice(&left);
                    outboard[at + 32..at + 64].copy_from_slice(&right);
                }
                stack.push(pair_hash(&left, &right, is_root));
            }
        }
    }
    let root = stack.pop().expect("a tree has a root");
    Ok((root, outboard))
}

/// Hashes a blob while it comes in, so that it need not be read again. Keeps 32 bytes for each group.
#[derive(Clone, Debug, Default)]
pub struct BlobHasher {
    /// Hashes of the groups before the last.
    groups: Vec<[u8; 32]>,
    /// The last group. It waits for more, since the last of all is hashed another way when it is the only one.
    last: Vec<u8>,
}

impl BlobHasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        const GROUP_LEN: usize = GROUP_BYTES as usize;
        while !bytes.is_empty() {
            if self.last.len() == GROUP_LEN {
                let hash = leaf_hash(self.start(), &self.last, false);
                self.groups.push(hash);
                self.last.clear();
            }
            // Whole groups that others follow need not be copied.
            while self.last.is_empty() && bytes.len() > GROUP_LEN {
                let (group, rest) = bytes.split_at(GROUP_LEN);
                let hash = leaf_hash(self.start(), group, false);
                self.groups.push(hash);
                bytes = rest;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(GROUP_LEN - self.last.len()));
            self.last.extend_from_slice(now);
            bytes = rest;
        }
    }

    /// The chunk at which the next group begins.
    fn start(&self) -> ChunkNum {
        ChunkNum(self.groups.len() as u64 * (GROUP_BYTES / 1024))
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.groups.len() as u64 * GROUP_BYTES + self.last.len() as u64
    }

    /// The hash, the size and the outboard, as [`hash_file`] gives them.
    ///
    /// # Errors
    /// When the outboard is longer than this machine's memory can be.
    pub fn finish(self) -> io::Result<([u8; 32], u64, Vec<u8>)> {
        let size = self.size();
        let mut groups = self.groups.into_iter();
        let (hash, outboard) = fold(size, |start, _, is_root| {
            Ok(groups.next().unwrap_or_else(|| leaf_hash(start, &self.last, is_root)))
        })?;
        Ok((hash, size, outboard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_plain_blake3_hash_at_every_edge() {
        for size in [0, 1, 1023, 1024, 1025, 16383, 16384, 16385, 32768, 49_153, 1 << 20, 3 << 20] {
            let data: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
            let (hash, outboard) = hash_reader(&data[..], size as u64).unwrap();
            assert_eq!(&hash, blake3::hash(&data).as_bytes(), "{size}");
            assert_eq!(outboard.len() as u64, outboard_bytes(size as u64), "{size}");
        }
    }

    #[test]
    fn a_blob_in_pieces_is_hashed_as_a_whole_one() {
        for size in [0, 1, 16383, 16384, 16385, 32768, 49_153, 1 << 20, (1 << 20) + 7] {
            let data: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
            let whole = hash_reader(&data[..], size as u64).unwrap();
            for piece in [1 << 21, 1000, 16384, 16385, 40_000] {
                let mut hasher = BlobHasher::new();
                data.chunks(piece).for_each(|bytes| hasher.update(bytes));
                assert_eq!(hasher.size(), size as u64);
                let (hash, _, outboard) = hasher.finish().unwrap();
                assert!((hash, outboard) == whole, "{size} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        assert!(hash_reader(&[0; 10][..], 11).is_err());
    }
}
