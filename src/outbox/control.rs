//! The one control row: pause of the whole relay.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    acts::{Act, Actor, record_act},
    installation::{self, Halt, Installation},
};

/// A pause: who, why, since when. Nothing is handed to Kafka while it lasts; accepting goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Pause {
    /// As the operator gave it.
    pub reason: String,
    /// `user@host`, or what the operator called himself.
    pub by: String,
    /// By PostgreSQL's clock.
    pub since: DateTime<Utc>,
}

/// What became of a request to pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PauseOutcome {
    /// By this request; false: it was paused before, and stays so for the earlier reason.
    pub changed: bool,
    /// The pause that is on.
    pub pause: Pause,
}

/// A pause that ended.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Resumed {
    /// The pause that ended.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub pause: Pause,
    /// How long it lasted.
    pub lasted_seconds: f64,
}

/// What became of a request to resume.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ResumeOutcome {
    /// By this request; false: it was not paused.
    pub changed: bool,
    /// The pause that ended.
    pub was: Option<Resumed>,
    /// The Kafka topic that was forgotten, where another log was accepted.
    pub forgotten_topic: Option<String>,
    /// And the cluster.
    pub forgotten_cluster_id: Option<String>,
    /// The halt that ended, where another log was accepted; null: publishing did not halt.
    pub was_halted: Option<Halt>,
}

/// Pauses the relay, unless it is paused: the first pause's reason is not overwritten. The caller owns the transaction:
/// nobody pauses or resumes until its end.
pub async fn pause_relay(conn: &mut PgConnection, reason: &str, actor: &Actor) -> sqlx::Result<PauseOutcome> {
    sqlx::query("select from outbox_control for update")
        .execute(&mut *conn)
        .await?;
    let paused: Option<Pause> = sqlx::query_as(
        "update outbox_control set paused = true, reason = $1, by = $2, since = clock_timestamp()
         where not paused
         returning reason, by, since",
    )
    .bind(reason)
    .bind(&actor.name)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(pause) = paused {
        record_act(conn, actor, Act::Pause, "relay", json!({}), Some(reason)).await?;
        return Ok(PauseOutcome { changed: true, pause });
    }
    // The row is held, so it still says what the statement before has found.
    let pause = read_pause(conn).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(PauseOutcome { changed: false, pause })
}

/// Ends the pause, if there is one; with `accept_identity`, also forgets which Kafka log the outbox was written to
/// ([`accept_identity`](installation::accept_identity)). The caller owns the transaction.
pub async fn resume_relay(
    conn: &mut PgConnection,
    accept_identity: bool,
    actor: &Actor,
) -> sqlx::Result<ResumeOutcome> {
    let forgotten = if accept_identity {
        Some(installation::accept_identity(&mut *conn, actor).await?)
    } else {
        None
    };
    let was = end_pause(conn, actor).await?;
    let was_halted = forgotten.as_ref().and_then(Installation::halt);
    let (forgotten_topic, forgotten_cluster_id) =
        forgotten.map_or((None, None), |known| (known.topic, known.cluster_id));
    Ok(ResumeOutcome {
        changed: was.is_some(),
        was,
        forgotten_topic,
        forgotten_cluster_id,
        was_halted,
    })
}

async fn end_pause(conn: &mut PgConnection, actor: &Actor) -> sqlx::Result<Option<Resumed>> {
    let resumed: Option<Resumed> = sqlx::query_as(
        "with before as (
             select coalesce(reason, '') as reason, coalesce(by, '') as by,
                    coalesce(since, clock_timestamp()) as since
             from outbox_control where paused for update
         ), after as (
             update outbox_control set paused = false, reason = null, by = null, since = null
             where paused and exists (select from before)
             returning singleton
         )
         select before.*, extract(epoch from clock_timestamp() - before.since)::float8 as lasted_seconds
         from before, after",
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(was) = &resumed {
        let detail = json!({"lasted_seconds": was.lasted_seconds, "was": was.pause});
        record_act(conn, actor, Act::Resume, "relay", detail, None).await?;
    }
    Ok(resumed)
}

/// The pause that is on now.
pub async fn read_pause(conn: &mut PgConnection) -> sqlx::Result<Option<Pause>> {
    sqlx::query_as(
        "select coalesce(reason, '') as reason, coalesce(by, '') as by, coalesce(since, clock_timestamp()) as since
         from outbox_control where paused",
    )
    .fetch_optional(conn)
    .await
}
