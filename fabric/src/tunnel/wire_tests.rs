use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use tokio::sync::mpsc;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;
use crate::event::{Offence, Verdict};
use crate::key::PeerKey;
use crate::net::Moved;
use crate::tunnel::TunnelBytes;
use crate::tunnel::window::Pools;

const PEER: PeerKey = PeerKey::from_bytes([1; 32]);

/// A wire, and what is told of its peer.
fn watched(io: DuplexStream) -> (Wire<Compat<DuplexStream>>, mpsc::Receiver<Verdict>) {
    let (to, told) = mpsc::channel(9);
    let tally = Tally::new(PEER, TunnelBytes::default(), Moved(to));
    let window = Window::new(Pools::new(8 << 20).share(PEER), Instant::now());
    (Wire::new(io.compat(), window, tally), told)
}

fn wire(io: DuplexStream) -> Wire<Compat<DuplexStream>> {
    watched(io).0
}

/// What a reader gets from these bytes on the stream.
async fn read(bytes: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let (mut raw, far) = tokio::io::duplex(1 << 20);
    raw.write_all(bytes).await.unwrap();
    drop(raw);
    let mut got = Vec::new();
    let ended = wire(far).read_to_end(&mut got).await;
    (got, ended)
}

#[tokio::test]
async fn bytes_arrive_through_any_pipe_however_narrow() {
    let bytes: Vec<u8> = (0..200_003_u32).map(|i| i.to_le_bytes()[0] ^ (i >> 7) as u8).collect();
    for width in [1, 3, 1000, 1 << 20] {
        let (near, far) = tokio::io::duplex(width);
        let (mut near, mut far) = (wire(near), wire(far));
        let mut got = Vec::new();
        let sending = async {
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let ((), received) = tokio::join!(sending, far.read_to_end(&mut got));
        assert_eq!(received.unwrap(), bytes.len(), "{width}");
        assert!(got == bytes, "{width}");
        let counts = (near.tally.bytes().sent(), far.tally.bytes().received());
        assert_eq!(counts, (200_003, 200_003));
    }
}

#[tokio::test]
async fn frames_are_on_the_stream_as_the_page_says() {
    let (near, mut raw) = tokio::io::duplex(1 << 20);
    let mut near = wire(near);
    near.write_all(b"hello").await.unwrap();
    // As much as there is room for, heads included, and not a byte more before there is credit.
    near.write_all(&[7; (64 << 10) - 8 - 3]).await.unwrap();
    raw.write_all(&[1, 0, 2, b'h', b'i', 2, 0, 1]).await.unwrap();
    near.write_all(&[8; 1024 - 3]).await.unwrap();
    near.shutdown().await.unwrap();
    drop(near);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..8], b"\x01\0\x05hello");
    assert_eq!(bytes[8..12], [1, 0xff, 0xf5, 7]);
    let rest = &bytes[64 << 10..];
    assert_eq!((&rest[..4], &rest[1024..]), (&[1, 3, 0xfd, 8][..], &[0, 0, 0][..]));
}

#[tokio::test]
async fn what_is_read_is_asked_for_anew() {
    let (near, mut raw) = tokio::io::duplex(1 << 20);
    let mut near = wire(near);
    raw.write_all(&[1, 0x7f, 0xfd]).await.unwrap();
    raw.write_all(&[7; 0x7ffd]).await.unwrap();
    let mut got = vec![0; 0x7ffd - 1];
    near.read_exact(&mut got).await.unwrap();
    near.read_exact(&mut got[..1]).await.unwrap();
    let mut credit = [0; 3];
    raw.read_exact(&mut credit).await.unwrap();
    // Half a window was read fast: that half again, and the window is doubled.
    assert_eq!(credit, [2, 0, 32 + 64]);
}

#[tokio::test]
async fn who_writes_and_does_not_read_is_stopped_and_loses_nothing() {
    let (near, far) = tokio::io::duplex(8 << 20);
    let (near, far) = (wire(near), wire(far));
    let counts = [near.tally.bytes().clone(), far.tally.bytes().clone()];
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i >> 3) as u8).collect();
    let (mut near_reads, near_writes) = tokio::io::split(near);
    let (mut far_reads, far_writes) = tokio::io::split(far);
    let write = async |mut end: tokio::io::WriteHalf<_>| {
        for piece in bytes.chunks(997) {
            end.write_all(piece).await?;
        }
        end.shutdown().await
    };
    let both = async { tokio::try_join!(write(near_writes), write(far_writes)) };
    let mut writing = Box::pin(tokio::task::unconstrained(both));
    for _ in 0..3 {
        assert!(futures::poll!(&mut writing).is_pending());
    }
    let heads = 66 * HEAD_BYTES as u64;
    assert_eq!(counts.map(|count| count.sent()), [u64::from(WINDOW_BYTES) - heads; 2]);
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let all = async {
        let reading = async {
            tokio::try_join!(far_reads.read_to_end(&mut there), near_reads.read_to_end(&mut back))
        };
        tokio::try_join!(writing, reading)
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap().unwrap();
    assert!(there == bytes && back == bytes);
}

#[tokio::test]
async fn who_breaks_the_protocol_is_cut_and_told_of() {
    let chunk = [&[1, 0xf0, 0][..], &[7; 0xf000]].concat();
    let nonsense: [&[u8]; 6] = [
        &[3, 0, 0],
        &[1, 0, 0],
        &[2, 0, 0],
        &[0, 0, 1],
        &[0, 0, 0, 1, 0, 1, b'x'],
        &[0, 0, 0, 0, 0, 0],
    ];
    let more_than_may = [&chunk[..], &chunk[..]].concat();
    for bytes in nonsense.into_iter().chain([&more_than_may[..]]) {
        let (mut raw, far) = tokio::io::duplex(1 << 20);
        let (mut far, mut told) = watched(far);
        raw.write_all(bytes).await.unwrap();
        raw.write_all(b"\x01\0\x01y\0\0\0").await.unwrap();
        // Writing beyond the credit looks for more of it, past everything that is there to read.
        let error = far.write_all(&[0; 100_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{:?}", &bytes[..3]);
        let offence = told.recv().await.unwrap();
        assert!(
            matches!(offence, Verdict::Offence { peer: PEER, offence: Offence::Malformed }),
            "{offence:?}"
        );
        // What follows is never taken for frames: only an end from before it counts, and nothing more is said to the peer.
        let mut got = Vec::new();
        let ended = far.read_to_end(&mut got).await.map_err(|error| error.kind());
        if bytes.starts_with(&[0, 0, 0]) {
            assert_eq!((ended, &got[..]), (Ok(0), &b""[..]));
        } else {
            assert_eq!(ended, Err(io::ErrorKind::InvalidData), "{:?}", &bytes[..3]);
            assert!(!got.contains(&b'y'));
        }
        for again in [far.write_all(b"x").await, far.shutdown().await] {
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert!(told.try_recv().is_err(), "it is told of once");
    }
}

#[tokio::test]
async fn only_an_end_is_an_end() {
    assert_eq!(read(b"\x01\0\x02hi\0\0\0").await.1.unwrap(), 2);
    assert_eq!(read(b"\x01\0\x01h\x01\0\x01i\0\0\0").await.0, b"hi");
    let whole = b"\x01\0\x02hi\0\0\0";
    for n in 0..whole.len() {
        let (got, ended) = read(&whole[..n]).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{n}");
        assert!(b"hi".starts_with(&got[..]));
    }
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let (near, _far) = tokio::io::duplex(64);
    let mut near = wire(near);
    near.shutdown().await.unwrap();
    let error = near.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    near.shutdown().await.unwrap();
}
