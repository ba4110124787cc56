//! Jobs: accepting them, and what became of them.
//!
//! [`intake`] gathers requests, [`accept`] decides each, [`store`] commits, [`cache`] keeps Redis. Later
//! [`status`] reads what became of a job, and [`watch`] waits for it to change.

pub mod accept;
pub mod cache;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod intake;
pub mod results;
pub mod status;
pub mod store;
pub mod watch;

use uuid::Uuid;

/// The request as the intake takes it: who, for which draft, under which key.
#[derive(Debug, Clone)]
pub struct AcceptRequest {
    /// `sub` of the token.
    pub user_id: Uuid,
    /// `{id}` of the path.
    pub draft_id: Uuid,
    /// The header `Idempotency-Key`, unquoted and checked (1 to 255 characters).
    pub idempotency_key: Option<String>,
    /// The header `traceparent`, when it is well-formed.
    pub traceparent: Option<String>,
}

/// A request that was accepted, now or (when `replayed`) by an earlier request of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The job's id.
    pub job_id: Uuid,
    /// The answer is that of the first request with this idempotency key.
    pub replayed: bool,
}

/// Why a request was not accepted. Nothing was written unless it is [`AcceptError::OutcomeUnknown`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The draft is missing or is somebody else's: the two are not told apart.
    #[error("no such draft")]
    NotFound,
    /// No AI recommendation was selected.
    #[error("no AI recommendation is selected")]
    NoRecommendation,
    /// The draft has no title.
    #[error("the draft has no title")]
    DraftIncomplete,
    /// The record would be refused by the topic; both in bytes.
    #[error("the message has {size} bytes, and the topic takes {limit}")]
    TooLarge {
        /// Of the record of a replay, the largest there will be, uncompressed, as the broker counts it.
        size: usize,
        /// The smaller of the topic's and the producer's.
        limit: usize,
    },
    /// The idempotency key was used for another draft.
    #[error("the idempotency key was used for another draft")]
    KeyReused,
    /// The first request with the key was still running after the wait.
    #[error("the first request with this idempotency key is still running")]
    KeyInProgress,
    /// The queue of the intake is full, or what was before this request took too long.
    #[error("too many requests wait")]
    Overloaded,
    /// PostgreSQL cannot be used now.
    #[error("the database is not available")]
    Unavailable,
    /// The commit may or may not have happened.
    #[error("it is not known whether the job was accepted")]
    OutcomeUnknown,
}

/// What became of the job. Moves forward only: `Pending < Processing < Completed | Failed`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// Accepted; the Content Service has not said anything yet.
    Pending,
    /// The Content Service has begun.
    Processing,
    /// Final: there are images.
    Completed,
    /// Final: there is an error.
    Failed,
}
