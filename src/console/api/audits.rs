//! `/admin/api/audits`: what audits found. They are made by `dispatcher audit`, which reads the whole topic.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{failed, last_of_full, page_limit};
use crate::{
    console::{ConsoleState, auth::Operator, request::Filter},
    http::{catalogue::Code, problem::Problem},
    outbox::audits::{self, Audited, JudgedAudit},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only before this audit: the `next` of the page before
    after: Option<Uuid>,
    /// Rows on the page, 1 to 1000; 50 when absent
    limit: Option<i64>,
}

/// A page of audits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditPage {
    /// Newest first; the last hundred are remembered.
    rows: Vec<JudgedAudit>,
    /// `after` of the next page; null: this is the last.
    next: Option<Uuid>,
}

/// Audits, newest first, without what they found one by one.
#[utoipa::path(
    get, path = "/admin/api/audits", operation_id = "list_audits", tag = "operators", params(Asked),
    responses((status = 200, description = "A page of audits", body = AuditPage))
)]
pub(super) async fn list(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(asked): Filter<Asked>,
) -> Result<Json<AuditPage>, Problem> {
    let limit = page_limit(asked.limit)?;
    let mut conn = console.conn().await?;
    let audits = audits::list_audits(&mut conn, asked.after, limit)
        .await
        .map_err(failed)?;
    let next = last_of_full(&audits, limit).map(|audit| audit.id);
    let delivery = console.config.relay.delivery;
    let rows = audits.into_iter().map(|audit| JudgedAudit::of(audit, delivery));
    Ok(Json(AuditPage {
        rows: rows.collect(),
        next,
    }))
}

/// One audit, and what it found: to send what is missing again, create a replay of it.
#[utoipa::path(
    get, path = "/admin/api/audits/{id}", operation_id = "show_audit", tag = "operators",
    params(("id" = String, Path, description = "The audit's id")),
    responses((status = 200, description = "As `dispatcher audit` printed it", body = Audited))
)]
pub(super) async fn show(
    State(console): State<ConsoleState>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<Audited>, Problem> {
    let id = id
        .parse()
        .map_err(|_| Problem::new(Code::MalformedId).detail("the id is no audit's"))?;
    let mut conn = console.conn().await?;
    let audited = read(&console, &mut conn, id).await?;
    audited.map(Json).ok_or_else(|| {
        Problem::new(Code::NotFound).detail(format!("there is no audit {id}: the last hundred are remembered"))
    })
}

/// Reads one audit with what it found; `None`: it was forgotten, or never was.
pub async fn read(console: &ConsoleState, conn: &mut PgConnection, id: Uuid) -> Result<Option<Audited>, Problem> {
    let Some(audit) = audits::read_audit(conn, id).await.map_err(failed)? else {
        return Ok(None);
    };
    Ok(Some(Audited {
        judged: JudgedAudit::of(audit, console.config.relay.delivery),
        findings: audits::list_findings(conn, id).await.map_err(failed)?,
    }))
}
