//! The accepting side, in this process, on real servers: [`Ground`] is a migrated database, a Redis and what
//! the intake is made of.

mod accepting;
mod faults;
mod keys;
mod redis;
mod status;
mod watch;

use std::{sync::Arc, time::Duration};

use image_job_dispatcher::{
    jobs::{
        AcceptError, AcceptRequest, Accepted,
        cache::JobCache,
        intake::{self, Intake, IntakeOptions},
        status::StatusReader,
    },
    outbox::{notifier::Notifier, record::RecordLimit, session::with_stable_plans, wake::Wake},
    telemetry::Metrics,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{Stage, drafts};

/// Redis gets this long in tests, so that a busy machine is no failure.
const REDIS_BUDGET: Duration = Duration::from_millis(500);

/// What one test of the intake stands on. Intakes of one ground are replicas of each other.
struct Ground {
    stage: Stage,
    user: Uuid,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    /// Where what changes in this process is told.
    notifier: Notifier,
    /// `true` while the relay of this process leads.
    leading: tokio::sync::watch::Sender<bool>,
}

impl Ground {
    async fn new() -> Self {
        Self::on(Stage::new().await)
    }

    /// On servers that nobody else uses: the test may stop, kill and freeze them.
    async fn with_servers_of_its_own() -> Self {
        Self::on(Stage::with_servers_of_its_own().await)
    }

    fn on(stage: Stage) -> Self {
        Self {
            stage,
            user: Uuid::new_v4(),
            metrics: Metrics::new(),
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            notifier: Notifier::default(),
            leading: tokio::sync::watch::Sender::new(true),
        }
    }

    fn pool(&self) -> &PgPool {
        &self.stage.pool
    }

    fn cache(&self) -> JobCache {
        let url = self.stage.servers().redis.url();
        JobCache::new(&url, REDIS_BUDGET, Duration::from_hours(1), self.metrics.clone()).expect("a Redis URL")
    }

    fn options(&self) -> IntakeOptions {
        IntakeOptions {
            database: self.stage.database_url.parse().expect("a database URL"),
            connect_timeout: Duration::from_secs(3),
            queue: 4_096,
            batch: 128,
            partition_rows: 1_000_000,
            record_limit: RecordLimit::new(1_000_000),
            cache: self.cache(),
            wake: Wake::default(),
            leading: self.leading.subscribe(),
            metrics: self.metrics.clone(),
        }
    }

    fn intake(&self) -> Intake {
        self.intake_with(|_| {})
    }

    fn intake_with(&self, change: impl FnOnce(&mut IntakeOptions)) -> Intake {
        let mut options = self.options();
        change(&mut options);
        intake::spawn(options, &self.tracker, self.cancel.clone())
    }

    async fn reader(&self) -> StatusReader {
        let options = with_stable_plans(self.stage.database_url.parse().expect("a database URL"));
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await
            .expect("the reader's pool");
        StatusReader::new(pool, self.cache(), &self.stage.topic)
    }

    async fn draft(&self) -> Uuid {
        drafts::insert(self.pool(), &drafts::complete(self.user)).await
    }

    fn request(&self, draft_id: Uuid) -> AcceptRequest {
        AcceptRequest {
            user_id: self.user,
            draft_id,
            idempotency_key: None,
            traceparent: None,
        }
    }

    fn keyed(&self, draft_id: Uuid, key: &str) -> AcceptRequest {
        AcceptRequest {
            idempotency_key: Some(key.to_owned()),
            ..self.request(draft_id)
        }
    }

    async fn count(&self, table: &'static str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.expect("a count")
    }

    /// Runs a statement as the database's owner.
    async fn run(&self, statement: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(self.pool())
            .await
            .expect(statement);
    }

    /// Every job that was answered is there, once, with its message; and there are no others.
    async fn assert_exactly(&self, accepted: impl IntoIterator<Item = Uuid>) {
        let mut accepted: Vec<_> = accepted.into_iter().collect();
        accepted.sort();
        let jobs: Vec<Uuid> = sqlx::query_scalar(
            "select j.id from jobs j join outbox_messages m on m.id = j.outbox_id and m.job_id = j.id order by 1",
        )
        .fetch_all(self.pool())
        .await
        .expect("jobs with their messages");
        assert_eq!(jobs, accepted);
        assert_eq!(self.count("jobs").await, accepted.len() as i64);
        assert_eq!(self.count("outbox_messages").await, accepted.len() as i64);
    }

    /// Tells the intakes to stop, and waits until they have.
    async fn stop(&self) {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(crate::support::PATIENCE, self.tracker.wait())
            .await
            .expect("the intake ends");
    }
}

/// All at the same time.
async fn accept_all(
    intake: &Intake,
    requests: impl IntoIterator<Item = AcceptRequest>,
) -> Vec<Result<Accepted, AcceptError>> {
    futures_util::future::join_all(requests.into_iter().map(|request| intake.accept(request))).await
}
