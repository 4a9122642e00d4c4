//! The language: what it computes (against the crate's own interpreter), what it refuses, and where it stops.

use proptest::prelude::*;

use super::*;
use crate::value::FileRef;

fn names<'a>(
    params: &'a BTreeSet<String>,
    steps: &'a BTreeMap<String, (u32, BTreeSet<String>)>,
) -> Names<'a> {
    Names { params, steps, item: Some("tile") }
}

fn params() -> BTreeMap<String, Value> {
    let ints = |ints: &[i64]| Value::List(ints.iter().copied().map(Value::Int).collect());
    BTreeMap::from([
        ("n".to_owned(), Value::Int(6)),
        ("x".to_owned(), Value::Float(1.5)),
        ("s".to_owned(), Value::Text("hello".to_owned())),
        ("b".to_owned(), Value::Bool(true)),
        ("nothing".to_owned(), Value::Null),
        ("list".to_owned(), ints(&[3, 1, 2])),
        ("map".to_owned(), Value::Map(BTreeMap::from([("k".to_owned(), Value::Int(1))]))),
    ])
}

fn compile(source: &str) -> Result<Expr, ExprError> {
    let params = params().into_keys().collect();
    let outputs = BTreeSet::from(["count".to_owned(), "files".to_owned()]);
    let steps = BTreeMap::from([
        ("split".to_owned(), (2, outputs.clone())),
        ("with-dash".to_owned(), (3, outputs)),
    ]);
    Expr::compile(source, names(&params, &steps))
}

fn run(source: &str) -> Result<Value, EvalFailure> {
    let file = FileRef { digest: catalog::Digest::of(b"x"), size: 7, name: "a.dem".to_owned() };
    let outputs = |step: u32, output: &str| match (step, output) {
        (2, "count") => Some(Value::Int(4)),
        (2, "files") => Some(Value::List(vec![Value::File(file.clone())])),
        (3, "count") => Some(Value::Null),
        _ => None,
    };
    let params = params();
    let item = Value::Map(BTreeMap::from([("row".to_owned(), Value::Int(9))]));
    let inputs = Inputs { params: &params, outputs: &outputs, item: Some((5, &item)) };
    compile(source).map_err(|e| panic!("{source}: {e}")).and_then(|expr| expr.evaluate(&inputs))
}

fn check(source: &str, expected: Value) {
    assert_eq!(run(source), Ok(expected), "{source}");
}

#[test]
fn references_read_params_outputs_item_and_index() {
    check("params.n", Value::Int(6));
    check("params[\"n\"] + index", Value::Int(11));
    check("tile.row", Value::Int(9));
    check("steps.split.count", Value::Int(4));
    check("steps[\"with-dash\"].count == null", Value::Bool(true));
    check("has(params.nothing) || has(steps.split.count)", Value::Bool(true));
    check("has(params.nothing)", Value::Bool(false));
    check("steps.split.files[0].name", Value::Text("a.dem".to_owned()));
    check("steps.split.files.map(f, f.size)", Value::List(vec![Value::Int(7)]));
    check("has(tile.row) && !has(tile.column)", Value::Bool(true));
}

#[test]
fn outputs_and_the_item_that_are_read_are_known_before_a_run() {
    let expr = compile("steps.split.count > 1 && params.n > 1").unwrap();
    assert_eq!(expr.outputs(), &BTreeSet::from([(2, "count".to_owned())]));
    assert!(!expr.uses_item());
    assert!(compile("index == 0").unwrap().uses_item());
    assert!(!compile("[1].all(tile, tile > 0)").unwrap().uses_item());
}

#[test]
fn a_macros_variable_hides_outer_names() {
    check("[1, 2].map(params, params + 1)", Value::List(vec![Value::Int(2), Value::Int(3)]));
    check("[[1], [2, 3]].map(a, a.map(b, b + size(a)))", {
        let ints = |ints: &[i64]| Value::List(ints.iter().copied().map(Value::Int).collect());
        Value::List(vec![ints(&[2]), ints(&[4, 5])])
    });
}

/// Expressions that mean the same here and in the crate's interpreter.
const SHARED: &[&str] = &[
    "1 + 2 * 3 - 4 / 2 % 3",
    "-7 / 2",
    "-7 % 2",
    "7.5 / 2.0",
    "1.0 + 2.5",
    "-(3)",
    "- 2.5",
    "!true",
    "!!false",
    "1 == 1.0",
    "1 < 2.5",
    "2.5 >= 3",
    "'a' < 'b'",
    "'a' + 'b'",
    "[1] + [2, 3]",
    "1 in [1, 2]",
    "3 in [1, 2]",
    "'k' in {'k': 1}",
    "{'k': 1}['k']",
    "{'k': {'j': 2}}.k.j",
    "[1, 2, 3][1]",
    "true ? 1 : 2",
    "false ? 1 : 2",
    "false && 1 / 0 == 1",
    "1 / 0 == 1 && false",
    "1 / 0 == 1 || true",
    "true || 1 / 0 == 1",
    "size('héllo')",
    "size([1, 2])",
    "'hello'.size()",
    "{'a': 1}.size()",
    "'hello'.contains('ell')",
    "'hello'.startsWith('he')",
    "'hello'.endsWith('lo')",
    "int('42')",
    "int(3.9)",
    "int(-3.9)",
    "double('1.5')",
    "double(2)",
    "string(12)",
    "string(true)",
    "string('x')",
    "bool('true')",
    "null == null",
    "[1, [2]] == [1, [2]]",
    "{'a': [1]} == {'a': [1.0]}",
    "'a' == 1",
    "[1, 2, 3].all(x, x > 0)",
    "[1, 2, 3].all(x, x > 1)",
    "[1, 2, 3].exists(x, x == 2)",
    "[].exists(x, x == 2)",
    "[1, 2, 2].exists_one(x, x == 2)",
    "[1, 2].exists_one(x, x == 2)",
    "[1, 2, 3].map(x, x * x)",
    "[1, 2, 3].filter(x, x % 2 == 1)",
    "[1, 2, 3].map(x, x > 1, x * 10)",
    "{'a': 1, 'b': 2}.all(k, size(k) == 1)",
    "has({'a': 1}.a)",
    "has({'a': 1}.b)",
    "[[1, 2], [3]].map(l, l.map(x, x + 1))",
    "[1, 2, 3].filter(x, [2, 3].exists(y, y == x)).size()",
    "'a' == 'a' && 1 != 2",
    "9223372036854775807 + 1",
    "1 / 0",
    "5 % 0",
    "[1][3]",
    "{'a': 1}.b",
    "1 + 'a'",
    "size(1)",
    "int('x')",
    "'a' < 1",
];

/// The crate's interpreter as oracle, on everything the two have in common.
#[test]
fn results_agree_with_the_reference_interpreter() {
    for source in SHARED {
        let program = cel::Program::compile(source).unwrap();
        let reference = program.execute(&cel::Context::default()).ok().map(|value| plain(&value));
        assert_eq!(run(source).ok(), reference, "{source}");
    }
}

fn plain(value: &cel::Value) -> Value {
    match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => Value::Bool(*value),
        cel::Value::Int(value) => Value::Int(*value),
        cel::Value::Float(value) => Value::Float(*value),
        cel::Value::String(value) => Value::Text(value.to_string()),
        cel::Value::List(items) => Value::List(items.iter().map(plain).collect()),
        other => panic!("{other:?} is not compared"),
    }
}

#[test]
fn unknown_names_are_found_before_a_run() {
    let check = |source: &str, expected: &str| {
        assert_eq!(compile(source).unwrap_err().to_string(), expected, "{source}");
    };
    check("tiles > 1", "unknown name `tiles` in the expression");
    check("params.m > 1", "unknown parameter `m` in the expression");
    check("[1].all(x, params.m > x)", "unknown parameter `m` in the expression");
    check("steps.splt.count", "unknown step `splt` in the expression");
    check("steps.split.counts", "step `split` has no output `counts`");
    check(
        "size(params)",
        "`params` alone is not a value: name one of its fields, as in `params.name`",
    );
    check(
        "steps.split",
        "`steps.split` alone is not a value: name one of its fields, as in `steps.split.output`",
    );
    check("now()", "unknown function `now`");
    check("timestamp('2026-01-01T00:00:00Z')", "unknown function `timestamp`");
    check("'a'.matches('a')", "unknown function `matches`");
    check("size(1, 2)", "`size` with 2 arguments");
    check("b'abc'", "a byte string cannot be used here");
    check("Thing{a: 1}", "a message cannot be used here");
}

#[test]
fn typos_get_a_suggestion() {
    let set = BTreeSet::from(["tiles".to_owned()]);
    let steps = BTreeMap::from([("split".to_owned(), (0, set.clone()))]);
    let names = names(&set, &steps);
    for (source, expected) in [
        ("param.tiles", "params"),
        ("params.tile", "tiles"),
        ("steps.splt.tiles", "split"),
        ("steps.split.tils", "tiles"),
        ("sise([])", "size"),
        ("idex > 1", "index"),
    ] {
        let error = Expr::compile(source, names).unwrap_err();
        assert_eq!(names.suggest(&error).as_deref(), Some(expected), "{source}");
    }
}

#[test]
fn syntax_errors_carry_their_place() {
    for source in ["", "1 +", "params.", "(1", "1)", "'a", "a b", "1 ++ ", "{", "[1,,2]", "§"] {
        assert!(matches!(compile(source), Err(ExprError::Syntax { .. })), "{source}");
    }
    let error = compile("1 +\n  * 2").unwrap_err();
    assert!(matches!(error, ExprError::Syntax { line: 2, .. }), "{error:?}");
}

/// Stack for what is as deep as the bounds allow: the grammar's parser needs several times as much in a build without
/// optimisation as the 2 MiB of a thread, and less than half of that in one with it.
const STACK_BYTES: usize = 32 << 20;

#[test]
fn long_deep_and_large_expressions_are_refused() {
    let deep = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(refuse_what_is_deep);
    deep.unwrap().join().unwrap();
}

fn refuse_what_is_deep() {
    let long = format!("'{}'", "a".repeat(SOURCE_LEN_MAX));
    assert!(matches!(compile(&long), Err(ExprError::TooLong { .. })));
    for source in
        ["(".repeat(400), "[".repeat(1000), format!("{}1{}", "(".repeat(60), ")".repeat(60))]
    {
        assert_eq!(compile(&source), Err(ExprError::TooDeep));
    }
    // Closing brackets that are text close nothing, however they are quoted.
    for unit in ["{'}':", "[\"]\",", r"(r'\)'+", r"(')\q'+", "('''\n)'''+", "(//)\n"] {
        assert_eq!(compile(&unit.repeat(100)), Err(ExprError::TooDeep), "{unit}");
    }
    let shallow = "'{[(' + \"it's )\" + string(1)".to_owned();
    let pairs = format!("[{}1]", "(1),".repeat(100));
    assert!([shallow, pairs].iter().all(|source| compile(source) != Err(ExprError::TooDeep)));
    for source in [
        "1+".repeat(400) + "1",
        "true?1:".repeat(140) + "1",
        "params.n".to_owned() + &"[0]".repeat(300),
        "[1].map(x,".repeat(40) + "x" + &")".repeat(40),
    ] {
        assert_eq!(compile(&source), Err(ExprError::TooDeep), "{source}");
    }
    let wide = format!("[{}1]", "1,".repeat(500));
    assert!(compile(&wide).is_ok());
    assert!(compile(&("!".repeat(1000) + "true")).is_ok());
}

#[test]
fn work_that_grows_without_bound_is_stopped() {
    let doubling = format!("['aaaaaaaaaaaaaaaa']{}", ".map(x, x + x)".repeat(40));
    let nested = "[1,2,3,4,5,6,7,8,9,10]";
    let mut product = "1".to_owned();
    for n in 0..9 {
        product = format!("{nested}.map(x{n}, {product})");
    }
    for source in [&doubling, &product] {
        assert_eq!(run(source), Err(EvalFailure::Cost), "{source}");
    }
}

#[test]
fn long_lists_are_mapped_in_linear_work() {
    let params = BTreeSet::from(["long".to_owned()]);
    let steps = BTreeMap::new();
    let expr = Expr::compile("params.long.map(x, x + 1).filter(x, x > 0)", names(&params, &steps))
        .unwrap();
    let long = |n: i64| {
        BTreeMap::from([("long".to_owned(), Value::List((0..n).map(Value::Int).collect()))])
    };
    let outputs = |_: u32, _: &str| None;
    let some = long(50_000);
    let value = expr.evaluate(&Inputs { params: &some, outputs: &outputs, item: None });
    assert!(matches!(value, Ok(Value::List(items)) if items.len() == 50_000));
    let many = long(100_001);
    let value = expr.evaluate(&Inputs { params: &many, outputs: &outputs, item: None });
    assert_eq!(value, Err(EvalFailure::FoldItems { items: 100_001 }));
}

#[test]
fn failures_say_what_they_are_about() {
    for (source, expected) in [
        ("params.n + params.s", "`+` does not take a whole number and text"),
        ("params.n.x", "a field selection does not take a whole number"),
        ("tile.column", "no field `column`"),
        ("params.list[7]", "index 7 is outside a list of 3"),
        ("params.n / 0", "division by zero"),
        ("int(params.s)", "`hello` cannot be read as a whole number"),
        ("9223372036854775807 * 2", "whole number out of range in `*`"),
        ("steps[\"with-dash\"].files", "output `files` of step 3 is not there yet"),
    ] {
        assert_eq!(run(source).unwrap_err().to_string(), expected, "{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_panics(source in "[ -~\\n]{0,80}") {
        let _either = compile(&source);
    }

    #[test]
    fn no_expression_panics(source in proptest::collection::vec(prop_oneof![
        Just("params.n"), Just("params.list"), Just("tile"), Just("index"), Just("steps.split.count"), Just("1"), Just("'a'"),
        Just("("), Just(")"), Just("["), Just("]"), Just("{"), Just("}"), Just(":"), Just("?"), Just(","), Just("."), Just("+"),
        Just("-"), Just("*"), Just("/"), Just("&&"), Just("||"), Just("!"), Just("=="), Just("in"), Just("size("), Just(".map(x,"),
        Just(".all(x,"), Just("has("), Just("x"), Just("null"), Just("1.5"), Just("\"k\""),
    ], 0..24)) {
        let source = source.join(" ");
        if compile(&source).is_ok() {
            let _either = run(&source);
        }
    }
}
