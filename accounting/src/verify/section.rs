//! One channel of a bundle.

use std::collections::BTreeMap;

use catalog::NodeId;
use catalog::cert::NodeCert;
use catalog::envelope;
use ed25519_dalek::VerifyingKey;

use super::report::{ChannelReport, Finding, Problem, Report};
use crate::body::Body;
use crate::entry::{FormError, Hash, Opened, Side};
use crate::merge::{Fault, Loaded, merge};
use crate::party;
use crate::quote::Quote;
use crate::state::{State, Violation};

/// The items of one channel, each with its index in the bundle.
pub(super) struct Section<'a> {
    pub(super) item: usize,
    pub(super) id: Hash,
    pub(super) quotes: Vec<(usize, &'a [u8])>,
    pub(super) logs: [Vec<(usize, &'a [u8])>; 2],
    pub(super) evidence: Vec<(usize, &'a [u8])>,
}

/// What each side signs with; `None` for an id that is no key.
type Keys = [Option<VerifyingKey>; 2];

/// The place of an entry in a channel: writer, incarnation, sequence number.
type Place = (Side, u32, u64);

/// The entry that was seen first at a place.
struct First<'a> {
    hash: Hash,
    bytes: &'a [u8],
    /// Whether its signature was checked and is right.
    is_signed: bool,
}

impl<'a> Section<'a> {
    pub(super) const fn new(item: usize, id: Hash) -> Self {
        Self { item, id, quotes: Vec::new(), logs: [Vec::new(), Vec::new()], evidence: Vec::new() }
    }

    pub(super) fn check(&self, report: &mut Report) {
        let opened = self.open(report);
        let quotes = self.quotes(opened.as_ref().map(|(state, _)| state.open.provider), report);
        let Some((mut state, certs)) = opened else {
            return;
        };
        quotes.into_iter().for_each(|(hash, quote)| state.learn(hash, quote));
        let keys = Side::BOTH.map(|side| state.key(side).copied());
        let faults =
            merge(&mut state, |side, index| self.load(keys[side.index()].as_ref(), side, index));
        // Where every entry of both logs was taken, no two stand at one place.
        if !(faults.is_empty() && self.evidence.is_empty()) {
            faults.into_iter().for_each(|fault| report.find(self.finding(fault)));
            self.find_equivocations(keys, report);
        }
        report.channels.push(ChannelReport::new(&state, &certs));
    }

    /// C1 and C2. Without a right Open nothing else of the channel can be checked.
    fn open(&self, report: &mut Report) -> Option<(State, [NodeCert; 2])> {
        let Some((item, bytes)) = self.logs[0].first().copied() else {
            report.find(Finding::at(self.item, Problem::NoOpen).of(self.id));
            return None;
        };
        let finding =
            |problem| Finding::at(item, problem).of(self.id).in_log(Side::Provider, Some(1));
        let opened = match Opened::new(bytes) {
            Ok(opened) => opened,
            Err(source) => {
                report.find(finding(Problem::Form { source }));
                return None;
            }
        };
        let mut broken = |item: usize, source: Violation| {
            report.find(Finding { item, ..finding(Problem::Rule { source }) });
            None
        };
        let Body::Open(open) = &opened.entry.body else {
            return broken(item, Violation::NotOpen);
        };
        let certs = match party::certs(open, None) {
            Ok(certs) => certs,
            Err(source) => return broken(item, source.into()),
        };
        let state = match State::new(&opened.entry, [certs[0].org, certs[1].org]) {
            Ok(state) if state.id == self.id => state,
            Ok(state) => {
                // The Open as it was signed: it is the id above it that was changed.
                let is_signed = opened.verify(state.key(Side::Provider)).is_ok();
                let item = if is_signed { self.item } else { item };
                return broken(item, Violation::Channel { expected: state.id });
            }
            Err(source) => return broken(item, source),
        };
        Some((state, certs))
    }

    /// C3.
    fn quotes(&self, provider: Option<NodeId>, report: &mut Report) -> Vec<(Hash, Quote)> {
        let mut right = Vec::new();
        for (item, bytes) in &self.quotes {
            match Quote::read(bytes, provider) {
                Ok(quote) => right.push((envelope::hash(bytes), quote)),
                Err(source) => {
                    report.find(Finding::at(*item, Problem::Quote { source }).of(self.id));
                }
            }
        }
        right
    }

    /// E1.
    fn load(
        &self,
        key: Option<&VerifyingKey>,
        side: Side,
        index: usize,
    ) -> Option<Result<Loaded, FormError>> {
        let (_, bytes) = self.logs[side.index()].get(index)?;
        let opened = Opened::new(bytes).and_then(|opened| {
            opened.verify(key)?;
            Ok(Loaded::from(opened))
        });
        Some(opened)
    }

    fn finding(&self, fault: Fault<FormError>) -> Finding {
        let (side, index, problem) = match fault {
            Fault::Load { side, index, error } => (side, index, Problem::Form { source: error }),
            Fault::Rule { side, index, source } => (side, index, Problem::Rule { source }),
        };
        let item = self.logs[side.index()].get(index).map_or(self.item, |(item, _)| *item);
        let seq = (index as u64).saturating_add(1);
        Finding::at(item, problem).of(self.id).in_log(side, Some(seq))
    }

    /// Q1 and Q2, over every entry of the section whether or not its log was right up to there.
    fn find_equivocations(&self, keys: Keys, report: &mut Report) {
        let mut seen = BTreeMap::new();
        let logs = self.logs[0].iter().chain(&self.logs[1]).map(|entry| (entry, false));
        let evidence = self.evidence.iter().map(|entry| (entry, true));
        for ((item, bytes), is_evidence) in logs.chain(evidence) {
            let conflict = self.conflict(&keys, &mut seen, bytes);
            let finding = |problem| Finding::at(*item, problem).of(self.id);
            if let Some(((writer, _, seq), problem)) = conflict {
                report.find(finding(problem).in_log(writer, Some(seq)));
            } else if is_evidence {
                report.find(finding(Problem::Evidence));
            }
        }
    }

    /// The equivocation that an entry proves together with an earlier one. Signatures are checked only where two entries
    /// meet, and at most twice per entry: a forged one makes room for the next.
    fn conflict(
        &self,
        keys: &Keys,
        seen: &mut BTreeMap<Place, First<'a>>,
        bytes: &'a [u8],
    ) -> Option<(Place, Problem)> {
        let opened = Opened::new(bytes).ok().filter(|o| o.entry.channel == self.id)?;
        let place = (opened.entry.writer, opened.entry.incarnation, opened.entry.seq);
        let key = keys[opened.entry.writer.index()].as_ref();
        let this = First { hash: opened.hash, bytes, is_signed: false };
        let Some(first) = seen.get_mut(&place) else {
            seen.insert(place, this);
            return None;
        };
        if first.hash == opened.hash || opened.verify(key).is_err() {
            return None;
        }
        if !first.is_signed && Opened::new(first.bytes).and_then(|o| o.verify(key)).is_err() {
            *first = First { is_signed: true, ..this };
            return None;
        }
        first.is_signed = true;
        let problem = Problem::Equivocation { first: first.hash, second: opened.hash };
        Some((place, problem))
    }
}
