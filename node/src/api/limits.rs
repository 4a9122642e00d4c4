//! How fast one caller may ask.
//!
//! Each caller has a bucket of requests that fills with time; one who finds it empty is told when to come back (429 with
//! `Retry-After`). Buckets are bounded in number: when all are in use, further callers share one. Whoever the guard refuses has none:
//! the refusal costs less than the count, and one by address would let anybody on this machine shut its owner out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};
use crate::identity::Caller;

/// Requests a second of the owner's programs together, and how many at once. A node answers fewer on small boards: it is a bound for
/// runaways, not a share.
const OWNER: Rate = Rate { per_s: 5_000, burst: 10_000 };
/// Those of a person.
const PERSON: Rate = Rate { per_s: 200, burst: 400 };
/// Those of all who are not logged in yet, and those of all further ones together.
const REST: Rate = Rate { per_s: 50, burst: 100 };
/// Callers that are told apart; further ones share what one of them has.
const CALLERS_MAX: usize = 1_024;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_s: u32,
    burst: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Owner,
    Person(String),
    /// All who are on their way to a login.
    Nobody,
    /// All for whom there is no bucket of their own.
    Rest,
}

impl Who {
    const fn rate(&self) -> Rate {
        match self {
            Self::Owner => OWNER,
            Self::Person(_) => PERSON,
            Self::Nobody | Self::Rest => REST,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of a request.
    milli: u64,
    filled: Instant,
}

/// What is left to each caller.
#[derive(Debug, Default)]
pub(super) struct Limits {
    buckets: Mutex<BTreeMap<Who, Bucket>>,
}

impl Limits {
    /// Takes a request, or says in how many seconds one is there.
    fn take(&self, who: Who, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let who = room(&mut buckets, who, now);
        let rate = who.rate();
        let full = u64::from(rate.burst) * 1_000;
        let bucket = buckets.entry(who).or_insert(Bucket { milli: full, filled: now });
        fill(bucket, rate, now);
        if bucket.milli >= 1_000 {
            bucket.milli -= 1_000;
            return Ok(());
        }
        Err((1_000 - bucket.milli).div_ceil(u64::from(rate.per_s) * 1_000).max(1))
    }
}

fn fill(bucket: &mut Bucket, rate: Rate, now: Instant) {
    let passed = now.saturating_duration_since(bucket.filled).as_micros();
    let gained =
        u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(rate.per_s.into()) / 1_000;
    if gained > 0 {
        bucket.milli = bucket.milli.saturating_add(gained).min(u64::from(rate.burst) * 1_000);
        bucket.filled = now;
    }
}

/// The caller, or everybody else when there is no room for another one.
fn room(buckets: &mut BTreeMap<Who, Bucket>, who: Who, now: Instant) -> Who {
    if buckets.len() < CALLERS_MAX || buckets.contains_key(&who) {
        return who;
    }
    // A full bucket is as good as none.
    buckets.retain(|who, bucket| {
        fill(bucket, who.rate(), now);
        bucket.milli < u64::from(who.rate().burst) * 1_000
    });
    if buckets.len() < CALLERS_MAX { who } else { Who::Rest }
}

fn too_fast(seconds: u64) -> Response {
    let detail = format!("more requests than are taken: come back in {seconds} s");
    let mut response = Problem::new(Code::TooFast, detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Keeps those in bounds whom the guard has let in. It stands behind the guard.
pub(super) async fn admitted(
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Response {
    let who = match request.extensions().get::<Caller>() {
        None => Who::Nobody,
        Some(Caller::Owner) => Who::Owner,
        Some(Caller::Person(person)) => {
            Who::Person(format!("{} {} {}", person.org, person.issuer, person.subject))
        }
    };
    match limits.take(who, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(seconds) => too_fast(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn person(n: usize) -> Who {
        Who::Person(n.to_string())
    }

    #[test]
    fn who_asks_too_fast_waits_and_others_do_not() {
        let (limits, start) = (Limits::default(), Instant::now());
        for _ in 0..PERSON.burst {
            assert_eq!(limits.take(person(1), start), Ok(()));
        }
        assert_eq!(limits.take(person(1), start), Err(1));
        assert_eq!(limits.take(Who::Owner, start), Ok(()));
        assert_eq!(limits.take(person(2), start), Ok(()));
        let later = start + Duration::from_millis(1_000 / u64::from(PERSON.per_s));
        assert_eq!(limits.take(person(1), later), Ok(()));
        assert_eq!(limits.take(person(1), later), Err(1));
    }

    #[test]
    fn callers_without_end_take_bounded_memory_and_share_a_bucket() {
        let (limits, start) = (Limits::default(), Instant::now());
        for n in 0..CALLERS_MAX + REST.burst as usize {
            assert_eq!(limits.take(person(n), start), Ok(()), "{n}");
        }
        assert_eq!(limits.buckets.lock().unwrap().len(), CALLERS_MAX + 1);
        assert_eq!(limits.take(person(CALLERS_MAX + 500), start), Err(1));
        // Those who have not asked for a while make room.
        let later = start + Duration::from_secs(60);
        assert_eq!(limits.take(person(CALLERS_MAX + 500), later), Ok(()));
        assert_eq!(limits.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn who_is_too_fast_is_told_when_to_come_back() {
        let response = too_fast(3);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
