//! Queries and bodies of the console: read within bounds, and refused with the name of what is wrong.

use std::collections::BTreeSet;

use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{Uri, request::Parts},
};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::ConsoleState;
use crate::http::{
    body::{self, BodyLimits},
    catalogue::Code,
    problem::Problem,
};

/// Of an act's body: ten thousand ids and more.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024;

/// The query of a list: `T` refuses unknown fields. An empty value is as good as none, for a browser's form sends
/// all its fields.
#[derive(Debug)]
pub struct Filter<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ConsoleState> for Filter<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ConsoleState) -> Result<Self, Problem> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query; see [`Filter`].
pub fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let wrong = |detail: String| Problem::new(Code::MalformedQuery).detail(detail);
    let mut given = form_urlencoded::Serializer::new(String::from("/?"));
    let mut seen = BTreeSet::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() {
            continue;
        }
        // PostgreSQL's text cannot hold it.
        if value.contains('\0') {
            return Err(wrong(format!("the parameter {name:?} has a NUL character")));
        }
        given.append_pair(&name, &value);
        if !seen.insert(name.clone()) {
            return Err(wrong(format!("the parameter {name:?} is given twice")));
        }
    }
    let uri = Uri::try_from(given.finish()).map_err(|error| wrong(error.to_string()))?;
    Query::<T>::try_from_uri(&uri)
        .map(|Query(filter)| filter)
        .map_err(|error| wrong(error.body_text().replace("Failed to deserialize query string: ", "")))
}

/// An act's JSON body: `T` refuses unknown fields.
#[derive(Debug)]
pub struct Act<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ConsoleState> for Act<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &ConsoleState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let limits = BodyLimits {
            max_bytes: MAX_BODY_BYTES,
            timeout: console.config.http.body_timeout,
        };
        let bytes = body::read(body, body::is_json(&parts.headers), limits).await?;
        read_act(&bytes).map(Self)
    }
}

/// Reads a body; see [`Act`].
pub(super) fn read_act<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let wrong = |why: String| Problem::new(Code::MalformedBody).detail(format!("the body cannot be used: {why}"));
    // An array would be taken for the fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(wrong("it is no JSON object".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        limit: Option<i64>,
        state: Option<String>,
    }

    #[test]
    fn a_query_is_taken_whole_or_refused_with_the_parameter_s_name() {
        let ok: Sample = read_query("limit=7&state=a%26b+c").unwrap();
        assert_eq!((ok.limit, ok.state.as_deref()), (Some(7), Some("a&b c")));
        let ok: Sample = read_query("limit=&state=").unwrap();
        assert_eq!((ok.limit, ok.state), (None, None));
        for (query, word) in [
            ("lmit=7", "lmit"),
            ("limit=7&limit=8", "limit"),
            ("limit=seven", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("state=a%00b", "state"),
        ] {
            let problem = read_query::<Sample>(query).unwrap_err();
            assert_eq!(problem.code(), Code::MalformedQuery);
            assert!(format!("{problem:?}").contains(word), "{query}: {problem:?}");
        }
    }
}
