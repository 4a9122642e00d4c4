//! Targets for what the node itself reads. They are replayed with the others; discovery leaves them out, because nobody wants
//! to wait for a runtime that is compiled with coverage.

use catalog::record::{DISK_BYTES_MAX, DiskFormat};
use catalog::sync::SyncMessage;
use catalog::{Digest, OrgId, RealmId};
use node::engine::images::document::Document;
use node::engine::images::name::{ImageName, OciDigest, Reference, Repository, Tag};
use node::engine::message::{
    Bytes, FenceMessage, LedgerMessage, MESSAGE_LEN_MAX, MessageError, NodeMessage,
};
use node::engine::realms::{RealmsMessage, Told};
use node::runtime::vm::inspect_bytes;
use node::session::passed_on;
use scheduler::negotiate::Message;

use super::Target;

/// Every target of the node.
#[must_use]
pub fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("node_message", check_message, message_seeds),
        target("oci_manifest", check_manifest, manifest_seeds),
        target("image_name", check_name, name_seeds),
        target("disk_image", check_image, image_seeds),
        target("session_user", check_user, user_seeds),
        target("session_task", check_task, task_seeds),
    ]
}

/// A message is written in one way, which reads the same; what is too long is not read.
fn check_message(bytes: &[u8]) -> bool {
    let Ok(message) = NodeMessage::decode(bytes) else {
        return false;
    };
    let encoded = message.encode();
    let again = NodeMessage::decode(&encoded).expect("what was written reads back");
    assert_eq!(again.encode(), encoded);
    let long = [bytes, &vec![0; MESSAGE_LEN_MAX]].concat();
    let refused = NodeMessage::decode(&long).err();
    assert_eq!(refused, Some(MessageError::TooLong { len: long.len() }));
    true
}

fn message_seeds() -> Vec<Vec<u8>> {
    let (channel, bytes) = (Digest::of(b"channel"), || vec![Bytes(vec![1, 2, 3])]);
    let ledger = LedgerMessage { channel, have: 7, quotes: bytes(), entries: bytes() };
    let messages = [
        NodeMessage::Catalog(SyncMessage::WantRestricted),
        NodeMessage::Task(Message::Accept { request: [1; 16] }),
        NodeMessage::Ledger(ledger),
        NodeMessage::Fence(FenceMessage::SetBack { token: [2; 16] }),
        NodeMessage::Fence(FenceMessage::Shared { token: [2; 16], channels: vec![channel] }),
        NodeMessage::Fence(FenceMessage::Request { channel, token: [2; 16], own: 3, peer: 4 }),
        NodeMessage::Fence(FenceMessage::Answer {
            channel,
            fence: Bytes(vec![9]),
            quotes: bytes(),
            own: bytes(),
            peer: bytes(),
        }),
        NodeMessage::Fence(FenceMessage::Unable { channel }),
    ];
    let realms = realms_seeds().into_iter().map(NodeMessage::Realms);
    let messages: Vec<NodeMessage> = messages.into_iter().chain(realms).collect();
    messages.iter().map(NodeMessage::encode).collect()
}

/// What gateways of realms say to each other.
fn realms_seeds() -> Vec<RealmsMessage> {
    let (realm, filter) = (RealmId::from_bytes([3; 16]), || "kind = data".to_owned());
    let bytes = || Bytes(vec![1, 2, 3]);
    let told = Told {
        id: 1,
        realm,
        pushes: vec![bytes()],
        is_all: true,
        digest: bytes(),
        papers: bytes(),
    };
    vec![
        RealmsMessage::Digest { signed: bytes(), papers: bytes(), hops: 1 },
        RealmsMessage::Ask { id: 1, realm, filter: filter(), limit: 9, hops: 0 },
        RealmsMessage::Told(told),
        RealmsMessage::Everywhere { id: 2, filter: filter(), limit: 9 },
        RealmsMessage::Asked { id: 2, silent: vec![realm], ruled_out: 1 },
        RealmsMessage::LetSpeak { grants: vec![bytes()] },
        RealmsMessage::AskLists { held: vec![(OrgId::from_bytes([3; 32]), 1)] },
        RealmsMessage::Lists { lists: vec![bytes()] },
    ]
}

/// A manifest names what it consists of, whatever its sender called it, and twice the same.
fn check_manifest(bytes: &[u8]) -> bool {
    let Ok(document) = Document::parse(bytes, "") else {
        return false;
    };
    let named = Document::parse(bytes, &document.media_type);
    assert_eq!(named.as_ref().map(|d| &d.parts), Ok(&document.parts));
    let (is_index, kind) = (document.is_index(), document.media_type.as_str());
    assert_eq!(is_index, kind.contains("index") || kind.contains("list"), "{kind}");
    true
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0f".repeat(32));
    let part = |kind: &str| serde_json::json!({"mediaType": kind, "digest": digest, "size": 7});
    let layer = part("application/vnd.oci.image.layer.v1.tar+gzip");
    let image = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
        "annotations": {"a": "b"},
    });
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [part("application/vnd.oci.image.manifest.v1+json")],
    });
    [image, index].map(|json| json.to_string().into_bytes()).into()
}

/// Whatever is a name prints as the text it was read from, or as one that names the same.
fn check_name(bytes: &[u8]) -> bool {
    fn holds<T>(text: &str) -> bool
    where
        T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug,
    {
        let Ok(name) = text.parse::<T>() else { return false };
        let printed = name.to_string();
        assert_eq!(printed.parse::<T>().ok(), Some(name), "{printed}");
        true
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let all = [
        holds::<ImageName>(text),
        holds::<Reference>(text),
        holds::<Repository>(text),
        holds::<Tag>(text),
        holds::<OciDigest>(text),
    ];
    all.contains(&true)
}

fn name_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0f".repeat(32));
    let texts = [
        "terrain/slope:v1.2".to_owned(),
        format!("a__b/c-d@{digest}"),
        digest,
        "latest".to_owned(),
    ];
    texts.map(String::into_bytes).into()
}

/// What a node passes on of a session passes the next node as it is.
fn check_session(bytes: &[u8], is_of_user: bool) -> bool {
    let (once, is_whole) = passed_on(bytes, is_of_user);
    let (twice, is_whole_again) = passed_on(&once, is_of_user);
    assert!(is_whole_again, "frames are written whole");
    assert_eq!(once, twice);
    // A byte that is no text may become a mark of three, in the reason of a failure.
    assert!(once.len() <= 3 * bytes.len(), "{} of {} bytes", once.len(), bytes.len());
    is_whole
}

fn check_user(bytes: &[u8]) -> bool {
    check_session(bytes, true)
}

fn check_task(bytes: &[u8]) -> bool {
    check_session(bytes, false)
}

/// Frames of these kinds.
fn frames(all: &[(u8, &[u8])]) -> Vec<u8> {
    let frame = |(kind, payload): &(u8, &[u8])| {
        let len = u16::try_from(payload.len()).expect("seeds are short");
        [&[*kind], &len.to_be_bytes()[..], payload].concat()
    };
    all.iter().flat_map(frame).collect()
}

fn user_seeds() -> Vec<Vec<u8>> {
    let begin = br#"{"argv":["sh","-c","ls"],"tty":{"columns":80,"rows":24}}"#;
    vec![frames(&[(0, begin), (1, b"input"), (3, &[0, 80, 0, 24]), (2, b"")])]
}

fn task_seeds() -> Vec<Vec<u8>> {
    let whole: [(u8, &[u8]); 5] =
        [(16, b""), (17, b"out"), (18, b"err"), (21, b""), (19, &[0, 0, 0, 1])];
    vec![frames(&whole), frames(&[(20, "none \u{fc}ber".as_bytes())])]
}

/// The header of an image promises no disk beyond the bound, and a file that names others is none that is taken.
fn check_image(bytes: &[u8]) -> bool {
    let Ok((format, disk_bytes)) = inspect_bytes(bytes) else {
        return false;
    };
    assert!(disk_bytes <= DISK_BYTES_MAX, "{disk_bytes} bytes");
    match format {
        DiskFormat::Raw => assert_eq!(disk_bytes, bytes.len() as u64),
        DiskFormat::Qcow2 => assert_eq!(bytes.get(8..16), Some(&[0; 8][..]), "no file below it"),
        _ => {}
    }
    true
}

/// A file of zeros, but for these fields.
fn fields(len: usize, all: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, field) in all {
        bytes[*at..at + field.len()].copy_from_slice(field);
    }
    bytes
}

fn image_seeds() -> Vec<Vec<u8>> {
    let raw = fields(1024, &[(510, &[0x55, 0xaa])]);
    let qcow2 = fields(
        1056,
        &[
            (0, b"QFI\xfb\0\0\0\x03"),
            (20, &16_u32.to_be_bytes()),
            (24, &(1_u64 << 30).to_be_bytes()),
            (36, &2_u32.to_be_bytes()),
            (40, &1024_u64.to_be_bytes()),
            (100, &104_u32.to_be_bytes()),
        ],
    );
    let text: &[u8] = b"parentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
    let one = 1_u64.to_le_bytes();
    let capacity = 8_u64.to_le_bytes();
    let vmdk = fields(1024, &[(0, b"KDMV"), (12, &capacity), (28, &one), (36, &one), (512, text)]);
    vec![raw, qcow2, vmdk]
}
