//! Reading the topic's tail: what did an earlier leader publish that no checkpoint records?

use std::{ops::ControlFlow, sync::atomic::AtomicBool, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::Message;
use uuid::Uuid;

use super::reader::{ReadError, Span, TopicReader, identify};
use crate::{
    config,
    outbox::installation::{LogLost, check_log},
};

/// Where no offset is known, the tail begins so long before the oldest unsettled row was written: clocks
/// of broker and database differ.
pub const CLOCK_ALLOWANCE: TimeDelta = TimeDelta::hours(1);

/// For open transactions to be ended. Ours have been; what a coordinator still has to write, and what a replica that has
/// just been made leader has to learn, takes less.
const DECIDED_WITHIN: Duration = Duration::from_secs(3);

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
    /// The topic cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A partition has lost what it acknowledged.
    #[error(transparent)]
    LogLost(#[from] LogLost),
}

/// Reads each partition from `next_offsets` to its end as it is at the call, read-committed, and calls `found` for
/// every record that carries both our headers: `ce_id` alone would settle a replay that was never sent. Where no
/// offset is given, or the log begins above it (retention), begins an hour before `oldest_unsettled`; without that at
/// the end. A log that ends below a given offset has lost what it acknowledged, and is not read. Blocks; `cancel` ends
/// it.
pub fn read_tail(
    kafka: &config::Kafka,
    next_offsets: &[i64],
    oldest_unsettled: Option<DateTime<Utc>>,
    cancel: &AtomicBool,
    mut found: impl FnMut(Found),
) -> Result<Tail, TailError> {
    let reader = TopicReader::new(kafka, cancel)?;
    let mut tail = Tail::default();
    let mut spans = Vec::new();
    let partitions = reader.retained(DECIDED_WITHIN)?;
    let ends: Vec<i64> = partitions.iter().map(|retained| retained.high).collect();
    check_log(next_offsets, &ends)?;
    for (partition, retained) in (0_i32..).zip(partitions) {
        let known = next_offsets
            .get(partition as usize)
            .copied()
            .filter(|next| *next >= retained.low);
        let begin = match (known, oldest_unsettled) {
            (Some(offset), _) => offset,
            (None, None) => retained.high,
            (None, Some(oldest)) => reader
                .offset_at(partition, oldest - CLOCK_ALLOWANCE)?
                .map_or(retained.high, |o| o.max(retained.low)),
        };
        tail.next_offsets.push(begin);
        if begin < retained.high {
            spans.push(Span {
                partition,
                begin,
                // Whatever a zombie appends meanwhile is welcome.
                end: i64::MAX,
                reaches: retained.high,
            });
        }
    }
    reader.read(&spans, |message| {
        tail.next_offsets[message.partition() as usize] = message.offset() + 1;
        tail.read += 1;
        if let (Some(outbox_id), Some(event_id)) = identify(message) {
            found(Found {
                outbox_id,
                event_id,
                partition: message.partition(),
                offset: message.offset(),
            });
        }
        ControlFlow::Continue(())
    })?;
    Ok(tail)
}
