use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::run;
use crate::support::{PATIENCE, Stage, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stands_as_it_was_given_until_it_is_ended() {
    let stage = Stage::new().await;
    let first = run(&stage, &["pause", "--reason", "broker upgrade", "--by", "ops"])
        .await
        .json();
    assert_eq!(
        (&first["changed"], &first["pause"]["by"]),
        (&json!(true), &json!("ops"))
    );
    let second = run(&stage, &["pause", "--reason", "another"]).await;
    assert_eq!(second.json()["changed"], false);
    assert!(second.stderr.contains("broker upgrade"), "{second:?}");
    let stats = run(&stage, &["outbox", "stats"]).await.json();
    assert_eq!(stats["paused"]["reason"], "broker upgrade");

    let resumed = run(&stage, &["resume"]).await;
    assert!(resumed.stderr.contains("it was paused for"), "{resumed:?}");
    assert_eq!(resumed.json()["was"]["by"], "ops");
    assert!(resumed.json()["was"]["lasted_seconds"].as_f64().expect("a number") >= 0.0);
    assert_eq!(run(&stage, &["resume"]).await.json()["changed"], false);
    assert_eq!(run(&stage, &["outbox", "stats"]).await.json()["paused"], json!(null));
    for reason in ["", " \t"] {
        run(&stage, &["pause", "--reason", reason]).await.failed(2, "say why");
        run(
            &stage,
            &["replay", "create", "--from", "2026-01-01T00:00:00Z", "--reason", reason],
        )
        .await
        .failed(2, "say why");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kafka_is_accepted_only_with_a_yes() {
    let stage = Stage::new().await;
    sqlx::query("update installation set topic = 'old', cluster_id = 'gone'")
        .execute(&stage.pool)
        .await
        .expect("an identity");
    run(&stage, &["resume", "--accept-identity"]).await.failed(2, "--yes");
    let accepted = run(&stage, &["resume", "--accept-identity", "--yes"]).await.json();
    assert_eq!(accepted["forgotten_cluster_id"], "gone");
    let (topic,): (Option<String>,) = sqlx::query_as("select topic from installation")
        .fetch_one(&stage.pool)
        .await
        .expect("the installation");
    assert_eq!(topic, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_asks_and_deletes_only_keys_that_are_old() {
    let stage = Stage::new().await.set("idempotency.retention", "1h");
    sqlx::query(
        "insert into idempotency_keys
         select gen_random_uuid(), i::text, gen_random_uuid(), gen_random_uuid(),
                clock_timestamp() - case when i <= 7 then interval '61 min' else interval '59 min' end
         from generate_series(1, 10) i",
    )
    .execute(&stage.pool)
    .await
    .expect("keys");
    let planned = run(&stage, &["retain", "--dry-run"]).await.rows();
    assert_eq!(
        planned,
        [json!({"what": "idempotency_keys", "rows": 7, "dropped": false})]
    );
    run(&stage, &["retain"]).await.failed(2, "--yes");
    let done = run(&stage, &["retain", "--yes"]).await.rows();
    assert_eq!(done, [json!({"what": "idempotency_keys", "rows": 7, "dropped": true})]);
    let left: i64 = sqlx::query_scalar("select count(*) from idempotency_keys")
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
    assert_eq!(left, 3);
}

/// A trigger holds the second pause where it has found the relay paused, while somebody resumes.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_meets_a_resume_is_told_what_it_found() {
    let stage = Stage::new().await;
    run(&stage, &["pause", "--reason", "the first"]).await.json();
    let url = stage.environment()["database.url"].clone();
    let mut held = PgConnection::connect(&url).await.expect("a connection");
    held.execute(
        "create function hold() returns trigger language plpgsql as
             $$ begin perform pg_advisory_xact_lock(1); return null; end $$;
         create trigger hold after update on outbox_control for each statement execute function hold();
         select pg_advisory_lock(1)",
    )
    .await
    .expect("a trigger");
    let waiting = async |count: i64, kind: &str| {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and ($1 = '' or wait_event = $1)",
        )
        .bind(kind)
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
        if waiting == count {
            Ok(())
        } else {
            Err(format!("{waiting} wait"))
        }
    };
    let resume = async {
        eventually("the pause is held", PATIENCE, async || waiting(1, "advisory").await).await;
        let resumed = tokio::spawn(async move {
            let mut conn = PgConnection::connect(&url).await.expect("a connection");
            // A session of this role fires no trigger.
            conn.execute(
                "set session_replication_role = replica;
                 update outbox_control set paused = false, reason = null, by = null, since = null",
            )
            .await
        });
        eventually("the resume is done, or waits for the pause", PATIENCE, async || {
            if resumed.is_finished() {
                Ok(())
            } else {
                waiting(2, "").await
            }
        })
        .await;
        held.execute("select pg_advisory_unlock(1)").await.expect("the lock");
        resumed.await.expect("it ran").expect("it was resumed");
    };
    let (paused, ()) = tokio::join!(run(&stage, &["pause", "--reason", "the second"]), resume);
    let paused = paused.json();
    assert_eq!(paused["changed"], false);
    assert_eq!(paused["pause"]["reason"], "the first");
}
