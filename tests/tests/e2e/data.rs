//! Files and directories from node to node, and the same picture from many nodes as from one.

use std::fs;
use std::time::Duration;

use tests::harness::{Guest, Net, repository, say, text, wait_until, workflow};

/// How long a published file may take to be known, and a run of the example to end.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_file_and_a_directory_come_over_to_another_node_unchanged() {
    let net = Net::new(2);
    let (giver, taker) = (&net.nodes[0], &net.nodes[1]);
    // Several chunks of verification, and not a whole number of them.
    let large: Vec<u8> = (0..3_000_001u32).map(|n| (n * 7 % 251) as u8).collect();
    let file = net.place.file("large.bin", &large);
    let added = giver.json(&["data", "add", &file, "--name", "Large"]);
    let digest = added["digest"].as_str().unwrap();
    let out = net.place.path("got.bin");
    let _ = taker.cli(&["data", "get", digest, "--out", &text(&out)]).expect(0);
    assert!(fs::read(&out).unwrap() == large, "the file is another one");

    net.place.file("dir/a.txt", "a");
    net.place.file("dir/deep/b.txt", "");
    net.place.file("dir/deep/er/c.bin", &large[..70_000]);
    let dir = text(&net.place.path("dir"));
    let added = giver.json(&["data", "add", &dir, "--name", "Directory"]);
    let digest = added["digest"].as_str().unwrap();
    let out = net.place.path("got");
    let get = ["data", "get", digest, "--dir", "--out", &text(&out)];
    let _ = taker.cli(&get).expect(0);
    for name in ["a.txt", "deep/b.txt", "deep/er/c.bin"] {
        let same = fs::read(out.join(name)).unwrap() == fs::read(format!("{dir}/{name}")).unwrap();
        assert!(same, "{name} is another one");
    }

    let filter = "kind = data and name ~ Directory";
    wait_until(TIMEOUT, "the catalogue of the taker has the directory", || {
        let found = taker.json(&["catalog", "search", filter]);
        found.as_array().is_some_and(|list| list.len() == 1)
    });
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_is_written() {
    let net = Net::new(2);
    let file = net.place.file("small.txt", "small");
    let added = net.nodes[0].json(&["data", "add", &file]);
    let digest = added["digest"].as_str().unwrap();
    let last = if digest.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &digest[..digest.len() - 1]);
    let out = text(&net.place.path("got"));
    let get = |digest: &str| net.nodes[1].cli(&["data", "get", digest, "--out", &out]);
    let unknown = get(&other);
    assert_eq!(unknown.code, 1, "{unknown}");
    assert!(
        unknown.stderr.contains("error: ") && unknown.stderr.contains(&other[..20]),
        "{unknown}"
    );
    let overlong = format!("{digest}0");
    for malformed in [&digest[..6], &overlong, "blake3:", "sha256:00", "x"] {
        let refused = get(malformed);
        assert!([1, 64].contains(&refused.code), "{refused}");
        assert!(refused.stderr.contains("error: "), "{refused}");
    }
    assert!(!net.place.path("got").exists());
}

#[test]
fn a_map_of_six_tiles_on_three_nodes_equals_the_map_of_one_tile() {
    let net = Net::new(3);
    let file = text(&repository("examples/terrain/workflow.yaml"));
    let input = format!("dem={}", text(&repository("examples/terrain/jacksboro.pgm")));
    let binding = net.place.file(
        "binding.yaml",
        "opencloud: binding/v1\nstrategy: performance\nsteps:\n  slope: {orgs: [org-1]}\n  \
         hillshade: {orgs: [org-2]}\n  contour: {orgs: [org-1, org-2]}\n",
    );
    let map = |tiles: &str, more: &[&str]| {
        let out = net.place.path(&format!("map-{tiles}"));
        let param = format!("tiles={tiles}");
        let args =
            ["run", "submit", &file, "--input", &input, "--param", &param, "--out", &text(&out)];
        let _ = net.nodes[0].cli(&[&args[..], more].concat()).expect(0);
        out
    };
    let many = map("6", &["--binding", &binding]);
    let one = map("1", &[]);
    let mut names: Vec<_> =
        fs::read_dir(&one).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 6, "{names:?}");
    for name in names {
        let same = fs::read(one.join(&name)).unwrap() == fs::read(many.join(&name)).unwrap();
        assert!(same, "{} differs", name.display());
    }
}

#[test]
fn private_data_stays_at_home_and_what_is_withdrawn_is_given_no_more() {
    let net = Net::new(2);
    let (giver, taker) = (&net.nodes[0], &net.nodes[1]);
    let add = |name: &str, more: &[&str]| -> String {
        let file = net.place.file(name, name);
        let args: Vec<&str> =
            ["data", "add", &file, "--name", name].iter().chain(more).copied().collect();
        giver.json(&args)["digest"].as_str().unwrap().to_owned()
    };
    let (secret, shared) = (add("secret", &["--private"]), add("shared", &[]));
    let knows = |node: &tests::harness::Node, name: &str| {
        let filter = format!("kind = data and name ~ {name}");
        !node.json(&["catalog", "search", &filter]).as_array().unwrap().is_empty()
    };
    wait_until(TIMEOUT, "the shared file is known", || knows(taker, "shared"));
    assert!(knows(giver, "secret"), "its owner has to find it");
    assert!(!knows(taker, "secret"));
    let out = text(&net.place.path("out"));
    let get = |digest: &str| taker.cli(&["data", "get", digest, "--out", &out]);
    let _ = get(&secret).expect(1);

    let _ = giver.cli(&["data", "remove", &shared]).expect(0);
    wait_until(TIMEOUT, "the shared file is forgotten", || !knows(taker, "shared"));
    let _ = get(&shared).expect(1);
    assert!(!fs::exists(&out).unwrap());
    let again = giver.cli(&["data", "remove", &shared]).expect(1);
    assert!(again.stderr.contains("no resource"), "{again}");
    // Published once more, it is there for all.
    let _ = add("shared", &[]);
    wait_until(TIMEOUT, "the shared file is known again", || knows(taker, "shared"));
    let _ = get(&shared).expect(0);
    // And what was public can be made private.
    let _ = add("shared", &["--private"]);
    wait_until(TIMEOUT, "the shared file is known no more", || !knows(taker, "shared"));
}

/// Writes 1,200 lines of 1,000 bytes.
const TALKATIVE: &str = "\
opencloud: workflow/v1
name: talkative
steps:
  talk:
    run: {wasi: {module: guest.wasm}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
";

#[test]
fn of_what_a_task_writes_the_first_part_is_kept_and_it_is_said_how_much_more_there_was() {
    let net = Net::new(2);
    let line = format!("{}\n", "x".repeat(999));
    // The count stands between the buffers of the calls and the texts.
    let again = format!(
        "(loop $again {}
            (i32.store (i32.const 1000) (i32.add (i32.load (i32.const 1000)) (i32.const 1)))
            (br_if $again (i32.lt_u (i32.load (i32.const 1000)) (i32.const 1200))))",
        say(&line)
    );
    let guest = Guest::new(&[&again]);
    let file = workflow(&net.place, TALKATIVE, &[("guest.wasm", &guest)]);
    let node = &net.nodes[0];
    let id = node.json(&["run", "submit", &file, "--wait"])["id"].as_str().unwrap().to_owned();
    let logs = |more: &[&str]| {
        let args = ["run", "logs", &id, "talk", "--stream", "stdout"];
        node.cli(&[&args[..], more].concat()).expect(0)
    };
    let kept = 1024 * 1024;
    let whole = logs(&[]);
    assert_eq!(whole.stdout.len(), kept);
    let missing = 1_200_000 - kept;
    let told = format!("[{missing} bytes that were written after that are not kept]");
    assert!(whole.stderr.contains(&told), "{}", whole.stderr);
    // The last line was cut off where keeping ended.
    let tail = logs(&["--tail", "2"]).stdout;
    assert_eq!(tail, format!("{line}{}", "x".repeat(kept % 1_000)));
    let (_going, first) = node.begin(&["run", "logs", &id, "talk", "--follow"]);
    assert_eq!((&first["offset"], &first["dropped"]), (&0.into(), &0.into()));
}
