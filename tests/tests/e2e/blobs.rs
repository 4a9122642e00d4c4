//! What the blob store keeps, gives up and refuses.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tests::harness::{
    Disk, Guest, MESH_TIMEOUT, Net, Node, ONE_TASK, Place, text, wait_for, wait_until, workflow,
    write_file,
};

/// How long a collection or a transfer of this size may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than anything unused is kept.
const LONG_AGO: Duration = Duration::from_secs(8 * 24 * 3_600);
/// Large enough that a fetch of it can be met on its way.
const LARGE: usize = 40 << 20;

/// The contents in a home, without what belongs to them.
fn contents(node: &Node) -> Vec<PathBuf> {
    let shards = fs::read_dir(node.home.join("blobs")).unwrap().map(|e| e.unwrap().path());
    let is_shard = |path: &PathBuf| path.file_name().unwrap().len() == 2;
    let mut found: Vec<PathBuf> = shards
        .filter(is_shard)
        .flat_map(|shard| fs::read_dir(shard).unwrap().map(|e| e.unwrap().path()))
        .filter(|path| path.extension().is_none())
        .collect();
    found.sort();
    found
}

#[test]
fn what_is_published_or_came_out_of_a_run_outlives_what_nobody_needs() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    place.file("tree/a.txt", "one of two");
    place.file("tree/deep/b.txt", "two of two");
    let tree = node.json(&["data", "add", &text(&place.path("tree"))]);
    let tree = tree["digest"].as_str().unwrap();
    let guest = Guest::new(&[&write_file("result.txt", "kept")]);
    let file = workflow(&place, ONE_TASK, &[("guest.wasm", &guest)]);
    let id = node.submit(&file, &[]);
    assert_eq!(node.wait_for_end(&id, TIMEOUT).state(), "succeeded");
    node.stop();
    let before = contents(&node);
    // The files, their manifest, the module and its result.
    assert_eq!(before.len(), 5, "{before:?}");
    for path in &before {
        File::open(path).unwrap().set_modified(SystemTime::now() - LONG_AGO).unwrap();
    }
    node.start();
    wait_until(TIMEOUT, "the module of the ended run is gone", || contents(&node).len() < 5);
    assert_eq!(contents(&node).len(), 4);
    let out = place.path("tree.out");
    let _ = node.cli(&["data", "get", tree, "--dir", "--out", &text(&out)]).expect(0);
    assert_eq!(fs::read_to_string(out.join("deep/b.txt")).unwrap(), "two of two");
    let is_result = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes == b"kept");
    assert!(contents(&node).iter().any(is_result), "the run's output is gone");
    // What is needed again is brought again.
    let again = node.submit(&file, &[]);
    assert_eq!(node.wait_for_end(&again, TIMEOUT).state(), "succeeded");
}

#[test]
fn what_does_not_fit_the_quota_is_refused_with_the_numbers_and_leaves_nothing() {
    let place = Place::new();
    let at = place.path("disk");
    let Some(_disk) = Disk::mount(&at, "32m") else {
        return;
    };
    let (mut giver, mut taker) = (place.node("giver"), place.node_at("disk/taker", "taker"));
    giver.start();
    taker.start();
    let _ = taker.cli(&["join", &giver.invite()]).expect(0);
    wait_until(MESH_TIMEOUT, "the two are connected", || taker.n_connected() == 1);
    let size = 40 << 20;
    let file = place.file("large.bin", vec![7; size]);
    let added = giver.json(&["data", "add", &file]);
    let digest = added["digest"].as_str().unwrap();
    wait_until(MESH_TIMEOUT, "the taker knows the file", || {
        let found = taker.json(&["catalog", "search", "kind = data"]);
        found.as_array().is_some_and(|list| !list.is_empty())
    });
    let get = ["data", "get", digest, "--out", &text(&at.join("got"))];
    let fetched = taker.cli(&get);
    assert_ne!(fetched.code, 0, "{fetched}");
    // The outboard is 1/256 more.
    assert!(fetched.stderr.contains("quota of ") && fetched.stderr.contains("421"), "{fetched}");
    let added = taker.cli(&["data", "add", &file]).expect(1);
    assert!(added.stderr.contains("quota of "), "{added}");
    assert!(contents(&taker).is_empty());
    let left = fs::read_dir(taker.home.join("blobs/tmp")).unwrap().count();
    assert_eq!(left, 0);
    let small = place.file("small.bin", vec![8; 1 << 20]);
    let _ = taker.json(&["data", "add", &small]);
}

/// The one fetch of a content that a node shows, once it shows it.
fn transfer(node: &Node, digest: &str) -> Option<serde_json::Value> {
    let all = node.json(&["data", "transfers"]);
    all.as_array()?.iter().find(|one| one["digest"] == digest).cloned()
}

#[test]
fn a_fetch_goes_on_after_the_fetching_node_was_killed_and_loses_no_mebibyte() {
    let place = Place::new();
    let mut nodes = vec![place.node("giver"), place.node("taker")];
    // Slow enough to be met on its way.
    nodes[0].options.extend(["--serve-rate", "24MiB"].map(str::to_owned));
    let mut net = Net::of(place, nodes);
    let bytes: Vec<u8> = (0..LARGE).map(|n| (n / 3 * 31 % 253) as u8).collect();
    let file = net.place.file("large.bin", &bytes);
    let added = net.nodes[0].json(&["data", "add", &file]);
    let digest = added["digest"].as_str().unwrap().to_owned();
    let out = text(&net.place.path("got.bin"));
    let temp = net.nodes[1].home.join("blobs/tmp");
    let mut getting = tests::harness::program()
        .arg("--home")
        .arg(&net.nodes[1].home)
        .args(["data", "get", &digest, "--out", &out])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let told = wait_for(TIMEOUT, "a part has come", || {
        let bytes = transfer(&net.nodes[1], &digest)?["bytes"].as_u64()?;
        (bytes > 4 << 20).then_some(bytes)
    });
    let serving = transfer(&net.nodes[0], &digest).unwrap();
    assert_eq!((&serving["state"], &serving["total"]), (&"serving".into(), &LARGE.into()));
    net.nodes[1].kill9();
    // It ends with its node.
    let _ = getting.wait();
    let mut files = fs::read_dir(&temp).unwrap().filter_map(Result::ok);
    let partial = files.find(|f| f.file_name().to_string_lossy().starts_with("fetch-")).unwrap();
    let there = fs::read(partial.path()).unwrap();
    assert!(there.len() < LARGE, "the fetch was over before the node was killed");
    assert!(there.len() as u64 >= told, "what was told to be here is not: {told}");
    assert!(there == bytes[..there.len()], "something else than the blob's bytes was written");
    net.nodes[1].start();
    wait_until(MESH_TIMEOUT, "the two are connected again", || net.nodes[1].n_connected() == 1);
    let _ = net.nodes[1].cli(&["data", "get", &digest, "--out", &out]).expect(0);
    assert!(fs::read(&out).unwrap() == bytes);
    assert!(!partial.path().exists());
    // Nothing that was on disk came a second time.
    let again = transfer(&net.nodes[1], &digest).unwrap();
    assert_eq!(again["state"], "done");
    let lost = again["fetched"].as_u64().unwrap() - (LARGE - there.len()) as u64;
    assert!(lost <= 1 << 20, "{lost} bytes had to come again: {again}");
}

#[test]
fn a_corrupted_chunk_reaches_no_other_disk_and_is_found() {
    let net = Net::new(2);
    let (giver, taker) = (&net.nodes[0], &net.nodes[1]);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7 * 31 % 253) as u8).collect();
    let file = net.place.file("large.bin", &bytes);
    let added = giver.json(&["data", "add", &file, "--name", "large"]);
    let digest = added["digest"].as_str().unwrap();
    let out = text(&net.place.path("got.bin"));
    wait_until(MESH_TIMEOUT, "the taker knows the file", || {
        !taker.json(&["catalog", "search", "kind = data"]).as_array().unwrap().is_empty()
    });
    // A part of it can be had without the rest, and leaves nothing behind.
    let get = ["data", "get", digest, "--range", "1000000-1099999", "--out", &out];
    let _ = taker.cli(&get).expect(0);
    assert!(fs::read(&out).unwrap() == bytes[1_000_000..1_100_000]);
    assert!(contents(taker).is_empty());
    let beyond = taker.cli(&["data", "get", digest, "--range", "3000000-3000001", "--out", &out]);
    assert!(beyond.code == 1 && beyond.stderr.contains("3000000 bytes"), "{beyond}");
    fs::remove_file(&out).unwrap();

    // The disk of the giver turns one bit, and says nothing of it.
    let path = contents(giver).pop().unwrap();
    let mut wrong = bytes;
    wrong[2_000_000] ^= 4;
    let was = fs::metadata(&path).unwrap().modified().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &wrong).unwrap();
    File::open(&path).unwrap().set_modified(was).unwrap();
    let _ = taker.cli(&["data", "get", digest, "--out", &out]).expect(1);
    assert!(!fs::exists(&out).unwrap() && contents(taker).is_empty());
    for left in fs::read_dir(taker.home.join("blobs/tmp")).unwrap() {
        let part = fs::read(left.unwrap().path()).unwrap();
        assert!(part.len() <= 2_000_000 && part == wrong[..part.len()], "the bit was written");
    }
    // Its owner is told what is wrong, and gets it back from whoever has it.
    let found = giver.cli(&["--output", "json", "data", "verify"]);
    assert_eq!(found.code, 1, "{found}");
    let found = found.json();
    let is_named = |kind: &str| found[kind].as_array().unwrap().contains(&digest.into());
    assert!(is_named("damaged") || is_named("missing"), "{found}");
    let _ = giver.json(&["data", "add", &file]);
    assert_eq!(giver.json(&["data", "verify"])["contents"], 1);
    let _ = taker.cli(&["data", "get", digest, "--out", &out]).expect(0);
}

#[test]
fn what_is_pinned_stays_and_what_is_not_goes() {
    let net = Net::new(2);
    let (giver, taker) = (&net.nodes[0], &net.nodes[1]);
    net.place.file("tree/a.txt", "one of two");
    net.place.file("tree/b.txt", "two of two");
    let tree = giver.json(&["data", "add", &text(&net.place.path("tree")), "--name", "Tree"]);
    let tree = tree["digest"].as_str().unwrap().to_owned();
    let out = text(&net.place.path("out"));
    wait_until(MESH_TIMEOUT, "the taker knows it", || {
        !taker.json(&["catalog", "search", "kind = data"]).as_array().unwrap().is_empty()
    });
    let pinned = taker.json(&["data", "pin", &tree[..15]]);
    assert_eq!((&pinned["size"], &pinned["directory"]), (&20.into(), &true.into()));
    let listed = taker.json(&["data", "list"]);
    let listed = &listed[0];
    assert_eq!((&listed["name"], &listed["pinned"]), (&"Tree".into(), &true.into()));
    assert_eq!((&listed["public"], &listed["here"]), (&false.into(), &true.into()));
    let _ = giver.cli(&["data", "remove", &tree]).expect(0);
    let old = |node: &Node| {
        for path in contents(node) {
            File::open(path).unwrap().set_modified(SystemTime::now() - LONG_AGO).unwrap();
        }
    };
    let mut nodes = net.nodes;
    nodes.iter_mut().for_each(Node::stop);
    nodes.iter().for_each(old);
    nodes.iter_mut().for_each(Node::start);
    wait_until(TIMEOUT, "what nobody keeps is gone", || contents(&nodes[0]).is_empty());
    assert_eq!(contents(&nodes[1]).len(), 3);
    let _ = nodes[1].cli(&["data", "get", &tree, "--dir", "--out", &out]).expect(0);
    let _ = nodes[1].cli(&["data", "unpin", &tree[..15]]).expect(0);
    let again = nodes[1].cli(&["data", "unpin", &tree]).expect(1);
    assert!(again.stderr.contains("not pinned"), "{again}");
    nodes[1].stop();
    old(&nodes[1]);
    nodes[1].start();
    wait_until(TIMEOUT, "what is pinned no more is gone", || contents(&nodes[1]).is_empty());
}
