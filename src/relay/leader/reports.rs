//! Reports: what became of the records that were handed over.

use std::time::Instant;

use chrono::{DateTime, Utc};

use super::Leader;
use crate::{
    outbox::{
        checkpoints::{DeadLetter, Receipt},
        installation::LogLost,
    },
    publish::{
        FailureClass,
        kafka::{Placed, Refused, Report},
    },
    relay::{End, window::Sent},
    telemetry::ErrorClass,
};

impl Leader<'_> {
    /// Takes what has been reported. An error ends the term: after a failure nothing is known of what follows.
    pub(super) fn take_reports(&mut self) -> Result<(), End> {
        let reports = self.producer.reports().take();
        if !reports.is_empty() {
            failpoint!("relay.reports", End::Restart("a failpoint".to_owned()));
        }
        let mut taken = 0;
        let mut failure = None;
        let (now, wall) = (Instant::now(), Utc::now());
        for Report { slot, outcome } in reports {
            let Some(sent) = self.ledger.window.leave(slot) else {
                continue;
            };
            match outcome {
                Ok(placed) => {
                    if let Some(lost) = self.find_loss(placed) {
                        failure.get_or_insert_with(|| lost.to_string());
                        self.ledger.offsets_frozen = true;
                        self.memory.log_lost.get_or_insert(lost);
                    }
                    if let Some(transactions) = &mut self.transactions {
                        if placed.offset < 0 {
                            // Acknowledged as a repetition: whether readers will see it cannot be asked.
                            failure.get_or_insert_with(|| "a record's place in a transaction is not known".to_owned());
                        }
                        transactions.deliver(sent, placed);
                        self.last_ack = now;
                    } else {
                        taken += 1;
                        self.acknowledged(&sent, placed, now, wall);
                    }
                }
                Err(Refused { class, error }) => {
                    if let Some(class) = own_fault(&sent, class) {
                        let letter = DeadLetter {
                            id: sent.id,
                            class,
                            error: format!("{error}; its payload has {} bytes", sent.bytes),
                        };
                        self.note_refusal(&letter, sent.job_id, now);
                        self.ledger.refuse(letter);
                        if self.transactions.is_some() {
                            failure.get_or_insert_with(|| {
                                "a delivery failed: a record was refused, and its transaction with it".to_owned()
                            });
                        }
                    } else {
                        self.failed(class);
                        failure.get_or_insert(format!("a delivery failed: {error}"));
                    }
                }
            }
        }
        if taken > 0 {
            self.taken(taken, now);
        }
        match failure {
            Some(reason) => Err(End::Restart(reason)),
            None if self.producer.reports().producer_is_dead() => {
                Err(End::Restart("the producer has met a fatal error".to_owned()))
            }
            None => Ok(()),
        }
    }

    /// A record was put below what was acknowledged before: the topic was made again, or its log was cut.
    fn find_loss(&self, Placed { partition, offset }: Placed) -> Option<LogLost> {
        let acknowledged = *self.ledger.next_offsets.get(partition as usize)?;
        // Negative: acknowledged as a repetition, without a place.
        (0..acknowledged).contains(&offset).then_some(LogLost {
            partition,
            end: offset,
            acknowledged,
        })
    }

    /// So many records are where they belong.
    pub(super) fn taken(&mut self, count: usize, now: Instant) {
        self.last_ack = now;
        self.memory.failing = false;
        self.memory.breaker.taken(count);
        self.relay.metrics.published_total.inc_by(count as u64);
    }

    /// The next checkpoint settles the record, by its receipt.
    pub(super) fn acknowledged(
        &mut self,
        sent: &Sent,
        Placed { partition, offset }: Placed,
        now: Instant,
        wall: DateTime<Utc>,
    ) {
        let receipt = Receipt {
            id: sent.id,
            partition,
            offset,
        };
        self.ledger.receipts.push(receipt, now);
        let metrics = &self.relay.metrics;
        metrics.publish_duration_seconds.observe((now - sent.at).as_secs_f64());
        let latency = (wall - sent.created_at).as_seconds_f64().max(0.0);
        metrics.end_to_end_latency_seconds.observe(latency);
    }

    /// The record stays unsettled; from now on the tail of its partition may hold it.
    fn failed(&mut self, class: FailureClass) {
        let error_class = class.as_str();
        let failures = &self.relay.metrics.publish_failures_total;
        failures.get_or_create(&ErrorClass { error_class }).inc();
        self.ledger.offsets_frozen = true;
        self.memory.failing = true;
        if matches!(class, FailureClass::Record(_)) {
            self.memory.one_at_a_time_to = self.memory.one_at_a_time_to.max(self.ledger.position.read_to());
        }
    }
}

/// Of a record that was refused alone and for a cause of its own, the cause. In a batch a refusal says nothing of the
/// single record.
pub(super) fn own_fault(sent: &Sent, class: FailureClass) -> Option<&'static str> {
    match class {
        FailureClass::Record(cause) if sent.alone => Some(cause),
        FailureClass::Record(_) | FailureClass::Outage | FailureClass::Unknown => None,
    }
}
