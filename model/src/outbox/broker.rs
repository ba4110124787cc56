//! The broker: what it appends, refuses and commits, and what a consumer then sees.

use super::{
    Outbox,
    faults::count_fault,
    rules,
    starting::decide,
    state::{Commit, Fate, RELAYS, Record, State, Wire, placed},
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
        let offset = s.topic.log[p].len();
        s.topic.log[p].push(Record { id, session, fate }.pack());
        if let Some(me) = s.relays.get_mut(producer as usize) {
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
        let Some(me) = s.relays.get_mut(producer as usize) else {
            s.topic.overtaken |= !s.ghosts[producer as usize - RELAYS].to[p].is_empty();
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
            s.topic.overtaken |= !me.wire.to[p].is_empty();
            count_fault(s);
            self.end_term(s, producer);
        }
        Some(())
    }

    /// The request to commit arrives, after all records.
    pub(super) fn end_transaction(&self, s: &mut State, producer: u8) -> Option<()> {
        let w = wire(s, producer);
        (w.end_txn && w.to.iter().all(crate::sets::Queue::is_empty)).then_some(())?;
        if w.fenced {
            self.turn_away(s, producer);
            return Some(());
        }
        let session = w.session;
        wire_mut(s, producer).end_txn = false;
        for id in decide(s, Some(session), Fate::Committed) {
            rules::appears(self, s, id);
        }
        if let Some(me) = s.relays.get_mut(producer as usize) {
            me.commit = Commit::Done;
        }
        Some(())
    }

    /// A fenced producer's request. A request to commit gets an answer that may say anything.
    fn turn_away(&self, s: &mut State, producer: u8) {
        let asked = wire(s, producer).end_txn && wire(s, producer).to.iter().all(crate::sets::Queue::is_empty);
        match s.relays.get_mut(producer as usize) {
            None => s.ghosts[producer as usize - RELAYS] = Wire::default(),
            Some(me) if asked => {
                me.wire.end_txn = false;
                me.commit = Commit::Failed;
            }
            Some(_) => self.end_term(s, producer),
        }
    }
}

/// Is a record of this session open?
pub(super) fn has_open(s: &State, session: u8) -> bool {
    let open = |byte: u8| Record::unpack(byte).fate == Fate::Open && Record::unpack(byte).session == session;
    s.topic.log.iter().any(|log| log.iter().any(open))
}

/// Ids that are in the log and not aborted.
pub(super) fn in_log(s: &State) -> Set {
    let records = s.topic.log.iter().flat_map(|log| log.iter().map(Record::unpack));
    records.filter(|r| r.fate != Fate::Aborted).map(|r| r.id).collect()
}
