//! What a failed request is told: RFC 9457 `application/problem+json`, always.
//!
//! A handler returns a [`Problem`]; it travels to the [edge](super::edge) in the response's extensions and
//! becomes a body there, where the request's id and path are known. An error answer that carries no
//! `Problem` is the framework's own and gets one by its status, so nothing can slip out as plain text.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    catalogue::{Code, Entry},
    request_id::RequestId,
};

/// One occurrence of a problem.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

impl Problem {
    /// With the catalogue's meaning as detail.
    pub fn new(code: Code) -> Self {
        Self {
            code,
            detail: Cow::Borrowed(code.entry().meaning),
            headers: Vec::new(),
            cause: None,
        }
    }

    /// What is special about this occurrence. The caller reads it: no secrets, no internals.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// A header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// For the log only: never sent.
    #[must_use]
    pub fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// What is special about this occurrence, or the catalogue's meaning.
    pub fn text(&self) -> &str {
        &self.detail
    }

    /// Its name in the catalogue.
    pub fn code(&self) -> Code {
        self.code
    }

    pub(super) fn logged_cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

/// An answer's extension: its body is for people and says what the problem is; it stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct OwnBody;

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let mut response = self.code.entry().status.into_response();
        response.headers_mut().extend(self.headers.drain(..));
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of every failure (RFC 9457).
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A reference, relative to this service, to the page of the problem.
    #[schema(example = "/problems/not-found", format = "uri-reference")]
    r#type: String,
    /// The same for every occurrence of the problem.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is special about this occurrence.
    detail: &'a str,
    /// The path that was asked for.
    #[schema(format = "uri-reference")]
    instance: &'a str,
    /// The stable name of the problem: branch on this.
    code: Code,
    /// Also in the header `X-Request-Id`, and in the log.
    #[schema(min_length = 1, max_length = 128)]
    request_id: &'a str,
}

/// The body as it is sent. `instance`: the path that was asked for.
pub(super) fn body(code: Code, detail: &str, instance: &str, request_id: &str) -> Vec<u8> {
    let Entry {
        code: name,
        status,
        title,
        ..
    } = code.entry();
    let body = ProblemBody {
        r#type: format!("/problems/{name}"),
        title,
        status: status.as_u16(),
        detail,
        instance,
        code,
        request_id,
    };
    serde_json::to_vec(&body).expect("strings and numbers serialize")
}

/// The media type of [`body`].
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// Gives an error answer its body, unless it has one of its own; leaves any other as it is. Returns the problem, for the log.
pub(super) fn render(response: &mut Response, instance: &str, request_id: &RequestId) -> Option<Problem> {
    let status = response.status();
    if status.as_u16() < StatusCode::BAD_REQUEST.as_u16() {
        return None;
    }
    let problem = response
        .extensions_mut()
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::new(Code::of_status(status)));
    *response.status_mut() = problem.code.entry().status;
    if response.extensions().get::<OwnBody>().is_some() {
        return Some(problem);
    }
    *response.body_mut() = Body::from(body(problem.code, &problem.detail, instance, request_id.as_str()));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(problem)
}
