//! What policies mean, written a second time and as simply as can be: no schema, no entities, one loop.

use rand_core::Rng;

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) name: &'static str,
    pub(crate) groups: &'static [&'static str],
    pub(crate) roles: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Anybody,
    User(&'static str),
    Group(&'static str),
    Role(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Anything,
    Group(&'static str),
    One(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum Which {
    Any,
    Is(&'static str),
    Named(&'static str, String),
    In(&'static str),
}

/// A policy.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) permits: bool,
    pub(crate) who: Who,
    pub(crate) what: What,
    pub(crate) which: Which,
}

/// A name of a thing.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Whether this node says so, and nobody else.
    pub(crate) firm: bool,
    /// Workspaces that it is in.
    pub(crate) within: Vec<&'static str>,
}

pub(crate) fn name(kind: &'static str, name: impl Into<String>) -> Name {
    Name { kind, name: name.into(), firm: true, within: Vec::new() }
}

/// Every name of a thing that something is to be done with.
pub(crate) type Thing = Vec<Name>;

pub(crate) const GROUPS: [(&str, &[&str]); 4] = [
    ("look", &["see", "plan", "watch", "read_policies"]),
    ("work", &["use", "fetch", "store", "quote", "submit", "cancel", "steer", "enter", "serve"]),
    ("share", &["publish", "withdraw", "edit"]),
    (
        "manage",
        &[
            "read_ledger",
            "manage_areas",
            "manage_peers",
            "manage_users",
            "manage_policies",
            "manage_node",
        ],
    ),
];

impl Rule {
    fn is_of(&self, caller: &Caller) -> bool {
        match self.who {
            Who::Anybody => true,
            Who::User(name) => name == caller.name,
            Who::Group(name) => caller.groups.contains(&name),
            Who::Role(name) => caller.roles.contains(&name),
        }
    }

    fn is_about(&self, action: &str) -> bool {
        match self.what {
            What::Anything => true,
            What::One(name) => name == action,
            What::Group(name) => {
                GROUPS.iter().any(|(group, all)| *group == name && all.contains(&action))
            }
        }
    }

    fn is_on(&self, name: &Name) -> bool {
        match &self.which {
            Which::Any => true,
            Which::Is(kind) => name.kind == *kind,
            Which::Named(kind, text) => name.kind == *kind && name.name == *text,
            Which::In(workspace) => {
                name.within.contains(workspace)
                    || (name.kind == "Workspace" && name.name == *workspace)
            }
        }
    }

    pub(crate) fn meets(&self, caller: &Caller, action: &str, name: &Name) -> bool {
        self.is_of(caller) && self.is_about(action) && self.is_on(name)
    }

    pub(crate) fn text(&self) -> String {
        let effect = if self.permits { "permit" } else { "forbid" };
        let (who, when) = match self.who {
            Who::Anybody => ("principal is User".to_owned(), String::new()),
            Who::User(name) => (format!("principal == User::\"local|{name}\""), String::new()),
            Who::Group(name) => (format!("principal is User in Group::\"{name}\""), String::new()),
            Who::Role(name) => (
                "principal is User".to_owned(),
                format!(" when {{ principal.roles.contains(\"{name}\") }}"),
            ),
        };
        let what = match self.what {
            What::Anything => "action".to_owned(),
            What::Group(name) => format!("action in Action::\"{name}\""),
            What::One(name) => format!("action == Action::\"{name}\""),
        };
        let which = match &self.which {
            Which::Any => "resource".to_owned(),
            Which::Is(kind) => format!("resource is {kind}"),
            Which::Named(kind, name) => format!("resource == {kind}::\"{name}\""),
            Which::In(name) => format!("resource in Workspace::\"{name}\""),
        };
        format!("{effect} ({who}, {what}, {which}){when};\n")
    }
}

/// Whether somebody may do something with a thing: something permits one of its firm names, and nothing forbids any of its names.
pub(crate) fn may(rules: &[Rule], caller: &Caller, action: &str, thing: &Thing) -> bool {
    let permits = |name: &Name| {
        name.firm && rules.iter().any(|rule| rule.permits && rule.meets(caller, action, name))
    };
    let forbids =
        |name: &Name| rules.iter().any(|rule| !rule.permits && rule.meets(caller, action, name));
    thing.iter().any(permits) && !thing.iter().any(forbids)
}

/// What holds of the node's own people where the owner has written nothing.
pub(crate) fn built_in() -> Vec<Rule> {
    let rule = |who, what| Rule { permits: true, who, what, which: Which::Any };
    vec![
        rule(Who::Anybody, What::Group("look")),
        rule(Who::Role("member"), What::Group("work")),
        rule(Who::Role("member"), What::Group("share")),
        rule(Who::Role("admin"), What::Anything),
    ]
}

pub(crate) fn pick<T: Clone>(rng: &mut impl Rng, all: &[T]) -> T {
    all[usize::try_from(rng.next_u64() % all.len() as u64).unwrap()].clone()
}

/// A policy about people and things that there are.
pub(crate) fn random(rng: &mut impl Rng, callers: &[Caller], names: &[Name]) -> Rule {
    let who = match rng.next_u32() % 5 {
        0 => Who::User(pick(rng, callers).name),
        1 | 2 => Who::Group(pick(rng, &["night", "lab"])),
        3 => Who::Role(pick(rng, &["member", "admin"])),
        _ => Who::Anybody,
    };
    let group = pick(rng, &GROUPS);
    let what = match rng.next_u32() % 4 {
        0 => What::Anything,
        1 => What::Group(group.0),
        _ => What::One(pick(rng, group.1)),
    };
    let named = pick(rng, names);
    let which = match rng.next_u32() % 6 {
        0 => Which::Any,
        1 => Which::Is(named.kind),
        2 => Which::In("floods"),
        _ => Which::Named(named.kind, named.name.clone()),
    };
    Rule { permits: rng.next_u32().is_multiple_of(2), who, what, which }
}
