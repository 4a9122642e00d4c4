//! Services in the durable store: a row for each record.
//!
//! ```text
//! NAME \0 h        what is wanted
//! NAME \0 r NUMBER a revision
//! NAME \0 m RUN    a replica that has not ended
//! NAME \0 e PLACE  one of the last events
//! ```

use std::collections::BTreeMap;

use scheduler::service::{Key, Record};

use crate::engine::Row;

/// Ends a service's name in a key: no name holds it.
const END: u8 = 0;

/// The key of a record's row.
pub(super) fn row_key(service: &str, key: Key) -> Vec<u8> {
    let (kind, rest) = match key {
        Key::Head => (b'h', Vec::new()),
        Key::Revision(number) => (b'r', number.to_be_bytes().to_vec()),
        Key::Replica(run) => (b'm', run.as_bytes().to_vec()),
        Key::Event(place) => (b'e', place.to_be_bytes().to_vec()),
    };
    [service.as_bytes(), &[END, kind], &rest].concat()
}

/// The records of each service; nothing when a row is none that this program wrote.
pub(super) fn read(rows: &[Row]) -> Option<BTreeMap<String, Vec<Record>>> {
    let mut services: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for (key, value) in rows {
        let end = key.iter().position(|byte| *byte == END)?;
        let name = std::str::from_utf8(&key[..end]).ok()?;
        let record = ciborium::from_reader(&value[..]).ok()?;
        services.entry(name.to_owned()).or_default().push(record);
    }
    Some(services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::{NodeId, OrgId};
    use scheduler::service::{Event, EventBody, Health, Place, Replica};
    use scheduler::task::RunId;

    #[test]
    fn what_is_stored_comes_back() {
        let run = RunId::from_bytes([7; 16]);
        let (node, org) = (NodeId::from_bytes([1; 32]), OrgId::from_bytes([2; 32]));
        let place = Some(Place { node, org, number: 3, since_ms: 4 });
        let replica =
            Replica { run, revision: 1, started_ms: 2, place, was_ready: true, leaving: None };
        let event = |seq, body| Record::Event(Event { seq, at_ms: 5, body });
        let records = [
            (Key::Replica(run), Record::Replica(replica)),
            (Key::Event(0), event(0, EventBody::Placed { run, node })),
            (Key::Event(1), event(1, EventBody::Health { run, health: Health::Healthy })),
        ];
        let rows: Vec<Row> = records
            .iter()
            .map(|(key, record)| (row_key("web", *key), crate::engine::stored(record)))
            .collect();
        let found = read(&rows).unwrap();
        assert_eq!(found["web"], records.map(|(_, record)| record));
        for bad in [(b"web".to_vec(), rows[0].1.clone()), (rows[0].0.clone(), vec![0xff])] {
            assert_eq!(read(&[bad]), None);
        }
    }
}
