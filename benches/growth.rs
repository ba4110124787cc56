//! Growth: the same measurement while something grows. The cost of a job must stay flat.

use std::time::Duration;

use anyhow::Result;
use image_job_dispatcher::{config::Delivery, outbox::partitions};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::{
    accept::{CONNECTIONS, Ours},
    backlog::{Kind, insert},
    drain, latency,
    page::{ACCEPT_BY_BACKLOG, BY_BACKLOG, BY_LOAD},
    report::{Point, Report, Sample},
    settings::Settings,
    stack::{Database, Stack},
};

/// Parts of the full load at which latency is measured.
const LOADS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];
const CLIENTS: [i64; 4] = [1, 10, 100, 1000];
const REPLICAS: [i64; 3] = [1, 2, 4];
/// Partitions of the outbox that were dropped.
const DROPPED: [i64; 3] = [2, 20, 100];
/// Ids of one of them: with a hundred dropped, 10^8 ids lie behind.
const PARTITION_ROWS: i64 = 1_000_000;
/// So many times as many ids, whose partitions stand: the last is a week at 1,000 jobs a second.
const STANDING: [i64; 4] = [2, 20, 100, 600];
/// Messages that are drained there.
const COUNT: i64 = 200_000;
/// Rounds at most: a shape needs fewer than a ratio.
const ROUNDS: usize = 3;

/// All of it.
pub async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let settings = &Settings {
        rounds: settings.rounds.min(ROUNDS),
        ..settings.clone()
    };
    stack.wal_ready().await?;
    let points = latency::by_load(stack, settings, &LOADS).await?;
    report.growth(BY_LOAD, "jobs a second", points);
    report.write(&settings.out)?;
    let mut growing = Growing { settings, report };
    by_callers(stack, &mut growing).await?;
    by_backlog(stack, &mut growing).await?;
    by_what_lies_behind(stack, &mut growing).await
}

/// Where the rounds go.
struct Growing<'a> {
    settings: &'a Settings,
    report: &'a mut Report,
}

impl Growing<'_> {
    /// Rounds of one measurement at each size of what grows.
    async fn measure<const N: usize>(
        &mut self,
        name: &str,
        unit: &str,
        sizes: [i64; N],
        mut at: impl AsyncFnMut(i64) -> Result<Sample>,
    ) -> Result<()> {
        let mut points = sizes.map(|size| Point::new(size as f64));
        for round in 1..=self.settings.rounds {
            for (point, size) in points.iter_mut().zip(sizes) {
                let sample = at(size).await?;
                println!("{name}, round {round}: {size} at {:.0}/s", sample.rate);
                point.samples.push(sample);
            }
        }
        self.report.growth(name, unit, points.into());
        self.report.write(&self.settings.out)
    }
}

async fn by_callers(stack: &Stack, growing: &mut Growing<'_>) -> Result<()> {
    let window = growing.settings.seconds;
    growing
        .measure("accept, by connections", "connections", CLIENTS, async |clients| {
            // A service of its own: the peak of its memory is this point's.
            let mut ours = Ours::new(stack, 1, "api").await?;
            let sample = ours.run(stack, clients as usize, window).await?;
            ours.end(stack).await?;
            Ok(sample)
        })
        .await?;
    let name = format!("accept and relay, by replicas, {CONNECTIONS} connections");
    growing
        .measure(&name, "replicas", REPLICAS, async |replicas| {
            let mut ours = Ours::new(stack, replicas as usize, "all").await?;
            let sample = ours.run(stack, CONNECTIONS, window).await?;
            ours.end(stack).await?;
            Ok(sample)
        })
        .await
}

async fn by_backlog(stack: &Stack, growing: &mut Growing<'_>) -> Result<()> {
    let Settings { backlog, seconds, .. } = *growing.settings;
    let sizes = [backlog / 100, backlog / 10, backlog, backlog * 5];
    growing
        .measure(BY_BACKLOG, "messages", sizes, async |size| {
            drain::ours(stack, size, Delivery::AtLeastOnce).await
        })
        .await?;
    growing
        .measure(ACCEPT_BY_BACKLOG, "messages", sizes, async |size| {
            let database = stack.database_with_backlog(Kind::Outbox, size).await?;
            accepting(stack, seconds, database, "api").await
        })
        .await
}

async fn by_what_lies_behind(stack: &Stack, growing: &mut Growing<'_>) -> Result<()> {
    let window = growing.settings.seconds;
    growing
        .measure(
            "accept, by partitions that were dropped",
            "partitions",
            DROPPED,
            async |count| {
                let database = with_partitions(stack, count, true).await?;
                accepting(stack, window, database, "api").await
            },
        )
        .await?;
    growing
        .measure(
            "drain, by partitions that were dropped",
            "partitions",
            DROPPED,
            async |count| behind(stack, count, true).await,
        )
        .await?;
    growing
        .measure(
            "drain, by ids that stand",
            "millions of ids",
            STANDING,
            async |millions| behind(stack, millions, false).await,
        )
        .await?;
    growing
        .measure(
            "accept and relay, by ids that stand",
            "millions of ids",
            STANDING,
            async |millions| {
                let database = with_partitions(stack, millions, false).await?;
                accepting(stack, window, database, "all").await
            },
        )
        .await?;
    growing
        .measure(
            "accept, by old snapshots that are held",
            "snapshots",
            [0, 1],
            async |held| {
                let database = stack.database().await?;
                let mut reader = database.connect().await?;
                if held > 0 {
                    reader.execute("begin isolation level repeatable read").await?;
                    reader.execute("select count(*) from outbox_messages").await?;
                }
                accepting(stack, window, database, "api").await
            },
        )
        .await
}

/// Accepting on a database, which is dropped then.
async fn accepting(stack: &Stack, window: Duration, database: Database, role: &str) -> Result<Sample> {
    let mut ours = Ours::on(stack, database, 1, role).await?;
    let sample = ours.run(stack, CONNECTIONS, window).await?;
    ours.end(stack).await?;
    Ok(sample)
}

/// A log of `count` million ids, all of them settled; their partitions stand, or were dropped.
async fn with_partitions(stack: &Stack, count: i64, dropped: bool) -> Result<Database> {
    let database = stack.database().await?;
    let mut connection = database.connect().await?;
    let behind = count * PARTITION_ROWS;
    for n in 1..=count {
        connection
            .execute(AssertSqlSafe(format!(
                "select setval('outbox_messages_id_seq', {})",
                n * PARTITION_ROWS
            )))
            .await?;
        partitions::ensure_outbox(&mut connection, PARTITION_ROWS).await?;
        if dropped {
            drop_partition(&mut connection, 1 + (n - 1) * PARTITION_ROWS).await?;
        }
    }
    connection
        .execute(AssertSqlSafe(format!(
            "insert into outbox_checkpoints
                 (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
             values (1, 0, 'nobody/', '-infinity', 'at-least-once', '{{}}', '{{[1,{0})}}', '{{}}')",
            behind + 1
        )))
        .await?;
    Ok(database)
}

/// A backlog in such a log.
async fn behind(stack: &Stack, count: i64, dropped: bool) -> Result<Sample> {
    let (database, topic) = (with_partitions(stack, count, dropped).await?, stack.topic().await?);
    let mut connection = database.connect().await?;
    insert(&mut connection, "outbox_messages", (0, COUNT)).await?;
    connection.execute("vacuum (analyze) outbox_messages").await?;
    let (sample, service) = drain::relay(
        stack,
        &database,
        &topic,
        &mut connection,
        (0, COUNT),
        Delivery::AtLeastOnce,
    )
    .await?;
    service.stop().await?;
    drop(connection);
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok(sample)
}

/// As retention does it.
async fn drop_partition(connection: &mut PgConnection, begin: i64) -> Result<()> {
    for statement in [
        format!("alter table outbox_messages detach partition outbox_messages_{begin} concurrently"),
        format!("drop table outbox_messages_{begin}"),
    ] {
        connection.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}
