//! Requests that a batch could not answer, tried one by one with the ids that they were given.
//!
//! They have connections of their own: a key that somebody holds, or a commit that hangs, holds up nobody
//! but itself.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    ANSWER_TIMEOUT, BATCH_LOCK_TIMEOUT, IntakeOptions,
    announce::Announcer,
    answer,
    batch::{partition, stored_answer},
    session::{Failure, Session, advice, classify},
};
use crate::{
    jobs::{AcceptError, Accepted, accept::NewJob, store},
    telemetry::Metrics,
};

/// Requests that are tried at the same time, each on a connection that is opened for it.
const WORKERS: usize = 4;
/// Requests that wait for a worker. More are answered at once with what is known.
const QUEUE: usize = 1_024;
/// How long a repeat waits for the first request of its key, the wait of its batch included.
const KEY_WAIT: Duration = Duration::from_secs(5);
/// How long a request is tried, from when its batch gave it up.
const BUDGET: Duration = Duration::from_secs(10);
/// Between two attempts, on average.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that nothing was repeated on for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// A request with its ids.
#[derive(Debug)]
pub(super) struct Repeat {
    job: NewJob,
    reply: oneshot::Sender<Result<Accepted, AcceptError>>,
    /// An attempt may have been committed, or may still be.
    unknown: bool,
    give_up: Instant,
}

impl Repeat {
    pub(super) fn new(job: NewJob, reply: oneshot::Sender<Result<Accepted, AcceptError>>, unknown: bool) -> Self {
        Self {
            job,
            reply,
            unknown,
            give_up: Instant::now() + BUDGET,
        }
    }

    /// What can be said when it is tried no more.
    fn given_up(&self) -> AcceptError {
        if self.unknown {
            AcceptError::OutcomeUnknown
        } else {
            AcceptError::Unavailable
        }
    }
}

/// The way to the workers, who end when it is dropped and their queue is empty.
#[derive(Debug)]
pub(super) struct Repeats(mpsc::Sender<Repeat>);

impl Repeats {
    pub(super) fn spawn(options: &IntakeOptions, announcer: &Announcer, tracker: &TaskTracker) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let lock_wait = KEY_WAIT.saturating_sub(BATCH_LOCK_TIMEOUT);
        let database = options.database.clone().application_name("dispatcher intake repeat");
        // The statement may wait for one lock, and then has to do its work.
        let database = store::accepting_session(database, lock_wait + ANSWER_TIMEOUT, lock_wait);
        for _ in 0..WORKERS {
            let worker = Worker {
                database: database.clone(),
                connect_timeout: options.connect_timeout,
                partition_rows: options.partition_rows,
                announcer: announcer.clone(),
                metrics: options.metrics.clone(),
            };
            tracker.spawn(worker.run(waiting.clone()));
        }
        Self(queue)
    }

    pub(super) fn push(&self, repeat: Repeat, metrics: &Metrics) {
        if let Err(mpsc::error::TrySendError::Full(repeat) | mpsc::error::TrySendError::Closed(repeat)) =
            self.0.try_send(repeat)
        {
            let error = repeat.given_up();
            answer(metrics, repeat.reply, Err(error));
        }
    }
}

struct Worker {
    database: PgConnectOptions,
    connect_timeout: Duration,
    partition_rows: i64,
    announcer: Announcer,
    metrics: Arc<Metrics>,
}

impl Worker {
    async fn run(self, queue: Arc<Mutex<mpsc::Receiver<Repeat>>>) {
        let mut session = Session::new(self.database.clone(), self.connect_timeout);
        loop {
            match timeout(IDLE, async { queue.lock().await.recv().await }).await {
                Ok(Some(mut repeat)) => {
                    let outcome = self.settle(&mut session, &mut repeat).await;
                    answer(&self.metrics, repeat.reply, outcome);
                }
                Ok(None) => return,
                Err(_) => session.discard(),
            }
        }
    }

    /// Tries until the answer is definite or the time is up.
    async fn settle(&self, session: &mut Session, repeat: &mut Repeat) -> Result<Accepted, AcceptError> {
        while Instant::now() < repeat.give_up {
            let Ok(conn) = session.ready_by(repeat.give_up).await else {
                break;
            };
            let attempt = async {
                failpoint!("intake.repeat.before", lost);
                let inserted = store::insert_job(conn, &repeat.job).await?;
                failpoint!("intake.repeat.after", lost);
                if inserted {
                    return Ok(Some(Ok(Accepted {
                        job_id: repeat.job.job_id(),
                        replayed: false,
                    })));
                }
                let stored = store::find_answer(conn, &repeat.job).await?;
                Ok::<_, sqlx::Error>(stored.map(|stored| stored_answer(&repeat.job, stored)))
            };
            // The last attempt too gets the time to wait for a lock.
            match timeout_at(repeat.give_up.max(Instant::now() + ANSWER_TIMEOUT), attempt).await {
                Ok(Ok(Some(outcome))) => {
                    session.answered();
                    if outcome.is_ok() {
                        self.announcer.announce();
                    }
                    return outcome;
                }
                // Whoever was in the way has gone.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    if let Some(refusal) = self.after(session, repeat, &error).await {
                        return Err(refusal);
                    }
                }
                Err(_) => {
                    repeat.unknown = true;
                    session.stalled();
                }
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        Err(repeat.given_up())
    }

    /// Prepares the next attempt, or says why there is none. An error that is definite for this attempt says
    /// nothing of an earlier one whose outcome is unknown.
    async fn after(&self, session: &mut Session, repeat: &mut Repeat, error: &sqlx::Error) -> Option<AcceptError> {
        match classify(error) {
            Failure::Unknown => {
                repeat.unknown = true;
                session.discard();
            }
            Failure::Stale => session.discard(),
            Failure::NoPartition(log) => {
                if let Ok(conn) = session.ready_by(repeat.give_up).await
                    && let Err(error) = partition(conn, log, &repeat.job, self.partition_rows).await
                {
                    tracing::error!(%error, advice = advice(&error), "cannot make a missing partition");
                    session.discard();
                }
            }
            Failure::Locked | Failure::BadRow | Failure::Outage if repeat.unknown => {}
            Failure::Locked if repeat.job.idempotency_key.is_some() => return Some(AcceptError::KeyInProgress),
            Failure::Contended | Failure::Locked => {}
            Failure::BadRow | Failure::Outage => {
                tracing::error!(%error, advice = advice(error), "cannot accept a job");
                return Some(AcceptError::Unavailable);
            }
        }
        None
    }
}
