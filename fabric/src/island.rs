//! What a node does that has lost everybody: begins anew, step by step.
//!
//! A machine without clock or socket: the network task tells it what happened and when (in milliseconds since the task
//! began) and does what [`Island::poll`] says.
//!
//! Sockets can go deaf without an error. Nodes on QUIC were seen to stay alone for hours after a short outage, until
//! somebody restarted them (logos-blockchain#2301, open). A node cannot tell that from a world that is away; but nothing is lost
//! by beginning anew while nobody is connected.
//!
//! # States
//!
//! *Well* → *alone* when the last admitted peer is lost, or when a dial fails while nobody is admitted; *alone* → *well*
//! with the first admitted peer. Alone, the node closes its listeners and opens them again after [`Alone::reopen`], throws
//! its swarm away and builds another one [`Alone::rebuild`] later, and goes on doing that with pauses that double up to
//! [`Alone::pause_max`].
//!
//! A node that nobody ever knew and that dials nobody is not *alone*, it has nobody to miss; nor is one that parted from
//! its last peer itself.
//!
//! # What a liar can do
//!
//! Be admitted as the only peer and go again and again: each time is a new loneliness, which costs the node nothing before
//! [`Alone::reopen`] has passed.

use std::time::Duration;

use crate::config::Alone;

/// What the network task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Close all listeners and open them again.
    Reopen,
    /// Build another swarm for the same identity.
    Rebuild,
}

/// A step that a lonely node has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Renewed {
    /// It closed its listeners and opened them again.
    Listeners,
    /// It built all its transports, listeners and protocols anew.
    Everything,
}

impl Renewed {
    /// One word, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Everything => "everything",
        }
    }
}

/// The last step of a node that was alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// What it did.
    pub what: Renewed,
    /// How long ago.
    pub ago: Duration,
    /// How long it had been alone by then.
    pub alone: Duration,
    /// How often it built everything anew since it was started.
    pub rebuilds: u32,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    what: Renewed,
    at_ms: u64,
    alone_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lonely {
    since_ms: u64,
    /// When the next step is due, and how many were taken.
    due_ms: u64,
    steps: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Island {
    patience: Alone,
    has_company: bool,
    lonely: Option<Lonely>,
    last: Option<Last>,
    rebuilds: u32,
}

impl Island {
    pub(crate) fn new(patience: Alone) -> Self {
        Self { patience, has_company: false, lonely: None, last: None, rebuilds: 0 }
    }

    /// A peer is admitted.
    pub(crate) fn handle_company(&mut self) {
        self.has_company = true;
        self.lonely = None;
    }

    /// The last admitted peer is gone, and not by this node's wish.
    pub(crate) fn handle_lost(&mut self, now_ms: u64) {
        self.has_company = false;
        self.begin(now_ms);
    }

    /// The last admitted peer is gone because this node wanted it so.
    pub(crate) fn handle_parted(&mut self) {
        self.has_company = false;
        self.lonely = None;
    }

    /// A peer that this node wanted to connect with was not reached.
    pub(crate) fn handle_missed(&mut self, now_ms: u64) {
        if !self.has_company {
            self.begin(now_ms);
        }
    }

    fn begin(&mut self, now_ms: u64) {
        let due_ms = now_ms.saturating_add(self.pause_ms(0));
        self.lonely.get_or_insert(Lonely { since_ms: now_ms, due_ms, steps: 0 });
    }

    /// The step that is due, once.
    pub(crate) fn poll(&mut self, now_ms: u64) -> Option<Effect> {
        let Lonely { since_ms, steps, .. } = self.lonely.filter(|alone| alone.due_ms <= now_ms)?;
        let steps = steps.saturating_add(1);
        let due_ms = now_ms.saturating_add(self.pause_ms(steps));
        self.lonely = Some(Lonely { since_ms, due_ms, steps });
        Some(if steps == 1 { Effect::Reopen } else { Effect::Rebuild })
    }

    /// The network task has done it.
    pub(crate) fn handle_done(&mut self, now_ms: u64, effect: Effect) {
        let since_ms = self.lonely.map_or(now_ms, |lonely| lonely.since_ms);
        let what = match effect {
            Effect::Reopen => Renewed::Listeners,
            Effect::Rebuild => Renewed::Everything,
        };
        self.rebuilds = self.rebuilds.saturating_add(u32::from(effect == Effect::Rebuild));
        self.last = Some(Last { what, at_ms: now_ms, alone_ms: now_ms.saturating_sub(since_ms) });
    }

    /// How long the step after so many waits for them.
    fn pause_ms(&self, steps: u32) -> u64 {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let Alone { reopen, rebuild, pause_max } = self.patience;
        let (reopen, rebuild) = (ms(reopen), ms(rebuild));
        match steps {
            0 => reopen,
            1 => rebuild,
            _ => {
                let both = reopen.saturating_add(rebuild);
                both.saturating_mul(1 << (steps - 1).min(16)).min(ms(pause_max).max(both))
            }
        }
    }

    /// When [`Self::poll`] has something to say.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.lonely.map(|alone| alone.due_ms)
    }

    /// What was done last, for people.
    pub(crate) fn renewal(&self, now_ms: u64) -> Option<Renewal> {
        let Last { what, at_ms, alone_ms } = self.last?;
        let ago = Duration::from_millis(now_ms.saturating_sub(at_ms));
        let alone = Duration::from_millis(alone_ms);
        Some(Renewal { what, ago, alone, rebuilds: self.rebuilds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Alone = Alone {
        reopen: Duration::from_millis(100),
        rebuild: Duration::from_millis(50),
        pause_max: Duration::from_millis(1000),
    };

    #[test]
    fn listeners_come_first_then_everything_with_pauses_that_grow_to_a_bound() {
        let mut island = Island::new(PATIENCE);
        island.handle_company();
        assert_eq!((island.next_ms(), island.poll(u64::MAX)), (None, None));
        island.handle_lost(1000);
        let mut done = Vec::new();
        while done.len() < 7 {
            let now = island.next_ms().unwrap();
            assert_eq!(island.poll(now - 1), None);
            done.push((now, island.poll(now).unwrap()));
            island.handle_done(now, done[done.len() - 1].1);
        }
        let at: Vec<u64> = done.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [1100, 1150, 1450, 2050, 3050, 4050, 5050]);
        assert_eq!(done[0].1, Effect::Reopen);
        assert!(done[1..].iter().all(|(_, effect)| *effect == Effect::Rebuild));
        let renewal = island.renewal(6000).unwrap();
        assert_eq!((renewal.what, renewal.rebuilds), (Renewed::Everything, 6));
        assert_eq!((renewal.ago.as_millis(), renewal.alone.as_millis()), (950, 4050));
    }

    #[test]
    fn who_misses_nobody_does_nothing() {
        let mut island = Island::new(PATIENCE);
        assert_eq!((island.next_ms(), island.poll(u64::MAX)), (None, None));
        island.handle_company();
        island.handle_missed(5);
        assert_eq!(island.poll(u64::MAX), None, "others are there");
        island.handle_parted();
        assert_eq!(island.poll(u64::MAX), None, "it wanted to be alone");
        island.handle_missed(10);
        assert_eq!(island.next_ms(), Some(110), "now it misses somebody");
        island.handle_missed(60);
        assert_eq!(island.next_ms(), Some(110), "each further miss is the same loneliness");
    }

    #[derive(Clone, Debug)]
    enum Happens {
        Company,
        Lost,
        Parted,
        Missed,
        Nothing,
    }

    proptest! {
        #[test]
        fn no_order_of_things_makes_it_churn(
            events in prop::collection::vec(
                (0_u64..400, prop_oneof![
                    Just(Happens::Company), Just(Happens::Lost), Just(Happens::Parted),
                    Just(Happens::Missed), Just(Happens::Nothing),
                ]),
                1..60,
            )
        ) {
            let mut island = Island::new(PATIENCE);
            let (mut now, mut has_company, mut trouble_began, mut last) = (0, false, 0, None);
            for (after, what) in events {
                now += after;
                match what {
                    Happens::Company => (island.handle_company(), has_company = true).0,
                    Happens::Lost if has_company => {
                        (has_company, trouble_began) = (false, now);
                        island.handle_lost(now);
                    }
                    Happens::Parted => (island.handle_parted(), has_company = false).0,
                    Happens::Missed => {
                        if island.next_ms().is_none() {
                            trouble_began = now;
                        }
                        island.handle_missed(now);
                    }
                    Happens::Lost | Happens::Nothing => {}
                }
                if let Some(effect) = island.poll(now) {
                    prop_assert!(!has_company);
                    prop_assert!(now >= trouble_began + 100);
                    if effect == Effect::Rebuild {
                        prop_assert!(last.is_some_and(|last| now >= last + 50));
                    }
                    last = Some(now);
                    island.handle_done(now, effect);
                }
                prop_assert!(!has_company || island.next_ms().is_none());
                prop_assert!(island.next_ms().is_none_or(|next| next <= now + 1000));
            }
        }
    }
}
