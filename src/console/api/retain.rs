//! `/admin/api/retain`: drops what is settled and old, or says what would go.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use utoipa::ToSchema;

use super::{failed, failed_midway};
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

/// Nothing to say: `{}`. How long what is kept is configuration.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retain {}

fn kept(console: &ConsoleState) -> Kept {
    Kept {
        outbox: console.config.outbox.retention,
        keys: console.config.idempotency.retention,
    }
}

/// What `retain` would drop now. Needs admin.
#[utoipa::path(
    get, path = "/admin/api/retain", operation_id = "plan_retention", tag = "operators",
    responses((status = 200, description = "As `dispatcher retain --dry-run`", body = Retained))
)]
pub(super) async fn plan(State(console): State<ConsoleState>, operator: Operator) -> Result<Json<Retained>, Problem> {
    operator.require(Role::Admin)?;
    let mut conn = console.conn().await?;
    let rows = plan_retention(&mut conn, kept(&console)).await.map_err(failed)?;
    Ok(Json(Retained { rows }))
}

/// Drop settled partitions older than `outbox.retention`, and old idempotency keys. Needs admin.
#[utoipa::path(
    post, path = "/admin/api/retain", operation_id = "retain", tag = "operators", request_body = Retain,
    responses((status = 200, description = "As `dispatcher retain`", body = Retained))
)]
pub(super) async fn retain(
    State(console): State<ConsoleState>,
    operator: Operator,
    Act(Retain {}): Act<Retain>,
) -> Result<Json<Retained>, Problem> {
    operator.require(Role::Admin)?;
    // A connection of its own: reading through a partition may take longer than any look, and it is not to be
    // given back with its time-out off.
    let mut conn = console.conn().await?.detach();
    sqlx::query("set statement_timeout = 0")
        .execute(&mut conn)
        .await
        .map_err(failed)?;
    let rows = drop_old(&mut conn, kept(&console), &operator.actor())
        .await
        .map_err(failed_midway)?;
    // What was to be done is done; how the connection ends is nobody's matter.
    let _ = conn.close().await;
    Ok(Json(Retained { rows }))
}
