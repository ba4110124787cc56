//! Applies what the Content Service answers on the result topic.
//!
//! Answers come repeated, late and in any order. Each becomes at most one row of `job_results`, which says
//! how far the job is at least, so its status never goes back; of two final answers the first stays. Offsets
//! are committed after PostgreSQL has said so. What cannot be applied is put aside and stops nobody.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod reading;
mod store;

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::StreamExt as _;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::OwnedMessage,
    types::RDKafkaErrorCode,
};
use sqlx::{PgConnection, PgPool};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::{
    reading::{Aside, Batch, Reason},
    store::Inserted,
};
use super::{
    cache::JobCache,
    status::{self, Found},
};
use crate::{
    outbox::notifier::Notifier,
    telemetry::{Metrics, Outcome},
};

/// Records that are applied together.
const BATCH: usize = 256;
/// For one batch, before it is tried again.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// For one statement of it: PostgreSQL's own, a little less.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(9);
/// Between tries while PostgreSQL is out of reach.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the task works with.
pub struct Results {
    /// Where the brokers are and how to speak to them.
    pub client: ClientConfig,
    /// The result topic.
    pub topic: String,
    /// One connection is enough.
    pub pool: PgPool,
    /// As `topic` of [`status::StatusReader::new`].
    pub job_topic: String,
    /// Redis.
    pub cache: JobCache,
    /// Told of the jobs that are answered, for those who wait.
    pub notifier: Notifier,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Results {
    /// Consumes until cancelled. Ends by itself only when Kafka will never serve it.
    pub async fn run(self, cancel: CancellationToken) {
        let done = match self.consumer() {
            Ok(consumer) => {
                let done = self.consume(&consumer, &cancel).await;
                // It leaves its group, and waits for Kafka's answer: not on a thread of the runtime.
                let _ = tokio::task::spawn_blocking(move || drop(consumer)).await;
                done
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::error!(%error, topic = self.topic, "results can no longer be consumed");
        }
    }

    fn consumer(&self) -> KafkaResult<StreamConsumer> {
        let consumer: StreamConsumer = self
            .client
            .clone()
            // Each installation has a topic of its own, and one group on it.
            .set("group.id", format!("image-job-dispatcher.{}", self.topic))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", "15000")
            // Nothing is polled while PostgreSQL is waited for.
            .set("max.poll.interval.ms", "1800000")
            // A topic that is made later is found this soon.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "4096")
            // What is queued is applied in less than the second that librdkafka would let pass before it asks for more.
            .set("fetch.queue.backoff.ms", "10")
            .create()?;
        consumer.subscribe(&[&self.topic])?;
        Ok(consumer)
    }

    async fn consume(&self, consumer: &StreamConsumer, cancel: &CancellationToken) -> KafkaResult<()> {
        let taken = consumer.stream().take_until(cancel.cancelled()).ready_chunks(BATCH);
        let mut chunks = std::pin::pin!(taken);
        while let Some(chunk) = chunks.next().await {
            let mut records = Vec::with_capacity(chunk.len());
            for taken in chunk {
                match taken {
                    Ok(record) => records.push(record.detach()),
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) => tracing::warn!(%error, topic = self.topic, "consumer of results"),
                }
            }
            if records.is_empty() {
                continue;
            }
            let batch = Batch::read(&records);
            let applied = cancel.run_until_cancelled(self.apply_until_done(&batch)).await;
            if applied.is_none() {
                // Nothing is committed: whoever reads these records next applies them.
                return Ok(());
            }
            if let Err(error) = consumer.commit(&positions_after(&records)?, CommitMode::Async) {
                tracing::warn!(%error, "offsets of results were not committed; they are applied once more");
            }
        }
        Ok(())
    }

    /// Tries as long as PostgreSQL is out of reach.
    async fn apply_until_done(&self, batch: &Batch<'_>) {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build();
        loop {
            let problem = match self.pool.acquire().await {
                Ok(mut conn) => match timeout(APPLY_TIMEOUT, self.apply(&mut conn, batch)).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => {
                        // It is in the middle of something.
                        conn.close_on_drop();
                        format!("no answer within {APPLY_TIMEOUT:?}")
                    }
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!(problem, "results cannot be applied now; they wait");
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Idempotent: it may be cut short anywhere and done again.
    async fn apply(&self, conn: &mut PgConnection, batch: &Batch<'_>) -> sqlx::Result<()> {
        let new = store::insert_results(&mut *conn, &batch.results()).await?;
        let mut job_ids: Vec<_> = batch.answers.iter().map(|answer| answer.result.job_id).collect();
        job_ids.sort_unstable();
        job_ids.dedup();
        let jobs = status::read_jobs(&mut *conn, &job_ids, &self.job_topic).await?;

        let known: Vec<_> = jobs.iter().map(|found| found.job.job_id).collect();
        if new.rows > 0 {
            self.notifier.answered(&known);
        }
        let is_known = |id| known.contains(&id);
        let unknown = batch.answers.iter().filter(|answer| !is_known(answer.result.job_id));
        let unknown = unknown.map(|answer| answer.aside(Reason::UnknownJob, "there is no such job"));
        let aside: Vec<_> = batch.malformed.iter().cloned().chain(unknown).collect();
        let put = store::put_aside(conn, &aside).await?;
        self.report(batch, new, &aside, &put);

        let cached = jobs
            .iter()
            .map(|Found { owner, job, .. }| (job.job_id, job.to_cached(*owner)));
        self.cache.advance(cached).await;
        Ok(())
    }

    /// Counts, and says of each record put aside, where it is; once, for a repeated record is not put again.
    fn report(&self, batch: &Batch<'_>, new: Inserted, aside: &[Aside<'_>], put: &[(i32, i64)]) {
        let count = |outcome, by| {
            let counter = self.metrics.results_total.get_or_create_owned(&Outcome { outcome });
            counter.inc_by(by);
        };
        let unknown = aside.len() - batch.malformed.len();
        count("recorded", new.rows);
        self.metrics.job_failures_total.inc_by(new.failed);
        count("repeated", (batch.answers.len() - unknown) as u64 - new.rows);
        for Aside { record, reason, error } in aside {
            let (partition, offset) = (record.partition(), record.offset());
            if put.contains(&(partition, offset)) {
                let reason = reason.as_str();
                count(reason, 1);
                tracing::warn!(
                    topic = self.topic,
                    partition,
                    offset,
                    reason,
                    error,
                    "a result is put aside"
                );
            }
        }
    }
}

/// Where the group goes on after these records.
fn positions_after(records: &[OwnedMessage]) -> KafkaResult<TopicPartitionList> {
    let mut positions = TopicPartitionList::new();
    for record in records {
        // Of one partition the last is the furthest, and replaces the others.
        let next = Offset::Offset(record.offset() + 1);
        match positions.find_partition(record.topic(), record.partition()) {
            Some(mut known) => known.set_offset(next)?,
            None => positions.add_partition_offset(record.topic(), record.partition(), next)?,
        }
    }
    Ok(positions)
}

fn is_fatal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}
