//! A term of leading: read, hand over, collect reports, write checkpoints.
//!
//! One task owns everything; a read and a checkpoint run beside it, at most one of each, and give their
//! connection back with their answer. [`Leader::turn`] is the loop; [`reading`], [`handing_over`],
//! [`reports`] and [`recording`] are its four movements, [`ledger`] is the account that they keep, [`ending`] is how it
//! stops. In exactly-once mode [`transaction`] stands between reports and recording.

mod ending;
mod gauges;
mod handing_over;
mod ledger;
mod reading;
mod recording;
mod reports;
#[cfg(test)]
mod simulation;
mod transaction;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{handing_over::Ready, ledger::Ledger, reading::Reader, recording::Recorder, transaction::Transactions};
use super::{
    End, Memory, Relay,
    breaker::Permit,
    start::Started,
    upkeep::{self, Upkeep},
};
use crate::{
    config::Delivery,
    outbox::checkpoints::Lease,
    publish::kafka::{NotCommitted, Producer},
};

/// Between two checkpoints under load. They may lag behind Kafka's acknowledgements: the tail read covers it.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(20);

struct Leader<'a> {
    relay: &'a Relay,
    memory: &'a mut Memory,
    lease: Lease,
    /// By our own clock, counted from before the renewal was sent.
    lease_ends: Instant,
    ledger: Ledger,
    producer: Arc<Producer>,
    /// In exactly-once mode.
    transactions: Option<Transactions>,
    ready: Ready,
    reader: Reader,
    recorder: Recorder,
    seen: Seen,
    /// The term is being wound down: nothing is read any more, so checkpoints prolong the lease.
    ending: bool,
    last_ack: Instant,
    gauges_due: Instant,
}

/// What the newest poll said of the log.
#[derive(Default)]
struct Seen {
    paused: bool,
    max_id: i64,
    /// When the first message above the frontier was written: the oldest pending one, unless a hole stands before it.
    oldest: Option<DateTime<Utc>>,
}

/// Leads until the lease is lost, something fails, or `cancel`; then settles what can be settled.
pub(super) async fn lead(relay: &Relay, memory: &mut Memory, started: Started, cancel: &CancellationToken) -> End {
    failpoint!("relay.lead");
    let reader = match relay.connect().await {
        Ok(reader) => reader,
        Err(error) => return error.into(),
    };
    let _listener = upkeep::listen(relay);
    let round_due = memory.round_due.unwrap_or_else(|| Instant::now() + relay.first_round);
    let ready = upkeep::Ready {
        outbox: started.outbox_end,
        checkpoints: started.checkpoints_end,
    };
    let mut upkeep = Upkeep::new(ready, round_due);
    let now = Instant::now();
    let mut leader = Leader {
        relay,
        memory,
        lease_ends: started.lease_ends,
        ledger: Ledger::new(started.position, started.next_offsets, relay.window()),
        producer: started.producer,
        transactions: match relay.options.delivery {
            Delivery::AtLeastOnce => None,
            Delivery::ExactlyOnce => Some(Transactions::new(relay.options.window)),
        },
        ready: Ready::default(),
        reader: Reader::new(reader),
        recorder: Recorder::new(started.db, started.lease.seq),
        lease: started.lease,
        seen: Seen::default(),
        ending: false,
        last_ack: now,
        gauges_due: now,
    };
    let end = loop {
        match leader.turn(cancel).await {
            Ok(()) => upkeep.tend(relay, leader.newest_id(), leader.lease.seq).await,
            Err(end) => break end,
        }
    };
    leader.memory.round_due = Some(upkeep.round_due());
    leader.wind_down(end).await
}

impl Leader<'_> {
    /// Does what can be done now, then waits for the next event.
    async fn turn(&mut self, cancel: &CancellationToken) -> Result<(), End> {
        self.begin_checkpoint(CHECKPOINT_EVERY, false);
        // The next rows are read while these are handed over.
        self.begin_read();
        let handed_over = self.ledger.unrecorded();
        if !self.ready.messages.is_empty() {
            failpoint!("relay.hand_over.before", End::Restart("a failpoint".to_owned()));
        }
        self.hand_over_ready()?;
        if self.ledger.unrecorded() > handed_over {
            failpoint!("relay.hand_over.after", End::Restart("a failpoint".to_owned()));
        }
        if self.begin_commit() {
            // Into the next one: nothing else may happen before the commit is answered.
            self.hand_over_ready()?;
        }
        self.show();
        let reports = Arc::clone(self.producer.reports());
        let timer = tokio::time::sleep_until(self.next_timer().into());
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(End::Stopped),
            written = wait(&mut self.recorder.running) => self.checkpoint_written(written)?,
            () = reports.arrived() => self.take_reports()?,
            done = committed(&mut self.transactions) => self.commit_answered(done)?,
            answer = wait(&mut self.reader.running) => self.read_answered(answer)?,
            () = self.relay.wake.woken() => self.reader.more = true,
            () = timer => {}
        }
        Ok(())
    }

    /// The greatest id of the log that is known here.
    fn newest_id(&self) -> i64 {
        self.seen.max_id.max(self.ledger.position.read_to())
    }

    fn next_timer(&self) -> Instant {
        let mut at = self.gauges_due;
        if self.reader.running.is_none() {
            at = at.min(self.reader.next_at(self.seen.paused));
        }
        if self.ledger.has_to_record() && self.recorder.running.is_none() && !self.reader.renews {
            at = at.min(self.recorder.looked_at + CHECKPOINT_EVERY);
        }
        if let (false, Permit::NotBefore(probe)) = (
            self.ready.messages.is_empty(),
            self.memory.breaker.permit(Instant::now()),
        ) {
            at = at.min(probe);
        }
        at
    }
}

/// Until the commit on its way is answered; for ever when there is none.
async fn committed(transactions: &mut Option<Transactions>) -> Result<(), NotCommitted> {
    match transactions {
        None => std::future::pending().await,
        Some(transactions) => transactions.answered().await,
    }
}

/// Waits for the task; for ever when there is none.
async fn wait<T: Send + 'static>(task: &mut Option<AbortOnDropHandle<T>>) -> T {
    match task {
        None => std::future::pending().await,
        Some(task) => finished(task).await,
    }
}

/// Waits for the task. One of ours that panicked takes the program with it.
async fn finished<T: Send + 'static>(task: &mut AbortOnDropHandle<T>) -> T {
    task.await.unwrap_or_else(|e| match e.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(e) => panic!("a task of the relay was cancelled: {e}"),
    })
}
