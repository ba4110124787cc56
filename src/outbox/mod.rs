//! The outbox: an append-only log of messages, and the log of the relay's position in it.

pub mod acts;
pub mod audits;
pub mod checkpoints;
pub mod control;
pub mod dead_letters;
pub mod export;
pub mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod installation;
pub mod instant;
pub mod listener;
pub mod notifier;
pub mod overview;
pub mod partitions;
pub mod position;
pub mod query;
pub mod record;
pub mod replays;
pub mod retention;
pub mod schema;
pub mod session;
pub mod store;
pub mod wake;
