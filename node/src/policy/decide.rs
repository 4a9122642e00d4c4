//! The decision: a function of policies and request.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Entity, EntityUid, Request as Asked, RestrictedExpression,
};

use super::request::{Kind, Principal, Request, Resource, Stance, Work, group_name};
use super::set::{Policies, ground, uid};

/// Groups and roles of a person that are heeded, in the order of their names; the others are as if the person were not in
/// them. Providers bound them far below.
const GROUPS_MAX: usize = 256;

/// Yes or no; by default no, because nothing permits it.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The policies that decided, by name: those that permit, or those that forbid. None where nothing permits it.
    pub policies: Vec<String>,
    /// What went wrong on the way; a policy that fails does not permit.
    pub errors: Vec<String>,
}

impl Decision {
    fn no(error: String) -> Self {
        Self { allowed: false, policies: Vec::new(), errors: vec![error] }
    }

    /// The policies in one line, or why there are none.
    #[must_use]
    pub fn because(&self) -> String {
        match (self.policies.is_empty(), self.errors.first()) {
            (false, _) => self.policies.join(", "),
            (true, Some(error)) => error.clone(),
            (true, None) => "nothing permits it".to_owned(),
        }
    }
}

/// What is said to decide about the owner.
const OWNER: &str = "owner";

impl Policies {
    /// Whether the request is allowed, and what decided.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        if request.principal == Principal::Owner {
            let policies = vec![OWNER.to_owned()];
            return Decision { allowed: true, policies, errors: Vec::new() };
        }
        if let Some(because) = self.is_closed() {
            return Decision::no(format!(
                "the policies of this node are refused, so that only its owner may do anything: {because}"
            ));
        }
        let mut refused = None;
        let mut permitted = None;
        for (n, name) in
            std::iter::once(&request.resource).chain(&request.resource.also).enumerate()
        {
            let decision = match self.ask(request, name) {
                // What the schema does not let this action be done with, no policy speaks of.
                Err(NotAsked::Unfit(_)) if n > 0 => continue,
                Err(NotAsked::Unfit(error) | NotAsked::Failed(error)) => Decision::no(error),
                Ok(decision) => decision,
            };
            match decision.allowed {
                true if name.is_firm => permitted = permitted.or(Some(decision)),
                true => {}
                // One that forbids is named; where nothing permits, none is.
                false if !decision.policies.is_empty() => return decision,
                false => refused = refused.or(Some(decision)),
            }
        }
        let nothing = || Decision { allowed: false, policies: Vec::new(), errors: Vec::new() };
        permitted.or(refused).unwrap_or_else(nothing)
    }

    fn ask(&self, request: &Request, name: &Resource) -> Result<Decision, NotAsked> {
        let failed = |error: Box<dyn std::error::Error>| NotAsked::Failed(error.to_string());
        let ground = ground();
        let (principal, mut entities) = principal(&request.principal).map_err(failed)?;
        let (resource, others) = resource(name).map_err(failed)?;
        let names: HashSet<EntityUid> = entities.iter().map(Entity::uid).collect();
        entities.extend(others.into_iter().filter(|entity| !names.contains(&entity.uid())));
        let entities =
            ground.actions.clone().add_entities(entities, None).map_err(|e| failed(e.into()))?;
        let context = match &request.work {
            Some(work) if request.action == super::Action::Quote => {
                context(work).map_err(NotAsked::Failed)?
            }
            _ => Context::empty(),
        };
        let action = uid("Action", request.action.as_str());
        let asked = Asked::new(principal, action, resource, context, Some(&ground.schema))
            .map_err(|e| NotAsked::Unfit(e.to_string()))?;
        let answer = Authorizer::new().is_authorized(&asked, &self.set, &entities);
        let mut policies: Vec<String> =
            answer.diagnostics().reason().map(ToString::to_string).collect();
        let mut allowed = answer.decision() == cedar_policy::Decision::Allow;
        let mut errors = Vec::new();
        for error in answer.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(failed) = error;
            let id = failed.policy_id().to_string();
            if self.forbidding.contains(&id) {
                // It might have forbidden this.
                if std::mem::take(&mut allowed) {
                    policies.clear();
                }
                policies.push(id);
            }
            errors.push(error.to_string());
        }
        policies.sort();
        errors.sort();
        Ok(Decision { allowed, policies, errors })
    }
}

/// Why a question was not put.
enum NotAsked {
    /// The schema has no such question.
    Unfit(String),
    /// Something in it cannot be said.
    Failed(String),
}

type Built<T> = Result<T, Box<dyn std::error::Error>>;

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn entity<const N: usize>(
    uid: EntityUid,
    attributes: [(&str, RestrictedExpression); N],
    parents: impl IntoIterator<Item = EntityUid>,
) -> Built<Entity> {
    let attributes: HashMap<_, _> =
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Entity::new(uid, attributes, parents.into_iter().collect())?)
}

fn with_stance(uid: EntityUid, stance: Stance, parent: Option<EntityUid>) -> Built<Entity> {
    entity(uid, [("stance", text(stance.as_str()))], parent)
}

/// Who asks, and what it belongs to.
fn principal(principal: &Principal) -> Built<(EntityUid, Vec<Entity>)> {
    let org_of = |org: &catalog::OrgId| uid("Org", &org.to_string());
    let name = principal.name();
    Ok(match principal {
        Principal::Owner => (uid("Owner", &name), Vec::new()),
        Principal::Org { org, stance } => {
            (org_of(org), vec![with_stance(org_of(org), *stance, None)?])
        }
        Principal::Node { org, stance, .. } => {
            let own = with_stance(uid("Node", &name), *stance, Some(org_of(org)))?;
            (own.uid(), vec![own, with_stance(org_of(org), *stance, None)?])
        }
        Principal::Group { org, stance, .. } => {
            let own = with_stance(uid("Group", &name), *stance, Some(org_of(org)))?;
            (own.uid(), vec![own, with_stance(org_of(org), *stance, None)?])
        }
        Principal::Person { person, stance } => {
            let org = org_of(&person.org);
            let mut all = vec![with_stance(org.clone(), *stance, None)?];
            let mut parents = vec![org.clone()];
            for group in person.groups.iter().take(GROUPS_MAX) {
                let group = uid("Group", &group_name(person.org, *stance, group));
                all.push(with_stance(group.clone(), *stance, Some(org.clone()))?);
                parents.push(group);
            }
            let roles = person.roles.iter().take(GROUPS_MAX).map(|role| text(role));
            let attributes = [
                ("issuer", text(&person.issuer)),
                ("subject", text(&person.subject)),
                ("name", text(&person.name)),
                ("roles", RestrictedExpression::new_set(roles)),
                ("stance", text(stance.as_str())),
            ];
            let own = entity(uid("User", &name), attributes, parents)?;
            let name = own.uid();
            all.push(own);
            (name, all)
        }
    })
}

/// What is asked for. What an organisation or group is to this node is known of those that ask alone.
fn resource(resource: &Resource) -> Built<(EntityUid, Vec<Entity>)> {
    let name = uid(resource.kind.type_name(), &resource.name);
    let within: HashSet<EntityUid> =
        resource.within.iter().map(|(kind, name)| uid(kind.type_name(), name)).collect();
    let own = match resource.kind {
        Kind::Node => with_stance(name.clone(), Stance::Own, None)?,
        Kind::Org | Kind::Group => with_stance(name.clone(), Stance::Stranger, None)?,
        Kind::Workspace | Kind::Area | Kind::Run => Entity::new_no_attrs(name.clone(), within),
        _ => {
            let listed = RestrictedExpression::new_bool(resource.is_listed);
            entity(name.clone(), [("listed", listed)], within)?
        }
    };
    Ok((name, vec![own]))
}

fn context(work: &Work) -> Result<Context, String> {
    // More than fits a Cedar number is as much as fits.
    let long = |n: u64| RestrictedExpression::new_long(i64::try_from(n).unwrap_or(i64::MAX));
    let devices = RestrictedExpression::new_set(work.devices.iter().map(|device| text(device)));
    let pairs = [
        ("runtime", text(&work.runtime)),
        ("cpu_milli", long(work.cpu_milli)),
        ("memory_bytes", long(work.memory_bytes)),
        ("network", RestrictedExpression::new_bool(work.network)),
        ("devices", devices),
    ];
    Context::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)))
        .map_err(|error| error.to_string())
}
