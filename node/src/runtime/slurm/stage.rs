//! A task's directory on the file system that the cluster shares: what its job is given, and what it writes there.
//!
//! ```text
//!  DIR/OWNER/NAME/program stdin                   the job's: copies, because the node's own files are closed to it
//!                 stdout stderr log               the job's: made empty by the node, read while they grow
//!                 started ended fault             the job's: made empty by the node, filled by its script
//!                 release                         the node's: the job may go
//! ```
//!
//! The directory itself is the node's, so a job can write into its files but not put others in their place. Whatever they
//! say is the job's word.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::answer;
use super::meter::Claim;
use super::program;
use super::script::Files;
use super::{SlurmTask, User};
use crate::runtime::{HostFault, LogSink, PrepareError, Stream, bounded, disk};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes taken of one stream before the other one, and all else, has its turn.
const TURN_BYTES: u64 = 4 << 20;
/// Bytes read of the small files that a script fills.
const NOTE_LEN_MAX: u64 = 4_096;

/// What a script says of its program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) code: i32,
    pub(super) claim: Claim,
}

/// The directory of one task while its job lives.
#[derive(Debug)]
pub(super) struct Stage {
    files: Files,
    private: [PathBuf; 2],
    user: User,
    stdout: Tail,
    stderr: Tail,
    /// Bytes in the task's directories at its start.
    before: u64,
}

impl Stage {
    /// Makes the directory of a task below `root`, and hands the task's own directories to the user of jobs.
    pub(super) fn make(root: &Path, task: &SlurmTask, user: User) -> Result<Self, PrepareError> {
        let files = Files::new(root.join(&task.base.name));
        let dir = files.dir();
        // Others may pass through but see nothing.
        let made = DirBuilder::new().mode(0o711).create(dir);
        made.map_err(|error| HostFault::file("create", dir, &error))?;
        let private = [task.base.work.clone(), task.base.tmp.clone()];
        let staged = Self::fill(&files, task, user).and_then(|tails| {
            if user.is_other {
                private.iter().try_for_each(|dir| disk::give(dir, (user.uid, user.gid)))?;
            }
            Ok(tails)
        });
        if staged.is_err() {
            remove(dir);
        }
        let [stdout, stderr] = staged?;
        let before = disk::measure(&private).unwrap_or(u64::MAX);
        Ok(Self { files, private, user, stdout, stderr, before })
    }

    fn fill(files: &Files, task: &SlurmTask, user: User) -> Result<[Tail; 2], PrepareError> {
        let program = files.program();
        copy(&task.program, &program, 0o500)?;
        // The copy is what runs, so the copy is checked, before it is anybody else's.
        program::check(&program, task.digest)?;
        hand_over(&program, user)?;
        if let Some(stdin) = &task.base.stdin {
            copy(stdin, &files.stdin(), 0o400)?;
            hand_over(&files.stdin(), user)?;
        }
        for path in [files.log(), files.started(), files.ended(), files.fault()] {
            create(&path, user)?;
        }
        Ok([
            Tail::create(files.stdout(), Stream::Stdout, user)?,
            Tail::create(files.stderr(), Stream::Stderr, user)?,
        ])
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Hands on new output. Gives how many bytes there were, and whether there may be more.
    pub(super) fn tail(&mut self, sink: &dyn LogSink) -> (u64, bool) {
        let taken = [self.stdout.turn(sink), self.stderr.turn(sink)];
        (taken[0] + taken[1], taken.contains(&TURN_BYTES))
    }

    /// Opens the output again, so that a network file system shows all that was written when the job closed it.
    pub(super) fn reopen(&mut self) {
        self.stdout.reopen();
        self.stderr.reopen();
    }

    /// Whether the program has been started.
    pub(super) fn is_started(&self) -> bool {
        note(&self.files.started()).is_some_and(|text| !text.is_empty())
    }

    /// Whether the script says that it could not start the program.
    pub(super) fn is_refused(&self) -> bool {
        note(&self.files.fault()).is_some_and(|text| !text.is_empty())
    }

    /// What the script says of its program's end, once it has said all of it.
    pub(super) fn told(&self) -> Option<Told> {
        let text = note(&self.files.ended())?;
        let (code, times) = text.split_once('\n')?;
        let is_whole = times.ends_with('\n') && times.lines().count() >= 2;
        let code = code.parse().ok().filter(|code| (0..=255).contains(code))?;
        let changed =
            |path: PathBuf| fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
        let (begun, ended) = (changed(self.files.started()), changed(self.files.ended()));
        let elapsed = begun.zip(ended).and_then(|(begun, ended)| ended.duration_since(begun).ok());
        is_whole
            .then(|| Told { code, claim: Claim { cpu_us: answer::children_us(times), elapsed } })
    }

    /// Why the program could not be started: in the script's words, else in Slurm's.
    pub(super) fn fault(&self) -> String {
        let said = [note(&self.files.fault()), note(&self.files.log())];
        let said = said.into_iter().flatten().find(|text| !text.trim().is_empty());
        let unsaid = || {
            format!(
                "the job said nothing; do the cluster's machines have `{}`?",
                self.files.dir().display()
            )
        };
        bounded(said.map_or_else(unsaid, |text| text.trim().to_owned()))
    }

    /// Whether Slurm says that it killed the job for its memory.
    pub(super) fn is_over_memory(&self) -> bool {
        note(&self.files.log()).is_some_and(|log| answer::is_over_memory(&log))
    }

    /// Bytes by which the task's directories have grown, output included.
    pub(super) fn storage(&self) -> u64 {
        let bytes = disk::measure(&self.private).unwrap_or(u64::MAX);
        let outputs = [self.files.stdout(), self.files.stderr(), self.files.log()];
        let len = |path: PathBuf| fs::symlink_metadata(path).map_or(0, |meta| meta.len());
        let output = outputs.map(len).into_iter().fold(0, u64::saturating_add);
        bytes.saturating_sub(self.before).saturating_add(output)
    }

    /// Lets the job go.
    pub(super) fn release(&self) {
        let path = self.files.release();
        if let Err(error) = File::create(&path) {
            tracing::warn!(path = %path.display(), %error, "a job cannot be told to end; it ends by itself later");
        }
    }

    /// Makes the task's own directories the node's again, and removes the directory.
    pub(super) fn end(self) -> Result<(), HostFault> {
        let taken = if self.user.is_other {
            self.private.iter().try_for_each(|dir| disk::take(dir))
        } else {
            Ok(())
        };
        remove(self.files.dir());
        taken
    }
}

/// A growing file of output.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: File,
    stream: Stream,
    offset: u64,
}

impl Tail {
    fn create(path: PathBuf, stream: Stream, user: User) -> Result<Self, HostFault> {
        let file = create(&path, user)?;
        Ok(Self { path, file, stream, offset: 0 })
    }

    fn reopen(&mut self) {
        // Without it there is still the first one.
        if let Ok(file) = open(&self.path) {
            self.file = file;
        }
    }

    /// Hands on up to [`TURN_BYTES`] of what is new.
    fn turn(&mut self, sink: &dyn LogSink) -> u64 {
        let mut taken = 0;
        let mut buffer = vec![0; CHUNK_BYTES];
        if self.file.seek(SeekFrom::Start(self.offset)).is_err() {
            return 0;
        }
        while taken < TURN_BYTES {
            match self.file.read(&mut buffer) {
                Ok(len @ 1..) => {
                    sink.write(self.stream, &buffer[..len]);
                    taken += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What cannot be read now is tried again in the next turn.
                Ok(0) | Err(_) => break,
            }
        }
        self.offset += taken;
        taken
    }
}

/// Makes an empty file that jobs may write.
fn create(path: &Path, user: User) -> Result<File, HostFault> {
    let fault = |error: io::Error| HostFault::file("create", path, &error);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(fault)?;
    if user.is_other {
        fchown(&file, Some(user.uid), Some(user.gid)).map_err(fault)?;
    }
    Ok(file)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), HostFault> {
    fs::copy(from, to).map_err(|error| HostFault::file("copy", from, &error))?;
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(to, mode).map_err(|error| HostFault::file("set the mode of", to, &error))
}

fn hand_over(path: &Path, user: User) -> Result<(), HostFault> {
    if !user.is_other {
        return Ok(());
    }
    let given = std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid));
    given.map_err(|error| HostFault::file("hand over", path, &error))
}

/// Opens a file that a job may have written. A link in its place is not followed, and a pipe is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

/// The text of a small file.
fn note(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    open(path).ok()?.take(NOTE_LEN_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Removes a task's directory.
pub(super) fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a task's directory stays; the node's next start removes it");
    }
}
