//! The cases, by what they are about.

pub(super) mod cancel;
pub(super) mod crowd;
pub(super) mod devices;
pub(super) mod ends;
pub(super) mod escapes;
pub(super) mod files;
pub(super) mod limits;
pub(super) mod lives;
pub(super) mod meters;
pub(super) mod network;
pub(super) mod streams;
pub(super) mod world;
