//! The filter language: one small typed language for the CLI, the API, the dashboard and placement.
//!
//! ```text
//! kind = compute and cpu >= 4 and (arch = aarch64 or region in [eu, de]) and name ~ "slope" and not personal = true
//! ```
//!
//! A comparison is `field operator value` with the operators `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains, whatever the
//! case) and `in [a, b]`. `not` binds tightest, then `and`, then `or`. Texts need quotes only around spaces and symbols; sizes
//! are written `512MiB` or `4GB`, cores `4` or `0.5`. Each kind of resource has its own fields, and a comparison with a field
//! that a resource does not have is false, also with `!=`. An empty filter lets everything through.

mod field;
mod parse;

pub use parse::{FilterError, FilterProblem};

use std::fmt;

use field::{Field, Values};

use crate::record::{Kind, Kinds};
use crate::replica::Entry;

/// Longest filter in characters; a longer one is refused.
pub const FILTER_LEN_MAX: usize = 1024;
/// Deepest nesting of parentheses and `not`; a deeper filter is refused.
pub const FILTER_DEPTH_MAX: usize = 32;

/// A parsed filter. Printing and parsing it again gives the same filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    expr: Option<Expr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    /// At least two.
    Any(Vec<Expr>),
    /// At least two.
    All(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Field, Op, Literal),
    In(Field, Vec<Literal>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Contains => "~",
        }
    }
}

/// What every resource must have that a filter lets through, as far as the filter says it plainly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands<'a> {
    /// It is of all of these kinds.
    pub kinds: Vec<&'a str>,
    /// It has all of these names.
    pub names: Vec<&'a str>,
}

/// A value of the type that its field has; numbers in the field's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Literal {
    Text(String),
    Bool(bool),
    Number(u64),
}

impl Filter {
    /// Reads a filter. Nodes tell each other filters as they print, with all quotes and spaces, so that form is bounded, too.
    ///
    /// # Errors
    /// [`FilterError`], which names the column and often the way out.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let filter = parse::parse(text).map(|expr| Self { expr })?;
        let chars = filter.to_string().chars().count();
        parse::check_len(chars)?;
        Ok(filter)
    }

    /// What every resource has that passes; there may be more to it.
    #[must_use]
    pub fn demands(&self) -> Demands<'_> {
        let mut demands = Demands::default();
        let parts = match &self.expr {
            Some(Expr::All(parts)) => parts.as_slice(),
            Some(part) => std::slice::from_ref(part),
            None => &[],
        };
        for part in parts {
            match part {
                Expr::Compare(Field::Kind, Op::Equal, Literal::Text(kind)) => {
                    demands.kinds.push(kind);
                }
                Expr::Compare(Field::Name, Op::Equal, Literal::Text(name)) => {
                    demands.names.push(name);
                }
                _ => {}
            }
        }
        demands
    }

    /// Kinds of which something may pass; of all others nothing does.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.expr.as_ref().map_or(Kinds::ALL, Expr::kinds)
    }

    /// Whether a resource passes.
    #[must_use]
    pub fn matches(&self, entry: &Entry<'_>) -> bool {
        self.expr.as_ref().is_none_or(|expr| expr.matches(entry))
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

impl Expr {
    fn kinds(&self) -> Kinds {
        let named = |literal: &Literal| match literal {
            Literal::Text(word) => Kind::from_word(word).map_or(Kinds::NONE, Kinds::of),
            Literal::Bool(_) | Literal::Number(_) => Kinds::NONE,
        };
        match self {
            Self::Any(parts) => parts.iter().map(Self::kinds).fold(Kinds::NONE, Kinds::or),
            Self::All(parts) => parts.iter().map(Self::kinds).fold(Kinds::ALL, Kinds::and),
            Self::Compare(Field::Kind, Op::Equal, literal) => named(literal),
            Self::In(Field::Kind, literals) => {
                literals.iter().map(named).fold(Kinds::NONE, Kinds::or)
            }
            // What a negation or another field leaves out is not looked for.
            Self::Not(_) | Self::Compare(..) | Self::In(..) => Kinds::ALL,
        }
    }

    fn matches(&self, entry: &Entry<'_>) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.matches(entry)),
            Self::All(parts) => parts.iter().all(|part| part.matches(entry)),
            Self::Not(part) => !part.matches(entry),
            Self::Compare(field, op, literal) => match field.values(entry) {
                // Of several values one must be equal for `=`, and none for `!=`.
                Some(values) if *op == Op::NotEqual => !values.any(Op::Equal, literal),
                Some(values) => values.any(*op, literal),
                None => false,
            },
            Self::In(field, literals) => field
                .values(entry)
                .is_some_and(|values| literals.iter().any(|l| values.any(Op::Equal, l))),
        }
    }
}

impl Values<'_> {
    /// Whether one of the values stands in this relation to the literal.
    fn any(&self, op: Op, literal: &Literal) -> bool {
        match (self, literal) {
            (Self::Texts(texts), Literal::Text(wanted)) if op == Op::Contains => {
                let wanted = wanted.to_lowercase();
                texts.iter().any(|text| text.to_lowercase().contains(&wanted))
            }
            (Self::Texts(texts), Literal::Text(wanted)) => {
                op == Op::Equal && texts.iter().any(|text| text == wanted)
            }
            (Self::Bool(found), Literal::Bool(wanted)) => op == Op::Equal && found == wanted,
            (Self::Number(found), Literal::Number(wanted)) => match op {
                Op::Equal => found == wanted,
                Op::NotEqual => found != wanted,
                Op::Less => found < wanted,
                Op::LessOrEqual => found <= wanted,
                Op::Greater => found > wanted,
                Op::GreaterOrEqual => found >= wanted,
                Op::Contains => false,
            },
            // The parser gives every literal the type of its field.
            _ => false,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.as_ref().map_or(Ok(()), |expr| expr.print(f, 0))
    }
}

impl Expr {
    /// Prints with parentheses where the part binds less tightly than `around`: 1 for `and`, 2 for `not`.
    fn print(&self, f: &mut fmt::Formatter<'_>, around: u8) -> fmt::Result {
        let join = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str, own: u8| {
            if own < around {
                f.write_str("(")?;
            }
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    write!(f, " {word} ")?;
                }
                part.print(f, own + 1)?;
            }
            if own < around { f.write_str(")") } else { Ok(()) }
        };
        match self {
            Self::Any(parts) => join(f, parts, "or", 0),
            Self::All(parts) => join(f, parts, "and", 1),
            Self::Not(part) => {
                f.write_str("not ")?;
                part.print(f, 2)
            }
            Self::Compare(field, op, literal) => {
                write!(f, "{} {} {}", field.name(), op.as_str(), Printed(*field, literal))
            }
            Self::In(field, literals) => {
                write!(f, "{} in [", field.name())?;
                for (at, literal) in literals.iter().enumerate() {
                    let comma = if at > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", Printed(*field, literal))?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A literal as it is written beside its field.
struct Printed<'a>(Field, &'a Literal);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Literal::Bool(value) => write!(f, "{value}"),
            Literal::Number(value) => f.write_str(&self.0.print_number(*value)),
            Literal::Text(text) => {
                f.write_str("\"")?;
                for c in text.chars() {
                    if matches!(c, '"' | '\\') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{c}")?;
                }
                f.write_str("\"")
            }
        }
    }
}

#[cfg(test)]
mod tests;
