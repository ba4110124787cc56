//! Reading the topic itself, from one offset to another: for the tail of a start, and for an audit.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
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
/// A log of which nothing arrives for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks whether a transaction has been ended.
const DECIDED_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at whether the caller has given up.
const POLL: Duration = Duration::from_millis(100);

/// Why the topic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The brokers' answer, or that there was none.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Nothing arrived for a long time.
    #[error("nothing of the topic arrived within {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    /// Transactions, ours or somebody else's, stay open, one of each of these partitions.
    #[error("{}: `kafka-transactions.sh find-hanging` names it", list(.0))]
    Undecided(Vec<OpenTransaction>),
    /// The topic has no partitions, as far as the broker knows.
    #[error("the topic {0:?} does not exist: create it, with the partitions that you need")]
    NoTopic(String),
    /// The caller gave up.
    #[error("given up")]
    Cancelled,
}

/// The first transaction of a partition that stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Of the topic.
    pub partition: i32,
    /// Where it begins.
    pub stable: i64,
    /// The high watermark.
    pub high: i64,
}

fn list(open: &[OpenTransaction]) -> String {
    let each = open.iter().map(
        |OpenTransaction {
             partition,
             stable,
             high,
         }| {
            format!("partition {partition} has an open transaction at offset {stable}, before its end at {high}")
        },
    );
    each.collect::<Vec<_>>().join("; ")
}

/// What a reader of the topic sets, whichever it is.
pub(super) fn reading_config(kafka: &config::Kafka) -> ClientConfig {
    let mut c = base_config(kafka);
    c.set("group.id", "image-job-dispatcher-reader") // librdkafka asks for one; it is never joined
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    c
}

/// That a partition is read to its end is news for us, and not for the log.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "reader of the topic");
    }
}

impl ConsumerContext for Quiet {}

/// What is retained of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// The log begins here.
    pub low: i64,
    /// The high watermark: what was acknowledged lies below it.
    pub high: i64,
}

/// A part of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Of the topic.
    pub partition: i32,
    /// The first offset.
    pub begin: i64,
    /// The first offset that does not belong to it.
    pub end: i64,
    /// The partition is known to reach to here: that it ends earlier is not believed.
    pub reaches: i64,
}

/// Reads committed records of the topic, without a group. All calls block; `cancel` ends them.
pub struct TopicReader<'a> {
    committed: BaseConsumer<Quiet>,
    of_the_log: BaseConsumer<Quiet>,
    topic: &'a str,
    cancel: &'a AtomicBool,
}

impl<'a> TopicReader<'a> {
    /// # Errors
    /// When a setting in `kafka.properties` is refused by librdkafka.
    pub fn new(kafka: &'a config::Kafka, cancel: &'a AtomicBool) -> Result<Self, ReadError> {
        let mut c = reading_config(kafka);
        c.set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "10")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "16384")
            // What is queued is read in less than the second that librdkafka would let pass before it asks for more.
            .set("fetch.queue.backoff.ms", "10");
        let committed = BaseConsumer::from_config_and_context(&c, Quiet)?;
        c.set("isolation.level", "read_uncommitted");
        Ok(Self {
            committed,
            of_the_log: BaseConsumer::from_config_and_context(&c, Quiet)?,
            topic: &kafka.topic,
            cancel,
        })
    }

    /// How many partitions the topic has.
    fn count_partitions(&self) -> Result<i32, ReadError> {
        let metadata = self.committed.fetch_metadata(Some(self.topic), CALL_TIMEOUT)?;
        match metadata.topics().first().map_or(0, |t| t.partitions().len()) {
            0 => Err(ReadError::NoTopic(self.topic.to_owned())),
            count => Ok(count as i32),
        }
    }

    /// What of each partition is retained, once no transaction in any is open any more, which is waited for. A reader of committed records
    /// ends in front of the first that is, and says that this is the end: what lies behind it would be missed,
    /// committed or not (<https://issues.apache.org/jira/browse/KAFKA-10167>).
    pub fn retained(&self, decided_within: Duration) -> Result<Vec<Retained>, ReadError> {
        let retained = (0..self.count_partitions()?)
            .map(|partition| {
                let (low, high) = self.of_the_log.fetch_watermarks(self.topic, partition, CALL_TIMEOUT)?;
                Ok(Retained { low, high })
            })
            .collect::<Result<Vec<_>, KafkaError>>()?;
        let give_up = Instant::now() + decided_within;
        loop {
            self.go_on()?;
            let mut open = Vec::new();
            for (partition, Retained { high, .. }) in (0..).zip(&retained) {
                // For such a reader, the broker answers with the last stable offset.
                let (_, stable) = self.committed.fetch_watermarks(self.topic, partition, CALL_TIMEOUT)?;
                if stable < *high {
                    open.push(OpenTransaction {
                        partition,
                        stable,
                        high: *high,
                    });
                }
            }
            if open.is_empty() {
                return Ok(retained);
            }
            if Instant::now() >= give_up {
                return Err(ReadError::Undecided(open));
            }
            std::thread::sleep(DECIDED_LOOK_EVERY);
        }
    }

    /// The first offset whose record is not older than `at`; none: all that are retained are older.
    ///
    /// # Errors
    /// Also when only this partition could not be asked about: an answer without an offset reads like none.
    pub fn offset_at(&self, partition: i32, at: DateTime<Utc>) -> Result<Option<i64>, ReadError> {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(self.topic, partition, Offset::Offset(at.timestamp_millis()))?;
        let offsets = self.committed.offsets_for_times(times, CALL_TIMEOUT)?;
        let Some(found) = offsets.find_partition(self.topic, partition) else {
            return Ok(None);
        };
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    }

    /// Reads all spans, each at most to the end of its partition, and calls `each` for every record until it breaks.
    /// Records of one partition come in the order of their offsets. Spans of one partition, and empty ones, are the
    /// caller's mistake.
    pub fn read(
        &self,
        spans: &[Span],
        mut each: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut assignment = TopicPartitionList::new();
        for span in spans {
            assignment.add_partition_offset(self.topic, span.partition, Offset::Offset(span.begin))?;
        }
        self.committed.assign(&assignment)?;
        let mut open: Vec<(i32, i64)> = spans.iter().map(|s| (s.partition, s.end)).collect();
        let mut last_news = Instant::now();
        while !open.is_empty() {
            self.go_on()?;
            match self.committed.poll(POLL) {
                None if last_news.elapsed() > STALL_TIMEOUT => return Err(ReadError::Stalled),
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    // A replica that was just made leader may end before what its predecessor had shown: it knows how
                    // far the others are only once they have asked it. What is missing arrives, or the stall decides.
                    let span = spans.iter().find(|span| span.partition == partition);
                    if span.is_none_or(|span| self.position(partition).is_ok_and(|at| at >= span.reaches)) {
                        self.close(&mut open, partition)?;
                    } else {
                        continue;
                    }
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
                    let partition = message.partition();
                    // None: what was fetched before the partition was closed.
                    if let Some((_, end)) = open.iter().find(|(open, _)| *open == partition) {
                        let (inside, last) = (message.offset() < *end, message.offset() + 1 >= *end);
                        if inside && each(&message).is_break() {
                            return Ok(());
                        }
                        if last {
                            self.close(&mut open, partition)?;
                        }
                    }
                }
            }
            last_news = Instant::now();
        }
        Ok(())
    }

    /// The offset behind all that was read of a partition, markers of transactions included; 0 when nothing was.
    fn position(&self, partition: i32) -> Result<i64, KafkaError> {
        let positions = self.committed.position()?;
        let found = positions.find_partition(self.topic, partition);
        Ok(found.map_or(0, |p| match p.offset() {
            Offset::Offset(offset) => offset,
            _ => 0,
        }))
    }

    /// A partition is read to its end once: what is appended later belongs to nobody's question.
    fn close(&self, open: &mut Vec<(i32, i64)>, partition: i32) -> Result<(), ReadError> {
        if let Some(at) = open.iter().position(|(open, _)| *open == partition) {
            open.swap_remove(at);
            let mut done = TopicPartitionList::new();
            done.add_partition(self.topic, partition);
            self.committed.pause(&done)?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), ReadError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ReadError::Cancelled);
        }
        Ok(())
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

/// The headers `outbox-id` and `ce_id`; none: missing or malformed.
pub fn identify(message: &impl Message) -> (Option<i64>, Option<Uuid>) {
    let (mut outbox_id, mut event_id) = (None, None);
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        let text = || header.value.and_then(|v| std::str::from_utf8(v).ok());
        match header.key {
            "outbox-id" => outbox_id = text().and_then(|t| t.parse().ok()),
            "ce_id" => event_id = text().and_then(|t| Uuid::parse_str(t).ok()),
            _ => {}
        }
    }
    (outbox_id, event_id)
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    #[test]
    fn a_partition_that_could_not_be_asked_about_is_not_one_without_younger_records() {
        let cluster = MockCluster::new(1).expect("a cluster");
        let mut kafka = config::Config::load(&config::Sources::default())
            .expect("defaults")
            .kafka;
        kafka.brokers = cluster.bootstrap_servers();
        cluster.create_topic(&kafka.topic, 1, 1).expect("a topic");
        let go_on = AtomicBool::new(false);
        let reader = TopicReader::new(&kafka, &go_on).expect("a reader");
        assert_eq!(
            reader.offset_at(0, Utc::now()).expect("an answer"),
            None,
            "nothing is in it"
        );
        cluster.request_errors(
            RDKafkaApiKey::ListOffsets,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
        );
        let refused = reader.offset_at(0, Utc::now());
        assert!(refused.is_err(), "{refused:?}");
    }
}
