//! Images of disks: kept, converted, shown to whom they are for, fetched and verified by others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::harness::{Net, Node, Place, text, wait_until};

/// How long news may take to reach the catalogue of another node.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Whether this host has what converts images.
fn has_tool() -> bool {
    let has = Command::new("qemu-img").arg("--version").output().is_ok();
    if !has {
        println!("skipped: there is no qemu-img");
    }
    has
}

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A small bootable disk, and the same as a qcow2.
fn disks(place: &Place) -> (String, String) {
    let mut bytes: Vec<u8> = (0..5_u32 << 20).map(|n| (n / 3 % 251) as u8).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let raw = place.file("disk.raw", bytes);
    let qcow2 = text(&place.path("disk.qcow2"));
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2]);
    (raw, qcow2)
}

fn disk(node: &Node, args: &[&str]) -> Value {
    node.json(&[&["image", "disk"], args].concat())
}

/// Fails with this code and says all of this.
fn fails(node: &Node, args: &[&str], facts: &[&str]) {
    let told = node.cli(&[&["image", "disk"], args].concat()).expect(1);
    for fact in facts {
        assert!(told.stderr.contains(fact), "`{fact}` is missing: {told}");
    }
}

/// Where a node keeps a content.
fn blob(node: &Node, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("blake3:").unwrap();
    node.home.join("blobs").join(&hex[..2]).join(hex)
}

fn is_known(node: &Node, name: &str) -> bool {
    let found = node.json(&["catalog", "search", &format!("kind = disk and name = {name}")]);
    found.as_array().is_some_and(|list| list.len() == 1)
}

#[test]
fn an_image_is_added_described_converted_to_every_format_and_exported_over_a_restart() {
    if !has_tool() {
        return;
    }
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let (raw, qcow2) = disks(&place);
    let said = ["--property", "os_distro=debian", "--min-memory", "512MiB", "--arch", "x86_64"];
    let added =
        disk(&node, &[&["add", &qcow2, "--name", "debian-12", "--sign"], &said[..]].concat());
    assert_eq!(added["format"], "qcow2");
    assert_eq!(added["virtual_bytes"], 5 << 20);
    assert_eq!(added["min_memory_bytes"], 512 << 20);
    assert_eq!(added["visibility"], "private");
    assert_eq!(added["signer"]["org_name"], "org");
    fails(&node, &["add", &raw, "--name", "debian-12"], &["already"]);
    node.restart();
    assert_eq!(disk(&node, &["show", "debian-12"]), added);
    for format in ["raw", "qcow2", "vhd", "vhdx", "vdi", "vmdk"] {
        let name = format!("debian-12.{format}");
        let made = disk(&node, &["convert", "debian-12", "--to", format]);
        assert_eq!((&made["name"], &made["format"]), (&name.as_str().into(), &format.into()));
        assert_eq!(made["properties"]["os_distro"], "debian");
        let out = text(&place.path(&name));
        let _ = disk(&node, &["export", &name, "--out", &out]);
        let driver = if format == "vhd" { "vpc" } else { format };
        qemu_img(&["compare", "-q", "-f", "raw", "-F", driver, &raw, &out]);
        let found = disk(&node, &["inspect", &name]);
        assert_eq!((&found["format"], &found["headers_only"]), (&format.into(), &Value::Null));
        let again = disk(&node, &["inspect", &out]);
        assert_eq!(again["virtual_bytes"], found["virtual_bytes"], "{again}");
    }
    let set =
        disk(&node, &["set", "debian-12", "--property", "os_version=12", "--drop", "os_distro"]);
    assert_eq!(set["properties"], serde_json::json!({"os_version": "12"}));
    assert_eq!(set["signer"]["org_name"], "org", "an own signature is renewed");
    assert_eq!(disk(&node, &["list"]).as_array().unwrap().len(), 7);
    let whole = node.cli(&["image", "disk", "verify", "debian-12"]).expect(0);
    assert!(whole.stdout.contains("signed by org (did:key:"), "{whole}");
    let _ = node.cli(&["image", "disk", "remove", "debian-12.vdi"]).expect(0);
    fails(&node, &["show", "debian-12.vdi"], &["no disk image `debian-12.vdi`"]);
    let jobs = fs::read_dir(node.home.join("convert")).unwrap().count();
    assert_eq!(jobs, 0, "a job has left something behind");
}

#[test]
fn quotas_hold_and_hostile_files_are_refused_by_name() {
    if !has_tool() {
        return;
    }
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let (raw, qcow2) = disks(&place);
    let evil = text(&place.path("evil.qcow2"));
    let create = ["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"];
    qemu_img(&[&create[..], &[&evil, "1M"]].concat());
    fails(&node, &["add", &evil, "--name", "evil"], &["needs a backing file"]);
    fails(&node, &["inspect", &evil], &["evil.qcow2", "needs a backing file"]);
    let words = place.file("words.vmdk", "# Disk DescriptorFile\nRW 8 FLAT \"/etc/shadow\" 0\n");
    fails(&node, &["add", &words, "--name", "words"], &["other files"]);
    let data = place.file("data.img", vec![7; 1 << 20]);
    fails(&node, &["add", &data, "--name", "data"], &["nor a bootable raw disk"]);
    let vouched = disk(&node, &["add", &data, "--name", "data", "--format", "raw"]);
    assert_eq!(vouched["format"], "raw");
    fails(&node, &["add", &raw, "--name", "a", "--property", "A=1"], &["no key of a property"]);

    let limit =
        |images: &str, bytes: &str| disk(&node, &["quota", "--images", images, "--bytes", bytes]);
    assert_eq!(limit("1", "1GiB")["images"], 1);
    fails(&node, &["add", &raw, "--name", "raw"], &["1 disk images", "quota"]);
    limit("9", "2MiB");
    fails(&node, &["add", &qcow2, "--name", "large"], &["are free", "quota"]);
    limit("9", "8MiB");
    let _ = disk(&node, &["add", &raw, "--name", "raw"]);
    fails(&node, &["convert", "raw", "--to", "vhdx"], &["quota"]);
    assert_eq!(disk(&node, &["quota"])["images"], 2);
}

#[test]
fn a_public_image_is_fetched_and_verified_by_another_organisation_and_a_flipped_byte_is_named() {
    if !has_tool() {
        return;
    }
    let net = Net::new(2);
    let (giver, taker) = (&net.nodes[0], &net.nodes[1]);
    let (_, qcow2) = disks(&net.place);
    let added =
        disk(giver, &["add", &qcow2, "--name", "shared", "--visibility", "public", "--sign"]);
    wait_until(TIMEOUT, "the image is known", || is_known(taker, "shared"));
    let seen = disk(taker, &["show", "org-0/shared"]);
    assert_eq!((&seen["state"], &seen["digest"]), (&"remote".into(), &added["digest"]));
    let told = taker.cli(&["image", "disk", "verify", "shared"]).expect(0);
    assert!(told.stdout.contains("signed by org-0 (did:key:"), "{told}");
    let out = net.place.path("fetched.qcow2");
    let _ = disk(taker, &["export", "shared", "--out", &text(&out)]);
    assert!(fs::read(&out).unwrap() == fs::read(&qcow2).unwrap(), "the file is another one");

    // Under its name it keeps its signature, whoever has it; under another it has none.
    let copied = disk(taker, &["copy", "org-0/shared"]);
    assert_eq!((&copied["state"], &copied["signer"]), (&"ready".into(), &added["signer"]));
    let renamed = disk(taker, &["copy", "org-0/shared", "--name", "other"]);
    assert_eq!(renamed["signer"], Value::Null);
    let set = ["set", "shared", "--arch", "aarch64"];
    fails(taker, &set, &["has signed what this would change"]);
    for name in ["shared", "other"] {
        let _ = disk(taker, &["remove", name]);
    }

    // A byte of the taker's copy turns over, and then one of the owner's.
    for (node, name) in [(taker, "shared"), (giver, "shared")] {
        let digest = added["digest"].as_str().unwrap();
        flip(&blob(node, digest), 300_000);
        fails(node, &["verify", name], &["shared", digest, "damaged"]);
    }
    assert_eq!(disk(giver, &["show", "shared"])["state"], "lost");
    wait_until(TIMEOUT, "nobody is offered what is lost", || !is_known(taker, "shared"));
    // The owner brings it again.
    let _ = giver.cli(&["data", "add", &qcow2, "--private"]).expect(0);
    assert_eq!(disk(giver, &["verify", "shared"])["state"], "ready");
    wait_until(TIMEOUT, "the image is known again", || is_known(taker, "shared"));
    let _ = disk(taker, &["verify", "shared"]);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    // A content is read-only; whoever damages a disk does not ask.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_partners_image_is_seen_and_fetched_by_the_partner_alone() {
    if !has_tool() {
        return;
    }
    let net = Net::new(3);
    let [giver, partner, other] = &net.nodes[..] else { unreachable!("three nodes") };
    let (raw, qcow2) = disks(&net.place);
    let who = ["--visibility", "partner", "--org", "org-1"];
    let added = disk(giver, &[&["add", &qcow2, "--name", "ours"], &who[..]].concat());
    assert_eq!(added["orgs"].as_array().unwrap().len(), 1);
    let _ = disk(giver, &["add", &raw, "--name", "mine"]);
    wait_until(TIMEOUT, "the partner knows the image", || is_known(partner, "ours"));
    let _ = disk(partner, &["verify", "org-0/ours"]);
    assert!(!is_known(other, "ours") && !is_known(partner, "mine"));
    let digest = added["digest"].as_str().unwrap();
    let out = text(&net.place.path("stolen"));
    let _ = other.cli(&["data", "get", digest, "--out", &out]).expect(1);
    // What is private again is in no catalogue.
    let _ = disk(giver, &["set", "ours", "--visibility", "private"]);
    wait_until(TIMEOUT, "the partner forgets the image", || !is_known(partner, "ours"));
    // And what is shown to all is seen by all.
    let _ = disk(giver, &["set", "ours", "--visibility", "public"]);
    wait_until(TIMEOUT, "all know the image", || is_known(other, "ours"));
    let _ = disk(other, &["verify", "ours"]);
}

#[test]
fn a_workflow_names_an_image_and_a_name_that_is_none_is_told() {
    let net = Net::new(1);
    let node = &net.nodes[0];
    let yaml = "opencloud: workflow/v1\nname: named\nsteps:\n  boot:\n    run: {vm: {disk: 'image:none', args: ['true']}}\n    \
                needs: {cpu: 1, memory: 192MiB, disk: 16MiB}\n";
    let file = net.place.file("named.yaml", yaml);
    let _ = node.cli(&["workflow", "validate", &file]).expect(0);
    let told = node.cli(&["run", "submit", &file]).expect(1);
    assert!(told.stderr.contains("no disk image `none`"), "{told}");
    let mut bytes = vec![0; 1 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let raw = net.place.file("raw.img", bytes);
    let _ = disk(node, &["add", &raw, "--name", "none"]);
    let planned = node.cli(&["workflow", "plan", &file]).expect(1);
    assert!(planned.stdout.contains("it has no `vm` runtime"), "{planned}");
}
