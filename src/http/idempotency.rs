//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

use axum::http::{HeaderMap, HeaderName};

use super::{catalogue::Code, problem::Problem};

/// The request's header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that is a repeat of the first request's.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// In characters, which are all ASCII, without the quotes.
const MAX_LENGTH: usize = 255;

/// The key, without its quotes, or `None` when there is none.
///
/// The draft wants a structured-field string (`"abc"`), most clients send it raw (`abc`): both are the
/// same key. Parameters behind the string are refused rather than ignored: a client that relies on one
/// would be misunderstood.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(HEADER).into_iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(malformed("is given more than once"));
    }
    parse(value.as_bytes()).map(Some).map_err(malformed)
}

fn malformed(what: &str) -> Problem {
    Problem::new(Code::MalformedHeader).detail(format!("Idempotency-Key {what}"))
}

fn parse(value: &[u8]) -> Result<String, &'static str> {
    let value = value.trim_ascii();
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("has a character that is not visible ASCII");
    }
    let key = match value {
        [b'"', quoted @ ..] => unquote(quoted)?,
        raw => raw.to_vec(),
    };
    if key.is_empty() {
        return Err("is empty");
    }
    if key.len() > MAX_LENGTH {
        return Err("has more than 255 characters");
    }
    Ok(String::from_utf8(key).expect("ASCII is UTF-8"))
}

/// The text of a structured-field string (RFC 9651, 4.2.5), whose opening quote was taken off.
fn unquote(quoted: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut text = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' if bytes.as_slice().is_empty() => return Ok(text),
            b'"' => return Err("has something behind its closing quote"),
            b'\\' => match bytes.next() {
                Some(&escaped @ (b'"' | b'\\')) => text.push(escaped),
                _ => return Err("has a backslash that escapes neither a quote nor a backslash"),
            },
            _ => text.push(byte),
        }
    }
    Err("has no closing quote")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_and_raw_are_the_same_key_and_everything_odd_is_refused() {
        let longest = "x".repeat(MAX_LENGTH);
        for (value, key) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            ("  abc\t", "abc"),
            ("a b", "a b"),
            ("\"a b\"", "a b"),
            ("a\"b", "a\"b"),
            (r#""a\"b""#, "a\"b"),
            (r#""a\\b""#, r"a\b"),
            (r"a\b", r"a\b"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(parse(value.as_bytes()).as_deref(), Ok(key), "{value}");
        }
        for value in [
            "",
            " ",
            "\"\"",
            "\"",
            "\"abc",
            "\"abc\"x",
            "\"abc\";p=1",
            "\"a\", \"b\"",
            r#""a\b""#,
            r#""a\"#,
            "a\tb",
            "a\u{7f}",
            "schl\u{fc}ssel",
            &"x".repeat(MAX_LENGTH + 1),
            &format!("\"{}\"", "x".repeat(MAX_LENGTH + 1)),
        ] {
            assert!(parse(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_key_given_twice_is_refused_even_when_both_are_equal() {
        let mut headers = HeaderMap::new();
        assert!(key(&headers).unwrap().is_none());
        headers.append(HEADER, HeaderValue::from_static("a"));
        assert_eq!(key(&headers).unwrap().as_deref(), Some("a"));
        headers.append(HEADER, HeaderValue::from_static("a"));
        assert_eq!(key(&headers).unwrap_err().code(), Code::MalformedHeader);
    }

    proptest! {
        #[test]
        fn quoting_any_key_gives_the_same_key(key in "[!-~]([ -~]{0,253}[!-~])?") {
            let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
            prop_assert_eq!(parse(quoted.as_bytes()), Ok(key.clone()));
            prop_assume!(!key.starts_with('"'));
            prop_assert_eq!(parse(key.as_bytes()), Ok(key));
        }

        #[test]
        fn whatever_is_taken_is_bounded_and_visible(value in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(key) = parse(&value) {
                prop_assert!((1..=MAX_LENGTH).contains(&key.len()));
                prop_assert!(key.bytes().all(|b| matches!(b, b' '..=b'~')));
            }
        }
    }
}
