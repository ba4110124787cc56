//! The producer: the only file that names rdkafka's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::sync::Notify;

use super::{
    FailureClass,
    advice::Complaints,
    classify,
    client::base_config,
    visibility::{NotVisible, Visibility},
};
use crate::{
    config,
    outbox::record::{OutboxMessage, for_each_header},
};

/// How long the first contact with the brokers may take, before the start is tried again.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of one record.
#[derive(Debug)]
pub struct Report {
    /// What was given to [`Producer::hand_over`].
    pub slot: usize,
    /// Where it is, or why it is not.
    pub outcome: Result<Placed, Refused>,
}

/// Kafka acknowledged the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
}

/// Kafka, or librdkafka, did not take the record.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it means.
    pub class: FailureClass,
    /// What was said.
    pub error: String,
}

/// Reports that wait to be taken, and the producer's health.
#[derive(Debug, Default)]
pub struct Reports {
    waiting: Mutex<Vec<Report>>,
    arrived: Notify,
    dead: AtomicBool,
    complaints: Complaints,
}

impl Reports {
    /// Waits until there are reports, or the producer has died.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all reports, in the order in which they came.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.waiting.lock())
    }

    /// A fatal error: every later hand-over fails, and some reports never come.
    pub fn producer_is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// What the client complains of: the reason to show while nothing is acknowledged.
    pub fn complaints(&self) -> &Complaints {
        &self.complaints
    }
}

/// What librdkafka's threads call.
#[derive(Debug)]
struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
        self.0.complaints.note(reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.dead.store(true, Ordering::Release);
            self.0.arrived.notify_one();
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.complaints.note_log(level, facility, line);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let outcome = match result {
            Ok(m) => Ok(Placed {
                partition: m.partition(),
                offset: m.offset(),
            }),
            Err((error, _)) => {
                let class = error.rdkafka_error_code().map_or(FailureClass::Unknown, classify);
                Err(Refused {
                    class,
                    error: error.to_string(),
                })
            }
        };
        let mut waiting = self.0.waiting.lock();
        waiting.push(Report { slot, outcome });
        if waiting.len() == 1 {
            self.0.arrived.notify_one();
        }
    }
}

/// Why a transaction does not count as committed. It may be, all the same.
#[derive(Debug, thiserror::Error)]
pub enum NotCommitted {
    /// What the client said.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// It answered that all is well, too late to be believed.
    #[error("the commit's answer took {0:?}: it may be that of a repeated request")]
    InDoubt(Duration),
    /// It answered that all is well, and readers do not see it.
    #[error(transparent)]
    NotVisible(#[from] NotVisible),
}

/// Of a transaction, from its first record to its commit: a broker ends an older one by itself.
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);
/// Before a request is repeated where transactions are used.
const TRANSACTION_BACKOFF: Duration = Duration::from_secs(1);
/// See [`Producer::take_over_transactions`].
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a blocking call may not notice that nobody waits for it any more.
const CANCEL_LOOK_EVERY: Duration = Duration::from_millis(500);
/// See [`Producer::commit`].
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the shortest backoff.
const COMMIT_IN_DOUBT_AFTER: Duration = Duration::from_millis(700);

/// For the records whose reports were taken to be freed, before a commit.
const FREED_WITHIN: Duration = Duration::from_millis(100);
/// Between two looks whether they are.
const FREED_LOOK_EVERY: Duration = Duration::from_micros(100);

/// An idempotent producer for one topic. Dropping it blocks for up to half a second, with transactions a whole one; what
/// is unacknowledged is purged. It keeps order and never times a record out: librdkafka tries for
/// as long as an outage lasts.
pub struct Producer {
    /// One; with transactions two, which take turns: a broker that has answered a commit still writes markers for a few
    /// milliseconds, and a client whose next transaction comes too early waits for 20 ms before it tries again.
    lanes: Vec<ThreadedProducer<Context>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    /// With transactions.
    visibility: Option<Visibility>,
    reports: Arc<Reports>,
    topic: String,
}

/// A transaction that no more records enter, to be given to [`Producer::commit`].
#[derive(Debug)]
pub struct Sealed {
    lane: usize,
}

/// Why a record could not be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// Too much is waiting in librdkafka; try again after the next report.
    Full,
    /// This record is refused by our own side.
    Refused(FailureClass, String),
    /// The producer is of no more use.
    Dead(String),
}

impl Producer {
    /// Builds a producer. `window` and `window_bytes` bound what the relay hands over; each client's own queue
    /// holds twice that, because back-pressure is the relay's. `record_limit` is the topic's, in bytes. With
    /// `transactional_ids`, records can be handed over only after [`Producer::take_over_transactions`].
    ///
    /// # Errors
    /// When a setting in `kafka.properties` is refused by librdkafka.
    pub fn new(
        kafka: &config::Kafka,
        window: usize,
        window_bytes: usize,
        record_limit: usize,
        transactional_ids: Option<&[String; 2]>,
    ) -> Result<Self, KafkaError> {
        let reports = Arc::new(Reports::default());
        let mut c = base_config(kafka);
        for (key, default) in [
            ("retry.backoff.ms", "50"),
            ("retry.backoff.max.ms", "1000"),
            ("linger.ms", "0"),
            // Waits half a minute before it believes that a topic is gone; until then it is an outage.
            ("topic.metadata.propagation.max.ms", "30000"),
        ] {
            if c.get(key).is_none() {
                c.set(key, default);
            }
        }
        c.set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "5")
            .set("retries", "2147483647")
            // As Java's default partitioner: both sides agree where a key lives.
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", (window * 2).max(1000).to_string())
            .set(
                "queue.buffering.max.kbytes",
                (window_bytes * 2 / 1024).max(1024).to_string(),
            );
        if transactional_ids.is_some() {
            // A record that takes longer than its transaction may is given up with it, and sent again.
            c.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
                .set("retry.backoff.ms", TRANSACTION_BACKOFF.as_millis().to_string())
                .set("retry.backoff.max.ms", TRANSACTION_BACKOFF.as_millis().to_string());
        } else {
            // No time-out: an outage of any length keeps order and loses nothing.
            c.set("message.timeout.ms", "0");
        }
        // A batch above the topic's limit is refused whole, though each record in it is small enough.
        let batch = c.get("batch.size").and_then(|b| b.parse().ok()).unwrap_or(1_000_000);
        c.set("batch.size", batch.min(record_limit).max(1).to_string());
        // Sizes are checked by us, to the byte, against a limit that may rise while this producer lives.
        c.set("message.max.bytes", "1000000000");
        let lane = |c: &ClientConfig| ThreadedProducer::from_config_and_context(c, Context(Arc::clone(&reports)));
        let lanes = match transactional_ids {
            None => vec![lane(&c)?],
            Some(ids) => ids
                .iter()
                .map(|id| lane(c.clone().set("transactional.id", id)))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            lanes,
            turn: AtomicUsize::new(0),
            visibility: transactional_ids.map(|_| Visibility::new(kafka)).transpose()?,
            reports,
            topic: kafka.topic.clone(),
        })
    }

    /// Fetches the topic's metadata, so that the first record does not wait for it. Blocks for at most
    /// [`WARM_UP_TIMEOUT`], with transactions twice that.
    pub fn warm_up(&self) -> Result<(), KafkaError> {
        for lane in &self.lanes {
            lane.client().fetch_metadata(Some(&self.topic), WARM_UP_TIMEOUT)?;
        }
        Ok(())
    }

    /// Ends what earlier producers of the same transactional ids have left open, locks them out, and begins the
    /// first transactions. Blocks, in steps of [`CANCEL_LOOK_EVERY`], for at most [`TAKE_OVER_TIMEOUT`].
    pub fn take_over_transactions(&self, cancel: &AtomicBool) -> Result<(), KafkaError> {
        std::thread::scope(|scope| {
            let begun: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| scope.spawn(|| take_over_transactions(lane, cancel)))
                .collect();
            begun
                .into_iter()
                .try_for_each(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Ends, in these partitions, hanging transactions of earlier producers of the same transactional ids: their coordinator
    /// is done with them, so [`Producer::take_over_transactions`] has succeeded, and they are open all the same (see
    /// [`visibility`](super::visibility)): readers of committed records wait in front of them for ever. Nothing in them has
    /// been settled. One empty record of each id is sent to each partition and aborted:
    /// the marker ends whatever the id's producer has open in the partition. A transaction of anybody else stays. The
    /// producer is of no use afterwards. Blocks for at most four times [`COMMIT_TIMEOUT`].
    pub fn end_hanging_transactions(&self, partitions: &[i32]) -> Result<(), KafkaError> {
        for lane in &self.lanes {
            for partition in partitions {
                let nothing = BaseRecord::<str, str, usize>::with_opaque_to(&self.topic, 0)
                    .partition(*partition)
                    .payload("");
                lane.send(nothing).map_err(|(error, _)| error)?;
            }
            // An abort purges what has not been sent, and its partition would not be part of the transaction.
            lane.flush(COMMIT_TIMEOUT)?;
            lane.abort_transaction(COMMIT_TIMEOUT)?;
        }
        Ok(())
    }

    /// With transactions: what is handed over from now on enters the other one. That one must have been committed, or
    /// be the first.
    pub fn seal(&self) -> Sealed {
        Sealed {
            lane: self.turn.fetch_xor(1, Ordering::Relaxed),
        }
    }

    /// Commits a transaction, waits until its readers see all of it, and begins the next in its place. Every report of
    /// it must have come; `last` is the offset of the last record in each of its partitions. Blocks for at most
    /// [`FREED_WITHIN`], twice [`COMMIT_TIMEOUT`] and what [`Visibility::wait_for`] takes. An error says nothing of the
    /// outcome, and an answer that took
    /// [`COMMIT_IN_DOUBT_AFTER`] is an error: it may be that of a repeated request (the client repeats after
    /// [`TRANSACTION_BACKOFF`], a fifth more or less), and that one can speak of a transaction that the broker
    /// had ended otherwise.
    pub fn commit(&self, Sealed { lane }: Sealed, last: &BTreeMap<i32, i64>) -> Result<(), NotCommitted> {
        let lane = &self.lanes[lane];
        // The last report is here before rdkafka's polling thread has freed its record, and a commit that finds one polls for
        // its report, which has been taken, for 100 ms (`BaseProducer::flush` of rdkafka 0.39).
        let reported = Instant::now();
        while lane.in_flight_count() > 0 && reported.elapsed() < FREED_WITHIN {
            std::thread::sleep(FREED_LOOK_EVERY);
        }
        let began = Instant::now();
        lane.commit_transaction(COMMIT_TIMEOUT)?;
        if began.elapsed() >= COMMIT_IN_DOUBT_AFTER {
            return Err(NotCommitted::InDoubt(began.elapsed()));
        }
        if let Some(visibility) = &self.visibility {
            visibility.wait_for(last)?;
        }
        Ok(lane.begin_transaction()?)
    }

    /// Hands one record over. Its report will carry `slot`.
    pub fn hand_over(&self, m: &OutboxMessage, slot: usize) -> Result<(), HandOver> {
        let mut headers = Some(OwnedHeaders::new_with_capacity(10));
        for_each_header(m, |key, value| {
            headers = headers.take().map(|h| {
                h.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        });
        let mut key = uuid::Uuid::encode_buffer();
        let record = BaseRecord::with_opaque_to(&self.topic, slot)
            .key(&*m.key.hyphenated().encode_lower(&mut key))
            .payload(&m.payload)
            .headers(headers.unwrap_or_default());
        self.lanes[self.turn.load(Ordering::Relaxed)]
            .send(record)
            .map_err(|(error, _)| match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => HandOver::Full,
                Some(code) => match classify(code) {
                    class @ FailureClass::Record(_) => HandOver::Refused(class, error.to_string()),
                    FailureClass::Outage | FailureClass::Unknown => HandOver::Dead(error.to_string()),
                },
                None => HandOver::Dead(error.to_string()),
            })
    }

    /// Where the reports arrive.
    pub fn reports(&self) -> &Arc<Reports> {
        &self.reports
    }
}

fn take_over_transactions(lane: &ThreadedProducer<Context>, cancel: &AtomicBool) -> Result<(), KafkaError> {
    let give_up = Instant::now() + TAKE_OVER_TIMEOUT;
    loop {
        // Whoever has been told to stop must not lock out the next.
        if cancel.load(Ordering::Relaxed) {
            return Err(KafkaError::Canceled);
        }
        match lane.init_transactions(CANCEL_LOOK_EVERY) {
            // The call goes on where it was.
            Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < give_up => {}
            other => {
                other?;
                return lane.begin_transaction();
            }
        }
    }
}
