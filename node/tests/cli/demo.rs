//! The demo: three organisations, one map, two bills.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Place, opencloud, program};

#[test]
fn the_demo_spreads_a_run_over_three_organisations_and_verifies_the_bills() {
    let place = Place::new();
    let out = place.path("map");
    let ended = opencloud(&["demo", "--output", "json", "--out", out.to_str().unwrap()]).expect(0);
    let shown = ended.json();
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(shown["run"]["state"], "succeeded");
    let tasks = shown["run"]["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 20);
    let orgs: BTreeSet<&str> = tasks.iter().map(|task| task["org"].as_str().unwrap()).collect();
    assert_eq!(orgs.len(), 3, "{orgs:?}");
    let channels = shown["channels"].as_array().unwrap();
    assert_eq!(channels.len(), 2);
    for channel in channels {
        assert_eq!(channel["verified"], true, "{channel}");
        assert_eq!(channel["consumer"], "Survey Office", "{channel}");
        assert!(channel["amount"].as_i64().unwrap() > 0, "{channel}");
    }
    for output in shown["outputs"].as_array().unwrap() {
        assert!(fs::metadata(output["path"].as_str().unwrap()).unwrap().len() > 0, "{output}");
    }
}

#[test]
fn a_demo_that_cannot_write_its_pictures_fails_names_the_step_and_leaves_nothing() {
    let place = Place::new();
    let temp = place.path("tmp");
    fs::create_dir(&temp).unwrap();
    let blocked = place.file("blocked", "a file where a directory should be");
    let output = program().env("TMPDIR", &temp).args(["demo", "--out", &blocked]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("fetch the outputs") && stderr.contains("blocked"), "{stderr}");
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
}
