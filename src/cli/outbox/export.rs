//! `dispatcher outbox export`: all messages that a list would show, into a file.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    super::{CliError, Context, output},
    Filter,
};
use crate::outbox::export::{Export, ExportFormat};

/// What is exported, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the rows
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    #[command(flatten)]
    filter: Filter,
}

pub(in crate::cli) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    let mut export = Export::new(args.format, args.filter.of_page(0));
    let mut out = io::stdout().lock();
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{human_pos} messages, {per_sec}").expect("the template is well-formed"),
    );
    while let Some(part) = export.next(&mut conn).await? {
        let text = String::from_utf8_lossy(&part.bytes);
        match args.format {
            ExportFormat::Ndjson => out.write_all(output::printable_json(&text).as_bytes())?,
            // CSV has no spelling of its own for control characters; in a file they stay what they are.
            ExportFormat::Csv if out.is_terminal() => out.write_all(output::printable_lines(&text).as_bytes())?,
            ExportFormat::Csv => out.write_all(&part.bytes)?,
        }
        bar.inc(part.rows as u64);
    }
    bar.finish_and_clear();
    Ok(out.flush()?)
}
