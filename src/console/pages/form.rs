//! What a form sends.

use axum::extract::{FromRequest, Request};
use url::form_urlencoded;

use crate::{
    console::{ConsoleState, request::MAX_BODY_BYTES},
    http::{
        body::{self, BodyLimits},
        problem::Problem,
    },
};

/// A path of this console with a query: what is empty is left out.
pub(super) fn address<'a>(path: &str, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields.into_iter().filter(|(_, value)| !value.is_empty()));
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// The fields of a form that was sent by POST, in their order; a name may come more than once.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of a name; empty when there is none.
    pub fn get(&self, name: &str) -> String {
        self.all(name).next().unwrap_or_default().to_owned()
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }
}

impl FromRequest<ConsoleState> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &ConsoleState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let limits = BodyLimits {
            max_bytes: MAX_BODY_BYTES,
            timeout: console.config.http.body_timeout,
        };
        let bytes = body::read(body, body::is_form(&parts.headers), limits).await?;
        Ok(Self(form_urlencoded::parse(&bytes).into_owned().collect()))
    }
}
