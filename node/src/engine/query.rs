//! Answers to the owner's commands.

use std::collections::BTreeMap;

use accounting::Dimension;
use accounting::bundle;
use accounting::lane::LaneState;
use catalog::NodeId;
use catalog::filter::Filter;
use catalog::record::Detail;
use rand_core::Rng;
use scheduler::place::{Request, plan};
use scheduler::run::{EventBody, Run, StepStatus, Submission, Task, TaskStatus};
use scheduler::task::{RunId, RuntimeKind, TaskId};

use super::command::{
    ChannelView, Command, CommandError, LaneView, PeerView, ResourceView, Response, RunSummary,
    RunView, StatusView, StepPlan, StepView, TaskExplanation, TaskView,
};
use super::ledger::attempt_of;
use super::{CommandId, Effect, Engine, random};

/// Most resources in one answer.
const CATALOG_MAX: usize = 10_000;
/// Most tasks listed of one run.
const TASKS_MAX: usize = 100_000;

impl Engine {
    pub(super) fn handle_command(
        &mut self,
        id: CommandId,
        command: Command,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let result = match command {
            Command::Submit { submission } => {
                let run = RunId::from_bytes(random(rng));
                self.coordinator
                    .submit(run, *submission, now_ms)
                    .map(|()| Response::Submitted(run))
                    .map_err(|e| CommandError::Submission { detail: e.to_string() })
            }
            Command::Cancel { run } => self.cancel(run, now_ms),
            Command::Runs => Ok(Response::Runs(self.run_list())),
            Command::Run { run } => {
                self.with_run(run, |run| Response::Run(Box::new(self.run_view(run))))
            }
            Command::Explain { run } => {
                self.with_run(run, |run| Response::Explanation(self.explain(run)))
            }
            Command::Plan { submission } => self.plan_steps(*submission, now_ms),
            Command::Status => Ok(Response::Status(Box::new(self.status(now_ms)))),
            Command::Peers => Ok(Response::Peers(self.peer_list())),
            Command::Catalog { filter, limit } => self.search(&filter, limit, now_ms),
            Command::Resource { id } => self.resource(&id, now_ms),
            Command::Publish { resource } => self
                .publish(*resource, now_ms)
                .map(|()| Response::Done)
                .map_err(|detail| CommandError::Publish { detail }),
            Command::Invite { valid_ms } => {
                let addresses = self.addresses.iter().take(8).cloned().collect();
                Ok(Response::Ticket(self.admission.invite(
                    addresses,
                    valid_ms,
                    random(rng),
                    now_ms,
                )))
            }
            Command::Join { ticket } => match self.join(id, ticket, now_ms) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Command::Locate { digest } => {
                let has = |e: &catalog::Entry<'_>| {
                    e.author != self.me
                        && matches!(&e.resource.detail, Detail::Data(data) if data.digest == digest)
                };
                let nodes = self.catalog.resources(now_ms).filter(has).map(|e| e.author).collect();
                Ok(Response::Located(nodes))
            }
            Command::Ledger => {
                Ok(Response::Ledger(self.ledger.channels().map(|c| self.channel_view(c)).collect()))
            }
            Command::LedgerExport => {
                let channels: Vec<&accounting::channel::Channel> = self.ledger.channels().collect();
                let manifest = bundle::Manifest { exported_ms: now_ms, by: self.me };
                Ok(Response::Bundle(bundle::export(manifest, &channels)))
            }
        };
        self.out.list.push(Effect::Reply { id, result });
    }

    fn join(
        &mut self,
        id: CommandId,
        ticket: catalog::cert::Ticket,
        now_ms: u64,
    ) -> Result<(), CommandError> {
        if self.joining.is_some() {
            return Err(CommandError::JoinBusy);
        }
        self.admission.check_ticket(&ticket, now_ms)?;
        let hello = self.admission.hello(Some(ticket.secret)).encode();
        let (peer, addresses) = (ticket.node, ticket.addresses.clone());
        self.joining = Some((id, ticket));
        self.out.list.push(Effect::Connect { peer, addresses, hello: Some(hello) });
        Ok(())
    }

    fn cancel(&mut self, run: RunId, now_ms: u64) -> Result<Response, CommandError> {
        let state = self.coordinator.run(run).map(Run::state).ok_or(CommandError::NoRun { run })?;
        if self.coordinator.cancel(run, now_ms) {
            Ok(Response::Done)
        } else {
            Err(CommandError::Ended { run, state })
        }
    }

    fn with_run(
        &self,
        id: RunId,
        view: impl FnOnce(&Run) -> Response,
    ) -> Result<Response, CommandError> {
        self.coordinator.run(id).map(view).ok_or(CommandError::NoRun { run: id })
    }

    fn run_list(&self) -> Vec<RunSummary> {
        let mut runs: Vec<RunSummary> = self.coordinator.runs().map(summary).collect();
        runs.sort_by(|a, b| b.submitted_ms.cmp(&a.submitted_ms).then(a.id.cmp(&b.id)));
        runs
    }

    fn run_view(&self, run: &Run) -> RunView {
        let steps = run
            .steps()
            .iter()
            .zip(&run.workflow().steps)
            .map(|(status, step)| step_view(&step.id, status))
            .collect();
        let tasks = tasks_of(run)
            .take(TASKS_MAX)
            .flat_map(|(id, task)| self.task_views(run, id, task))
            .collect();
        RunView {
            summary: summary(run),
            detail: run.trouble().map(|(_, detail)| detail.clone()),
            steps,
            tasks,
            outputs: run.ending().map(|(_, _, outputs)| outputs.clone()).unwrap_or_default(),
        }
    }

    fn task_views(&self, run: &Run, id: TaskId, task: &Task) -> Vec<TaskView> {
        let step = run.step_id(id.step).to_owned();
        let mut views: Vec<TaskView> = task
            .attempts
            .iter()
            .map(|a| TaskView {
                step: step.clone(),
                index: id.index,
                attempt: a.number,
                org: Some(a.org),
                org_name: self.org_name(a.node),
                node: Some(a.node),
                state: match (&a.failure, a.committed_ms) {
                    (Some((_, failure)), _) => failure.class.as_str().to_owned(),
                    (None, Some(_)) => "committed".to_owned(),
                    (None, None) => "running".to_owned(),
                },
                started_ms: Some(a.started_ms),
                ended_ms: a.failure.as_ref().map(|(at, _)| *at).or(a.committed_ms),
                detail: a.failure.as_ref().map(|(_, failure)| failure.detail.clone()),
            })
            .collect();
        if matches!(task.status, TaskStatus::Pending { .. }) {
            let is_asking = !self.coordinator.negotiating_with(run.id(), id).is_empty();
            views.push(TaskView {
                step,
                index: id.index,
                attempt: 0,
                org: None,
                org_name: None,
                node: None,
                state: if is_asking { "negotiating" } else { "pending" }.to_owned(),
                started_ms: None,
                ended_ms: None,
                detail: None,
            });
        }
        views
    }

    fn org_name(&self, node: NodeId) -> Option<String> {
        if node == self.me {
            return Some(self.settings.org_name.clone());
        }
        let known = self.admission.peer(node).map(|p| p.cert.org_name.clone());
        known.or_else(|| self.catalog.node_cert(node).map(|c| c.org_name.clone()))
    }

    fn node_label(&self, node: NodeId) -> String {
        match self.org_name(node) {
            Some(org) => format!("{org} ({})", node.short()),
            None => node.short(),
        }
    }

    fn node_labels(&self) -> BTreeMap<NodeId, String> {
        let others = self.admission.peers().map(|(id, _)| *id);
        std::iter::once(self.me).chain(others).map(|id| (id, self.node_label(id))).collect()
    }

    fn explain(&self, run: &Run) -> Vec<TaskExplanation> {
        let mut explained = Vec::new();
        for (index, status) in (0..).zip(run.steps()) {
            if matches!(status, StepStatus::Waiting) {
                let step = &run.workflow().steps[index as usize];
                let waits =
                    step.deps.iter().map(|dep| run.step_id(*dep)).collect::<Vec<_>>().join(", ");
                explained.push(TaskExplanation {
                    step: step.id.clone(),
                    index: 0,
                    state: "waiting".to_owned(),
                    reasons: vec![format!("waits for {waits}")],
                });
            }
        }
        for (id, task) in tasks_of(run).take(TASKS_MAX) {
            let mut reasons: Vec<String> = task
                .attempts
                .iter()
                .map(|a| match &a.failure {
                    Some((_, f)) => format!(
                        "attempt {} at {}: {} ({})",
                        a.number,
                        self.node_label(a.node),
                        f.detail,
                        f.class.as_str()
                    ),
                    None => format!("attempt {} at {}", a.number, self.node_label(a.node)),
                })
                .collect();
            if task.attempts.is_empty() && self.coordinator.plan_of(run.id(), id).is_none() {
                reasons.push("waits until a node that could take it has room".to_owned());
            }
            if let Some(plan) = self.coordinator.plan_of(run.id(), id) {
                reasons.extend(plan.explain(&self.node_labels()));
            }
            let state = match &task.status {
                TaskStatus::Pending { .. } => "pending",
                TaskStatus::Running { .. } => "running",
                TaskStatus::Committed { .. } => "committed",
                TaskStatus::Failed { .. } => "failed",
                TaskStatus::Skipped => "skipped",
            };
            explained.push(TaskExplanation {
                step: run.step_id(id.step).to_owned(),
                index: id.index,
                state: state.to_owned(),
                reasons,
            });
        }
        explained
    }

    fn plan_steps(&self, submission: Submission, now_ms: u64) -> Result<Response, CommandError> {
        let strategy = submission.strategy;
        let binding_text = submission.binding.clone();
        let (mut run, _) = Run::submit(RunId::from_bytes([0; 16]), submission, now_ms)
            .map_err(|e| CommandError::Submission { detail: e.to_string() })?;
        // Steps without dependencies open now, so their width and inputs are known; what follows depends on results.
        while let Some(body @ (EventBody::StepOpened { .. } | EventBody::StepSkipped { .. })) =
            run.next()
        {
            run.apply(&scheduler::run::Event { at_ms: now_ms, body });
        }
        let binding = binding_text
            .and_then(|text| scheduler::binding::Binding::parse(&text, run.workflow()).ok());
        let candidates = self.candidates(now_ms);
        let names = self.node_labels();
        let steps = (0..)
            .zip(&run.workflow().steps)
            .map(|(index, step)| {
                let inputs = run
                    .materialise(TaskId { step: index, index: 0 })
                    .map(|made| made.spec.blobs())
                    .unwrap_or_default();
                let request = Request {
                    runtime: RuntimeKind::Wasi,
                    needs: step.needs.clone(),
                    inputs,
                    estimate_ms: 1_000,
                    strategy: strategy
                        .or_else(|| {
                            binding.as_ref().and_then(scheduler::binding::Binding::strategy)
                        })
                        .unwrap_or_default(),
                    rule: binding.as_ref().map(|b| b.rule(&step.id)).unwrap_or_default(),
                    exclude: std::collections::BTreeSet::new(),
                };
                let found = plan(&candidates, &request, now_ms);
                let tasks = match &run.steps()[index as usize] {
                    StepStatus::Open { tasks, .. } => Some(tasks.len() as u64),
                    StepStatus::Skipped => Some(0),
                    StepStatus::Waiting => step.map.is_none().then_some(1),
                };
                StepPlan {
                    step: step.id.clone(),
                    after: step.deps.iter().map(|dep| run.step_id(*dep).to_owned()).collect(),
                    tasks,
                    is_placeable: !found.ranked.is_empty(),
                    candidates: found.explain(&names),
                }
            })
            .collect();
        Ok(Response::Plan(steps))
    }

    fn status(&self, now_ms: u64) -> StatusView {
        let (free, total) = (self.provider.capacity().free(), self.provider.capacity().total());
        StatusView {
            id: self.me,
            name: self.settings.node_name.clone(),
            org: self.admission.org(),
            org_name: self.settings.org_name.clone(),
            realm: self.admission.realm(),
            addresses: self.addresses.clone(),
            peers: self.connected.iter().filter(|p| self.admission.peer(**p).is_some()).count()
                as u64,
            resources: self.catalog.resources(now_ms).count() as u64,
            active_runs: self.coordinator.runs().filter(|r| r.ending().is_none()).count() as u64,
            active_attempts: self.provider.active().count() as u64,
            cpu_free_milli: free.cpu_milli,
            cpu_total_milli: total.cpu_milli,
            memory_free_bytes: free.memory_bytes,
            memory_total_bytes: total.memory_bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn peer_list(&self) -> Vec<PeerView> {
        self.admission
            .peers()
            .map(|(id, peer)| PeerView {
                id: *id,
                name: peer.cert.name.clone(),
                org: peer.cert.org,
                org_name: peer.cert.org_name.clone(),
                trust: self.admission.trust(peer.cert.org).as_str().to_owned(),
                connected: self.connected.contains(id),
                addresses: self.directory.addresses(*id),
            })
            .collect()
    }

    fn search(&self, filter: &str, limit: usize, now_ms: u64) -> Result<Response, CommandError> {
        let limit = limit.min(CATALOG_MAX);
        let found = if filter.trim().is_empty() {
            self.catalog.resources(now_ms).take(limit).map(|e| resource_view(&e)).collect()
        } else {
            let filter = Filter::parse(filter)
                .map_err(|e| CommandError::Filter { detail: e.to_string() })?;
            self.catalog.search(&filter, now_ms, limit).iter().map(resource_view).collect()
        };
        Ok(Response::Catalog(found))
    }

    fn resource(&self, id: &str, now_ms: u64) -> Result<Response, CommandError> {
        let found: Vec<ResourceView> = self
            .catalog
            .resources(now_ms)
            .map(|e| resource_view(&e))
            .filter(|view| view.id == id || view.resource.key == id)
            .collect();
        match <[ResourceView; 1]>::try_from(found) {
            Ok([view]) => Ok(Response::Resource(Box::new(view))),
            Err(found) if found.is_empty() => Err(CommandError::NoResource { id: id.to_owned() }),
            Err(found) => Err(CommandError::Ambiguous { id: id.to_owned(), count: found.len() }),
        }
    }

    fn channel_view(&self, channel: &accounting::channel::Channel) -> ChannelView {
        let used = |lane: &accounting::lane::Lane| -> BTreeMap<String, u64> {
            Dimension::ALL
                .into_iter()
                .filter(|d| lane.counters.get(*d) > 0)
                .map(|d| (d.as_str().to_owned(), lane.counters.get(d)))
                .collect()
        };
        let lanes = channel
            .lanes()
            .map(|(number, lane)| LaneView {
                lane: number,
                attempt: attempt_of(lane.work()).to_string(),
                state: match lane.state() {
                    LaneState::Proposed => "proposed",
                    LaneState::Active => "active",
                    LaneState::Closed => "closed",
                    LaneState::Refused => "refused",
                    _ => "other",
                }
                .to_owned(),
                claimed: lane.claimed,
                earned: lane.earned,
                used: used(lane),
            })
            .collect();
        ChannelView {
            channel: catalog::Digest::from_bytes(*channel.id()),
            provider: channel.provider(),
            provider_org: self.org_name(channel.provider()),
            consumer: channel.consumer(),
            consumer_org: self.org_name(channel.consumer()),
            side: if channel.provider() == self.me { "provider" } else { "consumer" }.to_owned(),
            currency: channel.currency(),
            claimed: channel.claimed(),
            earned: channel.earned(),
            lanes,
        }
    }
}

fn resource_view(entry: &catalog::Entry<'_>) -> ResourceView {
    ResourceView {
        id: format!("{}/{}", entry.author, entry.key),
        author: entry.author,
        org: entry.org,
        org_name: entry.org_name.to_owned(),
        node_name: entry.node_name.to_owned(),
        resource: entry.resource.clone(),
    }
}

fn tasks_of(run: &Run) -> impl Iterator<Item = (TaskId, &Task)> {
    (0..).zip(run.steps()).flat_map(|(step, status)| {
        let tasks = match status {
            StepStatus::Open { tasks, .. } => tasks.as_slice(),
            StepStatus::Waiting | StepStatus::Skipped => &[],
        };
        (0..).zip(tasks).map(move |(index, task)| (TaskId { step, index }, task))
    })
}

fn step_view(id: &str, status: &StepStatus) -> StepView {
    let (state, committed, tasks) = match status {
        StepStatus::Waiting => ("waiting", 0, 0),
        StepStatus::Skipped => ("skipped", 0, 0),
        StepStatus::Open { tasks, done, .. } => {
            let n_tasks = tasks.len() as u64;
            let is_done = u64::from(*done) == n_tasks;
            (if is_done { "done" } else { "open" }, u64::from(*done), n_tasks)
        }
    };
    StepView { step: id.to_owned(), state: state.to_owned(), committed, tasks }
}

fn summary(run: &Run) -> RunSummary {
    let count = |f: &dyn Fn(&StepStatus) -> u64| run.steps().iter().map(f).sum();
    RunSummary {
        id: run.id(),
        workflow: run.workflow().name.clone(),
        state: run.state().to_owned(),
        committed: count(&|s| match s {
            StepStatus::Open { done, .. } => u64::from(*done),
            StepStatus::Waiting | StepStatus::Skipped => 0,
        }),
        tasks: count(&|s| match s {
            StepStatus::Open { tasks, .. } => tasks.len() as u64,
            StepStatus::Waiting | StepStatus::Skipped => 0,
        }),
        submitted_ms: run.submitted_ms(),
        ended_ms: run.ending().map(|(at, _, _)| *at),
    }
}
