//! Dead letters by cause, and what is decided about them.

use askama::Template;
use axum::{
    extract::{OriginalUri, State},
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;

use super::{
    badge,
    chrome::{Chrome, Notice, Section, page},
    form::{self, Fields},
    format::{self, Time},
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        api::{
            dead_letters::{give_up, send_again},
            failed, last_of_full, text,
        },
        auth::Operator,
        request::Filter,
    },
    http::{catalogue::Code, problem::Problem},
    outbox::dead_letters::{
        self, DeadGroup, DeadLetter, DeadPage, group_dead_letters, list_dead_letters, read_dead_letters,
    },
};

/// Rows of a page.
const LIMIT: i64 = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Query {
    /// Only of this cause.
    class: String,
    /// Only this one.
    id: Option<i64>,
    /// Also those that were decided about.
    resolved: Option<u8>,
    /// Below this id.
    after: Option<i64>,
    /// What has just been decided: `retried-7`, `discarded-7`, `none`.
    told: String,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct Dead {
    c: Chrome,
    groups: Vec<Group>,
    /// Of the cause that is looked at.
    class: String,
    class_count: String,
    rows: Vec<Row>,
    resolved: bool,
    toggle: String,
    older: Option<String>,
    /// One that can be decided about is among the rows.
    any_open: bool,
}

struct Group {
    class: String,
    href: String,
    is_current: bool,
    count: String,
    first: Time,
    last: Time,
    error: String,
}

struct Row {
    id: i64,
    class: String,
    error: String,
    died: Time,
    badge: String,
    is_open: bool,
    detail: String,
    key: String,
}

/// The page of one cause.
pub(super) fn class_href(class: &str) -> String {
    address(class, false, None)
}

fn address(class: &str, resolved: bool, after: Option<i64>) -> String {
    let after = after.map_or_else(String::new, |after| after.to_string());
    let resolved = if resolved { "1" } else { "" };
    form::address("/dead", [("class", class), ("resolved", resolved), ("after", &after)])
}

/// `GET /dead`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    OriginalUri(uri): OriginalUri,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let here = uri.path_and_query().map_or("/dead", |here| here.as_str());
    let mut c = Chrome::new(&console, &headers, &operator, here);
    let t = c.t;
    c.notice = told(t, &query.told);
    let resolved = query.resolved == Some(1) || query.id.is_some();
    let mut conn = console.conn().await?;
    let groups = group_dead_letters(&mut conn).await.map_err(failed)?;
    let letters = if let Some(id) = query.id {
        read_dead_letters(&mut conn, &[id]).await
    } else {
        let page = DeadPage {
            after: query.after,
            limit: LIMIT,
            class: (!query.class.is_empty()).then(|| query.class.clone()),
            resolved,
        };
        list_dead_letters(&mut conn, &page).await
    }
    .map_err(failed)?;
    drop(conn);
    let last = last_of_full(&letters, LIMIT);
    let dead = Dead {
        class_count: groups
            .iter()
            .find(|group| group.error_class == query.class)
            .map_or_else(String::new, |group| format::counted(group.count, group.exact)),
        groups: groups.into_iter().map(|group| shown(group, &query.class)).collect(),
        toggle: address(&query.class, !resolved, None),
        older: last.map(|last| address(&query.class, resolved, Some(last.outbox_id))),
        any_open: letters.iter().any(|letter| letter.resolution.is_none()),
        rows: letters.into_iter().map(|letter| row(&c, letter)).collect(),
        class: query.class,
        resolved,
        c: c.titled(Section::Dead, t.x_title()),
    };
    page(&dead)
}

/// `POST /dead`: what is selected, or all of a cause, is retried or discarded.
pub(super) async fn decide(
    State(console): State<ConsoleState>,
    operator: Operator,
    fields: Fields,
) -> Result<Response, Problem> {
    let reason = text("reason", &fields.get("reason"))?;
    let class = fields.get("class");
    let act = fields.get("act");
    let dead = if act.ends_with("-class") {
        dead_letters::Dead::Class(text("class", &class)?)
    } else {
        dead_letters::Dead::Ids(fields.all("id").map(outbox_id).collect::<Result<_, _>>()?)
    };
    let told = match (&*act, &dead) {
        (_, dead_letters::Dead::Ids(ids)) if ids.is_empty() => "none".to_owned(),
        ("retry" | "retry-class", _) => {
            let done = send_again(&console, &operator, &dead, &reason).await?;
            format!("retried-{}", done.retried)
        }
        ("discard" | "discard-class", _) => {
            let done = give_up(&console, &operator, &dead, &reason).await?;
            format!("discarded-{}", done.discarded)
        }
        _ => return Err(Problem::new(Code::MalformedBody).detail(format!("there is no act {act:?}"))),
    };
    let mut to = address(&class, false, None);
    to.push(if to.contains('?') { '&' } else { '?' });
    Ok(Redirect::to(&format!("{to}told={told}")).into_response())
}

/// What a box of the page carries.
fn outbox_id(given: &str) -> Result<i64, Problem> {
    given
        .parse()
        .map_err(|_| Problem::new(Code::MalformedBody).detail(format!("{given:?} is no outbox id")))
}

fn told(t: Lang, told: &str) -> Option<Notice> {
    let (what, count) = told.split_once('-').unwrap_or((told, ""));
    let count = format::number(count.parse().unwrap_or(0));
    let (tone, text) = match what {
        "retried" => ("good", t.x_told_retried(&count)),
        "discarded" => ("good", t.x_told_discarded(&count)),
        "none" => ("warn", t.x_told_none().to_owned()),
        _ => return None,
    };
    Some(Notice { tone, text })
}

fn shown(group: DeadGroup, current: &str) -> Group {
    Group {
        href: class_href(&group.error_class),
        is_current: group.error_class == current,
        class: group.error_class,
        count: format::counted(group.count, group.exact),
        first: format::time(group.oldest),
        last: format::time(group.newest),
        error: group.sample_error,
    }
}

fn row(c: &Chrome, letter: DeadLetter) -> Row {
    let by = letter.resolved_by.unwrap_or_default();
    let detail = letter
        .reason
        .map_or_else(String::new, |reason| format!("{by}: {reason}"));
    Row {
        id: letter.outbox_id,
        class: letter.error_class,
        error: letter.error,
        died: format::time(letter.died_at),
        badge: badge::of_dead(c.t, letter.resolution),
        is_open: letter.resolution.is_none(),
        detail,
        key: letter.key.map_or_else(String::new, |key| key.to_string()),
    }
}
