//! `dispatcher dead`: messages that Kafka refuses for good, and what operators decide about them.

use sqlx::{Connection, PgConnection};

use super::{
    CliError, Context,
    operator::{self, Confirmation, Operator},
    output,
};
use crate::outbox::{
    dead_letters::{self, Dead, DeadPage},
    replays,
};

/// Messages that Kafka refuses for good.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List dead letters, newest first
    List(ListArgs),
    /// Send dead letters once more: each as a new message with the same event id
    Retry(ResolveArgs),
    /// Give dead letters up: their messages are never sent
    Discard(ResolveArgs),
}

/// Which dead letters are listed.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// One line for each class of error
    #[arg(long, conflicts_with_all = ["class", "resolved", "after"])]
    group: bool,
    /// Only of this class, such as message-too-large
    #[arg(long)]
    class: Option<String>,
    /// Also those that were retried or discarded
    #[arg(long)]
    resolved: bool,
    /// Rows on a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Continue below this outbox id
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
}

/// Which dead letters are decided about.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "class", "all"])))]
pub struct ResolveArgs {
    /// Outbox ids of dead letters
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All of this class
    #[arg(long)]
    class: Option<String>,
    /// All
    #[arg(long)]
    all: bool,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT", value_parser = operator::reason)]
    reason: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    match args {
        Args::List(args) => list(args, context, &mut conn).await,
        Args::Retry(args) => {
            let dead = choose(args, &mut conn).await?;
            if !nothing(&dead) {
                let what = format!("retry {}", dead.describe());
                args.confirmation.ask(context, &what, "yes")?;
            }
            let (actor, rows) = (args.operator.actor(), context.config.outbox.partition_rows);
            let outcome = replays::retry_dead_letters_whole(&mut conn, &dead, &args.reason, &actor, rows).await?;
            if outcome.replay_id.is_none() {
                eprintln!("there is no dead letter to retry");
            }
            output::one(context.output, &["retried", "replay_id"], &outcome)
        }
        Args::Discard(args) => {
            let dead = choose(args, &mut conn).await?;
            if !nothing(&dead) {
                let what = format!("discard {}", dead.describe());
                args.confirmation.ask(context, &what, "yes")?;
            }
            let mut tx = conn.begin().await?;
            let actor = args.operator.actor();
            let discarded = dead_letters::discard_dead_letters(&mut tx, &dead, &args.reason, &actor).await?;
            tx.commit().await?;
            output::one(context.output, &["discarded"], &discarded)
        }
    }
}

async fn list(args: &ListArgs, context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    if args.group {
        let groups = dead_letters::group_dead_letters(conn).await?;
        let columns = ["error_class", "count", "exact", "oldest", "newest", "sample_error"];
        return output::rows(context.output, &columns, &groups);
    }
    let page = DeadPage {
        after: args.after,
        limit: args.limit,
        class: args.class.clone(),
        resolved: args.resolved,
    };
    let rows = dead_letters::list_dead_letters(conn, &page).await?;
    let columns = [
        "outbox_id",
        "error_class",
        "died_at",
        "job_id",
        "key",
        "resolution",
        "retry_id",
        "error",
    ];
    output::rows(context.output, &columns, &rows)?;
    if let Some(last) = rows.last().filter(|_| rows.len() as i64 == args.limit) {
        eprintln!("there may be more: --after {}", last.outbox_id);
    }
    Ok(())
}

/// Turns the arguments into a choice; ids have to be dead letters.
async fn choose(args: &ResolveArgs, conn: &mut PgConnection) -> Result<Dead, CliError> {
    if let Some(class) = &args.class {
        return Ok(Dead::Class(class.clone()));
    }
    if args.all {
        return Ok(Dead::All);
    }
    let found = dead_letters::read_dead_letters(conn, &args.ids).await?;
    for id in &args.ids {
        match found.iter().find(|dead| dead.outbox_id == *id) {
            None => {
                return Err(CliError::NotFound(format!(
                    "message {id} is no dead letter: see `dispatcher dead list`"
                )));
            }
            Some(dead) => {
                if let Some(resolution) = dead.resolution {
                    let by = dead.resolved_by.as_deref().unwrap_or("somebody");
                    output::tell(&format!(
                        "message {id} was {} already, by {by}: it is left as it is",
                        resolution.as_str()
                    ));
                }
            }
        }
    }
    Ok(Dead::Ids(
        found
            .iter()
            .filter(|dead| dead.resolution.is_none())
            .map(|dead| dead.outbox_id)
            .collect(),
    ))
}

/// All that were named are resolved already.
fn nothing(dead: &Dead) -> bool {
    matches!(dead, Dead::Ids(ids) if ids.is_empty())
}
