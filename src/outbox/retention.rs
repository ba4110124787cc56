//! What is dropped once it is old, by a leader every hour and by an operator's `retain`: settled partitions of the logs,
//! whole (see [`super::partitions`]), and, row by row because they are no log, idempotency keys.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    acts::{Act, Actor, record_act},
    partitions::{Before, Dropped, drop_settled},
};
use crate::config::Config;

/// Keys deleted by one statement, so that no transaction grows long.
const KEYS_PER_BATCH: i64 = 5_000;

/// How long what is kept, at least.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// `outbox.retention`: messages, and what became of them.
    pub outbox: Duration,
    /// Jobs and their results: `jobs.retention`, and never shorter than `outbox` and `keys`, for a message has a job, and a
    /// key that is asked again is answered with one.
    pub jobs: Duration,
    /// `idempotency.retention`.
    pub keys: Duration,
}

impl From<&Config> for Kept {
    fn from(config: &Config) -> Self {
        let with_messages = config.jobs.retention.max(config.outbox.retention);
        Self {
            outbox: config.outbox.retention,
            jobs: with_messages.max(config.idempotency.retention),
            keys: config.idempotency.retention,
        }
    }
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
    let partitions = drop_partitions(conn, kept, true).await?;
    Ok(with_keys(partitions, keys, false))
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
    let partitions = drop_partitions(conn, kept, false).await?;
    Ok(with_keys(partitions, keys, true))
}

/// What [`Gone::what`] calls the idempotency keys.
pub const KEYS: &str = "idempotency_keys";

fn with_keys(partitions: Vec<Dropped>, keys: i64, dropped: bool) -> Vec<Gone> {
    let partitions = partitions.into_iter().map(|gone| (gone.partition, gone.rows));
    partitions
        .chain([(KEYS.to_owned(), keys)])
        .map(|(what, rows)| Gone { what, rows, dropped })
        .collect()
}

/// Drops the partitions that have outlived their time; with `dry_run`, only says which.
pub async fn drop_partitions(conn: &mut PgConnection, kept: Kept, dry_run: bool) -> sqlx::Result<Vec<Dropped>> {
    // Ages are by PostgreSQL's clock, as the rows' own times are.
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&mut *conn)
        .await?;
    // Beyond what a time can say, everything is kept.
    let before = |kept: Duration| {
        TimeDelta::from_std(kept)
            .ok()
            .and_then(|kept| now.checked_sub_signed(kept))
            .unwrap_or(DateTime::UNIX_EPOCH)
    };
    let before = Before {
        messages: before(kept.outbox),
        jobs: before(kept.jobs),
    };
    drop_settled(conn, before, dry_run).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_job_is_kept_as_long_as_its_message_and_as_a_key_that_leads_to_it() {
        const DAY: Duration = Duration::from_hours(24);
        let mut config = Config::load(&Sources::default()).expect("the defaults");
        for (jobs, outbox, keys) in [(3, 1, 1), (1, 3, 1), (1, 1, 3)] {
            config.jobs.retention = DAY * jobs;
            config.outbox.retention = DAY * outbox;
            config.idempotency.retention = DAY * keys;
            let kept = Kept::from(&config);
            assert_eq!(kept.jobs, DAY * 3, "{jobs}, {outbox}, {keys}");
            assert_eq!((kept.outbox, kept.keys), (DAY * outbox, DAY * keys));
        }
    }
}
