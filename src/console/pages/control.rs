//! Pause of the relay; what retention keeps, and the way to drop at once what it would.

use askama::Template;
use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use chrono::Utc;
use serde::Deserialize;

use super::{
    chrome::{Chrome, Notice, PauseBanner, Section, page},
    form::Fields,
    format::{self, Time},
};
use crate::{
    console::{
        ConsoleState,
        api::{
            commit, failed,
            retain::{drop_now, plan_drop},
            text,
        },
        auth::Operator,
        request::Filter,
    },
    http::problem::Problem,
    outbox::{
        control::{pause_relay, read_pause, resume_relay},
        overview::{PartitionStatus, list_partitions},
        retention::{Gone, KEYS, Kept},
    },
};

#[derive(Template)]
#[template(path = "control.html")]
struct Control {
    c: Chrome,
    pause: Option<Paused>,
    retention: String,
    /// What retention would drop now; none: nobody asked.
    plan: Option<Vec<Going>>,
    /// Of dropping it, as it was typed before.
    reason: String,
    partitions: Vec<Partition>,
}

/// What would go.
struct Going {
    what: String,
    rows: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Query {
    /// Present: show what retention would drop now.
    plan: Option<String>,
    /// What has just been dropped: partitions, and keys.
    dropped: Option<usize>,
    keys: Option<i64>,
}

struct Paused {
    told: String,
    reason: String,
    since: Time,
}

struct Partition {
    table: String,
    name: String,
    bounds: String,
    rows: String,
    bytes: String,
}

/// `GET /control`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut c = Chrome::new(&console, &headers, &operator, "/control");
    let plan = match query.plan {
        Some(_) => Some(plan_drop(&console, &operator).await?),
        None => None,
    };
    c.notice = query.dropped.map(|partitions| Notice {
        tone: "good",
        text: c.t.c_dropped(partitions, &format::number(query.keys.unwrap_or(0))),
    });
    render(&console, c, plan, String::new()).await
}

async fn render(
    console: &ConsoleState,
    mut c: Chrome,
    plan: Option<Vec<Gone>>,
    reason: String,
) -> Result<Response, Problem> {
    let t = c.t;
    let mut conn = console.conn().await?;
    // Not the monitor's: who has just acted sees it at once.
    let pause = read_pause(&mut conn).await.map_err(failed)?;
    c.pause = pause.as_ref().map(|pause| PauseBanner::of(t, pause));
    let partitions = list_partitions(&mut conn).await.map_err(failed)?;
    drop(conn);
    let control = Control {
        pause: pause.map(|pause| Paused {
            told: t.c_paused_by(&pause.by, &format::since(t, pause.since, Utc::now())),
            reason: pause.reason,
            since: format::time(pause.since),
        }),
        retention: {
            let kept = Kept::from(&*console.config);
            t.c_retention_what(&format::span(t, kept.outbox), &format::span(t, kept.jobs))
        },
        plan: plan.map(|plan| {
            let going = plan.into_iter().filter(|gone| gone.rows > 0 || gone.what != KEYS);
            going
                .map(|gone| Going {
                    rows: format::number(gone.rows),
                    what: gone.what,
                })
                .collect()
        }),
        reason,
        partitions: partitions.into_iter().map(partition).collect(),
        c: c.titled(Section::Control, t.c_title()),
    };
    page(&control)
}

fn partition(of: PartitionStatus) -> Partition {
    Partition {
        table: of.table,
        name: of.name,
        bounds: of.bounds,
        rows: format::number(of.estimated_rows),
        bytes: format::bytes(of.bytes),
    }
}

/// `POST /control/pause`. A pause that is on already stays as it is.
pub(super) async fn pause(
    State(console): State<ConsoleState>,
    operator: Operator,
    fields: Fields,
) -> Result<Response, Problem> {
    let reason = text("reason", &fields.get("reason"))?;
    let mut tx = console.begin().await?;
    pause_relay(&mut tx, &reason, &operator.actor()).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Redirect::to(Section::Control.href()).into_response())
}

/// `POST /control/resume`.
pub(super) async fn resume(State(console): State<ConsoleState>, operator: Operator) -> Result<Response, Problem> {
    let mut tx = console.begin().await?;
    resume_relay(&mut tx, false, &operator.actor()).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Redirect::to(Section::Control.href()).into_response())
}

/// The word that confirms a drop.
const CONFIRMATION: &str = "drop";

/// `POST /control/retain`: drops what the dry run showed, if the word was typed and nothing else would go by now. More
/// idempotency keys are nothing else: one runs out every moment.
pub(super) async fn retain(
    State(console): State<ConsoleState>,
    operator: Operator,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let plan = plan_drop(&console, &operator).await?;
    let reason = text("reason", &fields.get("reason"))?;
    let shown: Vec<_> = fields.all("what").collect();
    let agreed = plan
        .iter()
        .all(|gone| gone.what == KEYS || shown.contains(&gone.what.as_str()));
    if !agreed || fields.get("confirm").trim() != CONFIRMATION {
        let mut c = Chrome::new(&console, &headers, &operator, "/control?plan=1");
        c.notice = Some(Notice {
            tone: "bad",
            text: c.t.c_not_dropped().to_owned(),
        });
        return render(&console, c, Some(plan), reason).await;
    }
    let gone = drop_now(&console, &operator, Some(&reason)).await?;
    let keys = gone
        .iter()
        .filter(|gone| gone.what == KEYS)
        .map(|gone| gone.rows)
        .sum::<i64>();
    let partitions = gone.iter().filter(|gone| gone.what != KEYS).count();
    Ok(Redirect::to(&format!("/control?dropped={partitions}&keys={keys}")).into_response())
}
