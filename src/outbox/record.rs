//! What a message is on the wire: its headers, and its size as the broker counts it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

/// `ce_type` of all our messages.
pub const EVENT_TYPE: &str = "image-job.requested.v1";
/// `ce_source` of all our messages.
const EVENT_SOURCE: &str = "/image-job-dispatcher";

/// What is to be published: one row of `outbox_messages`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutboxMessage {
    /// The row's id: the order of publishing.
    pub id: i64,
    /// `ce_id`.
    pub event_id: Uuid,
    /// The job's id; `ce_subject`.
    pub job_id: Uuid,
    /// The event draft's id; its text is the Kafka key.
    pub key: Uuid,
    /// `ce_time`.
    pub event_time: DateTime<Utc>,
    /// When the row was written.
    pub created_at: DateTime<Utc>,
    /// The replay that wrote the row.
    pub replay_id: Option<Uuid>,
    /// `traceparent`.
    pub traceparent: Option<String>,
    /// The exact bytes of the Kafka value.
    pub payload: Vec<u8>,
}

/// Calls `f` with each header's name and value, in the order in which they are sent: CloudEvents 1.0 in
/// binary mode, then ours.
pub fn for_each_header(m: &OutboxMessage, mut f: impl FnMut(&'static str, &str)) {
    let mut buffer = Uuid::encode_buffer();
    f("ce_specversion", "1.0");
    f("ce_id", m.event_id.hyphenated().encode_lower(&mut buffer));
    f("ce_source", EVENT_SOURCE);
    f("ce_type", EVENT_TYPE);
    f("ce_time", &m.event_time.to_rfc3339_opts(SecondsFormat::Micros, true));
    f("ce_subject", m.job_id.hyphenated().encode_lower(&mut buffer));
    f("content-type", "application/json");
    f("outbox-id", &m.id.to_string());
    if let Some(replay_id) = m.replay_id {
        f("replay-id", replay_id.hyphenated().encode_lower(&mut buffer));
    }
    if let Some(traceparent) = &m.traceparent {
        f("traceparent", traceparent);
    }
}

/// Bytes of a record batch's head, in front of its records (KIP-98, `RecordBatch`).
const BATCH_OVERHEAD: usize = 61;

/// The size of a batch that carries this record alone, uncompressed: what the broker compares with the
/// topic's `max.message.bytes`.
///
/// While accepting, the id is not known yet: give [`i64::MAX`], whose text is the longest, and any replay's id, for a
/// replay of the message must be taken as well.
pub fn batch_size(m: &OutboxMessage) -> usize {
    let mut headers = 0;
    let mut count = 0;
    for_each_header(m, |name, value| {
        count += 1;
        headers += varint_len(name.len()) + name.len() + varint_len(value.len()) + value.len();
    });
    let key = uuid::fmt::Hyphenated::LENGTH;
    // Attributes, time stamp delta and offset delta are one byte each in a batch of one.
    let record =
        3 + varint_len(key) + key + varint_len(m.payload.len()) + m.payload.len() + varint_len(count) + headers;
    BATCH_OVERHEAD + varint_len(record) + record
}

/// What a record's batch has beside payload and `traceparent`, at most.
const ENVELOPE_AT_MOST: usize = 512;

/// Is [`batch_size`] above `limit`? Headers are formatted to be counted only where they can matter.
pub fn exceeds(m: &OutboxMessage, limit: usize) -> bool {
    let at_most = m.payload.len() + m.traceparent.as_ref().map_or(0, String::len) + ENVELOPE_AT_MOST;
    at_most > limit && batch_size(m) > limit
}

/// The length of a non-negative number as a zigzag varint.
fn varint_len(n: usize) -> usize {
    let bits = usize::BITS - (n << 1).leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

/// The largest [`batch_size`] that the topic takes: the smaller of its own limit and the producer's. The
/// relay reads it from the broker when it starts and now and then; the intake refuses what is above it.
#[derive(Debug, Clone)]
pub struct RecordLimit {
    own: usize,
    /// [`usize::MAX`]: not known.
    topic: Arc<AtomicUsize>,
}

impl RecordLimit {
    /// Starts from the producer's limit, `kafka.max_message_bytes`, alone.
    pub fn new(own: usize) -> Self {
        Self {
            own,
            topic: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// In bytes.
    pub fn get(&self) -> usize {
        self.own.min(self.topic.load(Ordering::Relaxed))
    }

    /// What the broker said of the topic; none: not known yet.
    pub fn of_topic(&self) -> Option<usize> {
        Some(self.topic.load(Ordering::Relaxed)).filter(|bytes| *bytes != usize::MAX)
    }

    /// The broker has said so, now or to whoever recorded it.
    pub fn set_of_topic(&self, bytes: usize) {
        self.topic.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_has_beside_its_payload_is_never_more_than_is_reckoned_with() {
        let message = OutboxMessage {
            id: i64::MAX,
            event_id: Uuid::max(),
            job_id: Uuid::max(),
            key: Uuid::max(),
            event_time: DateTime::<Utc>::MAX_UTC,
            created_at: DateTime::<Utc>::MAX_UTC,
            replay_id: Some(Uuid::max()),
            traceparent: Some("0".repeat(4096)),
            payload: vec![0; 10 << 20],
        };
        let size = batch_size(&message);
        assert!(size <= message.payload.len() + 4096 + ENVELOPE_AT_MOST, "{size}");
        assert!(exceeds(&message, size - 1) && !exceeds(&message, size));
    }

    #[test]
    fn the_document_for_consumers_names_these_headers_and_no_others() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("../../docs/asyncapi.json")).expect("the document is JSON");
        let documented = document["components"]["messages"]["ImageJob"]["headers"]["properties"]
            .as_object()
            .expect("headers");
        let message = OutboxMessage {
            id: 7,
            event_id: Uuid::nil(),
            job_id: Uuid::nil(),
            key: Uuid::nil(),
            event_time: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
            replay_id: Some(Uuid::nil()),
            traceparent: Some("00".to_owned()),
            payload: Vec::new(),
        };
        let mut sent = std::collections::BTreeSet::new();
        for_each_header(&message, |name, value| {
            sent.insert(name);
            if let Some(constant) = documented[name].get("const") {
                assert_eq!(constant, value, "{name}");
            }
        });
        assert!(
            sent.iter().copied().eq(documented.keys().map(String::as_str)),
            "{sent:?}"
        );
    }
}
