//! The opening side of `/opencloud/tunnel/1`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{AsyncRead as StreamRead, AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p_stream::{Control, OpenStreamError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::tally::Tally;
use super::window::{Share, Window};
use super::wire::Wire;
use super::{BUSY, OPEN, PROTOCOL, REFUSED, STALL, TOO_LONG, TUNNEL_REQUEST_MAX, TunnelBytes};
use crate::key::PeerKey;
use crate::net::Moved;
use crate::places::Place;

/// How long opening a stream to a connected peer may take. libp2p-stream waits for ever when the
/// peer is not connected any more.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a tunnel was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The peer is not admitted at the moment.
    #[error("the peer {peer} is not connected")]
    NotConnected {
        /// Who.
        peer: PeerKey,
    },
    /// The peer opens no tunnels.
    #[error("the peer {peer} does not speak `/opencloud/tunnel/1`")]
    Unsupported {
        /// Who.
        peer: PeerKey,
    },
    /// The request is longer than [`TUNNEL_REQUEST_MAX`].
    #[error("the request for a tunnel has {bytes} bytes, the limit is {TUNNEL_REQUEST_MAX}")]
    RequestTooLong {
        /// Its length.
        bytes: usize,
    },
    /// This node has too many tunnels open, in all or to this peer.
    #[error(
        "this node has {limit} tunnels open already, in all or to this peer: close some of them"
    )]
    TooMany {
        /// How many it may have; the bound that was met.
        limit: u32,
    },
    /// The peer has too many tunnels open, or did not decide in time.
    #[error("the peer {peer} is too busy to open a tunnel: try again later")]
    Busy {
        /// Who.
        peer: PeerKey,
    },
    /// The peer says no.
    #[error("the peer {peer} refuses the tunnel: {reason}")]
    Refused {
        /// Who.
        peer: PeerKey,
        /// As it says; at most [`super::TUNNEL_REASON_MAX`] characters, none of them a control character.
        reason: String,
    },
    /// The peer did not answer.
    #[error("the peer {peer} did not answer the request for a tunnel within {after_s} s")]
    Timeout {
        /// Who.
        peer: PeerKey,
        /// How long this node waited, in seconds.
        after_s: u64,
    },
    /// The stream ended before an answer.
    #[error("the stream to {peer} ended before it answered the request for a tunnel")]
    Lost {
        /// Who.
        peer: PeerKey,
        /// What the stream said.
        source: io::Error,
    },
    /// The peer broke the protocol.
    #[error("the peer {peer} answered with status {status}, which has no meaning here")]
    Malformed {
        /// Who.
        peer: PeerKey,
        /// What it said.
        status: u8,
    },
    /// The fabric is shut down.
    #[error("the network is shut down")]
    Stopped,
}

impl TunnelError {
    /// Whether the same request may well succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotConnected { .. }
                | Self::TooMany { .. }
                | Self::Busy { .. }
                | Self::Timeout { .. }
                | Self::Lost { .. }
        )
    }
}

/// An open tunnel: what is written goes to the far end behind the peer's node, what comes from there is read. Shutting down
/// the writing side ends that direction only. Reading gives an end only when the far end ended, an error of the kind
/// `UnexpectedEof` when the tunnel was cut. Dropped before both directions have ended, the tunnel is cut.
///
/// As with every buffered writer, bytes are surely on their way only after a flush.
pub struct Tunnel {
    wire: Wire<Stream>,
    _place: Place,
}

impl Tunnel {
    /// A tunnel on the stream of a peer that said yes.
    pub(crate) fn new(stream: Stream, share: Share, moved: Moved, place: Place) -> Self {
        let tally = Tally::new(place.peer(), TunnelBytes::default(), moved);
        let window = Window::new(share, Instant::now());
        Self { wire: Wire::new(stream, window, tally), _place: place }
    }

    /// The count of its bytes; it goes on counting as long as the tunnel lives.
    #[must_use]
    pub fn bytes(&self) -> TunnelBytes {
        self.wire.tally().bytes().clone()
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("bytes", self.wire.tally().bytes()).finish_non_exhaustive()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, into)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// What is asked of whom.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) peer: PeerKey,
    /// At most [`TUNNEL_REQUEST_MAX`] bytes.
    pub(crate) request: &'a [u8],
    /// How long the peer may take to answer.
    pub(crate) patience: Duration,
}

/// Opens a stream and asks; gives the stream after a yes. Safe to drop: the stream is cut.
pub(crate) async fn open(control: Control, asked: Asked<'_>) -> Result<Stream, TunnelError> {
    let Asked { peer, request, patience } = asked;
    let mut stream = open_stream(control, peer).await?;
    let lost = |source| TunnelError::Lost { peer, source };
    let late = |bound: Duration| TunnelError::Timeout { peer, after_s: bound.as_secs() };
    let len = u16::try_from(request.len())
        .map_err(|_| TunnelError::RequestTooLong { bytes: request.len() })?;
    let message = [&len.to_be_bytes()[..], request].concat();
    let asking = async {
        stream.write_all(&message).await?;
        stream.flush().await
    };
    timeout(STALL, asking).await.map_err(|_| late(STALL))?.map_err(lost)?;
    let mut status = [0];
    let answer = timeout(patience, stream.read_exact(&mut status)).await;
    answer.map_err(|_| late(patience))?.map_err(lost)?;
    match status[0] {
        OPEN => Ok(stream),
        REFUSED => {
            let reason = timeout(STALL, read_reason(&mut stream)).await;
            let reason = reason.map_err(|_| late(STALL))?.map_err(lost)?;
            Err(TunnelError::Refused { peer, reason })
        }
        BUSY => Err(TunnelError::Busy { peer }),
        TOO_LONG => Err(TunnelError::RequestTooLong { bytes: request.len() }),
        status => Err(TunnelError::Malformed { peer, status }),
    }
}

async fn open_stream(mut control: Control, peer: PeerKey) -> Result<Stream, TunnelError> {
    match timeout(OPEN_TIMEOUT, control.open_stream(peer.to_peer_id(), PROTOCOL)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(OpenStreamError::UnsupportedProtocol(_))) => Err(TunnelError::Unsupported { peer }),
        Ok(Err(_)) | Err(_) => Err(TunnelError::NotConnected { peer }),
    }
}

pub(crate) async fn read_reason(from: &mut (impl StreamRead + Unpin)) -> io::Result<String> {
    let mut len = [0];
    from.read_exact(&mut len).await?;
    let mut bytes = vec![0; usize::from(len[0])];
    from.read_exact(&mut bytes).await?;
    Ok(readable(&bytes))
}

/// A text of a stranger as it may be shown to people.
fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_cannot_paint_on_a_terminal() {
        assert_eq!(readable(b"no \x1b[31mred\x07\n thing"), "no [31mred thing");
        assert_eq!(readable(b"\xff!"), "\u{fffd}!");
    }
}
