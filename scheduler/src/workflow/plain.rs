//! A YAML or JSON text as plain data that still knows where each value stands, for documents whose fields others check.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::diagnostic::Diagnostics;
use super::read::{Reader, join};
use super::tree::{Kind, Mark, Node, parse};
use crate::value::Value;

/// A document as data, with the places of its keys and values.
#[derive(Clone, Debug)]
pub struct Plain {
    /// The data. A number with a fraction is the text that was written, so that no float comes between an amount and its
    /// reader.
    pub json: Json,
    places: BTreeMap<String, Place>,
}

/// Where a value stands, and the key before it.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: Mark,
    value: Mark,
}

impl Plain {
    /// Reads a document within the bounds of all documents (length, depth, aliases). A key that stands twice is refused.
    ///
    /// # Errors
    /// What is wrong with the text, with its places.
    pub fn parse(source: &str) -> Result<Self, Diagnostics> {
        let (tree, found) = parse(source)?;
        if !found.is_empty() {
            return Reader::with(found).finish(None);
        }
        let mut places = BTreeMap::new();
        places.insert(String::new(), Place { key: tree.at, value: tree.at });
        let json = convert(&tree, "", &mut places);
        Ok(Self { json, places })
    }

    /// Line and column, both from 1, of the key at a path like `rows[0].per`; of what holds it when there is no such key.
    #[must_use]
    pub fn key_at(&self, path: &str) -> (u32, u32) {
        self.find(path).map_or((1, 1), |place| (place.key.line, place.key.column))
    }

    /// Line and column, both from 1, of the value at a path; of what holds it when there is no such key.
    #[must_use]
    pub fn value_at(&self, path: &str) -> (u32, u32) {
        self.find(path).map_or((1, 1), |place| (place.value.line, place.value.column))
    }

    /// The text at a path, when a text stands there.
    #[must_use]
    pub fn text_at(&self, path: &str) -> Option<&str> {
        let pointer = path.replace('[', "/").replace(']', "").replace('.', "/");
        self.json.pointer(&format!("/{pointer}"))?.as_str()
    }

    /// The place of the path or of the longest beginning of it that there is.
    fn find(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}

fn convert(node: &Node, path: &str, places: &mut BTreeMap<String, Place>) -> Json {
    match &node.kind {
        Kind::Scalar { raw, .. } => match node.value() {
            Value::Null => Json::Null,
            Value::Bool(truth) => truth.into(),
            Value::Int(int) => int.into(),
            _ => raw.clone().into(),
        },
        Kind::List(items) => {
            let convert = |(n, item): (usize, &Node)| {
                let path = format!("{path}[{n}]");
                places.insert(path.clone(), Place { key: item.at, value: item.at });
                convert(item, &path, places)
            };
            items.iter().enumerate().map(convert).collect()
        }
        Kind::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let path = join(path, &key.text);
                places.insert(path.clone(), Place { key: key.at, value: value.at });
                map.insert(key.text.clone(), convert(value, &path, places));
            }
            map.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_and_json_give_the_same_data_and_fractions_stay_as_written() {
        let yaml = Plain::parse("a: 0.10\nb: [1, {c: x}]\nd: null\n").unwrap();
        assert_eq!(yaml.json, json!({"a": "0.10", "b": [1, {"c": "x"}], "d": null}));
        let text = r#"{"a": 0.10, "b": [1, {"c": "x"}], "d": null}"#;
        assert_eq!(Plain::parse(text).unwrap().json, yaml.json);
    }

    #[test]
    fn every_value_has_a_place_and_what_is_missing_has_that_of_its_holder() {
        let plain = Plain::parse("a: 1\nb:\n  - c: x\n").unwrap();
        assert_eq!((plain.key_at("a"), plain.value_at("a")), ((1, 1), (1, 4)));
        assert_eq!((plain.key_at("b[0].c"), plain.value_at("b[0].c")), ((3, 5), (3, 8)));
        assert_eq!(plain.value_at("b[0].gone"), (3, 5));
        assert_eq!(plain.value_at("b[7].gone.deeper"), (3, 3));
        assert_eq!(plain.value_at("nothing"), (1, 1));
        assert_eq!(plain.text_at("b[0].c"), Some("x"));
        assert_eq!((plain.text_at("a"), plain.text_at("z")), (None, None));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_place() {
        let found = Plain::parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(found.to_string(), "3:1: key `a` is given twice (keep one of the two)");
    }
}
