//! `dispatcher outbox tail`: follows the log live.

use std::{io::Write as _, time::Duration};

use uuid::Uuid;

use super::super::{CliError, Context, Format, output};
use crate::outbox::{
    follow::{FollowError, Followed, Follower},
    query::{MessageState, MessageStatus},
};

/// Between two looks while nothing is new.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which messages are followed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on behind this outbox id; default: with what happens from now on
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// Messages as they enter this state; default: as they are written
    #[arg(long, value_enum)]
    state: Option<MessageState>,
    /// Only of this job
    #[arg(long, value_name = "UUID")]
    job: Option<Uuid>,
    /// Only of this event draft
    #[arg(long, value_name = "UUID")]
    draft: Option<Uuid>,
}

pub(in crate::cli) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if context.output == Format::Json {
        return Err(CliError::Usage(
            "a tail has no end, and a JSON document has one: take --output ndjson".to_owned(),
        ));
    }
    let mut conn = context.database().await?;
    let narrowed = Followed {
        state: args.state,
        job: args.job,
        draft: args.draft,
    };
    let mut follower = Follower::begin(&mut conn, narrowed, args.after).await?;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        // A look is short, and not cut off: what it found is printed.
        let news = follower.look(&mut conn).await?;
        for message in &news.messages {
            print(context.output, message)?;
        }
        let pause = if news.more { Duration::ZERO } else { LOOK_EVERY };
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    eprintln!("to go on: dispatcher outbox tail --after {}", follower.looked_up_to());
    Ok(())
}

/// One line, at once: what comes next has no columns to be aligned with yet.
fn print(format: Format, m: &MessageStatus) -> Result<(), CliError> {
    if format != Format::Table {
        return output::rows(Format::Ndjson, &[], std::slice::from_ref(m));
    }
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:>10}  {:<9}  {}  draft {}  job {}  partition {:>3}  offset {:>8}{}{}",
        m.id,
        m.state.as_str(),
        m.created_at.format("%FT%T%.3fZ"),
        output::printable(&m.key),
        m.job_id,
        number(m.partition.map(i64::from)),
        number(m.offset),
        m.replay_of.map(|id| format!("  replay of {id}")).unwrap_or_default(),
        m.error
            .as_deref()
            .map(|error| format!("  {}", output::printable(error)))
            .unwrap_or_default(),
    )?;
    Ok(out.flush()?)
}

impl From<FollowError> for CliError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Sql(error) => error.into(),
            FollowError::Malformed(error) => Self::Failed(error.into()),
        }
    }
}
