//! Reading the log: new rows and holes in one statement, and who may still fill a hole.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{
    PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};
use uuid::Uuid;

use super::{checkpoints::Lease, record::OutboxMessage};

/// Settings of a session whose statements look rows up by index: one plan for a statement, made once, and
/// never a sequential scan, not even where a table was empty when the plan was made. What is switched off
/// has an absurd cost, and that would have every such plan compiled first, for half a second.
pub fn with_stable_plans(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ])
}

/// What one read of the log is asked for.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// Read rows above this id, ascending.
    pub above: i64,
    /// And the rows under these ids, when they have become visible.
    pub holes: Vec<i64>,
    /// At most so many rows above `above`.
    pub rows: i64,
    /// And at most so many bytes of payload, but one row at least.
    pub bytes: i64,
    /// The oldest row at or above this id tells how old the oldest pending message is.
    pub oldest_from: i64,
}

/// What one read of the log found, all of it at one snapshot.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; together they are no state"
)]
pub struct ReadResult {
    /// Holes that have become visible and new rows, ascending by id.
    pub messages: Vec<OutboxMessage>,
    /// There are more rows above the last one.
    pub full: bool,
    /// The bytes did not suffice for all rows under holes; nothing above the first missing one is in
    /// `messages`, and a hole that is not there may have a row.
    pub cut_hole: bool,
    /// An operator has paused the relay: nothing of this may be handed over.
    pub paused: bool,
    /// The greatest id in the log.
    pub max_id: i64,
    /// When the oldest row at or above `oldest_from` was written.
    pub oldest: Option<DateTime<Utc>>,
    /// Dead letters that wait for an operator, counted up to [`DEAD_COUNT_CAP`].
    pub dead: i64,
    /// A replay is running: its rows have to be written.
    pub replaying: bool,
    /// The lease was prolonged by this statement (when that was asked for, and it was still held).
    pub renewed: bool,
}

/// Above it, the count of dead letters is not exact.
pub const DEAD_COUNT_CAP: i64 = 10_001;

macro_rules! read_statement {
    ($renewed:literal, $with:literal) => {
        concat!(
            $with,
            // The control row first; its columns are null in the others.
            "select true as control, ", $renewed, " as renewed, c.paused,
                coalesce((select max(id) from outbox_messages), 0) as max_id,
                (select created_at from outbox_messages where id >= $5 order by id limit 1) as oldest,
                (select count(*) from (select from outbox_dead_letters where resolution is null limit 10001) d) as dead,
                exists (select from outbox_replays where state = 'running') as replaying,
                null::bigint as id, null::uuid as event_id, null::uuid as job_id, null::uuid as key,
                null::timestamptz as event_time, null::timestamptz as created_at, null::uuid as replay_id,
                null::text as traceparent, null::bytea as payload
             from outbox_control c
             union all
             select null, null, null, null, null, null, null,
                id, event_id, job_id, key, event_time, created_at, replay_id, traceparent,
                case when bytes <= $4 or bytes = own then payload end
             from (
                select m.*, sum(octet_length(payload)) over (order by id rows unbounded preceding) as bytes,
                       octet_length(payload) as own
                from unnest($2::bigint[]) wanted(hole) cross join lateral (
                    select * from outbox_messages m where m.id = wanted.hole offset 0
                ) m
             ) m
             union all
             select null, null, null, null, null, null, null,
                id, event_id, job_id, key, event_time, created_at, replay_id, traceparent, payload
             from (
                select m.*, sum(octet_length(payload)) over (order by id rows unbounded preceding) as bytes,
                       octet_length(payload) as own
                from (select * from outbox_messages where id > $1 order by id limit $3) m
             ) m where bytes <= $4 or bytes = own"
        )
    };
}

/// Reads holes and new rows in one statement. With two snapshots, a later request of a key could pass an
/// earlier one.
const READ: &str = read_statement!("false", "");

/// The same, and prolongs the lease when it is still held: an idle leader needs one statement a second.
const READ_AND_RENEW: &str = read_statement!(
    "exists (select from renewed)",
    "with renewed as (
        insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets)
        select $6 + 1, $7, $8, clock_timestamp() + make_interval(secs => $9), $10, $11
        where (select max(seq) from outbox_checkpoints) = $6
        returning seq
     ) "
);

/// Reads the log. With `renew`, also prolongs that lease, whose next offsets stay as given; the caller sees
/// in [`ReadResult::renewed`] whether it was still held.
pub async fn read_messages(
    conn: &mut PgConnection,
    request: &ReadRequest,
    renew: Option<(&Lease, &[i64])>,
) -> sqlx::Result<ReadResult> {
    let query = sqlx::query(if renew.is_some() { READ_AND_RENEW } else { READ })
        .bind(request.above)
        .bind(&request.holes)
        .bind(request.rows)
        .bind(request.bytes)
        .bind(request.oldest_from);
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
    let rows = query.fetch_all(conn).await?;
    let control = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let mut result = ReadResult {
        messages: Vec::with_capacity(rows.len() - 1),
        full: false,
        cut_hole: false,
        paused: control.try_get(2)?,
        max_id: control.try_get(3)?,
        oldest: control.try_get(4)?,
        dead: control.try_get(5)?,
        replaying: control.try_get(6)?,
        renewed: control.try_get(1)?,
    };
    for row in &rows[1..] {
        // Rows under holes come first, ascending, then new rows, ascending.
        let Some(message) = message_from(row)? else {
            result.cut_hole = true;
            return Ok(result);
        };
        result.messages.push(message);
    }
    let last = result
        .messages
        .last()
        .map_or(request.above, |m| m.id.max(request.above));
    result.full = request.rows > 0 && last < result.max_id;
    Ok(result)
}

/// From the columns of the read statement; none when its payload was left out.
fn message_from(row: &PgRow) -> sqlx::Result<Option<OutboxMessage>> {
    let Some(payload) = row.try_get(15)? else {
        return Ok(None);
    };
    Ok(Some(OutboxMessage {
        id: row.try_get(7)?,
        event_id: row.try_get(8)?,
        job_id: row.try_get(9)?,
        key: row.try_get(10)?,
        event_time: row.try_get(11)?,
        created_at: row.try_get(12)?,
        replay_id: row.try_get(13)?,
        traceparent: row.try_get(14)?,
        payload,
    }))
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

/// When the oldest row that is not in `passed` was written: none, when all rows are.
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
