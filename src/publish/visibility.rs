//! What readers of committed records can see.
//!
//! A coordinator's answer to a commit does not say that. It writes the markers afterwards, and it skips a partition that
//! has no leader at that moment, as every partition of a broker that is being stopped, for "likely deleted"
//! (`TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue` of Kafka 4.4.0): the transaction is complete, in that
//! partition it stays open, and the next one that is aborted takes its records with it. Seen: a commit answered, and
//! records of one of its partitions lost.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::reader::{Quiet, reading_config};
use crate::config;

/// For markers to be written, wherever partitions have leaders.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(5);
/// For one answer of the brokers.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Before a look, from the first to the second, doubling: markers are written once the commit has been answered.
const LOOK_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Readers of committed records do not get to the end of what is said to be committed.
#[derive(Debug, thiserror::Error)]
#[error("Kafka says that it was, but readers do not get past offset {offset} of partition {partition}: {seen}")]
pub struct NotVisible {
    partition: i32,
    offset: i64,
    /// What was seen last.
    seen: String,
}

/// Asks for each partition's last stable offset.
pub struct Visibility {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

impl Visibility {
    /// # Errors
    /// When a setting in `kafka.properties` is refused by librdkafka.
    pub fn new(kafka: &config::Kafka) -> Result<Self, KafkaError> {
        let mut c = reading_config(kafka);
        // For such a reader, the broker answers with the last stable offset.
        c.set("isolation.level", "read_committed")
            .set("statistics.interval.ms", "0");
        Ok(Self {
            consumer: BaseConsumer::from_config_and_context(&c, Quiet)?,
            topic: kafka.topic.clone(),
        })
    }

    /// Waits until readers of committed records get past these offsets, by partition. Blocks for at most
    /// [`VISIBLE_TIMEOUT`] and two calls of a second each.
    pub fn wait_for(&self, last: &BTreeMap<i32, i64>) -> Result<(), NotVisible> {
        if let Some((&partition, &offset)) = last.iter().find(|(_, offset)| **offset < 0) {
            let seen = "acknowledged as a repetition, without a place".to_owned();
            return Err(NotVisible {
                partition,
                offset,
                seen,
            });
        }
        let give_up = Instant::now() + VISIBLE_TIMEOUT;
        let mut pause = LOOK_AFTER.0;
        loop {
            self.pause(pause);
            pause = (pause * 2).min(LOOK_AFTER.1);
            let stable = self.stable(last.keys());
            if !stable.as_ref().is_ok_and(|stable| stable.len() == last.len()) {
                // A client without a subscription keeps a leader that is gone in mind for a quarter of an hour.
                let _ = self.consumer.fetch_metadata(Some(&self.topic), CALL_TIMEOUT);
            }
            match find_hidden(last, stable.as_ref()) {
                None => return Ok(()),
                Some(hidden) if Instant::now() >= give_up => return Err(hidden),
                Some(_) => {}
            }
        }
    }

    /// What the client has to say meanwhile is taken, and dropped: nobody else does, and it would pile up.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let _ = self.consumer.poll(left);
        }
    }

    /// The last stable offset of these partitions, where a broker says it.
    fn stable<'a>(&self, partitions: impl Iterator<Item = &'a i32>) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let mut ends = TopicPartitionList::new();
        for partition in partitions {
            ends.add_partition_offset(&self.topic, *partition, Offset::End)?;
        }
        let found = self.consumer.offsets_for_times(ends, CALL_TIMEOUT)?;
        let known = found
            .elements()
            .into_iter()
            .filter_map(|p| match (p.error(), p.offset()) {
                (Ok(()), Offset::Offset(offset)) => Some((p.partition(), offset)),
                _ => None,
            });
        Ok(known.collect())
    }
}

/// A partition whose readers do not get past its offset: they stand in front of it, or nobody says where.
fn find_hidden(last: &BTreeMap<i32, i64>, stable: Result<&BTreeMap<i32, i64>, &KafkaError>) -> Option<NotVisible> {
    last.iter().find_map(|(&partition, &offset)| {
        let seen = match stable {
            Err(error) => error.to_string(),
            Ok(stable) => match stable.get(&partition) {
                Some(stable) if *stable > offset => return None,
                Some(stable) => format!("they stand at {stable}"),
                None => "no broker says where they stand".to_owned(),
            },
        };
        Some(NotVisible {
            partition,
            offset,
            seen,
        })
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    fn hidden(last: &[(i32, i64)], stable: &[(i32, i64)]) -> Option<String> {
        let [last, stable] = [last, stable].map(|offsets| offsets.iter().copied().collect());
        find_hidden(&last, Ok(&stable)).map(|hidden| hidden.to_string())
    }

    #[test]
    fn readers_have_seen_a_record_only_when_they_stand_behind_it() {
        assert_eq!(hidden(&[(0, 7), (1, 3)], &[(0, 8), (1, 9)]), None);
        let said = hidden(&[(0, 7), (1, 3)], &[(0, 8), (1, 3)]).expect("one record that hangs");
        assert!(
            said.contains("offset 3 of partition 1") && said.contains("stand at 3"),
            "{said}"
        );
    }

    #[test]
    fn where_nobody_says_how_far_readers_get_nothing_has_been_seen() {
        let said = hidden(&[(0, 7), (1, 3)], &[(0, 8)]).expect("a partition without a leader");
        assert!(said.contains("no broker says"), "{said}");
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        let last = BTreeMap::from([(0, 7)]);
        assert!(find_hidden(&last, Err(&error)).is_some());
    }

    #[test]
    fn a_record_whose_place_is_not_known_is_not_waited_for() {
        let config = config::Config::load(&config::Sources::default()).expect("defaults");
        let visibility = Visibility::new(&config.kafka).expect("a client");
        let began = Instant::now();
        let error = visibility
            .wait_for(&BTreeMap::from([(0, -1001)]))
            .expect_err("not seen");
        assert!(error.to_string().contains("without a place"), "{error}");
        assert!(began.elapsed() < VISIBLE_TIMEOUT);
    }
}
