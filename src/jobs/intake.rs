//! The gatherer: requests that arrive together share one transaction.
//!
//! A request hands itself to the gatherer's queue and waits for its answer. The gatherer takes whatever
//! waits (there is no timer: while one batch commits, the next one gathers) and gives it to one of two
//! tasks, each with a connection of its own. So a client that hangs up cancels nothing, and the fixed cost
//! of a transaction is paid once for all.
//!
//! `batch` runs one batch, `repeat` takes the requests that a batch could not answer, `session` is a
//! connection and what its errors mean, `announce` tells the relay.

mod announce;
mod batch;
mod repeat;
mod session;

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{announce::Announcer, repeat::Repeats, session::Session};
use super::{AcceptError, AcceptRequest, Accepted, cache::JobCache, store};
use crate::{
    outbox::{record::RecordLimit, wake::Wake},
    telemetry::{Metrics, Outcome},
};

/// Batches in flight. One commits while the next is read; a third would only make both smaller.
const BATCHES_IN_FLIGHT: usize = 2;
/// While a batch is in flight, the next one starts only when so many requests wait: two small batches cost
/// more than one that gathered a little longer.
const SECOND_BATCH_AT: usize = 32;
/// A request that has waited longer than this is refused unread: its client has most likely given up, and
/// those behind it have not.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// A statement of a batch, by PostgreSQL's own clock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// For the answer to a statement, its commit included. Above [`STATEMENT_TIMEOUT`], which covers no commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a lock. Mostly it is somebody's idempotency key: then the requests with keys go on
/// alone, each in its turn, and hold nobody up. Or it is a table's, for a change of it: then all wait together.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// What the intake works with.
#[derive(Debug)]
pub struct IntakeOptions {
    /// The database; the intake opens a few connections of its own.
    pub database: PgConnectOptions,
    /// To connect to it.
    pub connect_timeout: Duration,
    /// Requests that may wait; more are refused with [`AcceptError::Overloaded`].
    pub queue: usize,
    /// Requests that share one transaction, at most.
    pub batch: usize,
    /// `outbox.partition_rows`, for the case that a partition has to be made.
    pub partition_rows: i64,
    /// What the topic takes.
    pub record_limit: RecordLimit,
    /// Redis.
    pub cache: JobCache,
    /// The relay of this process.
    pub wake: Wake,
    /// Whether that relay leads; if not, the leader is told by NOTIFY.
    pub leading: watch::Receiver<bool>,
    /// Counts outcomes and batch sizes.
    pub metrics: Arc<Metrics>,
}

/// The way into the intake. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Intake {
    queue: mpsc::Sender<Pending>,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// Hands a request in and waits for its answer. `Ok` means that job and outbox row are committed.
    ///
    /// Dropping the future gives up the answer, and nothing else: the request is still carried out.
    pub async fn accept(&self, request: AcceptRequest) -> Result<Accepted, AcceptError> {
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            request,
            arrived: Instant::now(),
            reply,
        };
        if let Err(refused) = self.queue.try_send(pending) {
            let error = match refused {
                mpsc::error::TrySendError::Full(_) => AcceptError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => AcceptError::Unavailable,
            };
            count(&self.metrics, &Err(error.clone()));
            return Err(error);
        }
        // No answer at all: a task of ours panicked, perhaps after the commit.
        answer.await.unwrap_or(Err(AcceptError::OutcomeUnknown))
    }
}

/// Starts the intake's tasks. On `cancel` new requests are refused and those that wait are still answered.
pub fn spawn(options: IntakeOptions, tracker: &TaskTracker, cancel: CancellationToken) -> Intake {
    let (queue, waiting) = mpsc::channel(options.queue.max(1));
    let intake = Intake {
        queue,
        metrics: options.metrics.clone(),
    };
    // Ends the helpers once the gatherer has finished, not when it is told to stop.
    let finished = CancellationToken::new();
    let announcer = Announcer::spawn(&options, tracker, finished.clone());
    let writer = Arc::new(Writer {
        repeats: Repeats::spawn(&options, &announcer, tracker),
        announcer,
        cache: options.cache,
        record_limit: options.record_limit,
        partition_rows: options.partition_rows,
        metrics: options.metrics,
    });
    let gatherer = Gatherer {
        batch: options.batch.max(1),
        session: Box::new(move || {
            let database = options.database.clone().application_name("dispatcher intake");
            let database = store::accepting_session(database, STATEMENT_TIMEOUT, LOCK_TIMEOUT);
            Session::new(database, options.connect_timeout)
        }),
        writer,
    };
    let batches = tracker.clone();
    tracker.spawn(async move {
        let _finished = finished.drop_guard();
        gatherer.run(waiting, &batches, &cancel).await;
    });
    intake
}

/// A request on its way, and where its answer goes.
#[derive(Debug)]
struct Pending {
    request: AcceptRequest,
    arrived: Instant,
    reply: oneshot::Sender<Result<Accepted, AcceptError>>,
}

/// What the tasks that run batches share.
#[derive(Debug)]
struct Writer {
    repeats: Repeats,
    announcer: Announcer,
    cache: JobCache,
    record_limit: RecordLimit,
    partition_rows: i64,
    metrics: Arc<Metrics>,
}

struct Gatherer {
    /// Requests in a batch, at most.
    batch: usize,
    session: Box<dyn Fn() -> Session + Send + Sync>,
    writer: Arc<Writer>,
}

impl Gatherer {
    async fn run(self, mut queue: mpsc::Receiver<Pending>, tracker: &TaskTracker, cancel: &CancellationToken) {
        let mut idle: Vec<Session> = (0..BATCHES_IN_FLIGHT).map(|_| (self.session)()).collect();
        let mut in_flight = JoinSet::new();
        let mut gathered = Vec::with_capacity(self.batch);
        let mut open = true;
        loop {
            let enough = if in_flight.is_empty() {
                1
            } else {
                SECOND_BATCH_AT.min(self.batch)
            };
            if gathered.len() >= enough
                && let Some(session) = idle.pop()
            {
                let batch = std::mem::replace(&mut gathered, Vec::with_capacity(self.batch));
                let writer = self.writer.clone();
                in_flight.spawn(tracker.track_future(batch::run(writer, session, batch)));
                continue;
            }
            let room = self.batch - gathered.len();
            tokio::select! {
                taken = queue.recv_many(&mut gathered, room), if open && room > 0 => open = taken > 0,
                Some(done) = in_flight.join_next() => idle.push(done.unwrap_or_else(|panic| {
                    tracing::error!(%panic, "a batch of the intake panicked; its requests are answered with 'outcome unknown'");
                    (self.session)()
                })),
                () = cancel.cancelled(), if !queue.is_closed() => queue.close(),
                else => break,
            }
        }
    }
}

/// Gives a request its answer, and counts it. A client that has gone is counted too: its job is as real.
fn answer(
    metrics: &Metrics,
    reply: oneshot::Sender<Result<Accepted, AcceptError>>,
    answer: Result<Accepted, AcceptError>,
) {
    count(metrics, &answer);
    _ = reply.send(answer);
}

fn count(metrics: &Metrics, answer: &Result<Accepted, AcceptError>) {
    let outcome = match answer {
        Ok(Accepted { replayed: false, .. }) => "accepted",
        Ok(Accepted { replayed: true, .. }) => "replayed",
        Err(AcceptError::NotFound) => "not_found",
        Err(AcceptError::NoRecommendation) => "no_recommendation",
        Err(AcceptError::DraftIncomplete) => "draft_incomplete",
        Err(AcceptError::TooLarge { .. }) => "too_large",
        Err(AcceptError::KeyReused) => "key_reused",
        Err(AcceptError::KeyInProgress) => "key_in_progress",
        Err(AcceptError::Overloaded) => "overloaded",
        Err(AcceptError::Unavailable) => "unavailable",
        Err(AcceptError::OutcomeUnknown) => "outcome_unknown",
    };
    metrics.accepts_total.get_or_create(&Outcome { outcome }).inc();
}
