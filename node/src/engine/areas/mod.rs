//! Collaborative areas at this node: the fold of [`catalog::area`] (where the protocol's page stands) with records to read and
//! write, rows to keep, and contents to fetch and to give.
//!
//! What the owner orders, and what others' records bring, goes through the fold; what follows is stored in the same step, before
//! the records that say it are sent. Contents that members share are fetched as soon as they are heard of, kept as long as they
//! are shared, and given to the members and nobody else: so nothing is lost with the node that shared it.

mod error;
mod hear;
mod rows;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use catalog::area::{Area, AreaError, Question, Standing};
use catalog::record::{Charter, Share, ShareKind};
use catalog::rules::RuleBook;
use catalog::{Digest, OrgId};

pub use self::error::AreasError;
pub use self::rows::BadRow;
pub use self::view::{
    AreaSummary, AreaView, BookView, CandidateView, LeaverView, MemberView, ProposalView,
    SharedView,
};
use super::command::{CommandError, Response};
use super::{Effect, Engine};

/// Areas that this node's organisation is in at once; further ones are refused.
pub const AREAS_MAX: usize = 32;
/// Areas that are remembered in all, with those that were left: of those the first in order is forgotten for a new one.
const KNOWN_MAX: usize = 64;
/// Bytes that are fetched of what the nodes of one organisation share in one area; what goes beyond is shown and not fetched.
const FETCH_BYTES_MAX: u64 = 32 << 20;
/// Contents that are fetched at once; the others wait for these.
const FETCHES_MAX: usize = 4;
/// After how long a fetch that failed is tried again.
const FETCH_RETRY_MS: u64 = 15_000;

/// A question or an order about areas.
#[derive(Clone, Debug)]
pub enum Command {
    /// All of them; the answer is [`Answer::List`].
    List,
    /// One; the answer is [`Answer::One`], as it is to all orders but `Forget`.
    Show {
        /// Which.
        id: Digest,
    },
    /// How often each has changed since the program started; the answer is [`Answer::Changes`].
    Changes,
    /// Found one.
    Create {
        /// Its name.
        name: String,
        /// What it is for.
        about: String,
        /// Its first rule book.
        rules: Option<RuleBook>,
    },
    /// Join one to which somebody has invited.
    Join {
        /// Which.
        id: Digest,
    },
    /// Leave.
    Leave {
        /// Which.
        id: Digest,
    },
    /// Show it no longer: one that was left, or an invitation; the answer is [`Answer::Done`].
    Forget {
        /// Which.
        id: Digest,
    },
    /// Want an organisation in.
    Admit {
        /// Where.
        id: Digest,
        /// Whom.
        org: OrgId,
    },
    /// Want an organisation out.
    Expel {
        /// Where.
        id: Digest,
        /// Whom.
        org: OrgId,
    },
    /// Share something.
    Share {
        /// Where.
        id: Digest,
        /// Of which kind.
        kind: ShareKind,
        /// Its name; of a workspace that of this node's.
        name: String,
        /// What, unless it is a workspace.
        document: Option<String>,
    },
    /// Share it no longer.
    Unshare {
        /// Where.
        id: Digest,
        /// Of which kind.
        kind: ShareKind,
        /// Its name.
        name: String,
    },
    /// Where the content of something shared is; the answer is [`Answer::Found`].
    Find {
        /// Where.
        id: Digest,
        /// Of which kind.
        kind: ShareKind,
        /// Its name.
        name: String,
        /// Who shares it, where several share something of this name.
        org: Option<OrgId>,
    },
    /// Want a rule book.
    Propose {
        /// Where.
        id: Digest,
        /// It.
        rules: RuleBook,
    },
    /// Want the rule book that another member wants.
    Accept {
        /// Where.
        id: Digest,
        /// Who.
        org: OrgId,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `List`.
    List(Vec<AreaSummary>),
    /// The area as it is now.
    One(Box<AreaView>),
    /// To `Changes`.
    Changes(BTreeMap<Digest, u64>),
    /// To `Find`: what is shared, and by whom.
    Found(OrgId, Share),
    /// Nothing to say.
    Done,
}

/// The areas of this node's organisation, and those that it left.
#[derive(Debug, Default)]
pub struct Areas {
    all: BTreeMap<Digest, Area>,
    /// What was said in the catalogue since the start, to be taken back when it does not hold any more.
    told: BTreeMap<Digest, Told>,
    /// Contents that are here, and those that are being fetched.
    here: BTreeSet<Digest>,
    fetching: BTreeSet<Digest>,
    /// What failed, and when it is tried again.
    failed: BTreeMap<Digest, u64>,
    /// See [`Command::Changes`].
    changes: BTreeMap<Digest, u64>,
}

#[derive(Clone, Debug, Default)]
struct Told {
    books: bool,
    shares: bool,
    farewells: BTreeSet<OrgId>,
}

impl Areas {
    fn live(&self) -> impl Iterator<Item = &Area> {
        self.all.values().filter(|area| area.is_live())
    }

    /// When something is tried again.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.failed.values().min().copied()
    }

    fn get(&self, id: Digest) -> Result<&Area, AreasError> {
        self.all.get(&id).ok_or(AreasError::Unknown { id })
    }

    /// Makes room for one more.
    fn check_room(&self) -> Result<(), AreasError> {
        if self.live().count() >= AREAS_MAX {
            return Err(AreasError::TooMany);
        }
        Ok(())
    }
}

impl Engine {
    pub(super) fn handle_area_command(
        &mut self,
        command: Command,
        nonce: [u8; 16],
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        Ok(Response::Area(self.answer_area(command, nonce, now_ms)?))
    }

    fn answer_area(
        &mut self,
        command: Command,
        nonce: [u8; 16],
        now_ms: u64,
    ) -> Result<Answer, AreasError> {
        let id = match command {
            Command::List => return Ok(Answer::List(self.area_list())),
            Command::Changes => return Ok(Answer::Changes(self.areas.changes.clone())),
            Command::Show { id } => id,
            Command::Find { id, kind, name, org } => {
                let (org, share) = self.find_shared(id, (kind, &name), org)?;
                return Ok(Answer::Found(org, share));
            }
            Command::Forget { id } => {
                self.forget_area(id, now_ms)?;
                return Ok(Answer::Done);
            }
            Command::Create { name, about, rules } => {
                self.areas.check_room()?;
                let founder = self.admission.org();
                let charter = Charter { name, about, founder, nonce };
                charter
                    .check()
                    .map_err(|error| AreasError::Charter { detail: error.to_string() })?;
                let area = Area::found(charter, rules.map(|rules| rules.encode()));
                self.put_area(area, now_ms)
            }
            Command::Join { id } => {
                self.areas.check_room()?;
                let mut area = self.invitation(id).ok_or(AreasError::Unknown { id })?;
                area.join()?;
                self.put_area(area, now_ms)
            }
            Command::Leave { id } => self.change_area(id, now_ms, Area::leave)?,
            Command::Admit { id, org } => self.change_area(id, now_ms, |area| area.admit(org))?,
            Command::Expel { id, org } => self.change_area(id, now_ms, |area| area.expel(org))?,
            Command::Accept { id, org } => self.change_area(id, now_ms, |area| area.accept(org))?,
            Command::Propose { id, rules } => {
                self.change_area(id, now_ms, |area| area.propose(rules.encode()))?
            }
            Command::Share { id, kind, name, document } => {
                self.share_in_area(id, (kind, name), document, now_ms)?;
                id
            }
            Command::Unshare { id, kind, name } => {
                self.change_area(id, now_ms, |area| area.unshare(kind, &name).map(drop))?
            }
        };
        Ok(Answer::One(Box::new(self.area_view(id)?)))
    }

    /// Carries out an order of the owner, and what follows from it.
    fn change_area(
        &mut self,
        id: Digest,
        now_ms: u64,
        order: impl FnOnce(&mut Area) -> Result<(), AreaError>,
    ) -> Result<Digest, AreasError> {
        let mut area = self.areas.get(id)?.clone();
        order(&mut area)?;
        Ok(self.put_area(area, now_ms))
    }

    /// Takes an area as it is now: stores it, says it, and hears what was not of interest before.
    fn put_area(&mut self, area: Area, now_ms: u64) -> Digest {
        let id = area.id();
        if !self.areas.all.contains_key(&id) && self.areas.all.len() >= KNOWN_MAX {
            let past = self.areas.all.values().find(|area| !area.is_live()).map(Area::id);
            past.into_iter().for_each(|past| self.drop_area(past));
        }
        self.keep_area(area, now_ms);
        self.hear_areas(now_ms);
        id
    }

    fn forget_area(&mut self, id: Digest, now_ms: u64) -> Result<(), AreasError> {
        if self.areas.all.get(&id).is_some_and(Area::is_live) {
            return Err(AreasError::Live { id });
        }
        match self.invitation(id) {
            // What nobody has answered would come again with the next record.
            Some(mut area) => {
                area.decline();
                self.put_area(area, now_ms);
                self.areas.changes.entry(id).and_modify(|n| *n += 1);
            }
            None if self.areas.all.contains_key(&id) => self.drop_area(id),
            None => return Err(AreasError::Unknown { id }),
        }
        Ok(())
    }

    fn share_in_area(
        &mut self,
        id: Digest,
        (kind, name): (ShareKind, String),
        document: Option<String>,
        now_ms: u64,
    ) -> Result<(), AreasError> {
        let area = self.areas.get(id)?;
        if area.standing() != Standing::Member {
            let (name, standing) = (area.charter().name.clone(), area.standing());
            return Err(AreaError::NotMember { name, standing }.into());
        }
        let bytes = match (kind, document) {
            (ShareKind::Workspace, None) => {
                let workspace = self.workspaces.content(&name)?;
                self.check_rules(area, workspace, now_ms)?;
                serde_json::to_vec(workspace).expect("a workspace is plain data")
            }
            (ShareKind::Workspace, Some(_)) => return Err(AreasError::OwnWorkspace),
            (_, Some(document)) => document.into_bytes(),
            (kind, None) => return Err(AreasError::NoDocument { kind }),
        };
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let share = Share { kind, name, digest, size };
        let mut area = area.clone();
        area.share(share)?;
        self.out.list.push(Effect::Keep { blobs: vec![bytes] });
        self.areas.here.insert(digest);
        self.put_area(area, now_ms);
        Ok(())
    }

    /// What a shared workspace names has to keep the rules in force.
    fn check_rules(
        &self,
        area: &Area,
        workspace: &super::workspaces::Workspace,
        now_ms: u64,
    ) -> Result<(), AreasError> {
        let Some(book) = area.book() else { return Ok(()) };
        let book = RuleBook::decode(&book.content)
            .map_err(|error| AreasError::Rules { detail: error.to_string() })?;
        for entry in self.known(now_ms) {
            let id = format!("{}/{}", entry.author, entry.resource.key);
            if workspace.resources.contains(&id) {
                book.check_resource(entry.resource, entry.org)
                    .map_err(|broken| AreasError::Rules { detail: broken.to_string() })?;
            }
        }
        Ok(())
    }

    fn find_shared(
        &self,
        id: Digest,
        (kind, name): (ShareKind, &str),
        org: Option<OrgId>,
    ) -> Result<(OrgId, Share), AreasError> {
        let area = self.areas.get(id)?;
        let found = area.shared(self.me).filter(|(of, _, share)| {
            share.kind == kind && share.name == name && org.is_none_or(|org| org == *of)
        });
        let all: BTreeMap<OrgId, &Share> = found.map(|(org, _, share)| (org, share)).collect();
        let count = all.len();
        let only = all.into_iter().next().filter(|_| count == 1);
        let found = only.map(|(org, share)| (org, share.clone()));
        found.ok_or_else(|| AreasError::NotShared { kind, name: name.to_owned(), count })
    }

    /// Contents that members share, and the organisations that may fetch each from here: the members.
    pub(super) fn reached_by_areas(&self) -> Vec<(Digest, Vec<OrgId>)> {
        let mut found = Vec::new();
        for area in self.areas.live() {
            let members: Vec<OrgId> = area.members().iter().copied().collect();
            let contents: BTreeSet<Digest> =
                area.shared(self.me).map(|(_, _, share)| share.digest).collect();
            found.extend(contents.into_iter().map(|digest| (digest, members.clone())));
        }
        found
    }

    /// What is shared must stay.
    pub(super) fn pin_areas(&self, pins: &mut super::pins::Pins) {
        for (digest, _) in self.reached_by_areas() {
            pins.add(digest, false);
        }
    }

    /// Questions on which this organisation has not voted.
    fn votes_wanted(&self, area: &Area) -> usize {
        let own = self.admission.org();
        let is_mine = |view: &catalog::area::QuestionView| {
            area.members().contains(&own)
                && !view.by.contains(&own)
                && view.question.org() != own
                && (view.joined || matches!(view.question, Question::Out(_)))
        };
        let proposals = area.proposals().into_iter().filter(|held| !held.by.contains(&own));
        area.open_questions().iter().filter(|view| is_mine(view)).count() + proposals.count()
    }
}
