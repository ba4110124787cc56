//! Transactions that draw ids: they commit, roll back, stay open, are prepared.

use super::{
    Outbox,
    state::{Row, State},
};
use crate::sets::Set;

#[expect(clippy::unused_self, reason = "every step is taken alike")]
impl Outbox {
    /// The next id is drawn. What was answered before, of the same key, has to appear before.
    pub(super) fn draw(&self, s: &mut State, row: u8) -> Option<()> {
        let spec = &self.scope.rows[row as usize];
        (is_next(s, row) && spec.replay_of.is_none()).then_some(())?;
        s.db.before[row as usize] = (0..row)
            .filter(|b| s.db.rows[*b as usize] == Row::Committed)
            .filter(|b| {
                let other = &self.scope.rows[*b as usize];
                other.key == spec.key && !other.poison && other.replay_of.is_none()
            })
            .collect();
        s.db.rows[row as usize] = if spec.at_once { Row::Committed } else { Row::Open };
        Some(())
    }

    pub(super) fn commit(&self, s: &mut State, row: u8) -> Option<()> {
        matches!(
            s.db.rows[row as usize],
            Row::Open | Row::Prepared | Row::PreparedRenamed
        )
        .then_some(())?;
        s.db.rows[row as usize] = Row::Committed;
        Some(())
    }

    pub(super) fn roll_back(&self, s: &mut State, row: u8) -> Option<()> {
        let open = matches!(
            s.db.rows[row as usize],
            Row::Open | Row::Prepared | Row::PreparedRenamed
        );
        (open && self.scope.rows[row as usize].may_roll_back).then_some(())?;
        s.db.rows[row as usize] = Row::RolledBack;
        Some(())
    }

    pub(super) fn prepare(&self, s: &mut State, row: u8) -> Option<()> {
        (s.db.rows[row as usize] == Row::Open && self.scope.rows[row as usize].may_prepare).then_some(())?;
        s.db.rows[row as usize] = Row::Prepared;
        Some(())
    }

    /// A replay writes a row of its own with the original's event: of one that is settled.
    pub(super) fn replay(&self, s: &mut State, row: u8) -> Option<()> {
        let original = self.scope.rows[row as usize].replay_of?;
        (is_next(s, row) && s.db.settled.has(original)).then_some(())?;
        s.db.rows[row as usize] = Row::Committed;
        Some(())
    }
}

/// Ids are drawn in order.
fn is_next(s: &State, row: u8) -> bool {
    s.db.rows[row as usize] == Row::Undrawn && (row == 0 || s.db.rows[row as usize - 1] != Row::Undrawn)
}

/// What a statement that begins now can see.
pub(super) fn visible(s: &State) -> Set {
    (0..s.db.rows.len() as u8)
        .filter(|row| s.db.rows[*row as usize] == Row::Committed)
        .collect()
}

/// Who holds a lock on the sequence, by name: a prepared transaction has another, and a new one after a restart.
pub(super) fn drawers(s: &State) -> u16 {
    s.db.rows.iter().enumerate().fold(0, |names, (n, row)| {
        names
            | match row {
                Row::Open => 1 << n,
                Row::Prepared => 1 << (n + 4),
                Row::PreparedRenamed => 1 << (n + 8),
                _ => 0,
            }
    })
}

/// Names of prepared transactions.
pub(super) const PREPARED: u16 = 0x0ff0;
