//! A broker outage is not poison, and it stops nobody from asking.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::{
    Stage, drafts, eventually,
    history::History,
    load::{Load, Manners, accept},
    token_for,
};

/// Clients that ask 500 times a second together where an answer takes 75 ms, as on a busy machine.
const CLIENTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(45);
/// What a longer outage may add to the memory of the service: its backlog is in PostgreSQL.
const GROWTH: usize = 32 << 20;

/// How long the broker is away; `OUTAGE=600` in the environment for ten minutes.
fn outage() -> Duration {
    let seconds = std::env::var("OUTAGE").map_or(10, |seconds| seconds.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_accepted_while_the_broker_is_down_are_in_the_topic_once_each_and_in_order() {
    outlast_an_outage(Stage::with_servers_of_its_own().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_accepted_while_the_broker_is_down_are_in_the_topic_once_in_exactly_once_mode() {
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("relay.delivery", "exactly-once");
    outlast_an_outage(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_under_load_loses_nothing_dead_letters_nothing_and_takes_no_memory() {
    let stage = Stage::with_servers_of_its_own().await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 500).await;
    let app = stage.app().await;
    let mut requests = vec![accept(&app, drafts[0], &token).await];
    stage.records(1).await;

    stage.servers().kafka.stop().await.expect("Kafka stops");
    let manners = Manners {
        pause: PAUSE,
        ..Manners::default()
    };
    let load = Load::start_with(&[&app.base_url], &token, &drafts, CLIENTS, manners);
    // By then every buffer that there is has been filled.
    tokio::time::sleep(outage() / 2).await;
    let half = app.resident();
    tokio::time::sleep(outage() / 2).await;
    let grown = app.resident().saturating_sub(half);
    let asked = load.stop().await;
    assert!(asked.iter().all(|request| request.job().is_some()), "refused");
    let (pending, dead): (i64, i64) = sqlx::query_as("select pending, dead from outbox_overview")
        .fetch_one(&stage.pool)
        .await
        .expect("overview");
    assert_eq!((pending, dead), (asked.len() as i64, 0));

    stage.servers().kafka.restart().await.expect("Kafka starts again");
    let back = Instant::now();
    stage.drained().await;
    let took = back.elapsed();
    requests.extend(asked);
    let delivered = History::gather(&stage, requests).await.kept();
    println!(
        "{} accepted in an outage of {:?}, memory grew by {} KiB in its second half, drained {:.1} s after the broker was back",
        delivered.accepted - 1,
        outage(),
        grown >> 10,
        took.as_secs_f64()
    );
    assert_eq!(delivered.repeats, 0);
    // The partitions were acknowledged in turns; the position is recorded as if they had not been.
    let ranges: i64 = sqlx::query_scalar("select count(*) from outbox_checkpoints, unnest(settled)")
        .fetch_one(&stage.pool)
        .await
        .expect("checkpoints");
    assert!(ranges * 10 < delivered.accepted as i64, "{ranges} ranges");
    assert!(grown < GROWTH, "{} KiB", grown >> 10);
}

async fn outlast_an_outage(stage: Stage) {
    let user = Uuid::new_v4();
    let token = token_for(user);
    let drafts = drafts::insert_many(&stage.pool, user, 50).await;
    let app = stage.app().await;
    let mut requests = vec![accept(&app, drafts[0], &token).await];
    stage.records(1).await;

    stage.servers().kafka.stop().await.expect("Kafka stops");
    for n in 0..1000 {
        requests.push(accept(&app, drafts[n % drafts.len()], &token).await);
    }
    let (pending, dead): (i64, i64) = sqlx::query_as("select pending, dead from outbox_overview")
        .fetch_one(&stage.pool)
        .await
        .expect("overview");
    assert_eq!((pending, dead), (1000, 0));
    // What became of the message is told apart from what became of the job.
    let job = requests[1000].job().expect("it was accepted");
    let body: serde_json::Value = app
        .get_job(job, &token)
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        (&body["status"], &body["message"]["state"]),
        (&"PENDING".into(), &"pending".into()),
        "{body}"
    );

    stage.servers().kafka.restart().await.expect("Kafka starts again");
    let records = stage.records_within(1001, Duration::from_mins(1)).await;
    assert_eq!(records.len(), 1001, "each exactly once");
    stage.drained().await;
    assert_eq!(History::gather(&stage, requests).await.kept().repeats, 0);
    eventually(
        "everything is recorded as published",
        Duration::from_secs(10),
        async || {
            let seen: (i64, i64, i64) = sqlx::query_as("select pending, published, dead from outbox_overview")
                .fetch_one(&stage.pool)
                .await
                .expect("overview");
            if seen == (0, 1001, 0) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        },
    )
    .await;
}
