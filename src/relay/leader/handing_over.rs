//! Handing over: what decides whether a record may go stands in one place, [`Leader::hand_over_ready`].

use std::{collections::VecDeque, time::Instant};

use uuid::Uuid;

use super::Leader;
use crate::{
    outbox::{
        checkpoints::DeadLetter,
        record::{OutboxMessage, batch_size, exceeds},
    },
    publish::kafka::HandOver,
    relay::{End, breaker::Permit},
    telemetry::ErrorClass,
};

/// The lease is looked at before every so many records.
const LEASE_LOOK_EVERY: usize = 64;
/// Bytes of a record above the topic's limit that the broker is asked about all the same. It hangs up on a request above its
/// `socket.request.max.bytes`, 100 MiB by default, and that would be an outage.
const SHOWN_TO_THE_BROKER: usize = 64 << 20;

/// Messages that were read and not handed over yet, in the order of reading.
#[derive(Default)]
pub(super) struct Ready {
    pub messages: VecDeque<OutboxMessage>,
    /// Of their payloads.
    pub bytes: usize,
}

impl Ready {
    pub fn push(&mut self, message: OutboxMessage) {
        self.bytes += message.payload.len();
        self.messages.push_back(message);
    }

    pub fn pop(&mut self) -> Option<OutboxMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.payload.len();
        Some(message)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// All that decides whether a record may go now.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; together they are no state"
)]
pub(super) struct Gate {
    pub paused: bool,
    /// By our own clock.
    pub lease_ends: Instant,
    /// A dead letter waits for its checkpoint.
    pub barrier: bool,
    /// As much as the window holds is handed over and in no checkpoint.
    pub full: bool,
    /// A record that was sent alone has no report yet.
    pub taken_by_one: bool,
    pub transaction_closed: bool,
    pub on_its_way: bool,
    pub permit: Permit,
}

impl Gate {
    /// `alone`: the record must have nothing beside it.
    pub fn is_closed(&self, alone: bool, now: Instant) -> bool {
        self.paused
            || now >= self.lease_ends
            || self.barrier
            || self.full
            || self.taken_by_one
            || self.transaction_closed
            || alone && self.on_its_way
            || match self.permit {
                Permit::Any => false,
                Permit::One => self.on_its_way,
                Permit::NotBefore(_) => true,
            }
    }
}

impl Leader<'_> {
    /// Hands over what may be handed over now, in the order in which it was read.
    pub(super) fn hand_over_ready(&mut self) -> Result<(), End> {
        let mut now = Instant::now();
        let mut count = 0_usize;
        while let Some(message) = self.ready.messages.front() {
            if count.is_multiple_of(LEASE_LOOK_EVERY) {
                now = Instant::now();
            }
            count += 1;
            let limit = self.relay.limit.get();
            // The limit is as old as its last reading, and whoever accepted the job may know a higher one: the broker
            // decides.
            let alone = message.id <= self.memory.one_at_a_time_to || exceeds(message, limit);
            if self.must_wait(alone, now) {
                return Ok(());
            }
            if exceeds(message, limit.max(SHOWN_TO_THE_BROKER)) {
                let size = batch_size(message);
                let error = format!("the record has {size} bytes, and the topic takes {limit}");
                self.refuse_first("message-too-large", error, now);
                continue;
            }
            let Some(slot) = self.ledger.enter(message, now, alone) else {
                return Ok(());
            };
            match self.producer.hand_over(message, slot) {
                Ok(()) => {
                    if let Some(transactions) = &mut self.transactions {
                        transactions.enter(now, self.producer.reports().complaints().count());
                    }
                    self.ready.pop();
                }
                Err(refused) => {
                    self.ledger.take_back(slot);
                    match refused {
                        HandOver::Full => return Ok(()),
                        HandOver::Dead(reason) => return Err(End::Restart(format!("producer: {reason}"))),
                        HandOver::Refused(class, error) => self.refuse_first(class.as_str(), error, now),
                    }
                }
            }
        }
        Ok(())
    }

    /// May the next record not be handed over now? `alone`: it must have nothing beside it.
    fn must_wait(&self, alone: bool, now: Instant) -> bool {
        let gate = Gate {
            paused: self.seen.paused,
            transaction_closed: self.transactions.as_ref().is_some_and(|transactions| {
                transactions.are_closed(self.ledger.window.len(), self.ledger.window.bytes())
            }),
            on_its_way: self.is_anything_on_its_way(),
            ..self.ledger.gate(self.lease_ends, self.memory.breaker.permit(now))
        };
        gate.is_closed(alone, now)
    }

    /// The first of the ready ones is refused by our own side.
    fn refuse_first(&mut self, class: &'static str, error: String, now: Instant) {
        if let Some(OutboxMessage { id, job_id, .. }) = self.ready.pop() {
            let letter = DeadLetter { id, class, error };
            self.note_refusal(&letter, job_id, now);
            self.ledger.bury(letter);
        }
    }

    /// A message is refused for good.
    pub(super) fn note_refusal(&mut self, letter: &DeadLetter, job_id: Uuid, now: Instant) {
        let DeadLetter { id, class, error } = letter;
        tracing::error!(id, %job_id, class, error, "a message is refused for good: it is a dead letter");
        self.relay
            .metrics
            .publish_failures_total
            .get_or_create(&ErrorClass { error_class: class })
            .inc();
        self.memory.breaker.refused(now);
    }
}
