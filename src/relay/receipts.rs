//! Receipts that wait for a checkpoint. Pure.
//!
//! The broker acknowledges one partition's batch after the other, so at any moment the acknowledged ids have a gap
//! wherever a record goes to a partition whose turn has not come yet. Recorded as they are, they are thousands of
//! ranges, which every reader of the position has to add up; a moment later they are one. So a checkpoint leaves the
//! receipts above the oldest record on its way to the next one.
//!
//! A receipt that waits is as good as a report that has not been taken: those behind it in its partition wait with it,
//! so no next offset passes it, and whoever leads next finds all of them in the tail.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::outbox::checkpoints::Receipt;

/// No receipt waits longer than this for a record on its way: a partition that answers late holds up the others'
/// receipts for so long at most.
const WHOLE_EVERY: Duration = Duration::from_millis(200);

/// In the order of their reports.
#[derive(Debug, Default)]
pub struct Receipts {
    waiting: Vec<Receipt>,
    /// When the first of them came after none had waited.
    since: Option<Instant>,
    /// Those among them that no checkpoint has left yet.
    new: usize,
}

impl Receipts {
    /// A record was acknowledged.
    pub fn push(&mut self, receipt: Receipt, now: Instant) {
        self.since.get_or_insert(now);
        self.waiting.push(receipt);
        self.new += 1;
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many have come since the last checkpoint.
    pub fn new(&self) -> usize {
        self.new
    }

    /// Those that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> &[Receipt] {
        &self.waiting
    }

    /// Takes those for a checkpoint: the ones below `oldest`, the oldest record on its way, as far as none before them in
    /// their partition has to wait; and all when nothing is on its way, or some have waited for
    /// [`WHOLE_EVERY`].
    pub fn take(&mut self, oldest: Option<i64>, now: Instant) -> Vec<Receipt> {
        self.new = 0;
        let soon = self.since.is_some_and(|since| now < since + WHOLE_EVERY);
        let below = oldest.filter(|_| soon).unwrap_or(i64::MAX);
        let mut left = BTreeSet::new();
        let all = std::mem::take(&mut self.waiting);
        let (taken, waiting) = all.into_iter().partition(|receipt| {
            let waits = receipt.id >= below || left.contains(&receipt.partition);
            if waits {
                left.insert(receipt.partition);
            }
            !waits
        });
        self.waiting = waiting;
        if self.waiting.is_empty() {
            self.since = None;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receipts(of: &[(i32, i64)], now: Instant) -> Receipts {
        let mut receipts = Receipts::default();
        for (offset, (partition, id)) in (0..).zip(of) {
            let receipt = Receipt {
                id: *id,
                partition: *partition,
                offset,
            };
            receipts.push(receipt, now);
        }
        receipts
    }

    fn ids(receipts: &[Receipt]) -> Vec<i64> {
        receipts.iter().map(|receipt| receipt.id).collect()
    }

    #[test]
    fn a_receipt_above_the_oldest_record_on_its_way_waits() {
        let now = Instant::now();
        let mut receipts = receipts(&[(0, 1), (0, 3), (0, 5), (1, 2)], now);
        assert_eq!(receipts.new(), 4);
        assert_eq!(ids(&receipts.take(Some(4), now)), [1, 3, 2]);
        assert_eq!((receipts.new(), receipts.is_empty()), (0, false));
        assert!(receipts.take(Some(5), now).is_empty());
        assert_eq!(ids(&receipts.take(None, now)), [5]);
        assert!(receipts.is_empty());
    }

    #[test]
    fn what_is_behind_one_that_waits_in_its_partition_waits_too() {
        let now = Instant::now();
        // Row 2 became visible late, and was sent after row 5.
        let mut receipts = receipts(&[(0, 5), (0, 2), (1, 3)], now);
        assert_eq!(ids(&receipts.take(Some(4), now)), [3]);
        assert_eq!(ids(&receipts.take(Some(6), now)), [5, 2]);
    }

    #[test]
    fn a_record_that_is_not_acknowledged_holds_up_the_receipts_of_the_others_for_a_fifth_of_a_second_at_most() {
        let began = Instant::now();
        let mut receipts = receipts(&[(0, 1), (1, 7)], began);
        let late = began + WHOLE_EVERY;
        assert_eq!(
            ids(&receipts.take(Some(5), late.checked_sub(Duration::from_millis(1)).unwrap())),
            [1]
        );
        assert_eq!(ids(&receipts.take(Some(5), late)), [7]);
        let next = Receipt {
            id: 8,
            partition: 1,
            offset: 2,
        };
        receipts.push(next, late);
        assert!(receipts.take(Some(5), late).is_empty());
    }

    proptest! {
        #[test]
        fn of_each_partition_the_first_are_taken_and_all_in_the_end(
            of in prop::collection::vec((0..3_i32, 0..30_i64), 0..40),
            below in prop::collection::vec(0..40_i64, 0..5),
        ) {
            let now = Instant::now();
            let mut receipts = receipts(&of, now);
            let mut taken = Vec::new();
            for below in below {
                let these = receipts.take(Some(below), now);
                prop_assert!(these.iter().all(|receipt| receipt.id < below));
                taken.extend(these);
            }
            taken.extend(receipts.take(None, now));
            prop_assert_eq!(taken.len(), of.len());
            for partition in 0..3 {
                let offsets: Vec<_> = taken.iter().filter(|r| r.partition == partition).map(|r| r.offset).collect();
                prop_assert!(offsets.is_sorted(), "{:?}", offsets);
            }
        }
    }
}
