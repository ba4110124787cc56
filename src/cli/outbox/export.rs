//! `dispatcher outbox export`: all messages that a list would show, page by page, into a file.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    super::{CliError, Context},
    Filter,
};
use crate::outbox::query::{self, MessageStatus};

/// Rows that are in memory at once.
const PAGE: i64 = 1_000;

/// What is exported, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the rows
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    #[command(flatten)]
    filter: Filter,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
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

pub(in crate::cli) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    let mut filter = args.filter.of_page(PAGE);
    let mut out = Rows::new(args.format, BufWriter::new(io::stdout()))?;
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{human_pos} messages, {per_sec}").expect("the template is well-formed"),
    );
    loop {
        let page = query::list_messages(&mut conn, &filter).await?;
        for row in &page.rows {
            out.write(row)?;
        }
        bar.inc(page.rows.len() as u64);
        let Some(next) = page.next else { break };
        filter.after = Some(next);
    }
    bar.finish_and_clear();
    out.finish()
}

/// Where rows go.
enum Rows<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Ndjson(W),
}

impl<W: Write> Rows<W> {
    fn new(format: ExportFormat, out: W) -> Result<Self, CliError> {
        Ok(match format {
            ExportFormat::Ndjson => Self::Ndjson(out),
            ExportFormat::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(COLUMNS).map_err(from_csv)?;
                Self::Csv(Box::new(writer))
            }
        })
    }

    fn write(&mut self, row: &MessageStatus) -> Result<(), CliError> {
        match self {
            Self::Csv(writer) => writer
                .write_record(cells(row).iter().map(|cell| cell.as_bytes()))
                .map_err(from_csv),
            Self::Ndjson(out) => {
                let line = serde_json::to_vec(row).map_err(anyhow::Error::from)?;
                out.write_all(&line)?;
                Ok(out.write_all(b"\n")?)
            }
        }
    }

    fn finish(self) -> Result<(), CliError> {
        match self {
            Self::Csv(mut writer) => Ok(writer.flush()?),
            Self::Ndjson(mut out) => Ok(out.flush()?),
        }
    }
}

fn from_csv(error: csv::Error) -> CliError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => CliError::Failed(anyhow::anyhow!("a row cannot be written as CSV: {other:?}")),
    }
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
        text(&m.state),
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

    use super::*;

    fn row(error: &str) -> MessageStatus {
        MessageStatus {
            id: 7,
            event_id: Uuid::nil(),
            job_id: Uuid::nil(),
            topic: None,
            key: "k".to_owned(),
            state: "dead".to_owned(),
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
        let mut out = Vec::new();
        let mut rows = Rows::new(ExportFormat::Csv, &mut out).unwrap();
        rows.write(&row(error)).unwrap();
        rows.finish().unwrap();
        out
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
