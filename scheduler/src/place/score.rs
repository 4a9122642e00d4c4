//! What a candidate is expected to take and to cost, and the score that a strategy makes of it. Integers only.

use std::collections::BTreeMap;

use catalog::{Amount, Currency, Digest};

use crate::device;

use super::{Candidate, Price, Request, Scored, Strategy, Term, Trust, WEIGHT_MAX};

/// Bytes a second that a transfer is expected to get: 100 Mbit/s, the slower of a home fibre line and a shared wireless
/// network. Too low a guess keeps work near its data, which is the cheaper mistake.
pub const ASSUMED_BYTES_PER_S: u64 = 12_500_000;
/// Run time in milliseconds taken for a task nobody has timed yet.
pub const ESTIMATE_UNKNOWN_MS: u64 = 10_000;
/// Round trips between coordinator and provider around a task: quote, agreement, start, result.
pub const ROUND_TRIPS: u64 = 4;
/// A node full of this coordinator's tasks looks slower by this part of the run time. It spreads tasks over nodes that are
/// otherwise equal, yet weighs less than waiting for a core.
pub const SPREAD_DIVISOR: u64 = 8;
/// Time lost until a provider's fault is noticed, in microseconds, added for each recent fault beside half a run.
pub const FAULT_DETECTION_US: u64 = 5_000_000;
/// Recent faults above this count as this.
pub const FAILURES_COUNTED_MAX: u32 = 16;
/// The largest inputs that are looked up at each candidate; all smaller ones count as to be transferred to everyone.
pub const INPUTS_COUNTED_MAX: usize = 64;
/// Largest value of a time term in microseconds (three years); longer ones count as this.
pub const TIME_TERM_MAX_US: i64 = 100_000_000_000_000;
/// Largest value of the price term in nano-units (a million units); dearer ones count as this in the ranking, not before
/// the price cap.
pub const PRICE_TERM_MAX: i64 = 1_000_000_000_000_000;
/// What one step of trust counts in a weighted sum, in microseconds.
pub const TRUST_STEP_US: i64 = 60_000_000;

/// One step of trust under `sovereignty`: more than all time terms together, so it goes before them.
const TRUST_STEP_STRICT: i64 = 10 * TIME_TERM_MAX_US;
/// Added to a price in another currency than the others': larger than any price, since the two cannot be compared.
const CURRENCY_TERM: i64 = 2 * PRICE_TERM_MAX;
const BYTES_PER_GIB: u128 = 1 << 30;
const US_PER_S: u128 = 1_000_000;

/// The part of a request that is the same for every candidate.
pub(super) struct Work {
    cpu_milli: u64,
    memory_bytes: u64,
    n_devices: u64,
    estimate_us: u128,
    /// The largest inputs, each once.
    inputs: Vec<(Digest, u64)>,
    /// Bytes of all others.
    small_bytes: u64,
}

/// What is expected of one candidate.
pub(super) struct Outlook {
    queue_us: i64,
    spread_us: i64,
    transfer_us: i64,
    round_trips_us: i64,
    run_us: i64,
    faults_us: i64,
    pub(super) price: Option<(Amount, Currency)>,
}

impl Outlook {
    /// The name and value of each part of the expected finish.
    const fn times(&self) -> [(&'static str, i64); 6] {
        [
            ("queue", self.queue_us),
            ("spread", self.spread_us),
            ("transfer", self.transfer_us),
            ("round_trips", self.round_trips_us),
            ("run", self.run_us),
            ("faults", self.faults_us),
        ]
    }
}

impl Work {
    pub(super) fn new(request: &Request) -> Self {
        let sizes: BTreeMap<Digest, u64> = request.inputs.iter().copied().collect();
        let mut inputs: Vec<(Digest, u64)> = sizes.into_iter().collect();
        inputs.sort_unstable_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
        let small = inputs.split_off(inputs.len().min(INPUTS_COUNTED_MAX));
        let estimate_ms = match request.estimate_ms {
            0 => ESTIMATE_UNKNOWN_MS,
            known => known,
        };
        Self {
            cpu_milli: request.needs.cpu_milli,
            memory_bytes: request.needs.memory_bytes,
            n_devices: device::total(&request.needs.devices),
            estimate_us: u128::from(estimate_ms) * 1000,
            inputs,
            small_bytes: small.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size)),
        }
    }

    pub(super) fn outlook(&self, candidate: &Candidate) -> Outlook {
        let run_us = self.estimate_us * 1000 / u128::from(candidate.speed_milli.max(1));
        let cpu = u128::from(candidate.cpu_milli.max(1));
        let inflight = u128::from(candidate.inflight_cpu_milli);
        let beyond = (inflight + u128::from(self.cpu_milli)).saturating_sub(cpu);
        let missing = self.bytes_missing_at(candidate);
        let fault_us = run_us / 2 + u128::from(FAULT_DETECTION_US);
        Outlook {
            // Tasks that end one after another free the missing cores after this part of a run.
            queue_us: time_term(run_us.saturating_mul(beyond) / cpu),
            spread_us: time_term(
                run_us.saturating_mul(inflight) / cpu / u128::from(SPREAD_DIVISOR),
            ),
            transfer_us: time_term(
                u128::from(missing) * US_PER_S / u128::from(ASSUMED_BYTES_PER_S),
            ),
            round_trips_us: time_term(u128::from(candidate.rtt_us) * u128::from(ROUND_TRIPS)),
            run_us: time_term(run_us),
            faults_us: time_term(
                fault_us.saturating_mul(candidate.failures.min(FAILURES_COUNTED_MAX).into()),
            ),
            price: candidate
                .price
                .as_ref()
                .map(|price| (self.price(price, run_us, missing), price.currency)),
        }
    }

    fn bytes_missing_at(&self, candidate: &Candidate) -> u64 {
        self.inputs
            .iter()
            .filter(|(digest, _)| !candidate.holds.contains(digest))
            .fold(self.small_bytes, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// The expected price, rounded up. A product too large for the arithmetic is a price too large for an [`Amount`].
    fn price(&self, price: &Price, run_us: u128, missing: u64) -> Amount {
        let rate = |nano: i64| u128::from(nano.max(0).unsigned_abs());
        let cpu = rate(price.cpu_nano_per_s)
            .saturating_mul(self.cpu_milli.into())
            .saturating_mul(run_us)
            .div_ceil(1000 * US_PER_S);
        let memory = rate(price.memory_nano_per_gib_s)
            .saturating_mul(self.memory_bytes.into())
            .saturating_mul(run_us)
            .div_ceil(BYTES_PER_GIB * US_PER_S);
        let net =
            rate(price.net_nano_per_gib).saturating_mul(missing.into()).div_ceil(BYTES_PER_GIB);
        let devices = rate(price.device_nano_per_s)
            .saturating_mul(self.n_devices.into())
            .saturating_mul(run_us)
            .div_ceil(US_PER_S);
        let sum = [cpu, memory, net, devices, rate(price.fixed.nano())]
            .into_iter()
            .fold(0_u128, u128::saturating_add);
        Amount::from_nano(i64::try_from(sum).unwrap_or(i64::MAX))
    }
}

fn time_term(us: u128) -> i64 {
    i64::try_from(us).unwrap_or(TIME_TERM_MAX_US).min(TIME_TERM_MAX_US)
}

/// What a strategy weighs, and the currency in which it compares.
pub(super) struct Yardstick {
    time: i64,
    trust: i64,
    trust_step: i64,
    price: i64,
    currency: Option<Currency>,
}

impl Yardstick {
    pub(super) fn new<'a>(request: &Request, outlooks: impl Iterator<Item = &'a Outlook>) -> Self {
        let weigh = |weight: u32| i64::from(weight.min(WEIGHT_MAX));
        let (trust, trust_step, time, price) = match request.strategy {
            Strategy::Sovereignty => (1, TRUST_STEP_STRICT, 1, 0),
            Strategy::Performance => (0, TRUST_STEP_US, 1, 0),
            Strategy::Cost => (0, TRUST_STEP_US, 0, 1),
            Strategy::Weights { sovereignty, performance, cost } => {
                (weigh(sovereignty), TRUST_STEP_US, weigh(performance), weigh(cost))
            }
        };
        let currency = match request.rule.max_price {
            Some((_, currency)) => Some(currency),
            None => commonest(outlooks.filter_map(|outlook| asked(outlook.price))),
        };
        Self { time, trust, trust_step, price, currency }
    }

    pub(super) fn score(&self, candidate: &Candidate, outlook: &Outlook) -> Scored {
        let steps = match candidate.trust {
            Trust::Own => 0,
            Trust::Partner => 1,
            Trust::Peer | Trust::Blocked => 2,
        };
        let price = outlook.price.map_or(0, |(price, _)| price.nano().min(PRICE_TERM_MAX));
        let foreign = asked(outlook.price).is_some_and(|currency| Some(currency) != self.currency);
        let mut terms = Vec::with_capacity(9);
        terms.extend(outlook.times().map(|(name, value)| Term { name, value, weight: self.time }));
        terms.push(Term { name: "trust", value: steps * self.trust_step, weight: self.trust });
        terms.push(Term { name: "price", value: price, weight: self.price });
        let currency = if foreign { CURRENCY_TERM } else { 0 };
        terms.push(Term { name: "currency", value: currency, weight: self.price });
        Scored {
            node: candidate.node,
            // At most 1000 * (6e14 + 1.2e8 + 1e15 + 2e15), below the 9.2e18 of an i64.
            score: terms.iter().map(|term| term.value * term.weight).sum(),
            finish_us: outlook.times().iter().map(|(_, value)| value).sum(),
            price: outlook.price,
            trust: candidate.trust,
            terms,
        }
    }
}

/// The currency of a price that is not nothing.
fn asked(price: Option<(Amount, Currency)>) -> Option<Currency> {
    price.filter(|(price, _)| *price > Amount::ZERO).map(|(_, currency)| currency)
}

/// The currency most of them use, the first by letters among equals.
fn commonest(currencies: impl Iterator<Item = Currency>) -> Option<Currency> {
    let mut counts: BTreeMap<Currency, usize> = BTreeMap::new();
    for currency in currencies {
        *counts.entry(currency).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(currency, n)| (*n, std::cmp::Reverse(*currency)))
        .map(|(c, _)| c)
}
