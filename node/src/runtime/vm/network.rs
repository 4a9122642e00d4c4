//! The networks of machines: one for each that has ports or was granted the network, with nothing in it but its QEMU.
//!
//! ```text
//!  machine ─virtio─► QEMU's own stack ─┬─ 127.0.0.1 of the machine's network ◄─ the node, by a `Door`
//!  198.18.0.15        198.18.0.2       └─ tap0 ─► slirp4netns, in the node's network ─► elsewhere    only when granted
//! ```
//!
//! In the node's own network QEMU's user-mode stack would lead a guest to the host's loopback, to everything that listens
//! there. So QEMU gets a network of its own, as containers do, and can reach what is in it, whatever its guest makes it do:
//! nothing, or, when the network is granted, what [slirp4netns](https://github.com/rootless-containers/slirp4netns) brings in,
//! which is told to keep the host's loopback shut. Routes of the machine's network say what else is out of reach: the
//! addresses that this host has when the machine starts, its link (where clouds serve credentials), multicast and what is
//! reserved. QEMU has no right to change them. There is IPv4 only, and nothing comes in but through a [`Door`].
//!
//! A port of the machine is forwarded from a port of the loopback of its network. Nobody else is there, so the numbers are free.
//!
//! [`Door`]: crate::runtime::Door

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::host::{NET_MARKER, OpenError, VmOptions, marker, program_at};
use super::process::{Limit, Process, SHELL, Spec};
use super::{VmTask, fault};
use crate::runtime::cgroup::{self, Own};
use crate::runtime::netns::{self, Network};
use crate::runtime::{Door, HostFault};

/// What a machine sees of QEMU's stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    pub(super) net: &'static str,
    /// QEMU.
    pub(super) gateway: &'static str,
    /// The machine.
    pub(super) address: &'static str,
}

/// From a range for benchmarks that nobody routes, so that it hides no network of the owner's.
pub(super) const INNER: Inner =
    Inner { net: "198.18.0.0/24", gateway: "198.18.0.2", address: "198.18.0.15" };
/// Between QEMU's stack and slirp4netns; also for benchmarks.
const OUTER: &str = "198.18.1.0/24";
/// Where slirp4netns passes questions on to the host's own resolver: the third address of [`OUTER`]. Machines that ask by DHCP are
/// told of QEMU's own, `198.18.0.3`, which asks the resolver of the host's `resolv.conf` itself, and cannot when that is the host.
pub(super) const RESOLVER: &str = "198.18.1.3";
/// The interface that slirp4netns makes.
const TAP: &str = "tap0";
/// The first port at which ports of the machine are forwarded: one that needs no right.
const FORWARDS_BASE: u16 = 10_000;
/// Never reached: this link, multicast, and what is reserved, broadcast among it.
const SHUT: [&str; 3] = ["169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];
/// Most addresses of this host; with more no machine gets the network, since each is shut by a route.
const ADDRESSES_MAX: usize = 4_096;
/// How long a network may take to be made: some system calls, on a busy host.
const MAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two looks whether slirp4netns is ready. It takes about 50 ms.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Files that slirp4netns may have open: its own dozen, and one for each connection of the machine.
pub(super) const SOCKETS_MAX: u64 = 4_096;
/// Bytes of a program's answer that are read.
const ANSWER_LEN_MAX: u64 = 1 << 20;
/// What makes a network waits in it until the node has taken it over, or is gone.
const HOLD: &str = "echo; read -r go";

/// A port of a machine, and where it is forwarded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    /// At 127.0.0.1 of the machine's network.
    pub(super) at: u16,
    /// Of the machine.
    pub(super) port: u16,
}

/// What the network of a machine is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) forwards: Vec<Forward>,
    /// Whether it leads elsewhere.
    pub(super) has_outside: bool,
}

impl Nic {
    /// That of a task; `None` when it has none.
    pub(super) fn of(task: &VmTask) -> Option<Self> {
        let forwards = (FORWARDS_BASE..).zip(&task.ports).map(|(at, &port)| Forward { at, port });
        let nic = Self { forwards: forwards.collect(), has_outside: task.base.network };
        (nic.has_outside || !nic.forwards.is_empty()).then_some(nic)
    }

    /// The way to the machine's ports, by way of its QEMU; `None` when there are none.
    pub(super) fn door(&self, pid: u32) -> Option<Door> {
        let forwards: BTreeMap<_, _> = self.forwards.iter().map(|f| (f.port, f.at)).collect();
        let process = netns::Process::find(pid).ok()?;
        (!forwards.is_empty()).then(|| Door::of_machine(process, forwards))
    }
}

/// The programs that make networks.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    unshare: PathBuf,
    ip: PathBuf,
    /// There when machines may be granted the network.
    slirp: Option<PathBuf>,
}

/// Finds what the options need; `None` when they ask for no network at all.
pub(super) fn tools(options: &VmOptions, is_root: bool) -> Result<Option<Tools>, OpenError> {
    if !options.ports && !options.network {
        return Ok(None);
    }
    if !is_root {
        return Err(OpenError::NotRoot);
    }
    let find =
        |program, package| program_at(program).ok_or(OpenError::NoProgram { program, package });
    let slirp = options.network.then(|| find("slirp4netns", "slirp4netns")).transpose()?;
    Ok(Some(Tools { unshare: find("unshare", "util-linux")?, ip: find("ip", "iproute2")?, slirp }))
}

/// Makes a network as machines will have, and removes it.
pub(super) async fn probe(tools: &Tools, machines: &Path) -> Result<(), OpenError> {
    let dir = machines.join("probe-net");
    let at = |action| {
        let path = dir.clone();
        move |source| OpenError::Directory { action, path, source }
    };
    DirBuilder::new().recursive(true).create(&dir).map_err(at("make"))?;
    let nic = Nic { forwards: Vec::new(), has_outside: tools.slirp.is_some() };
    let made = Net::make(tools, &nic, &dir, None).await;
    let made = match made {
        Ok(net) => {
            net.close().await;
            Ok(())
        }
        Err(error) => Err(OpenError::NoNetwork { detail: error.to_string() }),
    };
    fs::remove_dir_all(&dir).map_err(at("remove"))?;
    made
}

/// A machine's network.
#[derive(Debug)]
pub(super) struct Net {
    network: Network,
    /// Brings in what is elsewhere.
    outside: Option<Process>,
}

impl Net {
    /// Makes one. What brings in what is elsewhere runs in the directory, and counts as the cgroup's.
    pub(super) async fn make(
        tools: &Tools,
        nic: &Nic,
        dir: &Path,
        cgroup: Option<&Own>,
    ) -> Result<Self, HostFault> {
        let slirp = match (nic.has_outside, &tools.slirp) {
            (false, _) => None,
            (true, Some(slirp)) => Some(slirp),
            (true, None) => return Err(failed("this node grants machines no network")),
        };
        let making = async {
            let holder = Holder::start(tools).await?;
            let network = netns::Process::find(holder.pid).and_then(netns::Process::network);
            let network = network.map_err(failed)?;
            let shut = match slirp {
                Some(_) => own_addresses(&tools.ip).await?,
                None => Vec::new(),
            };
            set_up(&network, &tools.ip, &shut).await?;
            let outside = match slirp {
                Some(slirp) => Some(bring_in(slirp, &holder, dir, cgroup).await?),
                None => None,
            };
            Ok(Self { network, outside })
        };
        let late = || failed(format!("it was not there within {} s", MAKE_TIMEOUT.as_secs()));
        tokio::time::timeout(MAKE_TIMEOUT, making).await.unwrap_or_else(|_| Err(late()))
    }

    pub(super) const fn network(&self) -> &Network {
        &self.network
    }

    /// Waits until what is elsewhere can be reached no longer, which is never so of a network that leads nowhere. Cancel-safe.
    pub(super) async fn lost(&mut self) {
        match &mut self.outside {
            Some(process) => drop(process.wait().await),
            None => std::future::pending().await,
        }
    }

    /// Bytes that came in from elsewhere and went out there.
    pub(super) async fn traffic(&self) -> Option<(u64, u64)> {
        self.outside.as_ref()?;
        self.network.read("net/dev").await.ok().map(|text| cgroup::traffic(&text))
    }

    /// Shuts it. The network itself is gone with the last process in it.
    pub(super) async fn close(self) {
        if let Some(mut outside) = self.outside
            && outside.kill().await.is_none()
        {
            let pid = outside.pid();
            tracing::error!(
                pid,
                "slirp4netns does not end; the next start of the node tries again"
            );
        }
    }
}

fn failed(detail: impl std::fmt::Display) -> HostFault {
    fault("make the machine's network", detail)
}

/// The process that makes a network; it ends when dropped, and by itself when the node is gone.
struct Holder {
    _child: Child,
    pid: u32,
}

impl Holder {
    async fn start(tools: &Tools) -> Result<Self, HostFault> {
        let mut command = Command::new(&tools.unshare);
        command.args(["--net", "--", SHELL, "-c", HOLD]).env_clear().process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let (pid, out) = (child.id().unwrap_or_default(), child.stdout.take());
        let mut sign = [0];
        let heard = match out {
            Some(mut out) => out.read(&mut sign).await.map_err(failed)?,
            None => 0,
        };
        if heard == 0 {
            return Err(failed(said(child).await));
        }
        Ok(Self { _child: child, pid })
    }

    /// A file of the kernel about it.
    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name)
    }
}

/// What a program that has failed said.
async fn said(child: Child) -> String {
    let mut text = String::new();
    if let Some(errors) = child.stderr {
        // What cannot be read was not said.
        let _ = errors.take(ANSWER_LEN_MAX).read_to_string(&mut text).await;
    }
    text.trim().to_owned()
}

/// The IPv4 addresses of this host.
async fn own_addresses(ip: &Path) -> Result<Vec<Ipv4Addr>, HostFault> {
    let mut command = Command::new(ip);
    command.args(["-4", "-o", "address", "show"]).env_clear().kill_on_drop(true);
    let output = command.stdin(Stdio::null()).output().await.map_err(failed)?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
    }
    let addresses = addresses(&String::from_utf8_lossy(&output.stdout));
    if addresses.len() > ADDRESSES_MAX {
        let n = addresses.len();
        return Err(failed(format!(
            "this host has {n} addresses, at most {ADDRESSES_MAX} can be shut"
        )));
    }
    Ok(addresses)
}

/// Addresses out of lines like `2: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0`, but for those of the loopback,
/// which every network has for itself.
fn addresses(text: &str) -> Vec<Ipv4Addr> {
    let of_line = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "inet").skip(1);
        // Of two ends of a line the first is this host's.
        words.next()?.split('/').next()?.parse::<Ipv4Addr>().ok()
    };
    text.lines().filter_map(of_line).filter(|address| !address.is_loopback()).collect()
}

/// What `ip` is told to do in a new network.
fn batch(shut: &[Ipv4Addr]) -> String {
    // Writing to a text does not fail.
    let mut batch = "link set dev lo up\n".to_owned();
    // The resolver may be on the host's loopback, and nothing else of that is to be asked by way of it.
    for (pref, what) in [
        (10, "ipproto udp dport 53 lookup main"),
        (11, "ipproto tcp dport 53 lookup main"),
        (12, "prohibit"),
    ] {
        let _ = writeln!(batch, "rule add pref {pref} to {RESOLVER} {what}");
    }
    let ranges = SHUT.map(str::to_owned).into_iter();
    for place in ranges.chain(shut.iter().map(|address| format!("{address}/32"))) {
        // `replace`, because an address may be named twice.
        let _ = writeln!(batch, "route replace prohibit {place}");
    }
    batch
}

/// Brings the loopback up and shuts what is never to be reached.
async fn set_up(network: &Network, ip: &Path, shut: &[Ipv4Addr]) -> Result<(), HostFault> {
    let mut command = Command::new(ip);
    command.args(["-batch", "-"]).env_clear().kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = network.spawn(command).await.map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch(shut).as_bytes()).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(said(child).await)) }
}

/// Starts slirp4netns for a network and waits until it leads elsewhere.
async fn bring_in(
    slirp: &Path,
    holder: &Holder,
    dir: &Path,
    cgroup: Option<&Own>,
) -> Result<Process, HostFault> {
    let network = holder.file("ns/net");
    let options =
        ["--configure", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"];
    let mut args: Vec<_> = options.iter().map(Into::into).collect();
    args.extend(["--cidr", OUTER, "--netns-type", "path"].map(Into::into));
    args.extend([network.into_os_string(), TAP.into()]);
    let limits = [Limit::Files(SOCKETS_MAX)];
    let spec = Spec {
        program: slirp,
        args: &args,
        dir,
        user: None,
        limits: &limits,
        cgroup,
        network: None,
        input: None,
    };
    let mut process = Process::start(&spec).await.map_err(failed)?;
    // Whatever becomes of this node, its next life finds it.
    let path = dir.join(NET_MARKER);
    if let Some(marker) = marker(process.pid()) {
        fs::write(&path, marker).map_err(|e| HostFault::file("write", &path, &e))?;
    }
    let routes = holder.file("net/route");
    let begun = Instant::now();
    while !fs::read_to_string(&routes).is_ok_and(|text| leads_elsewhere(&text)) {
        let ended = tokio::time::timeout(LOOK_PAUSE, process.wait()).await;
        if ended.is_ok() || begun.elapsed() > MAKE_TIMEOUT {
            process.kill().await;
            return Err(failed(process.said().await));
        }
    }
    Ok(process)
}

/// Whether a table of routes, as the kernel tells it, has one for all that no other is for.
fn leads_elsewhere(table: &str) -> bool {
    table.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some(TAP) && words.next() == Some("00000000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_host_are_found_and_its_loopback_is_not_among_them() {
        let text = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n\
                    2: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n\
                    3: tun0    inet 10.8.0.6 peer 10.8.0.5/32 scope global tun0\n\
                    nonsense\n4: inet\n5: eth1    inet x/24\n";
        let expected = ["192.0.2.2", "10.8.0.6"].map(|text| text.parse::<Ipv4Addr>().unwrap());
        assert_eq!(addresses(text), expected);
    }

    #[test]
    fn what_is_never_reached_has_a_route_that_says_so() {
        let batch = batch(&[Ipv4Addr::new(192, 0, 2, 2)]);
        for line in [
            "link set dev lo up",
            "rule add pref 12 to 198.18.1.3 prohibit",
            "route replace prohibit 169.254.0.0/16",
            "route replace prohibit 192.0.2.2/32",
        ] {
            assert!(batch.lines().any(|found| found == line), "{batch}");
        }
    }

    #[test]
    fn a_table_of_routes_tells_when_the_network_is_there() {
        let head = "Iface\tDestination\tGateway \tFlags\n";
        assert!(!leads_elsewhere(head));
        assert!(!leads_elsewhere(&format!("{head}tap0\t000112C6\t00000000\t0001\n")));
        assert!(leads_elsewhere(&format!("{head}tap0\t00000000\t020112C6\t0003\n")));
        assert!(!leads_elsewhere(&format!("{head}eth0\t00000000\t020112C6\t0003\n")));
    }

    #[tokio::test]
    async fn a_network_is_there_as_long_as_it_is_held_and_leads_nowhere_by_itself() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make networks");
            return;
        }
        let options = VmOptions { ports: true, ..VmOptions::new(PathBuf::new(), "test") };
        let tools = tools(&options, true).unwrap().unwrap();
        let nic = Nic { forwards: Vec::new(), has_outside: false };
        let dir = tempfile::tempdir().unwrap();
        let net = Net::make(&tools, &nic, dir.path(), None).await.unwrap();
        let seen = net.network().read("net/dev").await.unwrap();
        let names: Vec<_> = seen.lines().skip(2).filter_map(|line| line.split_once(':')).collect();
        assert_eq!(names.iter().map(|(name, _)| name.trim()).collect::<Vec<_>>(), ["lo"]);
        // Whoever starts something there is in it, and nowhere else.
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net").stdout(Stdio::piped());
        let there = net.network().spawn(command).await.unwrap().wait_with_output().await.unwrap();
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let there = String::from_utf8(there.stdout).unwrap();
        assert!(there.starts_with("net:[") && there.trim() != here.to_str().unwrap(), "{there}");
        assert_eq!(net.traffic().await, None);
        net.close().await;
        let refused = Nic { forwards: Vec::new(), has_outside: true };
        let error = Net::make(&tools, &refused, dir.path(), None).await.unwrap_err();
        assert!(error.to_string().contains("grants machines no network"), "{error}");
        assert!(matches!(super::tools(&options, false), Err(OpenError::NotRoot)));
    }
}
