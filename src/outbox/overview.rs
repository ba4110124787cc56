//! The numbers that operators look at first.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::{
    control::{Pause, read_pause},
    dead_letters::COUNTED,
    installation::{self, Halt},
};

/// The view `outbox_overview`, the dead letters by what became of them, and the lease.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Overview {
    /// Ids up to the newest that are neither settled nor closed, holes of open transactions included.
    pub pending: i64,
    /// In seconds; 0: nothing waits.
    pub oldest_pending_age_seconds: f64,
    /// In Kafka.
    pub published: i64,
    /// Unresolved dead letters.
    pub dead: i64,
    /// Dead letters that were retried, counted up to ten thousand.
    pub dead_retried: i64,
    /// Dead letters that were given up, counted up to ten thousand.
    pub dead_discarded: i64,
    /// False: there are more of the last two.
    pub dead_resolved_exact: bool,
    /// Messages whose records the audits found missing from the topic.
    pub missing: i64,
    /// The leading replica; null: none leads.
    pub leader: Option<String>,
    /// When the leader's lease ends unless it renews it; also that of a lease that has run out. Null: nobody
    /// has led yet.
    pub lease_until: Option<DateTime<Utc>>,
    /// The last checkpoint.
    pub checkpoint: Option<i64>,
    /// Its fence.
    pub fence: Option<i64>,
}

/// All of it: the numbers, the pause, a halt, the partitions.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// The numbers.
    #[serde(flatten)]
    pub overview: Overview,
    /// Null: not paused.
    pub paused: Option<Pause>,
    /// Null: publishing does not halt.
    pub halted: Option<Halt>,
    /// Of all logs.
    pub partitions: Vec<PartitionStatus>,
}

/// Reads all of it.
pub async fn read_stats(conn: &mut PgConnection) -> sqlx::Result<Stats> {
    Ok(Stats {
        overview: read_overview(conn).await?,
        paused: read_pause(conn).await?,
        halted: installation::read(conn).await?.halt(),
        partitions: list_partitions(conn).await?,
    })
}

/// Reads the numbers.
pub async fn read_overview(conn: &mut PgConnection) -> sqlx::Result<Overview> {
    sqlx::query_as(
        "select o.pending, o.oldest_pending_age_seconds, coalesce(o.published, 0) as published, o.dead, o.leader,
                least(retried.n, $1) as dead_retried, least(discarded.n, $1) as dead_discarded,
                greatest(retried.n, discarded.n) <= $1 as dead_resolved_exact, outbox_missing() as missing,
                nullif(c.lease_until, '-infinity') as lease_until, c.seq as checkpoint, c.fence
         from outbox_overview o
         cross join (
             select count(*) as n from (select from outbox_dead_letters where resolution = 'retried' limit $1 + 1) d
         ) retried
         cross join (
             select count(*) as n from (select from outbox_dead_letters where resolution = 'discarded' limit $1 + 1) d
         ) discarded
         left join lateral (
             select seq, fence, lease_until from outbox_checkpoints order by seq desc limit 1
         ) c on true",
    )
    .bind(COUNTED)
    .fetch_one(conn)
    .await
}

/// The newest id of the outbox, whatever became of it; 0: it is empty.
pub async fn read_newest_id(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select coalesce(max(id), 0) from outbox_messages")
        .fetch_one(conn)
        .await
}

/// Receipts that one look at latencies takes at most.
const LATENCY_RECEIPTS: i64 = 1000;
/// Checkpoints that it looks at at most: ten seconds of them under load.
const LATENCY_CHECKPOINTS: i64 = 500;

/// How long messages took from when their row was written to their receipt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, sqlx::FromRow)]
pub struct Latency {
    /// The median.
    pub p50_seconds: f64,
    /// The 99th percentile.
    pub p99_seconds: f64,
    /// Of so many messages.
    pub messages: i64,
}

/// The latencies of what the newest checkpoints after `seq` have receipts of, at most [`LATENCY_RECEIPTS`] of
/// them; `None`: there are none.
pub async fn read_latency(conn: &mut PgConnection, after: i64) -> sqlx::Result<Option<Latency>> {
    sqlx::query_as(
        "with took as (
             select extract(epoch from c.created_at - m.created_at)::float8 as seconds
             from (
                 select created_at, receipt_ids from outbox_checkpoints
                 where seq > greatest($1, (select max(seq) from outbox_checkpoints) - $2) order by seq desc
             ) c,
             lateral unnest(c.receipt_ids) r (id),
             lateral (select created_at from outbox_messages where id = r.id offset 0) m
             limit $3
         )
         select coalesce(percentile_cont(0.5) within group (order by seconds), 0) as p50_seconds,
                coalesce(percentile_cont(0.99) within group (order by seconds), 0) as p99_seconds,
                count(*) as messages
         from took having count(*) > 0",
    )
    .bind(after)
    .bind(LATENCY_CHECKPOINTS)
    .bind(LATENCY_RECEIPTS)
    .fetch_optional(conn)
    .await
}

/// A partition of one of the logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct PartitionStatus {
    /// The log: `outbox_messages`, `outbox_checkpoints`, `jobs`, `job_results`.
    pub table: String,
    /// The partition's own name.
    pub name: String,
    /// As PostgreSQL prints it.
    pub bounds: String,
    /// The planner's estimate: counting would read it.
    pub estimated_rows: i64,
    /// With its indexes.
    pub bytes: i64,
}

/// The partitions of the logs, in the order of their names.
pub async fn list_partitions(conn: &mut PgConnection) -> sqlx::Result<Vec<PartitionStatus>> {
    sqlx::query_as(
        r#"select p.relname::text as "table", c.relname::text as name,
                  coalesce(pg_get_expr(c.relpartbound, c.oid), '') as bounds,
                  greatest(c.reltuples, 0)::bigint as estimated_rows, pg_total_relation_size(c.oid) as bytes
           from pg_inherits i join pg_class p on p.oid = i.inhparent join pg_class c on c.oid = i.inhrelid
           where p.oid in ('outbox_messages'::regclass, 'outbox_checkpoints'::regclass, 'jobs'::regclass,
                           'job_results'::regclass)
           order by p.relname, c.relname"#,
    )
    .fetch_all(conn)
    .await
}
