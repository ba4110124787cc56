//! What goes wrong, each kind as often as the scope says.

use super::{
    Outbox,
    broker::in_log,
    rules,
    state::{Fate, Phase, Row, State, Watch},
    wrong::Wrong,
};
use crate::sets::{Queue, Set};

#[expect(clippy::unused_self, reason = "every step is taken alike")]
impl Outbox {
    /// SIGKILL. What its producer had on the way may still arrive; the lease ends in time.
    pub(super) fn kill(&self, s: &mut State, relay: u8) -> Option<()> {
        (s.relays[relay as usize].phase != Phase::StandingBy).then_some(())?;
        s.left.kills = s.left.kills.checked_sub(1)?;
        count_fault(s);
        self.end_process(s, relay);
        Some(())
    }

    /// The holder sleeps, or its machine does, until PostgreSQL says that its lease has ended. It wakes up later, and
    /// goes on where it was.
    pub(super) fn freeze(&self, s: &mut State, relay: u8) -> Option<()> {
        (s.db.holder == relay && s.db.lease).then_some(())?;
        s.left.freezes = s.left.freezes.checked_sub(1)?;
        count_fault(s);
        s.db.lease = false;
        Some(())
    }

    /// A fatal error of the producer: the term ends.
    pub(super) fn fail(&self, s: &mut State, relay: u8) -> Option<()> {
        matches!(s.relays[relay as usize].phase, Phase::Leading | Phase::Draining).then_some(())?;
        s.left.failures = s.left.failures.checked_sub(1)?;
        count_fault(s);
        self.end_term(s, relay);
        Some(())
    }

    /// The checkpoint is written; the connection breaks before the answer comes.
    pub(super) fn lose_answer(&self, s: &mut State, relay: u8) -> Option<()> {
        s.left.lost_answers = s.left.lost_answers.checked_sub(1)?;
        self.checkpoint(s, relay)?;
        count_fault(s);
        if s.relays[relay as usize].phase != Phase::StandingBy {
            self.end_term(s, relay);
        }
        Some(())
    }

    /// Open transactions are gone, prepared ones have new names, and every connection is lost.
    pub(super) fn restart(&self, s: &mut State) -> Option<()> {
        s.left.restarts = s.left.restarts.checked_sub(1)?;
        for row in &mut s.db.rows {
            *row = match *row {
                Row::Open => Row::RolledBack,
                Row::Prepared => Row::PreparedRenamed,
                other => other,
            };
        }
        for relay in 0..self.scope.relays {
            if s.relays[relay as usize].phase != Phase::StandingBy {
                count_fault(s);
                self.end_term(s, relay);
            }
        }
        Some(())
    }

    /// SIGTERM: nothing more is read, and what was not handed over is forgotten.
    pub(super) fn stop(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        (me.phase == Phase::Leading).then_some(())?;
        s.left.stops = s.left.stops.checked_sub(1)?;
        me.phase = Phase::Draining;
        me.ready = Queue::default();
        me.watch = Watch::default();
        Some(())
    }

    /// An unclean election: the newest record of a partition is gone, acknowledged or not.
    pub(super) fn cut(&self, s: &mut State, partition: u8) -> Option<()> {
        (!s.topic.log[partition as usize].is_empty()).then_some(())?;
        s.left.cuts = s.left.cuts.checked_sub(1)?;
        let before = in_log(s);
        s.topic.log[partition as usize].cut_back();
        let gone = before.without(in_log(s));
        s.topic.lost = s.topic.lost.and(gone);
        Some(())
    }

    /// The transaction timed out, or somebody fenced its producer. The other lane's goes on.
    pub(super) fn abort_by_broker(&self, s: &mut State, relay: u8, lane: u8, skipped: Set) -> Option<()> {
        let wire = s.relays[relay as usize].lanes[lane as usize].wire;
        (!wire.fenced).then_some(())?;
        s.left.broker_aborts = s.left.broker_aborts.checked_sub(1)?;
        self.decide(s, lane, |session| session == wire.session, Fate::Aborted, skipped)?
            .then_some(())?;
        s.relays[relay as usize].lanes[lane as usize].wire.fenced = true;
        Some(())
    }

    /// Drops a partition of two ids when all is old, settled and accounted for. All is old here.
    pub(super) fn retain(&self, s: &mut State, half: u8) -> Option<()> {
        let ids: Set = [half * 2, half * 2 + 1].into_iter().collect();
        let drawn = |id: u8| s.db.rows[id as usize] != Row::Undrawn;
        (ids.iter().all(drawn) && ids.end() as usize <= self.scope.rows.len()).then_some(())?;
        s.left.retentions = s.left.retentions.checked_sub(1)?;
        let rows: Set = ids
            .iter()
            .filter(|id| s.db.rows[*id as usize] == Row::Committed)
            .collect();
        let settled = ids.without(s.db.settled.and(s.db.closed)).is_empty();
        let accounted_for = rows.without(s.db.receipts.and(s.db.dead)).is_empty();
        (!rows.is_empty() && settled && accounted_for || self.is(Wrong::RetentionByAgeAlone)).then_some(())?;
        for id in ids.iter() {
            if !s.db.settled.and(s.db.closed).has(id) {
                s.broken = Some(rules::RETAINED);
            }
            s.db.rows[id as usize] = Row::Dropped;
        }
        Some(())
    }
}

/// Something that may cost a window of repeats.
pub(super) fn count_fault(s: &mut State) {
    s.faults += 1;
}
