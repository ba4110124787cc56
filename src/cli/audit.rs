//! `dispatcher audit`: is everything in the topic that the receipts say, and nothing else?

use std::io::Write as _;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::{CliError, Context, Format, operator::Operator, output};
use crate::{
    audit::{self, AuditError, Request},
    outbox::{
        audits::{self, Audited, JudgedAudit, Range},
        installation, instant,
    },
    publish::reader::ReadError,
};

/// Compare the topic with the receipts: what is missing, repeated or foreign
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    past: Option<Past>,
    /// Messages written at this time or later, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<DateTime<Utc>>,
    /// Messages written before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<DateTime<Utc>>,
    #[command(flatten)]
    operator: Operator,
}

/// Audits that were made before: the last hundred are remembered.
#[derive(Debug, clap::Subcommand)]
enum Past {
    /// List audits, newest first, without what they found one by one
    List(ListArgs),
    /// Show one audit as it was printed, with what it found
    Show {
        /// The audit's id
        id: Uuid,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Rows on a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Continue before this audit
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

const COLUMNS: [&str; 15] = [
    "id",
    "topic",
    "from",
    "to",
    "started_at",
    "finished_at",
    "receipts",
    "records",
    "in_place",
    "expired",
    "made_good",
    "missing",
    "repeated",
    "foreign",
    "forgotten",
];
const FINDING_COLUMNS: [&str; 5] = ["kind", "partition", "offset", "outbox_id", "event_id"];

const LIST_COLUMNS: [&str; 10] = [
    "id",
    "finished_at",
    "from",
    "to",
    "clean",
    "receipts",
    "records",
    "missing",
    "repeated",
    "foreign",
];

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    match &args.past {
        None => audit(args, context).await,
        Some(Past::List(args)) => list(args, context).await,
        Some(Past::Show { id }) => show(*id, context).await,
    }
}

async fn list(args: &ListArgs, context: &Context) -> Result<(), CliError> {
    let audits = audits::list_audits(&mut context.database().await?, args.after, args.limit).await?;
    let delivery = context.config.relay.delivery;
    let next = audits
        .last()
        .filter(|_| audits.len() as i64 == args.limit)
        .map(|audit| audit.id);
    let rows: Vec<_> = audits
        .into_iter()
        .map(|audit| JudgedAudit::of(audit, delivery))
        .collect();
    output::rows(context.output, &LIST_COLUMNS, &rows)?;
    if let Some(next) = next {
        eprintln!("there may be more: --after {next}");
    }
    Ok(())
}

async fn show(id: Uuid, context: &Context) -> Result<(), CliError> {
    let mut conn = context.database().await?;
    let Some(audit) = audits::read_audit(&mut conn, id).await? else {
        return Err(CliError::NotFound(format!(
            "there is no audit {id}: the last hundred are remembered, see `dispatcher audit list`"
        )));
    };
    let audited = Audited {
        judged: JudgedAudit::of(audit, context.config.relay.delivery),
        findings: audits::list_findings(&mut conn, id).await?,
    };
    print(context, audited)
}

async fn audit(args: &Args, context: &Context) -> Result<(), CliError> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(CliError::Usage(format!("--from {from} is not before --to {to}")));
    }
    let kafka = &context.config.kafka;
    let (mut receipts, mut rows) = (context.database().await?, context.database().await?);
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{bar:40} {percent:>3}% of {len} offsets, {per_sec}, {eta} left")
            .expect("the template is well-formed"),
    );
    let request = Request {
        kafka,
        range: Range {
            from: args.from,
            to: args.to,
        },
        by: &args.operator.actor().name,
    };
    let report = audit::run(&request, &mut receipts, &mut rows, |passed, total| {
        bar.set_length(total);
        bar.set_position(passed);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    let known = installation::read(&mut rows).await?;
    if let Err(other) = known.check(&kafka.topic, report.audit.cluster_id.as_deref()) {
        output::tell(&format!("warning: {other}"));
    }
    for caveat in &report.caveats {
        eprintln!("warning: {caveat}");
    }
    let delivery = context.config.relay.delivery;
    let wrong = report.audit.wrongs(delivery);
    let missing = report.audit.counts.missing;
    let audited = Audited {
        judged: JudgedAudit::of(report.audit, delivery),
        findings: report.findings,
    };
    print(context, audited)?;
    if wrong.is_empty() {
        return Ok(());
    }
    if missing > 0 {
        eprintln!("to send what is missing again: dispatcher replay create --missing --reason TEXT");
    }
    Err(CliError::FoundWrong(wrong.join(", ")))
}

fn print(context: &Context, audited: Audited) -> Result<(), CliError> {
    match context.output {
        Format::Json => output::one(Format::Json, &[], &audited),
        // The findings a line each, and last the whole as it is without them.
        Format::Ndjson => {
            output::rows(Format::Ndjson, &[], &audited.findings)?;
            let findings = Vec::new();
            output::one(Format::Ndjson, &[], &Audited { findings, ..audited })
        }
        Format::Table => {
            output::one(Format::Table, &COLUMNS, &audited)?;
            let (counts, findings) = (&audited.judged.audit.counts, &audited.findings);
            if findings.is_empty() {
                return Ok(());
            }
            writeln!(std::io::stdout(), "\nfindings:")?;
            output::rows(Format::Table, &FINDING_COLUMNS, findings)?;
            let found = counts.missing + counts.repeated + counts.foreign;
            if found > findings.len() as i64 {
                eprintln!("{} of {found} findings are shown", findings.len());
            }
            Ok(())
        }
    }
}

impl From<AuditError> for CliError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Sql(error) => error.into(),
            AuditError::Topic(error @ ReadError::NoTopic(_)) => Self::NotFound(error.to_string()),
            AuditError::Topic(error @ (ReadError::Kafka(_) | ReadError::Stalled)) => Self::Unreachable(format!(
                "the topic cannot be read: {error}; `dispatcher doctor` says what keeps it from being"
            )),
            AuditError::Topic(error @ (ReadError::Undecided(_) | ReadError::Cancelled)) => {
                Self::Failed(anyhow::anyhow!("the topic was not read to its end: {error}"))
            }
        }
    }
}
