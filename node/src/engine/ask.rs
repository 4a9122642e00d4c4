//! Questions to peers about records that this node does not hold, and answers to theirs. What is said and what a liar can do
//! stands in [`catalog::ask`]; here is whom to ask, how long to wait, and how much to answer.
//!
//! # States of a question
//!
//! ```text
//! asked of two peers ──► pages come in, each checked ──► both have said all, or the time is over ──► the command goes on
//!        ▲                        │ refused, at fault, gone
//!        └── of another peer ◄────┘
//! ```
//!
//! A command that needs to ask is parked, and runs when the answers are here, over what this node holds and what was told
//! together. Two are asked, of different organisations where there are, so that one that withholds hides nothing; where
//! only one peer is there its word must do. Nothing survives a restart: whoever asked has gone too.
//!
//! # Answers to others
//!
//! Admitted peers alone get any, and as many pages as a budget allows, each for itself and all together. Beyond it they are
//! told that this node is busy. What an organisation may see is what it would get in a comparison of catalogues.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catalog::ask::{Answer, Ask, AskMessage, Lent, Place, Progress, Question, RefuseAsk};
use catalog::filter::Filter;
use catalog::record::{Kind, Kinds};
use catalog::{Entry, NodeId, OrgId};
use rand_core::Rng;

use super::command::{Command, CommandError};
use super::disks;
use super::images::offer;
use super::message::NodeMessage;
use super::{CommandId, Effect, Engine};

/// How long answers are waited for; what came until then counts.
const ASK_MS: u64 = 10_000;
/// Peers asked the same, so that one that withholds does not decide.
const ASKED: usize = 2;
/// Peers tried for one question, those that refuse or vanish among them; then what is there must do.
const TRIES_MAX: usize = 6;
/// For how long a light node that keeps no offers of work counts with those it was told of; it asks again at half the time
/// while there are runs.
const PLACES_MS: u64 = 120_000;
/// Questions open at once; further commands are refused until one is answered.
const OPEN_MAX: usize = 32;
/// Pages taken of one peer for one question; then it counts as answered.
const PAGES_MAX: u32 = 128;
/// Pages that a peer gets at once, and how soon one more; then it is told that this node is busy.
const PEER_BUDGET: (u32, u64) = (128, 500);
/// The same for all peers together.
const ALL_BUDGET: (u32, u64) = (512, 100);

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is nobody to ask.
    #[error(
        "no peer with a full copy of the catalogue is connected, and this node does not hold it all: see `opencloud peers`"
    )]
    NoPeer,
    /// Nobody answered.
    #[error("none of the {asked} peers asked has answered: {detail}; try again")]
    NoAnswer {
        /// How many were asked.
        asked: usize,
        /// What the last of them said, or that it said nothing.
        detail: String,
    },
    /// Too many questions are open.
    #[error("{OPEN_MAX} questions to peers are open already: wait for an answer")]
    Busy,
}

/// What waits for what peers tell.
#[derive(Debug)]
enum Parked {
    /// A command.
    Command(CommandId, Box<Command>),
    /// Runs that look for places to work: these are told of for a while.
    Places,
}

/// How far one peer is.
#[derive(Debug)]
enum Side {
    /// Its page behind this place is awaited.
    Awaited { after: Option<Place>, pages: u32 },
    /// It has said what it has.
    Answered,
    /// It will say nothing more.
    Failed,
}

#[derive(Debug)]
struct Open {
    parked: Parked,
    lent: Lent,
    sides: BTreeMap<NodeId, Side>,
    /// To ask when one of them fails, next first.
    others: VecDeque<NodeId>,
    until_ms: u64,
    /// What the last one that failed said.
    detail: String,
}

impl Open {
    fn answered(&self) -> usize {
        self.sides.values().filter(|side| matches!(side, Side::Answered)).count()
    }

    fn awaited(&self) -> usize {
        self.sides.values().filter(|side| matches!(side, Side::Awaited { .. })).count()
    }
}

/// So many pages at once, and one more in every so many milliseconds.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    since_ms: u64,
}

impl Budget {
    fn spend(&mut self, now_ms: u64, (max, every_ms): (u32, u64)) -> bool {
        let more = now_ms.saturating_sub(self.since_ms) / every_ms;
        self.since_ms = self.since_ms.saturating_add(more.saturating_mul(every_ms));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(max);
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// The open questions of this node, and what it still answers.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: BTreeMap<u64, Open>,
    next_id: u64,
    /// What was told for the command that runs at the moment.
    told: Option<Lent>,
    /// Where work can be done, as a light node was told that does not keep such records, and until when that counts.
    places: Option<(u64, Lent)>,
    /// When to ask for it again, while there are runs.
    places_at_ms: u64,
    /// Connected peers that do not hold everything.
    light: BTreeSet<NodeId>,
    budgets: BTreeMap<NodeId, Budget>,
    all: Option<Budget>,
}

impl Asks {
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.open.values().map(|open| open.until_ms).min()
    }

    /// Whether a peer is a light node, as it said.
    pub(super) fn is_light(&self, peer: NodeId) -> bool {
        self.light.contains(&peer)
    }

    pub(super) fn note_light(&mut self, peer: NodeId, is_light: bool) {
        if is_light {
            self.light.insert(peer);
        } else {
            self.light.remove(&peer);
        }
    }

    /// Whether a peer gets one more page.
    fn may_answer(&mut self, to: NodeId, now_ms: u64) -> bool {
        let full = |(left, _): (u32, u64)| Budget { left, since_ms: now_ms };
        let budget = self.budgets.entry(to).or_insert_with(|| full(PEER_BUDGET));
        let all = self.all.get_or_insert_with(|| full(ALL_BUDGET));
        budget.spend(now_ms, PEER_BUDGET) && all.spend(now_ms, ALL_BUDGET)
    }
}

impl Engine {
    /// What this node knows of the catalogue at the moment: what it holds and, for a command that has asked, what it was told.
    /// Of two versions the newer.
    pub(super) fn known(&self, now_ms: u64) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        let places = self.asks.places.as_ref().filter(|(until_ms, _)| *until_ms > now_ms);
        let Some(told) = self.asks.told.as_ref().or(places.map(|(_, told)| told)) else {
            return Box::new(self.catalog.resources(now_ms));
        };
        let mut known: BTreeMap<(NodeId, &str), Entry<'_>> = BTreeMap::new();
        for entry in self.catalog.resources(now_ms).chain(told.entries(now_ms)) {
            let held = known.entry((entry.author, entry.key)).or_insert(entry);
            if (held.epoch, held.seq) < (entry.epoch, entry.seq) {
                *held = entry;
            }
        }
        Box::new(known.into_values())
    }

    /// Asks peers first when a command needs more than is held here. Returns the command when it can run.
    pub(super) fn ask_first(
        &mut self,
        id: CommandId,
        command: Command,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Option<Command> {
        if self.asks.told.is_some() {
            return Some(command);
        }
        let Some(question) = self.question_of(&command) else {
            return Some(command);
        };
        let parked = Parked::Command(id, Box::new(command));
        if let Err((parked, error)) = self.open_question(parked, question, now_ms, rng) {
            self.go_without(parked, error, now_ms, rng);
        }
        None
    }

    /// Runs what waited over what is held here. What is not found there may be elsewhere, so the answer is why nobody was
    /// asked.
    fn go_without(&mut self, parked: Parked, error: AskError, now_ms: u64, rng: &mut dyn Rng) {
        let Parked::Command(id, command) = parked else { return };
        if matches!(*command, Command::Catalog { .. }) {
            return self.out.list.push(Effect::Reply { id, result: Err(error.into()) });
        }
        let is_about_others = !matches!(*command, Command::Submit { .. } | Command::Plan { .. });
        let nothing = Question { filter: Filter::default(), kinds: Kinds::NONE };
        self.asks.told = Some(Lent::beside(&self.catalog, nothing));
        self.handle_command(id, *command, now_ms, rng);
        self.asks.told = None;
        if is_about_others
            && let Some(Effect::Reply { result: result @ Err(_), .. }) = self.out.list.last_mut()
        {
            *result = Err(error.into());
        }
    }

    fn open_question(
        &mut self,
        parked: Parked,
        question: Question,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Result<(), (Parked, AskError)> {
        if self.asks.open.len() >= OPEN_MAX {
            return Err((parked, AskError::Busy));
        }
        let others = self.whom_to_ask(rng);
        if others.is_empty() {
            return Err((parked, AskError::NoPeer));
        }
        self.asks.next_id += 1;
        let id = self.asks.next_id;
        let open = Open {
            parked,
            lent: Lent::beside(&self.catalog, question),
            sides: BTreeMap::new(),
            others,
            until_ms: now_ms.saturating_add(ASK_MS),
            detail: "they said nothing".to_owned(),
        };
        self.asks.open.insert(id, open);
        self.ask_more(id, now_ms, rng);
        Ok(())
    }

    /// Peers in a random order, the second of another organisation than the first where there is one.
    fn whom_to_ask(&self, rng: &mut dyn Rng) -> VecDeque<NodeId> {
        let of = |node: &NodeId| self.admission.peer(*node).map(|peer| peer.cert.org);
        let mut nodes: Vec<(u64, NodeId, OrgId)> = self
            .connected
            .iter()
            .filter(|node| !self.asks.is_light(**node))
            .filter_map(|node| Some((rng.next_u64(), *node, of(node)?)))
            .collect();
        nodes.sort_unstable();
        let other = nodes.first().map(|(_, _, org)| *org);
        if let Some(at) = nodes.iter().position(|(_, _, org)| Some(*org) != other) {
            nodes.swap(1, at);
        }
        nodes.into_iter().map(|(_, node, _)| node).take(TRIES_MAX).collect()
    }

    /// Asks as many as have to be asked, or ends the question.
    fn ask_more(&mut self, id: u64, now_ms: u64, rng: &mut dyn Rng) {
        let Some(open) = self.asks.open.get_mut(&id) else { return };
        let mut asked = Vec::new();
        while open.answered() + open.awaited() < ASKED
            && let Some(peer) = open.others.pop_front()
        {
            open.sides.insert(peer, Side::Awaited { after: None, pages: 0 });
            asked.push((peer, open.lent.question().ask(id, open.lent.realm(), None)));
        }
        let is_over = open.awaited() == 0;
        for (peer, ask) in asked {
            self.send(peer, &NodeMessage::Ask(AskMessage::Ask(ask)));
        }
        if is_over {
            self.conclude(id, now_ms, rng);
        }
    }

    /// Runs the command that waited, over what was told.
    fn conclude(&mut self, id: u64, now_ms: u64, rng: &mut dyn Rng) {
        let Some(open) = self.asks.open.remove(&id) else { return };
        let Open { parked, lent, sides, detail, .. } = open;
        let is_told = sides.values().any(|side| !matches!(side, Side::Failed));
        let is_told = is_told
            && (sides.values().any(|s| matches!(s, Side::Answered)) || !lent.is_empty(now_ms));
        if !is_told {
            let error = AskError::NoAnswer { asked: sides.len(), detail };
            return self.go_without(parked, error, now_ms, rng);
        }
        let is_for_run = match parked {
            Parked::Places => true,
            Parked::Command(id, command) => {
                let is_for_run = matches!(*command, Command::Submit { .. });
                self.asks.told = Some(lent.clone());
                self.handle_command(id, *command, now_ms, rng);
                self.asks.told = None;
                is_for_run
            }
        };
        if is_for_run {
            self.asks.places = Some((now_ms.saturating_add(PLACES_MS), lent));
            self.asks.places_at_ms = now_ms.saturating_add(PLACES_MS / 2);
        }
    }

    /// Takes in a message about a question, from an admitted peer that may see what `audience` may.
    pub(super) fn handle_ask(
        &mut self,
        (from, audience): (NodeId, OrgId),
        message: AskMessage,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        match message {
            AskMessage::Ask(ask) => self.answer(from, audience, &ask, now_ms),
            AskMessage::Answer(answer) => self.take_answer(from, &answer, now_ms, rng),
            AskMessage::Refuse { id, why } => {
                if why == RefuseAsk::Light {
                    self.asks.note_light(from, true);
                }
                self.fail_side(id, from, why.to_string(), now_ms, rng);
            }
        }
    }

    fn answer(&mut self, to: NodeId, audience: OrgId, ask: &Ask, now_ms: u64) {
        let answer = if self.asks.may_answer(to, now_ms) {
            self.catalog.answer(now_ms, audience, ask)
        } else {
            Err(RefuseAsk::Busy)
        };
        let message = match answer {
            Ok(answer) => AskMessage::Answer(answer),
            Err(why) => AskMessage::Refuse { id: ask.id, why },
        };
        self.send(to, &NodeMessage::Ask(message));
    }

    fn take_answer(&mut self, from: NodeId, answer: &Answer, now_ms: u64, rng: &mut dyn Rng) {
        let id = answer.id;
        let Some(open) = self.asks.open.get_mut(&id) else { return };
        let Some(Side::Awaited { after, pages }) = open.sides.get_mut(&from) else { return };
        let taken = open.lent.take(now_ms, from, after.as_ref(), answer);
        match taken {
            Ok(Progress::More(next)) if *pages + 1 < PAGES_MAX => {
                *pages += 1;
                *after = Some(next.clone());
                let ask = open.lent.question().ask(id, open.lent.realm(), Some(next));
                self.send(from, &NodeMessage::Ask(AskMessage::Ask(ask)));
            }
            Ok(_) => {
                open.sides.insert(from, Side::Answered);
                self.ask_more(id, now_ms, rng);
            }
            Err(fault) => {
                if fault.is_peer_fault() {
                    self.penalize(from, fault.to_string());
                }
                self.fail_side(id, from, "what it said does not verify".to_owned(), now_ms, rng);
            }
        }
    }

    fn fail_side(&mut self, id: u64, peer: NodeId, detail: String, now_ms: u64, rng: &mut dyn Rng) {
        let Some(open) = self.asks.open.get_mut(&id) else { return };
        let Some(side @ Side::Awaited { .. }) = open.sides.get_mut(&peer) else { return };
        *side = Side::Failed;
        open.detail = detail;
        self.ask_more(id, now_ms, rng);
    }

    /// A peer is gone: whoever waits for it asks another.
    pub(super) fn forget_asked(&mut self, peer: NodeId, now_ms: u64, rng: &mut dyn Rng) {
        self.asks.budgets.remove(&peer);
        self.asks.light.remove(&peer);
        let ids: Vec<u64> = self.asks.open.keys().copied().collect();
        for id in ids {
            self.fail_side(id, peer, "it is gone".to_owned(), now_ms, rng);
        }
    }

    /// Ends the questions whose time is over.
    pub(super) fn poll_asks(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        let is_over = |open: &Open| open.until_ms <= now_ms;
        let over: BTreeSet<u64> =
            self.asks.open.iter().filter(|(_, o)| is_over(o)).map(|(id, _)| *id).collect();
        for id in over {
            self.conclude(id, now_ms, rng);
        }
        self.poll_places(now_ms, rng);
    }

    /// While there are runs, a light node that keeps no offers of work asks for them.
    fn poll_places(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        let compute = Kinds::of(Kind::Compute);
        if compute.without(self.catalog.kinds()).is_empty() || now_ms < self.asks.places_at_ms {
            return;
        }
        if self.coordinator.runs().all(|run| run.ending().is_some()) {
            self.asks.places = None;
            return;
        }
        self.asks.places_at_ms = now_ms.saturating_add(PLACES_MS / 2);
        let question = Question { filter: Filter::default(), kinds: compute };
        // Without anybody to ask, the work is done by those who are known.
        drop(self.open_question(Parked::Places, question, now_ms, rng));
    }

    /// What peers have to be asked before a command can run. What is wrong with a filter the command itself says.
    fn question_of(&self, command: &Command) -> Option<Question> {
        let text = match command {
            Command::Catalog { filter, .. } => filter.clone(),
            Command::Resource { id } => naming(id),
            Command::Locate { digest } => format!("digest = \"{digest}\""),
            Command::FindImage { name } => {
                let repository = name.repository.to_string();
                let last = repository.rsplit('/').next().unwrap_or_default();
                format!(
                    "kind = algorithm and runtime = {} and key ~ {}",
                    offer::RUNTIME,
                    quoted(last)
                )
            }
            Command::Disk(disks::Command::Show { .. }) => "kind = disk".to_owned(),
            Command::Submit { .. } | Command::Plan { .. } => "kind = compute".to_owned(),
            _ => return None,
        };
        let filter = Filter::parse(&text).ok()?;
        let is_asking = matches!(command, Command::Catalog { is_asking: true, .. });
        let held = if is_asking { Kinds::NONE } else { self.catalog.kinds() };
        let kinds = filter.kinds().without(held);
        (!kinds.is_empty()).then_some(Question { filter, kinds })
    }
}

/// A filter that lets everything through that an id, a key, a digest or a beginning of one may mean.
fn naming(id: &str) -> String {
    let mut parts = vec![format!("key ~ {}", quoted(id)), format!("digest ~ {}", quoted(id))];
    match id.split_once('/') {
        Some((_, key)) => parts.push(format!("key ~ {}", quoted(key))),
        None => parts.push(format!("node ~ {}", quoted(id))),
    }
    parts.join(" or ")
}

/// A text as filters have it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl From<AskError> for CommandError {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}
