//! What the nodes' owners do: join the realm, submit workflows, and try again when their node died before it answered.

use node::engine::command::{Command, CommandError, Response};
use node::engine::{CommandId, Effect, Effects, Input, JoinError};

use super::{What, World, workload};

impl World {
    pub(super) fn join(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].has_joined {
            return Ok(());
        }
        let is_possible = self.nodes[at].engine.is_some()
            && self.nodes[0].engine.is_some()
            && !self.nodes[at].is_joining;
        if is_possible {
            let id = self.next_token();
            let effects =
                self.command(0, id, Command::Invite { valid_ms: 600_000, is_asking: false })?;
            let ticket = effects.list.iter().find_map(|effect| match effect {
                Effect::Reply { result: Ok(Response::Ticket(ticket)), .. } => Some(ticket.clone()),
                _ => None,
            });
            self.apply(0, effects, usize::MAX);
            let Some(ticket) = ticket else {
                return Err("no ticket for an invitation".to_owned());
            };
            self.nodes[at].is_joining = true;
            self.nodes[at].addresses.insert(ticket.node, ticket.addresses.clone());
            let id = self.next_token();
            let effects = self.command(at, id, Command::Join { ticket })?;
            self.apply(at, effects, usize::MAX);
        }
        self.schedule(5_000, What::Join { at });
        Ok(())
    }

    pub(super) fn submit(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].engine.is_none() || !self.nodes[at].has_joined && at != 0 {
            self.schedule(2_000, What::Submit { at });
            return Ok(());
        }
        let submission = Box::new(workload::submission(&mut self.rng));
        self.nodes[at].blobs.insert(workload::module());
        let id = self.next_token();
        self.pending_submissions.insert(id, at);
        let effects = self.command(at, id, Command::Submit { submission, by: None })?;
        let cut = self.cut_point(at, &effects);
        if cut == Some(0) {
            // Never durable, never acknowledged: its owner asks again.
            self.schedule(30_000, What::Submit { at });
        }
        self.finish(at, effects, cut)
    }

    pub(super) fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    fn command(&mut self, at: usize, id: u64, command: Command) -> Result<Effects, String> {
        self.think(at, Input::Command { id, command })
    }

    pub(super) fn take_reply(
        &mut self,
        at: usize,
        id: CommandId,
        result: Result<Response, CommandError>,
    ) {
        // A node that died between joining and saying so finds itself a member.
        if matches!(
            result,
            Ok(Response::Joined { .. }) | Err(CommandError::Join(JoinError::Member { .. }))
        ) {
            self.nodes[at].has_joined = true;
        }
        self.nodes[at].is_joining = false;
        if self.pending_submissions.remove(&id).is_some() {
            result.expect("a generated workflow is accepted");
        }
    }
}
