//! `Prefer: wait=N` (RFC 7240): how long a reader of a job is willing to wait for news.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The request's header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("prefer");
/// The answer's header: what was honoured.
pub(super) const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// In seconds. A longer wish is cut to this.
const MAX_WAIT: u64 = 60;

/// A wait that will be honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    seconds: u64,
}

impl Wait {
    /// The wish, or `None` when there is none that can be read: a preference is never a reason to refuse.
    /// The first `wait` counts (RFC 7240, 2).
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(HEADER)
            .into_iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(preferences)
            .find_map(|preference| {
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                name.trim().eq_ignore_ascii_case("wait").then(|| seconds(value.trim()))
            })
            .flatten()
            .map(|seconds| Self {
                seconds: seconds.min(MAX_WAIT),
            })
    }

    /// How long.
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The value of `Preference-Applied`.
    pub(super) fn applied(self) -> HeaderValue {
        HeaderValue::from_str(&format!("wait={}", self.seconds)).expect("digits are visible ASCII")
    }
}

/// Splits at the commas outside quotes; each without its parameters.
fn preferences(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |c| {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                _ => {}
            }
            c == ',' && !quoted
        })
        .map(|preference| preference.split(';').next().unwrap_or_default())
}

/// `10` or `"10"`; however many digits, it is a long time.
fn seconds(value: &str) -> Option<u64> {
    let digits = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wait(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_str(value).unwrap());
        }
        Wait::of(&headers).map(|w| w.seconds)
    }

    #[test]
    fn the_first_wait_that_is_named_counts() {
        for (values, seconds) in [
            (&["wait=10"][..], Some(10)),
            (&["WAIT=10"], Some(10)),
            (&["wait=\"10\""], Some(10)),
            (&["wait = 10"], Some(10)),
            (&["respond-async, wait=10"], Some(10)),
            (&["respond-async; wait=9, wait=10"], Some(10)),
            (&["foo=\"a, wait=9\", wait=10"], Some(10)),
            (&["foo=\"\\\", wait=9\", wait=10"], Some(10)),
            (&["respond-async", "wait=10"], Some(10)),
            (&["wait=10, wait=20"], Some(10)),
            (&["wait=10; x=y"], Some(10)),
            (&["wait=0"], Some(0)),
            (&["wait=61"], Some(60)),
            (&["wait=99999999999999999999999"], Some(60)),
            (&[], None),
            (&[""], None),
            (&["wait"], None),
            (&["wait="], None),
            (&["wait=-1"], None),
            (&["wait=1.5"], None),
            (&["wait=x, wait=10"], None),
            (&["waiting=10"], None),
        ] {
            assert_eq!(wait(values), seconds, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_wait_longer_than_a_minute(value in "[ -~]{0,80}") {
            prop_assert!(wait(&[&value]).is_none_or(|seconds| seconds <= MAX_WAIT));
        }
    }
}
