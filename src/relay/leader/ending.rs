//! The end of a term: what was handed over is settled as far as it can be, within a bound.

use std::{sync::Arc, time::Duration};

use super::{CHECKPOINT_EVERY, Leader, committed, wait};
use crate::relay::{DATABASE_TIMEOUT, End};

/// After a failed delivery, before the producer is given up: reports of what may have landed.
const REPORTS_WAIT: Duration = Duration::from_secs(10);

impl Leader<'_> {
    /// Ends the term: waits a bounded time for what was handed over, and records what came of it.
    pub(super) async fn wind_down(mut self, end: End) -> End {
        failpoint!("relay.wind_down");
        self.ready.clear();
        self.ending = true;
        if !matches!(end, End::Stopped) {
            self.abandon_transactions();
        }
        let wait = match &end {
            End::Stopped => self.relay.drain,
            End::Restart(_) => REPORTS_WAIT,
            // Nothing can be recorded any more; what still waits here is better purged at once.
            End::LostLease => Duration::ZERO,
        };
        if !wait.is_zero() {
            tracing::info!(
                unacknowledged = self.ledger.unrecorded(),
                at_most = ?wait,
                "the term ends once Kafka has answered for what it was handed"
            );
        }
        let settled = tokio::time::timeout(wait, self.settle_what_was_sent()).await;
        // A delivery that failed meanwhile left its record unrecorded.
        let drained = matches!(settled, Ok(Ok(()))) && self.ledger.unrecorded() == 0;
        if matches!(end, End::Stopped) {
            if drained {
                let given_back = tokio::time::timeout(DATABASE_TIMEOUT, self.give_back()).await;
                tracing::info!(
                    given_back = matches!(given_back, Ok(Ok(()))),
                    "drained: nothing will be repeated"
                );
            } else {
                tracing::warn!(
                    unacknowledged = self.ledger.unrecorded(),
                    "stopped before all was acknowledged: whoever leads next sends these"
                );
            }
        }
        let producer = self.producer;
        let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
        end
    }

    /// Until every record has its report and every report is recorded. When PostgreSQL is lost, only the
    /// former: the next start finds in the topic's tail what could not be recorded.
    async fn settle_what_was_sent(&mut self) -> Result<(), End> {
        if self.reader.renews {
            let answer = wait(&mut self.reader.running).await;
            match self.read_answered(answer) {
                Ok(()) | Err(End::Restart(_)) => {}
                Err(end) => return Err(end),
            }
            self.ready.clear();
        }
        self.reader.running = None;
        loop {
            self.take_reports_of_the_last()?;
            self.begin_commit();
            self.begin_checkpoint(Duration::ZERO, false);
            let database_is_lost = self.recorder.conn.is_none() && self.recorder.running.is_none();
            if !self.is_anything_on_its_way()
                && self.recorder.running.is_none()
                && (database_is_lost || !self.ledger.has_to_record())
            {
                return if database_is_lost {
                    Err(End::Restart("the database was lost".to_owned()))
                } else {
                    Ok(())
                };
            }
            let reports = Arc::clone(self.producer.reports());
            tokio::select! {
                written = wait(&mut self.recorder.running) => match self.checkpoint_written(written) {
                    Ok(()) | Err(End::Restart(_)) => {}
                    Err(end) => return Err(end),
                },
                () = reports.arrived() => {}
                done = committed(&mut self.transactions) => self.commit_answered(done)?,
                () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
            }
        }
    }

    /// Failures among the last reports change nothing any more: their records stay unsettled. After a fatal
    /// error some reports never come; the wait is bounded.
    fn take_reports_of_the_last(&mut self) -> Result<(), End> {
        match self.take_reports() {
            Err(End::Restart(_)) => Ok(()),
            other => other,
        }
    }

    async fn give_back(&mut self) -> Result<(), End> {
        failpoint!("relay.give_back", lost);
        self.begin_checkpoint(Duration::ZERO, true);
        let written = wait(&mut self.recorder.running).await;
        self.checkpoint_written(written)
    }
}
