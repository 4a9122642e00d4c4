//! The shapes of users and of what lets them in.

use serde_json::{Value, json};

use super::{int, list, maybe, object, of, text};

pub(super) fn people() -> Value {
    let names = |what: &str| json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true, "description": what});
    let (groups, roles) = (|| names("Groups that it is in"), || names("Roles that it has"));
    let token = json!({
        "id": text("What it is revoked by"),
        "name": text("What it is for"),
        "made_ms": of("UnixMs"),
        "expires_ms": of("UnixMs"),
    });
    let mut made = token.clone();
    made["secret"] = text("The token itself, which is shown this once");
    let person = json!({
        "org": of("OrgId"),
        "issuer": text("Who knows it: `local`, or a provider's URL"),
        "subject": text("The issuer's own name of it, which never changes"),
        "name": text("For people"),
        "groups": groups(),
        "roles": roles(),
    });
    let user = json!({
        "id": text("What it is found by"),
        "name": text("For people"),
        "issuer": text("Who knows it: `local`, or a provider's URL"),
        "subject": text("The issuer's own name of it, which never changes"),
        "groups": groups(),
        "roles": roles(),
        "made_ms": of("UnixMs"),
        "seen_ms": maybe(of("UnixMs")),
        "sessions": int("Sessions that go on"),
        "tokens": int("Access tokens that are good"),
    });
    let session = json!({
        "caller": json!({"enum": ["owner", "person"]}),
        "person": maybe(of("Person")),
        "entrance": json!({"enum": ["home_token", "session", "token"]}),
        "expires_ms": maybe(of("UnixMs")),
    });
    let link = json!({
        "path": text("What comes behind the address of this server: a secret, good once"),
        "expires_ms": of("UnixMs"),
    });
    let valid = || int("For how many milliseconds it is good");
    json!({
        "User": object(user, &[]),
        "Users": list(of("User")),
        "NewUser": object(json!({"name": text("Not `owner`"), "groups": groups(), "roles": roles()}), &["groups", "roles"]),
        "SetUser": object(json!({"groups": maybe(groups()), "roles": maybe(roles())}), &["groups", "roles"]),
        "Valid": object(json!({"valid_ms": maybe(valid())}), &["valid_ms"]),
        "LoginLink": object(link, &[]),
        "NewToken": object(json!({"name": text("What it is for"), "valid_ms": maybe(valid())}), &["valid_ms"]),
        "MadeToken": object(made, &[]),
        "Token": object(token, &[]),
        "Tokens": list(of("Token")),
        "Person": object(person, &[]),
        "Session": object(session, &[]),
        "LoggedOut": object(json!({"provider": maybe(text("Where the browser goes to log out at the provider, too"))}), &[]),
    })
}
