//! No network, unless it is granted.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::conformance::Bench;
use crate::harness::Elsewhere;

/// Where a stack in user mode, or what an engine sets up, might lead to the host's loopback.
const WAYS_BACK: [&str; 5] = ["127.0.0.1", "10.0.2.2", "169.254.1.2", "198.18.0.2", "198.18.1.2"];

pub(in crate::conformance) fn there_is_none_by_default(bench: &Bench) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a loopback");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    // 192.0.2.1 is nobody's.
    let tried =
        ["fails", "connect", "127.0.0.1", &port, "then", "fails", "connect", "192.0.2.1", "80"];
    let _ = bench.probe(&tried).expect(0);
    listener.set_nonblocking(true).expect("it is bound");
    let came = listener.accept().map(|(_, from)| from);
    assert!(
        matches!(&came, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{came:?} has come"
    );
}

pub(in crate::conformance) fn there_is_no_interface_by_default(bench: &Bench) {
    let ended = bench.probe(&["interfaces"]).expect(0);
    assert!(ended.text().lines().all(|name| name == "lo"), "{ended:?}");
}

pub(in crate::conformance) fn datagrams_go_nowhere(bench: &Bench) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a loopback");
    let port = socket.local_addr().expect("it is bound").port().to_string();
    // To its own loopback it may send; nobody hears it there.
    let _ = bench.probe(&["datagram", "127.0.0.1", &port]);
    let _ = bench.probe(&["fails", "datagram", "192.0.2.1", "53"]).expect(0);
    socket.set_nonblocking(true).expect("it is bound");
    let came = socket.recv(&mut [0; 10]);
    assert!(
        matches!(&came, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{came:?} has come"
    );
}

pub(in crate::conformance) fn sockets_without_a_file_are_not_shared(bench: &Bench) {
    let name = format!("opencloud-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("the name is short");
    let _listener = UnixListener::bind_addr(&address).expect("nobody else has the name");
    let _ = bench.probe(&["fails", "abstract", &name]).expect(0);
}

pub(in crate::conformance) fn a_granted_network_is_there(bench: &Bench) {
    let mut job = bench.job(&["interfaces"]);
    job.has_network = true;
    let ended = bench.run(&job).expect(0);
    assert!(ended.text().lines().any(|name| name != "lo"), "{ended:?}");
}

pub(in crate::conformance) fn a_granted_network_leads_elsewhere_and_not_to_the_hosts_loopback(
    bench: &Bench,
) {
    let elsewhere = match Elsewhere::sending(1) {
        Ok(elsewhere) => elsewhere,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a loopback");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let (there, there_port) = (elsewhere.address.to_string(), Elsewhere::PORT.to_string());
    let mut verbs = vec!["connect", &there, &there_port];
    for way in WAYS_BACK {
        verbs.extend(["then", "fails", "connect", way, &port]);
    }
    let mut job = bench.job(&verbs);
    job.has_network = true;
    let _ = bench.run(&job).expect(0);
    listener.set_nonblocking(true).expect("it is bound");
    let came = listener.accept().map(|(_, from)| from);
    assert!(
        matches!(&came, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{came:?} has come"
    );
}
