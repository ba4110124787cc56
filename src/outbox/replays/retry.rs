//! Retries of dead letters, to their end: an operator waits for it.

use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    super::{acts::Actor, dead_letters::Dead, partitions::ensure_outbox},
    Pace, SelectError, Which, advance, read_replay, retry_dead_letters,
};

/// What a retry did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Retried {
    /// Messages that are sent again.
    pub retried: i64,
    /// The operation that did it; null: there was nothing to do.
    pub replay_id: Option<Uuid>,
}

/// [`retry_dead_letters`] and all its steps, each in a transaction of its own, so that a group may be large. When it
/// is cut off, a running service writes the rest. `partition_rows` is `outbox.partition_rows`.
pub async fn retry_dead_letters_whole(
    conn: &mut PgConnection,
    dead: &Dead,
    reason: &str,
    actor: &Actor,
    partition_rows: i64,
) -> Result<Retried, SelectError> {
    let mut done = Retried {
        retried: 0,
        replay_id: None,
    };
    // Not "all", which is what a retry of no ids would select.
    if matches!(dead, Dead::Ids(ids) if ids.is_empty()) {
        return Ok(done);
    }
    // New rows need a partition; while no leader runs, nobody else makes it.
    ensure_outbox(conn, partition_rows).await?;
    let mut tx = conn.begin().await?;
    let Some(mut step) = retry_dead_letters(&mut tx, dead, reason, actor).await? else {
        tx.rollback().await?;
        return Ok(done);
    };
    tx.commit().await?;
    done.replay_id = Some(step.id);
    loop {
        done.retried += step.inserted;
        if step.done {
            return Ok(done);
        }
        let mut tx = conn.begin().await?;
        let next = advance(&mut tx, Which::One(step.id), Pace::Now).await?;
        tx.commit().await?;
        let Some(next) = next else {
            // A running service has written the rest, or somebody has cancelled or paused it.
            if let Some(replay) = read_replay(conn, step.id).await? {
                done.retried = replay.replayed;
            }
            return Ok(done);
        };
        step = next;
    }
}
