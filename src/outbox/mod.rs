//! The outbox: an append-only log of messages, and the log of the relay's position in it.

pub mod position;
pub mod record;
pub mod wake;
