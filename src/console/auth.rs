//! Who operates, and what that person may do.

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::{HeaderMap, HeaderName, Method, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use serde::Serialize;
use url::form_urlencoded;

use super::{ConsoleState, session};
use crate::{
    http::{
        auth::{AuthError, Principal, Role},
        catalogue::Code,
        problem::Problem,
    },
    outbox::acts::{Actor, Via},
};

/// What a browser says of the page that sent a request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who operates. As an extractor it lets nobody in below [`Role::Viewer`] and, for every method but GET and HEAD,
/// nobody below [`Role::Operator`]: a handler cannot forget it. What needs more asks [`Operator::require`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Operator {
    /// The token's `sub`.
    pub name: String,
    /// Viewer, operator or admin.
    pub role: Role,
    /// How the token came.
    pub via: Via,
}

impl Operator {
    /// For the operators' log.
    pub fn actor(&self) -> Actor {
        Actor {
            name: self.name.clone(),
            role: Some(self.role.as_str()),
            via: self.via,
        }
    }

    /// Refuses whoever has a lower role.
    pub fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        Err(Problem::new(Code::Forbidden).detail(format!(
            "this needs the role {}, and the token's is {}",
            role.as_str(),
            self.role.as_str()
        )))
    }

    /// Whom a verified token makes of its bearer.
    pub(super) fn of(principal: Principal, via: Via) -> Result<Self, Problem> {
        let operator = Self {
            name: principal.user_id.to_string(),
            role: principal.role,
            via,
        };
        operator.require(Role::Viewer)?;
        Ok(operator)
    }

    async fn identify(parts: &Parts, state: &ConsoleState) -> Result<Self, Problem> {
        // Who sends the header means it, whatever the browser adds by itself.
        if parts.headers.contains_key(header::AUTHORIZATION) {
            let principal = state.authenticator.authenticate(&parts.headers).await?;
            return Self::of(principal, Via::Api);
        }
        let Some(token) = session::token(&parts.headers)? else {
            return Err(AuthError::Missing.into());
        };
        if !is_safe(&parts.method) && !names_its_origin(&parts.headers) {
            // What they say was checked on the way here, by the router's layer.
            return Err(Problem::new(Code::CrossOrigin)
                .detail("a session's cookie came with neither Origin nor Sec-Fetch-Site"));
        }
        let principal = state.authenticator.authenticate_token(&token).await?;
        Self::of(principal, Via::Console)
    }
}

impl FromRequestParts<ConsoleState> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &ConsoleState) -> Result<Self, Refused> {
        let operator = match Self::identify(parts, state).await {
            Ok(operator) => operator,
            // A log-in mends whatever is wrong with a session, but for the cookie that was sent twice: it sets one.
            Err(problem)
                if problem.code() == Code::Unauthorized
                    && is_visit(parts)
                    && session::token(&parts.headers).is_ok() =>
            {
                return Err(Refused::LogInFirst(log_in_address(parts)));
            }
            Err(problem) => return Err(problem.into()),
        };
        if !is_safe(&parts.method) {
            operator.require(Role::Operator)?;
        }
        Ok(operator)
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
pub enum Refused {
    /// As every failure.
    Problem(Box<Problem>),
    /// A person opened a page: to the log-in, and back from there.
    LogInFirst(String),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::LogInFirst(address) => Redirect::to(&address).into_response(),
        }
    }
}

/// What the extractor [`Operator`] refuses with, beside [`Refused::LogInFirst`].
pub(super) const PROBLEMS: &[Code] = &[
    Code::Unauthorized,
    Code::Forbidden,
    Code::CrossOrigin,
    Code::KeysUnavailable,
];

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn names_its_origin(headers: &HeaderMap) -> bool {
    let says = |name| headers.get(name).is_some_and(|value| !value.is_empty());
    says(SEC_FETCH_SITE) || says(header::ORIGIN)
}

/// A browser that opens a page, and not a program: only such a one is sent to the log-in.
fn is_visit(parts: &Parts) -> bool {
    let accepts_html = |value: &axum::http::HeaderValue| value.to_str().is_ok_and(|value| value.contains("text/html"));
    parts.method == Method::GET
        && !parts.headers.contains_key(header::AUTHORIZATION)
        && parts.headers.get_all(header::ACCEPT).iter().any(accepts_html)
}

fn log_in_address(parts: &Parts) -> String {
    let uri = parts
        .extensions
        .get::<OriginalUri>()
        .map_or(&parts.uri, |original| &original.0);
    let next = uri.path_and_query().map_or("/", |target| target.as_str());
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("next", next)
        .finish();
    format!("/login?{query}")
}
