//! The shapes of collaborative areas.

use serde_json::{Value, json};

use super::{int, list, maybe, object, of, text};

pub(super) fn areas() -> Value {
    let hex = || json!({"type": "string", "pattern": "^[0-9a-f]{64}$"});
    let org = || of("OrgId");
    let org_name = || maybe(text("Its name, when it is known"));
    let flag = |what: &str| json!({"type": "boolean", "description": what});
    let standing = || json!({"enum": ["invited", "asking", "member", "left", "expelled"]});
    let kind = || json!({"enum": ["workspace", "workflow", "service"]});
    let (name, about) = (text("Its name"), text("What it is for, in a line"));
    let book = || maybe(json!({"type": "object", "description": "A rule book"}));
    let summary = json!({
        "id": hex(), "name": name, "about": about, "standing": standing(),
        "members": int("How many members it has"), "invited": int("How many are wanted in"),
        "shared": int("How much is shared"), "rules": int("Number of the rule book in force; 0 without one"),
        "votes_wanted": int("Questions on which this organisation has not voted"),
    });
    let member = json!({
        "org": org(), "org_name": org_name(), "own": flag("Whether it is this node's"),
        "founder": flag("Whether it founded the area"), "connected": flag("Whether a node of it is connected"),
    });
    let votes = |mut more: Value| {
        more["by"] = list(org());
        more["votes"] = int("How many of those who decide want it");
        more["needed"] = int("How many decide it");
        more["voted"] = flag("Whether this organisation wants it");
        more
    };
    let candidate = votes(json!({
        "org": org(), "org_name": org_name(), "joined": flag("Whether it has said that it joins"),
    }));
    let leaver = votes(json!({"org": org(), "org_name": org_name()}));
    let rules = json!({
        "number": int("0 when there is none"), "digest": maybe(of("Digest")), "book": book(),
    });
    let proposal =
        votes(json!({"number": int("Its number"), "digest": of("Digest"), "book": book()}));
    let shared = json!({
        "org": org(), "org_name": org_name(), "own": flag("Whether this node shares it"),
        "node": of("NodeId"), "kind": kind(), "name": name, "digest": of("Digest"),
        "size": int("Bytes"), "here": flag("Whether the content is on this node"),
    });
    let view = json!({
        "id": hex(), "name": name, "about": about, "founder": org(), "standing": standing(),
        "members": list(object(member, &[])), "invited": list(object(candidate, &[])),
        "expelling": list(object(leaver, &[])), "rules": object(rules, &[]),
        "proposals": list(object(proposal, &[])), "shared": list(object(shared, &[])),
    });
    let new = json!({"name": name, "about": about, "rules": book()});
    let document = text("Of a workflow or service its text; nothing for a workspace");
    let content = json!({
        "kind": kind(), "name": name, "org": org(),
        "document": text("The text; of a workspace JSON as `putWorkspace` takes it"),
    });
    let wanted = json!({"type": "object", "description": "A rule book"});
    json!({
        "Areas": list(object(summary, &[])),
        "Area": object(view, &[]),
        "NewArea": object(new, &["about", "rules"]),
        "AreaVote": object(json!({"org": org()}), &[]),
        "ShareInArea": object(json!({"document": maybe(document)}), &["document"]),
        "ProposedRules": object(json!({"rules": wanted}), &[]),
        "SharedContent": object(content, &[]),
    })
}
