//! The one way to begin: take over, fence, read the tail, write the first checkpoint.

use super::{
    Outbox,
    accepting::visible,
    broker::{hangs, records, stable},
    state::{Fate, NOBODY, PARTITIONS, Phase, Record, Relay, State, Wire, lane},
    wrong::Wrong,
};
use crate::sets::Set;

impl Outbox {
    /// What wrong variants read before they take over.
    pub(super) fn look_ahead(&self, s: &mut State, relay: u8) -> Option<()> {
        let r = relay as usize;
        (s.relays[r].phase == Phase::StandingBy && s.relays[r].half_read.is_none()).then_some(())?;
        if self.is(Wrong::PositionReadBeforeTakeOver) {
            s.relays[r].half_read = Some(s.db.settled.and(s.db.closed));
            s.relays[r].next = s.db.next;
        } else if self.is(Wrong::TailReadBeforeTakeOver) {
            s.relays[r].next = s.db.next;
            let found = self.in_tail(s, r);
            s.relays[r].half_read = Some(found);
        } else {
            return None;
        }
        Some(())
    }

    /// One insert: where the last lease has ended by PostgreSQL's clock, or is this very start's own.
    pub(super) fn take_over(&self, s: &mut State, relay: u8) -> Option<()> {
        let r = relay as usize;
        let free = !s.db.lease || s.db.holder == relay || self.is(Wrong::TakeOverByTheOwnClock);
        (s.relays[r].phase == Phase::StandingBy && free).then_some(())?;
        s.db.holder = relay;
        s.db.lease = true;
        let recorded = s.db.settled.and(s.db.closed);
        let position = if self.is(Wrong::PositionReadBeforeTakeOver) || self.is(Wrong::MemoryOutlivesATerm) {
            s.relays[r].half_read.take().unwrap_or(recorded)
        } else {
            recorded
        };
        let me = &mut s.relays[r];
        me.phase = Phase::TookOver;
        me.seen = position;
        me.passed = position;
        me.read_to = position.end();
        me.next = s.db.next;
        Some(())
    }

    /// `init_transactions`: ends what is open under one transactional id, and nobody else commits under it any more. What
    /// is under the other one goes on meanwhile.
    pub(super) fn fence(&self, s: &mut State, relay: u8, of: u8, skipped: Set) -> Option<()> {
        let r = relay as usize;
        let phase = if self.is(Wrong::TailReadBeforeFencing) {
            Phase::ReadTail
        } else {
            Phase::TookOver
        };
        (s.relays[r].phase == phase && s.relays[r].lanes[of as usize].wire.session == 0).then_some(())?;
        if self.is(Wrong::OneLaneFenced) {
            (of == 0).then_some(())?;
            s.relays[r].lanes[1].wire.session = free_session(s, 1);
        }
        let session = free_session(s, of);
        if self.is(Wrong::TransactionalIdOfItsOwn) {
            skipped.is_empty().then_some(())?;
        } else {
            for other in &mut s.relays {
                let wire = &mut other.lanes[of as usize].wire;
                wire.fenced = wire.session != 0;
            }
            for ghost in s.ghosts.iter_mut().filter(|g| lane(g.session) == of) {
                *ghost = Wire::default();
            }
            self.decide(s, of, |session| lane(session) == of, Fate::Aborted, skipped)?;
        }
        s.relays[r].lanes[of as usize].wire.session = session;
        if phase == Phase::TookOver && s.relays[r].has_both_ids() {
            s.relays[r].phase = Phase::Fenced;
        }
        Some(())
    }

    /// Something hangs. Only who still has its lease after it took the ids over may end that: whoever takes over from now
    /// on fences it before it leads.
    pub(super) fn confirm(&self, s: &mut State, relay: u8) -> Option<()> {
        let anything_hangs = records(s).any(|r| r.fate == Fate::Hanging);
        let asks = anything_hangs && !self.is(Wrong::HangingEndedUnderALostLease);
        (s.relays[relay as usize].phase == Phase::Fenced && asks).then_some(())?;
        if s.db.holder == relay {
            s.db.lease = true;
            s.relays[relay as usize].phase = Phase::Confirmed;
        } else {
            self.end_term(s, relay);
        }
        Some(())
    }

    /// An empty record under one transactional id is sent where something hangs, and aborted. The marker ends what hangs.
    pub(super) fn end_hanging(&self, s: &mut State, relay: u8, id: u8, partition: u8) -> Option<()> {
        let me = &s.relays[relay as usize];
        let phase = if self.is(Wrong::HangingEndedUnderALostLease) {
            Phase::Fenced
        } else {
            Phase::Confirmed
        };
        (me.phase == phase && hangs(s, id, partition)).then_some(())?;
        if me.lanes[id as usize].wire.fenced {
            self.end_term(s, relay);
            return Some(());
        }
        let fate = if self.is(Wrong::HangingEndedWithACommit) {
            Fate::Committed
        } else {
            Fate::Aborted
        };
        self.mark(s, |p, r| {
            (p == partition && r.fate == Fate::Hanging && lane(r.session) == id).then_some(fate)
        });
        Some(())
    }

    /// What an earlier leader published that no checkpoint records. Both ids must agree. Waits while anything is
    /// undecided.
    pub(super) fn read_tail(&self, s: &mut State, relay: u8) -> Option<()> {
        let r = relay as usize;
        let fences = self.scope.transactions && !self.is(Wrong::TailReadBeforeFencing);
        let is_ready = match s.relays[r].phase {
            Phase::TookOver => !fences,
            Phase::Fenced | Phase::Confirmed => fences,
            _ => false,
        };
        is_ready.then_some(())?;
        let all_is_decided = stable(s) == s.topic.log.map(|log| log.len());
        let waits = !self.is(Wrong::TailReadsUncommitted) && !self.is(Wrong::TailReadUpToWhatIsOpen);
        (all_is_decided || !waits).then_some(())?;
        let found = s.relays[r].half_read.take().unwrap_or_else(|| self.in_tail(s, r));
        if !self.is(Wrong::TailNotRead) {
            self.settle_found(s, r, found);
        }
        s.relays[r].next = self.tail_ends(s);
        s.relays[r].phase = Phase::ReadTail;
        Some(())
    }

    pub(super) fn begin(&self, s: &mut State, relay: u8) -> Option<()> {
        let r = relay as usize;
        (s.relays[r].phase == Phase::ReadTail).then_some(())?;
        (!self.scope.transactions || s.relays[r].has_both_ids()).then_some(())?;
        if self.write_checkpoint(s, relay) {
            s.relays[r].phase = Phase::Leading;
        }
        Some(())
    }

    /// Ids in the tail, from the next offsets; from the beginning where those are out of range.
    fn in_tail(&self, s: &State, r: usize) -> Set {
        let mut found = Set::EMPTY;
        for (p, end) in self.tail_ends(s).into_iter().enumerate() {
            let next = s.relays[r].next[p];
            let begin = if next > s.topic.log[p].len() { 0 } else { next };
            for byte in s.topic.log[p].iter().take(end as usize).skip(begin as usize) {
                let record = Record::unpack(byte);
                if record.fate == Fate::Committed || self.is(Wrong::TailReadsUncommitted) {
                    found.add(record.id);
                }
            }
        }
        found
    }

    /// A reader of committed records ends in front of the first that is undecided.
    fn tail_ends(&self, s: &State) -> [u8; PARTITIONS] {
        if self.is(Wrong::TailReadsUncommitted) {
            s.topic.log.map(|log| log.len())
        } else {
            stable(s)
        }
    }

    fn settle_found(&self, s: &mut State, r: usize, mut found: Set) {
        if self.is(Wrong::TailMatchedByEventAlone) {
            for row in 0..self.scope.rows.len() as u8 {
                if self.scope.rows[row as usize]
                    .replay_of
                    .is_some_and(|original| found.has(original))
                {
                    found.add(row);
                }
            }
        }
        let new = found.common(visible(s)).without(s.relays[r].passed);
        let me = &mut s.relays[r];
        me.seen = me.seen.and(new);
        me.passed = me.passed.and(new);
        me.settling = me.settling.and(new);
        me.receipts = me.receipts.and(new);
    }

    /// Nothing of memory is kept; what was on the way may still arrive. The name stays.
    pub(super) fn end_term(&self, s: &mut State, relay: u8) {
        let r = relay as usize;
        let me = std::mem::take(&mut s.relays[r]);
        s.relays[r].one_at_a_time_to = me.one_at_a_time_to;
        if self.is(Wrong::MemoryOutlivesATerm) {
            s.relays[r].half_read = Some(me.passed);
        }
        self.leave_behind(s, &me);
    }

    /// Requests that nobody waits for any more. What would be refused at their end, nobody would see.
    fn leave_behind(&self, s: &mut State, relay: &Relay) {
        for mut wire in relay.lanes.map(|lane| lane.wire) {
            for queue in &mut wire.to {
                while queue
                    .iter()
                    .last()
                    .is_some_and(|id| self.scope.rows[id as usize].poison)
                {
                    queue.cut_back();
                }
            }
            if wire.is_empty() || wire.fenced {
                continue;
            }
            let free = s.ghosts.iter_mut().find(|g| g.is_empty());
            *free.expect("a ghost for each producer of each term that ended badly") = wire;
        }
    }

    /// The process begins anew under another name.
    pub(super) fn end_process(&self, s: &mut State, relay: u8) {
        let me = std::mem::take(&mut s.relays[relay as usize]);
        self.leave_behind(s, &me);
        if s.db.holder == relay {
            s.db.holder = NOBODY;
            s.db.lease = false;
        }
    }
}

impl Relay {
    fn has_both_ids(&self) -> bool {
        self.lanes.iter().all(|lane| lane.wire.session != 0)
    }
}

pub(super) fn free_session(s: &State, of: u8) -> u8 {
    let wires = s
        .relays
        .iter()
        .flat_map(|relay| relay.lanes.iter().map(|lane| &lane.wire));
    let used: Vec<u8> = wires
        .chain(&s.ghosts)
        .map(|wire| wire.session)
        .chain(records(s).map(|record| record.session))
        .collect();
    let mut sessions = (1..8).map(|n| n << 1 | of);
    sessions.find(|n| !used.contains(n)).expect("seven of a lane suffice")
}
