//! A transactional-outbox job dispatcher.
//!
//! **The promise.** A job that was answered `202` is in Kafka, or is still in the outbox and on its way,
//! or is a dead letter that an operator can see and replay. No fault of Kafka, Redis, the network or this
//! process changes that. If one request of a draft was sent after another was answered, its message's
//! first appearance comes later.
//!
//! **The way of a job**, which is also the reading order:
//! [`http`] takes the request → [`jobs::intake`] gathers those that arrive together and
//! [`jobs::accept`] decides each → [`jobs::store`] commits job and outbox row in one statement →
//! [`relay`] reads the log by id → [`publish`] hands the record to Kafka → [`outbox::checkpoints`] records
//! that it is there. [`console`] is where operators look and act, over HTTP. [`drafts`] is the Event Service's table, read only. [`cli`] is what operators type, and
//! `cli::serve` the one place that builds pools, clients and tasks. ARCHITECTURE.md walks one job, one
//! outage and one crash.
//!
//! [`content`] is the other side, the Content Service in small (`content-worker`): it shares nothing with the
//! rest but [`messages`], the values of the two topics.

#[macro_use]
pub mod failpoint;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;

pub mod config;
pub mod telemetry;

pub mod drafts;
pub mod jobs;
pub mod outbox;

pub mod content;
pub mod messages;

pub mod audit;
pub mod publish;
pub mod relay;

pub mod console;
pub mod http;

pub mod cli;
pub mod dev_stack;
