//! What every request passes, on both listeners, whatever its route: it gets an id, its headers are
//! bounded, a panic behind it becomes a 500, an error gets its body, and its time is measured.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::HeaderMap,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::{
    catalogue::Code,
    metrics::route_label,
    problem::{self, Problem},
    request_id::{self, RequestId},
};
use crate::telemetry::{self, Metrics};

/// What the edge needs to know.
#[derive(Debug)]
pub(super) struct Edge {
    pub metrics: Arc<Metrics>,
    /// Names and values of all headers together, in bytes.
    pub max_header_bytes: usize,
}

/// An answer's extension: the job that it is about, for the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct AboutJob(pub Uuid);

/// Puts the edge around every route of `router`, its fallbacks included.
pub(super) fn surround(router: Router, edge: Edge) -> Router {
    router
        .fallback(|| async { Problem::new(Code::NoSuchRoute) })
        .layer(middleware::from_fn_with_state(Arc::new(edge), pass))
}

async fn pass(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = RequestId::of(request.headers());
    let route = route_label(request.extensions().get::<MatchedPath>());
    let (method, uri) = (request.method().clone(), request.uri().clone());

    let mut response = if size_of_headers(request.headers()) > edge.max_header_bytes {
        Problem::new(Code::HeadersTooLarge)
            .detail(format!("all headers together may have {} bytes", edge.max_header_bytes))
            .into_response()
    } else {
        // Unwind-safe: the request is gone with the panic, and the state behind it is shared by locks
        // that do not poison.
        AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                Problem::new(Code::Internal)
                    .cause(text_of_panic(&*panic))
                    .into_response()
            })
    };

    let problem = problem::render(&mut response, uri.path(), &request_id);
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    edge.metrics
        .http_request_duration_seconds
        .get_or_create(&telemetry::Request { route, status })
        .observe(elapsed.as_secs_f64());

    let job_id = response
        .extensions()
        .get()
        .map(|AboutJob(id)| tracing::field::display(id));
    let cause = problem.as_ref().and_then(Problem::logged_cause);
    // An event and not a span: a span costs each request 1 to 2 us, read or not.
    if status == 500 {
        tracing::error!(request_id = request_id.as_str(), %method, route, status, job_id, cause, "a request failed");
    } else {
        let code = problem.as_ref().map(|p| p.code().entry().code);
        tracing::debug!(request_id = request_id.as_str(), %method, route, status, job_id, code, cause, ?elapsed, "answered");
    }
    response
        .headers_mut()
        .insert(request_id::HEADER, request_id.into_header());
    response
}

fn size_of_headers(headers: &HeaderMap) -> usize {
    // ": " and the line's end count too, as they do on the wire.
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn text_of_panic(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}
