//! The catalogue of problems: every `code` that an answer can carry, what it means, and what to do.
//! `docs/errors.md`, the pages under `/problems` and the OpenAPI document are all made from it.

use std::fmt::Write as _;

use axum::{
    extract::Path,
    http::StatusCode,
    response::{Html, IntoResponse as _, Response},
};

use super::problem::Problem;

/// The stable name of a problem. A client branches on it; the texts may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the entry of each says what it is")]
pub enum Code {
    MalformedRequest,
    MalformedId,
    MalformedHeader,
    MalformedQuery,
    MalformedBody,
    Unauthorized,
    Forbidden,
    CrossOrigin,
    NotFound,
    NoSuchRoute,
    MethodNotAllowed,
    RequestTimeout,
    NoRecommendation,
    IdempotencyInProgress,
    ReplayHasEnded,
    SelectionChanged,
    MessageTooLarge,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    DraftIncomplete,
    IdempotencyKeyReused,
    OperationIdReused,
    RateLimited,
    HeadersTooLarge,
    Internal,
    Overloaded,
    DatabaseUnavailable,
    OutcomeUnknown,
    KeysUnavailable,
    ShuttingDown,
}

/// What the catalogue says of one [`Code`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// As it stands in `code`, and at the end of `type`.
    pub code: &'static str,
    /// The HTTP status that it always comes with.
    pub status: StatusCode,
    /// `title`: the same for every occurrence.
    pub title: &'static str,
    /// What happened, for the page.
    pub meaning: &'static str,
    /// What the caller should do.
    pub action: &'static str,
}

const fn entry(
    code: &'static str,
    status: StatusCode,
    title: &'static str,
    meaning: &'static str,
    action: &'static str,
) -> Entry {
    Entry {
        code,
        status,
        title,
        meaning,
        action,
    }
}

impl Code {
    /// In the order of their status.
    pub const ALL: [Self; 31] = [
        Self::MalformedRequest,
        Self::MalformedId,
        Self::MalformedHeader,
        Self::MalformedQuery,
        Self::MalformedBody,
        Self::Unauthorized,
        Self::Forbidden,
        Self::CrossOrigin,
        Self::NotFound,
        Self::NoSuchRoute,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::NoRecommendation,
        Self::IdempotencyInProgress,
        Self::ReplayHasEnded,
        Self::SelectionChanged,
        Self::MessageTooLarge,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::DraftIncomplete,
        Self::IdempotencyKeyReused,
        Self::OperationIdReused,
        Self::RateLimited,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::OutcomeUnknown,
        Self::KeysUnavailable,
        Self::ShuttingDown,
    ];

    /// What the catalogue says.
    pub const fn entry(self) -> Entry {
        match self {
            Self::MalformedRequest => entry(
                "malformed-request",
                StatusCode::BAD_REQUEST,
                "The request is malformed",
                "The request, or its body's framing, is not well-formed HTTP.",
                "Mend the client; repeating the same bytes gives the same answer.",
            ),
            Self::MalformedId => entry(
                "malformed-id",
                StatusCode::BAD_REQUEST,
                "The id is not a UUID",
                "An id in the path is not a UUID in its hyphenated form (8-4-4-4-12 hexadecimal digits).",
                "Send the id as it was given out.",
            ),
            Self::MalformedHeader => entry(
                "malformed-header",
                StatusCode::BAD_REQUEST,
                "A header is malformed",
                "A header that this request relies on cannot be read; `detail` names it. An Idempotency-Key has 1 to 255 \
                 visible ASCII characters, is given once, and may stand in double quotes.",
                "Mend the header named in `detail`.",
            ),
            Self::MalformedQuery => entry(
                "malformed-query",
                StatusCode::BAD_REQUEST,
                "A query parameter cannot be used",
                "A query parameter is unknown, is given twice, or has a value that cannot be read; `detail` says which. \
                 Only what operators read has query parameters.",
                "Mend the parameter named in `detail`.",
            ),
            Self::MalformedBody => entry(
                "malformed-body",
                StatusCode::BAD_REQUEST,
                "The request's body cannot be used",
                "The body is not JSON (or not a form, where one is asked for), or a field of it is unknown, missing or out \
                 of range; `detail` says which. Only operators' acts have bodies that are read. Nothing was changed.",
                "Mend the field named in `detail`.",
            ),
            Self::Unauthorized => entry(
                "unauthorized",
                StatusCode::UNAUTHORIZED,
                "A valid bearer token is required",
                "The request has no `Authorization: Bearer` token, or the token is expired, not yet valid, or not signed \
                 for this service.",
                "Get a fresh token and send the request again.",
            ),
            Self::Forbidden => entry(
                "forbidden",
                StatusCode::FORBIDDEN,
                "The token's role may not do this",
                "Operators' pages and acts need a role: `viewer` reads, `operator` also pauses, replays, retries and \
                 discards, `admin` does everything. Nothing was changed.",
                "Use a token whose claim `role` is the one named in `detail`.",
            ),
            Self::CrossOrigin => entry(
                "cross-origin",
                StatusCode::FORBIDDEN,
                "The request came from another site's page",
                "A browser says, by Sec-Fetch-Site or Origin, that a page of another origin sent this request; or a \
                 session's cookie came without either, which no browser does. Nothing was changed.",
                "Act from the console's own pages. A program sends `Authorization: Bearer` and no cookie. A proxy in \
                 front has to pass Host, Origin and Sec-Fetch-Site on unchanged.",
            ),
            Self::NotFound => entry(
                "not-found",
                StatusCode::NOT_FOUND,
                "There is no such thing",
                "What was asked for does not exist or, where it has an owner, belongs to another user: the two are not \
                 told apart.",
                "Check the id and, for a draft or a job, that the token is the owner's.",
            ),
            Self::NoSuchRoute => entry(
                "no-such-route",
                StatusCode::NOT_FOUND,
                "There is nothing at this path",
                "No resource has this path.",
                "Compare the path with the API description.",
            ),
            Self::MethodNotAllowed => entry(
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The resource does not take this method",
                "The path exists, the method does not.",
                "Use one of the methods in the header Allow.",
            ),
            Self::RequestTimeout => entry(
                "request-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long to arrive",
                "The request's head or body was not received in time. Nothing was accepted.",
                "Send the request again, over a new connection.",
            ),
            Self::NoRecommendation => entry(
                "no-recommendation",
                StatusCode::CONFLICT,
                "No AI recommendation is selected",
                "The event draft has no selected AI recommendation, so there is nothing to generate content from.",
                "Select a recommendation for the draft, then repeat the request.",
            ),
            Self::IdempotencyInProgress => entry(
                "idempotency-in-progress",
                StatusCode::CONFLICT,
                "The first request with this Idempotency-Key is still running",
                "Another request with the same key had not finished after five seconds of waiting.",
                "Repeat the same request after Retry-After seconds.",
            ),
            Self::ReplayHasEnded => entry(
                "replay-has-ended",
                StatusCode::CONFLICT,
                "The replay has ended",
                "A replay that is done or cancelled stays so.",
                "Create a new replay.",
            ),
            Self::SelectionChanged => entry(
                "selection-changed",
                StatusCode::CONFLICT,
                "The selection is no longer what was agreed to",
                "More or fewer messages match than the `count` that came with the request. Nothing was started.",
                "Look at a new preview, and send its count.",
            ),
            Self::MessageTooLarge => entry(
                "message-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The job's message is larger than the topic takes",
                "The message made of the event draft would be refused by Kafka, so it was not accepted.",
                "Shorten the draft (usually its store information), then repeat the request.",
            ),
            Self::BodyTooLarge => entry(
                "body-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request's body is too large",
                "The body is larger than this listener takes. Accepting a job needs no body at all.",
                "Send no body for a job; name fewer ids in one act.",
            ),
            Self::UriTooLong => entry(
                "uri-too-long",
                StatusCode::URI_TOO_LONG,
                "The request's target is too long",
                "The path and query are longer than any that this API has.",
                "Mend the client.",
            ),
            Self::UnsupportedMediaType => entry(
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The request's body is not JSON",
                "The request has a body whose Content-Type is not application/json (nor application/*+json).",
                "Send no body, or declare it as JSON. Log-in alone takes a form.",
            ),
            Self::DraftIncomplete => entry(
                "draft-incomplete",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The event draft has no title",
                "Content cannot be generated for an event draft without a title.",
                "Give the draft a title, then repeat the request.",
            ),
            Self::IdempotencyKeyReused => entry(
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used for another event draft",
                "A key names one request: it was already used with another draft.",
                "Use a new key for a new request.",
            ),
            Self::OperationIdReused => entry(
                "operation-id-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The operation id was used for another selection",
                "An operation id names one replay, so that the same one starts nothing twice: it was already used with \
                 another selection.",
                "Use a new operation id for a new replay.",
            ),
            Self::RateLimited => entry(
                "rate-limited",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
                "This user has sent more requests a second than `http.rate_limit` allows.",
                "Wait Retry-After seconds.",
            ),
            Self::HeadersTooLarge => entry(
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request's headers are too large",
                "The headers are more, or larger together, than `http.max_header_bytes` allows.",
                "Send fewer or shorter headers (usually cookies or the token).",
            ),
            Self::Internal => entry(
                "internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong inside",
                "A fault of this service. Its log has the cause under the `requestId`.",
                "Report the `requestId`. A POST may be repeated safely with the same Idempotency-Key.",
            ),
            Self::Overloaded => entry(
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are waiting",
                "The queue in front of the database is full, or too many clients follow jobs. Nothing was accepted.",
                "Repeat after Retry-After seconds, with a growing, jittered pause.",
            ),
            Self::DatabaseUnavailable => entry(
                "database-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The database is not available",
                "PostgreSQL cannot be reached or cannot write now. Nothing was accepted.",
                "Repeat after Retry-After seconds.",
            ),
            Self::OutcomeUnknown => entry(
                "outcome-unknown",
                StatusCode::SERVICE_UNAVAILABLE,
                "It is not known whether it was done",
                "The database was lost while the job, or an operator's act, was being committed: it may or may not have \
                 been done. This is the only 503 after which something may have been accepted.",
                "Repeat with the same Idempotency-Key: it gives the first job if there is one. Without a key, a repeat may \
                 make a second job. An operator's act can be repeated: what is done is not done twice.",
            ),
            Self::KeysUnavailable => entry(
                "keys-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Tokens cannot be verified now",
                "The keys that verify tokens could not be fetched since this replica started. Nothing was accepted.",
                "Repeat after Retry-After seconds.",
            ),
            Self::ShuttingDown => entry(
                "shutting-down",
                StatusCode::SERVICE_UNAVAILABLE,
                "This replica is shutting down",
                "The process was told to stop and finishes what it has begun.",
                "Repeat over a new connection: another replica answers.",
            ),
        }
    }

    /// What a failure of the database is to the caller: it is away or busy, and the same may be asked again, or it is
    /// our own fault.
    pub fn of_database(error: &sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::DatabaseUnavailable
            }
            // https://www.postgresql.org/docs/current/errcodes-appendix.html: connections, operator intervention (a
            // statement that took too long among them), resources, a standby, a lock that was not to be had.
            E::Database(said) => match said.code().as_deref().unwrap_or_default() {
                code if ["08", "57", "53"].iter().any(|class| code.starts_with(class)) => Self::DatabaseUnavailable,
                "25006" | "55P03" | "40P01" => Self::DatabaseUnavailable,
                _ => Self::Internal,
            },
            _ => Self::Internal,
        }
    }

    /// The code that a bare status of the framework stands for.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NoSuchRoute,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::URI_TOO_LONG => Self::UriTooLong,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HeadersTooLarge,
            other if other.is_client_error() => Self::MalformedRequest,
            _ => Self::Internal,
        }
    }
}

/// `docs/errors.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Errors\n\n\
         Every failure is answered with `application/problem+json` (RFC 9457):\n\n\
         ```json\n\
         {\"type\": \"/problems/not-found\", \"title\": \"...\", \"status\": 404, \"detail\": \"...\",\n \
         \"instance\": \"/api/jobs/...\", \"code\": \"not-found\", \"requestId\": \"...\"}\n\
         ```\n\n\
         `code` is stable: branch on it. `type` is a reference to the page of the problem, which the service answers \
         itself. `title` is the same for every occurrence, `detail` speaks of this one. `requestId` is also in the \
         header `X-Request-Id` of every answer, and in the log; a request may bring its own (1 to 128 visible ASCII \
         characters).\n\n\
         There are two exceptions. The operators' console answers a browser (`Accept: text/html`, and no \
         `Authorization`) with a page of the same status, which says `detail` and what to do. And the connection of a \
         request that cannot be read as HTTP at all may just be closed.\n\n\
         This page is made from `src/http/catalogue.rs`.\n\n\
         | status | code | meaning | what to do |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let e = code.entry();
        let _ = writeln!(
            out,
            "| {} | `{}` | {} | {} |",
            e.status.as_u16(),
            e.code,
            e.meaning,
            e.action
        );
    }
    out
}

/// Every problem on one page.
#[utoipa::path(
    get, path = "/problems", operation_id = "list_problems", tag = "problems", security(()),
    responses((status = 200, description = "The catalogue of problems", body = String, content_type = "text/html"))
)]
pub(super) async fn list() -> Html<String> {
    let mut items = String::new();
    for code in Code::ALL {
        let e = code.entry();
        let _ = write!(
            items,
            "<dt><a href=\"/problems/{0}\"><code>{0}</code></a> ({1})</dt><dd>{2}</dd>",
            e.code,
            e.status.as_u16(),
            escape(e.title)
        );
    }
    Html(page("Problems", &format!("<dl>{items}</dl>")))
}

/// One problem: where `type` points to.
#[utoipa::path(
    get, path = "/problems/{code}", operation_id = "show_problem", tag = "problems", security(()),
    params(("code" = Code, Path, description = "The `code` of a problem")),
    responses((status = 200, description = "What the problem means and what to do", body = String, content_type = "text/html"))
)]
pub(super) async fn show(Path(code): Path<String>) -> Response {
    let known = Code::ALL.into_iter().map(Code::entry).find(|e| e.code == code);
    let Some(e) = known else {
        return Problem::new(Code::NoSuchRoute)
            .detail("no problem has this code; GET /problems lists them all")
            .into_response();
    };
    let body = format!(
        "<p><code>{}</code>, status {}</p><p>{}</p><p><strong>What to do:</strong> {}</p><p><a href=\"/problems\">All problems</a></p>",
        e.code,
        e.status.as_u16(),
        escape(e.meaning),
        escape(e.action)
    );
    Html(page(e.title, &body)).into_response()
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><body><h1>{0}</h1>{body}</body></html>",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_under_the_name_it_is_sent_with() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.entry().code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.entry().code);
        }
        // The last variant's discriminant is the number of those before it: none is missing from ALL.
        assert_eq!(Code::ShuttingDown as usize + 1, Code::ALL.len());
    }

    #[test]
    fn the_committed_page_is_what_the_catalogue_says() {
        super::super::committed::compare("docs/errors.md", &markdown());
    }
}
