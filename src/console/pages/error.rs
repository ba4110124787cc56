//! A failure as a page, for browsers; programs get the problem as everywhere.

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use super::chrome::{Chrome, page};
use crate::{
    console::ConsoleState,
    http::{
        catalogue::Code,
        problem::{OwnBody, Problem},
    },
};

#[derive(Template)]
#[template(path = "error.html")]
struct Failure {
    c: Chrome,
    what: String,
    detail: String,
    remedy: &'static str,
}

/// Makes a page of a problem when a browser asked. Around all routes of the console, the log-in's among them; the
/// edge leaves a body of its own alone.
pub(in crate::console) async fn as_page(State(console): State<ConsoleState>, request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let mut response = next.run(request).await;
    if !response.status().is_client_error() && !response.status().is_server_error() || !is_browser(&headers) {
        return response;
    }
    let problem = response.extensions().get::<Problem>().cloned();
    let problem = problem.unwrap_or_else(|| Problem::new(Code::of_status(response.status())));
    let c = Chrome::anonymous(&console, &headers, "/");
    let t = c.t;
    let entry = problem.code().entry();
    let failure = Failure {
        what: match problem.code() {
            Code::DatabaseUnavailable => t.e_database().to_owned(),
            Code::NoSuchRoute => t.e_not_found().to_owned(),
            _ => entry.title.to_owned(),
        },
        detail: problem.text().to_owned(),
        remedy: entry.action,
        c: c.titled(None, t.e_title()),
    };
    if let Ok(shown) = page(&failure) {
        let (shown, body) = shown.into_parts();
        *response.body_mut() = body;
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().extend(shown.headers);
        response.extensions_mut().insert(problem);
        response.extensions_mut().insert(OwnBody);
    }
    response
}

fn is_browser(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::AUTHORIZATION)
        && headers
            .get_all(header::ACCEPT)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")))
}
