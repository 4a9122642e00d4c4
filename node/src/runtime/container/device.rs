//! Devices of the host that containers are given: what an owner opens, and what the engine is told.
//!
//! ```text
//!  gpu=/dev/dri/renderD128+/dev/kfd,/dev/dri/renderD129+/dev/kfd
//!  │   └ first unit ──────────────┘ └ second unit ─────────────┘
//!  name
//! ```
//!
//! A unit is what one task holds: its first part is its own, and further parts, such as the control device of a driver, may
//! be shared. A part is a device file, or the name of a device as the Container Device Interface has it, which the engine
//! resolves by the vendor's description. A task gets the files of its units under their own paths, may read and write
//! them, and can make none. It stays the user it is: where only a group may open a file, that group is added.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bollard::models::{DeviceMapping, DeviceRequest};
use scheduler::device::{DEVICES_MAX, Held, NAME_RULE, is_name};

use super::host::{Engine, User};

/// Most parts of one unit; a driver needs two or three.
const PARTS_MAX: usize = 16;
/// Longest path or name of a part, in bytes.
const PART_LEN_MAX: usize = 255;
/// What a mode lets a class of users do that may read and write.
const READ_WRITE: u32 = 0o6;

/// Why devices cannot be opened to tasks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not of the form that is wanted.
    #[error(
        "`{text}` names no devices: write `NAME=PATH`, or `NAME=PATH,PATH` for several that are alike"
    )]
    Form {
        /// The text.
        text: String,
    },
    /// Not a name.
    #[error("`{name}` is not a name of a device: {NAME_RULE}")]
    Name {
        /// The text.
        name: String,
    },
    /// A name that was opened already.
    #[error("device `{name}` is opened twice: write several that are alike as `{name}=PATH,PATH`")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// The same device as two units, or twice in one.
    #[error("`{part}` is opened twice: each task would take it for its own")]
    PartTwice {
        /// The device.
        part: String,
    },
    /// Neither a path nor a CDI name.
    #[error(
        "`{part}` is neither an absolute path such as `/dev/dri/renderD128` nor a CDI name such as `nvidia.com/gpu=0`"
    )]
    Part {
        /// The text.
        part: String,
    },
    /// Too many parts in a unit.
    #[error("{found} parts in one device, at most {PARTS_MAX} are allowed")]
    TooManyParts {
        /// How many.
        found: usize,
    },
    /// Too many devices.
    #[error("{found} devices, at most {DEVICES_MAX} are allowed")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// There is no such file.
    #[error("the device `{}` cannot be used: {kind}", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// A file that is no device.
    #[error("`{}` is not a device", path.display())]
    NoDevice {
        /// The file.
        path: PathBuf,
    },
    /// Not where tasks look for devices.
    #[error("`{}` is outside of /dev, where tasks look for devices", path.display())]
    Outside {
        /// The device.
        path: PathBuf,
    },
    /// Tasks are another user than those who may open it.
    #[error(
        "tasks run as user {user}, who may not read and write `{}` (mode {mode:03o}, user {owner}, group {group}): let a group other than root's do so, or everybody",
        path.display()
    )]
    Shut {
        /// The device.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
        /// Its group.
        group: u32,
        /// As whom tasks run, as the host sees it.
        user: u32,
    },
    /// The engine knows no CDI.
    #[error(
        "{engine} has no Container Device Interface, by which `{part}` would be found: name the device by its path"
    )]
    NoCdi {
        /// The engine.
        engine: String,
        /// The device.
        part: String,
    },
    /// The engine finds no such device.
    #[error("{engine} finds no device `{part}`; it finds: {known}")]
    Unknown {
        /// The engine.
        engine: String,
        /// The device.
        part: String,
        /// What it finds, cut off.
        known: String,
    },
    /// The owner does not open what a task holds.
    #[error("this node opens device {unit} of `{name}` no more")]
    Gone {
        /// The name.
        name: String,
        /// The position.
        unit: u32,
    },
}

/// Something that a container can be given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// A device file.
    File(PathBuf),
    /// A device by its name in the Container Device Interface.
    Cdi(String),
}

impl Part {
    fn parse(text: &str) -> Result<Self, DeviceError> {
        let bad = || DeviceError::Part { part: shown(text) };
        if text.len() > PART_LEN_MAX || text.chars().any(char::is_control) {
            return Err(bad());
        }
        if text.starts_with('/') {
            return Ok(Self::File(PathBuf::from(text)));
        }
        is_cdi_name(text).then(|| Self::Cdi(text.to_owned())).ok_or_else(bad)
    }

    fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Cdi(name) => name.clone(),
        }
    }
}

/// By what a part is told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity<'a> {
    /// The device that a file stands for, as the kernel knows it: several files may be one.
    Device { is_block: bool, number: u64 },
    /// As it is named: nothing else is known.
    Named(&'a Part),
}

impl<'a> Identity<'a> {
    /// Looks at the file, if it is one.
    fn of(part: &'a Part) -> Self {
        let Part::File(path) = part else { return Self::Named(part) };
        match std::fs::metadata(path) {
            Ok(meta) => {
                Self::Device { is_block: meta.file_type().is_block_device(), number: meta.rdev() }
            }
            // It was there a moment ago; whoever wants it is told when it is not.
            Err(_) => Self::Named(part),
        }
    }
}

/// Whether a text is `VENDOR/CLASS=DEVICE`, as the interface's specification has it.
fn is_cdi_name(text: &str) -> bool {
    let word = |text: &str, others: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || others.contains(char::from(b)))
    };
    let parts = text.split_once('=').and_then(|(kind, device)| {
        let (vendor, class) = kind.split_once('/')?;
        Some((vendor, class, device))
    });
    parts.is_some_and(|(vendor, class, device)| {
        vendor.contains('.') && word(vendor, "_-.") && word(class, "_-") && word(device, "_-.:")
    })
}

/// What one task holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit(Vec<Part>);

impl Unit {
    fn parse(text: &str) -> Result<Self, DeviceError> {
        let found = text.split('+').count();
        if found > PARTS_MAX {
            return Err(DeviceError::TooManyParts { found });
        }
        text.split('+').map(Part::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The devices that an owner opens, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(BTreeMap<String, Vec<Unit>>);

impl Devices {
    /// Reads `NAME=UNIT,…` texts, each with a name of its own. Files are not looked at.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, DeviceError> {
        let mut devices = Self::default();
        for text in texts {
            let form = || DeviceError::Form { text: shown(text) };
            let (name, units) = text.split_once('=').ok_or_else(form)?;
            if units.is_empty() {
                return Err(form());
            }
            if !is_name(name) {
                return Err(DeviceError::Name { name: shown(name) });
            }
            let units = units.split(',').map(Unit::parse).collect::<Result<_, _>>()?;
            if devices.0.insert(name.to_owned(), units).is_some() {
                return Err(DeviceError::NameTwice { name: name.to_owned() });
            }
        }
        let found = devices.0.values().map(Vec::len).sum();
        if found > DEVICES_MAX as usize {
            return Err(DeviceError::TooMany { found });
        }
        devices.are_apart(Identity::Named).map(|()| devices)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of each unit.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let units = self.0.iter().flat_map(|(name, units)| units.iter().map(move |_| name));
        units.cloned().collect()
    }

    /// The units that a task holds.
    ///
    /// # Errors
    /// When one of them is not opened.
    pub fn units(&self, held: &Held) -> Result<Vec<Unit>, DeviceError> {
        let wanted =
            held.iter().flat_map(|(name, units)| units.iter().map(move |unit| (name, *unit)));
        let unit = |(name, unit): (&String, u32)| {
            let found = self.0.get(name).and_then(|units| units.get(unit as usize));
            found.cloned().ok_or_else(|| DeviceError::Gone { name: name.clone(), unit })
        };
        wanted.map(unit).collect()
    }

    /// Looks at the files: each has to be a device that tasks of this engine may open. Links are followed, once and for
    /// all.
    pub(super) fn open(self, engine: &Engine) -> Result<Self, DeviceError> {
        let mut opened = Self::default();
        for (name, units) in self.0 {
            let units = units.into_iter().map(|unit| resolve(unit, engine));
            opened.0.insert(name, units.collect::<Result<_, _>>()?);
        }
        // Two links may lead to one device, and two files be one.
        opened.are_apart(Identity::of).map(|()| opened)
    }

    /// What is a unit's own must be no part of another.
    fn are_apart<'a>(
        &'a self,
        identity: impl Fn(&'a Part) -> Identity<'a>,
    ) -> Result<(), DeviceError> {
        let units: Vec<&'a Unit> = self.0.values().flatten().collect();
        let mut own = BTreeSet::new();
        for unit in &units {
            if let Some(twice) = unit.0.first().filter(|first| !own.insert(identity(first))) {
                return Err(DeviceError::PartTwice { part: twice.shown() });
            }
        }
        for unit in &units {
            let mut parts = BTreeSet::new();
            let shared = unit.0.iter().enumerate();
            let mut twice = shared.filter(|(n, part)| {
                *n > 0 && own.contains(&identity(part)) || !parts.insert(identity(part))
            });
            if let Some((_, part)) = twice.next() {
                return Err(DeviceError::PartTwice { part: part.shown() });
            }
        }
        Ok(())
    }
}

fn resolve(unit: Unit, engine: &Engine) -> Result<Unit, DeviceError> {
    let part = |part| match part {
        Part::File(path) => {
            let real = path
                .canonicalize()
                .map_err(|error| DeviceError::Absent { path: path.clone(), kind: error.kind() })?;
            look_at(&real, &engine.user)?;
            // It has the same path in the container, where others are the task's own directories.
            if !real.starts_with("/dev") {
                return Err(DeviceError::Outside { path: real });
            }
            Ok(Part::File(real))
        }
        Part::Cdi(part) => {
            let name = || engine.name.clone();
            let Some(cdi) = &engine.cdi else {
                return Err(DeviceError::NoCdi { engine: name(), part });
            };
            if let Some(known) = cdi.known.as_ref().filter(|known| !known.contains(&part)) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let known = shown(&known.join(", "));
                return Err(DeviceError::Unknown { engine: name(), part, known });
            }
            Ok(Part::Cdi(part))
        }
    };
    unit.0.into_iter().map(part).collect::<Result<_, _>>().map(Unit)
}

/// How a task comes to open a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As the user it is.
    Itself,
    /// In this group.
    Group(u32),
}

/// Whether a file is a device, and how tasks may open it.
fn look_at(path: &Path, user: &User) -> Result<Way, DeviceError> {
    let meta = std::fs::metadata(path)
        .map_err(|error| DeviceError::Absent { path: path.to_owned(), kind: error.kind() })?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(DeviceError::NoDevice { path: path.to_owned() });
    }
    let (mode, owner, group) = (meta.mode() & 0o777, meta.uid(), meta.gid());
    way_in(mode, (owner, group), user).ok_or_else(|| {
        let path = path.to_owned();
        DeviceError::Shut { path, mode, owner, group, user: user.host.0 }
    })
}

/// How a user may read and write a file, as the kernel decides it: by the first class that the user is in.
fn way_in(mode: u32, (owner, group): (u32, u32), user: &User) -> Option<Way> {
    let lets = |class: u32| (mode >> class) & READ_WRITE == READ_WRITE;
    let (uid, gid) = user.host;
    if owner == uid {
        return lets(6).then_some(Way::Itself);
    }
    if group == gid {
        return lets(3).then_some(Way::Itself);
    }
    if lets(0) {
        return Some(Way::Itself);
    }
    // Root's group may write much of an image, too.
    (lets(3) && user.has_host_groups && group != 0).then_some(Way::Group(group))
}

/// What the engine is told of a task's devices.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) files: Vec<DeviceMapping>,
    pub(super) requests: Vec<DeviceRequest>,
    pub(super) groups: Vec<String>,
}

/// Looks once more at the files of a task's devices, which come and go with their hardware.
pub(super) fn grant(units: &[Unit], engine: &Engine) -> Result<Granted, DeviceError> {
    let parts: BTreeSet<&Part> = units.iter().flat_map(|unit| &unit.0).collect();
    let (mut granted, mut groups, mut names) = (Granted::default(), BTreeSet::new(), Vec::new());
    for part in parts {
        match part {
            Part::File(path) => {
                if let Way::Group(group) = look_at(path, &engine.user)? {
                    groups.insert(group);
                }
                let path = Some(path.display().to_string());
                granted.files.push(DeviceMapping {
                    path_on_host: path.clone(),
                    path_in_container: path,
                    // Not `m`: it makes no further device files.
                    cgroup_permissions: Some("rw".to_owned()),
                });
            }
            Part::Cdi(name) => names.push(name.clone()),
        }
    }
    if !names.is_empty() {
        granted.requests.push(DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(names),
            ..Default::default()
        });
    }
    granted.groups = groups.iter().map(u32::to_string).collect();
    Ok(granted)
}

/// A text from the command line, short enough to be shown.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::container::host::Cdi;

    fn parse(texts: &[&str]) -> Result<Devices, DeviceError> {
        Devices::parse(texts.iter().copied())
    }

    fn user(host: (u32, u32), has_host_groups: bool) -> User {
        User { inside: host, outside: None, host, has_host_groups }
    }

    fn engine(cdi: Option<&[&str]>) -> Engine {
        let known = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        Engine {
            name: "Engine 1.0".to_owned(),
            socket: PathBuf::new(),
            cpu_milli: 1_000,
            is_cgroup_v2: true,
            has_own_cgroups: false,
            cdi: cdi.map(|names| Cdi { known: known(names) }),
            user: user((65_534, 65_534), true),
            owner: String::new(),
        }
    }

    fn held(name: &str, units: &[u32]) -> Held {
        Held::from([(name.to_owned(), units.iter().copied().collect())])
    }

    #[test]
    fn units_are_apart_by_commas_and_parts_of_one_by_plus_signs() {
        let devices = parse(&[
            "gpu=/dev/dri/renderD128+/dev/kfd,/dev/dri/renderD129+/dev/kfd",
            "nv=nvidia.com/gpu=0,nvidia.com/gpu=GPU-1:2",
        ])
        .unwrap();
        assert_eq!(devices.names(), ["gpu", "gpu", "nv", "nv"]);
        let file = |path: &str| Part::File(path.into());
        let second = devices.units(&held("gpu", &[1])).unwrap();
        assert_eq!(second, [Unit(vec![file("/dev/dri/renderD129"), file("/dev/kfd")])]);
        let cdi = devices.units(&held("nv", &[0])).unwrap();
        assert_eq!(cdi, [Unit(vec![Part::Cdi("nvidia.com/gpu=0".to_owned())])]);
        let gone = devices.units(&held("gpu", &[2])).unwrap_err();
        assert_eq!(gone.to_string(), "this node opens device 2 of `gpu` no more");
        assert!(devices.units(&held("tpu", &[0])).is_err());
        assert!(parse(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_opened_is_named_with_the_reason() {
        for (texts, expected) in [
            (
                &["gpu"][..],
                "`gpu` names no devices: write `NAME=PATH`, or `NAME=PATH,PATH` for several that are alike",
            ),
            (
                &["gpu="],
                "`gpu=` names no devices: write `NAME=PATH`, or `NAME=PATH,PATH` for several that are alike",
            ),
            (
                &["GPU=/dev/x"],
                "`GPU` is not a name of a device: begin with a small letter, then small letters, digits and `-`, at most 32",
            ),
            (
                &["g=/dev/x", "g=/dev/y"],
                "device `g` is opened twice: write several that are alike as `g=PATH,PATH`",
            ),
            (&["g=/dev/x,/dev/x"], "`/dev/x` is opened twice: each task would take it for its own"),
            (
                &["g=/dev/x", "h=/dev/x"],
                "`/dev/x` is opened twice: each task would take it for its own",
            ),
            (
                &["g=/dev/x", "h=/dev/y+/dev/x"],
                "`/dev/x` is opened twice: each task would take it for its own",
            ),
            (
                &["g=/dev/x+/dev/k+/dev/k"],
                "`/dev/k` is opened twice: each task would take it for its own",
            ),
            (
                &["g=x"],
                "`x` is neither an absolute path such as `/dev/dri/renderD128` nor a CDI name such as `nvidia.com/gpu=0`",
            ),
            (
                &["g=/dev/x,"],
                "`` is neither an absolute path such as `/dev/dri/renderD128` nor a CDI name such as `nvidia.com/gpu=0`",
            ),
            (
                &["g=nvidia/gpu=0"],
                "`nvidia/gpu=0` is neither an absolute path such as `/dev/dri/renderD128` nor a CDI name such as `nvidia.com/gpu=0`",
            ),
            (
                &["g=nvidia.com/gpu="],
                "`nvidia.com/gpu=` is neither an absolute path such as `/dev/dri/renderD128` nor a CDI name such as `nvidia.com/gpu=0`",
            ),
        ] {
            assert_eq!(parse(texts).unwrap_err().to_string(), expected, "{texts:?}");
        }
        let many: Vec<String> = (0..=DEVICES_MAX).map(|n| format!("/dev/d{n}")).collect();
        let many = parse(&[&format!("g={}", many.join(","))]);
        assert_eq!(many.unwrap_err(), DeviceError::TooMany { found: 33 });
        let parts: Vec<String> = (0..=PARTS_MAX).map(|n| format!("/dev/d{n}")).collect();
        let parts = parse(&[&format!("g={}", parts.join("+"))]);
        assert_eq!(parts.unwrap_err(), DeviceError::TooManyParts { found: 17 });
    }

    #[test]
    fn only_devices_that_tasks_may_open_are_opened_and_links_to_them_are_followed() {
        let open = |text: &str| parse(&[text]).unwrap().open(&engine(None));
        assert_eq!(open("null=/dev/null").unwrap(), parse(&["null=/dev/null"]).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let linked = open(&format!("null={}", path("link"))).unwrap();
        assert_eq!(linked, parse(&["null=/dev/null"]).unwrap());
        let twice = open(&format!("null=/dev/null,{}", path("link"))).unwrap_err();
        assert_eq!(twice, DeviceError::PartTwice { part: "/dev/null".to_owned() });
        let file = open(&format!("null={}", path("file"))).unwrap_err();
        assert!(file.to_string().ends_with("/file` is not a device"), "{file}");
        let absent = open(&format!("null={}", path("absent"))).unwrap_err();
        assert!(
            absent.to_string().ends_with("/absent` cannot be used: entity not found"),
            "{absent}"
        );
    }

    #[test]
    fn files_of_one_device_are_one_device_whatever_their_names() {
        let number = |part: &Part| match part.shown().as_str() {
            "/dev/a" | "/dev/alias" => 1,
            "/dev/b" | "/dev/block" => 2,
            _ => 3,
        };
        for (text, twice) in [
            ("g=/dev/a,/dev/b", None),
            ("g=/dev/a,/dev/alias", Some("/dev/alias")),
            ("g=/dev/a,/dev/b+/dev/alias", Some("/dev/alias")),
            ("g=/dev/c+/dev/a+/dev/alias", Some("/dev/alias")),
            ("g=/dev/a+/dev/alias", Some("/dev/alias")),
            // What is shared is the same for all.
            ("g=/dev/a+/dev/c,/dev/b+/dev/c", None),
            // Files of characters and of blocks have numbers of their own.
            ("g=/dev/b,/dev/block", None),
        ] {
            let devices = parse(&[text]).unwrap();
            let apart = devices.are_apart(|part| {
                let is_block = part.shown() == "/dev/block";
                Identity::Device { is_block, number: number(part) }
            });
            let expected = twice.map(|part| DeviceError::PartTwice { part: part.to_owned() });
            assert_eq!(apart.err(), expected, "{text}");
        }
        let [null, zero, absent] =
            ["/dev/null", "/dev/zero", "/dev/no-such"].map(|path| Part::File(path.into()));
        assert!(matches!(Identity::of(&null), Identity::Device { is_block: false, .. }));
        assert_ne!(Identity::of(&null), Identity::of(&zero));
        assert_eq!(Identity::of(&absent), Identity::Named(&absent));
    }

    #[test]
    fn names_of_vendors_are_for_engines_that_know_them() {
        let open = |cdi| parse(&["g=nvidia.com/gpu=0"]).unwrap().open(&engine(cdi));
        assert!(open(Some(&["nvidia.com/gpu=0"])).is_ok());
        let told = open(None).unwrap_err().to_string();
        assert_eq!(
            told,
            "Engine 1.0 has no Container Device Interface, by which `nvidia.com/gpu=0` would be found: name the device by its path"
        );
        let told = open(Some(&["a.b/c=1", "a.b/c=2"])).unwrap_err().to_string();
        assert_eq!(
            told,
            "Engine 1.0 finds no device `nvidia.com/gpu=0`; it finds: a.b/c=1, a.b/c=2"
        );
    }

    #[test]
    fn a_group_is_added_only_where_nothing_else_opens_a_device_and_never_roots() {
        let nobody = user((65_534, 65_534), true);
        let mapped = user((165_534, 165_534), false);
        let own = user((1_000, 1_000), true);
        for (mode, ids, who, expected) in [
            (0o666, (0, 0), &nobody, Some(Way::Itself)),
            (0o666, (0, 44), &nobody, Some(Way::Itself)),
            (0o660, (0, 44), &nobody, Some(Way::Group(44))),
            (0o640, (0, 44), &nobody, None),
            (0o660, (0, 0), &nobody, None),
            (0o600, (0, 44), &nobody, None),
            (0o664, (0, 44), &nobody, Some(Way::Group(44))),
            (0o660, (0, 44), &mapped, None),
            (0o666, (0, 44), &mapped, Some(Way::Itself)),
            (0o600, (1_000, 0), &own, Some(Way::Itself)),
            (0o066, (1_000, 0), &own, None),
            (0o606, (0, 1_000), &own, None),
            (0o660, (0, 1_000), &own, Some(Way::Itself)),
        ] {
            assert_eq!(way_in(mode, ids, who), expected, "{mode:o} {ids:?} {who:?}");
        }
    }

    #[test]
    fn the_engine_is_told_each_file_once_and_no_right_to_make_more() {
        let devices = parse(&["a=/dev/null+/dev/zero,/dev/full+/dev/zero", "c=a.b/c=1"]).unwrap();
        let both = Held::from([("a".to_owned(), [0, 1].into()), ("c".to_owned(), [0].into())]);
        let granted = grant(&devices.units(&both).unwrap(), &engine(Some(&["a.b/c=1"]))).unwrap();
        let paths: Vec<_> = granted.files.iter().map(|file| file.path_on_host.as_deref()).collect();
        assert_eq!(paths, [Some("/dev/full"), Some("/dev/null"), Some("/dev/zero")]);
        assert!(granted.files.iter().all(|file| file.path_in_container == file.path_on_host
            && file.cgroup_permissions.as_deref() == Some("rw")));
        assert_eq!(granted.requests[0].device_ids, Some(vec!["a.b/c=1".to_owned()]));
        assert!(granted.groups.is_empty());
        let none = grant(&[], &engine(None)).unwrap();
        assert!(none.files.is_empty() && none.requests.is_empty() && none.groups.is_empty());
    }
}
