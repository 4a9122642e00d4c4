//! A home whose disk is full.

use std::path::Path;
use std::time::Duration;

use tests::harness::{Disk, Ended, Guest, ONE_TASK, Place, text, wait_for, workflow, write_file};

/// Room for the stores and a little data.
const DISK: &str = "16m";
/// How long the node may take to notice that there is room again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again() {
    let place = Place::new();
    let at = place.path("disk");
    let Some(_disk) = Disk::mount(&at, DISK) else {
        return;
    };
    let mut node = place.node_at("disk/org", "org");
    node.start();
    let guest = Guest::new(&[&write_file("result.txt", "done")]);
    let file = workflow(&place, ONE_TASK, &[("guest.wasm", &guest)]);
    let first = node.cli(&["--output", "json", "run", "submit", &file, "--wait"]);
    let first = first.expect(0).json()["id"].as_str().unwrap().to_owned();
    let kept = place.file("kept.bin", vec![1; 100_000]);
    let added = node.json(&["data", "add", &kept]);
    let kept_digest = added["digest"].as_str().unwrap();

    // Too large for the disk, while there is still a little room; then no room at all.
    let large = place.file("large.bin", vec![2; 20 << 20]);
    let told = node.cli(&["data", "add", &large]).expect(1);
    assert!(is_clear(&told), "{told}");
    let filler = at.join("filler");
    fill(&filler);
    let other = place.file("other.bin", vec![3; 100_000]);
    let told = node.cli(&["data", "add", &other]).expect(1);
    assert!(is_clear(&told), "{told}");
    let submitted = node.cli(&["--output", "json", "run", "submit", &file]);
    if submitted.code != 0 {
        assert!(is_clear(&submitted), "{submitted}");
        // The run may be stored once there is room, so its owner has to know where to look before submitting it again.
        let is_unsure = submitted.stderr.contains("cannot write its store");
        assert!(!is_unsure || submitted.stderr.contains("opencloud run list"), "{submitted}");
    }

    std::fs::remove_file(filler).unwrap();
    if !node.is_running() {
        // It may have stopped rather than go on without its log; then it says why.
        let log = node.log().to_lowercase();
        assert!(log.contains("space") || log.contains("full"), "{log}");
        node.restart();
    }
    let _ = wait_for(RECOVERY_TIMEOUT, "data can be added again", || {
        let told = node.cli(&["data", "add", &other]);
        (told.code == 0).then_some(told)
    });
    assert_eq!(node.run(&first).state(), "succeeded");
    if submitted.code == 0 {
        let id = submitted.json()["id"].as_str().unwrap().to_owned();
        assert!(node.wait_for_end(&id, RECOVERY_TIMEOUT).has_ended());
    }
    let out = place.path("kept.out");
    let get = ["data", "get", kept_digest, "--out", &text(&out)];
    let _ = node.cli(&get).expect(0);
    assert!(std::fs::read(out).unwrap() == std::fs::read(kept).unwrap());
    let _ = node.cli(&["run", "submit", &file, "--wait"]).expect(0);
    node.restart();
    assert_eq!(node.run(&first).state(), "succeeded");
    let verified = node.verify_ledger();
    assert!([0, 3].contains(&verified.code), "{verified}");
}

/// Whether the complaint says what is wrong.
fn is_clear(told: &Ended) -> bool {
    let said = told.stderr.to_lowercase();
    ["space", "full", "room", "disk"].iter().any(|word| said.contains(word))
}

/// Writes zeros until there is no room for another byte.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for len in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; len]).is_ok() {}
    }
}
