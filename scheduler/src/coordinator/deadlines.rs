//! What happens when nothing happens: every waiting stage has a deadline, and each ends its own way (an unanswered question
//! is a no, an agreement that does not come is withdrawn, a silent attempt lost its lease). The other direction is here
//! too: providers are told regularly which attempts are still wanted.

use std::collections::BTreeMap;

use catalog::NodeId;

use crate::negotiate::{ATTEMPTS_PER_MESSAGE, Message, RequestId};
use crate::task::{AttemptId, Failure, FailureClass};

use super::{Coordinator, LEASE_MS, RENEW_MS, SILENT_MS, Stage};

impl Coordinator {
    pub(super) fn enforce_deadlines(&mut self, now_ms: u64, entropy: &mut dyn FnMut() -> u64) {
        while let Some(&(at, key)) = self.deadlines.first() {
            if at > now_ms {
                return;
            }
            let Some(live) = self.live.get(&key) else {
                self.deadlines.pop_first();
                continue;
            };
            match live.stage.clone() {
                Stage::Asking { asked, offers, .. } => {
                    let silent: Vec<(RequestId, NodeId)> = asked
                        .into_iter()
                        .filter(|(id, _)| offers.iter().all(|o| o.request != *id))
                        .collect();
                    if silent.is_empty() {
                        self.choose(key, now_ms);
                    }
                    for (request, node) in silent {
                        self.send(node, Message::Decline { request });
                        self.handle_no(request, node, now_ms + SILENT_MS, now_ms);
                    }
                }
                Stage::Accepted { node, .. } => {
                    self.experience.entry(node).or_default().refused_until_ms = now_ms + SILENT_MS;
                    self.withdraw(key);
                }
                Stage::Running { node } => {
                    let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
                    self.send(node, Message::Cancel { attempt });
                    let detail = format!("no word from {} for {} s", node.short(), LEASE_MS / 1000);
                    let failure =
                        Failure { class: FailureClass::LostLease, exit_code: None, detail };
                    self.end_attempt(key, failure, now_ms, entropy);
                }
                Stage::Collecting { node, .. } => {
                    let detail = format!("the outputs did not arrive from {}", node.short());
                    let failure = Failure { class: FailureClass::Infra, exit_code: None, detail };
                    self.end_attempt(key, failure, now_ms, entropy);
                }
            }
        }
    }

    pub(super) fn renew(&mut self, now_ms: u64) {
        self.renew_at_ms = now_ms + RENEW_MS;
        let mut wanted: BTreeMap<NodeId, Vec<AttemptId>> = BTreeMap::new();
        for (key, live) in &self.live {
            if let Stage::Running { node } | Stage::Collecting { node, .. } = &live.stage {
                let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
                wanted.entry(*node).or_default().push(attempt);
            }
        }
        for (node, attempts) in wanted {
            for chunk in attempts.chunks(ATTEMPTS_PER_MESSAGE) {
                self.send(node, Message::Renew { attempts: chunk.to_vec() });
            }
        }
    }
}
