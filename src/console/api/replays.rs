//! `/admin/api/replays`: recorded operations that send messages again.

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{commit, failed, last_of_full, not_selected, page_limit, text};
use crate::{
    console::{
        ConsoleState,
        auth::Operator,
        request::{Act, Filter},
    },
    http::{catalogue::Code, problem::Problem},
    outbox::replays::{self, Change, Created, DEFAULT_RATE, NewReplay, Previewed, Replay, Selection, Wanted},
};

/// Messages a second, at most.
const MAX_RATE: i32 = 1_000_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only behind this replay: the `next` of the page before
    after: Option<Uuid>,
    /// Rows on the page, 1 to 1000; 50 when absent
    limit: Option<i64>,
}

/// A page of replays.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayPage {
    /// Newest first.
    rows: Vec<Replay>,
    /// `after` of the next page; null: this is the last.
    next: Option<Uuid>,
}

/// What to replay, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateReplay {
    /// Which messages.
    selection: Wanted,
    /// It is recorded.
    reason: String,
    /// Messages a second, 1 to 1000000; 500 when absent.
    rate: Option<i32>,
    /// A name for this operation: the same one starts nothing twice. Up to 1000 characters. Of what an audit found
    /// missing, which is sent once, it is `missing-` and the audit's id: leave it out.
    operation_id: Option<String>,
    /// The `count` of the preview that was agreed to: nothing is started when there are more or fewer by now.
    count: Option<i64>,
}

/// What a preview is asked of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewReplay {
    /// Which messages.
    selection: Wanted,
}

/// Replays, newest first.
#[utoipa::path(
    get, path = "/admin/api/replays", operation_id = "list_replays", tag = "operators", params(Asked),
    responses((status = 200, description = "A page of replays", body = ReplayPage))
)]
pub(super) async fn list(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(asked): Filter<Asked>,
) -> Result<Json<ReplayPage>, Problem> {
    let limit = page_limit(asked.limit)?;
    let mut conn = console.conn().await?;
    let rows = replays::list_replays(&mut conn, asked.after, limit)
        .await
        .map_err(failed)?;
    let next = last_of_full(&rows, limit).map(|row| row.id);
    Ok(Json(ReplayPage { rows, next }))
}

/// What a replay would send, and what may surprise. Changes nothing.
#[utoipa::path(
    post, path = "/admin/api/replays/preview", operation_id = "preview_replay", tag = "operators",
    request_body = PreviewReplay,
    responses((status = 200, description = "As `dispatcher replay create --dry-run`", body = Previewed))
)]
pub(super) async fn preview(
    State(console): State<ConsoleState>,
    _: Operator,
    Act(asked): Act<PreviewReplay>,
) -> Result<Json<Previewed>, Problem> {
    let selection = selection(&asked.selection)?;
    let preview = replays::preview_replay(&mut console.counting().await?.conn, &selection)
        .await
        .map_err(not_selected)?;
    Ok(Json(Previewed::from(preview)))
}

/// Start a replay: new messages with the same event ids, through the relay, at a rate.
#[utoipa::path(
    post, path = "/admin/api/replays", operation_id = "create_replay", tag = "operators", request_body = CreateReplay,
    responses(
        (status = 201, description = "It runs", body = Replay,
            headers(("Location" = String, description = "`/admin/api/replays/{id}`"))),
        (status = 200, description = "This operation was started before: nothing was started now", body = Replay),
    )
)]
pub(super) async fn create(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(asked): Act<CreateReplay>,
) -> Result<Response, Problem> {
    let selection = selection(&asked.selection)?;
    let new = NewReplay {
        operation_id: operation_id(&selection, asked.operation_id.as_deref())?,
        selection,
        reason: text("reason", &asked.reason)?,
        by: operator.actor(),
        rate: asked.rate.unwrap_or(DEFAULT_RATE),
    };
    if !(1..=MAX_RATE).contains(&new.rate) {
        return Err(Problem::new(Code::MalformedBody).detail(format!("rate is from 1 to {MAX_RATE}")));
    }
    match start(&console, &new, asked.count).await? {
        Created::New(replay) => {
            let location = format!("/admin/api/replays/{}", replay.id);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(replay)).into_response())
        }
        Created::Existing(replay) => Ok(Json(replay).into_response()),
    }
}

/// Starts a replay, unless its operation was started before. `agreed`: start nothing when another number of messages
/// is selected by now.
pub async fn start(console: &ConsoleState, new: &NewReplay, agreed: Option<i64>) -> Result<Created, Problem> {
    let mut counting = console.counting().await?;
    let mut tx = counting.conn.begin().await.map_err(failed)?;
    if let Some(existing) = replays::find_operation(&mut tx, &new.operation_id)
        .await
        .map_err(failed)?
    {
        return already(&new.selection, existing);
    }
    let summary = replays::summarize(&mut tx, &new.selection)
        .await
        .map_err(not_selected)?;
    if summary.count == 0 {
        return Err(Problem::new(Code::NotFound).detail("nothing matches: no message would be sent"));
    }
    if agreed.is_some_and(|agreed| agreed != summary.count) {
        return Err(Problem::new(Code::SelectionChanged)
            .detail(format!("{} messages match now; nothing was started", summary.count)));
    }
    let created = replays::create_replay(&mut tx, new, &summary).await.map_err(failed)?;
    commit(tx).await?;
    match created {
        Created::New(replay) => Ok(Created::New(replay)),
        Created::Existing(replay) => already(&new.selection, replay),
    }
}

/// The name of the operation: what was given, or the selection's own.
pub fn operation_id(selection: &Selection, given: Option<&str>) -> Result<String, Problem> {
    let wrong = |why: String| Problem::new(Code::MalformedBody).detail(why);
    let given = given.map(|given| text("operation_id", given)).transpose()?;
    selection
        .operation_id(given)
        .map_err(|why| wrong(format!("operation_id: {why}")))?
        .ok_or_else(|| wrong("operation_id is missing".to_owned()))
}

/// The operation id was used before.
fn already(asked: &Selection, existing: Replay) -> Result<Created, Problem> {
    if *asked != existing.filter.0 {
        return Err(Problem::new(Code::OperationIdReused).detail(format!(
            "the operation id {:?} names another selection, of {}",
            existing.operation_id, existing.created_at
        )));
    }
    Ok(Created::Existing(existing))
}

fn selection(wanted: &Wanted) -> Result<Selection, Problem> {
    wanted
        .selection()
        .map_err(|why| Problem::new(Code::MalformedBody).detail(format!("selection: {why}")))
}

/// One replay, and how far it is.
#[utoipa::path(
    get, path = "/admin/api/replays/{id}", operation_id = "show_replay", tag = "operators",
    params(("id" = String, Path, description = "The replay's id, or its operation id")),
    responses((status = 200, description = "The replay as it is now", body = Replay))
)]
pub(super) async fn show(
    State(console): State<ConsoleState>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<Replay>, Problem> {
    let mut conn = console.conn().await?;
    Ok(Json(find(&mut conn, &id).await?))
}

/// Stop a running replay for now.
#[utoipa::path(
    post, path = "/admin/api/replays/{id}/pause", operation_id = "pause_replay", tag = "operators",
    params(("id" = String, Path, description = "The replay's id, or its operation id")),
    responses((status = 200, description = "It is paused", body = Replay))
)]
pub(super) async fn pause(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Replay>, Problem> {
    change(&console, &operator, &id, Change::Pause).await
}

/// Go on with a paused replay.
#[utoipa::path(
    post, path = "/admin/api/replays/{id}/resume", operation_id = "resume_replay", tag = "operators",
    params(("id" = String, Path, description = "The replay's id, or its operation id")),
    responses((status = 200, description = "It runs", body = Replay))
)]
pub(super) async fn resume(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Replay>, Problem> {
    change(&console, &operator, &id, Change::Resume).await
}

/// End a replay for good; what it has sent stays sent.
#[utoipa::path(
    post, path = "/admin/api/replays/{id}/cancel", operation_id = "cancel_replay", tag = "operators",
    params(("id" = String, Path, description = "The replay's id, or its operation id")),
    responses((status = 200, description = "It is cancelled", body = Replay))
)]
pub(super) async fn cancel(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Replay>, Problem> {
    change(&console, &operator, &id, Change::Cancel).await
}

/// Pauses, resumes or cancels a replay; it may be in that state already.
pub async fn change(
    console: &ConsoleState,
    operator: &Operator,
    id: &str,
    change: Change,
) -> Result<Json<Replay>, Problem> {
    let mut tx = console.begin().await?;
    let replay = find(&mut tx, id).await?;
    let changed = replays::change_replay(&mut tx, replay.id, change, &operator.actor())
        .await
        .map_err(failed)?;
    if let Some(changed) = changed {
        commit(tx).await?;
        return Ok(Json(changed));
    }
    let now = find(&mut tx, id).await?;
    let (_, to) = change.states();
    if now.state == to {
        return Ok(Json(now));
    }
    Err(Problem::new(Code::ReplayHasEnded).detail(format!(
        "the replay is {}, after {} of {} messages: it cannot become {to} any more",
        now.state, now.replayed, now.matched
    )))
}

async fn find(conn: &mut PgConnection, id: &str) -> Result<Replay, Problem> {
    let missing = || Problem::new(Code::NotFound).detail("there is no replay with this id or operation id");
    // PostgreSQL's text cannot hold a NUL, so no operation has one.
    if id.contains('\0') {
        return Err(missing());
    }
    replays::find_replay(conn, id)
        .await
        .map_err(failed)?
        .ok_or_else(missing)
}
