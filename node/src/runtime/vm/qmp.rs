//! The QEMU Machine Protocol: JSON lines over a UNIX socket.
//!
//! A guest that has broken out of its machine speaks here, so lines are bounded, only what is expected is kept, and no answer
//! is waited for without an end.
//!
//! Specification: QEMU, `docs/interop/qmp-spec.rst`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Longest line that QEMU may send, in bytes; with a longer one the connection ends.
const LINE_LEN_MAX: u64 = 1 << 20;
/// Answers that wait to be read. One command is under way at a time, so more than one is a defect of QEMU.
const ANSWERS: usize = 4;
/// How long QEMU may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QmpError {
    /// The connection has ended: QEMU has.
    #[error("qemu has closed its control connection")]
    Closed,
    /// No answer came in time.
    #[error("qemu does not answer")]
    Silent,
    /// QEMU refused.
    #[error("qemu refuses: {0}")]
    Refused(String),
}

/// A line of QEMU's.
#[derive(Debug, PartialEq)]
enum Line {
    Greeting,
    Answer { id: u64, result: Result<Value, String> },
    Other,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

fn parse(line: &[u8]) -> Line {
    let Ok(raw) = serde_json::from_slice::<Raw>(line) else { return Line::Other };
    match raw {
        Raw { greeting: Some(_), .. } => Line::Greeting,
        Raw { id: Some(id), error: Some(error), .. } => {
            Line::Answer { id, result: Err(crate::runtime::bounded(error.desc)) }
        }
        Raw { id: Some(id), returned: Some(value), .. } => Line::Answer { id, result: Ok(value) },
        _ => Line::Other,
    }
}

/// A connection to one QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    to: OwnedWriteHalf,
    answers: mpsc::Receiver<(u64, Result<Value, String>)>,
    n_commands: u64,
}

impl Qmp {
    /// Takes a fresh connection and agrees on the protocol.
    pub(super) async fn begin(stream: UnixStream) -> Result<Self, QmpError> {
        let (from, to) = stream.into_split();
        let (send_answer, answers) = mpsc::channel(ANSWERS);
        tokio::spawn(read(from, send_answer));
        let mut qmp = Self { to, answers, n_commands: 0 };
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Asks for something and waits for the answer. Not cancel-safe: an answer that is not waited for is thrown away by the
    /// next call.
    pub(super) async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        self.execute_with(command, &serde_json::json!({})).await
    }

    /// As [`Self::execute`], with arguments.
    pub(super) async fn execute_with(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> Result<Value, QmpError> {
        self.n_commands += 1;
        let id = self.n_commands;
        let message = serde_json::json!({"execute": command, "arguments": arguments, "id": id});
        let talk = async {
            let line = format!("{message}\n");
            self.to.write_all(line.as_bytes()).await.map_err(|_| QmpError::Closed)?;
            loop {
                match self.answers.recv().await {
                    Some((answered, result)) if answered == id => {
                        return result.map_err(QmpError::Refused);
                    }
                    Some(_) => {}
                    None => return Err(QmpError::Closed),
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, talk).await.unwrap_or(Err(QmpError::Silent))
    }
}

async fn read(from: OwnedReadHalf, answers: mpsc::Sender<(u64, Result<Value, String>)>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut from).take(LINE_LEN_MAX);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(_) if line.ends_with(b"\n") => {}
            _ => return,
        }
        match parse(&line) {
            Line::Answer { id, result } => {
                // A QEMU that answers without being asked is not listened to.
                drop(answers.try_send((id, result)));
            }
            Line::Greeting | Line::Other => {}
        }
    }
}

/// What a machine does, out of `query-status`, such as `running` or `inmigrate`.
pub(super) fn run_state(answer: &Value) -> &str {
    answer["status"].as_str().unwrap_or_default()
}

/// How the saving of a machine stands, out of `query-migrate`: `None` while it goes on, else whether it is whole, and if not,
/// why in QEMU's words. One that has not begun is not whole.
pub(super) fn saved(answer: &Value) -> Option<Result<(), String>> {
    match answer["status"].as_str() {
        Some("completed") => Some(Ok(())),
        None | Some("none" | "failed" | "cancelled") => {
            let why = answer["error-desc"].as_str().unwrap_or("it does not say why");
            Some(Err(crate::runtime::bounded(why.to_owned())))
        }
        Some(_) => None,
    }
}

/// Bytes that a machine has read from and written to its disks, out of `query-blockstats`.
pub(super) fn disk_bytes(stats: &Value) -> u64 {
    let of = |disk: &Value| {
        let count = |name: &str| disk["stats"][name].as_u64().unwrap_or(0);
        count("rd_bytes").saturating_add(count("wr_bytes"))
    };
    stats.as_array().map_or(0, |disks| disks.iter().map(of).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_and_nonsense_is_ignored() {
        assert_eq!(parse(br#"{"QMP":{"version":{},"capabilities":["oob"]}}"#), Line::Greeting);
        assert_eq!(parse(br#"{"event":"SHUTDOWN","data":{"guest":true}}"#), Line::Other);
        assert_eq!(parse(br#"{"event":"RESUME"}"#), Line::Other);
        let value = serde_json::json!({"a": 1});
        assert_eq!(
            parse(br#"{"return":{"a":1},"id":7}"#),
            Line::Answer { id: 7, result: Ok(value) }
        );
        assert_eq!(
            parse(br#"{"id":8,"error":{"class":"GenericError","desc":"no"}}"#),
            Line::Answer { id: 8, result: Err("no".to_owned()) }
        );
        for nonsense in ["", "{}", "[]", "{\"id\":-1}", "\u{0}", "{\"return\":{}}"] {
            assert_eq!(parse(nonsense.as_bytes()), Line::Other, "{nonsense}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse(deep.as_bytes()), Line::Other);
    }

    #[test]
    fn bytes_of_all_disks_are_added_up_whatever_else_is_there() {
        let stats = serde_json::json!([
            {"stats": {"rd_bytes": 10, "wr_bytes": 5}}, {"stats": {"rd_bytes": -1}}, 3,
        ]);
        assert_eq!(disk_bytes(&stats), 15);
        assert_eq!(disk_bytes(&Value::Null), 0);
    }

    #[test]
    fn the_end_of_a_saving_is_told_from_its_course_whatever_else_is_said() {
        let of = |text: &str| saved(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"status": "completed", "total-time": 88}"#), Some(Ok(())));
        let failed = r#"{"status": "failed", "error-desc": "Unable to write to socket"}"#;
        assert_eq!(of(failed), Some(Err("Unable to write to socket".to_owned())));
        assert_eq!(of(r#"{"status": "cancelled"}"#), Some(Err("it does not say why".to_owned())));
        for going_on in [r#"{"status": "active"}"#, r#"{"status": "setup"}"#, r#"{"status": "x"}"#]
        {
            assert_eq!(of(going_on), None, "{going_on}");
        }
        for not_begun in ["{}", "[]", "7", r#"{"status": 7}"#] {
            assert!(matches!(of(not_begun), Some(Err(_))), "{not_begun}");
        }
        let status = serde_json::json!({"status": "inmigrate", "running": false});
        assert_eq!((run_state(&status), run_state(&Value::Null)), ("inmigrate", ""));
    }

    #[tokio::test]
    async fn a_line_without_end_closes_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talking = tokio::spawn(Qmp::begin(ours));
        let flood = vec![b'x'; 1 << 16];
        // Writing fails once nobody listens.
        for _ in 0..64 {
            if theirs.write_all(&flood).await.is_err() {
                break;
            }
        }
        assert_eq!(talking.await.unwrap().unwrap_err(), QmpError::Closed);
    }
}
