//! Which groups and roles a provider's claims about a person give it here: the organisation's own rules, read in order.
//!
//! Pure. A rule looks at the values of one claim; each value that fits gives a group, a role, or both. `{}` stands for the value.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::book::{GROUPS_MAX, NAME_LEN_MAX};

/// Rules of one provider; no more are taken.
pub(crate) const RULES_MAX: usize = 128;
/// Values of one claim that are looked at; further ones give nothing.
const VALUES_MAX: usize = 1_024;

/// What a token says.
pub(crate) type Claims = Map<String, Value>;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// The claim, by its name or by the names that lead to it with dots between, like `realm_access.roles`.
    pub(crate) claim: String,
    /// The value has to be this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) is: Option<String>,
    /// The value has to begin so; `{}` is what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) begins: Option<String>,
    /// The value has to end so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) ends: Option<String>,
    /// The group that a fitting value gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) group: Option<String>,
    /// The role that a fitting value gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) role: Option<String>,
}

/// The rules when nobody says otherwise: groups are what the claim `groups` says, and nobody has a role.
pub(crate) fn usual() -> Vec<Rule> {
    let (is, begins, ends, role) = (None, None, None, None);
    vec![Rule { claim: "groups".to_owned(), is, begins, ends, group: Some("{}".to_owned()), role }]
}

impl Rule {
    /// Whether it can give anything.
    pub(crate) fn is_good(&self) -> bool {
        let texts = [Some(&self.claim), self.is.as_ref(), self.begins.as_ref(), self.ends.as_ref()];
        let gives = [self.group.as_ref(), self.role.as_ref()];
        !self.claim.is_empty()
            && gives.iter().any(Option::is_some)
            && texts.iter().chain(&gives).flatten().all(|text| text.len() <= 256)
    }

    /// What of a value stands for `{}`, if it fits.
    fn fit<'a>(&self, value: &'a str) -> Option<&'a str> {
        let is_it = self.is.as_deref().is_none_or(|is| is == value)
            && self.ends.as_deref().is_none_or(|end| value.ends_with(end));
        let rest = value.strip_prefix(self.begins.as_deref().unwrap_or_default())?;
        is_it.then_some(rest)
    }
}

/// The groups and roles of whom the claims are about.
pub(crate) fn apply(rules: &[Rule], claims: &Claims) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut groups, mut roles) = (BTreeSet::new(), BTreeSet::new());
    for rule in rules.iter().take(RULES_MAX) {
        // Whoever may write any address into its own profile must not get a group for it.
        let is_verified = claims.get("email_verified").and_then(Value::as_bool) == Some(true);
        if rule.claim == "email" && !is_verified {
            continue;
        }
        for value in values(claims, &rule.claim) {
            let Some(rest) = rule.fit(&value) else { continue };
            let named = |pattern: &String| name(&pattern.replace("{}", rest));
            groups.extend(rule.group.as_ref().and_then(named));
            roles.extend(rule.role.as_ref().and_then(named));
        }
    }
    (first(groups), first(roles))
}

fn first(names: BTreeSet<String>) -> BTreeSet<String> {
    names.into_iter().take(GROUPS_MAX).collect()
}

/// A text as a name here, if it can be one.
fn name(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches('/');
    let is_good =
        !text.is_empty() && text.len() <= NAME_LEN_MAX && !text.chars().any(char::is_control);
    is_good.then(|| text.to_owned())
}

/// What people call somebody of whom a provider says this.
pub(crate) fn called(claims: &Claims, subject: &str) -> String {
    let texts = ["preferred_username", "name", "email"].map(|claim| claims.get(claim));
    let found = texts.into_iter().flatten().filter_map(Value::as_str).find_map(name);
    found
        .or_else(|| name(subject))
        .unwrap_or_else(|| subject.chars().take(16).filter(|c| !c.is_control()).collect())
}

fn values(claims: &Claims, claim: &str) -> Vec<String> {
    let found = claims.get(claim).or_else(|| {
        let mut parts = claim.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    });
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        _ => None,
    };
    match found {
        Some(Value::Array(values)) => values.iter().take(VALUES_MAX).filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn rules(value: Value) -> Vec<Rule> {
        serde_json::from_value(value).unwrap()
    }

    fn claims(value: Value) -> Claims {
        serde_json::from_value(value).unwrap()
    }

    fn texts(names: &BTreeSet<String>) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn rules_read_as_they_are_written() {
        let rules = rules(json!([
            {"claim": "groups", "begins": "oc-", "group": "{}"},
            {"claim": "realm_access.roles", "is": "boss", "role": "admin", "group": "bosses"},
            {"claim": "https://example.org/unit", "group": "unit-{}"},
            {"claim": "email", "ends": "@example.org", "group": "staff"},
        ]));
        let said = json!({
            "groups": ["oc-field", "other", 7, "oc-"], "realm_access": {"roles": ["boss", "x"]},
            "https://example.org/unit": "north", "email": "a@example.org", "email_verified": true,
        });
        let (groups, roles) = apply(&rules, &claims(said.clone()));
        assert_eq!(texts(&groups), ["bosses", "field", "staff", "unit-north"]);
        assert_eq!(texts(&roles), ["admin"]);
        let mut unverified = claims(said);
        unverified.remove("email_verified");
        assert!(!apply(&rules, &unverified).0.contains("staff"));
        assert_eq!(
            texts(&apply(&usual(), &claims(json!({"groups": ["/a b", "c"]}))).0),
            ["a b", "c"]
        );
    }

    #[test]
    fn a_name_is_found_for_everybody() {
        assert_eq!(
            called(&claims(json!({"preferred_username": " ", "name": "Ada L"})), "s"),
            "Ada L"
        );
        assert_eq!(called(&Claims::new(), "sub-1"), "sub-1");
        assert!(called(&Claims::new(), &"x".repeat(500)).len() <= NAME_LEN_MAX);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,80}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_said_gives_names_within_bounds(
            said in proptest::collection::btree_map("[a-c]", any_json(), 0..4),
            at in "[a-c](\\.[a-c]){0,2}",
        ) {
            let rules = rules(json!([{"claim": at, "group": "{}", "role": "r-{}"}]));
            let (groups, roles) = apply(&rules, &said.into_iter().collect());
            for name in groups.iter().chain(&roles) {
                prop_assert!(!name.is_empty() && name.len() <= NAME_LEN_MAX);
                prop_assert!(!name.chars().any(char::is_control));
            }
            prop_assert!(groups.len() <= GROUPS_MAX && roles.len() <= GROUPS_MAX);
        }
    }
}
