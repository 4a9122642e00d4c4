//! What is wrong with a document, where, and what to do about it.

use std::fmt;

use crate::expr::ExprError;
use crate::ssh::KeyError;
use crate::task::RuntimeKind;

use super::{ALIAS_NODES_MAX, DEPTH_MAX, DOCUMENT_LEN_MAX, Type};

/// Most problems reported for one document; the rest is summed up in one line.
pub const DIAGNOSTICS_MAX: usize = 100;

/// One problem of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
    /// Keys that lead there, such as `steps.slope.in.dem`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
    /// What to do about it, when that can be said.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Every problem of a document, in the order of the text; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    /// One problem each line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A kind of problem.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not YAML.
    #[error("not YAML: {reason}")]
    Yaml {
        /// What the YAML parser says.
        reason: String,
    },
    /// The text is longer than [`DOCUMENT_LEN_MAX`].
    #[error("document of {bytes} bytes, at most {DOCUMENT_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Aliases stand for more than [`ALIAS_NODES_MAX`] values.
    #[error("anchors and aliases stand for more than {ALIAS_NODES_MAX} values")]
    AliasNodes,
    /// An alias inside what it names.
    #[error("alias inside the value it stands for")]
    AliasLoop,
    /// A YAML tag.
    #[error("tag `{tag}` is not allowed")]
    Tag {
        /// The tag.
        tag: String,
    },
    /// Nothing in the text.
    #[error("document is empty")]
    Empty,
    /// More than one YAML document.
    #[error("more than one document in the text")]
    SecondDocument,
    /// The same key twice.
    #[error("key `{key}` is given twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key that is a list or map.
    #[error("a key has to be plain text")]
    KeyNotText,
    /// A key that does not exist here.
    #[error("unknown key `{key}`")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A key that has to be there.
    #[error("key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// Something else than what has to stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What has to stand here.
        expected: &'static str,
        /// What stands here.
        found: &'static str,
    },
    /// A document of another kind or version.
    #[error("`{found}` is not a document of this kind: expected `{expected}`")]
    Version {
        /// What it says it is.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// Not a name.
    #[error("`{name}` is not a {what}: {rule}")]
    Name {
        /// The text.
        name: String,
        /// What it should name.
        what: &'static str,
        /// What such names look like.
        rule: &'static str,
    },
    /// A word outside a closed set.
    #[error("unknown {what} `{word}`")]
    UnknownWord {
        /// The set.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A key for SSH that is none.
    #[error(transparent)]
    SshKey(KeyError),
    /// Not one of several alternatives, or more than one.
    #[error("expected exactly one of {alternatives}")]
    OneOf {
        /// The alternatives.
        alternatives: String,
    },
    /// A parameter that is not declared.
    #[error("unknown parameter `{name}`")]
    UnknownParam {
        /// Its name.
        name: String,
    },
    /// A step that does not exist.
    #[error("unknown step `{id}`")]
    UnknownStep {
        /// Its id.
        id: String,
    },
    /// A step without that output.
    #[error("step `{step}` has no output `{output}`")]
    UnknownOutput {
        /// The step.
        step: String,
        /// The output.
        output: String,
    },
    /// An input that the step does not have.
    #[error("unknown input `{name}`")]
    UnknownInput {
        /// Its name.
        name: String,
    },
    /// A variable that does not exist.
    #[error("unknown variable `{name}`")]
    UnknownVar {
        /// Its name.
        name: String,
    },
    /// The map's item or index in a step without `map`.
    #[error("`{name}` is used in a step without `map`")]
    OutsideMap {
        /// What is used.
        name: String,
    },
    /// Not of the form `step.output`.
    #[error("`{text}` does not name an output: write `step.output`")]
    Reference {
        /// The text.
        text: String,
    },
    /// A value of the wrong type.
    #[error("expected {expected}, but this is {found}")]
    Type {
        /// What is needed.
        expected: &'static str,
        /// What is given.
        found: Type,
    },
    /// The output of a step that may be skipped, where something has to be there.
    #[error("step `{step}` may be skipped and then has no output")]
    MaybeSkipped {
        /// The step.
        step: String,
    },
    /// Steps that wait for each other.
    #[error("steps wait for each other: {}", steps.join(" -> "))]
    Cycle {
        /// Ids along the cycle; the first is repeated at the end.
        steps: Vec<String>,
    },
    /// Not a path inside the directory.
    #[error("`{path}` is not a plain relative path")]
    Path {
        /// The text.
        path: String,
    },
    /// A `*` elsewhere than in the last component, or none at all.
    #[error("`{pattern}` is not a pattern: `*` belongs in the last component, as in `tiles/*.dem`")]
    Pattern {
        /// The text.
        pattern: String,
    },
    /// Not an absolute path.
    #[error("`{path}` is not an absolute path such as `/share`")]
    GuestPath {
        /// The text.
        path: String,
    },
    /// Two things at one place, or one inside the other.
    #[error("`{path}` is in the way of `{other}`, staged for another input")]
    PathClash {
        /// Where this is staged.
        path: String,
        /// Where the other is.
        other: String,
    },
    /// Not a duration.
    #[error("`{text}` is not a duration: write `500ms`, `2s`, `5m`, `1h` or `{{minutes: 5}}`")]
    Duration {
        /// The text.
        text: String,
    },
    /// Not a size.
    #[error("`{text}` is not a size: write `64MiB`, `1GB` or a number of bytes")]
    Size {
        /// The text.
        text: String,
    },
    /// Outside the allowed range.
    #[error("{found} is out of range, {min} to {max} is allowed")]
    Range {
        /// The number as written.
        found: String,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A default, limit or choice that the parameter itself would refuse.
    #[error(transparent)]
    Param(#[from] super::ParamError),
    /// Limits on a type that has no order.
    #[error("`{key}` has no meaning for a parameter of type {kind}")]
    ParamKey {
        /// The key.
        key: &'static str,
        /// The parameter's type.
        kind: &'static str,
    },
    /// Too many of something.
    #[error("{found} {what}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not a digest.
    #[error(transparent)]
    Digest(#[from] catalog::id::IdError),
    /// An expression that cannot be used.
    #[error(transparent)]
    Expr(#[from] ExprError),
    /// Devices for a program that cannot be given any.
    #[error("`{}` steps get no devices", runtime.as_str())]
    NoDevices {
        /// What runs the program.
        runtime: RuntimeKind,
    },
    /// Not a price.
    #[error("`{text}` is not a price: write an amount and a currency, as in `0.05 EUR`")]
    Price {
        /// The text.
        text: String,
    },
    /// Rules that are no rule book.
    #[error(transparent)]
    Rules(#[from] catalog::rules::RulesError),
    /// More problems than are shown.
    #[error("{count} more problems are not shown")]
    More {
        /// How many.
        count: usize,
    },
}

/// The known name closest to `name`, when one is close enough to be meant.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let len = name.chars().count();
    // A third of the letters may be wrong: catches typos, not different words. Something has to be right.
    let limit = (len / 3).max(1);
    known
        .map(|candidate| (candidate.chars().count(), candidate))
        .filter(|(other, _)| other.abs_diff(len) <= limit)
        .map(|(other, candidate)| (distance(name, candidate), other, candidate))
        .filter(|(distance, other, _)| *distance <= limit && *distance < len.max(*other))
        .min()
        .map(|(_, _, candidate)| candidate.to_owned())
}

/// Letters to insert, delete, replace or swap with their neighbour to get from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
