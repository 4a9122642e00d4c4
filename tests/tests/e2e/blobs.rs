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
const LARGE: usize = 128 << 20;

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

#[test]
fn a_fetch_goes_on_after_the_fetching_node_was_killed() {
    let mut net = Net::new(2);
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
    let partial = wait_for(TIMEOUT, "a part has come", || {
        let mut files = fs::read_dir(&temp).ok()?.filter_map(Result::ok);
        let part = files.find(|f| f.file_name().to_string_lossy().starts_with("fetch-"))?;
        (part.metadata().ok()?.len() > 1 << 20).then(|| part.path())
    });
    net.nodes[1].kill9();
    // It ends with its node.
    let _ = getting.wait();
    let there = fs::read(&partial).unwrap();
    assert!(there.len() < LARGE, "the fetch was over before the node was killed");
    assert!(there == bytes[..there.len()], "something else than the blob's bytes was written");
    net.nodes[1].start();
    wait_until(MESH_TIMEOUT, "the two are connected again", || net.nodes[1].n_connected() == 1);
    let _ = net.nodes[1].cli(&["data", "get", &digest, "--out", &out]).expect(0);
    assert!(fs::read(&out).unwrap() == bytes);
    assert!(!partial.exists());
}
