use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{insert_messages, job_of, kill, run, settle};
use crate::support::{Stage, stage::empty_database};

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_page_by_page_newest_first_without_a_gap() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 120, &[Uuid::new_v4()], Uuid::new_v4()).await;
    let mut seen = Vec::new();
    let mut after = None::<i64>;
    for expected in [50, 50, 20] {
        let mut arguments = vec!["outbox".to_owned(), "list".to_owned()];
        arguments.extend(after.iter().flat_map(|id| ["--after".to_owned(), id.to_string()]));
        let page = run(&stage, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let page_ids = ids(&page.rows());
        assert_eq!(page_ids.len(), expected, "{page:?}");
        assert_eq!(page.stderr.contains("--after"), expected == 50, "{page:?}");
        after = page_ids.last().copied();
        seen.extend(page_ids);
    }
    assert_eq!(seen, all.iter().rev().copied().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_of_a_list_narrows_to_what_it_says() {
    let stage = Stage::new().await;
    let drafts = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let all = insert_messages(&stage.pool, 30, &drafts, Uuid::new_v4()).await;
    settle(&stage.pool, &all[..20]).await;
    kill(&stage.pool, &all[20..22], "message-too-large").await;

    let list = async |more: &[&str]| ids(&run(&stage, &[&["outbox", "list"], more].concat()).await.rows());
    let newest_first = |ids: &[i64]| ids.iter().rev().copied().collect::<Vec<_>>();

    assert_eq!(list(&["--state", "published"]).await, newest_first(&all[..20]));
    assert_eq!(list(&["--state", "dead"]).await, newest_first(&all[20..22]));
    assert_eq!(list(&["--state", "pending"]).await, newest_first(&all[22..]));
    assert_eq!(
        list(&["--state", "pending", "--limit", "3"]).await,
        newest_first(&all[27..])
    );
    let after = all[25].to_string();
    assert_eq!(
        list(&["--state", "pending", "--after", &after]).await,
        newest_first(&all[22..25])
    );

    // The drafts take turns, and the first message is of the second.
    let of_a_draft: Vec<i64> = all.iter().skip(2).step_by(3).copied().collect();
    assert_eq!(
        list(&["--draft", &drafts[0].to_string()]).await,
        newest_first(&of_a_draft)
    );
    assert_eq!(
        list(&["--job", &job_of(&stage.pool, all[4]).await.to_string()]).await,
        [all[4]]
    );
    assert_eq!(list(&["--job", &Uuid::new_v4().to_string()]).await, [0; 0]);

    let cut: DateTime<Utc> = sqlx::query_scalar("select created_at from outbox_messages where id = $1")
        .bind(all[20])
        .fetch_one(&stage.pool)
        .await
        .expect("a message");
    let cut = cut.to_rfc3339_opts(SecondsFormat::Micros, true);
    assert_eq!(list(&["--from", &cut]).await, newest_first(&all[20..]));
    assert_eq!(list(&["--to", &cut]).await, newest_first(&all[..20]));
    assert_eq!(list(&["--to", &cut, "--state", "pending"]).await, [0; 0]);
    assert_eq!(
        list(&["--from", &cut, "--state", "dead"]).await,
        newest_first(&all[20..22])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn show_tells_the_whole_life_of_a_message_by_its_id_and_by_its_job() {
    let stage = Stage::new().await;
    let (draft, user) = (Uuid::new_v4(), Uuid::new_v4());
    let all = insert_messages(&stage.pool, 3, &[draft], user).await;
    settle(&stage.pool, &all[..1]).await;
    kill(&stage.pool, &all[1..2], "message-too-large").await;
    let job = job_of(&stage.pool, all[1]).await.to_string();
    run(
        &stage,
        &[
            "dead",
            "retry",
            &all[1].to_string(),
            "--reason",
            "limit raised",
            "--yes",
        ],
    )
    .await
    .json();

    let published = run(&stage, &["outbox", "show", &all[0].to_string()]).await.json();
    assert_eq!(published["state"], "published");
    assert_eq!(
        (&published["partition"], &published["offset"]),
        (&json!(0), &json!(all[0]))
    );
    assert!(
        published["published_at"].is_string() && published["dead_letter"].is_null(),
        "{published}"
    );

    let dead = run(&stage, &["outbox", "show", &job]).await.json();
    assert_eq!(dead["id"], all[1]);
    assert_eq!(dead["user_id"], user.to_string());
    assert_eq!(dead["headers"]["ce_id"], dead["event_id"]);
    assert_eq!(dead["headers"]["ce_subject"], job);
    assert_eq!(dead["headers"]["outbox-id"], all[1].to_string());
    assert_eq!(dead["payload"], json!({"jobId": job, "n": 2}));
    assert_eq!(dead["dead_letter"]["resolution"], "retried");
    assert_eq!(dead["dead_letter"]["reason"], "limit raised");
    let replay = &dead["replays"][0];
    assert_eq!(replay["replay_of"], all[1]);
    assert_eq!(replay["event_id"], dead["event_id"]);
    assert_eq!(replay["state"], "pending");

    let shown = run(&stage, &["outbox", "show", &replay["id"].to_string()]).await.json();
    assert_eq!(shown["headers"]["replay-id"], replay["replay_id"]);

    run(&stage, &["outbox", "show", "999999"])
        .await
        .failed(4, "no message 999999");
    run(&stage, &["outbox", "show", &Uuid::new_v4().to_string()])
        .await
        .failed(4, "no job");
    run(&stage, &["outbox", "show", "seven"])
        .await
        .failed(2, "neither an outbox id");
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_what_waits_what_is_published_and_what_is_dead() {
    let stage = Stage::new().await;
    let fresh = run(&stage, &["outbox", "stats"]).await.json();
    assert_eq!(
        (&fresh["pending"], &fresh["leader"], &fresh["lease_until"]),
        (&json!(0), &json!(null), &json!(null))
    );

    let all = insert_messages(&stage.pool, 10, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..5]).await;
    kill(&stage.pool, &all[5..8], "message-too-large").await;
    let discard = ["dead", "discard", &all[5].to_string(), "--reason", "old", "--yes"];
    assert_eq!(run(&stage, &discard).await.json(), json!({"discarded": 1}));

    let stats = run(&stage, &["outbox", "stats"]).await.json();
    for (name, expected) in [
        ("pending", 2),
        ("published", 5),
        ("dead", 2),
        ("dead_discarded", 1),
        ("dead_retried", 0),
    ] {
        assert_eq!(stats[name], expected, "{name} of {stats}");
    }
    let age = stats["oldest_pending_age_seconds"].as_f64().expect("a number");
    assert!(
        (50.0..120.0).contains(&age),
        "{age}: the oldest that waits was written a minute ago"
    );
    let partitions = stats["partitions"].as_array().expect("partitions");
    assert!(
        partitions
            .iter()
            .any(|p| p["table"] == "outbox_messages" && p["bytes"].as_i64() > Some(0)),
        "{stats}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_ready_says_what_to_do() {
    let stage = Stage::new().await;
    let empty = empty_database().await;
    let elsewhere = stage.set("database.url", &empty);
    run(&elsewhere, &["outbox", "list"])
        .await
        .failed(1, "dispatcher migrate");
    let (_, place) = empty.rsplit_once('@').expect("a password");
    let wrong = format!("postgres://nobody:wrong@{place}");
    let refused = elsewhere.set("database.url", &wrong);
    run(&refused, &["outbox", "list"]).await.failed(3, "refuses the login");
    let nowhere = refused.set("database.url", "postgres://nobody@127.0.0.1:1/none");
    run(&nowhere, &["outbox", "stats"]).await.failed(3, "cannot be reached");
}
