//! What comes out of a machine, read from bytes alone by the very code that reads it from the machine: for tests that feed it
//! with anything.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;

use futures::FutureExt as _;
use tokio::sync::mpsc;

use super::chan::{UntilToken, hear};
use super::unpack::unpack;

/// The words at a machine's control port, each as it is understood. The bytes come in two parts, cut at `cut`.
#[must_use]
pub fn words(bytes: &[u8], cut: usize) -> Vec<String> {
    // No more words than bytes, so that there is always room.
    let (send, mut receive) = mpsc::channel(bytes.len() + 1);
    let mut line = Vec::new();
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    for part in [first, second] {
        let heard = hear(part, &mut line, &send).now_or_never();
        assert_eq!(heard, Some(Ok(())), "somebody listens, and there is room");
    }
    std::iter::from_fn(|| receive.try_recv().ok()).map(|word| format!("{word:?}")).collect()
}

/// What of a stream is passed on, and whether its token came. The bytes come in parts of `step`.
#[must_use]
pub fn stream(bytes: &[u8], token: &str, step: usize) -> (Vec<u8>, bool) {
    let mut until = UntilToken::new(token);
    let mut passed = Vec::new();
    for part in bytes.chunks(step.max(1)) {
        passed.extend(until.take(part));
    }
    let is_over = until.is_over();
    passed.extend(until.finish());
    (passed, is_over)
}

/// Unpacks an output of these bytes, which goes through `file`, into a directory, with at most `bytes_max` bytes in files.
///
/// # Errors
/// Why it is refused.
pub fn output(mut file: File, bytes: &[u8], work: &Path, bytes_max: u64) -> Result<(), String> {
    let written = file.write_all(bytes).and_then(|()| file.rewind());
    written.map_err(|error| error.to_string())?;
    unpack(file, work, bytes_max).map_err(|error| error.to_string())
}
