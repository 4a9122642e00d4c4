//! Whether the elements of a body are what the wanted hash says.

use std::io::IoSlice;

use super::error::FetchError;
use super::piece::{Node, Piece};
use super::tree::{leaf_hash, pair_hash, split};
use crate::key::PeerKey;

/// Follows a body from its first element on. What it lets through is the blob's, whoever sent it.
pub(super) struct Check {
    peer: PeerKey,
    /// The hashes that the next elements must have, the next one last.
    expected: Vec<[u8; 32]>,
}

impl Check {
    /// Of a body that `peer` sends of the blob `hash`.
    pub(super) fn new(peer: PeerKey, hash: [u8; 32]) -> Self {
        Self { peer, expected: vec![hash] }
    }

    /// The groups of a piece that verify, as far as the piece's bytes go, and what the first element is that does not. The
    /// piece's first group begins at byte `at` of the blob; verified pairs are added to `pairs`.
    pub(super) fn verify<'p>(
        &mut self,
        piece: &'p Piece,
        mut at: u64,
        pairs: &mut Vec<(Node, &'p [u8])>,
    ) -> (Vec<IoSlice<'p>>, Result<(), FetchError>) {
        let mut good = Vec::with_capacity(piece.nodes.len());
        let mut rest = &piece.bytes[..];
        for node in &piece.nodes {
            let Some((bytes, after)) = rest.split_at_checked(node.len()) else {
                break;
            };
            rest = after;
            let expected = self.expected.pop().expect("the tree's shape gives every node one hash");
            let found = match *node {
                Node::Pair { is_root, left, right, .. } => {
                    let (l, r) = split(bytes);
                    self.expected.extend(right.then_some(r));
                    self.expected.extend(left.then_some(l));
                    pair_hash(&l, &r, is_root)
                }
                Node::Group { start, is_root, .. } => leaf_hash(start, bytes, is_root),
            };
            if found != expected {
                return (good, Err(FetchError::Corrupt { peer: self.peer, at }));
            }
            match node {
                Node::Pair { .. } => pairs.push((*node, bytes)),
                Node::Group { .. } => {
                    good.push(IoSlice::new(bytes));
                    at += bytes.len() as u64;
                }
            }
        }
        (good, Ok(()))
    }
}
