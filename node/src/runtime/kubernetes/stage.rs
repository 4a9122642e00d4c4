//! A pod's files on the host: the archive that it is given, and the one that comes back.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::exec::Taker;
use super::script::{self, Program};
use super::{ContainerTask, OpenImage};
use crate::runtime::vm::archive::{Writer, is_free_place};
use crate::runtime::{HostFault, InvalidImage, PrepareError, Stream, disk};

/// Directories of a container's root in which the kernel, the cluster and the node have files: whoever could replace them would
/// be metered by what it says itself.
pub(super) const TAKEN: [&str; 7] =
    ["work", "tmp", "proc", "sys", "dev", "opencloud", "opencloud-io"];

/// Bytes that an archive may have beyond its files: headers, long names and padding of as many entries as are taken.
const ARCHIVE_SLACK_BYTES: u64 = 512 << 20;

/// What a pod is given.
#[derive(Debug)]
pub(super) struct Stage {
    /// The archive, to be read from its beginning.
    pub(super) archive: File,
    pub(super) archive_bytes: u64,
    /// Bytes of the task's own files.
    pub(super) own_bytes: u64,
    /// Bytes that the task may only read.
    pub(super) given_bytes: u64,
}

impl Stage {
    /// Writes the archive. It reads all files of the task.
    pub(super) fn make(task: &ContainerTask, image: &OpenImage) -> Result<Self, PrepareError> {
        if let Some(mount) =
            task.base.mounts.iter().find(|mount| !is_free_place(&mount.guest, &TAKEN))
        {
            let place = mount.guest.escape_debug();
            let detail = format!(
                "`{place}` is no place for a directory of the step's; use one such as `/share`"
            );
            return Err(InvalidImage::Refused { detail }.into());
        }
        let entrypoint = task.entrypoint.as_ref().unwrap_or(&image.entrypoint);
        // As engines do: who replaces the entry point does not want its arguments.
        let is_own = task.base.args.is_empty() && task.entrypoint.is_none();
        let args = if is_own { &image.command } else { &task.base.args };
        let command: Vec<String> = entrypoint.iter().chain(args).cloned().collect();
        let start = script::start(&Program {
            command: &command,
            env: &task.base.env,
            has_stdin: task.base.stdin.is_some(),
            disk_bytes: task.base.disk_bytes,
        })?;
        let place = place(&task.base.work);
        let archive = temporary(&place)?;
        let mut writer = Writer::new(&archive, &place);
        writer.bytes("given/start", start.as_bytes())?;
        for (n, mount) in task.base.mounts.iter().enumerate() {
            writer.tree(&mount.host, Path::new(&format!("given/mounts/{n}")), 0o755)?;
        }
        writer.tree(&task.base.work, Path::new("own/work"), 0o755)?;
        writer.tree(&task.base.tmp, Path::new("own/tmp"), 0o755)?;
        if let Some(stdin) = &task.base.stdin {
            writer.file(stdin, "own/io/stdin")?;
        }
        writer.end()?;
        let archive_bytes = rewind(&archive, &place)?;
        let own =
            disk::measure(&[task.base.work.clone(), task.base.tmp.clone()]).unwrap_or(u64::MAX);
        let stdin = task.base.stdin.as_ref().and_then(|path| path.metadata().ok());
        let mounts: Vec<PathBuf> =
            task.base.mounts.iter().map(|mount| mount.host.clone()).collect();
        Ok(Self {
            archive,
            archive_bytes,
            own_bytes: own.saturating_add(stdin.map_or(0, |meta| meta.len())),
            given_bytes: disk::measure(&mounts).unwrap_or(u64::MAX),
        })
    }
}

/// Where archives lie while they are made: beside the task's own files, where there is room for those.
fn place(work: &Path) -> PathBuf {
    work.parent().unwrap_or(work).to_owned()
}

/// A file without a name.
fn temporary(place: &Path) -> Result<File, HostFault> {
    tempfile::tempfile_in(place).map_err(|error| HostFault::file("make a file in", place, &error))
}

fn rewind(mut file: &File, place: &Path) -> Result<u64, HostFault> {
    let fault = |error: io::Error| HostFault::file("read a file in", place, &error);
    let len = file.metadata().map_err(fault)?.len();
    file.seek(SeekFrom::Start(0)).map_err(fault)?;
    Ok(len)
}

/// Takes an archive out of a pod.
#[derive(Debug)]
pub(super) struct Returned {
    file: File,
    place: PathBuf,
    bytes_left: u64,
    is_too_much: bool,
}

impl Returned {
    /// Room for an archive of files of `bytes_max` bytes.
    pub(super) fn new(work: &Path, bytes_max: u64) -> Result<Self, HostFault> {
        let place = place(work);
        let bytes_left = bytes_max.saturating_add(ARCHIVE_SLACK_BYTES);
        Ok(Self { file: temporary(&place)?, place, bytes_left, is_too_much: false })
    }

    /// Whether more came than may.
    pub(super) const fn is_too_much(&self) -> bool {
        self.is_too_much
    }

    /// The archive, to be read from its beginning, if it is whole, which this mark after it tells.
    pub(super) fn whole(self, mark: &str) -> Result<Option<File>, HostFault> {
        let len = rewind(&self.file, &self.place)?;
        let fault = |error: io::Error| HostFault::file("read a file in", &self.place, &error);
        let Some(archive_len) = len.checked_sub(mark.len() as u64) else { return Ok(None) };
        let mut end = vec![0; mark.len()];
        (&self.file).seek(SeekFrom::Start(archive_len)).map_err(fault)?;
        (&self.file).read_exact(&mut end).map_err(fault)?;
        if end != mark.as_bytes() {
            return Ok(None);
        }
        self.file.set_len(archive_len).map_err(fault)?;
        rewind(&self.file, &self.place)?;
        Ok(Some(self.file))
    }
}

impl Taker for Returned {
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream == Stream::Stderr {
            return Ok(());
        }
        let Some(left) = self.bytes_left.checked_sub(bytes.len() as u64) else {
            self.is_too_much = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.bytes_left = left;
        self.file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::runtime::{LogSink, Mount, TaskBase};

    struct Nowhere;

    impl LogSink for Nowhere {
        fn write(&self, _: Stream, _: &[u8]) {}
    }

    fn image() -> OpenImage {
        OpenImage {
            digest: String::new(),
            media_type: String::new(),
            manifest: Vec::new(),
            blobs: Vec::new(),
            entrypoint: vec!["/entry".to_owned()],
            command: vec!["default".to_owned()],
            volumes: Vec::new(),
        }
    }

    fn task(dir: &Path) -> ContainerTask {
        for name in ["work", "tmp", "share"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("work/input"), "i").unwrap();
        std::fs::write(dir.join("share/s"), "s").unwrap();
        std::fs::write(dir.join("stdin"), "said").unwrap();
        ContainerTask {
            base: TaskBase {
                name: "t".to_owned(),
                args: Vec::new(),
                env: BTreeMap::new(),
                stdin: Some(dir.join("stdin")),
                work: dir.join("work"),
                tmp: dir.join("tmp"),
                mounts: vec![Mount { host: dir.join("share"), guest: "/share".to_owned() }],
                cpu_milli: 1,
                memory_bytes: 1,
                disk_bytes: 1,
                network: false,
                timeout: Duration::from_secs(1),
                logs: Arc::new(Nowhere),
            },
            image: PathBuf::new(),
            digest: catalog::Digest::of(b""),
            entrypoint: None,
            devices: Vec::new(),
            has_ports: false,
        }
    }

    #[test]
    fn a_pod_is_given_all_that_its_task_has() {
        let dir = tempfile::tempdir().unwrap();
        let made = Stage::make(&task(dir.path()), &image()).unwrap();
        let mut archive = tar::Archive::new(made.archive);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            let name = entry.path().unwrap().display().to_string();
            entry.read_to_string(&mut text).unwrap();
            found.insert(name, text);
        }
        assert_eq!(found[concat!("own/work", "/input")], "i");
        assert_eq!(found["own/io/stdin"], "said");
        assert_eq!(found["given/mounts/0/s"], "s");
        assert!(found["given/start"].contains("'/entry' 'default'"));
        assert!(found.contains_key("own/tmp") || found.contains_key("own/tmp/"), "{found:?}");
    }

    #[test]
    fn words_come_from_the_step_before_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(dir.path());
        let start = |task: &ContainerTask| {
            let archive = Stage::make(task, &image()).unwrap().archive;
            let mut archive = tar::Archive::new(archive);
            let mut text = String::new();
            let mut entries = archive.entries().unwrap();
            entries.next().unwrap().unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let said = {
            let mut said = task.clone();
            said.base.args = vec!["own".to_owned()];
            said
        };
        assert!(start(&said).contains("'/entry' 'own' <"));
        let replaced = ContainerTask { entrypoint: Some(vec!["sh".to_owned()]), ..task };
        assert!(start(&replaced).contains("-- 'sh' <"));
    }

    #[test]
    fn only_a_whole_archive_that_is_not_too_much_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let taken = |bytes: &[u8]| {
            let mut returned = Returned::new(&work, 10).unwrap();
            returned.take(Stream::Stderr, b"complaint").unwrap();
            returned.take(Stream::Stdout, bytes).unwrap();
            let mut text = String::new();
            returned.whole("mark").unwrap()?.read_to_string(&mut text).unwrap();
            Some(text)
        };
        assert_eq!(taken(b"archive, mark"), Some("archive, ".to_owned()));
        for early in [&b"archive, mar"[..], b"archive", b"ark", b""] {
            assert_eq!(taken(early), None);
        }
        let mut returned = Returned::new(&work, 0).unwrap();
        returned.bytes_left = 4;
        returned.take(Stream::Stdout, b"1234").unwrap();
        assert!(!returned.is_too_much());
        assert!(returned.take(Stream::Stdout, b"5").is_err());
        assert!(returned.is_too_much());
    }
}
