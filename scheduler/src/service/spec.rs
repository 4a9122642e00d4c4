//! What a provider is told of a service: the ports its program listens on, how its health is probed, and who may connect.
//!
//! It is part of the task that the agreement names, so neither side can change it later. To the provider it is hostile
//! until [`ServiceSpec::check`] has seen it: a probe is a request that the provider itself makes.

use std::collections::{BTreeMap, BTreeSet};

use catalog::OrgId;

use crate::workflow::NAME_LEN_MAX;

/// Most ports of a service; more are refused.
pub const PORTS_MAX: usize = 16;
/// Longest path of an HTTP probe in bytes; a longer one is refused.
pub const PATH_LEN_MAX: usize = 1024;
/// Most organisations that may connect by name; more are refused.
pub const ACCESS_ORGS_MAX: usize = 256;
/// Shortest and longest pause between two probes, in milliseconds.
pub const EVERY_MS: (u64, u64) = (1_000, 600_000);
/// Shortest and longest wait for the answer to a probe, in milliseconds.
pub const TIMEOUT_MS: (u64, u64) = (100, 60_000);
/// Longest time in milliseconds in which failing probes of a program that has just started do not count.
pub const GRACE_MAX_MS: u64 = 3_600_000;
/// Most probes in a row that may fail before a replica counts as unhealthy.
pub const FAILURES_MAX: u32 = 100;

/// What makes a task a replica of a service: it runs until its agreement ends, and its end is no success.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceSpec {
    /// Ports inside the replica by name. Nothing else of it can be reached.
    pub ports: BTreeMap<String, u16>,
    /// How its health is probed. Without it a replica is healthy while its program runs.
    pub health: Option<HealthCheck>,
    /// Who may connect besides its owner.
    pub access: Access,
}

/// How a provider finds out whether a replica does its work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Pause between two probes in milliseconds.
    pub every_ms: u64,
    /// How long one probe may take in milliseconds.
    pub timeout_ms: u64,
    /// Failures in a row after which the replica is unhealthy.
    pub failures: u32,
    /// How long after the program's start failures do not count, in milliseconds, unless a probe succeeded before.
    pub grace_ms: u64,
}

/// One probe. The port is named, and is one of [`ServiceSpec::ports`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `GET` of the path is answered with a status from 200 to 399.
    Http {
        /// Which port.
        port: String,
        /// Begins with `/`.
        path: String,
    },
    /// A connection is accepted.
    Tcp {
        /// Which port.
        port: String,
    },
}

impl Probe {
    /// The name of the port that is probed.
    #[must_use]
    pub fn port(&self) -> &str {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } => port,
        }
    }
}

/// Who may connect to a service besides its owner's organisation. The provider asks this for every tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nobody.
    #[default]
    Owner,
    /// Every node that the provider has admitted.
    Realm,
    /// These organisations.
    Orgs(BTreeSet<OrgId>),
}

impl Access {
    /// Whether a node of `caller` may connect to a service of `owner`. Both organisations are those of certificates.
    #[must_use]
    pub fn allows(&self, owner: OrgId, caller: OrgId) -> bool {
        caller == owner
            || match self {
                Self::Owner => false,
                Self::Realm => true,
                Self::Orgs(orgs) => orgs.contains(&caller),
            }
    }
}

/// What replicas keep away from each other by, as long as there is room elsewhere.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Two of them rather not on one node.
    #[default]
    Nodes,
    /// Two of them rather not at one organisation, and not on one node.
    Orgs,
    /// They go where each fits best.
    None,
}

/// What a provider last found out about a replica.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The program runs and no probe has succeeded yet.
    Starting,
    /// The last probe succeeded, or failures are still within what is allowed.
    Healthy,
    /// Too many probes failed in a row.
    Unhealthy,
}

impl Health {
    /// The word in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Why a provider does not take a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No port, or more than [`PORTS_MAX`].
    #[error("a service has 1 to {PORTS_MAX} ports, not {count}")]
    Ports {
        /// How many it has.
        count: usize,
    },
    /// A port without name or number.
    #[error("port `{name}` of a service is no port: a short name and a number above 0 are needed")]
    Port {
        /// Its name, cut to 80 characters.
        name: String,
    },
    /// A probe of a port that is not there.
    #[error("the health probe names port `{name}`, which the service does not have")]
    ProbePort {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// A path that is no path, or would say more than one request.
    #[error("the path of the health probe does not begin with `/`, or is no plain visible ASCII")]
    ProbePath,
    /// A duration or count of the probe is out of bounds.
    #[error("the health probe is too frequent, too rare or too patient")]
    ProbeBounds,
    /// More than [`ACCESS_ORGS_MAX`] organisations.
    #[error("{count} organisations may connect, at most {ACCESS_ORGS_MAX} are allowed")]
    Access {
        /// How many.
        count: usize,
    },
}

impl ServiceSpec {
    /// Whether a provider may take it: every bound is kept, and the probe is one request to a port of the service.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn check(&self) -> Result<(), SpecError> {
        if !(1..=PORTS_MAX).contains(&self.ports.len()) {
            return Err(SpecError::Ports { count: self.ports.len() });
        }
        let cut = |name: &str| name.chars().take(80).collect();
        let good = |name: &str| {
            (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
        };
        if let Some((name, _)) = self.ports.iter().find(|(name, port)| **port == 0 || !good(name)) {
            return Err(SpecError::Port { name: cut(name) });
        }
        if let Some(health) = &self.health {
            health.check()?;
            if !self.ports.contains_key(health.probe.port()) {
                return Err(SpecError::ProbePort { name: cut(health.probe.port()) });
            }
        }
        match &self.access {
            Access::Orgs(orgs) if orgs.len() > ACCESS_ORGS_MAX => {
                Err(SpecError::Access { count: orgs.len() })
            }
            _ => Ok(()),
        }
    }
}

impl HealthCheck {
    fn check(&self) -> Result<(), SpecError> {
        if let Probe::Http { path, .. } = &self.probe
            && !is_probe_path(path)
        {
            return Err(SpecError::ProbePath);
        }
        let within = |(min, max): (u64, u64), ms: u64| (min..=max).contains(&ms);
        let good = within(EVERY_MS, self.every_ms)
            && within(TIMEOUT_MS, self.timeout_ms)
            && (1..=FAILURES_MAX).contains(&self.failures)
            && self.grace_ms <= GRACE_MAX_MS;
        if good { Ok(()) } else { Err(SpecError::ProbeBounds) }
    }
}

/// Whether a path can stand in a request line: nothing in it ends the line or begins another.
pub(crate) fn is_probe_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= PATH_LEN_MAX
        && path.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> ServiceSpec {
        let probe = Probe::Http { port: "http".to_owned(), path: path.to_owned() };
        let health =
            HealthCheck { probe, every_ms: 1_000, timeout_ms: 100, failures: 3, grace_ms: 0 };
        let ports = BTreeMap::from([("http".to_owned(), 8080)]);
        ServiceSpec { ports, health: Some(health), access: Access::Owner }
    }

    #[test]
    fn a_probe_is_one_request_to_a_port_of_the_service() {
        assert_eq!(spec("/healthz?deep=1").check(), Ok(()));
        for path in ["", "healthz", "/a b", "/a\r\nHost: internal", "/\u{e9}"] {
            assert_eq!(spec(path).check(), Err(SpecError::ProbePath), "{path:?}");
        }
        let mut elsewhere = spec("/");
        elsewhere.ports = BTreeMap::from([("admin".to_owned(), 1)]);
        assert_eq!(elsewhere.check(), Err(SpecError::ProbePort { name: "http".to_owned() }));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let change = |change: fn(&mut ServiceSpec)| {
            let mut spec = spec("/");
            change(&mut spec);
            spec.check()
        };
        assert_eq!(change(|s| s.ports.clear()), Err(SpecError::Ports { count: 0 }));
        let many = change(|s| s.ports = (1..=17).map(|n| (format!("p{n}"), n)).collect());
        assert_eq!(many, Err(SpecError::Ports { count: 17 }));
        let zero = change(|s| _ = s.ports.insert("zero".to_owned(), 0));
        assert_eq!(zero, Err(SpecError::Port { name: "zero".to_owned() }));
        for probe in [
            change(|s| s.health.as_mut().unwrap().every_ms = 999),
            change(|s| s.health.as_mut().unwrap().timeout_ms = 60_001),
            change(|s| s.health.as_mut().unwrap().failures = 0),
            change(|s| s.health.as_mut().unwrap().grace_ms = u64::MAX),
        ] {
            assert_eq!(probe, Err(SpecError::ProbeBounds));
        }
        let orgs = |s: &mut ServiceSpec| {
            s.access = Access::Orgs(
                (0..257_u16)
                    .map(|n| {
                        let mut bytes = [0; 32];
                        bytes[..2].copy_from_slice(&n.to_be_bytes());
                        OrgId::from_bytes(bytes)
                    })
                    .collect(),
            );
        };
        assert_eq!(change(orgs), Err(SpecError::Access { count: 257 }));
    }

    #[test]
    fn only_who_is_named_may_connect_besides_the_owner() {
        let [owner, friend, stranger] = [1, 2, 3].map(|n| OrgId::from_bytes([n; 32]));
        let some = Access::Orgs([friend].into());
        for (access, allowed) in [
            (Access::Owner, [true, false, false]),
            (some, [true, true, false]),
            (Access::Realm, [true, true, true]),
        ] {
            assert_eq!([owner, friend, stranger].map(|org| access.allows(owner, org)), allowed);
        }
    }
}
