//! What a multiaddress says about the way to a node.

use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::key::PeerKey;

/// From where an address can be reached at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The same machine.
    Loopback,
    /// The same site, or the same provider's inner network.
    Private,
    /// Anywhere.
    Public,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Quic,
}

/// The scope of an IP address.
pub(crate) fn scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Scope::Loopback,
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_carrier = a == 100 && (64..128).contains(&b);
            let is_inner = ip.is_private() || ip.is_link_local() || ip.is_unspecified();
            if is_inner || is_carrier { Scope::Private } else { Scope::Public }
        }
        IpAddr::V6(ip) if ip.is_loopback() => Scope::Loopback,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => scope(ip.into()),
            None if ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified() => {
                Scope::Private
            }
            None => Scope::Public,
        },
    }
}

/// The IP address that an address begins with.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The transport and port of a direct address.
pub(crate) fn transport(address: &Multiaddr) -> Option<(Transport, u16)> {
    if is_relayed(address) {
        return None;
    }
    let mut udp = None;
    for part in address {
        match part {
            Protocol::Tcp(port) => return Some((Transport::Tcp, port)),
            Protocol::Udp(port) => udp = Some(port),
            Protocol::QuicV1 => return udp.map(|port| (Transport::Quic, port)),
            _ => {}
        }
    }
    None
}

/// A direct address from its parts.
pub(crate) fn direct(ip: IpAddr, (transport, port): (Transport, u16)) -> Multiaddr {
    let address = Multiaddr::from(ip);
    match transport {
        Transport::Tcp => address.with(Protocol::Tcp(port)),
        Transport::Quic => address.with(Protocol::Udp(port)).with(Protocol::QuicV1),
    }
}

/// Whether the way leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay that the way leads through, where the address names it.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerKey> {
    let mut relay = None;
    for part in address {
        match part {
            Protocol::P2p(id) => relay = PeerKey::from_peer_id(&id),
            Protocol::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

/// What kind of way an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressKind {
    /// The same machine.
    Loopback,
    /// The same site, or the same provider's inner network.
    Private,
    /// Anywhere, also by name.
    Public,
    /// Through a relay.
    Relayed,
}

impl AddressKind {
    /// `None` when the text is no address.
    #[must_use]
    pub fn of(address: &str) -> Option<Self> {
        let address: Multiaddr = address.parse().ok().filter(|a: &Multiaddr| !a.is_empty())?;
        if is_relayed(&address) {
            return Some(Self::Relayed);
        }
        Some(match ip(&address).map(scope) {
            Some(Scope::Loopback) => Self::Loopback,
            Some(Scope::Private) => Self::Private,
            Some(Scope::Public) | None => Self::Public,
        })
    }
}

/// The address without the peer at its end.
pub(crate) fn bare(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_told_apart() {
        let of = |text: &str| scope(text.parse().unwrap());
        assert_eq!(of("127.0.0.1"), Scope::Loopback);
        assert_eq!(of("::1"), Scope::Loopback);
        for private in
            ["10.1.2.3", "192.168.1.1", "100.64.0.1", "169.254.3.4", "fe80::1", "fd00::2"]
        {
            assert_eq!(of(private), Scope::Private, "{private}");
        }
        for public in ["100.128.0.1", "198.51.100.7", "2001:db8::1", "::ffff:198.51.100.7"] {
            assert_eq!(of(public), Scope::Public, "{public}");
        }
        assert_eq!(of("::ffff:10.0.0.1"), Scope::Private);
    }

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        for text in ["/ip4/198.51.100.7/tcp/4610", "/ip6/2001:db8::1/udp/4610/quic-v1"] {
            let address: Multiaddr = text.parse().unwrap();
            let parts = (ip(&address).unwrap(), transport(&address).unwrap());
            assert_eq!(direct(parts.0, parts.1), address);
            assert!(!is_relayed(&address));
        }
        let (relay, peer) = (PeerKey::from_bytes([3; 32]), PeerKey::from_bytes([4; 32]));
        let text = format!("/ip4/198.51.100.7/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        let circuit: Multiaddr = text.parse().unwrap();
        assert_eq!((relay_of(&circuit), transport(&circuit)), (Some(relay), None));
        assert!(
            is_relayed(&circuit) && !is_relayed(&bare(circuit.clone()).iter().take(2).collect())
        );
        assert_eq!(bare(circuit).to_string(), text.replace(&format!("/p2p/{peer}"), ""));
        assert_eq!(
            transport(&"/dns4/relay.example.org/tcp/4".parse().unwrap()),
            Some((Transport::Tcp, 4))
        );
        assert_eq!(relay_of(&"/ip4/198.51.100.7/tcp/1".parse().unwrap()), None);
    }
}
