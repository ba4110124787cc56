//! The operators' log: one row for each act that changed something, in the transaction of the act. The functions
//! that act write it themselves, so whoever acts is asked for an [`Actor`] and no caller can forget the row.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

/// How an operator's act came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A command, straight on the database.
    Cli,
    /// The admin API, with a bearer token.
    Api,
    /// A browser with a session.
    Console,
}

impl Via {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Console => "console",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The token's `sub`; on the command line `--by`, or `user@host`.
    pub name: String,
    /// The token's role; none on the command line, where the database's own rights decide.
    pub role: Option<&'static str>,
    /// How the act came.
    pub via: Via,
}

/// What an operator can do. The names are the commands' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// The relay was paused.
    Pause,
    /// The relay was resumed.
    Resume,
    /// The recorded Kafka log was forgotten.
    AcceptIdentity,
    /// Dead letters were sent again.
    DeadRetry,
    /// Dead letters were given up.
    DeadDiscard,
    /// A replay was started.
    ReplayCreate,
    /// A replay was paused.
    ReplayPause,
    /// A replay was resumed.
    ReplayResume,
    /// A replay was ended.
    ReplayCancel,
    /// Settled partitions or old idempotency keys were dropped.
    Retain,
}

impl Act {
    /// As in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::AcceptIdentity => "accept-identity",
            Self::DeadRetry => "dead-retry",
            Self::DeadDiscard => "dead-discard",
            Self::ReplayCreate => "replay-create",
            Self::ReplayPause => "replay-pause",
            Self::ReplayResume => "replay-resume",
            Self::ReplayCancel => "replay-cancel",
            Self::Retain => "retain",
        }
    }
}

/// Writes one row. `subject` is for people, `detail` the same for programs.
pub(super) async fn record_act(
    conn: &mut PgConnection,
    actor: &Actor,
    act: Act,
    subject: &str,
    detail: Value,
    reason: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into operator_acts (who, role, via, act, subject, detail, reason) values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&actor.name)
    .bind(actor.role)
    .bind(actor.via.as_str())
    .bind(act.as_str())
    .bind(subject)
    .bind(detail)
    .bind(reason)
    .execute(conn)
    .await
    .map(|_| ())
}

/// A row of the operators' log.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct RecordedAct {
    /// Newer rows have greater ones.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: the token's `sub`, or what the command line said.
    pub who: String,
    /// The token's role; null on the command line.
    pub role: Option<String>,
    /// `cli`, `api` or `console`.
    pub via: String,
    /// What, in the commands' words.
    pub act: String,
    /// On what, for people.
    pub subject: String,
    /// On what, and the numbers, for programs.
    #[schema(value_type = Object)]
    pub detail: Value,
    /// Why, where a reason was given.
    pub reason: Option<String>,
}

/// Which page of the operators' log, newest first. Each field narrows.
#[derive(Debug, Clone, Default)]
pub struct ActFilter {
    /// Only below this id.
    pub after: Option<i64>,
    /// At most so many rows.
    pub limit: i64,
    /// Only such acts.
    pub act: Option<Act>,
    /// Only of this operator.
    pub who: Option<String>,
}

/// One page, newest first.
pub async fn list_acts(conn: &mut PgConnection, filter: &ActFilter) -> sqlx::Result<Vec<RecordedAct>> {
    sqlx::query_as(
        "select id, at, who, role, via, act, subject, detail, reason from operator_acts
         where ($1::bigint is null or id < $1) and ($2::text is null or act = $2) and ($3::text is null or who = $3)
         order by id desc limit $4",
    )
    .persistent(false)
    .bind(filter.after)
    .bind(filter.act.map(Act::as_str))
    .bind(&filter.who)
    .bind(filter.limit)
    .fetch_all(conn)
    .await
}
