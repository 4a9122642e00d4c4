//! `opencloud up`: the node with its API, until it is told to stop.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use catalog::record::{Insiders, Kinds};
use clap::Args;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::error::{CANCELLED, CliError, OK};
use super::give::Give;
use super::price::{self, EXAMPLE};
use super::units::{parse_cores, parse_size};
use super::watching::Watched;
use super::{Context, EXIT_CODES};
use crate::api;
use crate::engine::command::{Command, Response};
use crate::runtime::Devices;
use crate::shell::{self, ComputeOverrides, Home, KubernetesSite, NodeConfig, Running, SlurmSite};

/// How long the listeners may take before the node counts as ready without an address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at the addresses.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);
/// How long requests at work may take to end when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What a light node keeps when nobody says otherwise: where work can be done, data kept, and what runs.
const LIGHT_KINDS: &str = "compute,storage,service";
/// Where pods are when nobody says otherwise.
const NAMESPACE: &str = "opencloud";

#[derive(Debug, Args)]
#[command(after_help = format!("\
Prints one line when the node is ready: its id, the address of its API, and where
peers reach it. Stops on Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

Examples:
  opencloud up
  opencloud up --listen /ip4/0.0.0.0/tcp/4001 --listen /ip4/0.0.0.0/udp/4001/quic-v1
  opencloud up --listen /ip4/0.0.0.0/tcp/4610 --announce /dns4/node.example.org/tcp/4610 --relay
  opencloud up --cpu 2 --memory 4GiB --disk 100GiB --region eu --price-plan prices.yaml
  opencloud up --containers
  opencloud up --containers=/run/podman/podman.sock
  opencloud up --containers --device gpu=/dev/dri/renderD128 --device-for=partners
  opencloud up --services
  opencloud up --containers --services --exec=partners
  opencloud up --vms=/var/lib/opencloud --services --network
  opencloud up --vms=/var/lib/opencloud
  opencloud up --kubernetes --kubernetes-registry registry.example.org/opencloud --cpu 64
  opencloud up --open db=5432:partners --serve-rate 20MiB
  opencloud up --light
  opencloud up --light=compute,data
  opencloud up --output json | head -1
  opencloud up --api 0.0.0.0:8443 --tls
  opencloud up --metrics 127.0.0.1:9464 --log-format json -v --otlp http://127.0.0.1:4318

With --relay, members that nobody can dial (behind a router, a firewall) are reached
through this node, and nobody else is: it should have an address that everybody reaches,
which --announce names where it is not one of this machine. What it carries is encrypted
between the two, counted for each (`peers`), and bounded. Peers open a direct connection
as soon as their routers let them. `status` says how this node is reached, `peers` why a
peer is not.

Containers of others share this machine's kernel, so they are offered only when asked
for. A task in one has no network, no privilege, a read-only image, and is held to its
memory, processor, disk and time. Virtual machines share less: QEMU runs them as users
of their own, with KVM where a probe shows that it works, else some ten times slower.
Jobs of a Slurm cluster run as --slurm-user, with what that user may see and reach;
--cpu and --memory say how much of it is offered.

With --kubernetes, containers run as pods of a cluster, in one namespace with few rights
(the README has them). The node puts images into --kubernetes-registry, from which the
cluster's machines get them, and moves files by the cluster's API. Pods have no network
where the cluster's network heeds the policy that the README has; the node looks whether
it is there. They cannot be services, and nobody goes inside them.

With --services, tasks may be replicas of services: WebAssembly components that answer
HTTP requests, and containers and virtual machines where those are offered. They get no
other network for that: peers that may connect come by tunnels of this node, which
enters the network of the container or machine (root; for containers CAP_SYS_ADMIN and
CAP_SYS_PTRACE are enough).

With --network, a step that says `needs: {{network: true}}` reaches what this machine
reaches: containers by the engine's own network, WebAssembly everything but this
machine itself and its link, virtual machines the same over IPv4, by slirp4netns and
only where the node is root. Without it they have none. Jobs of a cluster have the
cluster's in any case.

With --exec, whoever submitted a run may go inside its tasks that run here, and nobody
else: a command in a container (`run exec`) has the task's own user, files and limits, the
console of a machine (`run console`) is what its kernel and its task have made of it. WHO
is own (nodes of this organisation), partners (those, and partners), or realm (everybody
that this node works for). Each time is noted in this node's log (-v).

With --light, for small boards, the node does not hold the whole catalogue and hears no
gossip of it: it knows everybody's heads and the records of the KINDS (of data, algorithm,
compute, storage, workflow, service, disk), as they were some 30 seconds ago, and asks two
peers for all else when it is wanted. What it publishes others know at once. It needs a
full node among its peers; `status` says what it keeps.

With --open, peers reach programs of this machine that listen on 127.0.0.1, through tunnels
of this node, at the ports named and no others: `opencloud tunnel` on their side.

With --device, a step that says `needs: {{devices: {{gpu: 1}}}}` holds one of the devices of
that name, in a container, and nobody else has it meanwhile. It may read and write the
device's file, which its own user or a group has to be allowed, and nothing else of the
machine. Several that are alike are apart by commas; a device that comes in several files
names them apart by `+`, the one that is its own first, as in
gpu=/dev/dri/renderD128+/dev/kfd,/dev/dri/renderD129+/dev/kfd. Where the engine has the
Container Device Interface, its names go, too, like gpu=nvidia.com/gpu=0. Tasks of this
organisation may hold them, or with --device-for those of partners or the realm, too;
what they hold is metered as `gpu`.

A price plan is YAML or JSON. Only `currency` and `rows` have to be there:
{EXAMPLE}

A row's dimension is cpu, mem, storage, io, fuel, net_in, net_out, vcpu_alloc, gpu,
energy, requests or set_up; its basis is what was `used` (unless said), `allocated`, or the
`max` of both. Amounts are exact decimals. A node of the own organisation pays nothing.

{EXIT_CODES}"))]
pub(super) struct Up {
    /// Where the API listens; port 0 takes a free one; what other machines reach needs --tls or --tls-cert
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    api: SocketAddr,
    /// Where to listen for peers, as a multiaddr; may be repeated [default: free TCP and QUIC ports]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Do not look for nodes on the local network
    #[arg(long)]
    no_mdns: bool,
    #[command(flatten)]
    reach: super::reach::Reach,
    /// What the use of this node costs: a price plan, YAML or JSON [default: 0.02 EUR per core-hour and so on, as `status` shows]
    #[arg(long, value_name = "FILE")]
    price_plan: Option<PathBuf>,
    /// Cores to offer, like `2` or `0.5` [default: all]
    #[arg(long, value_name = "N", value_parser = parse_cores)]
    cpu: Option<u64>,
    /// Memory to offer, like `4GiB` [default: half of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Disk that tasks and stored data may take together, like `100GiB` [default: nine tenths of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk: Option<u64>,
    /// Offer containers, run by the Docker or Podman that listens on SOCKET [without SOCKET: the first that is found]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    containers: Option<Option<PathBuf>>,
    /// Open devices of this machine to containers: NAME=PATH, several that are alike as NAME=PATH,PATH; may be repeated
    #[arg(long, value_name = "NAME=PATH", requires = "containers")]
    device: Vec<String>,
    /// Whose tasks may hold them
    #[arg(long, value_name = "WHO", requires = "device", default_value = "own", value_parser = parse_insiders)]
    device_for: Insiders,
    /// Let tasks be services, which run until they are stopped and can be connected to; with containers or machines it needs root
    #[arg(long)]
    services: bool,
    /// Offer virtual machines, run by QEMU, with their files in DIR, which others can pass through [without DIR: the node's own directory]
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    vms: Option<Option<PathBuf>>,
    /// Offer the Slurm cluster of this site; its machines share DIR
    #[arg(long, value_name = "DIR", requires = "slurm_user")]
    slurm: Option<PathBuf>,
    /// The user as whom tasks run on the cluster; not root
    #[arg(long, value_name = "USER", requires = "slurm")]
    slurm_user: Option<String>,
    /// The cluster's `slurm.conf`, where Slurm's own tools would not find it
    #[arg(long, value_name = "FILE", requires = "slurm")]
    slurm_conf: Option<PathBuf>,
    /// The partition to use [default: the site's]
    #[arg(long, value_name = "NAME", requires = "slurm")]
    slurm_partition: Option<String>,
    /// The account to charge [default: the user's]
    #[arg(long, value_name = "NAME", requires = "slurm")]
    slurm_account: Option<String>,
    /// Offer containers, run as pods of the Kubernetes cluster of this site [without FILE: the usual kubeconfig, else what a pod is given]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, requires = "kubernetes_registry", conflicts_with = "containers")]
    kubernetes: Option<Option<PathBuf>>,
    /// The namespace of the pods [default: opencloud]
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    kubernetes_namespace: Option<String>,
    /// Where images are put for the cluster, like `registry.example.org/opencloud`; `http://` in front where it has no TLS
    #[arg(long, value_name = "HOST/PREFIX", requires = "kubernetes")]
    kubernetes_registry: Option<String>,
    /// A Docker `config.json` with credentials for the registry [default: ~/.docker/config.json, if it is there]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubernetes_registry_config: Option<PathBuf>,
    /// The secret in the namespace with which the cluster's machines get images from the registry
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    kubernetes_pull_secret: Option<String>,
    /// An image with a static busybox, for what moves files in pods [default: docker.io/library/busybox:1.37.0-musl]
    #[arg(long, value_name = "IMAGE", requires = "kubernetes")]
    kubernetes_helper: Option<String>,
    /// Take a cluster in which no policy keeps pods off its network: then every task has that
    #[arg(long, requires = "kubernetes")]
    kubernetes_open_network: bool,
    /// Let tasks that ask for it reach the network
    #[arg(long)]
    network: bool,
    /// Let those for whom tasks run go inside them, with commands and at consoles [default: nobody; without WHO: own]
    #[arg(long, value_name = "WHO", num_args = 0..=1, require_equals = true, default_missing_value = "own", value_parser = parse_insiders)]
    exec: Option<Insiders>,
    /// Where the node stands, like `eu`
    #[arg(long, value_name = "R")]
    region: Option<String>,
    /// Be a light node: keep the records of these kinds alone, and ask peers for others [without KINDS: compute,storage,service]
    #[arg(long, value_name = "KINDS", num_args = 0..=1, require_equals = true, default_missing_value = LIGHT_KINDS)]
    light: Option<Kinds>,
    #[command(flatten)]
    give: Give,
    #[command(flatten)]
    pub(super) watching: super::watching::Watching,
    #[command(flatten)]
    encrypt: super::encrypt::Encrypt,
    /// Stop when standard input ends, so that the node does not outlive the program that started it
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

impl Up {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let mut signals = Signals::new(self.stop_with_stdin)?;
        let mut api = self.encrypt.plain(self.api)?;
        loop {
            let home = context.open_home()?;
            let config = self.config(&home)?;
            let running = Box::pin(shell::start(config)).await?;
            let served = Box::pin(self.serve(context, (&home, &mut api), running, &mut signals));
            let served = served.await;
            home.clear_api_address();
            match served? {
                Served::Ended(code) => return Ok(code),
                // With its next key, and the API where it was.
                Served::Rotating => {}
            }
        }
    }

    fn config(&self, home: &Home) -> Result<NodeConfig, CliError> {
        let everywhere = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
        let listen = if self.listen.is_empty() {
            everywhere.map(str::to_owned).to_vec()
        } else {
            self.listen.clone()
        };
        Ok(NodeConfig {
            home: home.clone(),
            api: self.api,
            listen,
            mdns: !self.no_mdns,
            reach: self.reach.config()?,
            serve_rate: self.give.serve_rate(),
            share_public: self.give.share_public,
            offers: self.give.offers()?,
            light: self.light,
            price_plan: self.price_plan.as_deref().map(price::read).transpose()?,
            compute: ComputeOverrides {
                cpu_milli: self.cpu,
                memory_bytes: self.memory,
                disk_bytes: self.disk,
                region: self.region.clone(),
                network: self.network,
                exec: self.exec,
                device_for: (!self.device.is_empty()).then_some(self.device_for),
            },
            containers: match &self.containers {
                Some(Some(socket)) => Some(socket.clone()),
                Some(None) => Some(find_engine()?),
                None => None,
            },
            devices: Devices::parse(self.device.iter().map(String::as_str))
                .map_err(|error| CliError::usage(error.to_string()))?,
            services: self.services,
            vms: self.vms.clone().map(|dir| dir.unwrap_or_else(|| home.dir().join("vms"))),
            slurm: self.slurm.clone().zip(self.slurm_user.clone()).map(|(dir, user)| SlurmSite {
                dir,
                user,
                config: self.slurm_conf.clone(),
                partition: self.slurm_partition.clone(),
                account: self.slurm_account.clone(),
            }),
            kubernetes: self.kubernetes_site(),
        })
    }

    /// The cluster that runs containers, if one is offered.
    fn kubernetes_site(&self) -> Option<KubernetesSite> {
        let (config, registry) = self.kubernetes.clone().zip(self.kubernetes_registry.clone())?;
        Some(KubernetesSite {
            config,
            namespace: self.kubernetes_namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned()),
            registry,
            registry_config: self.kubernetes_registry_config.clone().or_else(docker_config),
            pull_secret: self.kubernetes_pull_secret.clone(),
            helper_image: self.kubernetes_helper.clone(),
            open_network: self.kubernetes_open_network,
        })
    }

    async fn serve(
        &self,
        context: &Context,
        (home, api): (&Home, &mut SocketAddr),
        mut running: Running,
        signals: &mut Signals,
    ) -> Result<Served, CliError> {
        let wanted = *api;
        let failed = |source| CliError::Listen { address: wanted, source };
        // After the node has begun, because that holds the home's lock.
        let opened = match TcpListener::bind(wanted).await {
            Ok(listener) => listener.local_addr().map(|address| (listener, address)),
            Err(error) => Err(error),
        };
        let (listener, address) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                running.shutdown().await;
                return Err(failed(error));
            }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            // Stops, too, when the sender is gone.
            let _ = stopped.await;
        };
        let opened = async {
            let tls = self.encrypt.open(home, self.api).await?;
            self.watching.open(home, running.handle(), tls).await
        };
        let (watched, setup) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                running.shutdown().await;
                return Err(error);
            }
        };
        let mut server = tokio::spawn(api::serve(running.handle(), listener, setup, shutdown));
        home.set_api_address(address)?;
        *api = address;
        announce(context, home, &running, (address, &watched)).await;
        let ended = tokio::select! {
            () = signals.stop() => Ok(Served::Ended(OK)),
            reason = running.stopped() => reason.map(|()| Served::Rotating).map_err(CliError::Stopped),
            result = &mut server => match result {
                Ok(Err(error)) => Err(failed(error)),
                Ok(Ok(())) | Err(_) => Err(failed(std::io::Error::other("the server ended by itself"))),
            },
        };
        let down = async {
            drop(stop);
            if !server.is_finished()
                && tokio::time::timeout(DRAIN_TIMEOUT, &mut server).await.is_err()
            {
                server.abort();
            }
            if ended.is_ok() {
                running.shutdown().await;
            }
        };
        tokio::select! {
            () = down => ended,
            () = signals.interrupt() => Ok(Served::Ended(CANCELLED)),
        }
    }
}

/// Why the node and its API have ended.
#[derive(Clone, Copy, Debug)]
enum Served {
    /// The owner wanted it.
    Ended(u8),
    /// They begin again, under the node's next key.
    Rotating,
}

fn parse_insiders(word: &str) -> Result<Insiders, &'static str> {
    Insiders::from_word(word).ok_or("it is one of own, partners, realm")
}

/// Where Docker and Podman listen when nobody tells them otherwise: those of the whole machine, then the user's own.
pub(super) fn engine_sockets() -> Vec<PathBuf> {
    let mut sockets = ["/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from).to_vec();
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        sockets.extend(["docker.sock", "podman/podman.sock"].map(|name| dir.join(name)));
    }
    sockets
}

/// Where Docker keeps its credentials, if it does.
fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    dir.or_else(home).map(|dir| dir.join("config.json")).filter(|path| path.is_file())
}

fn find_engine() -> Result<PathBuf, CliError> {
    let sockets = engine_sockets();
    let found = sockets.iter().find(|socket| UnixStream::connect(socket).is_ok()).cloned();
    found.ok_or(CliError::NoEngine { sockets })
}

/// Says that the node is ready, once it knows where it listens.
async fn announce(
    context: &Context,
    home: &Home,
    running: &Running,
    (api, watched): (SocketAddr, &Watched),
) {
    let handle = running.handle();
    let listening = async {
        loop {
            if let Ok(Response::Status(status)) = handle.command(Command::Status).await
                && !status.addresses.is_empty()
            {
                return status.addresses;
            }
            tokio::time::sleep(LISTEN_PAUSE).await;
        }
    };
    let addresses = tokio::time::timeout(LISTEN_TIMEOUT, listening).await.unwrap_or_else(|_| {
        tracing::warn!("the node listens nowhere yet; name an address with --listen");
        Vec::new()
    });
    let id = running.node_id();
    if context.out.is_json() {
        context.out.json_line(&json!({
            "ready": true,
            "id": id,
            "org": home.org_id(),
            "org_name": home.org_name(),
            "api": api.to_string(),
            "metrics": watched.address().map(|at| at.to_string()),
            "tls": watched.tls().map(|(at, _)| at.to_string()),
            "tls_sha256": watched.tls().map(|(_, fingerprint)| fingerprint),
            "addresses": addresses,
        }));
    } else {
        let at = if addresses.is_empty() { "nowhere yet".to_owned() } else { addresses.join(" ") };
        let metrics = watched.address().map(|at| format!(", metrics http://{at}/metrics"));
        let tls = watched.tls().map(|(at, sha256)| format!(", https://{at} (SHA-256 {sha256})"));
        let more = [tls, metrics].into_iter().flatten().collect::<String>();
        let org = home.org_name();
        context.out.line(&format!("ready: {org} {id}, API http://{api}{more}, peers {at}"));
    }
}

/// What tells the node to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    stdin: bool,
}

impl Signals {
    fn new(stdin: bool) -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::io("the signals of this process"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            stdin,
        })
    }

    async fn stop(&mut self) {
        let ended = async {
            if !self.stdin {
                return std::future::pending().await;
            }
            let mut input = tokio::io::stdin();
            let mut buffer = [0; 64];
            while !matches!(input.read(&mut buffer).await, Ok(0) | Err(_)) {}
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = ended => {}
        }
    }

    async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }
}
