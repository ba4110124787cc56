use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::{insert_messages, kill, replayed, run, settle};
use crate::support::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn ten_retries_of_one_dead_letter_at_once_write_one_row() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &all, "message-too-large").await;
    let id = all[1].to_string();
    let retry = ["dead", "retry", &id, "--reason", "limit raised", "--yes"];
    let ran = join_all((0..10).map(|_| run(&stage, &retry))).await;
    let retried: i64 = ran
        .iter()
        .map(|ran| ran.json()["retried"].as_i64().expect("a number"))
        .sum();
    assert_eq!(retried, 1, "{ran:?}");
    assert_eq!(replayed(&stage.pool).await, [all[1]]);
    // And the row says the same as the original, but for what makes it a replay.
    let same: bool = sqlx::query_scalar(
        "select (o.event_id, o.job_id, o.key, o.event_time, o.payload) = (r.event_id, r.job_id, r.key, r.event_time, r.payload)
                and r.replay_id is not null
         from outbox_messages r join outbox_messages o on o.id = r.replay_of",
    )
    .fetch_one(&stage.pool)
    .await
    .expect("one replay");
    assert!(same);
    let replays = run(&stage, &["replay", "list"]).await.rows();
    assert_eq!(
        replays.len(),
        1,
        "those that came too late recorded nothing: {replays:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_retried_is_not_discarded_and_the_other_way_round() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[2..]).await;
    kill(&stage.pool, &all[..2], "invalid-record").await;
    let decide = async |what: &str, id: i64| {
        run(
            &stage,
            &[
                "dead",
                what,
                &id.to_string(),
                "--reason",
                "seen",
                "--by",
                "ops",
                "--yes",
            ],
        )
        .await
    };
    assert_eq!(decide("retry", all[0]).await.json()["retried"], 1);
    let late = decide("discard", all[0]).await;
    assert_eq!(late.json(), json!({"discarded": 0}));
    assert!(late.stderr.contains("retried already, by ops"), "{late:?}");
    assert_eq!(decide("discard", all[1]).await.json(), json!({"discarded": 1}));
    assert_eq!(
        decide("retry", all[1]).await.json(),
        json!({"retried": 0, "replay_id": null})
    );
    decide("retry", all[2]).await.failed(4, "is no dead letter");
    assert_eq!(replayed(&stage.pool).await, [all[0]]);

    assert_eq!(run(&stage, &["dead", "list"]).await.rows().len(), 0);
    let resolved = run(&stage, &["dead", "list", "--resolved"]).await.rows();
    assert_eq!(resolved[0]["resolution"], "discarded");
    assert_eq!(resolved[1]["resolution"], "retried");
    assert_eq!(resolved[1]["resolved_by"], "ops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_retried_whole_however_large_and_in_order() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 1_300, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &all[..1_200], "message-too-large").await;
    kill(&stage.pool, &all[1_200..], "invalid-record").await;
    let groups = run(&stage, &["dead", "list", "--group"]).await.rows();
    assert_eq!(
        (&groups[0]["error_class"], &groups[0]["count"]),
        (&json!("message-too-large"), &json!(1_200))
    );
    assert_eq!(
        (&groups[1]["error_class"], &groups[1]["count"]),
        (&json!("invalid-record"), &json!(100))
    );

    let retry = [
        "dead",
        "retry",
        "--class",
        "message-too-large",
        "--reason",
        "limit raised",
        "--yes",
    ];
    assert_eq!(run(&stage, &retry).await.json()["retried"], 1_200);
    assert_eq!(replayed(&stage.pool).await, all[..1_200]);
    let own: i64 = sqlx::query_scalar(
        "select count(*) from outbox_dead_letters d
         join outbox_messages m on m.id = d.outbox_id
         join outbox_messages retry on retry.id = d.retry_id and retry.event_id = m.event_id and retry.replay_of = m.id",
    )
    .fetch_one(&stage.pool)
    .await
    .expect("a count");
    assert_eq!(own, 1_200, "each letter names its own retry");
    assert_eq!(run(&stage, &retry).await.json()["retried"], 0);
    assert_eq!(run(&stage, &["dead", "list", "--group"]).await.rows().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_without_a_yes_or_a_reason() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &all, "invalid-record").await;
    run(&stage, &["dead", "retry", "--all", "--reason", "x"])
        .await
        .failed(2, "--yes");
    run(&stage, &["dead", "discard", "--all", "--yes"])
        .await
        .failed(2, "--reason");
    run(&stage, &["dead", "discard", "--all", "--reason", " ", "--yes"])
        .await
        .failed(2, "say why");
    run(&stage, &["dead", "retry", "--reason", "x", "--yes"])
        .await
        .failed(2, "required");
    assert_eq!(run(&stage, &["dead", "list"]).await.rows().len(), 1);

    run(&stage, &["dead", "discard", "--all", "--reason", " stale\n", "--yes"])
        .await
        .json();
    let reason: String = sqlx::query_scalar("select reason from operator_acts order by id desc limit 1")
        .fetch_one(&stage.pool)
        .await
        .expect("the act");
    assert_eq!(reason, "stale");
}
