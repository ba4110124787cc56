//! An export: all messages that a list would show, newest first, a page after the other, as CSV or as JSON. Only one
//! page is in memory.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use sqlx::PgConnection;

use super::query::{self, Late, MessageFilter, MessageStatus};

/// Rows that are in memory at once.
const PAGE: i64 = 1_000;

/// Form of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// A header and a line for each message (RFC 4180); text that a spreadsheet would take for a formula begins with '
    #[default]
    Csv,
    /// One JSON object a line
    Ndjson,
}

/// The columns of a CSV file: the fields of the JSON.
const COLUMNS: [&str; 13] = [
    "id",
    "event_id",
    "job_id",
    "topic",
    "key",
    "state",
    "created_at",
    "published_at",
    "partition",
    "offset",
    "replay_of",
    "replay_id",
    "error",
];

/// An export under way.
#[derive(Debug)]
pub struct Export {
    format: ExportFormat,
    filter: MessageFilter,
    begun: bool,
    ended: bool,
}

/// A part of the file.
#[derive(Debug)]
pub struct Part {
    /// To be written behind the part before.
    pub bytes: Vec<u8>,
    /// Messages in it.
    pub rows: usize,
}

impl Export {
    /// Of what `filter` selects, whatever its limit.
    pub fn new(format: ExportFormat, filter: MessageFilter) -> Self {
        Self {
            format,
            filter: MessageFilter { limit: PAGE, ..filter },
            begun: false,
            ended: false,
        }
    }

    /// Reads and writes the next page; `None`: that was all. Messages that are written meanwhile are not part of it.
    pub async fn next(&mut self, conn: &mut PgConnection) -> sqlx::Result<Option<Part>> {
        if self.ended {
            return Ok(None);
        }
        let page = query::list_messages_as_late(conn, &self.filter, Late::AT_MOST).await?;
        let bytes = match self.format {
            ExportFormat::Csv => csv_of_page(&page.rows, !self.begun),
            ExportFormat::Ndjson => ndjson_of_page(&page.rows),
        };
        self.begun = true;
        self.ended = page.next.is_none();
        self.filter.after = page.next;
        Ok(Some(Part {
            bytes,
            rows: page.rows.len(),
        }))
    }
}

fn csv_of_page(rows: &[MessageStatus], header: bool) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if header {
        writer.write_record(COLUMNS).expect("a Vec takes all");
    }
    for row in rows {
        let cells = cells(row);
        writer
            .write_record(cells.iter().map(|cell| cell.as_bytes()))
            .expect("a Vec takes all, and each row has the columns of the first");
    }
    writer.into_inner().expect("a Vec takes all")
}

fn ndjson_of_page(rows: &[MessageStatus]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut out, row).expect("a Vec takes all, and a row has nothing that JSON has not");
        out.push(b'\n');
    }
    out
}

fn cells(m: &MessageStatus) -> [Cow<'_, str>; 13] {
    let time = |t: DateTime<Utc>| Cow::Owned(t.to_rfc3339_opts(SecondsFormat::Micros, true));
    let number = |n: Option<i64>| n.map_or(Cow::Borrowed(""), |n| Cow::Owned(n.to_string()));
    [
        Cow::Owned(m.id.to_string()),
        Cow::Owned(m.event_id.to_string()),
        Cow::Owned(m.job_id.to_string()),
        text(m.topic.as_deref().unwrap_or_default()),
        text(&m.key),
        Cow::Borrowed(m.state.as_str()),
        time(m.created_at),
        m.published_at.map_or(Cow::Borrowed(""), time),
        number(m.partition.map(i64::from)),
        number(m.offset),
        number(m.replay_of),
        m.replay_id.map_or(Cow::Borrowed(""), |id| Cow::Owned(id.to_string())),
        text(m.error.as_deref().unwrap_or_default()),
    ]
}

/// A spreadsheet computes what begins with one of these (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn text(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{super::query::MessageState, *};

    fn row(error: &str) -> MessageStatus {
        MessageStatus {
            id: 7,
            event_id: Uuid::nil(),
            job_id: Uuid::nil(),
            topic: None,
            key: "k".to_owned(),
            state: MessageState::Dead,
            created_at: DateTime::UNIX_EPOCH,
            published_at: None,
            partition: None,
            offset: None,
            replay_of: Some(3),
            replay_id: None,
            error: Some(error.to_owned()),
        }
    }

    fn csv_of(error: &str) -> Vec<u8> {
        csv_of_page(&[row(error)], true)
    }

    #[test]
    fn a_formula_is_written_as_text_and_everything_else_comes_back_as_it_was() {
        for (error, written) in [
            ("=HYPERLINK(\"http://x\",\"y\")", "'=HYPERLINK(\"http://x\",\"y\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("too large, \"really\"\nso", "too large, \"really\"\nso"),
            ("", ""),
        ] {
            let out = csv_of(error);
            let mut reader = csv::Reader::from_reader(out.as_slice());
            assert_eq!(reader.headers().unwrap(), COLUMNS.as_slice());
            let read = reader.records().next().unwrap().unwrap();
            assert_eq!((&read[12], &read[10], &read[11]), (written, "3", ""));
        }
    }

    #[test]
    fn a_csv_file_has_the_fields_of_the_json_in_their_order() {
        let json = serde_json::to_string(&row("")).unwrap();
        let places: Vec<_> = COLUMNS.map(|column| json.find(&format!("\"{column}\":"))).into();
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "{places:?} in {json}"
        );
    }
}
