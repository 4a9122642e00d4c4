//! Modules: from bytes to something that can be instantiated, with the reasons why some cannot.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use catalog::Digest;
use wasmtime::component::Component;
use wasmtime::{InstancePre, Module};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::engine::Toolchain;
use super::guest::Guest;
use crate::runtime::{HostFault, PrepareError, bounded};

/// Largest module, in bytes; a larger one is refused unread. The largest known tool has 69 MB.
pub const MODULE_BYTES_MAX: u64 = 256 << 20;

/// What a WebAssembly file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModuleKind {
    /// A core module that is a WASI preview 1 command.
    Core,
    /// A WASI preview 2 component: a command, or the program of a service.
    Component,
}

/// Why a file can never run as a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidModule {
    /// Not WebAssembly in binary form.
    #[error("not a webassembly module or component in binary form")]
    NotWasm,
    /// Larger than any module may be.
    #[error("the module has {bytes} bytes, at most {MODULE_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The file is not the one that was asked for.
    #[error("the module's content is {got}, but {expected} was asked for; fetch it again")]
    Digest {
        /// Digest in the task.
        expected: Digest,
        /// Digest of the file.
        got: Digest,
    },
    /// Malformed, or uses a proposal that this runtime does not support.
    #[error("the compiler refuses the module: {detail}")]
    Refused {
        /// The compiler's message, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// It needs functions that a WASI command does not get.
    #[error("the module needs what this runtime does not offer: {detail}")]
    Import {
        /// The linker's message, naming the import.
        detail: String,
    },
    /// It has no entry point.
    #[error("the module is no command: it exports neither `_start` nor `wasi:cli/run`")]
    NotCommand,
    /// It answers no requests.
    #[error(
        "the module is no program of a service: it is not a component that exports `wasi:http/incoming-handler`"
    )]
    NotServer,
}

impl ModuleKind {
    /// Reads the kind from a file's first bytes.
    fn of(bytes: &[u8]) -> Result<Self, InvalidModule> {
        match bytes.get(..8) {
            Some(b"\0asm\x01\0\0\0") => Ok(Self::Core),
            // Any version of the component layer; the compiler refuses those that it does not know.
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(Self::Component),
            _ => Err(InvalidModule::NotWasm),
        }
    }
}

/// A module file and the digest that it must have.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
}

impl Source {
    /// Reads the module and checks that it is the right one, and a module at all.
    pub(super) fn read(&self) -> Result<Bytes, PrepareError> {
        let bytes = read_bounded(&self.path)?;
        let got =
            Digest::from_bytes(*blake3::Hasher::new().update_rayon(&bytes).finalize().as_bytes());
        if got != self.digest {
            return Err(InvalidModule::Digest { expected: self.digest, got }.into());
        }
        Ok(Bytes { kind: ModuleKind::of(&bytes)?, bytes })
    }
}

/// Reads a module file whole, unless it is too large to be one.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let failed = |error: std::io::Error| HostFault::file("read the module", path, &error);
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > MODULE_BYTES_MAX {
        return Err(InvalidModule::TooLarge { bytes: len }.into());
    }
    let mut bytes = Vec::new();
    file.take(MODULE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A module in WebAssembly form.
pub(super) struct Bytes {
    pub(super) kind: ModuleKind,
    bytes: Vec<u8>,
}

impl Bytes {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Compiles for an engine.
    pub(super) fn compile(&self, toolchain: &Toolchain) -> Result<Code, InvalidModule> {
        match self.kind {
            ModuleKind::Core => Module::from_binary(&toolchain.engine, &self.bytes).map(Code::Core),
            ModuleKind::Component => {
                Component::from_binary(&toolchain.engine, &self.bytes).map(Code::Component)
            }
        }
        .map_err(|error| refused(&error))
    }

    /// Compiles to an artefact without loading it.
    pub(super) fn precompile(&self, engine: &wasmtime::Engine) -> Result<Vec<u8>, InvalidModule> {
        match self.kind {
            ModuleKind::Core => engine.precompile_module(&self.bytes),
            ModuleKind::Component => engine.precompile_component(&self.bytes),
        }
        .map_err(|error| refused(&error))
    }
}

fn refused(error: &wasmtime::Error) -> InvalidModule {
    InvalidModule::Refused { detail: bounded(format!("{error:#}")) }
}

/// Machine code in memory.
pub(super) enum Code {
    Core(Module),
    Component(Component),
}

impl Code {
    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Self::Core(module) => module.serialize(),
            Self::Component(component) => component.serialize(),
        }
    }

    /// Resolves imports and the entry point, so that starting a task has only to instantiate.
    pub(super) fn link(self, toolchain: &Toolchain) -> Result<Loaded, InvalidModule> {
        let missing = |error: wasmtime::Error| InvalidModule::Import {
            detail: bounded(format!("{error:#}")),
        };
        let (command, image) = match self {
            Self::Core(module) => {
                let is_command = module
                    .get_export("_start")
                    .and_then(|export| export.func().cloned())
                    .is_some_and(|start| start.params().len() == 0 && start.results().len() == 0);
                if !is_command {
                    return Err(InvalidModule::NotCommand);
                }
                module.initialize_copy_on_write_image().map_err(missing)?;
                let image = module.image_range();
                (Command::Core(toolchain.core.instantiate_pre(&module).map_err(missing)?), image)
            }
            Self::Component(component) => {
                component.initialize_copy_on_write_image().map_err(missing)?;
                let image = component.image_range();
                let pre = toolchain.component.instantiate_pre(&component).map_err(missing)?;
                let command = CommandPre::new(pre.clone()).ok();
                let proxy = ProxyPre::new(pre).ok();
                if command.is_none() && proxy.is_none() {
                    return Err(InvalidModule::NotCommand);
                }
                (Command::Component { command, proxy }, image)
            }
        };
        let image_bytes = (image.end as usize).saturating_sub(image.start as usize);
        Ok(Loaded {
            command,
            engine: toolchain.engine.clone(),
            flavor: toolchain.flavor,
            image_bytes,
        })
    }
}

/// A module ready to be instantiated.
pub(super) struct Loaded {
    pub(super) command: Command,
    pub(super) engine: wasmtime::Engine,
    pub(super) flavor: super::engine::Flavor,
    /// Length of its machine code and data in memory.
    pub(super) image_bytes: usize,
}

/// A program with its imports resolved.
pub(super) enum Command {
    Core(InstancePre<Guest>),
    /// With one entry point at least.
    Component {
        command: Option<CommandPre<Guest>>,
        proxy: Option<ProxyPre<Guest>>,
    },
}

impl Loaded {
    pub(super) const fn kind(&self) -> ModuleKind {
        match self.command {
            Command::Core(_) => ModuleKind::Core,
            Command::Component { .. } => ModuleKind::Component,
        }
    }

    /// The way to have it answer requests, if it does that.
    pub(super) fn proxy(&self) -> Option<ProxyPre<Guest>> {
        match &self.command {
            Command::Component { proxy, .. } => proxy.clone(),
            Command::Core(_) => None,
        }
    }
}
