//! REPLAY: all messages of the outbox sent once more, as an operator asks for it with the command, as fast as it goes.
//!
//! The outbox is drained first, by another process: the one that is looked at has done nothing but the replay. Its rows go
//! through the outbox and the relay like any others. The replay ends when every one of them is in the topic and recorded
//! as published; then all records are read, and each message has to be there once with the replay's id. At last an operator
//! audits the topic, which is what tells whether a replay is needed.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use image_job_dispatcher::config::Delivery;
use rdkafka::{Message, message::Headers};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    backlog::{Kind, Topic},
    drain,
    report::{Report, Sample, Wanted},
    settings::Settings,
    stack::{Database, Stack, dispatcher},
    usage::peak_resident,
    watch::reader,
};

const MIB: f64 = (1 << 20) as f64;
/// More than a replay reaches: it is not held back.
const RATE: &str = "1000000";
/// A replay takes longer only when something is wrong.
const PATIENCE: Duration = Duration::from_mins(30);
/// For the next record of a topic that has one.
const NEXT_RECORD: Duration = Duration::from_mins(1);

/// Replays of the whole backlog and of a hundredth of it, in turns.
pub async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (many, few) = (settings.backlog, settings.backlog / 100);
    let (mut of_many, mut of_few) = (Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        of_many.push(replay(stack, many).await?);
        of_few.push(replay(stack, few).await?);
        if let (Some(many), Some(few)) = (of_many.last(), of_few.last()) {
            println!("replay, round {round}: {:?} and {:?}", many.others, few.others);
        }
    }
    let name = format!("replay of {many}");
    report.side(&name, &of_many);
    report.side(&format!("replay of {few}"), &of_few);
    let resident = |sample: &Sample| sample.others["peak_rss_MiB"];
    let more = of_many
        .iter()
        .zip(&of_few)
        .map(|(many, few)| resident(many) - resident(few));
    let what = format!("peak resident set of a service that replays {many} less that of {few}");
    report.figure("REPLAY", &what, Wanted::MiB(32.0), more.collect(), &name);
    let records = 2 * many;
    report.fact(
        &format!("records that `dispatcher audit` compares, of {records} in the topic"),
        "a second",
        of_many
            .iter()
            .map(|sample| records as f64 / sample.others["audit_s"])
            .collect(),
    );
    report.write(&settings.out)
}

/// One replay of all `count` messages. The rate is from the command's end to the last receipt.
async fn replay(stack: &Stack, count: i64) -> Result<Sample> {
    let (database, topic) = (
        stack.database_with_backlog(Kind::Outbox, count).await?,
        stack.topic().await?,
    );
    let mut connection = database.connect().await?;
    let (_, drained) = drain::relay(
        stack,
        &database,
        &topic,
        &mut connection,
        (0, count),
        Delivery::AtLeastOnce,
    )
    .await?;
    drained.stop().await?;
    let mut service = stack.service(&database, &topic, "relay", Delivery::AtLeastOnce)?;
    service.leads(&mut connection).await?;
    let before = stack.mark().await?;
    let began = Instant::now();
    let id = tokio::task::block_in_place(|| create(&database))?;
    let created = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let look = Topic::new(stack, &topic)?;
    drain::wait_for(&look, 2 * count, || service.check()).await?;
    wait_for_receipts(&mut connection, id, count).await?;
    let seconds = began.elapsed().as_secs_f64();
    let used = stack.mark().await?.since(before);
    let resident = peak_resident(service.pid())? / MIB;
    ensure!(
        look.count()? == 2 * count,
        "there are more records than messages that were sent"
    );
    let seen = tokio::task::block_in_place(|| count_of(stack, &topic, 2 * count, id))?;
    ensure!(
        seen == count as usize,
        "{seen} of {count} messages are in the topic with the replay's id"
    );

    let began = Instant::now();
    tokio::task::block_in_place(|| audit(stack, &database, &topic))?;
    let audited = began.elapsed().as_secs_f64();

    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(Sample::new(count as f64 / seconds, count as f64, used)
        .with("create_s", created)
        .with("replay_s", seconds)
        .with("audit_s", audited)
        .with("peak_rss_MiB", resident))
}

/// As an operator does it.
fn create(database: &Database) -> Result<Uuid> {
    let output = dispatcher(&[("DATABASE__URL", database.url.clone())].into())
        .args([
            "replay",
            "create",
            "--from",
            "2000-01-01T00:00:00Z",
            "--rate",
            RATE,
            "--yes",
        ])
        .args(["--reason", "a consumer has lost all of them", "--output", "json"])
        .output()?;
    if !output.status.success() {
        bail!("dispatcher replay create: {}", String::from_utf8_lossy(&output.stderr));
    }
    let replay: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(replay["id"].as_str().context("a replay without an id")?.parse()?)
}

/// As an operator does it: all is well, or it fails.
fn audit(stack: &Stack, database: &Database, topic: &str) -> Result<()> {
    let settings = [
        ("DATABASE__URL", database.url.clone()),
        ("KAFKA__BROKERS", stack.kafka.bootstrap()),
        ("KAFKA__TOPIC", topic.to_owned()),
    ];
    let output = dispatcher(&settings.into()).arg("audit").output()?;
    if !output.status.success() {
        bail!("dispatcher audit: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// Until the replay is done, and nothing waits.
async fn wait_for_receipts(connection: &mut PgConnection, id: Uuid, count: i64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (state, replayed, pending): (String, i64, i64) =
            sqlx::query_as("select state, replayed, pending from outbox_replays, outbox_overview where id = $1")
                .bind(id)
                .fetch_one(&mut *connection)
                .await?;
        if state == "done" && pending == 0 {
            ensure!(replayed == count, "the replay is done after {replayed} of {count}");
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the replay is {state} after {replayed} of {count}, and {pending} wait");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads all `records` of a topic: different messages among those with the replay's id, of which none may be there twice.
fn count_of(stack: &Stack, topic: &str, records: i64, id: Uuid) -> Result<usize> {
    let consumer = reader(stack, topic)?;
    let id = id.to_string();
    let (mut messages, mut repeated) = (HashSet::new(), 0);
    for _ in 0..records {
        let record = consumer.poll(NEXT_RECORD).context("the topic ends before its end")??;
        let headers = record.headers().context("a record without headers")?;
        let header = |name: &str| {
            headers
                .iter()
                .find(|header| header.key == name)
                .and_then(|header| header.value)
        };
        if header("replay-id") != Some(id.as_bytes()) {
            continue;
        }
        let event = header("ce_id").context("a record without ce_id")?;
        repeated += usize::from(!messages.insert(Uuid::try_parse_ascii(event)?));
    }
    ensure!(repeated == 0, "{repeated} records of the replay are in the topic twice");
    Ok(messages.len())
}
