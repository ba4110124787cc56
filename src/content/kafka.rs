//! The worker's two clients: a member of the consumer group, and a producer that does not give up.

use std::{collections::BTreeMap, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::{Header, OwnedHeaders, OwnedMessage},
    producer::{FutureProducer, FutureRecord, Producer as _},
    types::RDKafkaErrorCode,
    util::Timeout,
};

use crate::messages::ImageJobResult;

/// Where Kafka is, and what the worker is in it.
#[derive(Debug, Clone)]
pub struct Names {
    /// Bootstrap servers, `host:port` separated by commas.
    pub brokers: String,
    /// What is consumed.
    pub topic: String,
    /// Where the answers go.
    pub result_topic: String,
    /// Where unreadable records go.
    pub dead_letter_topic: String,
    /// The consumer group.
    pub group: String,
    /// `group.instance.id`: the same after a restart, and different in each worker of the group.
    pub instance: String,
    /// More settings of librdkafka, such as TLS and SASL.
    pub properties: BTreeMap<String, String>,
}

impl Names {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "content-worker")
            .set("enable.metrics.push", "false");
        config.set("reconnect.backoff.max.ms", "2000");
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// A member of the group, subscribed. Its offsets are stored and committed by the caller alone.
    pub fn consumer(&self) -> KafkaResult<StreamConsumer> {
        let consumer: StreamConsumer = self
            .client()
            .set("group.id", &self.group)
            // A restarted worker takes up its partitions again, and nobody else stops for it.
            .set("group.instance.id", &self.instance)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", "15000")
            // Nothing is polled while all places are taken, as in an outage of the disk.
            .set("max.poll.interval.ms", "1800000")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "4096")
            .create()?;
        consumer.subscribe(&[&self.topic])?;
        Ok(consumer)
    }
}

/// Sends answers and dead letters. A send ends when Kafka has the record, however long that takes; dropping
/// the future gives up waiting.
pub struct Sender {
    config: ClientConfig,
    producer: Mutex<FutureProducer>,
    names: Names,
}

impl Sender {
    /// Fails only on settings that librdkafka refuses.
    pub fn new(names: Names) -> KafkaResult<Self> {
        let mut config = names.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "5")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "5")
            .set("compression.type", "zstd");
        Ok(Self {
            producer: Mutex::new(config.create()?),
            config,
            names,
        })
    }

    /// Sends an answer; its key is the job, so the answers of one job stay in order.
    pub async fn answer(&self, result: &ImageJobResult) {
        let value = serde_json::to_vec(result).expect("an answer always serialises");
        let headers = OwnedHeaders::new().insert(Header {
            key: "content-type",
            value: Some("application/json"),
        });
        let (topic, key) = (&self.names.result_topic, result.job_id.to_string());
        // Of an answer nothing is too large: its texts are short.
        self.send(topic, Some(key.as_bytes()), Some(&value), headers).await;
    }

    /// Puts a record aside, with its own headers and with where it was and what is wrong with it. One that
    /// is too large with these loses its value, which stays where it was.
    pub async fn put_aside(&self, record: &OwnedMessage, why: &str) {
        let mut headers = record.headers().cloned().unwrap_or_default();
        let (partition, offset) = (record.partition().to_string(), record.offset().to_string());
        let origin = [
            ("dead-letter-topic", record.topic()),
            ("dead-letter-partition", &partition),
            ("dead-letter-offset", &offset),
            ("dead-letter-error", why),
        ];
        for (key, value) in origin {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let topic = &self.names.dead_letter_topic;
        if !self.send(topic, record.key(), record.payload(), headers.clone()).await {
            let headers = headers.insert(Header {
                key: "dead-letter-value",
                value: Some("too large, left out"),
            });
            self.send(topic, record.key(), None, headers).await;
        }
    }

    /// False: the record is too large for the topic.
    async fn send(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, headers: OwnedHeaders) -> bool {
        let mut pauses = pauses();
        loop {
            let producer = self.producer.lock().clone();
            let record = FutureRecord {
                topic,
                partition: None,
                payload: value,
                key,
                timestamp: None,
                headers: Some(headers.clone()),
            };
            let error = match producer.send(record, Timeout::Never).await {
                Ok(_) => return true,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => return false,
                Err((error, _)) => error,
            };
            tracing::warn!(%error, topic, "kafka did not take a record; it is sent again");
            if producer.client().fatal_error().is_some() {
                self.replace_dead_producer();
            }
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// After a fatal error a producer refuses everything for ever.
    fn replace_dead_producer(&self) {
        let mut current = self.producer.lock();
        if current.client().fatal_error().is_some() {
            match self.config.create() {
                Ok(producer) => *current = producer,
                Err(error) => tracing::error!(%error, "no new producer can be made"),
            }
        }
    }
}

/// Between tries of what an outage stops.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses that grow from a fifth of a second to [`LONGEST_PAUSE`], with jitter, for ever.
pub fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}
