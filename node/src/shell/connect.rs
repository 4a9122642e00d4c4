//! `service connect`: a port of this machine whose connections go to the replicas of a service, wherever they are.
//!
//! For each connection the engine is asked where the service is now and the network how far that is, and a [`Balancer`] chooses
//! by that and by the connections that there are: of this port alone, for what others send to a replica, only it and its provider
//! know. What this node finds out
//! about replicas of its own services it tells the engine, which replaces those that cannot be reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fabric::{Fabric, PeerKey, TunnelDenied, TunnelEnd, TunnelError};
use scheduler::service::{Balancer, Endpoint, Unavailable};
use scheduler::task::AttemptId;
use tokio::sync::mpsc;

use super::doors::{Doors, Request};
use super::forward::{Forward, ForwardError};
use super::handle::{CallError, Handle};
use crate::engine::Input;
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::services::{Answer, Command, Reached};
use crate::held::Held;

/// Replicas tried for one connection. Then it is reset.
const TRIES: usize = 3;

/// Why a connection to a service cannot be made, or a port not be opened for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotConnected {
    /// The node answered no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The service has no such port.
    #[error("service `{service}` has no port `{port}`: its ports are {}", known.join(", "))]
    NoPort {
        /// The service.
        service: String,
        /// As asked.
        port: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// It has several ports and none was named.
    #[error("service `{service}` has several ports, name one of them: {}", known.join(", "))]
    WhichPort {
        /// The service.
        service: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// No replica can be connected to.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The replica is at a peer, and there is no tunnel to it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The replica is here, and cannot be connected to.
    #[error(transparent)]
    Here(#[from] TunnelDenied),
    /// The local port cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ForwardError),
    /// An answer of another kind: a defect.
    #[error("the node gave an answer to another question: report this as a bug")]
    Strange,
}

/// Round trip taken of a node that was not measured yet, in microseconds: far, for one that is near shows it within seconds.
const RTT_UNKNOWN_US: u64 = 50_000;

/// A service that connections go to.
struct Target {
    handle: Handle,
    doors: Doors,
    fabric: Fabric,
    inputs: mpsc::Sender<Input>,
    /// As the engine finds it.
    name: String,
    port: String,
    balancer: Mutex<Balancer>,
    begun: Instant,
}

/// What [`Handle::connect_service`] needs of the shell.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    pub(super) doors: Doors,
    pub(super) fabric: Fabric,
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Ways {
    pub(super) fn new(doors: &Doors, fabric: &Fabric, inputs: &mpsc::Sender<Input>) -> Self {
        Self { doors: doors.clone(), fabric: fabric.clone(), inputs: inputs.clone() }
    }
}

impl Handle {
    /// Listens on a port of 127.0.0.1 (0 for any that is free) whose connections go to a port of a service: by its name, or
    /// the only one it has. Dropping the [`Forward`] ends it.
    ///
    /// # Errors
    /// See [`NotConnected`].
    pub async fn connect_service(
        &self,
        name: &str,
        port: Option<&str>,
        local: u16,
    ) -> Result<(Forward, String), NotConnected> {
        let reached = self.reach(name).await?;
        let port = reached.port(name, port)?;
        let Ways { doors, fabric, inputs } = self.ways.clone();
        let target = Arc::new(Target {
            handle: self.clone(),
            doors,
            fabric,
            inputs,
            name: name.to_owned(),
            port: port.clone(),
            balancer: Mutex::default(),
            begun: Instant::now(),
        });
        let forward = Forward::listen(local, move || Arc::clone(&target).open()).await?;
        Ok((forward, port))
    }

    async fn reach(&self, name: &str) -> Result<Reached, NotConnected> {
        let command = EngineCommand::Service(Command::Reach { name: name.to_owned() });
        match self.command(command).await? {
            Response::Service(Answer::Reached(reached)) => Ok(reached),
            _ => Err(NotConnected::Strange),
        }
    }
}

impl Reached {
    /// The replicas with the round trips to their nodes in microseconds, as they were measured; the own node is nowhere.
    fn distances(&self, measured: &[Option<u64>]) -> Vec<(AttemptId, u64)> {
        let measured = measured.iter().copied().chain(std::iter::repeat(None));
        let distance = |(endpoint, measured): (&Endpoint, Option<u64>)| match endpoint.node {
            node if node == self.me => (endpoint.attempt, 0),
            _ => (endpoint.attempt, measured.unwrap_or(RTT_UNKNOWN_US)),
        };
        self.endpoints.iter().zip(measured).map(distance).collect()
    }

    /// The name of the port that is meant.
    fn port(&self, service: &str, asked: Option<&str>) -> Result<String, NotConnected> {
        let service = service.to_owned();
        let known: Vec<String> =
            self.ports.iter().map(|(name, number)| format!("{name} ({number})")).collect();
        let Some(asked) = asked else {
            let mut names = self.ports.keys();
            return match (names.next(), names.next()) {
                (Some(only), None) => Ok(only.clone()),
                _ => Err(NotConnected::WhichPort { service, known }),
            };
        };
        let is_it = |(name, number): &(&String, &u16)| {
            *name == asked || asked.parse::<u16>() == Ok(**number)
        };
        let found = self.ports.iter().find(is_it).map(|(name, _)| name.clone());
        found.ok_or_else(|| NotConnected::NoPort { service, port: asked.to_owned(), known })
    }
}

impl Target {
    /// Connects to the best replica, or to the next ones.
    async fn open(self: Arc<Self>) -> Result<Connection, NotConnected> {
        let mut last = NotConnected::Unavailable(Unavailable::NoReplica);
        for _ in 0..TRIES {
            let reached = self.handle.reach(&self.name).await?;
            let distances = self.distances(&reached).await;
            let chosen = {
                let mut balancer = self.balancer();
                balancer.set(distances);
                balancer.choose(self.now_ms())
            };
            let attempt = match chosen {
                Ok(attempt) => attempt,
                // What the tries before said is the better reason.
                Err(why) if matches!(last, NotConnected::Unavailable(_)) => return Err(why.into()),
                Err(_) => return Err(last),
            };
            let node = reached.endpoints.iter().find(|endpoint| endpoint.attempt == attempt);
            let Some(node) = node.map(|endpoint| endpoint.node) else {
                return Err(NotConnected::Strange);
            };
            let choice = Choice { target: Arc::clone(&self), attempt, is_made: false };
            let made = if node == reached.me {
                let here = self.doors.connect(node, attempt, self.port.clone()).await;
                here.map(|end| end.io).map_err(NotConnected::Here)
            } else {
                let request = Request::Service { attempt, port: self.port.clone() }.encode();
                let peer = PeerKey::from_bytes(*node.as_bytes());
                let there = self.fabric.tunnel(peer, request).await;
                there
                    .map(|tunnel| Box::new(tunnel) as Box<dyn TunnelEnd>)
                    .map_err(NotConnected::Tunnel)
            };
            match made {
                Ok(io) => {
                    let choice = choice.made();
                    self.tell(attempt, true).await;
                    return Ok(Held::new(io, choice));
                }
                Err(error) => {
                    drop(choice);
                    if is_replicas(&error) {
                        self.tell(attempt, false).await;
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn distances(&self, reached: &Reached) -> Vec<(AttemptId, u64)> {
        let nodes = reached.endpoints.iter().map(|e| PeerKey::from_bytes(*e.node.as_bytes()));
        let measured = self.fabric.round_trips(nodes.collect()).await;
        reached.distances(&measured)
    }

    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on a clock of its own, which begins above 0: that is the balancer's word for never.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    async fn tell(&self, attempt: AttemptId, is_made: bool) {
        // The engine gone means the node is stopping.
        drop(self.inputs.send(Input::Connection { run: attempt.run, is_made }).await);
    }
}

/// Whether a failure speaks against the replica, not against this node.
const fn is_replicas(error: &NotConnected) -> bool {
    !matches!(
        error,
        NotConnected::Tunnel(
            TunnelError::TooMany { .. } | TunnelError::RequestTooLong { .. } | TunnelError::Stopped
        )
    )
}

/// A replica that was chosen: it is told how the connection went, even when nobody waits for it any more.
struct Choice {
    target: Arc<Target>,
    attempt: AttemptId,
    is_made: bool,
}

impl Choice {
    fn made(mut self) -> Self {
        self.is_made = true;
        self.target.balancer().made(self.attempt);
        self
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        let now_ms = self.target.now_ms();
        let mut balancer = self.target.balancer();
        if self.is_made {
            balancer.closed(self.attempt);
        } else {
            balancer.failed(self.attempt, now_ms);
        }
    }
}

/// A connection to a replica.
type Connection = Held<Box<dyn TunnelEnd>, Choice>;

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::NodeId;
    use scheduler::task::{RunId, TaskId};
    use std::collections::BTreeMap;

    #[test]
    fn a_port_is_meant_by_name_by_number_or_by_being_the_only_one() {
        let reached = |ports: &[(&str, u16)]| Reached {
            me: NodeId::from_bytes([1; 32]),
            ports: ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect(),
            endpoints: Vec::new(),
        };
        let one = reached(&[("http", 8080)]);
        for asked in [None, Some("http"), Some("8080")] {
            assert_eq!(one.port("web", asked).unwrap(), "http");
        }
        let error = one.port("web", Some("admin")).unwrap_err().to_string();
        assert_eq!(error, "service `web` has no port `admin`: its ports are http (8080)");
        let two = reached(&[("admin", 9), ("http", 8080)]);
        let error = two.port("web", None).unwrap_err().to_string();
        assert!(error.ends_with("name one of them: admin (9), http (8080)"), "{error}");
        assert_eq!(reached(&[]).ports, BTreeMap::new());
    }

    #[test]
    fn the_own_node_is_nearest_and_one_that_was_not_measured_is_far() {
        let me = NodeId::from_bytes([1; 32]);
        let attempt = |n: u8| AttemptId {
            run: RunId::from_bytes([n; 16]),
            task: TaskId { step: 0, index: 0 },
            number: 1,
        };
        let endpoints = [1, 2, 3, 4].map(|n| {
            let node = NodeId::from_bytes([n; 32]);
            Endpoint { node, attempt: attempt(n) }
        });
        let reached = Reached { me, ports: BTreeMap::new(), endpoints: endpoints.to_vec() };
        // The last one is unknown to the network.
        let distances = reached.distances(&[None, Some(80_000), None]);
        let expected = [(1, 0), (2, 80_000), (3, RTT_UNKNOWN_US), (4, RTT_UNKNOWN_US)];
        assert_eq!(distances, expected.map(|(n, rtt_us)| (attempt(n), rtt_us)));
        let mut balancer = Balancer::new();
        balancer.set(distances);
        assert_eq!(balancer.choose(1), Ok(attempt(1)));
        // Its crowd makes the near one as far as the others.
        let chosen: Vec<AttemptId> = (0..11).map(|_| balancer.choose(1).unwrap()).collect();
        for (n, times) in [(1, 9), (2, 0), (3, 1), (4, 1)] {
            let found = chosen.iter().filter(|chosen| **chosen == attempt(n)).count();
            assert_eq!(found, times, "{n}: {chosen:?}");
        }
    }
}
