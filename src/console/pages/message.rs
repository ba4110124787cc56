//! One message and its whole life.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use uuid::Uuid;

use super::{
    badge,
    chrome::{Chrome, Section, page},
    format::{self, Time},
    messages::Row,
    words::Lang,
};
use crate::{
    console::{
        ConsoleState,
        api::{
            failed,
            messages::{MessageLife, read_life},
        },
        auth::Operator,
        monitor::verdict::Tone,
    },
    http::{catalogue::Code, problem::Problem},
    jobs::status::{Answer, list_answers},
    outbox::{
        dead_letters::Resolution,
        query::{self, MessageState},
    },
};

/// Characters of a payload that are shown; a message can have a megabyte.
const PAYLOAD: usize = 64 * 1024;

#[derive(Template)]
#[template(path = "message.html")]
struct Message {
    c: Chrome,
    id: i64,
    badge: String,
    life: Vec<Step>,
    images: Vec<Picture>,
    facts: Vec<Fact>,
    payload: String,
    headers: Vec<(&'static str, String)>,
    /// Null: it is not dead, or decided about.
    undecided: bool,
    error: String,
    previous: Option<i64>,
    next: Option<i64>,
    near: String,
    rows: Vec<Row>,
}

/// What happened, and when.
struct Step {
    tone: &'static str,
    icon: &'static str,
    what: String,
    detail: String,
    at: Option<Time>,
    /// Since the step before.
    after: String,
}

struct Fact {
    name: &'static str,
    value: String,
    /// Empty: no link.
    href: String,
}

struct Picture {
    style: String,
    url: String,
    /// Only what a browser fetches and does not run.
    is_link: bool,
}

/// `GET /outbox/{id}`: an outbox id, or a job's, which leads to its message.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let c = Chrome::new(&console, &headers, &operator, &format!("/outbox/{asked}"));
    let t = c.t;
    let missing = || Problem::new(Code::NotFound).detail(t.o_missing(&asked));
    let mut conn = console.conn().await?;
    if let Ok(job) = asked.parse::<Uuid>() {
        let first = query::find_first_message(&mut conn, job).await.map_err(failed)?;
        let id = first.ok_or_else(missing)?;
        return Ok(Redirect::to(&format!("/outbox/{id}")).into_response());
    }
    let id: i64 = asked.parse().map_err(|_| missing())?;
    let life = read_life(&mut conn, id, &console.config.kafka.topic).await;
    let life = life.map_err(failed)?.ok_or_else(missing)?;
    let answers = list_answers(&mut conn, life.status.job_id).await.map_err(failed)?;
    drop(conn);
    let message = Message {
        id,
        badge: badge::of_message(t, life.status.state),
        life: steps(t, &life, &answers),
        images: pictures(&answers),
        facts: facts(t, &life),
        payload: payload(life.payload.get()),
        undecided: life.dead_letter.as_ref().is_some_and(|dead| dead.resolution.is_none()),
        error: life.status.error.clone().unwrap_or_default(),
        previous: life.same_key.previous,
        next: life.same_key.next,
        near: t.o_none_near(&format::number(life.same_key.looked_at)),
        rows: life.replays.into_iter().map(|message| Row::of(t, message)).collect(),
        headers: life.headers.0,
        c: c.titled(Section::Messages, t.o_title(id)),
    };
    page(&message)
}

/// In the order in which it happened.
fn steps(t: Lang, found: &MessageLife, answers: &[Answer]) -> Vec<Step> {
    let step = |tone, what: String, detail: String, at| Step {
        tone: badge::tone_class(tone),
        icon: badge::icon(tone),
        what,
        detail,
        at,
        after: String::new(),
    };
    let status = &found.status;
    let mut life = vec![(
        Some(found.event_time),
        step(Tone::Good, t.o_accepted().to_owned(), String::new(), None),
    )];
    if status.replay_of.is_some() {
        life.push((
            Some(status.created_at),
            step(Tone::Good, t.o_written().to_owned(), String::new(), None),
        ));
    }
    match (status.state, &found.dead_letter) {
        (MessageState::Published, _) => {
            let place = match (status.partition, status.offset) {
                (Some(partition), Some(offset)) => t.o_published_at(partition, &format::number(offset)),
                _ => t.o_no_receipt().to_owned(),
            };
            life.push((
                status.published_at,
                step(Tone::Good, t.o_published().to_owned(), place, None),
            ));
        }
        (_, Some(dead)) => {
            life.push((
                Some(dead.died_at),
                step(Tone::Bad, t.o_died().to_owned(), dead.error.clone(), None),
            ));
            let by = dead.resolved_by.as_deref().unwrap_or_default();
            let reason = dead
                .reason
                .as_deref()
                .map_or_else(String::new, |reason| t.reason_given(reason));
            match dead.resolution {
                Some(Resolution::Retried) => {
                    life.push((dead.resolved_at, step(Tone::Good, t.o_retried(by), reason, None)));
                }
                Some(Resolution::Discarded) => {
                    life.push((dead.resolved_at, step(Tone::Busy, t.o_discarded(by), reason, None)));
                }
                None => {}
            }
        }
        _ => life.push((
            None,
            step(Tone::Busy, t.o_pending().to_owned(), t.o_pending_why().to_owned(), None),
        )),
    }
    for answer in answers {
        let tone = match &*answer.status {
            "COMPLETED" => Tone::Good,
            "FAILED" => Tone::Bad,
            _ => Tone::Busy,
        };
        let detail = answer.error.clone().unwrap_or_default();
        life.push((
            Some(answer.recorded_at),
            step(tone, t.o_answered(&answer.status), detail, None),
        ));
    }
    if answers.is_empty() && status.state == MessageState::Published {
        life.push((None, step(Tone::Busy, t.o_unanswered().to_owned(), String::new(), None)));
    }
    // A replay comes long after its job's answer: what has no time yet is last.
    life.sort_by_key(|(at, _)| at.map_or(i64::MAX, |at| at.timestamp_micros()));
    let mut before = None;
    life.into_iter()
        .map(|(at, step)| {
            let after = match (before, at) {
                (Some(before), Some(at)) => format!("+{}", format::since(t, before, at)),
                _ => String::new(),
            };
            before = at.or(before);
            Step {
                at: at.map(format::time),
                after,
                ..step
            }
        })
        .collect()
}

fn facts(t: Lang, found: &MessageLife) -> Vec<Fact> {
    let status = &found.status;
    let plain = |name, value: String| Fact {
        name,
        value,
        href: String::new(),
    };
    let mut facts = vec![
        Fact {
            href: format!("/outbox?job={}", status.job_id),
            ..plain(t.m_job(), status.job_id.to_string())
        },
        Fact {
            href: format!("/outbox?draft={}", status.key),
            ..plain(t.m_draft(), status.key.clone())
        },
        plain(t.o_event_id(), status.event_id.to_string()),
        plain(
            t.o_owner(),
            found
                .user_id
                .map_or_else(|| t.unknown().to_owned(), |owner| owner.to_string()),
        ),
        plain(
            t.o_topic(),
            status.topic.clone().unwrap_or_else(|| t.unknown().to_owned()),
        ),
        plain(t.o_size(), format::bytes(found.payload.get().len() as i64)),
    ];
    if let Some(original) = status.replay_of {
        facts.push(Fact {
            href: format!("/outbox/{original}"),
            ..plain(t.m_replay(), t.o_replay_of(original))
        });
    }
    if let Some(replay) = status.replay_id {
        facts.push(Fact {
            href: format!("/replays/{replay}"),
            ..plain(t.o_by_replay(), replay.to_string())
        });
    }
    facts
}

fn pictures(answers: &[Answer]) -> Vec<Picture> {
    let images = answers.iter().filter_map(|answer| answer.images.as_ref());
    images
        .flat_map(|images| images.iter())
        .map(|image| Picture {
            style: format!("{:?}", image.style).to_uppercase(),
            is_link: image.url.starts_with("https://") || image.url.starts_with("http://"),
            url: image.url.clone(),
        })
        .collect()
}

/// JSON set out for people, its numbers untouched, and cut off where it is long.
fn payload(json: &str) -> String {
    let mut shown = indent(json);
    if shown.len() > PAYLOAD {
        let end = shown.floor_char_boundary(PAYLOAD);
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// Sets valid JSON out, two spaces a level. No value is parsed: numbers keep every digit, and the order stays.
fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth * 2));
    };
    while let Some(c) = chars.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_set_out_and_not_changed() {
        let json = r#"{"a": 1.000000000000000000001,"b":[ ],"c":{"d\"}":["x, y","\\"]},"e":null}"#;
        let expected = "{\n  \"a\": 1.000000000000000000001,\n  \"b\": [],\n  \"c\": {\n    \"d\\\"}\": [\n      \
                        \"x, y\",\n      \"\\\\\"\n    ]\n  },\n  \"e\": null\n}";
        assert_eq!(payload(json), expected);
        let long = format!("{:?}", "카".repeat(PAYLOAD));
        assert!(payload(&long).len() <= PAYLOAD + '…'.len_utf8());
    }
}
