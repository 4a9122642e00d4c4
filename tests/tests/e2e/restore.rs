//! A home that was put back from a backup, with real processes.

use std::process::Command;
use std::time::Duration;

use tests::harness::{Ended, Guest, Net, THREE_TASKS, text, wait_until, workflow, write_file};

/// How long partners may take to meet again and to agree on where their logs end.
const TIMEOUT: Duration = Duration::from_secs(60);

const BINDING: &str = "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n";

#[test]
fn a_home_from_a_backup_gets_its_ledger_back_from_its_partner_and_goes_on() {
    let mut net = Net::new(2);
    let guest = Guest::new(&[&write_file("result.txt", "done")]);
    let file = workflow(&net.place, THREE_TASKS, &[("guest.wasm", &guest)]);
    let binding = net.place.file("binding.yaml", BINDING);
    let submit = ["run", "submit", &file, "--binding", &binding, "--wait"];
    let (home, backup) = (text(&net.nodes[0].home), text(&net.place.path("backup")));
    let copy = |from: &str, to: &str| {
        let _ = Ended::of(Command::new("cp").args(["-a", from, to])).expect(0);
    };

    let _ = net.nodes[0].cli(&submit).expect(0);
    net.nodes[0].stop();
    copy(&home, &backup);
    net.nodes[0].start();
    net.wait_until_known(&net.nodes[0]);
    let _ = net.nodes[0].cli(&submit).expect(0);
    net.nodes[0].kill9();
    std::fs::remove_dir_all(&home).unwrap();
    copy(&backup, &home);

    net.nodes[0].start();
    wait_until(TIMEOUT, "what the backup lacks is back", || {
        let channels = net.nodes[0].json(&["ledger", "show"]);
        channels[0]["state"] == "open" && n_lanes(&channels) == 6
    });
    net.wait_until_known(&net.nodes[0]);
    let _ = net.nodes[0].cli(&submit).expect(0);
    for node in &net.nodes {
        wait_until(TIMEOUT, "both sides have signed everything", || {
            let verdict = node.verify_ledger();
            // 1 and 2 would say that something was signed wrongly, or twice.
            assert!([0, 3].contains(&verdict.code), "{verdict}");
            verdict.code == 0
        });
        let channels = node.json(&["ledger", "show"]);
        assert_eq!(n_lanes(&channels), 9, "{channels:#}");
    }
}

fn n_lanes(channels: &serde_json::Value) -> usize {
    channels[0]["lanes"].as_array().map_or(0, Vec::len)
}
