//! What a leader does beside moving messages: partitions ahead, which a start that waits makes as well, retention, and
//! listening for other replicas.

use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::PgConnection;
use tokio_util::task::AbortOnDropHandle;

use super::{Relay, bounded, within};
use crate::outbox::{
    listener::{self, Heard},
    partitions::{self, CHECKPOINT_PARTITION_SEQS},
    retention,
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
    running: Option<AbortOnDropHandle<sqlx::Result<Ready>>>,
    retains: bool,
}

impl Upkeep {
    /// Of a leader.
    pub fn new(ready: Ready) -> Self {
        let now = Instant::now();
        Self {
            ready,
            round_due: now + ROUND_EVERY,
            not_before: now,
            running: None,
            retains: true,
        }
    }

    /// Of a start that waits. It drops nothing: what Kafka has lost may have to be sent again.
    pub fn without_retention(ready: Ready) -> Self {
        Self {
            retains: false,
            ..Self::new(ready)
        }
    }

    /// What was ready when it was looked at last.
    pub fn ready(&self) -> Ready {
        self.ready
    }

    /// Starts or collects the work, when there is some. Never waits.
    pub async fn tend(&mut self, relay: &Relay, max_id: i64, seq: i64) {
        let now = Instant::now();
        if let Some(running) = self.running.take_if(|r| r.is_finished()) {
            match running.await {
                Ok(Ok(ready)) => {
                    self.ready = ready;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "making partitions ahead failed; it is tried again");
                    self.not_before = now + RETRY_AFTER;
                }
                Err(error) => tracing::error!(%error, "the partition maker died"),
            }
        }
        let round = now >= self.round_due;
        let due = round
            || max_id + relay.partition_rows / 2 >= self.ready.outbox
            || seq + CHECKPOINT_PARTITION_SEQS / 2 >= self.ready.checkpoints;
        if due && self.running.is_none() && now >= self.not_before {
            if round {
                self.round_due = now + ROUND_EVERY;
            }
            let retains = round && self.retains;
            let relay = relay.clone();
            self.running = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let mut db = relay.connect().await?;
                let ready = within(make(&relay, &mut db, seq)).await?;
                // Bounded: while it runs, no partition is made ahead.
                if retains && let Err(error) = bounded(ROUND_EVERY / 2, retain(&relay, &mut db)).await {
                    tracing::warn!(%error, "retention failed; it is tried again in the next round");
                }
                Ok(ready)
            })));
        }
    }
}

async fn make(relay: &Relay, db: &mut PgConnection, seq: i64) -> sqlx::Result<Ready> {
    failpoint!("relay.partitions.before", lost);
    partitions::ensure_jobs(db, Utc::now()).await?;
    let ready = Ready {
        outbox: partitions::ensure_outbox(db, relay.partition_rows).await?,
        checkpoints: partitions::ensure_checkpoints(db, seq).await?,
    };
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
