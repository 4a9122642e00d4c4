//! The probe, compiled once for each platform.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::repository;

/// A platform of the probe: its compiler and the arguments that choose it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Platform {
    /// WASI preview 1.
    Wasi,
    /// This machine's own, without any library beside the program.
    Native,
}

impl Platform {
    const fn compiler(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Wasi => ("clang", &["--target=wasm32-wasi", "-O2", "-Wl,--strip-all"]),
            Self::Native => ("cc", &["-O2", "-s", "-static"]),
        }
    }
}

/// The compiled probe. It is kept beside the running test, under a name that tells its source.
///
/// # Errors
/// What is missing to compile it.
pub(super) fn probe(platform: Platform) -> Result<PathBuf, String> {
    let source = repository("tests/guests/probe.c");
    let text = fs::read(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let (compiler, flags) = platform.compiler();
    let test = std::env::current_exe().expect("a running test is a file");
    let dir = test.parent().unwrap_or(Path::new(".")).join("probe");
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&text).update(flags.concat().as_bytes());
    let compiled = dir.join(&hasher.finalize().to_hex()[..16]);
    if compiled.exists() {
        return Ok(compiled);
    }
    // Tests run beside each other; whoever is last replaces the same by the same.
    let own = tempfile::NamedTempFile::new_in(&dir)
        .expect("there is room for the probe")
        .into_temp_path();
    let compiling = Command::new(compiler).args(flags).arg("-o").arg(&own).arg(&source).output();
    match compiling {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{compiler} {} cannot compile the probe: {said}", flags.join(" ")));
        }
        Err(error) => return Err(format!("no {compiler} ({error}); tests/run installs it")),
    }
    own.persist(&compiled).expect("the directory is the same");
    Ok(compiled)
}
