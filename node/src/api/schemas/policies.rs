//! The shapes of policies and decisions.

use serde_json::{Value, json};

/// What the routes of policies take and give.
pub(super) fn policies() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    let words = |about: &str| json!({"type": "array", "items": text(about)});
    let yes = json!({"type": "boolean"});
    let of = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    let rule = object(
        &["id", "effect"],
        json!({"id": text("`FILE/NAME`"), "effect": {"enum": ["permit", "forbid"]}}),
    );
    let file = json!({
        "name": text("Its name in `policies/`, without `.cedar`"),
        "is_own": {"type": "boolean", "description": "Whether it is of this home; the built-in one is not"},
        "mark": text("The ETag of its text, without quotes"),
        "rules": {"type": "array", "items": rule},
    });
    let mut whole = file.clone();
    whole["text"] = text("Policies in Cedar");
    let spot = object(
        &["line", "column", "problem"],
        json!({
            "line": {"type": "integer"}, "column": {"type": "integer"}, "problem": text("What is wrong there"), "hint": text("What to do about it"),
        }),
    );
    let verdict = json!({
        "principal": text("KIND:NAME"),
        "action": text("What it would do"),
        "resource": text("KIND:NAME"),
        "allowed": yes,
        "policies": words("The policies that decide"),
        "errors": words("What went wrong on the way"),
    });
    let entry = json!({
        "seq": {"type": "integer"}, "at_ms": of("UnixMs"), "principal": text("KIND:NAME"), "action": text("What it wanted to do"),
        "resource": text("KIND:NAME"), "allowed": yes, "policies": words("The policies that decided"),
        "error": text("What went wrong on the way"),
        "repeated": {"type": "integer", "description": "How often the same was decided since it was last written down"},
    });
    let entry =
        object(&["seq", "at_ms", "principal", "action", "resource", "allowed", "policies"], entry);
    json!({
        "PolicyFile": object(&["name", "is_own", "mark", "rules"], file),
        "PolicyText": object(&["name", "is_own", "mark", "rules", "text"], whole),
        "Policies": object(&["files"], json!({
            "closed": text("Why nobody but the owner may do anything; absent when the files are good"),
            "files": {"type": "array", "items": of("PolicyFile")},
        })),
        "PolicySource": object(&["text"], json!({"text": text("Policies in Cedar, at most 64 KiB")})),
        "PolicyChecked": object(&["valid", "rules", "spots"], json!({
            "valid": yes, "rules": {"type": "array", "items": rule}, "problem": text("Why it would be refused"),
            "spots": {"type": "array", "items": spot},
        })),
        "PolicyQuestion": object(&["principal", "action", "resource"], json!({
            "principal": text("owner, user:ISSUER|SUBJECT, group:NAME, org:did:key:… or node:12D3…"),
            "groups": words("A group that the person is in"),
            "roles": words("A role that the person has"),
            "action": text("One of the schema's actions"),
            "resource": text("KIND:NAME, or `node` for this node"),
            "listed": {"type": "boolean", "description": "Whether the resource is published to the organisation that asks"},
        })),
        "PolicyVerdict": object(&["principal", "action", "resource", "allowed", "policies", "errors"], verdict),
        "PolicyVerdicts": {"type": "array", "items": of("PolicyVerdict")},
        "PolicyLog": object(&["entries"], json!({
            "entries": {"type": "array", "items": entry},
            "next": {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "What to give as `before` for the next page"},
        })),
    })
}
