//! The streams of a command inside a container, from the engine's socket.
//!
//! The engine's client takes what a terminal says for frames when it begins with a byte that frames begin with, and then waits
//! for as many bytes as the task cares to announce. So this one connection is made here: what a terminal says is passed on as
//! it comes, and of frames, which the engine makes, no more is held than has come.

use std::io;
use std::path::Path;
use std::pin::Pin;

use axum::http::{Request, StatusCode, header};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::Stream as Futures;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;

use crate::runtime::Stream;

/// Bytes before each piece of a stream: which stream, three zeros, and the length.
const HEAD: usize = 8;
/// What says that a piece is of the standard error.
const STDERR: u8 = 2;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 32 << 10;

/// What a command writes, in order.
pub(crate) type Output = Pin<Box<dyn Futures<Item = (Stream, Bytes)> + Send>>;
/// Its standard input or terminal. Shutting it down ends a standard input, and does nothing to a terminal.
pub(crate) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Why a command's streams cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamsError {
    #[error("its socket cannot be used: {0}")]
    Socket(#[from] io::Error),
    #[error("it does not speak as it should: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] axum::http::Error),
    #[error("it answered with status {}", .0.as_u16())]
    Status(StatusCode),
}

/// Starts a command that was created, attached to its streams.
pub(super) async fn start(
    socket: &Path,
    id: &str,
    has_tty: bool,
) -> Result<(Output, Input), StreamsError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // What goes wrong is told to whoever waits for an answer.
        let _ = connection.with_upgrades().await;
    });
    let request = Request::post(format!("/exec/{id}/start"))
        .header(header::HOST, "engine")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .header(header::CONTENT_TYPE, "application/json")
        .body(format!(r#"{{"Detach":false,"Tty":{has_tty}}}"#))?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(StreamsError::Status(response.status()));
    }
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await?);
    let (from, to) = tokio::io::split(upgraded);
    Ok((pieces(from, Demux::new(has_tty)), Box::pin(to)))
}

/// What comes, until the engine closes it.
fn pieces(from: impl AsyncRead + Send + Unpin + 'static, demux: Demux) -> Output {
    let all = (from, demux, BytesMut::new());
    Box::pin(futures::stream::unfold(all, |(mut from, mut demux, mut held)| async move {
        loop {
            if let Some(piece) = demux.take(&mut held) {
                return Some((piece, (from, demux, held)));
            }
            held.reserve(CHUNK_BYTES);
            match from.read_buf(&mut held).await {
                Ok(n) if n > 0 => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }))
}

/// Tells two streams in one apart.
#[derive(Debug)]
struct Demux {
    has_tty: bool,
    stream: Stream,
    /// Bytes of the piece that are still to come.
    left: usize,
}

impl Demux {
    const fn new(has_tty: bool) -> Self {
        Self { has_tty, stream: Stream::Stdout, left: 0 }
    }

    /// Takes what there is of the next piece.
    fn take(&mut self, held: &mut BytesMut) -> Option<(Stream, Bytes)> {
        while !self.has_tty && self.left == 0 {
            let head = *held.first_chunk::<HEAD>()?;
            held.advance(HEAD);
            self.stream = if head[0] == STDERR { Stream::Stderr } else { Stream::Stdout };
            let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            self.left = usize::try_from(len).unwrap_or(usize::MAX);
        }
        if held.is_empty() {
            return None;
        }
        let n = if self.has_tty { held.len() } else { held.len().min(self.left) };
        self.left = self.left.saturating_sub(n);
        Some((self.stream, held.split_to(n).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of bytes that come in pieces.
    fn read(bytes: &[u8], piece: usize, has_tty: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut demux, mut held) = (Demux::new(has_tty), BytesMut::new());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for part in bytes.chunks(piece) {
            held.extend_from_slice(part);
            while let Some((stream, bytes)) = demux.take(&mut held) {
                match stream {
                    Stream::Stdout => out.extend_from_slice(&bytes),
                    Stream::Stderr => err.extend_from_slice(&bytes),
                }
            }
            assert!(held.len() < HEAD, "nothing is held but the beginning of a head");
        }
        (out, err)
    }

    proptest! {
        #[test]
        fn streams_are_told_apart_however_they_are_cut(
            pieces in proptest::collection::vec((1_u8..3, proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
            piece in 1_usize..30,
        ) {
            let frame = |(stream, bytes): &(u8, Vec<u8>)| {
                let len = (bytes.len() as u32).to_be_bytes();
                [&[*stream, 0, 0, 0], &len[..], bytes].concat()
            };
            let wire: Vec<u8> = pieces.iter().flat_map(frame).collect();
            let of = |which: u8| {
                let its = pieces.iter().filter(|(stream, _)| *stream == which);
                its.flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>()
            };
            prop_assert_eq!(read(&wire, piece, false), (of(1), of(2)));
        }

        #[test]
        fn what_a_terminal_says_is_passed_on_as_it_is(
            bytes in proptest::collection::vec(0_u8..4, 0..200),
            piece in 1_usize..30,
        ) {
            prop_assert_eq!(read(&bytes, piece, true), (bytes, Vec::new()));
        }
    }

    #[test]
    fn a_piece_of_any_announced_length_is_not_waited_for() {
        let wire = [&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..], b"some"].concat();
        assert_eq!(read(&wire, 100, false), (b"some".to_vec(), Vec::new()));
    }
}
