//! What goes wrong and is put right: crashes and the starts after them, stores put back from a backup, partitions, healing.

use std::collections::BTreeSet;

use node::engine::{Engine, Input, Stored};
use node::store::batch::Table;
use scheduler::task::RunId;

use super::workload::below;
use super::{Backup, What, World, invariants};

impl World {
    pub(super) fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.life += 1;
        let mut stored = Stored { is_set_back: node.is_set_back, ..Stored::default() };
        for (table, rows) in &node.disk {
            stored
                .tables
                .insert(*table, rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        }
        let (mut engine, effects) =
            Engine::recover(node.settings.clone(), &stored, self.now_ms, &mut node.rng)
                .expect("what was committed is read back");
        for (peer, addresses) in &node.addresses {
            engine.learn_peer(*peer, addresses.clone());
        }
        for peer in engine.recall_peers(self.now_ms, node.good.clone().into_iter().collect()) {
            node.good.remove(&peer);
        }
        let replicas: Vec<Vec<u8>> = node.replicas.values().cloned().collect();
        engine.restore_replicas(self.now_ms, &replicas);
        node.engine = Some(engine);
        node.is_set_back = false;
        node.wake_ms = u64::MAX;
        let life = node.life;
        self.apply(at, effects, usize::MAX);
        let addresses = vec![format!("/sim/{at}")];
        let input = Box::new(Input::Listening { addresses });
        self.schedule(1, What::Deliver { to: at, life, input });
    }

    /// The process dies: memory, running tasks and connections are gone, the disk stays.
    pub(super) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.engine = None;
        node.life += 1;
        node.tasks.clear();
        node.granted.clear();
        node.open.clear();
        node.open_to.clear();
        node.hellos.clear();
        node.gossip_tokens.clear();
        node.gossiped.clear();
        node.is_joining = false;
        for other in 0..self.nodes.len() {
            self.disconnect(at, other);
        }
        let delay = 500 + below(&mut self.rng, 20_000);
        self.schedule(delay, What::Restart { at });
    }

    /// Keeps a copy of a node's stores. Before everyone has joined it would know nothing worth losing.
    pub(super) fn back_up(&mut self, at: usize) {
        if !self.nodes.iter().skip(1).all(|node| node.has_joined) {
            return self.schedule(2_000, What::Backup { at });
        }
        let node = &mut self.nodes[at];
        node.backup = Some(Backup { disk: node.disk.clone(), blobs: node.blobs.clone() });
    }

    /// The machine dies and its stores are put back as they were at the last backup. Not while another node still waits for
    /// a fence, or has not heard yet of a channel that its backup did not know: of two that share a channel only one may be
    /// set back at a time.
    pub(super) fn restore(&mut self, at: usize) {
        if !self.has_faults {
            return;
        }
        let is_quiet = self.nodes.iter().all(|node| {
            let channels = node.engine.as_ref().map(|e| e.inspect().channels());
            !node.is_set_back && channels.is_some_and(|mut all| all.all(|c| !c.is_fencing()))
        }) && !invariants::is_any_forgotten(self);
        let backup = self.nodes[at].backup.take_if(|_| is_quiet);
        let Some(Backup { disk, blobs }) = backup else {
            return self.schedule(100, What::Restore { at });
        };
        self.crash(at);
        self.n_restores += 1;
        self.trace.update(format!("{} restore {at}\n", self.now_ms).as_bytes());
        let node = &mut self.nodes[at];
        (node.disk, node.blobs, node.is_set_back) = (disk, blobs, true);
        // What the backup does not know of this node's runs has never been; their owner submits again.
        let rows = node.disk.get(&Table::RunEvents).cloned().unwrap_or_default();
        let mine: Vec<RunId> =
            self.submitted.iter().filter(|(owner, _)| *owner == at).map(|(_, run)| *run).collect();
        self.submitted.retain(|(owner, _)| *owner != at);
        for run in &mine {
            self.history.remove(run);
        }
        for (key, value) in &rows {
            self.remember_event(key, value, at);
        }
        let n_lost = mine.len() - self.submitted.iter().filter(|(owner, _)| *owner == at).count();
        for _ in 0..n_lost {
            self.schedule(25_000, What::Submit { at });
        }
    }

    pub(super) fn cut_off(&mut self, cut: &BTreeSet<usize>) {
        self.cut.extend(cut);
        for at in cut {
            for other in 0..self.nodes.len() {
                if !self.can_reach(*at, other) {
                    self.disconnect(*at, other);
                }
            }
        }
    }

    pub(super) fn heal_all(&mut self) {
        self.has_faults = false;
        self.cut.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].engine.is_none() {
                self.start(at);
            }
        }
    }
}
