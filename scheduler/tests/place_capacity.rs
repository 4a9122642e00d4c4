//! Capacity: a model test against a naive reference, and the edges one by one.

use proptest::prelude::*;
use scheduler::capacity::{Amounts, Capacity, Dimension, ReservationId, ReserveError};
use scheduler::task::Needs;

const TOTAL: Amounts =
    Amounts { cpu_milli: 4000, memory_bytes: 1000, disk_bytes: 1000, tasks_max: 4 };

fn id(n: u8) -> ReservationId {
    ReservationId::from_bytes([n; 16])
}

fn needs(cpu_milli: u64, memory_bytes: u64, disk_bytes: u64) -> Needs {
    Needs { cpu_milli, memory_bytes, disk_bytes, ..Needs::default() }
}

// ---- the model: a list, summed anew at each step

#[derive(Clone, Debug)]
struct Held {
    id: ReservationId,
    needs: Needs,
    lease_until_ms: Option<u64>,
}

#[derive(Default)]
struct Model {
    held: Vec<Held>,
}

impl Model {
    fn sum(&self, part: impl Fn(&Needs) -> u64) -> u64 {
        self.held.iter().map(|held| part(&held.needs)).sum()
    }

    fn fits(&self, needs: &Needs) -> bool {
        let within = |part: fn(&Needs) -> u64, total| {
            u128::from(self.sum(part)) + u128::from(part(needs)) <= u128::from(total)
        };
        within(|n| n.cpu_milli, TOTAL.cpu_milli)
            && within(|n| n.memory_bytes, TOTAL.memory_bytes)
            && within(|n| n.disk_bytes, TOTAL.disk_bytes)
            && self.held.len() < TOTAL.tasks_max as usize
    }

    fn find(&mut self, id: ReservationId) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.id == id)
    }

    fn expire(&mut self, now_ms: u64) -> Vec<ReservationId> {
        let ended = |held: &Held| held.lease_until_ms.is_some_and(|until| until <= now_ms);
        let mut gone: Vec<_> =
            self.held.iter().filter(|h| ended(h)).map(|h| (h.lease_until_ms, h.id)).collect();
        gone.sort_unstable();
        self.held.retain(|held| !ended(held));
        gone.into_iter().map(|(_, id)| id).collect()
    }
}

#[derive(Clone, Debug)]
enum Action {
    Reserve(u8, Needs, u64),
    Confirm(u8),
    Renew(u8, u64),
    Release(u8),
    Expire(u64),
}

fn arb_action() -> impl Strategy<Value = Action> {
    let amount = |usual: u64| prop_oneof![12 => 0..=usual, 1 => any::<u64>()];
    let needs_ = (amount(2500), amount(600), amount(600)).prop_map(|(c, m, d)| needs(c, m, d));
    let when = || 0..100_u64;
    prop_oneof![
        4 => (0..8_u8, needs_, when()).prop_map(|(n, needs, until)| Action::Reserve(n, needs, until)),
        1 => (0..8_u8).prop_map(Action::Confirm),
        1 => (0..8_u8, when()).prop_map(|(n, until)| Action::Renew(n, until)),
        1 => (0..8_u8).prop_map(Action::Release),
        1 => when().prop_map(Action::Expire),
    ]
}

proptest! {
    #[test]
    fn capacity_does_as_the_naive_model_and_never_promises_more_than_there_is(
        actions in proptest::collection::vec(arb_action(), 0..60)
    ) {
        let (mut capacity, mut model) = (Capacity::new(TOTAL), Model::default());
        for action in actions {
            match action {
                Action::Reserve(n, needs, until) => {
                    let expected = model.find(id(n)).is_none() && model.fits(&needs);
                    prop_assert_eq!(capacity.reserve(id(n), &needs, until).is_ok(), expected);
                    if expected {
                        model.held.push(Held { id: id(n), needs, lease_until_ms: Some(until) });
                    }
                }
                Action::Confirm(n) => {
                    let held = model.find(id(n));
                    prop_assert_eq!(capacity.confirm(id(n)).is_ok(), held.is_some());
                    held.into_iter().for_each(|held| held.lease_until_ms = None);
                }
                Action::Renew(n, until) => {
                    let held = model.find(id(n));
                    prop_assert_eq!(capacity.renew(id(n), until).is_ok(), held.is_some());
                    let lease = held.and_then(|held| held.lease_until_ms.as_mut());
                    lease.into_iter().for_each(|lease| *lease = until);
                }
                Action::Release(n) => {
                    prop_assert_eq!(capacity.release(id(n)), model.find(id(n)).is_some());
                    model.held.retain(|held| held.id != id(n));
                }
                Action::Expire(now_ms) => prop_assert_eq!(capacity.expire(now_ms), model.expire(now_ms)),
            }
            let free = Amounts {
                cpu_milli: TOTAL.cpu_milli - model.sum(|n| n.cpu_milli),
                memory_bytes: TOTAL.memory_bytes - model.sum(|n| n.memory_bytes),
                disk_bytes: TOTAL.disk_bytes - model.sum(|n| n.disk_bytes),
                tasks_max: TOTAL.tasks_max - u32::try_from(model.held.len()).unwrap(),
            };
            prop_assert_eq!(capacity.free(), free);
            prop_assert_eq!(capacity.next_expiry(), model.held.iter().filter_map(|h| h.lease_until_ms).min());
            prop_assert!((0..8).all(|n| capacity.holds(id(n)) == model.find(id(n)).is_some()));
        }
        for n in 0..8 {
            capacity.release(id(n));
        }
        prop_assert_eq!(capacity.free(), TOTAL);
    }
}

// ---- one by one

#[test]
fn a_lease_ends_at_its_time_and_not_before() {
    let mut capacity = Capacity::new(TOTAL);
    capacity.reserve(id(1), &needs(4000, 1, 1), 10).unwrap();
    assert_eq!(capacity.expire(9), []);
    assert_eq!(capacity.expire(10), [id(1)]);
    assert_eq!(capacity.free(), TOTAL);
}

#[test]
fn a_confirmed_reservation_outlives_its_lease() {
    let mut capacity = Capacity::new(TOTAL);
    capacity.reserve(id(1), &needs(4000, 1, 1), 10).unwrap();
    capacity.confirm(id(1)).unwrap();
    capacity.confirm(id(1)).unwrap();
    capacity.renew(id(1), 20).unwrap();
    assert_eq!(capacity.next_expiry(), None);
    assert_eq!(capacity.expire(u64::MAX), []);
    assert!(capacity.holds(id(1)));
    assert!(capacity.release(id(1)));
    assert!(!capacity.release(id(1)));
}

#[test]
fn what_is_short_is_named_and_whether_for_good() {
    let mut capacity = Capacity::new(TOTAL);
    capacity.reserve(id(1), &needs(3000, 900, 1), 10).unwrap();
    let short = |needs: &Needs| capacity.clone().reserve(id(2), needs, 10).unwrap_err();
    let busy = short(&needs(2000, 1, 1));
    assert_eq!(busy.to_string(), "2000 thousandths of a core needed, 1000 of 4000 are free");
    assert!(!busy.is_lasting());
    // Cores are short for now, disk for good: the one that waiting does not cure is told.
    let never = short(&needs(2000, 1, 1001));
    assert!(matches!(
        never,
        ReserveError::Full { what: Dimension::Disk, free: 999, total: 1000, .. }
    ));
    assert!(never.is_lasting());
}

#[test]
fn task_slots_bound_the_number_of_reservations() {
    let mut capacity = Capacity::new(TOTAL);
    for n in 0..4 {
        capacity.reserve(id(n), &needs(0, 0, 0), 10).unwrap();
    }
    let full = capacity.reserve(id(4), &needs(0, 0, 0), 10).unwrap_err();
    assert_eq!(full.to_string(), "1 task slots needed, 0 of 4 are free");
}

#[test]
fn an_id_is_reserved_once_and_the_unknown_is_refused() {
    let mut capacity = Capacity::new(TOTAL);
    capacity.reserve(id(1), &needs(1, 1, 1), 10).unwrap();
    let again = capacity.reserve(id(1), &needs(1, 1, 1), 10);
    assert_eq!(again, Err(ReserveError::Exists { id: id(1) }));
    assert_eq!(capacity.free().cpu_milli, 3999);
    assert_eq!(capacity.confirm(id(2)).unwrap_err().id, id(2));
    assert_eq!(capacity.renew(id(2), 5).unwrap_err().id, id(2));
}
