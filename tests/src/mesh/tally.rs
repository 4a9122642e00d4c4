//! Bytes by purpose, what the transport adds to them included.

use catalog::sync::SyncMessage;

/// IPv4, UDP, a short QUIC header with its tag and one stream frame.
const DATAGRAM: u64 = 20 + 8 + 13 + 16 + 6;
/// Bytes of a datagram that carry something.
const DATAGRAM_ROOM: u64 = 1_200;
/// What gossipsub writes around one message: the topic's name, lengths and field numbers.
const GOSSIP_FRAME: u64 = 66;
/// An id in IHAVE and IWANT: 20 bytes and two of framing.
const GOSSIP_ID: u64 = 22;
/// A new stream for a message and its acknowledgement: the names of protocols, and lengths.
const MAIL_FRAME: u64 = 96;
/// The name of the kind of message that the node writes around the catalogue's.
const MAIL_KIND: u64 = 9;
/// Between two signs of life on a silent connection, and their length in each direction.
pub(super) const KEEP_ALIVE_US: u64 = 10 * super::SECOND;
pub(super) const KEEP_ALIVE: u64 = 2 * (20 + 8 + 13 + 16 + 8);

/// Why bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Gossip messages.
    Push = 0,
    /// IHAVE, IWANT, GRAFT, PRUNE.
    Control = 1,
    /// Comparisons of catalogues.
    Pull = 2,
}

/// The bytes of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Sent, by purpose.
    pub out: [u64; 3],
    /// Received, by purpose.
    pub into: [u64; 3],
}

impl Tally {
    pub(super) const fn sent(&mut self, purpose: Purpose, bytes: u64) {
        self.out[purpose as usize] += bytes;
    }

    pub(super) const fn got(&mut self, purpose: Purpose, bytes: u64) {
        self.into[purpose as usize] += bytes;
    }
}

const fn on_wire(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(DATAGRAM_ROOM) * DATAGRAM
}

pub(super) const fn push_len(payload: usize) -> u64 {
    on_wire(payload as u64 + GOSSIP_FRAME)
}

pub(super) const fn control_len(ids: usize) -> u64 {
    on_wire(GOSSIP_FRAME + ids as u64 * GOSSIP_ID)
}

/// The length of a message of the sync protocol, without what the transport adds.
pub(super) fn bare_len(message: &SyncMessage) -> u64 {
    let mut count = Count(0);
    ciborium::into_writer(message, &mut count).expect("counting bytes cannot fail");
    count.0 + MAIL_KIND
}

pub(super) fn mail_len(message: &SyncMessage) -> u64 {
    on_wire(bare_len(message) + MAIL_FRAME)
}

/// A writer that only counts.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
