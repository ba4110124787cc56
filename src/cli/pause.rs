//! `dispatcher pause` and `dispatcher resume`: of the whole relay. Accepting goes on.

use std::time::Duration;

use serde::Serialize;
use sqlx::Connection;

use super::{
    CliError, Context,
    operator::{Confirmation, Operator},
    output,
};
use crate::outbox::{
    control::{Pause, Paused, Resumed, pause_relay, resume_relay},
    installation::{Halt, accept_identity},
};

/// Stop handing messages to Kafka, within a second; jobs are still accepted
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// Why: it is shown wherever the pause is
    #[arg(long, value_name = "TEXT")]
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

/// What `pause` prints.
#[derive(Debug, Serialize)]
struct PauseOutcome {
    paused: bool,
    /// By this command; false: it was paused before, and stays so for the earlier reason.
    changed: bool,
    #[serde(flatten)]
    pause: Pause,
}

/// What `resume` prints.
#[derive(Debug, Serialize)]
struct ResumeOutcome {
    paused: bool,
    /// By this command; false: it was not paused.
    changed: bool,
    /// The pause that ended.
    was: Option<Resumed>,
    /// The Kafka log that was forgotten, with `--accept-identity`.
    forgotten_topic: Option<String>,
    forgotten_cluster_id: Option<String>,
    /// The halt that ended, with `--accept-identity`; null: publishing did not halt.
    was_halted: Option<Halt>,
}

pub(super) async fn pause(args: &PauseArgs, context: &Context) -> Result<(), CliError> {
    if args.reason.trim().is_empty() {
        return Err(CliError::Usage("--reason is empty: say why".to_owned()));
    }
    let mut conn = context.database().await?;
    args.confirmation.ask_on_terminal(context, "pause the relay")?;
    let mut tx = conn.begin().await?;
    let paused = pause_relay(&mut tx, args.reason.trim(), &args.operator.actor()).await?;
    tx.commit().await?;
    let outcome = match paused {
        Paused::Now(pause) => PauseOutcome {
            paused: true,
            changed: true,
            pause,
        },
        Paused::Already(pause) => {
            eprintln!("it was paused already, by {}: {}", pause.by, pause.reason);
            PauseOutcome {
                paused: true,
                changed: false,
                pause,
            }
        }
    };
    output::one(
        context.output,
        &["paused", "changed", "reason", "by", "since"],
        &outcome,
    )
}

pub(super) async fn resume(args: &ResumeArgs, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    let (mut forgotten, mut was_halted) = ((None, None), None);
    if args.accept_identity {
        let what = "forget which Kafka cluster and topic the outbox was written to";
        args.confirmation.ask(context, what, "yes")?;
    } else {
        args.confirmation.ask_on_terminal(context, "resume the relay")?;
    }
    let actor = args.operator.actor();
    let mut tx = conn.begin().await?;
    if args.accept_identity {
        let known = accept_identity(&mut tx, &actor).await?;
        was_halted = known.halt();
        forgotten = (known.topic, known.cluster_id);
    }
    let was = resume_relay(&mut tx, &actor).await?;
    tx.commit().await?;
    match &was {
        Some(was) => eprintln!(
            "it was paused for {}, by {}: {}",
            humantime::format_duration(Duration::from_secs(was.lasted_seconds as u64)),
            was.pause.by,
            was.pause.reason
        ),
        None => eprintln!("it was not paused"),
    }
    let outcome = ResumeOutcome {
        paused: false,
        changed: was.is_some(),
        was,
        forgotten_topic: forgotten.0,
        forgotten_cluster_id: forgotten.1,
        was_halted,
    };
    output::one(context.output, &["paused", "changed"], &outcome)
}
