//! Queries, bodies and cookies of the operators' listener.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::Value;
use url::form_urlencoded;

use super::{api, request::read_query, session};

/// The query of a list: what is taken is what the address says, each name once and none of them empty.
pub fn query(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(read) = read_query::<BTreeMap<String, String>>(text) else {
        return;
    };
    let said: Vec<_> = form_urlencoded::parse(data)
        .filter(|(_, value)| !value.is_empty())
        .collect();
    assert_eq!(read.len(), said.len(), "a name twice, or one that is lost");
    for (name, value) in said {
        assert_eq!(read.get(&*name).map(String::as_str), Some(&*value));
        assert!(!value.contains('\0'), "PostgreSQL's text cannot hold it");
    }
}

/// The body of an act: what is taken has the fields of one act and no others, and each text says something.
pub fn act(data: &[u8]) {
    for (name, fields) in api::fuzz::read_each(data) {
        let body: Value = serde_json::from_slice(data).expect("it is JSON");
        let body = body.as_object().expect("an array is no body");
        for field in body.keys() {
            assert!(fields.contains(&&**field), "{name} has taken {field:?}");
        }
    }
    if let Ok(given) = str::from_utf8(data)
        && let Ok(text) = api::text("it", given)
    {
        assert_eq!(text, given.trim());
        assert!(
            (1..=1000).contains(&text.chars().count()) && !text.contains('\0'),
            "{text:?}"
        );
    }
}

/// A log-in: where it leads, and the cookie. It leads to this listener, and a cookie's token is what the cookie says.
pub fn log_in(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let to = session::local(text);
    assert!(to == text || to == "/");
    assert!(HeaderValue::from_str(to).is_ok(), "{to:?} is no header");
    // As a browser resolves it.
    let here = url::Url::parse("https://dispatcher.example").expect("an address");
    let there = here.join(to).expect("a path");
    assert_eq!(there.origin(), here.origin(), "{to:?} leads to {there}");

    let Ok(cookie) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::COOKIE, cookie)]);
    if let Ok(Some(token)) = session::token(&headers) {
        assert!(!token.is_empty() && text.contains(&token), "{token:?}");
    }
}
