//! COSTS: what a job costs beside being accepted and relayed: an Idempotency-Key with its request, and its final answer.
//!
//! Final answers lie in their topic when the service starts, a backlog like that of messages: nobody follows the jobs.
//! Their messages have been relayed before, for that is how the Content Service came to know them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use image_job_dispatcher::config::Delivery;
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    accept::{CONNECTIONS, Ours},
    backlog::{Kind, jobs_of},
    drain::relay,
    events::answer_all,
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
    for round in 1..=settings.rounds {
        for turn in turns(round, 3) {
            match turn {
                0 => keyed.push(accept(stack, settings, true).await?),
                1 => plain.push(accept(stack, settings, false).await?),
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
