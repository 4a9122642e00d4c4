//! The owner's side: how many copies there are, where, and what is to be done about it.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId, OrgId};

use super::{
    ANSWER_MS, ASK_AGAIN_MS, Among, CHECK_AGAIN_MS, CHECK_MS, COMING_MAX_MS, COPIES_MAX, Content,
    FAILURES_MAX, IDLE_MS, LOST_MS, Message, NAME_LEN_MAX, NoKeep, PROOF_MS, REFUSED_MAX_MS,
    SILENT_MS, WISHES_MAX,
};

/// What is wished of a content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wish {
    /// Of what.
    pub content: Content,
    /// How many copies, besides that of this node; none ends the wish once its keepers know.
    pub copies: u32,
    /// Among whom.
    pub among: Among,
    /// How long a keeper may be away before another one is asked, in milliseconds.
    pub patience_ms: u64,
}

/// Why a wish is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WishError {
    /// Of too many contents.
    #[error("copies of {WISHES_MAX} contents are wished, of no more are any made")]
    TooMany,
    /// Too many of one.
    #[error("{asked} copies are too many: {COPIES_MAX} are the most")]
    TooManyCopies {
        /// As asked.
        asked: u32,
    },
}

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// The peer was asked.
    Asked,
    /// It promised, and fetches.
    Coming,
    /// It says that it has it.
    Kept,
    /// It is to be dropped.
    Leaving,
}

/// A copy at a peer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Copy {
    /// The keeper's organisation.
    pub org: OrgId,
    /// How it stands.
    pub state: CopyState,
    /// Since when (Unix ms).
    pub since_ms: u64,
    /// When it was last proven (Unix ms); 0 when never.
    pub proven_ms: u64,
    /// Since when its keeper is away (Unix ms), if it is.
    pub away_ms: Option<u64>,
    /// When the next question or proof is due (Unix ms).
    #[serde(skip)]
    due_ms: u64,
    /// Until when a proof is waited for (Unix ms).
    #[serde(skip)]
    proof_until_ms: Option<u64>,
    /// Proofs in a row that failed.
    #[serde(skip)]
    failures: u32,
}

impl Copy {
    const fn new(org: OrgId, now_ms: u64) -> Self {
        Self {
            org,
            state: CopyState::Asked,
            since_ms: now_ms,
            proven_ms: 0,
            away_ms: None,
            due_ms: now_ms,
            proof_until_ms: None,
            failures: 0,
        }
    }

    /// Whether its keeper is away for longer than the patience.
    fn is_overdue(&self, patience_ms: u64, now_ms: u64) -> bool {
        self.away_ms.is_some_and(|away_ms| now_ms.saturating_sub(away_ms) >= patience_ms)
    }

    /// Whether it is one of those that are wished.
    #[must_use]
    pub fn counts(&self, patience_ms: u64, now_ms: u64) -> bool {
        self.state == CopyState::Kept && self.proven_ms > 0 && !self.is_overdue(patience_ms, now_ms)
    }

    /// Whether it may become one.
    fn is_coming(&self, patience_ms: u64, now_ms: u64) -> bool {
        let is_new = match self.state {
            CopyState::Asked | CopyState::Coming => true,
            CopyState::Kept => self.proven_ms == 0,
            CopyState::Leaving => false,
        };
        is_new && !self.is_overdue(patience_ms, now_ms)
    }

    fn leave(&mut self, now_ms: u64) {
        self.turn(CopyState::Leaving, now_ms);
        (self.proven_ms, self.proof_until_ms, self.failures) = (0, None, 0);
        self.due_ms = now_ms.saturating_add(ASK_AGAIN_MS);
    }

    fn turn(&mut self, state: CopyState, now_ms: u64) {
        if self.state != state {
            (self.state, self.since_ms) = (state, now_ms);
        }
    }
}

/// A wish and its copies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wished {
    /// What.
    pub wish: Wish,
    /// By keeper.
    pub copies: BTreeMap<NodeId, Copy>,
    /// Why peers were not asked, or said no lately, and until when (Unix ms).
    #[serde(skip)]
    pub refused: BTreeMap<NodeId, (NoKeep, u64)>,
}

impl Wished {
    /// How many of the wished copies there are.
    #[must_use]
    pub fn counting(&self, now_ms: u64) -> u32 {
        let patience_ms = self.wish.patience_ms;
        let counting = self.copies.values().filter(|copy| copy.counts(patience_ms, now_ms));
        u32::try_from(counting.count()).unwrap_or(u32::MAX)
    }

    /// What will be due after now, as far as that depends on time alone.
    fn due(&self, now_ms: u64, here: &BTreeSet<NodeId>) -> Option<u64> {
        let patience_ms = self.wish.patience_ms;
        let of_copies = self.copies.iter().flat_map(|(node, copy)| {
            let ends_ms = match copy.state {
                CopyState::Asked => Some(ANSWER_MS),
                CopyState::Coming => Some(COMING_MAX_MS),
                CopyState::Leaving => Some(IDLE_MS),
                CopyState::Kept => None,
            };
            let asks_ms = here.contains(node).then(|| copy.proof_until_ms.unwrap_or(copy.due_ms));
            let overdue_ms = copy.away_ms.map(|away_ms| away_ms.saturating_add(patience_ms));
            [ends_ms.map(|ms| copy.since_ms.saturating_add(ms)), asks_ms, overdue_ms]
        });
        let refused = self.refused.values().map(|(_, until_ms)| Some(*until_ms));
        of_copies.chain(refused).flatten().filter(|at_ms| *at_ms > now_ms).min()
    }

    fn coming(&self, now_ms: u64) -> u32 {
        let patience_ms = self.wish.patience_ms;
        let coming = self.copies.values().filter(|copy| copy.is_coming(patience_ms, now_ms));
        u32::try_from(coming.count()).unwrap_or(u32::MAX)
    }
}

/// A peer that may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who; it is connected.
    pub node: NodeId,
    /// Its organisation, which is not refused.
    pub org: OrgId,
}

/// What came of a look at a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The bytes were there.
    Good,
    /// They were not, or were others, or are not given.
    Bad,
    /// Nothing is known: the keeper is away or busy.
    None,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell a peer.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Read a range of a copy at its keeper, which `seed` chooses; [`Copies::handle_proof`] is told what came of it.
    Prove {
        /// The keeper.
        at: NodeId,
        /// Of what.
        content: Content,
        /// Chooses the file and the range.
        seed: u64,
    },
    /// A wish has changed; it is to be stored, or gone.
    Persist {
        /// Of what.
        digest: Digest,
    },
}

/// Every wish of this node.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    all: BTreeMap<Digest, Wished>,
    /// When something is due (Unix ms); 0 after everything that happened.
    next_ms: Option<u64>,
    actions: Vec<Action>,
}

impl Copies {
    /// Without wishes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes back what was stored. Nobody is connected yet: who was not away before is from now on.
    pub fn restore(&mut self, mut wished: Wished, now_ms: u64) {
        for copy in wished.copies.values_mut() {
            copy.away_ms = copy.away_ms.or(Some(now_ms));
            copy.due_ms = now_ms;
        }
        self.all.insert(wished.wish.content.digest, wished);
        self.next_ms = Some(0);
    }

    /// Every wish by content.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &Wished)> {
        self.all.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&Wished> {
        self.all.get(digest)
    }

    /// Wishes copies, or others than before. None of something that nobody wished is nothing to do.
    ///
    /// # Errors
    /// See [`WishError`].
    pub fn wish(&mut self, mut wish: Wish) -> Result<(), WishError> {
        if wish.copies > COPIES_MAX {
            return Err(WishError::TooManyCopies { asked: wish.copies });
        }
        let digest = wish.content.digest;
        let end = wish.content.name.floor_char_boundary(NAME_LEN_MAX);
        wish.content.name.truncate(end);
        let is_full = self.all.len() >= WISHES_MAX;
        match self.all.get_mut(&digest) {
            Some(known) => {
                known.wish = wish;
                // Another word for whom may make a no a yes.
                known.refused.clear();
            }
            None if wish.copies == 0 => return Ok(()),
            None if is_full => return Err(WishError::TooMany),
            None => {
                let (copies, refused) = (BTreeMap::new(), BTreeMap::new());
                self.all.insert(digest, Wished { wish, copies, refused });
            }
        }
        self.actions.push(Action::Persist { digest });
        self.next_ms = Some(0);
        Ok(())
    }

    /// A keeper has said something.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now_ms: u64) {
        let (digest, said) = match message {
            Message::Coming { digest } => (*digest, Ok(CopyState::Coming)),
            Message::Kept { digest } => (*digest, Ok(CopyState::Kept)),
            Message::No { digest, why, again_ms } => (*digest, Err(Some((*why, *again_ms)))),
            Message::Dropped { digest } => (*digest, Err(None)),
            // For keepers.
            Message::Keep { .. } | Message::Drop { .. } => return,
        };
        let Some(wished) = self.all.get_mut(&digest) else {
            // Nothing is wished: whoever keeps something all the same may let it go.
            if said.is_ok() {
                let message = Message::Drop { digest };
                self.actions.push(Action::Send { to: from, message });
            }
            return;
        };
        self.next_ms = Some(0);
        let Some(copy) = wished.copies.get_mut(&from) else {
            if said.is_ok() {
                let message = Message::Drop { digest };
                self.actions.push(Action::Send { to: from, message });
            }
            return;
        };
        copy.away_ms = None;
        match said {
            // It is told again when it asks to be.
            Ok(_) if copy.state == CopyState::Leaving => {
                copy.due_ms = now_ms;
                return;
            }
            Ok(CopyState::Kept) if copy.state == CopyState::Kept => {
                if copy.proven_ms == 0 && copy.proof_until_ms.is_none() {
                    copy.due_ms = now_ms;
                }
                return;
            }
            Ok(state) => {
                let is_back = copy.state == CopyState::Kept;
                copy.turn(state, now_ms);
                if is_back {
                    // It fetches what it had: until it is proven again it is none.
                    copy.proven_ms = 0;
                }
                copy.proof_until_ms = None;
                copy.due_ms = match state {
                    CopyState::Kept => now_ms,
                    _ => now_ms.saturating_add(ASK_AGAIN_MS),
                };
            }
            Err(no) => {
                let was_leaving = copy.state == CopyState::Leaving;
                wished.copies.remove(&from);
                if let Some((why, again_ms)) = no.filter(|_| !was_leaving) {
                    let least = if why == NoKeep::Lost { LOST_MS } else { 1_000 };
                    let pause = again_ms.clamp(least, REFUSED_MAX_MS);
                    wished.refused.insert(from, (why, now_ms.saturating_add(pause)));
                }
            }
        }
        self.actions.push(Action::Persist { digest });
    }

    /// What came of a look at a copy.
    pub fn handle_proof(
        &mut self,
        at: NodeId,
        digest: Digest,
        proof: Proof,
        now_ms: u64,
        random: &mut dyn FnMut() -> u64,
    ) {
        let Some(wished) = self.all.get_mut(&digest) else { return };
        let Some(copy) = wished.copies.get_mut(&at) else { return };
        self.next_ms = Some(0);
        // Of a copy that became another one meanwhile nothing is known.
        if copy.proof_until_ms.take().is_none() || copy.state != CopyState::Kept {
            return;
        }
        match proof {
            Proof::Good => {
                let was_new = copy.proven_ms == 0;
                copy.failures = 0;
                (copy.proven_ms, copy.away_ms) = (now_ms, None);
                copy.due_ms = now_ms.saturating_add(CHECK_MS + random() % (CHECK_MS / 4));
                if !was_new {
                    return;
                }
            }
            // A keeper that has just started does not know yet to whom it gives what.
            Proof::Bad if copy.failures + 1 < FAILURES_MAX => {
                copy.failures += 1;
                copy.due_ms = now_ms.saturating_add(CHECK_AGAIN_MS);
                return;
            }
            Proof::Bad => {
                copy.leave(now_ms);
                let until_ms = now_ms.saturating_add(LOST_MS);
                wished.refused.insert(at, (NoKeep::Lost, until_ms));
                // It may have something of it all the same.
                let message = Message::Drop { digest };
                self.actions.push(Action::Send { to: at, message });
            }
            Proof::None => {
                copy.away_ms = copy.away_ms.or(Some(now_ms));
                copy.due_ms = now_ms.saturating_add(CHECK_AGAIN_MS);
                return;
            }
        }
        self.actions.push(Action::Persist { digest });
    }

    /// A peer is connected: what concerns it is due, and it may be asked again.
    pub fn handle_connected(&mut self, peer: NodeId, now_ms: u64) {
        for wished in self.all.values_mut() {
            if let Some(copy) = wished.copies.get_mut(&peer) {
                (copy.due_ms, copy.proof_until_ms) = (now_ms, None);
            }
            // What its owner lets it keep may be more than before.
            let is_lost = |(why, _): &(NoKeep, u64)| *why == NoKeep::Lost;
            wished.refused.retain(|node, no| *node != peer || is_lost(no));
        }
        self.next_ms = Some(0);
    }

    /// A keeper has come to another key: its copies are those of the new one.
    pub fn succeed(&mut self, old: NodeId, new: NodeId) {
        for (digest, wished) in &mut self.all {
            if let Some(copy) = wished.copies.remove(&old) {
                wished.copies.entry(new).or_insert(copy);
                self.actions.push(Action::Persist { digest: *digest });
                self.next_ms = Some(0);
            }
            wished.refused.remove(&old);
        }
    }

    /// A peer is not connected any more.
    pub fn handle_disconnected(&mut self, peer: NodeId, now_ms: u64) {
        for wished in self.all.values_mut() {
            if let Some(copy) = wished.copies.get_mut(&peer) {
                copy.away_ms = copy.away_ms.or(Some(now_ms));
                copy.proof_until_ms = None;
                self.next_ms = Some(0);
            }
        }
    }

    /// Does what is due. `peers` are those that are connected and may be asked.
    pub fn poll(&mut self, now_ms: u64, peers: &[Peer], random: &mut dyn FnMut() -> u64) {
        let here: BTreeSet<NodeId> = peers.iter().map(|peer| peer.node).collect();
        for (digest, wished) in &mut self.all {
            let mut step = Step { digest: *digest, wished, now_ms, actions: &mut self.actions };
            step.forget();
            step.ask_how_it_is(&here, random);
            step.ask_more(peers, random);
            step.let_go();
        }
        let actions = &mut self.actions;
        self.all.retain(|digest, wished| {
            let is_over = wished.wish.copies == 0 && wished.copies.is_empty();
            if is_over {
                actions.push(Action::Persist { digest: *digest });
            }
            !is_over
        });
        let due = self.all.values().flat_map(|wished| wished.due(now_ms, &here));
        self.next_ms = due.min();
    }

    /// When [`Self::poll`] is due next (Unix ms).
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<u64> {
        self.next_ms
    }

    /// What is to be done, in order.
    pub fn drain_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}

/// One wish at one time.
struct Step<'a> {
    digest: Digest,
    wished: &'a mut Wished,
    now_ms: u64,
    actions: &'a mut Vec<Action>,
}

impl Step<'_> {
    fn send(&mut self, to: NodeId, message: Message) {
        self.actions.push(Action::Send { to, message });
    }

    /// Drops what took too long, and noes that are over.
    fn forget(&mut self) {
        let now_ms = self.now_ms;
        self.wished.refused.retain(|_, (_, until_ms)| *until_ms > now_ms);
        let mut gone = Vec::new();
        for (node, copy) in &self.wished.copies {
            let age_ms = now_ms.saturating_sub(copy.since_ms);
            match copy.state {
                CopyState::Asked if age_ms >= ANSWER_MS => gone.push((*node, SILENT_MS)),
                CopyState::Coming if age_ms >= COMING_MAX_MS => gone.push((*node, LOST_MS)),
                CopyState::Leaving if age_ms >= IDLE_MS => gone.push((*node, 0)),
                _ => {}
            }
        }
        for (node, pause_ms) in gone {
            if pause_ms == 0 {
                self.wished.copies.remove(&node);
            } else {
                let until_ms = now_ms.saturating_add(pause_ms);
                self.wished.refused.insert(node, (NoKeep::Silent, until_ms));
                // The answer may have been lost, and the promise given.
                self.leave(node);
            }
            self.actions.push(Action::Persist { digest: self.digest });
        }
    }

    /// Has a keeper drop a copy: it is told until it says that it has.
    fn leave(&mut self, node: NodeId) {
        if let Some(copy) = self.wished.copies.get_mut(&node) {
            copy.leave(self.now_ms);
            self.send(node, Message::Drop { digest: self.digest });
        }
    }

    /// Questions and proofs that are due, at keepers that are here.
    fn ask_how_it_is(&mut self, here: &BTreeSet<NodeId>, random: &mut dyn FnMut() -> u64) {
        let (now_ms, content) = (self.now_ms, self.wished.wish.content.clone());
        let digest = self.digest;
        for (node, copy) in self.wished.copies.iter_mut().filter(|(node, _)| here.contains(node)) {
            if copy.proof_until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
                copy.proof_until_ms = None;
                copy.away_ms = copy.away_ms.or(Some(now_ms));
                copy.due_ms = now_ms;
            }
            if now_ms < copy.due_ms || copy.proof_until_ms.is_some() {
                continue;
            }
            let keep = Message::Keep { content: content.clone() };
            let to = *node;
            match copy.state {
                CopyState::Kept => {
                    copy.proof_until_ms = Some(now_ms.saturating_add(PROOF_MS));
                    let content = content.clone();
                    self.actions.push(Action::Prove { at: to, content, seed: random() });
                    // It is to know that it is wished still.
                    self.actions.push(Action::Send { to, message: keep });
                }
                CopyState::Asked | CopyState::Coming => {
                    copy.due_ms = now_ms.saturating_add(ASK_AGAIN_MS);
                    self.actions.push(Action::Send { to, message: keep });
                }
                CopyState::Leaving => {
                    copy.due_ms = now_ms.saturating_add(ASK_AGAIN_MS);
                    self.actions.push(Action::Send { to, message: Message::Drop { digest } });
                }
            }
        }
    }

    /// Asks as many peers as copies are missing: those of organisations with the fewest copies first, among them by chance.
    fn ask_more(&mut self, peers: &[Peer], random: &mut dyn FnMut() -> u64) {
        let (now_ms, wished) = (self.now_ms, &*self.wished);
        let there = wished.counting(now_ms).saturating_add(wished.coming(now_ms));
        let mut missing = wished.wish.copies.saturating_sub(there);
        if missing == 0 {
            return;
        }
        let mut of_org: BTreeMap<OrgId, u32> = BTreeMap::new();
        for copy in wished.copies.values().filter(|copy| copy.state != CopyState::Leaving) {
            *of_org.entry(copy.org).or_default() += 1;
        }
        let may = |peer: &&Peer| {
            // One that was to leave is asked before anybody has to fetch.
            let copy = wished.copies.get(&peer.node);
            let is_known = copy.is_some_and(|copy| copy.state != CopyState::Leaving)
                || wished.refused.contains_key(&peer.node);
            wished.wish.among.has(peer.org) && !is_known
        };
        let mut may: Vec<(u64, Peer)> =
            peers.iter().filter(may).map(|peer| (random(), *peer)).collect();
        while missing > 0 && !may.is_empty() {
            let least = (0..may.len()).min_by_key(|at| {
                let (chance, peer) = may[*at];
                let is_new = !self.wished.copies.contains_key(&peer.node);
                (is_new, of_org.get(&peer.org).copied().unwrap_or(0), chance)
            });
            let (_, peer) = may.swap_remove(least.unwrap_or(0));
            *of_org.entry(peer.org).or_default() += 1;
            missing -= 1;
            let mut copy = Copy::new(peer.org, now_ms);
            copy.due_ms = now_ms.saturating_add(ASK_AGAIN_MS);
            self.wished.copies.insert(peer.node, copy);
            let content = self.wished.wish.content.clone();
            self.actions.push(Action::Persist { digest: self.digest });
            self.send(peer.node, Message::Keep { content });
        }
    }

    /// Lets go what is not wished, or more than is: never one without which too few count.
    fn let_go(&mut self) {
        let (now_ms, patience_ms) = (self.now_ms, self.wished.wish.patience_ms);
        let wished = self.wished.wish.copies;
        let mut leaving: Vec<NodeId> = Vec::new();
        let counting = self.wished.counting(now_ms);
        // Those of organisations that are not meant any more go as soon as there are enough without them.
        let mut surplus = counting.saturating_sub(wished);
        let mut of_org: BTreeMap<OrgId, u32> = BTreeMap::new();
        for copy in self.wished.copies.values().filter(|copy| copy.counts(patience_ms, now_ms)) {
            *of_org.entry(copy.org).or_default() += 1;
        }
        while surplus > 0 {
            let may =
                self.wished.copies.iter().filter(|(node, copy)| {
                    copy.counts(patience_ms, now_ms) && !leaving.contains(node)
                });
            let last = may.max_by_key(|(node, copy)| {
                let is_meant = self.wished.wish.among.has(copy.org);
                let n = of_org.get(&copy.org).copied().unwrap_or(0);
                (!is_meant, copy.away_ms.is_some(), n, copy.since_ms, **node)
            });
            let Some((node, copy)) = last else { break };
            *of_org.entry(copy.org).or_default() -= 1;
            leaving.push(*node);
            surplus -= 1;
        }
        if counting >= wished {
            // What neither counts nor is needed: keepers that are away too long, and those that were asked in vain.
            let others = self.wished.copies.iter().filter(|(_, copy)| {
                copy.state != CopyState::Leaving && !copy.counts(patience_ms, now_ms)
            });
            leaving.extend(others.map(|(node, _)| *node));
        }
        for node in leaving {
            self.actions.push(Action::Persist { digest: self.digest });
            self.leave(node);
        }
    }
}
