//! `dispatcher asyncapi`.

use std::io::Write as _;

use super::CliError;
use crate::messages::asyncapi;

/// Arguments of `asyncapi`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the JSON Schema of one topic's value instead
    #[arg(long, value_enum)]
    schema: Option<Topic>,
}

/// Of which topic.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Topic {
    /// image-job-topic
    Job,
    /// image-job-result-topic
    Result,
}

/// Prints the document, byte for byte as it is committed.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let text = match args.schema {
        None => asyncapi::text(),
        Some(Topic::Job) => asyncapi::job_schema(),
        Some(Topic::Result) => asyncapi::result_schema(),
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
