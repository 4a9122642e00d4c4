//! What the network task does for [`crate::island`]: opens its listeners again, and builds itself another swarm.
//!
//! What stays over a new swarm: the identity, the ports, the queues and whoever waits in them, the hello, topics, bans and
//! misdeeds, the contents that it provides, what is known about addresses, the relay's book, the tasks that serve blobs, tunnels, relays and tests of
//! addresses. What ends: connections, hellos and messages under way, whose callers are told so.

use std::time::Instant;

use super::actor::{Actor, answer};
use super::control;
use crate::error::SendError;
use crate::island::Effect;

impl Actor {
    /// Takes the step that is due, if one is.
    pub(super) fn on_island(&mut self, now: Instant) {
        let now_ms = self.reaching.now_ms();
        let Some(effect) = self.island.poll(now_ms) else {
            return;
        };
        match effect {
            Effect::Reopen => {
                tracing::warn!("nobody is connected: the listeners are opened anew");
                self.listening.close(&mut self.swarm, now);
            }
            Effect::Rebuild => {
                tracing::warn!("nobody is connected: the whole network is built anew");
                if !self.rebuild(now) {
                    return;
                }
            }
        }
        self.island.handle_done(now_ms, effect);
    }

    /// False when no swarm could be built; then the old one stays.
    fn rebuild(&mut self, now: Instant) -> bool {
        // Reads what the system says about names and opens sockets: a moment, in which nobody is connected anyway.
        let mut swarm = match super::swarm(&self.config, &self.message_memory) {
            Ok(swarm) => swarm,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "no network could be built"
                );
                return false;
            }
        };
        let old = &mut self.swarm.behaviour_mut().gate;
        swarm.behaviour_mut().gate.inherit_bans(old);
        swarm.behaviour_mut().gate.inner.dht.inherit(&mut old.inner.dht);
        self.streams.renew(control(&swarm));
        // The sockets of the old one are free when its tasks have ended, which the listeners wait for.
        drop(std::mem::replace(&mut self.swarm, swarm));
        self.let_all_go();
        for topic in std::mem::take(&mut self.topics) {
            self.on_subscribe(topic);
        }
        let held = std::mem::take(&mut self.held);
        self.on_hold(held);
        self.listening.forget(now);
        self.reaching.renew();
        self.on_listening();
        true
    }

    /// Ends what hung on connections that are gone.
    fn let_all_go(&mut self) {
        self.tunnels.end_all();
        self.fail_hellos();
        for (_, sending) in std::mem::take(&mut self.sending) {
            answer(sending.reply, Err(SendError::Lost { peer: sending.to }));
        }
        for (peer, entry) in self.peers.take_all() {
            self.terms.forget(peer);
            if entry.is_announced {
                self.events.disconnected(peer);
            }
        }
    }

    /// A listener closed by itself, or was opened, or waits to be.
    pub(super) fn on_listening_due(&mut self, now: Instant) {
        self.listening.open_due(&mut self.swarm, now);
        self.answer_address_waiters();
    }
}
