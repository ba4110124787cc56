//! G3, G4, G8, G9, G10 and E1: how fast a committed backlog gets into Kafka, and what each message costs.
//!
//! A drain begins with a full table, an empty topic and a relay that leads and is paused: when it is resumed. It ends when
//! every record is in the topic and recorded as published. CPU and WAL are those of the whole of it. The rate is the
//! steady one: from the tenth of the backlog to its end, by the times at which the broker appended the records. Every
//! drain has a database and a topic of its own. A baseline runs in the benchmark's process, which has started too.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_job_dispatcher::{config::Delivery, outbox::record::OutboxMessage};
use sqlx::{Acquire, Executor, PgConnection, Row, postgres::PgRow};
use tokio::task::JoinSet;

use crate::{
    backlog::{Kind, Topic, fill, message},
    producer::{Alone, Batch, Prepared, Producer, SERVICES_QUEUE, SMALL_QUEUE},
    report::Sample,
    settings::{Settings, turns},
    stack::{Database, Service, Stack},
    usage::{Used, peak_resident},
};

/// Messages that the textbook relay claims, sends, waits for and marks together.
const TEXTBOOK_BATCH: i64 = 1000;
/// A drain takes longer only when something is wrong.
const PATIENCE: Duration = Duration::from_mins(15);

/// One sample a round of each side.
#[derive(Debug, Default)]
pub struct Drained {
    pub ours: Vec<Sample>,
    /// With the service's queue.
    pub alone: Vec<Sample>,
    /// With a small one.
    pub ceiling: Vec<Sample>,
    pub textbook_1: Vec<Sample>,
    pub textbook_4: Vec<Sample>,
}

/// Which sides are drained besides ours.
#[derive(Debug, Clone, Copy)]
pub struct Against {
    pub ceiling: bool,
    pub textbook_1: bool,
    pub textbook_4: bool,
}

/// Runs all rounds.
pub async fn measure(stack: &Stack, settings: &Settings, against: Against) -> Result<Drained> {
    let count = settings.backlog;
    // The broker's just-in-time compiler has to have seen the load, or the first round would be the slowest.
    rdkafka_alone(stack, count, SMALL_QUEUE).await?;
    let mut drained = Drained::default();
    for round in 1..=settings.rounds {
        for turn in turns(round, 5) {
            let (name, samples, sample) = match turn {
                0 => (
                    "ours",
                    &mut drained.ours,
                    ours(stack, count, Delivery::AtLeastOnce).await?,
                ),
                1 if against.ceiling => (
                    "rdkafka alone",
                    &mut drained.alone,
                    rdkafka_alone(stack, count, SERVICES_QUEUE).await?,
                ),
                4 if against.ceiling => (
                    "rdkafka alone, small queue",
                    &mut drained.ceiling,
                    rdkafka_alone(stack, count, SMALL_QUEUE).await?,
                ),
                2 if against.textbook_1 => (
                    "textbook, one worker",
                    &mut drained.textbook_1,
                    textbook(stack, count, 1).await?,
                ),
                3 if against.textbook_4 => (
                    "textbook, four workers",
                    &mut drained.textbook_4,
                    textbook(stack, count, 4).await?,
                ),
                _ => continue,
            };
            println!("drain, round {round}: {name} {:.0}/s", sample.rate);
            samples.push(sample);
        }
    }
    Ok(drained)
}

/// Our relay alone, `serve --role relay`, with its default settings.
pub async fn ours(stack: &Stack, count: i64, delivery: Delivery) -> Result<Sample> {
    let (database, topic) = (
        stack.database_with_backlog(Kind::Outbox, count).await?,
        stack.topic().await?,
    );
    let mut connection = database.connect().await?;
    let (sample, service) = relay(stack, &database, &topic, &mut connection, (0, count), delivery).await?;
    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}

/// Starts the relay, and has it send and record `count` messages beyond the first `before`.
pub async fn relay(
    stack: &Stack,
    database: &Database,
    topic: &str,
    connection: &mut PgConnection,
    (before, count): (i64, i64),
    delivery: Delivery,
) -> Result<(Sample, Service)> {
    let look = Topic::new(stack, topic)?;
    connection.execute("update outbox_control set paused = true").await?;
    let mut service = stack.service(database, topic, "relay", delivery)?;
    service.leads(connection).await?;
    let began = stack.mark().await?;
    connection.execute("update outbox_control set paused = false").await?;
    connection.execute("notify outbox").await?;
    wait_for(&look, before + count, || service.check()).await?;
    // Recorded too: what is not in a checkpoint would be sent again.
    all_published(connection).await?;
    let used = stack.mark().await?.since(began);
    let resident = peak_resident(service.pid())? / f64::from(1 << 20);
    let transactional = delivery == Delivery::ExactlyOnce;
    let sample = sample(&look, (before, count), transactional, used)?.with("peak_rss_MiB", resident);
    Ok((sample, service))
}

/// Waits until all that was accepted is recorded as published.
pub async fn all_published(connection: &mut PgConnection) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>("select pending from outbox_overview")
        .fetch_one(&mut *connection)
        .await?
        > 0
    {
        if Instant::now() > deadline {
            bail!("the relay does not record what it has sent");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The ceiling: librdkafka by way of rdkafka, in this process, with the service's allocator and settings, and
/// nothing to read, to format or to record: the records lie ready in memory, in turns.
async fn rdkafka_alone(stack: &Stack, count: i64, queued: usize) -> Result<Sample> {
    let topic = stack.topic().await?;
    let ready: Vec<_> = (0..16_384).map(|n| Prepared::new(message(n))).collect();
    let look = Topic::new(stack, &topic)?;
    let producer = Alone::new(stack, &topic, count as usize, queued)?;
    let began = stack.mark().await?;
    let sending = tokio::task::spawn_blocking(move || {
        for record in ready.iter().cycle().take(count as usize) {
            producer.send(record)?;
        }
        anyhow::Ok(producer)
    });
    let producer = sending.await??;
    producer.done().await?;
    let used = stack.mark().await?.since(began);
    drop(producer);
    let sample = sample(&look, (0, count), false, used.client_is_service())?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}

/// The textbook relay: claim the oldest unpublished rows with SKIP LOCKED, send them, wait for Kafka, mark them, and
/// commit; as many workers at once, on one producer. In this process, with the service's allocator, database driver
/// and producer settings.
async fn textbook(stack: &Stack, count: i64, workers: usize) -> Result<Sample> {
    let (database, topic) = (
        stack.database_with_backlog(Kind::Textbook, count).await?,
        stack.topic().await?,
    );
    let look = Topic::new(stack, &topic)?;
    let producer = Producer::new(stack, &topic)?;
    let began = stack.mark().await?;
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(database.connect().await?, producer.clone()));
    }
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        sent += done??;
    }
    if sent != count {
        bail!("the textbook relay sent {sent} of {count}");
    }
    let used = stack.mark().await?.since(began);
    drop(producer);
    let sample = sample(&look, (0, count), false, used.client_is_service())?;
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}

/// One worker, until nothing is left. Returns how many it sent.
async fn work(mut connection: PgConnection, producer: Producer) -> Result<i64> {
    // The best plan for it, whatever the statistics say: the partial index, and no sort.
    connection.execute("set enable_seqscan = off").await?;
    let mut sent = 0;
    loop {
        let mut transaction = connection.begin().await?;
        let rows = sqlx::query(
            "select id, event_id, job_id, key, event_time, created_at, traceparent, payload from textbook_outbox
             where published_at is null order by id limit $1 for update skip locked",
        )
        .bind(TEXTBOOK_BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        if rows.is_empty() {
            return Ok(sent);
        }
        let batch = Batch::of(rows.len());
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            let message = textbook_message(row)?;
            ids.push(message.id);
            producer.send(&message, &batch)?;
        }
        batch.done().await?;
        sqlx::query("update textbook_outbox set published_at = now() where id = any ($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        sent += ids.len() as i64;
    }
}

/// Decoded without a comparison of types in each row, as the service does.
fn textbook_message(row: &PgRow) -> sqlx::Result<OutboxMessage> {
    Ok(OutboxMessage {
        id: row.try_get_unchecked(0)?,
        event_id: row.try_get_unchecked(1)?,
        job_id: row.try_get_unchecked(2)?,
        key: row.try_get_unchecked(3)?,
        event_time: row.try_get_unchecked(4)?,
        created_at: row.try_get_unchecked(5)?,
        replay_id: None,
        traceparent: row.try_get_unchecked(6)?,
        payload: row.try_get_unchecked(7)?,
    })
}

/// G8: the second of two backlogs, after the first was drained; with `held`, under a snapshot that is older than both.
pub async fn under_old_snapshot(stack: &Stack, count: i64, held: bool) -> Result<Sample> {
    let (database, topic) = (stack.database().await?, stack.topic().await?);
    let (mut connection, mut reader) = (database.connect().await?, database.connect().await?);
    if held {
        reader.execute("begin isolation level repeatable read").await?;
        reader.execute("select count(*) from outbox_messages").await?;
    }
    fill(&mut connection, Kind::Outbox, count).await?;
    let (_, service) = relay(
        stack,
        &database,
        &topic,
        &mut connection,
        (0, count),
        Delivery::AtLeastOnce,
    )
    .await?;
    service.stop().await?;
    fill(&mut connection, Kind::Outbox, count).await?;
    let (sample, service) = relay(
        stack,
        &database,
        &topic,
        &mut connection,
        (count, count),
        Delivery::AtLeastOnce,
    )
    .await?;
    service.stop().await?;
    drop((connection, reader));
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}

/// Until there are `count` records in the topic.
pub async fn wait_for(look: &Topic, count: i64, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = tokio::task::block_in_place(|| look.count())?;
        if seen >= count {
            return Ok(());
        }
        check()?;
        if Instant::now() > deadline {
            bail!("{seen} of {count} records after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a drain of `count` records, after `before` others, comes to. It lasted from the first record to the last: what went
/// before that and after it is waiting.
pub fn sample(look: &Topic, (before, count): (i64, i64), markers: bool, used: Used) -> Result<Sample> {
    let pace = tokio::task::block_in_place(|| look.pace(before, count, markers)).context("the topic's times")?;
    let used = Used {
        seconds: pace.seconds,
        ..used
    };
    Ok(Sample::new(pace.steady, count as f64, used).with("first_to_last_s", pace.seconds))
}
