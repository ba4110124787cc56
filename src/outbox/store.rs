//! Reading the log: new rows and holes in one statement, and who may still fill a hole.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{FromRow as _, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{checkpoints::Lease, dead_letters::counted, record::OutboxMessage};

/// What one read of the log is asked for.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// Read rows above this id, ascending.
    pub above: i64,
    /// And the rows under these ids, when they have become visible.
    pub holes: Vec<i64>,
    /// At most so many rows above `above`.
    pub rows: i64,
    /// At most so many bytes of payload under holes and as many in new rows; but one row of each at least.
    pub bytes: i64,
}

/// What one read of the log found, all of it at one snapshot.
#[derive(Debug, Default)]
pub struct ReadResult {
    /// Holes that have become visible and new rows, ascending by id.
    pub messages: Vec<OutboxMessage>,
    /// There may be more rows above the last one.
    pub full: bool,
    /// The bytes did not suffice for all rows under holes; nothing above the first missing one is in
    /// `messages`, and a hole that is not there may have a row.
    pub cut_hole: bool,
    /// Bytes of the largest payload among the new rows, one that was left out for its size included.
    pub largest: i64,
}

/// What the control row and a look at the log from outside say.
#[derive(Debug)]
pub struct News {
    /// An operator has paused the relay: nothing may be handed over.
    pub paused: bool,
    /// The greatest id in the log.
    pub max_id: i64,
    /// When the oldest row at or above the id asked for was written.
    pub oldest: Option<DateTime<Utc>>,
    /// Dead letters that wait for an operator, counted up to one more than [`COUNTED`](super::dead_letters::COUNTED).
    pub dead: i64,
    /// A replay is running: its rows have to be written.
    pub replaying: bool,
    /// The lease was prolonged by this statement (when that was asked for, and it was still held).
    pub renewed: bool,
    /// What changes slowly, when it was asked for.
    pub sample: Option<Sample>,
}

/// What is looked at now and then, for those who watch the metrics.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Sample {
    /// Seconds since the oldest transaction of this database began, or was prepared: as long as it is open, vacuum removes
    /// nothing that is newer. 0: none is open. Those of other users are shown to members of `pg_read_all_stats` only.
    pub oldest_transaction_seconds: f64,
    /// Messages whose records the audits found missing from the topic: `outbox_missing()` of the schema.
    pub missing: i64,
}

/// What a poll is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PollRequest {
    /// The first id that is not settled.
    pub oldest_from: i64,
    /// Whether to take a [`Sample`] as well.
    pub sample: bool,
}

macro_rules! sample {
    () => {
        "select coalesce(greatest(0, extract(epoch from clock_timestamp() - least(
             (select min(xact_start) from pg_stat_activity
              where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()),
             (select min(prepared) from pg_prepared_xacts where database = current_database())
         ))), 0)::float8 as oldest_transaction_seconds,
         outbox_missing() as missing"
    };
}

macro_rules! poll_statement {
    ($renewed:literal, $with:literal) => {
        concat!(
            $with,
            "select c.paused,
                coalesce((select max(id) from outbox_messages), 0) as max_id,
                (select created_at from outbox_messages where id >= $1 order by id limit 1) as oldest,
                (select count(*) from (select from outbox_dead_letters where resolution is null limit ",
            counted!(),
            " + 1) d) as dead,
                exists (select from outbox_replays where state = 'running') as replaying, ",
            $renewed,
            " as renewed, s.oldest_transaction_seconds, s.missing
             from outbox_control c left join lateral (",
            sample!(),
            " where $2) s on true"
        )
    };
}

const POLL: &str = poll_statement!("false", "");

/// The same, and prolongs the lease when it is still held: an idle leader needs one statement a second.
const POLL_AND_RENEW: &str = poll_statement!(
    "exists (select from renewed)",
    "with renewed as (
        insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets)
        select $3 + 1, $4, $5, clock_timestamp() + make_interval(secs => $6), $7, $8
        where (select max(seq) from outbox_checkpoints) = $3
        returning seq
     ) "
);

/// Reads what there is to know beside the rows. With `renew`, also prolongs that lease, whose next offsets stay as
/// given; the caller sees in [`News::renewed`] whether it was still held.
pub async fn poll(
    conn: &mut PgConnection,
    request: PollRequest,
    renew: Option<(&Lease, &[i64])>,
) -> sqlx::Result<News> {
    let query = sqlx::query(if renew.is_some() { POLL_AND_RENEW } else { POLL })
        .bind(request.oldest_from)
        .bind(request.sample);
    let query = match renew {
        None => query,
        Some((lease, next_offsets)) => query
            .bind(lease.seq)
            .bind(lease.fence)
            .bind(&lease.leader)
            .bind(lease.length.as_secs_f64())
            .bind(&lease.delivery)
            .bind(next_offsets),
    };
    let control = query.fetch_one(conn).await?;
    let sample = if request.sample {
        Some(Sample::from_row(&control)?)
    } else {
        None
    };
    Ok(News {
        paused: control.try_get(0)?,
        max_id: control.try_get(1)?,
        oldest: control.try_get(2)?,
        dead: control.try_get(3)?,
        replaying: control.try_get(4)?,
        renewed: control.try_get(5)?,
        sample,
    })
}

/// Reads holes and new rows in one statement. With two snapshots, a later request of a key could pass an
/// earlier one. Under holes a running sum bounds the bytes; in new rows it would cost a third of the statement, so
/// there a row that is larger than its share comes without its payload.
const READ: &str = "
select id, event_id, job_id, key, event_time, created_at, replay_id, traceparent,
       case when bytes <= $4 or bytes = own then payload end as payload, own
from (
    select m.*, sum(octet_length(payload)) over (order by id rows unbounded preceding) as bytes,
           octet_length(payload) as own
    from unnest($2::bigint[]) wanted(hole) cross join lateral (
        select * from outbox_messages m where m.id = wanted.hole offset 0
    ) m
) m
union all
(select id, event_id, job_id, key, event_time, created_at, replay_id, traceparent,
       case when octet_length(payload) <= $5 then payload end, octet_length(payload)
from outbox_messages where id > $1 order by id limit $3)";

/// Reads the log.
pub async fn read_messages(conn: &mut PgConnection, request: &ReadRequest) -> sqlx::Result<ReadResult> {
    // A single row is read whatever its size, so that there is always a next step.
    let share = if request.rows > 1 {
        request.bytes / request.rows
    } else {
        i64::MAX
    };
    let rows = sqlx::query(READ)
        .bind(request.above)
        .bind(&request.holes)
        .bind(request.rows)
        .bind(request.bytes)
        .bind(share)
        .fetch_all(conn)
        .await?;
    let mut result = ReadResult {
        messages: Vec::with_capacity(rows.len()),
        ..ReadResult::default()
    };
    let mut new_rows = 0;
    for row in &rows {
        // Rows under holes come first, ascending, then new rows, ascending.
        let (id, bytes): (i64, i32) = (row.try_get_unchecked(0)?, row.try_get_unchecked(9)?);
        let is_new = id > request.above;
        if is_new {
            new_rows += 1;
            result.largest = result.largest.max(bytes.into());
        }
        let Some(payload) = row.try_get_unchecked(8)? else {
            result.full = is_new;
            result.cut_hole = !is_new;
            return Ok(result);
        };
        result.messages.push(message_from(row, id, payload)?);
    }
    result.full = new_rows > 0 && new_rows == request.rows;
    Ok(result)
}

/// From the columns of [`READ`], whose types are the statement's own: to compare them with ours in each row was
/// a twenty-fifth of the service's time in a drain.
fn message_from(row: &PgRow, id: i64, payload: Vec<u8>) -> sqlx::Result<OutboxMessage> {
    Ok(OutboxMessage {
        id,
        event_id: row.try_get_unchecked(1)?,
        job_id: row.try_get_unchecked(2)?,
        key: row.try_get_unchecked(3)?,
        event_time: row.try_get_unchecked(4)?,
        created_at: row.try_get_unchecked(5)?,
        replay_id: row.try_get_unchecked(6)?,
        traceparent: row.try_get_unchecked(7)?,
        payload,
    })
}

/// Which of these ids have a row, and its event id.
pub async fn read_event_ids(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<(i64, Uuid)>> {
    sqlx::query_as(
        "select m.id, m.event_id from unnest($1::bigint[]) wanted(hole)
         cross join lateral (select id, event_id from outbox_messages m where m.id = wanted.hole offset 0) m",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// The server's timeline: it grows when a standby is promoted, and when a backup is restored to a point in time.
pub async fn read_timeline(conn: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar("select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int")
        .fetch_one(conn)
        .await
}

/// When the oldest row was written that PostgreSQL's own position (`outbox_position()`) has not passed: none, when it has
/// passed all rows.
pub async fn read_oldest_unsettled(conn: &mut PgConnection) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "select min(m.created_at)
         from outbox_position() p,
              unnest(int8multirange(int8range(1, (select coalesce(max(id), 0) + 1 from outbox_messages))) - p.passed) r,
              lateral (select created_at from outbox_messages where id >= lower(r) and id < upper(r) order by id limit 1) m",
    )
    .fetch_one(conn)
    .await
}

/// Who may still fill a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawers {
    /// The server's start: a restart renames prepared transactions, so what was remembered is void.
    pub server_started: DateTime<Utc>,
    /// Every transaction that has drawn from the sequence and has not ended. `nextval` takes a lock on the
    /// sequence before it draws and keeps it to the end of the transaction.
    pub transactions: HashSet<String>,
}

/// Reads every transaction that may still fill a hole. To be called *after* the read that did not find the
/// rows: in the other order, a transaction that commits in between would be missed.
pub async fn read_drawers(conn: &mut PgConnection) -> sqlx::Result<Drawers> {
    let (server_started, transactions): (DateTime<Utc>, Vec<String>) = sqlx::query_as(
        "select pg_postmaster_start_time(), coalesce(array_agg(virtualtransaction), '{}')
         from pg_locks
         where locktype = 'relation' and relation = 'outbox_messages_id_seq'::regclass
           -- As `nextval` takes it: a dump that only reads the sequence fills no hole.
           and mode = 'RowExclusiveLock'
           and database = (select oid from pg_database where datname = current_database())",
    )
    .fetch_one(conn)
    .await?;
    Ok(Drawers {
        server_started,
        transactions: transactions.into_iter().collect(),
    })
}

/// Takes a sample, apart from any poll.
pub async fn read_sample(conn: &mut PgConnection) -> sqlx::Result<Sample> {
    sqlx::query_as(sample!()).fetch_one(conn).await
}
