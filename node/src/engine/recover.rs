//! The way back from what the store holds, and into a realm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catalog::cert::GATEWAY_ROLE;
use catalog::sync::pace::Pace;
use catalog::{Catalog, Digest, NodeId, RealmId};
use rand_core::Rng;
use scheduler::capacity::{Amounts, Capacity};
use scheduler::coordinator::Coordinator;
use scheduler::copies::{Copies, Keeper, Policy};
use scheduler::device::listed;
use scheduler::provider::{Abilities, Provider};
use scheduler::run::{Event, Run};
use scheduler::service::Services;
use scheduler::task::RunId;

use super::admission::{Admission, Identity};
use super::areas::Areas;
use super::contract::{Effects, Row, Settings, Stored};
use super::data::Kept;
use super::directory::{self, OwnResource};
use super::disks::Disks;
use super::images::Images;
use super::ledger::{self, Ledger};
use super::realms::Realms;
use super::relations::Relations;
use super::variants::Variants;
use super::workspaces::Workspaces;
use super::{Effect, Engine, copies, random};
use crate::store::batch::Table;

const EPOCH_KEY: &[u8] = b"epoch";
const ATTEMPTS_KEY: &[u8] = b"attempts-from";

/// Why a node cannot start from what is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A row that this program did not write.
    #[error("a row of table {} cannot be read: the store is damaged or of another version", table.name())]
    Row {
        /// Where.
        table: Table,
    },
    /// A channel's logs do not fold.
    #[error("the logs of channel {channel} do not fit together")]
    Channel {
        /// Which.
        channel: Digest,
        /// Why.
        #[source]
        source: Box<accounting::channel::ReplayError>,
    },
    /// The node's papers are not its own, or false.
    #[error(
        "the papers of this node cannot be used: ask its organisation for new ones with `opencloud org request`"
    )]
    Papers(#[from] catalog::cert::AnswerError),
    /// A run's log does not fold.
    #[error("a run's log does not fit together")]
    Run(#[from] scheduler::run::ReplayError),
    /// A service's records do not fit together.
    #[error("the records of a service do not fit together")]
    Service(#[from] scheduler::service::RestoreError),
}

/// What a table's rows say.
fn read<T, E>(
    stored: &Stored,
    table: Table,
    recover: impl FnOnce(&[Row]) -> Result<T, E>,
) -> Result<T, RecoverError> {
    recover(stored.rows(table)).map_err(|_| RecoverError::Row { table })
}

/// What there is to run tasks with.
fn capacity(settings: &Settings) -> Capacity {
    Capacity::new(Amounts {
        cpu_milli: settings.compute.cpu_milli,
        memory_bytes: settings.compute.memory_bytes,
        disk_bytes: settings.compute.disk_bytes,
        tasks_max: settings.tasks_max,
    })
    .with_devices(listed(&settings.compute.accelerators))
}

impl Engine {
    /// A node as it was when its last batch became durable. The effects put it back to work.
    ///
    /// # Errors
    /// See [`RecoverError`]: nothing that was promised is silently left out.
    pub fn recover(
        settings: Settings,
        stored: &Stored,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Result<(Self, Effects), RecoverError> {
        let me: NodeId = settings.node_key.verifying_key().into();
        let admission = recover_admission(me, &settings, stored, now_ms, random(rng))?;
        let relations = Relations::recover(stored.rows(Table::Members), &settings.blocked)?;
        let former = settings.former.iter().map(|former| (former.node, former.key.clone()));
        let keys = ledger::LedgerKeys::new(settings.node_key.clone(), former);
        let mut ledger = Ledger::new(keys.clone(), admission.org(), settings.price_plan.clone());
        ledger.follow(admission.heirs().all().map(|(old, known)| (old, known.heir)));
        let (quotes, entries) = (stored.rows(Table::Quotes), stored.rows(Table::LedgerEntries));
        for channel in ledger::replay(&keys, quotes.to_vec(), entries.to_vec())? {
            ledger.restore(channel);
        }
        let set_back = stored.is_set_back.then(|| random(rng));
        ledger.restore_fences(stored.rows(Table::Meta), set_back)?;
        let capacity = capacity(&settings);
        let abilities = abilities(&settings);
        let keep = Policy { bytes: settings.offers.keep.bytes };
        let mut engine = Self {
            me,
            catalog: empty_catalog(me, admission.realm(), &settings),
            asks: super::ask::Asks::default(),
            admission,
            relations,
            judge: super::policy::Judge::default(),
            books: super::rules::Books::default(),
            heard: catalog::cert::Replays::default(),
            realms: Realms::recover(stored.rows(Table::Members))?,
            ledger,
            coordinator: Coordinator::new(me),
            provider: Provider::new(me, abilities, capacity),
            connected: BTreeSet::new(),
            addresses: Vec::new(),
            directory: super::dials::Directory::default(),
            good: super::good::Good::default(),
            own_resources: BTreeMap::new(),
            variants: Variants::recover(stored.rows(Table::Meta))
                .ok_or(RecoverError::Row { table: Table::Meta })?,
            images: read(stored, Table::Images, |rows| Images::recover(rows, now_ms))?,
            disks: read(stored, Table::Disks, Disks::recover)?,
            kept: read(stored, Table::Pins, Kept::recover)?,
            workspaces: read(stored, Table::Workspaces, Workspaces::recover)?,
            areas: read(stored, Table::Areas, Areas::recover)?,
            quotas: read(stored, Table::Quotas, super::quota::Quotas::recover)?,
            copies: Copies::new(),
            keeper: Keeper::new(keep),
            services: Services::new(),
            service_records: BTreeMap::new(),
            epoch: 0,
            joining: None,
            mailbox: VecDeque::new(),
            held: BTreeMap::new(),
            pace: if settings.light.is_some() {
                Pace::light(now_ms, rng.next_u64())
            } else {
                Pace::default()
            },
            next_dial_ms: now_ms,
            next_papers_ms: now_ms,
            rotation: super::rotation::Rotation::new(now_ms),
            out: Effects::default(),
            settings,
        };
        engine.restore(stored, now_ms)?;
        engine.enter_realm(now_ms);
        engine.look_for_gateways(now_ms);
        engine.use_own_list(now_ms);
        engine.settle(now_ms, rng);
        let effects = engine.take();
        Ok((engine, effects))
    }

    fn restore(&mut self, stored: &Stored, now_ms: u64) -> Result<(), RecoverError> {
        let row = |table| RecoverError::Row { table };
        let epoch = stored.rows(Table::Meta).iter().find(|(key, _)| key == EPOCH_KEY);
        let epoch = match epoch {
            Some((_, value)) => {
                u32::from_be_bytes(value.as_slice().try_into().map_err(|_| row(Table::Meta))?)
            }
            None => 0,
        };
        // An author never uses an epoch twice, so a sequence number lost in a crash is never given to another record.
        // A store that was set back does not know the epochs since; seconds are above any count of starts.
        let seconds = u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX);
        let least = if stored.is_set_back { seconds } else { 0 };
        self.epoch = epoch.max(least).saturating_add(1);
        self.out.batch.put(Table::Meta, EPOCH_KEY, self.epoch.to_be_bytes());
        for (_, value) in stored.rows(Table::OwnRecords) {
            let own: OwnResource =
                ciborium::from_reader(&value[..]).map_err(|_| row(Table::OwnRecords))?;
            self.own_resources.insert(own.resource.key.clone(), own);
        }
        for (_, value) in stored.rows(Table::Attempts) {
            let record = ciborium::from_reader(&value[..]).map_err(|_| row(Table::Attempts))?;
            self.provider.restore(record, now_ms);
        }
        let both = (&mut self.copies, &mut self.keeper);
        copies::recover(stored.rows(Table::Copies), both, now_ms)
            .map_err(|_| row(Table::Copies))?;
        let attempts_from = self.attempts_from(stored, seconds)?;
        let mut logs: BTreeMap<[u8; 16], Vec<Event>> = BTreeMap::new();
        for (key, value) in stored.rows(Table::RunEvents) {
            let id = key.get(..16).and_then(|k| k.try_into().ok()).ok_or(row(Table::RunEvents))?;
            let event = ciborium::from_reader(&value[..]).map_err(|_| row(Table::RunEvents))?;
            logs.entry(id).or_default().push(event);
        }
        for (id, events) in logs {
            let mut run = Run::replay(RunId::from_bytes(id), events)?;
            if run.submitted_ms() / 1_000 <= u64::from(attempts_from) {
                run.number_from(attempts_from);
            }
            self.coordinator.restore(run, now_ms);
        }
        self.restore_services(stored, now_ms)
    }

    /// The least number of a new attempt of runs from before the newest restore, and the time of that restore: attempts
    /// that were made since the backup have lower numbers. 0 when there was none.
    fn attempts_from(&mut self, stored: &Stored, seconds: u32) -> Result<u32, RecoverError> {
        if stored.is_set_back {
            self.out.batch.put(Table::Meta, ATTEMPTS_KEY, seconds.to_be_bytes());
            return Ok(seconds);
        }
        let row = stored.rows(Table::Meta).iter().find(|(key, _)| key == ATTEMPTS_KEY);
        row.map_or(Ok(0), |(_, value)| {
            let bytes = value.as_slice().try_into();
            bytes.map(u32::from_be_bytes).map_err(|_| RecoverError::Row { table: Table::Meta })
        })
    }

    /// Starts over in the realm this node is in now: catalogue, topic and greeting.
    pub(super) fn enter_realm(&mut self, now_ms: u64) {
        self.catalog = empty_catalog(self.me, self.admission.realm(), &self.settings);
        for list in self.admission.lists() {
            self.catalog.revoke(list.clone());
        }
        for (old, known) in self.admission.heirs().all() {
            self.catalog.succeed(old, known.heir);
        }
        for former in &self.settings.former {
            self.catalog.succeed(former.node, self.me);
        }
        let empty = self.catalog.restore_own(self.epoch, Vec::new());
        debug_assert!(empty.is_ok(), "an empty log can be restored");
        let hello = self.admission.hello(None).encode();
        self.out.list.push(Effect::SetHello { hello });
        let topic = format!("/opencloud/1/{}/catalog", self.admission.realm());
        // A light node only speaks there: what is heard there comes to it by comparison.
        let is_listening = self.settings.light.is_none();
        self.out.list.push(Effect::Subscribe { topic, is_listening });
        for own in self.own_resources.values().cloned().collect::<Vec<_>>() {
            self.announce(own, now_ms);
        }
        self.announce_services(now_ms);
        self.announce_disks(now_ms);
        self.announce_list(now_ms);
        self.announce_copies(now_ms);
        self.announce_areas(now_ms);
        self.expose_all();
        self.publish_compute(now_ms);
        self.announce_variants(None, now_ms);
    }
}

/// What tasks of others may need of this node.
fn abilities(settings: &Settings) -> Abilities {
    let compute = &settings.compute;
    Abilities {
        arch: compute.arch.clone(),
        runtimes: directory::runtimes(&compute.runtimes).into_iter().collect(),
        services: directory::services(&compute.runtimes).into_iter().collect(),
        network: compute.network,
    }
}

fn recover_admission(
    me: NodeId,
    settings: &Settings,
    stored: &Stored,
    now_ms: u64,
    nonce: [u8; 16],
) -> Result<Admission, RecoverError> {
    let who = Identity {
        me,
        papers: settings.papers.clone(),
        org_name: settings.org_name.clone(),
        node_name: settings.node_name.clone(),
        roles: if settings.offers.is_gateway { vec![GATEWAY_ROLE.to_owned()] } else { Vec::new() },
    };
    Admission::recover(who, stored.rows(Table::Members), stored.rows(Table::Tickets), now_ms, nonce)
}

fn empty_catalog(me: NodeId, realm: RealmId, settings: &Settings) -> Catalog {
    let catalog = Catalog::new(me, realm, catalog::Limits::default());
    match settings.light {
        Some(kinds) => catalog.light(kinds),
        None => catalog,
    }
}
