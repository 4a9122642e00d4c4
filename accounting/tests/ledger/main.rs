//! The ledger from outside: channels between two parties, hostile networks, bundles.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails where its test does")]

mod bundle;
mod channel;
mod common;
mod fence;
mod properties;
