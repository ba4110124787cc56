//! The header `traceparent` (W3C Trace Context), handed on with the job's message.

use axum::http::{HeaderMap, HeaderName};

/// The request's header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// The header when it is well-formed and given once. A broken one is dropped and never a reason to
/// refuse: the specification says to go on as if it were absent.
pub(super) fn parent(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(HEADER).into_iter();
    let value = given.next()?;
    if given.next().is_some() || !is_well_formed(value.as_bytes()) {
        return None;
    }
    value.to_str().ok().map(str::to_owned)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case, neither id all zeros. Only version 00: what a later one
/// means is not known here.
fn is_well_formed(value: &[u8]) -> bool {
    let [b'0', b'0', b'-', rest @ ..] = value else {
        return false;
    };
    if rest.len() != 32 + 1 + 16 + 1 + 2 || rest[32] != b'-' || rest[49] != b'-' {
        return false;
    }
    let (trace_id, parent_id, flags) = (&rest[..32], &rest[33..49], &rest[50..]);
    [trace_id, parent_id, flags]
        .into_iter()
        .all(|field| field.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        && [trace_id, parent_id]
            .into_iter()
            .all(|id| id.iter().any(|b| *b != b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_the_specification_allows_is_handed_on() {
        assert!(is_well_formed(GOOD.as_bytes()));
        for bad in [
            "",
            "00",
            &GOOD[1..],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "01", 1),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-00"),
            &GOOD.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert!(!is_well_formed(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn two_of_them_are_as_none() {
        let mut headers = HeaderMap::new();
        headers.append(HEADER, GOOD.parse().unwrap());
        assert_eq!(parent(&headers).as_deref(), Some(GOOD));
        headers.append(HEADER, GOOD.parse().unwrap());
        assert_eq!(parent(&headers), None);
    }

    proptest! {
        #[test]
        fn any_generated_one_is_taken(value in "00-[0-9a-f]{31}[1-9a-f]-[1-9a-f][0-9a-f]{15}-[0-9a-f]{2}") {
            prop_assert!(is_well_formed(value.as_bytes()));
        }

        #[test]
        fn no_bytes_make_it_fail(value in proptest::collection::vec(any::<u8>(), 0..70)) {
            is_well_formed(&value);
        }
    }
}
