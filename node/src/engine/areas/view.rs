//! Areas as the owner and the users see them.

use std::collections::BTreeSet;

use catalog::area::{Area, Question, Standing};
use catalog::record::{NumberedBook, Share, ShareKind};
use catalog::rules::RuleBook;
use catalog::{Digest, NodeId, OrgId};

use super::AreasError;
use crate::engine::Engine;
use crate::policy::Kind;
use crate::schema;

/// An area in a list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct AreaSummary {
    /// 64 hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// What this organisation is to it.
    #[schema(value_type = schema::AreaStanding)]
    pub standing: Standing,
    /// How many members it has.
    pub members: usize,
    /// How many organisations are wanted in.
    pub invited: usize,
    /// How much is shared.
    pub shared: usize,
    /// The number of the rule book in force; 0 without one.
    pub rules: u64,
    /// Questions on which this organisation has not voted.
    pub votes_wanted: usize,
}

/// An area.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Area)]
pub struct AreaView {
    /// 64 hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Who founded it.
    #[schema(value_type = schema::OrgId)]
    pub founder: OrgId,
    /// What this organisation is to it.
    #[schema(value_type = schema::AreaStanding)]
    pub standing: Standing,
    /// Who is in.
    pub members: Vec<MemberView>,
    /// Who is wanted in.
    pub invited: Vec<CandidateView>,
    /// Who is wanted out.
    pub expelling: Vec<LeaverView>,
    /// The rule book in force.
    pub rules: BookView,
    /// Rule books that members want in its place.
    pub proposals: Vec<ProposalView>,
    /// What members share.
    pub shared: Vec<SharedView>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = AreaMember)]
pub struct MemberView {
    /// It.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known.
    #[schema(required)]
    pub org_name: Option<String>,
    /// Whether it is this node's.
    pub own: bool,
    /// Whether it founded the area.
    pub founder: bool,
    /// Whether a node of it is connected; always of the own one.
    pub connected: bool,
}

/// One that is wanted in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = AreaCandidate)]
pub struct CandidateView {
    /// It.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known.
    #[schema(required)]
    pub org_name: Option<String>,
    /// Who wants it in.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub by: Vec<OrgId>,
    /// Whether it has said that it joins.
    pub joined: bool,
    /// How many of those who decide want it in.
    pub votes: usize,
    /// How many let it in.
    pub needed: usize,
    /// Whether this organisation has voted for it.
    pub voted: bool,
}

/// One that is wanted out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = AreaLeaver)]
pub struct LeaverView {
    /// It.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known.
    #[schema(required)]
    pub org_name: Option<String>,
    /// Who wants it out.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub by: Vec<OrgId>,
    /// How many of those who decide want it out.
    pub votes: usize,
    /// How many put it out.
    pub needed: usize,
    /// Whether this organisation has voted for it.
    pub voted: bool,
}

/// The rule book in force.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[schema(as = AreaRules)]
pub struct BookView {
    /// Its number; 0 when there is none.
    pub number: u64,
    /// The hash of its encoding.
    #[schema(value_type = Option<schema::Digest>, required)]
    pub digest: Option<Digest>,
    /// It; absent when there is none, or when this program cannot read it.
    #[schema(value_type = Option<schema::RuleBook>, required)]
    pub book: Option<RuleBook>,
}

/// A rule book that members want.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = AreaProposal)]
pub struct ProposalView {
    /// Its number.
    pub number: u64,
    /// The hash of its encoding.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// It; absent when this program cannot read it.
    #[schema(value_type = Option<schema::RuleBook>, required)]
    pub book: Option<RuleBook>,
    /// Who wants it.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub by: Vec<OrgId>,
    /// How many.
    pub votes: usize,
    /// How many bring it into force.
    pub needed: usize,
    /// Whether this organisation is among them.
    pub voted: bool,
}

/// Something shared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = SharedInArea)]
pub struct SharedView {
    /// Who shares it.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name, when it is known.
    #[schema(required)]
    pub org_name: Option<String>,
    /// Whether this node shares it.
    pub own: bool,
    /// The node that shares it.
    #[schema(value_type = schema::NodeId)]
    pub node: NodeId,
    /// What it is.
    #[schema(value_type = schema::ShareKind)]
    pub kind: ShareKind,
    /// Its name.
    pub name: String,
    /// Its content.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// Bytes of the content.
    pub size: u64,
    /// Whether the content is on this node.
    pub here: bool,
}

impl Engine {
    pub(super) fn area_list(&self) -> Vec<AreaSummary> {
        let invited = self.invitations();
        let is_shown = |area: &&Area| {
            !invited.iter().any(|found| found.id() == area.id()) && !area.is_declined()
        };
        let known = self.areas.all.values().filter(is_shown);
        known.chain(&invited).map(|area| self.area_summary(area)).collect()
    }

    fn area_summary(&self, area: &Area) -> AreaSummary {
        let invited = area.open_questions();
        let charter = area.charter();
        AreaSummary {
            id: area.id().to_hex(),
            name: charter.name.clone(),
            about: charter.about.clone(),
            standing: area.standing(),
            members: area.members().len(),
            invited: invited.iter().filter(|v| matches!(v.question, Question::In(_))).count(),
            shared: area.shared(self.me).count(),
            rules: area.book().map_or(0, |book| book.number),
            votes_wanted: self.votes_wanted(area),
        }
    }

    pub(super) fn area_view(&self, id: Digest) -> Result<AreaView, AreasError> {
        let invitation = self.invitation(id);
        let known = self.areas.all.get(&id);
        let area = invitation.as_ref().or(known).ok_or(AreasError::Unknown { id })?;
        let charter = area.charter();
        let (invited, expelling) = self.open_questions(area);
        Ok(AreaView {
            id: area.id().to_hex(),
            name: charter.name.clone(),
            about: charter.about.clone(),
            founder: charter.founder,
            standing: area.standing(),
            members: self.member_views(area),
            invited,
            expelling,
            rules: area.book().map_or_else(BookView::default, |book| BookView {
                number: book.number,
                digest: Some(book.digest()),
                book: read(book),
            }),
            proposals: self.proposal_views(area),
            shared: self.shared_views(area),
        })
    }

    fn member_views(&self, area: &Area) -> Vec<MemberView> {
        let own = self.admission.org();
        let view = |org: &OrgId| MemberView {
            org: *org,
            org_name: self.name_of(*org),
            own: *org == own,
            founder: *org == area.charter().founder,
            connected: *org == own || self.connected_of(*org).next().is_some(),
        };
        // Of one that was left only who is to hear of it is known.
        let is_known = area.standing() != Standing::Left;
        area.members().iter().filter(|_| is_known).map(view).collect()
    }

    fn open_questions(&self, area: &Area) -> (Vec<CandidateView>, Vec<LeaverView>) {
        let own = self.admission.org();
        let (mut invited, mut expelling) = (Vec::new(), Vec::new());
        for view in area.open_questions() {
            let org = view.question.org();
            let org_name = self.name_of(org);
            let (votes, needed, voted) = (view.by.len(), view.needed, view.by.contains(&own));
            let by = view.by.into_iter().collect();
            match view.question {
                Question::In(_) => {
                    let joined = view.joined;
                    invited.push(CandidateView { org, org_name, by, joined, votes, needed, voted });
                }
                Question::Out(_) => {
                    expelling.push(LeaverView { org, org_name, by, votes, needed, voted });
                }
            }
        }
        (invited, expelling)
    }

    fn proposal_views(&self, area: &Area) -> Vec<ProposalView> {
        let own = self.admission.org();
        let view = |held: catalog::area::Holding| ProposalView {
            number: held.book.number,
            digest: held.book.digest(),
            book: read(&held.book),
            votes: held.by.len(),
            voted: held.by.contains(&own),
            by: held.by.into_iter().collect(),
            needed: held.needed,
        };
        area.proposals().into_iter().map(view).collect()
    }

    /// The areas in which something is shared: those in which this node shares it, and those in which others do.
    pub(in crate::engine) fn areas_with(
        &self,
        is_wanted: impl Fn(&Share) -> bool,
    ) -> [BTreeSet<(Kind, String)>; 2] {
        let mut found = [BTreeSet::new(), BTreeSet::new()];
        for area in self.areas.live() {
            for (_, node, _) in area.shared(self.me).filter(|(_, _, share)| is_wanted(share)) {
                let [own, others] = &mut found;
                let of = if node == self.me { own } else { others };
                of.insert((Kind::Area, area.id().to_hex()));
            }
        }
        found
    }

    fn shared_views(&self, area: &Area) -> Vec<SharedView> {
        let view = |(org, node, share): (OrgId, NodeId, &Share)| SharedView {
            org,
            org_name: self.name_of(org),
            own: node == self.me,
            node,
            kind: share.kind,
            name: share.name.clone(),
            digest: share.digest,
            size: share.size,
            here: node == self.me || self.areas.here.contains(&share.digest),
        };
        area.shared(self.me).map(view).collect()
    }
}

fn read(book: &NumberedBook) -> Option<RuleBook> {
    RuleBook::decode(&book.content).ok()
}
