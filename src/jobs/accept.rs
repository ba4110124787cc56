//! What becomes of one request: a plain function of what was read, so that it can be tested by properties.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{AcceptError, AcceptRequest};
use crate::{
    drafts::EventDraft,
    outbox::record::{OutboxMessage, batch_size},
};

/// What is stored under an idempotency key: which request had it first, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredKey {
    /// The fingerprint: a request has no body, so the draft is all that can differ.
    pub draft_id: Uuid,
    /// The answer.
    pub job_id: Uuid,
}

impl StoredKey {
    /// The answer to a later request with the same key: the first answer, or a refusal when it is for
    /// another draft. The refusal names neither draft nor job.
    pub fn answer(&self, draft_id: Uuid) -> Result<Uuid, AcceptError> {
        if self.draft_id == draft_id {
            Ok(self.job_id)
        } else {
            Err(AcceptError::KeyReused)
        }
    }
}

/// The names and the instant that a request gets when it is accepted. They stay the same however often
/// its transaction is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// UUIDv7 of `at`.
    pub job_id: Uuid,
    /// UUIDv7 of `at`; `ce_id`.
    pub event_id: Uuid,
    /// PostgreSQL's clock, one instant for a batch.
    pub at: DateTime<Utc>,
}

impl Identity {
    /// New names for an instant. A UUIDv7 holds it to the millisecond, and 74 random bits.
    pub fn new(at: DateTime<Utc>) -> Self {
        // An instant before 1970 has no UUIDv7. No server that runs shows one.
        let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
        let v7 = || uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        Self {
            job_id: v7(),
            event_id: v7(),
            at,
        }
    }
}

/// A job to write: its row, its message and, when the client sent one, its idempotency key.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The owner.
    pub user_id: Uuid,
    /// Committed together with the job.
    pub idempotency_key: Option<String>,
    /// The message. Its id is [`i64::MAX`] here: the statement that writes it draws the real one.
    pub message: OutboxMessage,
}

impl NewJob {
    /// The job's id.
    pub fn job_id(&self) -> Uuid {
        self.message.job_id
    }

    /// The event draft's id.
    pub fn draft_id(&self) -> Uuid {
        self.message.key
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// Write this; when it is committed, the answer is 202.
    Write(Box<NewJob>),
    /// An earlier request of the same key and draft made this job: its answer is repeated.
    Replay(Uuid),
    /// Nothing is written.
    Refuse(AcceptError),
}

/// Decides one request.
///
/// The key comes first: a repeat of a success gets the first answer whatever became of the draft since. A
/// key is its user's own, so nothing of another user can be seen by it. Then the draft, in the order in
/// which an owner would mend it; `limit` is in bytes, as [`batch_size`] counts them.
pub fn decide(
    request: &AcceptRequest,
    draft: Option<&EventDraft>,
    stored: Option<StoredKey>,
    identity: Identity,
    limit: usize,
) -> Decision {
    if let Some(stored) = stored {
        return match stored.answer(request.draft_id) {
            Ok(job_id) => Decision::Replay(job_id),
            Err(refusal) => Decision::Refuse(refusal),
        };
    }
    let Some(draft) = draft.filter(|draft| draft.id == request.draft_id && draft.is_owned_by(request.user_id)) else {
        return Decision::Refuse(AcceptError::NotFound);
    };
    if !draft.has_recommendation() {
        return Decision::Refuse(AcceptError::NoRecommendation);
    }
    if !draft.has_title() {
        return Decision::Refuse(AcceptError::DraftIncomplete);
    }
    let message = OutboxMessage {
        id: i64::MAX,
        event_id: identity.event_id,
        job_id: identity.job_id,
        key: draft.id,
        event_time: identity.at,
        created_at: identity.at,
        replay_id: None,
        traceparent: request.traceparent.clone(),
        payload: payload(identity.job_id, draft),
    };
    let size = batch_size(&message);
    if size > limit {
        return Decision::Refuse(AcceptError::TooLarge { size, limit });
    }
    Decision::Write(Box::new(NewJob {
        user_id: request.user_id,
        idempotency_key: request.idempotency_key.clone(),
        message,
    }))
}

/// The Kafka value: these seven fields, always all of them, in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    job_id: Uuid,
    event_draft_id: Uuid,
    title: &'a str,
    prize: Option<&'a str>,
    brand_color: Option<&'a str>,
    logo_url: Option<&'a str>,
    store_info: Option<&'a RawValue>,
}

fn payload(job_id: Uuid, draft: &EventDraft) -> Vec<u8> {
    serde_json::to_vec(&Payload {
        job_id,
        event_draft_id: draft.id,
        title: &draft.title,
        prize: draft.prize.as_deref(),
        brand_color: draft.brand_color.as_deref(),
        logo_url: draft.logo_url.as_deref(),
        store_info: draft.store_info.as_deref(),
    })
    .expect("strings and checked JSON always serialise")
}
