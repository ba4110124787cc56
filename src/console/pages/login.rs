//! The page of the log-in, and the switch of the language, which needs none.

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use cookie::{Cookie, SameSite};
use serde::Deserialize;

use super::{
    chrome::{Chrome, page},
    words::{self, Lang},
};
use crate::{
    console::{ConsoleState, request::Filter, session::local},
    http::problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// The page to go to then.
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LogIn {
    c: Chrome,
    next: String,
}

/// `GET /login`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let next = local(query.next.as_deref().unwrap_or("/")).to_owned();
    let c = Chrome::anonymous(&console, &headers, "/login");
    let title = c.t.login_title();
    page(&LogIn {
        next,
        c: c.titled(None, title),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    /// The language's code.
    to: Option<String>,
    /// The page to come back to.
    next: Option<String>,
}

/// `GET /language`: remembers a choice for good. It changes nothing but what this browser is shown.
pub(super) async fn switch(Filter(switch): Filter<Switch>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    let next = HeaderValue::from_str(local(switch.next.as_deref().unwrap_or("/")));
    headers.insert(header::LOCATION, next.unwrap_or(HeaderValue::from_static("/")));
    if let Some(lang) = switch.to.as_deref().and_then(Lang::named) {
        // Not a secret: without `Secure` it works over plain HTTP, too.
        let cookie = Cookie::build((words::COOKIE, lang.code()))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .permanent()
            .build()
            .to_string();
        headers.insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).expect("ASCII"));
    }
    response
}
