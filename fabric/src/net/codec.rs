//! Frames on a request-response stream: a length of four bytes, big endian, then as many bytes.
//!
//! Opaque bytes need no CBOR around them, and an explicit length tells an oversized frame from a
//! cut one before any of it is read.

use std::io;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes read and thrown away at a time when there is no room for a frame.
const DRAIN_BYTES: usize = 16 << 10;
/// Room is taken for so many bytes of a frame at a time, as they come. A frame that is only announced takes one step, so that
/// a peer cannot keep the room of all others by announcing many and sending nothing.
const STEP_BYTES: usize = 64 << 10;

/// A frame, as read or to be written.
#[derive(Debug)]
pub(crate) enum Frame {
    /// The bytes and, for a received one, the memory they are accounted to.
    Whole { bytes: Vec<u8>, held: Option<OwnedSemaphorePermit> },
    /// Received, but there was no room: its bytes were thrown away.
    NoRoom,
    /// Announced longer than allowed: its bytes were not read.
    Oversized { bytes: u64 },
}

impl Frame {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self::Whole { bytes, held: None }
    }
}

/// The bounds of one protocol's frames.
#[derive(Clone)]
pub(crate) struct Frames {
    pub(crate) request_max: u32,
    pub(crate) response_max: u32,
    /// Shared by all connections: a permit per byte of requests read and not yet let go.
    pub(crate) memory: Option<Arc<Semaphore>>,
}

impl Frames {
    pub(crate) async fn read<T: AsyncRead + Unpin + Send>(
        io: &mut T,
        max: u32,
        memory: Option<&Arc<Semaphore>>,
    ) -> io::Result<Frame> {
        let mut head = [0; 4];
        io.read_exact(&mut head).await?;
        let len = u32::from_be_bytes(head);
        if len > max {
            return Ok(Frame::Oversized { bytes: len.into() });
        }
        let (len, mut at) = (len as usize, 0);
        let (mut bytes, mut held) = (Vec::new(), None);
        while at < len {
            let end = len.min(at + STEP_BYTES);
            if !hold(memory, end - at, &mut held) {
                drop((bytes, held));
                drain(io, len - at).await?;
                return Ok(Frame::NoRoom);
            }
            bytes.resize(end, 0);
            io.read_exact(&mut bytes[at..]).await?;
            at = end;
        }
        Ok(Frame::Whole { bytes, held })
    }

    async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, frame: Frame) -> io::Result<()> {
        let Frame::Whole { bytes, .. } = frame else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        io.write_all(&len.to_be_bytes()).await?;
        io.write_all(&bytes).await
    }
}

/// Adds room for so many bytes to what is held; false when there is none.
fn hold(
    memory: Option<&Arc<Semaphore>>,
    bytes: usize,
    held: &mut Option<OwnedSemaphorePermit>,
) -> bool {
    let Some(memory) = memory else {
        return true;
    };
    let room = u32::try_from(bytes).ok();
    let Some(more) = room.and_then(|n| Arc::clone(memory).try_acquire_many_owned(n).ok()) else {
        return false;
    };
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    true
}

async fn drain<T: AsyncRead + Unpin + Send>(io: &mut T, mut left: usize) -> io::Result<()> {
    let mut waste = vec![0; DRAIN_BYTES.min(left)];
    while left > 0 {
        let n = io.read(&mut waste[..DRAIN_BYTES.min(left)]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= n;
    }
    Ok(())
}

impl request_response::Codec for Frames {
    type Protocol = StreamProtocol;
    type Request = Frame;
    type Response = Frame;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        Self::read(io, self.request_max, self.memory.as_ref()).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        Self::read(io, self.response_max, None).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, f: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Self::write(io, f).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        f: Frame,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Self::write(io, f).await
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    async fn read(bytes: &[u8], max: u32, memory: Option<&Arc<Semaphore>>) -> io::Result<Frame> {
        Frames::read(&mut Cursor::new(bytes), max, memory).await
    }

    #[tokio::test]
    async fn a_frame_reads_back_as_written() {
        let mut io = Cursor::new(Vec::new());
        Frames::write(&mut io, Frame::new(b"hello".to_vec())).await.unwrap();
        let wire = io.into_inner();
        assert_eq!(wire, b"\0\0\0\x05hello");
        let Frame::Whole { bytes, .. } = read(&wire, 5, None).await.unwrap() else { panic!() };
        assert_eq!(bytes, b"hello");
    }

    #[tokio::test]
    async fn a_frame_that_announces_too_much_is_not_read() {
        let frame = read(&[0xff; 8], 1 << 20, None).await.unwrap();
        assert!(matches!(frame, Frame::Oversized { bytes: 0xffff_ffff }));
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        assert!(read(b"\0\0", 9, None).await.is_err());
        assert!(read(b"\0\0\0\x05hell", 9, None).await.is_err());
    }

    #[tokio::test]
    async fn without_room_the_frame_is_thrown_away_and_room_comes_back() {
        let memory = Arc::new(Semaphore::new(6));
        let first = read(b"\0\0\0\x05hello", 9, Some(&memory)).await.unwrap();
        let second = read(b"\0\0\0\x05hello", 9, Some(&memory)).await.unwrap();
        assert!(matches!(second, Frame::NoRoom));
        drop(first);
        assert_eq!(memory.available_permits(), 6);
    }

    #[tokio::test]
    async fn room_that_ends_within_a_frame_comes_back_at_once() {
        let memory = Arc::new(Semaphore::new(STEP_BYTES + 1));
        let len = 3 * STEP_BYTES;
        let wire = [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![7; len]].concat();
        let frame = read(&wire, 1 << 20, Some(&memory)).await.unwrap();
        assert!(matches!(frame, Frame::NoRoom));
        assert_eq!(memory.available_permits(), STEP_BYTES + 1);
        let roomy = Arc::new(Semaphore::new(len));
        let frame = read(&wire, 1 << 20, Some(&roomy)).await.unwrap();
        let Frame::Whole { bytes, held } = frame else { panic!("there is room") };
        assert_eq!((bytes.len(), roomy.available_permits()), (len, 0));
        drop(held);
        assert_eq!(roomy.available_permits(), len);
    }
}
