//! The broker: what it appends, refuses and commits, and what a consumer then sees.

use super::{
    Outbox,
    faults::count_fault,
    rules,
    state::{Commit, Fate, LANES, PARTITIONS, Record, State, Wire, lane, placed},
    wire, wire_mut,
    wrong::Wrong,
};
use crate::sets::Set;

impl Outbox {
    /// The first record on the way arrives. A producer that was fenced gets nothing in.
    pub(super) fn append(&self, s: &mut State, producer: u8, partition: u8) -> Option<()> {
        let p = partition as usize;
        let id = wire(s, producer).to[p].front()?;
        if wire(s, producer).fenced {
            self.turn_away(s, producer);
            return Some(());
        }
        (!self.scope.rows[id as usize].poison).then_some(())?;
        wire_mut(s, producer).to[p].pop();
        let fate = if self.scope.transactions {
            Fate::Open
        } else {
            Fate::Committed
        };
        let session = wire(s, producer).session;
        s.topic.log[p].push(Record { id, session, fate }.pack());
        let behind = s.topic.log[p].len();
        if let Some(me) = s.relays.get_mut(producer as usize / LANES) {
            me.reports[p].push(placed(id, behind));
        }
        if !self.scope.transactions {
            rules::appears(self, s, id);
        }
        Some(())
    }

    /// Refuses a whole batch for one record in it. Alone, and for its own fault, a record is dead; in a batch the
    /// refusal says nothing of the single record, and the next term sends them one at a time.
    pub(super) fn refuse(&self, s: &mut State, producer: u8, partition: u8, records: u8) -> Option<()> {
        let p = partition as usize;
        let batch: Vec<u8> = wire(s, producer).to[p].iter().take(records as usize).collect();
        batch
            .iter()
            .any(|id| self.scope.rows[*id as usize].poison)
            .then_some(())?;
        wire_mut(s, producer).to[p].cut_front(records);
        // Within a transaction, what overtakes ends with it.
        s.topic.overtaken |= !self.scope.transactions && !wire(s, producer).to[p].is_empty();
        let relay = producer / LANES as u8;
        let Some(me) = s.relays.get_mut(relay as usize) else {
            return Some(());
        };
        if batch.iter().all(|id| me.alone.has(*id)) || self.is(Wrong::RefusalOfABatchBelieved) {
            for id in batch {
                me.settle(id);
                me.dying.add(id);
                me.unrecorded.remove(id);
                me.alone.remove(id);
            }
        } else {
            me.one_at_a_time_to = me.one_at_a_time_to.max(me.read_to);
            count_fault(s);
            self.end_term(s, relay);
        }
        Some(())
    }

    /// The request to commit arrives, after all records. Its answer does not say that a marker was skipped.
    pub(super) fn end_transaction(&self, s: &mut State, producer: u8, skipped: Set) -> Option<()> {
        let w = *wire(s, producer);
        (w.end_txn && w.has_no_record()).then_some(())?;
        if w.fenced {
            skipped.is_empty().then_some(())?;
            self.turn_away(s, producer);
            return Some(());
        }
        wire_mut(s, producer).end_txn = false;
        self.decide(
            s,
            lane(w.session),
            |session| session == w.session,
            Fate::Committed,
            skipped,
        )?;
        if let Some(me) = s.relays.get_mut(producer as usize / LANES) {
            me.lanes[producer as usize % LANES].commit = Commit::Done;
        }
        Some(())
    }

    /// A broker aborts what the dead have left open. That takes it a minute.
    pub(super) fn time_out(&self, s: &mut State, of: u8, skipped: Set) -> Option<()> {
        let alive = s.relays.map(|relay| relay.lanes[of as usize].wire);
        let is_dead = |session| lane(session) == of && !alive.iter().any(|w| w.session == session);
        self.decide(s, of, is_dead, Fate::Aborted, skipped)?.then_some(())?;
        for ghost in s.ghosts.iter_mut().filter(|g| lane(g.session) == of) {
            *ghost = Wire::default();
        }
        Some(())
    }

    /// A fenced producer's request. A request to commit gets an answer that may say anything.
    fn turn_away(&self, s: &mut State, producer: u8) {
        let asked = wire(s, producer).end_txn && wire(s, producer).has_no_record();
        match s.relays.get_mut(producer as usize / LANES) {
            None => *wire_mut(s, producer) = Wire::default(),
            Some(me) if asked => {
                let lane = &mut me.lanes[producer as usize % LANES];
                lane.wire.end_txn = false;
                lane.commit = Commit::Failed;
            }
            Some(_) => self.end_term(s, producer / LANES as u8),
        }
    }

    /// Decides the open records of some sessions under one transactional id. Were there any? Where they are, a marker is
    /// written, and it decides what hangs under this id, too; where it is skipped, they hang from now on.
    pub(super) fn decide(
        &self,
        s: &mut State,
        id: u8,
        of: impl Fn(u8) -> bool,
        fate: Fate,
        skipped: Set,
    ) -> Option<bool> {
        let is_its = |r: Record| r.fate == Fate::Open && of(r.session);
        let log = |p: u8| s.topic.log[p as usize].iter().map(Record::unpack);
        let concerned: Set = (0..PARTITIONS as u8).filter(|p| log(*p).any(is_its)).collect();
        skipped.without(concerned).is_empty().then_some(())?;
        if !skipped.is_empty() {
            s.left.skipped_markers = s.left.skipped_markers.checked_sub(1)?;
        }
        let marked = concerned.without(skipped);
        self.mark(s, |partition, record| {
            if is_its(record) {
                Some(if marked.has(partition) { fate } else { Fate::Hanging })
            } else {
                let hangs = record.fate == Fate::Hanging && lane(record.session) == id;
                (hangs && marked.has(partition)).then_some(fate)
            }
        });
        Some(!concerned.is_empty())
    }

    /// Gives records their fates. A reader of committed records gets as far as all is decided: what was committed behind
    /// is seen only now.
    pub(super) fn mark(&self, s: &mut State, fate: impl Fn(u8, Record) -> Option<Fate>) {
        let before = stable(s);
        for (p, log) in (0..).zip(&mut s.topic.log) {
            for byte in log.iter_mut() {
                let mut record = Record::unpack(*byte);
                if let Some(fate) = fate(p, record) {
                    record.fate = fate;
                    *byte = record.pack();
                }
            }
        }
        let after = stable(s);
        for p in 0..PARTITIONS {
            let log = s.topic.log[p];
            let decided = log.iter().take(after[p] as usize).skip(before[p] as usize);
            for record in decided.map(Record::unpack).filter(|r| r.fate == Fate::Committed) {
                rules::appears(self, s, record.id);
            }
        }
    }
}

/// In each partition, the first offset that is not decided.
pub(super) fn stable(s: &State) -> [u8; PARTITIONS] {
    s.topic.log.map(|log| {
        let undecided = log.iter().position(|byte| Record::unpack(byte).fate.is_undecided());
        undecided.map_or(log.len(), |offset| offset as u8)
    })
}

/// Is a record of this session open?
pub(super) fn has_open(s: &State, session: u8) -> bool {
    records(s).any(|r| r.fate == Fate::Open && r.session == session)
}

/// Does a record hang under this id, in this partition?
pub(super) fn hangs(s: &State, id: u8, partition: u8) -> bool {
    let mut records = s.topic.log[partition as usize].iter().map(Record::unpack);
    records.any(|r| r.fate == Fate::Hanging && lane(r.session) == id)
}

pub(super) fn records(s: &State) -> impl Iterator<Item = Record> {
    s.topic.log.iter().flat_map(|log| log.iter().map(Record::unpack))
}

/// Ids that are in the log and not aborted.
pub(super) fn in_log(s: &State) -> Set {
    records(s).filter(|r| r.fate != Fate::Aborted).map(|r| r.id).collect()
}
