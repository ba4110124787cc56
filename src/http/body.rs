//! Bodies, within bounds of size and time. Accepting a job needs none, and so it is only checked and thrown away;
//! an operator's act is read.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;

use super::{catalogue::Code, problem::Problem};

/// What a body may take.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// In bytes.
    pub max_bytes: usize,
    /// To receive all of it.
    pub timeout: Duration,
}

/// Reads the body to its end and forgets it. One that is not empty must be declared as JSON; whether it
/// is well-formed is not looked at, for nothing is read from it.
pub(super) async fn discard(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<(), Problem> {
    if body.is_end_stream() {
        return Ok(());
    }
    receive(body, is_json(headers), limits, |_| {}).await
}

/// Reads the body whole. One that is not empty must be of the media type that the caller has looked for: `typed`.
pub async fn read(body: Body, typed: bool, limits: BodyLimits) -> Result<Vec<u8>, Problem> {
    let mut whole = Vec::new();
    receive(body, typed, limits, |chunk| whole.extend_from_slice(chunk)).await?;
    Ok(whole)
}

async fn receive(body: Body, typed: bool, limits: BodyLimits, mut take: impl FnMut(&[u8])) -> Result<(), Problem> {
    // Said in Content-Length, it can be refused before a byte of it was sent (Expect: 100-continue).
    let declared = body.size_hint().lower();
    check(declared, typed, limits)?;

    let read = async {
        let mut chunks = body.into_data_stream();
        let mut seen = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Problem::new(Code::MalformedRequest).cause(error))?;
            seen += chunk.len() as u64;
            check(seen, typed, limits)?;
            take(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(limits.timeout, read).await.unwrap_or_else(|_| {
        Err(Problem::new(Code::RequestTimeout).detail(format!("the body was not received within {:?}", limits.timeout)))
    })
}

fn check(bytes: u64, typed: bool, limits: BodyLimits) -> Result<(), Problem> {
    if bytes > 0 && !typed {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    if bytes > limits.max_bytes as u64 {
        return Err(Problem::new(Code::BodyTooLarge).detail(format!("the body may have {} bytes", limits.max_bytes)));
    }
    Ok(())
}

/// `application/json` or `application/<anything>+json`, with or without parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers)
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.len() > 5 && subtype.ends_with("+json"))
}

/// `application/x-www-form-urlencoded`, with or without parameters.
pub fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/x-www-form-urlencoded"
}

/// The essence of Content-Type in lower case; empty when there is none.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        max_bytes: 10,
        timeout: Duration::from_millis(50),
    };

    fn typed(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        for (content_type, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("application/+json", false),
            ("application/jsonp", false),
            ("text/json", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(&typed(content_type)), json, "{content_type}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_body_is_bounded_in_type_size_and_time() {
        let chunks = |parts: &[&'static str]| {
            let parts: Vec<Result<_, std::io::Error>> = parts.iter().map(|part| Ok(*part)).collect();
            Body::from_stream(stream::iter(parts))
        };
        let json = typed("application/json");
        let never: stream::Pending<Result<&'static str, std::io::Error>> = stream::pending();
        for (headers, body, code) in [
            (HeaderMap::new(), Body::empty(), None),
            (HeaderMap::new(), chunks(&[]), None),
            (HeaderMap::new(), chunks(&[""]), None),
            (HeaderMap::new(), Body::from("{}"), Some(Code::UnsupportedMediaType)),
            (
                typed("text/plain"),
                chunks(&["", "x"]),
                Some(Code::UnsupportedMediaType),
            ),
            (json.clone(), Body::from("not json"), None),
            (json.clone(), Body::from("0123456789"), None),
            (json.clone(), Body::from("0123456789a"), Some(Code::BodyTooLarge)),
            (json.clone(), chunks(&["01234", "56789", "a"]), Some(Code::BodyTooLarge)),
            (json, Body::from_stream(never), Some(Code::RequestTimeout)),
        ] {
            let what = format!("{headers:?}");
            let refused = discard(&headers, body, LIMITS)
                .await
                .err()
                .map(|problem| problem.code());
            assert_eq!(refused, code, "{what}");
        }
    }
}
