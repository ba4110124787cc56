//! `GET /api/jobs/{jobId}`: what became of a job, for its owner.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::{ApiState, catalogue::Code, edge::AboutJob, etag, id, prefer, prefer::Wait, problem::Problem};
use crate::jobs::{
    status::{JobView, StatusError},
    watch::Waited,
};

/// What became of a job of yours.
///
/// `status` says what became of the job, `message` what became of its message to the Content Service.
/// With `Prefer: wait=N` the answer comes as soon as the job differs from `If-None-Match`, or, without
/// that header, has a final status; at the latest after N seconds (at most 60), with what there is then.
/// Without `Preference-Applied` nothing was waited for: too many wait already, so pause before you ask again.
#[utoipa::path(
    get, path = "/api/jobs/{jobId}", operation_id = "read_job", tag = "jobs",
    params(
        ("jobId" = Uuid, Path, description = "The job's id, hyphenated"),
        ("If-None-Match" = Option<String>, Header, description =
            "Entity tags of representations that the caller has; 304 when the job still has one of them"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait for news, N seconds, at most 60 (RFC 7240)",
            example = "wait=10"),
        ("X-Request-Id" = Option<String>, Header, description =
            "1 to 128 visible ASCII characters: comes back in the answer. Any other is replaced."),
    ),
    responses(
        (
            status = 200, description = "The job as it is now", body = JobView,
            headers(
                ("ETag" = String, description = "Weak: changes with the status of the job or of its message"),
                ("Cache-Control" = String, description = "`private, no-cache`"),
                ("Preference-Applied" = String, description = "`wait=N`, when a wait was asked for and granted"),
            ),
        ),
        (
            status = 304, description = "The job is still as the caller has it",
            headers(
                ("ETag" = String, description = "As with 200"),
                ("Cache-Control" = String, description = "`private, no-cache`"),
                ("Preference-Applied" = String, description = "`wait=N`, when a wait was asked for and granted"),
            ),
        ),
    )
)]
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user_id = api.identify(&headers).await?;
    let job_id = id::parse("the job's id", &job_id)?;
    let Some(wait) = Wait::of(&headers) else {
        let job = found(api.status.read(job_id, user_id).await, job_id)?;
        return Ok(answer(&job, &headers, None));
    };
    let has_one = headers.contains_key(header::IF_NONE_MATCH);
    let is_news = |job: &JobView| has_one && !etag::is_known(&job.etag(), &headers);
    let waited = api.watch.wait(job_id, user_id, wait.duration(), is_news).await;
    let Waited { job, had_place } = found(waited, job_id)?;
    Ok(answer(&job, &headers, had_place.then_some(wait)))
}

/// What was read of the job, or the problem that it is not to be had.
pub(super) fn found<T>(read: Result<Option<T>, StatusError>, job_id: Uuid) -> Result<T, Problem> {
    let failed = |error| {
        let code = match &error {
            StatusError::Crowded => Code::Overloaded,
            StatusError::Timeout => Code::DatabaseUnavailable,
            StatusError::Database(error) => Code::of_database(error),
        };
        let problem = Problem::new(code).cause(error);
        if code == Code::Internal {
            problem
        } else {
            problem.retry_after(1)
        }
    };
    read.map_err(failed)?
        .ok_or_else(|| Problem::new(Code::NotFound).detail(format!("you have no job with the id {job_id}")))
}

/// The problems of [`show`], and of the stream of the same job.
pub(super) const PROBLEMS: &[Code] = &[
    Code::MalformedId,
    Code::Unauthorized,
    Code::NotFound,
    Code::RateLimited,
    Code::Overloaded,
    Code::DatabaseUnavailable,
    Code::KeysUnavailable,
];

/// `waited`: the wait that was granted.
fn answer(job: &JobView, headers: &HeaderMap, waited: Option<Wait>) -> Response {
    // Anybody's cache must ask again: a job changes at any moment.
    const CACHING: HeaderValue = HeaderValue::from_static("private, no-cache");
    let tag = job.etag();
    let mut response = if etag::is_known(&tag, headers) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(job).into_response()
    };
    response.extensions_mut().insert(AboutJob(job.job_id));
    let answered = response.headers_mut();
    answered.insert(
        header::ETAG,
        HeaderValue::from_str(&tag).expect("a tag is visible ASCII"),
    );
    answered.insert(header::CACHE_CONTROL, CACHING);
    if let Some(wait) = waited {
        answered.insert(prefer::APPLIED, wait.applied());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_not_told_as_a_database_that_is_down() {
        let told = |error| {
            let problem = found::<JobView>(Err(error), Uuid::nil()).unwrap_err();
            problem.code()
        };
        assert_eq!(told(StatusError::Crowded), Code::Overloaded);
        assert_eq!(told(StatusError::Timeout), Code::DatabaseUnavailable);
        assert_eq!(told(sqlx::Error::PoolTimedOut.into()), Code::DatabaseUnavailable);
        assert_eq!(told(sqlx::Error::RowNotFound.into()), Code::Internal);
    }
}
