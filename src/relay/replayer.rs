//! The task that runs replays: writes the rows of running replays to the outbox, each replay at its rate.
//! Every replica runs it; a replay is advanced by one at a time, whoever has its row locked.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::outbox::{
    partitions::ensure_outbox,
    replays::{Pace, Progress, Which, advance, needs_partition, read_next_due},
    wake::Wake,
};

/// Between two looks while no replay runs.
const IDLE: Duration = Duration::from_secs(1);
/// Between two steps of running replays: what became due in it goes into one transaction.
const STEP: Duration = Duration::from_millis(100);
/// After a failure of the database.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Runs until it is cancelled; a step that has begun is finished first. Takes one connection of `pool` at a
/// time. `partition_rows` is `outbox.partition_rows`.
pub async fn run(pool: PgPool, partition_rows: i64, wake: Wake, cancel: CancellationToken) {
    let mut failing = false;
    while !cancel.is_cancelled() {
        let wait = match step(&pool, partition_rows, &wake).await {
            Ok(wait) => {
                failing = false;
                wait
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "replays cannot go on now; trying again");
                }
                failing = true;
                AFTER_FAILURE
            }
        };
        if cancel.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Advances the replay that is due for the longest; returns how long to wait before the next step.
async fn step(pool: &PgPool, partition_rows: i64, wake: &Wake) -> sqlx::Result<Duration> {
    let mut conn = pool.acquire().await?;
    let progress = match advance_once(&mut conn).await {
        Err(error) if needs_partition(&error) => {
            ensure_outbox(&mut conn, partition_rows).await?;
            return Ok(Duration::ZERO);
        }
        other => other?,
    };
    let Some(progress) = progress else {
        let due = read_next_due(&mut conn).await?;
        return Ok(due.map_or(IDLE, |due| due.clamp(STEP, IDLE)));
    };
    if progress.inserted > 0 {
        wake.wake();
        // The relay may run in another replica.
        sqlx::query("notify outbox").execute(&mut *conn).await?;
    }
    if progress.done {
        tracing::info!(replay = %progress.id, "the replay is done");
    }
    Ok(Duration::ZERO)
}

async fn advance_once(conn: &mut PgConnection) -> sqlx::Result<Option<Progress>> {
    let mut tx = conn.begin().await?;
    let progress = advance(&mut tx, Which::Due, Pace::AtRate).await?;
    tx.commit().await?;
    Ok(progress)
}
