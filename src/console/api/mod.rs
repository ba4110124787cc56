//! The admin API: what the commands do, as JSON, on the same functions of [`crate::outbox`] and so with the same words
//! and numbers. Field names are those of the tables and of `--output json`.
//!
//! A `GET` needs the role viewer, anything else operator ([`Operator`](super::auth::Operator) sees to it);
//! what drops data or forgets where it went needs admin. Each act is in the operators' log, in its own transaction.

mod acts;
pub mod audits;
mod control;
pub mod dead_letters;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
pub mod messages;
mod overview;
pub mod replays;
pub mod retain;

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, PgTransaction, Postgres, pool::PoolConnection};
use tokio::sync::OwnedSemaphorePermit;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::ConsoleState;
use crate::{
    http::{catalogue::Code, openapi::Problems, problem::Problem},
    outbox::replays::SelectError,
};

/// Rows of a page when none are asked for, and at most.
const PAGE: i64 = 50;
const MAX_PAGE: i64 = 1000;
/// Counting what a replay would send reads all of it: five million messages took 34 s.
const COUNT_TIMEOUT: Duration = Duration::from_mins(5);
/// Characters of a reason, a class of errors, an operation id: for people to read.
const MAX_TEXT: usize = 1000;
/// When to try again while the database is away, in seconds.
const SOON: u64 = 1;

/// Routes and document, from the same list.
pub(super) fn routes() -> OpenApiRouter<ConsoleState> {
    OpenApiRouter::new()
        .routes(routes!(overview::show))
        .routes(routes!(messages::list))
        .routes(routes!(messages::show))
        .routes(routes!(messages::export))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::group))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(replays::list, replays::create))
        .routes(routes!(replays::preview))
        .routes(routes!(replays::show))
        .routes(routes!(replays::pause))
        .routes(routes!(replays::resume))
        .routes(routes!(replays::cancel))
        .routes(routes!(audits::list))
        .routes(routes!(audits::show))
        .routes(routes!(control::show, control::pause))
        .routes(routes!(control::resume))
        .routes(routes!(retain::plan, retain::retain))
        .routes(routes!(acts::list))
}

/// What every read can fail with.
const READ: &[Code] = &[
    Code::Unauthorized,
    Code::Forbidden,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
];
const LIST: &[Code] = &[
    Code::MalformedQuery,
    Code::Unauthorized,
    Code::Forbidden,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
];
/// A list that can be of one thing, which there may not be.
const LIST_OF_ONE: &[Code] = &[
    Code::MalformedQuery,
    Code::Unauthorized,
    Code::Forbidden,
    Code::NotFound,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
];
const ONE: &[Code] = &[
    Code::MalformedId,
    Code::Unauthorized,
    Code::Forbidden,
    Code::NotFound,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
];
/// What every act with a body can fail with.
const ACT: &[Code] = &[
    Code::MalformedBody,
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::NotFound,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
    Code::OutcomeUnknown,
];
const PREVIEW: &[Code] = &[
    Code::MalformedBody,
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::NotFound,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
    Code::Overloaded,
];
const CREATE: &[Code] = &[
    Code::MalformedBody,
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::NotFound,
    Code::SelectionChanged,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::OperationIdReused,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
    Code::Overloaded,
    Code::OutcomeUnknown,
];
const CHANGE: &[Code] = &[
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::NotFound,
    Code::ReplayHasEnded,
    Code::KeysUnavailable,
    Code::DatabaseUnavailable,
    Code::OutcomeUnknown,
];

pub(super) const PROBLEMS: Problems = &[
    ("read_overview", READ),
    ("list_messages", LIST_OF_ONE),
    ("show_message", ONE),
    ("export_messages", LIST_OF_ONE),
    ("list_dead_letters", LIST),
    ("group_dead_letters", READ),
    ("retry_dead_letters", ACT),
    ("discard_dead_letters", ACT),
    ("list_replays", LIST),
    ("create_replay", CREATE),
    ("preview_replay", PREVIEW),
    ("show_replay", ONE),
    ("pause_replay", CHANGE),
    ("resume_replay", CHANGE),
    ("cancel_replay", CHANGE),
    ("list_audits", LIST),
    ("show_audit", ONE),
    ("read_pause", READ),
    ("pause_relay", ACT),
    ("resume_relay", ACT),
    ("plan_retention", READ),
    ("retain", ACT),
    ("list_acts", LIST),
];

impl ConsoleState {
    /// A connection for looking.
    pub(super) async fn conn(&self) -> Result<PoolConnection<Postgres>, Problem> {
        self.pool.acquire().await.map_err(failed)
    }

    /// A transaction for one act; dropping it undoes the act and its row in the operators' log.
    pub(super) async fn begin(&self) -> Result<PgTransaction<'static>, Problem> {
        self.pool.begin().await.map_err(failed)
    }

    /// What counts all that a replay would send or that retention would drop, on a connection of its own; one at a time in
    /// this process.
    pub(super) async fn counting(&self) -> Result<Counting, Problem> {
        let permit = Arc::clone(&self.counting).try_acquire_owned().map_err(|_| {
            Problem::new(Code::Overloaded)
                .detail("rows are being counted for somebody else; try again when that is done")
                .retry_after(SOON)
        })?;
        let mut conn = self.conn().await?.detach();
        // Whoever asked may go away: PostgreSQL then ends the statement (`session::of_service`), and nobody waits for it.
        sqlx::query("select set_config('statement_timeout', $1, false)")
            .bind(COUNT_TIMEOUT.as_millis().to_string())
            .execute(&mut conn)
            .await
            .map_err(failed)?;
        Ok(Counting { conn, _permit: permit })
    }
}

/// See [`ConsoleState::counting`].
pub(super) struct Counting {
    pub conn: PgConnection,
    _permit: OwnedSemaphorePermit,
}

/// Commits an act.
pub(super) async fn commit(tx: PgTransaction<'_>) -> Result<(), Problem> {
    // The answer of a commit can be lost after it was done.
    tx.commit()
        .await
        .map_err(|error| Problem::new(Code::OutcomeUnknown).retry_after(SOON).cause(error))
}

/// What the database's failure is to the caller.
pub(super) fn failed(error: sqlx::Error) -> Problem {
    let code = Code::of_database(&error);
    // https://www.postgresql.org/docs/current/errcodes-appendix.html: query_canceled.
    let took_too_long = error
        .as_database_error()
        .is_some_and(|said| said.code().as_deref() == Some("57014"));
    let mut problem = Problem::new(code).cause(error);
    if took_too_long {
        problem = problem.detail(
            "PostgreSQL was stopped before it could answer: it took too long, or somebody cancelled it; ask for less",
        );
    }
    if code == Code::DatabaseUnavailable {
        problem.retry_after(SOON)
    } else {
        problem
    }
}

/// The same, when a step of the act may have been committed before.
fn failed_midway(error: sqlx::Error) -> Problem {
    let text = error.to_string();
    match failed(error).code() {
        Code::DatabaseUnavailable => Problem::new(Code::OutcomeUnknown).retry_after(SOON).cause(text),
        code => Problem::new(code).cause(text),
    }
}

/// What cannot be selected is to the caller.
pub(super) fn not_selected(error: SelectError) -> Problem {
    match error {
        SelectError::Sql(error) => failed(error),
        missing => Problem::new(Code::NotFound).detail(missing.to_string()),
    }
}

/// The rows of a page: [`PAGE`], or what was asked for.
fn page_limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked {
        None => Ok(PAGE),
        Some(limit @ 1..=MAX_PAGE) => Ok(limit),
        Some(_) => Err(Problem::new(Code::MalformedQuery).detail(format!("limit is from 1 to {MAX_PAGE}"))),
    }
}

/// The last row of a page that is full: there may be more behind it.
pub(super) fn last_of_full<T>(rows: &[T], limit: i64) -> Option<&T> {
    rows.last().filter(|_| rows.len() as i64 == limit)
}

/// A text of an act that has to say something.
pub(super) fn text(name: &str, given: &str) -> Result<String, Problem> {
    let given = given.trim();
    let wrong = |why: String| Err(Problem::new(Code::MalformedBody).detail(why));
    if given.is_empty() {
        return wrong(format!("{name} is empty"));
    }
    if given.chars().count() > MAX_TEXT {
        return wrong(format!("{name} has more than {MAX_TEXT} characters"));
    }
    // PostgreSQL's text cannot hold it.
    if given.contains('\0') {
        return wrong(format!("{name} has a NUL character"));
    }
    Ok(given.to_owned())
}
