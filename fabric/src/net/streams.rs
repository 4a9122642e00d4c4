//! Streams that outlive the swarm: what opens and accepts them stays when the network task builds another one.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use libp2p::{Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams};
use tokio::sync::mpsc;

use crate::key::PeerKey;
use crate::places::Places;

/// Swarms of which an accepting task has not heard yet. It never falls behind: its loop only takes a place and spawns.
const RENEWALS: usize = 4;

/// Opens streams over whichever swarm there is now.
#[derive(Clone)]
pub(crate) struct Opener(Arc<Mutex<Control>>);

impl Opener {
    /// For streams that are opened now; it is of no use over a later swarm.
    pub(crate) fn control(&self) -> Control {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The network task's end: which protocols are accepted. What accepts them ends with it.
pub(crate) struct Streams {
    opener: Opener,
    accepted: Vec<(StreamProtocol, mpsc::Sender<IncomingStreams>)>,
}

/// Streams of one protocol that peers open, until the network ends.
pub(crate) struct Incoming {
    now: Option<IncomingStreams>,
    later: mpsc::Receiver<IncomingStreams>,
}

impl Streams {
    pub(crate) fn new(control: Control) -> Self {
        Self { opener: Opener(Arc::new(Mutex::new(control))), accepted: Vec::new() }
    }

    pub(crate) fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// Accepts a protocol, over this swarm and later ones.
    pub(crate) fn accept(&mut self, protocol: StreamProtocol) -> Incoming {
        let (to, later) = mpsc::channel(RENEWALS);
        let now = accept(&mut self.opener.control(), &protocol);
        self.accepted.push((protocol, to));
        Incoming { now, later }
    }

    /// There is another swarm.
    pub(crate) fn renew(&mut self, mut control: Control) {
        for (protocol, to) in &self.accepted {
            let incoming = accept(&mut control, protocol);
            if incoming.is_none_or(|incoming| to.try_send(incoming).is_err()) {
                tracing::error!(%protocol, "nobody accepts a protocol on the new swarm");
            }
        }
        *self.opener.0.lock().unwrap_or_else(PoisonError::into_inner) = control;
    }
}

fn accept(control: &mut Control, protocol: &StreamProtocol) -> Option<IncomingStreams> {
    let accepted = control.accept(protocol.clone());
    accepted.inspect_err(|_| tracing::error!(%protocol, "a protocol is accepted twice")).ok()
}

impl Incoming {
    /// The next stream, and whose it is. `None` when the network has ended.
    pub(crate) async fn next(&mut self) -> Option<(PeerKey, Stream)> {
        loop {
            let Self { now, later } = self;
            let stream = async {
                match now {
                    Some(now) => now.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                renewed = later.recv() => self.now = Some(renewed?),
                stream = stream => match stream {
                    // The gate lets no other keys in.
                    Some((id, stream)) => if let Some(peer) = PeerKey::from_peer_id(&id) {
                        return Some((peer, stream));
                    },
                    None => self.now = None,
                },
            }
        }
    }

    /// Answers each stream in a task of its own while there is a place; further ones are dropped.
    /// The loop itself only takes a place and spawns: streams that arrive while it is busy are lost.
    pub(crate) async fn serve<F>(
        mut self,
        places: Arc<Places>,
        answer: impl Fn(PeerKey, Stream) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some((peer, stream)) = self.next().await {
            let Some(place) = places.take(peer).filter(|place| !place.is_refusal()) else {
                continue;
            };
            let answered = answer(peer, stream);
            tokio::spawn(async move {
                answered.await;
                drop(place);
            });
        }
    }
}
