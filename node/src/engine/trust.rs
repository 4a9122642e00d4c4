//! Papers of this node and of others while it runs: what takes them back, and what renews them.
//!
//! **Revocation lists.** An organisation's root signs a list of what it no longer vouches for; the one with the highest number
//! counts. It comes by file to any node of the organisation, which puts it into the catalogue as a record of its own, under
//! [`LIST_KEY`]. Every node that gets such a record checks the root's signature, keeps the list for good, drops the records of
//! revoked authors, ends connections to revoked peers and refuses them from then on. Who withholds the record delays it no
//! longer than any other; who republishes an old list changes nothing, for no number goes back.
//!
//! **Renewal.** A node that was enrolled by file, without a key of its organisation, asks connected nodes of the same
//! organisation ten days before its certificate ends ([`TrustMessage::Renew`]). One that holds a key answers with a
//! certificate for the same name and key: it knows the node by the certificate that let it in, and a revoked node is not let
//! in. So a stolen node key can be renewed until it is revoked, and no longer.

use catalog::NodeId;
use catalog::cert::armour::{self, ArmourError, Kind};
use catalog::cert::{Answer as Enrolment, AnswerError, CertError, Revocations};
use catalog::record::{Detail, Resource, RevocationsDetail, Visibility};
use catalog::{Change, OrgId};

use super::admission::CERT_RENEW_MS;
use super::command::{CommandError, Response};
use super::message::{Bytes, NodeMessage, TrustMessage};
use super::relations::{OrgView, RELATIONS_MAX, RelationChange};
use super::rotation::{FormerView, RotationView};
use super::{Effect, Engine};
use crate::schema;

/// The key of the record with the organisation's revocation list.
pub const LIST_KEY: &str = "org/revocations";
/// How often a node whose certificate ends soon asks for a new one.
const ASK_MS: u64 = 10 * 60_000;
/// Nodes asked in one round.
const ASKED_MAX: usize = 4;

/// An order about papers.
#[derive(Clone, Debug)]
pub enum Command {
    /// Use what a file holds: a revocation list of any organisation, or newer papers of this node.
    Install {
        /// The file's text.
        text: String,
    },
    /// Every organisation, as the owner sees it.
    Orgs,
    /// Decide about an organisation.
    Relate {
        /// Which.
        org: OrgId,
        /// What changes.
        change: RelationChange,
    },
    /// Take the key into use that the home holds ready.
    Rotate {
        /// How long it may wait for running tasks, in milliseconds.
        drain_ms: u64,
    },
    /// Let an organisation in that waits for it, or do not.
    Decide {
        /// Which.
        org: OrgId,
        /// Whether it may come in.
        is_admitted: bool,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Install`.
    Installed(InstalledView),
    /// To `Orgs`.
    Orgs(Vec<OrgView>),
    /// To `Rotate`.
    Rotating(RotationView),
    /// To `Relate` and `Decide`.
    Org(Box<OrgView>),
}

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Installed)]
pub struct InstalledView {
    /// `revocations` or `papers`.
    #[schema(value_type = schema::InstalledKind)]
    pub kind: String,
    /// Whose.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Whether it is newer than what was known.
    pub is_new: bool,
}

/// Why papers are not taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The text holds none.
    #[error(transparent)]
    Armour(#[from] ArmourError),
    /// A list or certificate is refused.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The answer is refused.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A request is for the organisation to answer.
    #[error(
        "this is a request: answer it with `opencloud org enroll` where a key of the organisation is"
    )]
    Request,
    /// The own organisation is not decided about.
    #[error(
        "that is this node's own organisation: its nodes may do everything; revoke one with `opencloud org revoke`"
    )]
    Own,
    /// Too many decisions.
    #[error("{RELATIONS_MAX} organisations were decided about, no more are kept: undo some first")]
    Relations,
    /// Nobody of it waits.
    #[error("{org} does not wait to be let in: `opencloud peers orgs` shows who does")]
    NotAsking {
        /// Which.
        org: OrgId,
    },
    /// Papers of another organisation.
    #[error("these papers are of {found}, and this node is one of {expected}")]
    OtherOrg {
        /// This node's organisation.
        expected: OrgId,
        /// The papers'.
        found: OrgId,
    },
}

impl From<TrustError> for CommandError {
    fn from(error: TrustError) -> Self {
        Self::Trust(error)
    }
}

/// This node's papers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Papers)]
pub struct PapersView {
    /// Which of the node's keys it uses, from 1.
    pub generation: u32,
    /// When the node certificate ends (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub until_ms: u64,
    /// What this node signs with for its organisation: `root`, `issuer`, or `nothing`.
    #[schema(value_type = schema::SignsWith)]
    pub signs_with: String,
    /// When the issuer ends (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub issuer_until_ms: Option<u64>,
    /// Keys and serials that the organisation has taken back.
    pub revoked: u64,
    /// The keys that the node had before.
    #[serde(default)]
    #[schema(required)]
    pub former: Vec<FormerView>,
    /// What the owner should see to.
    #[schema(required)]
    pub warning: Option<String>,
}

impl Engine {
    pub(super) fn handle_trust_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        match command {
            Command::Install { text } => {
                let installed = self.install(&text, now_ms)?;
                Ok(Response::Trust(Answer::Installed(installed)))
            }
            Command::Orgs => Ok(Response::Trust(Answer::Orgs(self.org_views()))),
            Command::Relate { org, change } => self.relate(org, change),
            Command::Decide { org, is_admitted } => self.decide(org, is_admitted),
            Command::Rotate { drain_ms } => Ok(self.rotate(drain_ms, now_ms)),
        }
    }

    fn install(&mut self, text: &str, now_ms: u64) -> Result<InstalledView, TrustError> {
        match armour::read(text)? {
            (Kind::Request, _) => Err(TrustError::Request),
            (Kind::Revocations, bytes) => {
                let org = Revocations::verify(&bytes)?.org;
                let is_new = self.take_list(&bytes, now_ms)?;
                Ok(InstalledView { kind: "revocations".to_owned(), org, is_new })
            }
            (Kind::Answer, bytes) => {
                let answer = Enrolment::decode(&bytes)?;
                // An issuer in it is for the home, which is read at the next start.
                let issuer = None;
                let cert = Enrolment { issuer, ..answer }.verify(self.me, None, now_ms)?;
                let expected = self.admission.org();
                if cert.org != expected {
                    return Err(TrustError::OtherOrg { expected, found: cert.org });
                }
                let bytes = Enrolment::decode(&bytes)?.cert;
                let is_new = self.take_cert(&bytes, now_ms);
                Ok(InstalledView { kind: "papers".to_owned(), org: cert.org, is_new })
            }
        }
    }

    /// Uses a newer certificate of this node.
    fn take_cert(&mut self, bytes: &[u8], now_ms: u64) -> bool {
        let is_newer = self.admission.take_cert(bytes, now_ms);
        if is_newer {
            let hello = self.admission.hello(None).encode();
            self.out.list.push(Effect::SetHello { hello });
        }
        is_newer
    }

    /// Takes in an organisation's revocation list. False when it is not newer than the one known.
    pub(super) fn take_list(&mut self, bytes: &[u8], now_ms: u64) -> Result<bool, CertError> {
        let list = Revocations::verify(bytes)?;
        let org = list.org;
        let is_told = self.is_shown_across(org);
        let Some(out) = self.admission.revoke(list.clone(), bytes) else { return Ok(false) };
        let heirs = self.admission.heirs().all();
        self.ledger.follow(heirs.map(|(old, known)| (old, known.heir)));
        for author in self.catalog.revoke(list) {
            self.out.list.push(Effect::ForgetReplica { author });
        }
        for peer in out {
            self.directory.forget(peer);
            self.forget_good(peer);
            let detail = format!("{peer} was revoked by {org} and is put out");
            self.out.list.push(Effect::Notice { detail });
            self.out.list.push(Effect::Disconnect { peer });
        }
        self.put_out_guests();
        self.forget_revoked_across(org);
        if is_told {
            self.tell_list(bytes, now_ms);
        }
        if let Some(detail) = self.admission.revoked() {
            let detail = format!("other nodes no longer let this one in: {detail}");
            self.out.list.push(Effect::Notice { detail });
        }
        if org == self.admission.org() {
            self.announce_list(now_ms);
        }
        Ok(true)
    }

    /// Takes in the list that the home holds.
    pub(super) fn use_own_list(&mut self, now_ms: u64) {
        let Some(list) = self.settings.revocations.take() else { return };
        if let Err(error) = self.take_list(&list, now_ms) {
            let detail = format!("the revocation list of this home is not used: {error}");
            self.out.list.push(Effect::Notice { detail });
        }
    }

    /// Takes lists out of records that have just come. A false one is its author's fault, and counts for nothing.
    pub(super) fn learn_lists(&mut self, news: &[(NodeId, String)], now_ms: u64) {
        for (author, _) in news.iter().filter(|(_, key)| key == LIST_KEY) {
            let Some(resource) = self.catalog.get(*author, LIST_KEY) else { continue };
            let Detail::Revocations(detail) = &resource.detail else { continue };
            let bytes = detail.list.0.clone();
            // The record was refused if the list in it were false.
            drop(self.take_list(&bytes, now_ms));
        }
    }

    /// Puts the own organisation's list into the catalogue.
    pub(super) fn announce_list(&mut self, now_ms: u64) {
        let list = self.admission.list_of(self.admission.org()).map(RevocationsDetail::of);
        let Some(Ok(detail)) = list else { return };
        let resource = Resource {
            key: LIST_KEY.to_owned(),
            name: "Revocations".to_owned(),
            short: String::new(),
            long: String::new(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail: Detail::Revocations(detail),
        };
        if let Some(error) = self.change(Change::Put(resource, Visibility::Public), now_ms) {
            let detail = format!("the revocation list cannot be published: {error}");
            self.out.list.push(Effect::Notice { detail });
        }
    }

    /// Asks nodes of the own organisation for a new certificate when this one ends soon and nothing here can renew it.
    pub(super) fn poll_papers(&mut self, now_ms: u64) {
        if now_ms < self.next_papers_ms {
            return;
        }
        if self.admission.standing().authority().is_some() {
            self.next_papers_ms = u64::MAX;
            return;
        }
        let due_ms = self.admission.standing().cert().not_after_ms.saturating_sub(CERT_RENEW_MS);
        if now_ms < due_ms {
            self.next_papers_ms = due_ms;
            return;
        }
        self.next_papers_ms = now_ms + ASK_MS;
        let own = self.admission.org();
        let siblings = self.admission.peers().filter(|(_, peer)| peer.cert.org == own);
        let asked: Vec<NodeId> = siblings
            .map(|(id, _)| *id)
            .filter(|id| self.connected.contains(id))
            .take(ASKED_MAX)
            .collect();
        for peer in asked {
            self.send(peer, &NodeMessage::Trust(TrustMessage::Renew));
        }
    }

    pub(super) fn handle_trust(&mut self, from: NodeId, message: TrustMessage, now_ms: u64) {
        match message {
            TrustMessage::Renew => {
                if let Some(cert) = self.admission.renew_for(from, now_ms) {
                    let cert = Bytes(cert);
                    self.send(from, &NodeMessage::Trust(TrustMessage::Renewed { cert }));
                }
            }
            TrustMessage::Renewed { cert } => {
                // Whoever brings it: the organisation's key signed it, or it is not taken.
                self.take_cert(&cert.0, now_ms);
            }
        }
    }

    pub(super) fn papers_view(&self, now_ms: u64) -> PapersView {
        let standing = self.admission.standing();
        let authority = standing.authority();
        let list = self.admission.lists().find(|list| list.org == self.admission.org());
        PapersView {
            generation: standing.cert().generation,
            until_ms: standing.cert().not_after_ms,
            signs_with: match authority {
                Some(authority) if authority.is_root() => "root",
                Some(_) => "issuer",
                None => "nothing",
            }
            .to_owned(),
            issuer_until_ms: authority.and_then(|a| a.issuer_cert()).map(|cert| cert.not_after_ms),
            revoked: list.map_or(0, |list| (list.keys.len() + list.revoked.len()) as u64),
            former: self.former_views(),
            warning: self.papers_warning(now_ms),
        }
    }

    fn papers_warning(&self, now_ms: u64) -> Option<String> {
        if let Some(detail) = self.admission.revoked() {
            return Some(format!("{detail}: other nodes no longer let it in"));
        }
        if let Some(known) = self.admission.heirs().of(self.me) {
            return Some(format!(
                "the key {} has come after that of this home, which is an old copy: use the newer home, or make the node anew",
                known.heir
            ));
        }
        let standing = self.admission.standing();
        let renew = "get new papers with `opencloud org request`";
        if standing.cert().check_in_force(now_ms).is_err() {
            return Some(format!("the node certificate has ended: {renew}"));
        }
        let left_ms = standing.cert().not_after_ms.saturating_sub(now_ms);
        if left_ms < CERT_RENEW_MS && self.admission.next_renewal_ms() == u64::MAX {
            let days = left_ms / (24 * 3_600_000);
            return Some(format!(
                "the node certificate ends in {days} days and nothing here can renew it: {renew}"
            ));
        }
        None
    }
}
