//! Channels out of the stored quotes and entries, and the keys they are stored under.

use std::collections::BTreeMap;

use accounting::channel::Channel;
use accounting::entry::Side;
use catalog::{Digest, NodeId};

use super::keys::Keys;
use crate::store::batch::Table;

pub(super) fn entry_key(channel: Digest, side: Side, seq: u64) -> Vec<u8> {
    let side = u8::from(side == Side::Consumer);
    [channel.as_bytes().as_slice(), &[side], &seq.to_be_bytes()].concat()
}

/// Channels out of the stored quotes and entries.
///
/// # Errors
/// The channel whose stored logs do not fold, with the reason.
pub(in crate::engine) fn replay(
    keys: &Keys,
    quotes: Vec<(Vec<u8>, Vec<u8>)>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<Vec<Channel>, super::super::RecoverError> {
    type Logs = (Vec<Vec<u8>>, [Vec<Vec<u8>>; 2]);
    let mut logs: BTreeMap<[u8; 32], Logs> = BTreeMap::new();
    let bad = |table| super::super::RecoverError::Row { table };
    for (key, bytes) in quotes {
        let id: [u8; 32] =
            key.get(..32).and_then(|k| k.try_into().ok()).ok_or(bad(Table::Quotes))?;
        logs.entry(id).or_default().0.push(bytes);
    }
    for (key, bytes) in entries {
        let id: [u8; 32] =
            key.get(..32).and_then(|k| k.try_into().ok()).ok_or(bad(Table::LedgerEntries))?;
        let side = key.get(32).copied().filter(|s| *s < 2).ok_or(bad(Table::LedgerEntries))?;
        logs.entry(id).or_default().1[usize::from(side)].push(bytes);
    }
    logs.into_iter()
        .filter(|(_, (_, sides))| sides.iter().any(|s| !s.is_empty()))
        .map(|(id, (quotes, [provider, consumer]))| {
            // A channel belongs to the key it was opened with.
            let me = own_party(keys, &provider);
            Channel::replay(me, quotes, provider, consumer).map_err(|source| {
                super::super::RecoverError::Channel {
                    channel: Digest::from_bytes(id),
                    source: Box::new(source),
                }
            })
        })
        .collect()
}

/// Which of this node's keys a channel is of, by the first entry of its provider's log.
fn own_party(keys: &Keys, provider_log: &[Vec<u8>]) -> NodeId {
    let parties = provider_log.first().and_then(|first| Channel::parties(first));
    let own = parties.and_then(|both| both.into_iter().find(|party| keys.is_mine(*party)));
    own.unwrap_or_else(|| keys.me())
}
