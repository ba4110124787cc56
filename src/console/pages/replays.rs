//! Replays: the list, one with its progress, and the way to a new one: choose, look at what it would do, confirm.

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
    chrome::{Chrome, Notice, Section, page},
    form::{self, Fields},
    format::{self, Time},
    messages::{time, uuid},
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        api::{self, failed, text},
        auth::Operator,
        request::Filter,
    },
    http::{catalogue::Code, problem::Problem},
    outbox::{
        dead_letters::group_dead_letters,
        replays::{
            self, Change, Created, DEFAULT_RATE, NewReplay, Preview, Replay, SelectError, Selection, Wanted, Warning,
            Window,
        },
    },
};

/// Rows of a page.
const LIMIT: i64 = 50;
/// Outbox ids and jobs that can be named in one replay from here.
const NAMED: usize = 1000;
/// The status by which htmx takes the answer and asks no more.
const STOP_POLLING: u16 = 286;
/// Messages a second, at most.
const RATES: std::ops::RangeInclusive<i32> = 1..=1_000_000;

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
            left: match &*replay.state {
                "running" if left > 0 => t.r_eta(&format::span(t, Duration::from_secs(seconds))),
                _ => String::new(),
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
        older: replays
            .last()
            .filter(|_| replays.len() as i64 == LIMIT)
            .map(|replay| replay.id),
        rows: replays
            .iter()
            .map(|replay| Row {
                badge: badge::of_replay(t, &replay.state),
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
    state: String,
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
    let is_open = matches!(&*replay.state, "running" | "paused");
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
            badge: badge::of_replay(t, &replay.state),
            progress: Progress::of(t, replay),
            state: replay.state.clone(),
            rate: t.a_second(&format::number(replay.rate.into())),
            waits: replay.state == "running" && c.pause.is_some(),
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

/// The form: as the browser sends it, and as it is shown again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Form {
    pub ids: String,
    pub jobs: String,
    pub from: String,
    pub to: String,
    pub key: String,
    pub user: String,
    pub class: String,
    pub rate: String,
    /// Present: show what it would do.
    pub preview: String,
}

#[derive(Template)]
#[template(path = "replay_new.html")]
struct New {
    c: Chrome,
    form: Form,
    classes: Vec<String>,
    default_rate: i32,
    dry_run: Option<DryRun>,
    /// Draws the operation's name: the same form sent twice starts one replay.
    operation_id: String,
    /// As it was typed before.
    reason: String,
}

struct DryRun {
    count: i64,
    would: String,
    oldest: Option<Time>,
    newest: Option<Time>,
    takes: String,
    dead: String,
    warnings: Vec<String>,
    sample: Vec<i64>,
}

/// `GET /replays/new`: the form, and with `preview` the dry run of what it says. Nothing is started.
pub(super) async fn new(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(form): Filter<Form>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, &form.address());
    form.show(&console, c, String::new(), Uuid::now_v7().to_string()).await
}

impl Form {
    /// The page, with a dry run when the form asks for one.
    pub async fn show(
        self,
        console: &ConsoleState,
        mut c: Chrome,
        reason: String,
        operation_id: String,
    ) -> Result<Response, Problem> {
        let t = c.t;
        let mut conn = console.conn().await?;
        let mut dry_run = None;
        if !self.preview.is_empty() {
            let asked = match self.selection() {
                Ok(selection) => replays::preview_replay(&mut conn, &selection).await,
                Err(wrong) => {
                    c.notice = Some(bad(t.m_bad_filter(&wrong)));
                    Err(SelectError::NoSuchMessage(Vec::new()))
                }
            };
            match asked {
                Ok(preview) if preview.summary.count == 0 => c.notice = Some(bad(t.r_nothing().to_owned())),
                Ok(preview) => dry_run = Some(DryRun::of(t, &preview, self.rate())),
                Err(SelectError::Sql(error)) => return Err(failed(error)),
                Err(missing) => c.notice = c.notice.or_else(|| Some(bad(missing.to_string()))),
            }
        }
        let groups = group_dead_letters(&mut conn).await.map_err(failed)?;
        let new = New {
            classes: groups.into_iter().map(|group| group.error_class).collect(),
            default_rate: DEFAULT_RATE,
            dry_run,
            operation_id,
            reason,
            c: c.titled(Section::Replays, t.r_new()),
            form: self,
        };
        page(&new)
    }

    /// What is chosen; an error says what cannot be used.
    pub fn selection(&self) -> Result<Selection, String> {
        fn named<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
            text.split(|c: char| c == ',' || c.is_whitespace())
                .filter(|word| !word.is_empty())
                .map(|word| word.parse().map_err(|_| word.to_owned()))
                .collect()
        }
        let wanted = Wanted {
            jobs: named(&self.jobs)?,
            ids: named(&self.ids)?,
            from: time(&self.from)?,
            to: time(&self.to)?,
            key: uuid(&self.key)?,
            draft: None,
            user: uuid(&self.user)?,
            dead_group: (!self.class.is_empty()).then(|| self.class.clone()),
        };
        let count = wanted.jobs.len() + wanted.ids.len();
        if count > NAMED {
            return Err(format!("{count} > {NAMED}"));
        }
        wanted.selection()
    }

    /// Within its bounds; the default when it is none.
    pub fn rate(&self) -> i32 {
        let rate = self.rate.trim().parse().ok().filter(|rate| RATES.contains(rate));
        rate.unwrap_or(DEFAULT_RATE)
    }

    fn address(&self) -> String {
        let fields = [
            ("ids", &*self.ids),
            ("jobs", &self.jobs),
            ("from", &self.from),
            ("to", &self.to),
            ("key", &self.key),
            ("user", &self.user),
            ("class", &self.class),
            ("rate", &self.rate),
            ("preview", &self.preview),
        ];
        form::address("/replays/new", fields)
    }
}

/// `POST /replays`: starts what the dry run showed, if its number was typed. Sent twice, it starts one.
pub(super) async fn create(
    State(console): State<ConsoleState>,
    operator: Operator,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let form = Form {
        ids: fields.get("ids"),
        jobs: fields.get("jobs"),
        from: fields.get("from"),
        to: fields.get("to"),
        key: fields.get("key"),
        user: fields.get("user"),
        class: fields.get("class"),
        rate: fields.get("rate"),
        preview: "1".to_owned(),
    };
    let new = NewReplay {
        operation_id: text("operation_id", &fields.get("operation_id"))?,
        selection: form
            .selection()
            .map_err(|wrong| Problem::new(Code::MalformedBody).detail(wrong))?,
        reason: text("reason", &fields.get("reason"))?,
        by: operator.actor(),
        rate: form.rate(),
    };
    // What is no number is not the right one.
    let typed = fields.get("confirm").replace(',', "").trim().parse().unwrap_or(-1);
    match api::replays::start(&console, &new, Some(typed)).await {
        Ok(Created::New(replay) | Created::Existing(replay)) => {
            Ok(Redirect::to(&format!("/replays/{}", replay.id)).into_response())
        }
        Err(problem) if problem.code() == Code::SelectionChanged => {
            let mut c = Chrome::new(&console, &headers, &operator, &form.address());
            c.notice = Some(bad(c.t.r_wrong_confirmation().to_owned()));
            form.show(&console, c, new.reason, new.operation_id).await
        }
        Err(problem) => Err(problem),
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

fn bad(text: String) -> Notice {
    Notice { tone: "bad", text }
}

impl DryRun {
    fn of(t: Lang, preview: &Preview, rate: i32) -> Self {
        let summary = &preview.summary;
        let seconds = (summary.count as u64).div_ceil(rate.unsigned_abs().into());
        Self {
            count: summary.count,
            would: t.r_would(&format::number(summary.count), &format::number(summary.keys)),
            oldest: summary.oldest.map(format::time),
            newest: summary.newest.map(format::time),
            takes: t.r_takes(&format::span(t, Duration::from_secs(seconds))),
            dead: match summary.dead {
                0 => String::new(),
                dead => t.r_dead_among(&format::number(dead)),
            },
            warnings: preview.warnings.iter().map(|warning| explain(t, warning)).collect(),
            sample: preview.sample.clone(),
        }
    }
}

fn explain(t: Lang, warning: &Warning) -> String {
    match warning {
        Warning::LaterMessages {
            keys,
            looked_up_to: None,
        } => t.w_later(&format::number(*keys)),
        Warning::LaterMessages {
            keys,
            looked_up_to: Some(id),
        } => t.w_later_bounded(&format::number(*keys), &id.to_string()),
        Warning::NewerDraft { drafts } => t.w_newer_draft(&format::number(*drafts)),
        Warning::StillPending { messages } => t.w_pending(&format::number(*messages)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_selects_by_name_or_by_what_narrows_and_never_everything() {
        let form = |change: fn(&mut Form)| {
            let mut form = Form::default();
            change(&mut form);
            form.selection()
        };
        assert_eq!(
            form(|f| f.ids = "4, 7\n9".to_owned()),
            Ok(Selection::Name {
                jobs: Vec::new(),
                ids: vec![4, 7, 9]
            })
        );
        assert!(matches!(
            form(|f| f.class = "message-too-large".to_owned()),
            Ok(Selection::Dead { class: Some(_), .. })
        ));
        assert!(matches!(
            form(|f| f.from = "2026-11-26T10:00".to_owned()),
            Ok(Selection::Window(_))
        ));
        assert!(form(|_| ()).is_err(), "an empty form chooses nothing");
        for wrong in [
            form(|f| f.ids = "4 x".to_owned()),
            form(|f| f.key = "not-a-uuid".to_owned()),
            form(|f| {
                f.ids = "4".to_owned();
                f.from = "2026-11-26T10:00".to_owned();
            }),
            form(|f| {
                f.from = "2026-11-26T10:00".to_owned();
                f.to = "2026-11-26T10:00".to_owned();
            }),
            form(|f| f.ids = "1 ".repeat(NAMED + 1)),
        ] {
            assert!(wrong.is_err(), "{wrong:?}");
        }
        let rate = |text: &str| Form {
            rate: text.to_owned(),
            ..Form::default()
        };
        assert_eq!(
            (rate("7").rate(), rate("0").rate(), rate("").rate()),
            (7, DEFAULT_RATE, DEFAULT_RATE)
        );
    }
}
