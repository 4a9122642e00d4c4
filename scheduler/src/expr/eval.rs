//! Evaluation of resolved expressions under a budget.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::ops::{attribute, compare, convert, count, types, weight, whole};
use super::{COST_MAX, Expr, FOLD_ITEMS_MAX, Fold, Function, Node};
use crate::value::Value;

/// What an expression reads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Parameters of the run; one that is absent reads as null.
    pub params: &'a BTreeMap<String, Value>,
    /// Outputs by step and name; `None` when the step has not finished.
    pub outputs: &'a dyn Fn(u32, &str) -> Option<Value>,
    /// Index and value of the map's item.
    pub item: Option<(u32, &'a Value)>,
}

impl std::fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs")
            .field("params", self.params)
            .field("item", &self.item)
            .finish_non_exhaustive()
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalFailure {
    /// The work exceeds [`COST_MAX`].
    #[error(
        "expression takes more than {COST_MAX} steps of work: use smaller lists or fewer macros"
    )]
    Cost,
    /// A list longer than [`FOLD_ITEMS_MAX`].
    #[error("macro over {items} items, at most {FOLD_ITEMS_MAX} are allowed")]
    FoldItems {
        /// Items of the list.
        items: usize,
    },
    /// A step whose output is read has not finished.
    #[error("output `{output}` of step {step} is not there yet")]
    NotReady {
        /// Position of the step.
        step: u32,
        /// The output.
        output: String,
    },
    /// The item is read where there is none.
    #[error("there is no map item here")]
    NoItem,
    /// A number out of range.
    #[error("whole number out of range in {operation}")]
    Overflow {
        /// The operation.
        operation: &'static str,
    },
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Operands that the operation does not take.
    #[error("{operation} does not take {found}")]
    Types {
        /// The operation.
        operation: &'static str,
        /// The kinds of the operands.
        found: String,
    },
    /// A map or file without the field.
    #[error("no field `{field}`")]
    NoField {
        /// The field, cut to 80 characters.
        field: String,
    },
    /// An index outside the list.
    #[error("index {index} is outside a list of {len}")]
    Index {
        /// The index.
        index: i64,
        /// Length of the list.
        len: usize,
    },
    /// A text that is no number or truth value.
    #[error("`{text}` cannot be read as {wanted}")]
    Conversion {
        /// The text, cut to 80 characters.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
}

pub(super) fn evaluate(expr: &Expr, inputs: &Inputs<'_>) -> Result<Value, EvalFailure> {
    let mut outputs = BTreeMap::new();
    for (step, output) in &expr.steps {
        let value = (inputs.outputs)(*step, output)
            .ok_or_else(|| EvalFailure::NotReady { step: *step, output: output.clone() })?;
        outputs.insert((*step, output.as_str()), value);
    }
    let machine = Machine { params: inputs.params, outputs, item: inputs.item, cost: Cell::new(0) };
    let value = machine.eval(&expr.root, None)?;
    machine.own(value)
}

/// Variables of the surrounding macros, innermost first.
#[derive(Clone, Copy)]
struct Locals<'l> {
    value: &'l Value,
    outer: Option<&'l Locals<'l>>,
}

struct Machine<'m> {
    params: &'m BTreeMap<String, Value>,
    outputs: BTreeMap<(u32, &'m str), Value>,
    item: Option<(u32, &'m Value)>,
    cost: Cell<u64>,
}

static NULL: Value = Value::Null;

impl<'m> Machine<'m> {
    fn charge(&self, cost: usize) -> Result<(), EvalFailure> {
        let total = self.cost.get().saturating_add(cost as u64);
        self.cost.set(total);
        if total > COST_MAX { Err(EvalFailure::Cost) } else { Ok(()) }
    }

    /// A value of its own, charged for what is copied.
    fn own(&self, value: Cow<'_, Value>) -> Result<Value, EvalFailure> {
        match value {
            Cow::Owned(value) => Ok(value),
            Cow::Borrowed(value) => {
                self.charge(weight(value))?;
                Ok(value.clone())
            }
        }
    }

    fn eval<'l>(
        &'l self,
        node: &'l Node,
        locals: Option<&'l Locals<'l>>,
    ) -> Result<Cow<'l, Value>, EvalFailure> {
        self.charge(1)?;
        let owned = match node {
            Node::Literal(value) => return Ok(Cow::Borrowed(value)),
            Node::Param(name) => return Ok(Cow::Borrowed(self.params.get(name).unwrap_or(&NULL))),
            Node::Output(step, name) => {
                let found = self.outputs.get(&(*step, name.as_str()));
                return Ok(Cow::Borrowed(found.unwrap_or(&NULL)));
            }
            Node::Item => {
                let (_, item) = self.item.ok_or(EvalFailure::NoItem)?;
                return Ok(Cow::Borrowed(item));
            }
            Node::Local(distance) => {
                let mut frame = locals;
                for _ in 0..*distance {
                    frame = frame.and_then(|f| f.outer);
                }
                return Ok(Cow::Borrowed(frame.map_or(&NULL, |f| f.value)));
            }
            Node::Select(of, field) => return self.select(self.eval(of, locals)?, field),
            Node::If(parts) => {
                let (condition, yes, no) = parts.as_ref();
                let taken = if self.truth(condition, locals, "`? :`")? { yes } else { no };
                return self.eval(taken, locals);
            }
            Node::Index => {
                let (index, _) = self.item.ok_or(EvalFailure::NoItem)?;
                Value::Int(i64::from(index))
            }
            Node::Present(of) => Value::Bool(*self.eval(of, locals)? != Value::Null),
            Node::Has(of, field) => {
                let of = self.eval(of, locals)?;
                match self.select(Cow::Borrowed(&of), field) {
                    Ok(_) => Value::Bool(true),
                    Err(EvalFailure::NoField { .. }) => Value::Bool(false),
                    Err(failure) => return Err(failure),
                }
            }
            Node::And(a, b) => Value::Bool(self.logic(a, b, locals, false)?),
            Node::Or(a, b) => Value::Bool(self.logic(a, b, locals, true)?),
            Node::List(nodes) => {
                let items = nodes.iter().map(|n| self.own(self.eval(n, locals)?));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Node::Map(entries) => self.map(entries, locals)?,
            Node::Fold(fold) => self.fold(fold, locals)?,
            Node::Call(Function::At, args) => return self.at(args, locals),
            Node::Call(function, args) => self.call(*function, args, locals)?,
        };
        Ok(Cow::Owned(owned))
    }

    fn truth(
        &self,
        node: &Node,
        locals: Option<&Locals<'_>>,
        operation: &'static str,
    ) -> Result<bool, EvalFailure> {
        match &*self.eval(node, locals)? {
            Value::Bool(truth) => Ok(*truth),
            other => Err(types(operation, &[other])),
        }
    }

    /// `&&` and `||`: a side that decides hides the other side's failure, as the standard says.
    fn logic(
        &self,
        a: &Node,
        b: &Node,
        locals: Option<&Locals<'_>>,
        decisive: bool,
    ) -> Result<bool, EvalFailure> {
        let operation = if decisive { "`||`" } else { "`&&`" };
        match self.truth(a, locals, operation) {
            Ok(truth) if truth == decisive => Ok(decisive),
            Ok(_) => self.truth(b, locals, operation),
            Err(EvalFailure::Cost) => Err(EvalFailure::Cost),
            Err(failure) => match self.truth(b, locals, operation) {
                Ok(truth) if truth == decisive => Ok(decisive),
                Err(EvalFailure::Cost) => Err(EvalFailure::Cost),
                _ => Err(failure),
            },
        }
    }

    fn select<'l>(&self, of: Cow<'l, Value>, field: &str) -> Result<Cow<'l, Value>, EvalFailure> {
        let missing = || EvalFailure::NoField { field: field.chars().take(80).collect() };
        let found = match &*of {
            Value::Map(map) => match &of {
                Cow::Borrowed(Value::Map(map)) => {
                    return map.get(field).map(Cow::Borrowed).ok_or_else(missing);
                }
                _ => map.get(field).cloned(),
            },
            Value::File(file) => attribute(field, &file.name, file.size, &file.digest),
            Value::Dir(dir) => attribute(field, &dir.name, dir.size, &dir.digest),
            other => return Err(types("a field selection", &[other])),
        };
        let found = found.ok_or_else(missing)?;
        self.charge(weight(&found))?;
        Ok(Cow::Owned(found))
    }

    fn at<'l>(
        &'l self,
        args: &'l [Node],
        locals: Option<&'l Locals<'l>>,
    ) -> Result<Cow<'l, Value>, EvalFailure> {
        let [of, key] = args else {
            return Err(types("`[]`", &[]));
        };
        let of = self.eval(of, locals)?;
        let key = self.eval(key, locals)?;
        match (&*of, &*key) {
            (Value::List(items), Value::Int(index)) => {
                let position = usize::try_from(*index).ok().filter(|i| *i < items.len());
                let position =
                    position.ok_or(EvalFailure::Index { index: *index, len: items.len() })?;
                match of {
                    Cow::Borrowed(Value::List(items)) => Ok(Cow::Borrowed(&items[position])),
                    _ => Ok(Cow::Owned(self.own(Cow::Borrowed(&items[position]))?)),
                }
            }
            (_, Value::Text(field)) => {
                let field = field.clone();
                self.select(of, &field)
            }
            (of, key) => Err(types("`[]`", &[of, key])),
        }
    }

    fn map(
        &self,
        entries: &[(Node, Node)],
        locals: Option<&Locals<'_>>,
    ) -> Result<Value, EvalFailure> {
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let key = match self.own(self.eval(key, locals)?)? {
                Value::Text(key) => key,
                other => return Err(types("a map key", &[&other])),
            };
            map.insert(key, self.own(self.eval(value, locals)?)?);
        }
        Ok(Value::Map(map))
    }

    fn fold(&self, fold: &Fold, locals: Option<&Locals<'_>>) -> Result<Value, EvalFailure> {
        let range = self.eval(&fold.range, locals)?;
        let keys: Vec<Value>;
        let items: &[Value] = match &*range {
            Value::List(items) => items,
            Value::Map(map) => {
                self.charge(map.len())?;
                keys = map.keys().map(|key| Value::Text(key.clone())).collect();
                &keys
            }
            other => return Err(types("a macro", &[other])),
        };
        if items.len() > FOLD_ITEMS_MAX {
            return Err(EvalFailure::FoldItems { items: items.len() });
        }
        let mut accumulator = self.own(self.eval(&fold.init, locals)?)?;
        for item in items {
            // Copied out before the accumulator changes, so that no borrow of it is alive then.
            let step = {
                let outer = Locals { value: &accumulator, outer: locals };
                let inner = Locals { value: item, outer: Some(&outer) };
                if !self.truth(&fold.condition, Some(&inner), "a macro's condition")? {
                    break;
                }
                self.fold_step(&fold.step, &inner)?
            };
            match step {
                FoldStep::Keep => {}
                FoldStep::Replace(value) => accumulator = value,
                FoldStep::Append(new) => match &mut accumulator {
                    Value::List(list) => list.extend(new),
                    other => return Err(types("`+`", &[other])),
                },
            }
        }
        let last = Locals { value: &accumulator, outer: locals };
        let result = self.eval(&fold.result, Some(&last))?;
        self.own(result)
    }

    /// `map` and `filter` build their list by `accumulator + [item]`; appending keeps that linear.
    fn fold_step(&self, step: &Node, locals: &Locals<'_>) -> Result<FoldStep, EvalFailure> {
        match step {
            Node::If(parts) => {
                let (condition, yes, no) = parts.as_ref();
                let truth = self.truth(condition, Some(locals), "a macro's condition")?;
                self.fold_step(if truth { yes } else { no }, locals)
            }
            Node::Local(1) => Ok(FoldStep::Keep),
            Node::Call(Function::Add, args) => match args.as_slice() {
                [Node::Local(1), list @ Node::List(_)] => {
                    match self.own(self.eval(list, Some(locals))?)? {
                        Value::List(new) => Ok(FoldStep::Append(new)),
                        other => Err(types("`+`", &[&other])),
                    }
                }
                _ => self.own(self.eval(step, Some(locals))?).map(FoldStep::Replace),
            },
            _ => self.own(self.eval(step, Some(locals))?).map(FoldStep::Replace),
        }
    }

    fn call(
        &self,
        function: Function,
        args: &[Node],
        locals: Option<&Locals<'_>>,
    ) -> Result<Value, EvalFailure> {
        match args {
            [a] => {
                let a = self.eval(a, locals);
                if function == Function::NotStrictlyFalse {
                    return Ok(Value::Bool(!matches!(a.as_deref(), Ok(Value::Bool(false)))));
                }
                self.unary(function, &*a?)
            }
            [a, b] => {
                let a = self.eval(a, locals)?;
                let b = self.eval(b, locals)?;
                self.binary(function, &a, &b)
            }
            _ => Err(types("a call", &[])),
        }
    }

    fn unary(&self, function: Function, a: &Value) -> Result<Value, EvalFailure> {
        let overflow = |operation| EvalFailure::Overflow { operation };
        Ok(match (function, a) {
            (Function::Not, Value::Bool(a)) => Value::Bool(!a),
            (Function::Negate, Value::Int(a)) => {
                Value::Int(a.checked_neg().ok_or_else(|| overflow("`-`"))?)
            }
            (Function::Negate, Value::Float(a)) => Value::Float(-a),
            (Function::Size, Value::Text(a)) => {
                self.charge(a.len() / 16)?;
                count(a.chars().count())
            }
            (Function::Size, Value::List(a)) => count(a.len()),
            (Function::Size, Value::Map(a)) => count(a.len()),
            (Function::ToInt | Function::ToFloat | Function::ToText | Function::ToBool, a) => {
                self.charge(weight(a))?;
                convert(function, a)?
            }
            (function, a) => return Err(types(function.label(), &[a])),
        })
    }

    fn binary(&self, function: Function, a: &Value, b: &Value) -> Result<Value, EvalFailure> {
        Ok(match (function, a, b) {
            (Function::Equal, a, b) => Value::Bool(self.equal(a, b)?),
            (Function::NotEqual, a, b) => Value::Bool(!self.equal(a, b)?),
            (Function::In, a, Value::List(items)) => {
                let mut found = false;
                for item in items {
                    if self.equal(a, item)? {
                        found = true;
                        break;
                    }
                }
                Value::Bool(found)
            }
            (Function::In, Value::Text(key), Value::Map(map)) => Value::Bool(map.contains_key(key)),
            (Function::Add, Value::Text(a), Value::Text(b)) => {
                self.charge((a.len() + b.len()) / 16)?;
                Value::Text(format!("{a}{b}"))
            }
            (Function::Add, left @ Value::List(a), right @ Value::List(b)) => {
                self.charge(weight(left).saturating_add(weight(right)))?;
                Value::List(a.iter().chain(b).cloned().collect())
            }
            (Function::Contains, Value::Text(a), Value::Text(b)) => {
                self.charge(a.len() / 16)?;
                Value::Bool(a.contains(b.as_str()))
            }
            (Function::StartsWith, Value::Text(a), Value::Text(b)) => Value::Bool(a.starts_with(b)),
            (Function::EndsWith, Value::Text(a), Value::Text(b)) => Value::Bool(a.ends_with(b)),
            (
                Function::Less | Function::LessEqual | Function::Greater | Function::GreaterEqual,
                a,
                b,
            ) => {
                let order = compare(a, b).ok_or_else(|| types(function.label(), &[a, b]))?;
                Value::Bool(match function {
                    Function::Less => order == Some(Ordering::Less),
                    Function::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    Function::Greater => order == Some(Ordering::Greater),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                })
            }
            (_, Value::Int(a), Value::Int(b)) => whole(function, *a, *b)?,
            (_, Value::Float(a), Value::Float(b)) => match function {
                Function::Add => Value::Float(a + b),
                Function::Subtract => Value::Float(a - b),
                Function::Multiply => Value::Float(a * b),
                Function::Divide => Value::Float(a / b),
                _ => {
                    return Err(types(function.label(), &[&Value::Float(*a), &Value::Float(*b)]));
                }
            },
            (function, a, b) => return Err(types(function.label(), &[a, b])),
        })
    }

    /// Deep equality; numbers compare by value across whole and fractional.
    fn equal(&self, a: &Value, b: &Value) -> Result<bool, EvalFailure> {
        self.charge(1)?;
        Ok(match (a, b) {
            (Value::Int(_), Value::Float(_)) | (Value::Float(_), Value::Int(_)) => {
                compare(a, b) == Some(Some(Ordering::Equal))
            }
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b) {
                    if !self.equal(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => {
                if !a.keys().eq(b.keys()) {
                    return Ok(false);
                }
                for (a, b) in a.values().zip(b.values()) {
                    if !self.equal(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Text(a), Value::Text(b)) => {
                self.charge(a.len().min(b.len()) / 16)?;
                a == b
            }
            (a, b) => a == b,
        })
    }
}

enum FoldStep {
    Keep,
    Replace(Value),
    Append(Vec<Value>),
}
