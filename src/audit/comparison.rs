//! What becomes of each receipt and each record: pure.

use chrono::{DateTime, Utc};
use roaring::RoaringTreemap;
use uuid::Uuid;

use crate::outbox::audits::{Counts, Expected, Finding, Kind, Range, Row};

/// Examples that are kept of each kind.
pub const EXAMPLES: usize = 1_000;

/// A record of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
    /// The record's own time.
    pub at: Option<DateTime<Utc>>,
    /// The header `outbox-id`; none: missing or malformed.
    pub outbox_id: Option<i64>,
    /// The header `ce_id`; none: missing or malformed.
    pub event_id: Option<Uuid>,
}

/// What the topic may have lost without anything being wrong.
#[derive(Debug, Clone, Default)]
pub struct Forgiving {
    /// What was published before this may have been deleted for its age; none: nothing is.
    pub oldest_kept: Option<DateTime<Utc>>,
    /// What lies below the beginning of its partition may have been deleted for the topic's size.
    pub by_size: bool,
    /// What lies above it may have been replaced by a later record of its key.
    pub compacted: bool,
    /// Where each partition begins.
    pub low: Vec<i64>,
}

impl Forgiving {
    fn forgives(&self, r: &Expected) -> bool {
        // Of a partition that does not exist any more, nothing was deleted in peace.
        let below = self.low.get(r.partition as usize).map(|low| r.offset < *low);
        self.oldest_kept.is_some_and(|oldest| r.published_at < oldest)
            || self.by_size && below == Some(true)
            || self.compacted && below == Some(false)
    }
}

/// Receipts and records, compared one by one. Two bits for each id, at most, are kept in memory.
pub struct Comparison {
    range: Range,
    forgiving: Forgiving,
    /// Ids of which a record was seen.
    present: RoaringTreemap,
    /// Ids of receipts whose record is not where they say, and should be.
    absent: RoaringTreemap,
    /// So far.
    pub counts: Counts,
    /// So far, of records that are repeated or foreign.
    pub findings: Vec<Finding>,
}

impl Comparison {
    /// Of messages that were written in `range`.
    pub fn new(range: Range, forgiving: Forgiving) -> Self {
        Self {
            range,
            forgiving,
            present: RoaringTreemap::new(),
            absent: RoaringTreemap::new(),
            counts: Counts::default(),
            findings: Vec::new(),
        }
    }

    /// The place that a receipt names holds something else, or nothing.
    pub fn pass(&mut self, r: &Expected) {
        if !self.is_asked_for(r) {
            return;
        }
        self.counts.receipts += 1;
        if self.forgiving.forgives(r) {
            self.counts.expired += 1;
        } else {
            self.absent.insert(r.id as u64);
        }
    }

    /// A record, and all receipts that name its place: of a topic that was made again, there can be several. Answers
    /// with the record when none of them is its own, to be looked up ([`Comparison::explain`]).
    pub fn meet(&mut self, seen: Seen, here: &[Expected]) -> Option<Seen> {
        let own = here
            .iter()
            .position(|r| seen.outbox_id == Some(r.id) && (r.event_id.is_none() || r.event_id == seen.event_id));
        for (n, r) in here.iter().enumerate() {
            if own != Some(n) {
                self.pass(r);
            } else if r.event_id.is_none() {
                self.forget(seen);
            } else if self.is_asked_for(r) {
                self.counts.receipts += 1;
                self.counts.in_place += 1;
                self.note_present(seen, r.id);
            }
        }
        own.is_none().then_some(seen)
    }

    /// A record without a receipt of its own: `row` is what the outbox has under its id, `lowest` the lowest id that it
    /// has at all. Both ids have to agree, as at a start.
    pub fn explain(&mut self, seen: Seen, row: Option<Row>, lowest: i64) {
        match (seen.outbox_id, row) {
            (Some(id), Some(row)) if seen.event_id == Some(row.event_id) => {
                if self.range.contains(row.created_at) {
                    self.note_present(seen, id);
                }
            }
            (Some(id), None) if id < lowest && seen.event_id.is_some() => self.forget(seen),
            _ => {
                if self.is_of_the_time(seen) {
                    self.counts.records += 1;
                    self.counts.foreign += 1;
                    self.keep(Kind::Foreign, seen);
                }
            }
        }
    }

    /// Ids whose records are nowhere.
    pub fn missing(&self) -> RoaringTreemap {
        &self.absent - &self.present
    }

    fn note_present(&mut self, seen: Seen, id: i64) {
        self.counts.records += 1;
        if !self.present.insert(id as u64) {
            self.counts.repeated += 1;
            self.keep(Kind::Repeated, seen);
        }
    }

    fn forget(&mut self, seen: Seen) {
        if self.is_of_the_time(seen) {
            self.counts.records += 1;
            self.counts.forgotten += 1;
        }
    }

    fn is_asked_for(&self, r: &Expected) -> bool {
        r.created_at.is_some_and(|at| self.range.contains(at))
    }

    /// For records without a row: by their own time.
    fn is_of_the_time(&self, seen: Seen) -> bool {
        seen.at.is_none_or(|at| self.range.contains(at))
    }

    fn keep(&mut self, kind: Kind, seen: Seen) {
        let kept = match kind {
            Kind::Missing => unreachable!("they are known only at the end"),
            Kind::Repeated => self.counts.repeated,
            Kind::Foreign => self.counts.foreign,
        };
        if kept as usize <= EXAMPLES {
            self.findings.push(Finding {
                kind,
                partition: seen.partition,
                offset: seen.offset,
                outbox_id: seen.outbox_id,
                event_id: seen.event_id,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::from_timestamp_nanos(1_790_000_000_000_000_000);

    fn event(id: i64) -> Uuid {
        Uuid::from_u128(id as u128)
    }

    fn receipt(id: i64, partition: i32, offset: i64) -> Expected {
        Expected {
            partition,
            offset,
            id,
            published_at: NOW,
            event_id: Some(event(id)),
            created_at: Some(NOW),
        }
    }

    fn record(id: i64, partition: i32, offset: i64) -> Seen {
        Seen {
            partition,
            offset,
            at: Some(NOW),
            outbox_id: Some(id),
            event_id: Some(event(id)),
        }
    }

    fn row(id: i64) -> Row {
        Row {
            id,
            event_id: event(id),
            created_at: NOW,
        }
    }

    fn everything(low: &[i64]) -> Comparison {
        let forgiving = Forgiving {
            low: low.to_vec(),
            ..Forgiving::default()
        };
        Comparison::new(Range::default(), forgiving)
    }

    fn missing(c: &Comparison) -> Vec<u64> {
        c.missing().iter().collect()
    }

    #[test]
    fn a_record_where_its_receipt_says_is_in_place() {
        let mut c = everything(&[0]);
        assert_eq!(c.meet(record(1, 0, 0), &[receipt(1, 0, 0)]), None);
        assert_eq!((c.counts.in_place, c.counts.records, missing(&c)), (1, 1, vec![]));
    }

    #[test]
    fn another_record_at_the_place_is_not_it() {
        let mut c = everything(&[0]);
        // Made again: the new topic counts from 0, too, and both receipts are kept.
        let here = [receipt(1, 0, 0), receipt(9, 0, 0)];
        assert_eq!(c.meet(record(9, 0, 0), &here), None);
        assert_eq!((c.counts.in_place, missing(&c)), (1, vec![1]));
        // The same outbox id with another event id is somebody else's.
        let stranger = Seen {
            event_id: Some(event(77)),
            ..record(2, 0, 1)
        };
        assert_eq!(c.meet(stranger, &[receipt(2, 0, 1)]), Some(stranger));
        c.explain(stranger, Some(row(2)), 1);
        assert_eq!((c.counts.foreign, missing(&c)), (1, vec![1, 2]));
    }

    #[test]
    fn what_is_elsewhere_in_the_topic_is_not_missing_and_counts_once() {
        let mut c = everything(&[0]);
        c.pass(&receipt(1, 0, 5));
        c.explain(record(1, 0, 8), Some(row(1)), 1);
        assert_eq!((c.counts.repeated, missing(&c)), (0, vec![]));
        c.explain(record(1, 0, 9), Some(row(1)), 1);
        assert_eq!(c.counts.repeated, 1);
        assert_eq!((c.findings[0].kind, c.findings[0].offset), (Kind::Repeated, 9));
    }

    #[test]
    fn a_repeat_is_one_whichever_of_the_two_has_the_receipt() {
        let mut c = everything(&[0]);
        c.explain(record(1, 0, 0), Some(row(1)), 1);
        c.meet(record(1, 0, 1), &[receipt(1, 0, 1)]);
        assert_eq!((c.counts.repeated, c.counts.in_place), (1, 1));
    }

    #[test]
    fn what_retention_may_have_taken_is_expired_and_what_it_may_not_is_missing() {
        let old = Expected {
            published_at: NOW - TimeDelta::days(8),
            ..receipt(1, 0, 3)
        };
        let week = Forgiving {
            oldest_kept: Some(NOW - TimeDelta::days(7)),
            low: vec![10],
            ..Forgiving::default()
        };
        let judge = |forgiving: &Forgiving, r: &Expected| {
            let mut c = Comparison::new(Range::default(), forgiving.clone());
            c.pass(r);
            (c.counts.expired, missing(&c).len())
        };
        assert_eq!(judge(&week, &old), (1, 0));
        // The log begins above it, and it is too young for that: somebody deleted records.
        assert_eq!(judge(&week, &receipt(2, 0, 4)), (0, 1));
        assert_eq!(
            judge(&Forgiving::default(), &old),
            (0, 1),
            "nothing is deleted for its age"
        );
        let by_size = Forgiving {
            by_size: true,
            low: vec![10],
            ..Forgiving::default()
        };
        assert_eq!(judge(&by_size, &receipt(2, 0, 4)), (1, 0));
        assert_eq!(
            judge(&by_size, &receipt(2, 0, 10)),
            (0, 1),
            "above the beginning size takes nothing"
        );
        assert_eq!(judge(&by_size, &receipt(2, 7, 4)), (0, 1), "a partition that is gone");
        let compacted = Forgiving {
            compacted: true,
            ..by_size
        };
        assert_eq!(judge(&compacted, &receipt(2, 0, 10)), (1, 0));
    }

    #[test]
    fn only_the_range_is_judged() {
        let range = Range {
            from: Some(NOW),
            to: Some(NOW + TimeDelta::hours(1)),
        };
        let mut c = Comparison::new(range, Forgiving::default());
        let before = Expected {
            created_at: Some(NOW - TimeDelta::seconds(1)),
            ..receipt(1, 0, 0)
        };
        c.pass(&before);
        assert_eq!(c.meet(record(1, 0, 0), &[before]), None);
        let early = Row {
            created_at: NOW - TimeDelta::seconds(1),
            ..row(3)
        };
        c.explain(record(3, 0, 1), Some(early), 1);
        let stranger = Seen {
            at: Some(NOW + TimeDelta::hours(1)),
            outbox_id: None,
            ..record(0, 0, 2)
        };
        c.explain(stranger, None, 1);
        assert_eq!(c.counts, Counts::default());
        c.explain(
            Seen {
                at: Some(NOW),
                ..stranger
            },
            None,
            1,
        );
        assert_eq!(c.counts.foreign, 1);
    }

    #[test]
    fn a_record_whose_row_was_dropped_says_nothing() {
        let mut c = everything(&[0]);
        let dropped = Expected {
            event_id: None,
            created_at: None,
            ..receipt(1, 0, 0)
        };
        assert_eq!(c.meet(record(1, 0, 0), &[dropped]), None);
        c.pass(&Expected { offset: 1, ..dropped });
        c.explain(record(2, 0, 2), None, 5);
        c.explain(record(6, 0, 3), None, 5);
        assert_eq!((c.counts.forgotten, c.counts.foreign, c.counts.receipts), (2, 1, 0));
    }

    #[test]
    fn examples_are_bounded_and_counts_are_not() {
        let mut c = everything(&[0]);
        for offset in 0..1_500 {
            let stranger = Seen {
                outbox_id: None,
                ..record(0, 0, offset)
            };
            c.explain(stranger, None, 1);
        }
        assert_eq!((c.counts.foreign, c.findings.len()), (1_500, EXAMPLES));
    }
}
