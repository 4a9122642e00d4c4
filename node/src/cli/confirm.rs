//! Questions whose answer the owner has to give.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::error::CliError;

/// Shows what is about to happen and asks whether it may, unless `is_yes`. Without a terminal nobody can answer.
pub(super) fn confirm(
    facts: &[(&str, String)],
    question: &str,
    is_yes: bool,
) -> Result<(), CliError> {
    if is_yes {
        return Ok(());
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts {
        super::output::note(&format!("{name:<width$}  {value}"));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Unconfirmed { question: question.to_owned() });
    }
    let mut terminal = std::io::stderr().lock();
    // A terminal that cannot be written to gets no answer either.
    let _ = write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush());
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match line.trim() {
        "y" | "Y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(CliError::Declined),
    }
}
