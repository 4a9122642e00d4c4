//! QEMU's command line for one machine. All files are named as they lie in the machine's directory, where QEMU runs.

use std::ffi::OsString;
use std::path::Path;

use super::accel::Accel;
use super::network::{self, Forward, Nic};

/// Megabytes that QEMU may take for translated code; without a limit it takes a gigabyte.
pub(super) const TRANSLATED_MIB: u64 = 64;
/// What QEMU may not do, whoever it obeys: obsolete calls, gaining privileges, starting programs, changing its limits.
pub(super) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Files in a machine's directory.
pub(super) const INPUT: &str = "in.tar";
pub(super) const OUTPUT: &str = "out.tar";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const BASE: &str = "base";
pub(super) const OVERLAY: &str = "overlay.qcow2";
pub(super) const SEED: &str = "seed.iso";
/// What a suspended machine has in memory. The node's own: QEMU has it by [`SAVING`] and [`LOADING`] alone.
pub(super) const STATE: &str = "state";
/// Where QEMU brings what a machine has in memory: a socket on which the node listens.
pub(super) const SAVING: &str = "save";
/// Where a QEMU finds it that goes on with the machine: a pipe, which is its standard input.
pub(super) const LOADING: &str = "load";
/// What a QEMU is told beside all else that goes on with a machine.
pub(super) const INCOMING: [&str; 2] = ["-incoming", "fd:0"];
/// Sockets in a machine's directory: the node listens, QEMU comes.
pub(super) const SOCKETS: [&str; 5] = ["qmp", "console", "control", "stdout", "stderr"];

/// An architecture that machines have; always the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    X86,
    Arm,
}

impl Arch {
    /// This host's; `None` when machines are not known for it.
    pub(super) fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86),
            "aarch64" => Some(Self::Arm),
            _ => None,
        }
    }

    /// The program that runs machines.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::X86 => "qemu-system-x86_64",
            Self::Arm => "qemu-system-aarch64",
        }
    }

    /// Kind of machine, without what nobody needs.
    pub(super) const fn machine(self) -> &'static str {
        match self {
            Self::X86 => "q35,usb=off,vmport=off,smbus=off,sata=off",
            Self::Arm => "virt,gic-version=max,usb=off",
        }
    }

    /// The device of the kernel's console.
    const fn console(self) -> &'static str {
        match self {
            Self::X86 => "ttyS0",
            Self::Arm => "ttyAMA0",
        }
    }
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    pub(super) arch: Arch,
    pub(super) accel: Accel,
    pub(super) n_cpus: u64,
    pub(super) memory_mib: u64,
    pub(super) boot: Boot<'a>,
    pub(super) nic: Option<&'a Nic>,
}

/// How it starts.
#[derive(Clone, Debug)]
pub(super) enum Boot<'a> {
    /// With [`KERNEL`] and [`INITRAMFS`].
    Kernel { append: &'a str },
    /// From [`OVERLAY`] over [`BASE`], with [`SEED`].
    Disk { base_format: &'static str, firmware: Option<&'a Path> },
}

/// The options by which every QEMU of this program is held.
pub(super) fn confinement(arch: Arch, accel: Accel) -> Vec<OsString> {
    let accel_option = match accel {
        Accel::Kvm => "kvm".to_owned(),
        Accel::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}"),
    };
    let cpu = match accel {
        Accel::Kvm => "host",
        Accel::Tcg => "max",
    };
    let mut args = Args::default();
    args.add("-sandbox", SANDBOX);
    args.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    args.add("-display", "none");
    args.add("-machine", arch.machine());
    args.add("-accel", &accel_option);
    args.add("-cpu", cpu);
    args.0
}

/// The whole command line, without the program.
pub(super) fn machine(plan: &Plan<'_>) -> Vec<OsString> {
    let mut args = Args(confinement(plan.arch, plan.accel));
    args.add("-smp", &plan.n_cpus.to_string());
    args.add("-m", &format!("size={}M", plan.memory_mib));
    for name in SOCKETS {
        args.add("-chardev", &format!("socket,id={name},path={name}"));
    }
    args.add("-mon", "chardev=qmp,mode=control");
    args.add("-serial", "chardev:console");
    args.add("-object", "rng-builtin,id=rng");
    args.add("-device", "virtio-rng-pci,rng=rng");
    args.add("-device", "virtio-serial-pci,id=ports");
    for name in ["control", "stdout", "stderr"] {
        let port = format!("virtserialport,bus=ports.0,chardev={name},name=org.opencloud.{name}");
        args.add("-device", &port);
    }
    match &plan.boot {
        Boot::Kernel { append } => {
            args.add("-kernel", KERNEL);
            args.add("-initrd", INITRAMFS);
            let console = plan.arch.console();
            let own = "rdinit=/opencloud/init panic=-1 quiet loglevel=4";
            args.add("-append", format!("console={console} {own} {append}").trim_end());
        }
        Boot::Disk { base_format, firmware } => {
            if let Some(firmware) = firmware {
                args.add("-bios", firmware);
            }
            let base = serde_json::json!({
                "driver": base_format, "node-name": "base", "read-only": true, "backing": null,
                "file": {"driver": "file", "filename": BASE, "locking": "off"},
            });
            // Nothing that an image says about files is followed: a raw one has no such words, and no backing file of its own.
            let base = without_backing_if_raw(base, base_format);
            args.add("-blockdev", &base.to_string());
            let overlay = serde_json::json!({
                "driver": "qcow2", "node-name": "root", "backing": "base", "discard": "unmap",
                "cache": {"no-flush": true},
                "file": {"driver": "file", "filename": OVERLAY, "locking": "off"},
            });
            args.add("-blockdev", &overlay.to_string());
            args.add("-device", "virtio-blk-pci,drive=root,bootindex=0,serial=oc-root");
            args.disk("seed", SEED, true);
        }
    }
    args.disk("oc-in", INPUT, true);
    args.disk("oc-out", OUTPUT, false);
    if let Some(nic) = plan.nic {
        args.add("-netdev", &netdev(nic));
        args.add("-device", "virtio-net-pci,netdev=net,romfile=");
    }
    args.0
}

/// QEMU's own stack, in the machine's own network.
fn netdev(nic: &Nic) -> String {
    let network::Inner { net, gateway, address } = network::INNER;
    let mut netdev = format!("user,id=net,ipv6=off,net={net},host={gateway},dhcpstart={address}");
    // No resolver is named: of one outside of its own network QEMU answers by another address than it was asked at.
    if !nic.has_outside {
        netdev.push_str(",restrict=on");
    }
    for Forward { at, port } in &nic.forwards {
        netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{at}-{address}:{port}"));
    }
    netdev
}

fn without_backing_if_raw(mut base: serde_json::Value, format: &str) -> serde_json::Value {
    if format == "raw"
        && let Some(fields) = base.as_object_mut()
    {
        fields.remove("backing");
    }
    base
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn add<T: AsRef<std::ffi::OsStr> + ?Sized>(&mut self, name: &str, value: &T) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn flags(&mut self, names: &[&str]) {
        self.0.extend(names.iter().map(OsString::from));
    }

    /// A disk of raw bytes, known to the machine by its serial.
    fn disk(&mut self, serial: &str, file: &str, is_read_only: bool) {
        let disk = serde_json::json!({
            "driver": "raw", "node-name": serial, "read-only": is_read_only,
            "cache": {"no-flush": true},
            "file": {"driver": "file", "filename": file, "locking": "off"},
        });
        self.add("-blockdev", &disk.to_string());
        self.add("-device", &format!("virtio-blk-pci,drive={serial},serial={serial}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(boot: Boot<'_>, nic: Option<&Nic>) -> String {
        let plan =
            Plan { arch: Arch::X86, accel: Accel::Tcg, n_cpus: 2, memory_mib: 128, boot, nic };
        let words: Vec<String> =
            machine(&plan).iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn a_machine_has_no_network_unless_it_is_granted_or_has_ports_and_then_no_more_than_that() {
        let of = |nic: Option<&Nic>| line(Boot::Kernel { append: "" }, nic);
        let alone = of(None);
        assert!(!alone.contains("-netdev") && alone.contains("-nodefaults"), "{alone}");
        let forwards = vec![Forward { at: 10_000, port: 22 }];
        let ports_only = Nic { forwards, has_outside: false };
        let open = of(Some(&ports_only));
        let ports = "restrict=on,hostfwd=tcp:127.0.0.1:10000-198.18.0.15:22";
        assert!(open.contains(ports) && open.contains("ipv6=off"), "{open}");
        let outside = Nic { forwards: Vec::new(), has_outside: true };
        let granted = of(Some(&outside));
        assert!(!granted.contains("restrict") && !granted.contains("hostfwd"), "{granted}");
        assert!(!granted.contains("dns="), "{granted}");
    }

    #[test]
    fn every_machine_is_sandboxed_and_its_translated_code_is_bounded() {
        let disk = Boot::Disk { base_format: "qcow2", firmware: None };
        for line in [line(Boot::Kernel { append: "a=b" }, None), line(disk, None)] {
            assert!(line.contains(&format!("-sandbox {SANDBOX}")), "{line}");
            assert!(line.contains("tb-size=64"), "{line}");
        }
    }

    #[test]
    fn formats_are_named_and_no_backing_file_is_taken_from_an_image() {
        let qcow2 = line(Boot::Disk { base_format: "qcow2", firmware: None }, None);
        let is_base = qcow2.contains(r#""driver":"qcow2","node-name":"base""#);
        assert!(is_base && qcow2.contains(r#""backing":null"#), "{qcow2}");
        assert!(!line(Boot::Disk { base_format: "raw", firmware: None }, None).contains("null"));
        assert!(!qcow2.contains("-drive"), "{qcow2}");
    }
}
