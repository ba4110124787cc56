//! `dispatcher migrate`: brings the schema up to date.

use serde::Serialize;

use super::{CliError, Context, Format, output};
use crate::outbox::schema;

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Migrated {
    database: String,
    version: i64,
}

/// Safe to run from many replicas at once, and again.
pub async fn run(context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    schema::migrate(&mut conn, context.config.outbox.partition_rows).await?;
    let done = Migrated {
        database: context.database_name(),
        version: schema::version(),
    };
    match context.output {
        Format::Table => eprintln!("{}: the schema is at version {}", done.database, done.version),
        format => output::one(format, &[], &done)?,
    }
    Ok(())
}
