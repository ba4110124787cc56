//! The way to a new replay: choose, look at what it would do, confirm.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
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
        audits::list_audits,
        dead_letters::group_dead_letters,
        replays::{self, Created, DEFAULT_RATE, NewReplay, Preview, SelectError, Selection, Wanted, Warning},
    },
};

/// Outbox ids and jobs that can be named in one replay from here.
const NAMED: usize = 1000;
/// Messages a second, at most.
const RATES: std::ops::RangeInclusive<i32> = 1..=1_000_000;
/// Of so many audits, the newest ones, those that found something missing can be chosen; others by their own page.
const AUDITS: i64 = 20;

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
    /// What this one found missing.
    pub audit: String,
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
    /// Id and name of each that found something missing.
    audits: Vec<(String, String)>,
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
    /// The page, with a dry run when the form asks for one. What is sent once and was sent: that replay's page.
    pub async fn show(
        self,
        console: &ConsoleState,
        mut c: Chrome,
        reason: String,
        operation_id: String,
    ) -> Result<Response, Problem> {
        let t = c.t;
        let mut conn = console.conn().await?;
        let (mut dry_run, mut operation_id) = (None, operation_id);
        if !self.preview.is_empty() {
            let asked = match self.selection() {
                Ok(selection) => {
                    if let Ok(Some(own)) = selection.operation_id(None) {
                        if let Some(sent) = replays::find_operation(&mut conn, &own).await.map_err(failed)? {
                            return Ok(Redirect::to(&format!("/replays/{}", sent.id)).into_response());
                        }
                        operation_id = own;
                    }
                    replays::preview_replay(&mut console.counting().await?.conn, &selection).await
                }
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
            audits: self.audits(t, &mut conn).await.map_err(failed)?,
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

    /// The audits to choose from: the newest, and the one that is chosen.
    async fn audits(&self, t: Lang, conn: &mut PgConnection) -> sqlx::Result<Vec<(String, String)>> {
        let newest = list_audits(conn, None, AUDITS).await?;
        let lost = newest.iter().filter(|audit| audit.counts.missing > 0).map(|audit| {
            let at = format::time(audit.started_at).human;
            (
                audit.id.to_string(),
                t.r_audit(&at, &format::number(audit.counts.missing)),
            )
        });
        let mut audits: Vec<_> = lost.collect();
        if !self.audit.is_empty() && !audits.iter().any(|(id, _)| *id == self.audit) {
            audits.push((self.audit.clone(), self.audit.clone()));
        }
        Ok(audits)
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
            audit: uuid(&self.audit)?,
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
            ("audit", &self.audit),
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
        audit: fields.get("audit"),
        rate: fields.get("rate"),
        preview: "1".to_owned(),
    };
    let selection = form
        .selection()
        .map_err(|wrong| Problem::new(Code::MalformedBody).detail(wrong))?;
    let new = NewReplay {
        operation_id: api::replays::operation_id(&selection, Some(&fields.get("operation_id")))?,
        selection,
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
        assert_eq!(
            form(|f| f.audit = Uuid::nil().to_string()),
            Ok(Selection::Missing { audit: Uuid::nil() })
        );
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
            form(|f| {
                f.audit = Uuid::nil().to_string();
                f.class = "message-too-large".to_owned();
            }),
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
