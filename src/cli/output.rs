//! How rows are printed: for people, or for programs.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::CliError;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Ndjson,
}

/// Prints rows: a table of the named columns, one JSON array, or one JSON object a line. The JSON forms carry every
/// field of a row, the table only the columns named; a row must serialize to an object.
pub fn rows<T: Serialize>(format: Format, columns: &[&str], rows: &[T]) -> Result<(), CliError> {
    let mut out = Vec::new();
    render_rows(&mut out, format, columns, rows, style())?;
    print(&out)
}

/// Prints one thing: the named fields below each other, or one JSON object with all of them.
pub fn one<T: Serialize>(format: Format, columns: &[&str], row: &T) -> Result<(), CliError> {
    let mut out = Vec::new();
    render_one(&mut out, format, columns, row, style())?;
    print(&out)
}

fn print(text: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    Ok(stdout.flush()?)
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Bold,
}

/// <https://no-color.org>: bold is no colour, but who sets it wants plain text.
fn style() -> Style {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !refused {
        Style::Bold
    } else {
        Style::Plain
    }
}

fn render_rows<T: Serialize>(
    out: &mut Vec<u8>,
    format: Format,
    columns: &[&str],
    rows: &[T],
    style: Style,
) -> Result<(), CliError> {
    match format {
        Format::Json => json_line(out, &rows),
        Format::Ndjson => rows.iter().try_for_each(|row| json_line(out, row)),
        Format::Table => {
            let mut table = table();
            table.set_header(columns.iter().map(|column| heading(column, style)));
            for row in rows {
                let row = serde_json::to_value(row).map_err(anyhow::Error::from)?;
                table.add_row(columns.iter().map(|column| cell(&row[*column])));
            }
            write_table(out, &table)
        }
    }
}

fn render_one<T: Serialize>(
    out: &mut Vec<u8>,
    format: Format,
    columns: &[&str],
    row: &T,
    style: Style,
) -> Result<(), CliError> {
    match format {
        Format::Json | Format::Ndjson => json_line(out, row),
        Format::Table => {
            let mut table = table();
            let row = serde_json::to_value(row).map_err(anyhow::Error::from)?;
            for column in columns {
                table.add_row([heading(column, style), cell(&row[*column])]);
            }
            write_table(out, &table)
        }
    }
}

fn json_line<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), CliError> {
    let json = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    Ok(writeln!(out, "{}", printable_json(&json))?)
}

/// On a narrower terminal, or one that does not say how wide it is, cells are not broken into pieces.
const LEAST_WIDTH: u16 = 40;

/// Borderless, and as wide as it needs to be where nobody watches: pipes cut columns by themselves.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width >= LEAST_WIDTH) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

fn write_table(out: &mut Vec<u8>, table: &Table) -> Result<(), CliError> {
    for line in table.lines() {
        // Each cell is padded on both sides.
        writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

fn heading(name: &str, style: Style) -> Cell {
    let cell = Cell::new(name.replace('_', " "));
    match style {
        Style::Plain => cell,
        Style::Bold => cell.add_attribute(Attribute::Bold),
    }
}

fn cell(value: &Value) -> Cell {
    Cell::new(match value {
        Value::Null => Cow::Borrowed("-"),
        Value::String(text) => printable(text),
        other => Cow::Owned(other.to_string()),
    })
}

/// Says something to people, on standard error and in one line, whatever of it was written by others.
pub(super) fn tell(text: &str) {
    eprintln!("{}", printable(text));
}

/// Users' text may hold escape sequences that would rule the operator's terminal: control characters are spelt out.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    spelt(text, char::is_control, |c| c.escape_default().to_string())
}

/// The same of each line.
pub(super) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// The same JSON: `serde_json` spells out only the control characters below U+0020, and a terminal obeys those of
/// U+0080 to U+009F as well.
pub(super) fn printable_json(json: &str) -> Cow<'_, str> {
    spelt(
        json,
        |c| ('\u{7f}'..='\u{9f}').contains(&c),
        |c| format!("\\u{:04x}", u32::from(c)),
    )
}

fn spelt(text: &str, which: fn(char) -> bool, spell: fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(which) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if which(c) {
            out.push_str(&spell(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        outbox_id: i64,
        title: &'static str,
        error: Option<&'static str>,
    }

    const ROWS: [Row; 2] = [
        Row {
            outbox_id: 7,
            title: "plain",
            error: None,
        },
        Row {
            outbox_id: 8,
            title: "a\nb\u{1b}[31m\u{9b}",
            error: Some("refused"),
        },
    ];

    fn text(format: Format) -> String {
        let mut out = Vec::new();
        render_rows(&mut out, format, &["outbox_id", "title"], &ROWS, Style::Plain).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_the_named_columns_and_one_line_a_row() {
        let text = text(Format::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["outbox", "id", "title"]
        );
        assert!(
            !text.contains("refused") && !text.contains('\u{1b}') && !text.contains('\u{9b}'),
            "{text:?}"
        );
    }

    #[test]
    fn json_is_one_array_and_ndjson_one_object_a_line() {
        for format in [Format::Json, Format::Ndjson] {
            let text = text(format);
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        }
        let array: Vec<Value> = serde_json::from_str(&text(Format::Json)).unwrap();
        let lines: Vec<Value> = text(Format::Ndjson)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(array, lines);
        assert_eq!(array[1]["title"], "a\nb\u{1b}[31m\u{9b}");
        assert_eq!(array[1]["error"], "refused");
    }

    #[test]
    fn one_thing_shows_one_field_a_line() {
        let mut out = Vec::new();
        render_one(
            &mut out,
            Format::Table,
            &["title", "outbox_id", "error"],
            &ROWS[0],
            Style::Plain,
        )
        .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("outbox id") && text.contains('-'), "{text}");
    }
}
