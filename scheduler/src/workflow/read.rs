//! Reading a tree key by key, collecting every problem on the way.

use super::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Problem, nearest};
use super::tree::{Key, Kind, Mark, Node};
use crate::value::{Value, is_plain_path};

/// Longest name of a workflow, parameter, step, input or output, in bytes.
pub const NAME_LEN_MAX: usize = 64;

/// Collects problems.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    found: Vec<Diagnostic>,
    /// Problems beyond [`DIAGNOSTICS_MAX`].
    more: usize,
}

/// A map with known keys.
pub(crate) struct Fields<'t> {
    pub(crate) at: Mark,
    pub(crate) path: String,
    entries: &'t [(Key, Node)],
}

impl<'t> Fields<'t> {
    /// The value at `key`; an explicit null is as good as nothing.
    pub(crate) fn get(&self, key: &str) -> Option<&'t Node> {
        self.entries
            .iter()
            .find(|(k, _)| k.text == key)
            .map(|(_, node)| node)
            .filter(|node| !is_null(node))
    }

    pub(crate) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &'t str> {
        self.entries.iter().map(|(key, _)| key.text.as_str())
    }
}

pub(crate) fn is_null(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar { plain: true, .. }) && node.value() == Value::Null
}

pub(crate) fn join(path: &str, key: &str) -> String {
    let key: String = key.chars().take(NAME_LEN_MAX).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

impl Reader {
    /// Starts with what is known to be wrong already.
    pub(crate) fn with(found: Vec<Diagnostic>) -> Self {
        let mut reader = Self::default();
        for diagnostic in found {
            reader.push(diagnostic);
        }
        reader
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        if self.found.len() < DIAGNOSTICS_MAX {
            self.found.push(diagnostic);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn report(&mut self, at: Mark, path: &str, problem: Problem) {
        self.report_hint(at, path, problem, None);
    }

    pub(crate) fn report_hint(
        &mut self,
        at: Mark,
        path: &str,
        problem: Problem,
        hint: Option<String>,
    ) {
        let Mark { line, column } = at;
        self.push(Diagnostic { line, column, path: path.to_owned(), problem, hint });
    }

    /// The problem with `did you mean` when a known name is close.
    pub(crate) fn report_near<'a>(
        &mut self,
        at: Mark,
        path: &str,
        problem: Problem,
        near: (&str, impl Iterator<Item = &'a str>),
    ) {
        let hint = nearest(near.0, near.1).map(did_you_mean);
        self.report_hint(at, path, problem, hint);
    }

    /// All problems in the order of the text, or the value when there are none.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|d| (d.line, d.column));
                self.found.dedup();
                if self.more > 0 {
                    let (line, column) = self.found.last().map_or((1, 1), |d| (d.line, d.column));
                    let problem = Problem::More { count: self.more };
                    let path = String::new();
                    self.found.push(Diagnostic { line, column, path, problem, hint: None });
                }
                Err(Diagnostics(self.found))
            }
        }
    }

    fn expected(&mut self, node: &Node, path: &str, expected: &'static str) {
        self.report(node.at, path, Problem::Expected { expected, found: node.describe() });
    }

    /// The entries of a map with free names.
    pub(crate) fn entries<'t>(&mut self, node: &'t Node, path: &str) -> &'t [(Key, Node)] {
        match &node.kind {
            Kind::Map(entries) => entries,
            _ if is_null(node) => &[],
            _ => {
                self.expected(node, path, "a map");
                &[]
            }
        }
    }

    /// A map with known keys; keys that begin with `x-` are the author's own.
    pub(crate) fn fields<'t>(
        &mut self,
        node: &'t Node,
        path: &str,
        known: &[&str],
    ) -> Option<Fields<'t>> {
        let Kind::Map(entries) = &node.kind else {
            self.expected(node, path, "a map");
            return None;
        };
        for (key, _) in entries {
            if key.text.starts_with("x-") || known.contains(&key.text.as_str()) {
                continue;
            }
            let problem = Problem::UnknownKey { key: key.text.chars().take(80).collect() };
            let hint = match key.text.as_str() {
                "<<" => Some("merge keys are not part of YAML 1.2: alias whole values".to_owned()),
                text => nearest(text, known.iter().copied())
                    .map(did_you_mean)
                    .or_else(|| Some(format!("known keys: {}", known.join(", ")))),
            };
            self.report_hint(key.at, path, problem, hint);
        }
        Some(Fields { at: node.at, path: path.to_owned(), entries })
    }

    /// The value at a key that has to be there.
    pub(crate) fn require<'t>(
        &mut self,
        fields: &Fields<'t>,
        key: &'static str,
    ) -> Option<&'t Node> {
        let node = fields.get(key);
        if node.is_none() {
            self.report(fields.at, &fields.path, Problem::MissingKey { key });
        }
        node
    }

    pub(crate) fn list<'t>(&mut self, node: &'t Node, path: &str) -> &'t [Node] {
        match &node.kind {
            Kind::List(items) => items,
            _ => {
                self.expected(node, path, "a list");
                &[]
            }
        }
    }

    pub(crate) fn text<'t>(&mut self, node: &'t Node, path: &str) -> Option<&'t str> {
        match &node.kind {
            Kind::Scalar { raw, plain } if !plain || matches!(node.value(), Value::Text(_)) => {
                Some(raw)
            }
            Kind::Scalar { .. } => {
                let problem = Problem::Expected { expected: "text", found: node.describe() };
                self.report_hint(node.at, path, problem, Some("put it in quotes".to_owned()));
                None
            }
            _ => {
                self.expected(node, path, "text");
                None
            }
        }
    }

    /// A scalar as it is written: `007` stays `007`.
    pub(crate) fn raw<'t>(
        &mut self,
        node: &'t Node,
        path: &str,
        expected: &'static str,
    ) -> Option<&'t str> {
        match &node.kind {
            Kind::Scalar { raw, .. } if !is_null(node) => Some(raw),
            _ => {
                self.expected(node, path, expected);
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, node: &Node, path: &str) -> Option<bool> {
        match node.value() {
            Value::Bool(truth) => Some(truth),
            _ => {
                self.expected(node, path, "true or false");
                None
            }
        }
    }

    /// A whole number between two bounds, both allowed.
    pub(crate) fn number(&mut self, node: &Node, path: &str, min: u32, max: u32) -> Option<u32> {
        let Value::Int(int) = node.value() else {
            self.expected(node, path, "a whole number");
            return None;
        };
        let number = u32::try_from(int).ok().filter(|n| (min..=max).contains(n));
        if number.is_none() {
            let (min, max) = (u64::from(min), u64::from(max));
            self.report(node.at, path, Problem::Range { found: int.to_string(), min, max });
        }
        number
    }

    /// Thousandths of a number that may have a fraction.
    pub(crate) fn milli(&mut self, node: &Node, path: &str, min: u32, max: u32) -> Option<u32> {
        let found = match node.value() {
            Value::Int(int) => int as f64,
            Value::Float(float) => float,
            _ => {
                self.expected(node, path, "a number");
                return None;
            }
        };
        if found >= f64::from(min) && found <= f64::from(max) {
            return Some((found * 1000.0).round() as u32);
        }
        let (min, max) = (u64::from(min), u64::from(max));
        self.report(node.at, path, Problem::Range { found: found.to_string(), min, max });
        None
    }

    /// A path inside a directory.
    pub(crate) fn path<'t>(&mut self, node: &'t Node, path: &str) -> Option<&'t str> {
        let text = self.text(node, path)?;
        if is_plain_path(text) {
            return Some(text);
        }
        let problem = Problem::Path { path: text.chars().take(80).collect() };
        let hint = match text.trim_start_matches("./") {
            rest if is_plain_path(rest) => Some(format!("write `{rest}`")),
            _ => Some("no leading `/`, no `.` or `..`, no backslash".to_owned()),
        };
        self.report_hint(node.at, path, problem, hint);
        None
    }

    /// Checks a key that names something.
    pub(crate) fn name(&mut self, key: &Key, path: &str, what: &'static str) -> bool {
        self.check_name(key.at, &key.text, path, what)
    }

    pub(crate) fn check_name(
        &mut self,
        at: Mark,
        text: &str,
        path: &str,
        what: &'static str,
    ) -> bool {
        let mut bytes = text.bytes();
        let good = text.len() <= NAME_LEN_MAX
            && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !good {
            let rule = "begin with a letter, then letters, digits, `_` and `-`, at most 64";
            let name = text.chars().take(80).collect();
            self.report(at, path, Problem::Name { name, what, rule });
        }
        good
    }
}

pub(crate) fn did_you_mean(name: String) -> String {
    format!("did you mean `{name}`?")
}
