//! One step of a running replay: the next chunk of rows, at the replay's rate.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    super::dead_letters::{lock_unresolved, mark_retried},
    select::chosen,
    wanted::Selection,
};

/// Rows written by one transaction at most.
const CHUNK: i64 = 500;

/// Ids looked at by one transaction at most, so that a filter that matches little does not make it long, nor a set of
/// many ranges what it is told of that set.
const SCAN_IDS: i64 = 50_000;

/// What a replay may catch up at once after it could not write for a while, as time at its rate.
const BURST: TimeDelta = TimeDelta::milliseconds(250);

/// Which running replay to advance.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// The one that is due for the longest, and that nobody else advances at this moment.
    Due,
    /// This one; waits for who advances it at this moment.
    One(Uuid),
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At the replay's own rate; nothing while the relay is paused.
    AtRate,
    /// A whole chunk at once: an operator waits for it.
    Now,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The replay.
    pub id: Uuid,
    /// Rows written by this step.
    pub inserted: i64,
    /// It is done: there is no next step.
    pub done: bool,
    /// Of those that it matched, how many it has not sent although it is done: their rows have gone. Dead letters that
    /// somebody else resolved are none of these.
    pub unsent: i64,
}

#[derive(sqlx::FromRow)]
struct Running {
    id: Uuid,
    filter: Json<Selection>,
    reason: String,
    requested_by: String,
    upper_bound: i64,
    cursor: i64,
    rate: i32,
    due_at: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Writes the next chunk of a running replay and its progress; `None`: there is nothing to do now. The
/// caller commits: until then nobody else can advance this replay.
pub async fn advance(conn: &mut PgConnection, which: Which, pace: Pace) -> sqlx::Result<Option<Progress>> {
    let Some(replay) = lock_replay(conn, which, pace).await? else {
        return Ok(None);
    };
    let limit = match pace {
        Pace::AtRate => due(replay.now, replay.due_at, replay.rate).min(CHUNK),
        Pace::Now => CHUNK,
    };
    if limit == 0 {
        return Ok(None);
    }
    let chunk = choose_chunk(conn, &replay, limit).await?;
    // A message that is sent again is no longer an open dead letter. Others may resolve it at this moment:
    // whoever has its lock first does it, the other finds it resolved.
    let dead = lock_unresolved(conn, &chunk.ids).await?;
    let send = if replay.filter.dead_only() { &dead } else { &chunk.ids };
    let rows = insert_rows(conn, replay.id, send).await?;
    let inserted = rows.len() as i64;
    let (dead, retries): (Vec<_>, Vec<_>) = rows
        .iter()
        .filter(|(id, _)| dead.binary_search(id).is_ok())
        .copied()
        .unzip();
    mark_retried(conn, &dead, &retries, &replay.reason, &replay.requested_by).await?;

    let done = chunk.cursor >= replay.upper_bound;
    let due_at = match pace {
        Pace::AtRate => next_due(replay.now, replay.due_at, inserted, replay.rate),
        Pace::Now => replay.due_at,
    };
    let left: Option<i64> = sqlx::query_scalar(
        "update outbox_replays
         set cursor = $3, replayed = replayed + $4, due_at = $5,
             state = case when $6 then 'done' else state end,
             changed_at = case when $6 then clock_timestamp() else changed_at end
         where id = $1 and state = 'running' and cursor = $2
         returning matched - replayed",
    )
    .bind(replay.id)
    .bind(replay.cursor)
    .bind(chunk.cursor)
    .bind(inserted)
    .bind(due_at)
    .bind(done)
    .fetch_optional(conn)
    .await?;
    // The row is locked since it was read; an error makes the caller roll back whatever it was.
    let left = left.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Some(Progress {
        id: replay.id,
        inserted,
        done,
        unsent: if done && !replay.filter.dead_only() { left } else { 0 },
    }))
}

/// How long until some running replay is due; `None`: none runs, or the relay is paused.
pub async fn read_next_due(conn: &mut PgConnection) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(due_at) - clock_timestamp())::float8
         from outbox_replays where state = 'running' and not (select paused from outbox_control)",
    )
    .fetch_one(conn)
    .await?;
    Ok(seconds.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()))
}

async fn lock_replay(conn: &mut PgConnection, which: Which, pace: Pace) -> sqlx::Result<Option<Running>> {
    match which {
        Which::Due => {
            sqlx::query_as(
                "select id, filter, reason, requested_by, upper_bound, cursor, rate, due_at,
                        clock_timestamp() as now
                 from outbox_replays
                 where state = 'running' and due_at <= clock_timestamp()
                   and not ($1 and (select paused from outbox_control))
                 order by due_at limit 1 for update skip locked",
            )
            .bind(pace == Pace::AtRate)
            .fetch_optional(conn)
            .await
        }
        Which::One(id) => {
            sqlx::query_as(
                "select id, filter, reason, requested_by, upper_bound, cursor, rate, due_at,
                        clock_timestamp() as now
                 from outbox_replays
                 where state = 'running' and id = $2 and not ($1 and (select paused from outbox_control))
                 for update",
            )
            .bind(pace == Pace::AtRate)
            .bind(id)
            .fetch_optional(conn)
            .await
        }
    }
}

/// What of the frozen set a step looks at.
#[derive(sqlx::FromRow)]
struct Part {
    /// The text of an `int8multirange`.
    ids: String,
    /// The last id that may be among them.
    end: i64,
}

/// Reads the set's next part: `most` ids from the first one behind the cursor, however many lie between. The set is cut
/// by the server: one of millions of ranges, as an audit of a lost partition leaves it, takes seconds to be written out.
async fn read_part(conn: &mut PgConnection, replay: &Running, most: Option<i64>) -> sqlx::Result<Part> {
    sqlx::query_as(
        "with rest as materialized (
             select within * int8multirange(int8range($2::bigint + 1, $3::bigint + 1)) as ids from outbox_replays where id = $1
         ), until as materialized (
             select ids, least(lower(ids) + $4::bigint - 1, $3) as id from rest
         )
         select (ids * int8multirange(int8range($2 + 1, until.id + 1)))::text as ids, until.id as end from until",
    )
    .bind(replay.id)
    .bind(replay.cursor)
    .bind(replay.upper_bound)
    .bind(most)
    .fetch_one(conn)
    .await
}

/// Part of a choice.
struct Chunk {
    /// Ascending.
    ids: Vec<i64>,
    /// All ids up to here were looked at.
    cursor: i64,
}

macro_rules! chunk {
    ($how:tt, $and:literal) => {
        concat!("select id from (", chosen!($how, $and), ") chosen")
    };
}

async fn choose_chunk(conn: &mut PgConnection, replay: &Running, limit: i64) -> sqlx::Result<Chunk> {
    // Dead letters, and ids that were named, are few among many: they need no bound on the ids looked at. Names are no
    // more than fit into a command or a request, and dead letters are looked for within what is settled.
    let most = match replay.filter.0 {
        Selection::Window(_) | Selection::Missing { .. } => Some(SCAN_IDS),
        Selection::Name { .. } | Selection::Dead { .. } => None,
    };
    let Part { ids: within, end } = read_part(conn, replay, most).await?;
    let p = replay.filter.params();
    let query = match replay.filter.0 {
        Selection::Window(_) | Selection::Missing { .. } => {
            chunk!(settled, "and m.id > $9 and m.id <= $10 order by m.id limit $11")
        }
        Selection::Name { .. } => chunk!(named, "and m.id > $9 and m.id <= $10 order by m.id limit $11"),
        Selection::Dead { .. } => {
            chunk!(
                settled,
                "and d.outbox_id > $9 and d.outbox_id <= $10 order by m.id limit $11"
            )
        }
    };
    let ids: Vec<i64> = sqlx::query_scalar(query)
        .persistent(false)
        .bind(within)
        .bind(p.window.from)
        .bind(p.window.to)
        .bind(p.window.key)
        .bind(p.window.user)
        .bind(p.dead_only)
        .bind(p.class)
        .bind(p.replays_too)
        .bind(replay.cursor)
        .bind(end)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    let cursor = match ids.last() {
        Some(last) if ids.len() as i64 == limit => *last,
        _ => end,
    };
    Ok(Chunk { ids, cursor })
}

/// Writes the new rows in the order of the old ones, whose ids it gives with the new ones. The replay of a replay names
/// the original, so that one look-up finds all of a message's replays.
async fn insert_rows(conn: &mut PgConnection, replay: Uuid, ids: &[i64]) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "with old as materialized (
             select m.*, nextval('outbox_messages_id_seq') as new_id
             from (select * from outbox_messages where id = any($1) order by id offset 0) m
         ), new as (
             insert into outbox_messages
                 (id, event_id, job_id, key, event_time, created_at, replay_of, replay_id, traceparent, payload)
             overriding system value
             select new_id, event_id, job_id, key, event_time, (select clock_timestamp()), coalesce(replay_of, id), $2,
                    traceparent, payload
             from old
         )
         select id, new_id from old",
    )
    .bind(ids)
    .bind(replay)
    .fetch_all(conn)
    .await
}

/// How many messages may go now: those due since `due_at`, at most [`BURST`] of them, at least one when it
/// is time.
fn due(now: DateTime<Utc>, due_at: DateTime<Utc>, rate: i32) -> i64 {
    let since = now - start(now, due_at);
    if since < TimeDelta::zero() {
        return 0;
    }
    since
        .num_microseconds()
        .unwrap_or(i64::MAX)
        .saturating_mul(i64::from(rate))
        / 1_000_000
        + 1
}

/// When the next message is due after `sent` went now. Counted from when they were due, not from when they
/// were sent, so that the rate does not drift.
fn next_due(now: DateTime<Utc>, due_at: DateTime<Utc>, sent: i64, rate: i32) -> DateTime<Utc> {
    start(now, due_at) + TimeDelta::microseconds(sent * 1_000_000 / i64::from(rate))
}

/// From when on messages count as due.
fn start(now: DateTime<Utc>, due_at: DateTime<Utc>) -> DateTime<Utc> {
    due_at.max(now - BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_000_000 + millis).expect("in range")
    }

    #[test]
    fn what_is_due_grows_with_time_and_is_bounded_after_a_pause() {
        for (now, due_at, rate, expected) in [
            (0, 1, 1_000, 0),        // not yet
            (0, 0, 1, 1),            // just now
            (100, 0, 10, 2),         // the first and the one 100 ms after it
            (99, 0, 10, 1),          // not quite
            (250, 0, 1_000, 251),    // the whole burst
            (90_000, 0, 1_000, 251), // an hour of downtime is not caught up at once
            (90_000, 0, 1, 1),
        ] {
            assert_eq!(
                due(at(now), at(due_at), rate),
                expected,
                "now {now}, due {due_at}, rate {rate}"
            );
        }
    }

    #[test]
    fn the_rate_does_not_drift_however_irregular_the_steps() {
        for rate in [1, 7, 100, 999] {
            let (mut now, mut due_at, mut sent) = (0, at(0), 0);
            let mut step = 1;
            while now < 100_000 {
                let n = due(at(now), due_at, rate);
                if n > 0 {
                    due_at = next_due(at(now), due_at, n, rate);
                    sent += n;
                }
                step = (step * 37 + 11) % 190 + 1;
                now += step;
            }
            let expected = i64::from(rate) * 100;
            assert!(
                (sent - expected).abs() <= i64::from(rate) / 4 + 2,
                "rate {rate}: sent {sent} of {expected}"
            );
        }
    }
}
