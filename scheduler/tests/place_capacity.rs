//! Capacity: a model test against a naive reference, and the edges one by one.

use std::collections::BTreeSet;

use proptest::prelude::*;
use scheduler::capacity::{Amounts, Capacity, Dimension, ReservationId, ReserveError};
use scheduler::device::Counts;
use scheduler::task::Needs;

const TOTAL: Amounts =
    Amounts { cpu_milli: 4000, memory_bytes: 1000, disk_bytes: 1000, tasks_max: 4 };

fn id(n: u8) -> ReservationId {
    ReservationId::from_bytes([n; 16])
}

/// What there is of each name.
const DEVICES: [(&str, u32); 2] = [("fpga", 1), ("gpu", 3)];

fn devices(of: [(&str, u32); 2]) -> Counts {
    of.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

fn whole() -> Capacity {
    Capacity::new(TOTAL).with_devices(devices(DEVICES))
}

fn needs(cpu_milli: u64, memory_bytes: u64, disk_bytes: u64) -> Needs {
    Needs { cpu_milli, memory_bytes, disk_bytes, ..Needs::default() }
}

// ---- the model: a list, summed anew at each step

#[derive(Clone, Debug)]
struct Held {
    id: ReservationId,
    /// What it holds now.
    needs: Needs,
    /// What it held before it was suspended, if it is.
    before: Option<Needs>,
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

    fn n_held(&self, name: &str) -> u64 {
        self.sum(|needs| needs.devices.get(name).map_or(0, |n| u64::from(*n)))
    }

    fn n_running(&self) -> u32 {
        u32::try_from(self.held.iter().filter(|held| held.before.is_none()).count())
            .expect("fewer are held than 2^32")
    }

    fn suspend(&mut self, id: ReservationId) -> bool {
        let Some(held) = self.find(id) else { return false };
        if held.before.is_none() {
            let disk_bytes = held.needs.disk_bytes;
            held.before = Some(std::mem::replace(&mut held.needs, needs(0, 0, disk_bytes)));
        }
        true
    }

    fn resume(&mut self, id: ReservationId) -> bool {
        let Some(held) = self.find(id) else { return false };
        let Some(before) = held.before.clone() else { return true };
        // Its disk it has.
        let fits = self.fits(&Needs { disk_bytes: 0, ..before.clone() });
        if let Some(held) = self.find(id).filter(|_| fits) {
            (held.needs, held.before) = (before, None);
        }
        fits
    }

    fn fits(&self, needs: &Needs) -> bool {
        let within = |part: fn(&Needs) -> u64, total| {
            u128::from(self.sum(part)) + u128::from(part(needs)) <= u128::from(total)
        };
        within(|n| n.cpu_milli, TOTAL.cpu_milli)
            && within(|n| n.memory_bytes, TOTAL.memory_bytes)
            && within(|n| n.disk_bytes, TOTAL.disk_bytes)
            && self.n_running() < TOTAL.tasks_max
            && DEVICES.iter().all(|(name, total)| {
                self.n_held(name) + needs.devices.get(*name).map_or(0, |n| u64::from(*n))
                    <= (*total).into()
            })
            && needs.devices.keys().all(|name| DEVICES.iter().any(|(known, _)| known == name))
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
    Suspend(u8),
    Resume(u8),
    Expire(u64),
}

fn arb_action() -> impl Strategy<Value = Action> {
    let amount = |usual: u64| prop_oneof![12 => 0..=usual, 1 => any::<u64>()];
    let asked = (0..3_u32, 0..4_u32, prop_oneof![20 => Just(false), 1 => Just(true)]).prop_map(
        |(fpga, gpu, unknown)| {
            let mut asked = devices([("fpga", fpga / 2), ("gpu", gpu)]);
            asked.extend(unknown.then(|| ("tpu".to_owned(), 1)));
            asked
        },
    );
    let needs_ = (amount(2500), amount(600), amount(600), asked)
        .prop_map(|(c, m, d, devices)| Needs { devices, ..needs(c, m, d) });
    let when = || 0..100_u64;
    prop_oneof![
        4 => (0..8_u8, needs_, when()).prop_map(|(n, needs, until)| Action::Reserve(n, needs, until)),
        1 => (0..8_u8).prop_map(Action::Confirm),
        1 => (0..8_u8, when()).prop_map(|(n, until)| Action::Renew(n, until)),
        1 => (0..8_u8).prop_map(Action::Release),
        2 => (0..8_u8).prop_map(Action::Suspend),
        2 => (0..8_u8).prop_map(Action::Resume),
        1 => when().prop_map(Action::Expire),
    ]
}

proptest! {
    #[test]
    fn capacity_does_as_the_naive_model_and_never_promises_more_than_there_is(
        actions in proptest::collection::vec(arb_action(), 0..60)
    ) {
        let (mut capacity, mut model) = (whole(), Model::default());
        for action in actions {
            match action {
                Action::Reserve(n, needs, until) => {
                    let expected = model.find(id(n)).is_none() && model.fits(&needs);
                    prop_assert_eq!(capacity.reserve(id(n), &needs, until).is_ok(), expected);
                    if expected {
                        let lease_until_ms = Some(until);
                        model.held.push(Held { id: id(n), needs, before: None, lease_until_ms });
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
                Action::Suspend(n) => {
                    prop_assert_eq!(capacity.suspend(id(n)).is_ok(), model.suspend(id(n)));
                }
                Action::Resume(n) => {
                    prop_assert_eq!(capacity.resume(id(n)).is_ok(), model.resume(id(n)));
                }
                Action::Expire(now_ms) => prop_assert_eq!(capacity.expire(now_ms), model.expire(now_ms)),
            }
            let free = Amounts {
                cpu_milli: TOTAL.cpu_milli - model.sum(|n| n.cpu_milli),
                memory_bytes: TOTAL.memory_bytes - model.sum(|n| n.memory_bytes),
                disk_bytes: TOTAL.disk_bytes - model.sum(|n| n.disk_bytes),
                tasks_max: TOTAL.tasks_max - model.n_running(),
            };
            prop_assert_eq!(capacity.free(), free);
            // Nobody has what another has, everybody has what it asked for, and what is left is free.
            let mut taken = BTreeSet::new();
            for held in &model.held {
                let devices = capacity.devices_of(held.id);
                for (name, units) in &devices {
                    prop_assert!(units.iter().all(|unit| taken.insert((name.clone(), *unit))), "{name} {units:?}");
                }
                let counts: Counts =
                    devices.into_iter().map(|(name, units)| (name, u32::try_from(units.len()).unwrap())).collect();
                prop_assert_eq!(&counts, &held.needs.devices);
            }
            for (name, total) in DEVICES {
                prop_assert_eq!(u64::from(capacity.devices_free()[name]), u64::from(total) - model.n_held(name));
                prop_assert!(taken.iter().all(|(of, unit)| of != name || *unit < total));
            }
            prop_assert_eq!(capacity.next_expiry(), model.held.iter().filter_map(|h| h.lease_until_ms).min());
            prop_assert!((0..8).all(|n| capacity.holds(id(n)) == model.find(id(n)).is_some()));
        }
        for n in 0..8 {
            capacity.release(id(n));
            prop_assert!(capacity.devices_of(id(n)).is_empty());
        }
        prop_assert_eq!(capacity.free(), TOTAL);
        prop_assert_eq!(capacity.devices_free(), devices(DEVICES));
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

#[test]
fn a_device_is_free_again_when_its_lease_ends_and_not_before() {
    let mut capacity = whole();
    let wanted = Needs { devices: devices([("fpga", 1), ("gpu", 2)]), ..needs(1, 1, 1) };
    capacity.reserve(id(1), &wanted, 10).unwrap();
    let busy = capacity.reserve(id(2), &wanted, 10).unwrap_err();
    assert_eq!(busy.to_string(), "1 of device `fpga` needed, 0 of 1 are free");
    assert!(!busy.is_lasting());
    assert_eq!(capacity.free().cpu_milli, 3999, "a refusal takes nothing");
    capacity.confirm(id(1)).unwrap();
    assert_eq!(capacity.expire(u64::MAX), []);
    capacity.reserve(id(2), &wanted, 10).unwrap_err();
    assert!(capacity.release(id(1)));
    capacity.reserve(id(2), &wanted, 10).unwrap();
    assert_eq!(capacity.expire(10), [id(2)]);
    assert_eq!(capacity.devices_free(), devices(DEVICES));
}

#[test]
fn a_device_that_is_not_there_is_told_before_what_is_short_for_now() {
    let mut capacity = whole();
    capacity.reserve(id(1), &needs(4000, 1, 1), 10).unwrap();
    let more = Needs { devices: devices([("fpga", 2), ("gpu", 0)]), ..needs(1, 1, 1) };
    let never = capacity.reserve(id(2), &more, 10).unwrap_err();
    assert_eq!(never.to_string(), "2 of device `fpga` needed, 1 of 1 are free");
    assert!(never.is_lasting());
}
