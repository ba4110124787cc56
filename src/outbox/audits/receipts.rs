//! What an audit compares the topic with: receipts, frozen at one moment, and the rows behind them.

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::outbox::query::{Late, bound_ids};

/// Which messages an audit is about: by when they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// At this time or later; none: from the first.
    pub from: Option<DateTime<Utc>>,
    /// Before this time; none: to the last.
    pub to: Option<DateTime<Utc>>,
}

impl Range {
    /// Is a message that was written at this time part of it?
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }
}

/// A receipt, and the row that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Expected {
    /// Of the topic.
    pub partition: i32,
    /// In the partition; negative: Kafka acknowledged the record without saying where it is.
    pub offset: i64,
    /// The outbox id.
    pub id: i64,
    /// When the receipt was recorded.
    pub published_at: DateTime<Utc>,
    /// `ce_id`; none: retention has dropped the row.
    pub event_id: Option<Uuid>,
    /// When the row was written; none: as above.
    pub created_at: Option<DateTime<Utc>>,
}

/// The receipts as they were at one moment.
pub struct Receipts<'c> {
    tx: Transaction<'c, Postgres>,
    range: Range,
    lower: i64,
    upper: i64,
    /// That moment.
    pub at: DateTime<Utc>,
}

/// Where the receipts of one partition begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Extent {
    /// Of the topic.
    pub partition: i32,
    /// The lowest offset.
    pub first: i64,
    /// The highest offset.
    pub last: i64,
}

/// Receipts, exploded: `$1` to `$2` are the ids.
macro_rules! receipts {
    () => {
        r#"from outbox_checkpoints c
           cross join lateral unnest(c.receipt_ids, c.receipt_partitions, c.receipt_offsets) r (id, partition, "offset")
           left join outbox_messages m on m.id = r.id
           where c.settled && int8multirange(int8range($1, $2 + 1)) and not isempty(c.settled) and r.id between $1 and $2"#
    };
}

impl<'c> Receipts<'c> {
    /// Freezes the receipts at this moment. What they say was in the topic before it: look there afterwards.
    pub async fn freeze(conn: &'c mut PgConnection, range: Range) -> sqlx::Result<Self> {
        let mut tx = conn
            .begin_with("begin isolation level repeatable read read only")
            .await?;
        // It takes as long as reading the topic does.
        sqlx::query("select set_config('statement_timeout', '0', true), set_config('jit', 'off', true)")
            .execute(&mut *tx)
            .await?;
        let at = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&mut *tx)
            .await?;
        let (lower, upper) = bound_ids(&mut tx, range.from, range.to, Late::AT_MOST).await?;
        Ok(Self {
            tx,
            range,
            lower,
            upper: upper.max(lower - 1),
            at,
        })
    }

    /// Where in the topic the receipts of the range are.
    pub async fn read_extents(&mut self) -> sqlx::Result<Vec<Extent>> {
        sqlx::query_as(concat!(
            r#"select r.partition, min(r."offset") as first, max(r."offset") as last "#,
            receipts!(),
            r#" and r."offset" >= 0
                and ($3::timestamptz is null or m.created_at >= $3) and ($4::timestamptz is null or m.created_at < $4)
                group by r.partition"#
        ))
        .persistent(false)
        .bind(self.lower)
        .bind(self.upper)
        .bind(self.range.from)
        .bind(self.range.to)
        .fetch_all(&mut *self.tx)
        .await
    }

    /// Every receipt, by partition and offset. Those of messages near the ends of the range, and not in it, are among
    /// them. PostgreSQL sorts them; here only a few are in memory.
    pub fn stream(&mut self) -> impl Stream<Item = sqlx::Result<Expected>> + Send + '_ {
        sqlx::query_as(concat!(
            // -1: Kafka has acknowledged it without its place, and it is looked for everywhere.
            r#"select coalesce(r.partition, -1) as partition, coalesce(r."offset", -1) as "offset", r.id,
                      c.created_at as published_at, m.event_id, m.created_at "#,
            receipts!(),
            r#" order by 1, 2"#
        ))
        .persistent(false)
        .bind(self.lower)
        .bind(self.upper)
        .fetch(&mut *self.tx)
        .boxed()
    }
}

/// A row that a record may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    /// The outbox id.
    pub id: i64,
    /// `ce_id`.
    pub event_id: Uuid,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// The rows of these ids.
pub async fn read_rows(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as("select id, event_id, created_at from outbox_messages where id = any($1)")
        .bind(ids)
        .fetch_all(conn)
        .await
}

/// The lowest id that has a row: below it, retention may have dropped what was there.
pub async fn read_lowest(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select coalesce(min(id), 1) from outbox_messages")
        .fetch_one(conn)
        .await
}

/// Of these ids, those that an unfinished replay of what an audit found missing has yet to send. Ask this before
/// [`find_later`]: what is sent in between is found by that.
pub async fn find_unsent(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar(
        "with unsent as materialized (
             select range_agg(within * int8multirange(int8range(cursor + 1, null))) as ids
             from outbox_replays where state in ('running', 'paused') and filter ? 'audit'
         )
         select id from unnest($1::bigint[]) id where id <@ (select ids from unsent)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Of these ids, each with a later message of the same event that is not dead: it is there, or on its way.
pub async fn find_later(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "select m.id, later.id
         from outbox_messages m
         join outbox_messages later on later.replay_of = coalesce(m.replay_of, m.id) and later.id > m.id
         where m.id = any($1) and not exists (select from outbox_dead_letters d where d.outbox_id = later.id)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}
