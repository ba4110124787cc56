//! One batch: read, decide, cache, write, answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    ANSWER_TIMEOUT, Pending, QUEUE_PATIENCE, Writer, answer,
    repeat::Repeat,
    session::{Down, Failure, Session, advice, classify},
};
use crate::{
    jobs::{
        AcceptError, Accepted,
        accept::{Decision, Identity, NewJob, StoredKey, decide},
        store::{self, Found},
    },
    outbox::partitions::{self, Log},
};

/// Times that a batch's transaction is tried: enough for a stale plan and a missing partition of both logs.
const ATTEMPTS: usize = 4;
/// How long reading is tried again on new connections. It is definite that nothing is written yet.
const FIND_BUDGET: Duration = Duration::from_secs(2);
/// How long writing is tried again while a table is locked. Those behind it wait as long, and [`QUEUE_PATIENCE`] is
/// theirs.
const LOCK_BUDGET: Duration = Duration::from_secs(2);
/// Between two readings.
const FIND_PAUSE: Duration = Duration::from_millis(10);

/// A request that is to be written.
struct Writing {
    job: NewJob,
    reply: oneshot::Sender<Result<Accepted, AcceptError>>,
}

/// Answers every request of the batch, or hands it to the repeats. Gives the session back.
pub(super) async fn run(writer: Arc<Writer>, mut session: Session, batch: Vec<Pending>) -> Session {
    let (batch, stale): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| p.arrived.elapsed() < QUEUE_PATIENCE);
    for request in stale {
        answer(&writer.metrics, request.reply, Err(AcceptError::Overloaded));
    }
    if batch.is_empty() {
        return session;
    }
    writer.metrics.intake_batch_size.observe(batch.len() as f64);
    let Ok(found) = find(&mut session, &batch).await else {
        for request in batch {
            answer(&writer.metrics, request.reply, Err(AcceptError::Unavailable));
        }
        return session;
    };
    let writing = decide_all(&writer, found, batch);
    failpoint!("intake.cache.before");
    writer.cache.set_pending(writing.iter().map(|w| &w.job)).await;
    failpoint!("intake.cache.after");
    write(&writer, &mut session, writing).await;
    session
}

/// Reads what the batch is decided on. Nothing is written yet, so every failure is definite, and a lost
/// connection is simply made again.
async fn find(session: &mut Session, batch: &[Pending]) -> Result<Found, Down> {
    let requests: Vec<_> = batch.iter().map(|p| &p.request).collect();
    let give_up = Instant::now() + FIND_BUDGET;
    loop {
        let conn = session.ready().await?;
        failpoint!("intake.find", Down);
        match timeout(ANSWER_TIMEOUT, store::find_requested(conn, &requests)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => {
                let passes = match classify(&error) {
                    Failure::Unknown | Failure::Stale => {
                        session.discard();
                        true
                    }
                    failure => matches!(failure, Failure::Contended | Failure::Locked),
                };
                if !passes || Instant::now() >= give_up {
                    tracing::error!(%error, advice = advice(&error), "cannot read event drafts");
                    return Err(Down);
                }
            }
            Err(_) => {
                tracing::warn!(after = ?ANSWER_TIMEOUT, "no answer while reading event drafts");
                session.stalled();
                return Err(Down);
            }
        }
        sleep(FIND_PAUSE).await;
    }
}

/// Answers those who are refused or replayed; returns the others.
fn decide_all(writer: &Writer, found: Found, batch: Vec<Pending>) -> Vec<Writing> {
    let limit = writer.record_limit.get();
    let mut writing = Vec::with_capacity(batch.len());
    for (Pending { request, reply, .. }, (draft, stored)) in batch.into_iter().zip(found.rows) {
        match decide(&request, draft.as_ref(), stored, Identity::new(found.at), limit) {
            Decision::Write(job) => writing.push(Writing { job: *job, reply }),
            Decision::Replay(job_id) => answer(&writer.metrics, reply, Ok(Accepted { job_id, replayed: true })),
            Decision::Refuse(error) => answer(&writer.metrics, reply, Err(error)),
        }
    }
    writing
}

/// Writes the batch, in one transaction if that can be.
async fn write(writer: &Writer, session: &mut Session, mut writing: Vec<Writing>) {
    let give_up = Instant::now() + LOCK_BUDGET;
    let mut attempts = 0;
    while attempts < ATTEMPTS && !writing.is_empty() {
        let Ok(conn) = session.ready().await else {
            return refuse(writer, writing, &AcceptError::Unavailable);
        };
        let jobs: Vec<_> = writing.iter().map(|w| &w.job).collect();
        let error = match timeout(ANSWER_TIMEOUT, insert(conn, &jobs)).await {
            Ok(Ok(written)) => {
                session.answered();
                return settle(writer, session, writing, &written).await;
            }
            Ok(Err(error)) => error,
            Err(_) => {
                tracing::warn!(after = ?ANSWER_TIMEOUT, "no answer to a commit; it is repeated");
                session.stalled();
                return repeat(writer, writing, true);
            }
        };
        match classify(&error) {
            Failure::Unknown => {
                tracing::warn!(%error, "a commit's outcome is unknown; it is repeated");
                session.discard();
                return repeat(writer, writing, true);
            }
            Failure::Stale => session.discard(),
            Failure::NoPartition(log) => make_partition(writer, session, log, &writing).await,
            // Those without keys go on.
            Failure::KeyHeld => {
                let (keyed, others) = writing.into_iter().partition(|w| w.job.idempotency_key.is_some());
                repeat(writer, keyed, false);
                writing = others;
            }
            // Nobody can go on. The wait was the pause, and counts by its time.
            Failure::Locked if Instant::now() < give_up => continue,
            Failure::Contended => return repeat(writer, writing, false),
            Failure::BadRow if writing.len() > 1 => {
                tracing::warn!(%error, requests = writing.len(), "a batch was refused; its requests are tried one by one");
                return repeat(writer, writing, false);
            }
            Failure::Locked | Failure::BadRow | Failure::Outage => {
                tracing::error!(%error, advice = advice(&error), "cannot accept jobs");
                return refuse(writer, writing, &AcceptError::Unavailable);
            }
        }
        attempts += 1;
    }
    refuse(writer, writing, &AcceptError::Unavailable);
}

/// The transaction.
async fn insert(conn: &mut sqlx::PgConnection, jobs: &[&NewJob]) -> sqlx::Result<Vec<uuid::Uuid>> {
    failpoint!("intake.insert.before", lost);
    let written = store::insert_jobs(conn, jobs).await?;
    failpoint!("intake.insert.after", lost);
    Ok(written)
}

/// Makes the partition that was missing. A failure shows when the batch is tried again.
async fn make_partition(writer: &Writer, session: &mut Session, log: Log, writing: &[Writing]) {
    let (Ok(conn), Some(first)) = (session.ready().await, writing.first()) else {
        return;
    };
    if let Err(error) = partition(conn, log, &first.job, writer.partition_rows).await {
        tracing::error!(%error, advice = advice(&error), "cannot make a missing partition");
        session.discard();
    }
}

/// Makes the partition for a job.
pub(super) async fn partition(
    conn: &mut sqlx::PgConnection,
    log: Log,
    job: &NewJob,
    partition_rows: i64,
) -> sqlx::Result<()> {
    failpoint!("intake.partition.before", lost);
    match log {
        Log::Jobs => partitions::ensure_jobs(conn, job.message.created_at).await,
        Log::Outbox => partitions::ensure_outbox(conn, partition_rows).await.map(drop),
    }?;
    failpoint!("intake.partition.after", lost);
    Ok(())
}

/// Answers after the commit: those that were written, then those whose key was taken.
async fn settle(writer: &Writer, session: &mut Session, writing: Vec<Writing>, written: &[uuid::Uuid]) {
    if !written.is_empty() {
        writer.announcer.announce();
    }
    let written: std::collections::HashSet<_> = written.iter().copied().collect();
    let mut others = Vec::new();
    for one in writing {
        let job_id = one.job.job_id();
        if written.contains(&job_id) {
            answer(
                &writer.metrics,
                one.reply,
                Ok(Accepted {
                    job_id,
                    replayed: false,
                }),
            );
        } else {
            others.push(one);
        }
    }
    for one in others {
        failpoint!("intake.find_answer");
        let found = match session.ready().await {
            Ok(conn) => timeout(ANSWER_TIMEOUT, store::find_answer(conn, &one.job)).await,
            Err(Down) => Ok(Ok(None)),
        };
        match found {
            Ok(Ok(Some(stored))) => answer(&writer.metrics, one.reply, stored_answer(&one.job, stored)),
            // Whoever had the key has gone, or it cannot be read now: once more, from the start.
            Ok(Ok(None)) => repeat(writer, vec![one], false),
            Ok(Err(_)) | Err(_) => {
                session.discard();
                repeat(writer, vec![one], false);
            }
        }
    }
}

/// The answer to a job that was not written, from what is stored in its place.
pub(super) fn stored_answer(job: &NewJob, stored: StoredKey) -> Result<Accepted, AcceptError> {
    let job_id = stored.answer(job.draft_id())?;
    Ok(Accepted {
        job_id,
        replayed: job_id != job.job_id(),
    })
}

fn refuse(writer: &Writer, writing: Vec<Writing>, error: &AcceptError) {
    for one in writing {
        answer(&writer.metrics, one.reply, Err(error.clone()));
    }
}

/// Hands the requests to those who try them one by one. `unknown`: the batch may have been committed.
fn repeat(writer: &Writer, writing: Vec<Writing>, unknown: bool) {
    for Writing { job, reply } in writing {
        writer.repeats.push(Repeat::new(job, reply, unknown), &writer.metrics);
    }
}
