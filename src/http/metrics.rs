//! `/metrics`, and the names that routes have in it.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, State},
    http::header,
    response::IntoResponse,
};

use crate::telemetry::Metrics;

/// OpenMetrics text. On the operators' listener only.
pub(super) async fn show(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode())
}

/// The routes that are measured under their own name.
const ROUTES: [&str; 11] = [
    "/api/events/{id}/content-generation",
    "/api/jobs/{jobId}",
    "/api/jobs/{jobId}/events",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/{*rest}",
    "/problems",
    "/problems/{code}",
];

/// The label of a request: the route's pattern, never its path, so that no caller can make new series.
pub(super) fn route_label(matched: Option<&MatchedPath>) -> &'static str {
    let Some(matched) = matched else { return "none" };
    ROUTES
        .into_iter()
        .find(|route| *route == matched.as_str())
        .unwrap_or("other")
}
