//! Policies, read and checked: the set that decides, and what is wrong with one that does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use cedar_policy::{Entities, EntityUid, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::request::Kind;

/// The schema, as it is published.
pub const SCHEMA: &str = include_str!("schema.cedarschema");
/// The policies of a node whose owner has written none.
const DEFAULT: &str = include_str!("default.cedar");
/// The name of the file that a file of the home replaces.
pub const BUILT_IN: &str = "default";

/// Longest file of policies in bytes; a longer one is refused.
pub const FILE_LEN_MAX: usize = 64 << 10;
/// Most files; one more is refused.
pub const FILES_MAX: usize = 64;
/// Most policies in all files; a file with which there are more is refused.
pub const POLICIES_MAX: usize = 512;
/// Deepest nesting of brackets and of `if` in one policy. The parser goes as deep on its stack.
const NESTING_MAX: usize = 24;
/// Most operators in one policy, since `a && b && c` nests, too, once it is read.
const OPERATORS_MAX: usize = 512;
/// Longest name of a file or policy.
const NAME_LEN_MAX: usize = 64;
/// Most problems told of one file; the first ones are those that matter.
const SPOTS_MAX: usize = 20;

/// A place in a file, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = PolicySpot)]
pub struct Spot {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What.
    pub problem: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hint: Option<String>,
}

/// Why policies are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not a name that a file can have.
    #[error(
        "`{name}` is no name of a policy file: up to {NAME_LEN_MAX} small letters, digits and `-`, with a letter first"
    )]
    Name {
        /// As given, its beginning.
        name: String,
    },
    /// Too long.
    #[error("{file}.cedar has {len} bytes, at most {FILE_LEN_MAX} are read: make two files of it")]
    Length {
        /// Which file.
        file: String,
        /// How long.
        len: usize,
    },
    /// Too many files.
    #[error(
        "there are {FILES_MAX} files of policies already, no more are read: put policies that belong together into one"
    )]
    Files,
    /// Too many policies.
    #[error(
        "with {file}.cedar there are {count} policies, at most {POLICIES_MAX} are heeded: groups and roles need fewer"
    )]
    Count {
        /// Which file.
        file: String,
        /// How many.
        count: usize,
    },
    /// Not policies, or not ones that this node understands.
    #[error("{}", told(file, spots))]
    Text {
        /// Which file.
        file: String,
        /// Where and what; at least one, at most the first 20.
        spots: Vec<Spot>,
    },
    /// The file cannot be read.
    #[error("{file}.cedar cannot be read: {detail}")]
    Read {
        /// Which file.
        file: String,
        /// Why.
        detail: String,
    },
}

fn told(file: &str, spots: &[Spot]) -> String {
    let Some(first) = spots.first() else { return format!("{file}.cedar is refused") };
    let more = match spots.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    format!("{file}.cedar:{}:{}: {}{more}", first.line, first.column, first.problem)
}

/// Whether a policy permits or forbids.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyEffect)]
pub enum Effect {
    /// It permits.
    Permit,
    /// It forbids.
    Forbid,
}

/// A policy by name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = PolicyRule)]
pub struct Rule {
    /// `FILE/NAME`; the name is that of `@id("…")`, or else the number of the policy in its file, from 1.
    pub id: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
}

/// The files with their texts, checked, and ready to decide.
#[derive(Clone, Debug)]
pub struct Policies {
    files: BTreeMap<String, String>,
    rules: BTreeMap<String, Vec<Rule>>,
    pub(super) set: PolicySet,
    /// Policies that forbid, by id: one that fails forbids as well.
    pub(super) forbidding: BTreeSet<String>,
    /// The names that policies speak of, by the type of their entity.
    literals: BTreeSet<(String, String)>,
    /// Why nobody but the owner may do anything.
    pub(super) closed: Option<PolicyError>,
}

impl Policies {
    /// The default ones.
    #[must_use]
    pub fn built_in() -> Self {
        static READ: OnceLock<Policies> = OnceLock::new();
        let read = || Self::read(BTreeMap::new()).expect("a test reads the built-in policies");
        READ.get_or_init(read).clone()
    }

    /// None that lets anybody but the owner do anything.
    #[must_use]
    pub fn closed(because: PolicyError) -> Self {
        Self {
            files: BTreeMap::new(),
            rules: BTreeMap::new(),
            set: PolicySet::new(),
            forbidding: BTreeSet::new(),
            literals: BTreeSet::new(),
            closed: Some(because),
        }
    }

    /// Reads and checks files by name, without their ending. The default ones are added unless a file of that name is there.
    ///
    /// # Errors
    /// When any of them is refused; the first by name is told.
    pub fn read(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        if files.len() > FILES_MAX {
            return Err(PolicyError::Files);
        }
        let (mut set, mut rules) = (PolicySet::new(), BTreeMap::new());
        let (mut count, mut forbidding) = (0, BTreeSet::new());
        let built_in = (!files.contains_key(BUILT_IN)).then_some((BUILT_IN, DEFAULT));
        let all = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).chain(built_in);
        for (file, text) in all {
            let read = read_file(file, text)?;
            count += read.len();
            if count > POLICIES_MAX {
                return Err(PolicyError::Count { file: file.to_owned(), count });
            }
            let mut here = Vec::new();
            for (id, policy) in read {
                let effect = match policy.effect() {
                    cedar_policy::Effect::Permit => Effect::Permit,
                    cedar_policy::Effect::Forbid => Effect::Forbid,
                };
                if effect == Effect::Forbid {
                    forbidding.insert(id.clone());
                }
                let named = policy.new_id(PolicyId::new(&id));
                set.add(named).map_err(|error| one(file, text, 0, error.to_string()))?;
                here.push(Rule { id, effect });
            }
            rules.insert(file.to_owned(), here);
        }
        let literals = set.policies().flat_map(cedar_policy::Policy::entity_literals);
        let literals = literals
            .map(|uid| (uid.type_name().to_string(), uid.id().unescaped().to_owned()))
            .collect();
        Ok(Self { files, rules, set, forbidding, literals, closed: None })
    }

    /// Why nobody but the owner may do anything, when it is so.
    #[must_use]
    pub const fn is_closed(&self) -> Option<&PolicyError> {
        self.closed.as_ref()
    }

    /// The files of the home, by name.
    #[must_use]
    pub const fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// Every file that counts with its text and policies, and whether it is of the home.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, bool, &[Rule])> {
        self.rules.iter().map(|(file, rules)| {
            let own = self.files.get(file);
            (file.as_str(), own.map_or(DEFAULT, String::as_str), own.is_some(), rules.as_slice())
        })
    }

    /// Names of groups and people that policies speak of, by the type of their entity.
    pub fn named(&self, kind: &str) -> BTreeSet<String> {
        let of_kind = self.literals.iter().filter(|(of, _)| of == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    }

    /// Whether a policy speaks of a resource by this name.
    #[must_use]
    pub fn is_named(&self, kind: Kind, name: &str) -> bool {
        self.literals.contains(&(kind.type_name().to_owned(), name.to_owned()))
    }

    /// Whether any policy forbids something; where none does, what is permitted of the node as a whole is so of everything in it.
    #[must_use]
    pub fn has_forbids(&self) -> bool {
        !self.forbidding.is_empty()
    }
}

/// What every decision needs of the schema.
pub(super) struct Ground {
    pub schema: Schema,
    pub actions: Entities,
    validator: Validator,
}

pub(super) fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("a test reads the schema");
        let actions = schema.action_entities().expect("the actions of a schema fit together");
        Ground { validator: Validator::new(schema.clone()), schema, actions }
    })
}

/// Whether a text may be the name of a file: small letters, digits and `-`, with a letter first.
#[must_use]
pub fn is_file_name(text: &str) -> bool {
    text.len() <= NAME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(is_name_byte)
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// The policies of one file with their ids, in the order of the file.
fn read_file(file: &str, text: &str) -> Result<Vec<(String, cedar_policy::Policy)>, PolicyError> {
    if !is_file_name(file) {
        return Err(PolicyError::Name { name: file.chars().take(NAME_LEN_MAX).collect() });
    }
    if text.len() > FILE_LEN_MAX {
        return Err(PolicyError::Length { file: file.to_owned(), len: text.len() });
    }
    if let Err((at, problem)) = measure(text) {
        return Err(one(file, text, at, problem));
    }
    let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        let spots = errors.iter().map(|error| spot(text, error, error.to_string()));
        PolicyError::Text { file: file.to_owned(), spots: spots.take(SPOTS_MAX).collect() }
    })?;
    if set.num_of_templates() > 0 {
        let problem =
            "templates (`?principal`, `?resource`) are not used here: write the policy out";
        return Err(one(file, text, text.find('?').unwrap_or(0), problem.to_owned()));
    }
    let result = ground().validator.validate(&set, ValidationMode::Strict);
    let mut spots: Vec<Spot> = result
        .validation_errors()
        .map(|error| {
            let problem = error.to_string();
            // The number that the parser gave the policy says nobody anything.
            let said = format!("for policy `{}`, ", error.policy_id());
            spot(text, error, problem.strip_prefix(&said).unwrap_or(&problem).to_owned())
        })
        .collect();
    if !spots.is_empty() {
        spots.sort_by_key(|spot| (spot.line, spot.column));
        spots.truncate(SPOTS_MAX);
        return Err(PolicyError::Text { file: file.to_owned(), spots });
    }
    // The parser numbers them from 0, as `policy0`.
    let mut read: Vec<(usize, &cedar_policy::Policy)> = set
        .policies()
        .map(|policy| {
            let number = policy.id().to_string();
            (number.trim_start_matches("policy").parse().unwrap_or(usize::MAX), policy)
        })
        .collect();
    read.sort_by_key(|(number, _)| *number);
    named(file, text, read)
}

fn named(
    file: &str,
    text: &str,
    read: Vec<(usize, &cedar_policy::Policy)>,
) -> Result<Vec<(String, cedar_policy::Policy)>, PolicyError> {
    let mut seen = BTreeSet::new();
    read.into_iter()
        .map(|(number, policy)| {
            let name = match policy.annotation("id") {
                Some(id) => id.to_owned(),
                None => (number + 1).to_string(),
            };
            let at = || text.find(&format!("\"{name}\"")).unwrap_or(0);
            let is_name =
                !name.is_empty() && name.len() <= NAME_LEN_MAX && name.bytes().all(is_name_byte);
            if !is_name {
                let problem =
                    "`@id` has to be of small letters, digits and `-`, and at most 64 of them";
                return Err(one(file, text, at(), problem.to_owned()));
            }
            if !seen.insert(name.clone()) {
                return Err(one(file, text, at(), format!("two policies have the id `{name}`")));
            }
            Ok((format!("{file}/{name}"), policy.clone()))
        })
        .collect()
}

/// Refuses what nests deeper than the parser should follow. Strings and comments are passed over.
fn measure(text: &str) -> Result<(), (usize, String)> {
    let (mut depth, mut ifs, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut rest = text.char_indices().peekable();
    let mut word = 0;
    while let Some((at, c)) = rest.next() {
        if c.is_alphanumeric() || c == '_' {
            word = if word == 0 { at + 1 } else { word };
            let is_last = rest.peek().is_none_or(|(_, c)| !c.is_alphanumeric() && *c != '_');
            if is_last {
                ifs += usize::from(&text[word - 1..at + c.len_utf8()] == "if");
                word = 0;
            }
        }
        match c {
            '"' => {
                while let Some((_, c)) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if rest.next_if(|(_, c)| *c == '/').is_some() => {
                while rest.next_if(|(_, c)| *c != '\n').is_some() {}
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ';' => (depth, ifs, operators) = (0, 0, 0),
            '&' | '|' | '+' | '-' | '*' | '.' | '!' | '<' | '>' | '=' => operators += 1,
            _ => {}
        }
        if depth + ifs > NESTING_MAX {
            return Err((at, format!("brackets and `if` nest deeper than {NESTING_MAX}")));
        }
        if operators > OPERATORS_MAX {
            return Err((
                at,
                format!(
                    "a policy has more than {OPERATORS_MAX} signs of operators: make several of it"
                ),
            ));
        }
    }
    Ok(())
}

fn one(file: &str, text: &str, at: usize, problem: String) -> PolicyError {
    let (line, column) = place(text, at);
    PolicyError::Text {
        file: file.to_owned(),
        spots: vec![Spot { line, column, problem, hint: None }],
    }
}

fn spot(text: &str, error: &dyn Diagnostic, problem: String) -> Spot {
    let label = error.labels().and_then(|mut labels| labels.next());
    let (line, column) = place(text, label.map_or(0, |label| label.offset()));
    // What Cedar takes for the nearest action is often far off.
    let hint = match problem.contains("unrecognized action") {
        true => {
            let actions: Vec<&str> = super::Action::ALL.iter().map(|a| a.as_str()).collect();
            Some(format!(
                "the actions are {}, in the groups look, work, share and manage",
                actions.join(", ")
            ))
        }
        false => error.help().map(|help| help.to_string()),
    };
    Spot { line, column, problem, hint }
}

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (u32, u32) {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..at];
    let line_begin = before.rfind('\n').map_or(0, |at| at + 1);
    // A text is shorter than a u32 counts, see [`FILE_LEN_MAX`].
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    (number(before.matches('\n').count()), number(before[line_begin..].chars().count()))
}

/// The name of an entity.
pub(super) fn uid(kind: &str, name: &str) -> EntityUid {
    let kind = kind.parse().expect("the types of the schema are names");
    EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(name))
}
