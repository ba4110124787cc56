//! A history: every request with its start, end and outcome, every record, every row, every status that was seen,
//! every checkpoint and every act of an operator. [`History::check`] holds it against the promises; the rules are in
//! [`check`], and each is proved by hand-made histories in `tests`.
//!
//! A test gathers one when all faults have been healed and the outbox is drained:
//!
//! ```ignore
//! let requests = load.stop().await;
//! stage.drained().await;
//! let kept = History::gather(&stage, requests).await.kept();   // panics with what was not kept
//! assert_eq!(kept.repeats, 0);
//! ```

mod check;
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use check::{Kept, Violation};

use super::{Record, Stage, records::read_topic};

/// For what was acknowledged to be seen by every consumer.
const VISIBLE_WITHIN: Duration = Duration::from_secs(20);
/// `relay.window`'s default.
const WINDOW: usize = 16_384;

/// One request, as its client saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub draft: Uuid,
    /// Its Idempotency-Key.
    pub key: Option<String>,
    pub sent: Instant,
    pub answered: Instant,
    pub outcome: Outcome,
}

/// What the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 202.
    Accepted(Uuid),
    /// A definite refusal: nothing was accepted.
    Refused(u16),
    /// No answer, or one that says that nobody knows: maybe.
    Ambiguous,
}

/// A row of `outbox_messages`.
#[derive(Debug, Clone)]
pub struct Row {
    pub event_id: Uuid,
    pub job_id: Uuid,
    pub key: Uuid,
    pub replay_of: Option<i64>,
    pub replay_id: Option<Uuid>,
}

/// A row of `outbox_checkpoints`.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub seq: i64,
    pub fence: i64,
    pub leader: String,
    /// Its lease ended with it: whoever leads next finds nothing on its way.
    pub gives_back: bool,
    /// Its receipts are all of ids that it settles.
    pub settles_its_receipts: bool,
}

/// An answer of `GET /api/jobs/{jobId}`.
#[derive(Debug, Clone)]
pub struct StatusSeen {
    pub job: Uuid,
    pub asked: Instant,
    pub answered: Instant,
    /// `PENDING`, ..., or `NOT FOUND`.
    pub status: String,
    /// `message.state`.
    pub message: String,
}

/// The newest checkpoint at some moment. One observer saw them, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct LogSeen {
    pub seq: i64,
    pub fence: i64,
}

/// What an operator did and was told that it is done.
#[derive(Debug, Clone)]
pub enum OperatorAct {
    /// From the end of `pause` to the beginning of `resume`.
    Paused { from: DateTime<Utc>, to: DateTime<Utc> },
    /// A replay of these outbox ids, under this operation id.
    Replay { operation: String, ids: Vec<i64> },
}

/// A row of `outbox_replays`.
#[derive(Debug, Clone)]
pub struct ReplayRow {
    pub id: Uuid,
    pub operation: String,
    pub state: String,
}

/// What is promised of repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Each take-over that was not handed over repeats at most so many records.
    AtLeastOnce { window: usize },
    /// None.
    ExactlyOnce,
}

/// All that happened. See the module.
#[derive(Debug, Clone)]
pub struct History {
    pub requests: Vec<Request>,
    /// As a consumer sees them that reads committed, by partition and offset.
    pub records: Vec<Record>,
    /// The draft of each job in the database.
    pub jobs: HashMap<Uuid, Uuid>,
    /// By id.
    pub rows: BTreeMap<i64, Row>,
    pub dead: HashSet<i64>,
    /// `outbox_overview.pending` at the end.
    pub pending: i64,
    /// By `seq`.
    pub checkpoints: Vec<Checkpoint>,
    pub replays: Vec<ReplayRow>,
    pub statuses: Vec<StatusSeen>,
    pub log_seen: Vec<LogSeen>,
    pub acts: Vec<OperatorAct>,
    pub delivery: Delivery,
    /// How long after a pause a record may still be handed over: one poll, and what a fault held that up.
    pub pause_grace: Duration,
}

/// id, event_id, job_id, key, replay_of, replay_id.
type OutboxRow = (i64, Uuid, Uuid, Uuid, Option<i64>, Option<Uuid>);

impl History {
    /// Reads topic and database of a stage, whose settings say what is promised.
    pub async fn gather(stage: &Stage, requests: Vec<Request>) -> Self {
        Self::gather_from(&stage.servers().kafka.bootstrap(), stage, requests).await
    }

    /// The same, and the topic is in other brokers than the stage's own.
    pub async fn gather_from(bootstrap: &str, stage: &Stage, requests: Vec<Request>) -> Self {
        let (pool, settings) = (&stage.pool, stage.environment());
        let window = settings
            .get("relay.window")
            .map_or(WINDOW, |w| w.parse().expect("a number"));
        let delivery = match settings.get("relay.delivery").map(String::as_str) {
            Some("exactly-once") => Delivery::ExactlyOnce,
            _ => Delivery::AtLeastOnce { window },
        };
        let jobs: Vec<(Uuid, Uuid)> = sqlx::query_as("select id, event_draft_id from jobs")
            .fetch_all(pool)
            .await
            .expect("jobs");
        let rows: Vec<OutboxRow> =
            sqlx::query_as("select id, event_id, job_id, key, replay_of, replay_id from outbox_messages")
                .fetch_all(pool)
                .await
                .expect("messages");
        let dead: Vec<i64> = sqlx::query_scalar("select outbox_id from outbox_dead_letters")
            .fetch_all(pool)
            .await
            .expect("dead letters");
        let pending = sqlx::query_scalar("select pending from outbox_overview")
            .fetch_one(pool)
            .await
            .expect("the overview");
        let checkpoints: Vec<(i64, i64, String, bool, bool)> = sqlx::query_as(
            "select seq, fence, leader, lease_until <= created_at,
                    coalesce((select range_agg(int8range(id, id + 1)) from unnest(receipt_ids) id) <@ settled, true)
             from outbox_checkpoints order by seq",
        )
        .fetch_all(pool)
        .await
        .expect("checkpoints");
        let replays: Vec<(Uuid, String, String)> = sqlx::query_as("select id, operation_id, state from outbox_replays")
            .fetch_all(pool)
            .await
            .expect("replays");
        let rows: BTreeMap<i64, Row> = rows
            .into_iter()
            .map(|(id, event_id, job_id, key, replay_of, replay_id)| {
                let row = Row {
                    event_id,
                    job_id,
                    key,
                    replay_of,
                    replay_id,
                };
                (id, row)
            })
            .collect();
        Self {
            requests,
            records: all_visible(bootstrap, &stage.topic, rows.len() - dead.len()).await,
            rows,
            jobs: jobs.into_iter().collect(),
            dead: dead.into_iter().collect(),
            pending,
            checkpoints: checkpoints
                .into_iter()
                .map(|(seq, fence, leader, gives_back, settles_its_receipts)| Checkpoint {
                    seq,
                    fence,
                    leader,
                    gives_back,
                    settles_its_receipts,
                })
                .collect(),
            replays: replays
                .into_iter()
                .map(|(id, operation, state)| ReplayRow { id, operation, state })
                .collect(),
            statuses: Vec::new(),
            log_seen: Vec::new(),
            acts: Vec::new(),
            delivery,
            pause_grace: Duration::from_secs(1),
        }
    }

    /// The jobs that were answered 202.
    pub fn accepted(&self) -> HashSet<Uuid> {
        self.requests.iter().filter_map(Request::job).collect()
    }

    /// [`History::check`], for a test.
    ///
    /// # Panics
    /// With what was not kept.
    pub fn kept(&self) -> Kept {
        let (kept, violations) = self.check();
        assert!(violations.is_empty(), "{}", show(&violations));
        kept
    }
}

impl Request {
    /// Of a 202.
    pub fn job(&self) -> Option<Uuid> {
        match self.outcome {
            Outcome::Accepted(job) => Some(job),
            _ => None,
        }
    }
}

/// The records of the topic, once there is one of each of so many rows, or after [`VISIBLE_WITHIN`] what there is. A
/// commit is answered before its markers are in every partition, and a replica that was just made leader knows the end
/// only when the others have told it: until then a consumer ends too early.
async fn all_visible(bootstrap: &str, topic: &str, rows: usize) -> Vec<Record> {
    let give_up = Instant::now() + VISIBLE_WITHIN;
    loop {
        let records = read_topic(bootstrap, topic).await;
        let seen: HashSet<&String> = records.iter().filter_map(|r| r.headers.get("outbox-id")).collect();
        if seen.len() >= rows || Instant::now() > give_up {
            return records;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many there are, and the first few.
pub fn show(violations: &[Violation]) -> String {
    let few: Vec<_> = violations.iter().take(8).map(|v| format!("- {v}")).collect();
    format!("{} promises broken:\n{}", violations.len(), few.join("\n"))
}
