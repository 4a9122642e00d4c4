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
        "Rule": rule(),
        "Provider": provider(false),
        "Providers": list(of("Provider")),
        "NewProvider": provider(true),
        "Tested": object(json!({"keys": int("Keys that it signs with"), "devices": flag("It has a login for devices"), "logout": flag("It has a page to log out")}), &[]),
        "LoginProviders": list(object(json!({"name": text("What it is called here"), "issuer": text("Its address")}), &[])),
        "StartDevice": object(json!({"provider": maybe(text("Which, where several are connected"))}), &["provider"]),
        "PollDevice": object(json!({"id": text("As the login began")}), &[]),
        "DeviceLogin": device(),
        "DeviceState": device_state(),
        "LoggedOut": object(json!({"provider": maybe(text("Where the browser goes to log out at the provider, too"))}), &[]),
    })
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn rule() -> Value {
    let parts = json!({
        "claim": text("The claim, by its name or by the names that lead to it with dots between"),
        "is": text("The value has to be this one"),
        "begins": text("The value has to begin so; `{}` is what follows"),
        "ends": text("The value has to end so"),
        "group": text("The group that a fitting value gives; `{}` stands for the value"),
        "role": text("The role that a fitting value gives; `{}` stands for the value"),
    });
    object(parts, &["is", "begins", "ends", "group", "role"])
}

fn provider(is_new: bool) -> Value {
    let mut parts = json!({
        "name": text("What it is called here"),
        "issuer": text("Its address, exactly as it calls itself"),
        "client_id": text("What this node is called there"),
        "scopes": list(text("What is asked for beside `openid`")),
        "audiences": list(text("Tokens of programs that are for one of these are good here")),
        "rules": list(of("Rule")),
    });
    if is_new {
        parts["client_secret"] = text("The secret of this node there; it is never shown again");
        return object(parts, &["scopes", "audiences", "rules", "client_secret"]);
    }
    parts["has_secret"] = flag("Whether there is one");
    object(parts, &[])
}

fn device() -> Value {
    let parts = json!({
        "id": text("What the login is asked about by: a secret"),
        "user_code": text("What a person enters"),
        "url": text("Where"),
        "url_with_code": maybe(text("The same with the code in it")),
        "wait_ms": int("How long to wait before asking"),
        "expires_in_s": int("How long the person may take"),
    });
    object(parts, &[])
}

fn device_state() -> Value {
    let parts = json!({
        "state": json!({"enum": ["pending", "done"]}),
        "wait_ms": maybe(int("How long to wait before asking again")),
        "secret": maybe(text("An access token, which is shown this once")),
        "expires_ms": maybe(of("UnixMs")),
    });
    object(parts, &[])
}
