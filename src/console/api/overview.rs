//! `GET /admin/api/overview`: what `outbox stats` says.

use axum::{Json, extract::State};

use super::failed;
use crate::{
    console::{ConsoleState, auth::Operator},
    http::problem::Problem,
    outbox::overview::{Stats, read_stats},
};

/// What waits, since when, what is dead, who leads, whether it is paused.
#[utoipa::path(
    get, path = "/admin/api/overview", operation_id = "read_overview", tag = "operators",
    responses((status = 200, description = "The numbers of `dispatcher outbox stats`", body = Stats))
)]
pub(super) async fn show(State(console): State<ConsoleState>, _: Operator) -> Result<Json<Stats>, Problem> {
    let mut conn = console.conn().await?;
    Ok(Json(read_stats(&mut conn).await.map_err(failed)?))
}
