//! `dispatcher retain`: drops what is settled and old.

use super::{
    CliError, Context,
    operator::{Confirmation, Operator},
    output,
};
use crate::outbox::retention::{Kept, plan_retention, retain};

/// Drop what is settled and old: partitions of messages, of jobs, idempotency keys
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let config = &context.config;
    let mut conn = context.database().await?;
    let kept = Kept::from(config);
    let gone = if args.dry_run {
        plan_retention(&mut conn, kept).await?
    } else {
        let what = format!(
            "drop settled messages older than {}, jobs older than {} and idempotency keys older than {}",
            humantime::format_duration(kept.outbox),
            humantime::format_duration(kept.jobs),
            humantime::format_duration(kept.keys)
        );
        args.confirmation.ask(context, &what, "yes")?;
        let reason = args
            .reason
            .as_deref()
            .map(str::trim)
            .filter(|reason| !reason.is_empty());
        retain(&mut conn, kept, &args.operator.actor(), reason).await?
    };
    output::rows(context.output, &["what", "rows", "dropped"], &gone)
}
