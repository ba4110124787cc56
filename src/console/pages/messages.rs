//! The table of messages. Its filter is the address, so that a view can be sent to a colleague; pages go by id.

use askama::Template;
use axum::{
    extract::{OriginalUri, State},
    http::HeaderMap,
    response::{IntoResponse as _, Redirect, Response},
};
use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::Deserialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    badge,
    chrome::{Chrome, Notice, Section, page},
    form,
    format::{self, Time},
    words::Lang,
};
use crate::{
    console::{ConsoleState, api::failed, auth::Operator, request::Filter},
    http::problem::Problem,
    outbox::instant,
    outbox::query::{self, Matching, MessageFilter, MessagePage, MessageState, MessageStatus},
};

/// Rows of a page.
const LIMIT: i64 = 50;

/// As the form sends it, and as it is shown again when it cannot be used.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Query {
    state: String,
    job: String,
    draft: String,
    user: String,
    /// Of dead letters.
    error_class: String,
    /// The operation that wrote them.
    replay: String,
    from: String,
    to: String,
    after: String,
    /// An outbox id or a job: opens it.
    open: String,
}

#[derive(Template)]
#[template(path = "messages.html")]
struct Messages {
    c: Chrome,
    query: Query,
    rows: Vec<Row>,
    /// Empty: nothing was filtered.
    count: String,
    bounded: String,
    older: Option<String>,
    newest: Option<String>,
    replay: Option<String>,
    /// Of all that the filter selects: name and address of each form; empty: it cannot be used.
    exports: Vec<(&'static str, String)>,
}

pub(super) struct Row {
    pub id: i64,
    pub badge: String,
    pub written: Time,
    pub took: String,
    pub key: String,
    pub job_id: Uuid,
    pub place: String,
    pub is_replay: bool,
    pub error: String,
}

impl Row {
    pub fn of(t: Lang, message: MessageStatus) -> Self {
        let took = message.published_at.map_or_else(String::new, |at| {
            format::span_of(t, (at - message.created_at).as_seconds_f64())
        });
        Self {
            id: message.id,
            badge: badge::of_message(t, message.state),
            written: format::time(message.created_at),
            took,
            place: match (message.partition, message.offset) {
                (Some(partition), Some(offset)) => format!("{partition} / {}", format::number(offset)),
                _ => String::new(),
            },
            key: message.key,
            job_id: message.job_id,
            is_replay: message.replay_of.is_some(),
            error: message.error.unwrap_or_default(),
        }
    }
}

/// `GET /outbox`.
pub(super) async fn show(
    State(console): State<ConsoleState>,
    operator: Operator,
    OriginalUri(uri): OriginalUri,
    Filter(query): Filter<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let here = uri.path_and_query().map_or("/outbox", |here| here.as_str());
    let mut c = Chrome::new(&console, &headers, &operator, here);
    let t = c.t;
    if !query.open.is_empty() {
        let to = query.open.trim();
        let safe: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
        return Ok(Redirect::to(&format!("/outbox/{safe}")).into_response());
    }
    let mut exports = Vec::new();
    let found = match query.filter() {
        Ok(filter) => {
            exports = query.exports(&filter);
            let mut conn = console.conn().await?;
            query::list_messages(&mut conn, &filter).await.map_err(failed)?
        }
        Err(wrong) => {
            c.notice = Some(Notice {
                tone: "bad",
                text: t.m_bad_filter(&wrong),
            });
            MessagePage {
                rows: Vec::new(),
                next: None,
                bounded: false,
                matching: Matching { count: 0, exact: true },
            }
        }
    };
    let messages = Messages {
        count: query.count(t, &found),
        bounded: if found.bounded {
            t.m_bounded().to_owned()
        } else {
            String::new()
        },
        older: found.next.map(|next| query.address(&next.to_string())),
        newest: (!query.after.is_empty()).then(|| query.address("")),
        replay: query.replay(),
        exports,
        rows: found.rows.into_iter().map(|message| Row::of(t, message)).collect(),
        query,
        c: c.titled(Section::Messages, t.m_title()),
    };
    page(&messages)
}

impl Query {
    /// What the database is asked; an error says which field cannot be used.
    fn filter(&self) -> Result<MessageFilter, String> {
        let state = match &*self.state {
            "" => None,
            "pending" => Some(MessageState::Pending),
            "published" => Some(MessageState::Published),
            "dead" => Some(MessageState::Dead),
            other => return Err(other.to_owned()),
        };
        let filter = MessageFilter {
            after: match self.after.as_str() {
                "" => None,
                id => Some(id.parse().map_err(|_| id.to_owned())?),
            },
            limit: LIMIT,
            state,
            job: uuid(&self.job)?,
            draft: uuid(&self.draft)?,
            user: uuid(&self.user)?,
            error_class: (!self.error_class.is_empty()).then(|| self.error_class.clone()),
            replay: uuid(&self.replay)?,
            from: time(&self.from)?,
            to: time(&self.to)?,
        };
        match (filter.from, filter.to) {
            (Some(from), Some(to)) if from >= to => Err(format!("{from} ≥ {to}")),
            _ => Ok(filter),
        }
    }

    /// All that narrows.
    fn fields(&self) -> [(&'static str, &str); 8] {
        [
            ("state", &self.state),
            ("job", &self.job),
            ("draft", &self.draft),
            ("user", &self.user),
            ("error_class", &self.error_class),
            ("replay", &self.replay),
            ("from", &self.from),
            ("to", &self.to),
        ]
    }

    fn is_filtered(&self) -> bool {
        self.fields().iter().any(|(_, value)| !value.is_empty())
    }

    fn count(&self, t: Lang, found: &MessagePage) -> String {
        let count = format::number(found.matching.count);
        match found.matching.exact {
            _ if !self.is_filtered() || !self.after.is_empty() => String::new(),
            true => t.m_count(&count),
            false => t.m_count_at_least(&count),
        }
    }

    /// This view, from another id on.
    fn address(&self, after: &str) -> String {
        form::address("/outbox", self.fields().into_iter().chain([("after", after)]))
    }

    /// The same selection, whole, from the admin API, which takes times as programs write them.
    fn exports(&self, filter: &MessageFilter) -> Vec<(&'static str, String)> {
        let time = |at: Option<DateTime<Utc>>| {
            at.map_or_else(String::new, |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        };
        let (from, to) = (time(filter.from), time(filter.to));
        let fields = self.fields().map(|(name, value)| match name {
            "from" => (name, &*from),
            "to" => (name, &*to),
            _ => (name, value.trim()),
        });
        [("CSV", "csv"), ("NDJSON", "ndjson")]
            .map(|(name, format)| {
                (
                    name,
                    form::address(&format!("/admin/api/messages/export/{format}"), fields),
                )
            })
            .to_vec()
    }

    /// To the form of a replay of the same selection; none when a replay cannot select by it.
    fn replay(&self) -> Option<String> {
        if !self.is_filtered() || !matches!(&*self.state, "" | "published") {
            return None;
        }
        if !self.error_class.is_empty() || !self.replay.is_empty() {
            return None;
        }
        let window = [
            ("key", &*self.draft),
            ("user", &self.user),
            ("from", &self.from),
            ("to", &self.to),
        ];
        Some(if self.job.is_empty() {
            form::address("/replays/new", window)
        } else {
            form::address("/replays/new", [("jobs", &*self.job)])
        })
    }
}

/// A UUID; none when the field is empty.
pub(super) fn uuid(text: &str) -> Result<Option<Uuid>, String> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| text.to_owned()),
    }
}

/// A time: RFC 3339, or as a browser's field sends it, which is UTC here.
pub(super) fn time(text: &str) -> Result<Option<DateTime<Utc>>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let naive = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S"]
        .iter()
        .find_map(|pattern| NaiveDateTime::parse_from_str(text, pattern).ok());
    let written = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    let time = naive.map(|naive| naive.and_utc()).or(written);
    match time.filter(|time| instant::is_in_range(*time)) {
        Some(time) => Ok(Some(time)),
        None => Err(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_browsers_and_as_programs_write_them() {
        let expected = "2026-11-26T11:00:00Z".parse().expect("a time");
        for text in [
            "2026-11-26T11:00",
            "2026-11-26T11:00:00",
            "2026-11-26T20:00:00+09:00",
            " 2026-11-26 11:00:00 ",
        ] {
            assert_eq!(time(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(time(""), Ok(None));
        for text in ["yesterday", "-10000-11-26T11:00", "+10000-11-26T11:00"] {
            assert_eq!(time(text), Err(text.to_owned()));
        }
    }

    #[test]
    fn an_address_keeps_the_filter_and_nothing_that_is_empty() {
        let query = Query {
            state: "dead".to_owned(),
            from: "2026-11-26T11:00".to_owned(),
            ..Query::default()
        };
        assert_eq!(query.address("7"), "/outbox?state=dead&from=2026-11-26T11%3A00&after=7");
        assert_eq!(Query::default().address(""), "/outbox");
        assert_eq!(query.replay(), None, "a dead letter is retried, not replayed");
    }
}
