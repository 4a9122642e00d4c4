//! A bar for bytes on their way, or a sign of life for work whose end is not known: on standard error, when a person watches.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What is shorter is over before anyone could look, in bytes.
const BYTES_MIN: u64 = 16 << 20;
/// How often the sign of life moves.
const TICK: Duration = Duration::from_millis(120);

/// Shown until it is dropped. Clones are the same bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Of so many bytes.
    pub(crate) fn bytes(what: &str, total: u64) -> Self {
        if total < BYTES_MIN || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let form = "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style =
            ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
        Self(Some(bar.with_message(what.to_owned())))
    }

    /// Of work whose end is not known.
    pub(crate) fn work(what: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// So many bytes more are done.
    pub(crate) fn add(&self, bytes: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes as u64);
        }
    }

    /// Takes it off the screen.
    pub(crate) fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
