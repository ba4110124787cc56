//! `/livez`: the process answers. `/readyz`: this replica can accept, which needs PostgreSQL and nothing
//! else: accepting while Kafka or Redis is down is what this program is for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{catalogue::Code, problem::Problem};

/// How long an answer of the database is good for: probes, however many, ask once in this time.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take to answer, waiting for a connection included.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this replica should be sent requests.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reads: PgPool,
    shutdown: CancellationToken,
    /// When the database was last asked, and what came of it. The lock is held while asking, so that
    /// probes that arrive together share one question.
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Readiness {
    /// Asks through the pool of reads; is never ready once `shutdown` is cancelled.
    pub fn new(reads: PgPool, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            reads,
            shutdown,
            last: Mutex::new(None),
        }))
    }

    async fn check(&self) -> Result<(), Problem> {
        if self.0.shutdown.is_cancelled() {
            return Err(Problem::new(Code::ShuttingDown).retry_after(1));
        }
        let mut last = self.0.last.lock().await;
        let answer = match &*last {
            Some((asked, answer)) if asked.elapsed() < FRESH => answer.clone(),
            _ => {
                let answer = self.ask().await;
                *last = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.map_err(|cause| Problem::new(Code::DatabaseUnavailable).retry_after(1).cause(cause))
    }

    async fn ask(&self) -> Result<(), String> {
        // A standby answers too, and takes no job.
        let writable = sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'");
        match tokio::time::timeout(PATIENCE, writable.fetch_one(&self.0.reads)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the database is read-only".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// The body of a good answer.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// Always `ok`: a replica that is not gets a problem.
    #[schema(example = "ok")]
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// Whether the process answers at all. Asks nobody else.
#[utoipa::path(
    get, path = "/livez", tag = "health", security(()),
    responses((status = 200, description = "The process answers", body = Health))
)]
pub(super) async fn livez() -> Json<Health> {
    OK
}

/// Whether this replica should be sent requests: the database answers and the replica is not stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "The database answers", body = Health))
)]
pub(super) async fn readyz(State(readiness): State<Readiness>) -> Result<Json<Health>, Problem> {
    readiness.check().await.map(|()| OK)
}

/// The problems of [`readyz`].
pub(super) const READYZ_PROBLEMS: &[Code] = &[Code::DatabaseUnavailable, Code::ShuttingDown];
