//! `GET /admin/api/acts`: the operators' log.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{failed, last_of_full, page_limit};
use crate::{
    console::{ConsoleState, auth::Operator, request::Filter},
    http::problem::Problem,
    outbox::acts::{Act, ActFilter, RecordedAct, list_acts},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only below this id: the `next` of the page before
    after: Option<i64>,
    /// Rows on the page, 1 to 1000; 50 when absent
    limit: Option<i64>,
    /// Only such acts
    #[param(inline)]
    act: Option<Act>,
    /// Only of this operator
    who: Option<String>,
}

/// A page of the operators' log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActPage {
    /// Newest first.
    rows: Vec<RecordedAct>,
    /// `after` of the next page; null: this is the last.
    next: Option<i64>,
}

/// Who did what, when and why, newest first.
#[utoipa::path(
    get, path = "/admin/api/acts", operation_id = "list_acts", tag = "operators", params(Asked),
    responses((status = 200, description = "A page of the operators' log", body = ActPage))
)]
pub(super) async fn list(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(asked): Filter<Asked>,
) -> Result<Json<ActPage>, Problem> {
    let filter = ActFilter {
        after: asked.after,
        limit: page_limit(asked.limit)?,
        act: asked.act,
        who: asked.who,
    };
    let mut conn = console.conn().await?;
    let rows = list_acts(&mut conn, &filter).await.map_err(failed)?;
    let next = last_of_full(&rows, filter.limit).map(|row| row.id);
    Ok(Json(ActPage { rows, next }))
}
