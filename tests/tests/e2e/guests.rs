//! Programs that fail, each in its way: the run says which, and why.

use tests::harness::{
    ENDLESS_LOOP, Guest, Net, create_must_fail, exit_with, grow_without_end, open_must_fail, say,
    symlink, write_file,
};

fn document(timeout: &str) -> String {
    format!(
        "opencloud: workflow/v1
name: bad
steps:
  work:
    run: {{wasi: {{module: guest.wasm}}}}
    out: {{result: {{file: result.txt}}}}
    needs: {{cpu: 1, memory: 16MiB, disk: 16MiB}}
    timeout: {timeout}
    retry: {{attempts: 1}}
outputs:
  result: {{from: work.result}}
"
    )
}

/// Runs a program that must fail. `run show` must hold every fact, and `--wait` end with code 1.
fn fails(net: &Net, name: &str, module: &[u8], facts: &[&str]) {
    let node = &net.nodes[0];
    net.place.file(&format!("{name}/guest.wasm"), module);
    let file = net.place.file(&format!("{name}/workflow.yaml"), document("1s"));
    let ended = node.cli(&["--output", "json", "run", "submit", &file, "--wait"]).expect(1);
    let told = ended.json();
    assert_eq!(told["state"], "failed", "{name}: {ended}");
    let id = told["id"].as_str().unwrap();
    let run = node.run(id);
    assert_eq!(run.state(), "failed", "{name}: {:#}", run.0);
    assert!(run.in_state("committed").is_empty(), "{name}: {:#}", run.0);
    let shown = node.cli(&["run", "show", id]).expect(0).stdout;
    for fact in facts {
        assert!(run.0.to_string().contains(fact), "{name}: `{fact}` is missing in {:#}", run.0);
        assert!(shown.contains(fact), "{name}: `{fact}` is missing in {shown}");
    }
}

#[test]
fn every_way_to_fail_is_told_with_its_class_and_reason() {
    let net = Net::new(1);
    let exits = Guest::new(&[&say("oh"), &exit_with(7)]);
    fails(&net, "exit", exits.bytes(), &["exit", "7"]);
    let loops = Guest::new(&[ENDLESS_LOOP]);
    fails(&net, "loop", loops.bytes(), &["timeout", "time limit"]);
    let eats = Guest::new(&[&grow_without_end()]);
    fails(&net, "memory", eats.bytes(), &["oom", "memory limit"]);
    let forgets = Guest::new(&[&say("nothing to write")]);
    fails(&net, "output", forgets.bytes(), &["output", "result.txt"]);
    fails(&net, "text", b"this is no program", &["invalid"]);
    fails(&net, "empty", b"", &["invalid"]);
    // The node is as good as new.
    let works = Guest::new(&[&write_file("result.txt", "done")]);
    net.place.file("works/guest.wasm", works.bytes());
    let file = net.place.file("works/workflow.yaml", document("1m"));
    let _ = net.nodes[0].cli(&["run", "submit", &file, "--wait"]).expect(0);
}

#[test]
fn nothing_outside_of_the_work_directory_can_be_opened_or_written() {
    let net = Net::new(1);
    let target = net.place.path("outside.txt").display().to_string();
    std::fs::write(&target, "untouched").unwrap();
    let up = "../../../../../../../../../../../../".to_owned();
    let by_dots = up.clone() + target.trim_start_matches('/');
    let names_of = |dir: &std::path::Path| -> Vec<_> {
        let list = std::fs::read_dir(dir).unwrap();
        list.map(|entry| entry.unwrap().file_name()).collect()
    };
    for (name, tries) in [
        ("absolute", vec![open_must_fail(&target)]),
        ("dots", vec![open_must_fail(&by_dots), create_must_fail(&by_dots)]),
        ("new", vec![create_must_fail("../escaped.txt")]),
        ("link", vec![symlink(&target, "link"), open_must_fail("link")]),
        ("link up", vec![symlink(&up, "up"), create_must_fail("up/tmp/escaped.txt")]),
        ("link new", vec![symlink("../escaped.txt", "new"), create_must_fail("new")]),
    ] {
        let body: Vec<&str> = tries.iter().map(String::as_str).collect();
        let done = write_file("result.txt", "kept in");
        let guest = Guest::new(&[&body[..], &[&done]].concat());
        let folder = name.replace(' ', "-");
        net.place.file(&format!("{folder}/guest.wasm"), guest.bytes());
        let file = net.place.file(&format!("{folder}/workflow.yaml"), document("20s"));
        let ended = net.nodes[0].cli(&["--output", "json", "run", "submit", &file, "--wait"]);
        // A guest that made its link may be refused for it afterwards, as long as it got nowhere.
        let told = ended.json().to_string();
        assert!(!told.contains("exit code 98"), "{name} escaped: {ended}");
        assert!(ended.code == 0 || name.starts_with("link"), "{name}: {ended}");
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "untouched");
    let top = names_of(&net.place.path("."));
    assert!(!top.iter().any(|name| name == "escaped.txt"), "{top:?}");
    assert!(!std::path::Path::new("/tmp/escaped.txt").exists());
}

#[test]
fn a_symbolic_link_is_no_output() {
    let net = Net::new(1);
    let target = net.place.file("secret.txt", "secret");
    let guest = Guest::new(&[&symlink(&target, "result.txt")]);
    net.place.file("guest.wasm", guest.bytes());
    let file = net.place.file("workflow.yaml", document("20s"));
    let ended = net.nodes[0].cli(&["--output", "json", "run", "submit", &file, "--wait"]).expect(1);
    let run = net.nodes[0].run(ended.json()["id"].as_str().unwrap());
    assert!(run.detail().contains("result.txt"), "{:#}", run.0);
}
