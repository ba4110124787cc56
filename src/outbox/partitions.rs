//! Partitions of the logs: made ahead, and dropped whole.
//!
//! Made with `create table (like ...)` and `attach partition`, which takes SHARE UPDATE EXCLUSIVE on the
//! parent and so waits for no reader and no writer. (`partition of` takes ACCESS EXCLUSIVE: one open
//! report, and every insert queues behind it.) Dropped with `detach concurrently`, then `drop`.

use std::{ops::Range, time::Duration};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Sequence numbers in one partition of `outbox_checkpoints` at least: at 50 checkpoints a second, five hours.
pub const CHECKPOINT_PARTITION_SEQS: i64 = 1_000_000;
/// A partition that is made holds this part of what its log holds already, or more. A statement opens and locks every
/// partition of a table that it names, so their number has to stay bounded, whatever the rate and the retention: it grows by
/// the logarithm of the log while nothing is dropped, and then becomes about this. Of what is old enough to go, a
/// partition more stays.
const LOG_IN_PARTITIONS: i64 = 16;
/// A partition holds at most so many times what one has to hold: the whole of one is read once, when it is old enough to
/// go, and it is filled at a rate that may have fallen since. A log of a thousand of these needs a larger least.
const LARGEST: i64 = 64;
/// Days for which partitions of `jobs` and `job_results` are made ahead.
const DAYS_AHEAD: u64 = 2;
/// How long a change of partitions waits for a lock before it gives up; it is tried again later.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The comment of a partition that is going: what is detached and has it is ours to drop. A table that an operator has
/// detached or restored, to keep it or to look into it, has a name like a partition's and not this.
const GOING: &str = "retention is dropping this partition";
/// Serialises the makers; released with the transaction. The number has no meaning beyond being ours.
const MAKER_LOCK: i64 = 0x6f75_7462_6f78; // "outbox"

/// Makes the partitions of `jobs` and `job_results` for the day of `now` and the next ones. Idempotent, and
/// safe to call from several replicas at once. Begins its own transaction.
pub async fn ensure_jobs(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<()> {
    let today = now.date_naive();
    for parent in ["jobs", "job_results"] {
        for ahead in 0..=DAYS_AHEAD {
            let day = today + Days::new(ahead);
            let bound = |day: NaiveDate| {
                let at = day.and_time(NaiveTime::MIN).and_utc();
                format!("'{}'", uuid7_floor(at))
            };
            let name = format!("{parent}_{}", day.format("%Y%m%d"));
            make(conn, parent, &name, &bound(day), &bound(day + Days::new(1))).await?;
        }
    }
    Ok(())
}

/// Makes partitions of `outbox_messages` until at least `partition_rows` ids are ready beyond the last one
/// drawn. Returns the end (exclusive) of what is ready. Idempotent; begins its own transactions.
pub async fn ensure_outbox(conn: &mut PgConnection, partition_rows: i64) -> sqlx::Result<i64> {
    loop {
        let log = bounds_of(conn, "outbox_messages").await?.unwrap_or(1..1);
        let drawn = read_drawn(conn).await?;
        if log.end - drawn > partition_rows {
            return Ok(log.end);
        }
        make_next(conn, "outbox_messages", &log, partition_rows).await?;
    }
}

/// The last id of `outbox_messages` that was drawn: not for counting what is pending, for which it would be wrong, but as the
/// ids' high-water mark.
pub async fn read_drawn(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select last_value from outbox_messages_id_seq")
        .fetch_one(conn)
        .await
}

/// Makes partitions of `outbox_checkpoints` until one more than that of `seq` is ready. Only `migrate`, a
/// leader and who takes over call this, never an insert of a leader: a woken zombie would recreate a dropped one and lead for
/// ever. It makes what comes behind the last one, and never what was dropped before it. Returns the end (exclusive) of what
/// is ready.
pub async fn ensure_checkpoints(conn: &mut PgConnection, seq: i64) -> sqlx::Result<i64> {
    loop {
        let log = bounds_of(conn, "outbox_checkpoints").await?.unwrap_or(0..0);
        if log.end > seq + CHECKPOINT_PARTITION_SEQS {
            return Ok(log.end);
        }
        make_next(conn, "outbox_checkpoints", &log, CHECKPOINT_PARTITION_SEQS).await?;
    }
}

/// Makes the partition behind the last one.
async fn make_next(conn: &mut PgConnection, parent: &str, log: &Range<i64>, least: i64) -> sqlx::Result<()> {
    let (from, to) = (log.end, log.end + next_size(log, least));
    let name = format!("{parent}_{from}");
    make(conn, parent, &name, &format!("'{from}'"), &format!("'{to}'")).await
}

/// How many numbers the next partition holds: a multiple of `least`.
fn next_size(log: &Range<i64>, least: i64) -> i64 {
    ((log.end - log.start) / LOG_IN_PARTITIONS / least).clamp(1, LARGEST) * least
}

/// The smallest UUIDv7 of an instant, as the SQL function `uuid7_floor` makes it.
fn uuid7_floor(at: DateTime<Utc>) -> uuid::Uuid {
    uuid::Uuid::from_u128((at.timestamp_millis() as u128) << 80)
}

/// Creates and attaches one partition, unless it is there. `from` and `to` are SQL literals of ours.
async fn make(conn: &mut PgConnection, parent: &str, name: &str, from: &str, to: &str) -> sqlx::Result<()> {
    let mut tx = conn.begin().await?;
    sqlx::query(AssertSqlSafe(format!(
        "set local lock_timeout = {}",
        LOCK_TIMEOUT.as_millis()
    )))
    .execute(&mut *tx)
    .await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(MAKER_LOCK)
        .execute(&mut *tx)
        .await?;
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(name)
        .fetch_one(&mut *tx)
        .await?;
    if !exists {
        // Without identity: the parent draws the ids. Indexes and triggers come with `attach`.
        for statement in [
            format!("create table {name} (like {parent} including defaults including constraints including storage)"),
            format!("alter table {parent} attach partition {name} for values from ({from}) to ({to})"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
        }
        tracing::info!(partition = name, "made a partition");
    }
    tx.commit().await
}

/// What the partitions hold of a table that is partitioned by a number: from the first one's begin to the last one's end.
async fn bounds_of(conn: &mut PgConnection, parent: &str) -> sqlx::Result<Option<Range<i64>>> {
    let (begin, end): (Option<i64>, Option<i64>) = sqlx::query_as(
        "select min(substring(bound from 'FROM \\(''(\\d+)''\\)')::bigint), max(substring(bound from 'TO \\(''(\\d+)''\\)')::bigint)
         from pg_inherits i join pg_class c on c.oid = i.inhrelid, lateral pg_get_expr(c.relpartbound, c.oid) bound
         where i.inhparent = $1::text::regclass",
    )
    .bind(parent)
    .fetch_one(conn)
    .await?;
    Ok(begin.zip(end).map(|(begin, end)| begin..end))
}

/// Whether an insert failed because the log has no partition for its row yet.
pub fn is_missing(error: &sqlx::Error, parent: &str) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| e.code().as_deref() == Some("23514") && e.table() == Some(parent) && e.constraint().is_none())
}

/// The end (exclusive) of the last partition of a table that is partitioned by a number.
pub async fn end_of(conn: &mut PgConnection, parent: &str) -> sqlx::Result<Option<i64>> {
    Ok(bounds_of(conn, parent).await?.map(|log| log.end))
}

/// A partition that [`drop_settled`] dropped, or would drop.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Dropped {
    /// The partition's table.
    pub partition: String,
    /// Rows that went with it.
    pub rows: i64,
}

/// What is older than these may go.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// Messages, and the checkpoints that have their receipts.
    pub messages: DateTime<Utc>,
    /// Jobs and their results.
    pub jobs: DateTime<Utc>,
}

/// Drops the partitions of which nothing is needed any more: every row settled and older than `before` says, none
/// that an unfinished replay has yet to send or that the audit that counts found missing, and, in
/// `outbox_messages`, every row accounted for by a receipt or a dead letter. With `dry_run`, only says which. Runs
/// outside a transaction (`detach concurrently` demands it), waits for open snapshots at most [`LOCK_TIMEOUT`] and
/// then leaves the partition for the next call, which finishes what was half done.
pub async fn drop_settled(conn: &mut PgConnection, before: Before, dry_run: bool) -> sqlx::Result<Vec<Dropped>> {
    if !dry_run {
        finish_pending_detaches(conn).await?;
        drop_detached(conn).await?;
    }
    let mut dropped = Vec::new();
    let Before { messages, jobs } = before;
    for (parent, droppable, before) in [
        ("outbox_messages", OUTBOX_DROPPABLE, messages),
        // First, for a job whose answer has gone would be PENDING again, and its answers would have nowhere to go.
        ("jobs", JOBS_DROPPABLE, jobs),
        ("job_results", RESULTS_DROPPABLE, jobs),
        ("outbox_checkpoints", CHECKPOINTS_DROPPABLE, messages),
    ] {
        for partition in partitions_of(conn, parent).await? {
            let gone: Vec<_> = dropped.iter().map(|d: &Dropped| d.partition.as_str()).collect();
            let sql = droppable
                .replace("{partition}", &partition)
                .replace("{gone}", &gone.join(","));
            let rows: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(before)
                .fetch_optional(&mut *conn)
                .await?;
            // In order of age: behind the first that has to stay, nothing goes.
            let Some(rows) = rows else { break };
            if !dry_run {
                drop_partition(conn, parent, &partition).await?;
                tracing::info!(partition, rows, "dropped a partition");
            }
            dropped.push(Dropped { partition, rows });
        }
    }
    Ok(dropped)
}

/// What is to be sent again from the rows: what an unfinished replay has before it, and what the audit that counts found
/// missing. `ids` may have millions of ranges: whoever asks looks for one range in it, by bisection, and never for a row.
macro_rules! wanted {
    () => {
        "wanted as (
             select within as ids, int8range(cursor + 1, null) as rest
             from outbox_replays where state in ('running', 'paused')
             union all
             select missing_ids, int8range(null, null) from outbox_standing_audit() where missing > 0
         )"
    };
}

/// One row, the count, when the partition may go: full (its last id was used), old, settled, accounted for, and nobody wants
/// it sent again. Its rows and receipts are counted only when its last row is old.
const OUTBOX_DROPPABLE: &str = concat!(
    "
    with bounds as materialized (
        select substring(pg_get_expr(relpartbound, oid) from 'FROM \\(''(\\d+)''\\)')::bigint as lo,
               substring(pg_get_expr(relpartbound, oid) from 'TO \\(''(\\d+)''\\)')::bigint as hi
        from pg_class where oid = '{partition}'::regclass
    ), last as materialized (
        select coalesce((select created_at < $1 from {partition} order by id desc limit 1), true) as is_old
    ), rows as materialized (
        select count(*) as n, max(created_at) as newest from {partition} where (select is_old from last)
    ), receipts as (
        select count(distinct id) as n from bounds, outbox_checkpoints c, unnest(c.receipt_ids) id
        where c.settled && int8range(lo, hi) and not isempty(c.settled) and id >= lo and id < hi
    ), dead as (
        select count(*) as n from outbox_dead_letters, bounds where outbox_id >= lo and outbox_id < hi
    ), ",
    wanted!(),
    "
    select rows.n from bounds, rows, receipts, dead
    where (select is_old from last)
      and int8range(lo, hi) <@ (select passed from outbox_position())
      and coalesce(rows.newest, '-infinity') < $1
      and rows.n = receipts.n + dead.n
      -- What an operator has not decided about can still be sent again.
      and not exists (select from outbox_dead_letters d where d.outbox_id >= lo and d.outbox_id < hi
                      and d.resolution is null)
      and not exists (select from wanted where wanted.ids && (wanted.rest * int8range(lo, hi)))"
);

/// Dead letters of which more is to come: somebody has to decide, or what sent them again waits or has died as well.
macro_rules! open_letters {
    () => {
        "open (id) as (
             select outbox_id from outbox_dead_letters
             where resolution is null or not coalesce(retry_id <@ (select outbox_settled()), true)
             union
             select d.outbox_id from open join outbox_dead_letters d on d.retry_id = open.id
         )"
    };
}

/// A day's jobs: old, every one's message settled, and none of their messages wanted. Those of a day are told by the range of
/// their ids; a replay of one of them, which has a later id, by any between the first and the last id that is wanted. Nothing
/// is read of a day that is not old: hence the `case`.
const JOBS_DROPPABLE: &str = concat!(
    "with recursive ",
    open_letters!(),
    ", ",
    wanted!(),
    ", spans as materialized (
        select rest * range_merge(ids) as ids from wanted
    ), day as materialized (
        select int8range(coalesce(min(outbox_id), 0), coalesce(max(outbox_id) + 1, 0)) as ids from {partition}
    )
    select (select count(*) from {partition}) from pg_class
    where oid = '{partition}'::regclass
      and case when to_date(right(relname, 8), 'YYYYMMDD') + 1 < $1 then
        not exists (
            select from {partition} j where not j.outbox_id <@ (select outbox_settled())
              or exists (select from open where open.id = j.outbox_id))
        and not exists (select from wanted, day where wanted.ids && (wanted.rest * day.ids))
        and not exists (
            select from spans, day, outbox_messages again
            where again.replay_of >= lower(day.ids) and again.replay_of < upper(day.ids) and again.id <@ spans.ids)
      else false end"
);

/// A day's results: old, and the day's jobs have gone, or would have by now.
const RESULTS_DROPPABLE: &str = "
    select (select count(*) from {partition}) from pg_class r
    where r.oid = '{partition}'::regclass
      and to_date(right(r.relname, 8), 'YYYYMMDD') + 1 < $1
      and not exists (
        select from pg_inherits i join pg_class j on j.oid = i.inhrelid
        where i.inhparent = 'jobs'::regclass and right(j.relname, 8) = right(r.relname, 8)
          and j.relname <> all ('{{gone}}'::text[]))";

/// Checkpoints: a newer base exists beyond the partition, and every id in its receipts has gone.
const CHECKPOINTS_DROPPABLE: &str = "
    select (select count(*) from {partition})
    where (select max(seq) from {partition}) < (select max(seq) from outbox_checkpoints where base_passed is not null)
      and (select max(created_at) from {partition}) < $1
      and not exists (
        select from {partition} where not isempty(settled)
          and upper(settled) > (select coalesce(min(id), 0) from outbox_messages))";

/// The partitions of a table, oldest first (their names sort by length, then by text), attached ones only.
async fn partitions_of(conn: &mut PgConnection, parent: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = $1::text::regclass and not i.inhdetachpending
         order by length(c.relname), c.relname",
    )
    .bind(parent)
    .fetch_all(conn)
    .await
}

/// A `detach concurrently` that was interrupted leaves the partition pending; it must be finished before
/// another one of the same table can begin.
async fn finish_pending_detaches(conn: &mut PgConnection) -> sqlx::Result<()> {
    let pending: Vec<(String, String)> = sqlx::query_as(
        "select i.inhparent::regclass::text, i.inhrelid::regclass::text from pg_inherits i
         where i.inhdetachpending and i.inhparent in
             ('jobs'::regclass, 'job_results'::regclass, 'outbox_messages'::regclass, 'outbox_checkpoints'::regclass)",
    )
    .fetch_all(&mut *conn)
    .await?;
    for (parent, partition) in pending {
        mark_going(conn, &partition).await?;
        execute(
            conn,
            format!("alter table {parent} detach partition {partition} finalize"),
        )
        .await?;
    }
    Ok(())
}

/// Drops what was detached and has not been dropped since. What cannot be dropped stays, and keeps nothing else from
/// going.
async fn drop_detached(conn: &mut PgConnection) -> sqlx::Result<()> {
    for table in read_detached(conn, true).await? {
        match execute(conn, format!("drop table if exists {table}")).await {
            Ok(()) => tracing::info!(partition = table, "finished dropping a partition"),
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::warn!(%error, partition = table, "a detached partition cannot be dropped; it is tried again");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Tables that are named as partitions are, are none, and that retention has not left behind: nobody drops them.
pub async fn read_leftovers(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    read_detached(conn, false).await
}

/// Ordinary tables beside ours that are named as partitions are and are none: those that are going, or the others. One
/// that is being made is not seen before it is attached.
async fn read_detached(conn: &mut PgConnection, going: bool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select c.oid::regclass::text from pg_class c
         where c.relkind = 'r'
           and c.relnamespace = (select relnamespace from pg_class where oid = 'outbox_messages'::regclass)
           and c.relname ~ '^(outbox_messages|outbox_checkpoints|jobs|job_results)_[0-9]+$'
           and not exists (select from pg_inherits i where i.inhrelid = c.oid)
           and (obj_description(c.oid, 'pg_class') is not distinct from $1) = $2
         order by length(c.relname), c.relname",
    )
    .bind(GOING)
    .bind(going)
    .fetch_all(conn)
    .await
}

async fn mark_going(conn: &mut PgConnection, partition: &str) -> sqlx::Result<()> {
    execute(conn, format!("comment on table {partition} is '{GOING}'")).await
}

/// Takes the mark back from what is a partition as before: its detaching has not begun.
async fn unmark_attached(conn: &mut PgConnection, partition: &str) -> sqlx::Result<()> {
    let attached: bool = sqlx::query_scalar(
        "select exists (select from pg_inherits where inhrelid = to_regclass($1) and not inhdetachpending)",
    )
    .bind(partition)
    .fetch_one(&mut *conn)
    .await?;
    if attached {
        execute(conn, format!("comment on table {partition} is null")).await?;
    }
    Ok(())
}

async fn drop_partition(conn: &mut PgConnection, parent: &str, partition: &str) -> sqlx::Result<()> {
    // Detaching and dropping cannot be one transaction.
    mark_going(conn, partition).await?;
    let detached = execute(
        conn,
        format!("alter table {parent} detach partition {partition} concurrently"),
    )
    .await;
    if detached.is_err() {
        // Who detaches it now, or restores it from a dump, means to keep it. The error is told, whatever becomes of this.
        _ = unmark_attached(conn, partition).await;
    }
    detached?;
    // Another round may have been quicker.
    execute(conn, format!("drop table if exists {partition}")).await
}

/// One statement outside a transaction, under the lock time-out.
async fn execute(conn: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::query(AssertSqlSafe(format!(
        "set lock_timeout = {}",
        LOCK_TIMEOUT.as_millis()
    )))
    .execute(&mut *conn)
    .await?;
    let done = sqlx::query(AssertSqlSafe(statement))
        .persistent(false)
        .execute(&mut *conn)
        .await;
    sqlx::query("reset lock_timeout").execute(&mut *conn).await?;
    done.map(|_| ())
}

/// A partitioned table that rows are inserted into without looking first whether their partition is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// By the day: [`ensure_jobs`].
    Jobs,
    /// By the id: [`ensure_outbox`].
    Outbox,
}

/// The log that has no partition for a row yet, when that is why an insert failed: make it, and try again.
pub fn missing_in(error: &sqlx::Error) -> Option<Log> {
    [(Log::Jobs, "jobs"), (Log::Outbox, "outbox_messages")]
        .into_iter()
        .find_map(|(log, parent)| is_missing(error, parent).then_some(log))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a log, keeps at least `retained` of it, and says how many partitions there were at most, and at last.
    fn partitions(retained: i64, least: i64) -> (usize, usize) {
        let (mut sizes, mut most) = (std::collections::VecDeque::from([least]), 0);
        let mut log = 0..least;
        while log.end < 10 * retained {
            let size = next_size(&log, least);
            assert_eq!(size % least, 0);
            assert!(size <= LARGEST * least, "{size} in one");
            sizes.push_back(size);
            log.end += size;
            most = most.max(sizes.len());
            while log.end - log.start - sizes[0] > retained {
                log.start += sizes.pop_front().expect("the first");
            }
            let too_much = log.end - log.start - retained;
            assert!(
                too_much <= (retained / 8).max(2 * least),
                "{too_much} more than {retained} are kept"
            );
        }
        (most, sizes.len())
    }

    #[test]
    fn a_log_of_a_thousand_partitions_has_tens_and_keeps_little_more_than_it_has_to() {
        for retained in [0, 1, 10, 100, 600, 1_000] {
            let (most, last) = partitions(retained * 1_000, 1_000);
            assert!(
                most <= 32 + 16 * (retained.max(1).ilog2() as usize),
                "{retained}: {most}"
            );
            assert!(last <= 34, "{retained}: {last}");
        }
        let (most, last) = partitions(10_000_000, 1_000);
        assert!(most <= 300 && last <= 160, "{most}, {last}");
    }
}
