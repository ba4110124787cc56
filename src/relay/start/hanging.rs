//! Transactions that hang: Kafka's coordinator is done with them, and in a partition they are open (see
//! `publish/visibility.rs`).

use std::time::{Duration, Instant};

use super::opening::detailed;
use crate::publish::{kafka::Producer, reader::OpenTransaction};

/// A transaction that is still open is ended again: at most so often somebody else's partition gets an empty record.
const END_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Transactions that the coordinator does not know as ours, and the producer that ends them if they are.
pub(super) struct Hanging {
    pub open: Vec<OpenTransaction>,
    /// It has taken the transactional ids over.
    pub producer: Box<Producer>,
}

impl Hanging {
    /// Ends them, and notes it. Says what was done, or why it could not be.
    pub async fn end(self, ended: &mut Ended) -> String {
        let Self { open, producer } = self;
        let partitions: Vec<i32> = open.iter().map(|o| o.partition).collect();
        let end = tokio::task::spawn_blocking(move || {
            let done = producer.end_hanging_transactions(&partitions);
            done.map_err(|e| format!("transactions cannot be used: {}", detailed(&producer, &e)))
        });
        match end.await.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(()) => {
                ended.note(&open, Instant::now());
                format!(
                    "{} has open transactions that Kafka's coordinator does not know as ours: if they are ours all the \
                     same, they have been ended now",
                    places(&open)
                )
            }
            Err(error) => error,
        }
    }

    /// Leaves them. Dropping a producer blocks.
    pub async fn leave(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self.producer)).await;
    }
}

/// `partition 2 at offset 175, partition 3 at offset 9`.
fn places(open: &[OpenTransaction]) -> String {
    let each = open
        .iter()
        .map(|o| format!("partition {} at offset {}", o.partition, o.stable));
    each.collect::<Vec<_>>().join(", ")
}

/// What has been ended, and when. What is open all the same is somebody else's, for a while: the marker of our own end
/// can be skipped, too.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended(Vec<(OpenTransaction, Instant)>);

impl Ended {
    fn note(&mut self, open: &[OpenTransaction], now: Instant) {
        self.0.extend(open.iter().map(|o| (*o, now)));
    }

    /// Those that are not in it, by where they begin: more may have been written to them since.
    pub fn not_yet(&self, open: &[OpenTransaction], now: Instant) -> Vec<OpenTransaction> {
        let is_in = |o: &OpenTransaction| {
            self.0.iter().any(|(ended, at)| {
                (ended.partition, ended.stable) == (o.partition, o.stable) && now < *at + END_AGAIN_AFTER
            })
        };
        open.iter().copied().filter(|o| !is_in(o)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(partition: i32, stable: i64, high: i64) -> OpenTransaction {
        OpenTransaction {
            partition,
            stable,
            high,
        }
    }

    #[test]
    fn what_was_ended_is_somebody_elses_for_a_minute_however_much_is_written_to_it() {
        let (mut ended, now) = (Ended::default(), Instant::now());
        ended.note(&[open(2, 175, 176)], now);
        let grown = open(2, 175, 900);
        assert!(ended.not_yet(&[grown], now + END_AGAIN_AFTER / 2).is_empty());
        assert_eq!(ended.not_yet(&[grown], now + END_AGAIN_AFTER), [grown]);
    }

    #[test]
    fn another_transaction_of_the_partition_or_the_same_offset_of_another_has_not_been_ended() {
        let (mut ended, now) = (Ended::default(), Instant::now());
        ended.note(&[open(2, 175, 176)], now);
        let others = [open(2, 176, 177), open(3, 175, 176)];
        assert_eq!(ended.not_yet(&others, now), others);
    }

    #[test]
    fn each_place_is_named() {
        assert_eq!(
            places(&[open(2, 175, 176), open(3, 9, 12)]),
            "partition 2 at offset 175, partition 3 at offset 9"
        );
    }
}
