//! Replays: recorded operations that write chosen messages to the outbox again, with the same event id, so
//! that they take the one path that every message takes.
//!
//! [`wanted`] is what an operator asks for, [`select`] decides which messages that is: the choice is frozen when the
//! replay is created. [`mod@advance`] writes the
//! next chunk of rows at the replay's rate; the progress is in the transaction that writes them, so a kill
//! in the middle neither skips nor repeats any.
//!
//! `running <--pause/resume--> paused`, both `--cancel--> cancelled`, `running --the last chunk--> done`;
//! nothing leaves the last two.

mod advance;
mod retry;
mod select;
mod wanted;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    acts::{Act, Actor, record_act},
    dead_letters::Dead,
};

pub use self::{
    advance::{Pace, Progress, Which, advance, read_next_due},
    retry::{Retried, retry_dead_letters_whole},
    select::{Frozen, Preview, Previewed, SelectError, Summary, Warning, preview_replay, summarize},
    wanted::{Selection, Wanted, Window},
};

/// Messages a second when the operator names no rate: well below what a relay drains, so that new messages
/// hardly notice.
pub const DEFAULT_RATE: i32 = 500;

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ReplayState {
    /// Its rows are written, at its rate.
    Running,
    /// An operator has stopped it for now.
    Paused,
    /// An operator has ended it.
    Cancelled,
    /// All its rows are written.
    Done,
}

impl ReplayState {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }

    /// It may still write rows.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for ReplayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A recorded replay.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Replay {
    /// The header `replay-id` of each record.
    pub id: Uuid,
    /// The operator's name for it: the same one starts nothing twice.
    pub operation_id: String,
    /// What was asked for.
    #[schema(value_type = Selection)]
    pub filter: Json<Selection>,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// The lowest id that it may replay.
    pub lower_bound: i64,
    /// The highest id that it may replay.
    pub upper_bound: i64,
    /// The last original id that was looked at.
    pub cursor: i64,
    /// Counted at creation.
    pub matched: i64,
    /// Rows written so far.
    pub replayed: i64,
    /// Messages a second.
    pub rate: i32,
    /// Where it stands.
    pub state: ReplayState,
    /// When the state changed last.
    pub changed_at: DateTime<Utc>,
    /// Until the last row is written, at its rate and while a relay runs; null unless it is running.
    pub seconds_left: Option<f64>,
}

/// The columns of [`Replay`].
macro_rules! replay_columns {
    () => {
        "id, operation_id, filter, reason, requested_by, created_at, lower_bound, upper_bound, cursor, matched, \
         replayed, rate, state, changed_at, \
         case when state = 'running' then greatest(matched - replayed, 0)::float8 / rate end as seconds_left"
    };
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct NewReplay {
    /// See [`Replay::operation_id`].
    pub operation_id: String,
    /// See [`Replay::filter`].
    pub selection: Selection,
    /// See [`Replay::reason`].
    pub reason: String,
    /// See [`Replay::requested_by`].
    pub by: Actor,
    /// Messages a second, at least 1.
    pub rate: i32,
}

/// What [`create_replay`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It runs from now on.
    New(Replay),
    /// The operation id was used before: this is that replay. Nothing was started.
    Existing(Replay),
}

/// Records a replay of exactly what `summary` counted. It runs as soon as the transaction commits.
pub async fn create_replay(conn: &mut PgConnection, new: &NewReplay, summary: &Summary) -> sqlx::Result<Created> {
    let created = insert_replay(conn, new, summary).await?;
    if let Created::New(replay) = &created {
        let detail = json!({"replay_id": replay.id, "operation_id": replay.operation_id, "count": replay.matched,
                            "rate": replay.rate, "selection": new.selection});
        record_act(
            conn,
            &new.by,
            Act::ReplayCreate,
            &subject(replay.id),
            detail,
            Some(&new.reason),
        )
        .await?;
    }
    Ok(created)
}

/// As the operators' log names it.
fn subject(replay: Uuid) -> String {
    format!("replay {replay}")
}

async fn insert_replay(conn: &mut PgConnection, new: &NewReplay, summary: &Summary) -> sqlx::Result<Created> {
    let frozen = &summary.frozen;
    let created: Option<Replay> = sqlx::query_as(concat!(
        "insert into outbox_replays (id, operation_id, filter, reason, requested_by, lower_bound, upper_bound,
                                     within, cursor, matched, rate)
         values ($1, $2, $3, $4, $5, $6, $7, $8::text::int8multirange, $6 - 1, $9, $10)
         on conflict (operation_id) do nothing
         returning ",
        replay_columns!()
    ))
    .bind(Uuid::now_v7())
    .bind(&new.operation_id)
    .bind(Json(&new.selection))
    .bind(&new.reason)
    .bind(&new.by.name)
    .bind(frozen.lower)
    .bind(frozen.upper)
    .bind(&frozen.within)
    .bind(summary.count)
    .bind(new.rate)
    .fetch_optional(&mut *conn)
    .await?;
    match created {
        Some(replay) => Ok(Created::New(replay)),
        None => find_operation(conn, &new.operation_id)
            .await?
            .map(Created::Existing)
            .ok_or(sqlx::Error::RowNotFound),
    }
}

/// Retries unresolved dead letters: a replay whose first chunk is written at once. `None`: there is none, or
/// others resolved all of them meanwhile; then the caller rolls back. What is left when the returned step is
/// not done, [`advance()`] writes.
pub async fn retry_dead_letters(
    conn: &mut PgConnection,
    dead: &Dead,
    reason: &str,
    actor: &Actor,
) -> Result<Option<Progress>, SelectError> {
    let (ids, class) = match dead {
        Dead::Ids(ids) => (ids.clone(), None),
        Dead::Class(class) => (Vec::new(), Some(class.clone())),
        Dead::All => (Vec::new(), None),
    };
    let new = NewReplay {
        operation_id: format!("dead-retry-{}", Uuid::now_v7()),
        selection: Selection::Dead {
            ids,
            class,
            window: Window::default(),
        },
        reason: reason.to_owned(),
        by: actor.clone(),
        rate: DEFAULT_RATE,
    };
    let summary = select::summarize(conn, &new.selection).await?;
    if summary.count == 0 {
        return Ok(None);
    }
    let Created::New(replay) = insert_replay(conn, &new, &summary).await? else {
        return Ok(None);
    };
    let mut detail = dead.detail(summary.count);
    detail["replay_id"] = json!(replay.id);
    record_act(conn, actor, Act::DeadRetry, &dead.describe(), detail, Some(reason)).await?;
    let progress = advance(conn, Which::One(replay.id), Pace::Now).await?;
    Ok(progress.filter(|p| p.inserted > 0 || !p.done))
}

/// The replay of an operation id.
pub async fn find_operation(conn: &mut PgConnection, operation_id: &str) -> sqlx::Result<Option<Replay>> {
    sqlx::query_as(concat!(
        "select ",
        replay_columns!(),
        " from outbox_replays where operation_id = $1"
    ))
    .bind(operation_id)
    .fetch_optional(conn)
    .await
}

/// The replay of an id, or of an operation id.
pub async fn find_replay(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<Replay>> {
    if let Ok(id) = Uuid::try_parse(id)
        && let Some(replay) = read_replay(conn, id).await?
    {
        return Ok(Some(replay));
    }
    find_operation(conn, id).await
}

/// Reads one replay.
pub async fn read_replay(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Replay>> {
    sqlx::query_as(concat!(
        "select ",
        replay_columns!(),
        " from outbox_replays where id = $1"
    ))
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// One page of replays, newest first.
pub async fn list_replays(conn: &mut PgConnection, after: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Replay>> {
    sqlx::query_as(concat!(
        "select ",
        replay_columns!(),
        " from outbox_replays where $1::uuid is null or id < $1 order by id desc limit $2"
    ))
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Replays that run or are paused, newest first, at most `limit`.
pub async fn list_open_replays(conn: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<Replay>> {
    sqlx::query_as(concat!(
        "select ",
        replay_columns!(),
        " from outbox_replays where state in ('running', 'paused') order by id desc limit $1"
    ))
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// What an operator does to a replay that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `running` to `paused`.
    Pause,
    /// `paused` to `running`.
    Resume,
    /// `running` or `paused` to `cancelled`; what was written stays.
    Cancel,
}

impl Change {
    fn act(self) -> Act {
        match self {
            Self::Pause => Act::ReplayPause,
            Self::Resume => Act::ReplayResume,
            Self::Cancel => Act::ReplayCancel,
        }
    }

    /// The states that it leaves, and the one that it enters.
    pub fn states(self) -> (&'static [ReplayState], ReplayState) {
        use ReplayState::{Cancelled, Paused, Running};
        match self {
            Self::Pause => (&[Running], Paused),
            Self::Resume => (&[Paused], Running),
            Self::Cancel => (&[Running, Paused], Cancelled),
        }
    }
}

/// Changes a replay's state; `None`: it is missing, or is not in a state that this change leaves.
pub async fn change_replay(
    conn: &mut PgConnection,
    id: Uuid,
    change: Change,
    actor: &Actor,
) -> sqlx::Result<Option<Replay>> {
    let (from, to) = change.states();
    let changed: Option<Replay> = sqlx::query_as(concat!(
        "update outbox_replays set state = $2, changed_at = clock_timestamp()
         where id = $1 and state = any($3)
         returning ",
        replay_columns!()
    ))
    .bind(id)
    .bind(to.as_str())
    .bind(from.iter().map(|state| state.as_str()).collect::<Vec<_>>())
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(replay) = &changed {
        let detail = json!({"replay_id": replay.id, "replayed": replay.replayed, "matched": replay.matched});
        record_act(conn, actor, change.act(), &subject(replay.id), detail, None).await?;
    }
    Ok(changed)
}
