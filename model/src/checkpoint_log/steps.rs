//! What may happen to the checkpoint log.

use super::wrong::Wrong;
use super::{Action, Checkpoint, CheckpointLog, FENCED, ITEMS, LEASE_HELD, POSITION_WHOLE, Phase, SEQS, State};
use crate::sets::Set;

/// Numbers in one partition.
const PER_PARTITION: u8 = 2;

impl CheckpointLog {
    pub(super) fn take(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::LookAtLease(relay) => self.look_at_lease(s, relay),
            Action::TakeOver(relay) => self.take_over(s, relay),
            Action::ReadPosition(relay) => self.read_position(s, relay),
            Action::Settle(relay, item) => settle(s, relay, item),
            Action::Append(relay) => self.append(s, relay, false),
            Action::AppendBase(relay) => self.append(s, relay, true),
            Action::AppendUnanswered(relay) => self.append_unanswered(s, relay),
            Action::RunLate => {
                let (last, row) = s.late.take()?;
                self.insert(s, last, row);
                Some(())
            }
            Action::MakePartition(relay) => make_partition(s, relay),
            Action::Sleep => {
                s.left.freezes = s.left.freezes.checked_sub(1)?;
                std::mem::take(&mut s.lease).then_some(())
            }
            Action::Kill(relay) => kill(s, relay),
            Action::DropCheckpoints => self.drop_checkpoints(s),
            Action::DropItem(item) => self.drop_item(s, item),
        }
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// The first of two statements, in a variant.
    fn look_at_lease(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        (self.is(Wrong::LeaseLookedAtBefore) && me.phase == Phase::StandingBy && !s.lease).then_some(())?;
        me.phase = Phase::Looked;
        Some(())
    }

    /// `checkpoints::take_over`: one insert, where the last lease has ended or is this start's own.
    fn take_over(&self, s: &mut State, relay: u8) -> Option<()> {
        let (last, newest) = newest(s);
        let me = &mut s.relays[relay as usize];
        let free = !s.lease || newest.start == me.start;
        match me.phase {
            Phase::StandingBy if free && !self.is(Wrong::LeaseLookedAtBefore) => {}
            Phase::Looked => {
                if !free {
                    s.broken = Some(LEASE_HELD);
                }
            }
            _ => return None,
        }
        let seq = last + 1;
        (seq < SEQS as u8 && s.attached.has(seq / PER_PARTITION)).then_some(())?;
        me.phase = Phase::TookOver;
        me.last = seq;
        me.fence = newest.fence + u8::from(!self.is(Wrong::FenceNotRaised));
        s.rows[seq as usize] = Some(Checkpoint {
            fence: me.fence,
            start: me.start,
            ..Checkpoint::default()
        });
        s.lease = true;
        s.newest_start = me.start;
        Some(())
    }

    /// `outbox_position()`: the newest base and the rows after it, at one snapshot.
    fn read_position(&self, s: &mut State, relay: u8) -> Option<()> {
        (s.relays[relay as usize].phase == Phase::TookOver).then_some(())?;
        let mut position = Set::EMPTY;
        for row in s.rows.iter().flatten() {
            position = match row.base {
                Some(base) => base,
                None if self.is(Wrong::BaseReadAlone) => position,
                None => position.and(row.settled),
            };
        }
        let me = &mut s.relays[relay as usize];
        me.position = position;
        me.phase = Phase::Leading;
        if position != s.recorded && s.newest_start == me.start {
            s.broken = Some(POSITION_WHOLE);
        }
        Some(())
    }

    /// `checkpoints::append`; whoever does not get its row stands by.
    fn append(&self, s: &mut State, relay: u8, base: bool) -> Option<()> {
        let row = self.next_row(s, relay, base)?;
        let last = s.relays[relay as usize].last;
        if let Some(seq) = self.insert(s, last, row) {
            let me = &mut s.relays[relay as usize];
            me.settling = Set::EMPTY;
            me.last = seq;
        } else if self.is(Wrong::LoserAdoptsTheNewestNumber) {
            s.relays[relay as usize].last = newest(s).0;
        } else {
            stand_by(s, relay);
        }
        Some(())
    }

    /// The statement is on its way, and nobody waits for it: the term ends.
    fn append_unanswered(&self, s: &mut State, relay: u8) -> Option<()> {
        let row = self.next_row(s, relay, false)?;
        s.left.lost_answers = s.left.lost_answers.checked_sub(1)?;
        s.late.is_none().then_some(())?;
        s.late = Some((s.relays[relay as usize].last, row));
        stand_by(s, relay);
        Some(())
    }

    fn next_row(&self, s: &State, relay: u8, base: bool) -> Option<Checkpoint> {
        let me = &s.relays[relay as usize];
        (me.phase == Phase::Leading && me.last + 1 < SEQS as u8).then_some(())?;
        // Without a base there has to be something to record, or a lease to prolong.
        (base || !me.settling.is_empty() || !s.lease).then_some(())?;
        let whole = if self.is(Wrong::BaseWithoutItsOwnRow) {
            me.position.without(me.settling)
        } else {
            me.position
        };
        Some(Checkpoint {
            fence: me.fence,
            start: me.start,
            settled: me.settling,
            base: base.then_some(whole),
        })
    }

    /// `insert ... where (select max(seq) from outbox_checkpoints) = $last`, under a primary key. Returns the number.
    fn insert(&self, s: &mut State, last: u8, row: Checkpoint) -> Option<u8> {
        let by_key_alone = self.is(Wrong::ZombieMakesADroppedPartition);
        let seq = if self.is(Wrong::UpdatedInPlace) {
            newest(s).0 + 1
        } else {
            (by_key_alone || newest(s).0 == last).then_some(last + 1)?
        };
        if by_key_alone {
            s.attached.add(seq / PER_PARTITION);
        }
        let free = (seq as usize) < SEQS && s.attached.has(seq / PER_PARTITION) && s.rows[seq as usize].is_none();
        free.then_some(())?;
        if row.start != s.newest_start {
            s.broken = Some(FENCED);
        }
        s.rows[seq as usize] = Some(row);
        s.lease = true;
        s.recorded = s.recorded.and(row.settled);
        Some(seq)
    }

    /// Only when a newer base exists beyond it and every item in its receipts has gone.
    fn drop_checkpoints(&self, s: &mut State) -> Option<()> {
        let partition = s.attached.iter().next()?;
        let seqs = partition * PER_PARTITION..(partition + 1) * PER_PARTITION;
        let (last, _) = newest(s);
        (seqs.end <= last).then_some(())?;
        s.left.drops = s.left.drops.checked_sub(1)?;
        let base = (0..SEQS as u8)
            .rev()
            .find(|n| s.rows[*n as usize].is_some_and(|row| row.base.is_some()))?;
        let receipts = seqs
            .clone()
            .filter_map(|n| s.rows[n as usize])
            .fold(Set::EMPTY, |all, r| all.and(r.settled));
        (seqs.end <= base || self.is(Wrong::DroppedWithoutANewerBase)).then_some(())?;
        (receipts.without(s.dropped).is_empty() || self.is(Wrong::DroppedWithItsReceipts)).then_some(())?;
        for n in seqs {
            s.rows[n as usize] = None;
        }
        s.attached.remove(partition);
        Some(())
    }

    /// A row of the outbox goes when it is settled and has its receipt.
    fn drop_item(&self, s: &mut State, item: u8) -> Option<()> {
        let receipts = s
            .rows
            .iter()
            .flatten()
            .fold(Set::EMPTY, |all, row| all.and(row.settled));
        // One is enough: items are alike.
        let next = (0..ITEMS).find(|n| !s.dropped.has(*n)) == Some(item);
        (next && self.faults.drops > 0 && receipts.has(item)).then_some(())?;
        s.dropped.add(item);
        Some(())
    }
}

/// The row with the greatest number.
fn newest(s: &State) -> (u8, Checkpoint) {
    let (seq, row) = s
        .rows
        .iter()
        .enumerate()
        .rev()
        .find(|(_, row)| row.is_some())
        .expect("retention keeps the newest");
    (seq as u8, row.expect("it was found"))
}

/// Items are alike: they are published in order.
fn settle(s: &mut State, relay: u8, item: u8) -> Option<()> {
    let me = &mut s.relays[relay as usize];
    let next = (0..ITEMS).find(|n| !me.position.has(*n)) == Some(item);
    (me.phase == Phase::Leading && next).then_some(())?;
    me.position.add(item);
    me.settling.add(item);
    Some(())
}

/// Only a leader makes partitions, and only at the end.
fn make_partition(s: &mut State, relay: u8) -> Option<()> {
    let me = &s.relays[relay as usize];
    let end = s.attached.end();
    (me.phase == Phase::Leading && me.last / PER_PARTITION + 1 == end && end * PER_PARTITION < SEQS as u8)
        .then_some(())?;
    s.attached.add(end);
    Some(())
}

fn stand_by(s: &mut State, relay: u8) {
    let me = &mut s.relays[relay as usize];
    *me = super::Relay {
        start: me.start,
        ..super::Relay::default()
    };
}

fn kill(s: &mut State, relay: u8) -> Option<()> {
    (s.relays[relay as usize].phase != Phase::StandingBy).then_some(())?;
    s.left.kills = s.left.kills.checked_sub(1)?;
    s.lease &= newest(s).1.start != s.relays[relay as usize].start;
    s.starts += 1;
    s.relays[relay as usize] = super::Relay {
        start: s.starts,
        ..super::Relay::default()
    };
    Some(())
}
