//! The window: records handed over whose report has not come. Pure.

use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::outbox::record::OutboxMessage;

/// What is remembered of a record that was handed over.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The row's id.
    pub id: i64,
    /// `ce_time`.
    pub event_time: DateTime<Utc>,
    /// When it was handed over.
    pub at: Instant,
    /// Of its payload.
    pub bytes: usize,
}

/// Slots of a fixed number. A slot's index is what a delivery report carries.
#[derive(Debug)]
pub struct Window {
    slots: Vec<Option<Sent>>,
    free: Vec<usize>,
    bytes: usize,
}

impl Window {
    /// A window of so many records.
    pub fn new(records: usize) -> Self {
        Self {
            slots: vec![None; records],
            free: (0..records).rev().collect(),
            bytes: 0,
        }
    }

    /// Takes a slot; none when all are taken.
    pub fn enter(&mut self, m: &OutboxMessage, at: Instant) -> Option<usize> {
        let slot = self.free.pop()?;
        let sent = Sent {
            id: m.id,
            event_time: m.event_time,
            at,
            bytes: m.payload.len(),
        };
        self.bytes += sent.bytes;
        self.slots[slot] = Some(sent);
        Some(slot)
    }

    /// Frees a slot. None when it was free: a report that came twice.
    pub fn leave(&mut self, slot: usize) -> Option<Sent> {
        let sent = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.bytes -= sent.bytes;
        Some(sent)
    }

    /// Records whose report has not come.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes of the records whose report has not come.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
