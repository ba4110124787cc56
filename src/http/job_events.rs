//! `GET /api/jobs/{jobId}/events`: what becomes of a job, as it happens (server-sent events).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{ApiState, catalogue::Code, edge::AboutJob, id, jobs::found, problem::Problem};
use crate::jobs::{status::JobView, watch::Watcher};

/// A client that finds no place is told to come back after so many seconds.
const RETRY_AFTER_SECONDS: u64 = 5;
/// A stream ends after so long, or when its token expires, and the client connects again: a lost client, or a user who
/// is one no more, is out.
const STREAM: Duration = Duration::from_mins(10);
/// Between signs of life on a stream that has nothing to tell.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// One event of the stream, field by field.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `Follower` writes")]
struct JobEvent {
    /// `status`.
    event: String,
    /// What to resume by.
    id: String,
    /// What to wait before connecting again, in milliseconds.
    retry: u64,
    /// The body of `GET /api/jobs/{jobId}` at that moment.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What becomes of a job of yours, as it happens.
///
/// Server-sent events named `status`: `data` is the body of `GET /api/jobs/{jobId}`, `id` what to resume by.
/// The first one comes at once, unless `Last-Event-ID` says that it is known. The stream ends after a final
/// status. It ends too when the token expires, after ten minutes, and when the service stops: connect again with
/// `Last-Event-ID`.
#[utoipa::path(
    get, path = "/api/jobs/{jobId}/events", operation_id = "follow_job", tag = "jobs",
    params(
        ("jobId" = Uuid, Path, description = "The job's id, hyphenated"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that the caller has"),
        ("X-Request-Id" = Option<String>, Header, description =
            "1 to 128 visible ASCII characters: comes back in the answer. Any other is replaced."),
    ),
    responses(
        (
            status = 200, description = "Events until the status is final", body = JobEvent,
            content_type = "text/event-stream",
            headers(("Cache-Control" = String, description = "`no-cache`")),
        ),
        (status = 204, description = "The status is final and the caller has it: there is nothing to reconnect for"),
    )
)]
pub(super) async fn follow(
    State(api): State<Arc<ApiState>>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (user_id, left) = api.identify_for(&headers).await?;
    let end = end_of_stream(Instant::now(), left);
    let job_id = id::parse("the job's id", &job_id)?;
    // First: what changes from here on is not missed.
    let watcher = api.watch.join(job_id, user_id);
    let job = found(api.status.read(job_id, user_id).await, job_id)?;
    let known = known_event(&headers);
    if job.status.is_final() && known.as_deref() == Some(&*event_id(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut watcher = watcher.ok_or_else(|| {
        Problem::new(Code::Overloaded)
            .detail("too many clients follow jobs")
            .retry_after(RETRY_AFTER_SECONDS)
    })?;
    watcher.has_read();
    let follower = Follower {
        watcher,
        first: Some(job),
        known,
        ended: false,
        end,
    };
    // nginx would keep the events until it has a buffer full of them.
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = ([unbuffered], events).into_response();
    response.extensions_mut().insert(AboutJob(job_id));
    Ok(response)
}

/// When the client of a stream that begins now has to connect again: its token is good for so long.
fn end_of_stream(now: Instant, left: Duration) -> Instant {
    now + left.min(STREAM)
}

/// The header `Last-Event-ID`: what the caller has, in the words of [`event_id`]. What is none of ours is as none.
pub(super) fn known_event(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("last-event-id")?.to_str().ok()?;
    Some(value.to_owned())
}

/// The entity tag's own text, which holds all that can change.
fn event_id(job: &JobView) -> String {
    job.etag().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// One client and what it knows.
struct Follower {
    watcher: Watcher,
    /// Read before the stream began.
    first: Option<JobView>,
    /// The id of the last event that the client has.
    known: Option<String>,
    ended: bool,
    /// When the client has to connect again.
    end: Instant,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    /// `None`: the status was final, the time is up, or the service stops.
    async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            let job = match self.first.take() {
                Some(job) => Arc::new(job),
                None => timeout_at(self.end, self.watcher.next()).await.ok()??,
            };
            let id = event_id(&job);
            if self.known.as_ref() == Some(&id) {
                continue;
            }
            self.ended = job.status.is_final();
            let event = Event::default().event("status").id(&id).retry(RETRY);
            self.known = Some(id);
            let data = serde_json::to_string(&*job).expect("a job always serialises");
            return Some(event.data(data));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_with_its_token_and_never_later_than_after_ten_minutes() {
        let now = Instant::now();
        for (left, ends) in [(1, 1), (599, 599), (600, 600), (601, 600), (30 * 86_400, 600)] {
            assert_eq!(
                end_of_stream(now, Duration::from_secs(left)),
                now + Duration::from_secs(ends)
            );
        }
    }
}
