//! Receipts that wait for a checkpoint. Pure.
//!
//! The broker acknowledges one partition's batch after the other, so at any moment the acknowledged ids have a gap
//! wherever a record goes to a partition whose turn has not come yet. Recorded as they are, they are thousands of
//! ranges, which every reader of the position has to add up; a moment later they are one. So a checkpoint takes the
//! receipts below the oldest record on its way, and leaves the others to a later one.
//!
//! A receipt that waits is as good as a report that has not been taken: those behind it in its partition wait with it,
//! so no next offset passes it, and whoever leads next finds all of them in the tail.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::outbox::checkpoints::Receipt;

/// A receipt that has waited so long for a record on its way waits no longer: a partition that answers late holds up
/// the others' receipts until then, and to the next checkpoint.
const PATIENCE: Duration = Duration::from_millis(200);

/// In the order of their reports.
#[derive(Debug, Default)]
pub struct Receipts {
    waiting: Vec<(Receipt, Instant)>,
    /// So many have come since some were last taken.
    arrived: usize,
}

impl Receipts {
    /// A record was acknowledged.
    pub fn push(&mut self, receipt: Receipt, now: Instant) {
        self.waiting.push((receipt, now));
        self.arrived += 1;
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many have come since some were last taken.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Those that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> impl Iterator<Item = &Receipt> {
        self.waiting.iter().map(|(receipt, _)| receipt)
    }

    /// Takes those for a checkpoint: the ones below `oldest`, the oldest record on its way, as far as none before them in
    /// their partition has to wait; and all when there is no such record, or one of them has waited for [`PATIENCE`].
    pub fn take(&mut self, oldest: Option<i64>, now: Instant) -> Vec<Receipt> {
        let patient = self.waiting.first().is_some_and(|(_, came)| now < *came + PATIENCE);
        let below = oldest.filter(|_| patient).unwrap_or(i64::MAX);
        let mut left = BTreeSet::new();
        let mut taken = Vec::new();
        self.waiting.retain(|(receipt, _)| {
            let waits = receipt.id >= below || left.contains(&receipt.partition);
            if waits {
                left.insert(receipt.partition);
            } else {
                taken.push(*receipt);
            }
            waits
        });
        if !taken.is_empty() {
            self.arrived = 0;
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
        assert_eq!(receipts.arrived(), 4);
        assert_eq!(ids(&receipts.take(Some(4), now)), [1, 3, 2]);
        assert_eq!((receipts.arrived(), receipts.is_empty()), (0, false));
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
    fn a_record_that_is_not_acknowledged_holds_up_the_receipts_of_the_others_for_a_fifth_of_a_second() {
        let began = Instant::now();
        let mut receipts = receipts(&[(0, 1), (1, 7)], began);
        let late = began + PATIENCE;
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

    #[test]
    fn in_a_drain_that_goes_on_none_is_taken_before_its_turn() {
        let (mut receipts, mut now) = (Receipts::default(), Instant::now());
        // The record before is always on its way, and each waits for less than a fifth of a second.
        for id in 1..100 {
            let receipt = Receipt {
                id,
                partition: 0,
                offset: id,
            };
            receipts.push(receipt, now);
            now += PATIENCE / 10;
            assert_eq!(
                ids(&receipts.take(Some(id), now)),
                (id > 1).then_some(id - 1).into_iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn what_has_come_counts_until_some_are_taken() {
        let now = Instant::now();
        let mut receipts = receipts(&[(0, 2), (0, 3)], now);
        receipts.take(Some(1), now);
        assert_eq!((receipts.arrived(), receipts.len()), (2, 2));
        receipts.take(Some(3), now);
        assert_eq!((receipts.arrived(), receipts.len()), (0, 1));
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
