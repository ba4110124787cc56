//! Audits: what the topic has, compared with what the receipts say it has. Here is their SQL; the comparison itself
//! is in the room `audit`. [`receipts`] is what is compared; below is what was found, and how it is shown.

mod receipts;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

pub use self::receipts::{Expected, Extent, Range, Receipts, Row, find_later, find_unsent, read_lowest, read_rows};
use crate::config::Delivery;

/// Audits that are remembered.
const KEPT: i64 = 100;

/// What is wrong with one message or record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[schema(as = AuditFindingKind)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
#[schema(as = AuditFinding)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
#[schema(as = AuditCounts)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
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

impl Audit {
    /// What is not as the promise says; empty: nothing. A repeat is allowed where delivery is at least once.
    pub fn wrongs(&self, delivery: Delivery) -> Vec<String> {
        let counts = &self.counts;
        let mut wrong = Vec::new();
        if counts.missing > 0 {
            wrong.push(format!("{} acknowledged messages are missing", counts.missing));
        }
        if counts.repeated > 0 && delivery == Delivery::ExactlyOnce {
            wrong.push(format!("{} records are repeated", counts.repeated));
        }
        if counts.foreign > 0 {
            wrong.push(format!("{} records are not of this outbox", counts.foreign));
        }
        wrong
    }
}

/// An audit, and whether all was as the promise says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct JudgedAudit {
    /// What was found, in numbers.
    #[serde(flatten)]
    pub audit: Audit,
    /// Nothing is wrong.
    pub clean: bool,
}

impl JudgedAudit {
    /// Judges an audit by what `relay.delivery` promises.
    pub fn of(audit: Audit, delivery: Delivery) -> Self {
        Self {
            clean: audit.wrongs(delivery).is_empty(),
            audit,
        }
    }
}

/// An audit as it is shown: the numbers, and what they count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Audited {
    /// The numbers.
    #[serde(flatten)]
    pub judged: JudgedAudit,
    /// Missing ones, then repeated, then foreign; the first thousand of each.
    pub findings: Vec<Finding>,
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
    .bind(new.findings.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>())
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

/// One audit; `None`: it was forgotten, or never was.
pub async fn read_audit(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Audit>> {
    sqlx::query_as(concat!(
        "select ",
        audit_columns!(),
        " from outbox_audits where id = $1"
    ))
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The audit that counts: the newest of the whole topic, or the later one of a range that found more missing; nothing
/// found missing in a range says nothing of the rest. `None`: there was none yet.
pub async fn read_standing_audit(conn: &mut PgConnection) -> sqlx::Result<Option<Audit>> {
    sqlx::query_as(concat!("select ", audit_columns!(), " from outbox_standing_audit()"))
        .fetch_optional(conn)
        .await
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
