//! How gossipsub is set up: anonymous, content-addressed, judged by the application, scored.

use std::time::Duration;

use libp2p::gossipsub::{
    self, ConfigBuilder, IdentityTransform, MaxCountSubscriptionFilter, Message,
    MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash,
    TopicScoreParams, TopicSubscriptionFilter, ValidationMode,
};

use super::BoxError;

pub(crate) type Behaviour =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<Prefix>>;

/// Largest frame that gossipsub reads: twice the payload bound, for what is around it.
const TRANSMIT_MAX: usize = 2 * crate::handle::GOSSIP_MAX;
/// A message seen once is not passed on again for this long. After it the application must say
/// `ignore` to what it knows.
const DUPLICATE_CACHE: Duration = Duration::from_secs(120);
/// Messages queued for one slow peer; more are dropped, and anti-entropy repairs them.
const QUEUE_LEN: usize = 512;
/// Topics of one peer that are remembered, and named in one frame.
const TOPICS_PER_PEER: usize = 64;
/// Score of an admitted peer before it does anything.
pub(super) const MEMBER_SCORE: f64 = 10.0;

/// Only topics of our prefix exist.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(String);

impl TopicSubscriptionFilter for Prefix {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        topic.as_str().starts_with(&self.0)
    }
}

pub(super) fn behaviour(prefix: &str) -> Result<Behaviour, BoxError> {
    let config = ConfigBuilder::default()
        .heartbeat_interval(Duration::from_secs(1))
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(TRANSMIT_MAX)
        .duplicate_cache_time(DUPLICATE_CACHE)
        // outbound_min <= low <= n <= high and 2 * outbound_min <= n; gossipsub does not check.
        .mesh_n(4)
        .mesh_n_low(3)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .flood_publish(false)
        // A message that was asked for and did not come is asked for again while peers still announce it: with the defaults
        // (3 s, 3 heartbeats) it would wait for the next comparison of catalogues.
        .iwant_followup_time(Duration::from_secs(1))
        .history_gossip(4)
        .history_length(6)
        .idontwant_message_size_threshold(1000)
        .connection_handler_queue_len(QUEUE_LEN)
        .prune_peers(0)
        .build()?;
    let filter = MaxCountSubscriptionFilter {
        filter: Prefix(prefix.to_owned()),
        max_subscribed_topics: TOPICS_PER_PEER,
        max_subscriptions_per_request: TOPICS_PER_PEER,
    };
    let auth = MessageAuthenticity::Anonymous;
    let mut behaviour = Behaviour::new_with_subscription_filter(auth, config, filter)?;
    behaviour.with_peer_score(score_params(), thresholds())?;
    Ok(behaviour)
}

/// By content: the same bytes from two authors are one message, and nobody can mint endless
/// copies. The topic is part of it, so that one topic does not silence another.
fn message_id(message: &Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes()).update(&[0]).update(&message.data);
    MessageId::from(&hasher.finalize().as_bytes()[..20])
}

fn score_params() -> PeerScoreParams {
    PeerScoreParams {
        topic_score_cap: 50.0,
        app_specific_weight: 1.0,
        // Twenty nodes of one organisation behind one NAT are normal; the gate counts networks.
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.97,
        decay_interval: Duration::from_secs(1),
        decay_to_zero: 0.01,
        retain_score: Duration::from_secs(6 * 3600),
        slow_peer_weight: -0.2,
        slow_peer_threshold: 10.0,
        slow_peer_decay: 0.9,
        ..PeerScoreParams::default()
    }
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -40.0,
        publish_threshold: -80.0,
        graylist_threshold: -160.0,
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: 5.0,
    }
}

/// Every topic gets its own: the defaults graylist honest peers of a quiet topic.
pub(super) fn topic_params() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: 0.98,
        first_message_deliveries_cap: 50.0,
        // Silence is no fault at our rates.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: 0.99,
        ..TopicScoreParams::default()
    }
}
