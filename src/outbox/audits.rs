//! Audits: what the topic has, compared with what the receipts say it has. Here is their SQL; the comparison itself
//! is in the room `audit`.

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::query::bound_ids;

/// Audits that are remembered.
const KEPT: i64 = 100;

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
        let (lower, upper) = bound_ids(&mut tx, range.from, range.to).await?;
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
            r#"select r.partition, r."offset", r.id, c.created_at as published_at, m.event_id, m.created_at "#,
            receipts!(),
            r#" order by r.partition, r."offset""#
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

/// What is wrong with one message or record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was acknowledged, and is not in the topic.
    Missing,
    /// The topic has this outbox id already.
    Repeated,
    /// No row of the outbox explains it.
    Foreign,
}

impl Kind {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Repeated => "repeated",
            Self::Foreign => "foreign",
        }
    }
}

/// One thing that an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Finding {
    /// `missing`, `repeated` or `foreign`.
    pub kind: String,
    /// Of the topic.
    pub partition: i32,
    /// In the partition; of a missing one, where its receipt says it is.
    pub offset: i64,
    /// As the record's header, or the receipt, says; null: it says none.
    pub outbox_id: Option<i64>,
    /// `ce_id`; null: the record has none.
    pub event_id: Option<Uuid>,
}

/// What an audit found, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Counts {
    /// Receipts compared.
    pub receipts: i64,
    /// Records of the topic compared.
    pub records: i64,
    /// Receipts whose record is where they say.
    pub in_place: i64,
    /// Receipts whose record is gone, as the topic's retention allows.
    pub expired: i64,
    /// Receipts whose record is lost, and a replay is there or on its way.
    pub made_good: i64,
    /// Receipts whose record is lost.
    pub missing: i64,
    /// Records of an outbox id that has one already.
    pub repeated: i64,
    /// Records that no row of the outbox explains.
    pub foreign: i64,
    /// Records whose rows retention has dropped.
    pub forgotten: i64,
}

/// A finished audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Audit {
    /// UUIDv7.
    pub id: Uuid,
    /// Who asked.
    pub requested_by: String,
    /// Receipts of this moment were compared.
    pub started_at: DateTime<Utc>,
    /// When it was done.
    pub finished_at: DateTime<Utc>,
    /// Only messages written at this time or later; null: from the first.
    pub from: Option<DateTime<Utc>>,
    /// Only messages written before this time; null: to the last.
    pub to: Option<DateTime<Utc>>,
    /// Which topic.
    pub topic: String,
    /// Which cluster; null: the broker did not tell.
    pub cluster_id: Option<String>,
    /// The numbers.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub counts: Counts,
}

/// The columns of [`Audit`].
macro_rules! audit_columns {
    () => {
        r#"id, requested_by, started_at, finished_at, written_from as "from", written_to as "to", topic, cluster_id,
           receipts, records, in_place, expired, made_good, missing, repeated, foreign_records as "foreign", forgotten"#
    };
}

/// What [`record_audit`] records.
#[derive(Debug, Clone)]
pub struct NewAudit<'a> {
    /// See [`Audit::requested_by`].
    pub by: &'a str,
    /// See [`Audit::started_at`].
    pub started_at: DateTime<Utc>,
    /// See [`Audit::from`].
    pub range: Range,
    /// See [`Audit::topic`].
    pub topic: &'a str,
    /// See [`Audit::cluster_id`].
    pub cluster_id: Option<&'a str>,
    /// See [`Audit::counts`].
    pub counts: &'a Counts,
    /// The text of an `int8multirange`.
    pub missing_ids: &'a str,
    /// Examples.
    pub findings: &'a [Finding],
}

/// Records a finished audit, and forgets those beyond the newest hundred. The caller owns the transaction.
pub async fn record_audit(conn: &mut PgConnection, new: &NewAudit<'_>) -> sqlx::Result<Audit> {
    let counts = new.counts;
    let audit: Audit = sqlx::query_as(concat!(
        "insert into outbox_audits (id, requested_by, started_at, written_from, written_to, topic, cluster_id, receipts,
                                    records, in_place, expired, made_good, missing, repeated, foreign_records, forgotten,
                                    missing_ids)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17::text::int8multirange)
         returning ",
        audit_columns!()
    ))
    .bind(Uuid::now_v7())
    .bind(new.by)
    .bind(new.started_at)
    .bind(new.range.from)
    .bind(new.range.to)
    .bind(new.topic)
    .bind(new.cluster_id)
    .bind(counts.receipts)
    .bind(counts.records)
    .bind(counts.in_place)
    .bind(counts.expired)
    .bind(counts.made_good)
    .bind(counts.missing)
    .bind(counts.repeated)
    .bind(counts.foreign)
    .bind(counts.forgotten)
    .bind(new.missing_ids)
    .fetch_one(&mut *conn)
    .await?;
    let of = |each: fn(&Finding) -> i64| new.findings.iter().map(each).collect::<Vec<_>>();
    sqlx::query(
        r#"insert into outbox_audit_findings (audit_id, number, kind, partition, "offset", outbox_id, event_id)
           select $1, f.number, f.kind, f.partition, f."offset", f.outbox_id, f.event_id
           from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::uuid[])
                with ordinality f (kind, partition, "offset", outbox_id, event_id, number)"#,
    )
    .bind(audit.id)
    .bind(new.findings.iter().map(|f| f.kind.clone()).collect::<Vec<_>>())
    .bind(of(|f| f.partition.into()))
    .bind(of(|f| f.offset))
    .bind(new.findings.iter().map(|f| f.outbox_id).collect::<Vec<_>>())
    .bind(new.findings.iter().map(|f| f.event_id).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from outbox_audits where id not in (select id from outbox_audits order by id desc limit $1)")
        .bind(KEPT)
        .execute(conn)
        .await?;
    Ok(audit)
}

/// One page of audits, newest first. `after`: only those before this one.
pub async fn list_audits(conn: &mut PgConnection, after: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Audit>> {
    sqlx::query_as(concat!(
        "select ",
        audit_columns!(),
        " from outbox_audits where $1::uuid is null or id < $1 order by id desc limit $2"
    ))
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The last audit; `None`: there was none yet.
pub async fn read_last_audit(conn: &mut PgConnection) -> sqlx::Result<Option<Audit>> {
    Ok(list_audits(conn, None, 1).await?.pop())
}

/// What an audit found, in the order in which it is shown.
pub async fn list_findings(conn: &mut PgConnection, audit: Uuid) -> sqlx::Result<Vec<Finding>> {
    sqlx::query_as(
        r#"select kind, partition, "offset", outbox_id, event_id from outbox_audit_findings
           where audit_id = $1 order by number"#,
    )
    .bind(audit)
    .fetch_all(conn)
    .await
}

/// The ids that an audit found missing, as the text of an `int8multirange`; `None`: there is no such audit any more.
pub async fn read_missing_ids(conn: &mut PgConnection, audit: Uuid) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("select missing_ids::text from outbox_audits where id = $1")
        .bind(audit)
        .fetch_optional(conn)
        .await
}
