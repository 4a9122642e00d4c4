//! A channel again from what was stored, without checking signatures: what was stored had been checked.

use catalog::NodeId;

use super::{Channel, ReplayError};
use crate::body::Body;
use crate::entry::{Opened, Side};
use crate::merge::{Fault, Loaded, merge};
use crate::party;
use crate::quote::Quote;
use crate::state::{State, Violation};

impl Channel {
    /// Whom a channel is of, provider first, as the first entry of its provider's log says; nothing is checked.
    #[must_use]
    pub fn parties(provider_open: &[u8]) -> Option<[NodeId; 2]> {
        match Opened::new(provider_open).ok()?.entry.body {
            Body::Open(open) => Some([open.provider, open.consumer]),
            _ => None,
        }
    }

    /// Rebuilds the channel of `me` from its quotes and both logs, as they were stored; the logs may
    /// come in either order.
    ///
    /// # Errors
    /// [`ReplayError`] naming the damaged item.
    pub fn replay(
        me: NodeId,
        quotes: Vec<Vec<u8>>,
        own: Vec<Vec<u8>>,
        peer: Vec<Vec<u8>>,
    ) -> Result<Self, ReplayError> {
        // The logs tell themselves apart: the provider's begins with the entry of writer 0.
        let is_provider = |log: &[Vec<u8>]| {
            let first = log.first().and_then(|bytes| Opened::new(bytes).ok());
            first.is_some_and(|opened| opened.entry.writer == Side::Provider)
        };
        let bytes = if is_provider(&own) { [own, peer] } else { [peer, own] };
        let damaged = |side, index, source| ReplayError::Form { side, index, source };
        let broken = |index, source| ReplayError::Rule { side: Side::Provider, index, source };
        let first = bytes[0].first().ok_or(ReplayError::Empty)?;
        let first = Opened::new(first).map_err(|e| damaged(Side::Provider, 0, e))?.entry;
        let Body::Open(open) = &first.body else {
            return Err(broken(0, Violation::NotOpen));
        };
        let side = Side::BOTH.into_iter().find(|side| *open.node(*side) == me);
        let side = side.ok_or(ReplayError::NotParty { me })?;
        let orgs = party::orgs(open, None).map_err(|e| broken(0, e.into()))?;
        let state = State::new(&first, orgs).map_err(|e| broken(0, e))?;
        let mut channel = Self::over(state, side);
        for (index, bytes) in quotes.into_iter().enumerate() {
            let quote = Quote::open(&bytes, &channel.state.open.provider);
            let quote = quote.map_err(|source| ReplayError::Quote { index, source })?;
            channel.keep_quote(catalog::envelope::hash(&bytes), quote, bytes);
        }
        let load = |side: Side, index: usize| {
            let stored: Option<&Vec<u8>> = bytes[side.index()].get(index);
            stored.map(|bytes| Opened::new(bytes).map(Loaded::from))
        };
        if let Some(fault) = merge(&mut channel.state, load).into_iter().next() {
            return Err(match fault {
                Fault::Load { side, index, error } => damaged(side, index, error),
                Fault::Rule { side, index, source } => ReplayError::Rule { side, index, source },
            });
        }
        channel.bytes = bytes;
        Ok(channel)
    }
}
