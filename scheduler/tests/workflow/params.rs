//! What a run is given, checked against what the document declares.

use std::collections::BTreeMap;

use scheduler::value::{FileRef, Value};
use scheduler::workflow::Workflow;

fn workflow() -> Workflow {
    let text = "opencloud: workflow/v1\nname: w\nparams:\n\
                \x20 n: {type: int, min: 1, max: 9, default: 3}\n\
                \x20 x: {type: float, max: 1}\n\
                \x20 b: {type: bool, optional: true}\n\
                \x20 t: {type: text, enum: [a, b], default: a}\n\
                \x20 l: {type: list, default: [1, two]}\n\
                \x20 f: {type: file}\n\
                steps: {a: {run: {wasi: {module: a.wasm}}}}\n";
    Workflow::parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn file() -> Value {
    Value::File(FileRef { digest: catalog::Digest::of(b""), size: 0, name: "f".to_owned() })
}

fn given(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn defaults_fill_in_and_text_is_read_as_the_type() {
    let bound = workflow()
        .bind_params(given(&[("x", text("0.5")), ("f", file()), ("n", text("6"))]))
        .unwrap();
    let expected = given(&[
        ("n", Value::Int(6)),
        ("x", Value::Float(0.5)),
        ("b", Value::Null),
        ("t", text("a")),
        ("l", Value::List(vec![Value::Int(1), text("two")])),
        ("f", file()),
    ]);
    assert_eq!(bound, expected);
    let more = given(&[
        ("x", Value::Int(1)),
        ("f", file()),
        ("b", text("true")),
        ("l", text("[[1], {\"a\": 2.5}]")),
    ]);
    let bound = workflow().bind_params(more).unwrap();
    assert_eq!(bound["x"], Value::Float(1.0));
    assert_eq!(bound["b"], Value::Bool(true));
    let map = Value::Map(given(&[("a", Value::Float(2.5))]));
    assert_eq!(bound["l"], Value::List(vec![Value::List(vec![Value::Int(1)]), map]));
}

#[test]
fn every_bad_parameter_is_named_with_its_reason() {
    let bad = given(&[
        ("n", text("ten")),
        ("x", Value::Float(1.5)),
        ("b", Value::Int(1)),
        ("t", text("c")),
        ("l", text("1, 2")),
        ("tt", text("a")),
        ("zebra", Value::Null),
    ]);
    let errors = workflow().bind_params(bad).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "parameter `b` has to be true or false, not a whole number",
            "parameter `f` is missing: it has to be a file",
            "`1, 2` cannot be read for parameter `l`: it has to be a list such as [1, 2]",
            "`ten` cannot be read for parameter `n`: it has to be a whole number",
            "parameter `t` is `c`, but has to be one of `a`, `b`",
            "parameter `x` is 1.5, but has to be at most 1",
            "unknown parameter `tt`: did you mean `t`?",
            "unknown parameter `zebra`",
        ]
    );
    let range = workflow().bind_params(given(&[
        ("n", Value::Int(10)),
        ("x", Value::Float(0.0)),
        ("f", file()),
    ]));
    assert_eq!(
        range.unwrap_err()[0].to_string(),
        "parameter `n` is 10, but has to be between 1 and 9"
    );
}

#[test]
fn a_file_is_never_read_from_text() {
    let workflow = workflow();
    let error = workflow.params["f"].parse_text("a.txt").unwrap_err();
    assert_eq!(error.to_string(), "`a.txt` cannot be read for parameter `f`: it has to be a file");
    assert!(workflow.params["f"].check(text("a.txt")).is_err());
    assert!(workflow.params["x"].parse_text("NaN").is_err());
    assert!(workflow.params["x"].check(Value::Float(f64::INFINITY)).is_err());
}
