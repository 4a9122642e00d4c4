//! Tunnels to ports of loopback that their owners open by name: the way out of this node, and the way in.
//!
//! A request names the port, and may be a mere try: it is judged as every other and carries nothing, so that whoever forwards a
//! port learns at once that it may not. What is open to whom is the engine's to say ([`crate::engine::ports`]). This node connects
//! to `127.0.0.1` alone, and to no number that a peer sent. How many tunnels there may be is the fabric's bound, as are
//! backpressure and the end of each direction by itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::NodeId;
use fabric::{FarEnd, PeerKey, TunnelBytes, TunnelDenied, TunnelEnd};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::connect::NotConnected;
use super::doors::{Doors, Request};
use super::forward::Forward;
use super::handle::Handle;
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::ports::{Answer, Command};

/// How long a program of this machine may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What went through one open port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortCount {
    opened: Arc<AtomicU64>,
    bytes: TunnelBytes,
}

/// By name; only names that the owner opened are ever in it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct PortCounts(Arc<Mutex<BTreeMap<String, PortCount>>>);

impl PortCounts {
    fn of(&self, name: &str) -> PortCount {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.to_owned()).or_default().clone()
    }

    /// Tunnels that were opened to a port, bytes that came by them, bytes that went.
    pub(super) fn seen(&self, name: &str) -> (u64, u64, u64) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map_or((0, 0, 0), |count| {
            let opened = count.opened.load(Ordering::Relaxed);
            (opened, count.bytes.received(), count.bytes.sent())
        })
    }
}

impl Doors {
    /// Connects `peer` to an open port, if it may.
    pub(super) async fn port(
        &self,
        peer: NodeId,
        name: String,
        is_try: bool,
    ) -> Result<FarEnd, TunnelDenied> {
        let admit = EngineCommand::Port(Command::Admit { peer, name: name.clone() });
        let Response::Port(Answer::Port(port)) = self.ask(admit).await? else {
            return Err(TunnelDenied::Busy);
        };
        if is_try {
            return Ok(FarEnd::new(Box::new(tokio::io::join(
                tokio::io::empty(),
                tokio::io::sink(),
            ))));
        }
        let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let socket = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                tracing::info!(%peer, name, port, %error, "nothing answers at an open port");
                let reason = format!("nothing answers at its port `{name}`");
                return Err(TunnelDenied::Refused { reason });
            }
            Err(_) => return Err(TunnelDenied::Busy),
        };
        // Without it a program's small writes wait for each other.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "small writes to an open port may wait for each other");
        }
        tracing::info!(%peer, name, port, "a peer is connected to an open port");
        let count = self.ports.of(&name);
        count.opened.fetch_add(1, Ordering::Relaxed);
        Ok(FarEnd { io: Box::new(socket), bytes: count.bytes, cut: CancellationToken::new() })
    }
}

impl Handle {
    /// Listens on a port of 127.0.0.1 (0 for any that is free) whose connections go to a port that a peer's owner opens by
    /// name. Dropping the [`Forward`] ends it.
    ///
    /// # Errors
    /// See [`NotConnected`]; among them what the peer said to a first try.
    pub async fn forward_port(
        &self,
        node: NodeId,
        name: &str,
        local: u16,
    ) -> Result<Forward, NotConnected> {
        let (fabric, peer) = (self.ways.fabric.clone(), PeerKey::from_bytes(*node.as_bytes()));
        let request = |is_try| Request::Port { name: name.to_owned(), is_try }.encode();
        drop(fabric.tunnel(peer, request(true)).await?);
        let request = request(false);
        let open = move || {
            let (fabric, request) = (fabric.clone(), request.clone());
            async move {
                let tunnel = fabric.tunnel(peer, request).await.map_err(NotConnected::Tunnel)?;
                Ok::<_, NotConnected>(Box::new(tunnel) as Box<dyn TunnelEnd>)
            }
        };
        Ok(Forward::listen(local, open).await?)
    }

    /// Tunnels that were opened to an open port of this node by name, bytes that came by them, bytes that went.
    #[must_use]
    pub fn port_seen(&self, name: &str) -> (u64, u64, u64) {
        self.ways.doors.ports.seen(name)
    }
}
