//! The log of the relay's position: lease, fence, settled ids, receipts.
//!
//! `seq` is a compare-and-swap: a checkpoint is inserted as `last + 1` and only while `last` is the newest,
//! so whoever does not get its row no longer leads. Nothing is ever updated, so an old snapshot that stops
//! vacuum costs nothing.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row, postgres::PgRow};

use super::position::{Changes, Ids, MultirangeError, Position, from_multirange, to_multirange};

/// Every so many checkpoints one is a base: it carries the whole position, and a start reads it and the
/// rows after it, as every question for the position does. Whoever appends sees to it, in a start that waits as well.
pub const BASE_EVERY: i64 = 256;

/// Where Kafka put a message: the proof of its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The row's id.
    pub id: i64,
    /// Of the topic.
    pub partition: i32,
    /// In the partition; negative: Kafka has the record, acknowledged with a later one and without its place.
    pub offset: i64,
}

impl Receipt {
    fn place(&self) -> Option<(i32, i64)> {
        (self.offset >= 0).then_some((self.partition, self.offset))
    }
}

/// A message that is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row's id.
    pub id: i64,
    /// Groups dead letters; a fixed, small set of words.
    pub class: &'static str,
    /// What was said.
    pub error: String,
}

/// The lease as its holder knows it: the newest checkpoint is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The number of the newest checkpoint.
    pub seq: i64,
    /// Grows by one with each take-over.
    pub fence: i64,
    /// The replica's name, a slash, a UUID of this start of the process.
    pub leader: String,
    /// `relay.delivery` of whoever may have left a transaction open: after taking over the former leader's,
    /// from the end of the start on the own.
    pub delivery: String,
    /// How long a checkpoint prolongs the lease.
    pub length: Duration,
}

/// Who leads, as a standby sees it.
#[derive(Debug, Clone)]
pub struct Leadership {
    /// The newest checkpoint's `leader`.
    pub leader: String,
    /// Until its lease ends, by PostgreSQL's clock; zero when it has ended.
    pub remaining: Duration,
}

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Another replica has taken over, or the partition is gone: this one no longer leads.
    #[error("the lease was lost: checkpoint {0} is not the newest any more")]
    LostLease(i64),
    /// PostgreSQL failed; whether the checkpoint was written is not known.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A row of the log cannot be read.
    #[error(transparent)]
    Malformed(#[from] MultirangeError),
    /// `migrate` writes the first checkpoint.
    #[error("there is no checkpoint: run `dispatcher migrate`")]
    NoBase,
}

/// Everything that one checkpoint records beside the lease.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Ids that became settled or closed.
    pub changes: Changes,
    /// Of the settled ones, those that Kafka acknowledged.
    pub receipts: Vec<Receipt>,
    /// Of the settled ones, those that died.
    pub dead: Vec<DeadLetter>,
    /// For each partition, where the tail read of a next leader begins.
    pub next_offsets: Vec<i64>,
    /// When this is a base row: everything settled or closed, and the closed among it.
    pub base: Option<(Ids, Ids)>,
}

/// Reads who leads, and until when.
pub async fn read_leadership(conn: &mut PgConnection) -> Result<Leadership, CheckpointError> {
    let row = sqlx::query(
        "select leader, greatest(0, extract(epoch from lease_until - clock_timestamp()))::float8 as remaining
         from outbox_checkpoints order by seq desc limit 1",
    )
    .fetch_optional(conn)
    .await?
    .ok_or(CheckpointError::NoBase)?;
    Ok(Leadership {
        leader: row.try_get("leader")?,
        // `-infinity` of the very first row becomes 0.
        remaining: Duration::from_secs_f64(row.try_get::<f64, _>("remaining")?.clamp(0.0, 3600.0)),
    })
}

/// Takes the lease over: one insert, `last + 1` with `fence + 1`, where the last lease has ended by
/// PostgreSQL's clock or is this very start's own. `None`: somebody else holds it. The row keeps the former
/// leader's delivery: a transaction of that one may be open until this start has ended it.
pub async fn take_over(
    conn: &mut PgConnection,
    leader: &str,
    length: Duration,
) -> Result<Option<Lease>, CheckpointError> {
    let taken = sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets)
         select last.seq + 1, last.fence + 1, $1, clock_timestamp() + make_interval(secs => $2), last.delivery,
                last.next_offsets
         from (select * from outbox_checkpoints order by seq desc limit 1) last
         where last.lease_until < clock_timestamp() or last.leader = $1
         returning seq, fence, delivery",
    )
    .bind(leader)
    .bind(length.as_secs_f64())
    .fetch_optional(conn)
    .await;
    match taken {
        Ok(Some(row)) => Ok(Some(Lease {
            seq: row.try_get("seq")?,
            fence: row.try_get("fence")?,
            leader: leader.to_owned(),
            delivery: row.try_get("delivery")?,
            length,
        })),
        Ok(None) => Ok(None),
        // Another standby was quicker. (A missing partition is an error here: somebody has to make it.)
        Err(e)
            if e.as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
        {
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// What a leader finds when it begins.
#[derive(Debug)]
pub struct Beginning {
    /// The base and all rows after it.
    pub position: Position,
    /// For each partition, where the tail read begins; shorter than the topic when that has grown.
    pub next_offsets: Vec<i64>,
    /// The number of the base.
    pub base: i64,
}

/// Reads the position that the checkpoints up to `lease.seq` add up to.
pub async fn read_position(conn: &mut PgConnection, lease: &Lease) -> Result<Beginning, CheckpointError> {
    let row = sqlx::query(
        "select p.passed::text as passed, p.closed::text as closed, c.next_offsets,
                (select max(seq) from outbox_checkpoints where base_passed is not null) as base
         from outbox_position() p, outbox_checkpoints c where c.seq = $1",
    )
    .bind(lease.seq)
    .fetch_optional(conn)
    .await?
    .ok_or(CheckpointError::NoBase)?;
    let set = |column: &str, row: &PgRow| -> Result<Ids, CheckpointError> {
        let text: Option<String> = row.try_get(column)?;
        Ok(from_multirange(&text.ok_or(CheckpointError::NoBase)?)?)
    };
    Ok(Beginning {
        position: Position::new(set("passed", &row)?, set("closed", &row)?),
        next_offsets: row.try_get("next_offsets")?,
        base: row.try_get("base")?,
    })
}

/// Writes the next checkpoint, dead letters included, and so prolongs the lease. On success `lease.seq` is
/// the new one's. With `give_back` the lease ends at once.
pub async fn append(
    conn: &mut PgConnection,
    lease: &mut Lease,
    entry: &Entry,
    give_back: bool,
) -> Result<(), CheckpointError> {
    if entry.dead.is_empty() {
        insert(conn, lease, entry, give_back).await?;
    } else {
        let mut tx = conn.begin().await?;
        insert(&mut tx, lease, entry, give_back).await?;
        insert_dead_letters(&mut tx, &entry.dead).await?;
        tx.commit().await?;
    }
    lease.seq += 1;
    Ok(())
}

async fn insert(conn: &mut PgConnection, lease: &Lease, entry: &Entry, give_back: bool) -> Result<(), CheckpointError> {
    let length = if give_back { Duration::ZERO } else { lease.length };
    let mut receipts = entry.receipts.clone();
    receipts.sort_unstable_by_key(|r| r.id);
    let inserted = sqlx::query(
        "insert into outbox_checkpoints
             (seq, fence, leader, lease_until, delivery, settled, closed, next_offsets,
              receipt_ids, receipt_partitions, receipt_offsets, base_passed, base_closed)
         select $1 + 1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5,
                $6::text::int8multirange, $7::text::int8multirange, $8, $9, $10, $11,
                $12::text::int8multirange, $13::text::int8multirange
         where (select max(seq) from outbox_checkpoints) = $1",
    )
    .bind(lease.seq)
    .bind(lease.fence)
    .bind(&lease.leader)
    .bind(length.as_secs_f64())
    .bind(&lease.delivery)
    .bind(to_multirange(&entry.changes.settled))
    .bind(to_multirange(&entry.changes.closed))
    .bind(&entry.next_offsets)
    .bind(receipts.iter().map(|r| r.id).collect::<Vec<_>>())
    .bind(receipts.iter().map(|r| Some(r.place()?.0)).collect::<Vec<_>>())
    .bind(receipts.iter().map(|r| Some(r.place()?.1)).collect::<Vec<_>>())
    .bind(entry.base.as_ref().map(|(passed, _)| to_multirange(passed)))
    .bind(entry.base.as_ref().map(|(_, closed)| to_multirange(closed)))
    .execute(conn)
    .await;
    match inserted {
        Ok(done) if done.rows_affected() == 1 => Ok(()),
        Ok(_) => Err(CheckpointError::LostLease(lease.seq)),
        Err(e) if is_lost_race(&e) => Err(CheckpointError::LostLease(lease.seq)),
        Err(e) => Err(e.into()),
    }
}

async fn insert_dead_letters(conn: &mut PgConnection, dead: &[DeadLetter]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into outbox_dead_letters (outbox_id, error_class, error)
         select * from unnest($1::bigint[], $2::text[], $3::text[])",
    )
    .bind(dead.iter().map(|d| d.id).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.class).collect::<Vec<_>>())
    .bind(dead.iter().map(|d| d.error.as_str()).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map(|_| ())
}

/// The number is taken (23505), or its partition was dropped (23514): either way somebody else leads.
pub(crate) fn is_lost_race(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| matches!(e.code().as_deref(), Some("23505" | "23514")))
}

/// The newest checkpoint's number; zero when there is none.
pub async fn newest_seq(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select coalesce(max(seq), 0) from outbox_checkpoints")
        .fetch_one(conn)
        .await
}

/// Writes the very first checkpoint, a base of nothing, unless there is one. `migrate` calls this.
pub async fn write_first(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         select 0, 0, 'nobody/', '-infinity', 'at-least-once', '{}', '{}', '{}'
         where not exists (select from outbox_checkpoints)
         on conflict (seq) do nothing",
    )
    .execute(conn)
    .await
    .map(|_| ())
}
