//! Requests that a batch could not answer, tried one by one with the ids that they were given.
//!
//! They have connections of their own: a key that somebody holds, or a commit that hangs, holds up no batch. A
//! request whose key is held goes back to the end of the queue after each attempt, so it holds up no other key either.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    ANSWER_TIMEOUT, IntakeOptions, LOCK_TIMEOUT, STATEMENT_TIMEOUT,
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
    /// When its batch gave it up.
    since: Instant,
    /// What can be said when it is tried no more.
    refusal: AcceptError,
}

impl Repeat {
    pub(super) fn new(job: NewJob, reply: oneshot::Sender<Result<Accepted, AcceptError>>, unknown: bool) -> Self {
        Self {
            job,
            reply,
            since: Instant::now(),
            // As long as it has not been tried alone, all that is known is that others were before it.
            refusal: if unknown {
                AcceptError::OutcomeUnknown
            } else {
                AcceptError::Overloaded
            },
        }
    }

    /// An attempt may have been committed, or may still be. What a later one meets does not make that definite.
    fn is_unknown(&self) -> bool {
        self.refusal == AcceptError::OutcomeUnknown
    }

    /// No attempt begins later.
    fn give_up(&self) -> Instant {
        self.since
            + match self.refusal {
                AcceptError::KeyInProgress => KEY_WAIT.saturating_sub(LOCK_TIMEOUT),
                _ => BUDGET,
            }
    }

    fn refuse(self, metrics: &Metrics) {
        answer(metrics, self.reply, Err(self.refusal));
    }
}

/// The way to the workers, who end when it is dropped and their queue is empty.
#[derive(Debug)]
pub(super) struct Repeats(mpsc::Sender<Repeat>);

impl Repeats {
    pub(super) fn spawn(options: &IntakeOptions, announcer: &Announcer, tracker: &TaskTracker) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let database = options.database.clone().application_name("dispatcher intake repeat");
        let database = store::accepting_session(database, STATEMENT_TIMEOUT, LOCK_TIMEOUT);
        for _ in 0..WORKERS {
            let worker = Worker {
                queue: queue.downgrade(),
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
        push(&self.0, repeat, metrics);
    }
}

/// Puts it at the end of the queue. Where there is no room, it is answered.
fn push(queue: &mpsc::Sender<Repeat>, repeat: Repeat, metrics: &Metrics) {
    if let Err(mpsc::error::TrySendError::Full(repeat) | mpsc::error::TrySendError::Closed(repeat)) =
        queue.try_send(repeat)
    {
        repeat.refuse(metrics);
    }
}

struct Worker {
    /// Where a request goes that has to wait. Of no use any more once the intake stops.
    queue: mpsc::WeakSender<Repeat>,
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
                Ok(Some(mut repeat)) => match self.settle(&mut session, &mut repeat).await {
                    Some(outcome) => answer(&self.metrics, repeat.reply, outcome),
                    None => self.put_back(repeat),
                },
                Ok(None) => return,
                Err(_) => session.discard(),
            }
        }
    }

    /// Lets those go first who wait as well.
    fn put_back(&self, repeat: Repeat) {
        match self.queue.upgrade() {
            Some(queue) if Instant::now() < repeat.give_up() => push(&queue, repeat, &self.metrics),
            _ => repeat.refuse(&self.metrics),
        }
    }

    /// Tries until the answer is definite or the time is up. `None`: somebody has what it waits for, and it has waited
    /// for [`LOCK_TIMEOUT`].
    async fn settle(&self, session: &mut Session, repeat: &mut Repeat) -> Option<Result<Accepted, AcceptError>> {
        while Instant::now() < repeat.give_up() {
            if !repeat.is_unknown() {
                repeat.refusal = AcceptError::Unavailable;
            }
            let give_up = repeat.give_up();
            let Ok(conn) = session.ready_by(give_up).await else {
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
            // The last attempt too gets its time.
            match timeout_at(give_up.max(Instant::now() + ANSWER_TIMEOUT), attempt).await {
                Ok(Ok(Some(outcome))) => {
                    session.answered();
                    if outcome.is_ok() {
                        self.announcer.announce();
                    }
                    return Some(outcome);
                }
                // Whoever was in the way has gone.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => match classify(&error) {
                    // In doubt, it may be an earlier attempt that holds the key: what came of it is asked until it is known.
                    Failure::KeyHeld if !repeat.is_unknown() => {
                        repeat.refusal = AcceptError::KeyInProgress;
                        return None;
                    }
                    Failure::Locked if !repeat.is_unknown() => return None,
                    failure => {
                        if let Some(refusal) = self.after(session, repeat, failure, &error).await {
                            return Some(Err(refusal));
                        }
                    }
                },
                Err(_) => {
                    repeat.refusal = AcceptError::OutcomeUnknown;
                    session.stalled();
                }
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        Some(Err(repeat.refusal.clone()))
    }

    /// Prepares the next attempt, or says why there is none. An error that is definite for this attempt says
    /// nothing of an earlier one whose outcome is unknown.
    async fn after(
        &self,
        session: &mut Session,
        repeat: &mut Repeat,
        failure: Failure,
        error: &sqlx::Error,
    ) -> Option<AcceptError> {
        match failure {
            Failure::Unknown => {
                repeat.refusal = AcceptError::OutcomeUnknown;
                session.discard();
            }
            Failure::Stale => session.discard(),
            Failure::NoPartition(log) => {
                if let Ok(conn) = session.ready_by(repeat.give_up()).await
                    && let Err(error) = partition(conn, log, &repeat.job, self.partition_rows).await
                {
                    tracing::error!(%error, advice = advice(&error), "cannot make a missing partition");
                    session.discard();
                }
            }
            Failure::Contended | Failure::KeyHeld | Failure::Locked => {}
            Failure::BadRow | Failure::Outage if repeat.is_unknown() => {}
            Failure::BadRow | Failure::Outage => {
                tracing::error!(%error, advice = advice(error), "cannot accept a job");
                return Some(AcceptError::Unavailable);
            }
        }
        None
    }
}
