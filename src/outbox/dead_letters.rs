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
    /// `retried`, `discarded`, or null: an operator has to decide.
    pub resolution: Option<String>,
    /// When it was decided.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Who decided.
    pub resolved_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
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
    /// How many.
    pub count: i64,
    /// When the first died.
    pub oldest: DateTime<Utc>,
    /// When the last died.
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

/// One page, newest first.
pub async fn list_dead_letters(conn: &mut PgConnection, page: &DeadPage) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(
        "select d.*, m.job_id, m.key
         from outbox_dead_letters d left join outbox_messages m on m.id = d.outbox_id
         where ($1::bigint is null or d.outbox_id < $1)
           and ($2::text is null or d.error_class = $2)
           and ($3 or d.resolution is null)
         order by d.outbox_id desc limit $4",
    )
    .persistent(false)
    .bind(page.after)
    .bind(&page.class)
    .bind(page.resolved)
    .bind(page.limit)
    .fetch_all(conn)
    .await
}

/// The unresolved ones by class, the largest group first.
pub async fn group_dead_letters(conn: &mut PgConnection) -> sqlx::Result<Vec<DeadGroup>> {
    sqlx::query_as(
        "select error_class, count(*) as count, min(died_at) as oldest, max(died_at) as newest,
                (array_agg(error order by outbox_id desc))[1] as sample_error,
                (array_agg(outbox_id order by outbox_id desc))[1:5] as sample_ids
         from outbox_dead_letters where resolution is null
         group by error_class order by count(*) desc, error_class",
    )
    .fetch_all(conn)
    .await
}

/// Reads those of `ids` that are dead letters, resolved or not.
pub async fn read_dead_letters(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(
        "select d.*, m.job_id, m.key
         from outbox_dead_letters d left join outbox_messages m on m.id = d.outbox_id
         where d.outbox_id = any($1) order by d.outbox_id",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Gives unresolved dead letters up; returns how many. Their messages are never sent.
pub async fn discard_dead_letters(
    conn: &mut PgConnection,
    dead: &Dead,
    reason: &str,
    actor: &Actor,
) -> sqlx::Result<u64> {
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
    Ok(discarded)
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

/// Marks dead letters as retried, in the transaction that writes their new rows.
pub(super) async fn mark_retried(conn: &mut PgConnection, ids: &[i64], reason: &str, by: &str) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "update outbox_dead_letters
         set resolution = 'retried', resolved_at = clock_timestamp(), resolved_by = $2, reason = $3
         where outbox_id = any($1) and resolution is null",
    )
    .bind(ids)
    .bind(by)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
