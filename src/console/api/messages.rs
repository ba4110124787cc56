//! `/admin/api/messages`: the log, and one message's whole life.

use std::io;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use serde_json::value::{RawValue, to_raw_value};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{failed, page_limit};
use crate::{
    console::{ConsoleState, auth::Operator, request::Filter},
    http::{catalogue::Code, problem::Problem},
    jobs::status::{JobView, read_job},
    outbox::{
        dead_letters::{DeadLetter, read_dead_letters},
        export::{Export, ExportFormat},
        instant,
        query::{self, Matching, MessageFilter, MessageState, MessageStatus, SameKey},
        record::for_each_header,
        replays::read_replay,
    },
};

/// Replays of one message that are listed with it at most.
const REPLAYS_SHOWN: i64 = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// Only below this outbox id: the `next` of the page before
    after: Option<i64>,
    /// Rows on the page, 1 to 1000; 50 when absent
    limit: Option<i64>,
    /// Only in this state
    #[param(inline)]
    state: Option<MessageState>,
    /// Only with this Kafka key, which is an event draft's id
    key: Option<Uuid>,
    /// The same by its other name
    draft: Option<Uuid>,
    /// Only of this job: its first message and the replays of it
    job: Option<Uuid>,
    /// Only of this user's jobs
    user: Option<Uuid>,
    /// Written at this time or later, RFC 3339
    #[serde(default, deserialize_with = "instant::optional")]
    from: Option<DateTime<Utc>>,
    /// Written before this time, RFC 3339
    #[serde(default, deserialize_with = "instant::optional")]
    to: Option<DateTime<Utc>>,
    /// Only dead letters of this class
    error_class: Option<String>,
    /// Only written by this replay
    replay: Option<Uuid>,
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageList {
    /// Newest first.
    rows: Vec<MessageStatus>,
    /// `after` of the next page; null: this is the last.
    next: Option<i64>,
    /// The page ended because it had looked at as many rows as one page may, not because there are no more: `next`
    /// goes on from there.
    bounded: bool,
    /// How many match, this page and those behind it.
    matching: Matching,
}

/// Messages, newest first.
#[utoipa::path(
    get, path = "/admin/api/messages", operation_id = "list_messages", tag = "operators", params(Asked),
    responses((status = 200, description = "A page of messages", body = MessageList))
)]
pub(super) async fn list(
    State(console): State<ConsoleState>,
    _: Operator,
    Filter(asked): Filter<Asked>,
) -> Result<Json<MessageList>, Problem> {
    let mut conn = console.conn().await?;
    let filter = asked.filter(&mut conn).await?;
    let page = query::list_messages(&mut conn, &filter).await.map_err(failed)?;
    Ok(Json(MessageList {
        rows: page.rows,
        next: page.next,
        bounded: page.bounded,
        matching: page.matching,
    }))
}

impl Asked {
    /// Of a replay that there is.
    async fn filter(self, conn: &mut PgConnection) -> Result<MessageFilter, Problem> {
        let filter = self.narrow()?;
        if let Some(id) = filter.replay
            && read_replay(conn, id).await.map_err(failed)?.is_none()
        {
            return Err(Problem::new(Code::NotFound).detail(format!("there is no replay {id}")));
        }
        Ok(filter)
    }

    /// As it was asked.
    pub(crate) fn narrow(self) -> Result<MessageFilter, Problem> {
        let wrong = |why: &'static str| Err(Problem::new(Code::MalformedQuery).detail(why));
        let draft = match (self.key, self.draft) {
            (Some(key), Some(draft)) if key != draft => {
                return wrong("key and draft are one thing, and name two: give one of them");
            }
            (key, draft) => key.or(draft),
        };
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            return wrong("from is not before to");
        }
        if self.error_class.is_some() && self.state.is_some_and(|state| state != MessageState::Dead) {
            return wrong("only a dead message has an error_class: leave state out, or make it dead");
        }
        Ok(MessageFilter {
            after: self.after,
            limit: page_limit(self.limit)?,
            state: self.state,
            job: self.job,
            draft,
            user: self.user,
            from: self.from,
            to: self.to,
            error_class: self.error_class,
            replay: self.replay,
        })
    }
}

/// All messages that a list would show, newest first, as one file. It is written while it is read, a page after the
/// other; a file that could not be finished ends in the middle of the transfer. In CSV, text that a spreadsheet would
/// take for a formula begins with an apostrophe. `limit` is refused.
#[utoipa::path(
    get, path = "/admin/api/messages/export/{format}", operation_id = "export_messages", tag = "operators",
    params(("format" = inline(ExportFormat), Path, description = "`csv` or `ndjson`"), Asked),
    responses((status = 200, description = "As `dispatcher outbox export`",
        content((String = "text/csv"), (String = "application/x-ndjson"))))
)]
pub(super) async fn export(
    State(console): State<ConsoleState>,
    _: Operator,
    Path(format): Path<String>,
    Filter(asked): Filter<Asked>,
) -> Result<Response, Problem> {
    let (format, kind, name) = match &*format {
        "csv" => (ExportFormat::Csv, "text/csv; charset=utf-8", "messages.csv"),
        "ndjson" => (ExportFormat::Ndjson, "application/x-ndjson", "messages.ndjson"),
        _ => return Err(Problem::new(Code::NotFound).detail("an export is csv or ndjson")),
    };
    if asked.limit.is_some() {
        return Err(Problem::new(Code::MalformedQuery).detail("an export has no limit: it is all that matches"));
    }
    let mut conn = console.conn().await?;
    let mut export = Export::new(format, asked.filter(&mut conn).await?);
    // What fails at once is still a problem, and no file.
    let first = export.next(&mut conn).await.map_err(failed)?;
    drop(conn);
    let first = stream::iter(first.map(|part| Ok(Bytes::from(part.bytes))));
    let rest = stream::try_unfold((export, console), async |(mut export, console)| {
        let part = async {
            // Given back after each page: who reads slowly holds none.
            let mut conn = console.pool.acquire().await?;
            export.next(&mut conn).await
        };
        let Some(part) = console.stop.run_until_cancelled(part).await else {
            return Err(io::Error::other("the service stops"));
        };
        let part = part.map_err(|error| {
            tracing::warn!(%error, "an export was not finished");
            io::Error::other(error)
        })?;
        Ok(part.map(|part| (Bytes::from(part.bytes), (export, console))))
    });
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::try_from(disposition).expect("names are ASCII"),
        ),
    ];
    Ok((headers, Body::from_stream(first.chain(rest))).into_response())
}

/// One message's whole life.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageLife {
    /// Where it stands.
    #[serde(flatten)]
    pub status: MessageStatus,
    /// `ce_time`: when the job was accepted.
    pub event_time: DateTime<Utc>,
    /// The job's owner; null when the job's partition was dropped.
    pub user_id: Option<Uuid>,
    /// As they are sent.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub headers: Headers,
    /// As it is sent.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// When it is one, or was until it was retried or discarded.
    pub dead_letter: Option<DeadLetter>,
    /// Newest first, at most 100.
    pub replays: Vec<MessageStatus>,
    /// The messages before and after it of the same key.
    pub same_key: SameKey,
    /// What became of the job, as its owner sees it; null when the job's partition was dropped.
    pub job: Option<JobView>,
}

/// In the order in which they are sent.
#[derive(Debug)]
pub struct Headers(pub Vec<(&'static str, String)>);

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// One message: payload, headers, receipt, dead letter, replays, its neighbours of the same key, its job.
#[utoipa::path(
    get, path = "/admin/api/messages/{id}", operation_id = "show_message", tag = "operators",
    params(("id" = String, Path, description = "An outbox id, or a job's id: then its first message")),
    responses((status = 200, description = "The message's whole life", body = MessageLife))
)]
pub(super) async fn show(
    State(console): State<ConsoleState>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<MessageLife>, Problem> {
    let mut conn = console.conn().await?;
    let missing = |what: String| Problem::new(Code::NotFound).detail(what);
    let id = match (id.parse::<i64>(), Uuid::try_parse(&id)) {
        (Ok(id), _) => id,
        (_, Ok(job)) => query::find_first_message(&mut conn, job)
            .await
            .map_err(failed)?
            .ok_or_else(|| missing(format!("there is no job {job}")))?,
        _ => return Err(Problem::new(Code::MalformedId).detail("the id is neither an outbox id nor a job's id")),
    };
    read_life(&mut conn, id, &console.config.kafka.topic)
        .await
        .map_err(failed)?
        .map(Json)
        .ok_or_else(|| {
            missing(format!(
                "there is no message {id} in the outbox; retention may have dropped it"
            ))
        })
}

/// Reads one message's whole life; `None`: it never existed, or was dropped by retention. `topic` is shown while no
/// leader has recorded the installation's.
pub async fn read_life(conn: &mut PgConnection, id: i64, topic: &str) -> sqlx::Result<Option<MessageLife>> {
    let Some(message) = query::read_message(conn, id).await? else {
        return Ok(None);
    };
    let Some(status) = query::read_status(conn, &[id]).await?.into_iter().next() else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    for_each_header(&message, |name, value| headers.push((name, value.to_owned())));
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    let payload = match RawValue::from_string(text) {
        Ok(json) => json,
        // Not by this program: shown as text all the same.
        Err(_) => to_raw_value(&String::from_utf8_lossy(&message.payload)).expect("a string is JSON"),
    };
    let (user_id, job) = read_job(conn, message.job_id, topic).await?.unzip();
    Ok(Some(MessageLife {
        status,
        event_time: message.event_time,
        user_id,
        headers: Headers(headers),
        payload,
        dead_letter: read_dead_letters(conn, &[id]).await?.into_iter().next(),
        replays: query::list_replays_of(conn, id, REPLAYS_SHOWN).await?,
        same_key: query::find_same_key(conn, id, message.key).await?,
        job,
    }))
}
