//! From a question to an agreement.
//!
//! ```text
//!            is there room? may it ask again?           it accepts, in time              both have signed
//!  request ───────────────────────────────────► offered ────────────────────► proposed ──────────────────► a job
//!                                                  └── declined, or its lease ends ──┘ ► gone, its room is free again
//! ```

use catalog::NodeId;

use crate::capacity::{QUOTE_LEASE_MS, ReservationId};
use crate::negotiate::{Phase, RequestId};
use crate::task::{AttemptId, SPEC_LEN_MAX, TaskSpec};

use super::{Action, FULL_RETRY_MS, Job, No, OFFERS_MAX, PROPOSAL_LEASE_MS, Provider, Record};

#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) consumer: NodeId,
    pub(super) attempt: AttemptId,
    pub(super) spec: TaskSpec,
    pub(super) is_proposed: bool,
    pub(super) expires_ms: u64,
}

impl Provider {
    /// A consumer asks what a task would cost. The caller has checked that it may ask.
    pub fn handle_request(
        &mut self,
        from: NodeId,
        request: RequestId,
        attempt: AttemptId,
        spec: TaskSpec,
        now_ms: u64,
    ) {
        self.expire(now_ms);
        let valid_until_ms = now_ms + QUOTE_LEASE_MS;
        if let Some(offer) = self.offers.get(&request) {
            if offer.consumer == from && !offer.is_proposed {
                let (spec, valid_until_ms) = (Box::new(offer.spec.clone()), offer.expires_ms);
                self.actions.push(Action::Quote {
                    to: from,
                    request,
                    attempt,
                    spec,
                    valid_until_ms,
                });
            }
            return;
        }
        let too_long = serde_json::to_vec(&spec).map_or(true, |json| json.len() > SPEC_LEN_MAX);
        let no = if too_long {
            Some(No::TooBig)
        } else if !self.abilities.suit(&spec) {
            Some(No::Unsupported)
        } else if self.offers.len() >= OFFERS_MAX {
            Some(No::Full { retry_after_ms: FULL_RETRY_MS })
        } else if let Some(retry_after_ms) = self.lapses.barred_ms(from, now_ms) {
            Some(No::Full { retry_after_ms })
        } else {
            let id = ReservationId::from_bytes(request);
            match self.capacity.reserve(id, &spec.needs, valid_until_ms) {
                Ok(()) => None,
                Err(e) if e.is_lasting() => Some(No::TooBig),
                Err(_) => Some(No::Full { retry_after_ms: FULL_RETRY_MS }),
            }
        };
        if let Some(no) = no {
            return self.actions.push(Action::Refuse { to: from, request, no });
        }
        let offer = Offer {
            consumer: from,
            attempt,
            spec: spec.clone(),
            is_proposed: false,
            expires_ms: valid_until_ms,
        };
        self.offers.insert(request, offer);
        self.actions.push(Action::Quote {
            to: from,
            request,
            attempt,
            spec: Box::new(spec),
            valid_until_ms,
        });
    }

    /// Whether this question of a consumer was answered with an offer that still stands.
    #[must_use]
    pub fn is_offered(&self, from: NodeId, request: RequestId) -> bool {
        self.offers.get(&request).is_some_and(|offer| offer.consumer == from)
    }

    /// The consumer takes the offer: our signature on the agreement goes out.
    pub fn handle_accept(&mut self, from: NodeId, request: RequestId, now_ms: u64) {
        self.expire(now_ms);
        let Some(offer) = self.offers.get_mut(&request).filter(|o| o.consumer == from) else {
            return;
        };
        if offer.is_proposed || self.jobs.contains_key(&offer.attempt) {
            return;
        }
        let lease = now_ms + PROPOSAL_LEASE_MS;
        if self.capacity.renew(ReservationId::from_bytes(request), lease).is_err() {
            return;
        }
        offer.is_proposed = true;
        offer.expires_ms = lease;
        let attempt = offer.attempt;
        let spec = Box::new(offer.spec.clone());
        self.proposed.insert(attempt, request);
        self.actions.push(Action::Propose { consumer: from, request, attempt, spec });
    }

    /// The consumer does not want the offer.
    pub fn handle_decline(&mut self, from: NodeId, request: RequestId, now_ms: u64) {
        let Some(offer) = self.offers.get(&request).filter(|o| o.consumer == from) else {
            return;
        };
        let left_ms = offer.expires_ms.saturating_sub(now_ms);
        if from != self.me && (offer.is_proposed || left_ms < QUOTE_LEASE_MS / 2) {
            self.lapses.note(from, now_ms);
        }
        self.drop_offer(request);
    }

    pub(super) fn drop_offer(&mut self, request: RequestId) {
        if let Some(offer) = self.offers.remove(&request) {
            self.capacity.release(ReservationId::from_bytes(request));
            if self.proposed.get(&offer.attempt) == Some(&request) {
                self.proposed.remove(&offer.attempt);
            }
        }
    }

    /// Both signatures are durable: the work may begin. Returns false when the offer is gone, so that the caller closes the
    /// lane as this node's fault.
    pub fn handle_agreed(&mut self, attempt: AttemptId, now_ms: u64) -> bool {
        let Some(request) = self.proposed.remove(&attempt) else {
            return self.jobs.contains_key(&attempt);
        };
        let Some(offer) = self.offers.remove(&request) else {
            return false;
        };
        let reservation = ReservationId::from_bytes(request);
        if self.capacity.confirm(reservation).is_err() {
            return false;
        }
        self.lapses.note_agreed(offer.consumer);
        let record = Record { attempt, consumer: offer.consumer, spec: offer.spec, ended: None };
        self.actions.push(Action::Persist { record: Box::new(record.clone()) });
        let spec = Box::new(record.spec.clone());
        self.actions.push(Action::Fetch { attempt, from: record.consumer, spec });
        let job = Job {
            record,
            reservation: Some(reservation),
            phase: Phase::Fetching,
            health: None,
            is_stopping: None,
            turning: None,
            suspended_ms: None,
            heard_ms: now_ms,
            repeat_at_ms: u64::MAX,
            repeats: 0,
        };
        self.jobs.insert(attempt, job);
        true
    }

    /// The consumer refused to sign.
    pub fn handle_disagreed(&mut self, attempt: AttemptId) {
        if let Some(request) = self.proposed.get(&attempt).copied() {
            self.drop_offer(request);
        }
    }
}
