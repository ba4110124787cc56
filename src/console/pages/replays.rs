//! Replays: the list, and one with its progress. [`super::replay_new`] is the way to another.

use std::time::Duration;

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    badge,
    chrome::{Chrome, Section, page},
    format::{self, Time},
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        api::{self, failed, last_of_full},
        auth::Operator,
        request::Filter,
    },
    http::{catalogue::Code, problem::Problem},
    outbox::replays::{self, Change, Replay, ReplayState, Selection, Window},
};

/// Rows of a page.
const LIMIT: i64 = 50;
/// The status by which htmx takes the answer and asks no more.
const STOP_POLLING: u16 = 286;

/// How far a replay is.
#[derive(Debug)]
pub(super) struct Progress {
    pub id: Uuid,
    pub reason: String,
    pub matched: i64,
    pub replayed: i64,
    /// `5 of 10`.
    pub text: String,
    /// Empty: it does not run.
    pub left: String,
}

impl Progress {
    pub fn of(t: Lang, replay: &Replay) -> Self {
        let left = (replay.matched - replay.replayed).max(0) as u64;
        let seconds = left.div_ceil(replay.rate.unsigned_abs().max(1).into());
        Self {
            id: replay.id,
            reason: replay.reason.clone(),
            matched: replay.matched.max(1),
            replayed: replay.replayed,
            text: t.r_of(&format::number(replay.replayed), &format::number(replay.matched)),
            left: if replay.state == ReplayState::Running && left > 0 {
                t.r_eta(&format::span(t, Duration::from_secs(seconds)))
            } else {
                String::new()
            },
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Older than this replay.
    after: Option<Uuid>,
}

#[derive(Template)]
#[template(path = "replays.html")]
struct List {
    c: Chrome,
    rows: Vec<Row>,
    older: Option<Uuid>,
}

struct Row {
    badge: String,
    progress: Progress,
    by: String,
    rate: String,
    created: Time,
}

/// `GET /replays`.
pub(super) async fn list(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(query): Filter<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, "/replays");
    let t = c.t;
    let mut conn = console.conn().await?;
    let replays = replays::list_replays(&mut conn, query.after, LIMIT)
        .await
        .map_err(failed)?;
    let list = List {
        older: last_of_full(&replays, LIMIT).map(|replay| replay.id),
        rows: replays
            .iter()
            .map(|replay| Row {
                badge: badge::of_replay(t, replay.state),
                progress: Progress::of(t, replay),
                by: replay.requested_by.clone(),
                rate: t.a_second(&format::number(replay.rate.into())),
                created: format::time(replay.created_at),
            })
            .collect(),
        c: c.titled(Section::Replays, t.r_title()),
    };
    page(&list)
}

#[derive(Template)]
#[template(path = "replay.html")]
struct Show {
    c: Chrome,
    body: String,
    facts: Vec<(&'static str, String)>,
    id: Uuid,
    /// It runs: the page asks again every second.
    is_open: bool,
}

/// What changes while it runs.
#[derive(Template)]
#[template(path = "replay_progress.html")]
struct Body {
    t: Lang,
    badge: String,
    progress: Progress,
    state: ReplayState,
    rate: String,
    waits: bool,
    may_act: bool,
}

/// `GET /replays/{id}`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, &format!("/replays/{id}"));
    let t = c.t;
    let replay = find(&console, t, &id).await?;
    let body = Body::of(&c, &replay);
    let is_open = replay.state.is_open();
    if headers.contains_key("hx-request") {
        let mut fragment = page(&body)?;
        if !is_open {
            *fragment.status_mut() = StatusCode::from_u16(STOP_POLLING).expect("a status");
        }
        return Ok(fragment);
    }
    let mut facts = vec![
        (t.r_reason(), replay.reason.clone()),
        (t.r_by(), replay.requested_by.clone()),
        (t.r_created(), format::time(replay.created_at).human),
        (t.r_changed(), format::time(replay.changed_at).human),
        (t.r_bounds(), format!("{} – {}", replay.lower_bound, replay.upper_bound)),
        (t.r_operation(), replay.operation_id.clone()),
    ];
    facts.extend(describe(t, &replay.filter.0));
    let show = Show {
        body: body
            .render()
            .map_err(|error| Problem::new(Code::Internal).cause(error))?,
        facts,
        id: replay.id,
        is_open,
        c: c.titled(Section::Replays, t.r_one()),
    };
    page(&show)
}

impl Body {
    fn of(c: &Chrome, replay: &Replay) -> Self {
        let t = c.t;
        Self {
            t,
            badge: badge::of_replay(t, replay.state),
            progress: Progress::of(t, replay),
            state: replay.state,
            rate: t.a_second(&format::number(replay.rate.into())),
            waits: replay.state == ReplayState::Running && c.pause.is_some(),
            may_act: c.may_act(),
        }
    }
}

async fn find(console: &ConsoleState, t: Lang, id: &str) -> Result<Replay, Problem> {
    let missing = || Problem::new(Code::NotFound).detail(t.r_missing());
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let mut conn = console.conn().await?;
    let replay = replays::read_replay(&mut conn, id).await.map_err(failed)?;
    replay.ok_or_else(missing)
}

/// What was asked for, by the names of the form's fields.
fn describe(t: Lang, selection: &Selection) -> Vec<(&'static str, String)> {
    let window = |window: &Window| {
        let mut facts = Vec::new();
        if let Some(from) = window.from {
            facts.push((t.m_from(), format::time(from).human));
        }
        if let Some(to) = window.to {
            facts.push((t.m_to(), format::time(to).human));
        }
        if let Some(key) = window.key {
            facts.push((t.r_key(), key.to_string()));
        }
        if let Some(user) = window.user {
            facts.push((t.r_user(), user.to_string()));
        }
        facts
    };
    let list = |items: Vec<String>| {
        let more = items.len().saturating_sub(10);
        let mut text = items.into_iter().take(10).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text = format!("{text} (+{more})");
        }
        text
    };
    match selection {
        Selection::Name { jobs, ids } => {
            let mut facts = Vec::new();
            if !ids.is_empty() {
                facts.push((t.r_ids(), list(ids.iter().map(i64::to_string).collect())));
            }
            if !jobs.is_empty() {
                facts.push((t.r_jobs(), list(jobs.iter().map(Uuid::to_string).collect())));
            }
            facts
        }
        Selection::Window(w) => window(w),
        Selection::Missing { audit } => vec![(t.r_missing_of(), audit.to_string())],
        Selection::Dead { ids, class, window: w } => {
            let mut facts = vec![(t.r_class(), class.clone().unwrap_or_else(|| t.x_all().to_owned()))];
            if !ids.is_empty() {
                facts.push((t.r_ids(), list(ids.iter().map(i64::to_string).collect())));
            }
            facts.extend(window(w));
            facts
        }
    }
}

/// `POST /replays/{id}/pause`, `/resume` and `/cancel`.
pub(super) async fn change(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path((id, act)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let change = match &*act {
        "pause" => Change::Pause,
        "resume" => Change::Resume,
        "cancel" => Change::Cancel,
        _ => return Err(Problem::new(Code::NoSuchRoute)),
    };
    let Json(replay) = api::replays::change(&console, &operator, &id, change).await?;
    Ok(Redirect::to(&format!("/replays/{}", replay.id)).into_response())
}
