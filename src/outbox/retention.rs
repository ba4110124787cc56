//! What an operator's `retain` drops: settled partitions of the logs, whole (see [`super::partitions`]), and, row by
//! row because they are no log, idempotency keys.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    acts::{Act, Actor, record_act},
    partitions::drop_settled,
};

/// Keys deleted by one statement, so that no transaction grows long.
const KEYS_PER_BATCH: i64 = 5_000;

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// `outbox.retention`.
    pub outbox: Duration,
    /// `idempotency.retention`.
    pub keys: Duration,
}

/// One thing that went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Gone {
    /// A partition's name, or `idempotency_keys`.
    pub what: String,
    /// Its rows.
    pub rows: i64,
    /// False where this only says what would go.
    pub dropped: bool,
}

/// Says what [`retain`] would drop now.
pub async fn plan_retention(conn: &mut PgConnection, kept: Kept) -> sqlx::Result<Vec<Gone>> {
    let keys = count_expired_keys(conn, kept.keys).await?;
    drop_partitions(conn, kept.outbox, true, keys).await
}

/// Drops settled partitions and idempotency keys that have outlived their time. Not in a transaction of the
/// caller's, for a partition is detached outside of any; so the operators' log gets, before anything goes, what this
/// sets out to drop, and nothing when there is nothing.
pub async fn retain(
    conn: &mut PgConnection,
    kept: Kept,
    actor: &Actor,
    reason: Option<&str>,
) -> sqlx::Result<Vec<Gone>> {
    let plan = plan_retention(conn, kept).await?;
    let going: Vec<_> = plan.iter().filter(|gone| gone.rows > 0 || gone.what != KEYS).collect();
    if !going.is_empty() {
        let rows: i64 = going.iter().map(|gone| gone.rows).sum();
        let detail: Vec<_> = going
            .iter()
            .map(|gone| json!({"what": gone.what, "rows": gone.rows}))
            .collect();
        let names: Vec<_> = going.iter().map(|gone| gone.what.as_str()).collect();
        let detail = json!({"count": rows, "going": detail});
        record_act(conn, actor, Act::Retain, &names.join(", "), detail, reason).await?;
    }
    let mut keys = 0;
    loop {
        match delete_expired_keys(conn, kept.keys).await? {
            0 => break,
            batch => keys += batch as i64,
        }
    }
    drop_partitions(conn, kept.outbox, false, keys).await
}

/// What [`Gone::what`] calls the idempotency keys.
pub const KEYS: &str = "idempotency_keys";

async fn drop_partitions(conn: &mut PgConnection, kept: Duration, dry_run: bool, keys: i64) -> sqlx::Result<Vec<Gone>> {
    // Ages are by PostgreSQL's clock, as the rows' own times are.
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&mut *conn)
        .await?;
    // Beyond what a time can say, everything is kept.
    let before = TimeDelta::from_std(kept)
        .ok()
        .and_then(|kept| now.checked_sub_signed(kept))
        .unwrap_or(DateTime::UNIX_EPOCH);
    let partitions = drop_settled(conn, before, dry_run).await?;
    let partitions = partitions.into_iter().map(|gone| (gone.partition, gone.rows));
    Ok(partitions
        .chain([(KEYS.to_owned(), keys)])
        .map(|(what, rows)| Gone {
            what,
            rows,
            dropped: !dry_run,
        })
        .collect())
}

/// How many idempotency keys are older than `older_than`.
async fn count_expired_keys(conn: &mut PgConnection, older_than: Duration) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from idempotency_keys where created_at < clock_timestamp() - make_interval(secs => $1)",
    )
    .bind(older_than.as_secs_f64())
    .fetch_one(conn)
    .await
}

/// Deletes one batch of the idempotency keys older than `older_than`; returns how many. Call it again until
/// it returns 0.
pub async fn delete_expired_keys(conn: &mut PgConnection, older_than: Duration) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from idempotency_keys k using (
             select user_id, key from idempotency_keys
             where created_at < clock_timestamp() - make_interval(secs => $1)
             limit $2 for update skip locked
         ) old
         where k.user_id = old.user_id and k.key = old.key",
    )
    .bind(older_than.as_secs_f64())
    .bind(KEYS_PER_BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
