//! The relay's position: which ids are done, which were read, which are missing. Pure.
//!
//! Identity order is not commit order: id 7 may become visible after id 8 was read. So the position is a
//! set, not a number. An id below [`Position::read_to`] that was not read is a *hole*: a row that is not
//! visible yet, or an id whose transaction rolled back.

use std::ops::Range;

use rangemap::RangeSet;

/// A set of outbox ids, kept as ranges.
pub type Ids = RangeSet<i64>;

/// What is done and what was read. `settled` ids are published or dead; `closed` ids belong to no row.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// Settled or closed, committed or about to be.
    passed: Ids,
    /// The closed among them.
    closed: Ids,
    /// Everything that needs no reading: passed, or read and on its way. What is in `run` may be missing.
    seen: Ids,
    /// The newest ids that were read without a hole between them, and never closed; empty, or up to `read_to`. Most rows
    /// come so, and one range costs far less for each than a set does.
    run: Range<i64>,
    /// The greatest id that was ever read; above it everything is unread.
    read_to: i64,
    /// Settled since the last [`Position::take_changes`].
    settling: Ids,
    /// Closed since then.
    closing: Ids,
}

/// What a checkpoint has to record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids that became published or dead.
    pub settled: Ids,
    /// Ids that turned out to belong to no row.
    pub closed: Ids,
}

impl Changes {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.closed.is_empty()
    }
}

impl Position {
    /// As the checkpoints say: `passed` is everything settled or closed, `closed` a part of it.
    pub fn new(passed: Ids, closed: Ids) -> Self {
        let read_to = passed.last().map_or(0, |r| r.end - 1);
        Self {
            seen: passed.clone(),
            passed,
            closed,
            read_to,
            ..Self::default()
        }
    }

    /// Everything above this id is unread.
    pub fn read_to(&self) -> i64 {
        self.read_to
    }

    /// Ids up to here are all settled or closed.
    pub fn frontier(&self) -> i64 {
        self.passed.first().filter(|r| r.start <= 1).map_or(0, |r| r.end - 1)
    }

    /// Settled or closed.
    pub fn passed(&self) -> &Ids {
        &self.passed
    }

    /// Belongs to no row, as far as is known.
    pub fn closed(&self) -> &Ids {
        &self.closed
    }

    /// Is this id settled or closed?
    pub fn has_passed(&self, id: i64) -> bool {
        self.passed.contains(&id)
    }

    /// The holes, ascending: ids up to [`Position::read_to`] that were never seen.
    pub fn holes(&self) -> impl Iterator<Item = i64> + '_ {
        self.hole_ranges().flatten()
    }

    /// How many holes there are.
    pub fn hole_count(&self) -> u64 {
        self.hole_ranges().map(|r| (r.end - r.start) as u64).sum()
    }

    fn hole_ranges(&self) -> impl Iterator<Item = Range<i64>> + '_ {
        let end = if self.run.is_empty() {
            self.read_to + 1
        } else {
            self.run.start
        };
        self.seen.gaps(&(1..end)).collect::<Vec<_>>().into_iter()
    }

    fn is_seen(&self, id: i64) -> bool {
        self.run.contains(&id) || self.seen.contains(&id)
    }

    /// Puts the run into the set.
    fn end_run(&mut self) {
        if !self.run.is_empty() {
            self.seen.insert(std::mem::take(&mut self.run));
        }
    }

    /// A row with this id was read: says whether it is to be handed over.
    ///
    /// A row under a closed id is: the closing was wrong.
    pub fn note_read(&mut self, id: i64) -> Read {
        // Above everything that is known of.
        if id > self.read_to && self.seen.last().is_none_or(|last| last.end <= id) {
            if self.run.is_empty() || self.run.end < id {
                self.end_run();
                self.run.start = id;
            }
            self.run.end = id + 1;
            self.read_to = id;
            return Read::New;
        }
        self.end_run();
        self.read_to = self.read_to.max(id);
        if self.closed.contains(&id) {
            self.closed.remove(id..id + 1);
            self.closing.remove(id..id + 1);
            self.passed.remove(id..id + 1);
            return Read::WronglyClosed;
        }
        if self.seen.contains(&id) {
            return Read::Known;
        }
        self.seen.insert(id..id + 1);
        Read::New
    }

    /// The id was closed, and has a row all the same: it is a hole again, to be read and sent.
    pub fn reopen(&mut self, id: i64) {
        for set in [&mut self.closed, &mut self.closing, &mut self.passed, &mut self.seen] {
            set.remove(id..id + 1);
        }
    }

    /// The ids are published or dead. In any order; many at once cost far less than one by one.
    pub fn settle(&mut self, ids: impl IntoIterator<Item = i64>) {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        for run in runs(ids) {
            for set in [&mut self.seen, &mut self.passed, &mut self.settling] {
                set.insert(run.clone());
            }
        }
    }

    /// The hole belongs to no row: its transaction rolled back. Ids that were read meanwhile stay as they are.
    pub fn close(&mut self, id: i64) {
        if self.is_seen(id) || id > self.read_to {
            return;
        }
        for set in [&mut self.seen, &mut self.passed, &mut self.closed, &mut self.closing] {
            set.insert(id..id + 1);
        }
    }

    /// What the next checkpoint has to record; from now on it counts as recorded.
    pub fn take_changes(&mut self) -> Changes {
        Changes {
            settled: std::mem::take(&mut self.settling),
            closed: std::mem::take(&mut self.closing),
        }
    }

    /// Is there anything for a checkpoint?
    pub fn has_changes(&self) -> bool {
        !self.settling.is_empty() || !self.closing.is_empty()
    }
}

/// What [`Position::note_read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// To be handed over.
    New,
    /// Seen before: not to be handed over.
    Known,
    /// To be handed over, and an alarm: the id had been closed as a hole.
    WronglyClosed,
}

/// Writes a set as PostgreSQL's `int8multirange` literal.
pub fn to_multirange(ids: &Ids) -> String {
    write_multirange(ids.iter().cloned())
}

/// The same of numbers that ascend and are too many for a set.
pub fn multirange_of(ascending: impl IntoIterator<Item = i64>) -> String {
    write_multirange(runs(ascending))
}

fn write_multirange(ranges: impl Iterator<Item = Range<i64>>) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("{");
    for (n, range) in ranges.enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(text, "{comma}[{},{})", range.start, range.end).expect("writing to a String cannot fail");
    }
    text.push('}');
    text
}

/// Numbers that ascend, as ranges. One that comes twice counts once.
fn runs(ascending: impl IntoIterator<Item = i64>) -> impl Iterator<Item = Range<i64>> {
    let mut ids = ascending.into_iter().peekable();
    std::iter::from_fn(move || {
        let start = ids.next()?;
        let mut end = start + 1;
        while let Some(id) = ids.next_if(|id| *id <= end) {
            end = id + 1;
        }
        Some(start..end)
    })
}

/// Reads PostgreSQL's text of an `int8multirange`, which is always in the form `{[1,5),[7,8)}`.
pub fn from_multirange(text: &str) -> Result<Ids, MultirangeError> {
    let error = || MultirangeError(text.chars().take(80).collect());
    let inner = text
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(error)?;
    let mut ids = Ids::new();
    for (n, range) in inner.split_inclusive(')').enumerate() {
        let begin = if n == 0 { "[" } else { ",[" };
        let range = range
            .strip_prefix(begin)
            .and_then(|r| r.strip_suffix(')'))
            .ok_or_else(error)?;
        let (start, end) = range.split_once(',').ok_or_else(error)?;
        let (start, end): (i64, i64) = (start.parse().map_err(|_| error())?, end.parse().map_err(|_| error())?);
        if start >= end {
            return Err(error());
        }
        ids.insert(start..end);
    }
    Ok(ids)
}

/// Not a multirange of bounded, half-open ranges of numbers.
#[derive(Debug, thiserror::Error)]
#[error("not an int8multirange: {0:?}")]
pub struct MultirangeError(String);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ids(text: &str) -> Ids {
        from_multirange(text).unwrap()
    }

    #[test]
    fn an_id_below_the_newest_read_that_was_not_read_is_a_hole() {
        let mut p = Position::default();
        assert_eq!(p.note_read(3), Read::New);
        assert_eq!(p.note_read(5), Read::New);
        assert_eq!(p.holes().collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(p.note_read(4), Read::New);
        assert_eq!(p.note_read(4), Read::Known);
        assert_eq!(p.holes().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(p.frontier(), 0);
    }

    #[test]
    fn after_a_restart_what_was_not_settled_is_a_hole_again() {
        let p = Position::new(ids("{[1,4),[6,9)}"), ids("{[2,3)}"));
        assert_eq!(p.read_to(), 8);
        assert_eq!(p.frontier(), 3);
        assert_eq!(p.holes().collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn a_row_under_a_closed_id_is_sent_and_is_no_longer_closed() {
        let mut p = Position::new(ids("{[1,4)}"), ids("{[2,3)}"));
        assert_eq!(p.note_read(2), Read::WronglyClosed);
        assert!(!p.has_passed(2));
        assert_eq!(p.note_read(2), Read::Known);
        p.settle([2]);
        assert_eq!(
            p.take_changes(),
            Changes {
                settled: ids("{[2,3)}"),
                closed: Ids::new()
            }
        );
        assert!(p.closed().is_empty());
    }

    #[test]
    fn what_the_tail_has_settled_above_everything_read_is_known_when_it_is_read() {
        let mut p = Position::new(ids("{[1,4)}"), Ids::new());
        p.settle([6]);
        assert_eq!(p.read_to(), 3);
        assert_eq!(
            [4, 6, 7, 9].map(|id| p.note_read(id)),
            [Read::New, Read::Known, Read::New, Read::New]
        );
        assert_eq!(p.holes().collect::<Vec<_>>(), [5, 8]);
    }

    #[test]
    fn a_hole_that_was_read_in_time_is_not_closed() {
        let mut p = Position::default();
        p.note_read(2);
        p.note_read(1);
        p.close(1);
        assert!(!p.has_passed(1) && !p.has_changes());
    }

    #[test]
    fn text_that_is_no_multirange_is_refused() {
        for text in [
            "",
            "{",
            "[1,2)",
            "{[1,2]}",
            "{(1,2)}",
            "{[2,2)}",
            "{[1,x)}",
            "{[,5)}",
            "{[1,2),}",
            "{,[1,2)}",
            "{[1,2)[3,4)}",
        ] {
            assert!(from_multirange(text).is_err(), "{text}");
        }
        assert_eq!(from_multirange("{}").unwrap(), Ids::new());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Read(i64),
        Settle(Vec<i64>),
        Close(i64),
        Checkpoint,
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 1_i64..40;
        prop_oneof![
            4 => id.clone().prop_map(Step::Read),
            3 => prop::collection::vec(id.clone(), 1..8).prop_map(Step::Settle),
            2 => id.prop_map(Step::Close),
            1 => Just(Step::Checkpoint),
        ]
    }

    proptest! {
        /// Against the plainest model: sets of single numbers.
        #[test]
        fn the_position_is_what_the_checkpoints_add_up_to(steps in prop::collection::vec(step(), 0..120)) {
            let mut p = Position::default();
            let (mut read, mut settled, mut closed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let (mut recorded_settled, mut recorded_closed) = (Ids::new(), Ids::new());
            for step in steps {
                match step {
                    Step::Read(id) => {
                        let expected = if closed.remove(&id) {
                            Read::WronglyClosed
                        } else if read.contains(&id) {
                            Read::Known
                        } else {
                            Read::New
                        };
                        read.insert(id);
                        prop_assert_eq!(p.note_read(id), expected);
                    }
                    Step::Settle(mut ids) => {
                        ids.retain(|id| read.contains(id));
                        settled.extend(&ids);
                        p.settle(ids);
                    }
                    Step::Close(id) => {
                        if !read.contains(&id) && read.last().is_some_and(|last| id < *last) {
                            closed.insert(id);
                        }
                        p.close(id);
                    }
                    Step::Checkpoint => {
                        let changes = p.take_changes();
                        recorded_settled.extend(changes.settled);
                        recorded_closed.extend(changes.closed);
                    }
                }
                let top = read.last().copied().unwrap_or(0);
                let holes: Vec<i64> = (1..top).filter(|id| !read.contains(id) && !closed.contains(id)).collect();
                prop_assert_eq!(p.hole_count(), holes.len() as u64);
                prop_assert_eq!(p.holes().collect::<Vec<_>>(), holes);
                for id in 1..40 {
                    prop_assert_eq!(p.has_passed(id), settled.contains(&id) || closed.contains(&id));
                }
            }
            let changes = p.take_changes();
            recorded_settled.extend(changes.settled);
            recorded_closed.extend(changes.closed);
            // What a next leader reads: settled wins over closed, as in the SQL function outbox_position().
            let mut passed = recorded_settled.clone();
            passed.extend(recorded_closed.clone());
            for id in p.passed().iter().cloned().flatten() {
                prop_assert!(passed.contains(&id));
            }
            for id in settled {
                prop_assert!(recorded_settled.contains(&id));
            }
        }

        #[test]
        fn a_set_survives_the_way_through_postgresql_text(numbers in prop::collection::btree_set(-50_i64..500, 0..60)) {
            let mut set = Ids::new();
            for n in &numbers {
                set.insert(*n..*n + 1);
            }
            prop_assert_eq!(multirange_of(numbers), to_multirange(&set));
            prop_assert_eq!(from_multirange(&to_multirange(&set)).unwrap(), set);
        }
    }
}
