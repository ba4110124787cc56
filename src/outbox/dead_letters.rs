//! Dead letters: messages that Kafka, or our own size check, refuses for good. The message stays settled
//! for ever; an operator retries it (a replay, see [`super::replays`]) or discards it.
//!
//! `unresolved --retry--> retried`, `unresolved --discard--> discarded`; nothing leaves the last two. Each
//! move is guarded by `resolution is null`, so that doing it twice, or two at once, does it once.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::acts::{Act, Actor, record_act};

/// What an operator has decided about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[schema(as = DeadLetterResolution)]
pub enum Resolution {
    /// It was sent once more.
    Retried,
    /// It was given up.
    Discarded,
}

impl Resolution {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Discarded => "discarded",
        }
    }
}

/// A dead letter, with what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct DeadLetter {
    /// The message's id in the outbox.
    pub outbox_id: i64,
    /// A fixed word that groups: `message-too-large`, `invalid-record`.
    pub error_class: String,
    /// What the broker or the check said.
    pub error: String,
    /// By PostgreSQL's clock.
    pub died_at: DateTime<Utc>,
    /// Null: an operator has to decide.
    pub resolution: Option<Resolution>,
    /// When it was decided.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Who decided.
    pub resolved_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The message that sent it again; null: none has.
    pub retry_id: Option<i64>,
    /// Null when the message's partition was dropped: then it can only be discarded.
    pub job_id: Option<Uuid>,
    /// The event draft's id; null as above.
    pub key: Option<Uuid>,
}

/// Unresolved dead letters of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct DeadGroup {
    /// What they have in common.
    pub error_class: String,
    /// How many, counted up to ten thousand.
    pub count: i64,
    /// False: there are more.
    pub exact: bool,
    /// When the one with the lowest id died.
    pub oldest: DateTime<Utc>,
    /// When the one with the greatest id died.
    pub newest: DateTime<Utc>,
    /// The newest one's error.
    pub sample_error: String,
    /// The newest few ids.
    pub sample_ids: Vec<i64>,
}

/// Which dead letters; only the unresolved ones are ever meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dead {
    /// These.
    Ids(Vec<i64>),
    /// All of a class.
    Class(String),
    /// All.
    All,
}

/// What a discard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Discarded {
    /// Dead letters that were given up.
    pub discarded: u64,
}

/// Ids that a text for people spells out; the rest it counts.
const IDS_SPELT_OUT: usize = 10;

impl Dead {
    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Ids(ids) => {
                let spelt: Vec<_> = ids.iter().take(IDS_SPELT_OUT).map(i64::to_string).collect();
                let spelt = spelt.join(", ");
                match ids.len().saturating_sub(IDS_SPELT_OUT) {
                    0 => format!("the dead letters {spelt}"),
                    more => format!("the dead letters {spelt} and {more} more"),
                }
            }
            Self::Class(class) => format!("all dead letters of the class {class}"),
            Self::All => "all dead letters".to_owned(),
        }
    }

    /// For programs, in the operators' log; `count` of them were acted on.
    pub(super) fn detail(&self, count: i64) -> Value {
        match self {
            Self::Ids(ids) => json!({"count": count, "ids": ids}),
            Self::Class(class) => json!({"count": count, "class": class}),
            Self::All => json!({"count": count}),
        }
    }
}

/// Which page of dead letters, newest first.
#[derive(Debug, Clone, Default)]
pub struct DeadPage {
    /// Only below this outbox id.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: i64,
    /// Only of this class.
    pub class: Option<String>,
    /// Also those that were retried or discarded.
    pub resolved: bool,
}

/// By name: a statement that was prepared before a column came would fail with `*`.
macro_rules! columns {
    () => {
        "d.outbox_id, d.error_class, d.error, d.died_at, d.resolution, d.resolved_at, d.resolved_by, d.reason, d.retry_id, \
         m.job_id, m.key"
    };
}

/// One page, newest first.
pub async fn list_dead_letters(conn: &mut PgConnection, page: &DeadPage) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from outbox_dead_letters d left join outbox_messages m on m.id = d.outbox_id
             where ($1::bigint is null or d.outbox_id < $1)
               and ($2::text is null or d.error_class = $2)
               and ($3 or d.resolution is null)
             order by d.outbox_id desc limit $4"
    ))
    .persistent(false)
    .bind(page.after)
    .bind(&page.class)
    .bind(page.resolved)
    .bind(page.limit)
    .fetch_all(conn)
    .await
}

/// [`COUNTED`], where a statement is put together.
macro_rules! counted {
    () => {
        10_000
    };
}
pub(super) use counted;

/// Letters of one kind that are counted: more is "more than ten thousand" to anybody who reads the number.
pub(super) const COUNTED: i64 = counted!();

/// The unresolved ones by class, the largest group first, as far as they are counted: from class to class by the index, so
/// that it costs the same however many there are.
pub async fn group_dead_letters(conn: &mut PgConnection) -> sqlx::Result<Vec<DeadGroup>> {
    // An order by class and id is the index's, where one by id alone would be read through another.
    sqlx::query_as(
        "with recursive classes as (
             (select error_class from outbox_dead_letters where resolution is null order by error_class limit 1)
             union all
             select (select d.error_class from outbox_dead_letters d
                     where d.resolution is null and d.error_class > c.error_class order by d.error_class limit 1)
             from classes c where c.error_class is not null
         )
         select c.error_class, least(n.count, $1) as count, n.count <= $1 as exact, first.died_at as oldest,
                last.died_at as newest, last.error as sample_error, last.ids as sample_ids
         from classes c
         cross join lateral (
             select count(*) from (select from outbox_dead_letters d
                                   where d.resolution is null and d.error_class = c.error_class limit $1 + 1) d
         ) n
         cross join lateral (
             select died_at from outbox_dead_letters d
             where d.resolution is null and d.error_class = c.error_class
             order by d.error_class, d.outbox_id limit 1
         ) first
         cross join lateral (
             select (array_agg(died_at))[1] as died_at, (array_agg(error))[1] as error, array_agg(outbox_id) as ids
             from (select died_at, error, outbox_id from outbox_dead_letters d
                   where d.resolution is null and d.error_class = c.error_class
                   order by d.error_class desc, d.outbox_id desc limit 5) d
         ) last
         order by n.count desc, c.error_class",
    )
    .bind(COUNTED)
    .fetch_all(conn)
    .await
}

/// Reads those of `ids` that are dead letters, resolved or not.
pub async fn read_dead_letters(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from outbox_dead_letters d left join outbox_messages m on m.id = d.outbox_id
             where d.outbox_id = any($1) order by d.outbox_id"
    ))
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Gives unresolved dead letters up. Their messages are never sent.
pub async fn discard_dead_letters(
    conn: &mut PgConnection,
    dead: &Dead,
    reason: &str,
    actor: &Actor,
) -> sqlx::Result<Discarded> {
    let (ids, class) = match dead {
        Dead::Ids(ids) => (Some(ids), None),
        Dead::Class(class) => (None, Some(class)),
        Dead::All => (None, None),
    };
    // Locked in the order of their ids, as a replay locks them: two operators cannot deadlock.
    let done = sqlx::query(
        "with chosen as (
             select outbox_id from outbox_dead_letters
             where resolution is null
               and ($1::bigint[] is null or outbox_id = any($1)) and ($2::text is null or error_class = $2)
             order by outbox_id for update
         )
         update outbox_dead_letters d
         set resolution = 'discarded', resolved_at = clock_timestamp(), resolved_by = $3, reason = $4
         from chosen where d.outbox_id = chosen.outbox_id and d.resolution is null",
    )
    .bind(ids)
    .bind(class)
    .bind(&actor.name)
    .bind(reason)
    .execute(&mut *conn)
    .await?;
    let discarded = done.rows_affected();
    if discarded > 0 {
        let detail = dead.detail(discarded as i64);
        record_act(conn, actor, Act::DeadDiscard, &dead.describe(), detail, Some(reason)).await?;
    }
    Ok(Discarded { discarded })
}

/// Locks those of `ids` that are unresolved dead letters, in the order of their ids, and returns them.
pub(super) async fn lock_unresolved(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar(
        "select outbox_id from outbox_dead_letters
         where outbox_id = any($1) and resolution is null
         order by outbox_id for update",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Marks dead letters as retried, in the transaction that writes their new rows: the ids of the n-th letter and of the
/// message that sends it again.
pub(super) async fn mark_retried(
    conn: &mut PgConnection,
    ids: &[i64],
    retries: &[i64],
    reason: &str,
    by: &str,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "update outbox_dead_letters d
         set resolution = 'retried', resolved_at = clock_timestamp(), resolved_by = $3, reason = $4, retry_id = r.retry_id
         from unnest($1::bigint[], $2::bigint[]) r (id, retry_id)
         where d.outbox_id = r.id and d.resolution is null",
    )
    .bind(ids)
    .bind(retries)
    .bind(by)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
