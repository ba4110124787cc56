//! The first page: what waits, since when, why, and when it will be gone. Rendered from the monitor's newest look
//! alone, so that it is there at once whatever is down.

use askama::Template;
use axum::{Json, extract::State, http::HeaderMap, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::{
    chrome::{Chrome, Section, page},
    format::{self, Time},
    live::Live,
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        auth::Operator,
        monitor::history::{Point, Span},
        request::Filter,
    },
    http::problem::Problem,
};

/// Rows of the table behind the charts.
const ROWS: usize = 30;

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
    charts: [Chart; 4],
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
    cells: [String; 7],
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

/// Takes a line's value out of a point.
type Field = fn(&Point) -> Option<f64>;

fn charts(t: Lang, span: Span, points: &[Point]) -> [Chart; 4] {
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
            t.chart_gone(),
            "gone_seconds",
            "s",
            [Some((t.f_gone(), |p| p.gone_seconds)), None],
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
            or_dash(point.gone_seconds, &seconds),
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
            gone_seconds: None,
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
