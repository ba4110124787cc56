//! Recording: checkpoints, which are the proof of delivery, the lease and the next start's position in one.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    outbox::checkpoints::{self, BASE_EVERY, CheckpointError, Entry, Lease, Receipt},
    relay::{End, within},
};

/// A checkpoint that was on its way, and the answer. Its connection is of no use once it has failed.
pub(super) struct Written {
    conn: PgConnection,
    lease: Lease,
    entry: Entry,
    begun_at: Instant,
    done: Result<(), CheckpointError>,
}

/// At most one checkpoint at a time.
pub(super) struct Recorder {
    /// None while a checkpoint is on its way, and for good once one has failed.
    pub conn: Option<PgConnection>,
    pub running: Option<AbortOnDropHandle<Written>>,
    /// When the receipts were last looked through for one.
    pub looked_at: Instant,
    pub last_base: i64,
}

impl Recorder {
    /// `base` is the number of the newest base row.
    pub fn new(conn: PgConnection, base: i64) -> Self {
        let now = Instant::now();
        Self {
            conn: Some(conn),
            running: None,
            looked_at: now,
            last_base: base,
        }
    }
}

impl Leader<'_> {
    /// Begins a checkpoint when there is something to record and the last look was `pause` ago, or the lease has to be
    /// prolonged and no poll will do it.
    pub(super) fn begin_checkpoint(&mut self, pause: Duration, give_back: bool) {
        let now = Instant::now();
        // A renewing poll holds the next number.
        if self.recorder.running.is_some() || self.reader.renews || self.recorder.conn.is_none() {
            return;
        }
        let crowded = self.receipts.arrived() * 4 > self.relay.window();
        let due = self.has_to_record() && (now >= self.recorder.looked_at + pause || self.barrier || crowded);
        let base_due = self.is_base_due();
        let half_gone = self.lease_ends <= now + self.lease.length / 2;
        let renewal_due = (base_due || self.ending) && half_gone;
        if !(due || renewal_due || give_back) {
            return;
        }
        self.recorder.looked_at = now;
        let oldest = self.window.oldest().filter(|_| !self.ending);
        let oldest = worth_waiting_for(oldest, self.unrecorded, self.receipts.len(), self.relay.window());
        let receipts = self.receipts.take(oldest, now);
        self.position.settle(receipts.iter().map(|receipt| receipt.id));
        // Without anything to record, it prolongs the lease all the same when a read has kept the poll from it.
        if !(self.position.has_changes() || half_gone || give_back) {
            return;
        }
        let Some(mut conn) = self.recorder.conn.take() else {
            return;
        };
        if !self.offsets_frozen {
            advance(&mut self.next_offsets, &receipts);
        }
        let entry = Entry {
            changes: self.position.take_changes(),
            receipts,
            dead: std::mem::take(&mut self.dead),
            next_offsets: self.next_offsets.clone(),
            base: base_due.then(|| (self.position.passed().clone(), self.position.closed().clone())),
        };
        let mut lease = self.lease.clone();
        self.recorder.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let append = async {
                failpoint!("relay.checkpoint.before", lost);
                checkpoints::append(&mut conn, &mut lease, &entry, give_back).await?;
                failpoint!("relay.checkpoint.after", lost);
                Ok(())
            };
            let done: Result<(), CheckpointError> = within(append).await;
            Written {
                conn,
                lease,
                entry,
                begun_at: now,
                done,
            }
        })));
    }

    /// The next checkpoint has to be a base.
    pub(super) fn is_base_due(&self) -> bool {
        self.lease.seq + 1 - self.recorder.last_base >= BASE_EVERY
    }

    /// Is there anything for a checkpoint?
    pub(super) fn has_to_record(&self) -> bool {
        !self.receipts.is_empty() || self.position.has_changes()
    }

    pub(super) fn checkpoint_written(&mut self, written: Written) -> Result<(), End> {
        self.recorder.running = None;
        let entry = written.entry;
        written.done?;
        self.relay.notifier.settled(&entry.changes.settled);
        self.recorder.conn = Some(written.conn);
        self.lease = written.lease;
        // By our own clock, from before it was sent.
        self.lease_ends = written.begun_at + self.lease.length;
        if entry.base.is_some() {
            self.recorder.last_base = self.lease.seq;
        }
        self.unrecorded -= entry.receipts.len();
        self.barrier = !self.dead.is_empty();
        Ok(())
    }
}

/// The record whose receipt the others wait for: none while the receipts that wait keep the window full, for then nothing
/// is handed over until they are recorded.
pub(super) fn worth_waiting_for(oldest: Option<i64>, unrecorded: usize, waiting: usize, window: usize) -> Option<i64> {
    oldest.filter(|_| unrecorded < window || waiting * 2 < window)
}

/// Moves each partition's next offset behind its newest receipt, also backwards: then the broker has lost what lay
/// between, and what is appended there now would be missed by a next leader.
pub(super) fn advance(next_offsets: &mut Vec<i64>, receipts: &[Receipt]) {
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
    use super::*;

    fn receipt(partition: i32, offset: i64) -> Receipt {
        Receipt {
            id: 1,
            partition,
            offset,
        }
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
