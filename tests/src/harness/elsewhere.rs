//! Another machine, as far as the network goes: a network of its own, joined to this one by a line.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::is_root;

/// Listens on [`Elsewhere::PORT`] everywhere, says so, and sends as many bytes as its argument says to whoever comes.
const LISTENER: &str = r"
import socket, sys
listener = socket.create_server(('0.0.0.0', 80), backlog=64)
print('ready', flush=True)
while True:
    connection, _ = listener.accept()
    try:
        connection.sendall(b'e' * int(sys.argv[1]))
    except OSError:
        pass
    connection.close()
";

/// Lines of this process so far: tests of one process run beside each other.
static LINES: AtomicU32 = AtomicU32::new(0);

/// Somebody elsewhere who sends some bytes to whoever connects. Gone when dropped, and with it the line.
#[derive(Debug)]
pub struct Elsewhere {
    child: Child,
    /// Its own address.
    pub address: Ipv4Addr,
    /// The address of this host at the line.
    pub here: Ipv4Addr,
}

impl Elsewhere {
    /// Where it listens.
    pub const PORT: u16 = 80;

    /// Somebody who sends so many bytes.
    ///
    /// # Errors
    /// Why nobody can be elsewhere on this machine.
    ///
    /// # Panics
    /// When the line cannot be made although it could.
    pub fn sending(n_bytes: usize) -> Result<Self, String> {
        if !is_root() {
            return Err("only root can make networks".to_owned());
        }
        let mut child = Command::new("unshare")
            .args(["--net", "python3", "-c", LISTENER, &n_bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("no unshare ({error})"))?;
        let mut line = String::new();
        let out = child.stdout.take().expect("it was asked for");
        BufReader::new(out).read_line(&mut line).expect("it speaks");
        // Apart from those of other processes, which this one does not know.
        let n = std::process::id() % 1_000 * 16 + LINES.fetch_add(1, Ordering::Relaxed) % 16;
        let at = |host: u32| Ipv4Addr::from(0x0ad4_0000 | ((n % 0x4000) << 2) | host);
        let elsewhere = Self { child, here: at(1), address: at(2) };
        assert_eq!(line, "ready\n", "python3 listens elsewhere");
        elsewhere.join(&format!("oc{n}"));
        Ok(elsewhere)
    }

    fn join(&self, name: &str) {
        let (pid, other) = (self.child.id(), format!("{name}p"));
        let ip = |inside: bool, words: &str| {
            let mut command = Command::new("nsenter");
            let pid = if inside { pid.to_string() } else { "self".to_owned() };
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip").args(words.split(' '));
            let output = command.output().expect("nsenter is where unshare is");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {words}: {said}");
        };
        ip(false, &format!("link add {name} type veth peer name {other} netns {pid}"));
        ip(false, &format!("address add {}/30 dev {name}", self.here));
        ip(false, &format!("link set {name} up"));
        ip(true, &format!("address add {}/30 dev {other}", self.address));
        ip(true, &format!("link set {other} up"));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
