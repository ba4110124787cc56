//! The operators' log: whatever was done, with the console, the admin API or a command.

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;

use super::{
    chrome::{Chrome, Section, page},
    format::{self, Time},
};
use crate::{
    console::{
        ConsoleState,
        api::{failed, last_of_full},
        auth::Operator,
        request::Filter,
    },
    http::problem::Problem,
    outbox::acts::{ActFilter, RecordedAct, list_acts},
};

/// Rows of a page.
const LIMIT: i64 = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Below this id.
    after: Option<i64>,
}

#[derive(Template)]
#[template(path = "log.html")]
struct Log {
    c: Chrome,
    rows: Vec<Row>,
    older: Option<i64>,
}

struct Row {
    at: Time,
    act: RecordedAct,
    reason: String,
    role: String,
}

/// `GET /log`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, "/log");
    let title = c.t.l_title();
    let filter = ActFilter {
        after: query.after,
        limit: LIMIT,
        ..ActFilter::default()
    };
    let mut conn = console.conn().await?;
    let acts = list_acts(&mut conn, &filter).await.map_err(failed)?;
    drop(conn);
    let log = Log {
        older: last_of_full(&acts, LIMIT).map(|act| act.id),
        rows: acts
            .into_iter()
            .map(|act| Row {
                at: format::time(act.at),
                reason: act.reason.clone().unwrap_or_default(),
                role: act.role.clone().unwrap_or_default(),
                act,
            })
            .collect(),
        c: c.titled(Section::Log, title),
    };
    page(&log)
}
