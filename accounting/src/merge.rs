//! Both logs of a channel in an order in which every entry comes after the one its peer link names.

use crate::entry::{Entry, Hash, Opened, Side};
use crate::state::{State, Violation};

/// An entry and its hash, ready for the rules.
pub(crate) struct Loaded {
    pub(crate) entry: Entry,
    pub(crate) hash: Hash,
}

impl From<Opened<'_>> for Loaded {
    fn from(opened: Opened<'_>) -> Self {
        Self { entry: opened.entry, hash: opened.hash }
    }
}

/// What ended a log early. `index` counts from 0 within the log.
pub(crate) enum Fault<E> {
    /// The entry could not be loaded.
    Load { side: Side, index: usize, error: E },
    /// The entry breaks a rule.
    Rule { side: Side, index: usize, source: Violation },
}

/// One log while it is merged.
struct Cursor {
    index: usize,
    next: Option<Loaded>,
    ended: bool,
    faulty: bool,
}

/// Folds the logs into `state`, taking entry by entry from `load` (`None` at a log's end). A fault ends its log; the other goes
/// on as far as its peer links allow. Returns at most one fault per log.
pub(crate) fn merge<E>(
    state: &mut State,
    mut load: impl FnMut(Side, usize) -> Option<Result<Loaded, E>>,
) -> Vec<Fault<E>> {
    let mut faults = Vec::new();
    let mut cursors =
        Side::BOTH.map(|_| Cursor { index: 0, next: None, ended: false, faulty: false });
    loop {
        let mut moved = false;
        for side in Side::BOTH {
            let cursor = &mut cursors[side.index()];
            if cursor.next.is_none() && !cursor.ended {
                match load(side, cursor.index) {
                    None => cursor.ended = true,
                    Some(Ok(loaded)) => cursor.next = Some(loaded),
                    Some(Err(error)) => {
                        (cursor.ended, cursor.faulty) = (true, true);
                        faults.push(Fault::Load { side, index: cursor.index, error });
                    }
                }
            }
            let reachable = |l: &mut Loaded| l.entry.peer_seq <= state.log(side.other()).len();
            if let Some(loaded) = cursor.next.take_if(reachable) {
                moved = true;
                apply(state, side, cursor, &loaded, &mut faults);
            }
        }
        if !moved && Side::BOTH.iter().all(|s| stuck(&cursors[s.index()])) {
            break;
        }
    }
    // A link beyond a log that ended in good order names an entry that does not exist.
    for side in Side::BOTH {
        let other_faulty = cursors[side.other().index()].faulty;
        let cursor = &mut cursors[side.index()];
        if let Some(loaded) = cursor.next.take().filter(|_| !other_faulty) {
            apply(state, side, cursor, &loaded, &mut faults);
        }
    }
    faults
}

fn stuck(cursor: &Cursor) -> bool {
    cursor.ended || cursor.next.is_some()
}

fn apply<E>(
    state: &mut State,
    side: Side,
    cursor: &mut Cursor,
    loaded: &Loaded,
    faults: &mut Vec<Fault<E>>,
) {
    let writer = loaded.entry.writer;
    let valid = if writer == side {
        state.validate(&loaded.entry)
    } else {
        Err(Violation::Writer { number: loaded.entry.body.type_number(), writer })
    };
    match valid {
        Ok(change) => {
            state.commit(&loaded.entry, loaded.hash, change);
            cursor.index = cursor.index.saturating_add(1);
        }
        Err(source) => {
            (cursor.ended, cursor.faulty) = (true, true);
            faults.push(Fault::Rule { side, index: cursor.index, source });
        }
    }
}
