//! A node's life, and data in and out of it.

use std::fs;

use catalog::Digest;

use crate::support::Place;

#[test]
fn a_node_runs_once_per_home_and_stops_when_told() {
    let place = Place::new();
    place.init();
    let node = place.up();
    assert_eq!(node.ready["ready"], true);
    assert!(!node.ready["addresses"].as_array().unwrap().is_empty(), "{}", node.ready);
    let second = place.run(&["up", "--no-mdns"]).expect(1);
    assert!(second.stderr.contains(&format!("pid {}", node.pid())), "{}", second.stderr);
    let status = place.run(&["status", "--output", "json"]).expect(0).json();
    assert_eq!(status["id"], node.ready["id"]);
    assert_eq!(status["name"], "rack-1");
    assert!(place.run(&["status"]).expect(0).stdout.contains("Survey Office"));
    let ticket = place.run(&["invite", "--valid", "10m"]).expect(0).stdout;
    assert!(ticket.starts_with("opencloud-ticket1:"), "{ticket}");
    let own = place.run(&["join", ticket.trim()]).expect(1);
    assert!(own.stderr.contains("made by this node"), "{}", own.stderr);
    place.run(&["join", "nonsense"]).expect(1);
    assert_eq!(node.terminate(), 0);
    assert!(!place.home().join("api.address").exists());
    let after = place.run(&["status"]).expect(1);
    assert!(after.stderr.contains("not running"), "{}", after.stderr);
}

#[test]
fn bad_settings_stop_a_node_before_it_starts() {
    let place = Place::new();
    place.init();
    let plan = place.file(
        "plan.json",
        r#"{"currency": "EUR", "rows": [{"dimension": "coffee", "amount": "1", "per": 1}]}"#,
    );
    let ended = place.run(&["up", "--price-plan", &plan]).expect(1);
    assert!(
        ended.stderr.contains("plan.json") && ended.stderr.contains("rows"),
        "{}",
        ended.stderr
    );
    let text = place.file("plan.txt", "prices: high");
    assert!(place.run(&["up", "--price-plan", &text]).expect(1).stderr.contains("plan.txt"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = place
        .run(&["up", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--api", &address])
        .expect(1);
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("hint: "), "{}", ended.stderr);
}

#[test]
fn a_file_goes_in_and_comes_out_the_same() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let file = place.file("hello.txt", "hello");
    let digest = place.say(&format!("data add {file} --name Greeting")).expect(0).stdout;
    let digest = digest.trim();
    assert_eq!(digest, Digest::of(b"hello").to_string());
    let search = ["catalog", "search", "kind = data and name = Greeting"];
    let listed = place.run(&search).expect(0).stdout;
    assert!(listed.contains("text/plain, 5 B"), "{listed}");
    let show = format!("catalog show data/{} --output json", &digest[7..]);
    assert_eq!(place.say(&show).expect(0).json()["resource"]["detail"]["digest"], digest);
    let out = place.path("out/hello.txt");
    place.say(&format!("data get {digest} --out {}", out.display())).expect(0);
    assert_eq!(fs::read(&out).unwrap(), b"hello");

    let private = place.file("private.txt", "secret");
    let added = place.say(&format!("data add {private} --private --output json")).expect(0).json();
    assert!(added["key"].is_null());
    let absent = Digest::of(b"nowhere").to_string();
    let target = place.path("absent");
    let none = place.say(&format!("data get {absent} --out {}", target.display())).expect(1);
    assert!(none.stderr.contains(&absent), "{}", none.stderr);
    assert!(!target.exists());
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_directory_goes_in_and_comes_out_the_same() {
    let place = Place::new();
    place.init();
    let node = place.up();
    place.file("in/hello.txt", "hello");
    place.file("in/sub/more.bin", vec![7; 100_000]);
    let dir = place.path("in");
    let added = place.say(&format!("data add {} --output json", dir.display())).expect(0).json();
    assert_eq!((&added["directory"], &added["size"]), (&true.into(), &100_005.into()));
    let copy = place.path("copy");
    let get = format!("data get {} --out {}", added["digest"].as_str().unwrap(), copy.display());
    place.say(&get).expect(0);
    assert_eq!(fs::read(copy.join("hello.txt")).unwrap(), b"hello");
    assert_eq!(fs::read(copy.join("sub/more.bin")).unwrap(), vec![7; 100_000]);
    let again = place.say(&get).expect(1);
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    assert_eq!(node.terminate(), 0);
}
