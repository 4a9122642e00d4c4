//! Ports of machines, and the network that they are granted.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use node::runtime::vm::VmOptions;
use node::runtime::{Door, DoorError, Exit, NetnsError, Stream};
use tests::conformance::subject::vm::may_grant;
use tests::harness::{Elsewhere, wait_until};
use tokio::io::AsyncReadExt as _;

use super::{MIB, PATIENCE, on_machines_with};

fn with_ports(options: &mut VmOptions) {
    options.ports = true;
}

/// Whether nobody has come.
fn is_alone(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    matches!(listener.accept(), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// What is said at a port, once something is.
async fn heard(door: &Door, port: u16) -> String {
    let begun = Instant::now();
    let mut text = String::new();
    while text.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nothing is said at the port");
        let mut stream = door.connect(port).await.unwrap();
        // The machine may not listen yet.
        let _ = stream.read_to_string(&mut text).await;
    }
    text
}

#[test]
fn a_port_is_reached_by_the_door_alone_and_nothing_is_reached_from_inside() {
    on_machines_with(with_ports, async |bench| {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own_port = own.local_addr().unwrap().port();
        let (mut task, kept) = bench.script(&format!(
            "for host in 127.0.0.1 198.18.0.2 10.0.2.2; do \
                 nc -w 2 $host {own_port} </dev/null && exit 9; \
             done; \
             echo on; echo hello | nc -l -p 80"
        ));
        task.ports = vec![80, 8_080];
        let mut running = bench.runtime.start(task);
        let door = tokio::time::timeout(PATIENCE, running.doorway().opened()).await.unwrap();
        wait_until(PATIENCE, "the machine listens", || !kept.is_empty());
        // Taken on the machine's behalf, and ended, because nobody listens there.
        let mut nobody = door.connect(8_080).await.unwrap();
        let read = tokio::time::timeout(PATIENCE, nobody.read(&mut [0; 1])).await.unwrap();
        assert!(door.is_forwarded() && !matches!(read, Ok(1..)), "{read:?}");
        let error = door.connect(81).await.err().unwrap();
        assert!(
            matches!(error, DoorError::Network(NetnsError::Refused { port: 81, .. })),
            "{error}"
        );
        assert_eq!(heard(&door, 80).await, "hello\n");
        let (exit, meters) = running.wait().await;
        assert_eq!((exit, kept.text(Stream::Stdout).as_str()), (Exit::Code(0), "on\n"));
        // That is the node's own, and counted where the tunnel is.
        assert_eq!((meters.net_in_bytes, meters.net_out_bytes), (0, 0));
        assert!(is_alone(&own));
        let error = door.connect(80).await.err().unwrap();
        assert!(matches!(error, DoorError::Network(NetnsError::Gone { .. })), "{error}");
    });
}

#[test]
fn a_granted_network_leads_elsewhere_is_metered_and_never_leads_to_this_host() {
    let granted = |options: &mut VmOptions| (options.ports, options.network) = (true, true);
    if !may_grant() {
        println!("skipped: networks are granted by slirp4netns and root");
        return;
    }
    on_machines_with(granted, async |bench| {
        let elsewhere = Elsewhere::sending(1 << 20).unwrap();
        let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let [own, all] = [&loopback, &everywhere].map(|one| one.local_addr().unwrap().port());
        let (there, here) = (elsewhere.address, elsewhere.here);
        let (mut task, kept) = bench.script(&format!(
            "nc -w 20 {there} 80 </dev/null | wc -c; \
             for host in 127.0.0.1 198.18.0.2 198.18.1.2 198.18.1.3 198.18.1.100; do \
                 nc -w 2 $host {own} </dev/null && exit 8; nc -w 2 $host {all} </dev/null && exit 9; \
             done; \
             nc -w 2 {here} {all} </dev/null && exit 10; \
             nc -w 2 169.254.169.254 80 </dev/null && exit 11; \
             cat /etc/resolv.conf; echo hello | nc -l -p 80"
        ));
        (task.base.network, task.ports) = (true, vec![80]);
        let mut running = bench.runtime.start(task);
        let door = tokio::time::timeout(PATIENCE, running.doorway().opened()).await.unwrap();
        assert_eq!(heard(&door, 80).await, "hello\n");
        let (exit, meters) = running.wait().await;
        let said = kept.text(Stream::Stdout);
        assert_eq!((exit, said.as_str()), (Exit::Code(0), "1048576\nnameserver 198.18.1.3\n"));
        let net_in = meters.net_in_bytes;
        assert!((MIB..MIB + MIB / 4).contains(&net_in) && meters.net_out_bytes > 0, "{meters:?}");
        assert!(is_alone(&loopback) && is_alone(&everywhere));
    });
}

#[test]
fn a_network_that_the_node_does_not_give_is_a_fault_of_the_host() {
    on_machines_with(with_ports, async |bench| {
        let (mut task, _kept) = bench.script("true");
        (task.base.network, task.base.timeout) = (true, Duration::from_secs(1));
        let (exit, _) = bench.runtime.start(task).wait().await;
        assert!(exit.to_string().contains("this node grants machines no network"), "{exit:?}");
    });
}
