//! `dispatcher replay`: send messages again, as a recorded operation.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    CliError, Context, Format,
    operator::{self, Confirmation, Operator},
    output,
};
use crate::outbox::{
    audits, instant,
    replays::{self, Change, Created, NewReplay, Preview, Previewed, Replay, SelectError, Selection, Wanted, Warning},
};

/// Send messages again.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Start a replay: new messages with the same event ids, through the relay, at a rate
    Create(Box<CreateArgs>),
    /// List replays, newest first
    List {
        /// Rows on a page
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Continue behind this replay
        #[arg(long, value_name = "ID")]
        after: Option<Uuid>,
    },
    /// Show one replay and how far it is
    Show {
        /// The replay's id, or its operation id
        id: String,
    },
    /// Stop a running replay for now
    Pause(ChangeArgs),
    /// Go on with a paused replay
    Resume(ChangeArgs),
    /// End a replay for good; what it has sent stays sent
    Cancel(ChangeArgs),
}

/// Which replay.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// The replay's id, or its operation id
    id: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// What to replay, and how.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("named").multiple(true).args(["job", "id"])
    .conflicts_with_all(["from", "to", "key", "draft", "user", "dead_group", "missing"])))]
#[command(group(clap::ArgGroup::new("any").multiple(true).required(true)
    .args(["job", "id", "from", "to", "key", "draft", "user", "dead_group", "missing"])))]
pub struct CreateArgs {
    /// The first message of this job; may be repeated
    #[arg(long, value_name = "UUID")]
    job: Vec<Uuid>,
    /// This message, which may be a replay itself; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<i64>,
    /// Messages written at this time or later, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<DateTime<Utc>>,
    /// Messages written before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<DateTime<Utc>>,
    /// Messages with this Kafka key
    #[arg(long, value_name = "UUID", conflicts_with = "draft")]
    key: Option<Uuid>,
    /// Messages of this event draft; its id is the Kafka key
    #[arg(long, value_name = "UUID")]
    draft: Option<Uuid>,
    /// Messages of this user's jobs
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    /// Unresolved dead letters of this class
    #[arg(long, value_name = "CLASS")]
    dead_group: Option<String>,
    /// Exactly what the last audit found missing in the topic; a second time nothing is started for the same audit
    #[arg(long, conflicts_with_all = ["from", "to", "key", "draft", "user", "dead_group"])]
    missing: bool,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT", value_parser = operator::reason)]
    reason: String,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = replays::DEFAULT_RATE, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    rate: i32,
    /// Only say what would be sent
    #[arg(long)]
    dry_run: bool,
    /// A name for this operation: the same one starts nothing twice
    #[arg(long, value_name = "TEXT")]
    operation_id: Option<String>,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    match args {
        Args::Create(args) => create(args, context, &mut conn).await,
        Args::List { limit, after } => {
            let replays = replays::list_replays(&mut conn, *after, *limit).await?;
            output::rows(context.output, &LIST_COLUMNS, &replays)?;
            if let Some(last) = replays.last().filter(|_| replays.len() as i64 == *limit) {
                eprintln!("there may be more: --after {}", last.id);
            }
            Ok(())
        }
        Args::Show { id } => {
            let replay = find(&mut conn, id).await?;
            print(context, &replay)
        }
        Args::Pause(args) => change(args, Change::Pause, context, &mut conn).await,
        Args::Resume(args) => change(args, Change::Resume, context, &mut conn).await,
        Args::Cancel(args) => change(args, Change::Cancel, context, &mut conn).await,
    }
}

const LIST_COLUMNS: [&str; 9] = [
    "id",
    "state",
    "matched",
    "replayed",
    "rate",
    "seconds_left",
    "requested_by",
    "created_at",
    "reason",
];
const COLUMNS: [&str; 15] = [
    "id",
    "operation_id",
    "state",
    "matched",
    "replayed",
    "rate",
    "seconds_left",
    "filter",
    "reason",
    "requested_by",
    "created_at",
    "changed_at",
    "lower_bound",
    "upper_bound",
    "cursor",
];

fn print(context: &Context, replay: &Replay) -> Result<(), CliError> {
    output::one(context.output, &COLUMNS, replay)
}

impl CreateArgs {
    async fn selection(&self, conn: &mut PgConnection) -> Result<Selection, CliError> {
        let audit = if self.missing {
            let audit = audits::read_standing_audit(conn)
                .await?
                .ok_or_else(|| CliError::NotFound("there was no audit yet: run `dispatcher audit`".to_owned()))?;
            eprintln!(
                "the audit of {} found {} messages missing",
                audit.started_at, audit.counts.missing
            );
            Some(audit.id)
        } else {
            None
        };
        let wanted = Wanted {
            jobs: self.job.clone(),
            ids: self.id.clone(),
            from: self.from,
            to: self.to,
            key: self.key,
            draft: self.draft,
            user: self.user,
            dead_group: self.dead_group.clone(),
            audit,
        };
        wanted.selection().map_err(CliError::Usage)
    }
}

async fn create(args: &CreateArgs, context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    let selection = args.selection(conn).await?;
    let operation_id = selection
        .operation_id(args.operation_id.clone())
        .map_err(CliError::Usage)?;
    if let Some(operation_id) = &operation_id
        && let Some(existing) = replays::find_operation(conn, operation_id).await?
    {
        return already(&selection, &existing, context);
    }
    let preview = replays::preview_replay(conn, &selection).await?;
    if args.dry_run {
        for warning in &preview.warnings {
            eprintln!("warning: {}", explain(warning));
        }
        return output::one(context.output, &PREVIEW_COLUMNS, &Previewed::from(preview));
    }
    if preview.summary.count == 0 {
        return Err(CliError::NotFound(
            "nothing matches: no message would be sent".to_owned(),
        ));
    }
    announce(&preview, args.rate);
    let count = preview.summary.count.to_string();
    args.confirmation
        .ask(context, &format!("replay {count} messages"), &count)?;
    let new = NewReplay {
        operation_id: operation_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        selection,
        reason: args.reason.clone(),
        by: args.operator.actor(),
        rate: args.rate,
    };
    let mut tx = conn.begin().await?;
    let created = replays::create_replay(&mut tx, &new, &preview.summary).await?;
    tx.commit().await?;
    match created {
        Created::New(replay) => {
            eprintln!("the replay runs as soon as, and as long as, a service with a relay runs");
            print(context, &replay)
        }
        Created::Existing(replay) => already(&new.selection, &replay, context),
    }
}

/// The operation id was used before.
fn already(asked: &Selection, existing: &Replay, context: &Context) -> Result<(), CliError> {
    if *asked != existing.filter.0 {
        return Err(CliError::Usage(format!(
            "the operation id {:?} names another selection, of {}: take another id",
            existing.operation_id, existing.created_at
        )));
    }
    eprintln!(
        "this operation exists since {}: nothing was started",
        existing.created_at
    );
    print(context, existing)
}

const PREVIEW_COLUMNS: [&str; 8] = [
    "count",
    "keys",
    "oldest",
    "newest",
    "dead",
    "lower_bound",
    "upper_bound",
    "sample",
];

fn announce(preview: &Preview, rate: i32) {
    let summary = &preview.summary;
    let time = |time: Option<DateTime<Utc>>| time.map_or_else(String::new, |time| time.to_rfc3339());
    eprintln!(
        "{} messages of {} event drafts, written from {} to {}; at {rate} a second that takes {}",
        summary.count,
        summary.keys,
        time(summary.oldest),
        time(summary.newest),
        humantime::format_duration(std::time::Duration::from_secs(
            (summary.count as u64).div_ceil(rate.unsigned_abs().into())
        ))
    );
    if summary.dead > 0 {
        eprintln!(
            "{} of them are dead letters, which count as retried from then on",
            summary.dead
        );
    }
    for warning in &preview.warnings {
        eprintln!("warning: {}", explain(warning));
    }
}

fn explain(warning: &Warning) -> String {
    match warning {
        Warning::LaterMessages {
            keys,
            looked_up_to: None,
        } => format!("{keys} event drafts have later messages: their consumers see the older content after the newer"),
        Warning::LaterMessages {
            keys,
            looked_up_to: Some(id),
        } => format!(
            "{keys} event drafts or more have later messages (looked at up to {id}): their consumers see the older \
             content after the newer"
        ),
        Warning::NewerDraft { drafts } => {
            format!("{drafts} event drafts were edited since: the content of that time is sent, not today's")
        }
        Warning::StillPending { messages } => {
            format!("{messages} of the messages have not been sent yet: they will be sent twice")
        }
    }
}

async fn find(conn: &mut PgConnection, id: &str) -> Result<Replay, CliError> {
    replays::find_replay(conn, id)
        .await?
        .ok_or_else(|| CliError::NotFound(format!("there is no replay {id}: see `dispatcher replay list`")))
}

async fn change(args: &ChangeArgs, change: Change, context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    let replay = find(conn, &args.id).await?;
    let (_, to) = change.states();
    let what = format!("make the replay {} {to}", replay.id);
    match change {
        // It never goes on.
        Change::Cancel => args.confirmation.ask(context, &what, "yes")?,
        Change::Pause | Change::Resume => args.confirmation.ask_on_terminal(context, &what)?,
    }
    let mut tx = conn.begin().await?;
    let changed = replays::change_replay(&mut tx, replay.id, change, &args.operator.actor()).await?;
    tx.commit().await?;
    if let Some(changed) = changed {
        return print(context, &changed);
    }
    let now = find(conn, &args.id).await?;
    if now.state == to {
        eprintln!("it is {to} already");
        return print(context, &now);
    }
    if context.output == Format::Table {
        eprintln!("{} of {} messages were sent", now.replayed, now.matched);
    }
    Err(CliError::Failed(anyhow::anyhow!(
        "the replay is {}: it cannot become {to} any more",
        now.state
    )))
}

impl From<SelectError> for CliError {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Sql(error) => error.into(),
            missing @ (SelectError::NoSuchJob(_) | SelectError::NoSuchMessage(_) | SelectError::NoSuchAudit(_)) => {
                Self::NotFound(missing.to_string())
            }
        }
    }
}
