//! YAML (and so JSON) to a tree that knows where each value stands.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};

use super::diagnostic::{Diagnostic, Diagnostics, Problem};
use super::read::Reader;
use crate::value::Value;

/// Longest document in bytes; a longer one is refused unread.
pub const DOCUMENT_LEN_MAX: usize = 1 << 20;
/// Deepest nesting of lists and maps; a deeper document is refused.
pub const DEPTH_MAX: usize = 32;
/// Most values copied for anchors and aliases together; beyond it the document is refused. Without such a bound nine
/// lines of aliases to aliases stand for a billion values.
pub const ALIAS_NODES_MAX: usize = 100_000;

/// A place in the text, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: number(marker.line()).max(1), column: number(marker.col() + 1) }
    }
}

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Mark,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The text as written, and whether it stood without quotes, where `6` is a number.
    Scalar {
        raw: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) at: Mark,
    pub(crate) text: String,
}

impl Node {
    /// The value that the text means; text without quotes follows the core schema of YAML 1.2.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar { raw, plain: false } => Value::Text(raw.clone()),
            Kind::Scalar { raw, plain: true } => resolve(raw),
            Kind::List(items) => Value::List(items.iter().map(Self::value).collect()),
            Kind::Map(entries) => {
                Value::Map(entries.iter().map(|(k, v)| (k.text.clone(), v.value())).collect())
            }
        }
    }

    /// Whether it is a map.
    pub(crate) const fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// The elements of a list.
    pub(crate) fn items(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    /// What to call it in a message.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar { .. } => super::kind_of(&self.value()),
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    fn count(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 1,
            Kind::List(items) => 1 + items.iter().map(Self::count).sum::<usize>(),
            Kind::Map(entries) => 1 + entries.iter().map(|(_, v)| v.count()).sum::<usize>(),
        }
    }
}

fn resolve(raw: &str) -> Value {
    match raw {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, radix| {
        let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
        i64::from_str_radix(digits, radix).ok().filter(|_| plain)
    };
    let int = match (raw.strip_prefix("0x"), raw.strip_prefix("0o")) {
        (Some(hex), _) => radix(hex, 16),
        (_, Some(octal)) => radix(octal, 8),
        _ => raw.parse().ok(),
    };
    if let Some(int) = int {
        return Value::Int(int);
    }
    let number = raw.bytes().any(|b| b.is_ascii_digit())
        && raw.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match raw.parse::<f64>() {
        Ok(float) if number && float.is_finite() => Value::Float(float),
        _ => Value::Text(raw.to_owned()),
    }
}

/// Parses one document. Duplicate keys are reported together; anything else stops at once, for nothing after it can be
/// trusted to mean what it seems to.
pub(crate) fn parse(source: &str) -> Result<(Node, Vec<Diagnostic>), Diagnostics> {
    let mut builder = Builder::default();
    match builder.document(source) {
        Ok(node) => Ok((node, builder.found)),
        Err((at, problem)) => {
            builder.report(at, problem);
            Reader::with(builder.found).finish(None)
        }
    }
}

type Failure = (Mark, Problem);

/// A list or map that has begun.
struct Open {
    at: Mark,
    anchor: usize,
    kind: Collection,
}

enum Collection {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: BTreeSet<String>, key: Option<Key> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    copied: usize,
    found: Vec<Diagnostic>,
    root: Option<Node>,
}

impl Builder {
    fn document(&mut self, source: &str) -> Result<Node, Failure> {
        let start = Mark { line: 1, column: 1 };
        if source.len() > DOCUMENT_LEN_MAX {
            return Err((start, Problem::TooLong { bytes: source.len() }));
        }
        let mut parser = Parser::new_from_str(source);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| {
                ((*error.marker()).into(), Problem::Yaml { reason: error.info().to_owned() })
            })?;
            self.event(event, span.start.into())?;
        }
        drop::<Parser<'_, StrInput<'_>>>(parser);
        self.root.take().ok_or((start, Problem::Empty))
    }

    fn event(&mut self, event: Event<'_>, at: Mark) -> Result<(), Failure> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err((at, Problem::SecondDocument)),
            Event::Scalar(raw, style, anchor, tag) => {
                refuse_tag(at, tag.as_deref())?;
                let plain = style == ScalarStyle::Plain;
                let kind = Kind::Scalar { raw: raw.into_owned(), plain };
                self.finished(Node { at, kind }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(at, tag.as_deref())?;
                self.begin(at, anchor, Collection::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(at, tag.as_deref())?;
                let (entries, seen) = (Vec::new(), BTreeSet::new());
                self.begin(at, anchor, Collection::Map { entries, seen, key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                None => Ok(()),
                Some(Open { at, anchor, kind }) => {
                    let kind = match kind {
                        Collection::List(items) => Kind::List(items),
                        Collection::Map { entries, .. } => Kind::Map(entries),
                    };
                    self.finished(Node { at, kind }, anchor)
                }
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or((at, Problem::AliasLoop))?;
                if self.open.len() + depth(&node) > DEPTH_MAX {
                    return Err((at, Problem::TooDeep));
                }
                self.charge(at, node.count())?;
                self.finished(node, 0)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, at: Mark, anchor: usize, kind: Collection) -> Result<(), Failure> {
        if self.open.len() >= DEPTH_MAX {
            return Err((at, Problem::TooDeep));
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn charge(&mut self, at: Mark, nodes: usize) -> Result<(), Failure> {
        self.copied = self.copied.saturating_add(nodes);
        if self.copied > ALIAS_NODES_MAX { Err((at, Problem::AliasNodes)) } else { Ok(()) }
    }

    /// Puts a finished value where it belongs: into its list, as a key or value of its map, or as the document.
    fn finished(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        if anchor != 0 {
            // Kept as a copy, so it counts: nested anchors would otherwise multiply a large document.
            self.charge(node.at, node.count())?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let mut duplicate = None;
        match &mut open.kind {
            Collection::List(items) => items.push(node),
            Collection::Map { entries, seen, key } => match key.take() {
                None => match node.kind {
                    Kind::Scalar { raw, .. } => *key = Some(Key { at: node.at, text: raw }),
                    Kind::List(_) | Kind::Map(_) => return Err((node.at, Problem::KeyNotText)),
                },
                Some(name) if seen.insert(name.text.clone()) => entries.push((name, node)),
                Some(name) => duplicate = Some(name),
            },
        }
        if let Some(key) = duplicate {
            self.report(key.at, Problem::DuplicateKey { key: key.text });
            if let Some(found) = self.found.last_mut() {
                found.hint = Some("keep one of the two".to_owned());
            }
        }
        Ok(())
    }

    fn report(&mut self, at: Mark, problem: Problem) {
        let (line, column) = (at.line, at.column);
        self.found.push(Diagnostic { line, column, path: self.path(), problem, hint: None });
    }

    /// Keys and positions of everything that is open.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.kind {
                Collection::List(items) => path.push_str(&format!("[{}]", items.len())),
                Collection::Map { key: Some(key), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&key.text.chars().take(64).collect::<String>());
                }
                Collection::Map { key: None, .. } => {}
            }
        }
        path
    }
}

fn depth(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar { .. } => 0,
        Kind::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Kind::Map(entries) => 1 + entries.iter().map(|(_, v)| depth(v)).max().unwrap_or(0),
    }
}

/// Tags would give values types that the document's form does not know.
fn refuse_tag(at: Mark, tag: Option<&saphyr_parser::Tag>) -> Result<(), Failure> {
    match tag {
        // A lone `!` only says that a scalar is text.
        Some(tag) if !(tag.handle.is_empty() && tag.suffix == "!") => {
            Err((at, Problem::Tag { tag: tag.to_string().chars().take(80).collect() }))
        }
        _ => Ok(()),
    }
}
