//! The topic compared with the receipts, where acknowledged records were truly lost.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use image_job_dispatcher::outbox::checkpoints::{self, Entry, Receipt};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ran, insert_messages, replayed, run, settle};
use crate::support::{
    App, PATIENCE, Stage, drafts, eventually,
    load::Load,
    records::publish,
    token_for,
    topics::{delete_records_below, make_again},
};

/// Messages that a relay has published and recorded.
async fn published(stage: &Stage, count: i64) -> (App, Vec<i64>) {
    let keys: Vec<Uuid> = (0..8).map(|_| Uuid::new_v4()).collect();
    let ids = insert_messages(&stage.pool, count, &keys, Uuid::new_v4()).await;
    let app = stage.app().await;
    all_settled(stage, count).await;
    (app, ids)
}

async fn all_settled(stage: &Stage, count: i64) {
    eventually(&format!("{count} are settled"), PATIENCE, async || {
        let stats = run(stage, &["outbox", "stats"]).await.json();
        if stats["published"] == count && stats["pending"] == 0 {
            Ok(())
        } else {
            Err(stats)
        }
    })
    .await;
}

async fn audit(stage: &Stage, more: &[&str]) -> Ran {
    run(stage, &[&["audit", "--by", "ops"], more].concat()).await
}

fn found(audit: &Value, kind: &str) -> Vec<Value> {
    let findings = audit["findings"].as_array().expect("findings");
    findings.iter().filter(|f| f["kind"] == kind).cloned().collect()
}

fn ids(findings: &[Value]) -> Vec<i64> {
    findings
        .iter()
        .map(|f| f["outbox_id"].as_i64().expect("an id"))
        .collect()
}

fn counts(audit: &Value, names: &[&str]) -> Vec<i64> {
    names
        .iter()
        .map(|name| audit[name].as_i64().expect("a count"))
        .collect()
}

/// `replay create --missing`, and an audit once all of it is published.
async fn replay_what_is_missing(stage: &Stage, expected: usize) -> Value {
    let create = [
        "replay",
        "create",
        "--missing",
        "--reason",
        "Kafka lost it",
        "--rate",
        "100000",
        "--yes",
    ];
    let created = run(stage, &create).await.json();
    assert_eq!(created["matched"], expected as i64, "{created}");
    // The same audit once more: nothing is started.
    let again = run(stage, &create).await;
    assert_eq!(again.json()["id"], created["id"]);
    assert!(again.stderr.contains("nothing was started"), "{again:?}");
    eventually("the replay is published", PATIENCE, async || {
        let rows: i64 = sqlx::query_scalar(
            "select count(*) from outbox_status where replay_of is not null and state = 'published'",
        )
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
        if rows >= expected as i64 { Ok(()) } else { Err(rows) }
    })
    .await;
    audit(stage, &[]).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_holds_what_the_receipts_say_is_clean() {
    let stage = Stage::new().await;
    let (_app, _) = published(&stage, 40).await;
    let ran = audit(&stage, &[]).await;
    let clean = ran.json();
    assert_eq!(
        counts(
            &clean,
            &[
                "receipts",
                "records",
                "in_place",
                "missing",
                "repeated",
                "foreign",
                "expired",
                "made_good"
            ]
        ),
        [40, 40, 40, 0, 0, 0, 0, 0],
        "{clean}"
    );
    assert_eq!((&clean["clean"], &clean["findings"]), (&json!(true), &json!([])));
    assert_eq!(
        (&clean["topic"], &clean["requested_by"]),
        (&json!(stage.topic), &json!("ops"))
    );
    assert!(clean["cluster_id"].is_string() && clean["from"].is_null(), "{clean}");
    assert_eq!(ran.stderr, "", "no bar where nobody watches");
    run(&stage, &["replay", "create", "--missing", "--reason", "x", "--yes"])
        .await
        .failed(4, "nothing matches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_made_again_has_lost_all_and_its_replay_makes_the_audit_clean() {
    let stage = Stage::new().await;
    run(&stage, &["replay", "create", "--missing", "--reason", "x", "--yes"])
        .await
        .failed(4, "no audit yet");
    let (app, all) = published(&stage, 40).await;
    app.term_and_wait().await;
    make_again(&stage).await;

    let ran = audit(&stage, &[]).await;
    ran.failed(5, "40 acknowledged messages are missing");
    let lost = ran.any_json();
    assert_eq!(
        counts(&lost, &["receipts", "records", "missing", "foreign"]),
        [40, 0, 40, 0]
    );
    assert_eq!((ids(&found(&lost, "missing")), &lost["clean"]), (all, &json!(false)));

    run(&stage, &["resume", "--accept-identity", "--yes"]).await.json();
    let app = stage.app().await;
    let clean = replay_what_is_missing(&stage, 40).await;
    assert_eq!(
        counts(
            &clean,
            &[
                "receipts",
                "records",
                "in_place",
                "made_good",
                "missing",
                "repeated",
                "foreign"
            ]
        ),
        [80, 40, 40, 40, 0, 0, 0],
        "{clean}"
    );

    // And the replay's own records can be lost, too: now its rows are what is missing.
    drop(app);
    make_again(&stage).await;
    let lost = audit(&stage, &[]).await.any_json();
    assert_eq!(counts(&lost, &["missing", "made_good"]), [80, 0], "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_are_found_exactly_and_their_replay_makes_the_audit_clean() {
    let stage = Stage::new().await;
    let (_app, _) = published(&stage, 60).await;
    let records = stage.records(60).await;
    let partition = records[0].partition;
    let of_it: Vec<_> = records.iter().filter(|r| r.partition == partition).collect();
    let below = of_it[of_it.len() / 2].offset;
    let mut cut: Vec<i64> = of_it
        .iter()
        .filter(|r| r.offset < below)
        .map(|r| r.header("outbox-id").parse().expect("an id"))
        .collect();
    cut.sort_unstable();
    assert!(!cut.is_empty(), "{of_it:?}");
    delete_records_below(&stage, partition, below).await;

    let ran = audit(&stage, &[]).await;
    ran.failed(5, "are missing");
    let lost = ran.any_json();
    assert_eq!(ids(&found(&lost, "missing")), cut);
    assert_eq!(counts(&lost, &["in_place", "expired"]), [60 - cut.len() as i64, 0]);
    let place = &found(&lost, "missing")[0];
    assert_eq!(place["partition"], partition, "where the receipt says it is: {place}");

    let clean = replay_what_is_missing(&stage, cut.len()).await;
    assert_eq!(
        counts(&clean, &["made_good", "missing", "repeated"]),
        [cut.len() as i64, 0, 0]
    );
    assert_eq!(super::replayed(&stage.pool).await, cut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_on_its_way_is_not_missing_and_one_that_died_is() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 4, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    assert_eq!(
        audit(&stage, &[]).await.any_json()["missing"],
        4,
        "the topic has nothing"
    );
    let create = ["replay", "create", "--missing", "--reason", "x", "--yes"];
    let replay = run(&stage, &create).await.json();
    // Nothing is written yet: what waits for its turn is on its way as well, so that nobody sends it a second time.
    let ran = audit(&stage, &[]).await;
    assert_eq!(counts(&ran.json(), &["missing", "made_good"]), [0, 4]);
    super::step(&stage).await;
    assert_eq!(replayed(&stage.pool).await, all, "{replay}");

    let ran = audit(&stage, &[]).await;
    assert_eq!(counts(&ran.json(), &["missing", "made_good"]), [0, 4]);

    let newest: i64 = sqlx::query_scalar("select max(id) from outbox_messages")
        .fetch_one(&stage.pool)
        .await
        .expect("an id");
    super::kill(&stage.pool, &[newest], "invalid-record").await;
    let ran = audit(&stage, &[]).await;
    ran.failed(5, "1 acknowledged");
    assert_eq!(ids(&found(&ran.any_json(), "missing")), [all[3]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_replay_has_not_sent_is_missing_again() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    audit(&stage, &[]).await.failed(5, "3 acknowledged");
    let create = ["replay", "create", "--missing", "--reason", "x", "--yes"];
    let replay = run(&stage, &create).await.json();
    let id = replay["id"].as_str().expect("an id");
    run(&stage, &["replay", "pause", id, "--yes"]).await.json();
    assert_eq!(
        counts(&audit(&stage, &[]).await.json(), &["missing", "made_good"]),
        [0, 3]
    );
    run(&stage, &["replay", "cancel", id, "--yes"]).await.json();
    let ran = audit(&stage, &[]).await;
    ran.failed(5, "3 acknowledged");
    assert_eq!(ids(&found(&ran.any_json(), "missing")), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_missing_in_a_range_does_not_hide_what_is_missing_in_all() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let missing = async || run(&stage, &["outbox", "stats"]).await.json()["missing"].clone();
    assert_eq!(missing().await, 0);
    audit(&stage, &[]).await.failed(5, "3 acknowledged");
    let later = Utc::now() + TimeDelta::hours(1);
    audit(&stage, &["--from", &later.to_rfc3339()]).await.json();
    assert_eq!(missing().await, 3);
    let doctor = run(&stage, &["doctor"]).await.any_json().to_string();
    assert!(doctor.contains("found 3 messages missing"), "{doctor}");
    let newest = run(&stage, &["audit", "list", "--limit", "1"]).await;
    let after = newest.rows()[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(newest.rows()[0]["clean"], true, "the one of the range");
    assert!(newest.stderr.contains(&format!("--after {after}")), "{newest:?}");
    let older = run(&stage, &["audit", "list", "--after", &after]).await.rows();
    assert_eq!((older.len(), &older[0]["missing"]), (1, &json!(3)));
    let create = ["replay", "create", "--missing", "--reason", "x", "--yes"];
    assert_eq!(run(&stage, &create).await.json()["matched"], 3);
    audit(&stage, &[]).await.json();
    assert_eq!(missing().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_and_what_is_foreign_is_named_by_its_place() {
    let stage = Stage::new().await;
    let (_app, all) = published(&stage, 10).await;
    let bootstrap = stage.servers().kafka.bootstrap();
    let row: (i64, Uuid, Uuid) = sqlx::query_as("select id, event_id, key from outbox_messages where id = $1")
        .bind(all[3])
        .fetch_one(&stage.pool)
        .await
        .expect("a row");
    publish(&bootstrap, &stage.topic, &row, row.1).await;
    let ran = audit(&stage, &[]).await;
    let repeated = ran.json();
    assert_eq!(
        counts(&repeated, &["records", "in_place", "repeated", "foreign"]),
        [11, 10, 1, 0]
    );
    let (again, first) = (&found(&repeated, "repeated")[0], stage.records(11).await);
    let places: Vec<i64> = first
        .iter()
        .filter(|r| r.header("outbox-id") == row.0.to_string())
        .map(|r| r.offset)
        .collect();
    assert_eq!(
        (&again["outbox_id"], &again["offset"]),
        (&json!(row.0), &json!(places[1]))
    );

    // At least once may repeat; exactly once may not.
    let strict = [("relay.delivery", "exactly-once")];
    let output = stage.run_with(&["audit"], &strict).await;
    assert_eq!(output.status.code(), Some(5), "{output:?}");

    // The event id is not the row's; then an outbox id that no row has.
    publish(&bootstrap, &stage.topic, &row, Uuid::new_v4()).await;
    publish(&bootstrap, &stage.topic, &(999_999, row.1, row.2), row.1).await;
    let ran = audit(&stage, &[]).await;
    ran.failed(5, "2 records are not of this outbox");
    let foreign = ran.any_json();
    assert_eq!(counts(&foreign, &["in_place", "repeated", "foreign"]), [10, 1, 2]);
    assert_eq!(ids(&found(&foreign, "foreign")), [row.0, 999_999]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_acknowledged_without_its_place_names_none_and_is_found_all_the_same() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let id = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], user).await[0];
    let row: (i64, Uuid, Uuid) = sqlx::query_as("select id, event_id, key from outbox_messages")
        .fetch_one(&stage.pool)
        .await
        .expect("a row");
    publish(&stage.servers().kafka.bootstrap(), &stage.topic, &row, row.1).await;
    let mut conn = stage.connect().await;
    let leader = checkpoints::take_over(&mut conn, "a leader", Duration::from_secs(1)).await;
    let mut lease = leader.expect("PostgreSQL answers").expect("nobody leads");
    // RD_KAFKA_OFFSET_INVALID: a later record of the partition was acknowledged, and this one with it.
    let receipt = Receipt {
        id,
        partition: 0,
        offset: -1001,
    };
    let mut entry = Entry {
        receipts: vec![receipt],
        ..Entry::default()
    };
    entry.changes.settled.insert(id..id + 1);
    checkpoints::append(&mut conn, &mut lease, &entry, true)
        .await
        .expect("a checkpoint");

    let place: (Option<i32>, Option<i64>, String) =
        sqlx::query_as(r#"select partition, "offset", state::text from outbox_status"#)
            .fetch_one(&stage.pool)
            .await
            .expect("a status");
    assert_eq!(place, (None, None, "published".to_owned()));
    let app = stage.spawn_app(&["--role", "api"], &[]);
    app.ready().await;
    let job: Uuid = sqlx::query_scalar("select id from jobs")
        .fetch_one(&stage.pool)
        .await
        .expect("a job");
    let answer = app.get_job(job, &token_for(user)).await.expect("an answer");
    let message = &answer.json::<Value>().await.expect("JSON")["message"];
    assert_eq!(
        (&message["state"], &message["partition"], &message["offset"]),
        (&json!("published"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        counts(&audit(&stage, &[]).await.json(), &["receipts", "missing"]),
        [1, 0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topics_retention_has_taken_is_no_loss() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 6, &[Uuid::new_v4()], Uuid::new_v4()).await;
    // Kafka keeps a week unless it is told otherwise.
    for (ids, days) in [(&all[..2], 8), (&all[2..4], 6)] {
        sqlx::query(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled,
                                             receipt_ids, receipt_partitions, receipt_offsets, created_at)
             select max(seq) + 1, max(fence) + 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}',
                    (select range_agg(int8range(id, id + 1)) from unnest($1) id), $1,
                    array_fill(0, array[cardinality($1)]), $1, clock_timestamp() - make_interval(days => $2)
             from outbox_checkpoints",
        )
        .bind(ids)
        .bind(days)
        .execute(&stage.pool)
        .await
        .expect("a checkpoint");
    }
    let ran = audit(&stage, &[]).await;
    ran.failed(5, "2 acknowledged messages are missing");
    let audited = ran.any_json();
    assert_eq!(counts(&audited, &["receipts", "expired", "missing"]), [4, 2, 2]);
    assert_eq!(ids(&found(&audited, "missing")), all[2..4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_of_when_messages_were_written() {
    let stage = Stage::new().await;
    let (app, all) = published(&stage, 20).await;
    app.term_and_wait().await;
    let cut: DateTime<Utc> = sqlx::query_scalar("select created_at from outbox_messages where id = $1")
        .bind(all[12])
        .fetch_one(&stage.pool)
        .await
        .expect("a message");
    let cut = cut.to_rfc3339_opts(SecondsFormat::Micros, true);
    let later = audit(&stage, &["--from", &cut]).await.json();
    assert_eq!(
        counts(&later, &["receipts", "records", "in_place"]),
        [8, 8, 8],
        "{later}"
    );
    assert_eq!(
        later["from"].as_str().map(|t| t.parse::<DateTime<Utc>>().is_ok()),
        Some(true)
    );
    make_again(&stage).await;
    let earlier = audit(&stage, &["--to", &cut]).await.any_json();
    assert_eq!(ids(&found(&earlier, "missing")), all[..12]);
    audit(&stage, &["--from", &cut, "--to", &cut])
        .await
        .failed(2, "is not before");
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_and_aborted_records_of_transactions_are_no_loss() {
    let stage = Stage::new().await.set("relay.delivery", "exactly-once");
    let (app, _) = published(&stage, 30).await;
    app.kill();
    let keys = [Uuid::new_v4(), Uuid::new_v4()];
    insert_messages(&stage.pool, 30, &keys, Uuid::new_v4()).await;
    let _app = stage.app().await;
    all_settled(&stage, 60).await;
    let ran = audit(&stage, &[]).await;
    assert_eq!(
        counts(
            &ran.json(),
            &["receipts", "records", "in_place", "missing", "repeated", "foreign"]
        ),
        [60, 60, 60, 0, 0, 0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_while_jobs_are_accepted_and_published_finds_nothing_wrong() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let mut targets = Vec::new();
    for _ in 0..20 {
        targets.push(drafts::insert(&stage.pool, &drafts::complete(user)).await);
    }
    let load = Load::start(&app.base_url, &token_for(user), &targets, 16);
    let mut compared = 0;
    for _ in 0..5 {
        let audited = audit(&stage, &[]).await.json();
        assert_eq!(
            counts(&audited, &["missing", "repeated", "foreign"]),
            [0, 0, 0],
            "{audited}"
        );
        compared = audited["receipts"].as_i64().expect("a count");
    }
    load.stop().await;
    assert!(compared > 0, "the load was published while it was audited");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_cannot_be_made_says_why_and_is_not_recorded() {
    let stage = Stage::new().await;
    let ran = run(&stage.set("kafka.topic", "nowhere"), &["audit"]).await;
    ran.failed(4, "does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_output_has_the_numbers_and_the_findings() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 2, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let lines = stage.run(&["audit", "--output", "ndjson"]).await;
    let lines: Vec<Value> = String::from_utf8(lines.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(ids(&lines[..2]), all);
    assert_eq!((&lines[2]["missing"], &lines[2]["clean"]), (&json!(2), &json!(false)));
    let table = String::from_utf8(stage.run(&["audit"]).await.stdout).expect("UTF-8");
    assert!(table.contains("in place") && table.contains("findings:"), "{table}");
    let kept: i64 = sqlx::query_scalar("select count(*) from outbox_audit_findings")
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
    assert_eq!(kept, 4, "two audits are remembered, with what they found");
}
