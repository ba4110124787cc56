//! `/admin/api/pause` and `/admin/api/resume`: of the whole relay. Accepting goes on.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{commit, failed, text};
use crate::{
    console::{ConsoleState, auth::Operator, request::Act},
    http::{auth::Role, problem::Problem},
    outbox::control::{Pause, PauseOutcome, ResumeOutcome, pause_relay, read_pause, resume_relay},
};

/// Whether the relay is paused, by whom and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PauseState {
    paused: bool,
    /// Null: it is not paused.
    pause: Option<Pause>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRelay {
    /// It is shown wherever the pause is.
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeRelay {
    /// Also accept that there is another cluster or topic behind the configured names than before. Needs admin.
    #[serde(default)]
    accept_identity: bool,
}

/// Whether the relay is paused.
#[utoipa::path(
    get, path = "/admin/api/pause", operation_id = "read_pause", tag = "operators",
    responses((status = 200, description = "The pause that is on, if any", body = PauseState))
)]
pub(super) async fn show(State(console): State<ConsoleState>, _: Operator) -> Result<Json<PauseState>, Problem> {
    let mut conn = console.conn().await?;
    let pause = read_pause(&mut conn).await.map_err(failed)?;
    Ok(Json(PauseState {
        paused: pause.is_some(),
        pause,
    }))
}

/// Stop handing messages to Kafka, within a second. Jobs are still accepted.
#[utoipa::path(
    post, path = "/admin/api/pause", operation_id = "pause_relay", tag = "operators", request_body = PauseRelay,
    responses((status = 200, description = "It is paused", body = PauseOutcome))
)]
pub(super) async fn pause(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(asked): Act<PauseRelay>,
) -> Result<Json<PauseOutcome>, Problem> {
    let reason = text("reason", &asked.reason)?;
    let mut tx = console.begin().await?;
    let outcome = pause_relay(&mut tx, &reason, &operator.actor()).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Json(outcome))
}

/// Hand messages to Kafka again.
#[utoipa::path(
    post, path = "/admin/api/resume", operation_id = "resume_relay", tag = "operators", request_body = ResumeRelay,
    responses((status = 200, description = "It is not paused", body = ResumeOutcome))
)]
pub(super) async fn resume(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(asked): Act<ResumeRelay>,
) -> Result<Json<ResumeOutcome>, Problem> {
    if asked.accept_identity {
        operator.require(Role::Admin)?;
    }
    let actor = operator.actor();
    let mut tx = console.begin().await?;
    let outcome = resume_relay(&mut tx, asked.accept_identity, &actor)
        .await
        .map_err(failed)?;
    commit(tx).await?;
    Ok(Json(outcome))
}
