//! Whether a signed token of a provider is good, and what it says.
//!
//! Pure: keys and the time are given. Only signatures with public keys count, whatever the token itself asks for; a token for one
//! use is never good for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use openidconnect::core::{CoreJsonWebKey, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{
    JsonWebKey as _, JsonWebKeyAlgorithm, JsonWebKeyUse as _, JwsSigningAlgorithm as _,
};
use serde::Deserialize;
use serde_json::Value;

use super::rules::Claims;

/// Longest token in bytes that is looked at; a longer one is refused.
pub(crate) const TOKEN_LEN_MAX: usize = 16 << 10;
/// Keys of one provider that are tried on a token that names none; further ones are not.
const KEYS_MAX: usize = 16;
/// How far the clocks of provider and node may be apart, in seconds.
pub(crate) const SKEW_S: u64 = 60;
/// How long a word that somebody has logged out is good when it does not say so, in seconds.
const LOGOUT_S: u64 = 120;
/// Longest issuer or subject in bytes; a token with a longer one is refused.
const ID_LEN_MAX: usize = 255;
/// What a token that says that somebody has logged out is about.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What a token is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use<'a> {
    /// To say who has logged in. The nonce is that of the login, where it began with one.
    Login { nonce: Option<&'a str> },
    /// To act as somebody at this node.
    Access,
    /// To say that somebody has logged out.
    Logout,
}

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    /// It is for one of these.
    pub(crate) audiences: &'a [String],
    pub(crate) used_for: Use<'a>,
}

/// Why a token is not good. It never holds any of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is no signed token of at most {TOKEN_LEN_MAX} bytes")]
    Form,
    #[error("the token is signed in a way that is not taken")]
    Algorithm,
    #[error("the token names a key that its provider does not have")]
    UnknownKey,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token is of another issuer than {expected}")]
    Issuer { expected: String },
    #[error("the token is for somebody else, not for {expected}")]
    Audience { expected: String },
    #[error("the token has expired {s} s ago; see whether the clocks are right")]
    Expired { s: u64 },
    #[error("the token is good only in {s} s; see whether the clocks are right")]
    NotYet { s: u64 },
    #[error("the token belongs to another login")]
    Nonce,
    #[error("the token says of nobody who it is")]
    Subject,
    #[error("the token is for another use")]
    Kind,
}

#[derive(Deserialize)]
struct Header {
    alg: CoreJwsSigningAlgorithm,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// The claims of a token, if it is good.
pub(crate) fn check(
    token: &str,
    keys: &CoreJsonWebKeySet,
    expected: Expected<'_>,
    now_ms: u64,
) -> Result<Claims, TokenError> {
    let (header, claims, signed, signature) = parts(token)?;
    let is_asymmetric = !header.alg.uses_shared_secret() && header.alg.key_type().is_some();
    if !is_asymmetric || header.crit.is_some() {
        return Err(TokenError::Algorithm);
    }
    check_kind(header.typ.as_deref(), expected.used_for)?;
    check_signature(&header, keys, signed, &signature)?;
    if text(&claims, "iss") != Some(expected.issuer) {
        return Err(TokenError::Issuer { expected: expected.issuer.to_owned() });
    }
    check_audience(&claims, expected)?;
    check_time(&claims, expected.used_for, now_ms / 1_000)?;
    check_use(&claims, expected.used_for)?;
    Ok(claims)
}

/// Who a token says it is of, unchecked: to know whose keys to check it with.
pub(crate) fn peek_issuer(token: &str) -> Option<String> {
    let (_, claims, _, _) = parts(token).ok()?;
    text(&claims, "iss").filter(|issuer| issuer.len() <= ID_LEN_MAX).map(str::to_owned)
}

/// Who a good token is about.
pub(crate) fn subject(claims: &Claims) -> Option<&str> {
    text(claims, "sub").filter(|sub| !sub.is_empty() && sub.len() <= ID_LEN_MAX)
}

/// A claim that is a text.
pub(crate) fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

fn parts(token: &str) -> Result<(Header, Claims, &str, Vec<u8>), TokenError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Form);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
    let bytes = |text: &str| BASE64.decode(text).map_err(|_| TokenError::Form);
    let claims = serde_json::from_slice(&bytes(claims)?).map_err(|_| TokenError::Form)?;
    // An algorithm that is not known is not taken, either.
    let header = serde_json::from_slice(&bytes(header)?).map_err(|_| TokenError::Algorithm)?;
    Ok((header, claims, signed, bytes(signature)?))
}

fn check_kind(typ: Option<&str>, used_for: Use<'_>) -> Result<(), TokenError> {
    let typ = typ.map(str::to_ascii_lowercase);
    let typ = typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
    let is_right = match (typ, used_for) {
        (None | Some("jwt"), _) => true,
        (Some(typ), Use::Access) => typ == "at+jwt",
        (Some(typ), Use::Logout) => typ == "logout+jwt",
        (Some(_), Use::Login { .. }) => false,
    };
    if is_right { Ok(()) } else { Err(TokenError::Kind) }
}

fn check_signature(
    header: &Header,
    keys: &CoreJsonWebKeySet,
    signed: &str,
    signature: &[u8],
) -> Result<(), TokenError> {
    let fits = |key: &&CoreJsonWebKey| {
        let kid = key.key_id().map(|kid| kid.as_str());
        let is_named = header.kid.as_deref().is_none_or(|wanted| kid == Some(wanted));
        let is_for_signing = key.key_use().is_none_or(|key_use| key_use.allows_signature());
        let is_of_kind = header.alg.key_type().as_ref() == Some(key.key_type());
        let is_of_alg = match key.signing_alg() {
            JsonWebKeyAlgorithm::Algorithm(alg) => *alg == header.alg,
            JsonWebKeyAlgorithm::Unspecified => true,
            JsonWebKeyAlgorithm::Unsupported => false,
        };
        is_named && is_for_signing && is_of_kind && is_of_alg
    };
    let mut fitting = keys.keys().iter().filter(fits).take(KEYS_MAX).peekable();
    if fitting.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let is_good = |key: &CoreJsonWebKey| {
        key.verify_signature(&header.alg, signed.as_bytes(), signature).is_ok()
    };
    match header.kid {
        _ if fitting.any(is_good) => Ok(()),
        Some(_) => Err(TokenError::Signature),
        // A provider need not name its keys: then it may have a new one.
        None => Err(TokenError::UnknownKey),
    }
}

fn check_audience(claims: &Claims, expected: Expected<'_>) -> Result<(), TokenError> {
    let found: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_own = |name: &str| expected.audiences.iter().any(|own| own == name);
    let is_login = matches!(expected.used_for, Use::Login { .. });
    // Of several audiences the one that asked for the token is named; any other one's word about a login is not taken.
    let is_asked_here = match text(claims, "azp") {
        Some(azp) => is_own(azp),
        None => found.len() <= 1,
    };
    if found.iter().any(|name| is_own(name)) && (!is_login || is_asked_here) {
        return Ok(());
    }
    Err(TokenError::Audience { expected: expected.audiences.join(" or ") })
}

fn check_time(claims: &Claims, used_for: Use<'_>, now_s: u64) -> Result<(), TokenError> {
    let number = |name: &str| claims.get(name).and_then(Value::as_f64).map(|s| s.max(0.0) as u64);
    let issued = number("iat");
    let expires = match used_for {
        Use::Logout => number("exp").or_else(|| Some(issued?.saturating_add(LOGOUT_S))),
        _ => number("exp"),
    };
    let expires = expires.ok_or(TokenError::Form)?;
    if now_s >= expires.saturating_add(SKEW_S) {
        return Err(TokenError::Expired { s: now_s.saturating_sub(expires) });
    }
    let begins = issued.unwrap_or(0).max(number("nbf").unwrap_or(0));
    if begins > now_s.saturating_add(SKEW_S) {
        return Err(TokenError::NotYet { s: begins.saturating_sub(now_s) });
    }
    Ok(())
}

fn check_use(claims: &Claims, used_for: Use<'_>) -> Result<(), TokenError> {
    let is_logout = claims.get("events").is_some_and(|events| events.get(LOGOUT_EVENT).is_some());
    match used_for {
        Use::Logout if !is_logout || claims.contains_key("nonce") => Err(TokenError::Kind),
        Use::Logout if subject(claims).is_none() && text(claims, "sid").is_none() => {
            Err(TokenError::Subject)
        }
        Use::Logout => Ok(()),
        _ if is_logout => Err(TokenError::Kind),
        _ if subject(claims).is_none() => Err(TokenError::Subject),
        Use::Login { nonce: Some(nonce) } if text(claims, "nonce") != Some(nonce) => {
            Err(TokenError::Nonce)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::json;

    const NOW_S: u64 = 1_800_000_000;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn keys(ids: &[u8]) -> CoreJsonWebKeySet {
        let key = |n: &u8| {
            let x = BASE64.encode(key(*n).verifying_key().as_bytes());
            json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": format!("k{n}"), "x": x})
        };
        serde_json::from_value(json!({"keys": ids.iter().map(key).collect::<Vec<_>>()})).unwrap()
    }

    fn sign(n: u8, header: Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64.encode(key(n).sign(signed.as_bytes()).to_bytes());
        format!("{signed}.{signature}")
    }

    fn head(n: u8) -> Value {
        json!({"alg": "EdDSA", "kid": format!("k{n}"), "typ": "JWT"})
    }

    fn claims() -> Value {
        json!({"iss": "https://id.example", "sub": "ada", "aud": "me", "exp": NOW_S + 300, "iat": NOW_S, "nonce": "n"})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn login(token: &str, now_s: u64) -> Result<Claims, TokenError> {
        let audiences = ["me".to_owned()];
        let used_for = Use::Login { nonce: Some("n") };
        let expected = Expected { issuer: "https://id.example", audiences: &audiences, used_for };
        check(token, &keys(&[1, 2]), expected, now_s * 1_000)
    }

    #[test]
    fn a_good_token_is_good_within_its_time_and_a_minute_of_skew() {
        let token = sign(1, head(1), &claims());
        assert_eq!(subject(&login(&token, NOW_S).unwrap()), Some("ada"));
        assert!(login(&token, NOW_S + 300 + SKEW_S - 1).is_ok());
        assert_eq!(login(&token, NOW_S + 300 + SKEW_S), Err(TokenError::Expired { s: SKEW_S }));
        assert!(login(&token, NOW_S - SKEW_S).is_ok());
        assert!(matches!(login(&token, NOW_S - SKEW_S - 1), Err(TokenError::NotYet { .. })));
        let mut endless = claims();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(login(&sign(1, head(1), &endless), NOW_S), Err(TokenError::Form));
    }

    #[test]
    fn whoever_is_not_meant_or_not_the_issuer_is_refused() {
        let refused =
            |name, value| login(&sign(1, head(1), &with(name, value)), NOW_S).unwrap_err();
        let audience = TokenError::Audience { expected: "me".to_owned() };
        assert_eq!(refused("aud", json!("you")), audience);
        assert_eq!(refused("aud", json!(["you", "me"])), audience, "nobody says who asked");
        assert_eq!(refused("azp", json!("you")), audience);
        assert_eq!(refused("aud", json!({})), audience);
        assert!(matches!(refused("iss", json!("https://evil.example")), TokenError::Issuer { .. }));
        assert_eq!(refused("nonce", json!("m")), TokenError::Nonce);
        assert_eq!(refused("sub", json!("")), TokenError::Subject);
        assert_eq!(refused("sub", json!("x".repeat(256))), TokenError::Subject);
        let mut both = with("aud", json!(["you", "me"]));
        both["azp"] = json!("me");
        assert!(login(&sign(1, head(1), &both), NOW_S).is_ok());
    }

    #[test]
    fn only_a_signature_of_the_providers_public_keys_counts() {
        let refused = |token: String| login(&token, NOW_S).unwrap_err();
        assert_eq!(refused(sign(3, head(3), &claims())), TokenError::UnknownKey);
        assert_eq!(refused(sign(3, head(1), &claims())), TokenError::Signature);
        let nameless = || json!({"alg": "EdDSA"});
        assert!(login(&sign(2, nameless(), &claims()), NOW_S).is_ok());
        assert_eq!(refused(sign(3, nameless(), &claims())), TokenError::UnknownKey);
        for alg in ["none", "HS256", "XX"] {
            assert_eq!(
                refused(sign(1, json!({"alg": alg, "kid": "k1"}), &claims())),
                TokenError::Algorithm
            );
        }
        assert_eq!(
            refused(sign(1, json!({"alg": "RS256", "kid": "k1"}), &claims())),
            TokenError::UnknownKey
        );
        let critical = json!({"alg": "EdDSA", "kid": "k1", "crit": ["x"]});
        assert_eq!(refused(sign(1, critical, &claims())), TokenError::Algorithm);
        let good = sign(1, head(1), &claims());
        for cut in 0..good.len() {
            assert!(login(&good[..cut], NOW_S).is_err(), "cut at {cut}");
        }
        assert_eq!(refused("x".repeat(TOKEN_LEN_MAX + 1)), TokenError::Form);
    }

    #[test]
    fn a_token_for_one_use_is_not_good_for_another() {
        let audiences = ["me".to_owned()];
        let good = |token: &str, used_for| {
            let expected =
                Expected { issuer: "https://id.example", audiences: &audiences, used_for };
            check(token, &keys(&[1]), expected, NOW_S * 1_000)
        };
        let access = sign(1, json!({"alg": "EdDSA", "typ": "at+jwt"}), &claims());
        assert!(good(&access, Use::Access).is_ok());
        assert_eq!(good(&access, Use::Login { nonce: None }), Err(TokenError::Kind));
        let mut word = with("events", json!({LOGOUT_EVENT: {}}));
        let both = sign(1, head(1), &word);
        assert_eq!(good(&both, Use::Logout), Err(TokenError::Kind), "with a nonce");
        word.as_object_mut().unwrap().remove("nonce");
        let logout = sign(1, json!({"alg": "EdDSA", "typ": "logout+jwt"}), &word);
        assert!(good(&logout, Use::Logout).is_ok());
        assert_eq!(good(&logout, Use::Access), Err(TokenError::Kind));
        let plain = sign(1, head(1), &word);
        assert_eq!(good(&plain, Use::Login { nonce: None }), Err(TokenError::Kind));
        assert_eq!(good(&sign(1, head(1), &claims()), Use::Logout), Err(TokenError::Kind));
    }
}
