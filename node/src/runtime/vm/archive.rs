//! Writes what a machine is given: the archive with its task, and the scripts around it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::image::InvalidMachine;
use super::network::{self, Nic};
use super::{OWN_COMMAND, VmTask};
use crate::runtime::HostFault;

/// Most files, directories and links that a machine is given; a task with more is refused.
const ENTRIES_MAX: usize = 200_000;
/// Longest argument or variable in bytes, as Linux has it (`MAX_ARG_STRLEN`); a task with a longer one is refused.
const WORD_LEN_MAX: usize = 128 << 10;
/// Most bytes of all arguments and variables, a quarter of the stack that Linux gives; a task with more is refused.
const WORDS_LEN_MAX: usize = 2 << 20;
/// Longest user data in bytes; a task with longer ones is refused. Clouds take less.
const USER_DATA_LEN_MAX: usize = 1 << 20;
/// Most keys; a task with more is refused.
const KEYS_MAX: usize = 256;
/// Longest addition to a kernel's command line, half of what kernels take; a task with a longer one is refused.
const APPEND_LEN_MAX: usize = 1_024;
/// Most ports; a task with more is refused.
const PORTS_MAX: usize = 64;
/// Where a program is looked for when the environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories of a machine's root that are its own.
const TAKEN: [&str; 7] = ["work", "tmp", "run", "proc", "sys", "dev", "opencloud"];

const COMMON: &str = include_str!("guest/common.sh");
const INIT: &str = include_str!("guest/init.sh");
const START: &str = include_str!("guest/start.sh");
const NETWORK: &str = include_str!("guest/network.sh");
const RUN: &str = include_str!("guest/run.sh");

/// Checks what of a task a machine could not be given.
pub(super) fn check(task: &VmTask) -> Result<(), InvalidMachine> {
    let refuse = |problem: String| Err(InvalidMachine::Task { problem });
    let mut words_len = 0;
    let variables = task.base.env.iter().map(|(name, value)| format!("{name}={value}"));
    for word in task.base.args.iter().cloned().chain(variables) {
        words_len += word.len() + 1;
        if word.contains('\0') {
            return refuse("an argument or variable holds a NUL character".to_owned());
        }
        if word.len() >= WORD_LEN_MAX {
            return refuse(format!("an argument or variable is longer than {WORD_LEN_MAX} bytes"));
        }
    }
    if words_len > WORDS_LEN_MAX {
        return refuse(format!("arguments and variables have more than {WORDS_LEN_MAX} bytes"));
    }
    if let Some(name) = task.base.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return refuse(format!("`{}` is no name of a variable", name.escape_debug()));
    }
    if task.base.args.first().is_some_and(|program| program.is_empty() || program.contains('=')) {
        return refuse("the program's name is empty or holds a `=`".to_owned());
    }
    if let Some(mount) = task.base.mounts.iter().find(|mount| !is_free_place(&mount.guest, &TAKEN))
    {
        let place = mount.guest.escape_debug();
        return refuse(format!(
            "`{place}` is no place for a read-only directory; use one such as `/share`"
        ));
    }
    if task.ports.len() > PORTS_MAX || task.ports.contains(&0) {
        return refuse(format!("it can have at most {PORTS_MAX} ports, none of them 0"));
    }
    match &task.machine {
        super::Machine::Kernel { append, .. } => {
            if append.len() > APPEND_LEN_MAX || append.contains(|c: char| c.is_control()) {
                return refuse(format!(
                    "the addition to the kernel's command line has control characters or more than {APPEND_LEN_MAX} bytes"
                ));
            }
        }
        super::Machine::Disk { user_data, ssh_keys, .. } => {
            if user_data.as_ref().is_some_and(|text| text.len() > USER_DATA_LEN_MAX) {
                return refuse(format!("the user data is longer than {USER_DATA_LEN_MAX} bytes"));
            }
            if ssh_keys.len() > KEYS_MAX || ssh_keys.iter().any(|key| key.len() > WORD_LEN_MAX) {
                return refuse(format!("there are more than {KEYS_MAX} keys, or too long ones"));
            }
        }
    }
    Ok(())
}

/// Whether a read-only directory may lie there: at a plain path below the root, not in one of these, where own files are.
pub(in crate::runtime) fn is_free_place(guest: &str, taken: &[&str]) -> bool {
    let Some(rest) = guest.strip_prefix('/') else { return false };
    let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
    let is_plain = parts
        .iter()
        .all(|part| !matches!(*part, "" | "." | "..") && !part.contains(|c: char| c.is_control()));
    is_plain && !taken.contains(&parts[0])
}

/// The first process of a kernel machine.
pub(super) fn init(files_bytes: u64, nic: Option<&Nic>) -> String {
    let script = fill(INIT, "", "").replace("@WORK_BYTES@", &files_bytes.to_string());
    script.replace("@NETWORK@", &nic.map(network_script).unwrap_or_default())
}

/// What gives the interface of a kernel machine its address. QEMU would tell it by DHCP, too, for which the machine would need
/// a client.
fn network_script(nic: &Nic) -> String {
    let network::Inner { net, gateway, address } = network::INNER;
    let len = net.split_once('/').map_or("24", |(_, len)| len);
    let outside = if nic.has_outside {
        format!(
            "ip route add default via {gateway} 2>/dev/null\n    mkdir -p /etc\n    \
             [ -e /etc/resolv.conf ] || echo nameserver {} >/etc/resolv.conf",
            network::RESOLVER
        )
    } else {
        String::new()
    };
    NETWORK
        .trim_end()
        .replace("@ADDRESS@", &format!("{address}/{len}"))
        .replace("@OUTSIDE@", &outside)
}

/// What cloud-init runs in a disk machine.
pub(super) fn start() -> String {
    fill(START, "", "")
}

fn fill(script: &str, token: &str, read_only: &str) -> String {
    let script = script.replace("@COMMON@", COMMON.trim_end()).replace("@TOKEN@", token);
    // Last, so that no name is taken for a place of something else.
    script.replace("@READONLY@", read_only)
}

/// The script that becomes the task.
fn task_script(task: &VmTask) -> String {
    let mut script = "exec env -i --".to_owned();
    let mut word = |word: &str| {
        script.push(' ');
        script.push_str(&quoted(word));
    };
    if !task.base.env.contains_key("PATH") {
        word(&format!("PATH={PATH}"));
    }
    for (name, value) in &task.base.env {
        word(&format!("{name}={value}"));
    }
    if task.base.args.is_empty() {
        word(OWN_COMMAND);
    }
    for arg in &task.base.args {
        word(arg);
    }
    script.push('\n');
    script
}

/// A word as every shell takes it, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes the archive, and gives its length, which is one of whole sectors as every archive.
pub(super) fn write(
    task: &VmTask,
    token: &str,
    file: &File,
    path: &Path,
) -> Result<u64, HostFault> {
    let mut writer = Writer::new(file, path);
    let read_only: Vec<String> =
        task.base.mounts.iter().map(|mount| format!("fix {}", quoted(&mount.guest))).collect();
    writer.bytes("run/opencloud/run", fill(RUN, token, &read_only.join("\n")).as_bytes())?;
    writer.bytes("run/opencloud/task", task_script(task).as_bytes())?;
    match &task.base.stdin {
        Some(stdin) => writer.file(stdin, "run/opencloud/stdin")?,
        None => writer.bytes("run/opencloud/stdin", b"")?,
    }
    writer.tree(&task.base.work, Path::new("work"), 0o755)?;
    writer.tree(&task.base.tmp, Path::new("tmp"), 0o1777)?;
    for mount in &task.base.mounts {
        writer.tree(&mount.host, Path::new(mount.guest.trim_matches('/')), 0o755)?;
    }
    writer.end()?;
    file.metadata().map(|meta| meta.len()).map_err(|error| HostFault::file("read", path, &error))
}

/// Writes an archive of a host's files, with the node's own owners.
pub(in crate::runtime) struct Writer<'a> {
    builder: Builder<BufWriter<&'a File>>,
    path: &'a Path,
    n_entries: usize,
}

impl<'a> Writer<'a> {
    /// An empty archive, which errors call by `path`.
    pub(in crate::runtime) fn new(file: &'a File, path: &'a Path) -> Self {
        let out = BufWriter::with_capacity(256 << 10, file);
        Self { builder: Builder::new(out), path, n_entries: 0 }
    }

    /// Writes what is left of it.
    pub(in crate::runtime) fn end(self) -> Result<(), HostFault> {
        let written = self.builder.into_inner().and_then(|mut out| out.flush());
        written.map_err(|error| HostFault::file("write", self.path, &error))
    }

    /// Adds a file that everybody may execute.
    pub(in crate::runtime) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), HostFault> {
        let mut header = header(EntryType::Regular, 0o755, bytes.len() as u64);
        self.builder
            .append_data(&mut header, name, bytes)
            .map_err(|error| HostFault::file("write", self.path, &error))
    }

    /// Adds a file of the host.
    pub(in crate::runtime) fn file(&mut self, host: &Path, name: &str) -> Result<(), HostFault> {
        self.append(host, Path::new(name), &follow(host)?)
    }

    /// Adds a directory and all that is in it.
    pub(in crate::runtime) fn tree(
        &mut self,
        host: &Path,
        guest: &Path,
        mode: u32,
    ) -> Result<(), HostFault> {
        let mut header = header(EntryType::Directory, mode, 0);
        self.builder
            .append_data(&mut header, guest, io::empty())
            .map_err(|error| HostFault::file("write", self.path, &error))?;
        let mut dirs = vec![(host.to_owned(), guest.to_owned())];
        while let Some((host, guest)) = dirs.pop() {
            for (path, name) in sorted(&host)? {
                self.n_entries += 1;
                if self.n_entries > ENTRIES_MAX {
                    let detail = format!("a task can be given at most {ENTRIES_MAX} files");
                    return Err(super::fault("give the machine its files", detail));
                }
                let meta = fs::symlink_metadata(&path)
                    .map_err(|error| HostFault::file("read", &path, &error))?;
                let guest = guest.join(name);
                self.append(&path, &guest, &meta)?;
                if meta.is_dir() {
                    dirs.push((path, guest));
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, host: &Path, guest: &Path, meta: &fs::Metadata) -> Result<(), HostFault> {
        use std::os::unix::fs::MetadataExt as _;
        let mode = meta.mode() & 0o777;
        let fail = |error: io::Error| HostFault::file("read", host, &error);
        let header = |kind, mode, size| {
            let mut header = header(kind, mode, size);
            header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
            header
        };
        let kind = meta.file_type();
        let added = if kind.is_dir() {
            // Whoever unpacks it may be nobody's user, who could not fill a directory that is closed to himself.
            let mut header = header(EntryType::Directory, mode | 0o700, 0);
            self.builder.append_data(&mut header, guest, io::empty())
        } else if kind.is_symlink() {
            let target = fs::read_link(host).map_err(fail)?;
            let mut header = header(EntryType::Symlink, 0o777, 0);
            self.builder.append_link(&mut header, guest, target)
        } else if kind.is_file() {
            let file = File::open(host).map_err(fail)?;
            let mut header = header(EntryType::Regular, mode, meta.len());
            // Exactly as long as the header says, should the file grow meanwhile.
            self.builder.append_data(&mut header, guest, io::Read::take(file, meta.len()))
        } else {
            // Sockets and pipes of the host mean nothing in a machine.
            Ok(())
        };
        added.map_err(fail)
    }
}

fn follow(path: &Path) -> Result<fs::Metadata, HostFault> {
    fs::metadata(path).map_err(|error| HostFault::file("read", path, &error))
}

/// What is in a directory, in the order of names, so that the same task makes the same archive.
fn sorted(dir: &Path) -> Result<Vec<(PathBuf, std::ffi::OsString)>, HostFault> {
    let fail = |error: io::Error| HostFault::file("read", dir, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        found.push((entry.path(), entry.file_name()));
    }
    found.sort();
    Ok(found)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_whatever_is_in_them() {
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!(
                "printf '%s|' {} {} {}",
                quoted("it's"),
                quoted(""),
                quoted("a\nb $(x) \"\\")
            ))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's||a\nb $(x) \"\\|");
    }

    #[test]
    fn read_only_directories_have_their_places() {
        for good in ["/share", "/data/in", "/usr/share/x/"] {
            assert!(is_free_place(good, &TAKEN), "{good}");
        }
        for bad in [
            "",
            "/",
            "share",
            "/..",
            "/a/../b",
            "/a//b",
            "/work",
            concat!("/work", "/x"),
            "/proc/1",
            "/a\nb",
            "/./a",
        ] {
            assert!(!is_free_place(bad, &TAKEN), "{bad}");
        }
    }

    #[test]
    fn scripts_have_no_place_left_open() {
        let script = fill(RUN, "token", "fix '/share'");
        let nic = Nic { forwards: Vec::new(), has_outside: true };
        for script in [init(1 << 20, None), init(1 << 20, Some(&nic)), start(), script] {
            let is_place = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(!script.split('@').skip(1).any(is_place), "{script}");
            let mut shell = std::process::Command::new("sh")
                .arg("-n")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
        }
    }
}
