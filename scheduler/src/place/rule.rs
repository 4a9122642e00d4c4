//! The rule of a binding: where a task may go and what it may cost.

use std::collections::BTreeSet;

use catalog::{Amount, Currency, OrgId};

use super::{Candidate, Rejection};

/// Where a task may go. An empty list allows everything.
///
/// A name is what its owner calls itself; two organisations may use the same. Where it matters, write the `did:key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Organisations it may go to: `did:key:…` or name.
    pub orgs: Vec<String>,
    /// Organisations it may not go to, whatever the other lists say.
    pub forbid_orgs: Vec<String>,
    /// Nodes it may go to: node id or name.
    pub nodes: Vec<String>,
    /// Regions it may go to: `eu` allows `eu` and `eu-fr`, not `europe`.
    pub regions: Vec<String>,
    /// The most one task may cost.
    pub max_price: Option<(Amount, Currency)>,
}

impl Rule {
    /// Whether a price keeps to the cap. [`super::plan`] asks this for its estimate; who gets a quote asks it again.
    /// Nothing is nothing in every currency.
    ///
    /// # Errors
    /// [`Rejection::Currency`] when the currencies differ, [`Rejection::Price`] when it is above the cap.
    pub fn check_quote(&self, price: Amount, currency: Currency) -> Result<(), Rejection> {
        match self.max_price {
            None => Ok(()),
            Some(_) if price == Amount::ZERO => Ok(()),
            Some((_, want)) if want != currency => {
                Err(Rejection::Currency { have: currency, want })
            }
            Some((max, _)) if price > max => {
                Err(Rejection::Price { estimate: price, max, currency })
            }
            Some(_) => Ok(()),
        }
    }
}

/// Which list of a [`Rule`] keeps a node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleBreak {
    /// Forbidden by name or id.
    #[error("the rule forbids its organisation")]
    OrgForbidden,
    /// Not among the organisations allowed.
    #[error("the rule does not list its organisation")]
    OrgNotListed,
    /// Not among the nodes allowed.
    #[error("the rule does not list the node")]
    NodeNotListed,
}

/// Ids and names of one list, parsed once for all candidates.
struct Names<'a, Id> {
    ids: BTreeSet<Id>,
    names: BTreeSet<&'a str>,
}

impl<'a, Id: Copy + Ord + std::str::FromStr> Names<'a, Id> {
    /// A text that is an id is only an id, so that nobody matches by taking another's id as a name.
    fn new(list: &'a [String]) -> Self {
        let mut parsed = Self { ids: BTreeSet::new(), names: BTreeSet::new() };
        for text in list {
            match text.parse() {
                Ok(id) => {
                    parsed.ids.insert(id);
                }
                Err(_) => {
                    parsed.names.insert(text.as_str());
                }
            }
        }
        parsed
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.names.is_empty()
    }

    fn holds(&self, id: Id, name: &str) -> bool {
        self.ids.contains(&id) || self.names.contains(name)
    }
}

/// A [`Rule`] made ready for many candidates.
pub(super) struct Compiled<'a> {
    orgs: Names<'a, OrgId>,
    forbid_orgs: Names<'a, OrgId>,
    nodes: Names<'a, catalog::NodeId>,
    regions: BTreeSet<&'a str>,
}

impl<'a> Compiled<'a> {
    pub(super) fn new(rule: &'a Rule) -> Self {
        Self {
            orgs: Names::new(&rule.orgs),
            forbid_orgs: Names::new(&rule.forbid_orgs),
            nodes: Names::new(&rule.nodes),
            regions: rule.regions.iter().map(String::as_str).collect(),
        }
    }

    /// The first list that keeps the candidate out.
    pub(super) fn broken_by(&self, candidate: &Candidate) -> Option<Rejection> {
        let Candidate { org, org_name, node, node_name, region, .. } = candidate;
        if self.forbid_orgs.holds(*org, org_name) {
            return Some(Rejection::Rule(RuleBreak::OrgForbidden));
        }
        if !self.orgs.is_empty() && !self.orgs.holds(*org, org_name) {
            return Some(Rejection::Rule(RuleBreak::OrgNotListed));
        }
        if !self.nodes.is_empty() && !self.nodes.holds(*node, node_name) {
            return Some(Rejection::Rule(RuleBreak::NodeNotListed));
        }
        (!self.regions.is_empty() && !self.is_in_region(region))
            .then(|| Rejection::Region { region: region.clone() })
    }

    /// Whether the region or a wider one that contains it is listed.
    fn is_in_region(&self, region: &str) -> bool {
        self.regions.contains(region)
            || region.match_indices('-').any(|(end, _)| self.regions.contains(&region[..end]))
    }
}
