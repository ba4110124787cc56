//! What becomes of one request: a plain function of what was read, so that it can be tested by properties.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{AcceptError, AcceptRequest};
use crate::{
    drafts::EventDraft,
    outbox::record::{OutboxMessage, batch_size, exceeds},
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
/// which an owner would mend it; `limit` is in bytes, as [`batch_size`] counts them, and a replay of the message is
/// within it as well.
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
    let mut message = OutboxMessage {
        id: i64::MAX,
        event_id: identity.event_id,
        job_id: identity.job_id,
        key: draft.id,
        event_time: identity.at,
        created_at: identity.at,
        // As large as it will ever be: a replay of it carries one header more, and must not be refused for that.
        replay_id: Some(Uuid::max()),
        traceparent: request.traceparent.clone(),
        payload: payload(identity.job_id, draft),
    };
    if exceeds(&message, limit) {
        let size = batch_size(&message);
        return Decision::Refuse(AcceptError::TooLarge { size, limit });
    }
    message.replay_id = None;
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

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};
    use serde_json::Value;

    use super::*;

    const USER: Uuid = Uuid::from_u128(0xa);
    const DRAFT: Uuid = Uuid::from_u128(0xd);
    const NO_LIMIT: usize = usize::MAX;

    fn request() -> AcceptRequest {
        AcceptRequest {
            user_id: USER,
            draft_id: DRAFT,
            idempotency_key: Some("key".into()),
            traceparent: None,
        }
    }

    fn identity() -> Identity {
        Identity::new(DateTime::from_timestamp(1_790_000_000, 123_456_000).unwrap())
    }

    /// Drafts in every state: whose, with and without title and recommendation.
    fn drafts() -> impl Strategy<Value = EventDraft> {
        let text = || option::of(any::<String>());
        let store_info = option::of(prop_oneof![
            Just(r#"{"a": 1.50, "b": 12345678901234567890.000000000000000001}"#.to_owned()),
            Just("null".to_owned()),
            any::<f64>().prop_map(|n| Value::from(n).to_string()),
            any::<String>().prop_map(|s| Value::from(s).to_string()),
        ]);
        let title = prop_oneof![any::<String>(), "[ \t\u{a0}\n]*"];
        (any::<bool>(), title, text(), text(), text(), store_info, any::<bool>()).prop_map(
            |(owned, title, prize, brand_color, logo_url, store_info, selected)| EventDraft {
                id: DRAFT,
                user_id: if owned { USER } else { Uuid::from_u128(0xb) },
                title,
                prize,
                brand_color,
                logo_url,
                store_info: store_info.map(|json| RawValue::from_string(json).unwrap()),
                selected_recommendation_id: selected.then_some(Uuid::from_u128(0xe)),
            },
        )
    }

    /// A draft that is accepted.
    fn ready() -> impl Strategy<Value = EventDraft> {
        drafts().prop_map(|draft| EventDraft {
            user_id: USER,
            title: format!("x{}", draft.title),
            selected_recommendation_id: Some(Uuid::from_u128(0xe)),
            ..draft
        })
    }

    fn written(decision: Decision) -> NewJob {
        match decision {
            Decision::Write(job) => *job,
            other => panic!("not accepted: {other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_repeat_of_a_success_gets_the_first_answer_whatever_became_of_the_draft(draft in option::of(drafts())) {
            let stored = Some(StoredKey { draft_id: DRAFT, job_id: Uuid::from_u128(1) });
            let decision = decide(&request(), draft.as_ref(), stored, identity(), 0);
            prop_assert!(matches!(decision, Decision::Replay(id) if id == Uuid::from_u128(1)));
        }

        #[test]
        fn a_key_of_another_draft_is_refused_and_says_nothing_of_either(draft in option::of(drafts())) {
            let stored = Some(StoredKey { draft_id: Uuid::from_u128(0xf), job_id: Uuid::from_u128(1) });
            let decision = decide(&request(), draft.as_ref(), stored, identity(), NO_LIMIT);
            prop_assert!(matches!(decision, Decision::Refuse(AcceptError::KeyReused)));
        }

        #[test]
        fn the_first_thing_that_is_wrong_is_named(draft in drafts(), limit in prop_oneof![Just(0), Just(NO_LIMIT)]) {
            let expected = if draft.user_id != USER {
                Some(AcceptError::NotFound)
            } else if draft.selected_recommendation_id.is_none() {
                Some(AcceptError::NoRecommendation)
            } else if draft.title.chars().all(char::is_whitespace) {
                Some(AcceptError::DraftIncomplete)
            } else {
                None
            };
            match (expected, decide(&request(), Some(&draft), None, identity(), limit)) {
                (Some(expected), Decision::Refuse(refusal)) => prop_assert_eq!(expected, refusal),
                (None, Decision::Refuse(AcceptError::TooLarge { size, limit: 0 })) => prop_assert!(limit == 0 && size > 0),
                (None, Decision::Write(_)) => prop_assert_eq!(limit, NO_LIMIT),
                (expected, decision) => prop_assert!(false, "{:?} but {:?}", expected, decision),
            }
        }

        #[test]
        fn the_limit_is_right_to_the_byte_for_the_message_and_for_its_replays(draft in ready(), traceparent in option::of("[0-9a-f]{55}")) {
            let request = AcceptRequest { traceparent, ..request() };
            let job = written(decide(&request, Some(&draft), None, identity(), NO_LIMIT));
            prop_assert_eq!(job.message.replay_id, None);
            // A dead letter that nobody expects: what was taken once is refused when it is sent again.
            let size = batch_size(&OutboxMessage { replay_id: Some(Uuid::max()), ..job.message });
            written(decide(&request, Some(&draft), None, identity(), size));
            let refused = decide(&request, Some(&draft), None, identity(), size - 1);
            let is_named = matches!(refused, Decision::Refuse(AcceptError::TooLarge { size: s, limit: l }) if s == size && l == size - 1);
            prop_assert!(is_named);
        }

        #[test]
        fn the_payload_has_the_seven_fields_in_order_and_nothing_lost(draft in ready()) {
            let job = written(decide(&request(), Some(&draft), None, identity(), NO_LIMIT));
            let text = std::str::from_utf8(&job.message.payload).unwrap();
            let null = |text: &Option<String>| text.as_ref().map_or("null".to_owned(), |t| Value::from(t.as_str()).to_string());
            let expected = format!(
                r#"{{"jobId":"{}","eventDraftId":"{DRAFT}","title":{},"prize":{},"brandColor":{},"logoUrl":{},"storeInfo":{}}}"#,
                job.job_id(), Value::from(draft.title.as_str()), null(&draft.prize), null(&draft.brand_color),
                null(&draft.logo_url), draft.store_info.as_ref().map_or("null", |json| json.get()),
            );
            prop_assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_missing_draft_is_not_found() {
        assert!(matches!(
            decide(&request(), None, None, identity(), NO_LIMIT),
            Decision::Refuse(AcceptError::NotFound)
        ));
    }

    #[test]
    fn ids_hold_the_instant_and_differ() {
        let a = identity();
        let b = identity();
        let all = [a.job_id, a.event_id, b.job_id, b.event_id];
        for (i, id) in all.iter().enumerate() {
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.as_u128() >> 80, a.at.timestamp_millis() as u128);
            assert!(!all[..i].contains(id));
        }
    }
}
