//! What a provider has promised: reservations against a fixed whole, with leases.
//!
//! A quote reserves softly: the reservation carries a lease and is freed by [`Capacity::expire`] when nobody comes back.
//! An agreement confirms it; from then on it stays until it is released. One that is suspended keeps its disk alone, and has
//! to ask again for the rest. The sum of all reservations never exceeds the
//! whole in any dimension, whatever the order of the calls, and no device is held by two of them.
//!
//! ```
//! use scheduler::capacity::{Amounts, Capacity, QUOTE_LEASE_MS, ReservationId};
//! use scheduler::task::Needs;
//!
//! let whole = Amounts { cpu_milli: 2000, memory_bytes: 4 << 30, disk_bytes: 8 << 30, tasks_max: 8 };
//! let mut capacity = Capacity::new(whole);
//! let id = ReservationId::from_bytes([1; 16]);
//! let now_ms = 1_000;
//! capacity.reserve(id, &Needs::default(), now_ms + QUOTE_LEASE_MS)?;
//! assert_eq!(capacity.free().cpu_milli, 1000);
//! assert_eq!(capacity.expire(now_ms + QUOTE_LEASE_MS), [id]);
//! assert_eq!(capacity.free(), whole);
//! # Ok::<(), scheduler::capacity::ReserveError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::device::{Counts, Held, Pool, Short};
use crate::task::Needs;

/// How long a quote holds what it offers, in milliseconds: time for a few round trips across the world and a slow disk on
/// the other side, short enough that an asker who vanishes blocks nobody for long.
pub const QUOTE_LEASE_MS: u64 = 10_000;

/// Quantities of what a node can promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Tasks at a time; bounds the number of reservations.
    pub tasks_max: u32,
}

impl Amounts {
    /// What one task takes.
    const fn of(needs: &Needs) -> Self {
        Self {
            cpu_milli: needs.cpu_milli,
            memory_bytes: needs.memory_bytes,
            disk_bytes: needs.disk_bytes,
            tasks_max: 1,
        }
    }

    fn dimensions(&self) -> [(Dimension, u64); 4] {
        [
            (Dimension::Cpu, self.cpu_milli),
            (Dimension::Memory, self.memory_bytes),
            (Dimension::Disk, self.disk_bytes),
            (Dimension::Tasks, self.tasks_max.into()),
        ]
    }

    /// `None` when one dimension would fall below zero.
    fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            cpu_milli: self.cpu_milli.checked_sub(other.cpu_milli)?,
            memory_bytes: self.memory_bytes.checked_sub(other.memory_bytes)?,
            disk_bytes: self.disk_bytes.checked_sub(other.disk_bytes)?,
            tasks_max: self.tasks_max.checked_sub(other.tasks_max)?,
        })
    }

    /// `None` on overflow.
    fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            cpu_milli: self.cpu_milli.checked_add(other.cpu_milli)?,
            memory_bytes: self.memory_bytes.checked_add(other.memory_bytes)?,
            disk_bytes: self.disk_bytes.checked_add(other.disk_bytes)?,
            tasks_max: self.tasks_max.checked_add(other.tasks_max)?,
        })
    }
}

/// One of the quantities in [`Amounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// Thousandths of a core.
    Cpu,
    /// Bytes of memory.
    Memory,
    /// Bytes of disk.
    Disk,
    /// Tasks at a time.
    Tasks,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "thousandths of a core",
            Self::Memory => "bytes of memory",
            Self::Disk => "bytes of disk",
            Self::Tasks => "task slots",
        })
    }
}

/// Names a reservation: 16 bytes chosen by the provider, such as the quote's nonce. Prints as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId([u8; 16]);

impl ReservationId {
    /// Wraps the raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&catalog::id::to_hex(&self.0))
    }
}

impl fmt::Debug for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// Not enough left.
    #[error("{need} {what} needed, {free} of {total} are free")]
    Full {
        /// The first quantity that is short; one that is short for good goes before one that is short for now.
        what: Dimension,
        /// What the task needs.
        need: u64,
        /// What is free.
        free: u64,
        /// What there is in all.
        total: u64,
    },
    /// Too few devices of a name are left.
    #[error(transparent)]
    Devices(#[from] Short),
    /// The id is in use: release it first or take another.
    #[error("reservation {id} exists already")]
    Exists {
        /// The id.
        id: ReservationId,
    },
    /// What is to be resumed is not there.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

impl ReserveError {
    /// Whether the task is too large for this node even when it is idle.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Full { need, total, .. } => *need > *total,
            Self::Devices(short) => short.is_lasting(),
            Self::Exists { .. } | Self::Unknown(_) => false,
        }
    }
}

/// There is no such reservation: it expired, was released, or never was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no reservation {id}: it expired or was released")]
pub struct Unknown {
    /// The id asked for.
    pub id: ReservationId,
}

#[derive(Clone, Debug)]
struct Reservation {
    /// What it holds now.
    amounts: Amounts,
    devices: Held,
    /// What it has given back since it was suspended, if it is.
    given_back: Option<(Amounts, Counts)>,
    /// `None` once confirmed.
    lease_until_ms: Option<u64>,
}

/// The reservations of one provider. See the module's description.
#[derive(Clone, Debug)]
pub struct Capacity {
    total: Amounts,
    free: Amounts,
    devices: Pool,
    reservations: BTreeMap<ReservationId, Reservation>,
    /// Leases by their end, for [`Capacity::expire`].
    leases: BTreeSet<(u64, ReservationId)>,
}

impl Capacity {
    /// A provider with nothing promised yet, and without devices.
    #[must_use]
    pub const fn new(total: Amounts) -> Self {
        Self {
            total,
            free: total,
            devices: Pool::empty(),
            reservations: BTreeMap::new(),
            leases: BTreeSet::new(),
        }
    }

    /// The same provider, with nothing promised yet and with these devices.
    #[must_use]
    pub fn with_devices(self, devices: Counts) -> Self {
        Self { devices: Pool::new(devices), ..self }
    }

    /// Sets aside what a task needs until the lease ends (Unix milliseconds). The architecture is not looked at. Call
    /// [`Capacity::expire`] before, so that leases that have ended do not stand in the way.
    ///
    /// # Errors
    /// See [`ReserveError`]; nothing changes then.
    pub fn reserve(
        &mut self,
        id: ReservationId,
        needs: &Needs,
        lease_until_ms: u64,
    ) -> Result<(), ReserveError> {
        if self.reservations.contains_key(&id) {
            return Err(ReserveError::Exists { id });
        }
        let amounts = Amounts::of(needs);
        let Some(free) = self.free.checked_sub(amounts) else {
            let full = self.full(amounts);
            let never = self.devices.short(&needs.devices).filter(Short::is_lasting);
            return Err(never.filter(|_| !full.is_lasting()).map_or(full, ReserveError::from));
        };
        let devices = self.devices.take(&needs.devices)?;
        self.free = free;
        let lease_until_ms = Some(lease_until_ms);
        let reservation = Reservation { amounts, devices, given_back: None, lease_until_ms };
        self.reservations.insert(id, reservation);
        self.leases.extend(lease_until_ms.map(|until_ms| (until_ms, id)));
        Ok(())
    }

    /// Makes a reservation last until it is released. Repeating it changes nothing.
    ///
    /// # Errors
    /// When there is no such reservation.
    pub fn confirm(&mut self, id: ReservationId) -> Result<(), Unknown> {
        let reservation = self.reservations.get_mut(&id).ok_or(Unknown { id })?;
        if let Some(until_ms) = reservation.lease_until_ms.take() {
            self.leases.remove(&(until_ms, id));
        }
        Ok(())
    }

    /// Sets another end of the lease (Unix milliseconds). A confirmed reservation has no lease and stays as it is.
    ///
    /// # Errors
    /// When there is no such reservation.
    pub fn renew(&mut self, id: ReservationId, lease_until_ms: u64) -> Result<(), Unknown> {
        let reservation = self.reservations.get_mut(&id).ok_or(Unknown { id })?;
        if let Some(until_ms) = reservation.lease_until_ms.as_mut() {
            self.leases.remove(&(*until_ms, id));
            *until_ms = lease_until_ms;
            self.leases.insert((lease_until_ms, id));
        }
        Ok(())
    }

    /// Frees a reservation, confirmed or not. Whether there was one.
    pub fn release(&mut self, id: ReservationId) -> bool {
        let Some(reservation) = self.reservations.remove(&id) else {
            return false;
        };
        if let Some(until_ms) = reservation.lease_until_ms {
            self.leases.remove(&(until_ms, id));
        }
        self.free = self
            .free
            .checked_add(reservation.amounts)
            .expect("what is free and what is held add up to the total");
        self.devices.give_back(reservation.devices);
        true
    }

    /// Gives back all that a reservation holds but its disk, until [`Capacity::resume`]. Repeating it changes nothing.
    ///
    /// # Errors
    /// When there is no such reservation.
    pub fn suspend(&mut self, id: ReservationId) -> Result<(), Unknown> {
        let reservation = self.reservations.get_mut(&id).ok_or(Unknown { id })?;
        if reservation.given_back.is_some() {
            return Ok(());
        }
        let disk_bytes = reservation.amounts.disk_bytes;
        let kept = Amounts { disk_bytes, ..Amounts::default() };
        let given_back = Amounts { disk_bytes: 0, ..reservation.amounts };
        let devices = std::mem::take(&mut reservation.devices);
        let n_units = |units: &BTreeSet<u32>| u32::try_from(units.len()).unwrap_or(u32::MAX);
        let counts = devices.iter().map(|(name, units)| (name.clone(), n_units(units))).collect();
        reservation.amounts = kept;
        reservation.given_back = Some((given_back, counts));
        self.free = self
            .free
            .checked_add(given_back)
            .expect("what is free and what is held add up to the total");
        self.devices.give_back(devices);
        Ok(())
    }

    /// Takes again what a suspended reservation has given back; the devices may be others of their names. Of one that is not
    /// suspended nothing changes.
    ///
    /// # Errors
    /// When there is no such reservation, or too little is free now; nothing changes then.
    pub fn resume(&mut self, id: ReservationId) -> Result<(), ReserveError> {
        let reservation = self.reservations.get(&id).ok_or(Unknown { id })?;
        let Some((amounts, counts)) = reservation.given_back.clone() else {
            return Ok(());
        };
        let Some(free) = self.free.checked_sub(amounts) else {
            return Err(self.full(amounts));
        };
        let whole = reservation
            .amounts
            .checked_add(amounts)
            .expect("it held this much before it was suspended");
        let devices = self.devices.take(&counts)?;
        self.free = free;
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.amounts = whole;
            reservation.devices = devices;
            reservation.given_back = None;
        }
        Ok(())
    }

    /// Frees every reservation whose lease has ended at `now_ms` (Unix milliseconds), the oldest lease first.
    pub fn expire(&mut self, now_ms: u64) -> Vec<ReservationId> {
        let ended: Vec<ReservationId> = self
            .leases
            .iter()
            .take_while(|(until_ms, _)| *until_ms <= now_ms)
            .map(|(_, id)| *id)
            .collect();
        for id in &ended {
            self.release(*id);
        }
        ended
    }

    /// When the next lease ends (Unix milliseconds).
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.leases.first().map(|(until_ms, _)| *until_ms)
    }

    /// What can still be reserved.
    #[must_use]
    pub const fn free(&self) -> Amounts {
        self.free
    }

    /// The whole.
    #[must_use]
    pub const fn total(&self) -> Amounts {
        self.total
    }

    /// How many devices of each name can still be reserved.
    #[must_use]
    pub fn devices_free(&self) -> Counts {
        self.devices.free()
    }

    /// The devices that a reservation holds; none when there is no such reservation.
    #[must_use]
    pub fn devices_of(&self, id: ReservationId) -> Held {
        self.reservations.get(&id).map(|held| held.devices.clone()).unwrap_or_default()
    }

    /// Whether a reservation is held, confirmed or not.
    #[must_use]
    pub fn holds(&self, id: ReservationId) -> bool {
        self.reservations.contains_key(&id)
    }

    /// What is short: for good if anything is, else for now.
    fn full(&self, amounts: Amounts) -> ReserveError {
        let short = |limits: Amounts| {
            let pairs = amounts.dimensions().into_iter().zip(limits.dimensions());
            pairs.into_iter().position(|((_, need), (_, limit))| need > limit)
        };
        let idx = short(self.total)
            .or_else(|| short(self.free))
            .expect("called when a subtraction failed, so one dimension is short");
        let (what, need) = amounts.dimensions()[idx];
        let (free, total) = (self.free.dimensions()[idx].1, self.total.dimensions()[idx].1);
        ReserveError::Full { what, need, free, total }
    }
}
