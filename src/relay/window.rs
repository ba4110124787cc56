//! The window: records handed over whose report has not come. Pure.

use std::{collections::VecDeque, time::Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::outbox::record::OutboxMessage;

/// What is remembered of a record that was handed over.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The row's id.
    pub id: i64,
    /// The job that it is of.
    pub job_id: Uuid,
    /// When its row was written: a replay is as late as its own row, not as the job.
    pub created_at: DateTime<Utc>,
    /// When it was handed over.
    pub at: Instant,
    /// Of its payload.
    pub bytes: usize,
    /// Nothing else was on its way, nor was handed over before its report: a refusal is its own. That the
    /// window is empty when the report comes says nothing: the last report of a refused batch finds it so too.
    pub alone: bool,
}

/// Slots of a fixed number. A slot's index is what a delivery report carries.
#[derive(Debug)]
pub struct Window {
    /// As many as there have been at once.
    slots: Vec<Option<Sent>>,
    free: Vec<usize>,
    /// Slots and ids in the order in which they were taken; the first one's is still on its way.
    order: VecDeque<(usize, i64)>,
    records: usize,
    bytes: usize,
    alone: bool,
}

impl Window {
    /// A window of so many records.
    pub fn new(records: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            records,
            bytes: 0,
            alone: false,
        }
    }

    /// Takes a slot; none when all are taken.
    pub fn enter(&mut self, m: &OutboxMessage, at: Instant, alone: bool) -> Option<usize> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.records => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return None,
        };
        let sent = Sent {
            id: m.id,
            job_id: m.job_id,
            created_at: m.created_at,
            at,
            bytes: m.payload.len(),
            alone,
        };
        self.bytes += sent.bytes;
        self.alone |= alone;
        self.slots[slot] = Some(sent);
        self.order.push_back((slot, m.id));
        // While the first stays, those that came and went behind it gather.
        if self.order.len() > 2 * self.records {
            let slots = &self.slots;
            self.order.retain(|entry| is_on_its_way(slots, *entry));
        }
        Some(slot)
    }

    /// Frees a slot. None when it was free: a report that came twice.
    pub fn leave(&mut self, slot: usize) -> Option<Sent> {
        let sent = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.bytes -= sent.bytes;
        self.alone &= !sent.alone;
        // A record that could not be handed over after all comes and goes, and comes again.
        self.order.pop_back_if(|entry| *entry == (slot, sent.id));
        while self
            .order
            .pop_front_if(|entry| !is_on_its_way(&self.slots, *entry))
            .is_some()
        {}
        Some(sent)
    }

    /// The id of the record that has been on its way for the longest; none: nothing is.
    pub fn oldest(&self) -> Option<i64> {
        self.order.front().map(|(_, id)| *id)
    }

    /// Forgets all: their reports do not matter any more.
    pub fn clear(&mut self) {
        *self = Self::new(self.records);
    }

    /// Records whose report has not come.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one record on its way was sent alone: nothing may be handed over before its report.
    pub fn is_taken_by_one(&self) -> bool {
        self.alone
    }

    /// Payload bytes of the records whose report has not come.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn is_on_its_way(slots: &[Option<Sent>], (slot, id): (usize, i64)) -> bool {
    slots[slot].is_some_and(|sent| sent.id == id)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

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
            payload: vec![0; 10],
        }
    }

    #[test]
    fn a_full_window_takes_nothing_and_a_report_that_comes_twice_frees_one_slot() {
        let mut w = Window::new(2);
        let now = Instant::now();
        let first = w.enter(&message(1), now, false).unwrap();
        w.enter(&message(2), now, false).unwrap();
        assert!(w.enter(&message(3), now, false).is_none());
        assert_eq!((w.len(), w.bytes()), (2, 20));
        assert_eq!(w.leave(first).map(|s| s.id), Some(1));
        assert!(w.leave(first).is_none());
        assert!(w.leave(99).is_none());
        assert_eq!((w.len(), w.bytes()), (1, 10));
    }

    #[test]
    fn the_oldest_is_the_first_that_has_no_report_however_many_came_and_went_behind_it() {
        let mut w = Window::new(4);
        let enter = |w: &mut Window, id| w.enter(&message(id), Instant::now(), false).unwrap();
        assert_eq!(w.oldest(), None);
        let first = enter(&mut w, 7);
        let second = enter(&mut w, 8);
        // A row that became visible late is the youngest all the same.
        let late = enter(&mut w, 1);
        assert_eq!(w.oldest(), Some(7));
        w.leave(late);
        let mut youngest = enter(&mut w, 10);
        for id in 11..100 {
            let next = enter(&mut w, id);
            w.leave(youngest);
            youngest = next;
            assert_eq!(w.oldest(), Some(7));
            assert!(w.order.len() <= 2 * 4, "{}", w.order.len());
        }
        w.leave(youngest);
        for _ in 0..100 {
            let slot = enter(&mut w, 100);
            w.leave(slot);
            assert!(w.order.len() <= 2 * 4, "{}", w.order.len());
        }
        w.leave(first);
        assert_eq!(w.oldest(), Some(8));
        w.leave(second);
        assert_eq!(w.oldest(), None);
    }

    #[test]
    fn the_last_report_of_a_batch_does_not_look_like_one_of_a_record_sent_alone() {
        let mut w = Window::new(2);
        let slots = [1, 2].map(|id| w.enter(&message(id), Instant::now(), false).unwrap());
        assert!(slots.iter().all(|slot| !w.leave(*slot).unwrap().alone));
        let alone = w.enter(&message(3), Instant::now(), true).unwrap();
        assert!(w.is_taken_by_one());
        assert!(w.leave(alone).unwrap().alone);
        assert!(!w.is_taken_by_one());
    }
}
