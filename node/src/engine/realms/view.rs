//! What the owner is shown of other realms.

use catalog::cert::NodeCert;
use catalog::index::{Band, Count, RealmDigest};
use catalog::{NodeId, OrgId, RealmId};

use crate::engine::Engine;
use crate::engine::command::ResourceView;
use crate::schema;

/// A digest, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = RealmDigest)]
pub struct DigestView {
    /// The realm.
    #[schema(value_type = schema::RealmId)]
    pub realm: RealmId,
    /// The gateway that signed it.
    #[schema(value_type = schema::NodeId)]
    pub gateway: NodeId,
    /// The gateway's organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Its name.
    pub org_name: String,
    /// Grows with every digest of the gateway.
    pub number: u64,
    /// When it was made (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub made_ms: u64,
    /// Until when it counts (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub until_ms: u64,
    /// Nodes that publish something there.
    pub authors: u64,
    /// Public resources there.
    pub resources: u64,
    /// Of which kind and class.
    #[schema(value_type = Vec<schema::ClassCount>)]
    pub counts: Vec<Count>,
    /// Where.
    pub regions: Vec<String>,
    /// In what magnitudes of price.
    #[schema(value_type = Vec<schema::PriceBand>)]
    pub bands: Vec<Band>,
    /// Where the gateway is reached.
    pub addresses: Vec<String>,
    /// Public names that one can look for; absent when they did not fit.
    #[schema(required)]
    pub names: Option<u64>,
}

impl DigestView {
    pub(super) fn of(digest: &RealmDigest, cert: &NodeCert) -> Self {
        Self::new(digest, cert.org, cert.org_name.clone())
    }

    fn new(digest: &RealmDigest, org: OrgId, org_name: String) -> Self {
        let RealmDigest { realm, gateway, number, made_ms, until_ms, authors, resources, .. } =
            *digest;
        Self {
            realm,
            gateway,
            org,
            org_name,
            number,
            made_ms,
            until_ms,
            authors,
            resources,
            counts: digest.counts.clone(),
            regions: digest.regions.clone(),
            bands: digest.bands.clone(),
            addresses: digest.addresses.clone(),
            names: digest.names.as_ref().map(catalog::index::Names::len),
        }
    }
}

/// A digest that is held.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = RealmDigestHeld)]
pub struct HeldView {
    /// What it says.
    #[serde(flatten)]
    pub digest: DigestView,
    /// Bytes of it.
    pub bytes: u64,
    /// Links between here and there.
    pub hops: u8,
    /// When it came (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub taken_ms: u64,
}

/// A gateway of a linked realm.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Gateway)]
pub struct GatewayView {
    /// It.
    #[schema(value_type = schema::NodeId)]
    pub id: NodeId,
    /// Whether it is connected.
    pub connected: bool,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Why it was not reached the last time, when it was not.
    #[schema(required)]
    pub last_error: Option<String>,
}

/// A linked realm.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = RealmLink)]
pub struct LinkView {
    /// The realm.
    #[schema(value_type = schema::RealmId)]
    pub realm: RealmId,
    /// The organisation that it was linked with.
    #[schema(value_type = Option<schema::OrgId>, required)]
    pub org: Option<OrgId>,
    /// Its name.
    #[schema(required)]
    pub org_name: Option<String>,
    /// Since when (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub since_ms: Option<u64>,
    /// Its gateways, as far as they are known.
    pub gateways: Vec<GatewayView>,
}

/// This realm, and what is known of others.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Realm)]
pub struct RealmView {
    /// The realm of this node.
    #[schema(value_type = schema::RealmId)]
    pub realm: RealmId,
    /// The organisation that founded it.
    #[schema(value_type = Option<schema::OrgId>, required)]
    pub founder: Option<OrgId>,
    /// Why this node is no gateway of it; absent when it is one.
    #[schema(required)]
    pub no_gateway: Option<String>,
    /// Gateways of this realm that can be asked now, this node among them.
    #[schema(value_type = Vec<schema::NodeId>)]
    pub gateways: Vec<NodeId>,
    /// Organisations that this one has let speak for the realm.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub speakers: Vec<OrgId>,
    /// The newest digest that this node has published.
    #[schema(required)]
    pub published: Option<DigestView>,
    /// Linked realms.
    pub links: Vec<LinkView>,
    /// Digests of other realms.
    pub digests: Vec<HeldView>,
}

/// A resource of another realm.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = ResourceElsewhere)]
pub struct FoundElsewhere {
    /// The realm.
    #[schema(value_type = schema::RealmId)]
    pub realm: RealmId,
    /// The resource.
    #[serde(flatten)]
    pub resource: ResourceView,
}

/// What was found in other realms.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = FoundElsewhere)]
pub struct Told {
    /// By realm, author and key.
    pub resources: Vec<FoundElsewhere>,
    /// Realms that answered, each with a gateway that can be asked for an invitation.
    pub realms: Vec<DigestView>,
    /// Realms that did not.
    #[schema(value_type = Vec<schema::RealmId>)]
    pub silent: Vec<RealmId>,
    /// Gateways of this realm that did not say that this was all.
    #[schema(value_type = Vec<schema::NodeId>)]
    pub silent_gateways: Vec<NodeId>,
    /// Realms whose digest says that there is nothing.
    pub ruled_out: u64,
    /// Whether each realm that answered told of everything.
    pub is_all: bool,
}

impl Engine {
    pub(super) fn realm_view(&self, now_ms: u64) -> RealmView {
        let realms = &self.realms;
        let founder = self.admission.own_papers().membership.members().first().copied();
        let own = realms.digests.own.as_ref().map(|(digest, _)| {
            DigestView::new(digest, self.admission.org(), self.settings.org_name.clone())
        });
        let held = realms.digests.held.values().map(|held| HeldView {
            digest: DigestView::new(&held.digest, held.org, held.org_name.clone()),
            bytes: held.signed.len() as u64,
            hops: held.hops,
            taken_ms: held.taken_ms,
        });
        RealmView {
            realm: self.admission.realm(),
            founder,
            no_gateway: self.admission.check_speaks(now_ms).err().map(|error| error.to_string()),
            gateways: self.own_gateways(now_ms),
            speakers: realms.speakers.keys().copied().collect(),
            published: own,
            links: realms.links.keys().map(|realm| self.link_view(*realm)).collect(),
            digests: held.collect(),
        }
    }

    pub(super) fn link_view(&self, realm: RealmId) -> LinkView {
        let link = self.realms.links.get(&realm);
        let gateways = link.into_iter().flat_map(|link| &link.gateways);
        LinkView {
            realm,
            org: link.map(|link| link.org),
            org_name: link.map(|link| link.org_name.clone()),
            since_ms: link.map(|link| link.since_ms),
            gateways: gateways
                .map(|(id, addresses)| GatewayView {
                    id: *id,
                    connected: self.realms.is_connected(*id),
                    addresses: addresses.clone(),
                    last_error: self.directory.last_error(*id),
                })
                .collect(),
        }
    }
}
