//! `/livez`: the process answers. `/readyz`: this replica can accept, which needs PostgreSQL and nothing
//! else: accepting while Kafka or Redis is down is what this program is for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{catalogue::Code, problem::Problem};

/// How long an answer of the database is good for: probes, however many, ask once in this time.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this replica should be sent requests.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: PgConnectOptions,
    shutdown: CancellationToken,
    begun: AtomicBool,
    /// Held while asking, so that probes that arrive together share one question.
    asking: Mutex<Asking>,
}

#[derive(Debug, Default)]
struct Asking {
    /// Of its own: whoever waits for a table on the others does not make this replica unready.
    conn: Option<PgConnection>,
    /// When the database was last asked, and what came of it.
    last: Option<(Instant, Result<(), String>)>,
}

impl Readiness {
    /// Asks over one connection of its own, made when it is needed; is not ready before [`begin`](Self::begin), and never
    /// once `shutdown` is cancelled.
    pub fn new(database: PgConnectOptions, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            database: database.application_name("dispatcher readiness"),
            shutdown,
            begun: AtomicBool::new(false),
            asking: Mutex::default(),
        }))
    }

    /// From now on it depends on the database alone: its schema was found to fit.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    async fn check(&self) -> Result<(), Problem> {
        if self.0.shutdown.is_cancelled() {
            return Err(Problem::new(Code::ShuttingDown).retry_after(1));
        }
        if !self.0.begun.load(Ordering::Relaxed) {
            let problem = Problem::new(Code::DatabaseUnavailable).retry_after(1);
            return Err(problem.cause("this replica has not begun: its log says what it waits for"));
        }
        let mut asking = self.0.asking.lock().await;
        let answer = match &asking.last {
            Some((asked, answer)) if asked.elapsed() < FRESH => answer.clone(),
            _ => {
                let answer = self.ask(&mut asking.conn).await;
                asking.last = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.map_err(|cause| Problem::new(Code::DatabaseUnavailable).retry_after(1).cause(cause))
    }

    async fn ask(&self, kept: &mut Option<PgConnection>) -> Result<(), String> {
        let asked = async {
            // Taken out: what is given up in the middle of something is not asked again.
            if let Some(mut conn) = kept.take()
                && let Ok(writable) = is_writable(&mut conn).await
            {
                *kept = Some(conn);
                return Ok(writable);
            }
            // The one that was kept may have ended since, with a server that is up again.
            let mut conn = self.0.database.connect().await?;
            let writable = is_writable(&mut conn).await?;
            *kept = Some(conn);
            Ok::<_, sqlx::Error>(writable)
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the database is read-only".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// A standby answers too, and takes no job.
async fn is_writable(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'")
        .fetch_one(conn)
        .await
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

/// Whether this replica should be sent requests: it has begun, the database answers and it is not stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "The database answers", body = Health))
)]
pub(super) async fn readyz(State(readiness): State<Readiness>) -> Result<Json<Health>, Problem> {
    readiness.check().await.map(|()| OK)
}

/// The problems of [`readyz`].
pub(super) const READYZ_PROBLEMS: &[Code] = &[Code::DatabaseUnavailable, Code::ShuttingDown];
