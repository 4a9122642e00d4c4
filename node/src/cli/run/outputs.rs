//! Outputs of a run as files: by output name, with the extension the file was made under; plain values as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use catalog::Digest;
use scheduler::value::{FileRef, Value};
use serde_json::{Value as Json, json};

use crate::cli::client::Client;
use crate::cli::download;
use crate::cli::error::CliError;
use crate::cli::units::bytes;

/// An output that lies on disk.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Saved {
    /// The output's name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its content; absent when it is a plain value or a list.
    pub(crate) digest: Option<Digest>,
}

/// Writes all outputs below `dir`.
pub(crate) async fn save(
    client: &Client,
    outputs: &BTreeMap<String, Value>,
    dir: &Path,
) -> Result<Vec<Saved>, CliError> {
    let mut saved = Vec::with_capacity(outputs.len());
    for (name, value) in outputs {
        saved.push(save_one(client, name, value, dir).await?);
    }
    Ok(saved)
}

async fn save_one(
    client: &Client,
    name: &str,
    value: &Value,
    dir: &Path,
) -> Result<Saved, CliError> {
    let (path, digest) = match value {
        Value::File(file) => {
            let path = dir.join(format!("{name}{}", extension(file)));
            download::file(client, &file.digest, &path).await?;
            (path, Some(file.digest))
        }
        Value::Dir(tree) => {
            let path = dir.join(name);
            download::dir(client, &tree.digest, &path).await?;
            (path, Some(tree.digest))
        }
        Value::List(items)
            if !items.is_empty() && items.iter().all(|i| matches!(i, Value::File(_))) =>
        {
            let path = dir.join(name);
            for (n, item) in items.iter().enumerate() {
                if let Value::File(file) = item {
                    let path = path.join(format!("{n:04}{}", extension(file)));
                    download::file(client, &file.digest, &path).await?;
                }
            }
            (path, None)
        }
        other => {
            let path = dir.join(format!("{name}.json"));
            let text = serde_json::to_vec_pretty(&plain(other)).expect("a value is plain data");
            download::bytes(&text, &path)?;
            (path, None)
        }
    };
    Ok(Saved { name: name.to_owned(), path, digest })
}

/// `.png` of `out/picture.png`; nothing for names without one.
fn extension(file: &FileRef) -> String {
    match Path::new(&file.name).extension().and_then(|e| e.to_str()) {
        // The name comes from a task, so only plain extensions become part of a path here.
        Some(e) if e.len() <= 16 && e.bytes().all(|b| b.is_ascii_alphanumeric()) => format!(".{e}"),
        _ => String::new(),
    }
}

/// A value as people write JSON; files and directories as what names them.
pub(crate) fn plain(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(map) => map.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
        Value::File(file) => json!({"digest": file.digest, "size": file.size, "name": file.name}),
        Value::Dir(dir) => {
            json!({"digest": dir.digest, "size": dir.size, "name": dir.name, "directory": true})
        }
    }
}

/// Longest plain value shown to people, in characters; the rest is in the JSON form.
const VALUE_LEN_MAX: usize = 100;

/// A value for people: files by name, size and digest, plain values as the JSON they are, cut when they are long.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::File(file) => format!("{}, {}, {}", file.name, bytes(file.size), file.digest),
        Value::Dir(dir) => format!("{}/, {}, {}", dir.name, bytes(dir.size), dir.digest),
        Value::List(items)
            if !items.is_empty() && items.iter().all(|item| matches!(item, Value::File(_))) =>
        {
            let size = items.iter().fold(0_u64, |sum, item| match item {
                Value::File(file) => sum.saturating_add(file.size),
                _ => sum,
            });
            format!("{} files, {}", items.len(), bytes(size))
        }
        other => {
            let text = plain(other).to_string();
            match text.char_indices().nth(VALUE_LEN_MAX) {
                None => text,
                Some((end, _)) => format!("{}… (all of it with --output json)", &text[..end]),
            }
        }
    }
}

/// Outputs for programs: their values, and where they lie when they were written.
pub(crate) fn shown(outputs: &BTreeMap<String, Value>, saved: Option<&[Saved]>) -> Json {
    let one = |(name, value): (&String, &Value)| {
        let path =
            saved.into_iter().flatten().find(|saved| saved.name == *name).map(|saved| &saved.path);
        let shown = match path {
            Some(path) => json!({"value": plain(value), "path": path}),
            None => json!({"value": plain(value)}),
        };
        (name.clone(), shown)
    };
    outputs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> FileRef {
        FileRef { digest: Digest::of(b"x"), size: 1, name: name.to_owned() }
    }

    #[test]
    fn only_plain_extensions_reach_a_path() {
        for (name, expected) in [
            ("a.png", ".png"),
            ("a", ""),
            ("a.tar.gz", ".gz"),
            (".hidden", ""),
            ("a.b/c", ""),
            ("a.x y", ""),
        ] {
            assert_eq!(extension(&file(name)), expected, "{name}");
        }
    }

    #[test]
    fn values_for_people_are_short() {
        let text = |value| text_of(&value);
        let digest = Digest::of(b"x");
        assert_eq!(text(Value::File(file("a.png"))), format!("a.png, 1 B, {digest}"));
        let files = vec![Value::File(file("a")), Value::File(file("b"))];
        assert_eq!(text(Value::List(files)), "2 files, 2 B");
        assert_eq!(text(Value::Int(3)), "3");
        let long = text(Value::Text("ü".repeat(300)));
        assert!(long.ends_with("… (all of it with --output json)"), "{long}");
        assert!(long.chars().count() < 150, "{long}");
    }

    #[test]
    fn values_are_plain_json() {
        let value = Value::Map(BTreeMap::from([
            ("n".to_owned(), Value::Int(3)),
            ("l".to_owned(), Value::List(vec![Value::Null, Value::Text("t".to_owned())])),
        ]));
        assert_eq!(plain(&value), json!({"n": 3, "l": [null, "t"]}));
        assert_eq!(plain(&Value::File(file("a.png")))["name"], "a.png");
    }
}
