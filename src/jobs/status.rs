//! What became of a job, and of its message: the body of GET.

mod gathered;

use std::{fmt::Write, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgConnection, PgPool, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
    types::Json,
};
use tokio::time::timeout;
use utoipa::ToSchema;
use uuid::Uuid;

use self::gathered::Gathered;
use super::{
    JobStatus,
    cache::{CachedJob, JobCache},
};
use crate::messages::Image;
pub use crate::outbox::query::MessageState;

/// For the answer of PostgreSQL, after a connection of the pool was had.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// For PostgreSQL itself: a little less, so that a statement which waits for a lock costs no connection.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_millis(4_500);

/// A job as its owner sees it. `status` says what became of the job, `message` what became of its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// The job's id.
    pub job_id: Uuid,
    /// Never goes back. COMPLETED and FAILED are final.
    pub status: JobStatus,
    /// When the job was accepted.
    pub created_at: DateTime<Utc>,
    /// The event draft that the images are for.
    pub event_draft_id: Uuid,
    /// Where the job's message is.
    pub message: MessageView,
    /// The images, once the job is COMPLETED; empty before.
    pub images: Vec<Image>,
    /// The reason, once the job is FAILED.
    pub error: Option<String>,
}

/// A job's message: the first one, or, when that is dead, its newest retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    /// How far it has come.
    pub state: MessageState,
    /// The Kafka topic.
    pub topic: String,
    /// The partition, once published. Null too when it was found published without its receipt.
    pub partition: Option<i32>,
    /// The offset in the partition, as `partition`.
    pub offset: Option<i64>,
    /// When it was known to be published.
    pub published_at: Option<DateTime<Utc>>,
}

impl JobStatus {
    /// Nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// As in JSON and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

impl JobView {
    /// The weak entity tag, quotes included. It holds all that can change in a job's representation, so
    /// every replica gives the same one, and it needs no hash. Its leading number is the version of the
    /// body's shape.
    pub fn etag(&self) -> String {
        let state = self.message.state.as_str();
        let mut tag = format!("W/\"1-{}-{state}", self.status.as_str());
        if let (Some(partition), Some(offset)) = (self.message.partition, self.message.offset) {
            _ = write!(tag, "-{partition}-{offset}");
        }
        tag.push('"');
        tag
    }

    /// Whether the representation has reached its end: a final status and a published message.
    fn is_settled(&self) -> bool {
        self.status.is_final() && self.message.state == MessageState::Published
    }

    /// What Redis is told of it: the whole body only when it has reached its end.
    pub(super) fn to_cached(&self, owner: Uuid) -> CachedJob {
        CachedJob {
            status: self.status,
            created_at: self.created_at,
            user_id: owner,
            job: self.is_settled().then(|| self.clone()),
        }
    }
}

/// A job that was read, and what its owner is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub owner: Uuid,
    /// The outbox id of the message that speaks for the job.
    pub message_id: i64,
    pub job: JobView,
}

/// What the Content Service answered about a job, and when.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Answer {
    /// `PROCESSING`, `COMPLETED` or `FAILED`.
    pub status: String,
    /// With COMPLETED.
    pub images: Option<Json<Vec<Image>>>,
    /// With FAILED.
    pub error: Option<String>,
    /// By PostgreSQL's clock.
    pub recorded_at: DateTime<Utc>,
}

/// The answers about a job, in the order of their arrival: two at most.
pub async fn list_answers(conn: &mut PgConnection, job: Uuid) -> sqlx::Result<Vec<Answer>> {
    sqlx::query_as("select status, images, error, recorded_at from job_results where job_id = $1 order by recorded_at")
        .bind(job)
        .fetch_all(conn)
        .await
}

/// The state could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StatusError {
    /// PostgreSQL said so, or cannot be reached.
    #[error("the state of jobs cannot be read: {0}")]
    Database(Arc<sqlx::Error>),
    /// Too many others wait for it.
    #[error("the state of jobs cannot be read: too many requests wait for PostgreSQL")]
    Crowded,
    /// PostgreSQL says nothing.
    #[error("the state of jobs cannot be read: no answer in time")]
    Timeout,
}

impl From<sqlx::Error> for StatusError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// Reads jobs. Cloning is cheap; single jobs that are asked for at the same time are read together.
#[derive(Debug, Clone)]
pub struct StatusReader {
    statements: Statements,
    gathered: Gathered,
    cache: JobCache,
}

impl StatusReader {
    /// The pool's sessions should have [`crate::outbox::session::with_stable_plans`] and
    /// [`STATEMENT_TIMEOUT`]. `topic` is shown while no leader
    /// has recorded the installation's.
    pub fn new(pool: PgPool, cache: JobCache, topic: &str) -> Self {
        let statements = Statements {
            pool,
            topic: topic.into(),
        };
        Self {
            gathered: Gathered::new(statements.clone()),
            statements,
            cache,
        }
    }

    /// The job, if there is one and it is this user's: the two are not told apart.
    ///
    /// Redis alone answers only what can no longer change. Everything else is PostgreSQL's to say: a job
    /// that only Redis knows does not exist.
    pub async fn read(&self, job_id: Uuid, user_id: Uuid) -> Result<Option<JobView>, StatusError> {
        if let Some(cached) = self.cache.get(job_id).await
            && let Some(job) = cached.job
            && job.status.is_final()
            && job.job_id == job_id
        {
            return Ok((cached.user_id == user_id).then_some(job));
        }
        let Some(Found { owner, job, .. }) = self.gathered.read(job_id).await? else {
            return Ok(None);
        };
        if job.is_settled() {
            self.cache.advance([(job_id, job.to_cached(owner))]).await;
        }
        Ok((owner == user_id).then_some(job))
    }

    /// The jobs that there are, in no order; from PostgreSQL alone.
    pub(super) async fn read_many(&self, job_ids: &[Uuid]) -> Result<Vec<Found>, StatusError> {
        self.statements.read_many(job_ids).await
    }
}

#[derive(Debug, Clone)]
struct Statements {
    pool: PgPool,
    topic: Arc<str>,
}

impl Statements {
    async fn read_many(&self, job_ids: &[Uuid]) -> Result<Vec<Found>, StatusError> {
        let read = self.read_each(job_ids).await?;
        read.into_iter().map(|(_, found)| found).collect()
    }

    /// The ids of the jobs that there are, and what they are where that can be understood.
    async fn read_each(&self, job_ids: &[Uuid]) -> Result<Vec<(Uuid, Result<Found, StatusError>)>, StatusError> {
        let mut conn = self.pool.acquire().await?;
        let query = find(job_ids, &self.topic).fetch_all(&mut *conn);
        let Ok(rows) = timeout(READ_TIMEOUT, query).await else {
            // It is in the middle of something.
            conn.close_on_drop();
            return Err(StatusError::Timeout);
        };
        let mut read = Vec::new();
        for row in rows? {
            read.push((row.try_get("id")?, found(&row).map_err(StatusError::from)));
        }
        Ok(read)
    }
}

/// The jobs that there are, in no order. `topic` as in [`StatusReader::new`].
pub(super) async fn read_jobs(conn: &mut PgConnection, job_ids: &[Uuid], topic: &str) -> sqlx::Result<Vec<Found>> {
    let rows = find(job_ids, topic).fetch_all(conn).await?;
    rows.iter().map(found).collect()
}

/// One job and its owner, whoever asks; `None`: there is none. `topic` as in [`StatusReader::new`].
pub async fn read_job(conn: &mut PgConnection, job_id: Uuid, topic: &str) -> sqlx::Result<Option<(Uuid, JobView)>> {
    let row = find(&[job_id], topic).fetch_optional(conn).await?;
    let read = row.as_ref().map(found).transpose()?;
    Ok(read.map(|Found { owner, job, .. }| (owner, job)))
}

fn find<'q>(job_ids: &'q [Uuid], topic: &'q str) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(FIND_JOBS)
        .bind(job_ids)
        .bind(topic)
        .bind(job_ids.iter().min())
        .bind(job_ids.iter().max())
}

/// - The ids' bounds leave out most days before a partition is opened: 0.4 ms with 365 days, which were 11.
/// - `unnest` and `lateral` with `offset 0`, and not `= any` or a join, so that only the partitions of these jobs are looked
///   into, and an index is used for each row however small a table was when the plan was made.
/// - The message that speaks for the job is its first; when that one is dead its newest retry, and so on.
/// - What was settled by a checkpoint that retention has dropped is in the newest base, which is why it could go. Dead
///   letters stay, and say which message sent them again.
/// - The outbox itself is not named: a statement opens every partition of a table that it names.
/// - A checkpoint's receipts, thousands of them, are read once for all jobs that it settled (`|| '{}'` is a copy in memory),
///   and each job's is found by halving: they are ascending by id.
const FIND_JOBS: &str = "
with spoken as materialized (
    select j.*, m.id as message_id, d.outbox_id is not null as is_dead, c.seq
    from unnest($1::uuid[]) as asked (id)
    cross join lateral (
        select id, user_id, event_draft_id, outbox_id, created_at from jobs where id = asked.id and id between $3 and $4 offset 0
    ) j
    cross join lateral (
        with recursive chain (id, nth) as (
            select j.outbox_id, 1
            union all
            select outbox_newest_retry(chain.id), nth + 1
            from chain cross join lateral (select from outbox_dead_letters where outbox_id = chain.id offset 0) dead
        )
        select id from chain where id is not null order by nth desc limit 1
    ) m
    left join lateral (select outbox_id from outbox_dead_letters where outbox_id = m.id offset 0) d on true
    left join lateral (
        select max(seq) as seq
        from (
            select seq from outbox_checkpoints
            where d.outbox_id is null and settled @> m.id and not isempty(settled) offset 0
        ) settling
    ) c on true
), receipts as (
    select place.id, c.created_at as published_at, c.partitions[place.nth] as partition, c.offsets[place.nth] as \"offset\"
    from (select seq, array_agg(message_id) as ids from spoken where seq is not null group by seq) s
    cross join lateral (
        select created_at, receipt_ids || '{}'::bigint[] as ids, receipt_partitions || '{}'::int[] as partitions,
               receipt_offsets || '{}'::bigint[] as offsets
        from outbox_checkpoints where seq = s.seq offset 0
    ) c
    cross join lateral (
        select id, case when c.ids[last] = id then last end as nth
        from (select id, width_bucket(id, c.ids) as last from unnest(s.ids) as asked (id) offset 0) up_to_it
    ) place
)
select s.id, s.user_id, s.event_draft_id, s.outbox_id, s.created_at, s.message_id, coalesce(i.topic, $2) as topic,
       coalesce(r.status, 'PENDING') as status, r.images, r.error,
       case when s.is_dead then 'dead'
            when s.seq is not null or s.message_id <@ before.ids then 'published'
            else 'pending' end as state,
       p.published_at, p.partition, p.\"offset\"
from spoken s
left join receipts p on p.id = s.message_id
left join installation i on i.singleton
left join lateral (
    select status, images, error from job_results where job_id = s.id and job_id between $3 and $4
    order by status <> 'PROCESSING' desc limit 1
) r on true
left join (
    select base_passed - base_closed as ids from outbox_checkpoints where base_passed is not null order by seq desc limit 1
) before on true";

fn found(row: &PgRow) -> sqlx::Result<Found> {
    let status = match row.try_get("status")? {
        "PENDING" => JobStatus::Pending,
        "PROCESSING" => JobStatus::Processing,
        "COMPLETED" => JobStatus::Completed,
        "FAILED" => JobStatus::Failed,
        other => return Err(sqlx::Error::Decode(format!("job_results.status is {other}").into())),
    };
    let images: Option<Json<Vec<Image>>> = row.try_get("images")?;
    let job = JobView {
        job_id: row.try_get("id")?,
        status,
        created_at: row.try_get("created_at")?,
        event_draft_id: row.try_get("event_draft_id")?,
        message: MessageView {
            state: row.try_get("state")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            published_at: row.try_get("published_at")?,
        },
        images: images.map(|Json(images)| images).unwrap_or_default(),
        error: row.try_get("error")?,
    };
    Ok(Found {
        owner: row.try_get("user_id")?,
        message_id: row.try_get("message_id")?,
        job,
    })
}
