//! The user's terminal: its size, its keys one by one, and how it was before.

use std::io::{self, Read as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use super::Window;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Pieces of input that wait; whoever types waits when the task does not read.
const QUEUE: usize = 2;

/// The size of the terminal on standard input; nothing when there is none.
pub(super) fn window() -> Option<Window> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    Some(Window { columns: size.ws_col, rows: size.ws_row })
}

/// The terminal on standard input, whose keys go to the task as they are. Dropped, it is as it was before.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// What comes on standard input, until it ends. A thread of its own reads it: a read cannot be given up, and ends with the
/// process at the latest.
pub(super) fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (keys, typed) = mpsc::channel(QUEUE);
    let reading = move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match io::stdin().lock().read(&mut chunk) {
                Ok(n) if n > 0 => {
                    if keys.blocking_send(chunk[..n].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Without a thread there is no input: the same as an end of it.
    if let Err(error) = std::thread::Builder::new().name("keyboard".into()).spawn(reading) {
        tracing::warn!(%error, "standard input is not read");
    }
    typed
}
