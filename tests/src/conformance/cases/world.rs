//! What a task sees of the world: arguments, environment, clocks, chance.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::conformance::{Bench, Ended};

/// How far a task's clock may be from ours, in seconds.
const CLOCK_S: f64 = 5.0;

/// The texts that the probe has printed, each ended by a zero byte.
fn texts(ended: &Ended) -> Vec<String> {
    let text = ended.text();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn environment(ended: &Ended) -> BTreeMap<String, String> {
    let pairs = texts(ended);
    let pairs = pairs.iter().map(|pair| pair.split_once('=').expect("a name and a value"));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(in crate::conformance) fn arguments_arrive_as_given(bench: &Bench) {
    let given = [
        "",
        " ",
        "a  b",
        "\"quoted\" 'too'",
        "$HOME `id` $(id)",
        "*",
        "--flag",
        "then",
        "line\nfeed",
        "\\",
        "grün 🌍",
    ];
    let ended = bench.probe(&[&["args"][..], &given].concat()).expect(0);
    assert_eq!(texts(&ended), given);
}

pub(in crate::conformance) fn large_arguments_arrive(bench: &Bench) {
    // Linux takes 128 KiB in one argument.
    let mut job = bench.job(&["args"]);
    job.args.push("x".repeat(120 << 10));
    job.args.extend((0..500).map(|n| format!("{n}-{}", "y".repeat(1_000))));
    assert_eq!(texts(&bench.run(&job).expect(0)), job.args[1..]);
}

pub(in crate::conformance) fn the_environment_is_what_was_given(bench: &Bench) {
    let mut job = bench.job(&["env"]);
    for (name, value) in [
        ("PLAIN", "x"),
        ("EMPTY", ""),
        ("EQUALS", "a=b=c"),
        ("LINES", "a\nb"),
        ("WORLD", "grün 🌍"),
    ] {
        job.env.insert(name.to_owned(), value.to_owned());
    }
    let mut found = environment(&bench.run(&job).expect(0));
    // What engines and clusters add themselves.
    for own in ["PATH", "HOME", "HOSTNAME", "TERM", "TMPDIR", "container"] {
        found.remove(own);
    }
    assert_eq!(found, job.env);
}

pub(in crate::conformance) fn a_large_environment_arrives(bench: &Bench) {
    let mut job = bench.job(&["env"]);
    job.env = (0..300).map(|n| (format!("NAME_{n}"), format!("{n}").repeat(300))).collect();
    let found = environment(&bench.run(&job).expect(0));
    for (name, value) in &job.env {
        assert_eq!(found.get(name), Some(value), "{name}");
    }
}

pub(in crate::conformance) fn clocks_go(bench: &Bench) {
    let now =
        || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
    let before = now();
    let ended = bench.probe(&["clock"]).expect(0);
    let after = now();
    let read: Vec<f64> =
        ended.text().split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let possible = before - CLOCK_S..after + CLOCK_S;
    assert!(possible.contains(&(read[0] / 1e9)), "{read:?}, and here it was {before} to {after}");
    assert!((0.2..CLOCK_S).contains(&(read[1] / 1e9)), "200 ms took {} ns", read[1]);
}

pub(in crate::conformance) fn random_bytes_differ(bench: &Bench) {
    let both =
        [bench.probe(&["random"]).expect(0).text(), bench.probe(&["random"]).expect(0).text()];
    assert_eq!(both[0].trim().len(), 32);
    assert_ne!(both[0], both[1]);
}

pub(in crate::conformance) fn the_name_of_the_host_is_not_told(bench: &Bench) {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("every Linux has it");
    assert_ne!(bench.probe(&["hostname"]).expect(0).text(), own);
}
