use serde_json::json;

use super::run;
use crate::support::Stage;

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
    run(&stage, &["pause", "--reason", ""]).await.failed(2, "say why");
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
