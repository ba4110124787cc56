//! The rules: what must hold in every state, at every step, and when nothing more is due.

use super::{
    Outbox,
    accepting::visible,
    state::{Row, State},
};
use crate::sets::Set;

/// What is settled is in the topic or dead.
pub const NOTHING_LOST: &str = "what is settled is in the topic or dead";
/// Closed are only ids that belong to nobody.
pub const CLOSED_IS_NOBODYS: &str = "no id is closed whose transaction may commit or did";
/// A refusal is believed only where it is the record's own.
pub const ONLY_POISON_DIES: &str = "nothing is dead but what is refused for its own fault";
/// Of a key, in the order in which requests followed answers.
pub const ORDER: &str = "first appearances of a key come in the order of its requests";
/// At least once.
pub const REPEATS_BOUNDED: &str = "repeats are at most a window for each fault";
/// Exactly once.
pub const NO_REPEATS: &str = "a reader of committed records sees nothing twice";
/// What the broker lost has a receipt, and so an audit finds it.
pub const AUDIT_FINDS: &str = "what the broker lost is unsettled or has a receipt";
/// The compare-and-swap.
pub const FENCED: &str = "a checkpoint of a leader that was taken over counts for nothing";
/// Retention.
pub const RETAINED: &str = "retention drops nothing that is not settled";
/// Nothing is left behind.
pub const DRAINED: &str = "when nothing more is due, all that was committed is settled and every hole is closed";

/// In every state.
pub(super) fn broken(model: &Outbox, s: &State) -> Option<&'static str> {
    let may_commit: Set = (0..model.scope.rows.len() as u8)
        .filter(|id| {
            let row = s.db.rows[*id as usize];
            matches!(row, Row::Open | Row::Prepared | Row::PreparedRenamed | Row::Committed)
        })
        .collect();
    let poison: Set = (0..model.scope.rows.len() as u8)
        .filter(|id| model.scope.rows[*id as usize].poison)
        .collect();
    let unread = s.db.settled.without(s.topic.appeared.and(s.topic.lost).and(s.db.dead));
    if s.broken.is_some() {
        s.broken
    } else if !unread.is_empty() {
        Some(NOTHING_LOST)
    } else if !s.db.closed.common(may_commit).is_empty() {
        Some(CLOSED_IS_NOBODYS)
    } else if !s.db.dead.without(poison).is_empty() {
        Some(ONLY_POISON_DIES)
    } else if !s.topic.lost.common(s.db.settled).without(s.db.receipts).is_empty() {
        Some(AUDIT_FINDS)
    } else {
        None
    }
}

/// When a consumer sees a record.
pub(super) fn appears(model: &Outbox, s: &mut State, id: u8) {
    let was_lost = s.topic.lost.has(id);
    s.topic.lost.remove(id);
    if s.topic.appeared.has(id) {
        if was_lost {
            return;
        }
        s.topic.repeats += 1;
        // Offsets say nothing across a loss: what follows one may be repeated in either mode.
        let cut = s.left.cuts < model.scope.faults.cuts;
        let once = model.scope.transactions && !cut;
        if once || s.topic.repeats > model.scope.window * s.faults {
            s.broken = Some(if once { NO_REPEATS } else { REPEATS_BOUNDED });
        }
    } else {
        s.topic.appeared.add(id);
        let missing = s.db.before[id as usize].without(s.topic.appeared).without(s.topic.lost);
        if !missing.is_empty() && !s.topic.overtaken {
            s.broken = Some(ORDER);
        }
    }
}

/// When nothing more is due.
pub(super) fn broken_at_rest(model: &Outbox, s: &State) -> Option<&'static str> {
    let passed = s.db.settled.and(s.db.closed);
    let newest = visible(s).end();
    let drained = (0..model.scope.rows.len() as u8).all(|id| match s.db.rows[id as usize] {
        Row::Undrawn | Row::Dropped => true,
        Row::RolledBack => id >= newest || passed.has(id),
        _ => s.db.settled.has(id),
    });
    (!drained).then_some(DRAINED)
}
