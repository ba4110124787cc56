//! Where operators look and act over HTTP, on the operators' listener: the admin API, and log-in.
//!
//! [`api`] is what the commands do, as JSON. [`auth`] says who operates, by a bearer token or by [`session`], a cookie that holds one. [`request`] reads
//! queries and bodies. Every request passes [`router`]'s layers: what a page of another origin sends is refused
//! before any handler sees it.

pub mod api;
pub mod auth;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod monitor;
mod pages;
pub mod request;
pub mod session;

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::IntoResponse as _,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::{
    csrf::{CsrfLayer, ProtectionError},
    set_header::SetResponseHeaderLayer,
};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::monitor::Monitor;
use crate::{
    config::Config,
    http::{
        auth::Authenticator,
        catalogue::Code,
        openapi::{self, Problems},
        problem::Problem,
    },
    outbox::{
        query::without_compiler,
        session::{with_idle_timeout, with_statement_timeout},
    },
    telemetry::Metrics,
};

/// Connections of the console: people are few, and what they ask must not wait behind, nor hold up, the reads of
/// the public API, which have a pool of their own.
const CONNECTIONS: u32 = 4;
/// No look into the log takes longer, except as [`ConsoleState::counting`] says; what does is ended by PostgreSQL and
/// answered 503.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the console's handlers work with. Cloning is cheap.
#[derive(Clone)]
pub struct ConsoleState {
    /// Its own connections.
    pub pool: PgPool,
    /// Verifies tokens: the same ones as the public listener.
    pub authenticator: Authenticator,
    /// The whole configuration; shown only through [`Config::settings`], which hides secrets.
    pub config: Arc<Config>,
    /// What this process has measured.
    pub metrics: Arc<Metrics>,
    /// Counts at a time: each reads all that a replay would send, or retention drop.
    pub counting: Arc<Semaphore>,
    /// What the overview shows.
    pub monitor: Monitor,
    /// Ends open streams.
    pub stop: CancellationToken,
}

impl fmt::Debug for ConsoleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleState").finish_non_exhaustive()
    }
}

/// The console's connections. None is opened before it is needed.
pub fn pool(database: &PgConnectOptions, connect_timeout: Duration) -> PgPool {
    let options = without_compiler(database.clone().application_name("dispatcher console"));
    let options = with_idle_timeout(with_statement_timeout(options, STATEMENT_TIMEOUT));
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(connect_timeout)
        .connect_lazy_with(options)
}

/// All routes of the console.
pub fn router(state: ConsoleState) -> Router {
    let (router, _) = routes().split_for_parts();
    let router = router.merge(pages::routes());
    // `if_not_present`: a page may need to say more, or other things.
    let header =
        |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router
        .with_state(state.clone())
        // A request that a browser sends for a page of another origin; what the session's cookie needs beyond
        // that is asked in `auth`.
        .layer(
            CsrfLayer::new()
                .with_rejection_response(|_: ProtectionError| Problem::new(Code::CrossOrigin).into_response()),
        )
        .layer(middleware::from_fn_with_state(state, pages::as_page))
        .layer(header(header::CACHE_CONTROL, "no-store"))
        .layer(header(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
        ))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::REFERRER_POLICY, "same-origin"))
}

/// Routes and document, from the same list.
fn routes() -> OpenApiRouter<ConsoleState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(session::log_in))
        .routes(routes!(session::who_am_i))
        .merge(api::routes())
        .routes(routes!(session::log_out))
}

#[derive(utoipa::OpenApi)]
#[openapi(tags(
    (name = "session", description = "Who operates; a browser's log-in. On the operators' listener"),
    (name = "operators", description = "The admin API: what the commands do, as JSON. On the operators' listener"),
))]
struct Document;

const PROBLEMS: Problems = &[
    ("log_in", session::LOG_IN_PROBLEMS),
    ("log_out", session::LOG_OUT_PROBLEMS),
    ("who_am_i", session::WHO_AM_I_PROBLEMS),
];

/// The OpenAPI document of both listeners.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = openapi::document();
    let problems = [PROBLEMS, api::PROBLEMS].concat();
    let mut console = openapi::complete(routes().into_openapi(), &problems);
    for item in console.paths.paths.values_mut() {
        let server = utoipa::openapi::ServerBuilder::new()
            .url("/")
            .description(Some("The operators' listener, `admin.listen`"));
        item.servers = Some(vec![server.build()]);
    }
    document.merge(console);
    document
}

/// [`document`] as it is committed in `docs/openapi.json`, and printed by `dispatcher openapi`.
pub fn document_text() -> String {
    let mut text = document().to_pretty_json().expect("the document serializes");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::http::committed;

    #[test]
    fn the_committed_document_is_what_the_code_says() {
        committed::compare("docs/openapi.json", &document_text());
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document: Value = serde_json::from_str(&document_text()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut open = vec![&document];
        let mut seen = 0;
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        let pointer = reference.strip_prefix('#').expect("references stay inside");
                        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                        seen += 1;
                    }
                    open.extend(fields.values());
                }
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
        assert!(seen > 0);
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    }
}
