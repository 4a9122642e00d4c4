//! A run as it goes: bars on a terminal, lines elsewhere, events for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;

use catalog::NodeId;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use scheduler::run::{EventBody, Run, StepStatus};
use scheduler::task::TaskId;

use super::watch::Names;
use crate::api::Numbered;
use crate::cli::output::{Output, note};
use crate::cli::units::span;

/// How a run is shown.
#[derive(Debug)]
pub(crate) enum View {
    /// A bar for each step, on standard error.
    Bars(Bars),
    /// A line for each event that matters, on standard error.
    Lines,
    /// Every event, on standard output.
    Json(Output),
}

impl View {
    /// Bars when a person watches.
    pub(crate) fn for_people() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars(Bars::default()) } else { Self::Lines }
    }

    /// Shows an event that the run has just taken in.
    pub(crate) fn show(&mut self, run: &Run, numbered: &Numbered, names: &Names) {
        match self {
            Self::Bars(bars) => bars.show(run, numbered, names),
            Self::Lines => line(run, numbered, names).iter().for_each(|line| note(line)),
            Self::Json(out) => out.json_line(numbered),
        }
    }

    /// A line for people beside the events; programs get none.
    pub(crate) fn say(&self, line: &str) {
        match self {
            Self::Bars(bars) => bars.all.suspend(|| note(line)),
            Self::Lines => note(line),
            Self::Json(_) => {}
        }
    }
}

/// The task's name for people: `slope`, or `slope[2]` for one of several.
fn task_name(run: &Run, id: TaskId) -> String {
    let step = run.step_id(id.step);
    match run.steps().get(id.step as usize) {
        Some(StepStatus::Open { items: Some(_), .. }) => format!("{step}[{}]", id.index),
        _ => step.to_owned(),
    }
}

/// Where an attempt ran, and how long it took until `at_ms`.
fn attempt(run: &Run, id: TaskId, number: u32, at_ms: u64) -> Option<(NodeId, u64)> {
    let attempt = run.task(id)?.attempts.iter().find(|attempt| attempt.number == number)?;
    Some((attempt.node, at_ms.saturating_sub(attempt.started_ms)))
}

/// What happened, in a line.
fn line(run: &Run, numbered: &Numbered, names: &Names) -> Option<String> {
    let at_ms = numbered.event.at_ms;
    Some(match &numbered.event.body {
        EventBody::Submitted { by, .. } => {
            let by = by.as_ref().map(|by| format!(" by {}", by.name)).unwrap_or_default();
            format!("{} of {} is submitted{by}", run.id(), run.workflow().name)
        }
        EventBody::StepOpened { step, items: Some(items), .. } => {
            format!("{}: {} tasks", run.step_id(*step), items.len())
        }
        EventBody::StepOpened { items: None, .. } => return None,
        EventBody::StepSkipped { step } => format!("{}: skipped", run.step_id(*step)),
        EventBody::AttemptStarted { task, number, node, .. } => {
            let again = if *number > 1 { format!(" (attempt {number})") } else { String::new() };
            format!("{} runs at {}{again}", task_name(run, *task), names.of(*node))
        }
        EventBody::SessionBegan { task, what, .. } => {
            format!("{}: inside it began {what}", task_name(run, *task))
        }
        EventBody::SessionEnded { task, detail, .. } => {
            format!("{}: what began inside it ended: {detail}", task_name(run, *task))
        }
        EventBody::Suspended { task, .. } => {
            format!("{} is suspended", task_name(run, *task))
        }
        EventBody::Resumed { task, .. } => format!("{} goes on", task_name(run, *task)),
        EventBody::AttemptEnded { task, number, failure, retry_at_ms } => {
            let at = attempt(run, *task, *number, at_ms)
                .map_or("?".to_owned(), |(node, _)| names.of(node));
            let then = if retry_at_ms.is_some() { ", trying again" } else { "" };
            format!("{} failed at {at}: {}{then}", task_name(run, *task), failure.detail)
        }
        EventBody::TaskCommitted { task, number, .. } => {
            let (node, took) = attempt(run, *task, *number, at_ms)?;
            format!("{} is done at {} after {}", task_name(run, *task), names.of(node), span(took))
        }
        EventBody::Failing { detail, .. } => format!("failing: {detail}"),
        EventBody::CancelRequested => "cancelling".to_owned(),
        EventBody::Finished { .. } => {
            format!("{} after {}", run.state(), span(at_ms.saturating_sub(run.submitted_ms())))
        }
    })
}

/// Tasks of a step at a node.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    running: u32,
    done: u32,
}

/// A bar for each step.
#[derive(Default)]
pub(crate) struct Bars {
    all: MultiProgress,
    steps: Vec<ProgressBar>,
    tallies: BTreeMap<(u32, NodeId), Tally>,
}

impl fmt::Debug for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bars").field("steps", &self.steps.len()).finish_non_exhaustive()
    }
}

/// Steps that get a bar; a longer workflow shows its first ones, and its failures as lines.
const BARS_MAX: usize = 40;

impl Bars {
    fn show(&mut self, run: &Run, numbered: &Numbered, names: &Names) {
        let at_ms = numbered.event.at_ms;
        match &numbered.event.body {
            EventBody::Submitted { .. } => self.begin(run),
            EventBody::StepOpened { step, items, .. } => {
                let tasks = items.as_ref().map_or(1, Vec::len);
                self.with(*step, |bar| bar.set_length(tasks as u64));
            }
            EventBody::StepSkipped { step } => {
                self.with(*step, |bar| bar.finish_with_message("skipped"))
            }
            EventBody::AttemptStarted { task, node, .. } => {
                self.tally(task.step, *node, names, |tally| tally.running += 1);
            }
            EventBody::AttemptEnded { task, number, .. } => {
                if let Some((node, _)) = attempt(run, *task, *number, at_ms) {
                    self.tally(task.step, node, names, |tally| {
                        tally.running = tally.running.saturating_sub(1)
                    });
                }
                self.say(run, numbered, names);
            }
            EventBody::TaskCommitted { task, number, .. } => {
                if let Some((node, _)) = attempt(run, *task, *number, at_ms) {
                    self.tally(task.step, node, names, |tally| {
                        tally.running = tally.running.saturating_sub(1);
                        tally.done += 1;
                    });
                }
                self.with(task.step, |bar| bar.inc(1));
            }
            EventBody::Failing { .. }
            | EventBody::CancelRequested
            | EventBody::SessionBegan { .. }
            | EventBody::SessionEnded { .. }
            | EventBody::Suspended { .. }
            | EventBody::Resumed { .. } => self.say(run, numbered, names),
            EventBody::Finished { .. } => {
                self.steps.iter().for_each(ProgressBar::abandon);
                self.say(run, numbered, names);
                // The bars leave the cursor at their end.
                note("");
            }
        }
    }

    fn begin(&mut self, run: &Run) {
        let steps = run.workflow().steps.iter().take(BARS_MAX);
        let width = steps.clone().map(|step| step.id.chars().count()).max().unwrap_or(0);
        let template = "{prefix} {bar:24} {pos:>3}/{len:<3} {wide_msg}";
        // The template is a constant; the default would do as well.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.steps = steps
            .map(|step| {
                let bar = self.all.add(ProgressBar::new(1).with_style(style.clone()));
                bar.set_prefix(format!("{:<width$}", step.id));
                bar.set_message("waiting");
                bar
            })
            .collect();
    }

    fn with(&self, step: u32, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.steps.get(step as usize) {
            change(bar);
        }
    }

    fn tally(&mut self, step: u32, node: NodeId, names: &Names, change: impl FnOnce(&mut Tally)) {
        change(self.tallies.entry((step, node)).or_default());
        let first = (step, NodeId::from_bytes([0; 32]));
        let last = (step, NodeId::from_bytes([u8::MAX; 32]));
        let parts = self.tallies.range(first..=last).map(|((_, node), tally)| {
            let running =
                if tally.running > 0 { format!(" (+{})", tally.running) } else { String::new() };
            format!("{} {}{running}", names.of(*node), tally.done)
        });
        let message = parts.collect::<Vec<_>>().join(", ");
        self.with(step, |bar| bar.set_message(message));
    }

    /// A line above the bars.
    fn say(&self, run: &Run, numbered: &Numbered, names: &Names) {
        if let Some(line) = line(run, numbered, names) {
            self.all.suspend(|| note(&line));
        }
    }
}
