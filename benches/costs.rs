//! COSTS: what a job costs beside being accepted and relayed: an Idempotency-Key with its request, its final answer, and a
//! client that asks what became of it while there is none.
//!
//! Final answers lie in their topic when the service starts, a backlog like that of messages: nobody follows the jobs.
//! Their messages have been relayed before, for that is how the Content Service came to know them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use image_job_dispatcher::config::Delivery;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    accept::{CONNECTIONS, Ours},
    backlog::{Kind, jobs_of},
    drain::{all_published, relay},
    events::answer_all,
    http::{Poller, closed_loop},
    report::{Report, Sample},
    settings::{Settings, turns},
    stack::{Stack, results_of},
};

/// Final answers that are recorded.
const ANSWERS: i64 = 100_000;
/// For all of them to be recorded.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs all rounds.
pub async fn measure(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    stack.wal_ready().await?;
    let (mut keyed, mut plain, mut answers, mut stored) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut asked = Vec::new();
    for round in 1..=settings.rounds {
        for turn in turns(round, 4) {
            match turn {
                0 => keyed.push(accept(stack, settings, true).await?),
                1 => plain.push(accept(stack, settings, false).await?),
                2 => asked.push(ask(stack, settings).await?),
                _ => {
                    let (sample, bytes) = record_answers(stack).await?;
                    println!("final answers, round {round}: {:.0}/s", sample.rate);
                    answers.push(sample);
                    stored.push(bytes);
                }
            }
        }
    }
    report.side("accept over HTTP, each with an Idempotency-Key", &keyed);
    report.side("accept over HTTP, beside it without", &plain);
    report.side("a job asked for by GET, before its final answer", &asked);
    report.side("final answers recorded", &answers);
    report.fact("stored for a final answer: row, indexes", "B", stored);
    report.write(&settings.out)
}

async fn accept(stack: &Stack, settings: &Settings, keyed: bool) -> Result<Sample> {
    let mut ours = Ours::new(stack, 1, "api").await?;
    for user in &mut ours.users {
        user.keyed = keyed;
    }
    let sample = ours.run(stack, CONNECTIONS, settings.seconds).await?;
    println!("accept, with keys: {keyed}: {:.0}/s", sample.rate);
    ours.end(stack).await?;
    Ok(sample)
}

/// Clients that ask about thousands of jobs, whose messages are published, in turns.
async fn ask(stack: &Stack, settings: &Settings) -> Result<Sample> {
    let mut ours = Ours::new(stack, 1, "all").await?;
    ours.run(stack, CONNECTIONS, Duration::from_secs(1)).await?;
    let mut connection = ours.database.connect().await?;
    all_published(&mut connection).await?;
    let address = ours.replicas[0].listen.as_str();
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        let user = &ours.users[n % ours.users.len()];
        let jobs: Vec<Uuid> = sqlx::query_scalar("select id from jobs where event_draft_id = any($1) limit 1000")
            .bind(&user.drafts)
            .fetch_all(&mut connection)
            .await?;
        clients.push(Poller::connect(address, user, &jobs, n * 7).await?);
    }
    let (closed, before, after) = closed_loop(clients, (Duration::from_secs(1), settings.seconds), async || {
        stack.mark().await
    })
    .await?;
    let asked = closed.answered as f64;
    let quantile = |q| closed.latency.value_at_quantile(q) as f64 / 1000.0;
    let sample = Sample::new(asked / settings.seconds.as_secs_f64(), asked, after.since(before))
        .with("p50_ms", quantile(0.5))
        .with("p99_ms", quantile(0.99));
    println!("asked for by GET: {:.0}/s", sample.rate);
    drop(connection);
    ours.end(stack).await?;
    Ok(sample)
}

/// Has the service record the final answers that wait; and the bytes that each takes.
async fn record_answers(stack: &Stack) -> Result<(Sample, f64)> {
    let (database, topic) = (
        stack.database_with_backlog(Kind::Outbox, ANSWERS).await?,
        stack.topic().await?,
    );
    let mut connection = database.connect().await?;
    let jobs = jobs_of(&mut connection).await?;
    let delivery = Delivery::AtLeastOnce;
    let (_, relaying) = relay(stack, &database, &topic, &mut connection, (0, ANSWERS), delivery).await?;
    relaying.stop().await?;
    let (config, results) = (stack.kafka_client(), results_of(&topic));
    let sent = tokio::task::spawn_blocking(move || answer_all(&config, &results, jobs.into_iter()));
    sent.await??;
    connection.execute("checkpoint").await?;
    let began = stack.mark().await?;
    let mut service = stack.service(&database, &topic, "all", delivery)?;
    let deadline = Instant::now() + PATIENCE;
    while recorded(&mut connection).await? < ANSWERS {
        service.check()?;
        if Instant::now() > deadline {
            bail!("the service does not record the answers");
        }
        // To count them costs PostgreSQL as much as to record a hundred.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let used = stack.mark().await?.since(began);
    // From the tenth to the last, as in a drain.
    let steady: f64 = sqlx::query_scalar(
        "with tenth as (
             select percentile_disc(0.1) within group (order by recorded_at) as at, max(recorded_at) as last from job_results
         )
         select (select count(*) from job_results where recorded_at > at)::float8
                / extract(epoch from last - at)::float8 from tenth",
    )
    .fetch_one(&mut connection)
    .await?;
    let stored: i64 = sqlx::query_scalar(
        "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits where inhparent = 'job_results'::regclass",
    )
    .fetch_one(&mut connection)
    .await?;
    service.stop().await?;
    connection.close().await?;
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    Ok((
        Sample::new(steady, ANSWERS as f64, used),
        stored as f64 / ANSWERS as f64,
    ))
}

async fn recorded(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("select count(*) from job_results")
        .fetch_one(connection)
        .await?)
}
