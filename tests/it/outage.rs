//! A broker outage is not poison, and it stops nobody from asking.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{Stage, drafts, eventually, history::History, load::accept, token_for};

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
