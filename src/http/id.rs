//! Ids in paths.

use uuid::Uuid;

use super::{catalogue::Code, problem::Problem};

/// A UUID in its hyphenated form, in either case, and no other form: one id, one address.
/// `what` names it in the problem.
pub fn parse(what: &str, text: &str) -> Result<Uuid, Problem> {
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == uuid::fmt::Hyphenated::LENGTH => Ok(id),
        _ => Err(Problem::new(Code::MalformedId).detail(format!(
            "{what} is not a UUID in its hyphenated form (8-4-4-4-12 hexadecimal digits)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_taken() {
        let id = Uuid::from_u128(0x1934_a5c7_8d1e_7b3a_9f52_3c1d_5e7a_9b10);
        let text = id.hyphenated().to_string();
        assert_eq!(parse("it", &text).unwrap(), id);
        assert_eq!(parse("it", &text.to_uppercase()).unwrap(), id);
        for bad in [
            String::new(),
            "1".to_owned(),
            id.simple().to_string(),
            id.braced().to_string(),
            id.urn().to_string(),
            text.replace('-', "_"),
            text.replace('1', "g"),
            format!("{text} "),
            text.replacen('-', "0", 1),
        ] {
            assert_eq!(parse("it", &bad).unwrap_err().code(), Code::MalformedId, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in "\\PC{0,40}") {
            let _ = parse("it", &text);
        }
    }
}
