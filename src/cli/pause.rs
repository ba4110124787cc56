//! `dispatcher pause` and `dispatcher resume`: of the whole relay. Accepting goes on.

use std::time::Duration;

use sqlx::Connection;

use super::{
    CliError, Context, Format,
    operator::{self, Confirmation, Operator},
    output,
};
use crate::outbox::control::{pause_relay, resume_relay};

/// Stop handing messages to Kafka, within a second; jobs are still accepted
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// Why: it is shown wherever the pause is
    #[arg(long, value_name = "TEXT", value_parser = operator::reason)]
    reason: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// Hand messages to Kafka again
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Also accept that there is another cluster or topic behind the configured names than before, or that the topic
    /// has lost what it acknowledged
    #[arg(long)]
    accept_identity: bool,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn pause(args: &PauseArgs, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    args.confirmation.ask_on_terminal(context, "pause the relay")?;
    let mut tx = conn.begin().await?;
    let outcome = pause_relay(&mut tx, &args.reason, &args.operator.actor()).await?;
    tx.commit().await?;
    let pause = &outcome.pause;
    if !outcome.changed {
        output::tell(&format!("it was paused already, by {}: {}", pause.by, pause.reason));
    }
    match context.output {
        Format::Table => output::one(Format::Table, &["reason", "by", "since"], pause),
        format => output::one(format, &[], &outcome),
    }
}

pub(super) async fn resume(args: &ResumeArgs, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    if args.accept_identity {
        let what = "forget which Kafka cluster and topic the outbox was written to";
        args.confirmation.ask(context, what, "yes")?;
    } else {
        args.confirmation.ask_on_terminal(context, "resume the relay")?;
    }
    let mut tx = conn.begin().await?;
    let outcome = resume_relay(&mut tx, args.accept_identity, &args.operator.actor()).await?;
    tx.commit().await?;
    match &outcome.was {
        Some(was) => output::tell(&format!(
            "it was paused for {}, by {}: {}",
            humantime::format_duration(Duration::from_secs(was.lasted_seconds as u64)),
            was.pause.by,
            was.pause.reason
        )),
        None => eprintln!("it was not paused"),
    }
    output::one(context.output, &["changed"], &outcome)
}
