//! The few messages of circuit relay v2, as its specification encodes them (protocol buffers, each behind its length).
//!
//! Written out here because they are five fields of two kinds, and because every byte of them comes from a peer: fields that are
//! not known are skipped, a field of the wrong kind or a length beyond the message is an error.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::key::PeerKey;

/// Largest message, in bytes, as the specification has it. A longer one ends its stream.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of a length at most: two of seven bits hold more than [`MESSAGE_BYTES_MAX`].
const LENGTH_BYTES_MAX: usize = 2;

const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// What a relay answers, by the numbers of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 100,
    Refused = 200,
    LimitExceeded = 201,
    Denied = 202,
    ConnectionFailed = 203,
    NoReservation = 204,
    Malformed = 400,
}

/// What a peer asks a relay for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To be reachable through it.
    Reserve,
    /// A circuit to another peer.
    Connect(PeerKey),
}

/// What both ends of a circuit are told to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) seconds: u32,
    pub(crate) bytes: u64,
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The next field and its number; `None` when what follows is no field.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(bytes)?;
    let number = take_varint(bytes)?;
    match key & 7 {
        VARINT => Some((key >> 3, Value::Number(number))),
        BYTES => {
            let length = usize::try_from(number).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some((key >> 3, Value::Bytes(value)))
        }
        _ => None,
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // Cut to seven bits on purpose.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3 | VARINT);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn limit_bytes(limit: Limit) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, limit.seconds.into());
    put_number(&mut out, 2, limit.bytes);
    out
}

/// Reads what a peer asks for.
pub(crate) fn request(mut bytes: &[u8]) -> Option<Request> {
    let (mut kind, mut peer) = (None, None);
    while !bytes.is_empty() {
        match take_field(&mut bytes)? {
            (1, Value::Number(number)) => kind = Some(number),
            (2, Value::Bytes(value)) => peer = Some(peer_of(value)?),
            (1 | 2, _) => return None,
            _ => {}
        }
    }
    match kind? {
        0 => Some(Request::Reserve),
        1 => peer.map(Request::Connect),
        _ => None,
    }
}

fn peer_of(mut bytes: &[u8]) -> Option<PeerKey> {
    let mut id = None;
    while !bytes.is_empty() {
        if let (1, Value::Bytes(value)) = take_field(&mut bytes)? {
            id = Some(value);
        }
    }
    PeerKey::from_peer_id(&libp2p::PeerId::from_bytes(id?).ok()?)
}

/// The answer to a reservation: until when it holds, and where the relay is reached.
pub(crate) fn reserved(until_s: u64, addresses: &[Vec<u8>], limit: Limit) -> Vec<u8> {
    let mut reservation = Vec::new();
    put_number(&mut reservation, 1, until_s);
    for address in addresses {
        put_bytes(&mut reservation, 2, address);
    }
    let mut out = Vec::new();
    put_number(&mut out, 1, 2);
    put_bytes(&mut out, 3, &reservation);
    put_bytes(&mut out, 4, &limit_bytes(limit));
    put_number(&mut out, 5, Status::Ok as u64);
    out
}

/// Any other answer to a request.
pub(crate) fn answer(status: Status, limit: Option<Limit>) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, 2);
    if let Some(limit) = limit {
        put_bytes(&mut out, 4, &limit_bytes(limit));
    }
    put_number(&mut out, 5, status as u64);
    out
}

/// Tells the far end of a circuit who wants to talk to it.
pub(crate) fn stop(from: PeerKey, limit: Limit) -> Vec<u8> {
    let mut peer = Vec::new();
    put_bytes(&mut peer, 1, &from.to_peer_id().to_bytes());
    let mut out = Vec::new();
    put_number(&mut out, 1, 0);
    put_bytes(&mut out, 2, &peer);
    put_bytes(&mut out, 3, &limit_bytes(limit));
    out
}

/// Whether the far end takes the circuit.
pub(crate) fn is_taken(mut bytes: &[u8]) -> Option<bool> {
    let (mut kind, mut status) = (None, None);
    while !bytes.is_empty() {
        match take_field(&mut bytes)? {
            (1, Value::Number(number)) => kind = Some(number),
            (4, Value::Number(number)) => status = Some(number),
            _ => {}
        }
    }
    (kind? == 1).then_some(status? == Status::Ok as u64)
}

/// Reads one message, and not a byte more: what follows belongs to the circuit.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = 0;
    for at in 0..=LENGTH_BYTES_MAX {
        let mut byte = [0];
        from.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << (7 * at);
        if byte[0] & 0x80 == 0 {
            if length > MESSAGE_BYTES_MAX {
                break;
            }
            let mut message = vec![0; length];
            from.read_exact(&mut message).await?;
            return Ok(message);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))
}

/// Writes one message.
pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(message.len() + 4);
    put_varint(&mut out, message.len() as u64);
    out.extend_from_slice(message);
    to.write_all(&out).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: PeerKey = PeerKey::from_bytes([7; 32]);
    const LIMIT: Limit = Limit { seconds: 3600, bytes: 1 << 30 };

    fn connect(peer: PeerKey) -> Vec<u8> {
        let mut inner = Vec::new();
        put_bytes(&mut inner, 1, &peer.to_peer_id().to_bytes());
        let mut out = Vec::new();
        put_number(&mut out, 1, 1);
        put_bytes(&mut out, 2, &inner);
        out
    }

    #[test]
    fn requests_are_read() {
        assert_eq!(request(&[8, 0]), Some(Request::Reserve));
        assert_eq!(request(&connect(PEER)), Some(Request::Connect(PEER)));
        // A later version may say more.
        let mut more = connect(PEER);
        put_number(&mut more, 9, 300);
        put_bytes(&mut more, 10, b"new");
        assert_eq!(request(&more), Some(Request::Connect(PEER)));
        for bad in [&[][..], &[8], &[8, 1], &[8, 3], &[10, 0], &[8, 1, 18, 9, 1], &[9, 0]] {
            assert_eq!(request(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn answers_of_the_far_end_are_read() {
        assert_eq!(is_taken(&[8, 1, 32, 100]), Some(true));
        assert_eq!(is_taken(&[8, 1, 32, 0xcc, 1]), Some(false));
        assert_eq!(is_taken(&[8, 0, 32, 100]), None);
        assert_eq!(is_taken(&[8, 1]), None);
    }

    #[tokio::test]
    async fn a_message_is_read_to_its_end_and_no_further() {
        let message = stop(PEER, LIMIT);
        let mut wire = futures::io::Cursor::new(Vec::new());
        write(&mut wire, &message).await.unwrap();
        wire.get_mut().extend_from_slice(b"rest");
        wire.set_position(0);
        assert_eq!(read(&mut wire).await.unwrap(), message);
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"rest");
        for long in [&[0xff, 0xff, 0xff, 0xff, 1][..], &[0x81, 0x80, 0x80], &[0x81, 0x20]] {
            assert!(read(&mut futures::io::Cursor::new(long)).await.is_err(), "{long:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_is_harmful(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = (request(&bytes), is_taken(&bytes));
        }

        #[test]
        fn numbers_come_back(number: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            let mut bytes = &out[..];
            prop_assert_eq!(take_varint(&mut bytes), Some(number));
            prop_assert!(bytes.is_empty());
        }
    }
}
