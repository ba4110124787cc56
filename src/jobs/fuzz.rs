//! What the Event Service wrote into a draft, and what somebody wrote into Redis.

use chrono::DateTime;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    AcceptRequest,
    accept::{Decision, Identity, decide},
    cache::CachedJob,
};
use crate::{drafts::EventDraft, messages::ImageJob, outbox::record::batch_size};

/// The limit of a record here, in bytes: so small that some drafts are above it.
const LIMIT: usize = 4_096;

/// A draft: title, prize, colour and address, a line each, and then `storeInfo`, which PostgreSQL has checked. What is
/// accepted has the seven members in their order, each as it was written, and fits.
pub fn draft(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // PostgreSQL's text has no such character.
    if text.contains('\0') {
        return;
    }
    let mut parts = text.splitn(5, '\n');
    let mut line = || parts.next().map(str::to_owned);
    let (title, prize, brand_color, logo_url, store_info) = (line(), line(), line(), line(), line());
    let Ok(store_info) = store_info.map(RawValue::from_string).transpose() else {
        return;
    };
    let (id, user_id) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let draft = EventDraft {
        id,
        user_id,
        title: title.unwrap_or_default(),
        prize,
        brand_color,
        logo_url,
        store_info,
        selected_recommendation_id: Some(Uuid::from_u128(3)),
    };
    let request = AcceptRequest {
        draft_id: id,
        user_id,
        idempotency_key: None,
        traceparent: None,
    };
    let Decision::Write(job) = decide(&request, Some(&draft), None, Identity::new(DateTime::UNIX_EPOCH), LIMIT) else {
        return;
    };
    assert!(!draft.title.trim().is_empty(), "nothing to draw");
    assert!(batch_size(&job.message) <= LIMIT, "{} bytes", batch_size(&job.message));
    let payload = str::from_utf8(&job.message.payload).expect("JSON is UTF-8");
    let read: ImageJob = serde_json::from_str(payload).expect("the Content Service can read it");
    assert_eq!(read.job_id, job.job_id());
    assert_eq!((&read.title, &read.prize), (&draft.title, &draft.prize));
    assert_eq!(
        (&read.brand_color, &read.logo_url),
        (&draft.brand_color, &draft.logo_url)
    );
    let stored = draft.store_info.as_ref().filter(|stored| stored.get() != "null");
    assert_eq!(
        read.store_info.as_ref().map(|raw| raw.get()),
        stored.map(|raw| raw.get())
    );

    let again = serde_json::to_string(&read).expect("it was JSON");
    assert_eq!(again, payload, "other members, or another order");
}

/// The value of `job:{id}` in Redis: what is understood prints back to itself, and a whole body is the job's own.
pub fn cached_job(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some(read) = CachedJob::read(text) else { return };
    let again = CachedJob::read(&read.to_json()).expect("it is what we write");
    assert_eq!(again, read);
    if let Some(job) = &read.job {
        assert_eq!(job.status, read.status, "two statuses in one value");
    }
}
