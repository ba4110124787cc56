//! What is in a topic, as a consumer sees it that knows nothing of the program.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::Value;
use uuid::Uuid;

use super::PATIENCE;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// When it was handed to its producer, in milliseconds since 1970.
    pub created_ms: i64,
    pub key: String,
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Record {
    /// The value as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.value).expect("the value is JSON")
    }

    /// A header that has to be there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    /// The job that the value names.
    pub fn job_id(&self) -> String {
        self.json()["jobId"].as_str().expect("jobId is text").to_owned()
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).expect("UTF-8");
        let headers = message.headers().map(|headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
                .collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            created_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: text(message.key().unwrap_or_default()),
            value: message.payload().unwrap_or_default().to_owned(),
            headers: headers.unwrap_or_default(),
        }
    }
}

/// All records that were in the topic when this was called, by partition and offset. What was aborted, or is
/// still in an open transaction, is not among them.
pub async fn read_topic(bootstrap: &str, topic: &str) -> Vec<Record> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&bootstrap, &topic))
        .await
        .expect("the topic is read")
}

/// The high watermarks of the partitions of a topic, added up.
pub async fn end_of_topic(bootstrap: &str, topic: &str, partitions: i32) -> i64 {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("isolation.level", "read_uncommitted")
            .create()
            .expect("a consumer");
        let end = |partition| {
            consumer
                .fetch_watermarks(&topic, partition, PATIENCE)
                .expect("watermarks")
                .1
        };
        (0..partitions).map(end).sum()
    })
    .await
    .expect("the topic's end")
}

fn read(bootstrap: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let metadata = consumer
        .fetch_metadata(Some(topic), PATIENCE)
        .expect("the topic's metadata");
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    let (mut records, mut ended) = (Vec::new(), HashSet::new());
    // A broker that is gone, or is being elected, is not the end.
    let mut trouble = None;
    let mut news = Instant::now();
    while ended.len() < assignment.count() {
        assert!(
            news.elapsed() < PATIENCE,
            "{topic} was not read to its end, but partitions {ended:?}: {trouble:?}"
        );
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                records.push(Record::of(&message));
                news = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) => trouble = Some(error),
            None => {}
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Publishes a row (its id, `ce_id` and key) as a leader does, under an event id, and records nothing of it.
pub async fn publish(bootstrap: &str, topic: &str, (id, _, key): &(i64, Uuid, Uuid), event_id: Uuid) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    let (outbox_id, event_id, key) = (id.to_string(), event_id.to_string(), key.to_string());
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new()
        .insert(header("outbox-id", &outbox_id))
        .insert(header("ce_id", &event_id));
    let record = FutureRecord::to(topic).key(&key).payload("{}").headers(headers);
    producer.send(record, PATIENCE).await.expect("it is published");
}
