//! What the overview shows: one look at everything each [`EVERY`], kept for an hour and for a day. While nobody looks
//! and nothing moves, one each [`EVERY_IDLE`]: an idle replica asks next to nothing.
//!
//! Pages read the newest look and never ask anybody themselves, so that the overview is there at once, also
//! while PostgreSQL is away, and costs the same for one operator and for twenty. [`history`], [`verdict`] and
//! the rates are plain functions of what was seen.

pub mod history;
pub mod verdict;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::{
    history::{History, Point},
    verdict::{Verdict, forecast},
};
use crate::{
    outbox::{
        audits::{Audit, read_standing_audit},
        control::{Pause, read_pause},
        dead_letters::{DeadGroup, group_dead_letters},
        overview::{Latency, Overview, read_latency, read_newest_id, read_overview},
        replays::{Replay, list_open_replays},
    },
    telemetry::Metrics,
};

/// Between two looks: what an operator sees is so old at most.
const EVERY: Duration = Duration::from_secs(2);
/// The same while no operator looks and the log stands still.
const EVERY_IDLE: Duration = Duration::from_mins(1);
/// Somebody who asked for a look so long ago has gone.
const ATTENTION: Duration = Duration::from_mins(1);
/// How long a page waits for a look that is not older than [`EVERY`].
const FRESH_WITHIN: Duration = Duration::from_secs(1);
/// For one look at the database, and for each statement of it; then it counts as away.
pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);
/// For one probe of Kafka or Redis.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Rates are taken over so many looks: ten seconds. Fewer would flicker, more would lag behind a recovery.
const RATE_LOOKS: usize = 6;
/// Running and paused replays that are shown beside the numbers.
const REPLAYS: i64 = 5;

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Asks a dependency whether it answers. An error is for people.
#[derive(Clone)]
pub struct Probe(Arc<dyn Fn() -> Answer + Send + Sync>);

impl Probe {
    /// From a function that asks once.
    pub fn new<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }

    async fn ask(&self) -> Result<(), String> {
        tokio::time::timeout(PROBE_TIMEOUT, (self.0)())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PROBE_TIMEOUT:?}")))
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

/// What a dependency said, or why it said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// An error is for people.
    pub answer: Result<(), String>,
    /// Since when it has been so.
    pub since: DateTime<Utc>,
}

/// What the database said.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The numbers.
    pub overview: Overview,
    /// The newest id of the outbox; 0: it is empty.
    pub newest_id: i64,
    /// The pause that is on.
    pub pause: Option<Pause>,
    /// Of what was published since the look before; none: nothing was.
    pub latency: Option<Latency>,
    /// Unresolved dead letters by class.
    pub dead: Vec<DeadGroup>,
    /// Those that run or are paused, newest first.
    pub replays: Vec<Replay>,
    /// The audit that counts; none: there was none yet.
    pub audit: Option<Audit>,
}

/// Messages a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Into the outbox, replays included.
    pub incoming: f64,
    /// Into Kafka.
    pub outgoing: f64,
    /// By how many the waiting ones become fewer.
    pub shrinking: f64,
}

/// One look.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub at: DateTime<Utc>,
    /// What the database said at the last look that it answered; none: at none yet.
    pub seen: Option<Arc<Seen>>,
    /// The database.
    pub database: Reach,
    /// Kafka, as this replica reaches it.
    pub kafka: Reach,
    /// Redis, as this replica reaches it.
    pub redis: Reach,
    /// This replica leads.
    pub leading_here: bool,
    /// This replica leads, and publishing waits for the broker or for an operator.
    pub breaker_open: bool,
    /// None: not enough looks yet, or the database is away.
    pub rates: Option<Rates>,
}

/// The newest look and the history. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Monitor {
    newest: watch::Receiver<Option<Arc<Look>>>,
    attention: Arc<Attention>,
    history: Arc<Mutex<History>>,
}

/// Whether an operator looks.
#[derive(Debug, Default)]
struct Attention {
    drawn_at: Mutex<Option<Instant>>,
    drawn: Notify,
}

impl Attention {
    fn draw(&self) {
        *self.drawn_at.lock() = Some(Instant::now());
        self.drawn.notify_one();
    }

    fn is_drawn(&self) -> bool {
        self.drawn_at.lock().is_some_and(|at| at.elapsed() < ATTENTION)
    }
}

/// The task that looks.
#[derive(Debug)]
pub struct Sampler {
    pool: PgPool,
    metrics: Arc<Metrics>,
    kafka: Probe,
    redis: Probe,
    attention: Arc<Attention>,
    newest: watch::Sender<Option<Arc<Look>>>,
    history: Arc<Mutex<History>>,
    counts: VecDeque<Count>,
    /// The checkpoint up to which latencies were taken.
    checkpoint: i64,
}

/// What rates are taken of.
#[derive(Debug, Clone, Copy)]
struct Count {
    at: Instant,
    newest_id: i64,
    published: i64,
    pending: i64,
}

/// The monitor, and the task that fills it.
pub fn monitor(pool: PgPool, metrics: Arc<Metrics>, kafka: Probe, redis: Probe) -> (Monitor, Sampler) {
    let (sender, newest) = watch::channel(None);
    let history = Arc::new(Mutex::new(History::default()));
    let attention = Arc::new(Attention::default());
    let monitor = Monitor {
        newest,
        attention: Arc::clone(&attention),
        history: Arc::clone(&history),
    };
    let sampler = Sampler {
        pool,
        metrics,
        kafka,
        redis,
        attention,
        newest: sender,
        history,
        counts: VecDeque::new(),
        checkpoint: 0,
    };
    (monitor, sampler)
}

impl Monitor {
    /// The newest look; none within the first seconds of the process.
    pub fn newest(&self) -> Option<Arc<Look>> {
        self.attention.draw();
        self.newest.borrow().clone()
    }

    /// A look that is not older than two of them apart, or after [`FRESH_WITHIN`] the newest there is.
    pub async fn fresh(&self) -> Option<Arc<Look>> {
        self.attention.draw();
        let mut newest = self.newest.clone();
        let is_fresh = |look: &Option<Arc<Look>>| {
            let age = look.as_ref().and_then(|look| (Utc::now() - look.at).to_std().ok());
            age.is_some_and(|age| age < 2 * EVERY)
        };
        // Too late: what there is says how old it is.
        let _ = tokio::time::timeout(FRESH_WITHIN, newest.wait_for(is_fresh)).await;
        self.newest()
    }

    /// Waits for the next look, and has it taken soon. `None`: there will be none.
    pub async fn next(&self, seen: &mut watch::Receiver<Option<Arc<Look>>>) -> Option<Option<Arc<Look>>> {
        self.attention.draw();
        seen.changed().await.ok()?;
        Some(seen.borrow_and_update().clone())
    }

    /// For [`Monitor::next`].
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Look>>> {
        self.newest.clone()
    }

    /// The last hour, or the last day.
    pub fn history(&self, span: history::Span) -> Vec<Point> {
        self.history.lock().points(span)
    }
}

impl Sampler {
    /// Looks until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let Some(look) = cancel.run_until_cancelled(self.look()).await else {
                return;
            };
            let moves = self.moves();
            self.newest.send_replace(Some(Arc::new(look)));
            let pause = async {
                if moves || self.attention.is_drawn() {
                    tokio::time::sleep(EVERY).await;
                } else {
                    let _ = tokio::time::timeout(EVERY_IDLE, self.attention.drawn.notified()).await;
                }
            };
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Something waits, came in or went out since the look before; or that cannot be known.
    fn moves(&self) -> bool {
        let mut newest = self.counts.iter().rev();
        match (newest.next(), newest.next()) {
            (Some(now), Some(before)) => {
                now.pending > 0 || (now.newest_id, now.published) != (before.newest_id, before.published)
            }
            _ => true,
        }
    }

    async fn look(&mut self) -> Look {
        let before = self.newest.borrow().clone();
        let at = Utc::now();
        let reach = |answer, before: Option<&Reach>| match before {
            Some(before) if before.answer.is_ok() == Result::is_ok(&answer) => Reach {
                answer,
                since: before.since,
            },
            _ => Reach { answer, since: at },
        };
        let (seen, kafka, redis) = tokio::join!(self.ask_database(), self.kafka.ask(), self.redis.ask());
        let (seen, database) = match seen {
            Ok(seen) => (Some(Arc::new(seen)), Ok(())),
            Err(error) => (before.as_ref().and_then(|b| b.seen.clone()), Err(error)),
        };
        let answered = seen.as_deref().filter(|_| database.is_ok());
        let rates = self.rates(answered);
        if let Some(seen) = answered {
            self.checkpoint = seen.overview.checkpoint.unwrap_or(0);
        }
        let look = Look {
            at,
            database: reach(database, before.as_deref().map(|b| &b.database)),
            kafka: reach(kafka, before.as_deref().map(|b| &b.kafka)),
            redis: reach(redis, before.as_deref().map(|b| &b.redis)),
            leading_here: self.metrics.leading.get() == 1,
            breaker_open: self.metrics.breaker_open.get() == 1,
            rates,
            seen,
        };
        if look.database.answer.is_ok()
            && let Some(seen) = &look.seen
        {
            self.history.lock().add(point(at, &look, seen));
        }
        look
    }

    async fn ask_database(&self) -> Result<Seen, String> {
        let late = || format!("no answer within {DATABASE_TIMEOUT:?}");
        let deadline = tokio::time::Instant::now() + DATABASE_TIMEOUT;
        let conn = tokio::time::timeout_at(deadline, self.pool.acquire()).await;
        let mut conn = conn.map_err(|_| late())?.map_err(|error| error.to_string())?;
        let Ok(seen) = tokio::time::timeout_at(deadline, read(&mut conn, self.checkpoint)).await else {
            // It is in the middle of something.
            conn.close_on_drop();
            return Err(late());
        };
        seen.map_err(|error| error.to_string())
    }

    fn rates(&mut self, seen: Option<&Seen>) -> Option<Rates> {
        let Some(seen) = seen else {
            self.counts.clear();
            return None;
        };
        let now = Count {
            at: Instant::now(),
            newest_id: seen.newest_id,
            published: seen.overview.published,
            pending: seen.overview.pending,
        };
        self.counts.push_back(now);
        if self.counts.len() > RATE_LOOKS {
            self.counts.pop_front();
        }
        rates(*self.counts.front()?, now)
    }
}

/// One look at the database. Each statement is bounded, whatever the size of the log.
async fn read(conn: &mut PgConnection, since_checkpoint: i64) -> sqlx::Result<Seen> {
    let overview = read_overview(conn).await?;
    Ok(Seen {
        newest_id: read_newest_id(conn).await?,
        pause: read_pause(conn).await?,
        latency: match overview.checkpoint {
            Some(newest) if newest > since_checkpoint => read_latency(conn, since_checkpoint).await?,
            _ => None,
        },
        dead: match overview.dead {
            0 => Vec::new(),
            _ => group_dead_letters(conn).await?,
        },
        replays: list_open_replays(conn, REPLAYS).await?,
        audit: read_standing_audit(conn).await?,
        overview,
    })
}

/// Between two counts; none when they are less than a second apart.
fn rates(from: Count, to: Count) -> Option<Rates> {
    let seconds = to.at.saturating_duration_since(from.at).as_secs_f64();
    if seconds < 1.0 {
        return None;
    }
    let a_second = |from: i64, to: i64| (to - from) as f64 / seconds;
    Some(Rates {
        incoming: a_second(from.newest_id, to.newest_id).max(0.0),
        outgoing: a_second(from.published, to.published).max(0.0),
        shrinking: a_second(to.pending, from.pending),
    })
}

fn point(at: DateTime<Utc>, look: &Look, seen: &Seen) -> Point {
    let rates = look.rates;
    Point {
        at: at.timestamp(),
        incoming: rates.map(|r| r.incoming),
        outgoing: rates.map(|r| r.outgoing),
        pending: Some(seen.overview.pending as f64),
        oldest_seconds: Some(seen.overview.oldest_pending_age_seconds),
        gone_seconds: forecast(Verdict::of(Some(look)), seen.overview.pending, rates).seconds(),
        p50_seconds: seen.latency.as_ref().map(|l| l.p50_seconds),
        p99_seconds: seen.latency.as_ref().map(|l| l.p99_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_second_and_never_negative() {
        let at = Instant::now();
        let from = Count {
            at,
            newest_id: 100,
            published: 50,
            pending: 50,
        };
        let to = Count {
            at: at + Duration::from_secs(10),
            newest_id: 200,
            published: 130,
            pending: 70,
        };
        let r = rates(from, to).expect("rates");
        assert_eq!((r.incoming, r.outgoing, r.shrinking), (10.0, 8.0, -2.0));
        assert_eq!(rates(to, to), None, "no time has passed");
        // An id that was wrongly closed is pending again: what is published becomes less.
        let back = Count {
            at: to.at + Duration::from_secs(2),
            published: 129,
            ..to
        };
        assert!(rates(to, back).expect("rates").outgoing.abs() < f64::EPSILON);
    }
}
