//! Computed values: CEL expressions that end, whatever a stranger wrote.
//!
//! The crate `cel` parses the text (grammar and macros of the standard); this module turns the tree into its own
//! form, in which every name is already resolved, and evaluates that form itself. The detour buys three things that the
//! crate's interpreter does not offer: a cost budget (a chain of `.map(x, x + x)` doubles its result with each link),
//! unknown names and functions found before anything runs, and results that never depend on hash order.
//! There is no clock, no randomness and no regular expression in the language.

mod eval;
mod ops;

use std::collections::{BTreeMap, BTreeSet};

use cel::common::ast::{self, Expr as Ast, LiteralValue, operators};
use cel::parser::Parser;

pub use self::eval::{EvalFailure, Inputs};

use crate::value::Value;

/// Longest expression in bytes; a longer one is refused.
pub const SOURCE_LEN_MAX: usize = 1024;
/// Deepest nesting of an expression, as written and after macros are expanded; a deeper one is refused.
pub const DEPTH_MAX: usize = 48;
/// Most nodes of an expression after macros are expanded; a larger one is refused.
pub const NODES_MAX: usize = 1024;
/// Most steps of work one evaluation may take: one a node visited and one for each element or 16 bytes of text copied.
/// Tens of milliseconds on a small machine. Beyond it the evaluation fails.
pub const COST_MAX: u64 = 2_000_000;
/// Longest list or map that `all`, `exists`, `exists_one`, `map` and `filter` go through; a longer one fails the evaluation.
pub const FOLD_ITEMS_MAX: usize = 100_000;

/// Why a text is not an expression that may be used in its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExprError {
    /// Longer than [`SOURCE_LEN_MAX`].
    #[error("expression of {bytes} bytes, at most {SOURCE_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("expression nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// More nodes than [`NODES_MAX`].
    #[error("expression has more than {NODES_MAX} parts")]
    TooLarge,
    /// Not CEL.
    #[error("not an expression: {reason} (line {line}, character {column} of the expression)")]
    Syntax {
        /// Line in the expression, from 1.
        line: u32,
        /// Character in the line, from 1.
        column: u32,
        /// What the grammar says, cut to 120 characters.
        reason: String,
    },
    /// A name that is neither a root nor a variable of a surrounding macro.
    #[error("unknown name `{name}` in the expression")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// `params.x` of a parameter that is not declared.
    #[error("unknown parameter `{name}` in the expression")]
    UnknownParam {
        /// The parameter.
        name: String,
    },
    /// `steps.x` of a step that does not exist.
    #[error("unknown step `{id}` in the expression")]
    UnknownStep {
        /// The step.
        id: String,
    },
    /// `steps.x.y` where `x` declares no output `y`.
    #[error("step `{step}` has no output `{output}`")]
    UnknownOutput {
        /// The step.
        step: String,
        /// The output.
        output: String,
    },
    /// `params` or `steps.x` without the name that has to follow.
    #[error("`{root}` alone is not a value: name one of its fields, as in `{root}.{example}`")]
    BareRoot {
        /// `params`, `steps` or `steps.<id>`.
        root: String,
        /// What a field looks like.
        example: &'static str,
    },
    /// A function that does not exist here.
    #[error("unknown function `{name}`")]
    UnknownFunction {
        /// The function.
        name: String,
    },
    /// A known function with the wrong number of arguments.
    #[error("`{name}` with {found} arguments")]
    Arguments {
        /// The function.
        name: String,
        /// Arguments given, the receiver counted.
        found: usize,
    },
    /// Part of CEL that has no use in a workflow.
    #[error("{what} cannot be used here")]
    Unsupported {
        /// What it is.
        what: &'static str,
    },
}

/// The names an expression may use.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Declared parameters, reached as `params.<name>`.
    pub params: &'a BTreeSet<String>,
    /// Steps by id with their position and output names, reached as `steps.<id>.<output>`.
    pub steps: &'a BTreeMap<String, (u32, BTreeSet<String>)>,
    /// The name of the map's item, when the expression may use it; `index` is then a name too.
    pub item: Option<&'a str>,
}

impl Names<'_> {
    /// A known name that looks like the one an error complains about.
    #[must_use]
    pub fn suggest(&self, error: &ExprError) -> Option<String> {
        use crate::workflow::nearest;
        match error {
            ExprError::UnknownName { name } => {
                let roots = ["params", "steps"].into_iter();
                nearest(name, roots.chain(self.item).chain(self.item.map(|_| "index")))
            }
            ExprError::UnknownParam { name } => {
                nearest(name, self.params.iter().map(String::as_str))
            }
            ExprError::UnknownStep { id } => nearest(id, self.steps.keys().map(String::as_str)),
            ExprError::UnknownOutput { step, output } => {
                let (_, outputs) = self.steps.get(step)?;
                nearest(output, outputs.iter().map(String::as_str))
            }
            ExprError::UnknownFunction { name } => nearest(name, FUNCTIONS.iter().map(|f| f.0)),
            _ => None,
        }
    }
}

/// A checked expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    source: String,
    root: Node,
    steps: BTreeSet<(u32, String)>,
    uses_item: bool,
}

impl Expr {
    /// Parses `source` and resolves its names.
    ///
    /// # Errors
    /// The first problem, see [`ExprError`].
    pub fn compile(source: &str, names: Names<'_>) -> Result<Self, ExprError> {
        if source.len() > SOURCE_LEN_MAX {
            return Err(ExprError::TooLong { bytes: source.len() });
        }
        check_brackets(source)?;
        let depth = u16::try_from(DEPTH_MAX).unwrap_or(u16::MAX);
        let parsed = Parser::new()
            .max_recursion_depth(depth)
            .error_recovery_limit(4)
            .parse(source)
            .map_err(|errors| syntax(&errors))?;
        let mut compiler = Compiler {
            names,
            locals: Vec::new(),
            nodes: 0,
            depth: 0,
            steps: BTreeSet::new(),
            uses_item: false,
        };
        let root = compiler.node(&parsed)?;
        let (steps, uses_item) = (compiler.steps, compiler.uses_item);
        Ok(Self { source: source.to_owned(), root, steps, uses_item })
    }

    /// The text it was made of.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The step outputs it reads.
    #[must_use]
    pub const fn outputs(&self) -> &BTreeSet<(u32, String)> {
        &self.steps
    }

    /// Whether it reads the map's item or index.
    #[must_use]
    pub const fn uses_item(&self) -> bool {
        self.uses_item
    }

    /// Computes the value.
    ///
    /// # Errors
    /// See [`EvalFailure`].
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Value, EvalFailure> {
        eval::evaluate(self, inputs)
    }
}

/// The grammar's parser recurses for every bracket before its own limit applies, so brackets are counted first: never fewer than
/// the parser may have open. Text in plain quotes is passed over. From an escape, a quote that does not end in its line, a threefold
/// quote or a comment on, where brackets may be text or not, each one counts as open to the end.
fn check_brackets(source: &str) -> Result<(), ExprError> {
    let mut open: Vec<u8> = Vec::new();
    let mut is_plain = true;
    let mut rest = source.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'(' => open.push(b')'),
            b'[' => open.push(b']'),
            b'{' => open.push(b'}'),
            b')' | b']' | b'}' if is_plain && open.last() == Some(byte) => drop(open.pop()),
            b'"' | b'\'' if is_plain => match plain_text(*byte, rest) {
                Some(behind) => rest = behind,
                None => is_plain = false,
            },
            b'/' if rest.first() == Some(&b'/') => is_plain = false,
            _ => {}
        }
        if open.len() > DEPTH_MAX {
            return Err(ExprError::TooDeep);
        }
    }
    Ok(())
}

/// What follows a text that this quote opened, when it ends in its line and has neither an escape nor a threefold quote.
fn plain_text(quote: u8, text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| [quote, b'\\', b'\n', b'\r'].contains(byte))?;
    let behind = text.get(end + 1..)?;
    let is_threefold = end == 0 && behind.first() == Some(&quote);
    (text.get(end) == Some(&quote) && !is_threefold).then_some(behind)
}

fn syntax(errors: &cel::ParseErrors) -> ExprError {
    let first = errors.errors.first();
    let (line, column) = first.map_or((1, 1), |e| e.pos);
    let message = first.map_or("unknown", |e| e.msg.as_str());
    if message.contains("Recursion limit") {
        return ExprError::TooDeep;
    }
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    // The list of everything that could have stood there is longer than useful.
    let message = message.split(" expecting ").next().unwrap_or(message);
    ExprError::Syntax {
        line: u32::try_from(line).unwrap_or(1).max(1),
        column: u32::try_from(column).unwrap_or(1).max(1),
        reason: message.chars().take(120).collect(),
    }
}

/// One part of a resolved expression.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Literal(Value),
    Param(String),
    Output(u32, String),
    Item,
    Index,
    /// Variable of a macro, by distance: 0 is the innermost.
    Local(usize),
    Select(Box<Self>, String),
    /// `has(x.f)`; of a root, whether the value is present and not null.
    Has(Box<Self>, String),
    Present(Box<Self>),
    Call(Function, Vec<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    If(Box<(Self, Self, Self)>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Fold(Box<Fold>),
}

/// A macro over a list: the accumulator is local 1 and the item local 0 inside `condition` and `step`;
/// the accumulator is local 0 inside `result`.
#[derive(Clone, Debug, PartialEq)]
struct Fold {
    range: Node,
    init: Node,
    condition: Node,
    step: Node,
    result: Node,
}

/// What a call does. Operators are functions too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Not,
    NotStrictlyFalse,
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    At,
    Size,
    Contains,
    StartsWith,
    EndsWith,
    ToInt,
    ToFloat,
    ToText,
    ToBool,
}

/// Name, arguments with the receiver counted, meaning.
const FUNCTIONS: [(&str, usize, Function); 8] = [
    ("size", 1, Function::Size),
    ("contains", 2, Function::Contains),
    ("startsWith", 2, Function::StartsWith),
    ("endsWith", 2, Function::EndsWith),
    ("int", 1, Function::ToInt),
    ("double", 1, Function::ToFloat),
    ("string", 1, Function::ToText),
    ("bool", 1, Function::ToBool),
];

const OPERATORS: [(&str, Function); 16] = [
    (operators::LOGICAL_NOT, Function::Not),
    (operators::NOT_STRICTLY_FALSE, Function::NotStrictlyFalse),
    (operators::NEGATE, Function::Negate),
    (operators::ADD, Function::Add),
    (operators::SUBSTRACT, Function::Subtract),
    (operators::MULTIPLY, Function::Multiply),
    (operators::DIVIDE, Function::Divide),
    (operators::MODULO, Function::Modulo),
    (operators::EQUALS, Function::Equal),
    (operators::NOT_EQUALS, Function::NotEqual),
    (operators::LESS, Function::Less),
    (operators::LESS_EQUALS, Function::LessEqual),
    (operators::GREATER, Function::Greater),
    (operators::GREATER_EQUALS, Function::GreaterEqual),
    (operators::IN, Function::In),
    (operators::INDEX, Function::At),
];

struct Compiler<'a> {
    names: Names<'a>,
    locals: Vec<String>,
    nodes: usize,
    depth: usize,
    steps: BTreeSet<(u32, String)>,
    uses_item: bool,
}

impl Compiler<'_> {
    fn node(&mut self, parsed: &ast::IdedExpr) -> Result<Node, ExprError> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > NODES_MAX {
            return Err(ExprError::TooLarge);
        }
        if self.depth > DEPTH_MAX {
            return Err(ExprError::TooDeep);
        }
        let node = match &parsed.expr {
            Ast::Unspecified => Err(ExprError::Unsupported { what: "an empty expression" }),
            Ast::Struct(_) => Err(ExprError::Unsupported { what: "a message" }),
            Ast::Literal(literal) => literal_node(literal),
            Ast::Ident(name) => self.ident(name),
            Ast::Select(select) => self.select(select),
            Ast::Call(call) => self.call(call),
            Ast::List(list) => self.nodes(&list.elements).map(Node::List),
            Ast::Map(map) => self.map(map),
            Ast::Comprehension(fold) => self.fold(fold),
        };
        self.depth -= 1;
        node
    }

    fn nodes(&mut self, parsed: &[ast::IdedExpr]) -> Result<Vec<Node>, ExprError> {
        parsed.iter().map(|item| self.node(item)).collect()
    }

    fn boxed(&mut self, parsed: &ast::IdedExpr) -> Result<Box<Node>, ExprError> {
        self.node(parsed).map(Box::new)
    }

    fn ident(&mut self, name: &str) -> Result<Node, ExprError> {
        if let Some(distance) = self.locals.iter().rev().position(|local| local == name) {
            return Ok(Node::Local(distance));
        }
        match self.names.item {
            Some(item) if item == name => {
                self.uses_item = true;
                Ok(Node::Item)
            }
            Some(_) if name == "index" => {
                self.uses_item = true;
                Ok(Node::Index)
            }
            _ => match name {
                "params" => Err(ExprError::BareRoot { root: name.to_owned(), example: "name" }),
                "steps" => Err(ExprError::BareRoot { root: name.to_owned(), example: "id.output" }),
                _ => Err(ExprError::UnknownName { name: name.to_owned() }),
            },
        }
    }

    /// Whether the node is the free name `root`, not shadowed by a macro's variable.
    fn is_root(&self, parsed: &ast::IdedExpr, root: &str) -> bool {
        matches!(&parsed.expr, Ast::Ident(name) if name == root)
            && !self.locals.iter().any(|local| local == root)
    }

    /// `params.x` and `steps.x.y`, by dot or by `["text"]`.
    fn reference(&mut self, of: &ast::IdedExpr, field: &str) -> Result<Option<Node>, ExprError> {
        if self.is_root(of, "params") {
            return match self.names.params.contains(field) {
                true => Ok(Some(Node::Param(field.to_owned()))),
                false => Err(ExprError::UnknownParam { name: field.to_owned() }),
            };
        }
        if self.is_root(of, "steps") {
            return match self.names.steps.contains_key(field) {
                true => {
                    Err(ExprError::BareRoot { root: format!("steps.{field}"), example: "output" })
                }
                false => Err(ExprError::UnknownStep { id: field.to_owned() }),
            };
        }
        let Some((root, id)) = field_of(of) else {
            return Ok(None);
        };
        if !self.is_root(root, "steps") {
            return Ok(None);
        }
        let Some((step, outputs)) = self.names.steps.get(id) else {
            return Err(ExprError::UnknownStep { id: id.to_owned() });
        };
        if !outputs.contains(field) {
            return Err(ExprError::UnknownOutput { step: id.to_owned(), output: field.to_owned() });
        }
        self.steps.insert((*step, field.to_owned()));
        Ok(Some(Node::Output(*step, field.to_owned())))
    }

    fn select(&mut self, select: &ast::SelectExpr) -> Result<Node, ExprError> {
        if let Some(node) = self.reference(&select.operand, &select.field)? {
            return Ok(if select.test { Node::Present(Box::new(node)) } else { node });
        }
        let operand = self.boxed(&select.operand)?;
        let field = select.field.clone();
        Ok(if select.test { Node::Has(operand, field) } else { Node::Select(operand, field) })
    }

    fn call(&mut self, call: &ast::CallExpr) -> Result<Node, ExprError> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => {
                return Ok(Node::And(self.boxed(a)?, self.boxed(b)?));
            }
            (operators::LOGICAL_OR, [a, b]) => return Ok(Node::Or(self.boxed(a)?, self.boxed(b)?)),
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let parts = (self.node(condition)?, self.node(yes)?, self.node(no)?);
                return Ok(Node::If(Box::new(parts)));
            }
            (operators::INDEX, [of, key]) => {
                if let Some(field) = text_literal(key)
                    && let Some(node) = self.reference(of, field)?
                {
                    return Ok(node);
                }
            }
            _ => {}
        }
        let mut args = Vec::new();
        if let Some(target) = &call.target {
            args.push(self.node(target)?);
        }
        args.extend(self.nodes(&call.args)?);
        if let Some((_, function)) = OPERATORS.iter().find(|(operator, _)| *operator == name) {
            return Ok(Node::Call(*function, args));
        }
        match FUNCTIONS.iter().find(|(known, ..)| *known == name) {
            None => Err(ExprError::UnknownFunction { name: name.to_owned() }),
            Some((_, arity, _)) if *arity != args.len() => {
                Err(ExprError::Arguments { name: name.to_owned(), found: args.len() })
            }
            Some((_, _, function)) => Ok(Node::Call(*function, args)),
        }
    }

    fn map(&mut self, map: &ast::MapExpr) -> Result<Node, ExprError> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            match &entry.expr {
                ast::EntryExpr::MapEntry(entry) => {
                    entries.push((self.node(&entry.key)?, self.node(&entry.value)?));
                }
                ast::EntryExpr::StructField(_) => {
                    return Err(ExprError::Unsupported { what: "a message" });
                }
            }
        }
        Ok(Node::Map(entries))
    }

    fn fold(&mut self, fold: &ast::ComprehensionExpr) -> Result<Node, ExprError> {
        if fold.iter_var2.is_some() {
            return Err(ExprError::Unsupported { what: "a macro with two variables" });
        }
        let range = self.node(&fold.iter_range)?;
        let init = self.node(&fold.accu_init)?;
        self.locals.push(fold.accu_var.clone());
        let result = self.node(&fold.result)?;
        self.locals.push(fold.iter_var.clone());
        let condition = self.node(&fold.loop_cond)?;
        let step = self.node(&fold.loop_step)?;
        self.locals.truncate(self.locals.len() - 2);
        Ok(Node::Fold(Box::new(Fold { range, init, condition, step, result })))
    }
}

fn literal_node(literal: &LiteralValue) -> Result<Node, ExprError> {
    Ok(Node::Literal(match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Double(value) => Value::Float(*value.inner()),
        LiteralValue::String(value) => Value::Text(value.inner().to_owned()),
        LiteralValue::Null => Value::Null,
        LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
            Ok(int) => Value::Int(int),
            Err(_) => {
                return Err(ExprError::Unsupported { what: "a number above 2^63 - 1" });
            }
        },
        LiteralValue::Bytes(_) => {
            return Err(ExprError::Unsupported { what: "a byte string" });
        }
    }))
}

/// Operand and field of `a.b` and `a["b"]`.
fn field_of(parsed: &ast::IdedExpr) -> Option<(&ast::IdedExpr, &str)> {
    match &parsed.expr {
        Ast::Select(select) if !select.test => Some((&select.operand, &select.field)),
        Ast::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [of, key] => text_literal(key).map(|field| (of, field)),
            _ => None,
        },
        _ => None,
    }
}

fn text_literal(parsed: &ast::IdedExpr) -> Option<&str> {
    match &parsed.expr {
        Ast::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
