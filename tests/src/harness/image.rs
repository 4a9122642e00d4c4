//! Small images in the OCI layout, made without any engine: of busybox, or of one program alone.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Debian's statically linked busybox.
const BUSYBOX: &str = "/bin/busybox";
/// Its commands that scripts of tests use.
const COMMANDS: &str = "sh cat chmod dd echo env false grep head id ip kill ln ls mkdir mount ping ps rm sleep touch true wc \
                        wget yes";

/// The image's architecture in the words of the image specification.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether images of busybox can be made here.
#[must_use]
pub fn has_busybox() -> bool {
    Path::new(BUSYBOX).exists()
}

/// The sockets of the container engines that tests may use, as `tests/run` started them: none when there is none, which is said.
#[must_use]
pub fn engines() -> Vec<PathBuf> {
    let sockets = std::env::var_os("OPENCLOUD_TEST_ENGINES").unwrap_or_default();
    let sockets: Vec<PathBuf> =
        std::env::split_paths(&sockets).filter(|path| path.exists()).collect();
    if sockets.is_empty() || !has_busybox() {
        println!("skipped: no container engine (tests/run starts Docker and Podman)");
        return Vec::new();
    }
    sockets
}

/// Writes the image to `dir`. Its own command prints `default`.
///
/// # Panics
/// When there is no busybox, or `dir` cannot be written.
pub fn write_image(dir: &Path, architecture: &str) {
    let own = serde_json::json!({"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/echo", "default"]});
    write_image_of(dir, architecture, &own);
}

/// Writes an image of busybox with a configuration of its own: environment, command, volumes.
///
/// # Panics
/// When there is no busybox, or `dir` cannot be written.
pub fn write_image_of(dir: &Path, architecture: &str, own: &serde_json::Value) {
    write(dir, architecture, &busybox(), own);
}

/// Writes an image of one static program, `/program`, which is its entry point.
///
/// # Panics
/// When `dir` cannot be written.
pub fn write_program_image(dir: &Path, program: &[u8]) {
    let mut archive = base();
    let mut header = header(tar::EntryType::Regular, 0o755, program.len());
    archive.append_data(&mut header, "program", program).expect("memory takes it");
    let layer = archive.into_inner().expect("memory takes it");
    write(dir, architecture(), &layer, &serde_json::json!({"Entrypoint": ["/program"]}));
}

fn write(dir: &Path, architecture: &str, layer: &[u8], own: &serde_json::Value) {
    let layer = Blob::new(dir, "application/vnd.oci.image.layer.v1.tar", layer);
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": own,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [],
    });
    let config = config.to_string();
    let config = Blob::new(dir, "application/vnd.oci.image.config.v1+json", config.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let manifest = manifest.to_string();
    let manifest =
        Blob::new(dir, "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest.descriptor()]});
    fs::write(dir.join("index.json"), index.to_string()).expect("the image's directory is there");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("so it is");
}

struct Blob {
    media_type: &'static str,
    digest: String,
    size: usize,
}

impl Blob {
    fn new(dir: &Path, media_type: &'static str, bytes: &[u8]) -> Self {
        let hex = catalog::id::to_hex(&Sha256::digest(bytes));
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("the image's directory can be made");
        fs::write(blobs.join(&hex), bytes).expect("there is room for the image");
        Self { media_type, digest: format!("sha256:{hex}"), size: bytes.len() }
    }

    fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.size,
        })
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}

/// A root file system with the directories that every image has.
fn base() -> tar::Builder<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "work"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, dir, &[][..]).expect("memory takes it");
    }
    archive
}

/// The root file system with busybox.
fn busybox() -> Vec<u8> {
    let mut archive = base();
    let busybox = fs::read(BUSYBOX).expect("busybox-static is installed");
    let mut program = header(tar::EntryType::Regular, 0o755, busybox.len());
    archive.append_data(&mut program, "bin/busybox", &busybox[..]).expect("memory takes it");
    for command in COMMANDS.split_whitespace() {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        archive
            .append_link(&mut link, format!("bin/{command}"), "busybox")
            .expect("memory takes it");
    }
    archive.into_inner().expect("memory takes it")
}
