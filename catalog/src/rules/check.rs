//! Whether something keeps to a rule book, and if not, which rule it breaks, how, and what would help.

use super::licence::is_allowed;
use super::{PriceUnit, Rule, RuleBook, RuleKind};
use crate::amount::{Amount, Currency};
use crate::id::OrgId;
use crate::record::{Detail, PriceList, Resource};

/// What is known of a blob that a step reads, from the record that describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFacts {
    /// What people call it.
    pub name: String,
    /// Who published it.
    pub publisher: OrgId,
    /// Its licence, when its record says one. Without one a rule about licences is not met.
    pub licence: Option<String>,
    /// Whether it is marked as about persons.
    pub personal: bool,
    /// Regions it must not leave; empty when it may go anywhere.
    pub residency: Vec<String>,
}

impl InputFacts {
    /// The facts of a resource that has content.
    #[must_use]
    pub fn of(resource: &Resource, publisher: OrgId) -> Self {
        let (personal, residency) = match &resource.detail {
            Detail::Data(data) => (data.personal, data.residency.clone()),
            _ => (false, Vec::new()),
        };
        let (name, licence) = (resource.name.clone(), resource.licence.clone());
        Self { name, publisher, licence, personal, residency }
    }
}

/// A step at a node, as it is planned or about to be agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// The step.
    pub step: &'a str,
    /// What the node is called.
    pub node: &'a str,
    /// Whose it is.
    pub org: OrgId,
    /// Where it stands.
    pub region: &'a str,
    /// What runs the step.
    pub runtime: &'a str,
    /// What is known of what it reads.
    pub inputs: &'a [InputFacts],
    /// What the node asks; `None` when it asks no money.
    pub price: Option<&'a PriceList>,
}

/// How something breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Offence {
    /// It stands elsewhere.
    #[error("is in region `{region}`, allowed are {allowed}: choose one that stands there")]
    Region {
        /// Where it stands.
        region: String,
        /// Regions of the rule.
        allowed: String,
    },
    /// Its record allows other regions, or any.
    #[error(
        "may be kept in {said}, allowed are {allowed}: publish it with a residency inside of them"
    )]
    Residency {
        /// What the record says.
        said: String,
        /// Regions of the rule.
        allowed: String,
    },
    /// The data must not go to where the work would be.
    #[error(
        "must not leave {residency}, and the work would be in region `{region}`: choose a node inside"
    )]
    LeavesRegion {
        /// Where the work would be.
        region: String,
        /// Regions of the data.
        residency: String,
    },
    /// Another licence, or none.
    #[error(
        "is under {licence}, allowed are {allowed}: publish it under one of them, or use another"
    )]
    Licence {
        /// The licence, or that there is none.
        licence: String,
        /// Licences of the rule.
        allowed: String,
    },
    /// Personal data would go to another organisation.
    #[error(
        "is personal data of {publisher}, the work would be at {org}: choose a node of its publisher"
    )]
    Personal {
        /// Who published it.
        publisher: OrgId,
        /// Whose node it would go to.
        org: OrgId,
    },
    /// Of an organisation that the rule does not name.
    #[error("is of {org}, which the rule does not name: choose another, or have it named")]
    Organisation {
        /// Whose it is.
        org: OrgId,
    },
    /// Too dear.
    #[error(
        "costs {price} {currency} for one {unit}, allowed are {max}: choose a cheaper one, or have the cap raised"
    )]
    Price {
        /// What is counted.
        unit: PriceUnit,
        /// What one of it costs, rounded up to a nano-unit.
        price: Amount,
        /// The cap.
        max: Amount,
        /// Of both.
        currency: Currency,
    },
    /// A price that cannot be compared.
    #[error("asks for {have}, the cap is in {want}: choose one that asks for {want}")]
    Currency {
        /// Of the price.
        have: Currency,
        /// Of the cap.
        want: Currency,
    },
    /// Another runtime.
    #[error("runs with {runtime}, allowed are {allowed}: choose another program or node")]
    Runtime {
        /// What it has.
        runtime: String,
        /// Runtimes of the rule.
        allowed: String,
    },
}

/// A rule that would be broken, by what, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule `{rule}`: {thing} {offence}")]
pub struct RuleBreak {
    /// The rule's name.
    pub rule: String,
    /// What breaks it.
    pub thing: String,
    /// How.
    pub offence: Box<Offence>,
}

impl RuleBook {
    /// Whether a resource may be shared under the book. The records of personal data may: they say that it is there, and it
    /// stays where it is.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_resource(&self, resource: &Resource, author: OrgId) -> Result<(), RuleBreak> {
        let thing = || format!("{} `{}`", resource.kind(), resource.name);
        self.each(thing, |kind| of_resource(kind, resource, author))
    }

    /// Whether a step may be done at a node, with these inputs, at this price.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_placement(&self, placement: &Placement<'_>) -> Result<(), RuleBreak> {
        let node = || format!("node `{}`", placement.node);
        self.each(node, |kind| of_place(kind, placement))?;
        let step = || format!("step `{}`", placement.step);
        self.each(step, |kind| of_program(kind, placement.runtime))?;
        for input in placement.inputs {
            let thing = || format!("input `{}` of step `{}`", input.name, placement.step);
            self.each(thing, |kind| of_input(kind, input, placement))?;
        }
        Ok(())
    }

    /// Whether a run may cost so much in all.
    ///
    /// # Errors
    /// The cap for whole runs that it breaks.
    pub fn check_run(&self, cost: Amount, currency: Currency) -> Result<(), RuleBreak> {
        self.each(
            || "the run".to_owned(),
            |kind| match kind {
                RuleKind::PriceCap { unit: PriceUnit::Run, max, currency: want } => {
                    capped(PriceUnit::Run, (cost, currency), (*max, *want))
                }
                _ => None,
            },
        )
    }

    /// Whether content of a publisher may be fetched by another organisation.
    ///
    /// # Errors
    /// The rule that keeps personal data where it is.
    pub fn check_fetch(&self, facts: &InputFacts, by: OrgId) -> Result<(), RuleBreak> {
        self.each(|| format!("`{}`", facts.name), |kind| of_personal(kind, facts, by))
    }

    /// The cap for whole runs, when there is one; of several the lowest in each currency counts by [`Self::check_run`].
    #[must_use]
    pub fn caps_runs(&self) -> bool {
        let is_cap =
            |rule: &Rule| matches!(rule.kind, RuleKind::PriceCap { unit: PriceUnit::Run, .. });
        self.rules.iter().any(is_cap)
    }

    fn each(
        &self,
        thing: impl Fn() -> String,
        offence: impl Fn(&RuleKind) -> Option<Offence>,
    ) -> Result<(), RuleBreak> {
        for rule in &self.rules {
            if let Some(offence) = offence(&rule.kind) {
                let (rule, offence) = (rule.name.clone(), Box::new(offence));
                return Err(RuleBreak { rule, thing: thing(), offence });
            }
        }
        Ok(())
    }
}

/// Whether a region or a wider one that contains it is among `allowed`.
fn is_within(region: &str, allowed: &[String]) -> bool {
    let has = |region: &str| allowed.iter().any(|one| one == region);
    has(region) || region.match_indices('-').any(|(end, _)| has(&region[..end]))
}

fn of_resource(kind: &RuleKind, resource: &Resource, author: OrgId) -> Option<Offence> {
    let region = match &resource.detail {
        Detail::Compute(compute) => Some(&compute.region),
        Detail::Storage(storage) => Some(&storage.region),
        Detail::Service(service) => Some(&service.region),
        _ => None,
    };
    match kind {
        RuleKind::Residency(allowed) => match &resource.detail {
            Detail::Data(data) => kept_within(&data.residency, allowed),
            _ => region.and_then(|region| stands_within(region, allowed)),
        },
        RuleKind::Licences(allowed) if region.is_none() => {
            licensed(resource.licence.as_deref(), allowed)
        }
        RuleKind::Organisations(orgs) => of_one(author, orgs),
        RuleKind::PriceCap { unit, max, currency } => {
            priced(resource.price.as_ref()?, *unit, (*max, *currency))
        }
        RuleKind::Runtimes(allowed) => match &resource.detail {
            Detail::Algorithm(algorithm) => runs_with(&algorithm.runtime, allowed),
            Detail::Disk(_) => runs_with("vm", allowed),
            Detail::Compute(compute) => {
                let has_one = compute.runtimes.iter().any(|runtime| allowed.contains(runtime));
                let runtime = || compute.runtimes.join(", ");
                (!has_one)
                    .then(|| Offence::Runtime { runtime: runtime(), allowed: listed(allowed) })
            }
            _ => None,
        },
        RuleKind::Licences(_) | RuleKind::PersonalStays => None,
    }
}

fn of_place(kind: &RuleKind, placement: &Placement<'_>) -> Option<Offence> {
    match kind {
        RuleKind::Residency(allowed) => stands_within(placement.region, allowed),
        RuleKind::Organisations(orgs) => of_one(placement.org, orgs),
        RuleKind::PriceCap { unit, max, currency } => {
            priced(placement.price?, *unit, (*max, *currency))
        }
        RuleKind::Licences(_) | RuleKind::PersonalStays | RuleKind::Runtimes(_) => None,
    }
}

fn of_program(kind: &RuleKind, runtime: &str) -> Option<Offence> {
    match kind {
        RuleKind::Runtimes(allowed) => runs_with(runtime, allowed),
        _ => None,
    }
}

fn of_input(kind: &RuleKind, input: &InputFacts, placement: &Placement<'_>) -> Option<Offence> {
    match kind {
        RuleKind::Residency(_) => {
            let (region, residency) = (placement.region, &input.residency);
            (!residency.is_empty() && !is_within(region, residency)).then(|| {
                Offence::LeavesRegion { region: region.to_owned(), residency: listed(residency) }
            })
        }
        RuleKind::Licences(allowed) => licensed(input.licence.as_deref(), allowed),
        RuleKind::PersonalStays => of_personal(kind, input, placement.org),
        RuleKind::Organisations(orgs) => of_one(input.publisher, orgs),
        RuleKind::PriceCap { .. } | RuleKind::Runtimes(_) => None,
    }
}

fn of_personal(kind: &RuleKind, facts: &InputFacts, org: OrgId) -> Option<Offence> {
    let publisher = facts.publisher;
    let is_broken = *kind == RuleKind::PersonalStays && facts.personal && publisher != org;
    is_broken.then_some(Offence::Personal { publisher, org })
}

fn listed(words: &[String]) -> String {
    words.join(", ")
}

fn stands_within(region: &str, allowed: &[String]) -> Option<Offence> {
    (!is_within(region, allowed))
        .then(|| Offence::Region { region: region.to_owned(), allowed: listed(allowed) })
}

fn kept_within(residency: &[String], allowed: &[String]) -> Option<Offence> {
    let is_kept = !residency.is_empty() && residency.iter().all(|one| is_within(one, allowed));
    let said = || match residency {
        [] => "any region".to_owned(),
        regions => listed(regions),
    };
    (!is_kept).then(|| Offence::Residency { said: said(), allowed: listed(allowed) })
}

fn licensed(licence: Option<&str>, allowed: &[String]) -> Option<Offence> {
    let is_met = licence.is_some_and(|licence| is_allowed(licence, allowed));
    let said = || licence.map_or_else(|| "no licence".to_owned(), |licence| format!("`{licence}`"));
    (!is_met).then(|| Offence::Licence { licence: said(), allowed: listed(allowed) })
}

fn of_one(org: OrgId, orgs: &[OrgId]) -> Option<Offence> {
    (!orgs.contains(&org)).then_some(Offence::Organisation { org })
}

fn runs_with(runtime: &str, allowed: &[String]) -> Option<Offence> {
    let is_allowed = allowed.iter().any(|one| one == runtime);
    (!is_allowed)
        .then(|| Offence::Runtime { runtime: format!("`{runtime}`"), allowed: listed(allowed) })
}

/// Nothing is nothing in every currency.
fn capped(
    unit: PriceUnit,
    (price, have): (Amount, Currency),
    (max, want): (Amount, Currency),
) -> Option<Offence> {
    match price {
        Amount::ZERO => None,
        _ if have != want => Some(Offence::Currency { have, want }),
        price if price > max => Some(Offence::Price { unit, price, max, currency: want }),
        _ => None,
    }
}

/// Whether a price list keeps to the cap of a unit. What is due once per use counts for whole runs only, and that is not
/// known from one list.
fn priced(list: &PriceList, unit: PriceUnit, cap: (Amount, Currency)) -> Option<Offence> {
    const HOUR_US: u128 = 3_600_000_000;
    const GIB: u128 = 1 << 30;
    const GIB_HOUR_KIB_S: u128 = (1 << 20) * 3_600;
    // The names and units of metered dimensions, as records and quotes have them.
    let (dimensions, amount): (&[&str], u128) = match unit {
        PriceUnit::Run => return None,
        PriceUnit::CpuHour => (&["cpu", "vcpu_alloc"], HOUR_US),
        PriceUnit::MemoryGibHour => (&["mem"], GIB_HOUR_KIB_S),
        PriceUnit::StorageGibHour => (&["storage"], GIB_HOUR_KIB_S),
        PriceUnit::NetGib => (&["net_in"], GIB),
        PriceUnit::DeviceHour => (&["gpu"], HOUR_US),
    };
    let price = |dimensions: &[&str]| {
        let rows = list.rows.iter().filter(|row| dimensions.contains(&row.dimension.as_str()));
        // At most 16 rows of below 2^63 times 2^32: the sum fits. What is above the largest amount is above every cap.
        let nano = rows.map(|row| {
            let nano = u128::from(row.amount_nano.max(0).unsigned_abs());
            (nano * amount).div_ceil(u128::from(row.per.max(1)))
        });
        i64::try_from(nano.sum::<u128>()).map_or(Amount::MAX, Amount::from_nano)
    };
    let broken = |dimensions| capped(unit, (price(dimensions), list.currency), cap);
    match unit {
        PriceUnit::NetGib => broken(dimensions).or_else(|| broken(&["net_out"])),
        _ => broken(dimensions),
    }
}
