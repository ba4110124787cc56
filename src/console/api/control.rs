//! `/admin/api/pause` and `/admin/api/resume`: of the whole relay. Accepting goes on.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{commit, failed, text};
use crate::{
    console::{ConsoleState, auth::Operator, request::Act},
    http::{auth::Role, problem::Problem},
    outbox::{
        control::{Pause, Paused, Resumed, pause_relay, read_pause, resume_relay},
        installation::{Halt, accept_identity},
    },
};

/// Whether the relay is paused, by whom and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PauseState {
    paused: bool,
    /// Null: it is not paused.
    pause: Option<Pause>,
}

/// What became of a request to pause.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PauseOutcome {
    /// By this request; false: it was paused before, and stays so for the earlier reason.
    changed: bool,
    /// The pause that is on.
    pause: Pause,
}

/// What became of a request to resume.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResumeOutcome {
    /// By this request; false: it was not paused.
    changed: bool,
    /// The pause that ended.
    was: Option<Resumed>,
    /// The Kafka topic that was forgotten, with `accept_identity`.
    forgotten_topic: Option<String>,
    /// And the cluster.
    forgotten_cluster_id: Option<String>,
    /// The halt that ended, with `accept_identity`; null: publishing did not halt.
    was_halted: Option<Halt>,
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
    let paused = pause_relay(&mut tx, &reason, &operator.actor()).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Json(match paused {
        Paused::Now(pause) => PauseOutcome { changed: true, pause },
        Paused::Already(pause) => PauseOutcome { changed: false, pause },
    }))
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
    let (mut forgotten_topic, mut forgotten_cluster_id) = (None, None);
    let mut was_halted = None;
    if asked.accept_identity {
        let known = accept_identity(&mut tx, &actor).await.map_err(failed)?;
        was_halted = known.halt();
        (forgotten_topic, forgotten_cluster_id) = (known.topic, known.cluster_id);
    }
    let was = resume_relay(&mut tx, &actor).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Json(ResumeOutcome {
        changed: was.is_some(),
        was,
        forgotten_topic,
        forgotten_cluster_id,
        was_halted,
    }))
}
