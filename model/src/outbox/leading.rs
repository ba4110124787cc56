//! Leading: read, look, hand over, hear reports, write checkpoints.

use super::{
    Outbox,
    accepting::{PREPARED, drawers, visible},
    broker::{has_open, stable},
    rules,
    starting::free_session,
    state::{Commit, LANES, Lane, PARTITIONS, Phase, Relay, State, Watch, place},
    wrong::Wrong,
};
use crate::sets::{Queue, Set};

impl Lane {
    fn is_anything_on_its_way(&self) -> bool {
        !self.wire.is_empty() || waits(&self.delivered) || self.commit != Commit::No
    }

    /// Do readers of committed records get past all that is in it?
    fn is_seen(&self, s: &State) -> bool {
        let stable = stable(s);
        (0..PARTITIONS).all(|p| self.delivered[p].iter().all(|report| place(report).1 <= stable[p]))
    }
}

impl Relay {
    fn holes(&self) -> Set {
        Set::below(self.read_to).without(self.seen)
    }

    /// Handed over, and its fate is not known.
    fn is_anything_on_its_way(&self) -> bool {
        waits(&self.reports) || self.lanes.iter().any(Lane::is_anything_on_its_way)
    }

    pub(super) fn settle(&mut self, id: u8) {
        self.seen.add(id);
        self.passed.add(id);
        self.settling.add(id);
    }

    fn has_changes(&self) -> bool {
        !self.settling.and(self.closing).and(self.dying).is_empty()
    }
}

impl Outbox {
    /// New rows and the rows under holes, at one snapshot; then what the watch closes.
    pub(super) fn read(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        (me.phase == Phase::Leading).then_some(())?;
        let (now, above) = (visible(s), Set::below(s.relays[relay as usize].read_to));
        let me = &mut s.relays[relay as usize];
        let under_holes = match self.wrong {
            Some(Wrong::BareCursor) => Set::EMPTY,
            Some(Wrong::HolesAndRowsInTwoReads) => me.half_read.take()?,
            _ => now.common(above),
        };
        let (holes, new) = (under_holes.without(me.seen), now.without(above).without(me.seen));
        let order: Vec<u8> = if self.is(Wrong::HolesSentLast) {
            new.iter().chain(holes.iter()).collect()
        } else {
            holes.and(new).iter().collect()
        };
        for id in order {
            me.ready.push(id);
            me.seen.add(id);
        }
        me.read_to = me.read_to.max(now.end());
        let left = me.holes();
        if left.is_empty() {
            me.watch = Watch::Idle;
        } else if let Watch::Deciding(waited_for) = me.watch {
            me.watch = Watch::Idle;
            if !self.is(Wrong::BareCursor) {
                close(me, waited_for.common(left));
            }
        }
        Some(())
    }

    /// The first of two statements, in a variant.
    pub(super) fn read_holes(&self, s: &mut State, relay: u8) -> Option<()> {
        let now = visible(s);
        let me = &mut s.relays[relay as usize];
        let wrong = self.is(Wrong::HolesAndRowsInTwoReads);
        (wrong && me.phase == Phase::Leading && me.half_read.is_none()).then_some(())?;
        me.half_read = Some(now.common(me.holes()));
        Some(())
    }

    /// Looks at who may still fill the holes, after the read that left them.
    pub(super) fn look(&self, s: &mut State, relay: u8) -> Option<()> {
        let names = drawers(s);
        let me = &mut s.relays[relay as usize];
        (me.phase == Phase::Leading).then_some(())?;
        if self.is(Wrong::LocksReadBeforeRows) {
            me.watch = if names == 0 {
                Watch::Deciding(Set(u8::MAX))
            } else {
                Watch::Idle
            };
            return Some(());
        }
        (!me.holes().is_empty()).then_some(())?;
        me.half_read = None;
        let (holes, left) = match me.watch {
            Watch::Idle => (me.holes(), names),
            Watch::Waiting(holes, before) => (holes, before & names),
            Watch::Deciding(_) => return None,
        };
        let prepared = matches!(me.watch, Watch::Waiting(..))
            && names & PREPARED != 0
            && !self.is(Wrong::PreparedTransactionsForgotten);
        me.watch = if self.is(Wrong::HoleClosedByTime) || left == 0 && !prepared {
            Watch::Deciding(holes)
        } else {
            Watch::Waiting(holes, left)
        };
        if self.is(Wrong::HoleClosedWithoutReadingAgain) && matches!(me.watch, Watch::Deciding(_)) {
            me.watch = Watch::Idle;
            let still = holes.common(me.holes());
            close(me, still);
        }
        Some(())
    }

    /// May the next record go now? Then it goes. The own clock is given no credit.
    pub(super) fn hand_over(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        (me.phase == Phase::Leading).then_some(())?;
        let id = me.ready.front()?;
        let alone = id < me.one_at_a_time_to;
        let must_wait = !me.dying.is_empty()
            || me.unrecorded.len() >= self.scope.window && !self.is(Wrong::WindowNotHeld)
            || !me.alone.is_empty()
            || me.lanes[me.open as usize].commit != Commit::No
            || alone && me.is_anything_on_its_way();
        (!must_wait).then_some(())?;
        me.ready.pop();
        me.unrecorded.add(id);
        if alone {
            me.alone.add(id);
        }
        me.lanes[me.open as usize].wire.to[self.partition(id)].push(id);
        if self.is(Wrong::SettledBeforeTheReport) {
            me.settle(id);
        }
        Some(())
    }

    /// A report comes: the record is where it belongs.
    pub(super) fn report(&self, s: &mut State, relay: u8, partition: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        let report = me.reports[partition as usize].pop()?;
        let (id, _) = place(report);
        me.alone.remove(id);
        if self.scope.transactions && !self.is(Wrong::SettledBeforeTheCommit) {
            me.lanes[me.open as usize].delivered[partition as usize].push(report);
        } else {
            acknowledge(me, partition as usize, report);
        }
        Some(())
    }

    /// When all that entered the open transaction is acknowledged, and the commit before is known and seen: it is sealed,
    /// and the next record enters the other lane.
    pub(super) fn ask_commit(&self, s: &mut State, relay: u8, lane: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        let [open, sealed] = [lane, 1 - lane].map(|n| &me.lanes[n as usize]);
        (lane == me.open && open.commit == Commit::No).then_some(())?;
        let delivered = waits(&open.delivered) || self.is(Wrong::SettledBeforeTheCommit);
        let acknowledged = delivered && open.wire.has_no_record() && !waits(&me.reports);
        let early = self.is(Wrong::LanesChangedBeforeTheReports) && !open.wire.has_no_record();
        let before_is_seen = sealed.commit == Commit::No
            || sealed.commit == Commit::Done && self.is(Wrong::CommitAskedBeforeTheOneBeforeIsSeen)
            || self.is(Wrong::CommitAskedBeforeTheOneBefore);
        ((acknowledged || early) && before_is_seen).then_some(())?;
        let session = open.wire.session;
        me.lanes[lane as usize].wire.end_txn = true;
        me.lanes[lane as usize].commit = Commit::Asked;
        me.open = 1 - lane;
        (!self.is(Wrong::SettledBeforeTheCommit) || has_open(s, session)).then_some(())
    }

    /// The answer to a commit, and whether readers see it. A doubt ends the term: the next start looks in the topic.
    pub(super) fn hear_commit(&self, s: &mut State, relay: u8, lane: u8) -> Option<()> {
        let is_seen = s.relays[relay as usize].lanes[lane as usize].is_seen(s) || self.is(Wrong::SettledBeforeItIsSeen);
        let me = &mut s.relays[relay as usize];
        match me.lanes[lane as usize].commit {
            Commit::No | Commit::Asked => return None,
            Commit::Failed if self.is(Wrong::DoubtEndsItsLaneOnly) => begin_lane_anew(s, relay, lane),
            Commit::Failed if !self.is(Wrong::CommitAnswerTrusted) => self.end_term(s, relay),
            Commit::Done | Commit::Failed if !is_seen => self.end_term(s, relay),
            Commit::Done | Commit::Failed => {
                me.lanes[lane as usize].commit = Commit::No;
                for n in (0..LANES).filter(|n| *n == lane as usize || self.is(Wrong::CommitSettlesBothLanes)) {
                    for p in 0..PARTITIONS {
                        while let Some(report) = me.lanes[n].delivered[p].pop() {
                            acknowledge(me, p, report);
                        }
                    }
                }
            }
        }
        Some(())
    }

    /// Records what there is to record.
    pub(super) fn checkpoint(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &s.relays[relay as usize];
        (matches!(me.phase, Phase::Leading | Phase::Draining) && me.has_changes()).then_some(())?;
        // A refusal ends the transaction, and with it the term.
        let refused = self.scope.transactions && !me.dying.is_empty();
        if self.write_checkpoint(s, relay) && refused {
            self.end_term(s, relay);
        }
        Some(())
    }

    /// One insert of `last + 1`, only where `last` is the newest: whoever does not get its row leads no more.
    pub(super) fn write_checkpoint(&self, s: &mut State, relay: u8) -> bool {
        if s.db.holder != relay {
            if !self.is(Wrong::NoFence) {
                self.end_term(s, relay);
                return false;
            }
            s.broken = Some(rules::FENCED);
        }
        let me = &mut s.relays[relay as usize];
        if self.is(Wrong::NextOffsetPastAnUnsettledRecord) {
            me.next = [0, 1].map(|p| s.topic.log[p].len());
        }
        let db = &mut s.db;
        db.lease = true;
        db.settled = db.settled.and(me.settling);
        db.closed = db.closed.and(me.closing);
        db.receipts = db.receipts.and(me.receipts);
        db.next = me.next;
        me.unrecorded = me.unrecorded.without(me.settling);
        if !self.is(Wrong::DeadLetterWrittenApart) {
            db.dead = db.dead.and(me.dying);
            me.dying = Set::EMPTY;
        }
        (me.settling, me.closing, me.receipts) = (Set::EMPTY, Set::EMPTY, Set::EMPTY);
        true
    }

    /// The second of two statements, in a variant.
    pub(super) fn write_dead(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &mut s.relays[relay as usize];
        let apart = self.is(Wrong::DeadLetterWrittenApart) && s.db.settled.has(me.dying.iter().next()?);
        apart.then_some(())?;
        s.db.dead = s.db.dead.and(std::mem::take(&mut me.dying));
        Some(())
    }

    /// The poll prolongs the lease, or learns that it is lost.
    pub(super) fn renew(&self, s: &mut State, relay: u8) -> Option<()> {
        matches!(s.relays[relay as usize].phase, Phase::Leading | Phase::Draining).then_some(())?;
        if s.db.holder == relay {
            (!s.db.lease).then_some(())?;
            s.db.lease = true;
        } else {
            (!self.is(Wrong::NoFence)).then_some(())?;
            self.end_term(s, relay);
        }
        Some(())
    }

    /// After all that was sent is settled and recorded.
    pub(super) fn give_back(&self, s: &mut State, relay: u8) -> Option<()> {
        let me = &s.relays[relay as usize];
        let drained = !me.is_anything_on_its_way() && !me.has_changes();
        let ready = drained || self.is(Wrong::LeaseGivenBackTooEarly);
        (me.phase == Phase::Draining && s.db.holder == relay && ready).then_some(())?;
        self.end_process(s, relay);
        Some(())
    }

    pub(super) fn partition(&self, id: u8) -> usize {
        self.scope.rows[id as usize].key as usize
    }
}

fn waits(queues: &[Queue<4>; PARTITIONS]) -> bool {
    queues.iter().any(|q| !q.is_empty())
}

/// In a variant: the records of the lane that is in doubt are sent again.
fn begin_lane_anew(s: &mut State, relay: u8, lane: u8) {
    let session = free_session(s, lane);
    let me = &mut s.relays[relay as usize];
    let doubtful = std::mem::take(&mut me.lanes[lane as usize]);
    for report in doubtful.delivered.iter().flat_map(Queue::iter) {
        let (id, _) = place(report);
        me.unrecorded.remove(id);
        me.ready.push(id);
    }
    me.lanes[lane as usize].wire.session = session;
}

fn close(me: &mut Relay, holes: Set) {
    me.seen = me.seen.and(holes);
    me.passed = me.passed.and(holes);
    me.closing = me.closing.and(holes);
}

/// Settled, with its receipt. The next offset is behind it, also where that is further back: then the broker has lost
/// what lay between.
fn acknowledge(me: &mut Relay, partition: usize, report: u8) {
    let (id, behind) = place(report);
    me.settle(id);
    me.receipts.add(id);
    me.next[partition] = behind;
}
