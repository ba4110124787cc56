//! One name for a request: in the answer's header, in a problem's body and in the log.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header, in requests and in answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ones are not taken over: they would make the log unreadable.
const MAX_LENGTH: usize = 128;

/// 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own when it gave exactly one that is well-formed, else a new UUIDv7.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(HEADER).into_iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_well_formed(id.as_bytes()) => Self(id.clone()),
            _ => Self::new(),
        }
    }

    /// A new one.
    pub fn new() -> Self {
        let mut buffer = Uuid::encode_buffer();
        let text: &str = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        Self(HeaderValue::from_str(text).expect("a UUID's text is ASCII"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("only visible ASCII is taken over")
    }

    /// As the answer's header.
    pub fn into_header(self) -> HeaderValue {
        self.0
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn a_well_formed_id_is_taken_over_and_any_other_is_replaced() {
        let longest = [b'x'; MAX_LENGTH];
        assert_eq!(of(&[b"abc/1"]), "abc/1");
        assert_eq!(of(&[&longest]).len(), MAX_LENGTH);
        let too_long = [b'x'; MAX_LENGTH + 1];
        let replaced: [&[&[u8]]; 6] = [&[], &[b""], &[b"a b"], &[b"a", b"b"], &[b"\xff"], &[&too_long]];
        for replaced in replaced {
            assert!(Uuid::parse_str(&of(replaced)).is_ok(), "{replaced:?}");
        }
    }
}
