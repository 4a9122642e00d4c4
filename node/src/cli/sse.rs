//! Reads server-sent events (WHATWG HTML, section 9.2) from a response of the node.

use super::error::CliError;

/// Longest event in bytes; a longer one ends the stream with an error. A run's largest event, a step opened over 100,000
/// items, stays below it.
const EVENT_LEN_MAX: usize = 64 << 20;

/// The events of a response.
#[derive(Debug)]
pub(crate) struct Events {
    response: reqwest::Response,
    parser: Parser,
}

impl Events {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, parser: Parser::default() }
    }

    /// The data of the next event; `None` when the node has ended the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, CliError> {
        loop {
            if let Some(data) = self.parser.next() {
                return Ok(Some(data));
            }
            match self.response.chunk().await? {
                None => return Ok(None),
                Some(bytes) => self.parser.push(&bytes)?,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were looked at.
    at: usize,
    data: Option<String>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let held = self.buffer.len() + self.data.as_ref().map_or(0, String::len);
        if held.saturating_add(bytes.len()) > EVENT_LEN_MAX {
            return Err(CliError::Stream { what: "an event is too long" });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        while let Some(len) = self.buffer[self.at..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[self.at..self.at + len];
            let line =
                String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            self.at += len + 1;
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(data);
                }
            } else if let Some(value) = line.strip_prefix("data:") {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match &mut self.data {
                    None => self.data = Some(value.to_owned()),
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        for piece in pieces {
            parser.push(piece.as_bytes()).unwrap();
            while let Some(data) = parser.next() {
                found.push(data);
            }
        }
        found
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = "id: 1\ndata: {\"a\":1}\n\n: heartbeat\n\ndata:x\r\ndata: y\r\n\r\ndata: cut";
        let expected = ["{\"a\":1}", "x\ny"];
        assert_eq!(parse(&[text]), expected);
        for at in 0..text.len() {
            assert_eq!(parse(&[&text[..at], &text[at..]]), expected, "cut at {at}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_LEN_MAX / 2 + 1];
        parser.push(&piece).unwrap();
        assert!(parser.push(&piece).is_err());
    }
}
