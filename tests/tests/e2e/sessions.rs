//! Inside tasks that run at another organisation: commands in containers on each engine that is there, and the console of a
//! machine.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tests::harness::{
    Ended, Net, Node, architecture, engines, text, wait_for, wait_until, workflow, write_image,
};

use crate::containers::containers_of;

/// How long anything may take: an engine under load takes seconds for each container.
const TIMEOUT: Duration = Duration::from_secs(120);

const ENDLESS: &str = "\
opencloud: workflow/v1
name: endless
params: {image: {type: dir}}
steps:
  wait:
    run: {container: {image: {param: image}, args: [/bin/sh, -c, 'echo up; sleep 1000'], env: {MINE: yes}}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
";

/// Two organisations, the second of which offers containers and opens them, and a task of the first that runs there.
struct Inside {
    net: Net,
    run: String,
}

impl Inside {
    fn new(engine: &Path, exec: Option<&str>) -> Self {
        let mut net = Net::new(2);
        let image = net.place.path("image");
        write_image(&image, architecture());
        let host = &mut net.nodes[1];
        host.stop();
        host.options.push(format!("--containers={}", engine.display()));
        host.options.extend(exec.map(str::to_owned));
        host.options.push("-v".to_owned());
        host.start();
        let asks = &net.nodes[0];
        wait_until(TIMEOUT, "the containers are known", || {
            let found = asks.json(&["catalog", "search", "kind = compute and runtime = container"]);
            found.as_array().is_some_and(|list| list.len() == 1) && asks.n_connected() == 1
        });
        let file = workflow(&net.place, ENDLESS, &[]);
        let image = format!("image={}", text(&image));
        let run = net.nodes[0].submit(&file, &["--input", &image]);
        let inside = Self { net, run };
        wait_until(TIMEOUT, "the task runs", || {
            let log =
                inside.node().cli(&["run", "logs", &inside.run, "wait", "--stream", "stdout"]);
            log.stdout == "up\n"
        });
        inside
    }

    fn node(&self) -> &Node {
        &self.net.nodes[0]
    }

    fn host(&self) -> &Node {
        &self.net.nodes[1]
    }

    fn exec(&self, command: &[&str]) -> Ended {
        let args: Vec<&str> = ["run", "exec", &self.run, "wait", "--"]
            .into_iter()
            .chain(command.iter().copied())
            .collect();
        self.node().cli(&args)
    }

    /// Starts a command whose streams are ours.
    fn start(&self, command: &[&str]) -> Child {
        let mut exec = self.node().command(&["run", "exec", &self.run, "wait", "--"]);
        exec.args(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        exec.spawn().unwrap()
    }

    /// How many processes of this command line run inside the task, as it sees itself.
    fn n_inside(&self, command: &str) -> usize {
        let ps = self.exec(&["ps", "-o", "args"]).expect(0);
        ps.stdout.lines().filter(|line| line.trim() == command).count()
    }

    fn events(&self) -> Vec<Value> {
        let path = format!("/api/v1/runs/{}/events", self.run);
        let mut curl = Command::new("curl");
        let api = std::fs::read_to_string(self.node().home.join("api.address")).unwrap();
        let token = std::fs::read_to_string(self.node().home.join("api.token")).unwrap();
        let token = format!("Authorization: Bearer {}", token.trim());
        let url = format!("http://{}{path}", api.trim());
        let told = Ended::of(curl.args(["-s", "-m", "2", "-H", &token, &url]));
        let data = told.stdout.lines().filter_map(|line| line.strip_prefix("data:").map(str::trim));
        data.map(|json| serde_json::from_str(json).unwrap()).collect()
    }
}

/// What a process says until it has said this.
fn read_until(child: &mut Child, what: &str) -> String {
    let mut stdout = child.stdout.take().unwrap();
    let (send, receive) = mpsc::channel();
    let what = what.to_owned();
    std::thread::spawn(move || {
        let (mut said, mut chunk) = (String::new(), [0; 256]);
        while !said.contains(&what) {
            match stdout.read(&mut chunk) {
                Ok(n) if n > 0 => said.push_str(&String::from_utf8_lossy(&chunk[..n])),
                _ => break,
            }
        }
        // The test may have given up.
        let _ = send.send((said, stdout));
    });
    let (said, stdout) = receive.recv_timeout(TIMEOUT).expect("it says something in time");
    child.stdout = Some(stdout);
    said
}

fn end(mut child: Child) -> i32 {
    wait_for(TIMEOUT, "the command has ended", || child.try_wait().unwrap()).code().unwrap_or(-1)
}

#[test]
fn a_command_inside_a_task_elsewhere_has_its_streams_code_user_limits_and_is_told_of() {
    for engine in engines() {
        let inside = Inside::new(&engine, Some("--exec=realm"));
        let script = "echo out; echo err >&2; pwd; echo $MINE; exit 7";
        let ended = inside.exec(&["/bin/sh", "-c", script]).expect(7);
        assert_eq!(ended.stdout, "out\n/work\nyes\n", "{ended}");
        assert_eq!(ended.stderr, "err\n", "{ended}");

        // What is inside is the task's: its user, without rights, held by its limits.
        let of = |pid: &str| {
            let script = format!(
                "grep -e ^Uid -e ^Cap -e ^NoNewPrivs /proc/{pid}/status; cat /proc/{pid}/limits; cat /proc/{pid}/cgroup"
            );
            inside.exec(&["/bin/sh", "-c", &script]).expect(0).stdout
        };
        assert_eq!(of("self"), of("1"));

        let ended = inside.exec(&["no-such-program"]).expect(127);
        assert!(ended.stdout.is_empty() && ended.stderr.contains("no-such-program"), "{ended}");

        // Standard input, up to its end, and as much of it as there is.
        let mut child = inside.start(&["/bin/sh", "-c", "wc -c"]);
        let mut stdin = child.stdin.take().unwrap();
        let writing = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 5_000_000]));
        let said = read_until(&mut child, "\n");
        writing.join().unwrap().unwrap();
        assert_eq!((said.trim(), end(child)), ("5000000", 0));
        let ended =
            inside.exec(&["/bin/sh", "-c", "dd if=/dev/zero bs=1000000 count=5 2>/dev/null"]);
        assert_eq!(ended.expect(0).stdout.len(), 5_000_000);

        // What it leaves running ends with it, also when that holds the output.
        let _ = inside.exec(&["/bin/sh", "-c", "sleep 777 & exit 3"]).expect(3);
        assert_eq!(inside.n_inside("sleep 777"), 0);

        let told = inside.events();
        let count = |event: &str| told.iter().filter(|e| e["body"]["event"] == event).count();
        assert!(count("session_began") >= 4, "{told:#?}");
        let has = |key: &str, what: &str| told.iter().any(|e| e["body"][key] == what);
        assert!(has("what", "no-such-program") && has("detail", "exit code 7"), "{told:#?}");
        let log = inside.host().log();
        assert!(log.contains("a session inside a task begins") && log.contains("no-such-program"));

        // The bytes are billed as the task's network.
        let lane = wait_for(TIMEOUT, "the bytes are billed", || {
            let bill = inside.host().json(&["ledger", "show"]);
            let lane = bill[0]["lanes"][0].clone();
            (lane["used"]["net_out"].as_u64()? >= 5_000_000).then_some(lane)
        });
        assert!(lane["used"]["net_in"].as_u64().unwrap() >= 5_000_000, "{lane:#}");
        let _ = inside.node().cli(&["run", "cancel", &inside.run]).expect(0);
        wait_until(TIMEOUT, "no container is left", || containers_of(&engine, inside.host()) == 0);
        let _ = inside.node().wait_for_end(&inside.run, TIMEOUT);
        let late = inside.exec(&["true"]).expect(125);
        assert!(late.stderr.contains("does not run now"), "{late}");
        for node in &inside.net.nodes {
            let verified = node.verify_ledger();
            assert_eq!(verified.code, 0, "{verified}");
        }
    }
}

#[test]
fn a_session_that_is_cut_on_any_side_leaves_nothing_inside() {
    for engine in engines() {
        let mut inside = Inside::new(&engine, Some("--exec=realm"));
        let started = |inside: &Inside, seconds: u32| {
            let script = format!("sleep {seconds} & echo up; sleep {seconds}");
            let mut child = inside.start(&["/bin/sh", "-c", &script]);
            assert_eq!(read_until(&mut child, "up\n"), "up\n");
            assert_eq!(inside.n_inside(&format!("sleep {seconds}")), 2);
            child
        };
        // The command line is killed.
        let mut child = started(&inside, 871);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until(TIMEOUT, "it is gone", || inside.n_inside("sleep 871") == 0);

        // It is killed while it sends what nobody reads.
        let mut child = inside.start(&["/bin/sh", "-c", "echo up; exec sleep 872"]);
        let mut stdin = child.stdin.take().unwrap();
        let writing = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 64 << 20]));
        assert_eq!(read_until(&mut child, "up\n"), "up\n");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(writing.join().unwrap().is_err());
        wait_until(TIMEOUT, "it is gone", || inside.n_inside("sleep 872") == 0);

        // The node is killed that the user is at; the task goes on meanwhile.
        let child = started(&inside, 873);
        inside.net.nodes[0].restart();
        assert_eq!(end(child), 125);
        wait_until(TIMEOUT, "it is gone", || {
            let ps = inside.exec(&["ps", "-o", "args"]);
            ps.code == 0 && !ps.stdout.contains("sleep 873")
        });

        // The node is killed where the task runs: its next life leaves nothing of the task either.
        let child = started(&inside, 874);
        inside.net.nodes[1].kill9();
        assert_eq!(end(child), 125);
        inside.net.nodes[1].start();
        let _ = inside.node().cli(&["run", "cancel", &inside.run]);
        wait_until(TIMEOUT, "no container is left", || containers_of(&engine, inside.host()) == 0);
    }
}

#[test]
fn a_terminal_is_one_on_both_sides() {
    for engine in engines() {
        let inside = Inside::new(&engine, Some("--exec=realm"));
        let refused = inside.node().cli(&["run", "exec", &inside.run, "wait", "--tty", "--", "sh"]);
        assert!(refused.expect(64).stderr.contains("--tty wants a terminal"));
        let exec =
            inside.node().command(&["run", "exec", &inside.run, "wait", "--tty", "--", "sh"]);
        let words: Vec<String> = std::iter::once(exec.get_program())
            .chain(exec.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        // `script` makes a terminal and passes on what is typed; what the terminal was like is compared before and after.
        let shell =
            format!("stty rows 33 cols 77; stty -g; {}; echo code $?; stty -g", words.join(" "));
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &shell, "/dev/null"]);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let mut keys = child.stdin.take().unwrap();
        let before = read_until(&mut child, "$ ");
        // The size went there, Ctrl-C goes to what runs there, and the terminal says that it is one.
        keys.write_all(b"busybox stty size; test -t 0 && echo is a t''ty\n").unwrap();
        let said = read_until(&mut child, "is a tty\r\n");
        assert!(said.contains("33 77"), "{before}{said}");
        keys.write_all(b"sleep 875; echo slept $?\n").unwrap();
        wait_until(TIMEOUT, "it sleeps", || inside.n_inside("sleep 875") == 1);
        keys.write_all(b"\x03").unwrap();
        wait_until(TIMEOUT, "it is interrupted", || inside.n_inside("sleep 875") == 0);
        keys.write_all(b"exit 9\n").unwrap();
        let said = read_until(&mut child, "code 9\r\n");
        assert!(said.contains("code 9"), "{said}");
        drop(keys);
        let rest = said + &read_until(&mut child, "never said");
        let was = |said: &str| {
            said.lines().find(|line| line.split(':').count() > 20).map(|l| l.trim().to_owned())
        };
        assert!(was(&before).is_some() && was(&before) == was(&rest), "{before}\n{rest}");
        end(child);
    }
}

#[test]
fn tasks_are_open_only_to_whom_the_owner_says() {
    for engine in engines() {
        let closed = Inside::new(&engine, None);
        let told = closed.exec(&["true"]).expect(125);
        assert!(told.stderr.contains("has opened tasks to nobody"), "{told}");
        assert!(told.stderr.contains("up --exec"), "{told}");
        let own = Inside::new(&engine, Some("--exec"));
        let told = own.exec(&["true"]).expect(125);
        assert!(told.stderr.contains("to its own organisation alone"), "{told}");
        let node = own.node();
        let found = node.json(&["catalog", "search", "exec = own"]);
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found:#}");
        for (args, code, why) in [
            (&["run", "exec", &own.run, "nope", "--", "true"][..], 125, "its steps are wait"),
            (&["run", "exec", &own.run, "wait[1]", "--", "true"], 125, "no task of this index"),
            (&["run", "console", &own.run, "wait"], 125, "which has no console"),
            (&["--output", "json", "run", "exec", &own.run, "wait", "true"], 64, "no JSON"),
        ] {
            let told = node.cli(args).expect(code);
            assert!(told.stderr.contains(why), "{told}");
        }
    }
}

/// A machine whose task answers at its console.
const TALKING: &str = "\
opencloud: workflow/v1
name: talking
params: {kernel: {type: dir}}
steps:
  talk:
    run:
      vm:
        kernel: {param: kernel}
        args:
          - sh
          - -c
          - 'exec 0</dev/ttyS0 1>/dev/ttyS0; echo ready to talk; while read line; do echo heard $line; test $line = end && exit 0; done'
    needs: {cpu: 1, memory: 192MiB, disk: 16MiB}
";

#[test]
fn a_machine_elsewhere_is_talked_to_at_its_console() {
    let Some(kernel) = tests::conformance::subject::machine("kernel")
        .map_err(|why| println!("skipped: {why}"))
        .ok()
    else {
        return;
    };
    let mut net = Net::new(2);
    let dir = tempfile::Builder::new().prefix("oc").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let host = &mut net.nodes[1];
    host.stop();
    host.options.extend([format!("--vms={}", text(dir.path())), "--exec=realm".to_owned()]);
    host.start();
    let node = &net.nodes[0];
    wait_until(TIMEOUT, "the machines are known", || {
        let found = node.json(&["catalog", "search", "kind = compute and runtime = vm"]);
        found.as_array().is_some_and(|list| list.len() == 1) && node.n_connected() == 1
    });
    let file = workflow(&net.place, TALKING, &[]);
    let run = node.submit(&file, &["--input", &format!("kernel={}", text(&kernel))]);
    let console = || {
        wait_for(TIMEOUT, "the console is there", || {
            let mut console = node.command(&["run", "console", &run, "talk"]);
            console.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = console.spawn().unwrap();
            let said = read_until(&mut child, "ready to talk");
            said.contains("ready to talk").then_some(child)
        })
    };
    let mut first = console();
    let mut keys = first.stdin.take().unwrap();
    keys.write_all(b"hello\n").unwrap();
    assert!(read_until(&mut first, "heard hello").contains("heard hello"));
    // Who comes later sees what was said before, and both see what is said then.
    let mut second = console();
    second.stdin.take().unwrap().write_all(b"world\n").unwrap();
    assert!(read_until(&mut first, "heard world").contains("heard world"));
    assert!(read_until(&mut second, "heard world").contains("heard world"));
    drop(keys);
    first.kill().unwrap();
    first.wait().unwrap();
    let exec = node.cli(&["run", "exec", &run, "talk", "--", "true"]).expect(125);
    assert!(exec.stderr.contains("run console"), "{exec}");
    let mut last = console();
    last.stdin.take().unwrap().write_all(b"end\n").unwrap();
    assert_eq!((end(last), end(second)), (0, 0));
    let run = node.wait_for_end(&run, TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
}
