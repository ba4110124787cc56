//! The outbox: an append-only log of messages, and the log of the relay's position in it.

pub mod checkpoints;
pub mod partitions;
pub mod position;
pub mod record;
pub mod store;
pub mod wake;
