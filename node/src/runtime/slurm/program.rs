//! Programs: whether a file can be run at all, and is the one that was asked for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use catalog::Digest;

use crate::runtime::{HostFault, PrepareError};

/// Bytes at the start of a file that tell what it is.
const MAGIC_LEN: u64 = 4;

/// Why a program can never run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProgram {
    /// The file does not have the digest that was asked for.
    #[error("the program has the digest {found}, not {wanted}; publish it again")]
    Digest {
        /// What was asked for.
        wanted: Digest,
        /// What there is.
        found: Digest,
    },
    /// It is neither an executable for Linux nor a script.
    #[error("the program is neither an ELF executable nor a script that begins with `#!`")]
    Format,
    /// A word holds a NUL, which ends words on Linux.
    #[error("the {what} holds a zero byte, which no program can be given")]
    Nul {
        /// An argument or a variable.
        what: &'static str,
    },
    /// Words are longer than Linux takes them.
    #[error("the {what} has {found} bytes, at most {max} are taken; put them into a file")]
    TooLong {
        /// An argument, a variable, or all together.
        what: &'static str,
        /// How long.
        found: usize,
        /// The most.
        max: usize,
    },
    /// A variable's name cannot be one.
    #[error("`{name}` cannot be a variable: its name is empty or holds `=`")]
    VariableName {
        /// The name.
        name: String,
    },
    /// Two mounts, or a mount and a variable of the node, would have one name.
    #[error("two mounts would be found in `{name}`; give one another name")]
    MountName {
        /// The variable.
        name: String,
    },
    /// A path that a job cannot be told.
    #[error("`{}` cannot be told to a job: paths must be absolute, Unicode and without `=`", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The name is not one that Slurm and the file system take.
    #[error(
        "`{name}` cannot name a task: use up to {} letters, digits, `.`, `_` and `-`",
        super::NAME_LEN_MAX
    )]
    Name {
        /// The name, cut to 100 characters.
        name: String,
    },
}

/// Checks that a file is a program, and the right one.
pub(super) fn check(path: &Path, wanted: Digest) -> Result<(), PrepareError> {
    let fault = |action, error: &io::Error| HostFault::file(action, path, error);
    let mut file = File::open(path).map_err(|error| fault("open", &error))?;
    let mut magic = Vec::new();
    let mut begin = (&mut file).take(MAGIC_LEN);
    begin.read_to_end(&mut magic).map_err(|error| fault("read", &error))?;
    if !magic.starts_with(b"#!") && magic != *b"\x7fELF" {
        return Err(InvalidProgram::Format.into());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&magic);
    hasher.update_reader(file).map_err(|error| fault("read", &error))?;
    let found = Digest::from_bytes(*hasher.finalize().as_bytes());
    if found != wanted {
        return Err(InvalidProgram::Digest { wanted, found }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_file_is_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        for (bytes, is_one) in [
            ("#!/bin/sh\n", true),
            ("\x7fELF and so on", true),
            ("echo", false),
            ("", false),
            ("#", false),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let digest = Digest::of(bytes.as_bytes());
            assert_eq!(check(&path, digest).is_ok(), is_one, "{bytes}");
        }
        std::fs::write(&path, "#!/bin/sh\nexit 0").unwrap();
        let (wanted, found) = (Digest::of(b"x"), Digest::of(b"#!/bin/sh\nexit 0"));
        let error = check(&path, wanted).unwrap_err();
        assert_eq!(error, InvalidProgram::Digest { wanted, found }.into());
        let missing = check(&dir.path().join("none"), wanted).unwrap_err();
        assert!(matches!(missing, PrepareError::Host(HostFault::File { .. })), "{missing:?}");
    }
}
