//! What peers offer and where they say that they are: candidates for placement, addresses, records about this node.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{ComputeDetail, Detail, Insiders, PriceList, PriceRow, Resource, Visibility};
use catalog::sync::SyncMessage;
use catalog::{Change, Digest, Fault, NodeId, OrgId};

use rand_core::Rng;
use scheduler::device::{Counts, listed};
use scheduler::place::{Candidate, Price, Trust};
use scheduler::task::RuntimeKind;

use super::images::offer;
use super::message::NodeMessage;
use super::relations::Stance;
use super::{Blob, Effect, Engine, Verdict, stored};
use crate::store::batch::Table;

/// How often this node looks for peers to dial.
const DIAL_ROUND_MS: u64 = 2_000;
/// The side with the larger id leaves the other this long to dial first.
const DIAL_GRACE_MS: u64 = 3_000;
/// Round trip assumed to a peer that was not measured.
const RTT_US: u64 = 2_000;

/// Peers named as sources of one content; more are not asked.
const HOLDERS_MAX: usize = 8;
/// From how many bytes on it is worth looking who else has a file: below, it comes from one peer at once.
const SHARED_BYTES: u64 = 4 << 20;

/// The key of the record that says what this node computes with.
pub(super) const COMPUTE_KEY: &str = "compute/main";

/// A resource that this node describes, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct OwnResource {
    pub(super) resource: Resource,
    pub(super) visibility: Visibility,
}

impl OwnResource {
    /// The content that it describes, which peers may fetch who may see it.
    pub(super) fn data(&self) -> Option<Digest> {
        content_of(&self.resource.detail).map(|(digest, _)| digest)
    }
}

impl Engine {
    /// Addresses from the last run of the program, to dial first.
    pub fn learn_peer(&mut self, peer: NodeId, addresses: Vec<String>) {
        let peer = self.admission.heirs().latest(peer);
        if peer != self.me {
            self.learn(peer, addresses);
        }
    }

    /// Where the owner says that a peer is.
    pub fn give_address(&mut self, peer: NodeId, address: String) {
        let peer = self.admission.heirs().latest(peer);
        if peer != self.me {
            self.directory.give(peer, address);
        }
    }

    /// Takes back what [`Effect::CacheReplicas`] kept, and returns what of it still holds.
    pub fn restore_replicas(&mut self, now_ms: u64, items: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let held = self.catalog.restore(now_ms, items);
        for (peer, addresses) in self.published_addresses(now_ms) {
            self.learn(peer, addresses);
        }
        held
    }

    /// Own lease, sync with a peer, dials.
    pub(super) fn poll_catalog(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        if now_ms >= self.catalog.next_renewal_ms() {
            let identity = self.admission.identity();
            if let Some(push) = self.catalog.renew(&self.settings.node_key, &identity, now_ms) {
                self.out.list.push(Effect::Gossip { payload: push });
            }
        }
        if now_ms >= self.next_dial_ms {
            self.next_dial_ms = now_ms + DIAL_ROUND_MS;
            self.dial_due(now_ms);
        }
        if now_ms >= self.pace.next_ms() {
            self.sync_with_one(now_ms, rng);
        }
    }

    fn sync_with_one(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        for author in self.catalog.expire(now_ms) {
            self.out.list.push(Effect::ForgetReplica { author });
        }
        let peers = self.connected.iter().filter(|peer| self.admission.peer(**peer).is_some());
        let (light, full): (Vec<NodeId>, Vec<NodeId>) =
            peers.copied().partition(|peer| self.asks.is_light(*peer));
        if let Some(peer) = self.pace.begin(now_ms, &full, &light, || rng.next_u64()) {
            let sync = self.catalog.start_sync();
            self.send(peer, &NodeMessage::Catalog(sync));
            self.note_good(peer, now_ms);
        }
    }

    /// Brings the two catalogues together, one message at a time.
    pub(super) fn handle_sync(
        &mut self,
        (from, org): (NodeId, OrgId),
        message: SyncMessage,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let Some(message) = self.admit_sync(from, message, now_ms) else { return };
        match self.catalog.handle_sync(now_ms, (from, org), message) {
            Ok(synced) => {
                self.pace.note(now_ms, from, &synced.replies);
                if synced.is_find() {
                    self.pace.found(now_ms, rng.next_u64());
                }
                for reply in synced.replies {
                    self.send(from, &NodeMessage::Catalog(reply));
                }
                self.cache_replicas(synced.store);
                self.learn_lists(&synced.news, now_ms);
                self.learn_areas(&synced.news, now_ms);
                self.learn_successions(now_ms);
                let worst = synced.faults.iter().filter_map(|error| Some((error.fault()?, error)));
                if let Some((fault, error)) = worst.max_by_key(|(fault, _)| *fault) {
                    self.blame(from, fault, told(error));
                }
                self.learn_addresses(&synced.news, now_ms);
            }
            Err(error) => {
                if let Some(fault) = error.fault() {
                    self.blame(from, fault, told(&error));
                }
            }
        }
    }

    /// What of a sync message is looked at: nothing of a round that would come beside another's full hands.
    fn admit_sync(
        &mut self,
        from: NodeId,
        message: SyncMessage,
        now_ms: u64,
    ) -> Option<SyncMessage> {
        match &message {
            SyncMessage::Root { .. } => self.asks.note_light(from, false),
            SyncMessage::LightRoot { .. } => self.asks.note_light(from, true),
            _ => {}
        }
        if self.pace.is_free(now_ms, from) {
            return Some(message);
        }
        match message {
            SyncMessage::Root { .. } | SyncMessage::LightRoot { .. } => None,
            // A light node that comes compares with each of its peers, and lets one of them bring it up to date.
            SyncMessage::Compared { restricted, .. } if self.catalog.is_light() => {
                Some(SyncMessage::Compared { restricted, nodes: Vec::new() })
            }
            SyncMessage::Nodes(_) | SyncMessage::Leaves { .. } if self.catalog.is_light() => None,
            message => Some(message),
        }
    }

    /// Takes in a gossip message: what to do with it, and whether to look for what it did not say.
    pub(super) fn handle_push(
        &mut self,
        from: NodeId,
        payload: &[u8],
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Verdict {
        match self.catalog.handle_push(now_ms, payload) {
            Ok(pushed) if pushed.is_new() => {
                self.cache_replicas(pushed.store);
                self.learn_lists(&pushed.news, now_ms);
                self.learn_successions(now_ms);
                self.learn_addresses(&pushed.news, now_ms);
                Verdict::Accept
            }
            Ok(_) => Verdict::Ignore,
            Err(error) => match error.fault() {
                // Its author may speak a newer version: to reject it would lower whoever passes it on.
                Some(fault @ Fault::Unknown) => {
                    self.blame(from, fault, told(&error));
                    Verdict::Ignore
                }
                Some(fault) => {
                    self.blame(from, fault, told(&error));
                    Verdict::Reject
                }
                None => {
                    self.pace.found(now_ms, rng.next_u64());
                    Verdict::Ignore
                }
            },
        }
    }

    /// Keeps what others signed for the next start.
    pub(super) fn cache_replicas(&mut self, items: Vec<Vec<u8>>) {
        if !items.is_empty() {
            self.out.list.push(Effect::CacheReplicas { items });
        }
    }

    /// Dials a member at once whose addresses are known, unless that has just failed or is under way. Whoever is named here
    /// without being known is nobody.
    pub(super) fn dial_wanted(&mut self, peer: NodeId, now_ms: u64) {
        self.directory.hurry(peer, now_ms);
        self.dial_due(now_ms);
    }

    pub(super) fn dial_due(&mut self, now_ms: u64) {
        let (me, connected, realms) = (self.me, &self.connected, &self.realms);
        let is_here = |peer| connected.contains(&peer) || realms.is_connected(peer);
        let (relations, good, own) = (&self.relations, &self.good, self.admission.org());
        let is_blocked = |org| org != own && relations.of(org).stance == Stance::Blocked;
        let is_wanted =
            |peer, org: Option<OrgId>| peer != me && !is_here(peer) && !org.is_some_and(is_blocked);
        let due = self.directory.due(now_ms, is_wanted, |org| org != own && good.is_missing(org));
        for (peer, addresses) in due {
            self.out.list.push(Effect::Connect { peer, addresses, hello: None });
        }
    }

    /// Takes addresses of other nodes from those of their records that are new.
    fn learn_addresses(&mut self, news: &[(NodeId, String)], now_ms: u64) {
        let changed = news.iter().filter(|(author, key)| *author != self.me && key == COMPUTE_KEY);
        let found: Vec<(NodeId, Vec<String>)> = changed
            .filter_map(|(author, key)| match &self.catalog.get(*author, key)?.detail {
                Detail::Compute(compute) => Some((*author, compute.addresses.clone())),
                _ => None,
            })
            .collect();
        if found.is_empty() {
            return;
        }
        for (peer, addresses) in found {
            if self.directory.addresses(peer) != addresses && !addresses.is_empty() {
                self.learn(peer, addresses);
                if self.connected.contains(&peer) {
                    self.note_good(peer, now_ms);
                }
                if self.me > peer {
                    self.directory.delay(peer, now_ms + DIAL_GRACE_MS);
                }
            }
        }
        self.dial_due(now_ms);
    }

    fn published_addresses(&self, now_ms: u64) -> Vec<(NodeId, Vec<String>)> {
        self.catalog
            .resources(now_ms)
            .filter(|entry| entry.author != self.me && entry.key == COMPUTE_KEY)
            .filter_map(|entry| match &entry.resource.detail {
                Detail::Compute(compute) => Some((entry.author, compute.addresses.clone())),
                _ => None,
            })
            .collect()
    }

    /// Publishes what this node computes with, once it is known where it can be reached.
    pub(super) fn publish_compute(&mut self, now_ms: u64) {
        if self.addresses.is_empty() {
            return;
        }
        let mut compute = self.settings.compute.clone();
        for address in compute.set_addresses(&self.addresses) {
            let detail = format!(
                "an address is too long or one too many for the catalogue, and left out: {address}"
            );
            self.out.list.push(Effect::Notice { detail });
        }
        let plan = self.ledger.plan();
        let price = PriceList {
            currency: plan.currency,
            rows: plan
                .rows
                .iter()
                .map(|row| PriceRow {
                    dimension: row.dimension.as_str().to_owned(),
                    amount_nano: row.amount_nano,
                    per: row.per,
                })
                .collect(),
            fixed: plan.fixed,
        };
        let resource = Resource {
            key: COMPUTE_KEY.to_owned(),
            name: self.settings.node_name.clone(),
            short: format!("{} cores of {}", compute.cpu_milli / 1_000, self.settings.org_name),
            long: String::new(),
            logo: None,
            licence: None,
            terms: None,
            price: Some(price),
            detail: Detail::Compute(compute),
        };
        let own = OwnResource { resource, visibility: Visibility::Public };
        if let Some(error) = self.announce(own, now_ms) {
            let detail = format!("what this node computes with is not published: {error}");
            self.out.list.push(Effect::Notice { detail });
        }
        self.announce_variants(Some(COMPUTE_KEY), now_ms);
    }

    /// Puts a resource of this node into the catalogue. Why it cannot be there, if so.
    pub(super) fn announce(&mut self, own: OwnResource, now_ms: u64) -> Option<String> {
        self.change(Change::Put(own.resource, own.visibility), now_ms)
    }

    /// Changes the own log. Why it cannot be changed, if so.
    pub(super) fn change(&mut self, change: Change, now_ms: u64) -> Option<String> {
        let identity = self.admission.identity();
        match self.catalog.publish(&self.settings.node_key, &identity, now_ms, vec![change]) {
            Ok(published) => {
                let gossip = published.push.into_iter().map(|payload| Effect::Gossip { payload });
                self.out.list.extend(gossip);
                for (org, message) in published.direct {
                    self.send_to_org(org, &NodeMessage::Catalog(message));
                }
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Sends restricted records to the connected nodes of an organisation; the others get them when they next compare
    /// catalogues. Who may not see any gets none, whatever a record names.
    fn send_to_org(&mut self, org: OrgId, message: &NodeMessage) {
        if self.audience(org) != org {
            return;
        }
        let is_of = |peer: &NodeId| self.admission.peer(*peer).is_some_and(|p| p.cert.org == org);
        let nodes: Vec<NodeId> = self.connected.iter().copied().filter(is_of).collect();
        for node in nodes {
            self.send(node, message);
        }
    }

    /// Keeps a resource of this node over restarts and publishes it to whom it is for.
    pub(super) fn publish(&mut self, own: OwnResource, now_ms: u64) -> Result<(), String> {
        if let Some(error) = self.announce(own.clone(), now_ms) {
            return Err(error);
        }
        let (key, digest) = (own.resource.key.clone(), own.data());
        self.out.batch.put(Table::OwnRecords, key.as_bytes().to_vec(), stored(&own));
        let before = self.own_resources.insert(key, own);
        let before = before.and_then(|own| own.data()).filter(|before| Some(*before) != digest);
        for digest in digest.into_iter().chain(before) {
            self.expose(digest);
        }
        Ok(())
    }

    /// Withdraws a resource of this node. False when it has none with this key.
    pub(super) fn withdraw(&mut self, key: &str, now_ms: u64) -> Result<bool, String> {
        let Some(own) = self.own_resources.get(key) else {
            return self.withdraw_variants(key, now_ms);
        };
        let digest = own.data();
        if let Some(error) = self.change(Change::Delete(key.to_owned()), now_ms) {
            return Err(error);
        }
        self.own_resources.remove(key);
        self.out.batch.delete(Table::OwnRecords, key.as_bytes().to_vec());
        self.forget_variants(key, &self.variants.orgs(key));
        self.release_record(key);
        if let Some(digest) = digest {
            self.expose(digest);
        }
        Ok(true)
    }

    /// Every node that offers to run tasks, this one first.
    pub(super) fn candidates(&self, now_ms: u64) -> Vec<Candidate> {
        let compute = &self.settings.compute;
        let own = Candidate {
            node: self.me,
            org: self.admission.org(),
            org_name: self.settings.org_name.clone(),
            node_name: self.settings.node_name.clone(),
            trust: Trust::Own,
            arch: compute.arch.clone(),
            runtimes: runtimes(&compute.runtimes),
            services: services(&compute.runtimes),
            network: compute.network,
            cpu_milli: compute.cpu_milli,
            memory_bytes: compute.memory_bytes,
            disk_bytes: compute.disk_bytes,
            devices: listed(&compute.accelerators),
            region: compute.region.clone(),
            connected: true,
            inflight_cpu_milli: 0,
            rtt_us: 0,
            speed_milli: 1_000,
            price: None,
            failures: 0,
            refused_until_ms: 0,
            holds: BTreeSet::new(),
        };
        let others =
            self.known(now_ms).filter(|entry| entry.author != self.me).filter_map(|entry| {
                let Detail::Compute(compute) = &entry.resource.detail else {
                    return None;
                };
                Some(Candidate {
                    node: entry.author,
                    org: entry.org,
                    org_name: entry.org_name.to_owned(),
                    node_name: entry.node_name.to_owned(),
                    trust: self.trust(entry.org),
                    arch: compute.arch.clone(),
                    runtimes: runtimes(&compute.runtimes),
                    services: services(&compute.runtimes),
                    network: compute.network,
                    cpu_milli: compute.cpu_milli,
                    memory_bytes: compute.memory_bytes,
                    disk_bytes: compute.disk_bytes,
                    devices: self.devices_for_us(compute, entry.org),
                    region: compute.region.clone(),
                    connected: self.connected.contains(&entry.author)
                        && self.admission.peer(entry.author).is_some(),
                    inflight_cpu_milli: 0,
                    rtt_us: RTT_US,
                    speed_milli: 1_000,
                    price: entry.resource.price.as_ref().and_then(price_of),
                    failures: 0,
                    refused_until_ms: 0,
                    holds: self.held.get(&entry.author).cloned().unwrap_or_default(),
                })
            });
        std::iter::once(own).chain(others).collect()
    }

    /// The devices of another node that its owner may give to tasks of this one. Whom it takes for a partner only the
    /// owner knows, and says when it is asked.
    fn devices_for_us(&self, compute: &ComputeDetail, org: OrgId) -> Counts {
        let is_open = match compute.device_for {
            None => false,
            Some(Insiders::Own) => org == self.admission.org(),
            Some(Insiders::Partners | Insiders::Realm) => true,
        };
        if is_open { listed(&compute.accelerators) } else { Counts::new() }
    }
}

impl Engine {
    /// The peers that publish any of these contents, the connected ones first, at most [`HOLDERS_MAX`] of each.
    pub(super) fn holders(
        &self,
        wanted: &BTreeSet<Digest>,
        now_ms: u64,
    ) -> BTreeMap<Digest, Vec<NodeId>> {
        let mut holders: BTreeMap<Digest, Vec<NodeId>> = BTreeMap::new();
        if wanted.is_empty() {
            return holders;
        }
        for entry in self.known(now_ms).filter(|entry| entry.author != self.me) {
            if let Some((digest, _)) = content_of(&entry.resource.detail)
                && wanted.contains(&digest)
            {
                let nodes = holders.entry(digest).or_default();
                if !nodes.contains(&entry.author) {
                    nodes.push(entry.author);
                }
            }
        }
        for nodes in holders.values_mut() {
            nodes.sort_by_key(|node| !self.connected.contains(node));
            nodes.truncate(HOLDERS_MAX);
        }
        holders
    }

    /// Who else publishes what is large enough to come from several peers: directories, and files from [`SHARED_BYTES`] on.
    pub(super) fn others_with(&self, blobs: &[Blob], now_ms: u64) -> BTreeMap<Digest, Vec<NodeId>> {
        let is_large = |blob: &&Blob| blob.is_dir || blob.size >= SHARED_BYTES;
        let wanted = blobs.iter().filter(is_large).map(|blob| blob.digest).collect();
        self.holders(&wanted, now_ms)
    }
}

/// An error with all that is behind it, in a line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// The content that a resource describes, and whether it is a directory. Whoever publishes it lets its readers fetch it.
pub(super) fn content_of(detail: &Detail) -> Option<(Digest, bool)> {
    match detail {
        Detail::Data(data) => Some((data.digest, data.directory)),
        Detail::Algorithm(algorithm) => {
            Some((algorithm.digest, algorithm.runtime == offer::RUNTIME))
        }
        Detail::Workflow(workflow) => Some((workflow.digest, false)),
        Detail::Disk(disk) => Some((disk.digest, false)),
        Detail::Compute(_)
        | Detail::Storage(_)
        | Detail::Service(_)
        | Detail::Revocations(_)
        | Detail::Area(_) => None,
    }
}

/// Those of a record's words that this program knows.
pub(super) fn runtimes(words: &[String]) -> Vec<RuntimeKind> {
    words.iter().filter_map(|word| RuntimeKind::from_word(word)).collect()
}

/// The runtimes of which a record's words say that they run services, too.
pub(super) fn services(words: &[String]) -> Vec<RuntimeKind> {
    words.iter().filter_map(|word| RuntimeKind::from_service_word(word)).collect()
}

/// The few numbers placement estimates with, out of a published price list.
fn price_of(list: &PriceList) -> Option<Price> {
    let per = |dimension: &str, units: u64| {
        let row = list.rows.iter().find(|row| row.dimension == dimension)?;
        let scaled = i128::from(row.amount_nano) * i128::from(units) / i128::from(row.per.max(1));
        i64::try_from(scaled).ok()
    };
    Some(Price {
        currency: list.currency,
        cpu_nano_per_s: per("cpu", 1_000_000).unwrap_or(0),
        memory_nano_per_gib_s: per("mem", 1 << 20).unwrap_or(0),
        net_nano_per_gib: per("net_out", 1 << 30).unwrap_or(0),
        device_nano_per_s: per("gpu", 1_000_000).unwrap_or(0),
        fixed: list.fixed,
    })
}
