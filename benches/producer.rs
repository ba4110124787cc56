//! rdkafka as the baselines use it: the service's settings, its headers, its bytes, and no service around them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use image_job_dispatcher::outbox::record::{OutboxMessage, for_each_header};
use rdkafka::{
    ClientContext,
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::sync::Notify;

use crate::stack::Stack;

/// Records that are waited for together.
#[derive(Debug, Default)]
pub struct Batch {
    left: AtomicUsize,
    failed: AtomicBool,
    done: Notify,
}

impl Batch {
    pub fn of(records: usize) -> Arc<Self> {
        let batch = Self::default();
        batch.left.store(records, Ordering::Relaxed);
        Arc::new(batch)
    }

    /// Waits until every record is acknowledged.
    pub async fn done(&self) -> Result<()> {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
        if self.failed.load(Ordering::Relaxed) {
            bail!("Kafka refused a record");
        }
        Ok(())
    }
}

struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        eprintln!("kafka producer: {error}: {reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        if result.is_err() {
            batch.failed.store(true, Ordering::Relaxed);
        }
        if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            batch.done.notify_one();
        }
    }
}

/// An idempotent producer with `acks=all`, set as `publish::kafka` sets the service's.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ThreadedProducer<Context>>,
    topic: String,
}

impl Producer {
    /// Warmed up: it knows the topic.
    pub fn new(stack: &Stack, topic: &str) -> Result<Self> {
        let mut config = stack.kafka_client();
        for (key, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("max.in.flight.requests.per.connection", "5"),
            ("message.timeout.ms", "0"),
            ("partitioner", "murmur2_random"),
            // As the service has it.
            ("linger.ms", "0"),
            // Three times the service's: nothing but librdkafka itself is to bound the ceiling.
            ("queue.buffering.max.messages", "100000"),
        ] {
            config.set(key, value);
        }
        let inner: ThreadedProducer<Context> =
            rdkafka::config::FromClientConfigAndContext::from_config_and_context(&config, Context)?;
        inner.client().fetch_metadata(Some(topic), Duration::from_secs(10))?;
        Ok(Self {
            inner: Arc::new(inner),
            topic: topic.to_owned(),
        })
    }

    /// Hands over a record that lies ready; when librdkafka's queue is full, waits for room. Blocks for moments.
    pub fn send_prepared(&self, record: &Prepared, batch: &Arc<Batch>) -> Result<()> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        self.hand_over(&record.key, &record.payload, headers, batch)
    }

    /// The same from a row, as the service does it: headers are formatted into librdkafka's memory.
    pub fn send(&self, message: &OutboxMessage, batch: &Arc<Batch>) -> Result<()> {
        let mut headers = Some(OwnedHeaders::new_with_capacity(10));
        for_each_header(message, |key, value| {
            headers = headers.take().map(|headers| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        });
        let mut key = uuid::Uuid::encode_buffer();
        let key = message.key.hyphenated().encode_lower(&mut key);
        self.hand_over(key, &message.payload, headers.unwrap_or_default(), batch)
    }

    fn hand_over(&self, key: &str, payload: &[u8], headers: OwnedHeaders, batch: &Arc<Batch>) -> Result<()> {
        let mut sent = BaseRecord::with_opaque_to(&self.topic, batch.clone())
            .key(key)
            .payload(payload)
            .headers(headers);
        loop {
            match self.inner.send(sent) {
                Ok(()) => return Ok(()),
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    sent = back;
                    std::thread::sleep(Duration::from_micros(500));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}

/// A record with every byte ready.
pub struct Prepared {
    key: String,
    headers: Vec<(&'static str, String)>,
    payload: Vec<u8>,
}

impl Prepared {
    pub fn new(message: OutboxMessage) -> Self {
        let mut headers = Vec::new();
        for_each_header(&message, |name, value| headers.push((name, value.to_owned())));
        Self {
            key: message.key.hyphenated().to_string(),
            headers,
            payload: message.payload,
        }
    }
}
