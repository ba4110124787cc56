//! The broker: what it appends, refuses and commits, and what a consumer then sees.

use super::{
    Outbox,
    faults::count_fault,
    rules,
    state::{Commit, Fate, LANES, PARTITIONS, Record, State, Wire, lane, placed},
    wire, wire_mut,
    wrong::Wrong,
};
use crate::sets::{Queue, Set};

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
        let offset = s.topic.log[p].len();
        s.topic.log[p].push(Record { id, session, fate }.pack());
        if let Some(me) = s.relays.get_mut(producer as usize / LANES) {
            me.reports[p].push(placed(id, offset));
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

    /// The request to commit arrives, after all records.
    pub(super) fn end_transaction(&self, s: &mut State, producer: u8) -> Option<()> {
        let w = wire(s, producer);
        (w.end_txn && w.has_no_record()).then_some(())?;
        if w.fenced {
            self.turn_away(s, producer);
            return Some(());
        }
        let asking = w.session;
        wire_mut(s, producer).end_txn = false;
        self.decide(s, |session| session == asking, Fate::Committed);
        if let Some(me) = s.relays.get_mut(producer as usize / LANES) {
            me.lanes[producer as usize % LANES].commit = Commit::Done;
        }
        Some(())
    }

    /// A broker aborts what the dead have left open. That takes it a minute.
    pub(super) fn time_out(&self, s: &mut State, of: u8) -> Option<()> {
        let alive = s.relays.map(|relay| relay.lanes[of as usize].wire);
        let is_dead = |session| lane(session) == of && !alive.iter().any(|w| w.session == session);
        self.decide(s, is_dead, Fate::Aborted).then_some(())?;
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

    /// Decides the open records of some sessions. Were there any? A reader of committed records gets as far as nothing is
    /// open: what was committed behind is seen only now.
    pub(super) fn decide(&self, s: &mut State, of: impl Fn(u8) -> bool, fate: Fate) -> bool {
        let before = stable(s);
        let mut any = false;
        for byte in s.topic.log.iter_mut().flat_map(Queue::iter_mut) {
            let mut record = Record::unpack(*byte);
            if record.fate == Fate::Open && of(record.session) {
                record.fate = fate;
                *byte = record.pack();
                any = true;
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
        any
    }
}

/// In each partition, the first offset that is not decided.
pub(super) fn stable(s: &State) -> [u8; PARTITIONS] {
    s.topic.log.map(|log| {
        let open = log.iter().position(|byte| Record::unpack(byte).fate == Fate::Open);
        open.map_or(log.len(), |offset| offset as u8)
    })
}

/// Is a record of this session open?
pub(super) fn has_open(s: &State, session: u8) -> bool {
    records(s).any(|r| r.fate == Fate::Open && r.session == session)
}

pub(super) fn records(s: &State) -> impl Iterator<Item = Record> {
    s.topic.log.iter().flat_map(|log| log.iter().map(Record::unpack))
}

/// Ids that are in the log and not aborted.
pub(super) fn in_log(s: &State) -> Set {
    records(s).filter(|r| r.fate != Fate::Aborted).map(|r| r.id).collect()
}

/// Ids that are in the log for good: what is open before them may still hide them.
pub(super) fn committed(s: &State) -> Set {
    records(s).filter(|r| r.fate == Fate::Committed).map(|r| r.id).collect()
}
