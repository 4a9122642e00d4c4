//! The networks of tasks: connections to a task's ports, at the loopback of another process's network namespace, and processes
//! that are started in such a network.
//!
//! A socket stays in the network it was made in, whoever holds it. So a thread that lives for one connection enters the
//! network of the process, connects to `127.0.0.1` and then `::1`, hands the socket out and ends. In the same way a process has
//! the network of the thread that started it. It is never a thread of a pool, whose next piece of work would find itself in
//! the task's network.
//!
//! A process is named by its number and the moment it started, because numbers are used again. A process in this node's own
//! network is refused: its loopback is the host's, with the node's own API on it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// How long connecting may take, both addresses together. On a loopback only a listener with a full queue takes any time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that connect at once; callers beyond it wait, at most [`CONNECT_TIMEOUT`] for each round of them.
const THREADS_MAX: usize = 32;
/// Stack of such a thread in bytes: a few system calls, or the start of a program.
const STACK_BYTES: usize = 256 << 10;
/// Place of the start time among the fields of `/proc/PID/stat` after the name, which ends with the last `)`: it is field
/// 22, and the first one after the name is 3.
const START_FIELD: usize = 22 - 3;

static THREADS: Semaphore = Semaphore::const_new(THREADS_MAX);

/// Why there is no connection to a port of a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The process has ended; its number may belong to another one.
    #[error("process {pid} is gone")]
    Gone {
        /// Which.
        pid: u32,
    },
    /// The system does not let this node in.
    #[error(
        "entering the network of process {pid} needs root: start the node as root, or give it CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    )]
    NotAllowed {
        /// Which.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The process has no network of its own.
    #[error("process {pid} shares this node's network: give it one of its own to reach its ports")]
    OwnNetwork {
        /// Which.
        pid: u32,
    },
    /// Nobody listens on the port.
    #[error("nothing listens on port {port} of the loopback of process {pid}")]
    Refused {
        /// Which process.
        pid: u32,
        /// Which port.
        port: u16,
    },
    /// A listener takes no more connections, or packets are dropped.
    #[error("port {port} of process {pid} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Which process.
        pid: u32,
        /// Which port.
        port: u16,
    },
    /// The network of the process does not work; its loopback may be down.
    #[error("cannot connect to port {port} of the loopback of process {pid}")]
    Connect {
        /// Which process.
        pid: u32,
        /// Which port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// What the system tells about the process cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread or takes no socket.
    #[error("this machine is out of threads or sockets")]
    Exhausted(#[source] io::Error),
    /// A program does not start.
    #[error("cannot start a program in the network that process {pid} has made")]
    Spawn {
        /// Whose network.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

impl NetnsError {
    /// Whether the same may work later, as when a service is still starting.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Timeout { .. } | Self::Exhausted(_))
    }
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    /// When it started, in ticks of the kernel since the machine did.
    started_ticks: u64,
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none, or it cannot be looked at.
    pub fn find(pid: u32) -> Result<Self, NetnsError> {
        Ok(Self { pid, started_ticks: started_ticks(pid)? })
    }

    /// Its number.
    pub(super) const fn pid(self) -> u32 {
        self.pid
    }

    /// Connects to a TCP port of the loopback in the network of this process. Dropping the future leaves nothing behind
    /// but a thread that ends within 5 s.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub async fn connect(self, port: u16) -> Result<TcpStream, NetnsError> {
        let socket = on_own_thread(move |permit| self.connect_here(port, permit)).await?;
        TcpStream::from_std(socket).map_err(NetnsError::Exhausted)
    }

    /// Connects on the calling thread, which stays in the network of the process.
    fn connect_here(
        self,
        port: u16,
        _permit: SemaphorePermit<'_>,
    ) -> Result<std::net::TcpStream, NetnsError> {
        let pid = self.pid;
        self.network()?.enter()?;
        let socket = dial(port).map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused => NetnsError::Refused { pid, port },
            io::ErrorKind::TimedOut => NetnsError::Timeout { pid, port },
            _ => NetnsError::Connect { pid, port, source },
        })?;
        // A tunnel sends what it has when it has it.
        socket.set_nodelay(true).map_err(NetnsError::Exhausted)?;
        socket.set_nonblocking(true).map_err(NetnsError::Exhausted)?;
        Ok(socket)
    }

    /// The network of the process, which is another one than this node's.
    pub(super) fn network(self) -> Result<Network, NetnsError> {
        let pid = self.pid;
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let network = File::open(&path).map_err(|e| unreadable(pid, path.clone(), e))?;
        // The number was this process's before the file was opened and is still: so it was in between.
        if started_ticks(pid)? != self.started_ticks {
            return Err(NetnsError::Gone { pid });
        }
        let own = PathBuf::from("/proc/thread-self/ns/net");
        let meta = network.metadata().map_err(|source| NetnsError::Read { path, source })?;
        let own = fs::metadata(&own).map_err(|source| NetnsError::Read { path: own, source })?;
        if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
            return Err(NetnsError::OwnNetwork { pid });
        }
        Ok(Network { pid, file: network })
    }
}

/// A network that is not this node's own. It lasts as long as this, whatever becomes of the process that it was found by.
#[derive(Debug)]
pub(super) struct Network {
    /// Whose it was when it was found.
    pid: u32,
    file: File,
}

impl Network {
    /// Moves the calling thread into it for good.
    fn enter(&self) -> Result<(), NetnsError> {
        let pid = self.pid;
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| NetnsError::NotAllowed { pid, source: error.into() })
    }

    /// The same network once more.
    fn again(&self) -> Result<Self, NetnsError> {
        let file = self.file.try_clone().map_err(NetnsError::Exhausted)?;
        Ok(Self { pid: self.pid, file })
    }

    /// Starts a process, which has this network from its first instruction.
    pub(super) async fn spawn(&self, mut command: Command) -> Result<Child, NetnsError> {
        let (network, node) = (self.again()?, tokio::runtime::Handle::current());
        let pid = self.pid;
        on_own_thread(move |_permit| {
            network.enter()?;
            let _inside = node.enter();
            command.spawn().map_err(|source| NetnsError::Spawn { pid, source })
        })
        .await
    }

    /// What a file of the kernel says that has other words in each network, such as `net/dev`, whose path is below the
    /// calling thread's own directory in `/proc`.
    pub(super) async fn read(&self, name: &'static str) -> Result<String, NetnsError> {
        let network = self.again()?;
        on_own_thread(move |_permit| {
            network.enter()?;
            let path = PathBuf::from("/proc/thread-self").join(name);
            fs::read_to_string(&path).map_err(|source| NetnsError::Read { path, source })
        })
        .await
    }
}

/// Does something on a thread that ends with it, and may have entered another network.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce(SemaphorePermit<'static>) -> Result<T, NetnsError> + Send + 'static,
) -> Result<T, NetnsError> {
    let permit = THREADS.acquire().await.expect("the semaphore is never closed");
    let (reply, answer) = oneshot::channel();
    let work = move || {
        // Whoever asked may have stopped waiting.
        let _nobody_waits = reply.send(work(permit));
    };
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(NetnsError::Exhausted)?;
    let ended = |_| NetnsError::Exhausted(io::Error::other("the thread ended early"));
    answer.await.map_err(ended)?
}

/// Connects to a port in the network of the process that has this number now; see [`Process::connect`]. Where the number
/// was learned earlier, keep a [`Process`] instead.
///
/// # Errors
/// See [`NetnsError`].
pub async fn connect(pid: u32, port: u16) -> Result<TcpStream, NetnsError> {
    Process::find(pid)?.connect(port).await
}

/// When a process started, in ticks of the kernel since the machine did.
fn started_ticks(pid: u32) -> Result<u64, NetnsError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = fs::read(&path).map_err(|e| unreadable(pid, path.clone(), e))?;
    start_field(&stat)
        .ok_or_else(|| NetnsError::Read { path, source: io::ErrorKind::InvalidData.into() })
}

/// The start time in a process's `stat`. Its name may hold anything, brackets and spaces too.
fn start_field(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(START_FIELD)?.parse().ok()
}

fn unreadable(pid: u32, path: PathBuf, source: io::Error) -> NetnsError {
    /// "No such process": what reading gives when the process ends between opening and reading.
    const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
    match (source.kind(), source.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(ESRCH)) => NetnsError::Gone { pid },
        (io::ErrorKind::PermissionDenied, _) => NetnsError::NotAllowed { pid, source },
        _ => NetnsError::Read { path, source },
    }
}

/// Connects to a port of the loopback, IPv4 first: what listens there is found at once, and what does not is refused.
fn dial(port: u16) -> io::Result<std::net::TcpStream> {
    let end = Instant::now() + CONNECT_TIMEOUT;
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let error = match std::net::TcpStream::connect_timeout(&v4, CONNECT_TIMEOUT / 2) {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    // Many networks have no IPv6: what IPv4 said is then the better answer.
    std::net::TcpStream::connect_timeout(&v6, left).map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    /// Far above what anything here takes.
    const DEADLINE: Duration = Duration::from_secs(30);

    /// Listens on the address in its first argument, says the port, and repeats what it hears after its word.
    const LISTENER: &str = r"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 0), family=family)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b'inside ' + connection.recv(100))
    connection.close()
";

    /// A process in a network of its own; ends when dropped.
    struct Inside {
        child: Child,
        port: u16,
    }

    impl Inside {
        /// With a listener on this address. `None`, with the reason, where nobody may make networks.
        fn listening_on(address: &str) -> Option<Self> {
            Self::run("ip link set lo up && exec python3 -c \"$0\" \"$1\"", &[LISTENER, address])
        }

        /// Runs a script that says a port first.
        fn run(script: &str, arguments: &[&str]) -> Option<Self> {
            if fs::metadata("/proc/self").unwrap().uid() != 0 {
                eprintln!("skipped: only root can make and enter networks");
                return None;
            }
            let mut child = Command::new("unshare")
                .args(["--net", "sh", "-c", script])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            Some(Self { child, port: line.trim().parse().expect("it says its port") })
        }

        async fn connect(&self) -> Result<TcpStream, NetnsError> {
            timeout(DEADLINE, connect(self.child.id(), self.port)).await.unwrap()
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    async fn ask(mut socket: TcpStream) -> String {
        socket.write_all(b"and back").await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_connection_goes_into_another_network_and_the_thread_does_not_stay() {
        let Some(inside) = Inside::listening_on("127.0.0.1") else { return };
        let network = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = network();
        for _ in 0..3 {
            assert_eq!(ask(inside.connect().await.unwrap()).await, "inside and back");
        }
        // Nobody outside can do the same.
        let outside = TcpStream::connect(("127.0.0.1", inside.port)).await;
        if let Ok(stranger) = outside {
            assert_ne!(ask(stranger).await, "inside and back");
        }
        assert_eq!(network(), before);
        let strangers = async {
            loop {
                let mut threads = fs::read_dir("/proc/self/task").unwrap().flatten();
                let is_away = |thread: PathBuf| {
                    fs::read_link(thread.join("ns/net")).is_ok_and(|there| there != before)
                };
                if !threads.any(|thread| is_away(thread.path())) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, strangers).await.expect("no thread stays in the other network");
    }

    #[tokio::test]
    async fn a_listener_on_ipv6_alone_is_found() {
        let Some(inside) = Inside::listening_on("::1") else { return };
        assert_eq!(ask(inside.connect().await.unwrap()).await, "inside and back");
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_refused() {
        let Some(inside) = Inside::run("ip link set lo up && echo 9 && exec cat", &[]) else {
            return;
        };
        let error = inside.connect().await.unwrap_err();
        assert!(matches!(error, NetnsError::Refused { port: 9, .. }), "{error}");
        assert!(error.is_retryable());
    }

    #[tokio::test]
    async fn a_network_whose_loopback_is_down_says_so() {
        let Some(inside) = Inside::run("echo 9 && exec cat", &[]) else { return };
        let error = inside.connect().await.unwrap_err();
        assert!(matches!(error, NetnsError::Connect { .. }), "{error}");
    }

    #[tokio::test]
    async fn this_nodes_own_network_is_not_entered() {
        let error = connect(std::process::id(), 1).await.unwrap_err();
        assert!(matches!(error, NetnsError::OwnNetwork { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_ended_or_was_replaced_is_gone() {
        let Some(inside) = Inside::listening_on("127.0.0.1") else { return };
        let process = Process::find(inside.child.id()).unwrap();
        // As if the number had been given to a younger process.
        let older = Process { started_ticks: process.started_ticks - 1, ..process };
        let error = older.connect(inside.port).await.unwrap_err();
        assert!(matches!(error, NetnsError::Gone { .. }), "{error}");
        let port = inside.port;
        assert!(process.connect(port).await.is_ok());
        drop(inside);
        let error = process.connect(port).await.unwrap_err();
        assert!(matches!(error, NetnsError::Gone { .. }), "{error}");
        let error = connect(0, port).await.unwrap_err();
        assert!(matches!(error, NetnsError::Gone { .. }), "{error}");
    }

    #[tokio::test]
    async fn who_may_not_enter_hears_what_to_do() {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            // The first process is never ours.
            let error = connect(1, 9).await.unwrap_err();
            assert!(matches!(error, NetnsError::NotAllowed { pid: 1, .. }), "{error}");
        }
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let error = unreadable(7, PathBuf::from("/proc/7/ns/net"), denied());
        assert!(matches!(error, NetnsError::NotAllowed { pid: 7, .. }));
        assert!(error.to_string().contains("start the node as root"), "{error}");
    }

    #[test]
    fn the_start_is_read_past_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["cat", "a b", ") S 9 (", ""] {
            assert_eq!(start_field(format!("7 ({name}) {rest}").as_bytes()), Some(4711), "{name}");
        }
        for bad in [
            "",
            "7 (cat",
            "7 (cat) S 1 2",
            "7 (cat) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x",
        ] {
            assert_eq!(start_field(bad.as_bytes()), None, "{bad}");
        }
        assert!(Process::find(std::process::id()).unwrap().started_ticks > 0);
    }
}
