//! What people and programs get to read. On standard output stands the answer alone; everything else goes to standard error.

use std::io::{IsTerminal, Write};
use std::path::Path;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::error::{CliError, Place};

/// In which form a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document, or one object a line where the answer goes on.
    Json,
}

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// The whole answer as indented JSON.
    pub(crate) fn json(self, value: &impl Serialize) {
        self.line(&serde_json::to_string_pretty(value).expect("an answer is plain data"));
    }

    /// One object of an answer that goes on, in a line of its own.
    pub(crate) fn json_line(self, value: &impl Serialize) {
        self.line(&serde_json::to_string(value).expect("an answer is plain data"));
    }

    /// A line of the answer.
    pub(crate) fn line(self, text: &str) {
        // A reader that has gone away (`| head`) is no error.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Bytes of the answer as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// A table, or a sentence when it has no rows.
    pub(crate) fn table(self, header: &[&str], rows: Vec<Vec<String>>, when_empty: &str) {
        if rows.is_empty() {
            note(when_empty);
        } else {
            self.line(&render(header, rows, use_color(&std::io::stdout())));
        }
    }

    /// Names and values below each other; each line of a value gets a line.
    pub(crate) fn facts(self, facts: &[(&str, String)]) {
        self.line(&columns(facts));
    }

    /// An error with its causes and the way out, on standard error: for programs one JSON object in one line, the last of all.
    pub(crate) fn error(self, error: &CliError) {
        match self.format {
            Format::Table => report(error),
            Format::Json => note(&error.to_json().to_string()),
        }
    }
}

fn columns(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::with_capacity(facts.len());
    for (name, value) in facts {
        let mut name = *name;
        for value in value.split('\n') {
            lines.push(format!("{name:<width$}  {value}").trim_end().to_owned());
            name = "";
        }
    }
    lines.join("\n")
}

fn render(header: &[&str], rows: Vec<Vec<String>>, color: bool) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    let mut text = String::new();
    for (n, line) in table.lines().enumerate() {
        // The first cell is padded on its left; tables begin at the margin.
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        let line = if n == 0 && color { format!("\x1b[1m{line}\x1b[0m") } else { line.to_owned() };
        if n > 0 {
            text.push('\n');
        }
        text.push_str(&line);
    }
    text
}

/// Whether colour is wanted there: a terminal, and no `NO_COLOR` (<https://no-color.org>).
pub(crate) fn use_color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A line for people beside the answer.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn report(error: &CliError) {
    let (red, cyan, reset) = if use_color(&std::io::stderr()) {
        ("\x1b[31;1m", "\x1b[36;1m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    if let CliError::Document { path, places } = error {
        places.iter().for_each(|place| print_place(path, place));
    }
    note(&format!("{red}error:{reset} {}", error.message()));
    if let Some(hint) = error.hint() {
        note(&format!("{cyan}hint:{reset} {hint}"));
    }
}

/// `FILE:LINE:COL: path: problem`, and the hint in a line of its own.
fn print_place(file: &Path, place: &Place) {
    let Place { line, column, path, problem, hint } = place;
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    note(&format!("{}:{line}:{column}: {path}{problem}", file.display()));
    if let Some(hint) = hint {
        note(&format!("  hint: {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_begin_at_the_margin() {
        let rows = vec![
            vec!["a".to_owned(), "long value".to_owned()],
            vec!["longer".to_owned(), "b".to_owned()],
        ];
        let text = render(&["id", "state"], rows, false);
        assert_eq!(text, "ID      STATE\na       long value\nlonger  b");
    }

    #[test]
    fn each_line_of_a_fact_gets_a_line() {
        let facts = [("id", "a".to_owned()), ("addresses", "b\nc".to_owned())];
        assert_eq!(columns(&facts), "id         a\naddresses  b\n           c");
    }
}
