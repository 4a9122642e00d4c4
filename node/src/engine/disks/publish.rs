//! Images in the catalogue: commands become plans, plans become records and rows.

use catalog::record::{Detail, DiskName, DiskStatement, Resource, Signature, Visibility};
use catalog::{Change as LogChange, OrgId};
use ed25519_dalek::SigningKey;

use super::{Answer, Command, Disk, DiskError, Pen, Planned, Sharing, State};
use crate::engine::Engine;
use crate::engine::command::{CommandError, Response};
use crate::engine::directory::OwnResource;

/// The organisation's root key. An issuer does not vouch for images: they outlive it.
struct OrgPen(SigningKey);

impl Pen for OrgPen {
    fn org(&self) -> OrgId {
        self.0.verifying_key().into()
    }

    fn sign(&self, statement: &DiskStatement) -> Signature {
        statement.sign(&self.0)
    }
}

impl Engine {
    pub(in crate::engine) fn handle_disk_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = self.answer_disk(command, now_ms);
        answer.map(Response::Disk).map_err(CommandError::Disk)
    }

    fn answer_disk(&mut self, command: Command, now_ms: u64) -> Result<Answer, DiskError> {
        let pen = self.admission.standing().root_key().cloned().map(OrgPen);
        let pen = pen.as_ref().map(|pen| pen as &dyn Pen);
        let planned = match command {
            Command::Add { name, detail, sharing, sign } => {
                let pen = if sign { Some(pen.ok_or(DiskError::NoKey)?) } else { None };
                self.disks.plan_add(name, *detail, sharing, pen, now_ms)?
            }
            Command::Set { name, change } => self.disks.plan_set(&name, *change, pen, now_ms)?,
            Command::Remove { name } => self.disks.plan_remove(&name)?,
            Command::Mark { name, is_whole } => self.disks.plan_mark(&name, is_whole, now_ms)?,
            Command::Limit { quota } => {
                return Ok(Answer::Usage(self.disks.limit(quota, &mut self.out.batch)?));
            }
            Command::Usage => return Ok(Answer::Usage(self.disks.usage())),
            Command::Check { name, size } => {
                self.disks.check_room(&name, size, None)?;
                return Ok(Answer::Usage(self.disks.usage()));
            }
            Command::List => {
                let all = self.disks.iter().map(|(name, disk)| self.disk_view(name, disk));
                return Ok(Answer::Disks(all.collect()));
            }
            Command::Show { name } => {
                return Ok(Answer::Disk(Box::new(self.find_disk(&name, now_ms)?)));
            }
        };
        let (name, digest) = (planned.name.clone(), planned.digest());
        self.describe_disk(&planned, now_ms)?;
        self.disks.commit(planned, &mut self.out.batch);
        if let Some(digest) = digest {
            self.expose(digest);
        }
        Ok(match self.disks.own(&name) {
            Ok(disk) => Answer::Disk(Box::new(self.disk_view(&name, disk))),
            Err(_) => Answer::Done,
        })
    }

    /// Changes the catalogue as a plan wants it.
    fn describe_disk(&mut self, planned: &Planned, now_ms: u64) -> Result<(), DiskError> {
        let describe =
            |disk: &Option<Disk>| disk.as_ref().and_then(|disk| own_resource(&planned.name, disk));
        let refused = match (describe(&planned.before), describe(&planned.after)) {
            (_, Some(own)) => self.announce(own, now_ms),
            (Some(_), None) => self.change(LogChange::Delete(planned.name.key()), now_ms),
            (None, None) => None,
        };
        refused.map_or(Ok(()), |detail| Err(DiskError::Publish { detail }))
    }

    /// Puts the records of all images into a catalogue that has none of them.
    pub(in crate::engine) fn announce_disks(&mut self, now_ms: u64) {
        let all: Vec<OwnResource> =
            self.disks.iter().filter_map(|(name, disk)| own_resource(name, disk)).collect();
        for own in all {
            let key = own.resource.key.clone();
            if let Some(detail) = self.announce(own, now_ms) {
                let detail = format!("`{key}` cannot be published: {detail}");
                self.out.list.push(crate::engine::Effect::Notice { detail });
            }
        }
    }
}

impl Planned {
    fn digest(&self) -> Option<catalog::Digest> {
        self.before.as_ref().or(self.after.as_ref()).map(|disk| disk.detail.digest)
    }
}

/// What the catalogue says of an image; nothing when it is private or cannot be given.
fn own_resource(name: &DiskName, disk: &Disk) -> Option<OwnResource> {
    let visibility = disk.visibility()?;
    let resource = Resource {
        key: name.key(),
        name: name.to_string(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Disk(disk.detail.clone()),
    };
    Some(OwnResource { resource, visibility })
}

impl Disk {
    /// Who sees its record; `None` when there is none.
    #[must_use]
    pub fn visibility(&self) -> Option<Visibility> {
        match &self.sharing {
            _ if self.state != State::Ready => None,
            Sharing::Private => None,
            Sharing::Partner(orgs) => Some(Visibility::Restricted(orgs.iter().copied().collect())),
            Sharing::Public => Some(Visibility::Public),
        }
    }
}
