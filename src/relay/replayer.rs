//! The task that writes the rows of running replays to the outbox, each replay at its rate. It sleeps until
//! the leader of this process sees a running replay in what it polls anyway, so an idle replica pays nothing
//! for it. Two of them cannot harm each other: a replay is advanced by whoever has its row locked.

use std::time::Duration;

use sqlx::{Connection, Executor as _, PgConnection, PgPool};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::within;
use crate::outbox::{
    partitions::{Log, ensure_outbox, missing_in},
    replays::{Pace, Progress, Which, advance, read_next_due},
    wake::Wake,
};

/// Between two looks while a replay waits for its next message.
const LOOK: Duration = Duration::from_secs(1);
/// Between two steps of running replays: what became due in it goes into one transaction.
const STEP: Duration = Duration::from_millis(100);
/// For a step to go on: longer than it is waited for.
const IDLE_TIMEOUT: &str = "set local idle_in_transaction_session_timeout = '15s'";
/// After a failure of the database.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Runs until it is cancelled; a step that has begun is finished first. Takes one connection of `pool` at a
/// time. `partition_rows` is `outbox.partition_rows`; `running` rings while there are running replays, and
/// `wake` tells the relay about their rows.
pub async fn run(pool: PgPool, partition_rows: i64, running: Wake, wake: Wake, cancel: CancellationToken) {
    let mut failing = false;
    while cancel.run_until_cancelled(running.woken()).await.is_some() {
        loop {
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
                    Some(AFTER_FAILURE)
                }
            };
            let Some(wait) = wait else { break };
            if cancel.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }
}

/// Advances the replay that is due for the longest; returns how long to wait before the next step, none
/// when no replay is running.
async fn step(pool: &PgPool, partition_rows: i64, wake: &Wake) -> sqlx::Result<Option<Duration>> {
    let mut conn = pool.acquire().await?;
    let done = within(step_on(&mut conn, partition_rows, wake)).await;
    if matches!(done, Err(sqlx::Error::Io(_))) {
        // It may be in the middle of something.
        conn.close_on_drop();
    }
    done
}

async fn step_on(conn: &mut PgConnection, partition_rows: i64, wake: &Wake) -> sqlx::Result<Option<Duration>> {
    let progress = match advance_once(conn).await {
        Err(error) if missing_in(&error) == Some(Log::Outbox) => {
            ensure_outbox(conn, partition_rows).await?;
            return Ok(Some(Duration::ZERO));
        }
        other => other?,
    };
    let Some(progress) = progress else {
        return Ok(read_next_due(conn).await?.map(|due| due.clamp(STEP, LOOK)));
    };
    if progress.inserted > 0 {
        wake.wake();
    }
    let Progress { id, unsent, .. } = progress;
    if unsent > 0 {
        tracing::warn!(replay = %id, unsent, "the replay is done and has sent less than it matched: rows have gone");
    } else if progress.done {
        tracing::info!(replay = %id, "the replay is done");
    }
    Ok(Some(Duration::ZERO))
}

async fn advance_once(conn: &mut PgConnection) -> sqlx::Result<Option<Progress>> {
    let mut tx = conn.begin().await?;
    // Whose other end is gone holds the replay's lock until the server gives it up.
    tx.execute(IDLE_TIMEOUT).await?;
    let progress = advance(&mut tx, Which::Due, Pace::AtRate).await?;
    failpoint!("replay.commit.before", lost);
    tx.commit().await?;
    failpoint!("replay.commit.after", lost);
    Ok(progress)
}
