use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use scheduler::value::ManifestFile;

use super::*;

struct Home {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Home {
    fn new() -> Self {
        Self::with_quota(None)
    }

    fn with_quota(quota: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("blobs"), quota).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn reopen(&self) -> BlobStore {
        BlobStore::open(&self.path("blobs"), None).unwrap()
    }

    fn temps(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path("blobs/tmp")).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Makes content look as if it had been used so long ago.
    fn age(&self, digest: &Digest, by: Duration) {
        let file = std::fs::File::open(self.path("blobs").join(hex_path(digest))).unwrap();
        file.set_modified(std::time::SystemTime::now() - by).unwrap();
    }

    /// Changes a byte of content on disk behind the store's back.
    fn damage(&self, digest: &Digest) {
        let path = self.store.path(digest).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
}

/// Where content lies below the store's root.
fn hex_path(digest: &Digest) -> PathBuf {
    let hex = digest.to_hex();
    Path::new(&hex[..2]).join(&hex)
}

/// What a fetch of the bytes gives.
fn fetched(bytes: &[u8]) -> fabric::Fetched {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let (_, size, outboard) = fabric::blob::hash_file(file.path()).unwrap();
    fabric::Fetched { size, outboard }
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn every_way_in_gives_the_same_name_and_content() {
    let home = Home::new();
    for len in [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20] {
        let bytes = noise(len);
        let expected = Added { digest: Digest::of(&bytes), size: len as u64 };
        let path = home.file("in", &bytes);
        assert_eq!(home.store.add_file(&path).await.unwrap(), expected);
        assert_eq!(home.store.add_bytes(bytes.clone()).await.unwrap(), expected);
        assert_eq!(home.store.add_stream(&bytes[..]).await.unwrap(), expected);
        assert_eq!(home.store.read(expected.digest, u64::MAX).await.unwrap(), bytes);
        let out = home.path("out");
        home.store.export(expected.digest, &out).await.unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), bytes);
        let outboard = home.store.outboard(expected.digest).await.unwrap();
        assert_eq!(outboard.len() as u64, hash::outboard_len(expected.size));
    }
    assert_eq!(home.store.usage().blobs, 5);
    assert_eq!(home.temps(), [""; 0]);
}

#[tokio::test]
async fn content_its_count_and_its_outboard_survive_reopening() {
    let home = Home::new();
    let big = home.store.add_bytes(noise(100_000)).await.unwrap();
    let small = home.store.add_bytes(noise(10)).await.unwrap();
    let again = home.reopen();
    assert_eq!(again.usage(), home.store.usage());
    let mut listed = vec![big, small];
    listed.sort_by_key(|added| added.digest);
    assert_eq!(again.list().await.unwrap(), listed);
    assert_eq!(again.outboard(big.digest).await.unwrap().len(), 6 * 64);
    std::fs::remove_file(home.store.inner.outboard_path(&big.digest)).unwrap();
    assert_eq!(again.outboard(big.digest).await.unwrap().len(), 6 * 64);
    assert!(home.store.inner.outboard_path(&big.digest).exists());
}

#[tokio::test]
async fn two_adds_of_one_content_at_once_count_once() {
    let home = Home::new();
    let bytes = noise(200_000);
    let adds = (0..8).map(|_| home.store.add_bytes(bytes.clone()));
    for added in futures::future::join_all(adds).await {
        assert_eq!(added.unwrap().digest, Digest::of(&bytes));
    }
    let usage = home.store.usage();
    assert_eq!((usage.blobs, usage.bytes), (1, 200_000 + hash::outboard_len(200_000)));
    assert_eq!(home.reopen().usage(), usage);
}

#[tokio::test]
async fn what_a_kill_leaves_is_removed_but_fetches_are_kept() {
    let home = Home::new();
    let digest = Digest::of(b"later");
    home.file("blobs/tmp/add-1-1", b"half");
    home.file("blobs/tmp/tree-1-2/a/b", b"half");
    let orphan = home.file(&format!("blobs/ab/ab{}.obao", "0".repeat(62)), b"no content");
    std::fs::write(home.store.temp_path(&digest), b"lat").unwrap();
    let store = home.reopen();
    assert_eq!(home.temps(), [format!("fetch-{}", digest.to_hex())]);
    assert!(!orphan.exists());
    assert_eq!(store.usage(), Usage::default());
    assert_eq!(store.temp_path(&digest), home.store.temp_path(&digest));
}

#[tokio::test]
async fn a_fetched_file_is_taken_over_only_when_it_is_what_was_asked_for() {
    let home = Home::new();
    let bytes = noise(50_000);
    let digest = Digest::of(&bytes);
    let temp = home.store.temp_path(&digest);
    std::fs::write(&temp, &bytes[1..]).unwrap();
    std::fs::write(temp.with_extension("part"), b"3").unwrap();
    let fetched = fetched(&bytes);
    let refused = home.store.adopt(digest, fetched.clone(), None).await.unwrap_err();
    assert!(matches!(refused, BlobError::Mismatch { found_size: 49_999, .. }), "{refused}");
    assert!(!home.store.has(&digest));
    assert_eq!(home.temps(), [""; 0]);
    std::fs::write(&temp, &bytes).unwrap();
    let room = home.store.reserve(50_000).await.unwrap();
    let added = home.store.adopt(digest, fetched, Some(room)).await.unwrap();
    assert_eq!(added, Added { digest, size: 50_000 });
    assert_eq!(home.store.read(digest, u64::MAX).await.unwrap(), bytes);
    assert_eq!(home.temps(), [""; 0]);
}

#[tokio::test]
async fn the_quota_holds_for_every_way_in_and_frees_what_is_removed() {
    let home = Home::with_quota(Some(1_000));
    let first = home.store.add_bytes(noise(600)).await.unwrap();
    let more = noise(500);
    let path = home.file("in", &more);
    let digest = Digest::of(&more);
    std::fs::write(home.store.temp_path(&digest), &more).unwrap();
    let refusals = [
        home.store.add_bytes(more.clone()).await.unwrap_err(),
        home.store.add_file(&path).await.unwrap_err(),
        home.store.add_stream(&more[..]).await.unwrap_err(),
        home.store.adopt(digest, fetched(&more), None).await.unwrap_err(),
        home.store.reserve(500).await.unwrap_err(),
        home.store.make_room(500).await.unwrap_err(),
    ];
    for refused in refusals {
        assert!(
            matches!(refused, BlobError::Quota { needed: 500, free: 400, quota: 1_000 }),
            "{refused}"
        );
        assert!(refused.is_no_room());
    }
    assert_eq!(home.store.usage().bytes, 600);
    assert!(home.store.remove(first.digest).await.unwrap());
    assert!(!home.store.remove(first.digest).await.unwrap());
    home.store.adopt(digest, fetched(&more), None).await.unwrap();
    assert_eq!(home.store.usage(), Usage { bytes: 500, blobs: 1, quota: Some(1_000) });
}

#[tokio::test]
async fn a_stream_that_breaks_off_leaves_nothing() {
    struct Broken(bool);
    impl AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(b"some");
            std::task::Poll::Ready(Ok(()))
        }
    }
    let home = Home::new();
    let refused = home.store.add_stream(Broken(false)).await.unwrap_err();
    assert!(matches!(refused, BlobError::Stream { received: 4, .. }), "{refused}");
    assert_eq!(home.temps(), [""; 0]);
    assert_eq!(home.store.usage(), Usage::default());
}

#[tokio::test]
async fn a_directory_comes_back_as_it_was_with_any_name() {
    let home = Home::new();
    let names = ["empty", "a/b/c.txt", "grüße/日本語 ✓", ".hidden", "a/b/d", "with space/x"];
    for (n, name) in names.into_iter().enumerate() {
        home.file(&format!("tree/{name}"), &noise(n * 9_000));
    }
    std::fs::create_dir(home.path("tree/nothing")).unwrap();
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    assert_eq!((dir.name.as_str(), dir.size), ("tree", 9_000 * 15));
    let shared = home.store.shared_dir(&dir).await.unwrap();
    let private = home.path("deep/private");
    home.store.stage_dir(&dir, &private).await.unwrap();
    for (n, name) in names.into_iter().enumerate() {
        assert_eq!(std::fs::read(shared.join(name)).unwrap(), noise(n * 9_000), "{name}");
        assert_eq!(std::fs::read(private.join(name)).unwrap(), noise(n * 9_000), "{name}");
    }
    let manifest = home.store.manifest(dir.digest).await.unwrap();
    assert_eq!(manifest.files.len(), names.len());
    assert_eq!(home.store.add_dir(&private).await.unwrap().digest, dir.digest);
}

#[tokio::test]
async fn an_empty_directory_is_a_directory() {
    let home = Home::new();
    std::fs::create_dir(home.path("tree")).unwrap();
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    home.store.stage_dir(&dir, &home.path("out")).await.unwrap();
    assert!(home.path("out").is_dir());
    assert!(home.store.shared_dir(&dir).await.unwrap().is_dir());
}

#[tokio::test]
async fn links_inside_a_directory_become_what_they_point_to() {
    let home = Home::new();
    home.file("tree/real/file", b"content");
    symlink("real/file", home.path("tree/to_file")).unwrap();
    symlink("real", home.path("tree/to_dir")).unwrap();
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    let manifest = home.store.manifest(dir.digest).await.unwrap();
    let names: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["real/file", "to_dir/file", "to_file"]);
}

#[tokio::test]
async fn links_that_lead_out_around_or_nowhere_are_refused() {
    let home = Home::new();
    home.file("secret", b"secret");
    let targets = ["../secret", "/etc/passwd", "../../..", ".", "missing", "bad", "../tree2/x"];
    home.file("tree2/x", b"next door, with the same beginning");
    for target in targets {
        let tree = home.path("tree");
        std::fs::create_dir_all(&tree).unwrap();
        symlink(target, tree.join("bad")).unwrap();
        let refused = home.store.add_dir(&tree).await.unwrap_err();
        assert!(matches!(refused, BlobError::Link { .. }), "{target}: {refused:?}");
        let refused = home.store.add_within(&tree, "bad").await.unwrap_err();
        let is_dir = target == ".";
        assert!(
            matches!(refused, BlobError::Link { .. })
                || is_dir && matches!(refused, BlobError::NotRegular { .. }),
            "{target}: {refused:?}"
        );
        std::fs::remove_dir_all(&tree).unwrap();
    }
}

#[tokio::test]
async fn two_directories_linked_to_each_other_end() {
    let home = Home::new();
    home.file("tree/a/f", b"a");
    home.file("tree/b/f", b"b");
    symlink("../b", home.path("tree/a/next")).unwrap();
    symlink("../a", home.path("tree/b/next")).unwrap();
    let refused = home.store.add_dir(&home.path("tree")).await.unwrap_err();
    assert!(matches!(refused, BlobError::Link { .. }), "{refused:?}");
}

#[tokio::test]
async fn special_files_and_unusable_names_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let tree = home.path("tree");
    std::fs::create_dir(&tree).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let refused = home.store.add_dir(&tree).await.unwrap_err();
    assert!(matches!(refused, BlobError::NotRegular { or_dir: true, .. }), "{refused:?}");
    let refused = home.store.add_file(&tree.join("socket")).await.unwrap_err();
    assert!(matches!(refused, BlobError::NotRegular { or_dir: false, .. }), "{refused:?}");
    drop(socket);
    std::fs::remove_file(tree.join("socket")).unwrap();
    for name in [&b"\xff"[..], b"back\\slash"] {
        let path = tree.join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, b"").unwrap();
        let refused = home.store.add_dir(&tree).await.unwrap_err();
        assert!(matches!(refused, BlobError::Name { .. }), "{refused:?}");
        std::fs::remove_file(path).unwrap();
    }
    for path in ["../x", "/etc/passwd", "", "a/../../x"] {
        let refused = home.store.add_within(&tree, path).await.unwrap_err();
        assert!(matches!(refused, BlobError::Name { .. }), "{refused:?}");
    }
    let refused = home.store.add_within(&tree, "missing").await.unwrap_err();
    assert!(matches!(refused, BlobError::Io { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_private_copy_can_be_changed_without_changing_the_content() {
    let home = Home::new();
    let added = home.store.add_bytes(noise(30_000)).await.unwrap();
    let dest = home.path("work/in");
    home.store.stage_file(added.digest, &dest).await.unwrap();
    assert_eq!(std::fs::metadata(&dest).unwrap().nlink(), 1);
    std::fs::write(&dest, b"changed").unwrap();
    assert_eq!(home.store.read(added.digest, u64::MAX).await.unwrap(), noise(30_000));
    let refused = home.store.stage_file(added.digest, &dest).await.unwrap_err();
    assert!(matches!(refused, BlobError::Exists { .. }), "{refused:?}");
    let mode = std::fs::metadata(home.store.path(&added.digest).unwrap()).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o444);
}

#[tokio::test]
async fn nothing_is_staged_through_a_link_or_into_a_filled_directory() {
    let home = Home::new();
    let added = home.store.add_bytes("new").await.unwrap();
    let target = home.file("target", b"old");
    symlink(&target, home.path("link")).unwrap();
    let refused = home.store.stage_file(added.digest, &home.path("link")).await.unwrap_err();
    assert!(matches!(refused, BlobError::Exists { .. }), "{refused:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    home.file("tree/a", b"a");
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    let refused = home.store.stage_dir(&dir, &home.path("tree")).await.unwrap_err();
    assert!(matches!(refused, BlobError::Exists { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_manifest_or_reference_that_lies_is_refused() {
    let home = Home::new();
    let file = home.store.add_bytes("content").await.unwrap();
    let staged = async |manifest: Manifest, size| {
        let digest = home.store.add_bytes(manifest.encode()).await.unwrap().digest;
        let dir = DirRef { digest, size, name: "d".to_owned() };
        home.store.stage_dir(&dir, &home.path("out")).await.unwrap_err()
    };
    let manifest = |path: &str, digest, size| Manifest {
        files: BTreeMap::from([(path.to_owned(), ManifestFile { digest, size })]),
    };
    let refused = staged(manifest("../out", file.digest, 7), 7).await;
    assert!(matches!(refused, BlobError::Manifest { .. }), "{refused:?}");
    let refused = staged(manifest("a", file.digest, 8), 8).await;
    assert!(matches!(refused, BlobError::WrongSize { said: 8, size: 7, .. }), "{refused:?}");
    let refused = staged(manifest("a", file.digest, 7), 6).await;
    assert!(matches!(refused, BlobError::WrongSize { said: 6, size: 7, .. }), "{refused:?}");
    let refused = staged(manifest("a", Digest::of(b"?"), 1), 1).await;
    assert!(matches!(refused, BlobError::NotFound { .. }), "{refused:?}");
    let dir = DirRef { digest: file.digest, size: 0, name: String::new() };
    let refused = home.store.shared_dir(&dir).await.unwrap_err();
    assert!(matches!(refused, BlobError::Manifest { .. }), "{refused:?}");
}

#[tokio::test]
async fn damaged_content_is_set_aside_and_never_handed_out() {
    let home = Home::new();
    for way in 0..5 {
        let added = home.store.add_bytes(noise(40_000)).await.unwrap();
        home.damage(&added.digest);
        let out = home.path("out");
        let refused = match way {
            0 => home.store.read(added.digest, u64::MAX).await.map(drop),
            1 => home.store.export(added.digest, &out).await,
            2 => home.store.stage_file(added.digest, &out).await,
            3 => home.store.outboard(added.digest).await.map(drop),
            _ => home.store.verified_path(added.digest).await.map(drop),
        };
        let Err(BlobError::Corrupt { digest, quarantine }) = refused else {
            panic!("way {way}: {refused:?}");
        };
        assert_eq!(digest, added.digest);
        assert!(quarantine.exists());
        assert!(!home.store.has(&digest));
        assert!(!out.exists());
        assert_eq!(home.store.usage(), Usage::default());
    }
}

#[tokio::test]
async fn damage_while_the_node_was_down_is_found_at_first_use_and_healed_by_a_new_add() {
    let home = Home::new();
    let bytes = noise(40_000);
    let added = home.store.add_bytes(bytes.clone()).await.unwrap();
    home.damage(&added.digest);
    let store = home.reopen();
    store.add_bytes(bytes.clone()).await.unwrap();
    assert_eq!(store.read(added.digest, u64::MAX).await.unwrap(), bytes);
    assert_eq!(store.usage(), home.store.usage());
}

#[tokio::test]
async fn a_shared_directory_is_made_once_and_made_again_when_it_was_changed() {
    let home = Home::new();
    home.file("tree/a/f", &noise(100));
    home.file("tree/g", &noise(200));
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    let path = home.store.shared_dir(&dir).await.unwrap();
    let made = std::fs::metadata(&path).unwrap().ino();
    assert_eq!(home.store.shared_dir(&dir).await.unwrap(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), made);
    std::fs::remove_file(path.join("a/f")).unwrap();
    std::fs::write(path.join("a/f"), b"other").unwrap();
    assert_eq!(home.reopen().shared_dir(&dir).await.unwrap(), path);
    assert_eq!(std::fs::read(path.join("a/f")).unwrap(), noise(100));
    assert_eq!(home.temps(), [""; 0]);
}

const HOUR: Duration = Duration::from_secs(3_600);
const AT_ONCE: Rules = Rules { young: Duration::ZERO, unused: Duration::ZERO };
/// Nothing goes for its age alone.
const FOR_ROOM: Rules = Rules { young: HOUR, unused: Duration::from_secs(100 * 3_600) };

#[tokio::test]
async fn collection_keeps_what_is_wanted_or_young() {
    let home = Home::new();
    home.file("tree/f", &noise(20_000));
    let dir = home.store.add_dir(&home.path("tree")).await.unwrap();
    home.store.shared_dir(&dir).await.unwrap();
    let kept = home.store.add_bytes("kept").await.unwrap().digest;
    let rules = Rules { young: HOUR, unused: HOUR };
    let collected = home.store.collect(BTreeSet::new(), rules).await.unwrap();
    assert_eq!(collected, Collected::default());
    let collected = home.store.collect(BTreeSet::from([kept]), AT_ONCE).await.unwrap();
    assert_eq!((collected.blobs, collected.dirs), (2, 1));
    let left: Vec<_> = home.store.list().await.unwrap();
    assert_eq!(left, [Added { digest: kept, size: 4 }]);
    assert_eq!(home.store.usage(), Usage { bytes: 4, blobs: 1, quota: None });
    assert_eq!(home.reopen().usage(), home.store.usage());
}

#[tokio::test]
async fn every_use_of_old_content_makes_it_young() {
    let home = Home::new();
    let digest = home.store.add_bytes("old").await.unwrap().digest;
    let rules = Rules { young: HOUR, unused: HOUR };
    for way in 0..6 {
        home.age(&digest, 2 * HOUR);
        match way {
            0 => drop(home.store.add_bytes("old").await.unwrap()),
            1 => drop(home.store.verified_path(digest).await.unwrap()),
            2 => assert!(home.store.has(&digest)),
            3 => drop(home.store.read(digest, 10).await.unwrap()),
            4 => home.store.export(digest, &home.path("out")).await.unwrap(),
            _ => drop(home.reopen().verified_path(digest).await.unwrap()),
        }
        let collected = home.store.collect(BTreeSet::new(), rules).await.unwrap();
        assert_eq!(collected, Collected::default(), "way {way}");
    }
    home.age(&digest, 2 * HOUR);
    assert_eq!(home.store.collect(BTreeSet::new(), rules).await.unwrap().blobs, 1);
}

#[tokio::test]
async fn the_quota_takes_the_least_recently_used_and_never_what_is_wanted_or_young() {
    let home = Home::with_quota(Some(10_000));
    let mut added = Vec::new();
    for n in 0..8_u8 {
        let digest = home.store.add_bytes(vec![n; 1_000]).await.unwrap().digest;
        added.push(digest);
    }
    // The higher the number, the longer unused; 6 is wanted, 0 young.
    for (hours, digest) in (0_u32..).zip(&added) {
        home.age(digest, HOUR * (2 * hours));
    }
    let refused = home.store.add_bytes(vec![9; 3_000]).await.unwrap_err();
    assert!(matches!(refused, BlobError::Quota { .. }), "nobody has said yet what is wanted");
    let wanted = BTreeSet::from([added[6]]);
    let collected = home.store.collect(wanted, FOR_ROOM).await.unwrap();
    assert_eq!(collected, Collected::default(), "nothing needs the room yet");
    home.store.add_bytes(vec![10; 3_000]).await.unwrap();
    let there = |n: usize| home.path("blobs").join(hex_path(&added[n])).exists();
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7].map(there),
        [true, true, true, true, true, true, true, false]
    );
    home.store.add_stream(&[11; 2_000][..]).await.unwrap();
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7].map(there),
        [true, true, true, true, false, false, true, false]
    );
    // Three are idle, five thousand bytes are not.
    let refused = home.store.reserve(5_001).await.unwrap_err();
    assert!(matches!(refused, BlobError::Quota { needed: 5_001, .. }), "{refused}");
    assert!(refused.to_string().contains("5001") && refused.to_string().contains("10000"));
    assert!([0, 1, 2, 3].map(there).iter().all(|there| *there), "nothing goes in vain");
    let held = home.store.reserve(3_000).await.unwrap();
    assert_eq!([0, 1, 2, 3].map(there), [true, false, false, false]);
    home.store.add_bytes(vec![12; 1_000]).await.unwrap_err();
    drop(held);
    home.store.add_bytes(vec![12; 1_000]).await.unwrap();
}

#[tokio::test]
async fn a_nearly_full_store_is_brought_down_by_a_collection() {
    let home = Home::with_quota(Some(10_000));
    for n in 0..10_u8 {
        let digest = home.store.add_bytes(vec![n; 1_000]).await.unwrap().digest;
        home.age(&digest, 2 * HOUR);
    }
    home.store.limit(10_500);
    let collected = home.store.collect(BTreeSet::new(), FOR_ROOM).await.unwrap();
    assert_eq!((collected.blobs, home.store.usage().bytes), (2, 8_000));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Whatever was added, used, aged and asked for in whatever order: what is wanted or young stays, what is there is
    /// what it says, and the books agree with the disk.
    #[test]
    fn nothing_in_use_is_ever_taken(
        steps in proptest::collection::vec((0_u8..7, 0_u8..12, 0_u32..300), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(use_and_collect(&steps));
    }
}

async fn use_and_collect(steps: &[(u8, u8, u32)]) {
    let home = Home::with_quota(Some(12_000));
    let content = |n: u8| vec![n; 500 + 150 * usize::from(n)];
    let digest = |n: u8| Digest::of(&content(n));
    let rules = Rules { young: HOUR, unused: 100 * HOUR };
    // By content: hours since its last use, and whether it is wanted.
    let mut here: BTreeMap<u8, u32> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for &(what, n, hours) in steps {
        match what {
            0 | 1 if home.store.add_bytes(content(n)).await.is_ok() => {
                here.insert(n, 0);
            }
            2 if here.contains_key(&n) && home.store.has(&digest(n)) => {
                here.insert(n, 0);
            }
            3 if home.path("blobs").join(hex_path(&digest(n))).exists() => {
                home.age(&digest(n), HOUR * hours);
                here.insert(n, hours);
            }
            4 => {
                if wanted.len() < 4 {
                    wanted.insert(n);
                }
                let digests = wanted.iter().map(|n| digest(*n)).collect();
                home.store.collect(digests, rules).await.unwrap();
                here.retain(|n, hours| wanted.contains(n) || *hours < 100);
            }
            5 => {
                let digests = wanted.iter().map(|n| digest(*n)).collect();
                home.store.collect(digests, rules).await.unwrap();
                here.retain(|n, hours| wanted.contains(n) || *hours < 100);
            }
            6 => {
                wanted.remove(&n);
                let digests = wanted.iter().map(|n| digest(*n)).collect();
                home.store.collect(digests, rules).await.unwrap();
                here.retain(|n, hours| wanted.contains(n) || *hours < 100);
            }
            _ => {}
        }
        let there = home.store.list().await.unwrap();
        for (n, hours) in &here {
            let is_there = there.iter().any(|added| added.digest == digest(*n));
            assert!(is_there || (*hours >= 1 && !wanted.contains(n)), "{n} in use was taken");
        }
        for added in &there {
            let n = (0..12).find(|n| digest(*n) == added.digest).unwrap();
            assert!(here.contains_key(&n), "{n} should have gone by its age");
        }
        here.retain(|n, _| there.iter().any(|added| added.digest == digest(*n)));
        let bytes = there.iter().map(|added| added.size).sum::<u64>();
        assert_eq!(home.store.usage().bytes, bytes);
        assert!(bytes <= 12_000);
    }
}

#[tokio::test]
async fn content_that_is_not_here_or_too_long_is_named() {
    let home = Home::new();
    let digest = Digest::of(b"?");
    let refused = home.store.read(digest, 10).await.unwrap_err();
    assert!(matches!(refused, BlobError::NotFound { .. }));
    assert!(refused.to_string().contains(&digest.to_hex()));
    assert!(matches!(
        home.store.export(digest, &home.path("out")).await,
        Err(BlobError::NotFound { .. })
    ));
    assert_eq!(home.store.size(&digest), None);
    assert_eq!(home.store.path(&digest), None);
    let long = home.store.add_bytes("four").await.unwrap();
    let refused = home.store.read(long.digest, 3).await.unwrap_err();
    assert!(matches!(refused, BlobError::TooLong { size: 4, max: 3, .. }));
}

/// A file system of a given size for one test.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// `None`, with a message, where this process may not mount one.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        println!("skipped: mounting a tmpfs is not allowed here");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted =
            std::process::Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_the_store_usable() {
    let Some(disk) = Tmpfs::mount("size=1m") else {
        return;
    };
    let root = disk.dir.path().join("blobs");
    let store = BlobStore::open(&root, None).unwrap();
    let small = store.add_bytes("small").await.unwrap();
    let large = noise(2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    std::fs::write(&path, &large).unwrap();
    let refusals = [
        store.add_bytes(large.clone()).await.unwrap_err(),
        store.add_stream(&large[..]).await.unwrap_err(),
        store.add_file(&path).await.unwrap_err(),
    ];
    for refused in refusals {
        assert!(matches!(refused, BlobError::DiskFull { .. }), "{refused:?}");
        assert!(refused.is_no_room());
    }
    assert_eq!(store.usage().bytes, 5);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    assert_eq!(store.read(small.digest, 10).await.unwrap(), b"small");
    store.add_bytes("still works").await.unwrap();
}
