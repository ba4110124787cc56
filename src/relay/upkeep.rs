//! What a leader does beside moving messages: partitions ahead, which a start that waits makes as well, retention, and
//! listening for other replicas.

use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::PgConnection;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::{Relay, within};
use crate::outbox::{
    listener::{self, Heard},
    partitions::{self, CHECKPOINT_PARTITION_SEQS},
    retention,
    session::answered_within,
};

/// The channel on which replicas that do not lead say that they have accepted something.
pub const NOTIFY_CHANNEL: &str = "outbox";
/// The next days' partitions and what has outlived its retention are looked after this often.
const ROUND_EVERY: Duration = Duration::from_hours(1);
/// Batches of idempotency keys that one round deletes, at most.
const KEY_BATCHES: u32 = 1000;
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Ends (exclusive) of what is ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub outbox: i64,
    pub checkpoints: i64,
}

/// Makes partitions ahead of their use, each on a connection of its own and only when one is due: an idle
/// leader spends no statement on it.
pub(super) struct Upkeep {
    ready: Ready,
    round_due: Instant,
    not_before: Instant,
    running: Option<Running>,
    retains: bool,
}

/// What is being made, and whether it is a round.
struct Running {
    work: AbortOnDropHandle<sqlx::Result<Ready>>,
    round: bool,
}

impl Upkeep {
    /// Of a leader. `round_due` is what the term before it in this process left of [`Self::round_due`].
    pub fn new(ready: Ready, round_due: Instant) -> Self {
        Self {
            ready,
            round_due,
            not_before: Instant::now(),
            running: None,
            retains: true,
        }
    }

    /// Of a start that waits. It drops nothing: what Kafka has lost may have to be sent again.
    pub fn without_retention(ready: Ready) -> Self {
        Self {
            retains: false,
            ..Self::new(ready, Instant::now() + ROUND_EVERY)
        }
    }

    /// When the next round is due. Terms may be shorter than it takes until then: it goes from one to the next.
    pub fn round_due(&self) -> Instant {
        self.round_due
    }

    /// What was ready when it was looked at last.
    pub fn ready(&self) -> Ready {
        self.ready
    }

    /// Starts or collects the work, when there is some. Never waits.
    pub async fn tend(&mut self, relay: &Relay, max_id: i64, seq: i64) {
        let now = Instant::now();
        if let Some(running) = self.running.take_if(|r| r.work.is_finished()) {
            let made = running.work.await;
            self.collect(now, running.round, made);
        }
        let round = now >= self.round_due;
        let due = round
            || max_id + relay.partition_rows / 2 >= self.ready.outbox
            || seq + CHECKPOINT_PARTITION_SEQS / 2 >= self.ready.checkpoints;
        if due && self.running.is_none() && now >= self.not_before {
            let retains = round && self.retains;
            let relay = relay.clone();
            let work = AbortOnDropHandle::new(tokio::spawn(async move {
                let mut db = relay.connect_for_upkeep().await?;
                let ready = within(make(&relay, &mut db, seq)).await?;
                // Bounded: while it runs, no partition is made ahead.
                if retains && let Err(error) = answered_within(ROUND_EVERY / 2, retain(&relay, &mut db)).await {
                    tracing::warn!(%error, "retention failed; it is tried again in the next round");
                }
                Ok(ready)
            }));
            self.running = Some(Running { work, round });
        }
    }

    /// A round that failed, or that a term's end has cut short, is still due.
    fn collect(&mut self, now: Instant, round: bool, made: Result<sqlx::Result<Ready>, JoinError>) {
        match made {
            Ok(Ok(ready)) => {
                self.ready = ready;
                if round {
                    self.round_due = now + ROUND_EVERY;
                }
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "making partitions ahead failed; it is tried again"),
            Err(error) => tracing::error!(%error, "the partition maker died"),
        }
        self.not_before = now + RETRY_AFTER;
    }
}

async fn make(relay: &Relay, db: &mut PgConnection, seq: i64) -> sqlx::Result<Ready> {
    failpoint!("relay.partitions.before", lost);
    // Whatever stands in the way of one, for hours perhaps, the others are made; the leader's own first.
    let checkpoints = partitions::ensure_checkpoints(db, seq).await;
    let outbox = partitions::ensure_outbox(db, relay.partition_rows).await;
    let jobs = partitions::ensure_jobs(db, Utc::now()).await;
    let ready = Ready {
        checkpoints: checkpoints?,
        outbox: outbox?,
    };
    jobs?;
    failpoint!("relay.partitions.after", lost);
    Ok(ready)
}

/// What `dispatcher retain` does, without being asked.
async fn retain(relay: &Relay, db: &mut PgConnection) -> sqlx::Result<()> {
    for _ in 0..KEY_BATCHES {
        if retention::delete_expired_keys(db, relay.kept.keys).await? == 0 {
            break;
        }
    }
    retention::drop_partitions(db, relay.kept, false).await?;
    Ok(())
}

/// Rings the relay's wake for every notification of another replica. Notifications are lost while the
/// connection is; the poll is the net below.
pub(super) fn listen(relay: &Relay) -> AbortOnDropHandle<()> {
    let (database, wake) = (relay.database.clone(), relay.wake.clone());
    AbortOnDropHandle::new(tokio::spawn(listener::listen(
        database,
        "dispatcher relay listener",
        NOTIFY_CHANNEL,
        move |heard| {
            if let Heard::Said(_) = heard {
                wake.wake();
            }
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Ready = Ready {
        outbox: 1,
        checkpoints: 1,
    };

    #[test]
    fn a_round_that_failed_is_due_again_after_a_pause_and_one_that_was_done_after_an_hour() {
        let due = Instant::now();
        let mut upkeep = Upkeep::new(READY, due);
        let now = due + Duration::from_secs(1);
        upkeep.collect(now, true, Ok(Err(sqlx::Error::PoolTimedOut)));
        assert_eq!((upkeep.round_due(), upkeep.not_before), (due, now + RETRY_AFTER));
        upkeep.collect(now, false, Ok(Ok(READY)));
        assert_eq!(upkeep.round_due(), due, "only partitions were made");
        upkeep.collect(now, true, Ok(Ok(READY)));
        assert_eq!(upkeep.round_due(), now + ROUND_EVERY);
    }
}
