//! Devices that do no harm.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Ended;

/// A device file of the test's own beside those of the host: another name of a device that does nothing when it is opened.
/// Whoever may open the host's own is not changed. Dropping it removes it.
#[derive(Debug)]
pub struct Device(PathBuf);

/// A device that most hosts have, and that does nothing when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    /// The door to file systems of users.
    Fuse,
    /// The maker of networks of users.
    Tun,
}

impl Harmless {
    const fn minor(self) -> &'static str {
        match self {
            Self::Fuse => "229",
            Self::Tun => "200",
        }
    }
}

impl Device {
    /// Makes one with this mode and group.
    ///
    /// # Errors
    /// Why this host cannot have it.
    pub fn new(which: Harmless, mode: u32, group: u32) -> Result<Self, String> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let n = N_MADE.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/opencloud-test-{}-{n}", std::process::id()));
        let mut mknod = Command::new("mknod");
        let made = Ended::of(mknod.args(["-m", "600"]).arg(&path).args(["c", "10", which.minor()]));
        if made.code != 0 {
            return Err(format!("no device can be made here: {}", made.stderr.trim()));
        }
        let device = Self(path);
        let told = |error: std::io::Error| format!("no {which:?} device here: {error}");
        fs::OpenOptions::new().read(true).write(true).open(&device.0).map_err(told)?;
        chown(&device.0, None, Some(group)).map_err(told)?;
        fs::set_permissions(&device.0, fs::Permissions::from_mode(mode)).map_err(told)?;
        Ok(device)
    }

    /// Where it is, on the host and in a task that holds it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same as text.
    ///
    /// # Panics
    /// Never: its name is plain.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.to_str().expect("its name is plain")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may be gone.
        let _ = fs::remove_file(&self.0);
    }
}
