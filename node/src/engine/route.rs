//! Translates what one sub-machine wants into what another offers.

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Counters, Dimension, Refusal, RefusalCode};
use catalog::NodeId;
use rand_core::Rng;
use scheduler::coordinator::{Action as Ask, Offer, Proposal};
use scheduler::device;
use scheduler::negotiate::{LOG_CHUNK_MAX, Message, Stream};
use scheduler::place::{Rejection, Trust};
use scheduler::provider::{Action as Provide, No};
use scheduler::run::EventBody;
use scheduler::task::{AttemptId, SERVICE_ESTIMATE_MS, Stage, TaskSpec};
use scheduler::value::Value;

use super::ledger::{Action as Bill, attempt_of, is_as_asked};
use super::message::NodeMessage;
use super::people::{Asker, Question};
use super::rules::{Objection, Work, refused_work};
use super::services::is_replica;
use super::sessions::is_open_to;
use super::{Blob, Effect, Engine, FetchJob, random, run_event_key, stored};
use crate::store::batch::Table;

/// Blobs remembered per node; at the bound nothing more is learnt about it.
const HELD_MAX: usize = 4_096;
/// How long a refusal holds when it does not say.
const REFUSED_MS: u64 = 10_000;
/// For how long a task is assumed to run when its price is estimated.
const ESTIMATE_MS: u64 = 10_000;

impl Engine {
    pub(super) fn handle_task_message(
        &mut self,
        from: NodeId,
        message: Message,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        match message {
            Message::QuoteRequest { request, attempt, spec, max_price: _, person } => {
                let question = Question { from, request, attempt, person };
                self.handle_quote_request(question, *spec, now_ms);
            }
            Message::Quote { request, quote } => self.handle_quote(from, request, quote, now_ms),
            Message::Refusal { request, refusal } => {
                self.handle_refusal(from, request, &refusal, now_ms);
            }
            Message::Accept { request } => self.provider.handle_accept(from, request, now_ms),
            Message::Decline { request } => self.provider.handle_decline(from, request, now_ms),
            Message::Status { attempts, health } => {
                self.coordinator.handle_status(from, &attempts, now_ms);
                for (attempt, health) in self.coordinator.check_health(from, &health) {
                    self.services.handle_health(attempt, health, now_ms);
                }
            }
            Message::Renew { attempts } => self.provider.handle_renew(from, &attempts, now_ms),
            Message::Log { attempt, stream, offset, bytes } => {
                if bytes.len() <= LOG_CHUNK_MAX && self.is_at(attempt, from) {
                    let is_replica = self.coordinator.run(attempt.run).is_some_and(is_replica);
                    self.out.list.push(Effect::RunLog {
                        attempt,
                        stream,
                        offset,
                        bytes,
                        is_replica,
                    });
                }
            }
            Message::Finished { attempt, outcome } => {
                self.coordinator
                    .handle_finished(from, attempt, outcome, now_ms, &mut || rng.next_u64());
            }
            Message::Collected { attempt } => self.provider.handle_collected(from, attempt),
            Message::Cancel { attempt } => self.provider.handle_cancel(from, attempt),
        }
    }

    fn handle_quote_request(&mut self, question: Question, spec: TaskSpec, now_ms: u64) {
        let Question { from, request, attempt, .. } = question;
        if from != self.me && !self.ledger.may_work_with(from) {
            return self.refuse(from, request, RefusalCode::Policy, Some(REFUSED_MS));
        }
        if !self.may_have_task(from) {
            return self.refuse(from, request, RefusalCode::Full, Some(REFUSED_MS));
        }
        if !self.serves(from) || !self.opens_devices(from, &spec) {
            return self.refuse(from, request, RefusalCode::Policy, None);
        }
        match self.who_asks(&question, now_ms) {
            Asker::Refused { retry_after_ms } => {
                self.refuse(from, request, RefusalCode::Policy, retry_after_ms);
            }
            // The answer to the first of two is repeated while it stands.
            Asker::Again if !self.provider.is_offered(from, request) => {}
            Asker::Again => {
                self.provider.handle_request(from, request, attempt, spec, now_ms);
            }
            Asker::Is(person) => {
                if !self.policies_quote(from, person, &spec) {
                    return self.refuse(from, request, RefusalCode::Policy, None);
                }
                match self.objects_to_work(from, &spec, now_ms) {
                    Some(Objection { code, rule }) => {
                        self.refuse_by(from, request, (code, rule), None);
                    }
                    None => self.provider.handle_request(from, request, attempt, spec, now_ms),
                }
            }
        }
    }

    fn handle_refusal(&mut self, from: NodeId, request: [u8; 16], bytes: &[u8], now_ms: u64) {
        let Ok(refusal) = Refusal::open(bytes, &from) else {
            return self.penalize(from, "a refusal that does not verify".to_owned());
        };
        let until_ms = now_ms + refusal.retry_after_ms.unwrap_or(REFUSED_MS).min(60_000);
        match refused_work(refusal) {
            Some(why) => {
                self.coordinator.handle_barred(request, from, why, (until_ms, now_ms));
            }
            None => self.coordinator.handle_no(request, from, until_ms, now_ms),
        }
    }

    fn serves(&self, from: NodeId) -> bool {
        from == self.me
            || self.admission.peer(from).is_some_and(|p| {
                self.trust(p.cert.org) != Trust::Blocked && self.relation(p.cert.org).ask
            })
    }

    /// Whether the task asks for no devices, or the owner gives them to whoever asks.
    fn opens_devices(&self, from: NodeId, spec: &TaskSpec) -> bool {
        let open = self.settings.compute.device_for;
        let peer = self.admission.peer(from);
        spec.needs.devices.is_empty()
            || from == self.me
            || peer.is_some_and(|p| is_open_to(open, self.trust(p.cert.org)))
    }

    /// Whether the attempt is one of this node's runs and is at `node`.
    fn is_at(&self, attempt: AttemptId, node: NodeId) -> bool {
        self.coordinator
            .run(attempt.run)
            .and_then(|run| run.task(attempt.task))
            .and_then(|task| task.attempts.iter().find(|a| a.number == attempt.number))
            .is_some_and(|a| a.node == node)
    }

    fn handle_quote(&mut self, from: NodeId, request: [u8; 16], bytes: Vec<u8>, now_ms: u64) {
        let expected = expected(self.coordinator.spec_asked(request));
        let Some((quote, estimate)) = self.ledger.check_quote(from, &bytes, &expected) else {
            return self.penalize(from, "a quote that does not verify".to_owned());
        };
        if quote.request != request {
            return;
        }
        let terms = (&quote.plan, estimate);
        if let Some(why) = self.objects_to_quote(request, from, terms, now_ms) {
            self.tell(from, Message::Decline { request });
            let until = (now_ms + REFUSED_MS, now_ms);
            return self.coordinator.handle_barred(request, from, why, until);
        }
        self.ledger.hold_quote(request, bytes);
        let offer = Offer {
            provider: from,
            request,
            spec: quote.spec,
            estimate,
            currency: quote.plan.currency,
            valid_until_ms: quote.valid_until_ms,
        };
        self.coordinator.handle_offer(offer, now_ms);
    }

    fn refuse(
        &mut self,
        to: NodeId,
        request: [u8; 16],
        code: RefusalCode,
        retry_after_ms: Option<u64>,
    ) {
        if to == self.me {
            return;
        }
        self.refuse_by(to, request, (code, None), retry_after_ms);
    }

    fn refuse_by(
        &mut self,
        to: NodeId,
        request: [u8; 16],
        (code, rule): (RefusalCode, Option<String>),
        retry_after_ms: Option<u64>,
    ) {
        let (provider, consumer) = (self.me, to);
        let refusal = Refusal { provider, consumer, request, code, retry_after_ms, rule };
        let refusal = refusal.sign(&self.settings.node_key);
        self.send(to, &NodeMessage::Task(Message::Refusal { request, refusal }));
    }

    fn tell(&mut self, to: NodeId, message: Message) {
        if to == self.me {
            self.mailbox.push_back(message);
        } else {
            self.send(to, &NodeMessage::Task(message));
        }
    }

    /// True when there was something to route.
    pub(super) fn route_coordinator(&mut self, now_ms: u64, rng: &mut dyn Rng) -> bool {
        let actions = self.coordinator.drain_actions();
        let is_busy = !actions.is_empty();
        let mut told = BTreeSet::new();
        for action in actions {
            match action {
                Ask::Record { run, seq, event } => {
                    told.insert(run);
                    self.out.batch.put(Table::RunEvents, run_event_key(run, seq), stored(&event));
                    if matches!(event.body, EventBody::Finished { .. }) {
                        self.count_ended(run);
                    }
                    self.out.list.push(Effect::RunEvent { run, seq, event });
                }
                Ask::Send { to, message } => {
                    let message = self.with_person(to, message, now_ms);
                    self.tell(to, message);
                }
                Ask::Keep { blobs } => self.out.list.push(Effect::Keep { blobs }),
                Ask::Grant { peer, attempt, blobs } => {
                    let held = self.held.entry(peer).or_default();
                    held.extend(blobs.iter().copied().take(HELD_MAX.saturating_sub(held.len())));
                    self.out.list.push(Effect::Grant { peer, attempt, blobs });
                }
                Ask::Revoke { peer, attempt } => {
                    self.out.list.push(Effect::Revoke { peer, attempt })
                }
                Ask::Collect { attempt, from, .. } if from == self.me => {
                    self.coordinator
                        .handle_collected(attempt, Ok(()), now_ms, &mut || rng.next_u64());
                }
                Ask::Collect { attempt, from, outputs } => {
                    let mut blobs = Vec::new();
                    outputs.values().for_each(|value| files_of(value, &mut blobs));
                    let (job, others) = (FetchJob::Outputs(attempt), BTreeMap::new());
                    self.out.list.push(Effect::Fetch { job, from, blobs, others });
                }
            }
        }
        for run in told {
            self.tell_of_replica(run, now_ms);
        }
        is_busy
    }

    /// True when there was something to route.
    pub(super) fn route_provider(&mut self, now_ms: u64, rng: &mut dyn Rng) -> bool {
        let actions = self.provider.drain_actions();
        let is_busy = !actions.is_empty();
        for action in actions {
            match action {
                Provide::Quote { to, request, spec, valid_until_ms, .. } => {
                    self.give_quote(to, request, &spec, valid_until_ms, now_ms, rng);
                }
                Provide::Refuse { to, request, no } => self.say_no(to, request, no, now_ms),
                Provide::Propose { consumer, request, attempt, spec } => {
                    self.propose(consumer, request, attempt, &spec, now_ms, rng);
                }
                Provide::Persist { record } => {
                    self.out.batch.put(
                        Table::Attempts,
                        attempt_key(record.attempt),
                        stored(&*record),
                    );
                }
                Provide::Send { to, message } => self.tell(to, message),
                other => self.perform_provider(other, now_ms),
            }
        }
        is_busy
    }

    /// What concerns work under agreement.
    fn perform_provider(&mut self, action: Provide, now_ms: u64) {
        match action {
            Provide::Erase { attempt } => {
                self.out.batch.delete(Table::Attempts, attempt_key(attempt));
            }
            Provide::Fetch { attempt, from, .. } if from == self.me => {
                self.provider.handle_fetched(attempt, Ok(()), now_ms);
            }
            Provide::Fetch { attempt, from, spec } => {
                let blobs = inputs_of(&spec);
                let (job, others) = (FetchJob::Inputs(attempt), self.others_with(&blobs, now_ms));
                self.out.list.push(Effect::Fetch { job, from, blobs, others });
            }
            Provide::Start { attempt, spec, devices } => {
                self.out.list.push(Effect::Start { attempt, spec, devices });
            }
            Provide::Stop { attempt } => self.out.list.push(Effect::Stop { attempt }),
            Provide::Settle { consumer, attempt, end } => {
                if consumer != self.me {
                    self.ledger.settle(attempt, end, now_ms);
                }
            }
            Provide::Grant { peer, attempt, blobs } => {
                if peer != self.me {
                    self.out.list.push(Effect::Grant { peer, attempt, blobs });
                }
            }
            Provide::Discard { peer, attempt } => {
                if peer != self.me {
                    self.out.list.push(Effect::Revoke { peer, attempt });
                }
                self.out.list.push(Effect::Discard { attempt });
            }
            // Negotiation is routed by the caller.
            Provide::Quote { .. }
            | Provide::Refuse { .. }
            | Provide::Propose { .. }
            | Provide::Persist { .. }
            | Provide::Send { .. } => {}
        }
    }

    fn give_quote(
        &mut self,
        to: NodeId,
        request: [u8; 16],
        spec: &TaskSpec,
        valid_until_ms: u64,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        if to == self.me {
            // A node asks itself no price.
            let offer = Offer {
                provider: to,
                request,
                spec: spec.digest(),
                estimate: catalog::Amount::ZERO,
                currency: self.ledger.plan().currency,
                valid_until_ms,
            };
            return self.coordinator.handle_offer(offer, now_ms);
        }
        let (plan, random) = (self.plan_for(to), (random(rng), random(rng)));
        let quote = self.ledger.quote(to, request, spec, (valid_until_ms, plan), random);
        self.send(to, &NodeMessage::Task(Message::Quote { request, quote }));
    }

    fn say_no(&mut self, to: NodeId, request: [u8; 16], no: No, now_ms: u64) {
        let (code, retry_after_ms) = match no {
            No::Full { retry_after_ms } => (RefusalCode::Full, Some(retry_after_ms)),
            No::TooBig | No::Unsupported => (RefusalCode::Unsupported, None),
        };
        if to == self.me {
            let until_ms = now_ms + retry_after_ms.unwrap_or(REFUSED_MS);
            match no {
                No::Full { .. } => self.coordinator.handle_no(request, to, until_ms, now_ms),
                No::TooBig | No::Unsupported => {
                    let why = Rejection::RefusedAsUnfit;
                    self.coordinator.handle_barred(request, to, why, (until_ms, now_ms));
                }
            }
        } else {
            self.refuse(to, request, code, retry_after_ms);
        }
    }

    fn propose(
        &mut self,
        consumer: NodeId,
        request: [u8; 16],
        attempt: AttemptId,
        spec: &TaskSpec,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        if consumer == self.me {
            let org = self.admission.org();
            let proposal =
                Proposal { provider: consumer, org, attempt, spec: spec.digest(), lane: None };
            if self.coordinator.check_agreement(&proposal, now_ms) {
                self.provider.handle_agreed(attempt, now_ms);
            } else {
                self.provider.handle_disagreed(attempt);
            }
            return;
        }
        // The rules may have changed since the quote.
        if self.objects_to_work(consumer, spec, now_ms).is_some() {
            return self.provider.handle_disagreed(attempt);
        }
        let certs = self
            .admission
            .peer(consumer)
            .map(|peer| (self.admission.cert_bytes().to_vec(), peer.cert_bytes.clone()));
        let is_proposed = certs.is_some_and(|certs| {
            self.ledger.propose(consumer, request, (attempt, spec), certs, now_ms, random(rng))
        });
        if !is_proposed {
            self.provider.handle_disagreed(attempt);
        }
    }

    /// True when there was something to route.
    pub(super) fn route_ledger(&mut self, now_ms: u64) -> bool {
        let (mut batch, actions) = self.ledger.drain();
        let is_busy = !actions.is_empty() || !batch.is_empty();
        self.out.batch.ops.append(&mut batch.ops);
        for action in actions {
            match action {
                Bill::Send { to, message } => self.send(to, &NodeMessage::Ledger(message)),
                Bill::Fence { to, message } => self.send(to, &NodeMessage::Fence(message)),
                Bill::Proposed { channel, provider, lane, terms } => {
                    let attempt = attempt_of(&terms.work);
                    let org = self.admission.peer(provider).map(|p| p.cert.org);
                    let is_wanted = org.is_some_and(|org| {
                        let (lane, spec) = (Some(lane), terms.spec);
                        let asked = self.coordinator.spec(attempt);
                        let proposal = Proposal { provider, org, attempt, spec, lane };
                        let step = "agreed on";
                        let keeps = |spec: &TaskSpec| {
                            let work = Work::of(attempt.run, step, spec);
                            self.still_allows(&work, provider, now_ms)
                        };
                        asked.is_some_and(|asked| is_as_asked(&terms, asked) && keeps(asked))
                            && self.coordinator.check_agreement(&proposal, now_ms)
                    });
                    self.ledger.answer(channel, lane, is_wanted);
                }
                Bill::Agreed { attempt } => {
                    if !self.provider.handle_agreed(attempt, now_ms) {
                        self.ledger.settle(
                            attempt,
                            scheduler::provider::LaneEnd::ProviderFault,
                            now_ms,
                        );
                    }
                }
                Bill::Disagreed { attempt } => self.provider.handle_disagreed(attempt),
                Bill::Unpaid { attempt } => {
                    self.provider.stop(attempt, scheduler::task::FailureClass::Cancelled);
                }
                Bill::Spent { attempt } => {
                    self.provider.stop(attempt, scheduler::task::FailureClass::Spent);
                }
                Bill::Offence { peer, fault, detail } => self.blame(peer, fault, detail),
                Bill::Notice { detail } => {
                    let detail = format!("the ledger: {detail}");
                    self.out.list.push(Effect::Notice { detail });
                }
            }
        }
        is_busy | self.ledger.acknowledge_due(now_ms)
    }

    /// Passes on what a task of this node wrote to whoever runs it.
    pub(super) fn pass_log(
        &mut self,
        attempt: AttemptId,
        stream: Stream,
        offset: u64,
        bytes: Vec<u8>,
    ) {
        if let Some(to) = self.provider.record(attempt).map(|r| r.consumer) {
            self.tell(to, Message::Log { attempt, stream, offset, bytes });
        }
    }
}

/// What a task is taken to use: a core and a GiB for a while, or all that a service's replica asks for, for an hour; and what is
/// set aside for it, for as long.
fn expected(spec: Option<&TaskSpec>) -> Counters {
    let needs = spec.map(|spec| spec.needs.clone()).unwrap_or_default();
    let devices = device::total(&needs.devices);
    let (ms, cpu_milli, memory_bytes) = match spec {
        Some(spec) if spec.service.is_some() => {
            (SERVICE_ESTIMATE_MS, spec.needs.cpu_milli, spec.needs.memory_bytes)
        }
        _ => (ESTIMATE_MS, 1_000, 1 << 30),
    };
    Counters::default()
        .with(Dimension::Cpu, ms.saturating_mul(cpu_milli))
        .with(Dimension::Mem, (ms / 1_000).saturating_mul(memory_bytes >> 10))
        .with(Dimension::VcpuAlloc, ms.saturating_mul(needs.cpu_milli))
        .with(Dimension::Storage, (ms / 1_000).saturating_mul(needs.disk_bytes >> 10))
        .with(Dimension::Gpu, ms.saturating_mul(1_000).saturating_mul(devices))
}

fn attempt_key(attempt: AttemptId) -> Vec<u8> {
    let mut key = attempt.run.as_bytes().to_vec();
    key.extend_from_slice(&attempt.task.step.to_be_bytes());
    key.extend_from_slice(&attempt.task.index.to_be_bytes());
    key.extend_from_slice(&attempt.number.to_be_bytes());
    key
}

pub(super) fn inputs_of(spec: &TaskSpec) -> Vec<Blob> {
    let file = |file: &scheduler::value::FileRef| Blob {
        digest: file.digest,
        is_dir: false,
        size: file.size,
    };
    let dir =
        |dir: &scheduler::value::DirRef| Blob { digest: dir.digest, is_dir: true, size: dir.size };
    let stage = |stage: &Stage| match stage {
        Stage::File(found) => file(found),
        Stage::Dir(found) => dir(found),
    };
    let mut blobs: Vec<Blob> = spec.program.parts().iter().map(stage).collect();
    blobs.extend(spec.stdin.iter().map(file));
    blobs.extend(spec.inputs.values().map(stage));
    blobs.extend(spec.mounts.values().map(dir));
    blobs.sort_unstable();
    blobs.dedup();
    blobs
}

pub(super) fn files_of(value: &Value, blobs: &mut Vec<Blob>) {
    match value {
        Value::File(file) => {
            blobs.push(Blob { digest: file.digest, is_dir: false, size: file.size })
        }
        Value::Dir(dir) => blobs.push(Blob { digest: dir.digest, is_dir: true, size: dir.size }),
        Value::List(items) => items.iter().for_each(|item| files_of(item, blobs)),
        Value::Map(map) => map.values().for_each(|item| files_of(item, blobs)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}
