//! `/admin/api/retain`: drops what is settled and old, or says what would go.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use utoipa::ToSchema;

use super::{failed, failed_midway, text};
use crate::{
    console::{ConsoleState, auth::Operator, request::Act},
    http::{auth::Role, problem::Problem},
    outbox::retention::{Gone, Kept, plan_retention, retain as drop_old},
};

/// What went, or would go.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retained {
    rows: Vec<Gone>,
}

/// `{}`, or why. How long what is kept is configuration.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retain {
    /// It is recorded.
    reason: Option<String>,
}

/// What `retain` would drop now. Needs admin.
#[utoipa::path(
    get, path = "/admin/api/retain", operation_id = "plan_retention", tag = "operators",
    responses((status = 200, description = "As `dispatcher retain --dry-run`", body = Retained))
)]
pub(super) async fn plan(State(console): State<ConsoleState>, operator: Operator) -> Result<Json<Retained>, Problem> {
    let rows = plan_drop(&console, &operator).await?;
    Ok(Json(Retained { rows }))
}

/// What [`drop_now`] would drop. Needs admin, as it does.
pub async fn plan_drop(console: &ConsoleState, operator: &Operator) -> Result<Vec<Gone>, Problem> {
    operator.require(Role::Admin)?;
    // What is old enough is counted.
    let mut counting = console.counting().await?;
    plan_retention(&mut counting.conn, Kept::from(&*console.config))
        .await
        .map_err(failed)
}

/// Drop what is settled and old: partitions of messages, of jobs, idempotency keys. Needs admin.
#[utoipa::path(
    post, path = "/admin/api/retain", operation_id = "retain", tag = "operators", request_body = Retain,
    responses((status = 200, description = "As `dispatcher retain`", body = Retained))
)]
pub(super) async fn retain(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(Retain { reason }): Act<Retain>,
) -> Result<Json<Retained>, Problem> {
    let reason = reason.map(|reason| text("reason", &reason)).transpose()?;
    let rows = drop_now(&console, &operator, reason.as_deref()).await?;
    Ok(Json(Retained { rows }))
}

/// Drops what is settled and old; needs admin. What went.
pub async fn drop_now(console: &ConsoleState, operator: &Operator, reason: Option<&str>) -> Result<Vec<Gone>, Problem> {
    operator.require(Role::Admin)?;
    // A connection of its own: reading through a partition may take longer than any look, and it is not to be
    // given back with its time-out off.
    let mut conn = console.conn().await?.detach();
    sqlx::query("set statement_timeout = 0")
        .execute(&mut conn)
        .await
        .map_err(failed)?;
    let gone = drop_old(&mut conn, Kept::from(&*console.config), &operator.actor(), reason)
        .await
        .map_err(failed_midway)?;
    // What was to be done is done; how the connection ends is nobody's matter.
    let _ = conn.close().await;
    Ok(gone)
}
