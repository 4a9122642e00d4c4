//! What a guest that was granted the network may reach: other machines, as a client.
//!
//! The machine itself is out of reach, with the node's own API and whatever else listens on its loopback, and so are its
//! link, where cloud providers serve credentials, and multicast. A guest cannot listen, so nothing reaches it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::sockets::SocketAddrUse;

/// Whether a guest may use the address so.
pub(super) fn allows(address: SocketAddr, used: SocketAddrUse) -> bool {
    match used {
        SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
            is_elsewhere(address.ip())
        }
        // A port of the system's choice, to be the client's end of a connection.
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
            address.port() == 0 && address.ip().is_unspecified()
        }
        SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
    }
}

/// Whether the address is another machine's, beyond this one's link.
fn is_elsewhere(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let this_network = v4.octets()[0] == 0;
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || this_network)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || embeds_v4(v6))
        }
    }
}

/// The old IPv4-compatible form, which some systems still route as IPv4.
fn embeds_v4(address: Ipv6Addr) -> bool {
    address.segments()[..6] == [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_reached_and_this_one_is_not() {
        let may = |text: &str| allows(text.parse().unwrap(), SocketAddrUse::TcpConnect);
        for outside in ["192.0.2.7:80", "10.0.0.2:443", "[2001:db8::1]:80"] {
            assert!(may(outside), "{outside}");
        }
        for inside in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "224.0.0.251:5353",
            "255.255.255.255:9",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::127.0.0.1]:80",
            "[fe80::1]:80",
            "[ff02::fb]:5353",
        ] {
            assert!(!may(inside), "{inside}");
        }
    }

    #[test]
    fn a_guest_is_a_client_only() {
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let fixed: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        assert!(allows(any, SocketAddrUse::TcpBind) && allows(any, SocketAddrUse::UdpBind));
        assert!(!allows(fixed, SocketAddrUse::TcpBind) && !allows(fixed, SocketAddrUse::UdpBind));
        assert!(!allows(any, SocketAddrUse::TcpListen));
        let peer: SocketAddr = "192.0.2.7:80".parse().unwrap();
        assert!(!allows(peer, SocketAddrUse::TcpAccept));
        assert!(allows(peer, SocketAddrUse::UdpSend));
    }
}
