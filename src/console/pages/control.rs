//! Pause of the relay, and what retention keeps.

use askama::Template;
use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use chrono::Utc;

use super::{
    chrome::{Chrome, PauseBanner, Section, page},
    form::Fields,
    format::{self, Time},
};
use crate::{
    console::{
        ConsoleState,
        api::{commit, failed, text},
        auth::Operator,
    },
    http::problem::Problem,
    outbox::{
        control::{pause_relay, read_pause, resume_relay},
        overview::{PartitionStatus, list_partitions},
    },
};

#[derive(Template)]
#[template(path = "control.html")]
struct Control {
    c: Chrome,
    pause: Option<Paused>,
    retention: String,
    partitions: Vec<Partition>,
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
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut c = Chrome::new(&console, &headers, &operator, "/control");
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
        retention: t.c_retention_what(&format::span(t, console.config.outbox.retention)),
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
    resume_relay(&mut tx, &operator.actor()).await.map_err(failed)?;
    commit(tx).await?;
    Ok(Redirect::to(Section::Control.href()).into_response())
}
