//! `dispatcher config check|show`.

use std::io::Write;

use serde::Serialize;

use super::{CliError, Format, output};
use crate::config::{Config, Sources};

/// Check or show the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Say whether the configuration can be used, and what is wrong with it
    Check,
    /// List every key with its value and where the value is from; secrets are hidden
    Show,
}

/// What `config check` prints for programs; what cannot be used is an error.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    /// What is allowed and probably not meant.
    notes: Vec<String>,
}

/// A row of `config show`.
#[derive(Debug, Serialize)]
struct Row<'a> {
    key: &'a str,
    value: String,
    source: String,
}

pub(super) fn run(args: &Args, sources: &Sources, format: Format) -> Result<(), CliError> {
    let config = Config::load(sources)?;
    match args {
        Args::Check => {
            let notes = config.notes();
            if format != Format::Table {
                return output::one(format, &[], &Checked { ok: true, notes });
            }
            for note in notes {
                eprintln!("note: {note}");
            }
            Ok(writeln!(std::io::stdout(), "ok")?)
        }
        Args::Show => {
            let rows: Vec<Row> = config
                .settings()
                .iter()
                .map(|(key, value, origin)| Row {
                    key,
                    value,
                    source: origin.to_string(),
                })
                .collect();
            output::rows(format, &["key", "value", "source"], &rows)
        }
    }
}
