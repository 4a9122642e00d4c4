//! The life of one machine: what its words mean, and how long each part of it may take. Pure: the driver feeds it.

use std::time::{Duration, Instant};

/// Longest word of a machine in bytes; of a longer one the rest is cut off.
pub(super) const WORD_LEN_MAX: usize = 512;
/// How long a machine may take to write its output in any case, and how many bytes each further second has to bring.
const COLLECT_MIN: Duration = Duration::from_secs(120);
const COLLECT_BYTES_PER_S: u64 = 4 << 20;

/// What a machine says at its control port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Begin,
    Exit { code: i32, why: Why },
    Done { code: i32, text: String },
}

/// What had to do with a task's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing else.
    Itself,
    /// The machine's kernel killed for want of memory.
    Memory,
    /// The disk was full.
    Disk,
}

/// Reads a line; `None` when it means nothing.
pub(super) fn word(line: &[u8]) -> Option<Word> {
    let line = String::from_utf8_lossy(&line[..line.len().min(WORD_LEN_MAX)]);
    let mut parts = line.trim_end().splitn(3, ' ');
    match parts.next()? {
        "begin" => Some(Word::Begin),
        "exit" => {
            let code = parts.next()?.parse().ok().filter(|code| (0..=255).contains(code))?;
            let why = match parts.next() {
                Some("memory") => Why::Memory,
                Some("disk") => Why::Disk,
                _ => Why::Itself,
            };
            Some(Word::Exit { code, why })
        }
        "done" => {
            let code = parts.next()?.parse().ok()?;
            Some(Word::Done { code, text: parts.next().unwrap_or_default().to_owned() })
        }
        _ => None,
    }
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It boots.
    Booting,
    /// Its task runs.
    Running,
    /// Its task has ended; it writes its output.
    Ended { code: i32, why: Why },
    /// It has said all.
    Done { code: i32, why: Why, tar: i32, text: String },
}

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) boot: Duration,
    pub(super) task: Duration,
    /// Size of the output's disk in bytes.
    pub(super) output_bytes: u64,
}

/// One machine's life.
#[derive(Debug)]
pub(super) struct Life {
    limits: Limits,
    phase: Phase,
    /// When the phase began; later by all the time that the machine has stood still in it.
    since: Instant,
    /// Since when it stands still, if it does.
    still_since: Option<Instant>,
}

impl Life {
    pub(super) const fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, phase: Phase::Booting, since: now, still_since: None }
    }

    /// The machine stands still from here on: no phase lasts any longer by that.
    pub(super) fn handle_still(&mut self, now: Instant) {
        self.still_since.get_or_insert(now);
    }

    /// The machine goes on, with as much time as it had left.
    pub(super) fn handle_going(&mut self, now: Instant) {
        if let Some(still_since) = self.still_since.take() {
            // Both are in the past, so this is no later than now.
            self.since += now.saturating_duration_since(still_since);
        }
    }

    /// Takes a word; true when it changed the phase. Words out of order mean nothing.
    pub(super) fn handle_word(&mut self, word: Word, now: Instant) -> bool {
        let next = match (&self.phase, word) {
            (Phase::Booting, Word::Begin) => Phase::Running,
            (Phase::Running, Word::Exit { code, why }) => Phase::Ended { code, why },
            (&Phase::Ended { code, why }, Word::Done { code: tar, text }) => {
                Phase::Done { code, why, tar, text }
            }
            _ => return false,
        };
        self.phase = next;
        self.since = now;
        true
    }

    /// When the phase has lasted too long; `None` when it has no end, and while the machine stands still.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.still_since.is_some() {
            return None;
        }
        let most = match self.phase {
            Phase::Booting => self.limits.boot,
            Phase::Running => self.limits.task,
            Phase::Ended { .. } => collect_timeout(self.limits.output_bytes),
            Phase::Done { .. } => return None,
        };
        self.since.checked_add(most)
    }

    pub(super) const fn phase(&self) -> &Phase {
        &self.phase
    }
}

fn collect_timeout(output_bytes: u64) -> Duration {
    COLLECT_MIN + Duration::from_secs(output_bytes / COLLECT_BYTES_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_nonsense_is_not() {
        for (line, expected) in [
            ("begin\n", Some(Word::Begin)),
            ("exit 3 self\n", Some(Word::Exit { code: 3, why: Why::Itself })),
            ("exit 137 memory", Some(Word::Exit { code: 137, why: Why::Memory })),
            ("exit 1 disk", Some(Word::Exit { code: 1, why: Why::Disk })),
            ("exit 0", Some(Word::Exit { code: 0, why: Why::Itself })),
            (
                "done 2 tar: no space",
                Some(Word::Done { code: 2, text: "tar: no space".to_owned() }),
            ),
            ("exit -1 self", None),
            ("exit 256 self", None),
            ("exit", None),
            ("", None),
            ("begun", None),
        ] {
            assert_eq!(word(line.as_bytes()), expected, "{line}");
        }
        assert_eq!(word(&[0xff; 4_096]), None);
    }

    #[test]
    fn a_life_goes_one_way_and_words_out_of_order_mean_nothing() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let limits = Limits {
            boot: Duration::from_secs(60),
            task: Duration::from_secs(10),
            output_bytes: 8 << 20,
        };
        let mut life = Life::new(limits, now);
        let exit = Word::Exit { code: 0, why: Why::Itself };
        let done = Word::Done { code: 0, text: String::new() };
        assert!(!life.handle_word(exit.clone(), now));
        assert_eq!(life.deadline(), Some(now + Duration::from_secs(60)));
        assert!(life.handle_word(Word::Begin, later));
        assert!(!life.handle_word(Word::Begin, later) && !life.handle_word(done.clone(), later));
        assert_eq!(life.deadline(), Some(later + Duration::from_secs(10)));
        assert!(life.handle_word(exit.clone(), later) && !life.handle_word(exit, later));
        assert_eq!(life.deadline(), Some(later + COLLECT_MIN + Duration::from_secs(2)));
        assert!(life.handle_word(done, later));
        assert_eq!(life.deadline(), None);
    }

    #[test]
    fn time_that_a_machine_stands_still_is_no_time_of_its_phase() {
        let at = |seconds| Duration::from_secs(seconds);
        let now = Instant::now();
        let limits = Limits { boot: at(60), task: at(10), output_bytes: 0 };
        let mut life = Life::new(limits, now);
        assert!(life.handle_word(Word::Begin, now + at(5)));
        life.handle_still(now + at(8));
        assert_eq!(life.deadline(), None);
        // Said twice, it counts from the first time.
        life.handle_still(now + at(100));
        life.handle_going(now + at(1_008));
        assert_eq!(life.deadline(), Some(now + at(1_015)));
        life.handle_going(now + at(2_000));
        assert_eq!(life.deadline(), Some(now + at(1_015)));
        // And once more: what was left is kept each time.
        life.handle_still(now + at(1_010));
        life.handle_going(now + at(1_020));
        assert_eq!(life.deadline(), Some(now + at(1_025)));
    }

    #[test]
    fn a_time_limit_beyond_all_clocks_is_no_limit() {
        let limits = Limits { boot: Duration::MAX, task: Duration::MAX, output_bytes: u64::MAX };
        assert_eq!(Life::new(limits, Instant::now()).deadline(), None);
    }
}
