//! Who asks for what, as policies see it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use catalog::{NodeId, OrgId};

use crate::identity::Person;

/// Longest name of a resource, group, issuer or subject in bytes that is looked at; a longer one is cut, with its hash at the end, so
/// that two names never become one.
const NAME_LEN_MAX: usize = 512;

/// What an organisation is to this node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// This node's own.
    Own,
    /// One that the owner trusts explicitly.
    Partner,
    /// Any that a realm of this node has admitted.
    Peer,
    /// One that is refused.
    Blocked,
    /// One that nobody has admitted.
    Stranger,
}

impl Stance {
    /// Every stance.
    pub const ALL: [Self; 5] =
        [Self::Own, Self::Partner, Self::Peer, Self::Blocked, Self::Stranger];

    /// As policies write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Partner => "partner",
            Self::Peer => "peer",
            Self::Blocked => "blocked",
            Self::Stranger => "stranger",
        }
    }
}

/// A word that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not an action.
    #[error("there is no action `{name}`: the actions are {}", words(Action::ALL.iter().map(|action| action.as_str())))]
    Action {
        /// As given, its beginning.
        name: String,
    },
    /// Not a kind of resource.
    #[error(
        "`{name}` is not a resource: write KIND:NAME, like run:run-0123…, or `node` for this node; the kinds are {}",
        words(Kind::ALL.iter().map(|kind| kind.as_str()))
    )]
    Resource {
        /// As given, its beginning.
        name: String,
    },
    /// Not a principal.
    #[error(
        "`{name}` is nobody: write owner, user:ISSUER|SUBJECT, group:NAME, org:did:key:… or node:12D3…; user and group of another \
         organisation as user:did:key:…|ISSUER|SUBJECT and group:did:key:…/NAME"
    )]
    Principal {
        /// As given, its beginning.
        name: String,
    },
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// The beginning of a text, for an error.
fn begin(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! closed {
    ($(#[$doc:meta])* $name:ident, $error:ident, $($(#[$item_doc:meta])* $variant:ident $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$item_doc])* $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As policies, the command line and the API write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let found = Self::ALL.iter().copied().find(|one| one.as_str() == text);
                found.ok_or_else(|| NameError::$error { name: begin(text) })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed! {
    /// What is done. The list is closed; `schema.cedarschema` says what each applies to.
    Action, Action,
    /// Know of it, and read what is said of it.
    See "see",
    /// Ask where and at what price something would run.
    Plan "plan",
    /// Follow a run or service: events, logs, why.
    Watch "watch",
    /// Read the policies and their log.
    ReadPolicies "read_policies",
    /// Work with it: connect to it, ask it, pull it.
    Use "use",
    /// Have its content.
    Fetch "fetch",
    /// Keep content here.
    Store "store",
    /// Ask for a price, and have work done at it.
    Quote "quote",
    /// Start a run.
    Submit "submit",
    /// Stop a run.
    Cancel "cancel",
    /// Suspend and resume.
    Steer "steer",
    /// Go inside a task.
    Enter "enter",
    /// Deploy, scale and remove services.
    Serve "serve",
    /// Describe it to others.
    Publish "publish",
    /// Take the description back.
    Withdraw "withdraw",
    /// Change a workspace or an area.
    Edit "edit",
    /// Read balances, receipts and invoices.
    ReadLedger "read_ledger",
    /// Say who is in an area, and what holds there.
    ManageAreas "manage_areas",
    /// Invite, admit, limit and block organisations, link realms.
    ManagePeers "manage_peers",
    /// Say who is known here, and in which groups and roles.
    ManageUsers "manage_users",
    /// Change policies.
    ManagePolicies "manage_policies",
    /// Change the node: keys, papers, quotas.
    ManageNode "manage_node",
}

closed! {
    /// What is asked for.
    Kind, Resource,
    /// Data of the catalogue.
    Data "data",
    /// An algorithm of the catalogue, or an image that is kept here.
    Algorithm "algorithm",
    /// A machine of the catalogue.
    Compute "compute",
    /// Storage of the catalogue.
    Storage "storage",
    /// A workflow.
    Workflow "workflow",
    /// A service.
    Service "service",
    /// The image of a disk.
    Disk "disk",
    /// A user's chosen set of resources.
    Workspace "workspace",
    /// What chosen organisations share under a rule book.
    Area "area",
    /// An execution of a workflow.
    Run "run",
    /// An organisation.
    Org "org",
    /// A group of people.
    Group "group",
    /// This node as a whole.
    Node "node",
}

impl Kind {
    /// The entity type of the schema.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::Algorithm => "Algorithm",
            Self::Compute => "Compute",
            Self::Storage => "Storage",
            Self::Workflow => "Workflow",
            Self::Service => "Service",
            Self::Disk => "Disk",
            Self::Workspace => "Workspace",
            Self::Area => "Area",
            Self::Run => "Run",
            Self::Org => "Org",
            Self::Group => "Group",
            Self::Node => "Node",
        }
    }

    /// Whether the catalogue describes it.
    #[must_use]
    pub const fn is_catalogued(self) -> bool {
        matches!(
            self,
            Self::Data
                | Self::Algorithm
                | Self::Compute
                | Self::Storage
                | Self::Workflow
                | Self::Service
                | Self::Disk
        )
    }
}

/// Who asks, with what this node itself knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Whoever holds the token of the home.
    Owner,
    /// Somebody who has logged in.
    Person {
        /// It.
        person: Box<Person>,
        /// What its organisation is to this node.
        stance: Stance,
    },
    /// Anybody of a group.
    Group {
        /// The organisation whose group it is.
        org: OrgId,
        /// What that is to this node.
        stance: Stance,
        /// Its name there.
        name: String,
    },
    /// An organisation.
    Org {
        /// It.
        org: OrgId,
        /// What it is to this node.
        stance: Stance,
    },
    /// A node of an organisation.
    Node {
        /// It.
        node: NodeId,
        /// The organisation.
        org: OrgId,
        /// What that is to this node.
        stance: Stance,
    },
}

impl Principal {
    /// `KIND:NAME`, as the command line, the log and problems write it.
    #[must_use]
    pub fn told(&self) -> String {
        let name = self.name();
        match self {
            Self::Owner => name,
            Self::Person { .. } => format!("user:{name}"),
            Self::Group { .. } => format!("group:{name}"),
            Self::Org { .. } => format!("org:{name}"),
            Self::Node { .. } => format!("node:{name}"),
        }
    }

    /// The organisation that it belongs to; of the owner it is this node's, which is for whoever asks to say.
    #[must_use]
    pub fn org(&self) -> Option<OrgId> {
        match self {
            Self::Owner => None,
            Self::Person { person, .. } => Some(person.org),
            Self::Group { org, .. } | Self::Org { org, .. } | Self::Node { org, .. } => Some(*org),
        }
    }

    /// The names under which quotas count what it does: its own, those of its groups and of its organisation. None, of the owner.
    #[must_use]
    pub fn counts_for(&self) -> Vec<String> {
        let org_name = |org: &OrgId| format!("org:{org}");
        let own = self.told();
        match self {
            Self::Owner => Vec::new(),
            Self::Person { person, stance } => {
                let groups = person.groups.iter();
                let groups =
                    groups.map(|g| format!("group:{}", group_name(person.org, *stance, g)));
                std::iter::once(own).chain(groups).chain([org_name(&person.org)]).collect()
            }
            Self::Group { org, .. } | Self::Node { org, .. } => vec![own, org_name(org)],
            Self::Org { .. } => vec![own],
        }
    }

    /// The name of its entity.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Owner => "owner".to_owned(),
            Self::Person { person, stance } => {
                person_name(person.org, *stance, &person.issuer, &person.subject)
            }
            Self::Group { org, stance, name } => group_name(*org, *stance, name),
            Self::Org { org, .. } => org.to_string(),
            Self::Node { node, .. } => node.to_string(),
        }
    }
}

/// The name of a person's entity: no two people have the same. `|` in an issuer is written `%7C`, so that it ends where it ends.
fn person_name(org: OrgId, stance: Stance, issuer: &str, subject: &str) -> String {
    let issuer = issuer.replace('%', "%25").replace('|', "%7C");
    let name = format!("{issuer}|{subject}");
    // Nobody of this organisation gets the name of somebody of another.
    let is_plain = stance == Stance::Own && !issuer.starts_with("did:");
    bounded(if is_plain { name } else { format!("{org}|{name}") })
}

/// The name of a group's entity.
pub(super) fn group_name(org: OrgId, stance: Stance, name: &str) -> String {
    let is_plain = stance == Stance::Own && !name.starts_with("did:");
    bounded(if is_plain { name.to_owned() } else { format!("{org}/{name}") })
}

/// The name, or the beginning of a long one with its hash.
fn bounded(name: String) -> String {
    if name.len() <= NAME_LEN_MAX {
        return name;
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let cut = (0..=NAME_LEN_MAX - 65).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    format!("{}#{hash}", &name[..cut])
}

/// What is asked for: under the name that was asked for, and every other that it has here.
///
/// Of one thing, what forbids any of its names forbids it, and what permits one of its firm names permits it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Its name: key or digest, id of a run, did:key, name of a group. The node's own id of a node.
    pub name: String,
    /// Whether it is known to be published to the organisation that asks. Where nobody has looked it up, it is not.
    pub is_listed: bool,
    /// The workspaces and areas that it is in, as far as whoever asks has looked them up.
    pub within: BTreeSet<(Kind, String)>,
    /// Whether nobody but this node and its owner says that it is called so. A name that whoever asks or another node has chosen
    /// takes and gives nothing: what is permitted of it is not permitted by that.
    pub is_firm: bool,
    /// Its other names; theirs are not heeded.
    pub also: Vec<Resource>,
}

impl Resource {
    /// This node as a whole.
    #[must_use]
    pub fn node(me: NodeId) -> Self {
        Self::of(Kind::Node, me.to_string())
    }

    /// A resource of which nobody has looked up to whom it is published.
    #[must_use]
    pub fn of(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: bounded(name.into()),
            is_listed: false,
            within: BTreeSet::new(),
            is_firm: true,
            also: Vec::new(),
        }
    }

    /// A group of people of this node's organisation.
    #[must_use]
    pub fn group(org: OrgId, name: &str) -> Self {
        Self::of(Kind::Group, group_name(org, Stance::Own, name))
    }

    /// The same thing with one name more.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.also.push(other);
        self
    }

    /// The same name, which is not this node's word.
    #[must_use]
    pub fn loose(mut self) -> Self {
        self.is_firm = false;
        self
    }

    /// `KIND:NAME`; just `node` is this node.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, me: NodeId) -> Result<Self, NameError> {
        let bad = || NameError::Resource { name: begin(text) };
        if text == Kind::Node.as_str() {
            return Ok(Self::node(me));
        }
        let (kind, name) = text.split_once(':').ok_or_else(bad)?;
        let kind: Kind = kind.parse().map_err(|_| bad())?;
        if name.is_empty() || kind == Kind::Node && name != me.to_string() {
            return Err(bad());
        }
        Ok(Self::of(kind, name))
    }

    /// `KIND:NAME`.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{}:{}", self.kind, self.name)
    }
}

/// What is known of work that somebody wants a price for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// `wasi`, `container` or `vm`.
    pub runtime: String,
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Whether it wants the network.
    pub network: bool,
    /// Names of devices.
    pub devices: BTreeSet<String>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// For what to be done.
    pub action: Action,
    /// With what.
    pub resource: Resource,
    /// What is known of the work; heeded with [`Action::Quote`] alone.
    pub work: Option<Work>,
}

/// Somebody by name, of whom this node has yet to look up what it is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The owner.
    Owner,
    /// A person.
    Person {
        /// Its organisation; this node's own when absent.
        org: Option<OrgId>,
        /// Its provider; `local` when none was named.
        issuer: String,
        /// Its name there.
        subject: String,
    },
    /// Anybody of a group.
    Group {
        /// Whose; this node's own organisation's when absent.
        org: Option<OrgId>,
        /// Its name.
        name: String,
    },
    /// An organisation.
    Org(OrgId),
    /// A node.
    Node(NodeId),
}

/// The issuer of those whom the node itself knows.
const LOCAL: &str = "local";

impl FromStr for Whom {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Principal { name: begin(text) };
        if text == "owner" {
            return Ok(Self::Owner);
        }
        let (kind, name) = text.split_once(':').ok_or_else(bad)?;
        // Of an organisation's groups and people, what comes before `at`.
        let of_org = |at: char| match name.strip_prefix("did:") {
            None => Ok((None, name)),
            Some(_) => {
                let (org, rest) = name.split_once(at).ok_or_else(bad)?;
                Ok((Some(org.parse::<OrgId>().map_err(|_| bad())?), rest))
            }
        };
        Ok(match kind {
            _ if name.is_empty() => return Err(bad()),
            "org" => Self::Org(name.parse().map_err(|_| bad())?),
            "node" => Self::Node(name.parse().map_err(|_| bad())?),
            "group" => {
                let (org, name) = of_org('/')?;
                Self::Group { org, name: name.to_owned() }
            }
            "user" => {
                let (org, rest) = of_org('|')?;
                let (issuer, subject) = rest.split_once('|').unwrap_or((LOCAL, rest));
                // As it is written in names.
                let issuer = issuer.replace("%7C", "|").replace("%25", "%");
                Self::Person { org, issuer, subject: subject.to_owned() }
            }
            _ => return Err(bad()),
        })
    }
}
