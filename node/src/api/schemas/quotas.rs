//! The shapes of quotas.

use serde_json::{Value, json};

use super::{int, list, object, of, text};

pub(super) fn quotas() -> Value {
    let count = |about: &str| json!({"type": "integer", "minimum": 0, "description": about});
    let subject =
        || text("user:ISSUER|SUBJECT, group:NAME, org:did:key:…, or user:* for each person");
    let limits = json!({
        "runs": count("Runs at once"),
        "cpu_s": count("Core seconds of tasks in a period"),
        "spend": of("Amount"),
        "currency": text("Of the spending, three capital letters; EUR when absent"),
        "records": count("Records that are published"),
        "period_ms": {
            "type": "integer", "minimum": 60_000, "maximum": 31_622_400_000_u64,
            "description": "The period of core seconds and spending; 30 days when absent",
        },
    });
    let used = json!({
        "runs": int("Runs that have not ended"),
        "cpu_s": int("Core seconds in the period"),
        "spend": of("Amount"),
        "records": int("Records that are published"),
    });
    let quota = json!({
        "subject": subject(), "name": text("What a person is called, where the node knows it"),
        "limits": of("QuotaLimits"), "used": object(used, &[]),
    });
    let over = json!({
        "subject": subject(),
        "measure": {"enum": ["runs", "cpu_s", "spend", "records"], "description": "Of what too much is taken"},
        "limit": text("How much it may take"), "used": text("How much it has taken"),
        "period_ms": int("The period, of what is counted in one"),
        "wait_ms": int("How long until there is room again, where that is known"),
    });
    json!({
        "QuotaLimits": object(limits, &["runs", "cpu_s", "spend", "currency", "records", "period_ms"]),
        "Quotas": list(object(quota, &["name"])),
        "SetQuota": object(json!({"subject": subject(), "limits": of("QuotaLimits")}), &[]),
        "QuotaOver": object(over, &["period_ms", "wait_ms"]),
    })
}
