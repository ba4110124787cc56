//! Ids in paths, and the headers that a request may bring.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{etag, id, idempotency, job_events, prefer::Wait, request_id::RequestId, trace_context};

/// `Idempotency-Key`: a key that is taken is bounded, visible, and prints back to itself.
pub fn idempotency_key(data: &[u8]) {
    let Some(headers) = one(idempotency::HEADER, data) else {
        return;
    };
    let Ok(key) = idempotency::key(&headers) else { return };
    let key = key.expect("the header is there");
    assert!((1..=255).contains(&key.len()), "{} characters", key.len());
    assert!(key.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{key:?}");
    let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
    let again = |text: &str| idempotency::key(&one(idempotency::HEADER, text.as_bytes()).expect("visible"));
    assert_eq!(again(&quoted).expect("its quoted form is a key"), Some(key.clone()));
    if !key.starts_with('"') && key.trim_ascii() == key {
        assert_eq!(again(&key).expect("its raw form is a key"), Some(key));
    }
}

/// An id in a path: one that is taken is its own text, in either case.
pub fn path_id(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(id) = id::parse("it", text) {
        assert_eq!(id.hyphenated().to_string(), text.to_ascii_lowercase());
    }
}

/// `Prefer`, `traceparent`, `X-Request-Id`, `If-None-Match` and `Last-Event-ID`, each with the same bytes.
pub fn headers(data: &[u8]) {
    let name = HeaderName::from_static;
    let Some(preferring) = one(super::prefer::HEADER, data) else {
        return;
    };
    if let Some(wait) = Wait::of(&preferring) {
        assert!(wait.duration().as_secs() <= 60, "{wait:?}");
        let applied = HeaderMap::from_iter([(super::prefer::HEADER, wait.applied())]);
        assert_eq!(Wait::of(&applied), Some(wait));
    }
    let traced = one(trace_context::HEADER, data).expect("it was one before");
    if let Some(parent) = trace_context::parent(&traced) {
        assert_eq!(parent.as_bytes(), data.trim_ascii());
        let ids: Vec<_> = parent.split('-').map(|id| u128::from_str_radix(id, 16)).collect();
        assert!(matches!(ids[..], [Ok(0), Ok(1..), Ok(1..), Ok(_)]), "{parent}");
    }
    let named = one(super::request_id::HEADER, data).expect("it was one before");
    let id = RequestId::of(&named);
    assert!((1..=128).contains(&id.as_str().len()) && id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(id.as_str().as_bytes() == data || uuid::Uuid::try_parse(id.as_str()).is_ok());

    // Whatever else a client sends, the tag that it was given is found.
    let (tag, own) = (
        "W/\"1-PENDING-published-0-17\"",
        HeaderValue::from_static("W/\"1-PENDING-published-0-17\""),
    );
    let mut known = one(header::IF_NONE_MATCH, data).expect("it was one before");
    if etag::is_known(tag, &known) {
        let said = str::from_utf8(data).expect("visible ASCII");
        assert!(said.contains('*') || said.contains(&tag[2..]), "{said}");
    }
    known.append(header::IF_NONE_MATCH, own);
    assert!(etag::is_known(tag, &known));

    let resumed = one(name("last-event-id"), data).expect("it was one before");
    if let Some(id) = job_events::known_event(&resumed) {
        assert_eq!(id.as_bytes(), resumed["last-event-id"].as_bytes());
    }
}

fn one(name: HeaderName, value: &[u8]) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(value).ok()?;
    Some(HeaderMap::from_iter([(name, value)]))
}
