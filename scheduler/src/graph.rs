//! Pictures of a workflow's graph, as text that other tools draw.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::workflow::{Step, Workflow};

/// Colours by the word of a step's state; other words are drawn plain.
const COLOURS: [(&str, &str); 6] = [
    ("waiting", "#e5e7eb"),
    ("running", "#93c5fd"),
    ("done", "#86efac"),
    ("failed", "#fca5a5"),
    ("skipped", "#f3f4f6"),
    ("cancelled", "#fcd34d"),
];

/// The graph in the language of Mermaid. With `states`, each step shows its state in words and colour.
#[must_use]
pub fn mermaid(workflow: &Workflow, states: Option<&BTreeMap<u32, &'static str>>) -> String {
    let mut text = "flowchart TD\n".to_owned();
    let mut used = BTreeMap::new();
    for (position, step) in (0_u32..).zip(&workflow.steps) {
        let state = state(states, position);
        // Ids are letters, digits, `_` and `-`, so nothing in a label has to be escaped but the state's own text.
        let label = label(step, state, "<br/>");
        let (open, close) = if step.map.is_some() { ("[[\"", "\"]]") } else { ("[\"", "\"]") };
        let _infallible = write!(text, "  s{position}{open}{label}{close}");
        if let Some((word, colour)) = state.and_then(colour) {
            let _infallible = write!(text, ":::{word}");
            used.insert(word, colour);
        }
        text.push('\n');
    }
    for (from, to, data) in edges(workflow) {
        let arrow = if data { "-->" } else { "-.->" };
        let _infallible = writeln!(text, "  s{from} {arrow} s{to}");
    }
    for (word, colour) in used {
        let _infallible = writeln!(text, "  classDef {word} fill:{colour}");
    }
    text
}

/// The graph in the language of Graphviz. With `states`, each step shows its state in words and colour.
#[must_use]
pub fn dot(workflow: &Workflow, states: Option<&BTreeMap<u32, &'static str>>) -> String {
    let mut text = format!(
        "digraph \"{}\" {{\n  node [shape=box, style=filled, fillcolor=white];\n",
        workflow.name
    );
    for (position, step) in (0_u32..).zip(&workflow.steps) {
        let state = state(states, position);
        let label = label(step, state, "\\n");
        let _infallible = write!(text, "  s{position} [label=\"{label}\"");
        if step.map.is_some() {
            text.push_str(", peripheries=2");
        }
        if let Some((_, colour)) = state.and_then(colour) {
            let _infallible = write!(text, ", fillcolor=\"{colour}\"");
        }
        text.push_str("];\n");
    }
    for (from, to, data) in edges(workflow) {
        let style = if data { "" } else { " [style=dashed]" };
        let _infallible = writeln!(text, "  s{from} -> s{to}{style};");
    }
    text.push_str("}\n");
    text
}

fn state(states: Option<&BTreeMap<u32, &'static str>>, position: u32) -> Option<&'static str> {
    states?.get(&position).copied()
}

fn colour(state: &'static str) -> Option<(&'static str, &'static str)> {
    COLOURS.into_iter().find(|(word, _)| *word == state)
}

fn label(step: &Step, state: Option<&str>, line: &str) -> String {
    let mut label = step.id.clone();
    if let Some(map) = &step.map {
        let _infallible = write!(label, "{line}for each {}", map.item);
    }
    if step.when.is_some() {
        let _infallible = write!(label, "{line}when …");
    }
    if let Some(state) = state {
        let _infallible = write!(label, "{line}{state}");
    }
    label
}

/// From, to, and whether data flows rather than order alone.
fn edges(workflow: &Workflow) -> impl Iterator<Item = (u32, u32, bool)> {
    (0_u32..).zip(&workflow.steps).flat_map(|(to, step)| {
        step.deps.iter().map(move |from| (*from, to, !step.is_order_only(*from)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow() -> Workflow {
        Workflow::parse(
            "opencloud: workflow/v1\nname: g\nsteps:\n\
             \x20 a: {run: {wasi: {module: a.wasm}}, out: {n: {value: n.json}, f: {file: f}}}\n\
             \x20 b:\n    run: {wasi: {module: b.wasm}}\n    map: {over: {range: [1, 3]}, as: tile}\n\
             \x20   in: {f: {from: a.f}}\n    when: steps.a.n > 1\n\
             \x20 c: {run: {wasi: {module: c.wasm}}, after: [b]}\n",
        )
        .unwrap()
    }

    #[test]
    fn mermaid_shows_maps_conditions_order_and_state() {
        let states = BTreeMap::from([(0, "done"), (1, "running"), (2, "odd")]);
        assert_eq!(
            mermaid(&workflow(), Some(&states)),
            "flowchart TD\n\
             \x20 s0[\"a<br/>done\"]:::done\n\
             \x20 s1[[\"b<br/>for each tile<br/>when …<br/>running\"]]:::running\n\
             \x20 s2[\"c<br/>odd\"]\n\
             \x20 s0 --> s1\n\
             \x20 s1 -.-> s2\n\
             \x20 classDef done fill:#86efac\n\
             \x20 classDef running fill:#93c5fd\n"
        );
    }

    #[test]
    fn dot_shows_the_same_graph() {
        assert_eq!(
            dot(&workflow(), None),
            "digraph \"g\" {\n\
             \x20 node [shape=box, style=filled, fillcolor=white];\n\
             \x20 s0 [label=\"a\"];\n\
             \x20 s1 [label=\"b\\nfor each tile\\nwhen …\", peripheries=2];\n\
             \x20 s2 [label=\"c\"];\n\
             \x20 s0 -> s1;\n\
             \x20 s1 -> s2 [style=dashed];\n\
             }\n"
        );
    }
}
