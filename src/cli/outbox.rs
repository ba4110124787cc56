//! `dispatcher outbox`: what is in the log, and where it stands.

mod export;
mod tail;

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{CliError, Context, Format, output};
use crate::{
    console::api::messages::read_life,
    jobs::status::read_job,
    outbox::{
        instant,
        overview::read_stats,
        query::{self, MessageFilter, MessageState},
    },
};

/// The log of messages.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List messages, newest first
    List(ListArgs),
    /// Show one message's whole life
    Show {
        /// An outbox id, or a job's id
        #[arg(value_name = "ID|JOB")]
        id: String,
    },
    /// Follow the log live, until Ctrl-C
    Tail(tail::Args),
    /// Write all messages as CSV or as JSON, newest first
    Export(export::Args),
    /// Show the numbers: what waits, since when, what is dead, who leads
    Stats,
}

/// Which messages are listed.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Rows on a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    #[command(flatten)]
    filter: Filter,
}

impl ListArgs {
    /// As PostgreSQL is asked.
    pub(super) fn filter(&self) -> MessageFilter {
        self.filter.of_page(self.limit)
    }
}

/// What narrows a list and an export.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Continue below this outbox id
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<MessageState>,
    /// Only of this job: its first message and the replays of it
    #[arg(long, value_name = "UUID")]
    job: Option<Uuid>,
    /// Only of this event draft
    #[arg(long, value_name = "UUID")]
    draft: Option<Uuid>,
    /// Written at this time or later, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<DateTime<Utc>>,
    /// Written before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<DateTime<Utc>>,
    /// Only of this user's jobs
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    /// Only dead letters of this class
    #[arg(long, value_name = "CLASS", conflicts_with = "state")]
    error_class: Option<String>,
    /// Only written by this replay
    #[arg(long, value_name = "ID")]
    replay: Option<Uuid>,
}

impl Filter {
    fn of_page(&self, limit: i64) -> MessageFilter {
        MessageFilter {
            after: self.after,
            limit,
            state: self.state,
            job: self.job,
            draft: self.draft,
            from: self.from,
            to: self.to,
            user: self.user,
            error_class: self.error_class.clone(),
            replay: self.replay,
        }
    }
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    match args {
        Args::List(args) => list(args, context, &mut context.database().await?).await,
        Args::Show { id } => show(id, context, &mut context.database().await?).await,
        Args::Tail(args) => tail::run(args, context).await,
        Args::Export(args) => export::run(args, context).await,
        Args::Stats => stats(context, &mut context.database().await?).await,
    }
}

const COLUMNS: [&str; 9] = [
    "id",
    "state",
    "created_at",
    "key",
    "job_id",
    "partition",
    "offset",
    "replay_of",
    "error",
];

async fn list(args: &ListArgs, context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    let page = query::list_messages(conn, &args.filter()).await?;
    output::rows(context.output, &COLUMNS, &page.rows)?;
    match page.next {
        Some(next) if page.bounded => eprintln!(
            "stopped after looking at as many messages as one page may: go on with --after {next}, or narrow it with \
             --from and --to"
        ),
        Some(next) => eprintln!("there may be more: --after {next}"),
        None => {}
    }
    Ok(())
}

/// A header as it is sent: its name is not a column's, whose underscores are shown as spaces.
#[derive(Debug, Serialize)]
struct HeaderLine<'a> {
    name: &'a str,
    value: &'a str,
}

async fn show(id: &str, context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    let job = id.parse::<Uuid>().ok();
    let id = match (id.parse::<i64>(), job) {
        (Ok(id), _) => id,
        (_, Some(job)) => query::find_first_message(conn, job)
            .await?
            .ok_or_else(|| CliError::NotFound(format!("there is no job {job}")))?,
        _ => {
            return Err(CliError::Usage(format!(
                "{id:?} is neither an outbox id nor a job's id"
            )));
        }
    };
    let topic = &context.config.kafka.topic;
    let Some(shown) = read_life(conn, id, topic).await? else {
        let left = match job {
            Some(job) => read_job(conn, job, topic).await?,
            None => None,
        };
        return Err(CliError::NotFound(match left {
            Some((_, job)) => format!(
                "retention has dropped message {id}; its job is {}, accepted {}, and its message was {}",
                job.status.as_str(),
                job.created_at,
                job.message.state.as_str()
            ),
            None => format!("there is no message {id} in the outbox; retention may have dropped it"),
        }));
    };
    if context.output != Format::Table {
        return output::one(context.output, &[], &shown);
    }
    let columns = [
        "id",
        "state",
        "event_id",
        "job_id",
        "user_id",
        "key",
        "topic",
        "event_time",
        "created_at",
        "published_at",
        "partition",
        "offset",
        "replay_of",
        "replay_id",
        "error",
    ];
    output::one(context.output, &columns, &shown)?;
    section("headers")?;
    let headers: Vec<HeaderLine> = shown
        .headers
        .0
        .iter()
        .map(|(name, value)| HeaderLine { name, value })
        .collect();
    output::rows(context.output, &["name", "value"], &headers)?;
    section("payload")?;
    output::one(
        context.output,
        &["value"],
        &serde_json::json!({"value": shown.payload.get()}),
    )?;
    if let Some(dead) = &shown.dead_letter {
        section("dead letter")?;
        let columns = [
            "error_class",
            "error",
            "died_at",
            "resolution",
            "resolved_at",
            "resolved_by",
            "reason",
        ];
        output::one(context.output, &columns, dead)?;
    }
    section("job")?;
    output::one(context.output, &["status", "error", "createdAt"], &shown.job)?;
    section("the same key")?;
    output::one(context.output, &["previous", "next"], &shown.same_key)?;
    if !shown.replays.is_empty() {
        section("replays")?;
        output::rows(context.output, &COLUMNS, &shown.replays)?;
    }
    Ok(())
}

fn section(title: &str) -> Result<(), CliError> {
    Ok(writeln!(std::io::stdout(), "\n{title}:")?)
}

async fn stats(context: &Context, conn: &mut PgConnection) -> Result<(), CliError> {
    let stats = read_stats(conn).await?;
    if context.output != Format::Table {
        return output::one(context.output, &[], &stats);
    }
    if let Some(pause) = &stats.paused {
        output::tell(&format!(
            "PAUSED since {} by {}: {}",
            pause.since, pause.by, pause.reason
        ));
    }
    if let Some(halt) = &stats.halted {
        output::tell(&format!("HALTED since {}: {}", halt.since, halt.reason));
    }
    let columns = [
        "pending",
        "oldest_pending_age_seconds",
        "published",
        "dead",
        "dead_retried",
        "dead_discarded",
        "dead_resolved_exact",
        "missing",
        "leader",
        "lease_until",
        "checkpoint",
        "fence",
    ];
    output::one(context.output, &columns, &stats)?;
    section("partitions")?;
    output::rows(
        context.output,
        &["name", "estimated_rows", "bytes", "bounds"],
        &stats.partitions,
    )
}
