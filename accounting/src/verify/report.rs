//! What the check of a bundle found.

use catalog::cbor::CborError;
use catalog::cert::NodeCert;
use catalog::id::to_hex;
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::FINDINGS_MAX;
use crate::body::{AckCode, CloseReason};
use crate::bundle::Manifest;
use crate::dimension::Counters;
use crate::entry::{FormError, Hash, Side};
use crate::lane::{Lane, LaneState};
use crate::quote::QuoteError;
use crate::state::{State, Violation};

/// The result in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is right and acknowledged.
    Valid,
    /// Something is wrong.
    Invalid,
    /// A party signed one place of its log twice, and here is the proof.
    Equivocation,
    /// Everything is right, and something is not acknowledged yet.
    ValidWithTail,
}

/// What is wrong with an item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not an item of a bundle; nothing after it can be read.
    #[error("not an item of a bundle: nothing from here on can be read")]
    Framing,
    /// The first item is no manifest.
    #[error("the bundle does not begin with a manifest")]
    NoManifest,
    /// The manifest.
    #[error("the manifest is not right")]
    Manifest {
        /// What is wrong with it.
        source: CborError,
    },
    /// The number of channels.
    #[error("the manifest states {stated} channels, there are {found}")]
    ChannelCount {
        /// Stated.
        stated: u64,
        /// There.
        found: u64,
    },
    /// The seal.
    #[error("the seal is missing or does not fit: the file was cut or changed")]
    Seal,
    /// An item at the wrong place.
    #[error("the item stands at the wrong place")]
    Order,
    /// A channel's id is not 32 bytes.
    #[error("a channel's id has 32 bytes")]
    ChannelId,
    /// A channel stands there twice.
    #[error("the channel stands in the bundle twice")]
    ChannelTwice,
    /// A channel without entries of its provider.
    #[error("the provider's open is missing")]
    NoOpen,
    /// A quote.
    #[error("the quote is not right")]
    Quote {
        /// What is wrong with it.
        source: QuoteError,
    },
    /// An entry's form or signature; the rest of its log is not checked.
    #[error("the entry's form or signature is not right")]
    Form {
        /// What is wrong with it.
        source: FormError,
    },
    /// An entry breaks a rule; the rest of its log is not checked.
    #[error("the entry breaks a rule of the channel")]
    Rule {
        /// Which.
        source: Violation,
    },
    /// Two entries at one place, both signed.
    #[error("entries {} and {} are signed for the same place", to_hex(first), to_hex(second))]
    Equivocation {
        /// Hash of the one.
        first: Hash,
        /// Hash of the other.
        second: Hash,
    },
    /// Evidence that contradicts nothing.
    #[error("the evidence is no entry of this channel or contradicts none")]
    Evidence,
}

impl Problem {
    /// How likely it is there only because of another: 0 for an item that cannot be read or is not what was signed, which is
    /// the cause of much else, also in items before it.
    const fn remoteness(&self) -> u8 {
        match self {
            Self::NoOpen | Self::Rule { .. } => 1,
            Self::ChannelCount { .. } => 2,
            Self::Seal => 3,
            _ => 0,
        }
    }

    /// A word for machines.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Framing => "framing",
            Self::NoManifest | Self::Manifest { .. } => "manifest",
            Self::ChannelCount { .. } => "channel_count",
            Self::Seal => "seal",
            Self::Order => "order",
            Self::ChannelId => "channel_id",
            Self::ChannelTwice => "channel_twice",
            Self::NoOpen => "no_open",
            Self::Quote { .. } => "quote",
            Self::Form { .. } => "form",
            Self::Rule { .. } => "rule",
            Self::Equivocation { .. } => "equivocation",
            Self::Evidence => "evidence",
        }
    }

    /// The sentence with its causes.
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("kind", self.kind())?;
        map.serialize_entry("message", &self.message())?;
        map.end()
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Index of the item in the bundle, from 0.
    pub item: usize,
    /// The channel, in hex, when it is known.
    pub channel: Option<String>,
    /// Whose log, when it is known.
    pub writer: Option<Side>,
    /// The place in the log, from 1, when it is known.
    pub seq: Option<u64>,
    /// What.
    pub problem: Problem,
}

impl Finding {
    pub(super) const fn at(item: usize, problem: Problem) -> Self {
        Self { item, channel: None, writer: None, seq: None, problem }
    }

    pub(super) fn of(self, channel: Hash) -> Self {
        Self { channel: Some(to_hex(&channel)), ..self }
    }

    pub(super) fn in_log(self, writer: Side, seq: Option<u64>) -> Self {
        Self { writer: Some(writer), seq, ..self }
    }
}

/// A party of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartyReport {
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// Its organisation.
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// Where its log ends.
    pub head: HeadReport,
}

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeadReport {
    /// Entries.
    pub seq: u64,
    /// Hash of the newest one, in hex.
    pub hash: String,
}

/// A lane's totals. Amounts in nano-units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// Its number.
    pub lane: u64,
    /// The run it worked for, in hex.
    pub run: String,
    /// Position of the step.
    pub step: u32,
    /// Index into the mapped list.
    pub index: u32,
    /// Number of the try.
    pub attempt: u32,
    /// Digest of the task.
    pub spec: Digest,
    /// Where it stands.
    pub state: LaneState,
    /// Number of receipts.
    pub receipts: u64,
    /// Sum of the receipts' periods.
    pub elapsed_ms: u64,
    /// Counters of the newest receipt.
    pub counters: Counters,
    /// What the provider claims.
    #[serde(rename = "claimed_nano")]
    pub claimed: Amount,
    /// What the consumer acknowledged.
    #[serde(rename = "earned_nano")]
    pub earned: Amount,
    /// Why it was closed.
    pub reason: Option<CloseReason>,
    /// Why the consumer does not accept it in full.
    pub exception: Option<AckCode>,
}

/// A channel's totals. Amounts in nano-units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelReport {
    /// Its id, in hex.
    pub channel: String,
    /// Who served.
    pub provider: PartyReport,
    /// Who was served.
    pub consumer: PartyReport,
    /// The currency of every amount.
    pub currency: Currency,
    /// Number of receipts.
    pub receipts: u64,
    /// What the provider claims.
    #[serde(rename = "claimed_nano")]
    pub claimed: Amount,
    /// What the consumer acknowledged.
    #[serde(rename = "earned_nano")]
    pub earned: Amount,
    /// Whether something is not acknowledged yet.
    pub has_tail: bool,
    /// Its lanes.
    pub lanes: Vec<LaneReport>,
}

impl ChannelReport {
    pub(super) fn new(state: &State, certs: &[NodeCert; 2]) -> Self {
        let party = |side: Side| {
            let cert = &certs[side.index()];
            let (seq, hash) = state.log(side).head();
            PartyReport {
                node: cert.node,
                name: cert.name.clone(),
                org: cert.org,
                org_name: cert.org_name.clone(),
                head: HeadReport { seq, hash: to_hex(&hash) },
            }
        };
        let lane = |lane: &Lane| LaneReport {
            lane: lane.agreement.lane,
            run: to_hex(&lane.work().run),
            step: lane.work().step,
            index: lane.work().index,
            attempt: lane.work().attempt,
            spec: lane.agreement.spec,
            state: lane.state(),
            receipts: lane.lane_seq,
            elapsed_ms: lane.elapsed_ms,
            counters: lane.counters,
            claimed: lane.claimed,
            earned: lane.earned,
            reason: lane.end.map(|end| end.reason),
            exception: lane.exception,
        };
        Self {
            channel: to_hex(&state.id),
            provider: party(Side::Provider),
            consumer: party(Side::Consumer),
            currency: state.open.currency,
            receipts: state.receipts,
            claimed: state.claimed,
            earned: state.earned,
            has_tail: state.acked_seq < state.log(Side::Provider).len()
                || !state.unsettled.is_empty(),
            lanes: state.lanes.values().map(lane).collect(),
        }
    }
}

/// The result of checking a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In one word.
    pub verdict: Verdict,
    /// When and by whom the bundle was made; not signed.
    pub manifest: Option<Manifest>,
    /// Every channel that could be read, with totals over its entries before the first wrong one.
    pub channels: Vec<ChannelReport>,
    /// What is wrong, at most [`FINDINGS_MAX`]: first what cannot be read or is not what was signed, then what is missing or
    /// breaks a rule, each in the order of items; what does not fit manifest and seal stands last.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub findings_omitted: u64,
}

impl Report {
    pub(super) const fn new() -> Self {
        Self {
            verdict: Verdict::Valid,
            manifest: None,
            channels: Vec::new(),
            findings: Vec::new(),
            findings_omitted: 0,
        }
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if matches!(finding.problem, Problem::Equivocation { .. }) {
            self.verdict = Verdict::Equivocation;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_omitted = self.findings_omitted.saturating_add(1);
        }
    }

    pub(super) fn conclude(&mut self) {
        self.findings.sort_by_key(|finding| (finding.problem.remoteness(), finding.item));
        if self.verdict == Verdict::Equivocation {
            return;
        }
        self.verdict = if !self.findings.is_empty() {
            Verdict::Invalid
        } else if self.channels.iter().any(|channel| channel.has_tail) {
            Verdict::ValidWithTail
        } else {
            Verdict::Valid
        };
    }

    /// 0 valid, 1 invalid, 2 equivocation, 3 valid with tail.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Valid => 0,
            Verdict::Invalid => 1,
            Verdict::Equivocation => 2,
            Verdict::ValidWithTail => 3,
        }
    }
}
