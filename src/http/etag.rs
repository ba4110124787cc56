//! The precondition `If-None-Match` (RFC 9110, 13.1.2).

use axum::http::{HeaderMap, header};

/// Whether `If-None-Match` names this entity tag, by weak comparison, or is `*`.
pub(crate) fn is_known(tag: &str, headers: &HeaderMap) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.trim() == "*" || tags(value).any(|known| known == opaque(tag)))
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The opaque parts, quotes included, of a list of tags; ends at the first thing that is none.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = opaque(rest.trim_start_matches([' ', '\t', ',']));
        let end = rest.strip_prefix('"')?.find('"')? + 2;
        let (tag, behind) = rest.split_at(end);
        rest = behind;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn is_known_by(tag: &str, values: &[&str]) -> bool {
        let values = values
            .iter()
            .map(|value| (header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap()));
        is_known(tag, &values.collect())
    }

    #[test]
    fn a_tag_is_found_in_a_list_and_by_its_opaque_part() {
        let weak = "W/\"1-PENDING-published-0-17\"";
        let strong = opaque(weak);
        for values in [
            &[weak][..],
            &[strong],
            &["*"],
            &[" * "],
            &[&format!("\"a,b\", {weak}")],
            &[&format!("W/\"x\",{strong} , \"y\"")],
            &["\"x\"", weak],
        ] {
            assert!(is_known_by(weak, values), "{values:?}");
        }
        for values in [
            &[][..],
            &[""],
            &["\"x\""],
            &[&strong[1..]],
            &["\"*\""],
            &[&format!("x, {weak}")],
        ] {
            assert!(!is_known_by(weak, values), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fail(value in "[ -~]{0,80}") {
            is_known_by("W/\"1\"", &[&value]);
        }
    }
}
