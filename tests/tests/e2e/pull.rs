//! Images of other nodes: published, found by name, fetched from all who have them, served by the own registry.

use std::path::Path;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tests::harness::{Net, Node, text, wait_until, write_program_image};

use crate::registry::{Registry, is_there, show};

/// How long records may take to be everywhere.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a fetch may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Brings an image of one program to a node; gives its digests, as registries and as workflows have them.
fn import(net: &Net, node: &Node, seed: u64, size: usize, name: &str) -> (String, String) {
    let dir = net.place.path(&format!("image-{seed}"));
    if !dir.exists() {
        let mut program = vec![0; size];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut program);
        std::fs::create_dir(&dir).unwrap();
        write_program_image(&dir, &program);
    }
    let image = node.json(&["image", "import", &text(&dir), "--name", name]);
    let of = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (of(&image["digest"]), of(&image["directory"]["digest"]))
}

fn n_published(node: &Node) -> usize {
    let found = node.json(&["catalog", "search", "kind = algorithm"]);
    found.as_array().unwrap().len()
}

/// Bytes of blobs that are on their way to a node.
fn coming(node: &Node) -> u64 {
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let files = std::fs::read_dir(node.home.join("blobs/tmp")).unwrap();
    files.map(|entry| len(&entry.unwrap().path())).sum()
}

#[test]
fn an_image_comes_whole_from_two_nodes_of_which_one_dies_in_the_middle() {
    if !is_there("skopeo") {
        return;
    }
    let mut net = Net::new(3);
    let name = "tools/large:1";
    let size = 160 << 20;
    let (digest, directory) = import(&net, &net.nodes[0], 1, size, name);
    assert_eq!(import(&net, &net.nodes[1], 1, size, name).1, directory, "one image, one digest");
    for node in &net.nodes[..2] {
        let published = node.json(&["image", "publish", name]);
        assert_eq!(published["key"], format!("image/{name}"));
    }
    wait_until(SPREAD_TIMEOUT, "both records are known", || n_published(&net.nodes[2]) == 2);

    let registry = Registry::of(&net.nodes[2]);
    let layout = format!("oci:{}:x", text(&net.place.path("layout")));
    let (dying, other) = net.nodes.split_at_mut(1);
    let pulled = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            registry.skopeo(&["copy", "--preserve-digests", &registry.image(name), &layout])
        });
        wait_until(BEGIN_TIMEOUT, "the image is coming or has come", || {
            coming(&other[1]) > 8 << 20 || pulling.is_finished()
        });
        dying[0].kill9();
        pulling.join().unwrap()
    });
    let _ = pulled.expect(0);
    let shown = show(&net.nodes[2], name);
    assert_eq!((shown["digest"].as_str(), shown["tags"][0].as_str()), (Some(&*digest), Some("1")));
    assert_eq!(shown["directory"]["digest"], directory);

    // It is an image of this node: nobody else is needed any more, and a restart changes nothing.
    net.nodes[1].kill9();
    net.nodes[2].kill9();
    net.nodes[2].start();
    let registry = Registry::of(&net.nodes[2]);
    let again = format!("oci:{}:x", text(&net.place.path("again")));
    let _ = registry.skopeo(&["copy", &registry.image(name), &again]).expect(0);
}

#[test]
fn a_name_for_two_images_has_to_be_said_more_exactly() {
    if !is_there("skopeo") {
        return;
    }
    let net = Net::new(3);
    let [first, second, asking] = &net.nodes[..] else { panic!("three nodes") };
    let (one, _) = import(&net, first, 1, 100_000, "tools:1");
    let (other, _) = import(&net, second, 2, 100_000, "tools:1");
    for node in [first, second] {
        let _ = node.cli(&["image", "publish", "tools:1"]).expect(0);
    }
    wait_until(SPREAD_TIMEOUT, "both records are known", || n_published(asking) == 2);

    let refused = asking.cli(&["image", "pull", "tools:1"]).expect(1);
    for way_out in ["org-0/tools:1", "org-1/tools:1"] {
        assert!(refused.stderr.contains(way_out), "{refused}");
    }
    let registry = Registry::of(asking);
    let refused = registry.skopeo(&["inspect", &registry.image("tools:1")]);
    assert!(refused.code != 0 && refused.stderr.contains("org-1/tools:1"), "{refused}");
    let nothing = registry.skopeo(&["inspect", &registry.image("nothing:1")]);
    assert!(nothing.code != 0 && nothing.stderr.contains("manifest unknown"), "{nothing}");

    let inspected = registry.skopeo(&["inspect", &registry.image("org-1/tools:1")]).expect(0);
    assert_eq!(inspected.json()["Digest"], other);
    let by_digest = format!("tools@{one}");
    let inspected = registry.skopeo(&["inspect", &registry.image(&by_digest)]).expect(0);
    assert_eq!(inspected.json()["Digest"], one);

    let _ = second.cli(&["image", "withdraw", "tools:1"]).expect(0);
    wait_until(SPREAD_TIMEOUT, "the record is gone", || n_published(asking) == 1);
    let pulled = asking.json(&["image", "pull", "tools:1"]);
    assert_eq!(pulled["digest"], one);
    let gone = second.cli(&["image", "withdraw", "tools:1"]).expect(1);
    assert!(gone.stderr.contains("image/tools:1"), "{gone}");
}

#[test]
fn a_moved_tag_is_pulled_anew_and_a_private_image_is_not_seen() {
    let net = Net::new(2);
    let [author, asking] = &net.nodes[..] else { panic!("two nodes") };
    let (old, _) = import(&net, author, 1, 100_000, "tools:1");
    let _ = author.cli(&["image", "publish", "tools:1"]).expect(0);
    wait_until(SPREAD_TIMEOUT, "the record is known", || n_published(asking) == 1);
    assert_eq!(asking.json(&["image", "pull", "tools:1"])["digest"], old);

    let (new, directory) = import(&net, author, 2, 100_000, "tools:1");
    let _ = author.cli(&["image", "publish", "tools:1"]).expect(0);
    let filter = "kind = algorithm and key = \"image/tools:1\"";
    wait_until(SPREAD_TIMEOUT, "the record leads to the new image", || {
        let found = asking.json(&["catalog", "search", filter]);
        found[0]["resource"]["detail"]["digest"] == directory
    });
    assert_eq!(asking.json(&["image", "pull", "tools:1"])["digest"], new);

    let _ = author.cli(&["image", "publish", "tools:1", "--private"]).expect(0);
    wait_until(SPREAD_TIMEOUT, "the record is gone", || n_published(asking) == 0);
    let refused = asking.cli(&["image", "pull", "tools:1"]).expect(1);
    assert!(refused.stderr.contains("no other node"), "{refused}");
    assert_eq!(show(asking, "tools:1")["digest"], new, "what was fetched before stays");
}
