//! How a task ended, by all that is known of its machine. Pure.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use super::chan::{self, Console};
use super::fault;
use super::image::InvalidMachine;
use super::life::{Phase, Why};
use crate::runtime::{Exit, Trap, TrapKind, bounded};

/// The signal that ends a process that writes a file beyond its limit.
const SIGXFSZ: i32 = 25;
/// Characters of the console in a failure's detail.
const CONSOLE_CHARS: usize = 1_500;

/// Why a machine's end was not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    /// Its phase lasted too long.
    Late,
    /// The network that it was granted is gone.
    Offline,
}

/// How a machine's process came to its end.
pub(super) struct End {
    pub(super) stop: Option<Stop>,
    /// How QEMU ended, if it did so by itself.
    pub(super) status: Option<ExitStatus>,
    pub(super) is_starved: bool,
    pub(super) said: String,
}

impl End {
    /// That of a machine which has no process to end.
    pub(super) const fn of(stop: Stop) -> Self {
        Self { stop: Some(stop), status: None, is_starved: false, said: String::new() }
    }
}

/// How a task ended, by what is known of its machine.
pub(super) fn verdict(phase: &Phase, end: &End, console: &Console, boot_timeout: Duration) -> Exit {
    let no_start = |what: String| {
        let console = console.tail(CONSOLE_CHARS);
        Exit::InvalidMachine(InvalidMachine::NoStart { what, console })
    };
    match (end.stop, phase) {
        (Some(Stop::Cancelled), _) => return Exit::Cancelled,
        (Some(Stop::Offline), _) => {
            let said = "what leads elsewhere has ended by itself";
            return Exit::Host(fault("keep the machine's network", said));
        }
        (Some(Stop::Late), Phase::Booting) => {
            return no_start(format!("was not ready within {} s", boot_timeout.as_secs()));
        }
        (Some(Stop::Late), Phase::Running) => return Exit::Timeout,
        (Some(Stop::Late), _) => {
            let said = "the machine does not finish writing its output".to_owned();
            return trap(TrapKind::HostCall, said);
        }
        (None, _) => {}
    }
    if let Phase::Done { code, why, tar, text } = phase {
        return said(*code, *why, *tar, text);
    }
    let status = end.status.unwrap_or_default();
    if end.is_starved {
        return Exit::OutOfMemory;
    }
    if status.signal() == Some(SIGXFSZ) {
        return Exit::DiskQuota;
    }
    if !status.success() {
        let said = if end.said.is_empty() { status.to_string() } else { end.said.clone() };
        return Exit::Host(fault("keep qemu running", said));
    }
    let is_panic = console.has(chan::PANIC);
    if is_panic && console.has("System is deadlocked on memory") {
        return Exit::OutOfMemory;
    }
    let what = if is_panic { "panicked" } else { "shut down" };
    if *phase == Phase::Booting {
        return no_start(what.to_owned());
    }
    let console = console.tail(CONSOLE_CHARS);
    trap(TrapKind::Other, format!("{console}\nthe machine {what} before its task had ended"))
}

/// How a task ended whose machine has said all.
fn said(code: i32, why: Why, tar: i32, text: &str) -> Exit {
    match (code, why) {
        (0, _) if tar == 0 => Exit::Code(0),
        (_, _) if tar != 0 && text.contains("No space left") => Exit::DiskQuota,
        (0, _) => {
            trap(TrapKind::HostCall, format!("the machine cannot write its output: {text} ({tar})"))
        }
        // A task that fails after it was refused memory or space fails for that reason.
        (_, Why::Memory) => Exit::OutOfMemory,
        (_, Why::Disk) => Exit::DiskQuota,
        (code, Why::Itself) => Exit::Code(code),
    }
}

pub(super) fn trap(kind: TrapKind, detail: String) -> Exit {
    Exit::Trap(Trap { kind, detail: bounded(detail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(stop: Option<Stop>, raw_status: i32) -> End {
        let status = Some(ExitStatus::from_raw(raw_status));
        End { stop, status, is_starved: false, said: "qemu: no".to_owned() }
    }

    fn of(phase: &Phase, end: &End, console: &str) -> Exit {
        let kept = Console::default();
        kept.push(console.as_bytes());
        verdict(phase, end, &kept, Duration::from_secs(7))
    }

    fn done(code: i32, why: Why, tar: i32, text: &str) -> Phase {
        Phase::Done { code, why, tar, text: text.to_owned() }
    }

    #[test]
    fn a_machine_that_has_said_all_is_believed_about_its_own_task() {
        let end = End { stop: None, status: None, is_starved: false, said: String::new() };
        for (phase, expected) in [
            (done(0, Why::Itself, 0, ""), Exit::Code(0)),
            (done(0, Why::Memory, 0, ""), Exit::Code(0)),
            (done(3, Why::Itself, 0, ""), Exit::Code(3)),
            (done(137, Why::Memory, 0, ""), Exit::OutOfMemory),
            (done(1, Why::Disk, 0, ""), Exit::DiskQuota),
            (done(0, Why::Itself, 1, "tar: out: No space left on device"), Exit::DiskQuota),
            (done(3, Why::Itself, 2, "tar: broken"), Exit::Code(3)),
        ] {
            assert_eq!(of(&phase, &end, ""), expected, "{phase:?}");
        }
        let exit = of(&done(0, Why::Itself, 2, "tar: broken"), &end, "");
        assert_eq!(exit.to_string(), "trap: the machine cannot write its output: tar: broken (2)");
    }

    #[test]
    fn who_stopped_a_machine_decides() {
        let booting = of(&Phase::Booting, &end(Some(Stop::Late), 0), "boot\n");
        let Exit::InvalidMachine(InvalidMachine::NoStart { what, console }) = booting else {
            panic!("{booting:?}");
        };
        assert_eq!((what.as_str(), console.as_str()), ("was not ready within 7 s", "boot"));
        assert_eq!(of(&Phase::Running, &end(Some(Stop::Late), 9), ""), Exit::Timeout);
        for phase in [Phase::Booting, Phase::Running, done(0, Why::Itself, 0, "")] {
            assert_eq!(of(&phase, &end(Some(Stop::Cancelled), 9), ""), Exit::Cancelled);
        }
        let ended = Phase::Ended { code: 0, why: Why::Itself };
        assert!(matches!(of(&ended, &end(Some(Stop::Late), 9), ""), Exit::Trap(_)));
        assert!(matches!(of(&Phase::Running, &end(Some(Stop::Offline), 9), ""), Exit::Host(_)));
    }

    #[test]
    fn an_end_without_words_is_explained_by_what_is_left() {
        let killed = |signal| of(&Phase::Running, &end(None, signal), "");
        assert_eq!(killed(SIGXFSZ), Exit::DiskQuota);
        assert!(matches!(killed(11), Exit::Host(_)));
        let starved = End { is_starved: true, ..end(None, 9) };
        assert_eq!(of(&Phase::Running, &starved, ""), Exit::OutOfMemory);
        // QEMU itself ended well: the machine has gone down.
        let clean = end(None, 0);
        let deadlock = "Kernel panic - not syncing: System is deadlocked on memory\n";
        assert_eq!(of(&Phase::Running, &clean, deadlock), Exit::OutOfMemory);
        let exit = of(&Phase::Running, &clean, "bye\n");
        assert_eq!(exit.to_string(), "trap: the machine shut down before its task had ended");
        let exit = of(&Phase::Booting, &clean, "Kernel panic - not syncing: no init\n");
        assert!(exit.to_string().starts_with("the machine panicked before its task began"));
    }
}
