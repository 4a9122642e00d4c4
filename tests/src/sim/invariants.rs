//! What must hold in every world, after every step, and once it is at rest.

use std::collections::{BTreeMap, BTreeSet};

use accounting::channel::{Channel, ChannelState};
use accounting::lane::{Lane, LaneState};
use node::engine::{Effect, Effects};
use scheduler::run::{Ending, Event, EventBody};
use scheduler::task::RunId;

use super::World;

/// Checked after each step of node `at`, before its effects happen.
///
/// # Errors
/// What is broken.
pub fn after_step(world: &World, at: usize, effects: &Effects) -> Result<(), String> {
    for effect in &effects.list {
        if let Effect::Start { attempt, .. } = effect {
            has_agreement(world, at, *attempt)?;
        }
    }
    let Some(engine) = world.nodes[at].engine.as_ref() else {
        return Ok(());
    };
    let capacity = engine.inspect().capacity();
    let (free, total) = (capacity.free(), capacity.total());
    if free.cpu_milli > total.cpu_milli || free.memory_bytes > total.memory_bytes {
        return Err(format!("node {at} has more free than it has"));
    }
    let used: u64 = world.nodes[at].tasks.values().map(|t| t.spec.needs.cpu_milli).sum();
    if used > total.cpu_milli {
        return Err(format!("node {at} runs {used} of {} milli-cores", total.cpu_milli));
    }
    for channel in engine.inspect().channels() {
        // A lane closed as the provider's fault costs nothing; until the consumer signs for that, more is earned than claimed.
        let is_overdrawn = channel.lanes().any(|(_, lane)| {
            lane.earned > lane.claimed && lane.end.as_ref().is_none_or(|end| end.acked)
        });
        if is_overdrawn {
            return Err(format!("node {at}: more earned than claimed"));
        }
        if let Some(proof) = channel.frozen() {
            let signed = |bytes: &[u8]| accounting::SignedEntry::open(bytes, &proof.signer);
            let (first, second) = (signed(&proof.first), signed(&proof.second));
            return Err(format!(
                "node {at} has proof that {} signed twice: {first:?} and {second:?}",
                world.index.get(&proof.signer).copied().unwrap_or(usize::MAX)
            ));
        }
    }
    Ok(())
}

/// No task of a durable log commits twice, and what commits is the attempt that was running.
fn commits_once(run: RunId, events: &[Event]) -> Result<(), String> {
    let mut running = BTreeMap::new();
    let mut committed = BTreeSet::new();
    for event in events {
        match &event.body {
            EventBody::AttemptStarted { task, number, .. } => {
                running.insert(*task, *number);
            }
            EventBody::TaskCommitted { task, number, .. }
                if running.get(task) != Some(number) || !committed.insert(*task) =>
            {
                return Err(format!(
                    "{run}: attempt {number} of {task:?} committed, which was not to"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// No work starts for another node without both signatures.
fn has_agreement(
    world: &World,
    at: usize,
    attempt: scheduler::task::AttemptId,
) -> Result<(), String> {
    let Some(engine) = world.nodes[at].engine.as_ref() else {
        return Ok(());
    };
    let Some((_, consumer)) = engine.inspect().active().find(|(a, _)| *a == attempt) else {
        return Err(format!("node {at} starts {attempt}, which it does not know"));
    };
    if consumer == engine.me() {
        return Ok(());
    }
    let is_agreed = engine.inspect().channels().any(|channel| {
        channel.consumer() == consumer
            && channel.lanes().any(|(_, lane)| {
                lane.work().run == *attempt.run.as_bytes()
                    && lane.work().step == attempt.task.step
                    && lane.work().index == attempt.task.index
                    && lane.work().attempt == attempt.number
                    && lane.state() == LaneState::Active
            })
    });
    if is_agreed {
        Ok(())
    } else {
        Err(format!("node {at} starts {attempt} without an agreement of both sides"))
    }
}

/// No attempt has two lanes that cost something.
fn is_billed_once(sides: &[&Channel]) -> Result<(), String> {
    let mut billed = BTreeSet::new();
    let Some(channel) = sides.first() else {
        return Ok(());
    };
    for (_, lane) in channel.lanes() {
        if lane.claimed > catalog::Amount::ZERO && !billed.insert(*lane.work()) {
            return Err(format!("{:?} is billed twice", lane.work()));
        }
    }
    Ok(())
}

/// Both sides of every channel.
fn pairs(world: &World) -> BTreeMap<[u8; 32], Vec<&Channel>> {
    let mut pairs: BTreeMap<[u8; 32], Vec<&Channel>> = BTreeMap::new();
    for engine in world.nodes.iter().filter_map(|n| n.engine.as_ref()) {
        for channel in engine.inspect().channels() {
            pairs.entry(*channel.id()).or_default().push(channel);
        }
    }
    pairs
}

/// Whether one side goes on in a channel that the other does not know.
#[must_use]
pub fn is_any_forgotten(world: &World) -> bool {
    pairs(world).values().any(|sides| match sides.as_slice() {
        [only] => only.state() != ChannelState::Opening,
        _ => false,
    })
}

/// Whether every provider's books and its consumer's stand at the same entries.
#[must_use]
pub fn are_books_even(world: &World) -> bool {
    pairs(world).values().all(|sides| match sides.as_slice() {
        [a, b] => a.own_head() == b.peer_head() && b.own_head() == a.peer_head(),
        _ => false,
    })
}

/// What still goes on at each node: attempts, tasks, reserved capacity, and lanes that are active on both sides. Empty when
/// all have let go; asked once every run has ended.
#[must_use]
pub fn left_running(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for (at, node) in world.nodes.iter().enumerate() {
        left.extend(node.tasks.keys().map(|attempt| format!("node {at} runs {attempt}")));
        let Some(engine) = node.engine.as_ref() else {
            left.push(format!("node {at} is down"));
            continue;
        };
        left.extend(
            engine.inspect().active().map(|(attempt, _)| format!("node {at} works on {attempt}")),
        );
        let capacity = engine.inspect().capacity();
        let (free, total) = (capacity.free(), capacity.total());
        if free != total {
            left.push(format!("node {at} has only {free:?} of {total:?} free"));
        }
    }
    let is_active =
        |channel: &Channel, lane| channel.lane(lane).map(Lane::state) == Some(LaneState::Active);
    for sides in pairs(world).values() {
        // A channel without its other side makes the books uneven.
        let [a, b] = sides.as_slice() else { continue };
        let both = a.lanes().filter(|(lane, _)| is_active(a, *lane) && is_active(b, *lane));
        left.extend(both.map(|(lane, found)| {
            format!("lane {lane} is active on both sides: {:?}", found.work())
        }));
    }
    left
}

/// Checked when every run has ended, nothing is left running and the books are even.
///
/// # Errors
/// What is broken.
pub fn at_rest(world: &World) -> Result<(), String> {
    for sides in pairs(world).values() {
        is_billed_once(sides)?;
        let [a, b] = sides.as_slice() else {
            return Err("a channel without its other side".to_owned());
        };
        if a.state_hash() != b.state_hash() {
            return Err(format!(
                "the books of {} and {} differ at the same entries",
                a.provider().short(),
                a.consumer().short()
            ));
        }
        if a.earned() != b.earned() || a.claimed() != b.claimed() {
            return Err("the two sides of a channel count different money".to_owned());
        }
        let open = a
            .lanes()
            .find(|(_, lane)| !matches!(lane.state(), LaneState::Closed | LaneState::Refused));
        if let Some((number, lane)) = open {
            let (work, state) = (lane.work(), lane.state());
            return Err(format!("lane {number} is {state:?} at rest: {work:?}"));
        }
    }
    for (run, events) in &world.history {
        commits_once(*run, events)?;
        let n_ends = events.iter().filter(|e| matches!(e.body, EventBody::Finished { .. })).count();
        if n_ends != 1 {
            return Err(format!("{run} ended {n_ends} times"));
        }
        let failed = events.iter().find_map(|e| match &e.body {
            EventBody::Failing { detail, .. } => Some(detail.clone()),
            _ => None,
        });
        let ending = events.iter().rev().find_map(|e| match &e.body {
            EventBody::Finished { ending, .. } => Some(*ending),
            _ => None,
        });
        if ending != Some(Ending::Succeeded) {
            return Err(format!("{run} did not succeed: {failed:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::sim::Plan;

    #[test]
    fn a_world_in_the_middle_of_its_runs_is_not_at_rest_and_one_after_them_is() {
        let plan = Plan { nodes: 8, runs: 6, loss: 0, crashes: 0, restores: 0, ..Plan::ci(1) };
        let mut world = World::new(plan);
        let mut seen = BTreeSet::new();
        while let Some(Reverse((at_ms, seq))) = world.queue.pop() {
            world.now_ms = at_ms;
            let what = world.events.remove(&seq).unwrap();
            world.step(what).unwrap();
            let left = left_running(&world);
            for sign in ["runs", "works on", "only", "active on both sides"] {
                if left.iter().any(|text| text.contains(sign)) {
                    seen.insert(sign);
                }
            }
            if seen.len() == 4 {
                break;
            }
        }
        assert_eq!(seen.len(), 4, "only {seen:?} was noticed");
        world.run().unwrap();
        assert_eq!(left_running(&world), Vec::<String>::new());
    }
}
