//! Kernel machines.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use catalog::Digest;
use node::runtime::vm::Machine;
use node::runtime::{Exit, HostFault, InvalidMachine, Mount, Origin};
use tests::conformance::subject::machine;

use super::{Bench, MIB, on_machines};

/// Stages what the script of the next test looks for.
fn stage(bench: &Bench, work: &std::path::Path, tmp: &std::path::Path) {
    fs::write(work.join("input"), "given").unwrap();
    fs::write(work.join("gone"), "x").unwrap();
    fs::create_dir(work.join("deep")).unwrap();
    fs::write(work.join("deep/tool"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(work.join("deep/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/tool", work.join("link")).unwrap();
    fs::write(tmp.join("scratch"), "scratch").unwrap();
    fs::create_dir(bench.path("share")).unwrap();
    fs::write(bench.path("share/data"), "shared").unwrap();
    fs::write(bench.path("stdin"), b"in\0put\n").unwrap();
}

#[test]
fn a_task_has_all_that_it_is_given_and_gives_back_what_it_made() {
    on_machines(async |bench| {
        let odd = ["", "it's \"quoted\"", "a\nb\n", "$HOME `id` \\", "-n", "--", "*", "ü\t€"];
        let long = "n".repeat(120);
        let script = format!(
            "set -e; printf '<%s>' \"$@\"; printf '|'; cat; printf '|'; \
             tr '\\0' '\\n' </proc/$$/environ | sort; echo to stderr >&2; printf '|'; \
             cat input /tmp/scratch /share/a/data; ./link; rm gone; mkdir -p out/{long}; \
             echo made > out/{long}/{long}; ln out/{long}/{long} out/again; ln -s again out/soft; \
             head -c 3000000 /dev/urandom > out/big; chmod 4777 out/big; [ ! -e /share/b ]; \
             ! echo x 2>/dev/null > /share/a/data; ls /sys/class/net; \
             sleep 1000 & (setsid sleep 1000 &); echo end"
        );
        let mut args = vec!["sh", "-c", &script, "sh"];
        args.extend(odd);
        let (mut task, kept) = bench.task(&args);
        stage(bench, &task.base.work, &task.base.tmp);
        let env = [("A", "1 ' 2"), ("Z", "line\nline"), ("B", ""), ("odd name", "x")];
        task.base.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        task.base.stdin = Some(bench.path("stdin"));
        task.base.mounts = vec![Mount { host: bench.path("share"), guest: "/share/a".to_owned() }];
        let ended = bench.run((task, kept)).await;
        assert_eq!((&ended.exit, ended.stderr.as_str()), (&Exit::Code(0), "to stderr\n"));

        let parts: Vec<&str> = ended.stdout.splitn(4, '|').collect();
        let expected: String = odd.iter().map(|arg| format!("<{arg}>")).collect();
        assert_eq!((parts[0], parts[1]), (expected.as_str(), "in\0put\n"));
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let lines: Vec<&str> = parts[2].lines().collect();
        assert_eq!(lines, ["A=1 ' 2", "B=", path, "Z=line", "line", "odd name=x"]);
        // It has no network but its loopback. What it has left running does not keep it.
        assert_eq!(parts[3], "givenscratchsharedran\nlo\nend\n");

        let work = &ended.work;
        let read = |name: &str| fs::read_to_string(work.join(name)).unwrap();
        assert!(!work.join("gone").exists());
        assert_eq!((read("input").as_str(), read("out/soft").as_str()), ("given", "made\n"));
        assert_eq!(read(&format!("out/{long}/{long}")), "made\n");
        let big = fs::metadata(work.join("out/big")).unwrap();
        assert_eq!((big.len(), big.permissions().mode() & 0o7022), (3_000_000, 0));
        assert_eq!(fs::read_to_string(bench.path("share/data")).unwrap(), "shared");

        let meters = ended.meters;
        assert!(meters.cpu_us > 100_000 && meters.elapsed_us >= 1_000_000, "{meters:?}");
        assert!(meters.memory_peak_bytes > 50 * MIB && meters.memory_kib_s > 0, "{meters:?}");
        assert!(meters.io_bytes > 3_000_000 && meters.storage_bytes >= 3_000_000, "{meters:?}");
    });
}

#[test]
fn without_arguments_the_machines_own_command_runs_and_it_is_prepared_once() {
    on_machines(async |bench| {
        let (task, kept) = bench.task(&[]);
        let mut running = bench.runtime.start(task.clone());
        let (exit, _) = running.wait().await;
        let said = kept.text(node::runtime::Stream::Stdout);
        assert_eq!(
            (exit, said.as_str()),
            (Exit::Code(0), "the machine has a command of its own\n")
        );
        assert_eq!(running.prepared().unwrap().origin, Origin::Cold);
        assert!(running.started_in().is_some());
        let Machine::Kernel { dir, .. } = &task.machine else { panic!("{:?}", task.machine) };
        let again = bench.runtime.prepare(dir, task.digest).await.unwrap();
        assert_eq!(again.origin, Origin::Cached);
    });
}

#[test]
fn a_program_that_is_not_there_is_told_as_shells_do() {
    on_machines(async |bench| {
        let ended = bench.run(bench.task(&["/no/such/program"])).await;
        assert_eq!(ended.exit, Exit::Code(127));
        assert!(ended.stderr.contains("/no/such/program"), "{ended:?}");
        // What no machine can be given never boots one.
        let ended = bench.run(bench.task(&["a\0b"])).await;
        let expected =
            "the machine cannot be given its task: an argument or variable holds a NUL character";
        assert_eq!(ended.exit.to_string(), expected);
        assert_eq!(ended.meters.cpu_us, 0);
    });
}

#[test]
fn a_machine_without_what_it_needs_is_told_apart() {
    on_machines(async |bench| {
        let dir = bench.path("bad");
        fs::create_dir(&dir).unwrap();
        fs::copy(machine("kernel").unwrap().join("kernel"), dir.join("kernel")).unwrap();
        let exit = async |name: &str| {
            let (mut task, kept) = bench.script("true");
            task.machine = Machine::Kernel { dir: dir.clone(), append: String::new() };
            task.digest = Digest::of(name.as_bytes());
            bench.run((task, kept)).await.exit
        };
        let found = exit("no initramfs").await;
        assert!(matches!(found, Exit::InvalidMachine(InvalidMachine::Layout { .. })), "{found:?}");
        fs::write(dir.join("initramfs"), b"").unwrap();
        let found = exit("no shell in it").await;
        let Exit::InvalidMachine(InvalidMachine::NoStart { what, console }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(what, "panicked");
        assert!(console.contains("Kernel panic"), "{console}");
        fs::write(dir.join("kernel"), b"nothing that boots").unwrap();
        let found = exit("no kernel").await;
        assert!(matches!(found, Exit::Host(HostFault::Machine { .. })), "{found:?}");
    });
}
