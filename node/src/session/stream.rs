//! Frames over a connection.

use std::io;
use std::marker::PhantomData;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{Frame, FrameError, Up, decode, encode};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 32 << 10;

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReadError {
    #[error("the connection was cut")]
    Cut(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Takes one side's frames from a connection.
#[derive(Debug)]
pub(crate) struct Receiver<R, F> {
    from: R,
    held: BytesMut,
    frame: PhantomData<fn() -> F>,
}

/// What comes from a user.
pub(crate) type Input<R> = Receiver<R, Up>;

impl<R: AsyncRead + Unpin, F: Frame> Receiver<R, F> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, held: BytesMut::new(), frame: PhantomData }
    }

    /// The next frame; nothing when the connection ended between two. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<F>, ReadError> {
        loop {
            if let Some(frame) = decode(&mut self.held)? {
                return Ok(Some(frame));
            }
            self.held.reserve(CHUNK_BYTES);
            if self.from.read_buf(&mut self.held).await? == 0 {
                return match self.held.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }
}

/// Sends a frame on its way. Not cancel-safe: half a frame may have gone.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), frame: &impl Frame) -> io::Result<()> {
    to.write_all(&encode(frame)).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Down;

    #[tokio::test]
    async fn an_end_between_frames_is_one_and_within_a_frame_is_a_cut() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut receiver = Receiver::<_, Down>::new(far);
        send(&mut near, &Down::Exit(3)).await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), Some(Down::Exit(3)));
        drop(near);
        assert_eq!(receiver.next().await.unwrap(), None);
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut receiver = Receiver::<_, Down>::new(far);
        near.write_all(&[17, 0, 9, b'x']).await.unwrap();
        drop(near);
        assert!(matches!(receiver.next().await, Err(ReadError::Cut(_))));
    }
}
