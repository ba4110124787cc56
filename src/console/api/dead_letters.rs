//! `/admin/api/dead-letters`: messages that Kafka refuses for good, and what operators decide about them.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::{commit, failed, failed_midway, last_of_full, not_selected, page_limit, text};
use crate::{
    console::{
        ConsoleState,
        auth::Operator,
        request::{Act, Filter},
    },
    http::{catalogue::Code, problem::Problem},
    outbox::{
        dead_letters::{
            Dead, DeadGroup, DeadLetter, DeadPage, Discarded, discard_dead_letters, group_dead_letters,
            list_dead_letters, read_dead_letters,
        },
        replays::{Retried, SelectError, retry_dead_letters_whole},
    },
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only below this outbox id: the `next` of the page before
    after: Option<i64>,
    /// Rows on the page, 1 to 1000; 50 when absent
    limit: Option<i64>,
    /// Only of this class, such as `message-too-large`
    class: Option<String>,
    /// Also those that were retried or discarded
    #[serde(default)]
    resolved: bool,
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetterPage {
    /// Newest first.
    rows: Vec<DeadLetter>,
    /// `after` of the next page; null: this is the last.
    next: Option<i64>,
}

/// The groups of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadGroups {
    /// The largest first.
    rows: Vec<DeadGroup>,
}

/// Which dead letters, and why: exactly one of `ids`, `class` and `all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    /// These outbox ids.
    #[serde(default)]
    ids: Vec<i64>,
    /// All unresolved ones of this class.
    class: Option<String>,
    /// All unresolved ones.
    #[serde(default)]
    all: bool,
    /// It is recorded.
    reason: String,
}

/// Dead letters, newest first.
#[utoipa::path(
    get, path = "/admin/api/dead-letters", operation_id = "list_dead_letters", tag = "operators", params(Asked),
    responses((status = 200, description = "A page of dead letters", body = DeadLetterPage))
)]
pub(super) async fn list(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(asked): Filter<Asked>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let page = DeadPage {
        after: asked.after,
        limit: page_limit(asked.limit)?,
        class: asked.class,
        resolved: asked.resolved,
    };
    let mut conn = console.conn().await?;
    let rows = list_dead_letters(&mut conn, &page).await.map_err(failed)?;
    let next = last_of_full(&rows, page.limit).map(|row| row.outbox_id);
    Ok(Json(DeadLetterPage { rows, next }))
}

/// Unresolved dead letters by class of error.
#[utoipa::path(
    get, path = "/admin/api/dead-letters/groups", operation_id = "group_dead_letters", tag = "operators",
    responses((status = 200, description = "One row for each class of error", body = DeadGroups))
)]
pub(super) async fn group(State(console): State<ConsoleState>, _: Operator) -> Result<Json<DeadGroups>, Problem> {
    let mut conn = console.conn().await?;
    let rows = group_dead_letters(&mut conn).await.map_err(failed)?;
    Ok(Json(DeadGroups { rows }))
}

/// Send dead letters once more: each as a new message with the same event id.
#[utoipa::path(
    post, path = "/admin/api/dead-letters/retry", operation_id = "retry_dead_letters", tag = "operators",
    request_body = Resolve,
    responses((status = 200, description = "How many are sent again; those resolved before are left as they are",
        body = Retried))
)]
pub(super) async fn retry(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(asked): Act<Resolve>,
) -> Result<Json<Retried>, Problem> {
    let reason = text("reason", &asked.reason)?;
    let dead = choose(asked)?;
    Ok(Json(send_again(&console, &operator, &dead, &reason).await?))
}

/// Sends dead letters once more, in as many transactions as that takes: whoever is told that the database went away is
/// told that some may have been sent. Ids have to be dead letters, resolved or not.
pub async fn send_again(
    console: &ConsoleState,
    operator: &Operator,
    dead: &Dead,
    reason: &str,
) -> Result<Retried, Problem> {
    let mut conn = console.conn().await?;
    find_all(&mut conn, dead).await?;
    let rows = console.config.outbox.partition_rows;
    retry_dead_letters_whole(&mut conn, dead, reason, &operator.actor(), rows)
        .await
        .map_err(|error| match error {
            SelectError::Sql(error) => failed_midway(error),
            missing => not_selected(missing),
        })
}

/// Give dead letters up: their messages are never sent.
#[utoipa::path(
    post, path = "/admin/api/dead-letters/discard", operation_id = "discard_dead_letters", tag = "operators",
    request_body = Resolve,
    responses((status = 200, description = "How many were given up; those resolved before are left as they are",
        body = Discarded))
)]
pub(super) async fn discard(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(asked): Act<Resolve>,
) -> Result<Json<Discarded>, Problem> {
    let reason = text("reason", &asked.reason)?;
    let dead = choose(asked)?;
    Ok(Json(give_up(&console, &operator, &dead, &reason).await?))
}

/// Gives dead letters up, all of them or none. Ids have to be dead letters, resolved or not.
pub async fn give_up(
    console: &ConsoleState,
    operator: &Operator,
    dead: &Dead,
    reason: &str,
) -> Result<Discarded, Problem> {
    let mut tx = console.begin().await?;
    find_all(&mut tx, dead).await?;
    let discarded = discard_dead_letters(&mut tx, dead, reason, &operator.actor())
        .await
        .map_err(failed)?;
    commit(tx).await?;
    Ok(discarded)
}

/// Turns a body into a choice.
fn choose(asked: Resolve) -> Result<Dead, Problem> {
    match (asked.ids.is_empty(), asked.class, asked.all) {
        (false, None, false) => Ok(Dead::Ids(asked.ids)),
        (true, Some(class), false) => Ok(Dead::Class(text("class", &class)?)),
        (true, None, true) => Ok(Dead::All),
        _ => Err(Problem::new(Code::MalformedBody).detail("give exactly one of ids, class and all")),
    }
}

/// Refuses ids that are no dead letters.
async fn find_all(conn: &mut PgConnection, dead: &Dead) -> Result<(), Problem> {
    let Dead::Ids(ids) = dead else { return Ok(()) };
    let found = read_dead_letters(conn, ids).await.map_err(failed)?;
    match ids.iter().find(|id| !found.iter().any(|dead| dead.outbox_id == **id)) {
        None => Ok(()),
        Some(id) => Err(Problem::new(Code::NotFound).detail(format!("message {id} is no dead letter"))),
    }
}
