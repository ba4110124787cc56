//! The HTTP side: two listeners, their routes, and what a request is told.
//!
//! A request passes [`listener`] (its head is read, within bounds) → [`edge`] (it gets an id, and every
//! failure a body) → its resource: [`content_generation`], [`jobs`], [`health`], [`metrics`],
//! [`openapi`]. [`problem`] and [`catalogue`] are how all of them fail.

pub mod auth;
pub mod body;
pub mod catalogue;
#[cfg(test)]
pub(crate) mod committed;
mod content_generation;
mod edge;
pub(crate) mod etag;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod health;
pub mod id;
mod idempotency;
mod job_events;
mod jobs;
pub mod listener;
mod metrics;
pub mod openapi;
mod prefer;
pub mod problem;
pub mod rate_limit;
mod request_id;
mod trace_context;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::FromRef,
    http::{HeaderMap, header},
    routing::{any, get},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use self::{
    auth::{AuthError, Authenticator},
    body::BodyLimits,
    catalogue::Code,
    edge::{Edge, surround},
    health::Readiness,
    problem::Problem,
    rate_limit::RateLimit,
};
use crate::{
    jobs::{intake::Intake, status::StatusReader, watch::Watch},
    telemetry::Metrics,
};

/// What the public listener's handlers work with. They share one: a dozen parts to be cloned cost each request a
/// twentieth of its processor time.
pub struct ApiState {
    /// Verifies tokens.
    pub authenticator: Authenticator,
    /// `http.rate_limit`.
    pub rate_limit: Arc<RateLimit>,
    /// `http.max_body_bytes` and `http.body_timeout`.
    pub body: BodyLimits,
    /// Accepts jobs.
    pub intake: Intake,
    /// Reads jobs.
    pub status: StatusReader,
    /// Waits for jobs to change.
    pub watch: Watch,
    /// Answers `/readyz`.
    pub readiness: Readiness,
    /// Each request is measured.
    pub metrics: Arc<Metrics>,
    /// `http.max_header_bytes`.
    pub max_header_bytes: usize,
}

impl ApiState {
    /// Who calls, and whether that user may call again so soon.
    async fn identify(&self, headers: &HeaderMap) -> Result<Uuid, Problem> {
        let principal = self.authenticator.authenticate(headers).await?;
        self.rate_limit.check(principal.user_id)?;
        Ok(principal.user_id)
    }

    /// As [`identify`](Self::identify), and for how long yet the caller's token is good.
    async fn identify_for(&self, headers: &HeaderMap) -> Result<(Uuid, Duration), Problem> {
        let (principal, left) = self.authenticator.authenticate_for(headers).await?;
        self.rate_limit.check(principal.user_id)?;
        Ok((principal.user_id, left))
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::KeysUnavailable => Self::new(Code::KeysUnavailable).retry_after(5),
            error => Self::new(Code::Unauthorized)
                .detail(error.to_string())
                .header(header::WWW_AUTHENTICATE, error.challenge()),
        }
    }
}

impl FromRef<Arc<ApiState>> for Readiness {
    fn from_ref(state: &Arc<ApiState>) -> Self {
        state.readiness.clone()
    }
}

/// What a listener works with while there may be no database yet: the operators', whoever asks, and the public one at
/// the start. The console has a state of its own.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Answers `/readyz`.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// `http.max_header_bytes`.
    pub max_header_bytes: usize,
}

/// The routes of the public listener.
pub fn public_router(state: ApiState) -> Router {
    let edge = Edge {
        metrics: Arc::clone(&state.metrics),
        max_header_bytes: state.max_header_bytes,
    };
    let (router, _) = public_api().split_for_parts();
    surround(router.with_state(Arc::new(state)), edge)
}

/// The routes of the public listener until there are those of [`public_router`]: the process lives, and anything else has
/// to wait for the database.
pub fn waiting_router(state: AdminState) -> Router {
    let AdminState {
        readiness,
        metrics,
        max_header_bytes,
    } = state;
    let not_yet = || async { Problem::new(Code::DatabaseUnavailable).retry_after(1) };
    let router = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz).with_state(readiness))
        .route("/", any(not_yet))
        .route("/{*rest}", any(not_yet));
    surround(
        router,
        Edge {
            metrics,
            max_header_bytes,
        },
    )
}

/// The routes of the operators' listener: health, metrics and the API's description (`document`), which need no
/// token, and those of `console`, which do.
pub fn admin_router(state: AdminState, document: &utoipa::openapi::OpenApi, console: Router) -> Router {
    let AdminState {
        readiness,
        metrics,
        max_header_bytes,
    } = state;
    let router = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz).with_state(readiness))
        .route("/metrics", get(metrics::show).with_state(Arc::clone(&metrics)))
        .merge(openapi::routes(document))
        .merge(console);
    surround(
        router,
        Edge {
            metrics,
            max_header_bytes,
        },
    )
}

/// Routes and document of the public listener, from the same list.
fn public_api() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(content_generation::accept))
        .routes(routes!(jobs::show))
        .routes(routes!(job_events::follow))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(catalogue::list))
        .routes(routes!(catalogue::show))
}
