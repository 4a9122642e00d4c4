//! A body cut into pieces: what is read, checked and written in one go.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::iter::Peekable;

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, ChunkNum, ChunkRanges, TreeNode};

use super::tree::PAIR_BYTES;

/// Bytes of groups in a piece; the last group may reach a little beyond. Large enough that a handover between the network
/// and a disk thread costs nothing beside it, small enough to stay in a core's cache. Each side of a transfer holds two
/// pieces.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// One element of a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// The hashes of two subtrees.
    Pair { node: TreeNode, is_root: bool, left: bool, right: bool },
    /// Bytes of the blob.
    Group { start: ChunkNum, len: usize, is_root: bool },
}

impl Node {
    /// How many bytes it takes in the body.
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Pair { .. } => PAIR_BYTES,
            Self::Group { len, .. } => len,
        }
    }
}

/// Consecutive elements of a body with their bytes.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) nodes: Vec<Node>,
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// Takes the next elements, as far as those before the group at byte `end`; false when there are none. The bytes have the
    /// right length and no meaning yet.
    pub(super) fn refill(
        &mut self,
        nodes: &mut Peekable<impl Iterator<Item = Node>>,
        end: u64,
    ) -> bool {
        self.nodes.clear();
        let (mut all, mut groups) = (0, 0);
        let is_wanted =
            |node: &Node| !matches!(node, Node::Group { start, .. } if start.to_bytes() >= end);
        while groups < PIECE_BYTES {
            let Some(node) = nodes.next_if(is_wanted) else {
                break;
            };
            all += node.len();
            if let Node::Group { len, .. } = node {
                groups += len;
            }
            self.nodes.push(node);
        }
        self.bytes.resize(all, 0);
        !self.nodes.is_empty()
    }
}

/// The elements of the body that `ranges` asks for, in order.
pub(super) fn nodes<'a>(
    shape: &BaoTree,
    ranges: &'a ChunkRanges,
) -> impl Iterator<Item = Node> + use<'a> {
    shape.ranges_pre_order_chunks_iter_ref(ranges, 0).map(|chunk| match chunk {
        BaoChunk::Parent { node, is_root, left, right, .. } => {
            Node::Pair { node, is_root, left, right }
        }
        BaoChunk::Leaf { start_chunk: start, size: len, is_root, .. } => {
            Node::Group { start, len, is_root }
        }
    })
}

/// Reads until every slice is full.
pub(super) fn read_exact_vectored(
    from: &mut impl Read,
    mut into: &mut [IoSliceMut<'_>],
) -> io::Result<()> {
    // Drops empty ones in front, so that an empty read means the end.
    IoSliceMut::advance_slices(&mut into, 0);
    while !into.is_empty() {
        match from.read_vectored(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => IoSliceMut::advance_slices(&mut into, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes until every slice is written.
pub(super) fn write_all_vectored(
    to: &mut impl Write,
    mut from: &mut [IoSlice<'_>],
) -> io::Result<()> {
    IoSlice::advance_slices(&mut from, 0);
    while !from.is_empty() {
        match to.write_vectored(from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut from, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tree::{GROUP_BYTES, ranges, tree};
    use super::*;

    /// Bytes of the blob in a piece.
    fn group_bytes(piece: &Piece) -> u64 {
        let groups = piece.nodes.iter().map(|node| match node {
            Node::Group { len, .. } => *len as u64,
            Node::Pair { .. } => 0,
        });
        groups.sum()
    }

    #[test]
    fn pieces_hold_the_whole_body_in_order_and_no_piece_is_long() {
        const MIB: u64 = 1 << 20;
        for (size, from, to) in [
            (0, 0, 0),
            (1, 0, 1),
            (5 * MIB, 0, 5 * MIB),
            (5 * MIB, 3 * MIB, 5 * MIB),
            (5 * MIB + 1, MIB, 3 * MIB),
            (70_001, 65_536, 70_001),
        ] {
            let (shape, ranges) = (tree(size), ranges(from, to, size));
            let mut rest = nodes(&shape, &ranges).peekable();
            let (mut piece, mut groups, mut at) = (Piece::default(), 0, from);
            while piece.refill(&mut rest, u64::MAX) {
                assert!(group_bytes(&piece) < PIECE_BYTES as u64 + GROUP_BYTES);
                assert_eq!(piece.bytes.len(), piece.nodes.iter().map(|n| n.len()).sum::<usize>());
                for node in &piece.nodes {
                    if let Node::Group { start, len, .. } = node {
                        assert_eq!(start.to_bytes(), at);
                        at += *len as u64;
                    }
                }
                groups += group_bytes(&piece);
            }
            assert_eq!(groups, to - from, "{size} from {from} to {to}");
        }
    }

    #[test]
    fn an_end_that_comes_nearer_ends_the_pieces() {
        let (shape, ranges) = (tree(5 << 20), ranges(0, 5 << 20, 5 << 20));
        let mut rest = nodes(&shape, &ranges).peekable();
        let mut piece = Piece::default();
        assert!(piece.refill(&mut rest, u64::MAX));
        assert_eq!(group_bytes(&piece), PIECE_BYTES as u64);
        let end = PIECE_BYTES as u64 + 3 * GROUP_BYTES;
        assert!(piece.refill(&mut rest, end));
        assert_eq!(group_bytes(&piece), 3 * GROUP_BYTES);
        assert!(!piece.refill(&mut rest, end));
    }

    #[test]
    fn vectored_reads_and_writes_go_on_after_short_ones() {
        /// Moves at most three bytes at once.
        struct Slow(Vec<u8>);
        impl Read for Slow {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let n = into.len().min(3).min(self.0.len());
                into[..n].copy_from_slice(&self.0[..n]);
                self.0.drain(..n);
                Ok(n)
            }
        }
        impl Write for Slow {
            fn write(&mut self, from: &[u8]) -> io::Result<usize> {
                let n = from.len().min(3);
                self.0.extend_from_slice(&from[..n]);
                Ok(n)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Slow(Vec::new());
        let mut parts = [IoSlice::new(b""), IoSlice::new(b"hello "), IoSlice::new(b"world")];
        write_all_vectored(&mut out, &mut parts).unwrap();
        assert_eq!(out.0, b"hello world");
        let (mut a, mut b) = ([0; 4], [0; 7]);
        read_exact_vectored(&mut out, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])
            .unwrap();
        assert_eq!((&a, &b), (b"hell", b"o world"));
        let ended = read_exact_vectored(&mut out, &mut [IoSliceMut::new(&mut a)]);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
