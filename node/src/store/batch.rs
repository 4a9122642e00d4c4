//! Changes to the durable store as plain data: no file, no clock, no error that depends on a disk.

/// The tables of the durable store. Keys and values are bytes whose form belongs to the module that owns the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Single facts by name: sequence reservations, epochs, settings.
    Meta,
    /// Signed ledger entries of both logs of every channel, exact bytes.
    LedgerEntries,
    /// Quotes given and received, with their leases.
    Quotes,
    /// The event log of every run this node coordinates.
    RunEvents,
    /// Attempts this node works on for others.
    Attempts,
    /// This node's own catalogue records.
    OwnRecords,
    /// Admitted organisations and nodes.
    Members,
    /// Invitations given out.
    Tickets,
    /// The repositories of images: their tags, manifests and contents.
    Images,
    /// The services that run from this node: what is wanted of each, its revisions, replicas and last events.
    Services,
    /// The images of disks: what is said of each, and how many there may be.
    Disks,
    /// Contents that the owner wants to stay here.
    Pins,
    /// Copies that are wished at peers, and what is kept for others.
    Copies,
    /// What users have chosen to work with.
    Workspaces,
    /// Collaborative areas, and what other members said of them last.
    Areas,
    /// How much of this node people may take, and have taken.
    Quotas,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 16] = [
        Self::Meta,
        Self::LedgerEntries,
        Self::Quotes,
        Self::RunEvents,
        Self::Attempts,
        Self::OwnRecords,
        Self::Members,
        Self::Tickets,
        Self::Images,
        Self::Services,
        Self::Disks,
        Self::Pins,
        Self::Copies,
        Self::Workspaces,
        Self::Areas,
        Self::Quotas,
    ];

    /// Those that came after the first version, in order: a store may be older than they are.
    pub const ADDED: [Self; 8] = [
        Self::Images,
        Self::Services,
        Self::Disks,
        Self::Pins,
        Self::Copies,
        Self::Workspaces,
        Self::Areas,
        Self::Quotas,
    ];

    /// The name on disk. Never changes for an existing table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::LedgerEntries => "ledger_entries",
            Self::Quotes => "quotes",
            Self::RunEvents => "run_events",
            Self::Attempts => "attempts",
            Self::OwnRecords => "own_records",
            Self::Members => "members",
            Self::Tickets => "tickets",
            Self::Images => "images",
            Self::Services => "services",
            Self::Disks => "disks",
            Self::Pins => "pins",
            Self::Copies => "copies",
            Self::Workspaces => "workspaces",
            Self::Areas => "areas",
            Self::Quotas => "quotas",
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Where.
    pub table: Table,
    /// At most [`KEY_LEN_MAX`] bytes.
    pub key: Vec<u8>,
    /// What stands there afterwards, at most [`VALUE_LEN_MAX`] bytes; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// Changes that become durable together or not at all. A later change of the same key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub ops: Vec<Op>,
}

/// Longest key in bytes; a longer one makes the commit fail before anything is written.
pub const KEY_LEN_MAX: usize = 1024;
/// Longest value in bytes; a longer one makes the commit fail before anything is written. Bulk data are blobs.
pub const VALUE_LEN_MAX: usize = 4 << 20;
/// Most changes in one commit over all its batches; more make the commit fail before anything is written.
pub const COMMIT_OPS_MAX: usize = 65_536;

impl Batch {
    /// Adds a change that sets a key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op { table, key: key.into(), value: Some(value.into()) });
    }

    /// Adds a change that removes a key; removing an absent one is fine.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.ops.push(Op { table, key: key.into(), value: None });
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
