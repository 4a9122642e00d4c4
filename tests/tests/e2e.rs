//! The product as its users have it when things go wrong: real processes that are killed, real disks that are full, real bad input.
//!
//! The tests wait for conditions with deadlines. They need the program: `cargo build --release --locked -p node`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "e2e/areas.rs"]
mod areas;
#[path = "e2e/blobs.rs"]
mod blobs;
#[path = "e2e/canaille.rs"]
mod canaille;
#[path = "e2e/containers.rs"]
mod containers;
#[path = "e2e/copies.rs"]
mod copies;
#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/data.rs"]
mod data;
#[path = "e2e/disk.rs"]
mod disk;
#[path = "e2e/disks.rs"]
mod disks;
#[path = "e2e/guests.rs"]
mod guests;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/kubernetes.rs"]
mod kubernetes;
#[path = "e2e/ledger.rs"]
mod ledger;
#[path = "e2e/light.rs"]
mod light;
#[path = "e2e/machines.rs"]
mod machines;
#[path = "e2e/mesh.rs"]
mod mesh;
#[path = "e2e/oidc.rs"]
mod oidc;
#[path = "e2e/ports.rs"]
mod ports;
#[path = "e2e/providers.rs"]
mod providers;
#[path = "e2e/pull.rs"]
mod pull;
#[path = "e2e/realms.rs"]
mod realms;
#[path = "e2e/registry.rs"]
mod registry;
#[path = "e2e/restore.rs"]
mod restore;
#[path = "e2e/rotation.rs"]
mod rotation;
#[path = "e2e/services.rs"]
mod services;
#[path = "e2e/sessions.rs"]
mod sessions;
#[path = "e2e/shared.rs"]
mod shared;
#[path = "e2e/slurm.rs"]
mod slurm;
#[path = "e2e/trust.rs"]
mod trust;
#[path = "e2e/users.rs"]
mod users;
#[path = "e2e/variants.rs"]
mod variants;
#[path = "e2e/watching.rs"]
mod watching;
