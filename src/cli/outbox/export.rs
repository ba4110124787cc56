//! `dispatcher outbox export`: all messages that a list would show, into a file.

use std::io::{self, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    super::{CliError, Context},
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
        out.write_all(&part.bytes)?;
        bar.inc(part.rows as u64);
    }
    bar.finish_and_clear();
    Ok(out.flush()?)
}
