//! What is deleted row by row because it is no log: idempotency keys. The logs lose whole partitions, see
//! [`super::partitions`].

use std::time::Duration;

use sqlx::PgConnection;

/// Keys deleted by one statement, so that no transaction grows long.
const KEYS_PER_BATCH: i64 = 5_000;

/// How many idempotency keys are older than `older_than`.
pub async fn count_expired_keys(conn: &mut PgConnection, older_than: Duration) -> sqlx::Result<i64> {
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
