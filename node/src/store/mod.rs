//! What a node keeps: the truth (durable, atomic, acknowledged only when on disk), the cache (may be lost, is rebuilt) and
//! the lock that keeps a second process out.
//!
//! - [`batch`]: changes as plain data. The engine builds them; it never sees a file.
//! - [`truth`]: redb. A batch that was acknowledged is there after a crash, whole; a damaged file is reported, never
//!   replaced by an empty one; a restore from a backup is noticed.
//! - [`cache`]: sled. Nothing irreplaceable is only there; a damaged cache is set aside and started anew.
//! - [`lock`]: one process per home.

pub mod batch;
pub mod cache;
pub mod lock;
pub mod truth;
