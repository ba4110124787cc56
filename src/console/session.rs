//! A browser's session: a cookie that holds the token itself, so that every replica knows it and none has to
//! remember it. It lasts as long as the token, or until the browser is closed or logs out.

use std::borrow::Cow;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cookie::{Cookie, SameSite};
use serde::Deserialize;
use url::form_urlencoded;

use super::{ConsoleState, auth::Operator};
use crate::{
    http::{
        auth::AuthError,
        body::{self, BodyLimits},
        catalogue::Code,
        problem::Problem,
    },
    outbox::acts::Via,
};

/// The cookie's name over plain HTTP.
const PLAIN: &str = "dispatcher_session";
/// Over TLS, where the prefix makes browsers refuse it from a sibling domain and without `Secure`.
const SECURE: &str = "__Host-dispatcher_session";
/// Browsers drop cookies above 4096 bytes, name and attributes included; they would do so in silence.
const MAX_TOKEN_BYTES: usize = 3900;
/// Of the form: a token and an address.
const MAX_FORM_BYTES: usize = 16 * 1024;
/// Where a log-in leads that names no page.
const HOME: &str = "/";
/// Where a log-out leads.
const LOG_IN: &str = "/login";

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The form of [`log_in`].
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[schema(as = LogIn)]
struct Form {
    /// As `Authorization: Bearer` carries it.
    token: String,
    /// The page to go to then: a path of this listener. Anything else leads to `/`.
    #[serde(default)]
    next: String,
}

/// Log a browser in.
///
/// Sets the session's cookie: `HttpOnly`, `SameSite=Strict`, and `Secure` where the request came over TLS (which a
/// proxy says by `X-Forwarded-Proto` or `Forwarded`). Programs need no session: they send `Authorization: Bearer`.
#[utoipa::path(
    post, path = "/login", operation_id = "log_in", tag = "session", security(()),
    request_body(content = Form, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Logged in", headers(
        ("Location" = String, description = "The page asked for"),
        ("Set-Cookie" = String, description = "The session"),
    )))
)]
pub(super) async fn log_in(State(console): State<ConsoleState>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let form = read_form(&parts.headers, body, &console).await?;
    let token = form.token.trim();
    if token.is_empty() {
        return Err(AuthError::Missing.into());
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Problem::new(Code::MalformedBody).detail(format!(
            "the token has {} bytes, and a browser's cookie holds {MAX_TOKEN_BYTES}: use one with fewer claims",
            token.len()
        )));
    }
    let principal = console.authenticator.authenticate_token(token).await?;
    let operator = Operator::of(principal, Via::Console)?;
    tracing::info!(operator = operator.name, role = operator.role.as_str(), "logged in");
    // Verified, so it is base64url and dots.
    let cookie = session_cookie(token.to_owned(), is_secure(&parts.headers)).build();
    Ok(redirect(local(&form.next), &[cookie]))
}

/// The problems of [`log_in`].
pub(super) const LOG_IN_PROBLEMS: &[Code] = &[
    Code::MalformedBody,
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::KeysUnavailable,
];

/// Log a browser out.
///
/// The browser forgets its token. The token itself stays good until it expires.
#[utoipa::path(
    post, path = "/logout", operation_id = "log_out", tag = "session", security(()),
    responses((status = 303, description = "Logged out", headers(
        ("Location" = String, description = "The log-in"),
        ("Set-Cookie" = String, description = "Ends the session; twice, for its name over TLS and without"),
    )))
)]
pub(super) async fn log_out() -> Response {
    let ended = [PLAIN, SECURE].map(|name| {
        let mut cookie = session_cookie(String::new(), name == SECURE).build();
        cookie.make_removal();
        cookie
    });
    redirect(LOG_IN, &ended)
}

/// The problems of [`log_out`].
pub(super) const LOG_OUT_PROBLEMS: &[Code] = &[Code::CrossOrigin];

/// Who a token is for, and what it allows.
#[utoipa::path(
    get, path = "/admin/api/me", operation_id = "who_am_i", tag = "session",
    responses((status = 200, description = "The bearer of the token", body = Operator))
)]
pub(super) async fn who_am_i(operator: Operator) -> Json<Operator> {
    Json(operator)
}

/// The problems of [`who_am_i`].
pub(super) const WHO_AM_I_PROBLEMS: &[Code] = super::auth::PROBLEMS;

/// The token in the session's cookie, if there is one.
///
/// # Errors
/// Two of them: a sibling domain may have set one, and which counts would be a guess.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<String>, AuthError> {
    let name = if is_secure(headers) { SECURE } else { PLAIN };
    let mut found = cookies(headers, name).filter(|cookie| !cookie.value().is_empty());
    let first = found.next();
    if found.next().is_some() {
        return Err(AuthError::SeveralCookies(name));
    }
    Ok(first.map(|cookie| cookie.value().to_owned()))
}

/// The cookies of a name, in the order in which they came.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = Cookie<'a>> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .filter(move |cookie| cookie.name() == name)
}

fn session_cookie(token: String, secure: bool) -> cookie::CookieBuilder<'static> {
    Cookie::build((if secure { SECURE } else { PLAIN }, token))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
}

/// Whether the browser's side of the request is TLS, as a proxy says. Who lies about it can only lose the session.
fn is_secure(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_ascii_lowercase()
    };
    // The first of several is the one nearest to the browser.
    let first = |list: &str| list.split(',').next().unwrap_or_default().trim().to_owned();
    first(&text(X_FORWARDED_PROTO)) == "https"
        || first(&text(header::FORWARDED))
            .split(';')
            .any(|pair| matches!(pair.trim(), "proto=https" | "proto=\"https\""))
}

async fn read_form(headers: &HeaderMap, body: Body, console: &ConsoleState) -> Result<Form, Problem> {
    let limits = BodyLimits {
        max_bytes: MAX_FORM_BYTES,
        timeout: console.config.http.body_timeout,
    };
    let bytes = body::read(body, body::is_form(headers), limits).await?;
    let mut form = Form {
        token: String::new(),
        next: String::new(),
    };
    for (name, value) in form_urlencoded::parse(&bytes) {
        match &*name {
            "token" => form.token = value.into_owned(),
            "next" => form.next = value.into_owned(),
            _ => {}
        }
    }
    Ok(form)
}

/// A path of this listener, or [`HOME`]: a log-in leads nowhere else, whatever the link said.
pub(super) fn local(next: &str) -> &str {
    let mut chars = next.chars();
    // `//host` and `/\host` are other hosts to a browser, and control characters are skipped by it.
    let stays = chars.next() == Some('/')
        && !matches!(chars.next(), Some('/' | '\\'))
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if stays { next } else { HOME }
}

fn redirect(to: &str, cookies: &[Cookie<'_>]) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static(HOME));
    headers.insert(header::LOCATION, to);
    for cookie in cookies {
        let text: Cow<'_, str> = cookie.to_string().into();
        let value = HeaderValue::from_str(&text).expect("a verified token is visible ASCII");
        headers.append(header::SET_COOKIE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_to_a_page_of_this_listener_and_nowhere_else() {
        for stays in ["/", "/outbox?state=dead&after=7", "/a//b", "/replays/1#x"] {
            assert_eq!(local(stays), stays);
        }
        for leaves in [
            "",
            "outbox",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/\r\nSet-Cookie: a=b",
            "/%0d/\n",
            " /x",
            "/카페",
        ] {
            assert_eq!(local(leaves), HOME, "{leaves:?}");
        }
    }

    #[test]
    fn tls_is_what_the_nearest_proxy_says_of_the_browser() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        for (name, value, secure) in [
            ("x-forwarded-proto", "https", true),
            ("x-forwarded-proto", "HTTPS, http", true),
            ("x-forwarded-proto", "http, https", false),
            ("forwarded", "for=1.2.3.4;proto=https;by=x, proto=http", true),
            ("forwarded", "for=1.2.3.4;proto=http", false),
            ("host", "https", false),
        ] {
            assert_eq!(is_secure(&headers(name, value)), secure, "{name}: {value}");
        }
    }

    #[test]
    fn the_cookie_is_read_by_its_name_and_two_are_refused() {
        let cookies = |text: &'static str| {
            token(&HeaderMap::from_iter([(
                header::COOKIE,
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(cookies("a=b; dispatcher_session=x.y.z"), Ok(Some("x.y.z".to_owned())));
        assert_eq!(cookies("dispatcher_session="), Ok(None));
        assert_eq!(cookies("__Host-dispatcher_session=x.y.z"), Ok(None), "not over TLS");
        assert_eq!(
            cookies("dispatcher_session=x; dispatcher_session=y"),
            Err(AuthError::SeveralCookies(PLAIN))
        );
    }
}
