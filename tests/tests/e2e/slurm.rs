//! Steps as jobs of a cluster that stands behind a node.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tests::harness::{Net, text, wait_until, workflow};

/// How long a node may take to be known with what it offers.
const TIMEOUT: Duration = Duration::from_secs(60);

const WORKFLOW: &str = "\
opencloud: workflow/v1
name: site
params: {tool: {type: file}, tables: {type: dir}}
steps:
  solve:
    run:
      slurm:
        program: {param: tool}
        args: ['two  words']
        mounts: {/data: {param: tables}}
    in: {given: {value: 7, path: in.json}}
    out: {result: {file: d/result.txt}, said: {stdout: true}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
outputs:
  result: {from: solve.result}
  said: {from: solve.said}
";

/// Uses all that a task is given; what it must not do, it tries.
const TOOL: &str = "\
#!/bin/sh
echo \"$1\" as $(id -u)
mkdir d; chmod 777 d
cat in.json \"$OPENCLOUD_MOUNT_DATA/table\" > d/result.txt
echo x > \"$OPENCLOUD_MOUNT_DATA/new\" && echo a mount was written
echo x > \"$OPENCLOUD_MOUNT_DATA/table\" && echo a mount was changed
ls \"$(dirname \"$(dirname \"$PWD\")\")\" && echo other tasks are listed
exit 0
";

/// How much lies in the directories below `dir`.
fn n_below(dir: &Path) -> usize {
    let owners = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    owners.map(|owner| fs::read_dir(owner).unwrap().count()).sum()
}

#[test]
fn a_step_is_a_job_of_the_cluster_with_inputs_outputs_and_a_bill() {
    let Some(config) = std::env::var_os("OPENCLOUD_TEST_SLURM") else {
        println!("skipped: no cluster (tests/run starts one)");
        return;
    };
    // The user of jobs has to pass through, which the tests' own directory does not allow.
    let shared = tempfile::Builder::new().prefix("oc").tempdir().unwrap();
    fs::set_permissions(shared.path(), Permissions::from_mode(0o711)).unwrap();
    let jobs = shared.path().join("jobs");
    let mut net = Net::new(2);
    let site = &mut net.nodes[1];
    site.stop();
    let (dir, config) = (text(&jobs), text(Path::new(&config)));
    let more = ["--slurm", &dir, "--slurm-user", "nobody", "--slurm-conf", &config];
    site.options.extend(more.map(str::to_owned));
    site.start();
    wait_until(TIMEOUT, "the cluster is known", || {
        let found = net.nodes[0].json(&["catalog", "search", "kind = compute and runtime = slurm"]);
        found.as_array().is_some_and(|list| list.len() == 1) && net.nodes[0].n_connected() == 1
    });
    let tool = format!("tool={}", net.place.file("tool", TOOL));
    net.place.file("tables/table", " tables\n");
    let tables = format!("tables={}", text(&net.place.path("tables")));
    let file = workflow(&net.place, WORKFLOW, &[]);
    let (run, out) = net.outputs(&[&file, "--input", &tool, "--input", &tables]);
    let committed = run.in_state("committed");
    assert_eq!(committed.len(), 1, "{:#}", run.0);
    assert_eq!(committed[0]["org_name"], "org-1", "{:#}", run.0);
    assert_eq!(fs::read_to_string(out.join("result.txt")).unwrap(), "7 tables\n");
    let said = fs::read_to_string(out.join("said")).unwrap();
    let words: Vec<&str> = said.lines().collect();
    assert_eq!(words.len(), 1, "{said}");
    assert!(words[0].starts_with("two  words as ") && !words[0].ends_with(" 0"), "{said}");
    for node in &net.nodes {
        let verified = node.verify_ledger();
        assert_eq!(verified.code, 0, "{verified}");
    }
    let bill = net.nodes[0].json(&["ledger", "show"]);
    let lane = &bill[0]["lanes"][0];
    assert_ne!(lane["earned"].to_string().trim_matches('"'), "0", "{bill:#}");
    wait_until(TIMEOUT, "nothing of the task is left", || n_below(&jobs) == 0);
}
