//! Answers to the owner's commands.

use std::collections::{BTreeMap, BTreeSet};

use accounting::Dimension;
use accounting::bundle;
use accounting::entry::Side;
use accounting::lane::LaneState;
use catalog::filter::Filter;
use catalog::record::{AREA_KEY_PREFIX, Detail, DiskName, Resource};
use catalog::{Amount, Currency, Digest, NodeId};
use rand_core::Rng;
use scheduler::run::{Run, StepStatus, Task, TaskStatus};
use scheduler::task::{RunId, TaskId};

use super::command::{
    CANDIDATES_MAX, ChannelView, Command, CommandError, CostView, LaneView, ResourceView, Response,
    RunSummary, RunView, StatusView, StepView, TaskView,
};
use super::copies::is_record_key;
use super::directory::OwnResource;
use super::images::Command as ImageCommand;
use super::images::name::ImageName;
use super::images::offer::{self, Offer};
use super::ledger::attempt_of;
use super::people::check_submitter;
use super::services::is_replica;
use super::{CommandId, Effect, Engine, random};

/// Most resources in one answer: those of the longest page, and one that tells of another page.
const CATALOG_MAX: usize = 10_001;
/// Most tasks listed of one run.
pub(super) const TASKS_MAX: usize = 100_000;

impl Engine {
    pub(super) fn handle_command(
        &mut self,
        id: CommandId,
        command: Command,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let Some(command) = self.ask_first(id, command, now_ms, rng) else { return };
        let result = match command {
            Command::Submit { submission, .. } | Command::Plan { submission, .. }
                if submission.replica.is_some() =>
            {
                let detail = "`replica` is for this node to say: deploy a service instead";
                Err(CommandError::Submission { detail: detail.to_owned() })
            }
            Command::Submit { submission, by } => {
                self.submit(RunId::from_bytes(random(rng)), *submission, by, now_ms)
            }
            Command::Cancel { run } => self.cancel(run, now_ms),
            Command::Runs => Ok(Response::Runs(self.run_list())),
            Command::Run { run } => {
                self.with_run(run, |run| Response::Run(Box::new(self.run_view(run))))
            }
            Command::Explain { run } => {
                self.with_run(run, |run| Response::Explanation(self.explain(run)))
            }
            Command::Plan { submission: of, estimate_ms } => {
                self.plan_steps(*of, estimate_ms, now_ms)
            }
            Command::Status => Ok(Response::Status(Box::new(self.status(now_ms)))),
            Command::Figures => Ok(Response::Figures(Box::new(self.figures(now_ms)))),
            Command::Peers => Ok(Response::Peers(self.peer_list(now_ms))),
            Command::Catalog { filter, limit, after, .. } => {
                self.search(&filter, (limit, after), now_ms)
            }
            Command::Resource { id } => self.resource(&id, now_ms),
            Command::Publish { resource, visibility } => {
                self.publish_own(OwnResource { resource: *resource, visibility }, now_ms)
            }
            Command::Withdraw { key } => self.withdraw_own(key, now_ms),
            Command::Variant(command) => self.handle_variant_command(command, now_ms),
            Command::Invite { valid_ms, is_asking } => {
                Ok(self.invite((valid_ms, is_asking), random(rng), now_ms))
            }
            Command::Join { ticket } => {
                let Err(error) = self.join(id, ticket, now_ms) else { return };
                Err(error)
            }
            Command::Locate { digest } => Ok(self.locate(digest, now_ms)),
            Command::Publishers { digest } => {
                Ok(Response::Located(self.publishers(digest, now_ms).into_iter().collect()))
            }
            Command::PublicContents { among } => {
                Ok(Response::Contents(self.public_contents(among.as_ref(), now_ms)))
            }
            Command::FindImage { name } => self.find_image(&name, now_ms),
            Command::Ledger => Ok(self.balances()),
            Command::LedgerExport => Ok(self.export_ledger(now_ms)),
            Command::Image(command) => self.handle_image_command(command, now_ms),
            Command::Disk(command) => self.handle_disk_command(command, now_ms),
            Command::Data(command) => self.handle_data_command(command),
            Command::Workspace(command) => self.handle_workspace_command(command, now_ms),
            Command::Area(command) => self.handle_area_command(command, random(rng), now_ms),
            Command::Copies(command) => self.handle_copies_command(command, now_ms),
            Command::Port(command) => self.handle_port_command(command),
            Command::Service(command) => self.handle_service_command(command, None, now_ms),
            Command::Session(command) => self.handle_session_command(command, now_ms),
            Command::Steer(command) => self.handle_steer_command(command, now_ms),
            Command::Trust(command) => self.handle_trust_command(command, now_ms),
            Command::Policy(command) => self.handle_policy_command(command, now_ms),
            Command::Quota(command) => self.handle_quota_command(command, now_ms),
            Command::By { by, command } => return self.handle_by(id, (&by, *command), now_ms, rng),
            Command::Realms(command) => {
                return self.handle_realms_command(id, command, now_ms, rng);
            }
        };
        self.out.list.push(Effect::Reply { id, result });
    }

    fn submit(
        &mut self,
        run: RunId,
        mut submission: scheduler::run::Submission,
        by: Option<Box<scheduler::run::Submitter>>,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        if let Some(by) = &by {
            check_submitter(by)?;
            self.check_work(by, 1, now_ms)?;
        }
        self.resolve_area(&mut submission)?;
        let submitted = self.coordinator.submit(run, submission, by, now_ms);
        submitted
            .map(|()| Response::Submitted(run))
            .map_err(|e| CommandError::Submission { detail: e.to_string() })
    }

    fn handle_image_command(
        &mut self,
        command: ImageCommand,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = self.images.handle(command, now_ms, &mut self.out.batch);
        answer.map(Response::Image).map_err(CommandError::Image)
    }

    fn withdraw_own(&mut self, key: String, now_ms: u64) -> Result<Response, CommandError> {
        match self.withdraw(&key, now_ms) {
            Ok(true) => Ok(Response::Done),
            Ok(false) => Err(CommandError::NotOwn { key }),
            Err(detail) => Err(CommandError::Publish { detail }),
        }
    }

    fn balances(&self) -> Response {
        Response::Ledger(self.ledger.channels().map(|c| self.channel_view(c)).collect())
    }

    fn export_ledger(&self, now_ms: u64) -> Response {
        let channels: Vec<&accounting::channel::Channel> = self.ledger.channels().collect();
        let manifest = bundle::Manifest { exported_ms: now_ms, by: self.me };
        Response::Bundle(bundle::export(manifest, &channels))
    }

    /// Whether the owner may publish this: what follows from something else is published with that.
    pub(super) fn check_own(&self, resource: &Resource) -> Result<(), CommandError> {
        let key = &resource.key;
        if self.service_of_record(key).is_some() {
            let detail = format!("the key `{key}` is that of a service which runs from here");
            return Err(CommandError::Publish { detail });
        }
        if matches!(resource.detail, Detail::Revocations(_)) || key == super::trust::LIST_KEY {
            let detail =
                "a revocation list is published by installing it: `opencloud org install FILE`";
            return Err(CommandError::Publish { detail: detail.to_owned() });
        }
        if matches!(resource.detail, Detail::Area(_)) || key.starts_with(AREA_KEY_PREFIX) {
            let detail = "what is said of an area follows from orders: see `opencloud area --help`";
            return Err(CommandError::Publish { detail: detail.to_owned() });
        }
        if is_record_key(key) {
            let detail =
                format!("the key `{key}` is that of a copy which is kept for another node");
            return Err(CommandError::Publish { detail });
        }
        // Their records follow from the images; one without an image would lead nowhere.
        let is_disk = matches!(resource.detail, Detail::Disk(_));
        if is_disk || key.starts_with(DiskName::KEY_PREFIX) {
            let detail =
                "disk images are published where they are kept: add one, or change who may see it";
            return Err(CommandError::Publish { detail: detail.to_owned() });
        }
        Ok(())
    }

    fn publish_own(&mut self, own: OwnResource, now_ms: u64) -> Result<Response, CommandError> {
        self.check_own(&own.resource)?;
        let published = self.publish(own, now_ms).map(|()| Response::Done);
        published.map_err(|detail| CommandError::Publish { detail })
    }

    fn locate(&self, digest: Digest, now_ms: u64) -> Response {
        let mut holders = self.holders(&BTreeSet::from([digest]), now_ms);
        let mut nodes = holders.remove(&digest).unwrap_or_default();
        // Copies of what is private stand in no catalogue.
        let keepers = self.keepers_of(&digest).into_iter().filter(|node| !nodes.contains(node));
        nodes.extend(keepers.collect::<Vec<_>>());
        Response::Located(nodes)
    }

    /// The image of others that a name means, and who has it.
    fn find_image(&self, name: &ImageName, now_ms: u64) -> Result<Response, CommandError> {
        let others = self.known(now_ms).filter(|entry| entry.author != self.me);
        let found = offer::choose(name, others.filter_map(|entry| Offer::of(&entry)))?;
        let mut holders = self.holders(&BTreeSet::from([found.digest]), now_ms);
        let nodes = holders.remove(&found.digest).unwrap_or_default();
        Ok(Response::FoundImage { digest: found.digest, size: found.size, nodes })
    }

    fn invite(&mut self, terms: (u64, bool), secret: [u8; 16], now_ms: u64) -> Response {
        let addresses = self.addresses.iter().take(8).cloned().collect();
        Response::Ticket(self.admission.invite(addresses, terms, secret, now_ms))
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
        if let Some(service) = self.service_of_run(run) {
            return Err(CommandError::Replica { run, service });
        }
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
        let runs = self.coordinator.runs().filter(|run| !is_replica(run));
        let mut runs: Vec<RunSummary> = runs.map(summary).collect();
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
            costs: self.costs(|id| id == run.id()),
        }
    }

    /// What the attempts of some runs elsewhere have cost, by currency.
    pub(super) fn costs(&self, is_meant: impl Fn(RunId) -> bool) -> Vec<CostView> {
        let mut costs: BTreeMap<Currency, (Amount, Amount)> = BTreeMap::new();
        for channel in self.ledger.channels().filter(|channel| channel.side() == Side::Consumer) {
            let lanes = channel.lanes();
            for (_, lane) in lanes.filter(|(_, lane)| is_meant(attempt_of(lane.work()).run)) {
                let sum = costs.entry(channel.currency()).or_default();
                // A run whose bill exceeds what an amount can hold shows the largest there is.
                sum.0 = sum.0.checked_add(lane.claimed).unwrap_or(Amount::MAX);
                sum.1 = sum.1.checked_add(lane.earned).unwrap_or(Amount::MAX);
            }
        }
        costs
            .into_iter()
            .map(|(currency, (claimed, earned))| CostView { currency, claimed, earned })
            .collect()
    }

    fn task_views(&self, run: &Run, id: TaskId, task: &Task) -> Vec<TaskView> {
        let step = run.step_id(id.step).to_owned();
        let program = self.coordinator.preparing(run.id(), id);
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
                    (None, None) if program.is_some() => "compiling".to_owned(),
                    (None, None) if run.is_suspended(id) => "suspended".to_owned(),
                    (None, None) => "running".to_owned(),
                },
                started_ms: Some(a.started_ms),
                ended_ms: a.failure.as_ref().map(|(at, _)| *at).or(a.committed_ms),
                detail: match &a.failure {
                    Some((_, failure)) => Some(failure.detail.clone()),
                    None if a.committed_ms.is_none() => program.map(compiling),
                    None => None,
                },
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

    pub(super) fn org_name(&self, node: NodeId) -> Option<String> {
        // What was written under a former key is of the node that it was.
        let node = self.admission.heirs().latest(node);
        if node == self.me || self.settings.former.iter().any(|former| former.node == node) {
            return Some(self.settings.org_name.clone());
        }
        let known = self.admission.peer(node).map(|p| p.cert.org_name.clone());
        known.or_else(|| self.catalog.node_cert(node).map(|c| c.org_name.clone()))
    }

    pub(super) fn node_label(&self, node: NodeId) -> String {
        match self.org_name(node) {
            Some(org) => format!("{org} ({})", node.short()),
            None => node.short(),
        }
    }

    pub(super) fn node_labels(&self) -> BTreeMap<NodeId, String> {
        let others = self.admission.peers().map(|(id, _)| *id);
        std::iter::once(self.me).chain(others).map(|id| (id, self.node_label(id))).collect()
    }

    fn status(&self, now_ms: u64) -> StatusView {
        let (free, total) = (self.provider.capacity().free(), self.provider.capacity().total());
        StatusView {
            id: self.me,
            name: self.settings.node_name.clone(),
            org: self.admission.org(),
            org_name: self.settings.org_name.clone(),
            papers: self.papers_view(now_ms),
            realm: self.admission.realm(),
            addresses: self.addresses.clone(),
            peers: self.connected.iter().filter(|p| self.admission.peer(**p).is_some()).count()
                as u64,
            resources: self.catalog.resources(now_ms).count() as u64,
            light: self.settings.light.map(|_| self.catalog.kept().to_string()),
            active_runs: self
                .coordinator
                .runs()
                .filter(|run| run.ending().is_none() && !is_replica(run))
                .count() as u64,
            active_attempts: self.provider.active().count() as u64,
            cpu_free_milli: free.cpu_milli,
            cpu_total_milli: total.cpu_milli,
            memory_free_bytes: free.memory_bytes,
            memory_total_bytes: total.memory_bytes,
            disk_free_bytes: free.disk_bytes,
            disk_total_bytes: total.disk_bytes,
            price: self
                .catalog
                .resources(now_ms)
                .find(|e| e.author == self.me && matches!(e.resource.detail, Detail::Compute(_)))
                .and_then(|e| e.resource.price.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn search(
        &self,
        filter: &str,
        (limit, after): (usize, Option<String>),
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let limit = limit.min(CATALOG_MAX);
        let mut known = self.known(now_ms);
        // What others follow need not be selected itself.
        if let Some(after) = after
            && !known.any(|entry| id_of(&entry) == after)
        {
            return Err(CommandError::CursorGone { after });
        }
        let found = if filter.trim().is_empty() {
            known.take(limit).map(|e| resource_view(&e)).collect()
        } else {
            let filter = Filter::parse(filter)
                .map_err(|e| CommandError::Filter { detail: e.to_string() })?;
            let found = known.filter(|entry| filter.matches(entry)).take(limit);
            found.map(|e| resource_view(&e)).collect()
        };
        Ok(Response::Catalog(found))
    }

    /// The resource that an id, key or digest names, of several with one key the own one, or the only one that the beginning of
    /// one of them fits.
    fn resource(&self, id: &str, now_ms: u64) -> Result<Response, CommandError> {
        let fitting = |fits: &dyn Fn(&ResourceView) -> bool| -> Vec<ResourceView> {
            self.known(now_ms).map(|e| resource_view(&e)).filter(fits).collect()
        };
        let mut found = fitting(&|view| view.id == id || view.resource.key == id);
        if found.is_empty() {
            found = fitting(&|view| begins_with(view, id));
        } else if found.iter().any(|view| view.author == self.me) {
            found.retain(|view| view.author == self.me);
        }
        let candidates = found.iter().take(CANDIDATES_MAX).map(|view| view.id.clone()).collect();
        match <[ResourceView; 1]>::try_from(found) {
            // A text that says nothing chooses nothing, however little there is.
            Ok([view]) if !id.is_empty() => Ok(Response::Resource(Box::new(view))),
            Ok([_]) => Err(CommandError::Ambiguous { id: String::new(), count: 1, candidates }),
            Err(found) if found.is_empty() => Err(CommandError::NoResource { id: id.to_owned() }),
            Err(found) => {
                let count = found.len();
                Err(CommandError::Ambiguous { id: id.to_owned(), count, candidates })
            }
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
        let costs = |lane: &accounting::lane::Lane| -> BTreeMap<String, Amount> {
            let rows = channel.plan_of(lane).into_iter();
            let rows = rows.flat_map(|plan| accounting::rate::rate_rows(plan, &lane.counters));
            rows.filter(|(_, amount)| *amount > Amount::ZERO)
                .map(|(dimension, amount)| (dimension.as_str().to_owned(), amount))
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
                costs: costs(lane),
                agreed_ms: match lane.answer {
                    Some(accounting::lane::Answer::Agreed { wall_ms, .. }) => Some(wall_ms),
                    _ => None,
                },
            })
            .collect();
        let (state, reason) = self.ledger.state_of(channel);
        ChannelView {
            channel: Digest::from_bytes(*channel.id()),
            provider: channel.provider(),
            provider_org: self.org_name(channel.provider()),
            consumer: channel.consumer(),
            consumer_org: self.org_name(channel.consumer()),
            side: if channel.side() == Side::Provider { "provider" } else { "consumer" }.to_owned(),
            state: state.as_str().to_owned(),
            reason,
            currency: channel.currency(),
            claimed: channel.claimed(),
            earned: channel.earned(),
            lanes,
        }
    }
}

/// Whether the text is the beginning of the resource's id, key or digest, or `AUTHOR/KEY` with the end of the author's id, as
/// tables show it, and the beginning of the key.
fn begins_with(view: &ResourceView, text: &str) -> bool {
    let digest = match &view.resource.detail {
        Detail::Data(data) => Some(data.digest),
        Detail::Algorithm(algorithm) => Some(algorithm.digest),
        Detail::Workflow(workflow) => Some(workflow.digest),
        Detail::Disk(disk) => Some(disk.digest),
        Detail::Compute(_)
        | Detail::Storage(_)
        | Detail::Service(_)
        | Detail::Revocations(_)
        | Detail::Area(_) => None,
    };
    let is_author_and_key = |(author, key): (&str, &str)| {
        !author.is_empty()
            && view.author.to_string().ends_with(author)
            && view.resource.key.starts_with(key)
    };
    view.id.starts_with(text)
        || view.resource.key.starts_with(text)
        || digest.is_some_and(|digest| digest.to_string().starts_with(text))
        || text.split_once('/').is_some_and(is_author_and_key)
}

/// What to say of a task whose node makes its program ready.
pub(super) fn compiling(program: &str) -> String {
    format!("compiling {program}, once per node")
}

fn id_of(entry: &catalog::Entry<'_>) -> String {
    format!("{}/{}", entry.author, entry.key)
}

fn resource_view(entry: &catalog::Entry<'_>) -> ResourceView {
    ResourceView {
        id: id_of(entry),
        author: entry.author,
        org: entry.org,
        org_name: entry.org_name.to_owned(),
        node_name: entry.node_name.to_owned(),
        resource: entry.resource.clone(),
    }
}

pub(super) fn tasks_of(run: &Run) -> impl Iterator<Item = (TaskId, &Task)> {
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
        by: run.by().map(|by| by.name.clone()),
        area: run.submission().area_id().map(|id| id.to_hex()),
        state: run.state().to_owned(),
        committed: count(&|s| match s {
            StepStatus::Open { done, .. } => u64::from(*done),
            StepStatus::Waiting | StepStatus::Skipped => 0,
        }),
        total: count(&|s| match s {
            StepStatus::Open { tasks, .. } => tasks.len() as u64,
            StepStatus::Waiting | StepStatus::Skipped => 0,
        }),
        submitted_ms: run.submitted_ms(),
        ended_ms: run.ending().map(|(at, _, _)| *at),
    }
}
