//! The account of a term: what was handed over, what became of it, and what of that is recorded. Pure: the simulation
//! keeps the same one.

use std::time::Instant;

use super::handing_over::Gate;
use crate::{
    outbox::{
        checkpoints::{DeadLetter, Entry, Receipt},
        position::Position,
        record::OutboxMessage,
    },
    relay::{breaker::Permit, receipts::Receipts, window::Window},
};

pub(super) struct Ledger {
    pub position: Position,
    pub next_offsets: Vec<i64>,
    /// After a failed delivery a partition may hold a record that is not settled: the tail begins before it.
    pub offsets_frozen: bool,
    pub window: Window,
    /// Of what is known to be in the topic, and in no checkpoint.
    pub receipts: Receipts,
    /// Refused since the last checkpoint.
    dead: Vec<DeadLetter>,
    /// A dead letter waits for its checkpoint: no later record may be handed over before.
    barrier: bool,
    /// Handed over and in no checkpoint: what a kill can repeat.
    unrecorded: usize,
    /// As many may be, and be on their way.
    most: usize,
}

impl Ledger {
    /// Of a term that begins at a position, and has at most `most` records handed over and unrecorded.
    pub fn new(position: Position, next_offsets: Vec<i64>, most: usize) -> Self {
        Self {
            position,
            next_offsets,
            offsets_frozen: false,
            window: Window::new(most),
            receipts: Receipts::default(),
            dead: Vec::new(),
            barrier: false,
            unrecorded: 0,
            most,
        }
    }

    /// A record is handed over: its slot, or none when all are taken.
    pub fn enter(&mut self, message: &OutboxMessage, now: Instant, alone: bool) -> Option<usize> {
        let slot = self.window.enter(message, now, alone)?;
        self.unrecorded += 1;
        Some(slot)
    }

    /// It was not handed over after all.
    pub fn take_back(&mut self, slot: usize) {
        self.window.leave(slot);
        self.unrecorded -= 1;
    }

    /// A record that had been handed over is refused for good.
    pub fn refuse(&mut self, letter: DeadLetter) {
        self.unrecorded -= 1;
        self.bury(letter);
    }

    /// A message is refused for good: its row and its id are recorded together, before a later record is handed over.
    pub fn bury(&mut self, letter: DeadLetter) {
        self.position.settle([letter.id]);
        self.dead.push(letter);
        self.barrier = true;
    }

    pub fn unrecorded(&self) -> usize {
        self.unrecorded
    }

    /// Is there anything for a checkpoint?
    pub fn has_to_record(&self) -> bool {
        !self.receipts.is_empty() || self.position.has_changes()
    }

    /// Does something wait for the next checkpoint? A dead letter holds up all records; receipts that fill a quarter of the
    /// window soon do.
    pub fn is_urgent(&self) -> bool {
        self.barrier || self.receipts.arrived() * 4 > self.most
    }

    /// What the next checkpoint records; `patient`: without the receipts that wait for the oldest record on its way.
    pub fn take(&mut self, patient: bool, now: Instant) -> Entry {
        let oldest = self.window.oldest().filter(|_| patient);
        let oldest = worth_waiting_for(oldest, self.unrecorded, self.receipts.len(), self.most);
        let receipts = self.receipts.take(oldest, now);
        self.position.settle(receipts.iter().map(|receipt| receipt.id));
        if !self.offsets_frozen {
            advance(&mut self.next_offsets, &receipts);
        }
        Entry {
            changes: self.position.take_changes(),
            receipts,
            dead: std::mem::take(&mut self.dead),
            next_offsets: self.next_offsets.clone(),
            base: None,
        }
    }

    /// A checkpoint with so many receipts is written.
    pub fn recorded(&mut self, receipts: usize) {
        self.unrecorded -= receipts;
        self.barrier = !self.dead.is_empty();
    }

    /// As far as this account decides whether a record may go.
    pub fn gate(&self, lease_ends: Instant, permit: Permit) -> Gate {
        Gate {
            paused: false,
            lease_ends,
            barrier: self.barrier,
            full: self.unrecorded >= self.most,
            taken_by_one: self.window.is_taken_by_one(),
            transaction_closed: false,
            on_its_way: !self.window.is_empty(),
            permit,
        }
    }
}

/// The record whose receipt the others wait for: none while the receipts that wait keep the window full, for then nothing
/// is handed over until they are recorded.
fn worth_waiting_for(oldest: Option<i64>, unrecorded: usize, waiting: usize, window: usize) -> Option<i64> {
    oldest.filter(|_| unrecorded < window || waiting * 2 < window)
}

/// Moves each partition's next offset behind its newest receipt, also backwards: then the broker has lost what lay
/// between, and what is appended there now would be missed by a next leader.
fn advance(next_offsets: &mut Vec<i64>, receipts: &[Receipt]) {
    // One that was acknowledged without its place says nothing.
    for r in receipts.iter().filter(|r| r.offset >= 0) {
        let partition = r.partition as usize;
        if next_offsets.len() <= partition {
            // The topic has grown: nothing is known of the partitions in between.
            next_offsets.resize(partition + 1, -1);
        }
        next_offsets[partition] = r.offset + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::outbox::position::Ids;

    fn receipt(partition: i32, offset: i64) -> Receipt {
        Receipt {
            id: 1,
            partition,
            offset,
        }
    }

    fn message(id: i64) -> OutboxMessage {
        OutboxMessage {
            id,
            event_id: Uuid::nil(),
            job_id: Uuid::nil(),
            key: Uuid::nil(),
            event_time: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
            replay_id: None,
            traceparent: None,
            payload: Vec::new(),
        }
    }

    fn letter(id: i64) -> DeadLetter {
        DeadLetter {
            id,
            class: "invalid-record",
            error: String::new(),
        }
    }

    /// With room for two, and ids 1 to 4 read.
    fn ledger() -> (Ledger, Instant) {
        let mut position = Position::new(Ids::default(), Ids::default());
        for id in 1..=4 {
            position.note_read(id);
        }
        (Ledger::new(position, vec![10], 2), Instant::now())
    }

    fn is_closed(ledger: &Ledger, now: Instant) -> bool {
        let gate = ledger.gate(now + Duration::from_secs(1), Permit::Any);
        gate.is_closed(false, now)
    }

    #[test]
    fn what_was_handed_over_takes_its_place_until_it_is_recorded_refused_or_taken_back() {
        let (mut ledger, now) = ledger();
        let first = ledger.enter(&message(1), now, false).expect("there is room");
        let second = ledger.enter(&message(2), now, false).expect("there is room");
        assert!(is_closed(&ledger, now), "full");
        ledger.take_back(second);
        assert!(!is_closed(&ledger, now));
        let second = ledger.enter(&message(2), now, false).expect("there is room");
        ledger.window.leave(second);
        ledger.refuse(letter(2));
        assert_eq!(ledger.unrecorded(), 1);
        ledger.window.leave(first);
        ledger.receipts.push(
            Receipt {
                id: 1,
                ..receipt(0, 10)
            },
            now,
        );
        assert_eq!(ledger.unrecorded(), 1, "acknowledged, and in no checkpoint");
        let entry = ledger.take(true, now);
        assert_eq!((entry.receipts.len(), entry.dead.len()), (1, 1));
        ledger.recorded(entry.receipts.len());
        assert_eq!(ledger.unrecorded(), 0);
        assert!(!is_closed(&ledger, now) && !ledger.has_to_record());
    }

    #[test]
    fn no_record_goes_before_each_dead_letter_is_recorded() {
        let (mut ledger, now) = ledger();
        ledger.bury(letter(1));
        assert!(is_closed(&ledger, now) && ledger.is_urgent());
        let entry = ledger.take(true, now);
        assert!(is_closed(&ledger, now), "its checkpoint is on its way");
        ledger.bury(letter(2));
        ledger.recorded(entry.receipts.len());
        assert!(is_closed(&ledger, now), "another one came meanwhile");
        ledger.take(true, now);
        ledger.recorded(0);
        assert!(!is_closed(&ledger, now));
    }

    #[test]
    fn after_a_failed_delivery_no_next_offset_goes_on() {
        let (mut ledger, now) = ledger();
        ledger.receipts.push(receipt(0, 10), now);
        assert_eq!(ledger.take(true, now).next_offsets, [11]);
        ledger.offsets_frozen = true;
        ledger.receipts.push(
            Receipt {
                id: 2,
                ..receipt(0, 12)
            },
            now,
        );
        let entry = ledger.take(true, now);
        assert_eq!((entry.receipts.len(), &*entry.next_offsets), (1, &[11][..]));
    }

    #[test]
    fn a_window_that_is_full_of_receipts_waits_for_no_record() {
        assert_eq!(worth_waiting_for(Some(7), 9, 8, 10), Some(7), "there is room");
        assert_eq!(worth_waiting_for(Some(7), 10, 4, 10), Some(7), "most are on their way");
        assert_eq!(worth_waiting_for(Some(7), 10, 5, 10), None);
        assert_eq!(worth_waiting_for(None, 0, 0, 10), None);
    }

    #[test]
    fn a_next_offset_is_behind_the_newest_receipt() {
        let mut next = vec![5, 9];
        advance(&mut next, &[receipt(0, 6), receipt(1, 9), receipt(0, 7)]);
        assert_eq!(next, [8, 10]);
    }

    #[test]
    fn where_the_broker_has_lost_the_end_of_a_partition_the_next_offset_goes_back_with_it() {
        let mut next = vec![500];
        advance(&mut next, &[receipt(0, 300)]);
        assert_eq!(next, [301]);
    }

    #[test]
    fn a_record_that_was_acknowledged_without_its_place_moves_no_next_offset() {
        let mut next = vec![5];
        advance(&mut next, &[receipt(0, -1001), receipt(1, -1001)]);
        assert_eq!(next, [5]);
    }

    #[test]
    fn of_partitions_that_a_topic_has_grown_by_nothing_is_assumed() {
        let mut next = vec![5];
        advance(&mut next, &[receipt(3, 0)]);
        assert_eq!(next, [5, -1, -1, 1]);
    }
}
