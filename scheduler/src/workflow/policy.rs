//! Reading what a step asks for: attempts, time, resources.

use super::diagnostic::Problem;
use super::read::{Reader, join};
use super::source::element;
use super::tree::Node;
use super::{Backoff, Retry};
use crate::device::{self, Counts, DEVICES_MAX};
use crate::task::{FailureClass, Needs, RuntimeKind};

/// Longest duration a document may name: 30 days, in milliseconds.
pub(super) const DURATION_MAX_MS: u64 = 30 * 86_400_000;
/// Most attempts of a step.
const ATTEMPTS_MAX: u32 = 100;

/// Reads `retry:`.
pub(super) fn retry(reader: &mut Reader, node: &Node, path: &str) -> Retry {
    const CLASSES: [FailureClass; 6] = [
        FailureClass::Infra,
        FailureClass::LostLease,
        FailureClass::Exit,
        FailureClass::Timeout,
        FailureClass::Oom,
        FailureClass::Output,
    ];
    let mut retry = Retry::default();
    let Some(fields) = reader.fields(node, path, &["attempts", "backoff", "on"]) else {
        return retry;
    };
    if let Some(node) = fields.get("attempts") {
        let attempts = reader.number(node, &fields.path("attempts"), 1, ATTEMPTS_MAX);
        retry.attempts = attempts.unwrap_or(retry.attempts);
    }
    if let Some(node) = fields.get("backoff") {
        retry.backoff = backoff(reader, node, &fields.path("backoff"), retry.backoff);
    }
    let Some(node) = fields.get("on") else {
        return retry;
    };
    retry.on.clear();
    for (n, node) in reader.list(node, &fields.path("on")).iter().enumerate() {
        let path = element(path, "on", n);
        let Some(word) = reader.text(node, &path) else {
            continue;
        };
        if let Some(class) = CLASSES.iter().find(|class| class.as_str() == word) {
            retry.on.insert(*class);
            continue;
        }
        let what = "failure class";
        let problem = Problem::UnknownWord { what, word: word.chars().take(80).collect() };
        let hint = format!("one of {}", CLASSES.map(FailureClass::as_str).join(", "));
        reader.report_hint(node.at, &path, problem, Some(hint));
    }
    retry
}

/// Reads `backoff:`; what is not said stays as in `backoff`.
pub(super) fn backoff(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    mut backoff: Backoff,
) -> Backoff {
    let known = ["initial", "factor", "max", "jitter"];
    let Some(fields) = reader.fields(node, path, &known) else {
        return backoff;
    };
    if let Some(node) = fields.get("initial") {
        let ms = reader.duration(node, &fields.path("initial"), 0, DURATION_MAX_MS);
        backoff.initial_ms = ms.unwrap_or(backoff.initial_ms);
    }
    if let Some(node) = fields.get("factor") {
        let factor = reader.milli(node, &fields.path("factor"), 1, 100);
        backoff.factor_milli = factor.unwrap_or(backoff.factor_milli);
    }
    if let Some(node) = fields.get("max") {
        let ms = reader.duration(node, &fields.path("max"), 0, DURATION_MAX_MS);
        backoff.max_ms = ms.unwrap_or(backoff.max_ms);
    }
    if let Some(node) = fields.get("jitter") {
        let jitter = reader.milli(node, &fields.path("jitter"), 0, 1);
        backoff.jitter_milli = jitter.unwrap_or(backoff.jitter_milli);
    }
    backoff
}

/// Reads `needs:`.
pub(super) fn needs(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    runtime: Option<RuntimeKind>,
) -> Needs {
    let mut needs = Needs::default();
    let known = ["cpu", "memory", "disk", "arch", "runtime", "network", "devices"];
    let Some(fields) = reader.fields(node, path, &known) else {
        return needs;
    };
    if let Some(node) = fields.get("cpu") {
        let path = fields.path("cpu");
        match reader.milli(node, &path, 0, 4096) {
            Some(0) => {
                let found = "less than 0.001".to_owned();
                reader.report(node.at, &path, Problem::Range { found, min: 1, max: 4096 });
            }
            cpu => needs.cpu_milli = cpu.map_or(needs.cpu_milli, u64::from),
        }
    }
    if let Some(node) = fields.get("memory") {
        let bytes = reader.size(node, &fields.path("memory"), 1 << 16, 1 << 50);
        needs.memory_bytes = bytes.unwrap_or(needs.memory_bytes);
    }
    if let Some(node) = fields.get("disk") {
        let bytes = reader.size(node, &fields.path("disk"), 0, 1 << 50);
        needs.disk_bytes = bytes.unwrap_or(needs.disk_bytes);
    }
    if let Some(node) = fields.get("arch")
        && let Some(arch) = reader.text(node, &fields.path("arch"))
        && reader.check_name(node.at, arch, &fields.path("arch"), "architecture")
    {
        needs.arch = Some(arch.to_owned());
    }
    if let Some(node) = fields.get("network") {
        needs.network = reader.bool(node, &fields.path("network")).unwrap_or(false);
    }
    if let Some(node) = fields.get("devices") {
        needs.devices = devices(reader, node, &fields.path("devices"), runtime);
    }
    if let Some(node) = fields.get("runtime")
        && let Some(word) = reader.text(node, &fields.path("runtime"))
        && runtime.is_none_or(|runtime| word != runtime.as_str())
    {
        // With a `run:` that is refused itself, any runtime may be meant.
        if runtime.is_some() || RuntimeKind::from_word(word).is_none() {
            let word = word.chars().take(80).collect();
            let problem = Problem::UnknownWord { what: "runtime", word };
            let hint = match runtime {
                Some(runtime) => format!("`run:` says `{}`", runtime.as_str()),
                None => format!("one of {}", RuntimeKind::ALL.map(RuntimeKind::as_str).join(", ")),
            };
            reader.report_hint(node.at, &fields.path("runtime"), problem, Some(hint));
        }
    }
    needs
}

/// Reads `devices:`, how many of each name.
fn devices(reader: &mut Reader, node: &Node, path: &str, runtime: Option<RuntimeKind>) -> Counts {
    let mut devices = Counts::new();
    for (key, node) in reader.entries(node, path) {
        let path = join(path, &key.text);
        if !device::is_name(&key.text) {
            let (what, rule) = ("name of a device", device::NAME_RULE);
            let name = key.text.chars().take(80).collect();
            reader.report(key.at, &path, Problem::Name { name, what, rule });
            continue;
        }
        if let Some(n) = reader.number(node, &path, 1, DEVICES_MAX) {
            devices.insert(key.text.clone(), n);
        }
    }
    let found = device::total(&devices);
    if found > DEVICES_MAX.into() {
        let (found, max) = (usize::try_from(found).unwrap_or(usize::MAX), DEVICES_MAX as usize);
        reader.report(node.at, path, Problem::TooMany { what: "devices", found, max });
        devices.clear();
    }
    if let Some(runtime) = runtime.filter(|kind| *kind != RuntimeKind::Container)
        && !devices.is_empty()
    {
        let hint = Some("run it as a `container`, which gets them from its node".to_owned());
        reader.report_hint(node.at, path, Problem::NoDevices { runtime }, hint);
    }
    devices
}
