//! Operations on plain values, which need no budget of their own.

use std::cmp::Ordering;

use super::Function;
use super::eval::EvalFailure;
use crate::value::Value;

impl Function {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Not => "`!`",
            Self::NotStrictlyFalse => "a macro",
            Self::Negate | Self::Subtract => "`-`",
            Self::Add => "`+`",
            Self::Multiply => "`*`",
            Self::Divide => "`/`",
            Self::Modulo => "`%`",
            Self::Equal => "`==`",
            Self::NotEqual => "`!=`",
            Self::Less => "`<`",
            Self::LessEqual => "`<=`",
            Self::Greater => "`>`",
            Self::GreaterEqual => "`>=`",
            Self::In => "`in`",
            Self::At => "`[]`",
            Self::Size => "`size`",
            Self::Contains => "`contains`",
            Self::StartsWith => "`startsWith`",
            Self::EndsWith => "`endsWith`",
            Self::ToInt => "`int`",
            Self::ToFloat => "`double`",
            Self::ToText => "`string`",
            Self::ToBool => "`bool`",
        }
    }
}

/// What copying a value costs: one an element, one for each 16 bytes of text.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Text(text) => 1 + text.len() / 16,
        Value::List(items) => items.iter().map(weight).sum::<usize>() + 1,
        Value::Map(map) => map.iter().map(|(k, v)| 1 + k.len() / 16 + weight(v)).sum::<usize>() + 1,
        Value::File(file) => 4 + file.name.len() / 16,
        Value::Dir(dir) => 4 + dir.name.len() / 16,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 1,
    }
}

pub(super) fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Files and directories read as `{name, size, digest}`.
pub(super) fn attribute(
    field: &str,
    name: &str,
    size: u64,
    digest: &catalog::Digest,
) -> Option<Value> {
    match field {
        "name" => Some(Value::Text(name.to_owned())),
        "size" => Some(Value::Int(i64::try_from(size).unwrap_or(i64::MAX))),
        "digest" => Some(Value::Text(digest.to_string())),
        _ => None,
    }
}

/// `None` when the two cannot be ordered, `Some(None)` when one is not a number.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Some(a.partial_cmp(b)),
        (Value::Int(a), Value::Float(b)) => Some((*a as f64).partial_cmp(b)),
        (Value::Float(a), Value::Int(b)) => Some(a.partial_cmp(&(*b as f64))),
        (Value::Text(a), Value::Text(b)) => Some(Some(a.cmp(b))),
        (Value::Bool(a), Value::Bool(b)) => Some(Some(a.cmp(b))),
        _ => None,
    }
}

pub(super) fn whole(function: Function, a: i64, b: i64) -> Result<Value, EvalFailure> {
    let result = match function {
        Function::Add => a.checked_add(b),
        Function::Subtract => a.checked_sub(b),
        Function::Multiply => a.checked_mul(b),
        Function::Divide | Function::Modulo if b == 0 => return Err(EvalFailure::DivisionByZero),
        Function::Divide => a.checked_div(b),
        Function::Modulo => a.checked_rem(b),
        _ => return Err(types(function.label(), &[&Value::Int(a), &Value::Int(b)])),
    };
    result.map(Value::Int).ok_or(EvalFailure::Overflow { operation: function.label() })
}

pub(super) fn convert(function: Function, a: &Value) -> Result<Value, EvalFailure> {
    let unreadable = |text: &str, wanted| EvalFailure::Conversion {
        text: text.chars().take(80).collect(),
        wanted,
    };
    Ok(match (function, a) {
        (Function::ToInt, Value::Int(a)) => Value::Int(*a),
        (Function::ToInt, Value::Float(a)) => {
            // The bounds are exact powers of two, so the comparison loses nothing; NaN fails it.
            let bound = 9_223_372_036_854_775_808.0;
            if *a > -bound && *a < bound {
                Value::Int(*a as i64)
            } else {
                return Err(EvalFailure::Overflow { operation: "`int`" });
            }
        }
        (Function::ToInt, Value::Text(a)) => {
            Value::Int(a.parse().map_err(|_| unreadable(a, "a whole number"))?)
        }
        (Function::ToFloat, Value::Float(a)) => Value::Float(*a),
        (Function::ToFloat, Value::Int(a)) => Value::Float(*a as f64),
        (Function::ToFloat, Value::Text(a)) => {
            Value::Float(a.parse().map_err(|_| unreadable(a, "a number"))?)
        }
        (Function::ToText, Value::Text(a)) => Value::Text(a.clone()),
        (Function::ToText, Value::Int(a)) => Value::Text(a.to_string()),
        (Function::ToText, Value::Float(a)) => Value::Text(a.to_string()),
        (Function::ToText, Value::Bool(a)) => Value::Text(a.to_string()),
        (Function::ToBool, Value::Bool(a)) => Value::Bool(*a),
        (Function::ToBool, Value::Text(a)) => match a.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(unreadable(a, "true or false")),
        },
        (function, a) => return Err(types(function.label(), &[a])),
    })
}

pub(super) fn types(operation: &'static str, found: &[&Value]) -> EvalFailure {
    let kinds: Vec<&str> = found.iter().map(|value| crate::workflow::kind_of(value)).collect();
    EvalFailure::Types { operation, found: kinds.join(" and ") }
}
