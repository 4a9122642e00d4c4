//! The vocabulary of OpenCloud: ids, amounts, the signed envelope, certificates, catalogue records, queries and sync.
//!
//! This crate is pure: no socket, file, clock or randomness. Time comes in as Unix milliseconds, keys as arguments.
#![forbid(unsafe_code)]

mod author;
mod fault;
mod text;
mod trie;
mod wire;

pub mod amount;
pub mod area;
pub mod ask;
pub mod cbor;
pub mod cert;
pub mod envelope;
pub mod filter;
pub mod id;
pub mod index;
pub mod log;
pub mod memo;
pub mod papers;
pub mod publish;
pub mod record;
pub mod replica;
pub mod rules;
pub mod sync;

pub use amount::{Amount, Currency};
pub use fault::Fault;
pub use filter::Filter;
pub use id::{Digest, NodeId, OrgId, RealmId};
pub use publish::{Change, Published};
pub use replica::{Catalog, Entry, Identity, Limits};
pub use text::TextError;
