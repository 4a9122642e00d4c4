//! The queue of events to the application: bounded, in order, and never losing the two events
//! that the application's own tables hang on.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::event::Event;
use crate::key::PeerKey;

/// Events that wait for the application.
pub(crate) const EVENT_QUEUE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Connected(PeerKey),
    Disconnected(PeerKey),
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Events {
    to: mpsc::Sender<Event>,
    /// What must be told and found no room. At most two for each peer that was admitted when the
    /// queue filled up: a `Connected` that was never told takes its `Disconnected` with it.
    kept: VecDeque<Must>,
}

impl Events {
    pub(super) fn new(to: mpsc::Sender<Event>) -> Self {
        Self { to, kept: VecDeque::new() }
    }

    /// Tells it if there is room.
    pub(super) fn offer(&mut self, event: Event) -> Result<(), Box<Event>> {
        // What is kept comes first, so nothing may pass it.
        if !self.kept.is_empty() {
            return Err(Box::new(event));
        }
        self.to.try_send(event).map_err(|e| Box::new(e.into_inner()))
    }

    pub(super) fn connected(&mut self, peer: PeerKey) {
        if self.offer(Event::Connected { peer }).is_err() {
            self.kept.push_back(Must::Connected(peer));
        }
    }

    pub(super) fn disconnected(&mut self, peer: PeerKey) {
        if self.offer(Event::Disconnected { peer }).is_ok() {
            return;
        }
        let last = self
            .kept
            .iter()
            .rposition(|m| matches!(m, Must::Connected(p) | Must::Disconnected(p) if *p == peer));
        match last {
            Some(at) if self.kept[at] == Must::Connected(peer) => {
                self.kept.remove(at);
            }
            _ => self.kept.push_back(Must::Disconnected(peer)),
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Waits for room and tells one kept event. Safe to cancel.
    pub(super) async fn catch_up(&mut self) {
        let Ok(room) = self.to.reserve().await else {
            // The application is gone: there is nobody to tell.
            self.kept.clear();
            return;
        };
        match self.kept.pop_front() {
            Some(Must::Connected(peer)) => room.send(Event::Connected { peer }),
            Some(Must::Disconnected(peer)) => room.send(Event::Disconnected { peer }),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey::from_bytes([1; 32]);
    const B: PeerKey = PeerKey::from_bytes([2; 32]);

    #[tokio::test]
    async fn a_full_queue_keeps_what_matters_in_order_and_refuses_the_rest() {
        let (to, mut from) = mpsc::channel(1);
        let mut events = Events::new(to);
        events.connected(A);
        events.disconnected(A);
        // B comes and goes unseen: the application never hears of it.
        events.connected(B);
        events.disconnected(B);
        events.connected(A);
        assert!(events.is_behind());
        assert!(matches!(from.recv().await, Some(Event::Connected { peer: A })));
        let advice = Event::Discovered { peer: B, addresses: vec![] };
        assert!(events.offer(advice).is_err());
        events.catch_up().await;
        assert!(matches!(from.recv().await, Some(Event::Disconnected { peer: A })));
        events.catch_up().await;
        assert!(matches!(from.recv().await, Some(Event::Connected { peer: A })));
        assert!(!events.is_behind());
    }

    #[tokio::test]
    async fn a_flapping_peer_does_not_grow_the_queue() {
        let (to, _from) = mpsc::channel(1);
        let mut events = Events::new(to);
        events.connected(A);
        for _ in 0..1000 {
            events.disconnected(A);
            events.connected(A);
        }
        assert!(events.kept.len() <= 2, "{:?}", events.kept);
    }
}
