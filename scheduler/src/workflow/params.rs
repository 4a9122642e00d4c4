//! Typed parameters: what a document declares and what a run is given.

use std::collections::BTreeMap;

use super::diagnostic::{Problem, nearest};
use super::read::{Fields, Reader, did_you_mean, join};
use super::tree::Node;
use super::{Type, Workflow, kind_of};
use crate::value::Value;

/// Most parameters of a workflow; more are refused.
pub const PARAMS_MAX: usize = 1000;

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParamType {
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// A file, by digest once it is bound.
    File,
    /// A directory, by digest once it is bound.
    Dir,
    /// A list of JSON values or of files.
    List,
}

impl ParamType {
    const ALL: [Self; 7] =
        [Self::Bool, Self::Int, Self::Float, Self::Text, Self::File, Self::Dir, Self::List];

    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::File => "file",
            Self::Dir => "dir",
            Self::List => "list",
        }
    }

    pub(super) fn type_of(self) -> Type {
        match self {
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Float => Type::Float,
            Self::Text => Type::Text,
            Self::File => Type::File,
            Self::Dir => Type::Dir,
            Self::List => Type::List(Box::new(Type::Any)),
        }
    }

    const fn wanted(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
            Self::File => "a file",
            Self::Dir => "a directory",
            Self::List => "a list such as [1, 2]",
        }
    }
}

/// A declared parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDecl {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub kind: ParamType,
    /// One line for people.
    pub description: Option<String>,
    /// What it is when nothing is given.
    pub default: Option<Value>,
    /// The only values allowed; empty means any.
    pub choices: Vec<Value>,
    /// Smallest allowed, for numbers.
    pub min: Option<Value>,
    /// Largest allowed, for numbers.
    pub max: Option<Value>,
    /// Whether it may be left out without a default; it is then null.
    pub optional: bool,
}

/// Why a parameter cannot be bound.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// Not declared.
    #[error("unknown parameter `{name}`{}", suggestion.as_ref().map_or_else(String::new, |s| format!(": {s}")))]
    Unknown {
        /// The name given.
        name: String,
        /// `did you mean …?`, when a declared one is close.
        suggestion: Option<String>,
    },
    /// Neither given nor defaulted.
    #[error("parameter `{name}` is missing: it has to be {wanted}")]
    Missing {
        /// The parameter.
        name: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// A value of another kind.
    #[error("parameter `{name}` has to be {wanted}, not {found}")]
    Type {
        /// The parameter.
        name: String,
        /// What it takes.
        wanted: &'static str,
        /// What was given.
        found: &'static str,
    },
    /// A text that does not read as the parameter's type.
    #[error("`{text}` cannot be read for parameter `{name}`: it has to be {wanted}")]
    Text {
        /// The parameter.
        name: String,
        /// The text, cut to 80 characters.
        text: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// Below the smallest or above the largest value.
    #[error("parameter `{name}` is {value}, but has to be {}", bounds(min.as_deref(), max.as_deref()))]
    Range {
        /// The parameter.
        name: String,
        /// The value.
        value: String,
        /// Smallest allowed.
        min: Option<String>,
        /// Largest allowed.
        max: Option<String>,
    },
    /// Not one of the allowed values.
    #[error("parameter `{name}` is {value}, but has to be one of {}", choices.join(", "))]
    Choice {
        /// The parameter.
        name: String,
        /// The value.
        value: String,
        /// The allowed values.
        choices: Vec<String>,
    },
}

fn bounds(min: Option<&str>, max: Option<&str>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("between {min} and {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "a number".to_owned(),
    }
}

impl ParamDecl {
    /// Reads a value from the text of a command line: `6` for a whole number, JSON for a list.
    ///
    /// # Errors
    /// [`ParamError::Text`] when it does not read as the type, or the errors of limits. Files and directories are not text:
    /// the caller stores them first and gives [`Value::File`] or [`Value::Dir`].
    pub fn parse_text(&self, text: &str) -> Result<Value, ParamError> {
        let value = match self.kind {
            ParamType::Text => Some(Value::Text(text.to_owned())),
            ParamType::Bool => text.parse().ok().map(Value::Bool),
            ParamType::Int => text.parse().ok().map(Value::Int),
            ParamType::Float => text.parse().ok().filter(|f: &f64| f.is_finite()).map(Value::Float),
            ParamType::List => serde_json::from_str::<Vec<serde_json::Value>>(text)
                .ok()
                .map(|items| Value::List(items.iter().map(Value::from_json).collect())),
            ParamType::File | ParamType::Dir => None,
        };
        let value = value.ok_or_else(|| ParamError::Text {
            name: self.name.clone(),
            text: text.chars().take(80).collect(),
            wanted: self.kind.wanted(),
        })?;
        self.limits(value)
    }

    /// Checks a value; text for another type is read as from a command line.
    ///
    /// # Errors
    /// See [`ParamError`].
    pub fn check(&self, value: Value) -> Result<Value, ParamError> {
        let value = match (self.kind, value) {
            (ParamType::Float, Value::Int(int)) => Value::Float(int as f64),
            (
                ParamType::Bool | ParamType::Int | ParamType::Float | ParamType::List,
                Value::Text(text),
            ) => return self.parse_text(&text),
            (_, value) => value,
        };
        let fits = match (self.kind, &value) {
            (_, Value::Null) => self.optional,
            (ParamType::Bool, Value::Bool(_))
            | (ParamType::Int, Value::Int(_))
            | (ParamType::Text, Value::Text(_))
            | (ParamType::File, Value::File(_))
            | (ParamType::Dir, Value::Dir(_))
            | (ParamType::List, Value::List(_)) => true,
            (ParamType::Float, Value::Float(float)) => float.is_finite(),
            _ => false,
        };
        if fits {
            return self.limits(value);
        }
        let (name, wanted) = (self.name.clone(), self.kind.wanted());
        Err(ParamError::Type { name, wanted, found: kind_of(&value) })
    }

    fn limits(&self, value: Value) -> Result<Value, ParamError> {
        let below = |a: &Value, b: &Value| match (a, b) {
            (Value::Int(a), Value::Int(b)) => a < b,
            (Value::Float(a), Value::Float(b)) => a < b,
            _ => false,
        };
        if self.min.as_ref().is_some_and(|min| below(&value, min))
            || self.max.as_ref().is_some_and(|max| below(max, &value))
        {
            return Err(ParamError::Range {
                name: self.name.clone(),
                value: show(&value),
                min: self.min.as_ref().map(show),
                max: self.max.as_ref().map(show),
            });
        }
        if value == Value::Null || self.choices.is_empty() || self.choices.contains(&value) {
            return Ok(value);
        }
        let choices = self.choices.iter().map(show).collect();
        Err(ParamError::Choice { name: self.name.clone(), value: show(&value), choices })
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(value) => format!("`{}`", value.chars().take(80).collect::<String>()),
        other => kind_of(other).to_owned(),
    }
}

impl Workflow {
    /// The parameters of a run: what is given, checked, and the defaults of the rest. Parameters that are optional and
    /// absent are null.
    ///
    /// # Errors
    /// Every problem, in the order of names; unknown ones last.
    pub fn bind_params(
        &self,
        mut given: BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, Value>, Vec<ParamError>> {
        let mut bound = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, decl) in &self.params {
            let value = match given.remove(name) {
                Some(value) => decl.check(value),
                None => match &decl.default {
                    Some(value) => Ok(value.clone()),
                    None if decl.optional => Ok(Value::Null),
                    None => {
                        let wanted = decl.kind.wanted();
                        Err(ParamError::Missing { name: name.clone(), wanted })
                    }
                },
            };
            match value {
                Ok(value) => {
                    bound.insert(name.clone(), value);
                }
                Err(error) => errors.push(error),
            }
        }
        errors.extend(given.into_keys().map(|name| {
            let suggestion = nearest(&name, self.params.keys().map(String::as_str));
            ParamError::Unknown { name, suggestion: suggestion.map(did_you_mean) }
        }));
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }
}

const KEYS: [&str; 7] = ["type", "description", "default", "enum", "min", "max", "optional"];

/// Reads `params:`.
pub(super) fn read(reader: &mut Reader, node: &Node) -> BTreeMap<String, ParamDecl> {
    let entries = reader.entries(node, "params");
    if entries.len() > PARAMS_MAX {
        let (what, found) = ("parameters", entries.len());
        reader.report(node.at, "params", Problem::TooMany { what, found, max: PARAMS_MAX });
        return BTreeMap::new();
    }
    let mut params = BTreeMap::new();
    for (key, node) in entries {
        let path = join("params", &key.text);
        reader.name(key, &path, "parameter name");
        if let Some(decl) = read_one(reader, &key.text, node, &path) {
            params.insert(key.text.clone(), decl);
        }
    }
    params
}

fn read_one(reader: &mut Reader, name: &str, node: &Node, path: &str) -> Option<ParamDecl> {
    let fields = reader.fields(node, path, &KEYS)?;
    let mut decl = ParamDecl {
        name: name.to_owned(),
        kind: read_type(reader, &fields)?,
        description: None,
        default: None,
        choices: Vec::new(),
        min: None,
        max: None,
        optional: false,
    };
    if let Some(node) = fields.get("description") {
        let text = reader.text(node, &fields.path("description"));
        decl.description = text.map(str::to_owned);
    }
    if let Some(node) = fields.get("optional") {
        decl.optional = reader.bool(node, &fields.path("optional")).unwrap_or(false);
    }
    // Each is checked against what is known before it: limits by type, the default by everything.
    decl.min = read_value(reader, &fields, "min", &decl);
    decl.max = read_value(reader, &fields, "max", &decl);
    if let Some(node) = allowed(reader, &fields, "enum", decl.kind) {
        let path = fields.path("enum");
        let items = reader.list(node, &path).iter();
        decl.choices = items.filter_map(|item| checked(reader, &decl, item, &path)).collect();
    }
    decl.default = read_value(reader, &fields, "default", &decl);
    Some(decl)
}

fn read_type(reader: &mut Reader, fields: &Fields<'_>) -> Option<ParamType> {
    let node = reader.require(fields, "type")?;
    let path = fields.path("type");
    let word = reader.text(node, &path)?;
    let kind = ParamType::ALL.into_iter().find(|kind| kind.as_str() == word);
    if kind.is_none() {
        let word = word.chars().take(80).collect();
        let hint = format!("one of {}", ParamType::ALL.map(ParamType::as_str).join(", "));
        let problem = Problem::UnknownWord { what: "type", word };
        reader.report_hint(node.at, &path, problem, Some(hint));
    }
    kind
}

/// What stands at a key, when the key means something for the type.
fn allowed<'t>(
    reader: &mut Reader,
    fields: &Fields<'t>,
    key: &'static str,
    kind: ParamType,
) -> Option<&'t Node> {
    let node = fields.get(key)?;
    let number = matches!(kind, ParamType::Int | ParamType::Float);
    let file = matches!(kind, ParamType::File | ParamType::Dir);
    let fits = match key {
        "default" => !file,
        "enum" => number || kind == ParamType::Text,
        _ => number,
    };
    if fits {
        return Some(node);
    }
    let kind = kind.as_str();
    let hint =
        (key == "default").then(|| format!("for a fixed one use `in: {{x: {{{kind}: path}}}}`"));
    reader.report_hint(node.at, &fields.path(key), Problem::ParamKey { key, kind }, hint);
    None
}

fn read_value(
    reader: &mut Reader,
    fields: &Fields<'_>,
    key: &'static str,
    decl: &ParamDecl,
) -> Option<Value> {
    let node = allowed(reader, fields, key, decl.kind)?;
    checked(reader, decl, node, &fields.path(key))
}

/// A value in the document that the parameter itself has to accept; quoted text is not read as a number here.
fn checked(reader: &mut Reader, decl: &ParamDecl, node: &Node, path: &str) -> Option<Value> {
    let value = node.value();
    let checked = match (&value, decl.kind) {
        (Value::Text(_), ParamType::Text) => decl.check(value),
        (Value::Text(_), _) => Err(ParamError::Type {
            name: decl.name.clone(),
            wanted: decl.kind.wanted(),
            found: kind_of(&value),
        }),
        _ => decl.check(value),
    };
    checked.map_err(|error| reader.report(node.at, path, Problem::Param(error))).ok()
}
