//! Recording: checkpoints, which are the proof of delivery, the lease and the next start's position in one.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    outbox::{
        checkpoints::{self, BASE_EVERY, CheckpointError, Entry, Lease, Receipt},
        position::Ids,
    },
    relay::{End, within},
};

/// A checkpoint on its way. It gives its connection back with its answer, unless it failed.
type Running = AbortOnDropHandle<(PgConnection, Lease, Result<(), CheckpointError>)>;

/// At most one checkpoint at a time.
pub(super) struct Recorder {
    /// None while a checkpoint is on its way, and for good once one has failed.
    pub conn: Option<PgConnection>,
    pub running: Option<Running>,
    /// Receipts in the checkpoint that is being written.
    receipts: usize,
    /// Ids that it settles.
    settling: Ids,
    /// When the newest checkpoint was begun.
    begun_at: Instant,
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
            receipts: 0,
            settling: Ids::default(),
            begun_at: now,
            looked_at: now,
            last_base: base,
        }
    }
}

impl Leader<'_> {
    /// Begins a checkpoint when there is something to record and the last look was `pause` ago, or the lease has to be
    /// prolonged and no read will do it.
    pub(super) fn begin_checkpoint(&mut self, pause: Duration, give_back: bool) {
        let now = Instant::now();
        // A renewing read holds the next number.
        if self.recorder.running.is_some() || self.reader.renews || self.recorder.conn.is_none() {
            return;
        }
        let crowded = self.receipts.arrived() * 4 > self.relay.window();
        let due = self.has_to_record() && (now >= self.recorder.looked_at + pause || self.barrier || crowded);
        let base_due = self.lease.seq + 1 - self.recorder.last_base >= BASE_EVERY;
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
        self.recorder.receipts = receipts.len();
        let entry = Entry {
            changes: self.position.take_changes(),
            receipts,
            dead: std::mem::take(&mut self.dead),
            next_offsets: self.next_offsets.clone(),
            base: base_due.then(|| (self.position.passed().clone(), self.position.closed().clone())),
        };
        self.recorder.settling = entry.changes.settled.clone();
        let mut lease = self.lease.clone();
        self.recorder.begun_at = now;
        self.recorder.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let append = async {
                failpoint!("relay.checkpoint.before", lost);
                checkpoints::append(&mut conn, &mut lease, &entry, give_back).await?;
                failpoint!("relay.checkpoint.after", lost);
                Ok(())
            };
            let done: Result<(), CheckpointError> = within(append).await;
            (conn, lease, done)
        })));
    }

    /// Is there anything for a checkpoint?
    pub(super) fn has_to_record(&self) -> bool {
        !self.receipts.is_empty() || self.position.has_changes()
    }

    pub(super) fn checkpoint_written(
        &mut self,
        (conn, lease, done): (PgConnection, Lease, Result<(), CheckpointError>),
    ) -> Result<(), End> {
        self.recorder.running = None;
        done?;
        self.relay
            .notifier
            .settled(&std::mem::take(&mut self.recorder.settling));
        self.recorder.conn = Some(conn);
        if lease.seq - self.recorder.last_base >= BASE_EVERY {
            self.recorder.last_base = lease.seq;
        }
        self.lease = lease;
        self.lease_ends = self.recorder.begun_at + self.lease.length;
        self.unrecorded -= std::mem::take(&mut self.recorder.receipts);
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
    for r in receipts {
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
    fn of_partitions_that_a_topic_has_grown_by_nothing_is_assumed() {
        let mut next = vec![5];
        advance(&mut next, &[receipt(3, 0)]);
        assert_eq!(next, [5, -1, -1, 1]);
    }
}
