//! What the entries of a channel's logs say, field by field.
//!
//! Maps have small unsigned keys in ascending order; an absent optional field is left out. Numbers of the record types:
//!
//! | type | number | writer |
//! |---|--:|---|
//! | [`Open`] | 1 | provider, then consumer with the same body |
//! | [`Agreement`] | 2 | provider |
//! | [`Receipt`] | 3 | provider |
//! | [`Ack`] | 4 | consumer |
//! | [`Fence`] | 13 | the peer of a side that lost its log |
//! | [`LaneClose`] | 15 | provider |
//!
//! Reserved and refused by this version: 5 dispute, 6 correction, 7 price update, 8 invoice, 9 settlement, 10 settlement
//! confirmation, 11 set-off, 12 key rotation, 14 checkpoint, 16 close.

use catalog::cbor::{CborError, Field, Item, ListItem, MapReader, MapWriter, Value};
use catalog::{Amount, Currency, Digest, NodeId};

use crate::dimension::{Counters, Dimension};
use crate::entry::{Hash, Side};
use crate::price::{SCALE, read_scale};

/// Longest node certificate inside an [`Open`], in bytes; a longer one makes the entry malformed.
pub const CERT_LEN_MAX: usize = 4096;
/// Most exceptions in one [`Ack`]; a consumer with more lanes in dispute closes the channel's work instead.
pub const EXCEPTIONS_MAX: usize = 256;

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// Opens the channel; the first entry of each log.
    Open(Box<Open>),
    /// Proposes a lane; the consumer's acknowledgement makes it an agreement.
    Agreement(Agreement),
    /// States cumulative usage and its amount.
    Receipt(Receipt),
    /// Countersigns everything before it, with exceptions.
    Ack(Ack),
    /// Says where the other log ends and in which incarnation it goes on.
    Fence(Fence),
    /// Ends a lane and states its final amount.
    LaneClose(LaneClose),
}

impl Body {
    /// The number of the record type.
    #[must_use]
    pub const fn type_number(&self) -> u64 {
        match self {
            Self::Open(_) => 1,
            Self::Agreement(_) => 2,
            Self::Receipt(_) => 3,
            Self::Ack(_) => 4,
            Self::Fence(_) => 13,
            Self::LaneClose(_) => 15,
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Open(open) => open.to_value(),
            Self::Agreement(agreement) => agreement.to_value(),
            Self::Receipt(receipt) => receipt.to_value(),
            Self::Ack(ack) => ack.to_value(),
            Self::Fence(fence) => fence.to_value(),
            Self::LaneClose(close) => close.to_value(),
        }
    }

    pub(crate) fn from_item(number: u64, item: &Item<'_>) -> Result<Self, CborError> {
        let mut map = MapReader::new(item)?;
        let body = match number {
            1 => Self::Open(Box::new(Open::read(&mut map)?)),
            2 => Self::Agreement(Agreement::read(&mut map)?),
            3 => Self::Receipt(Receipt::read(&mut map)?),
            4 => Self::Ack(Ack::read(&mut map)?),
            13 => Self::Fence(Fence::read(&mut map)?),
            15 => Self::LaneClose(LaneClose::read(&mut map)?),
            _ => {
                return Err(CborError::Field { key: 1, expected: "a record type of this version" });
            }
        };
        map.finish()?;
        Ok(body)
    }
}

/// A code on the wire, or an error that names the field.
fn code<T: Copy>(
    all: &[T],
    number: impl Fn(T) -> u64,
    found: u64,
    key: u64,
) -> Result<T, CborError> {
    all.iter()
        .copied()
        .find(|c| number(*c) == found)
        .ok_or(CborError::Field { key, expected: "a code of this version" })
}

/// Who the parties are: `{1: provider, 2: consumer, 3: provider's certificate, 4: consumer's certificate, 5: currency, 6: 9,
/// 7: nonce, 8: side that opened}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The node that serves and signs log 0.
    pub provider: NodeId,
    /// The node that is served and signs log 1.
    pub consumer: NodeId,
    /// The provider's node certificate, which binds it to its organisation.
    pub provider_cert: Vec<u8>,
    /// The consumer's node certificate.
    pub consumer_cert: Vec<u8>,
    /// Currency of every amount in the channel.
    pub currency: Currency,
    /// Random, so that a later channel of the same parties has another id.
    pub nonce: [u8; 16],
    /// Who asked for the channel; always the provider in this version.
    pub opened_by: Side,
}

impl Open {
    /// The node of a side.
    #[must_use]
    pub const fn node(&self, side: Side) -> &NodeId {
        match side {
            Side::Provider => &self.provider,
            Side::Consumer => &self.consumer,
        }
    }

    /// The certificate of a side.
    #[must_use]
    pub fn cert(&self, side: Side) -> &[u8] {
        match side {
            Side::Provider => &self.provider_cert,
            Side::Consumer => &self.consumer_cert,
        }
    }

    fn to_value(&self) -> Value {
        MapWriter::new()
            .put(1, &self.provider)
            .put(2, &self.consumer)
            .put(3, &self.provider_cert)
            .put(4, &self.consumer_cert)
            .put(5, &self.currency)
            .put(6, &SCALE)
            .put(7, &self.nonce)
            .put(8, &self.opened_by.number())
            .finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let cert = |map: &mut MapReader<'_>, key| match map.take::<Vec<u8>>(key)? {
            cert if cert.len() <= CERT_LEN_MAX => Ok(cert),
            _ => {
                Err(CborError::Field { key, expected: "a node certificate of at most 4096 bytes" })
            }
        };
        let (provider, consumer) = (map.take(1)?, map.take(2)?);
        let (provider_cert, consumer_cert) = (cert(map, 3)?, cert(map, 4)?);
        let currency = map.take(5)?;
        read_scale(map, 6)?;
        let nonce = map.take(7)?;
        let opened_by = code(&Side::BOTH, Side::number, map.take(8)?, 8)?;
        Ok(Self { provider, consumer, provider_cert, consumer_cert, currency, nonce, opened_by })
    }
}

/// One attempt of a task, as a lane names it: `{1: run, 2: step, 3: index, 4: attempt}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkId {
    /// The run.
    pub run: [u8; 16],
    /// Position of the step in the workflow.
    pub step: u32,
    /// Index into the mapped list, 0 without a map.
    pub index: u32,
    /// 1 for the first try.
    pub attempt: u32,
}

impl Field for WorkId {
    const EXPECTED: &'static str = "the name of an attempt";
    fn write(&self, out: &mut Vec<u8>) {
        let map = MapWriter::new()
            .put(1, &self.run)
            .put(2, &self.step)
            .put(3, &self.index)
            .put(4, &self.attempt);
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let work = Self {
            run: map.take(1).ok()?,
            step: map.take(2).ok()?,
            index: map.take(3).ok()?,
            attempt: map.take(4).ok()?,
        };
        map.finish().ok().map(|()| work)
    }
}

/// What the attempt may use at most: `{1: cpu_milli, 2: memory_bytes, 3: disk_bytes, ?4: devices}`; without key 4 no devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Caps {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of storage.
    pub disk_bytes: u64,
    /// GPUs or other devices of the provider, held alone.
    pub devices: u64,
}

/// Added to the elapsed time before caps are applied: start and stop are never exactly on the clock.
pub const CAP_SLACK_MS: u64 = 1_000;
/// Caps are widened to 11/10: quota windows of kernels overshoot a little.
const CAP_WIDEN: (u128, u128) = (11, 10);

impl Caps {
    /// The largest cumulative count a receipt may state after `elapsed_ms` of the lane, `None` when the dimension has no cap.
    ///
    /// With `t = min(elapsed, max_duration) + 1000` milliseconds: `cpu` and `vcpu_alloc` at most `floor(cpu_milli * t * 11 /
    /// 10)` microseconds; `mem` and `storage` at most `floor(ceil(bytes / 1024) * t * 11 / 10000)` KiB seconds. `gpu` at most
    /// `floor(devices * 1000 * t * 11 / 10)` microseconds. `set_up` at most
    /// `floor((elapsed + 1000) * 1000 * 11 / 10)` microseconds: it is no part of the time that an attempt may run.
    #[must_use]
    pub fn limit(
        &self,
        dimension: Dimension,
        elapsed_ms: u64,
        max_duration_ms: u64,
    ) -> Option<u64> {
        let run_ms = elapsed_ms.min(max_duration_ms);
        let (grant, divisor, time_ms) = match dimension {
            Dimension::Cpu | Dimension::VcpuAlloc => (self.cpu_milli, 1, run_ms),
            Dimension::Mem => (self.memory_bytes.div_ceil(1024), 1_000, run_ms),
            Dimension::Storage => (self.disk_bytes.div_ceil(1024), 1_000, run_ms),
            Dimension::Gpu => (self.devices.saturating_mul(1_000), 1, run_ms),
            Dimension::SetUp => (1_000, 1, elapsed_ms),
            _ => return None,
        };
        let time = u128::from(time_ms) + u128::from(CAP_SLACK_MS);
        let limit = u128::from(grant)
            .checked_mul(time)
            .and_then(|product| product.checked_mul(CAP_WIDEN.0))
            .map(|product| product / (CAP_WIDEN.1 * divisor));
        Some(limit.and_then(|l| u64::try_from(l).ok()).unwrap_or(u64::MAX))
    }

    /// The counters cut to the caps: use beyond the grant cannot be billed.
    #[must_use]
    pub fn cut(&self, counters: &Counters, elapsed_ms: u64, max_duration_ms: u64) -> Counters {
        Dimension::ALL.into_iter().fold(*counters, |out, d| {
            let limit = self.limit(d, elapsed_ms, max_duration_ms).unwrap_or(u64::MAX);
            out.with(d, counters.get(d).min(limit))
        })
    }
}

impl Field for Caps {
    const EXPECTED: &'static str = "caps of CPU, memory and storage";
    fn write(&self, out: &mut Vec<u8>) {
        let map = MapWriter::new()
            .put(1, &self.cpu_milli)
            .put(2, &self.memory_bytes)
            .put(3, &self.disk_bytes)
            .put_opt(4, (self.devices > 0).then_some(&self.devices));
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let caps = Self {
            cpu_milli: map.take(1).ok()?,
            memory_bytes: map.take(2).ok()?,
            disk_bytes: map.take(3).ok()?,
            devices: map.take_opt(4).ok()?.map_or(Some(0), |n| (n > 0).then_some(n))?,
        };
        map.finish().ok().map(|()| caps)
    }
}

/// What the provider does when the unacknowledged value reaches its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExposurePolicy {
    /// Freezes the task until an acknowledgement arrives.
    Pause = 0,
    /// Stops the task and closes the lane.
    Stop = 1,
    /// Goes on at its own risk.
    AtRisk = 2,
}

impl ExposurePolicy {
    const ALL: [Self; 3] = [Self::Pause, Self::Stop, Self::AtRisk];
}

/// A lane: `{1: lane, 2: quote hash, 3: work, 4: spec, 5: caps, 6: max_amount, 7: max_duration_ms, 8: price version (1), 9:
/// exposure policy}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Number of the lane, above every earlier one; from 1.
    pub lane: u64,
    /// SHA-256 of the quote's envelope.
    pub quote: Hash,
    /// The attempt it is for.
    pub work: WorkId,
    /// Digest of the task, the same as in the quote.
    pub spec: Digest,
    /// What the attempt may use at most.
    pub caps: Caps,
    /// The lane never costs more.
    pub max_amount: Amount,
    /// Time beyond it is not billed, in milliseconds.
    pub max_duration_ms: u64,
    /// What happens at the exposure limit.
    pub exposure: ExposurePolicy,
}

/// The only price version while there are no price updates.
const PRICE_VERSION: u64 = 1;

fn read_price_version(map: &mut MapReader<'_>, key: u64) -> Result<(), CborError> {
    match map.take::<u64>(key)? {
        PRICE_VERSION => Ok(()),
        _ => Err(CborError::Field { key, expected: "the price version 1" }),
    }
}

impl Agreement {
    fn to_value(self) -> Value {
        MapWriter::new()
            .put(1, &self.lane)
            .put(2, &self.quote)
            .put(3, &self.work)
            .put(4, &self.spec)
            .put(5, &self.caps)
            .put(6, &self.max_amount)
            .put(7, &self.max_duration_ms)
            .put(8, &PRICE_VERSION)
            .put(9, &(self.exposure as u64))
            .finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let (lane, quote, work, spec) = (map.take(1)?, map.take(2)?, map.take(3)?, map.take(4)?);
        let (caps, max_amount, max_duration_ms) = (map.take(5)?, map.take(6)?, map.take(7)?);
        read_price_version(map, 8)?;
        let exposure = code(&ExposurePolicy::ALL, |c| c as u64, map.take(9)?, 9)?;
        Ok(Self { lane, quote, work, spec, caps, max_amount, max_duration_ms, exposure })
    }
}

/// Cumulative usage of a lane: `{1: lane, 2: lane_seq, 4: period_ms, 5: [counters], 6: amount, ?7: flags}`; flags are the sum of
/// 1 (final), 2 (reset) and 4 (estimated), left out when there are none. Key 3 is kept for a price version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The lane.
    pub lane: u64,
    /// Number of the receipt within its lane, from 1 without gaps.
    pub lane_seq: u64,
    /// Milliseconds of the provider's monotonic clock since the lane's previous receipt (or its start).
    pub period_ms: u64,
    /// Cumulative counters since the lane began.
    pub counters: Counters,
    /// Cumulative amount: the rating of the counters, at most the agreement's maximum.
    pub amount: Amount,
    /// No receipt follows.
    pub is_final: bool,
    /// A source was reset since the previous receipt; the counters go on from there.
    pub reset: bool,
    /// Some counter was estimated instead of measured.
    pub estimated: bool,
}

impl Receipt {
    fn to_value(self) -> Value {
        let flags =
            u64::from(self.is_final) | u64::from(self.reset) << 1 | u64::from(self.estimated) << 2;
        MapWriter::new()
            .put(1, &self.lane)
            .put(2, &self.lane_seq)
            .put(4, &self.period_ms)
            .put(5, &self.counters)
            .put(6, &self.amount)
            .put_opt(7, (flags != 0).then_some(&flags))
            .finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let (lane, lane_seq) = (map.take(1)?, map.take(2)?);
        let (period_ms, counters, amount) = (map.take(4)?, map.take(5)?, map.take(6)?);
        let flags = match map.take_opt(7)? {
            None => 0,
            Some(flags @ 1..=7) => flags,
            Some(_) => return Err(CborError::Field { key: 7, expected: "flags from 1 to 7" }),
        };
        let flag = |bit: u64| flags & bit != 0;
        let (is_final, reset, estimated) = (flag(1), flag(2), flag(4));
        Ok(Self { lane, lane_seq, period_ms, counters, amount, is_final, reset, estimated })
    }
}

/// Why a consumer does not accept a lane or its later receipts.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AckCode {
    /// The lane is not wanted (any more).
    Declined = 1,
    /// The agreement is not what was asked for.
    Terms = 2,
    /// The counters exceed what the consumer observed.
    Usage = 3,
    /// The periods exceed what the consumer observed.
    Time = 4,
}

impl AckCode {
    const ALL: [Self; 4] = [Self::Declined, Self::Terms, Self::Usage, Self::Time];
}

/// A lane that an acknowledgement does not accept in full: `{1: lane, 2: last_ok_lane_seq, 3: code}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckException {
    /// The lane.
    pub lane: u64,
    /// The last receipt that is accepted; 0 for none. On a lane not yet agreed, 0 refuses it for good.
    pub last_ok_lane_seq: u64,
    /// Why.
    pub code: AckCode,
}

/// The consumer's countersignature of every provider entry up to the header's peer link: `{1: accepted_total, ?2:
/// [exceptions]}`.
///
/// The exceptions are the whole list at this moment, by ascending lane and not empty; a lane that is not listed is accepted up
/// to the peer link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The sum of what is earned over all lanes.
    pub accepted_total: Amount,
    /// Lanes that are not accepted in full.
    pub exceptions: Vec<AckException>,
}

impl Field for AckException {
    const EXPECTED: &'static str = "an exception";
    fn write(&self, out: &mut Vec<u8>) {
        let map = MapWriter::new()
            .put(1, &self.lane)
            .put(2, &self.last_ok_lane_seq)
            .put(3, &(self.code as u64));
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let (lane, last_ok_lane_seq) = (map.take(1).ok()?, map.take(2).ok()?);
        let code = code(&AckCode::ALL, |c| c as u64, map.take(3).ok()?, 3).ok()?;
        map.finish().ok().map(|()| Self { lane, last_ok_lane_seq, code })
    }
}

impl ListItem for AckException {}

impl Ack {
    fn to_value(&self) -> Value {
        let exceptions = (!self.exceptions.is_empty()).then_some(&self.exceptions);
        MapWriter::new().put(1, &self.accepted_total).put_opt(2, exceptions).finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let accepted_total = map.take(1)?;
        let exceptions: Vec<AckException> = match map.take_opt(2)? {
            None => Vec::new(),
            Some(list) => check_exceptions(list)?,
        };
        Ok(Self { accepted_total, exceptions })
    }
}

fn check_exceptions(list: Vec<AckException>) -> Result<Vec<AckException>, CborError> {
    let ascending = list.windows(2).all(|pair| pair[0].lane < pair[1].lane);
    if ascending && (1..=EXCEPTIONS_MAX).contains(&list.len()) {
        Ok(list)
    } else {
        Err(CborError::Field { key: 2, expected: "1 to 256 exceptions by ascending lane" })
    }
}

/// The peer's copy of a log is all there is of it from now on: `{1: token, 2: incarnation, 3: seq, 4: head}`.
///
/// Written by the peer of a side whose store was set back, at its request ([`crate::channel::fence`]). `seq` and `head` name
/// the same entry as the header's peer link, which is the last one of the other log in the old incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The request it answers; one fence per token.
    pub token: [u8; 16],
    /// The other log goes on in this incarnation, one above the one it was in.
    pub incarnation: u32,
    /// Where the other log ends.
    pub seq: u64,
    /// Hash of that entry.
    pub head: Hash,
}

impl Fence {
    fn to_value(self) -> Value {
        MapWriter::new()
            .put(1, &self.token)
            .put(2, &self.incarnation)
            .put(3, &self.seq)
            .put(4, &self.head)
            .finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let (token, incarnation) = (map.take(1)?, map.take(2)?);
        Ok(Self { token, incarnation, seq: map.take(3)?, head: map.take(4)? })
    }
}

/// Why a lane ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CloseReason {
    /// The task succeeded.
    Completed = 1,
    /// The task failed by its own fault; its use is billed.
    Failed = 2,
    /// The provider failed; the lane costs nothing, also what was acknowledged before.
    ProviderFault = 3,
    /// The consumer cancelled.
    Cancelled = 4,
    /// No acknowledgement came in time; the unacknowledged rest stays a claim.
    NoAck = 5,
    /// The lease ran out.
    LostLease = 6,
    /// A newer attempt took over.
    Superseded = 7,
}

impl CloseReason {
    const ALL: [Self; 7] = [
        Self::Completed,
        Self::Failed,
        Self::ProviderFault,
        Self::Cancelled,
        Self::NoAck,
        Self::LostLease,
        Self::Superseded,
    ];
}

/// The end of a lane: `{1: lane, 2: reason, 3: hash of its last receipt's entry, 4: its lane_seq, 5: amount}`; zeros when
/// there was none.
///
/// The amount is 0 for a provider's fault or without a receipt, else the closing amount of [`crate::rate`] (granularity and
/// minimum applied), at most the agreement's maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneClose {
    /// The lane.
    pub lane: u64,
    /// Why it ended.
    pub reason: CloseReason,
    /// Hash of the entry that holds the lane's last receipt.
    pub last_receipt: Hash,
    /// Number of that receipt within the lane.
    pub lane_seq: u64,
    /// The lane's final amount.
    pub amount: Amount,
}

impl LaneClose {
    fn to_value(self) -> Value {
        MapWriter::new()
            .put(1, &self.lane)
            .put(2, &(self.reason as u64))
            .put(3, &self.last_receipt)
            .put(4, &self.lane_seq)
            .put(5, &self.amount)
            .finish()
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let lane = map.take(1)?;
        let reason = code(&CloseReason::ALL, |c| c as u64, map.take(2)?, 2)?;
        let (last_receipt, lane_seq, amount) = (map.take(3)?, map.take(4)?, map.take(5)?);
        Ok(Self { lane, reason, last_receipt, lane_seq, amount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_capped_and_absent_from_agreements_without() {
        let none = Caps { cpu_milli: 1, memory_bytes: 2, disk_bytes: 3, devices: 0 };
        let two = Caps { devices: 2, ..none };
        let written = |caps: &Caps| {
            let mut out = Vec::new();
            caps.write(&mut out);
            out
        };
        assert_eq!(written(&none), [0xa3, 1, 1, 2, 2, 3, 3], "as before there were any");
        assert_eq!(written(&two), [0xa4, 1, 1, 2, 2, 3, 3, 4, 2]);
        for (bytes, expected) in [
            (written(&none), Some(none)),
            (written(&two), Some(two)),
            (vec![0xa4, 1, 1, 2, 2, 3, 3, 4, 0], None),
            (vec![0xa4, 1, 1, 2, 2, 3, 3, 5, 1], None),
        ] {
            let value = catalog::cbor::decode(&bytes, bytes.len()).unwrap();
            assert_eq!(Caps::read(value), expected, "{bytes:x?}");
        }
        // Two for 9 seconds and one of slack, widened by a tenth.
        assert_eq!(two.limit(Dimension::Gpu, 9_000, u64::MAX), Some(22_000_000));
        assert_eq!(two.limit(Dimension::Gpu, 9_000, 4_000), Some(11_000_000));
        assert_eq!(none.limit(Dimension::Gpu, 9_000, u64::MAX), Some(0));
        let most = Caps { devices: u64::MAX, ..none };
        assert_eq!(most.limit(Dimension::Gpu, u64::MAX, u64::MAX), Some(u64::MAX));
    }
}
