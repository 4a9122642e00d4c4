//! Logins that have begun at a provider and not come back: of browsers, and of devices that show a code.
//!
//! Pure. What comes back is taken once, only in time, and only by the browser that began: a login that somebody else began is never
//! finished in a victim's browser.

use std::collections::BTreeMap;

/// Logins of browsers under way; the oldest goes for a new one.
pub(crate) const LOGINS_MAX: usize = 1_024;
/// How long somebody may take at the provider.
pub(crate) const LOGIN_MS: u64 = 10 * 60_000;
/// Logins of devices under way; no more begin beyond.
pub(crate) const DEVICES_MAX: usize = 256;
/// Longest time that a login of a device may take, whatever the provider says.
pub(crate) const DEVICE_MS_MAX: u64 = 30 * 60_000;
/// Longest pause that a provider may ask for between two questions.
const PAUSE_MS_MAX: u64 = 60_000;
/// How much longer the pause gets when the provider says so (RFC 8628 §3.5).
const SLOWER_MS: u64 = 5_000;

/// A login of a browser. Its secrets are in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) provider: String,
    /// What the provider has to put into its word about who logged in.
    pub(crate) nonce: String,
    /// What proves to the provider that this node began (PKCE).
    pub(crate) verifier: String,
    /// Where the provider sends the browser back to.
    pub(crate) redirect: String,
    /// The cookie of the browser that began.
    pub(crate) browser: String,
    pub(crate) begun_ms: u64,
}

/// A login of a device. Its code is in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) provider: String,
    pub(crate) code: String,
    pub(crate) pause_ms: u64,
    /// When the provider may be asked again.
    pub(crate) next_ms: u64,
    pub(crate) expires_ms: u64,
}

/// What is to be done about a device that asks whether its login is finished.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Poll {
    /// There is no such login, or it has taken too long.
    Gone,
    /// It asks too soon: the provider is not asked.
    Wait { ms: u64 },
    /// The provider is asked about this one.
    Ask(Device),
}

/// All that is under way.
#[derive(Default)]
pub(crate) struct Pending {
    logins: BTreeMap<String, Login>,
    devices: BTreeMap<String, Device>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (logins, devices) = (self.logins.len(), self.devices.len());
        f.debug_struct("Pending").field("logins", &logins).field("devices", &devices).finish()
    }
}

impl Pending {
    /// Begins a login of a browser under a name that nobody can guess.
    pub(crate) fn begin(&mut self, state: String, login: Login) {
        let now_ms = login.begun_ms;
        self.logins.retain(|_, login| now_ms < login.begun_ms.saturating_add(LOGIN_MS));
        while self.logins.len() >= LOGINS_MAX {
            let oldest = self.logins.iter().min_by_key(|(_, login)| login.begun_ms);
            let Some(oldest) = oldest.map(|(state, _)| state.clone()) else { break };
            self.logins.remove(&oldest);
        }
        self.logins.insert(state, login);
    }

    /// Takes the login that a browser comes back from. Whoever else has got hold of its name uses it up, and gets nothing.
    pub(crate) fn finish(&mut self, state: &str, browser: &str, now_ms: u64) -> Option<Login> {
        let login = self.logins.remove(state)?;
        let is_in_time = now_ms < login.begun_ms.saturating_add(LOGIN_MS);
        let is_same = blake3::hash(browser.as_bytes()) == blake3::hash(login.browser.as_bytes());
        (is_in_time && is_same && !browser.is_empty()).then_some(login)
    }

    /// Begins a login of a device; false when too many are under way.
    pub(crate) fn begin_device(&mut self, id: String, mut device: Device, now_ms: u64) -> bool {
        self.devices.retain(|_, device| now_ms < device.expires_ms);
        if self.devices.len() >= DEVICES_MAX {
            return false;
        }
        device.pause_ms = device.pause_ms.clamp(1, PAUSE_MS_MAX);
        device.expires_ms = device.expires_ms.min(now_ms.saturating_add(DEVICE_MS_MAX));
        device.next_ms = now_ms.saturating_add(device.pause_ms);
        self.devices.insert(id, device);
        true
    }

    /// Whether the provider may be asked about a device now; the time until the next question begins.
    pub(crate) fn poll(&mut self, id: &str, now_ms: u64) -> Poll {
        let Some(device) = self.devices.get_mut(id) else { return Poll::Gone };
        if now_ms >= device.expires_ms {
            self.devices.remove(id);
            return Poll::Gone;
        }
        if now_ms < device.next_ms {
            return Poll::Wait { ms: device.next_ms - now_ms };
        }
        device.next_ms = now_ms.saturating_add(device.pause_ms);
        Poll::Ask(device.clone())
    }

    /// The provider wants to be asked less often.
    pub(crate) fn slow_down(&mut self, id: &str, now_ms: u64) {
        if let Some(device) = self.devices.get_mut(id) {
            device.pause_ms = device.pause_ms.saturating_add(SLOWER_MS).min(PAUSE_MS_MAX);
            device.next_ms = now_ms.saturating_add(device.pause_ms);
        }
    }

    /// A login of a device is over.
    pub(crate) fn end_device(&mut self, id: &str) {
        self.devices.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(browser: &str, begun_ms: u64) -> Login {
        let text = |text: &str| text.to_owned();
        let (nonce, verifier, redirect) = (text("n"), text("v"), text("http://127.0.0.1/cb"));
        Login { provider: text("p"), nonce, verifier, redirect, browser: text(browser), begun_ms }
    }

    #[test]
    fn a_login_comes_back_once_in_time_and_to_the_browser_that_began() {
        let mut pending = Pending::default();
        pending.begin("s".to_owned(), login("b", 0));
        assert!(pending.finish("t", "b", 1).is_none());
        assert!(pending.finish("s", "b", 1).is_some() && pending.finish("s", "b", 2).is_none());
        for (browser, now_ms) in [("c", 1), ("", 1), ("b", LOGIN_MS)] {
            pending.begin("s".to_owned(), login("b", 0));
            assert!(pending.finish("s", browser, now_ms).is_none(), "{browser} {now_ms}");
        }
        pending.begin("s".to_owned(), login("", 0));
        assert!(pending.finish("s", "", 1).is_none(), "no cookie is no proof");
        for n in 0..2 * LOGINS_MAX {
            pending.begin(n.to_string(), login("b", n as u64));
        }
        assert!(pending.logins.len() == LOGINS_MAX && pending.logins.contains_key("2047"));
    }

    #[test]
    fn a_device_asks_no_more_often_than_the_provider_wants() {
        let mut pending = Pending::default();
        let (provider, code) = ("p".to_owned(), "c".to_owned());
        let device = Device { provider, code, pause_ms: 5_000, next_ms: 0, expires_ms: u64::MAX };
        assert!(pending.begin_device("d".to_owned(), device.clone(), 0));
        assert!(pending.poll("d", 0) == Poll::Wait { ms: 5_000 });
        assert!(matches!(pending.poll("d", 5_000), Poll::Ask(_)));
        assert!(pending.poll("d", 5_001) == Poll::Wait { ms: 4_999 });
        pending.slow_down("d", 6_000);
        assert!(pending.poll("d", 10_000) == Poll::Wait { ms: 6_000 });
        assert!(pending.poll("d", DEVICE_MS_MAX) == Poll::Gone, "whatever the provider says");
        for n in 0..DEVICES_MAX {
            assert!(pending.begin_device(n.to_string(), device.clone(), 0));
        }
        assert!(!pending.begin_device("more".to_owned(), device, 0));
    }
}
