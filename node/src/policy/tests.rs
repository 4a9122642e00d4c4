//! The core against a model that a person can read, and what is wrong with policies against what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};
use proptest::collection::btree_set;
use proptest::prelude::*;
use proptest::sample::select;

use super::set::ground;
use super::*;
use crate::identity::Person;

const ME: NodeId = NodeId::from_bytes([1; 32]);
const OWN: OrgId = OrgId::from_bytes([2; 32]);
const OTHER: OrgId = OrgId::from_bytes([3; 32]);

fn person(org: OrgId, groups: &[&str], roles: &[&str]) -> Box<Person> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Box::new(Person {
        org,
        issuer: "local".to_owned(),
        subject: "ada".to_owned(),
        name: "Ada".to_owned(),
        groups: words(groups),
        roles: words(roles),
    })
}

fn own(groups: &[&str], roles: &[&str]) -> Principal {
    Principal::Person { person: person(OWN, groups, roles), stance: Stance::Own }
}

fn ask(policies: &Policies, principal: Principal, action: Action, resource: Resource) -> Decision {
    policies.decide(&Request { principal, action, resource, work: None })
}

fn with(name: &str, text: &str) -> Result<Policies, PolicyError> {
    Policies::read(BTreeMap::from([(name.to_owned(), text.to_owned())]))
}

fn spots(text: &str) -> Vec<Spot> {
    match with("team", text) {
        Err(PolicyError::Text { file, spots }) if file == "team" => spots,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn the_schema_has_the_actions_and_kinds_of_the_code() {
    let schema = &ground().schema;
    let groups: BTreeSet<String> =
        schema.action_groups().map(|uid| uid.id().unescaped().to_owned()).collect();
    assert_eq!(groups, ["look", "manage", "share", "work"].map(str::to_owned).into());
    let all: BTreeSet<String> =
        schema.actions().map(|uid| uid.id().unescaped().to_owned()).collect();
    let coded: BTreeSet<String> = Action::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(all.difference(&groups).cloned().collect::<BTreeSet<_>>(), coded);
    let types: BTreeSet<String> = schema.resources().map(ToString::to_string).collect();
    assert_eq!(types, Kind::ALL.iter().map(|kind| kind.type_name().to_owned()).collect());
    let askers: BTreeSet<String> = schema.principals().map(ToString::to_string).collect();
    assert_eq!(askers, ["Group", "Node", "Org", "Owner", "User"].map(str::to_owned).into());
}

#[test]
fn the_built_in_policies_are_read_and_named() {
    let policies = Policies::built_in();
    assert!(policies.is_closed().is_none() && policies.files().is_empty());
    let [(file, text, is_own, rules)] = policies.all().collect::<Vec<_>>()[..] else { panic!() };
    assert!(file == BUILT_IN && text.contains("@id(\"admins\")") && !is_own);
    assert!(rules.iter().any(|rule| rule.id == "default/admins" && rule.effect == Effect::Permit));
}

#[test]
fn files_add_to_the_default_or_take_its_place() {
    let node = || Resource::node(ME);
    let text = r#"permit (principal in Group::"night", action == Action::"cancel", resource is Run);
        @id("no-vms") forbid (principal, action == Action::"quote", resource)
        when { context has runtime && context.runtime == "vm" };"#;
    let policies = with("team", text).unwrap();
    let run = || Resource::of(Kind::Run, "run-1");
    let night = ask(&policies, own(&["night"], &[]), Action::Cancel, run());
    assert_eq!((night.allowed, &*night.policies), (true, &["team/1".to_owned()][..]));
    assert!(!ask(&policies, own(&["day"], &[]), Action::Cancel, run()).allowed);
    assert!(ask(&policies, own(&[], &[]), Action::Plan, node()).allowed);
    let asks = |runtime: &str| {
        let work = Work { runtime: runtime.to_owned(), ..Work::default() };
        let principal = Principal::Org { org: OTHER, stance: Stance::Peer };
        let request =
            Request { principal, action: Action::Quote, resource: node(), work: Some(work) };
        policies.decide(&request)
    };
    assert_eq!(asks("vm").policies, ["team/no-vms"]);
    assert!(asks("wasi").allowed && !asks("vm").allowed);
    // An empty default takes all away; the owner is above it.
    let bare = with("default", "").unwrap();
    assert!(!ask(&bare, own(&[], &["admin"]), Action::See, node()).allowed);
    assert!(ask(&bare, Principal::Owner, Action::ManagePolicies, node()).allowed);
}

#[test]
fn nobody_gets_the_name_of_somebody_else() {
    let text = r#"permit (principal == User::"local|ada", action, resource);
        permit (principal in Group::"staff", action, resource);"#;
    let policies = with("default", text).unwrap();
    let may = |principal| ask(&policies, principal, Action::See, Resource::node(ME)).allowed;
    assert!(may(own(&[], &[])));
    for stance in [Stance::Partner, Stance::Peer, Stance::Stranger] {
        let mut other = person(OTHER, &["staff"], &[]);
        assert!(!may(Principal::Person { person: other.clone(), stance }), "{stance:?}");
        let named = Principal::Person { person: other.clone(), stance }.told();
        assert_eq!(named, format!("user:{OTHER}|local|ada"));
        // With the bar of the own one's in its issuer or subject.
        (other.issuer, other.subject) = ("x|local".to_owned(), "ada".to_owned());
        assert!(Principal::Person { person: other, stance }.told().contains("x%7Clocal|ada"));
    }
    let mut liar = person(OWN, &[], &[]);
    (liar.issuer, liar.subject) = (format!("{OTHER}"), "local|ada".to_owned());
    let liar = Principal::Person { person: liar, stance: Stance::Own }.told();
    assert!(liar.starts_with(&format!("user:{OWN}|")), "{liar}");
    let long = |end: &str| Resource::of(Kind::Data, format!("{}{end}", "é".repeat(1_000)));
    assert!(long("a").name != long("b").name && long("a").name.len() <= 512);
}

#[test]
fn what_is_wrong_with_a_policy_is_told_with_its_place() {
    let parse =
        spots("permit (principal, action, resource);\npermit (principal action, resource);\n");
    assert_eq!((parse[0].line, parse[0].column), (2, 19), "{parse:?}");
    let unknown = spots("permit (principal,\n  action == Action::\"sumbit\", resource);");
    assert_eq!((unknown[0].line, unknown[0].column), (2, 13), "{unknown:?}");
    assert!(format!("{unknown:?}").contains("submit"), "{unknown:?}");
    let attribute = spots(
        "permit (principal is User, action, resource) when { principal.rolls.contains(\"a\") };",
    );
    assert_eq!(attribute[0].line, 1);
    assert!(attribute[0].problem.contains("rolls"), "{attribute:?}");
    assert!(
        spots("permit (principal == ?principal, action, resource);")[0]
            .problem
            .contains("template")
    );
    for (id, problem) in [("@id(\"A b\")", "small letters"), ("@id(\"\")", "small letters")] {
        let found = spots(&format!("{id} permit (principal is User, action, resource);"));
        assert!(found[0].problem.contains(problem), "{found:?}");
    }
    let twice = "@id(\"a\") permit (principal is User, action, resource);";
    assert!(spots(&format!("{twice}{twice}"))[0].problem.contains("two policies"));
    let error = with("team", "permit").unwrap_err().to_string();
    assert!(error.starts_with("team.cedar:1:"), "{error}");
}

#[test]
fn texts_and_files_are_bounded() {
    let rule =
        |body: &str| format!("permit (principal is User, action, resource) when {{ {body} }};");
    let nested = |n: usize| rule(&format!("{}true{}", "(".repeat(n), ")".repeat(n)));
    assert!(with("team", &nested(23)).is_ok());
    assert!(spots(&nested(24))[0].problem.contains("nest"));
    assert!(spots(&nested(30_000))[0].problem.contains("nest"));
    let chain = |n: usize| rule(&vec!["true"; n].join(" && "));
    assert!(with("team", &chain(256)).is_ok());
    assert!(spots(&chain(5_000))[0].problem.contains("operators"));
    let ifs = rule(&format!("{} true", "if true then true else ".repeat(2_000)));
    assert!(spots(&ifs)[0].problem.contains("nest"));
    // Strings and comments are not counted, nor what other policies have.
    let quiet = format!(
        "// {}\n{}",
        "((((".repeat(100),
        rule(&format!("principal.name == \"{}\"", "[\\\"(".repeat(100)))
    );
    with("team", &quiet).unwrap();
    with("team", &nested(20).repeat(50)).unwrap();
    let long = " ".repeat(FILE_LEN_MAX + 1);
    assert!(matches!(with("team", &long), Err(PolicyError::Length { .. })));
    for bad in ["", "Team", "a/b", "..", "7a", "a.cedar"] {
        assert!(matches!(with(bad, ""), Err(PolicyError::Name { .. })), "{bad}");
    }
    let files = (0..=FILES_MAX).map(|n| (format!("f{n}"), String::new())).collect();
    assert!(matches!(Policies::read(files), Err(PolicyError::Files)));
    let many = "permit(principal is User,action,resource);".repeat(POLICIES_MAX);
    assert!(matches!(with("team", &many), Err(PolicyError::Count { .. })));
}

#[test]
fn a_policy_that_fails_does_not_permit_and_one_that_forbids_forbids() {
    let fails = "when { principal.name like \"*\" && 9223372036854775807 + 1 > 0 };";
    let permit = with(
        "team",
        &format!("permit (principal is User, action == Action::\"cancel\", resource) {fails}"),
    );
    let run = || Resource::of(Kind::Run, "run-1");
    let no = ask(&permit.unwrap(), own(&[], &[]), Action::Cancel, run());
    assert!(!no.allowed && no.policies.is_empty() && no.errors.len() == 1, "{no:?}");
    let forbid =
        with("team", &format!("@id(\"f\") forbid (principal is User, action, resource) {fails}"));
    let no = ask(&forbid.unwrap(), own(&[], &["admin"]), Action::Cancel, run());
    assert!(!no.allowed && no.policies == ["team/f"] && no.errors.len() == 1, "{no:?}");
}

#[test]
fn refused_policies_leave_the_owner_alone_in_charge() {
    let closed = Policies::closed(with("team", "permit").unwrap_err());
    let no = ask(&closed, own(&[], &["admin"]), Action::See, Resource::node(ME));
    assert!(!no.allowed && no.because().contains("team.cedar:1:"), "{no:?}");
    assert!(ask(&closed, Principal::Owner, Action::See, Resource::node(ME)).allowed);
}

/// What the default policies mean, said a second time without Cedar.
fn model(principal: &Principal, action: Action, resource: &Resource) -> bool {
    use Action::{
        Cancel, Edit, Enter, Fetch, Plan, Publish, Quote, ReadPolicies, See, Serve, Steer, Store,
        Submit, Use, Watch, Withdraw,
    };
    let is_look = matches!(action, See | Plan | Watch | ReadPolicies);
    let is_work = matches!(
        action,
        Use | Fetch
            | Store
            | Quote
            | Submit
            | Cancel
            | Steer
            | Enter
            | Serve
            | Publish
            | Withdraw
            | Edit
    );
    match principal {
        Principal::Owner => true,
        Principal::Group { .. } => false,
        Principal::Org { stance, .. } | Principal::Node { stance, .. } => {
            let is_admitted = matches!(stance, Stance::Own | Stance::Partner | Stance::Peer);
            is_admitted && resource.kind == Kind::Node && matches!(action, Quote | See | Fetch)
        }
        Principal::Person { person, stance: Stance::Own } => {
            let has = |role: &str| person.roles.contains(role);
            is_look || is_work && has("member") || has("admin")
        }
        Principal::Person { stance: Stance::Partner, .. } => {
            let is_listed = resource.kind.is_catalogued() && resource.is_listed;
            is_listed && matches!(action, See | Use | Fetch) || action == Quote
        }
        Principal::Person { stance: Stance::Peer, .. } => action == Quote,
        Principal::Person { .. } => false,
    }
}

fn applies(action: Action, kind: Kind) -> bool {
    let action = set::uid("Action", action.as_str());
    let mut on = ground().schema.resources_for_action(&action).unwrap();
    on.any(|of| of.to_string() == kind.type_name())
}

fn principals() -> impl Strategy<Value = Principal> {
    let stance = select(&Stance::ALL[..]);
    let words = |words: &'static [&'static str]| {
        btree_set(select(words).prop_map(str::to_owned), 0..=words.len())
    };
    let org = |stance| if stance == Stance::Own { OWN } else { OTHER };
    let subject = prop_oneof![Just("ada".to_owned()), any::<String>()];
    let whom = (
        stance.clone(),
        words(&["staff", "admin", "night"]),
        words(&["member", "admin", "guest"]),
        subject,
    );
    let someone = whom.prop_map(move |(stance, groups, roles, subject)| {
        let person = Person { groups, roles, subject, ..*person(org(stance), &[], &[]) };
        Principal::Person { person: Box::new(person), stance }
    });
    let group = (stance.clone(), any::<String>())
        .prop_map(move |(stance, name)| Principal::Group { org: org(stance), stance, name });
    let other = (stance, any::<bool>()).prop_map(move |(stance, is_node)| match is_node {
        true => Principal::Node { node: NodeId::from_bytes([9; 32]), org: org(stance), stance },
        false => Principal::Org { org: org(stance), stance },
    });
    prop_oneof![1 => Just(Principal::Owner), 5 => someone, 1 => group, 3 => other]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_default_decides_as_its_model(
        principal in principals(),
        action in select(Action::ALL),
        kind in select(Kind::ALL),
        name in any::<String>(),
        is_listed: bool,
    ) {
        let resource = Resource { is_listed, ..Resource::of(kind, name) };
        let expected = (principal == Principal::Owner || applies(action, kind))
            && model(&principal, action, &resource);
        let request = Request { principal, action, resource, work: None };
        let decision = Policies::built_in().decide(&request);
        prop_assert_eq!(decision.allowed, expected, "{:?}: {:?}", request, decision);
        prop_assert!(!decision.allowed || !decision.policies.is_empty());
    }

    /// A policy of the owner's that forbids one thing forbids just that, whoever else may have it.
    #[test]
    fn what_is_forbidden_is_refused_and_nothing_else_changes(
        principal in principals(),
        (forbidden, action) in (select(Action::ALL), select(Action::ALL)),
        kind in select(Kind::ALL),
    ) {
        let text = format!("forbid (principal, action == Action::\"{forbidden}\", resource);");
        let policies = with("team", &text).unwrap();
        let request = Request { principal, action, resource: Resource::of(kind, "x"), work: None };
        let without = Policies::built_in().decide(&request);
        let is_kept = action != forbidden || request.principal == Principal::Owner;
        prop_assert_eq!(policies.decide(&request).allowed, without.allowed && is_kept);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z(){}\\[\\];:@\"/\\\\. \n=&|!?]{0,200}") {
        let _ = with("team", &text);
    }
}
