//! Targets for the network's own frames, which are read before anybody's meaning is asked for.

use fabric::PeerKey;
use fabric::blob::{GROUP_BYTES, hash_file};
use fabric::frames::{self, Message, Relay};

use super::Target;

/// Bytes of the blob that is asked for: two groups and a part of one.
const BLOB_BYTES: usize = 2 * GROUP_BYTES as usize + 77;
/// The kind of a tunnel's frame that gives credit.
const CREDIT: u8 = 2;
/// A peer whose key is a point of the curve.
const PEER: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

/// Every target of the network.
pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("frame_message", check_message, message_seeds),
        target("frame_hello", check_hello, hello_seeds),
        target("frame_probe", check_probe, probe_seeds),
        target("frame_tunnel", check_tunnel, tunnel_seeds),
        target("frame_tunnel_request", check_tunnel_request, tunnel_request_seeds),
        target("frame_blob_request", check_blob_request, blob_request_seeds),
        target("frame_blob_answer", check_blob_answer, blob_answer_seeds),
        target("frame_relay", check_relay, relay_seeds),
    ]
}

/// A message is what stands behind its length, and not a byte of what follows is taken.
fn check_message(bytes: &[u8]) -> bool {
    let Ok((message, taken)) = frames::message(bytes) else {
        return false;
    };
    let announced = bytes[..4].iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
    match message {
        Message::Whole(whole) => {
            assert_eq!((whole.len(), taken), (announced, 4 + announced));
            assert_eq!(whole, bytes[4..taken]);
            true
        }
        Message::NoRoom => {
            assert_eq!(taken, 4 + announced);
            false
        }
        Message::Oversized => {
            assert!(announced > fabric::MESSAGE_MAX && taken == 4, "{announced}, {taken}");
            false
        }
    }
}

fn message_seeds() -> Vec<Vec<u8>> {
    let framed = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).expect("seeds are short");
        [&len.to_be_bytes()[..], bytes].concat()
    };
    vec![framed(b""), framed(b"hello"), [framed(b"one"), framed(b"two")].concat()]
}

/// A hello is written as it was read.
fn check_hello(bytes: &[u8]) -> bool {
    let written = frames::hello(bytes);
    assert!(written.as_ref().is_none_or(|written| written == bytes));
    written.is_some()
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, payload: &[u8]| [&[kind], &7_u64.to_be_bytes()[..], payload].concat();
    vec![frame(1, b"papers"), frame(2, b""), frame(3, b""), frame(5, b"")]
}

/// Addresses are few, short, and as they came.
fn check_probe(bytes: &[u8]) -> bool {
    let Ok(addresses) = frames::probe(bytes) else {
        return false;
    };
    let mut written = vec![u8::try_from(addresses.len()).expect("they were counted in a byte")];
    for address in &addresses {
        let len = u16::try_from(address.len()).expect("an address is short");
        assert!(len <= 256, "{len} bytes");
        written.extend(len.to_be_bytes());
        written.extend(address);
    }
    assert!(bytes.starts_with(&written));
    true
}

fn probe_seeds() -> Vec<Vec<u8>> {
    let tcp: &[u8] = &[4, 203, 0, 113, 9, 6, 0x11, 0x51];
    let quic: &[u8] = &[4, 203, 0, 113, 9, 0x91, 2, 0x11, 0x51, 0xcd, 3];
    let framed = |address: &[u8]| [&[0, address.len() as u8], address].concat();
    vec![vec![0], [vec![1], framed(tcp)].concat(), [vec![2], framed(tcp), framed(quic)].concat()]
}

/// A tunnel gives the same bytes and ends alike however it is read, and what a reader is told to be whole was ended. Up to an
/// end every reader finds the same offences; behind it reads only who waits for credit.
fn check_tunnel(bytes: &[u8]) -> bool {
    let whole = frames::tunnel(bytes, 1 << 16, false);
    let end = tunnel_end(bytes);
    assert_eq!(whole.is_whole, end.is_some());
    for (step, is_writing) in [(1, false), (7, true)] {
        // Long inputs in steps of a byte would only be slow.
        if step == 1 && bytes.len() > 2048 {
            continue;
        }
        let again = frames::tunnel(bytes, step, is_writing);
        assert_eq!((again.is_whole, &again.bytes), (whole.is_whole, &whole.bytes));
        let is_behind = is_writing && end.is_some_and(|end| is_more_than_credit(&bytes[end..]));
        assert!(again.is_offence == whole.is_offence || (again.is_offence && is_behind));
        // Who never gets credit, and has to say more than it may without, reads everything.
        let is_waiting = is_writing && end.is_some_and(|end| !bytes[..end].contains(&CREDIT));
        if is_waiting && is_behind && bytes[end.unwrap_or(0)] != CREDIT {
            assert!(again.is_offence);
        }
    }
    assert!(whole.bytes.len() <= bytes.len());
    assert!(!whole.is_whole || !whole.is_offence, "what ended well was no offence");
    whole.is_whole
}

/// Where the first end of a tunnel's frames ends, told without the reader's help.
fn tunnel_end(mut bytes: &[u8]) -> Option<usize> {
    let len = bytes.len();
    while let [kind, high, low, rest @ ..] = bytes {
        let n = usize::from(*high) << 8 | usize::from(*low);
        bytes = match (*kind, n) {
            (0, 0) => return Some(len - rest.len()),
            (1, 1..) => rest.get(n..)?,
            (CREDIT, 1..) => rest,
            _ => return None,
        };
    }
    None
}

/// Whether something else than credit is among these frames.
fn is_more_than_credit(frames: &[u8]) -> bool {
    let mut frames = frames.chunks_exact(3);
    frames.any(|frame| frame[0] != CREDIT || frame[1..] == [0, 0])
}

fn tunnel_seeds() -> Vec<Vec<u8>> {
    let chunk = |bytes: &[u8]| {
        [&[1], &u16::try_from(bytes.len()).expect("seeds are short").to_be_bytes()[..], bytes]
            .concat()
    };
    let (end, credit) = (vec![0, 0, 0], vec![2, 0, 64]);
    vec![
        end.clone(),
        [chunk(b"hello"), end.clone()].concat(),
        [credit.clone(), chunk(b"a"), credit.clone(), chunk(&[7; 900]), end.clone()].concat(),
        [end.clone(), credit].concat(),
        [chunk(b"hello"), end, chunk(b"more")].concat(),
    ]
}

/// A request is what stands behind its length; a reason is a line that paints nothing.
fn check_tunnel_request(bytes: &[u8]) -> bool {
    if let Ok(reason) = frames::tunnel_reason(bytes) {
        assert!(!reason.chars().any(char::is_control), "{reason:?}");
        assert!(reason.chars().count() <= fabric::tunnel::TUNNEL_REASON_MAX);
    }
    let Ok(request) = frames::tunnel_request(bytes) else {
        return false;
    };
    let announced = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    match request {
        Some(request) => assert_eq!(request, bytes[2..2 + announced]),
        None => assert!(announced > fabric::tunnel::TUNNEL_REQUEST_MAX, "{announced}"),
    }
    announced <= fabric::tunnel::TUNNEL_REQUEST_MAX
}

fn tunnel_request_seeds() -> Vec<Vec<u8>> {
    vec![b"\0\x05hello".to_vec(), b"\0\0".to_vec(), b"\x02no".to_vec()]
}

/// A stretch that is served is one of whole groups inside the blob.
fn check_blob_request(bytes: &[u8]) -> bool {
    let Some((wanted, size)) = bytes.split_first_chunk::<48>() else {
        return false;
    };
    let size = size.iter().take(8).fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
    let Some((hash, from, to)) = frames::blob_request(wanted, size) else {
        return false;
    };
    assert_eq!(hash[..], wanted[..32]);
    assert!(from.is_multiple_of(GROUP_BYTES) && (from == 0 || from < size), "{from} of {size}");
    assert!(to >= size || (to > from && to.is_multiple_of(GROUP_BYTES)), "{to} of {size}");
    true
}

fn blob_request_seeds() -> Vec<Vec<u8>> {
    let request = |from: u64, to: u64, size: u64| {
        [&[9; 32][..], &from.to_le_bytes(), &to.to_le_bytes(), &size.to_be_bytes()].concat()
    };
    vec![
        request(0, u64::MAX, 0),
        request(0, GROUP_BYTES, 1 << 20),
        request(GROUP_BYTES, 3 * GROUP_BYTES, 1 << 30),
    ]
}

/// The blob that is asked for.
fn blob() -> Vec<u8> {
    (0..BLOB_BYTES).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Whatever a server answers, what comes through is of the blob. The first byte says which group is wanted, with what follows.
fn check_blob_answer(bytes: &[u8]) -> bool {
    let Some((group, answer)) = bytes.split_first() else {
        return false;
    };
    let (blob, from) = (blob(), u64::from(group % 3) * GROUP_BYTES);
    let to = if group & 0x80 == 0 { from + GROUP_BYTES } else { u64::MAX };
    let hash = *blake3::hash(&blob).as_bytes();
    let Ok((got, at, size)) = frames::blob_answer(answer, hash, (from, to)) else {
        return false;
    };
    assert_eq!(at, from);
    let at = usize::try_from(at).expect("the blob is short");
    let part = blob.get(at..).unwrap_or_default();
    assert!(part.starts_with(&got), "{} bytes that are not the blob's", got.len());
    assert!(size <= blob.len() as u64 || got.len() < part.len(), "a size is proven by the end");
    true
}

/// Honest answers, made as a server makes them: short ones, so that the corpus stays small.
fn blob_answer_seeds() -> Vec<Vec<u8>> {
    let blob = blob();
    let tree = tree_of(&blob);
    let head = |status: u8, size: usize| [&[status][..], &(size as u64).to_le_bytes()].concat();
    let last = &blob[2 * GROUP_BYTES as usize..];
    vec![
        // The last group with the pair above it.
        [&[2][..], &head(0, blob.len()), &tree[..64], last].concat(),
        [&[0][..], &head(1, 0)].concat(),
        [&[1][..], &head(4, 5)].concat(),
        // A size that would be true of no file.
        [&[0x80][..], &head(0, usize::MAX), &tree].concat(),
    ]
}

/// The inner nodes of a blob's tree.
fn tree_of(blob: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().expect("a file for the seeds");
    std::io::Write::write_all(&mut file, blob).expect("the disk has room");
    let (_, _, tree) = hash_file(file.path()).expect("the file is there");
    tree
}

/// Of a stream no more than the message is taken, and a peer that is named is one.
fn check_relay(bytes: &[u8]) -> bool {
    let Ok((message, taken)) = frames::relay(bytes) else {
        return false;
    };
    assert!(taken <= bytes.len() && taken <= 4096 + 3, "{taken} bytes taken");
    assert_eq!(frames::relay(&bytes[..taken]).ok(), Some((message, taken)));
    if let Relay::Connect(peer) = message {
        let [stop, _] = frames::relay_written(peer);
        assert!(frames::relay(&stop).is_ok());
    }
    message != Relay::Nothing
}

fn relay_seeds() -> Vec<Vec<u8>> {
    let [stop, answer] = frames::relay_written(PeerKey::from_bytes(PEER));
    // The peer of `stop` is field 2 as in a request to connect, whose kind is 1: what a relay is asked.
    let mut connect = stop;
    let kind = connect.windows(2).position(|field| field == [8, 0]).expect("it has a kind");
    connect[kind + 1] = 1;
    vec![vec![2, 8, 0], connect, answer, vec![4, 8, 1, 32, 100]]
}
