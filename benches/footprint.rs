//! What the service takes beside processor time: memory, time to be ready, size. And how long operators wait for
//! their lists when the log is long.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use image_job_dispatcher::{config::Delivery, outbox::partitions};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::{
    accept::{CONNECTIONS, Ours},
    backlog::{Kind, first_owner},
    drain,
    report::{Report, Wanted},
    settings::Settings,
    stack::{Database, Service, Stack, dispatcher},
    usage::resident,
};

const MIB: f64 = (1 << 20) as f64;
/// Connections beside the usual number, where accepting is looked at for its memory.
const MANY: usize = 1000;
/// How often each list is asked for.
const ASKED: usize = 11;

/// Memory of a service that idles and that accepts; the drains' stands beside their rates.
pub async fn memory(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (mut idle, mut full, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let mut ours = Ours::new(stack, 1, "all").await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        idle.push(resident(ours.replicas[0].pid())? / MIB);
        let peak = async |ours: &mut Ours, connections| -> Result<f64> {
            Ok(ours.run(stack, connections, settings.seconds).await?.others["peak_rss_MiB"])
        };
        full.push(peak(&mut ours, CONNECTIONS).await?);
        many.push(peak(&mut ours, MANY).await?);
        ours.end(stack).await?;
    }
    report.fact("resident, idle, leading", "MiB", idle);
    let name = format!("resident at most, accepting all that {CONNECTIONS} connections ask, and relaying");
    report.fact(&name, "MiB", full);
    let name = format!("resident at most, accepting all that {MANY} connections ask, and relaying");
    report.fact(&name, "MiB", many);
    report.write(&settings.out)
}

/// From the start of the process to 200 from `/readyz`; and the program's size.
pub async fn start(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (database, topic) = (stack.database().await?, stack.topic().await?);
    let mut took = Vec::new();
    for _ in 0..settings.rounds {
        let began = Instant::now();
        let mut service = stack.service(&database, &topic, "all", Delivery::AtLeastOnce)?;
        service.ready().await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        service.stop().await?;
    }
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    report.fact("from start to ready", "ms", took);
    let program = env!("CARGO_BIN_EXE_dispatcher");
    let size = fs::metadata(program)?.len() as f64 / MIB;
    report.fact("the program `dispatcher`, with line tables", "MiB", vec![size]);
    let stripped = std::env::temp_dir().join(format!("dispatcher-stripped-{}", std::process::id()));
    // Comes with the C toolchain that the build needs.
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status()?;
    if !status.success() {
        bail!("strip: {status}");
    }
    let size = fs::metadata(&stripped)?.len() as f64 / MIB;
    fs::remove_file(stripped)?;
    report.fact("the program `dispatcher`, stripped", "MiB", vec![size]);
    report.write(&settings.out)
}

/// What operators ask for, of a log that is five times the backlog long and drained.
pub async fn lists(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.backlog * 5;
    let database = stack.database_with_backlog(Kind::Outbox, count).await?;
    let topic = stack.topic().await?;
    let mut connection = database.connect().await?;
    let whole = (0, count);
    let (_, relay) = drain::relay(stack, &database, &topic, &mut connection, whole, Delivery::AtLeastOnce).await?;
    relay.stop().await?;
    insert_jobs(&mut connection).await?;
    let job: Uuid = sqlx::query_scalar("select job_id from outbox_messages where id = $1")
        .bind(count / 2)
        .fetch_one(&mut connection)
        .await?;
    let stored: i64 = sqlx::query_scalar(
        "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
         where inhparent in ('jobs'::regclass, 'outbox_messages'::regclass, 'outbox_checkpoints'::regclass)",
    )
    .fetch_one(&mut connection)
    .await?;
    report.fact(
        "stored for a job: rows, indexes, receipts",
        "B",
        vec![stored as f64 / count as f64],
    );
    let mut service = stack.service(&database, &topic, "api", Delivery::AtLeastOnce)?;
    service.ready().await?;

    let mut show = |what: &str, took: Vec<f64>| {
        let what = format!("{what}, of {count} messages");
        report.figure("LISTS", &what, Wanted::Milliseconds(100.0), took, "");
    };
    let job_text = job.to_string();
    for arguments in [
        &["outbox", "list"][..],
        &["outbox", "list", "--state", "pending"],
        &["outbox", "list", "--state", "dead"],
        &["outbox", "list", "--job", &job_text],
        &["outbox", "show", &job_text],
        &["outbox", "stats"],
    ] {
        let shown = arguments.join(" ").replace(&job_text, "JOB");
        show(
            &format!("`dispatcher {shown}`, its start included"),
            command(&database, arguments)?,
        );
    }
    show("`select * from outbox_overview`", overview(&mut connection).await?);
    show("GET of a job over HTTP", get(&service, job).await?);
    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    report.write(&settings.out)
}

/// A job for each message of the backlog, which has none: its own time is what its ids say.
async fn insert_jobs(connection: &mut PgConnection) -> Result<()> {
    let at = chrono::DateTime::from_timestamp_millis(1_764_000_000_000).context("an instant")?;
    partitions::ensure_jobs(connection, at).await?;
    sqlx::query(
        "insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
         select job_id, $1, key, id, created_at from outbox_messages",
    )
    .bind(first_owner())
    .execute(&mut *connection)
    .await?;
    connection.execute("vacuum (analyze) jobs").await?;
    Ok(())
}

/// Milliseconds of each call of a command.
fn command(database: &Database, arguments: &[&str]) -> Result<Vec<f64>> {
    let ask = || {
        let began = Instant::now();
        let output = dispatcher(&[("DATABASE__URL", database.url.clone())].into())
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("dispatcher {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    (0..ASKED).map(|_| ask()).collect()
}

async fn overview(connection: &mut PgConnection) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        connection.fetch_one("select * from outbox_overview").await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

async fn get(service: &Service, job: Uuid) -> Result<Vec<f64>> {
    let client = reqwest::Client::new();
    let token = crate::backlog::token(first_owner())?;
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        let answer = client
            .get(format!("http://{}/api/jobs/{job}", service.listen))
            .bearer_auth(&token)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() || !text.contains("\"published\"") {
            bail!("GET of a job: {status} {text}");
        }
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}
