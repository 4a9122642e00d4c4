//! The image registry with the clients that people use: skopeo and docker. Without them, or without the right to run docker's
//! daemon, a test is left out.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::harness::{Ended, Node, Place, text, wait_until};

/// How long docker's daemon may take to be ready.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes an archive as `docker save` does, of one layer with some files.
const MAKE_ARCHIVE: &str = r#"
set -e
cd "$1"
mkdir -p root/bin root/etc
echo hello >root/etc/motd
head -c 3000000 /dev/urandom >root/bin/data
tar -C root -cf layer.tar .
id=$(sha256sum layer.tar | cut -d ' ' -f 1)
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$id" >config.json
printf '[{"Config":"config.json","RepoTags":["small:1"],"Layers":["layer.tar"]}]' >manifest.json
tar -cf image.tar config.json manifest.json layer.tar
"#;

pub(crate) fn is_there(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("{program} is not there: left out");
    }
    found.is_ok()
}

fn archive(place: &Place) -> String {
    let dir = place.path("archive");
    std::fs::create_dir_all(&dir).unwrap();
    let _ = Ended::of(Command::new("sh").args(["-c", MAKE_ARCHIVE, "sh"]).arg(&dir)).expect(0);
    text(&dir.join("image.tar"))
}

/// A node's registry, as clients are told of it.
pub(crate) struct Registry {
    address: String,
    token: String,
}

impl Registry {
    pub(crate) fn of(node: &Node) -> Self {
        let read =
            |name: &str| std::fs::read_to_string(node.home.join(name)).unwrap().trim().to_owned();
        Self { address: read("api.address"), token: read("api.token") }
    }

    pub(crate) fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    pub(crate) fn skopeo(&self, args: &[&str]) -> Ended {
        let credentials = format!("any:{}", self.token);
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", args[0]]);
        match args[0] {
            "copy" => command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]).args([
                "--src-creds",
                &credentials,
                "--dest-creds",
                &credentials,
            ]),
            _ => command.args(["--tls-verify=false", "--creds", &credentials]),
        };
        Ended::of(command.args(&args[1..]))
    }
}

pub(crate) fn show(node: &Node, name: &str) -> Value {
    node.json(&["image", "show", name])
}

#[test]
fn an_image_is_the_same_image_for_skopeo_for_the_node_and_after_a_crash() {
    if !is_there("skopeo") {
        return;
    }
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let name = "docker.io/library/small:1";
    let imported = node.json(&["image", "import", &archive(&place), "--name", name]);
    let digest = imported["digest"].as_str().unwrap();
    assert!(imported["directory"]["digest"].as_str().unwrap().starts_with("blake3:"));

    let registry = Registry::of(&node);
    let seen = registry.skopeo(&["inspect", &registry.image(name)]).expect(0).json();
    assert_eq!(seen["Digest"], digest);
    let layout = format!("oci:{}:x", text(&place.path("layout")));
    let _ =
        registry.skopeo(&["copy", "--preserve-digests", &registry.image(name), &layout]).expect(0);
    let again = registry.image("again/small:2");
    let _ = registry.skopeo(&["copy", "--preserve-digests", &layout, &again]).expect(0);
    let pushed = show(&node, "again/small:2");
    assert_eq!(pushed["digest"], digest);
    assert_eq!(
        pushed["directory"]["digest"], imported["directory"]["digest"],
        "one image, one directory"
    );

    node.kill9();
    node.start();
    assert_eq!(show(&node, "again/small:2"), pushed);
    let registry = Registry::of(&node);
    let tags = registry.skopeo(&["list-tags", &registry.image("again/small")]).expect(0).json();
    assert_eq!(tags["Tags"], serde_json::json!(["2"]));

    // The directory is an image for whoever has only that.
    let out = text(&place.path("got"));
    let directory = pushed["directory"]["digest"].as_str().unwrap();
    let _ = node.cli(&["data", "get", directory, "--dir", "--out", &out]).expect(0);
    let seen = Ended::of(Command::new("skopeo").args(["inspect", &format!("oci:{out}")])).expect(0);
    assert_eq!(seen.json()["Digest"], digest);

    let _ = registry.skopeo(&["delete", &registry.image("again/small:2")]).expect(0);
    let gone = node.cli(&["image", "show", "again/small:2"]).expect(1);
    assert!(gone.stderr.contains("again/small:2"), "{gone}");
    assert_eq!(show(&node, name)["digest"], digest, "the other repository has it still");
}

#[test]
fn a_layout_is_brought_in_whole_and_a_damaged_one_is_refused() {
    if !is_there("skopeo") {
        return;
    }
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let saved = format!("docker-archive:{}", archive(&place));
    let layout = text(&place.path("layout"));
    let copy = ["--insecure-policy", "copy", &saved, &format!("oci:{layout}:v1")];
    let _ = Ended::of(Command::new("skopeo").args(copy)).expect(0);
    let imported = node.json(&["image", "import", &layout, "--name", "tools:1", "--ref", "v1"]);
    let _ = node.cli(&["image", "tag", "tools:1", "stable"]).expect(0);
    assert_eq!(show(&node, "tools:stable")["digest"], imported["digest"]);
    let told =
        node.cli(&["image", "import", &layout, "--name", "tools:2", "--ref", "v9"]).expect(1);
    assert!(told.stderr.contains("--ref") && told.stderr.contains("v1"), "{told}");

    let largest = largest_file(&place.path("layout/blobs/sha256"));
    let mut bytes = std::fs::read(&largest).unwrap();
    bytes[1_000] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let _ = node.cli(&["image", "remove", "tools:1"]).expect(0);
    let told = node.cli(&["image", "import", &layout, "--name", "other:1"]).expect(1);
    assert!(told.stderr.contains("send it again"), "{told}");
    assert_eq!(node.cli(&["image", "show", "other:1"]).code, 1);
}

fn largest_file(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

/// Docker's daemon with a directory of its own.
struct Daemon {
    child: Child,
    host: String,
    config: PathBuf,
}

impl Daemon {
    /// None where it cannot run.
    fn start(place: &Place) -> Option<Self> {
        if !is_there("dockerd") || !is_there("docker") {
            return None;
        }
        let dir = place.path("docker");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| text(&dir.join(name));
        let host = format!("unix://{}", path("socket"));
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("dockerd")
            .args(["--host", &host, "--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid"), "--bridge=none", "--iptables=false"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, host, config: dir.join("config") };
        let mut has_ended = false;
        wait_until(DAEMON_TIMEOUT, "docker's daemon answers or has ended", || {
            has_ended = daemon.child.try_wait().unwrap().is_some();
            has_ended || daemon.docker(&["version"]).code == 0
        });
        if has_ended {
            println!("docker's daemon cannot run here: left out");
            return None;
        }
        Some(daemon)
    }

    fn docker(&self, args: &[&str]) -> Ended {
        let mut command = Command::new("docker");
        Ended::of(command.args(["--host", &self.host]).arg("--config").arg(&self.config).args(args))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It stops its own helpers when it is told to stop; it would leave them when it is killed.
        let told = Command::new("kill").arg(self.child.id().to_string()).status();
        if told.is_ok() {
            let _ = self.child.wait();
        }
    }
}

#[test]
fn docker_logs_in_pushes_and_pulls_the_same_image() {
    let place = Place::new();
    let Some(daemon) = Daemon::start(&place) else {
        return;
    };
    let mut node = place.node("org");
    node.start();
    let registry = Registry::of(&node);
    let login = |password: &str| {
        daemon.docker(&["login", "--username", "any", "--password", password, &registry.address])
    };
    assert_ne!(login("wrong").code, 0);
    let name = format!("{}/docker.io/library/small:1", registry.address);
    let loaded = daemon.docker(&["load", "--input", &archive(&place)]).expect(0);
    assert!(loaded.stdout.contains("small:1"), "{loaded}");
    let _ = daemon.docker(&["tag", "small:1", &name]).expect(0);
    assert_ne!(daemon.docker(&["push", &name]).code, 0, "nobody has logged in");
    let _ = login(&registry.token).expect(0);
    let _ = daemon.docker(&["push", &name]).expect(0);
    let id = || daemon.docker(&["image", "inspect", "--format", "{{.Id}}", &name]).expect(0).stdout;
    let digests = ["image", "inspect", "--format", "{{index .RepoDigests 0}}", &name];
    let (pushed_id, pushed) = (id(), daemon.docker(&digests).expect(0).stdout);
    let shown = show(&node, "docker.io/library/small:1");
    assert!(pushed.trim().ends_with(shown["digest"].as_str().unwrap()), "{pushed} {shown}");

    let _ = daemon.docker(&["rmi", &name, "small:1"]).expect(0);
    let _ = daemon.docker(&["pull", &name]).expect(0);
    assert_eq!(id(), pushed_id);
    assert_eq!(daemon.docker(&digests).expect(0).stdout, pushed);
}
