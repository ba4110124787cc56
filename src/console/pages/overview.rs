//! The first page: what waits, since when, why, and when it will be gone. Rendered from the monitor's newest look
//! alone, so that it is there at once whatever is down.

use std::{convert::Infallible, time::Duration};

use askama::Template;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream;
use serde::Deserialize;

use super::{
    badge::{icon, tone_class},
    chrome::{Chrome, Section, page},
    format::{self, Time},
    replays::Progress,
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        auth::{Operator, Refused},
        monitor::{
            Look, Reach, Seen,
            history::{Point, Span},
            verdict::{Forecast, Tone, Verdict, forecast},
        },
        request::Filter,
    },
    http::problem::Problem,
};

/// Rows of the table behind the charts.
const ROWS: usize = 30;
/// A stream ends after so long and the browser connects again: whose token has expired meanwhile is out.
const STREAM: Duration = Duration::from_mins(10);
/// Between signs of life while PostgreSQL hangs and no look comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// `1h` or `24h`.
    span: Option<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Shown {
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "24h")]
    Day,
}

impl Query {
    fn span(&self) -> Span {
        match self.span {
            Some(Shown::Day) => Span::Day,
            Some(Shown::Hour) | None => Span::Hour,
        }
    }
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    c: Chrome,
    live: String,
    hour: bool,
    charts: [Chart; 3],
    points: Vec<Row>,
}

/// A chart: `console.js` draws it; without JavaScript the paths are there.
struct Chart {
    title: &'static str,
    /// Names of the fields of [`Point`], separated by spaces.
    fields: &'static str,
    /// Of the axis: `/s` or `s`.
    unit: &'static str,
    lines: Vec<Line>,
    /// The value at the upper edge.
    most: String,
}

struct Line {
    name: &'static str,
    now: String,
    path: String,
}

struct Row {
    at: Time,
    cells: [String; 6],
}

/// `GET /`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let here = if query.span() == Span::Day { "/?span=24h" } else { "/" };
    let c = Chrome::new(&console, &headers, &operator, here);
    let t = c.t;
    let newest = console.monitor.fresh().await;
    let points = console.monitor.history(query.span());
    let overview = Overview {
        live: Live::of(t, newest.as_deref())
            .render()
            .map_err(|error| Problem::new(crate::http::catalogue::Code::Internal).cause(error))?,
        hour: query.span() == Span::Hour,
        charts: charts(t, query.span(), &points),
        points: points.iter().rev().take(ROWS).map(|point| row(t, point)).collect(),
        c: c.titled(Section::Overview, t.nav_overview()),
    };
    page(&overview)
}

/// `GET /history.json`: the points of the charts.
pub(super) async fn history(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(query): Filter<Query>,
) -> Json<Vec<Point>> {
    Json(console.monitor.history(query.span()))
}

/// `GET /live`: the upper half of the overview with each look, as server-sent events.
pub(super) async fn live(
    State(console): State<ConsoleState>,
    operator: Result<Operator, Refused>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    operator?;
    let t = Lang::of(&headers);
    let end = tokio::time::Instant::now() + STREAM;
    let state = (console.monitor.follow(), console.monitor, console.stop);
    let events = stream::unfold(state, move |(mut looks, monitor, stop)| async move {
        let next = tokio::time::timeout_at(end, monitor.next(&mut looks));
        // A stop ends streams first: an open one would hold it up.
        let Some(Ok(Some(look))) = stop.run_until_cancelled(next).await else {
            return None;
        };
        let html = Live::of(t, look.as_deref()).render().ok()?;
        let event = Event::default().event("look").data(html);
        Some((Ok::<_, Infallible>(event), (looks, monitor, stop)))
    });
    // nginx would keep the events until it has a buffer full of them.
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([unbuffered], events).into_response())
}

/// What changes every two seconds.
#[derive(Template)]
#[template(path = "live.html")]
struct Live {
    t: Lang,
    tone: &'static str,
    icon: &'static str,
    title: String,
    why: Vec<String>,
    as_of: String,
    figures: Vec<Figure>,
    /// Empty while nothing is known.
    lost: String,
    dependencies: Vec<Dependency>,
    groups: Vec<Group>,
    replays: Vec<Progress>,
}

struct Figure {
    name: &'static str,
    value: String,
    note: String,
    /// Empty: nothing remarkable.
    tone: &'static str,
}

struct Dependency {
    name: &'static str,
    tone: &'static str,
    icon: &'static str,
    state: &'static str,
    detail: String,
}

struct Group {
    class: String,
    href: String,
    count: String,
    error: String,
}

impl Live {
    fn of(t: Lang, look: Option<&Look>) -> Self {
        let verdict = Verdict::of(look);
        let seen = look.and_then(|look| look.seen.as_deref());
        Self {
            t,
            tone: tone_class(verdict.tone()),
            icon: icon(verdict.tone()),
            title: title(t, verdict, seen),
            why: look.map_or_else(|| vec![t.v_starting_why().to_owned()], |look| why(t, verdict, look)),
            as_of: look.map_or_else(String::new, |look| t.as_of(&look.at.format("%H:%M:%S").to_string())),
            figures: match (look, seen) {
                (Some(look), Some(seen)) => figures(t, verdict, look, seen),
                _ => Vec::new(),
            },
            lost: seen.map_or_else(String::new, |seen| {
                let o = &seen.overview;
                let [published, pending, dead] = [o.published, o.pending, o.dead].map(format::number);
                t.lost_why(&published, &pending, &dead)
            }),
            dependencies: look.map_or_else(Vec::new, |look| dependencies(t, look)),
            groups: seen.map_or_else(Vec::new, |seen| {
                let groups = seen.dead.iter().take(5);
                groups
                    .map(|group| Group {
                        href: super::dead::class_href(&group.error_class),
                        class: group.error_class.clone(),
                        count: format::number(group.count),
                        error: group.sample_error.clone(),
                    })
                    .collect()
            }),
            replays: seen.map_or_else(Vec::new, |seen| {
                seen.replays.iter().map(|replay| Progress::of(t, replay)).collect()
            }),
        }
    }
}

fn title(t: Lang, verdict: Verdict, seen: Option<&Seen>) -> String {
    match verdict {
        Verdict::Starting => t.v_starting(),
        Verdict::DatabaseAway => t.v_database(),
        Verdict::Paused => t.v_paused(),
        Verdict::NoLeader => t.v_no_leader(),
        Verdict::KafkaAway => t.v_kafka(),
        Verdict::Stuck => t.v_stuck(),
        Verdict::Draining => t.v_draining(),
        Verdict::Growing => t.v_growing(),
        Verdict::KafkaUnseen => t.v_unseen(),
        Verdict::DeadLetters => return t.v_dead(&format::number(seen.map_or(0, |seen| seen.overview.dead))),
        Verdict::Flowing => t.v_flowing(),
    }
    .to_owned()
}

/// What it means, and what was said about it.
fn why(t: Lang, verdict: Verdict, look: &Look) -> Vec<String> {
    let mut why = Vec::new();
    let pause = look.seen.as_ref().and_then(|seen| seen.pause.as_ref());
    if let (Verdict::Paused, Some(pause)) = (verdict, pause) {
        why.push(t.c_paused_by(&pause.by, &format::since(t, pause.since, look.at)));
        why.push(t.reason_given(&pause.reason));
    }
    why.push(
        match verdict {
            Verdict::Starting => t.v_starting_why(),
            Verdict::DatabaseAway => t.v_database_why(),
            Verdict::Paused => t.v_paused_why(),
            Verdict::NoLeader => t.v_no_leader_why(),
            Verdict::KafkaAway => t.v_kafka_why(),
            Verdict::Stuck => t.v_stuck_why(),
            Verdict::Draining => t.v_draining_why(),
            Verdict::Growing => t.v_growing_why(),
            Verdict::KafkaUnseen => t.v_unseen_why(),
            Verdict::DeadLetters => t.v_dead_why(),
            Verdict::Flowing => t.v_flowing_why(),
        }
        .to_owned(),
    );
    match (verdict, &look.kafka.answer, &look.database.answer) {
        (Verdict::KafkaAway | Verdict::KafkaUnseen, Err(said), _) => why.push(t.kafka_said(said)),
        (Verdict::DatabaseAway, _, Err(said)) => why.push(format!("PostgreSQL: {said}")),
        _ => {}
    }
    why
}

fn figures(t: Lang, verdict: Verdict, look: &Look, seen: &Seen) -> Vec<Figure> {
    let o = &seen.overview;
    let rate = |of: fn(&crate::console::monitor::Rates) -> f64| {
        look.rates
            .as_ref()
            .map_or_else(|| "–".to_owned(), |rates| t.a_second(&format::rate(of(rates))))
    };
    let (gone, gone_note) = match forecast(verdict, o.pending, look.rates) {
        Forecast::Nothing => ("–".to_owned(), t.f_gone_nothing()),
        Forecast::In(time) => (
            t.f_about(&format::span(t, time.max(Duration::from_secs(1)))),
            t.f_gone_note(),
        ),
        Forecast::NotShrinking => ("–".to_owned(), t.f_gone_not()),
        Forecast::Halted => ("–".to_owned(), t.f_gone_halted()),
        Forecast::Unknown => ("–".to_owned(), t.unknown()),
    };
    let troubled = match verdict.tone() {
        Tone::Good | Tone::Busy => "",
        tone if o.pending > 0 && verdict != Verdict::DeadLetters => tone_class(tone),
        Tone::Warn | Tone::Bad => "",
    };
    let plain = |name, value, note: &str| Figure {
        name,
        value,
        note: note.to_owned(),
        tone: "",
    };
    let oldest = if o.pending == 0 {
        ("–".to_owned(), t.f_oldest_none())
    } else {
        (format::span_of(t, o.oldest_pending_age_seconds), "")
    };
    vec![
        plain(t.f_waiting(), format::number(o.pending), t.f_waiting_note()),
        Figure {
            tone: troubled,
            ..plain(t.f_oldest(), oldest.0, oldest.1)
        },
        plain(t.f_gone(), gone, gone_note),
        plain(t.f_in(), rate(|r| r.incoming), t.f_in_note()),
        plain(t.f_out(), rate(|r| r.outgoing), t.f_out_note()),
        plain(
            t.f_latency(),
            seen.latency.as_ref().map_or_else(
                || "–".to_owned(),
                |l| {
                    let [p50, p99] = [l.p50_seconds, l.p99_seconds].map(|seconds| format::span_of(t, seconds));
                    format!("{p50} · {p99}")
                },
            ),
            t.f_latency_note(),
        ),
        Figure {
            tone: if o.dead > 0 { "warn" } else { "" },
            ..plain(t.f_dead(), format::number(o.dead), t.f_dead_note())
        },
    ]
}

fn dependencies(t: Lang, look: &Look) -> Vec<Dependency> {
    let of = |name, reach: &Reach, away: Tone, harm: &str| {
        let since = t.d_since(&format::since(t, reach.since, look.at));
        let (tone, state, detail) = match &reach.answer {
            Ok(()) => (Tone::Good, t.d_answers(), since),
            Err(said) => (away, t.d_silent(), format!("{since} · {said} {harm}")),
        };
        Dependency {
            name,
            tone: tone_class(tone),
            icon: icon(tone),
            state,
            detail,
        }
    };
    let leader = look.seen.as_ref().and_then(|seen| seen.overview.leader.as_deref());
    let leader = match (leader, &look.database.answer) {
        (_, Err(_)) => (Tone::Warn, t.unknown(), String::new()),
        (None, Ok(())) => (Tone::Bad, t.none(), String::new()),
        (Some(name), Ok(())) if look.leading_here => (Tone::Good, t.d_leads(), t.d_leader_here(name)),
        (Some(name), Ok(())) => (Tone::Good, t.d_leads(), name.to_owned()),
    };
    vec![
        of("PostgreSQL", &look.database, Tone::Bad, ""),
        of("Kafka", &look.kafka, Tone::Bad, ""),
        of("Redis", &look.redis, Tone::Warn, t.d_redis_harmless()),
        Dependency {
            name: t.d_leader(),
            tone: tone_class(leader.0),
            icon: icon(leader.0),
            state: leader.1,
            detail: leader.2,
        },
    ]
}

/// Takes a line's value out of a point.
type Field = fn(&Point) -> Option<f64>;

fn charts(t: Lang, span: Span, points: &[Point]) -> [Chart; 3] {
    let seconds = |value: f64| format::span_of(t, value);
    let a_second = |value: f64| t.a_second(&format::rate(value));
    let chart = |title, fields, unit, lines: [Option<(&'static str, Field)>; 2], write: &dyn Fn(f64) -> String| {
        let all = lines
            .iter()
            .flatten()
            .flat_map(|(_, field)| points.iter().filter_map(field));
        let most = all.fold(0.0, f64::max);
        Chart {
            title,
            fields,
            unit,
            lines: lines
                .iter()
                .flatten()
                .map(|(name, field)| Line {
                    name,
                    now: points.last().and_then(field).map_or_else(|| "–".to_owned(), write),
                    path: path(span, points, *field, most),
                })
                .collect(),
            most: if most > 0.0 { write(most) } else { String::new() },
        }
    };
    [
        chart(
            t.chart_rates(),
            "incoming outgoing",
            "/s",
            [Some((t.f_in(), |p| p.incoming)), Some((t.f_out(), |p| p.outgoing))],
            &a_second,
        ),
        chart(
            t.chart_oldest(),
            "oldest_seconds",
            "s",
            [Some((t.f_oldest(), |p| p.oldest_seconds)), None],
            &seconds,
        ),
        chart(
            t.chart_latency(),
            "p50_seconds p99_seconds",
            "s",
            [Some(("p50", |p| p.p50_seconds)), Some(("p99", |p| p.p99_seconds))],
            &seconds,
        ),
    ]
}

/// A line in a box of 360 by 120, the newest point at its right edge; what was not seen is a gap.
fn path(span: Span, points: &[Point], field: Field, most: f64) -> String {
    use std::fmt::Write as _;
    let mut path = String::new();
    let Some(last) = points.last() else { return path };
    let mut drawing = false;
    for point in points {
        let x = 360 - (last.at - point.at) / span.step();
        match field(point) {
            Some(value) if x >= 0 => {
                let y = if most > 0.0 {
                    118.0 - 102.0 * value / most
                } else {
                    118.0
                };
                // A point that stands alone is a dot.
                _ = if drawing {
                    write!(path, "L{x} {y:.1}")
                } else {
                    write!(path, "M{x} {y:.1}h0")
                };
                drawing = true;
            }
            _ => drawing = false,
        }
    }
    path
}

fn row(t: Lang, point: &Point) -> Row {
    let or_dash = |value: Option<f64>, write: &dyn Fn(f64) -> String| value.map_or_else(|| "–".to_owned(), write);
    let seconds = |value: f64| format::span_of(t, value);
    Row {
        at: format::time(DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(point.at)),
        cells: [
            or_dash(point.incoming, &format::rate),
            or_dash(point.outgoing, &format::rate),
            or_dash(point.pending, &|value| format::number(value as i64)),
            or_dash(point.oldest_seconds, &seconds),
            or_dash(point.p50_seconds, &seconds),
            or_dash(point.p99_seconds, &seconds),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_gaps_where_nothing_was_seen_and_ends_at_the_right_edge() {
        let point = |at: i64, value: Option<f64>| Point {
            at,
            incoming: value,
            outgoing: None,
            pending: None,
            oldest_seconds: None,
            p50_seconds: None,
            p99_seconds: None,
        };
        let points = [
            point(0, Some(9.0)),
            point(4000, Some(0.0)),
            point(4010, Some(5.0)),
            point(4020, None),
            point(4030, Some(10.0)),
        ];
        let drawn = path(Span::Hour, &points, |p| p.incoming, 10.0);
        assert_eq!(
            drawn, "M357 118.0h0L358 67.0M360 16.0h0",
            "the first is older than an hour"
        );
        assert_eq!(path(Span::Hour, &[], |p| p.incoming, 0.0), "");
    }
}
