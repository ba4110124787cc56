//! The upper half of the overview: the sentence on top and why, the numbers, what the last audit leaves open, who
//! answers, what waits for a decision. Renewed with each look of the monitor.

use std::{convert::Infallible, time::Duration};

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream;

use super::{
    badge::{icon, tone_class},
    format,
    replays::Progress,
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        auth::{Operator, Refused},
        monitor::{
            Look, Reach, Seen,
            verdict::{Forecast, Tone, Verdict, forecast},
        },
    },
    outbox::audits::Audit,
};

/// A stream ends after so long and the browser connects again: whose token has expired meanwhile is out.
const STREAM: Duration = Duration::from_mins(10);
/// Between signs of life while PostgreSQL hangs and no look comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// An audit says nothing of today after so long: it is how long Kafka keeps records by default, and what is older than
/// that can no longer be told from loss.
const AUDIT_OLD: TimeDelta = TimeDelta::days(7);

/// `GET /live`: the upper half of the overview with each look, as server-sent events.
pub(super) async fn follow(
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
pub(super) struct Live {
    t: Lang,
    tone: &'static str,
    icon: &'static str,
    title: String,
    why: Vec<String>,
    as_of: String,
    figures: Vec<Figure>,
    /// Empty while nothing is known, and where `audit` tells it.
    lost: String,
    audit: Option<AuditLine>,
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

/// What has to be known of the last audit.
struct AuditLine {
    /// Something is missing; otherwise it only says nothing of today.
    missing: bool,
    text: String,
    href: String,
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
    /// From the newest look; none: nothing was looked at yet.
    pub fn of(t: Lang, look: Option<&Look>) -> Self {
        let verdict = Verdict::of(look);
        let seen = look.and_then(|look| look.seen.as_deref());
        let audit = match (look, seen) {
            (Some(look), Some(seen)) => AuditLine::of(t, seen.audit.as_ref(), look.at),
            _ => None,
        };
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
            lost: seen
                .filter(|_| audit.as_ref().is_none_or(|line| !line.missing))
                .map_or_else(String::new, |seen| {
                    let o = &seen.overview;
                    let [published, pending, dead] = [o.published, o.pending, o.dead].map(format::number);
                    t.lost_why(&published, &pending, &dead)
                }),
            audit,
            dependencies: look.map_or_else(Vec::new, |look| dependencies(t, look)),
            groups: seen.map_or_else(Vec::new, |seen| {
                let groups = seen.dead.iter().take(5);
                groups
                    .map(|group| Group {
                        href: super::dead::class_href(&group.error_class),
                        class: group.error_class.clone(),
                        count: format::counted(group.count, group.exact),
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

impl AuditLine {
    /// None: the last audit is of these days and found nothing missing.
    fn of(t: Lang, audit: Option<&Audit>, now: DateTime<Utc>) -> Option<Self> {
        let href = audit.map_or_else(|| "/audits".to_owned(), |audit| format!("/audits/{}", audit.id));
        let missing = audit.map_or(0, |audit| audit.counts.missing);
        let text = match audit {
            None => t.a_told_none().to_owned(),
            Some(audit) if missing > 0 => {
                t.a_told_missing(&format::time(audit.started_at).human, &format::number(missing))
            }
            Some(audit) if now - audit.started_at > AUDIT_OLD => t.a_told_old(&format::since(t, audit.started_at, now)),
            Some(_) => return None,
        };
        Some(Self {
            missing: missing > 0,
            text,
            href,
        })
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
        Verdict::Missing => t.v_missing(),
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
            Verdict::Missing => t.v_missing_why(),
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
