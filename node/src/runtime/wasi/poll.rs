//! Waiting, as preview 1 guests do it.
//!
//! This replaces wasmtime-wasi's `poll_oneoff`. File calls of a guest run on its own thread, and where they may, that
//! function sleeps on the thread too, so that a sleeping guest could not be stopped. Components wait through
//! `wasi:io/poll`, which does not block.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::HostMonotonicClock;

use super::guest::Guest;

/// Most things waited for at once; more are refused with `inval`.
const SUBSCRIPTIONS_MAX: u32 = 4096;
/// Lengths of the two structures in the guest's memory (preview 1, `typenames.witx`).
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
/// Kinds of event, `eventtype`.
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
/// Clocks, `clockid`.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
/// Flag of a clock subscription whose time is a moment instead of a duration.
const ABSOLUTE: u16 = 1;

/// Error numbers, `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Errno {
    Success = 0,
    Fault = 21,
    Inval = 28,
}

/// A guest's monotonic clock: nanoseconds since it started.
#[derive(Clone, Copy, Debug)]
pub(super) struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock that reads 0.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

impl HostMonotonicClock for MonotonicClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Puts the function in the place of wasmtime-wasi's.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "poll_oneoff",
        |caller: Caller<'_, Guest>, (subs, events, n_subs, n_events): (u32, u32, u32, u32)| {
            Box::new(
                async move { poll_oneoff(caller, subs, events, n_subs, n_events).await as i32 },
            )
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What a guest waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subscription {
    userdata: [u8; 8],
    kind: u8,
    /// How long to wait; `Err` is reported as the event's error.
    wait: Result<Duration, Errno>,
}

async fn poll_oneoff(
    mut caller: Caller<'_, Guest>,
    subs: u32,
    events: u32,
    n_subs: u32,
    n_events: u32,
) -> Errno {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Errno::Fault;
    };
    if n_subs == 0 || n_subs > SUBSCRIPTIONS_MAX {
        return Errno::Inval;
    }
    let clock = caller.data().clock;
    let Some(parsed) = slice(memory.data(&caller), subs, n_subs as usize * SUBSCRIPTION_BYTES)
        .map(|bytes| parse(bytes, &clock))
    else {
        return Errno::Fault;
    };
    let shortest = parsed.iter().map(|sub| sub.wait.unwrap_or_default()).min().unwrap_or_default();
    if !shortest.is_zero() {
        tokio::time::sleep(shortest).await;
    }
    let happened: Vec<_> = parsed
        .iter()
        .filter(|sub| sub.wait.is_ok_and(|wait| wait <= shortest) || sub.wait.is_err())
        .collect();
    let bytes = happened.iter().flat_map(|sub| event(sub)).collect::<Arc<[u8]>>();
    let n_happened = u32::try_from(happened.len()).unwrap_or(u32::MAX);
    let written = memory.write(&mut caller, events as usize, &bytes).is_ok()
        && memory.write(&mut caller, n_events as usize, &n_happened.to_le_bytes()).is_ok();
    if written { Errno::Success } else { Errno::Fault }
}

fn slice(memory: &[u8], at: u32, len: usize) -> Option<&[u8]> {
    memory.get(at as usize..)?.get(..len)
}

fn parse(bytes: &[u8], clock: &MonotonicClock) -> Vec<Subscription> {
    bytes.chunks_exact(SUBSCRIPTION_BYTES).map(|bytes| subscription(bytes, clock)).collect()
}

fn subscription(bytes: &[u8], clock: &MonotonicClock) -> Subscription {
    let kind = bytes[8];
    let wait = match kind {
        CLOCK => clock_wait(bytes, clock),
        // Files and the standard streams of a guest never keep it waiting.
        FD_READ | FD_WRITE => Ok(Duration::ZERO),
        _ => Err(Errno::Inval),
    };
    Subscription { userdata: array(bytes, 0), kind, wait }
}

fn clock_wait(bytes: &[u8], clock: &MonotonicClock) -> Result<Duration, Errno> {
    let time = u64::from_le_bytes(array(bytes, 24));
    let is_absolute = u16::from_le_bytes(array(bytes, 40)) & ABSOLUTE != 0;
    let now = match u32::from_le_bytes(array(bytes, 16)) {
        REALTIME => {
            let since =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        }
        MONOTONIC => clock.now(),
        _ => return Err(Errno::Inval),
    };
    Ok(Duration::from_nanos(if is_absolute { time.saturating_sub(now) } else { time }))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn event(sub: &Subscription) -> [u8; EVENT_BYTES] {
    let mut out = [0; EVENT_BYTES];
    out[..8].copy_from_slice(&sub.userdata);
    let errno = sub.wait.err().unwrap_or(Errno::Success) as u16;
    out[8..10].copy_from_slice(&errno.to_le_bytes());
    out[10] = sub.kind;
    // Bytes that can be read or written at least.
    out[16] = u8::from(sub.kind != CLOCK);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, clock: u32, time: u64, flags: u16) -> [u8; SUBSCRIPTION_BYTES] {
        let mut bytes = [0; SUBSCRIPTION_BYTES];
        bytes[..8].copy_from_slice(&[9; 8]);
        bytes[8] = kind;
        bytes[16..20].copy_from_slice(&clock.to_le_bytes());
        bytes[24..32].copy_from_slice(&time.to_le_bytes());
        bytes[40..42].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    fn wait(bytes: &[u8]) -> Result<Duration, Errno> {
        subscription(bytes, &MonotonicClock::start()).wait
    }

    #[test]
    fn durations_moments_and_files_are_told_apart() {
        assert_eq!(wait(&raw(CLOCK, MONOTONIC, 5, 0)), Ok(Duration::from_nanos(5)));
        assert_eq!(wait(&raw(CLOCK, REALTIME, 5, ABSOLUTE)), Ok(Duration::ZERO));
        assert!(
            wait(&raw(CLOCK, MONOTONIC, u64::MAX, ABSOLUTE)).unwrap()
                > Duration::from_secs(1 << 33)
        );
        assert_eq!(wait(&raw(CLOCK, 2, 5, 0)), Err(Errno::Inval));
        assert_eq!(wait(&raw(FD_WRITE, 0, 5, 0)), Ok(Duration::ZERO));
        assert_eq!(wait(&raw(3, 0, 5, 0)), Err(Errno::Inval));
    }

    #[test]
    fn an_event_names_its_subscription_and_error() {
        let sub = subscription(&raw(CLOCK, 7, 0, 0), &MonotonicClock::start());
        let event = event(&sub);
        assert_eq!((&event[..8], event[8], event[10], event[16]), (&[9; 8][..], 28, CLOCK, 0));
    }

    #[test]
    fn a_list_outside_of_memory_is_refused() {
        assert!(slice(&[0; 100], 60, 48).is_none());
        assert!(slice(&[0; 100], u32::MAX, 48).is_none());
        assert!(slice(&[0; 100], 52, 48).is_some());
    }
}
