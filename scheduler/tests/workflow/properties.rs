//! What holds for every text and every order of steps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::workflow::{Scope, Workflow};

use crate::TERRAIN;
use crate::tasks::Run;

/// Cuts a document into its head, its steps and its tail.
fn cut(text: &str) -> (String, Vec<String>, String) {
    let (head, rest) = text.split_once("steps:\n").expect("the document has steps");
    let (steps, tail) = rest.split_once("outputs:\n").expect("the document has outputs");
    let mut parts: Vec<String> = Vec::new();
    for line in steps.lines() {
        let begins = line.starts_with("  ") && !line.starts_with("   ");
        if begins {
            parts.push(String::new());
        }
        let part = parts.last_mut().expect("a step has begun");
        part.push_str(line);
        part.push('\n');
    }
    (format!("{head}steps:\n"), parts, format!("outputs:\n{tail}"))
}

#[test]
fn the_order_of_steps_in_the_document_changes_no_task() {
    let (head, parts, tail) = cut(TERRAIN);
    assert_eq!(parts.len(), 4);
    let tasks = |workflow: &Workflow| -> BTreeMap<String, String> {
        let run = Run::new(workflow);
        let ids: Vec<String> = workflow.steps.iter().map(|step| step.id.clone()).collect();
        ids.into_iter().map(|id| (id.clone(), format!("{:?}", run.tasks(&id)))).collect()
    };
    let deps = |workflow: &Workflow| -> BTreeMap<String, Vec<String>> {
        let id = |dep: &u32| workflow.steps[*dep as usize].id.clone();
        let all = workflow.steps.iter().map(|step| {
            let mut deps: Vec<String> = step.deps.iter().map(id).collect();
            deps.sort();
            (step.id.clone(), deps)
        });
        all.collect()
    };
    let first = Workflow::parse(TERRAIN).unwrap();
    for rotation in 0..4 {
        for swap in 0..3 {
            let mut parts = parts.clone();
            parts.rotate_left(rotation);
            parts.swap(swap, swap + 1);
            let text = format!("{head}{}{tail}", parts.concat());
            let workflow = Workflow::parse(&text).unwrap_or_else(|p| panic!("{p}\n{text}"));
            assert_eq!(tasks(&workflow), tasks(&first));
            assert_eq!(deps(&workflow), deps(&first));
        }
    }
}

#[test]
fn a_large_workflow_is_read_in_linear_time() {
    let mut text = "opencloud: workflow/v1\nname: chain\nsteps:\n".to_owned();
    for n in 0..8000 {
        let input =
            if n == 0 { String::new() } else { format!(", in: {{x: {{from: s{}.f}}}}", n - 1) };
        text.push_str(&format!(
            "  s{n}: {{run: {{wasi: {{module: a.wasm}}}}, out: {{f: {{file: f}}}}{input}}}\n"
        ));
    }
    let workflow = Workflow::parse(&text).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(workflow.steps.len(), 8000);
    assert_eq!(workflow.step_index("s7999"), Some(7999));
    assert_eq!(workflow.asset_paths().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics_the_parser(text in "[ -~\\n]{0,200}") {
        let _either = Workflow::parse(&text);
    }

    #[test]
    fn no_yaml_like_text_panics_the_parser(parts in proptest::collection::vec(prop_oneof![
        Just("opencloud: workflow/v1\n"), Just("name: w\n"), Just("steps:\n"), Just("  a:\n"), Just("    run: "), Just("{wasi: "),
        Just("{module: a.wasm}"), Just("}"), Just("\n"), Just("- "), Just("&x "), Just("*x"), Just("? "), Just(": "), Just("|\n"),
        Just("'"), Just("\""), Just("["), Just("]"), Just(", "), Just("{from: a.b}"), Just("ü\u{feff}"), Just("\t"), Just("!t "),
        Just("    when: params.x\n"), Just("    map: {over: [1]}\n"), Just("---\n"), Just("...\n"), Just("%YAML 1.2\n"), Just("#"),
    ], 0..40)) {
        let _either = Workflow::parse(&parts.concat());
    }

    /// A document with a hole: characters removed, doubled or replaced anywhere.
    #[test]
    fn no_damage_to_a_good_document_panics_anything(
        cuts in proptest::collection::vec((0..TERRAIN.len(), 0..40_usize, "[ -~\\n]{0,3}"), 1..4),
    ) {
        let mut text: Vec<char> = TERRAIN.chars().collect();
        for (at, len, put) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(workflow) = Workflow::parse(&text) {
            let (params, assets) = (BTreeMap::new(), BTreeMap::new());
            let outputs = |_: u32, _: &str| None;
            let scope = Scope { params: &params, assets: &assets, outputs: &outputs, item: None };
            for step in 0..u32::try_from(workflow.steps.len()).unwrap() {
                let _either = (workflow.should_run(step, &scope), workflow.expand(step, &scope));
                let _either = workflow.materialise(step, &scope);
            }
        }
    }

    /// Every reported place is one in the text.
    #[test]
    fn places_are_in_the_text(at in 0..TERRAIN.len(), put in "[a-z{}:]{1,3}") {
        let mut text = TERRAIN.to_owned();
        if text.is_char_boundary(at) {
            text.insert_str(at, &put);
        }
        if let Err(problems) = Workflow::parse(&text) {
            for problem in problems.0 {
                prop_assert!(problem.line >= 1 && problem.line as usize <= text.lines().count() + 1, "{}", problem);
                prop_assert!(problem.column >= 1, "{}", problem);
            }
        }
    }
}
