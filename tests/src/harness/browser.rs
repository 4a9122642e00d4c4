//! What a browser does, as far as logins are concerned: it keeps cookies by host and port, follows nothing unless told, and says
//! which page asks.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Cookies and headers of somebody.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// By address and name.
    cookies: BTreeMap<(String, String), String>,
    /// Sent with each request.
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// By name in lower case; the last of each.
    pub headers: BTreeMap<String, String>,
    /// As text.
    pub body: String,
}

impl Answer {
    /// Where it leads.
    ///
    /// # Panics
    /// When it leads nowhere.
    #[must_use]
    pub fn location(&self) -> &str {
        self.headers.get("location").unwrap_or_else(|| panic!("it leads nowhere: {self:?}"))
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Browser {
    /// Somebody who sends this header with each request.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks for a page.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn get(&mut self, url: &str) -> Answer {
        self.ask("GET", url, "", "")
    }

    /// Sends a form.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn form(&mut self, url: &str, body: &str) -> Answer {
        self.ask("POST", url, "application/x-www-form-urlencoded", body)
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn ask(&mut self, method: &str, url: &str, kind: &str, body: &str) -> Answer {
        let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url} is not http"));
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        let own = self.cookies.iter().filter(|((of, _), _)| of == host);
        let cookies: Vec<_> = own.map(|((_, name), value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request.push_str(&format!("Cookie: {}\r\n", cookies.join("; ")));
        }
        for (name, value) in &self.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !kind.is_empty() {
            request.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut socket = TcpStream::connect(host).unwrap_or_else(|e| panic!("{host}: {e}"));
        socket.set_read_timeout(Some(TIMEOUT)).expect("a time");
        socket.write_all(request.as_bytes()).expect("it is sent");
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).expect("there is an answer");
        self.read(host, &String::from_utf8_lossy(&bytes))
    }

    fn read(&mut self, host: &str, text: &str) -> Answer {
        let (head, body) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut headers = BTreeMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let (name, value) = (name.to_lowercase(), value.trim().to_owned());
            if name == "set-cookie"
                && let Some((cookie, value)) =
                    value.split(';').next().and_then(|c| c.split_once('='))
            {
                self.cookies.insert((host.to_owned(), cookie.to_owned()), value.to_owned());
            }
            headers.insert(name, value);
        }
        let is_chunked = headers.get("transfer-encoding").is_some_and(|v| v == "chunked");
        let body = if is_chunked { whole(body) } else { body.to_owned() };
        Answer { status: status.expect("a status"), headers, body }
    }
}

/// A body that came in chunks.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        body.push_str(chunk);
        chunks = rest.get(size + 2..).unwrap_or_default();
    }
    body
}
