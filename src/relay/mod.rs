//! The relay: the one mover from the outbox to Kafka.
//!
//! Every replica runs it; one leads. Read aloud, its life is: stand by until the lease can be taken
//! ([`standby`]), begin ([`start`]), then read, hand over, collect reports, write checkpoints ([`leader`])
//! until something ends the term; then from the front again. [`holes`], [`breaker`], [`window`] and
//! [`receipts`] decide and know nothing of the world.

mod breaker;
mod holes;
mod leader;
mod receipts;
pub mod replayer;
mod standby;
mod start;
mod upkeep;
mod window;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config,
    outbox::{
        checkpoints::CheckpointError,
        installation::{self, LogLost},
        notifier::Notifier,
        record::RecordLimit,
        retention::Kept,
        session::{answered_within, with_idle_timeout, with_stable_plans, with_statement_timeout},
        store::Sample,
        wake::Wake,
    },
    telemetry::Metrics,
};

/// Payload bytes that are read or handed over and not acknowledged, from which on nothing more is read: with
/// [`Relay::window`] it bounds the relay's memory, whatever the backlog. One read may go beyond: what is left is its bound
/// for rows under holes and once more for new rows, of each of which it brings one of any size.
pub(crate) const WINDOW_BYTES: usize = 64 << 20;
/// Times `relay.window`, in exactly-once mode, where one transaction holds `relay.window` records: one is filled while one
/// is committed and one recorded, and what came too late for that one's checkpoint waits for the next.
const WINDOWS_OF_TRANSACTIONS: usize = 4;
/// For one statement of the relay, and of what replays write. A server that does not answer within it counts as lost.
pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two terms that ended with an error: it doubles from the first to the second.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Before a process that leads drops anything for the first time: it is less than what lies between two deploys, and enough
/// for somebody to see that it should not have been started.
pub const FIRST_ROUND: Duration = Duration::from_mins(10);

/// What the relay is given.
#[derive(Debug, Clone)]
pub struct Relay {
    /// PostgreSQL; the relay has connections of its own.
    pub database: PgConnectOptions,
    /// Kafka.
    pub kafka: config::Kafka,
    /// Lease, window, delivery.
    pub options: config::Relay,
    /// `outbox.partition_rows`.
    pub partition_rows: i64,
    /// What the leader drops once it is older.
    pub kept: Kept,
    /// It does so for the first time so long after this process began to lead, and then each hour: [`FIRST_ROUND`].
    pub first_round: Duration,
    /// `replica.name` and a UUID of this start of the process.
    pub leader: String,
    /// Where its gauges are.
    pub metrics: Arc<Metrics>,
    /// Rung by accepting in this process, and by the listener for other replicas.
    pub wake: Wake,
    /// Told what each checkpoint has settled.
    pub notifier: Notifier,
    /// Rung by a leader that sees a running replay.
    pub replays: Wake,
    /// The topic's limit, shared with accepting.
    pub limit: RecordLimit,
    /// True while this replica leads.
    pub leading: watch::Sender<bool>,
    /// On a graceful stop: how long to wait for what was handed over.
    pub drain: Duration,
}

impl Relay {
    /// The name under which this start of the process leads.
    pub fn leader_name(replica: &str) -> String {
        format!("{replica}/{}", Uuid::new_v4())
    }

    /// Records that are handed over and not recorded, at most. With transactions nothing of that is repeated, and the
    /// more one holds, the less its end costs: while one is recorded and one is committed, another is filled.
    const fn window(&self) -> usize {
        match self.options.delivery {
            config::Delivery::AtLeastOnce => self.options.window,
            config::Delivery::ExactlyOnce => self.options.window * WINDOWS_OF_TRANSACTIONS,
        }
    }

    /// Sets the gauges of what changes slowly.
    fn show_sample(&self, sample: Sample) {
        let metrics = &self.metrics;
        metrics
            .oldest_transaction_age_seconds
            .set(sample.oldest_transaction_seconds);
        metrics.missing_rows.set(sample.missing);
    }

    /// A connection with the relay's session settings.
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        Self::connect_with(with_statement_timeout(self.session(), DATABASE_TIMEOUT)).await
    }

    /// The same, for statements that may take longer than the relay's.
    async fn connect_for_upkeep(&self) -> sqlx::Result<PgConnection> {
        Self::connect_with(self.session()).await
    }

    fn session(&self) -> PgConnectOptions {
        with_idle_timeout(with_stable_plans(self.database.clone()))
            .application_name("dispatcher relay")
            .options([("max_parallel_workers_per_gather", "0")])
    }

    async fn connect_with(options: PgConnectOptions) -> sqlx::Result<PgConnection> {
        within(async {
            let mut conn = options.connect().await?;
            conn.ping().await?;
            Ok(conn)
        })
        .await
    }
}

/// Bounds a database call.
async fn within<T, E: From<sqlx::Error>>(call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    answered_within(DATABASE_TIMEOUT, call).await
}

/// How a term ended.
#[derive(Debug)]
enum End {
    /// Gracefully, on request: nothing more to do.
    Stopped,
    /// Somebody else leads.
    LostLease,
    /// Begin again; the reason, for people.
    Restart(String),
}

impl From<CheckpointError> for End {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::LostLease(_) => Self::LostLease,
            other => Self::Restart(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> Self {
        Self::Restart(format!("database: {error}"))
    }
}

/// What outlives a term, in this process. Nothing of it says what the log holds.
#[derive(Debug, Default)]
struct Memory {
    breaker: breaker::Breaker,
    /// Deliveries failed, and nothing was acknowledged since.
    failing: bool,
    /// Ids up to this one are handed over one at a time: a batch among them was refused.
    one_at_a_time_to: i64,
    /// When upkeep's next round is due; none: this process has not led yet.
    round_due: Option<Instant>,
    /// An acknowledgement said that the log has lost what was acknowledged before; not recorded yet.
    log_lost: Option<LogLost>,
}

/// Relays until `cancel`, then drains and gives the lease back. Never gives up: an error ends the term, not
/// the relay.
pub async fn run(relay: Relay, cancel: CancellationToken) {
    let mut memory = Memory::default();
    let mut pause = RESTART_PAUSE.0;
    while !cancel.is_cancelled() {
        let began = Instant::now();
        let end = term(&relay, &mut memory, &cancel).await;
        relay.leading.send_replace(false);
        relay.metrics.show_not_leading();
        match end {
            End::Stopped => return,
            End::LostLease => tracing::warn!("another replica has taken the lease over; standing by"),
            End::Restart(reason) => tracing::warn!(reason, "the relay begins again"),
        }
        if began.elapsed() > RESTART_PAUSE.1 * 5 {
            pause = RESTART_PAUSE.0;
        }
        // Jitter keeps replicas from knocking together.
        let wait = pause.mul_f64(rand::random_range(0.5..1.0));
        if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(RESTART_PAUSE.1);
    }
}

/// One term: from standing by to whatever ends it.
async fn term(relay: &Relay, memory: &mut Memory, cancel: &CancellationToken) -> End {
    if let Err(error) = record_halt(relay, memory).await {
        return error.into();
    }
    let began = async {
        let (db, lease) = standby::stand_by(relay, cancel).await?;
        relay.leading.send_replace(true);
        relay.metrics.leading.set(1);
        start::start(relay, db, lease, cancel).await
    };
    let end = match began.await {
        Ok(started) => {
            let end = leader::lead(relay, memory, started, cancel).await;
            if matches!(end, End::Restart(_)) {
                relay.metrics.producer_rebuilds_total.inc();
            }
            end
        }
        Err(end) => end,
    };
    match record_halt(relay, memory).await {
        Ok(()) => end,
        Err(error) => error.into(),
    }
}

/// Records that publishing halts, before anybody begins again: by then new records may hide what the log has lost.
async fn record_halt(relay: &Relay, memory: &mut Memory) -> sqlx::Result<()> {
    if let Some(lost) = &memory.log_lost {
        let mut conn = relay.connect().await?;
        within(installation::halt(&mut conn, &lost.to_string(), true)).await?;
        memory.log_lost = None;
    }
    Ok(())
}
