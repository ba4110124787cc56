//! `dispatcher retain`: drops what is settled and old.

use chrono::TimeDelta;
use serde::Serialize;
use sqlx::PgConnection;

use super::{CliError, Context, operator::Confirmation, output};
use crate::outbox::{partitions::drop_settled, retention};

/// Drop settled partitions older than outbox.retention, and old idempotency keys
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// One thing that went, or would go.
#[derive(Debug, Serialize)]
struct Gone {
    /// A partition's name, or `idempotency_keys`.
    what: String,
    rows: i64,
    /// False with `--dry-run`.
    dropped: bool,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let config = &context.config;
    let mut conn = context.database().await?;
    if !args.dry_run {
        let what = format!(
            "drop settled partitions older than {} and idempotency keys older than {}",
            humantime::format_duration(config.outbox.retention),
            humantime::format_duration(config.idempotency.retention)
        );
        args.confirmation.ask(context, &what, "yes")?;
    }
    // Ages are by PostgreSQL's clock, as the rows' own times are.
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&mut conn)
        .await?;
    let kept = TimeDelta::from_std(config.outbox.retention).map_err(anyhow::Error::from)?;
    let partitions = drop_settled(&mut conn, now - kept, args.dry_run).await?;
    let mut gone: Vec<Gone> = partitions
        .into_iter()
        .map(|dropped| Gone {
            what: dropped.partition,
            rows: dropped.rows,
            dropped: !args.dry_run,
        })
        .collect();
    gone.push(Gone {
        what: "idempotency_keys".to_owned(),
        rows: delete_keys(&mut conn, args, context).await?,
        dropped: !args.dry_run,
    });
    output::rows(context.output, &["what", "rows", "dropped"], &gone)
}

async fn delete_keys(conn: &mut PgConnection, args: &Args, context: &Context) -> Result<i64, CliError> {
    let older_than = context.config.idempotency.retention;
    if args.dry_run {
        return Ok(retention::count_expired_keys(conn, older_than).await?);
    }
    let mut deleted = 0;
    loop {
        match retention::delete_expired_keys(conn, older_than).await? {
            0 => return Ok(deleted),
            batch => deleted += batch as i64,
        }
    }
}
