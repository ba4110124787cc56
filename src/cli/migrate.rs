//! `dispatcher migrate`: brings the schema up to date.

use super::{CliError, Context};
use crate::outbox::schema;

/// Safe to run from many replicas at once, and again.
pub async fn run(context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    schema::migrate(&mut conn, context.config.outbox.partition_rows).await?;
    eprintln!(
        "{}: the schema is at version {}",
        context.database_name(),
        schema::version()
    );
    Ok(())
}
