//! What this process was told, and by whom; secrets are hidden where the configuration hides them.

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};

use super::chrome::{Chrome, Section, page};
use crate::{
    console::{ConsoleState, auth::Operator},
    http::problem::Problem,
};

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    c: Chrome,
    rows: Vec<Row>,
}

struct Row {
    key: String,
    value: String,
    source: String,
}

/// `GET /settings`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, "/settings");
    let title = c.t.s_title();
    let settings = Settings {
        c: c.titled(Section::Settings, title),
        rows: console
            .config
            .settings()
            .iter()
            .map(|(key, value, origin)| Row {
                key: key.to_owned(),
                value,
                source: origin.to_string(),
            })
            .collect(),
    };
    page(&settings)
}
