//! Workflows from submission to files.

use std::fs;

use serde_json::Value;

use crate::support::{Place, repository};

fn terrain() -> (String, String) {
    let file = repository("examples/terrain/workflow.yaml");
    (file, format!("dem={}", repository("examples/terrain/jacksboro.pgm")))
}

#[test]
fn a_workflow_runs_on_one_node_from_submission_to_files() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let (file, input) = terrain();
    let out = place.path("out");
    let submit =
        format!("run submit {file} --input {input} --param tiles=2 --out {}", out.display());
    let ended = place.say(&submit).expect(0);
    assert!(ended.stderr.contains("split is done at Survey Office"), "{}", ended.stderr);
    assert!(fs::read(out.join("terrain.png")).unwrap().starts_with(b"\x89PNG"));
    let stats: Value = serde_json::from_slice(&fs::read(out.join("stats.json")).unwrap()).unwrap();
    assert!(stats.is_object(), "{stats}");

    let id = ended.stdout.lines().next().unwrap();
    let runs = place.say("run list --output json").expect(0).json();
    assert_eq!((&runs[0]["id"], &runs[0]["state"]), (&id.into(), &"succeeded".into()));
    let prefix = &id[..10];
    let shown = place.say(&format!("run show {prefix}")).expect(0).stdout;
    assert!(shown.contains("mosaic") && shown.contains("committed"), "{shown}");
    assert!(shown.contains("terrain.png, "), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() < 250), "{shown}");
    assert_eq!(runs[0]["total"], runs[0]["committed"]);
    let whole = place.say(&format!("run show {prefix} --output json")).expect(0).json();
    assert_eq!((&whole["total"], &whole["id"]), (&runs[0]["total"], &id.into()));
    assert_eq!(whole["tasks"].as_array().unwrap().len() as u64, runs[0]["total"]);
    assert_eq!(whole["costs"], Value::Array(Vec::new()), "its own node asks nothing");
    let explained = place.say(&format!("run explain {prefix}")).expect(0).stdout;
    assert!(explained.contains("attempt 1 at Survey Office"), "{explained}");
    let events = place.say(&format!("run watch {prefix} --output json")).expect(0).stdout;
    let seq = |line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    let seqs: Vec<u64> = events.lines().map(seq).collect();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
    place.say(&format!("run logs {prefix}")).expect(0);
    place.say(&format!("run logs {prefix} split --follow")).expect(0);
    let unknown = place.say(&format!("run logs {prefix} splt")).expect(1);
    assert!(unknown.stderr.contains("its steps are split"), "{}", unknown.stderr);
    let late = place.say(&format!("run cancel {prefix}")).expect(1);
    assert!(late.stderr.contains("has ended"), "{}", late.stderr);
    place.say("run show ffffffffff").expect(1);
    assert_eq!(node.terminate(), 0);
}

#[test]
fn wrong_parameters_are_told_before_anything_is_uploaded() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let (file, input) = terrain();
    let missing = place.say(&format!("run submit {file}")).expect(1);
    assert!(missing.stderr.contains("parameter `dem` is missing"), "{}", missing.stderr);
    let wrong = place.say(&format!("run submit {file} --input {input} --param tile=3")).expect(1);
    assert!(wrong.stderr.contains("did you mean `tiles`?"), "{}", wrong.stderr);
    let twice = format!("run submit {file} --input {input} --param tiles=3 --param tiles=4");
    assert!(place.say(&twice).expect(64).stderr.contains("`tiles` is given twice"));
    let gone = place.say(&format!("run submit {file} --input dem=/nonexistent/dem")).expect(1);
    assert!(gone.stderr.contains("/nonexistent/dem"), "{}", gone.stderr);
    let plan = place.say(&format!("workflow plan {file} --input {input}")).expect(0).stdout;
    assert!(plan.contains("split: 1 task\n"), "{plan}");
    assert!(
        plan.contains(
            "slope: as many tasks as the steps before it give, after split, its inputs not counted"
        ),
        "{plan}"
    );
    assert!(
        plan.starts_with("Times and costs are those of tasks that run for 1.0 s ")
            && plan.contains("run 1.000 s"),
        "{plan}"
    );
    let longer = place.say(&format!("workflow plan {file} --input {input} --estimate 20m"));
    let longer = longer.expect(0).stdout;
    assert!(
        longer.starts_with("Times and costs are those of tasks that run for 20 min 0 s "),
        "{longer}"
    );
    assert!(longer.contains("run 1200.000 s"), "{longer}");
    let never = place.say(&format!("workflow plan {file} --input {input} --estimate 0s"));
    assert!(never.expect(64).stderr.contains("--estimate"));
    assert_eq!(place.say("run list --output json").expect(0).json(), Value::Array(Vec::new()));
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_run_that_fails_says_so_with_exit_code_1() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let file = repository("examples/terrain/workflow.yaml");
    let bad = place.file("bad.pgm", "this is no elevation model");
    let input = format!("dem={bad}");
    let ended = place
        .run(&["run", "submit", &file, "--input", &input, "--wait", "--output", "json"])
        .expect(1);
    assert_eq!(ended.json()["state"], "failed");
    let problem = ended.problem();
    assert_eq!((&problem["code"], &problem["exit_code"]), (&"run_failed".into(), &1.into()));
    assert!(problem["hint"].as_str().unwrap().contains("run logs"), "{problem}");
    let logs = place
        .run(&["run", "logs", ended.json()["id"].as_str().unwrap(), "split", "--stream", "stderr"])
        .expect(0);
    assert!(logs.stdout.contains("dem.pgm"), "{logs:?}");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_beginning_of_a_run_id_that_says_too_little_is_refused_with_the_candidates() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let none = place.run(&["run", "show", ""]).expect(1);
    assert!(none.stderr.contains("no run has an id that begins with ``"), "{}", none.stderr);
    // Nothing can run it, so it waits, and can be cancelled.
    place.file("a.wasm", "");
    let text = "opencloud: workflow/v1\nname: waits\nsteps:\n  a:\n    run: {wasi: {module: a.wasm}}\n    needs: {memory: 900GiB}\n";
    let file = place.file("w.yaml", text);
    let submit = || place.run(&["run", "submit", &file]).expect(0).stdout.trim().to_owned();
    let ids = [submit(), submit()];
    for verb in ["show", "explain", "watch", "logs", "cancel"] {
        for prefix in ["", "run-"] {
            let refused = place.run(&["run", verb, prefix]).expect(1);
            assert!(refused.stderr.contains("may mean 2 runs: run-"), "{verb}: {}", refused.stderr);
            for id in &ids {
                let label = format!("{id} (waits, running)");
                assert!(refused.stderr.contains(&label), "{verb}: {}", refused.stderr);
            }
        }
        let unknown = place.run(&["run", verb, "zz"]).expect(1);
        assert!(unknown.stderr.contains("no run has an id that begins with `zz`"), "{verb}");
        assert!(unknown.stderr.contains("hint: `opencloud run list`"), "{}", unknown.stderr);
    }
    let json = place.run(&["run", "cancel", "run-", "--output", "json"]).expect(1).problem();
    assert_eq!(json["candidates"].as_array().unwrap().len(), 2, "{json}");
    for (id, prefix) in ids.iter().zip([&ids[0][..20], &ids[1][4..20]]) {
        let cancelled = place.run(&["run", "cancel", prefix]).expect(0).stdout;
        assert!(cancelled.contains(id.as_str()), "{cancelled}");
    }
    let watched = place.run(&["run", "watch", &ids[0]]).expect(130);
    assert!(watched.stderr.contains("was cancelled"), "{}", watched.stderr);
    assert_eq!(node.terminate(), 0);
}
