//! `POST /api/events/{id}/content-generation`: accepts a job.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::{ApiState, body, catalogue::Code, edge::AboutJob, id, idempotency, problem::Problem, trace_context};
use crate::jobs::{AcceptError, AcceptRequest, Accepted, JobStatus};

/// When to look at the job for the first time, in seconds. Most are published within milliseconds; the
/// Content Service takes longer.
const LOOK_AFTER: HeaderValue = HeaderValue::from_static("1");
/// When to try again what is only a matter of a moment, in seconds.
const SOON: u64 = 1;
/// When to try again what needs a database to come back, in seconds.
const LATER: u64 = 5;

/// A job that was accepted: it will reach Kafka, whatever happens.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AcceptedJob)]
pub(super) struct Body {
    job_id: Uuid,
    /// Always PENDING here, also in a repeated answer: what became of the job is read at `Location`.
    status: JobStatus,
}

/// Accept a job for an event draft.
///
/// 202 is sent after the job and its message are committed to PostgreSQL, so neither an outage of Kafka nor
/// a crash of this service loses it. No request body is needed; one that is not empty has to be declared as
/// JSON and is ignored. To repeat the request safely after a time-out, send an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/api/events/{id}/content-generation", operation_id = "accept_job", tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The event draft's id, hyphenated"),
        ("Idempotency-Key" = Option<String>, Header, description =
            "Names this request among the user's own, for 24 hours by default. 1 to 255 visible ASCII characters (and \
             spaces inside), given once; quoted (a structured-field string) and raw are the same key.",
            pattern = r#"^([!#-~]([ -~]{0,253}[!-~])?|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#,
            example = "6f7c1a52-9d0b-4a55-8b1e-2f3a4c5d6e7f"),
        ("traceparent" = Option<String>, Header, description =
            "W3C Trace Context, version 00: goes with the job's message. A malformed one is ignored.",
            example = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Request-Id" = Option<String>, Header, description =
            "1 to 128 visible ASCII characters: comes back in the answer. Any other is replaced."),
    ),
    request_body(content = Option<serde_json::Value>, content_type = "application/json", description =
        "Not needed, and ignored."),
    responses((
        status = 202, description = "The job is committed", body = Body,
        headers(
            ("Location" = String, description = "Where the job is read: `/api/jobs/{jobId}`"),
            ("Retry-After" = u64, description = "When to look there first, in seconds"),
            ("Idempotent-Replayed" = bool, description =
                "`true` when this is the answer of an earlier request with the same Idempotency-Key; else absent"),
        ),
    ))
)]
pub(super) async fn accept(
    State(api): State<Arc<ApiState>>,
    Path(draft_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    let user_id = api.identify(&parts.headers).await?;
    let draft_id = id::parse("the event draft's id", &draft_id)?;
    let idempotency_key = idempotency::key(&parts.headers)?;
    body::discard(&parts.headers, request_body, api.body).await?;
    let traceparent = trace_context::parent(&parts.headers);
    let request = AcceptRequest {
        user_id,
        draft_id,
        idempotency_key,
        traceparent,
    };
    match api.intake.accept(request).await {
        Ok(accepted) => Ok(answer(accepted)),
        Err(error) => Err(refusal(&error, draft_id)),
    }
}

/// The problems of [`accept`].
pub(super) const PROBLEMS: &[Code] = &[
    Code::MalformedId,
    Code::MalformedHeader,
    Code::Unauthorized,
    Code::NotFound,
    Code::NoRecommendation,
    Code::IdempotencyInProgress,
    Code::MessageTooLarge,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::DraftIncomplete,
    Code::IdempotencyKeyReused,
    Code::RateLimited,
    Code::Overloaded,
    Code::DatabaseUnavailable,
    Code::KeysUnavailable,
    Code::OutcomeUnknown,
];

fn answer(Accepted { job_id, replayed }: Accepted) -> Response {
    let location = HeaderValue::from_str(&format!("/api/jobs/{job_id}")).expect("a UUID's text is ASCII");
    let mut response = (
        StatusCode::ACCEPTED,
        [(header::LOCATION, location), (header::RETRY_AFTER, LOOK_AFTER)],
        Json(Body {
            job_id,
            status: JobStatus::Pending,
        }),
    )
        .into_response();
    response.extensions_mut().insert(AboutJob(job_id));
    if replayed {
        response
            .headers_mut()
            .insert(idempotency::REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn refusal(error: &AcceptError, draft_id: Uuid) -> Problem {
    match error {
        AcceptError::NotFound => {
            Problem::new(Code::NotFound).detail(format!("you have no event draft with the id {draft_id}"))
        }
        AcceptError::NoRecommendation => Problem::new(Code::NoRecommendation),
        AcceptError::DraftIncomplete => Problem::new(Code::DraftIncomplete),
        AcceptError::TooLarge { size, limit } => Problem::new(Code::MessageTooLarge).detail(format!(
            "the job's message would have {size} bytes when it is sent again, and the topic takes {limit}"
        )),
        AcceptError::KeyReused => Problem::new(Code::IdempotencyKeyReused),
        AcceptError::KeyInProgress => Problem::new(Code::IdempotencyInProgress).retry_after(SOON),
        AcceptError::Overloaded => Problem::new(Code::Overloaded).retry_after(SOON),
        AcceptError::Unavailable => Problem::new(Code::DatabaseUnavailable).retry_after(LATER),
        AcceptError::OutcomeUnknown => Problem::new(Code::OutcomeUnknown).retry_after(SOON),
    }
}
