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

/// Records that librdkafka takes before it says that it is full: as many as the service lets it have.
pub const SERVICES_QUEUE: usize = 32_768;
/// As few as keep it going. More lie in memory that the processors' caches do not hold: with [`SERVICES_QUEUE`] a record costs
/// it twice as much, when whoever hands over is as fast as one who has every record ready.
pub const SMALL_QUEUE: usize = 2_000;

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

    fn delivered(&self, result: &DeliveryResult<'_>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
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
        batch.delivered(result);
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
        Ok(Self {
            inner: Arc::new(producer(stack, topic, SERVICES_QUEUE, Context)?),
            topic: topic.to_owned(),
        })
    }

    /// Hands over a row's record, as the service does it: headers are formatted into librdkafka's memory.
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
        let record = BaseRecord::with_opaque_to(&self.topic, batch.clone())
            .key(key as &str)
            .payload(message.payload.as_slice())
            .headers(headers.unwrap_or_default());
        hand_over(&self.inner, record)
    }
}

/// The same producer with nothing around it: it counts what is acknowledged, and that is all.
pub struct Alone {
    inner: ThreadedProducer<Counting>,
    topic: String,
    all: Arc<Batch>,
}

impl Alone {
    /// For so many records, of which it queues `queued` at most. Warmed up.
    pub fn new(stack: &Stack, topic: &str, records: usize, queued: usize) -> Result<Self> {
        let all = Batch::of(records);
        Ok(Self {
            inner: producer(stack, topic, queued, Counting(all.clone()))?,
            topic: topic.to_owned(),
            all,
        })
    }

    /// Hands over a record that lies ready.
    pub fn send(&self, record: &Prepared) -> Result<()> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let record = BaseRecord::to(&self.topic)
            .key(record.key.as_str())
            .payload(record.payload.as_slice())
            .headers(headers);
        hand_over(&self.inner, record)
    }

    /// Waits until every record is acknowledged.
    pub async fn done(&self) -> Result<()> {
        self.all.done().await
    }
}

struct Counting(Arc<Batch>);

impl ClientContext for Counting {
    fn error(&self, error: KafkaError, reason: &str) {
        Context.error(error, reason);
    }
}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.delivered(result);
    }
}

fn producer<C: ProducerContext + 'static>(
    stack: &Stack,
    topic: &str,
    queued: usize,
    context: C,
) -> Result<ThreadedProducer<C>> {
    let mut config = stack.kafka_client();
    for (key, value) in [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("max.in.flight.requests.per.connection", "5"),
        ("message.timeout.ms", "0"),
        ("partitioner", "murmur2_random"),
        // As the service has it.
        ("linger.ms", "0"),
        ("queue.buffering.max.messages", &queued.to_string()),
    ] {
        config.set(key, value);
    }
    let producer: ThreadedProducer<C> =
        rdkafka::config::FromClientConfigAndContext::from_config_and_context(&config, context)?;
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(10))?;
    Ok(producer)
}

/// When librdkafka's queue is full, waits for room. Blocks for moments.
fn hand_over<C: ProducerContext + 'static>(
    producer: &ThreadedProducer<C>,
    mut record: BaseRecord<'_, str, [u8], C::DeliveryOpaque>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                record = back;
                std::thread::sleep(Duration::from_micros(500));
            }
            Err((error, _)) => return Err(error.into()),
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
