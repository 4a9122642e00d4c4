//! Where this node listens: opens the listeners, opens those again that closed, and knows when all have said where they are.

use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Swarm};

use super::Net;
use crate::error::StartError;
use crate::reach::address;

/// How long a closed listener waits before it is opened again; it doubles with each try. A socket is free again only when
/// the tasks that hold it have ended.
const PAUSE: Duration = Duration::from_millis(100);
/// The same for one that closed by itself: it may do so again.
const CLOSED_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Tries for which what waits for the listeners waits: some 3 s.
const SETTLE_TRIES: u32 = 5;
/// Tries to get the port again that the system chose, some 90 s; then it chooses another.
const PORT_TRIES: u32 = 10;

/// One address to listen on.
#[derive(Debug)]
struct Wanted {
    configured: Multiaddr,
    /// The port that the system chose: peers know it.
    port: Option<u16>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It has not said yet where it listens.
    Starting(ListenerId),
    Open(ListenerId),
    Closed {
        again: Instant,
        tries: u32,
    },
}

/// All of them. Those that could not be opened at the start are left out.
#[derive(Debug)]
pub(crate) struct Listening(Vec<Wanted>);

impl Listening {
    /// Opens them for the first time.
    pub(crate) fn open(swarm: &mut Swarm<Net>, addresses: &[String]) -> Result<Self, StartError> {
        let mut parsed = Vec::new();
        for text in addresses {
            let address = text.parse::<Multiaddr>();
            parsed.push(address.map_err(|_| StartError::Address { text: text.clone() })?);
        }
        let mut wanted = Vec::new();
        let mut failed = None;
        for configured in parsed {
            match swarm.listen_on(configured.clone()) {
                Ok(id) => {
                    wanted.push(Wanted { configured, port: None, state: State::Starting(id) });
                }
                Err(error) => {
                    tracing::warn!(address = %configured, %error, "cannot listen on an address");
                    failed = Some((configured.to_string(), error));
                }
            }
        }
        match failed {
            Some((address, source)) if wanted.is_empty() => {
                Err(StartError::Listen { address, source: source.into() })
            }
            _ => Ok(Self(wanted)),
        }
    }

    /// Whether all have said where they listen, or are not likely to.
    pub(super) fn is_settled(&self) -> bool {
        self.0.iter().all(|wanted| match wanted.state {
            State::Starting(_) => false,
            State::Open(_) => true,
            State::Closed { tries, .. } => tries >= SETTLE_TRIES,
        })
    }

    /// When [`Self::open_due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let again = self.0.iter().filter_map(|wanted| match wanted.state {
            State::Closed { again, .. } => Some(again),
            State::Starting(_) | State::Open(_) => None,
        });
        again.min()
    }

    fn find(&mut self, listener: ListenerId) -> Option<&mut Wanted> {
        self.0.iter_mut().find(|wanted| {
            matches!(wanted.state, State::Starting(id) | State::Open(id) if id == listener)
        })
    }

    /// A listener says where it listens.
    pub(super) fn on_address(&mut self, id: ListenerId, at: &Multiaddr) {
        if let Some(wanted) = self.find(id) {
            wanted.state = State::Open(id);
            wanted.port = address::transport(at).map(|(_, port)| port).or(wanted.port);
        }
    }

    /// A listener closed by itself: it is opened again. False when it is none of these, or was closed on purpose.
    pub(super) fn on_closed(&mut self, id: ListenerId, now: Instant) -> bool {
        let Some(wanted) = self.find(id) else {
            return false;
        };
        wanted.state = State::Closed { again: now + CLOSED_PAUSE, tries: 0 };
        true
    }

    /// Closes them all, to be opened again.
    pub(super) fn close(&mut self, swarm: &mut Swarm<Net>, now: Instant) {
        for wanted in &self.0 {
            if let State::Starting(id) | State::Open(id) = wanted.state {
                swarm.remove_listener(id);
            }
        }
        self.forget(now);
    }

    /// Their swarm is gone; they are to be opened on another.
    pub(super) fn forget(&mut self, now: Instant) {
        for wanted in &mut self.0 {
            wanted.state = State::Closed { again: now + PAUSE, tries: 0 };
        }
    }

    /// Opens what is due.
    pub(super) fn open_due(&mut self, swarm: &mut Swarm<Net>, now: Instant) {
        for wanted in &mut self.0 {
            let State::Closed { again, tries } = wanted.state else {
                continue;
            };
            if again > now {
                continue;
            }
            let port = wanted.port.filter(|_| tries < PORT_TRIES);
            let address = with_port(&wanted.configured, port);
            wanted.state = match swarm.listen_on(address.clone()) {
                Ok(id) => State::Starting(id),
                Err(error) => {
                    let pause = PAUSE.saturating_mul(1 << tries.min(16)).min(PAUSE_MAX);
                    let tries = tries.saturating_add(1);
                    if tries == SETTLE_TRIES {
                        tracing::warn!(%address, %error, "cannot listen on an address again");
                    }
                    State::Closed { again: now + pause, tries }
                }
            };
        }
    }
}

/// The address, with this port where it leaves the choice to the system.
fn with_port(address: &Multiaddr, port: Option<u16>) -> Multiaddr {
    let Some(port) = port else {
        return address.clone();
    };
    let parts = address.iter().map(|part| match part {
        Protocol::Tcp(0) => Protocol::Tcp(port),
        Protocol::Udp(0) => Protocol::Udp(port),
        other => other,
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_port_is_asked_for_again_and_a_configured_one_stays() {
        let with = |text: &str, port| with_port(&text.parse().unwrap(), port).to_string();
        assert_eq!(with("/ip4/0.0.0.0/tcp/0", Some(7)), "/ip4/0.0.0.0/tcp/7");
        assert_eq!(with("/ip4/0.0.0.0/udp/0/quic-v1", Some(7)), "/ip4/0.0.0.0/udp/7/quic-v1");
        assert_eq!(with("/ip4/0.0.0.0/tcp/4610", Some(7)), "/ip4/0.0.0.0/tcp/4610");
        assert_eq!(with("/ip4/0.0.0.0/tcp/0", None), "/ip4/0.0.0.0/tcp/0");
    }
}
