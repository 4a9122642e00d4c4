//! A provider of identities that says whatever a test wants, true or false: real ones cannot be made to lie.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::now_ms;

/// What it says.
#[derive(Debug, Default)]
pub struct Script {
    /// Number of the key that it signs with.
    pub signs_with: u8,
    /// Numbers of the keys that it shows.
    pub shows: Vec<u8>,
    /// Its word about who logged in, beside who it is itself, for whom and when.
    pub claims: Value,
    /// What the login that is under way sent as its proof (PKCE).
    pub challenge: String,
    /// Whether the person at a device has finished.
    pub is_device_done: bool,
    /// For how many seconds its word is good, where it gives a token to ask again with, too.
    pub lasts_s: Option<u64>,
    /// Whether it has nobody any more.
    pub is_gone: bool,
    /// Whether it answers questions for tokens with a failure of its own.
    pub is_failing: bool,
    /// How often it was asked again about a login.
    pub asked_again: u32,
    /// The one token to ask again with that it takes; each is good once.
    again: String,
    /// Codes that were used.
    used: BTreeSet<String>,
    /// How often its keys were fetched.
    pub fetched: u32,
}

/// The provider, at a port of this machine. It ends when it is dropped.
#[derive(Debug)]
pub struct Provider {
    /// Its address.
    pub issuer: String,
    script: Arc<Mutex<Script>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// One with one key, for the client `node` with the secret `s3cret`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let issuer = format!("http://{}", listener.local_addr().expect("it has an address"));
        let script = Script {
            signs_with: 1,
            shows: vec![1],
            claims: json!({"sub": "s-1"}),
            ..Script::default()
        };
        let (script, is_over) = (Arc::new(Mutex::new(script)), Arc::<AtomicBool>::default());
        let (own, over, at) = (Arc::clone(&script), Arc::clone(&is_over), issuer.clone());
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // Whoever goes away in the middle gets no answer.
                let _ = serve(socket, &at, &own);
            }
        });
        Self { issuer, script, is_over, thread: Some(thread) }
    }

    /// Changes what it says.
    pub fn say<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token signed by it, with claims in the place of the usual ones.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.say(|script| sign(&self.issuer, script.signs_with, claims))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it up to see that; where that fails it is gone already.
        let _ = TcpStream::connect(self.issuer.trim_start_matches("http://"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn sign(issuer: &str, n: u8, more: &Value) -> String {
    let now = now_ms() / 1_000;
    let mut claims = json!({"iss": issuer, "aud": "node", "iat": now, "exp": now + 300});
    for (name, value) in more.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    let header = json!({"alg": "EdDSA", "kid": format!("k{n}")});
    let part = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = BASE64.encode(key(n).sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

fn serve(mut socket: TcpStream, issuer: &str, script: &Mutex<Script>) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (path, body) = loop {
        let n = socket.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            if n == 0 || body.len() >= length.unwrap_or(0) {
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                break (path, body.to_owned());
            }
        } else if n == 0 {
            return Ok(());
        }
    };
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, answer) = answer(&path, &body, issuer, &mut script);
    let text = answer.to_string();
    write!(
        socket,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

/// Its word about somebody, and where it lasts with what to ask again.
fn tokens(issuer: &str, script: &mut Script) -> Value {
    let mut tokens = json!({"id_token": sign(issuer, script.signs_with, &script.claims)});
    if let Some(s) = script.lasts_s {
        script.again = format!("r3fresh-{}", script.asked_again);
        tokens["refresh_token"] = json!(script.again);
        tokens["expires_in"] = json!(s);
    }
    tokens
}

fn answer(path: &str, body: &str, issuer: &str, script: &mut Script) -> (u16, Value) {
    let field = |name: &str| {
        let found = body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    match path {
        "/.well-known/openid-configuration" => {
            let at = |path: &str| format!("{issuer}{path}");
            let offer = json!({
                "issuer": issuer, "authorization_endpoint": at("/auth"), "token_endpoint": at("/token"),
                "jwks_uri": at("/jwks"), "device_authorization_endpoint": at("/device"),
                "end_session_endpoint": at("/out"), "authorization_response_iss_parameter_supported": true,
            });
            (200, offer)
        }
        "/jwks" => {
            script.fetched += 1;
            let jwk = |n: &u8| {
                let x = BASE64.encode(key(*n).verifying_key().as_bytes());
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": format!("k{n}"), "x": x})
            };
            (200, json!({"keys": script.shows.iter().map(jwk).collect::<Vec<_>>()}))
        }
        "/device" => {
            let start = json!({
                "device_code": "d-secret", "user_code": "WDJB-MJHT", "verification_uri": format!("{issuer}/enter"),
                "expires_in": 300, "interval": 1,
            });
            (200, start)
        }
        "/token" if field("grant_type").contains("device_code") => match script.is_device_done {
            false => (400, json!({"error": "authorization_pending"})),
            true => (200, tokens(issuer, script)),
        },
        "/token" if script.is_failing => {
            script.asked_again += 1;
            (503, json!({}))
        }
        "/token" if field("grant_type") == "refresh_token" => {
            script.asked_again += 1;
            if script.is_gone || field("refresh_token") != script.again {
                return (400, json!({"error": "invalid_grant"}));
            }
            (200, tokens(issuer, script))
        }
        "/token" => {
            let proof = BASE64.encode(Sha256::digest(field("code_verifier").as_bytes()));
            if proof != script.challenge || !script.used.insert(field("code")) {
                return (400, json!({"error": "invalid_grant"}));
            }
            (200, tokens(issuer, script))
        }
        _ => (404, json!({})),
    }
}
