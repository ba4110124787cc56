//! Recording: checkpoints, which are the proof of delivery, the lease and the next start's position in one.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::Leader;
use crate::{
    outbox::checkpoints::{self, BASE_EVERY, CheckpointError, Entry, Lease},
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
        let due = self.ledger.has_to_record() && (now >= self.recorder.looked_at + pause || self.ledger.is_urgent());
        let base_due = self.is_base_due();
        let half_gone = self.lease_ends <= now + self.lease.length / 2;
        let renewal_due = (base_due || self.ending) && half_gone;
        if !(due || renewal_due || give_back) {
            return;
        }
        self.recorder.looked_at = now;
        let mut entry = self.ledger.take(!self.ending, now);
        // Without anything to record, it prolongs the lease all the same when a read has kept the poll from it.
        if entry.changes.is_empty() && !(half_gone || give_back) {
            return;
        }
        let Some(mut conn) = self.recorder.conn.take() else {
            return;
        };
        let position = &self.ledger.position;
        entry.base = base_due.then(|| (position.passed().clone(), position.closed().clone()));
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
        self.ledger.recorded(entry.receipts.len());
        Ok(())
    }
}
