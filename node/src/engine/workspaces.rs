//! Workspaces: what a user of this node has chosen to work with, under a name: resources of any author, notes, searches and drafts of
//! workflows. They are this node's own matter; no peer hears of them.
//!
//! A workspace is written whole, with the version that the writer has read: of two that change one at the same time, the second is told
//! so and loses nothing. A resource in it is a name, which stays when its author withdraws what it names.

use std::collections::{BTreeMap, BTreeSet};

use catalog::NodeId;
use catalog::filter::Filter;
use catalog::record::KEY_LEN_MAX;
use scheduler::workflow::DOCUMENT_LEN_MAX;

use super::Engine;
use super::command::{CommandError, Response};
use super::stored;
use crate::policy::Kind;
use crate::schema;
use crate::store::batch::{Batch, Table};

/// Most workspaces; further ones are refused.
pub const WORKSPACES_MAX: usize = 1_000;
/// Longest name of a workspace, a search or a draft, in bytes.
pub const NAME_LEN_MAX: usize = 64;
/// Longest sentence about a workspace, in characters.
pub const ABOUT_LEN_MAX: usize = 200;
/// Longest notes of a workspace, in bytes.
pub const NOTES_LEN_MAX: usize = 64 << 10;
/// Most resources in a workspace.
pub const RESOURCES_MAX: usize = 500;
/// Most searches in a workspace.
pub const SEARCHES_MAX: usize = 50;
/// Longest search in bytes.
pub const SEARCH_LEN_MAX: usize = 4 << 10;
/// Most drafts of workflows in a workspace.
pub const WORKFLOWS_MAX: usize = 50;
/// Bytes of a workspace as it is stored; below what one row may hold. A draft alone has at most [`DOCUMENT_LEN_MAX`].
pub const WORKSPACE_LEN_MAX: usize = 2 << 20;

/// A question or an order about workspaces.
#[derive(Clone, Debug)]
pub enum Command {
    /// All of them; the answer is [`Answer::List`].
    List,
    /// One; the answer is [`Answer::One`].
    Show {
        /// Its name.
        name: String,
    },
    /// Make it, or put it in the place of the one that was read; the answer is [`Answer::One`].
    Put {
        /// Its name.
        name: String,
        /// The version that was read; 0 to make a new one.
        version: u64,
        /// It.
        workspace: Box<Workspace>,
    },
    /// Remove it; the answer is [`Answer::Done`].
    Remove {
        /// Its name.
        name: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `List`.
    List(Vec<WorkspaceSummary>),
    /// To `Show` and `Put`.
    One(Box<WorkspaceView>),
    /// It is gone.
    Done,
}

/// What is in a workspace.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields, default)]
#[schema(as = WorkspaceContent)]
pub struct Workspace {
    /// What it is for, in a line.
    pub about: String,
    /// Anything, for people.
    pub notes: String,
    /// Resources by `AUTHOR/KEY`.
    #[schema(value_type = Vec<String>)]
    pub resources: BTreeSet<String>,
    /// Filters by name.
    pub searches: BTreeMap<String, String>,
    /// Workflow documents by name, right or not yet.
    pub workflows: BTreeMap<String, String>,
}

/// A workspace as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Row {
    version: u64,
    changed_ms: u64,
    workspace: Workspace,
}

/// A workspace in a list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct WorkspaceSummary {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Which version it is, from 1.
    pub version: u64,
    /// When it was last changed (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub changed_ms: u64,
    /// How many resources it has.
    pub resources: usize,
    /// How many searches.
    pub searches: usize,
    /// How many drafts of workflows.
    pub workflows: usize,
}

/// A workspace, with what its resources are now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Workspace)]
pub struct WorkspaceView {
    /// Its name.
    pub name: String,
    /// Which version it is, from 1.
    pub version: u64,
    /// When it was last changed (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub changed_ms: u64,
    /// What it is for.
    pub about: String,
    /// Anything, for people.
    pub notes: String,
    /// By id.
    pub resources: Vec<ChosenView>,
    /// Filters by name.
    pub searches: BTreeMap<String, String>,
    /// Workflow documents by name.
    pub workflows: BTreeMap<String, String>,
}

/// A resource in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = ChosenResource)]
pub struct ChosenView {
    /// `AUTHOR/KEY`.
    pub id: String,
    /// Its name, when the catalogue has it now.
    #[schema(required)]
    pub name: Option<String>,
    /// Its kind, likewise.
    #[schema(required)]
    pub kind: Option<String>,
    /// Its organisation's name, likewise.
    #[schema(required)]
    pub org_name: Option<String>,
}

/// Why an order about workspaces is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// There is none of this name.
    #[error("there is no workspace `{name}`; `opencloud workspace list` shows them")]
    Unknown {
        /// As asked, cut.
        name: String,
    },
    /// There is one of this name already.
    #[error("there is a workspace `{name}` already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// Somebody has changed it since it was read.
    #[error(
        "workspace `{name}` is at version {now}, and what was read was {read}: read it again, and make the change anew"
    )]
    Changed {
        /// Its name.
        name: String,
        /// The version that was read.
        read: u64,
        /// The version that stands.
        now: u64,
    },
    /// A name is not one.
    #[error(
        "`{name}` is no name: use 1 to {NAME_LEN_MAX} letters, digits, `-`, `_` and `.`, a letter or digit first"
    )]
    Name {
        /// As given, cut.
        name: String,
    },
    /// A resource has no full name.
    #[error("`{id}` names no resource: write `AUTHOR/KEY`, as `opencloud catalog list` prints it")]
    Resource {
        /// As given, cut.
        id: String,
    },
    /// A search is no filter.
    #[error("search `{name}`: {detail}")]
    Search {
        /// Its name.
        name: String,
        /// What and where.
        detail: String,
    },
    /// Too many or too long.
    #[error("{count} {what}, at most {max} are taken")]
    Bound {
        /// Of what.
        what: &'static str,
        /// Given.
        count: usize,
        /// Taken.
        max: usize,
    },
    /// The sentence about it holds what does not print.
    #[error(
        "the sentence about the workspace holds the character U+{code:04X}, which does not print"
    )]
    Unprintable {
        /// Its code point.
        code: u32,
    },
}

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the workspaces cannot be read")]
pub struct BadRow;

/// The workspaces of this node.
#[derive(Clone, Debug, Default)]
pub struct Workspaces(BTreeMap<String, Row>);

impl Workspaces {
    /// The workspaces as the rows say.
    ///
    /// # Errors
    /// `BadRow` for a row that this program did not write.
    pub fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, BadRow> {
        let read = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let name = std::str::from_utf8(key).map_err(|_| BadRow)?;
            let row = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
            Ok((name.to_owned(), row))
        };
        rows.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// What is in one.
    pub(super) fn content(&self, name: &str) -> Result<&Workspace, WorkspaceError> {
        self.get(name).map(|row| &row.workspace)
    }

    fn get(&self, name: &str) -> Result<&Row, WorkspaceError> {
        self.0.get(name).ok_or_else(|| WorkspaceError::Unknown { name: shown(name) })
    }

    fn put(
        &mut self,
        name: &str,
        version: u64,
        workspace: Workspace,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<(), WorkspaceError> {
        check_name(name)?;
        let now = self.0.get(name).map_or(0, |row| row.version);
        if now != version {
            return Err(match (version, now) {
                (0, _) => WorkspaceError::Exists { name: name.to_owned() },
                (_, 0) => WorkspaceError::Unknown { name: shown(name) },
                (read, now) => WorkspaceError::Changed { name: name.to_owned(), read, now },
            });
        }
        if now == 0 {
            at_most("workspaces", self.0.len() + 1, WORKSPACES_MAX)?;
        }
        workspace.check()?;
        let row = Row { version: version + 1, changed_ms: now_ms, workspace };
        let bytes = stored(&row);
        at_most("bytes in a workspace", bytes.len(), WORKSPACE_LEN_MAX)?;
        batch.put(Table::Workspaces, name.as_bytes().to_vec(), bytes);
        self.0.insert(name.to_owned(), row);
        Ok(())
    }

    fn remove(&mut self, name: &str, batch: &mut Batch) -> Result<(), WorkspaceError> {
        self.get(name)?;
        self.0.remove(name);
        batch.delete(Table::Workspaces, name.as_bytes().to_vec());
        Ok(())
    }

    /// The workspaces that a resource is in, by its `AUTHOR/KEY`.
    pub(super) fn with(&self, id: &str) -> BTreeSet<(Kind, String)> {
        self.those(|workspace| workspace.resources.contains(id))
    }

    /// The workspaces that hold this text as the draft of a workflow, word by word.
    pub(super) fn holding(&self, source: &str) -> BTreeSet<(Kind, String)> {
        self.those(|workspace| workspace.workflows.values().any(|draft| draft == source))
    }

    fn those(&self, is_one: impl Fn(&Workspace) -> bool) -> BTreeSet<(Kind, String)> {
        let found = self.0.iter().filter(|(_, row)| is_one(&row.workspace));
        found.map(|(name, _)| (Kind::Workspace, name.clone())).collect()
    }

    fn list(&self) -> Vec<WorkspaceSummary> {
        let summary = |(name, row): (&String, &Row)| WorkspaceSummary {
            name: name.clone(),
            about: row.workspace.about.clone(),
            version: row.version,
            changed_ms: row.changed_ms,
            resources: row.workspace.resources.len(),
            searches: row.workspace.searches.len(),
            workflows: row.workspace.workflows.len(),
        };
        self.0.iter().map(summary).collect()
    }
}

impl Workspace {
    fn check(&self) -> Result<(), WorkspaceError> {
        at_most("characters about the workspace", self.about.chars().count(), ABOUT_LEN_MAX)?;
        if let Some(c) = self.about.chars().find(|c| c.is_control()) {
            return Err(WorkspaceError::Unprintable { code: u32::from(c) });
        }
        at_most("bytes of notes", self.notes.len(), NOTES_LEN_MAX)?;
        at_most("resources", self.resources.len(), RESOURCES_MAX)?;
        at_most("searches", self.searches.len(), SEARCHES_MAX)?;
        at_most("drafts of workflows", self.workflows.len(), WORKFLOWS_MAX)?;
        self.resources.iter().try_for_each(|id| check_resource(id))?;
        for (name, text) in &self.searches {
            check_name(name)?;
            at_most("bytes in a search", text.len(), SEARCH_LEN_MAX)?;
            Filter::parse(text).map_err(|error| WorkspaceError::Search {
                name: name.clone(),
                detail: error.to_string(),
            })?;
        }
        for (name, text) in &self.workflows {
            check_name(name)?;
            at_most("bytes in a workflow", text.len(), DOCUMENT_LEN_MAX)?;
        }
        Ok(())
    }
}

const fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), WorkspaceError> {
    if count > max {
        return Err(WorkspaceError::Bound { what, count, max });
    }
    Ok(())
}

/// A text of somebody's in an error.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn check_name(name: &str) -> Result<(), WorkspaceError> {
    let is_fine = name.len() <= NAME_LEN_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_fine { Ok(()) } else { Err(WorkspaceError::Name { name: shown(name) }) }
}

/// Reads the name of a workspace.
///
/// # Errors
/// [`WorkspaceError::Name`].
pub fn parse_name(name: &str) -> Result<String, WorkspaceError> {
    check_name(name).map(|()| name.to_owned())
}

fn check_resource(id: &str) -> Result<(), WorkspaceError> {
    let parts = id.split_once('/');
    let is_fine = parts.is_some_and(|(author, key)| {
        author.parse::<NodeId>().is_ok_and(|node| node.to_string() == author)
            && (1..=KEY_LEN_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if is_fine { Ok(()) } else { Err(WorkspaceError::Resource { id: shown(id) }) }
}

impl Engine {
    pub(super) fn handle_workspace_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::List => Answer::List(self.workspaces.list()),
            Command::Show { name } => self.show_workspace(name, now_ms)?,
            Command::Put { name, version, workspace } => {
                let batch = &mut self.out.batch;
                self.workspaces.put(&name, version, *workspace, now_ms, batch)?;
                self.show_workspace(name, now_ms)?
            }
            Command::Remove { name } => {
                self.workspaces.remove(&name, &mut self.out.batch)?;
                Answer::Done
            }
        };
        Ok(Response::Workspace(answer))
    }

    fn show_workspace(&self, name: String, now_ms: u64) -> Result<Answer, WorkspaceError> {
        let row = self.workspaces.get(&name)?;
        let mut chosen: BTreeMap<&str, ChosenView> = row
            .workspace
            .resources
            .iter()
            .map(|id| {
                (&**id, ChosenView { id: id.clone(), name: None, kind: None, org_name: None })
            })
            .collect();
        for entry in self.known(now_ms) {
            let id = format!("{}/{}", entry.author, entry.resource.key);
            let Some(view) = chosen.get_mut(&*id) else { continue };
            view.name = Some(entry.resource.name.clone());
            view.kind = Some(entry.resource.kind().as_str().to_owned());
            view.org_name = Some(entry.org_name.to_owned());
        }
        Ok(Answer::One(Box::new(WorkspaceView {
            name,
            version: row.version,
            changed_ms: row.changed_ms,
            about: row.workspace.about.clone(),
            notes: row.workspace.notes.clone(),
            resources: chosen.into_values().collect(),
            searches: row.workspace.searches.clone(),
            workflows: row.workspace.workflows.clone(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AUTHOR: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    /// The rows as they stand on disk after these changes.
    fn rows(batch: Batch) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = BTreeMap::new();
        for op in batch.ops {
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
        rows.into_iter().collect()
    }

    fn full() -> Workspace {
        Workspace {
            about: "floods of the lower valley".to_owned(),
            notes: "ask the office\nfor the newer ones".to_owned(),
            resources: BTreeSet::from([format!("{AUTHOR}/data/dem")]),
            searches: BTreeMap::from([(
                "big".to_owned(),
                "kind = compute and cpu >= 4".to_owned(),
            )]),
            workflows: BTreeMap::from([("draft".to_owned(), "not yet: [".to_owned())]),
        }
    }

    #[test]
    fn of_two_writers_the_second_is_told_and_the_first_stays() {
        let (mut all, mut batch) = (Workspaces::default(), Batch::default());
        all.put("floods", 0, full(), 1, &mut batch).unwrap();
        let first = Workspace { notes: "mine".to_owned(), ..full() };
        all.put("floods", 1, first.clone(), 2, &mut batch).unwrap();
        let second = Workspace { notes: "yours".to_owned(), ..full() };
        let changed = all.put("floods", 1, second.clone(), 3, &mut batch);
        let expected = WorkspaceError::Changed { name: "floods".to_owned(), read: 1, now: 2 };
        assert_eq!(changed, Err(expected));
        let again = all.put("floods", 0, second.clone(), 3, &mut batch);
        assert_eq!(again, Err(WorkspaceError::Exists { name: "floods".to_owned() }));
        let gone = all.put("drought", 4, second, 3, &mut batch);
        assert_eq!(gone, Err(WorkspaceError::Unknown { name: "drought".to_owned() }));
        assert_eq!(all.0["floods"].workspace, first);
        assert_eq!(Workspaces::recover(&rows(batch)).unwrap().0, all.0);
    }

    #[test]
    fn what_is_wrong_in_one_is_named() {
        let refused = |change: fn(&mut Workspace)| {
            let mut workspace = full();
            change(&mut workspace);
            let mut all = Workspaces::default();
            let mut batch = Batch::default();
            let error = all.put("floods", 0, workspace, 1, &mut batch).unwrap_err().to_string();
            assert!(all.0.is_empty() && batch.ops.is_empty());
            error
        };
        assert!(refused(|w| w.about = "a\u{1b}[2J".to_owned()).contains("U+001B"));
        assert!(refused(|w| w.notes = "x".repeat(NOTES_LEN_MAX + 1)).contains("65536"));
        assert!(refused(|w| w.resources.extend(["data/dem".to_owned()])).contains("data/dem"));
        let text = refused(|w| w.searches.extend([("bad".to_owned(), "cpu >".to_owned())]));
        assert!(text.starts_with("search `bad`: "), "{text}");
        assert!(
            refused(|w| w.workflows.extend([("a/b".to_owned(), String::new())])).contains("a/b")
        );
        let large = refused(|w| {
            w.workflows = (0..3).map(|n| (format!("w{n}"), "x".repeat(DOCUMENT_LEN_MAX))).collect();
        });
        assert!(large.contains("bytes in a workspace"), "{large}");
        let (mut all, mut batch) = (Workspaces::default(), Batch::default());
        for name in ["", ".hidden", "-x", "a b", "ü", &"n".repeat(NAME_LEN_MAX + 1)] {
            assert!(all.put(name, 0, full(), 1, &mut batch).is_err(), "{name}");
        }
        assert!(all.remove("floods", &mut batch).is_err());
        assert!(Workspaces::recover(&[(b"a".to_vec(), vec![])]).is_err());
    }

    proptest! {
        /// Whatever is written and removed in whatever order, the disk says the same, and a version is given once.
        #[test]
        fn the_disk_says_what_memory_does(steps in prop::collection::vec((0..4_u8, 0..4_u64, any::<bool>()), 0..40)) {
            let (mut all, mut batch) = (Workspaces::default(), Batch::default());
            for (now_ms, (name, version, is_removal)) in (0..).zip(steps) {
                let name = format!("w{name}");
                let before = all.0.get(&name).map_or(0, |row| row.version);
                if is_removal {
                    prop_assert_eq!(all.remove(&name, &mut batch).is_ok(), before > 0);
                } else {
                    let put = all.put(&name, version, full(), now_ms, &mut batch);
                    prop_assert_eq!(put.is_ok(), version == before);
                    if put.is_ok() {
                        prop_assert_eq!(all.0[&name].version, before + 1);
                    }
                }
            }
            prop_assert_eq!(&Workspaces::recover(&rows(batch)).unwrap().0, &all.0);
        }
    }
}
