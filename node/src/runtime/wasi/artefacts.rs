//! Compiled modules on disk.
//!
//! Loading machine code is trusting it, so only files that this node wrote are loaded: beside each artefact lies a tag, a
//! BLAKE3 keyed with a secret of this node over the artefact's name and bytes. What does not match its tag is deleted and
//! compiled again. Artefacts are replaced by renaming, never changed in place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catalog::Digest;

use super::engine::Toolchain;
use super::module::Code;
use crate::runtime::RuntimeError;

/// Most bytes of artefacts kept; beyond it the longest unused go. Large tools compile to some 200 MB each.
const CACHE_BYTES_MAX: u64 = 4 << 30;
const SECRET_FILE: &str = "secret";
const ARTEFACT_SUFFIX: &str = "cwasm";
const TAG_SUFFIX: &str = "tag";
const TEMP_SUFFIX: &str = "tmp";

/// The directory of compiled modules.
pub(super) struct Artefacts {
    dir: PathBuf,
    secret: [u8; 32],
    n_stored: AtomicU64,
}

impl Artefacts {
    /// Opens the directory, made if it is missing, readable by this user alone.
    pub(super) fn open(dir: PathBuf) -> Result<Self, RuntimeError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RuntimeError::Directory { action, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)))
            .map_err(failed("create", &dir))?;
        let path = dir.join(SECRET_FILE);
        let secret = match fs::read(&path).map(<[u8; 32]>::try_from) {
            Ok(Ok(secret)) => secret,
            // Missing or torn. With a new secret every artefact is foreign, which only costs compiling again.
            Ok(Err(_)) => new_secret(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_secret(&path)?,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let artefacts = Self { dir, secret, n_stored: AtomicU64::new(0) };
        artefacts.remove_temporary().map_err(failed("clean", &artefacts.dir))?;
        Ok(artefacts)
    }

    fn remove_temporary(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == TEMP_SUFFIX) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The compiled form of a module, if it is there and intact.
    pub(super) fn load(&self, toolchain: &Toolchain, digest: &Digest) -> Option<Code> {
        let name = artefact_name(toolchain, digest);
        let path = self.dir.join(&name).with_extension(ARTEFACT_SUFFIX);
        let tag = fs::read(path.with_extension(TAG_SUFFIX)).ok()?;
        let loaded = self.verify(&name, &path, &tag).map_err(wasmtime::Error::from);
        match loaded.and_then(|file| deserialize(toolchain, &file, &path)) {
            Ok(code) => Some(code),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "discarding a compiled module");
                remove(&path);
                None
            }
        }
    }

    /// Opens an artefact whose bytes match its tag, and notes that it was used.
    fn verify(&self, name: &str, path: &Path, tag: &[u8]) -> io::Result<File> {
        let file = File::open(path)?;
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(name.as_bytes()).update_reader(&file)?;
        let Ok(tag) = <[u8; 32]>::try_from(tag) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // Comparing two hashes takes the same time wherever they differ.
        if hasher.finalize() != blake3::Hash::from_bytes(tag) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // The time of last use only orders deletion.
        file.set_modified(SystemTime::now()).ok();
        Ok(file)
    }

    /// Keeps a compiled module. A failure is logged and costs compiling again, nothing else.
    pub(super) fn store(&self, toolchain: &Toolchain, digest: &Digest, bytes: &[u8]) {
        let name = artefact_name(toolchain, digest);
        if let Err(error) = self.try_store(&name, bytes).and_then(|()| self.evict(&name)) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot keep a compiled module");
        }
    }

    fn try_store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        let tag = hasher.update(name.as_bytes()).update_rayon(bytes).finalize();
        let path = self.dir.join(name).with_extension(ARTEFACT_SUFFIX);
        // No sync: what a power cut tears does not match its tag.
        self.replace(&path, bytes)?;
        self.replace(&path.with_extension(TAG_SUFFIX), tag.as_bytes())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = self.n_stored.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{number}.{TEMP_SUFFIX}"));
        let written = write_private(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            fs::remove_file(&temporary).ok();
        }
        written
    }

    /// Deletes the longest unused artefacts until the rest fits; the one just stored stays.
    fn evict(&self, keep: &str) -> io::Result<()> {
        let mut total: u64 = 0;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_none_or(|ext| ext != ARTEFACT_SUFFIX) {
                continue;
            }
            let meta = entry.metadata()?;
            total = total.saturating_add(meta.len());
            if path.file_stem().is_none_or(|stem| stem != keep) {
                found.push((meta.modified()?, meta.len(), path));
            }
        }
        found.sort();
        for (_, len, path) in found {
            if total <= CACHE_BYTES_MAX {
                break;
            }
            remove(&path);
            total = total.saturating_sub(len);
        }
        Ok(())
    }
}

fn artefact_name(toolchain: &Toolchain, digest: &Digest) -> String {
    format!("{}-{}-{}", digest.to_hex(), toolchain.flavor.as_str(), toolchain.key)
}

fn new_secret(path: &Path) -> Result<[u8; 32], RuntimeError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|_| RuntimeError::Random)?;
    fs::remove_file(path).ok();
    write_private(path, &secret).map_err(|source| RuntimeError::Directory {
        action: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(secret)
}

/// Writes a new file that only this user can read.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Deletes an artefact and its tag. What cannot be deleted stays unusable or is found again next time.
fn remove(path: &Path) {
    fs::remove_file(path.with_extension(TAG_SUFFIX)).ok();
    fs::remove_file(path).ok();
}

/// Loads verified machine code. `_verified` is the file whose bytes matched the tag of `path`.
#[expect(
    unsafe_code,
    reason = "loading compiled code has no safe form; the tag proves that this node wrote it"
)]
fn deserialize(toolchain: &Toolchain, _verified: &File, path: &Path) -> wasmtime::Result<Code> {
    let kind = wasmtime::Engine::detect_precompiled_file(path)?;
    // SAFETY: the file must be unmodified output of this version's compiler, and must not change while it is mapped.
    // Its bytes, read just before, matched a tag keyed with a secret that only this user can read, so this node wrote
    // them with `store`; wasmtime itself refuses another version's or configuration's output. The directory has mode
    // 0700, and this module replaces files by renaming and never writes into one.
    unsafe {
        match kind {
            Some(wasmtime::Precompiled::Component) => {
                wasmtime::component::Component::deserialize_file(&toolchain.engine, path)
                    .map(Code::Component)
            }
            _ => wasmtime::Module::deserialize_file(&toolchain.engine, path).map(Code::Core),
        }
    }
}
