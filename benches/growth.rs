//! Growth: the same measurement while something grows. The cost of a job must stay flat.

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
const CLIENTS: [usize; 4] = [1, 10, 100, 1000];
const REPLICAS: [usize; 3] = [1, 2, 4];
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
    accept(stack, settings, report).await?;
    let sizes = [
        settings.backlog / 100,
        settings.backlog / 10,
        settings.backlog,
        settings.backlog * 5,
    ];
    let mut points = sizes.map(|size| Point::new(size as f64));
    for round in 1..=settings.rounds {
        for (point, size) in points.iter_mut().zip(sizes) {
            point
                .samples
                .push(drain::ours(stack, size, Delivery::AtLeastOnce).await?);
            say("drain", round, point);
        }
    }
    report.growth(BY_BACKLOG, "messages", points.into());
    report.write(&settings.out)?;
    let mut points = sizes.map(|size| Point::new(size as f64));
    for round in 1..=settings.rounds {
        for (point, size) in points.iter_mut().zip(sizes) {
            let database = stack.database_with_backlog(Kind::Outbox, size).await?;
            point.samples.push(accepting(stack, settings, database, "api").await?);
            say("accept, by backlog", round, point);
        }
    }
    report.growth(ACCEPT_BY_BACKLOG, "messages", points.into());
    report.write(&settings.out)?;
    accept_behind(stack, settings, report).await?;
    let mut points = DROPPED.map(|count| Point::new(count as f64));
    for round in 1..=settings.rounds {
        for (point, count) in points.iter_mut().zip(DROPPED) {
            point.samples.push(behind(stack, count, true).await?);
            say("drain, by partitions that were dropped", round, point);
        }
    }
    report.growth("drain, by partitions that were dropped", "partitions", points.into());
    report.write(&settings.out)?;
    let mut points = STANDING.map(|millions| Point::new(millions as f64));
    for round in 1..=settings.rounds {
        for (point, millions) in points.iter_mut().zip(STANDING) {
            point.samples.push(behind(stack, millions, false).await?);
            say("drain, by ids that stand", round, point);
        }
    }
    report.growth("drain, by ids that stand", "millions of ids", points.into());
    report.write(&settings.out)?;
    let mut points = STANDING.map(|millions| Point::new(millions as f64));
    for round in 1..=settings.rounds {
        for (point, millions) in points.iter_mut().zip(STANDING) {
            let database = with_partitions(stack, millions, false).await?;
            point.samples.push(accepting(stack, settings, database, "all").await?);
            say("accept and relay, by ids that stand", round, point);
        }
    }
    report.growth("accept and relay, by ids that stand", "millions of ids", points.into());
    report.write(&settings.out)
}

async fn accept(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut points = CLIENTS.map(|clients| Point::new(clients as f64));
    for round in 1..=settings.rounds {
        for (point, clients) in points.iter_mut().zip(CLIENTS) {
            // A service of its own: the peak of its memory is this point's.
            let mut ours = Ours::new(stack, 1, "api").await?;
            point.samples.push(ours.run(stack, clients, settings.seconds).await?);
            ours.end(stack).await?;
            say("accept, by connections", round, point);
        }
    }
    report.growth("accept, by connections", "connections", points.into());

    let mut points = REPLICAS.map(|replicas| Point::new(replicas as f64));
    for round in 1..=settings.rounds {
        for (point, replicas) in points.iter_mut().zip(REPLICAS) {
            let mut ours = Ours::new(stack, replicas, "all").await?;
            point
                .samples
                .push(ours.run(stack, CONNECTIONS, settings.seconds).await?);
            ours.end(stack).await?;
            say("accept and relay, by replicas", round, point);
        }
    }
    let name = format!("accept and relay, by replicas, {CONNECTIONS} connections");
    report.growth(&name, "replicas", points.into());
    report.write(&settings.out)
}

fn say(what: &str, round: usize, point: &Point) {
    if let Some(sample) = point.samples.last() {
        println!("{what}, round {round}: {} at {:.0}/s", point.x, sample.rate);
    }
}

/// What accepting costs with many ids behind, and under an old snapshot.
async fn accept_behind(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut points = DROPPED.map(|count| Point::new(count as f64));
    for round in 1..=settings.rounds {
        for (point, count) in points.iter_mut().zip(DROPPED) {
            let database = with_partitions(stack, count, true).await?;
            point.samples.push(accepting(stack, settings, database, "api").await?);
            say("accept, by partitions that were dropped", round, point);
        }
    }
    report.growth("accept, by partitions that were dropped", "partitions", points.into());
    let mut points = [0.0, 1.0].map(Point::new);
    for round in 1..=settings.rounds {
        for point in &mut points {
            let database = stack.database().await?;
            let mut reader = database.connect().await?;
            if point.x > 0.0 {
                reader.execute("begin isolation level repeatable read").await?;
                reader.execute("select count(*) from outbox_messages").await?;
            }
            point.samples.push(accepting(stack, settings, database, "api").await?);
            say("accept, by old snapshots that are held", round, point);
        }
    }
    report.growth("accept, by old snapshots that are held", "snapshots", points.into());
    report.write(&settings.out)
}

/// Accepting on a database, which is dropped then.
async fn accepting(stack: &Stack, settings: &Settings, database: Database, role: &str) -> Result<Sample> {
    let mut ours = Ours::on(stack, database, 1, role).await?;
    let sample = ours.run(stack, CONNECTIONS, settings.seconds).await?;
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
