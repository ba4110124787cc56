use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::{Ran, insert_messages, run};
use crate::support::{PATIENCE, Stage, eventually, stage::empty_database};

/// The line of a check.
fn line<'a>(rows: &'a Value, check: &str) -> &'a Value {
    rows.as_array()
        .expect("an array")
        .iter()
        .find(|row| row["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {rows}"))
}

/// The check has this status, and says this in what was found or in the advice.
fn said(ran: &Ran, check: &str, status: &str, word: &str) {
    let rows = ran.any_json();
    let line = line(&rows, check);
    assert_eq!(line["status"], status, "{line}");
    assert!(line.to_string().contains(word), "{word} in {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_installation_has_nothing_wrong() {
    let stage = Stage::new().await;
    let _app = stage.app().await;
    let ran = eventually("doctor finds nothing wrong", PATIENCE, async || {
        let ran = run(&stage, &["doctor"]).await;
        // That nobody leads yet is a warning only.
        if ran.code == 0 && line(&ran.any_json(), "outbox.leader")["status"] == "ok" {
            Ok(ran)
        } else {
            Err(format!("{ran:?}"))
        }
    })
    .await;
    said(&ran, "outbox.leader", "ok", "replica-1 leads");
    for check in [
        "schema.version",
        "schema.sequence",
        "schema.partitions",
        "redis.role",
        "kafka.identity",
    ] {
        said(&ran, check, "ok", "");
    }
    said(&ran, "kafka.topic", "ok", "6 partitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_what_to_do() {
    let stage = Stage::new().await;
    insert_messages(&stage.pool, 5, &[uuid::Uuid::new_v4()], uuid::Uuid::new_v4()).await;
    let database: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&stage.pool)
        .await
        .expect("a name");
    for statement in [
        "alter sequence outbox_messages_id_seq cache 5".to_owned(),
        "alter table event_drafts drop column prize".to_owned(),
        format!("alter database {database} set synchronous_commit = off"),
        "update installation set topic = 'jobs', cluster_id = 'another'".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&stage.pool)
            .await
            .expect("damage");
    }
    let missing = stage.set("kafka.topic", "no-such-topic");
    let ran = run(&missing, &["doctor"]).await;
    ran.failed(5, "schema.sequence");
    said(&ran, "schema.sequence", "fail", "cache 1");
    said(&ran, "schema.event_drafts", "fail", "prize");
    said(&ran, "postgresql.durability", "fail", "synchronous_commit");
    said(&ran, "kafka.topic", "fail", "--create --topic no-such-topic");
    said(&ran, "kafka.identity", "fail", "accept-identity");
    said(&ran, "outbox.leader", "fail", "5 messages wait");
    said(&ran, "outbox.backlog", "fail", "see the other lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_not_being_reached_has_its_own_advice() {
    let stage = Stage::new().await;
    let (_, place) = stage.database_url.rsplit_once('@').expect("a password");
    let wrong = format!("postgres://nobody:wrong@{place}");
    let stage = stage
        .set("database.url", &wrong)
        .set("redis.url", "redis://127.0.0.1:1")
        .set("kafka.brokers", "127.0.0.1:1");
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(3, "cannot be reached");
    said(&ran, "postgresql.reachable", "unreachable", "user and password");
    said(&ran, "redis.reachable", "unreachable", "check redis.url");
    said(&ran, "kafka.reachable", "unreachable", "check kafka.brokers");

    // TLS where there is none, at each of them.
    let stage = Stage::new().await;
    let redis = stage.servers().redis.url().replacen("redis://", "rediss://", 1);
    let database = format!("{}?sslmode=require", stage.database_url);
    let stage = stage
        .set("database.url", &database)
        .set("redis.url", &redis)
        .set("kafka.properties.security_protocol", "SSL");
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(3, "cannot be reached");
    said(&ran, "postgresql.reachable", "unreachable", "sslmode");
    said(&ran, "redis.reachable", "unreachable", "rediss://");
    said(&ran, "kafka.reachable", "unreachable", "speaks no TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_says_migrate() {
    let stage = Stage::new().await.set("database.url", &empty_database().await);
    let ran = run(&stage, &["doctor"]).await;
    ran.failed(5, "schema.version");
    said(&ran, "schema.version", "fail", "dispatcher migrate");
}
