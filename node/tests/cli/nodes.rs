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
    assert_eq!(added["key"], format!("data/{}", Digest::of(b"secret").to_hex()));
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

#[test]
fn what_a_node_offers_and_asks_is_told_in_units_for_people() {
    let place = Place::new();
    place.init();
    let plan = "currency: EUR\nrows:\n  - {dimension: cpu, amount: 0.025, per: core-hour}\n  - {dimension: mem, basis: max, amount: '0.001', per: GiB-hour}\nfixed: 0.0001\n";
    let plan = place.file("prices.yaml", plan);
    let node = place.up_with(&["--price-plan", &plan, "--region", "eu-alps", "--disk", "3GiB"]);
    let address = node.ready["addresses"][0].as_str().unwrap();
    let status = place.say("status").expect(0).stdout;
    let shown = place.say("catalog show compute/main").expect(0).stdout;
    for text in [&status, &shown] {
        for expected in [
            "0.025 EUR per core-hour used\n",
            "0.001 EUR per GiB-hour of memory\n",
            "0.0001 EUR for each attempt\n",
            "1.0 GiB",
            "3.0 GiB",
            address,
        ] {
            assert!(text.contains(expected), "`{expected}` is missing:\n{text}");
        }
        assert!(!text.contains("1073741824") && !text.contains('['), "{text}");
    }
    assert!(shown.contains("cores         2\n"), "{shown}");
    assert!(shown.contains("region        eu-alps\n"), "{shown}");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_beginning_that_is_unique_names_a_resource_and_others_are_refused_with_the_candidates() {
    let place = Place::new();
    place.init();
    let node = place.up();
    // Sixteen first digits and more contents than that: two of them begin alike.
    let contents: Vec<String> = (0..17).map(|n| format!("content {n}")).collect();
    let mut by_digit: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for content in &contents {
        let file = place.file(&format!("{content}.txt").replace(' ', "-"), content);
        let digest = place.say(&format!("data add {file}")).expect(0).stdout.trim().to_owned();
        by_digit.entry(digest[..8].to_owned()).or_default().push(digest);
    }
    let (digit, alike) = by_digit.iter().find(|(_, digests)| digests.len() > 1).unwrap();
    let author = node.ready["id"].as_str().unwrap();
    let short = &author[author.len() - 6..];
    let digest = &alike[0];
    let longer = &digest[..20];

    let show = |id: &str| place.run(&["catalog", "show", id, "--output", "json"]);
    for id in [
        digest,
        longer,
        &format!("data/{}", &digest[7..20]),
        &format!("{short}/data/{}", &digest[7..20]),
    ] {
        let shown = show(id).expect(0).json();
        assert_eq!(shown["resource"]["detail"]["digest"], *digest, "{id}");
    }
    assert_eq!(
        show(&format!("{short}/compute")).expect(0).json()["resource"]["key"],
        "compute/main"
    );
    for id in [digit.as_str(), author, "data/", ""] {
        let refused = show(id).expect(1).problem();
        assert_eq!(refused["code"], "ambiguous_resource", "{id}: {refused}");
    }
    let named = show(digit).problem()["detail"].as_str().unwrap().to_owned();
    assert!(named.contains(&format!("data/{}", &alike[1][7..])), "{named}");

    let out = place.path("out").to_str().unwrap().to_owned();
    let get = |digest: &str| place.run(&["data", "get", digest, "--out", &out, "--output", "json"]);
    assert_eq!(get(longer).expect(0).json()["digest"], *digest);
    assert_eq!(Digest::of(&fs::read(&out).unwrap()).to_string(), *digest);
    let refused = get(digit).expect(1).problem();
    assert_eq!(refused["code"], "ambiguous");
    assert_eq!(refused["candidates"].as_array().unwrap().len(), alike.len(), "{refused}");
    assert_eq!(get("blake3:").expect(1).problem()["code"], "ambiguous");
    assert_eq!(get("nonsense").expect(64).problem()["code"], "usage");
    assert_eq!(node.terminate(), 0);
}
