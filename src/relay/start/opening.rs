//! Kafka's part of a start: a producer, what was left open ended, and the tail.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use chrono::{DateTime, Utc};
use tokio::task::JoinError;

use super::hanging::{Ended, Hanging};
use crate::{
    config::Delivery,
    outbox::{installation, position::Ids},
    publish::{
        kafka::Producer,
        reader::ReadError,
        tail::{self, Found, Tail, TailError},
        topic::TopicInspector,
    },
    relay::{Relay, WINDOW_BYTES},
};

/// The tail, and which cluster it came from.
pub(super) struct ReadTail {
    pub tail: Tail,
    pub cluster_id: Option<String>,
}

/// What [`open_kafka`] has to know of the log.
pub(super) struct ToOpen {
    /// The delivery of whoever led before.
    pub left_by: String,
    pub known: installation::Installation,
    pub next_offsets: Vec<i64>,
    pub oldest_unsettled: Option<DateTime<Utc>>,
    pub passed: Ids,
    pub ended: Ended,
}

/// Why Kafka's part of the start did not work.
pub(super) enum NotOpened {
    /// Nobody's fault: it is tried again.
    Outage(String),
    /// Transactions are in the way: it is tried again once they have been ended.
    Hanging(Hanging),
    /// It is tried again, too, and only somebody who mends or accepts it makes it work.
    Halt {
        reason: String,
        /// See [`installation::halt`].
        log_lost: bool,
    },
}

impl From<TailError> for NotOpened {
    fn from(error: TailError) -> Self {
        let reason = error.to_string();
        match error {
            TailError::LogLost(_) => Self::Halt { reason, log_lost: true },
            TailError::Read(_) => Self::Outage(reason),
        }
    }
}

pub(super) type Opened = Result<(Arc<Producer>, ReadTail, Vec<Found>), NotOpened>;

/// Everything of the start that speaks to Kafka.
pub(super) async fn open_kafka(relay: &Relay, what: ToOpen) -> Opened {
    if let (true, Some(halt)) = (what.known.log_lost, what.known.halt()) {
        return Err(NotOpened::Halt {
            reason: halt.reason,
            log_lost: true,
        });
    }
    let inspector = TopicInspector::new(&relay.kafka).map_err(|e| NotOpened::Outage(e.to_string()))?;
    if let Ok(Some(limit)) = inspector.record_limit().await {
        relay.limit.set_of_topic(limit);
    }
    let (kafka, window, limit) = (relay.kafka.clone(), relay.window(), relay.limit.get());
    let ours = relay.options.delivery;
    let guard = Cancel(Arc::new(AtomicBool::new(false)));
    let cancelled = Arc::clone(&guard.0);
    tokio::task::spawn_blocking(move || {
        let transactional_ids = what.known.transactional_ids(&kafka.topic);
        let open = |transactional_ids: Option<&[String; 2]>| {
            Producer::new(&kafka, window, WINDOW_BYTES, limit, transactional_ids)
                .map_err(|e| NotOpened::Outage(e.to_string()))
        };
        let transactional = ours == Delivery::ExactlyOnce;
        let producer = open(transactional.then_some(&transactional_ids))?;
        failpoint!("relay.start.producer", NotOpened::Outage("a failpoint".to_owned()));
        producer
            .warm_up()
            .map_err(|e| NotOpened::Outage(detailed(&producer, &e)))?;
        let cluster_id = inspector.cluster_id();
        what.known
            .check(&kafka.topic, cluster_id.as_deref())
            .map_err(|e| NotOpened::Halt {
                reason: e.to_string(),
                log_lost: false,
            })?;
        // Before the tail is read: what is open is not in it, and may be committed until it is ended here.
        let end_what_is_open = |producer: &Producer| {
            producer
                .take_over_transactions(&cancelled)
                .map_err(|e| NotOpened::Outage(format!("transactions cannot be used: {}", detailed(producer, &e))))
        };
        let only_to_end = (!transactional && what.left_by == Delivery::ExactlyOnce.as_str())
            .then(|| open(Some(&transactional_ids)))
            .transpose()?;
        let ends_transactions = only_to_end.as_ref().or(transactional.then_some(&producer));
        if let Some(producer) = ends_transactions {
            failpoint!(
                "relay.start.transactions.before",
                NotOpened::Outage("a failpoint".to_owned())
            );
            end_what_is_open(producer)?;
            failpoint!(
                "relay.start.transactions.after",
                NotOpened::Outage("a failpoint".to_owned())
            );
        }
        failpoint!("relay.start.tail.before", NotOpened::Outage("a failpoint".to_owned()));
        // The offsets of a log that nobody has seen yet, or that an operator has accepted, are not known.
        let next_offsets = match what.known.topic {
            Some(_) => &what.next_offsets[..],
            None => &[],
        };
        // One record for each id: the first appearance is the receipt.
        let mut found = HashMap::new();
        let read = tail::read_tail(&kafka, next_offsets, what.oldest_unsettled, &cancelled, |f| {
            if !what.passed.contains(&f.outbox_id) {
                found.entry((f.outbox_id, f.event_id)).or_insert(f);
            }
        });
        if let (Err(TailError::Read(ReadError::Undecided(open))), Some(_)) = (&read, ends_transactions) {
            let open = what.ended.not_yet(open, Instant::now());
            if !open.is_empty() {
                return Err(NotOpened::Hanging(Hanging {
                    open,
                    producer: Box::new(only_to_end.unwrap_or(producer)),
                }));
            }
        }
        let tail = read?;
        Ok((
            Arc::new(producer),
            ReadTail { tail, cluster_id },
            found.into_values().collect(),
        ))
    })
    .await
    .unwrap_or_else(|e: JoinError| Err(NotOpened::Outage(e.to_string())))
}

/// With what the client complains of: the cause is only in what it says beside a call.
pub(super) fn detailed(producer: &Producer, error: &dyn std::fmt::Display) -> String {
    let detail = producer.reports().complaints().newest();
    detail.map_or_else(|| error.to_string(), |d| format!("{error}: {d}"))
}

/// Tells the blocking part to end when the future is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
