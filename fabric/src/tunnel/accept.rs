//! The accepting side of `/opencloud/tunnel/1`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::timeout;

use super::tally::Tally;
use super::window::{Pools, Window};
use super::wire::{CHUNK_BYTES, Wire};
use super::{
    BUSY, FarEnd, OPEN, REFUSED, STALL, TOO_LONG, TUNNEL_REASON_MAX, TUNNEL_REQUEST_MAX,
    TunnelDenied, TunnelSource,
};
use crate::event::Offence;
use crate::net::{Incoming, Moved};
use crate::places::{Place, Places};

/// How long an opener has to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Who decides about tunnels, and how much is given.
pub(crate) struct Acceptor {
    pub(crate) source: Arc<dyn TunnelSource>,
    pub(crate) places: Arc<Places>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) moved: Moved,
    pub(crate) decision: Duration,
    pub(crate) idle: Duration,
}

/// Why a tunnel was not brought to its end; for the log.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("its stream or its far end failed")]
    Io(#[from] io::Error),
    #[error("the peer was too slow with its request or in taking the answer")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("nothing moved in it for {} s", idle.as_secs())]
    Idle { idle: Duration },
    #[error("the application gave it up")]
    GivenUp,
    #[error("the peer is gone")]
    Gone,
}

/// Serves every stream until the network ends. The loop itself only takes a place and spawns:
/// streams that arrive while it is busy are lost.
pub(crate) async fn accept(mut incoming: Incoming, acceptor: Acceptor) {
    let acceptor = Arc::new(acceptor);
    while let Some((peer, stream)) = incoming.next().await {
        let Some(place) = acceptor.places.take(peer) else {
            continue;
        };
        let acceptor = Arc::clone(&acceptor);
        tokio::spawn(async move {
            let served = tokio::select! {
                served = acceptor.serve(&place, stream) => served,
                () = place.ended() => Err(Cut::Gone),
            };
            if let Err(cut) = served {
                tracing::debug!(peer = %place.peer(), error = &cut as &dyn std::error::Error, "a tunnel was cut");
            }
            drop(place);
        });
    }
}

impl Acceptor {
    async fn serve(&self, place: &Place, mut stream: Stream) -> Result<(), Cut> {
        let peer = place.peer();
        let Some(request) = timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await?? else {
            tracing::warn!(%peer, "a request for a tunnel is too long");
            self.moved.offence(peer, Offence::Oversized);
            return end(stream, &[TOO_LONG]).await;
        };
        if place.is_refusal() {
            return end(stream, &[BUSY]).await;
        }
        match timeout(self.decision, self.source.open(peer, request)).await {
            Ok(Ok(far)) => {
                timeout(STALL, say(&mut stream, &[OPEN])).await??;
                let tally = Tally::new(peer, far.bytes.clone(), self.moved.clone());
                let window = Window::new(self.pools.share(peer), Instant::now());
                self.carry(Wire::new(stream, window, tally), far).await
            }
            Ok(Err(TunnelDenied::Refused { reason })) => end(stream, &refusal(&reason)).await,
            Ok(Err(TunnelDenied::Busy)) => end(stream, &[BUSY]).await,
            Err(_) => {
                tracing::warn!(%peer, "nobody decided about a tunnel in time");
                end(stream, &[BUSY]).await
            }
        }
    }

    /// Copies both ways until both are complete or something cuts them.
    async fn carry(&self, mut wire: Wire<Stream>, far: FarEnd) -> Result<(), Cut> {
        let FarEnd { mut io, bytes: _, cut } = far;
        let pulse = wire.tally().pulse();
        tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut wire, &mut io, CHUNK_BYTES, CHUNK_BYTES) => {
                copied?;
                Ok(())
            }
            () = pulse.stops_for(self.idle) => Err(Cut::Idle { idle: self.idle }),
            () = cut.cancelled() => Err(Cut::GivenUp),
        }
    }
}

/// What the peer asks for, or `None` when it announces more than it may.
pub(crate) async fn read_request(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 2];
    from.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > TUNNEL_REQUEST_MAX {
        return Ok(None);
    }
    let mut request = vec![0; len];
    from.read_exact(&mut request).await?;
    Ok(Some(request))
}

/// The verdict with a reason, cut to what fits.
fn refusal(reason: &str) -> Vec<u8> {
    let fits = &reason[..reason.floor_char_boundary(TUNNEL_REASON_MAX)];
    [&[REFUSED, fits.len() as u8], fits.as_bytes()].concat()
}

async fn say(to: &mut Stream, verdict: &[u8]) -> io::Result<()> {
    to.write_all(verdict).await?;
    to.flush().await
}

async fn end(mut to: Stream, verdict: &[u8]) -> Result<(), Cut> {
    let ending = async {
        say(&mut to, verdict).await?;
        to.close().await
    };
    Ok(timeout(STALL, ending).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(refusal("no"), b"\x01\x02no");
        assert_eq!(refusal(""), [REFUSED, 0]);
        let long = refusal(&"ä".repeat(200));
        assert_eq!((long[1], long.len()), (254, 256));
        assert!(std::str::from_utf8(&long[2..]).is_ok());
    }
}
