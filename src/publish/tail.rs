//! Reading the topic's tail: what did an earlier leader publish that no checkpoint records?

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode,
};
use uuid::Uuid;

use super::client::base_config;
use crate::config;

/// For one answer of the brokers.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A tail in which nothing arrives for so long is given up, and the start tried again.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For an open transaction to be ended; then the start is tried again, and says why.
const DECIDED_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether a transaction has been ended.
const DECIDED_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where no offset is known, the tail begins so long before the oldest unsettled row was written: clocks
/// of broker and database differ.
const CLOCK_ALLOWANCE: TimeDelta = TimeDelta::hours(1);

/// A record in the topic that may be one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The header `outbox-id`.
    pub outbox_id: i64,
    /// The header `ce_id`.
    pub event_id: Uuid,
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
}

/// What the tail read found.
#[derive(Debug, Default)]
pub struct Tail {
    /// For each partition, the offset behind the last record that was read.
    pub next_offsets: Vec<i64>,
    /// Records that were read.
    pub read: u64,
}

/// Why the tail could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The brokers' answer, or that there was none.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Nothing arrived for a long time.
    #[error("the topic's tail did not arrive within {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    /// A transaction, ours or somebody else's, stays open.
    #[error(
        "partition {partition} has an open transaction at offset {stable}, before its end at {high}: \
         `kafka-transactions.sh find-hanging` names it"
    )]
    Undecided {
        /// Of the topic.
        partition: i32,
        /// Where it begins.
        stable: i64,
        /// The high watermark.
        high: i64,
    },
    /// The topic has no partitions, as far as the broker knows.
    #[error("the topic {0:?} does not exist: create it, with the partitions that you need")]
    NoTopic(String),
    /// The caller gave up.
    #[error("given up")]
    Cancelled,
}

/// That a partition is read to its end is news for us, and not for the log.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "consumer of the tail");
    }
}

impl ConsumerContext for Quiet {}

/// Reads each partition from `next_offsets` to its end as it is at the call, read-committed, and calls `found` for every record
/// that carries both our headers. Where no offset is given, or it is out of range (retention, another
/// topic), begins an hour before `oldest_unsettled`; without that at the end. Blocks; `cancel` ends it.
pub fn read_tail(
    kafka: &config::Kafka,
    next_offsets: &[i64],
    oldest_unsettled: Option<DateTime<Utc>>,
    cancel: &Arc<AtomicBool>,
    mut found: impl FnMut(Found),
) -> Result<Tail, TailError> {
    let mut c = base_config(kafka);
    c.set("group.id", "image-job-dispatcher-tail") // librdkafka asks for one; it is never joined
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "16384");
    let consumer = BaseConsumer::from_config_and_context(&c, Quiet)?;
    c.set("isolation.level", "read_uncommitted");
    let of_the_log = BaseConsumer::from_config_and_context(&c, Quiet)?;

    let metadata = consumer.fetch_metadata(Some(&kafka.topic), CALL_TIMEOUT)?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    if partitions == 0 {
        return Err(TailError::NoTopic(kafka.topic.clone()));
    }

    let mut tail = Tail {
        next_offsets: Vec::with_capacity(partitions),
        read: 0,
    };
    let mut assignment = TopicPartitionList::new();
    let mut unfinished = 0;
    for partition in 0..partitions as i32 {
        if cancel.load(Ordering::Relaxed) {
            return Err(TailError::Cancelled);
        }
        let (low, high) = of_the_log.fetch_watermarks(&kafka.topic, partition, CALL_TIMEOUT)?;
        await_decided(&consumer, &kafka.topic, partition, high, cancel)?;
        let known = next_offsets
            .get(partition as usize)
            .copied()
            .filter(|o| (low..=high).contains(o));
        let begin = match (known, oldest_unsettled) {
            (Some(offset), _) => offset,
            (None, None) => high,
            (None, Some(oldest)) => {
                offset_at(&consumer, &kafka.topic, partition, oldest - CLOCK_ALLOWANCE)?.map_or(high, |o| o.max(low))
            }
        };
        tail.next_offsets.push(begin);
        if begin < high {
            assignment.add_partition_offset(&kafka.topic, partition, Offset::Offset(begin))?;
            unfinished += 1;
        }
    }
    if unfinished == 0 {
        return Ok(tail);
    }

    consumer.assign(&assignment)?;
    let mut last_news = Instant::now();
    while unfinished > 0 {
        if cancel.load(Ordering::Relaxed) {
            return Err(TailError::Cancelled);
        }
        match consumer.poll(Duration::from_millis(100)) {
            None if last_news.elapsed() > STALL_TIMEOUT => return Err(TailError::Stalled),
            None => continue,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // Each partition is read to its end once; what a zombie appends later cannot be seen anyway.
                let mut done = TopicPartitionList::new();
                done.add_partition(&kafka.topic, partition);
                consumer.pause(&done)?;
                unfinished -= 1;
            }
            // The client mends its connections by itself, and needs no group: the stall decides.
            Some(Err(KafkaError::MessageConsumption(code))) if is_of_the_client(code) => {
                if last_news.elapsed() > STALL_TIMEOUT {
                    return Err(KafkaError::MessageConsumption(code).into());
                }
                continue;
            }
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                tail.next_offsets[message.partition() as usize] = message.offset() + 1;
                tail.read += 1;
                if let Some(record) = identify(&message) {
                    found(record);
                }
            }
        }
        last_news = Instant::now();
    }
    Ok(tail)
}

/// Waits until no transaction below `high` is open any more. A reader of committed records ends in front of the
/// first that is, and says that this is the end: what lies behind it would be missed, committed or not
/// (<https://issues.apache.org/jira/browse/KAFKA-10167>). Whatever is open of ours has been ended; a coordinator that
/// has just been elected may still be writing the markers.
fn await_decided(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partition: i32,
    high: i64,
    cancel: &AtomicBool,
) -> Result<(), TailError> {
    let give_up = Instant::now() + DECIDED_TIMEOUT;
    loop {
        // For such a reader, the broker answers with the last stable offset.
        let (_, stable) = consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT)?;
        if stable >= high {
            return Ok(());
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(TailError::Cancelled);
        }
        if Instant::now() >= give_up {
            return Err(TailError::Undecided {
                partition,
                stable,
                high,
            });
        }
        std::thread::sleep(DECIDED_LOOK_EVERY);
    }
}

/// Errors of a connection, or of a group that is never joined; not of a partition that is read.
fn is_of_the_client(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::BrokerTransportFailure
            | E::AllBrokersDown
            | E::Resolve
            | E::OperationTimedOut
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::CoordinatorLoadInProgress
            | E::GroupAuthorizationFailed
    )
}

/// The first offset whose record is not older than `at`.
fn offset_at(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partition: i32,
    at: DateTime<Utc>,
) -> Result<Option<i64>, KafkaError> {
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, partition, Offset::Offset(at.timestamp_millis()))?;
    let offsets = consumer.offsets_for_times(times, CALL_TIMEOUT)?;
    Ok(offsets.find_partition(topic, partition).and_then(|p| match p.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

/// Both headers, well-formed: `ce_id` alone would settle a replay that was never sent.
fn identify(message: &BorrowedMessage<'_>) -> Option<Found> {
    let headers = message.headers()?;
    let (mut outbox_id, mut event_id) = (None, None);
    for header in headers.iter() {
        let text = || header.value.and_then(|v| std::str::from_utf8(v).ok());
        match header.key {
            "outbox-id" => outbox_id = text().and_then(|t| t.parse().ok()),
            "ce_id" => event_id = text().and_then(|t| Uuid::parse_str(t).ok()),
            _ => {}
        }
    }
    Some(Found {
        outbox_id: outbox_id?,
        event_id: event_id?,
        partition: message.partition(),
        offset: message.offset(),
    })
}
