//! The provider's side: quotes given, agreements signed, receipts written, lanes closed.

use accounting::body::{Caps, CloseReason, ExposurePolicy};
use accounting::channel::{Channel, NewAgreement, OpenTerms, Reading};
use accounting::entry::Side;
use accounting::{Counters, Dimension, PricePlan, Quote};
use catalog::{Digest, NodeId};
use scheduler::negotiate::RequestId;
use scheduler::provider::LaneEnd;
use scheduler::task::{AttemptId, TaskSpec};

use super::{Action, Given, Ledger, QUOTES_MAX, UNOPENED_MAX, attempt_of, caps, work_id};

/// Running work of a lane this node provides.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) channel: Digest,
    pub(super) lane: u64,
    /// What the runtime measured.
    used: Counters,
    caps: Caps,
    pub(super) plan: PricePlan,
    started_ms: u64,
    still: Still,
    last_receipt_ms: u64,
    pub(super) receipt_at_ms: u64,
    pub(super) unacked_since_ms: Option<u64>,
}

/// The time that work stands still: its files are set aside for it then, and nothing else. Pure.
#[derive(Clone, Copy, Debug, Default)]
struct Still {
    /// Since when it does, if it does (Unix ms).
    since_ms: Option<u64>,
    /// How long it did before, in milliseconds.
    before_ms: u64,
}

impl Still {
    /// It stands still from here on, or goes on.
    const fn turn(&mut self, is_still: bool, now_ms: u64) {
        self.before_ms = self.total_ms(now_ms);
        self.since_ms = if is_still { Some(now_ms) } else { None };
    }

    const fn total_ms(&self, now_ms: u64) -> u64 {
        match self.since_ms {
            Some(since_ms) => self.before_ms.saturating_add(now_ms.saturating_sub(since_ms)),
            None => self.before_ms,
        }
    }
}

impl Work {
    /// What the lane is billed for so far: per dimension what was used, or what was set aside for it. Nothing is set aside for
    /// work whose inputs are fetched, whose program is made ready or that waits in the queue of a cluster.
    fn billable(&self, now_ms: u64) -> Counters {
        let ran_us = self.ran_us();
        let still_us = self.still.total_ms(now_ms).saturating_mul(1_000);
        let elapsed_us = now_ms.saturating_sub(self.started_ms).saturating_mul(1_000);
        // The runtime goes on a moment before the engine hears of it: that is not counted twice.
        let stored_us = ran_us.saturating_add(still_us).min(elapsed_us.max(ran_us));
        let kib_s = |time_us: u64, bytes: u64| {
            let product = u128::from(bytes) * u128::from(time_us) / 1_024_000_000;
            u64::try_from(product).unwrap_or(u64::MAX)
        };
        let allocated = Counters::default()
            .with(Dimension::Mem, kib_s(ran_us, self.caps.memory_bytes))
            .with(Dimension::Storage, kib_s(stored_us, self.caps.disk_bytes))
            // Cores and devices that are held are in use, whatever the work does with them.
            .with(Dimension::VcpuAlloc, self.used.get(Dimension::VcpuAlloc))
            .with(Dimension::Gpu, self.used.get(Dimension::Gpu));
        self.plan.billable(&self.used, &allocated)
    }

    /// For how many microseconds the work has run, as its runtime measured: cores are counted for as long as they are held.
    fn ran_us(&self) -> u64 {
        let held = u128::from(self.used.get(Dimension::VcpuAlloc)) * 1_000;
        // No task without processor is taken: the provider refuses it.
        let ran_us = held.checked_div(u128::from(self.caps.cpu_milli)).unwrap_or(0);
        u64::try_from(ran_us).unwrap_or(u64::MAX)
    }
}

impl Ledger {
    /// Prices a task by a plan, and signs the offer.
    pub(in crate::engine) fn quote(
        &mut self,
        to: NodeId,
        request: RequestId,
        spec: &TaskSpec,
        (valid_until_ms, plan): (u64, PricePlan),
        random: ([u8; 16], [u8; 16]),
    ) -> Vec<u8> {
        if let Some(given) = self.given.get(&request) {
            return given.bytes.clone();
        }
        while self.given.len() >= QUOTES_MAX {
            let oldest =
                self.given.iter().min_by_key(|(_, g)| g.quote.valid_until_ms).map(|(id, _)| *id);
            oldest.and_then(|id| self.given.remove(&id));
        }
        let quote = Quote {
            offer_id: random.0,
            provider: self.me,
            provider_org: self.org,
            consumer: to,
            plan,
            meters: Vec::new(),
            valid_until_ms,
            volume: 1,
            salt: random.1,
            spec: spec.digest(),
            request,
        };
        let bytes = quote.sign(self.keys.current());
        self.given.insert(request, Given { bytes: bytes.clone(), quote });
        bytes
    }

    /// Signs the agreement for an accepted quote, opening the channel first when there is none.
    pub(in crate::engine) fn propose(
        &mut self,
        consumer: NodeId,
        request: RequestId,
        (attempt, spec): (AttemptId, &TaskSpec),
        certs: (Vec<u8>, Vec<u8>),
        now_ms: u64,
        nonce: [u8; 16],
    ) -> bool {
        let Some(given) = self.given.remove(&request) else {
            return false;
        };
        if !self.may_work_with(consumer) {
            return false;
        }
        let id = match self.pairs.get(&(self.me, consumer)) {
            Some(id) => *id,
            None => match self.open(consumer, certs, now_ms, nonce) {
                Some(id) => id,
                None => return false,
            },
        };
        let terms = NewAgreement {
            work: work_id(attempt),
            spec: spec.digest(),
            caps: caps(spec),
            max_amount: given.quote.plan.credit_limit,
            max_duration_ms: spec.timeout_ms,
            exposure: ExposurePolicy::Stop,
        };
        let waiting = self.unopened.entry(id).or_default();
        if waiting.len() >= UNOPENED_MAX {
            return false;
        }
        waiting.push((terms, given.bytes));
        self.propose_waiting(id, now_ms);
        self.flush(id);
        true
    }

    /// Signs the agreements that wait for the channel, once both sides have opened it.
    pub(super) fn propose_waiting(&mut self, id: Digest, now_ms: u64) {
        if !self.channels.get(&id).is_some_and(Channel::is_open) {
            return;
        }
        for (terms, quote) in self.unopened.remove(&id).unwrap_or_default() {
            let Some(channel) = self.channels.get_mut(&id) else {
                return;
            };
            match channel.propose(self.keys.current(), now_ms, terms, quote) {
                Ok(entry) => self.store(id, &entry),
                Err(error) => {
                    let detail = format!("an agreement in channel {id} cannot be written: {error}");
                    self.actions.push(Action::Notice { detail });
                    self.actions.push(Action::Disagreed { attempt: attempt_of(&terms.work) });
                }
            }
        }
    }

    fn open(
        &mut self,
        consumer: NodeId,
        (provider_cert, consumer_cert): (Vec<u8>, Vec<u8>),
        now_ms: u64,
        nonce: [u8; 16],
    ) -> Option<Digest> {
        let terms = OpenTerms {
            consumer,
            provider_cert,
            consumer_cert,
            currency: self.plan.currency,
            nonce,
        };
        let (channel, entry) = Channel::open(self.keys.current(), terms, now_ms).ok()?;
        let id = Digest::from_bytes(*channel.id());
        self.restore(channel);
        self.store(id, &entry);
        Some(id)
    }

    pub(super) fn begin(&mut self, id: Digest, lane: u64, now_ms: u64) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        let Some(found) = channel.lane(lane) else {
            return;
        };
        let attempt = attempt_of(found.work());
        let terms = &found.agreement;
        let plan =
            channel.quote(&terms.quote).map_or_else(|| self.plan.clone(), |q| q.plan.clone());
        let work = Work {
            channel: id,
            lane,
            used: Counters::default(),
            caps: terms.caps,
            started_ms: now_ms,
            still: Still::default(),
            last_receipt_ms: now_ms,
            receipt_at_ms: next_receipt_ms(now_ms, &plan),
            unacked_since_ms: None,
            plan,
        };
        self.work.insert(attempt, work);
        self.actions.push(Action::Agreed { attempt });
    }

    pub(super) fn note_acks(&mut self, id: Digest) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        for work in self.work.values_mut().filter(|w| w.channel == id) {
            if channel.lane(work.lane).is_some_and(|l| l.lane_seq == l.acked_lane_seq) {
                work.unacked_since_ms = None;
            }
        }
    }

    /// What the running task used so far.
    pub(in crate::engine) fn meter(&mut self, attempt: AttemptId, counters: Counters) {
        if let Some(work) = self.work.get_mut(&attempt) {
            for dimension in Dimension::ALL {
                let highest = work.used.get(dimension).max(counters.get(dimension));
                work.used.set(dimension, highest);
            }
        }
    }

    /// The work stands still from here on, or goes on.
    pub(in crate::engine) fn turn(&mut self, attempt: AttemptId, is_still: bool, now_ms: u64) {
        if let Some(work) = self.work.get_mut(&attempt) {
            work.still.turn(is_still, now_ms);
        }
    }

    /// Bills finally and closes the lane. Work that the provider failed at gets no further receipt.
    pub(in crate::engine) fn settle(&mut self, attempt: AttemptId, end: LaneEnd, now_ms: u64) {
        let found = match self.work.remove(&attempt) {
            Some(work) => Some((work.channel, work.lane, Some(work))),
            None => self.lane_of(attempt).map(|(id, lane)| (id, lane, None)),
        };
        let Some((id, lane, work)) = found else {
            return;
        };
        if let (Some(mut work), false) = (work, end == LaneEnd::ProviderFault) {
            self.write_receipt(&mut work, true, now_ms);
        }
        let reason = match end {
            LaneEnd::Completed => CloseReason::Completed,
            LaneEnd::Failed => CloseReason::Failed,
            LaneEnd::ProviderFault => CloseReason::ProviderFault,
            LaneEnd::Cancelled => CloseReason::Cancelled,
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let key = self.keys.of_channel(channel);
        let closed = key.and_then(|key| channel.close_lane(key, now_ms, lane, reason).ok());
        if let Some(entry) = closed {
            self.store(id, &entry);
        }
        self.flush(id);
    }

    fn lane_of(&self, attempt: AttemptId) -> Option<(Digest, u64)> {
        let work = work_id(attempt);
        self.channels
            .iter()
            .filter(|(_, c)| c.side() == Side::Provider)
            .find_map(|(id, c)| c.lane_of(&work).map(|lane| (*id, lane)))
    }

    pub(super) fn write_receipt(&mut self, work: &mut Work, is_final: bool, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(&work.channel) else {
            return;
        };
        let reading = Reading {
            counters: work.billable(now_ms),
            period_ms: now_ms.saturating_sub(work.last_receipt_ms),
            is_final,
            reset: false,
            estimated: false,
        };
        let key = self.keys.of_channel(channel);
        let stated = key.and_then(|key| channel.receipt(key, now_ms, work.lane, reading).ok());
        if let Some(entry) = stated {
            work.last_receipt_ms = now_ms;
            self.store(work.channel, &entry);
        }
    }
}

/// When the next receipt of a lane is due: after the plan's interval, or up to a tenth of it later, so that the lanes of a busy
/// node share their commits.
pub(super) const fn next_receipt_ms(now_ms: u64, plan: &PricePlan) -> u64 {
    let grid_ms = if plan.interval_ms < 10 { 1 } else { plan.interval_ms / 10 };
    now_ms.saturating_add(plan.interval_ms).next_multiple_of(grid_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use accounting::price::{Basis, PriceRow};

    /// Work whose plan asks for what is set aside of everything.
    fn work() -> Work {
        let row =
            |dimension| PriceRow { dimension, basis: Basis::Allocated, amount_nano: 1, per: 1 };
        let rows = [Dimension::VcpuAlloc, Dimension::Mem, Dimension::Storage].map(row).to_vec();
        Work {
            channel: Digest::of(b"channel"),
            lane: 1,
            used: Counters::default(),
            caps: Caps { cpu_milli: 1_000, memory_bytes: 1 << 20, disk_bytes: 1 << 20, devices: 0 },
            plan: PricePlan { rows, ..PricePlan::free() },
            started_ms: 1_000,
            still: Still::default(),
            last_receipt_ms: 1_000,
            receipt_at_ms: 0,
            unacked_since_ms: None,
        }
    }

    /// Work that has run for so long, as its runtime measured.
    fn ran(work: &mut Work, ms: u64) {
        work.used.set(Dimension::VcpuAlloc, ms * work.caps.cpu_milli);
    }

    /// Cores, memory and storage that are billed.
    fn billed(work: &Work, now_ms: u64) -> [u64; 3] {
        let counters = work.billable(now_ms);
        [Dimension::VcpuAlloc, Dimension::Mem, Dimension::Storage].map(|d| counters.get(d))
    }

    #[test]
    fn what_is_set_aside_is_billed_from_when_the_work_runs_on_and_not_while_it_waits() {
        let mut work = work();
        assert_eq!(billed(&work, 3_601_000), [0, 0, 0], "an hour in a queue costs nothing");
        ran(&mut work, 10_000);
        assert_eq!(billed(&work, 3_611_000), [10_000_000, 10_240, 10_240]);
        // It has ended, and its outputs are taken.
        assert_eq!(billed(&work, 3_700_000), [10_000_000, 10_240, 10_240]);
        // Half a core as long is as much of all else.
        work.caps.cpu_milli = 500;
        ran(&mut work, 10_000);
        assert_eq!(billed(&work, 3_700_000), [5_000_000, 10_240, 10_240]);
        // Such terms are not offered; were they, nothing is made up.
        work.caps.cpu_milli = 0;
        assert_eq!(billed(&work, 3_700_000)[1..], [0, 0]);
    }

    #[test]
    fn work_that_stands_still_is_billed_for_its_disk_alone_and_no_counter_falls() {
        let mut work = work();
        ran(&mut work, 10_000);
        assert_eq!(billed(&work, 11_000), [10_000_000, 10_240, 10_240]);
        work.still.turn(true, 11_000);
        let [cpu, mem, _] = billed(&work, 11_000);
        assert_eq!(billed(&work, 111_000), [cpu, mem, 112_640]);
        // Told twice, it counts once.
        work.still.turn(true, 61_000);
        assert_eq!(billed(&work, 111_000), [cpu, mem, 112_640]);
        work.still.turn(false, 111_000);
        ran(&mut work, 15_000);
        assert_eq!(billed(&work, 116_000), [15_000_000, 15_360, 117_760]);
        // The runtime was ahead of the engine: no more than has passed is billed.
        ran(&mut work, 16_000);
        assert_eq!(billed(&work, 116_000), [16_000_000, 16_384, 117_760]);
    }
}
