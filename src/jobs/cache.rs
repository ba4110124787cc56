//! Redis `job:{id}`: what clients of the source design read. Best effort: PostgreSQL is the truth, a lost
//! or stale Redis costs time and never an answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use redis::{
    AsyncTypedCommands, Client, ErrorKind, RedisError, RedisResult, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{JobStatus, accept::NewJob, status::JobView};
use crate::telemetry::Metrics;

/// After a failure Redis is left alone for this long, so that a frozen one costs one budget now and then,
/// and not one for every batch.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// To connect: longer than a command's budget, for it goes on while nobody waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sets the value when it is a step forward: a later status, or the body of a final status whose body is
/// missing. The first final status wins. Returns 1 when the value was set.
const ADVANCE: &str = "
local rank = { PENDING = 0, PROCESSING = 1, COMPLETED = 2, FAILED = 2 }
local stored = redis.call('get', KEYS[1])
if stored then
    local readable, old = pcall(cjson.decode, stored)
    if readable and type(old) == 'table' and rank[old.status] then
        local forward = rank[old.status] < rank[ARGV[1]]
        local completes = old.status == ARGV[1] and ARGV[2] == '1' and old.job == nil
        if not (forward or completes) then return 0 end
    end
end
redis.call('set', KEYS[1], ARGV[3], 'EX', ARGV[4])
return 1
";

/// The value of `job:{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedJob {
    /// The furthest status known when it was written.
    pub status: JobStatus,
    /// When the job was accepted.
    pub created_at: DateTime<Utc>,
    /// The owner, so that Redis alone can tell who may see it.
    pub user_id: Uuid,
    /// The whole body of GET, once it can no longer change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
}

/// The client of Redis. Cloning is cheap; all clones share one connection and one judgement of its health.
#[derive(Clone)]
pub struct JobCache {
    client: Client,
    connection: Arc<Mutex<ConnectionManager>>,
    /// Of a call, waiting for the connection included.
    budget: Duration,
    ttl: Duration,
    metrics: Arc<Metrics>,
    paused_until: Arc<Mutex<Option<Instant>>>,
    advance: Script,
}

impl std::fmt::Debug for JobCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobCache")
            .field("budget", &self.budget)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl JobCache {
    /// Connects when first used, and again whenever it must. Fails only on a URL that is none. Needs a
    /// tokio runtime.
    pub fn new(url: &str, budget: Duration, ttl: Duration, metrics: Arc<Metrics>) -> RedisResult<Self> {
        let client = Client::open(url)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connect_lazily(&client, budget)?)),
            client,
            budget,
            ttl,
            metrics,
            paused_until: Arc::default(),
            advance: Script::new(ADVANCE),
        })
    }

    /// Writes PENDING for jobs that are about to be committed, in one pipeline. NX: whatever is there
    /// already is later. A failure is counted and otherwise ignored.
    pub async fn set_pending(&self, jobs: impl Iterator<Item = &NewJob>) {
        let mut pipe = redis::pipe();
        for job in jobs {
            let value = CachedJob {
                status: JobStatus::Pending,
                created_at: job.message.created_at,
                user_id: job.user_id,
                job: None,
            };
            pipe.cmd("SET")
                .arg(key(job.job_id()))
                .arg(value.to_json())
                .arg("NX")
                .arg("EX")
                .arg(self.ttl_seconds())
                .ignore();
        }
        if pipe.is_empty() {
            return;
        }
        let mut connection = self.connection.lock().clone();
        self.within_budget(async { pipe.query_async::<()>(&mut connection).await })
            .await;
    }

    /// Moves each job's value forward, never back: an atomic script a value, all of them in one pipeline.
    pub async fn advance(&self, jobs: impl IntoIterator<Item = (Uuid, CachedJob)>) {
        let mut pipe = redis::pipe();
        // Redis may have been restarted since the last time; one that knows the script looks at its digest only.
        pipe.load_script(&self.advance).ignore();
        for (job_id, value) in jobs {
            let mut call = self.advance.key(key(job_id));
            call.arg(value.status.as_str())
                .arg(i32::from(value.job.is_some()))
                .arg(value.to_json())
                .arg(self.ttl_seconds());
            pipe.invoke_script(&call).ignore();
        }
        if pipe.len() == 1 {
            return;
        }
        let mut connection = self.connection.lock().clone();
        self.within_budget(async { pipe.query_async::<()>(&mut connection).await })
            .await;
    }

    /// What is stored; `None` also when Redis cannot be asked, or when the value cannot be read.
    pub async fn get(&self, job_id: Uuid) -> Option<CachedJob> {
        let mut connection = self.connection.lock().clone();
        let text = self
            .within_budget(async { connection.get(key(job_id)).await })
            .await??;
        CachedJob::read(&text)
    }

    /// Whether Redis answers, asked beside the judgement that calls share: for the console.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub async fn ping(&self) -> Result<(), String> {
        let mut connection = self.connection.lock().clone();
        let answer = redis::cmd("PING").query_async::<()>(&mut connection).await;
        answer.map_err(|error| {
            self.begin_anew_after(&error);
            describe(&error)
        })
    }

    /// `None`: it failed, or Redis is left alone for the moment.
    async fn within_budget<T>(&self, call: impl Future<Output = RedisResult<T>>) -> Option<T> {
        if self.paused_until.lock().is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let problem = match tokio::time::timeout(self.budget, call).await {
            Ok(Ok(done)) => {
                if self.paused_until.lock().take().is_some() {
                    tracing::info!("redis answers again");
                }
                return Some(done);
            }
            Ok(Err(error)) => {
                self.begin_anew_after(&error);
                describe(&error)
            }
            Err(_) => format!("no answer within {:?}", self.budget),
        };
        self.metrics.cache_failures_total.inc();
        let before = self.paused_until.lock().replace(Instant::now() + PAUSE_AFTER_FAILURE);
        if before.is_none() {
            tracing::warn!(problem, "redis cannot be used; jobs are accepted without it");
        }
        None
    }

    /// The manager tries again after a fault of the network only. What a server refused when it was connected to
    /// (a password, a server that is still loading) it would answer for ever.
    fn begin_anew_after(&self, error: &RedisError) {
        if error.is_io_error() {
            return;
        }
        if let Ok(fresh) = connect_lazily(&self.client, self.budget) {
            *self.connection.lock() = fresh;
        }
    }

    fn ttl_seconds(&self) -> u64 {
        self.ttl.as_secs().max(1)
    }
}

/// Without retries of its own: while it waited for the next, the cause would not be known in time.
fn connect_lazily(client: &Client, budget: Duration) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(budget))
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// For people, with what to do where that is known.
fn describe(error: &RedisError) -> String {
    if is_refused_login(error) {
        format!("Redis refuses the login: {error}; check user and password of redis.url")
    } else {
        error.to_string()
    }
}

/// A wrong user or password, or none where one is asked for.
pub fn is_refused_login(error: &RedisError) -> bool {
    let said = error.to_string().to_lowercase();
    error.kind() == ErrorKind::AuthenticationFailed
        || [
            "wrongpass",
            "noauth",
            "invalid password",
            "password authentication failed",
        ]
        .iter()
        .any(|word| said.contains(word))
}

fn key(job_id: Uuid) -> String {
    format!("job:{job_id}")
}

impl CachedJob {
    /// `None`: somebody else's words, or two statuses in one value.
    pub(super) fn read(text: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(text).ok()?;
        let is_one = read.job.as_ref().is_none_or(|job| job.status == read.status);
        is_one.then_some(read)
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a value of strings and numbers always serialises")
    }
}
