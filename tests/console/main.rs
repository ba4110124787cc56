//! The operators' console in a real browser, against the real stack: `make console-test`.
//!
//! This side holds the servers and does to them what the other side asks for; `scenario.mjs` drives Chromium and
//! asserts. They speak in lines of JSON over the child's pipes. It is a target of its own, which `cargo test` alone
//! does not run: it needs Node and Chromium.

#[path = "../it/support/mod.rs"]
mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use image_job_dispatcher::dev_stack::end_with_this_process;
use serde::Deserialize;
use serde_json::{Value, json};
use support::{App, Stage, drafts, token::token_of, token_for, topics::delete_records_below};
use uuid::Uuid;

/// What the scenario asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Act {
    /// Accepts jobs over HTTP.
    Accept { jobs: usize },
    /// Commits messages straight into the outbox, all at once: a backlog in no time.
    Write { messages: i32 },
    /// One message above the topic's limit.
    Poison,
    /// Sets the topic's limit, in bytes.
    Limit { bytes: u32 },
    /// Deletes the first acknowledged records of the topic.
    Lose { records: i64 },
    /// Compares the topic with the receipts.
    Audit,
    /// An idempotency key that has outlived its time.
    ExpireKey,
    /// Stops the broker.
    StopKafka,
    /// Starts it again.
    StartKafka,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_an_outage_end_mends_what_is_dead_and_replays() {
    let stage = Stage::with_servers_of_its_own()
        .await
        // A backlog that drains in a blink cannot be watched: small windows, and a client that waits for more.
        .set("relay.window", "100")
        .set("kafka.properties.linger_ms", "200");
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    // A title that is markup: it has to be shown, and not to run.
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    sqlx::query("update event_drafts set title = '<script>document.title = 1</script><b>봄 축제</b>' where id = $1")
        .bind(draft)
        .execute(&stage.pool)
        .await
        .expect("a title");

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("node");
    command
        .arg("scenario.mjs")
        .current_dir(root.join("tests/console"))
        .env("CONSOLE_URL", &app.admin_url)
        .env("SCREENSHOTS", root.join("target/console"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for role in ["user", "viewer", "operator", "admin"] {
        command.env(format!("TOKEN_{}", role.to_uppercase()), token_of(role).1);
    }
    let mut node = command.spawn().expect("node starts: see scripts/prerequisites console");
    end_with_this_process(&node).expect("the guard listens");
    let mut answers = node.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(node.stdout.take().expect("a pipe")).lines();
    while let Some(line) = tokio::task::block_in_place(|| lines.next()) {
        let line = line.expect("text");
        let Ok(act) = serde_json::from_str::<Act>(&line) else {
            println!("{line}");
            continue;
        };
        let done = perform(act, &stage, &app, draft, &token).await;
        writeln!(answers, "{done}").expect("the scenario listens");
    }
    let status = tokio::task::block_in_place(|| node.wait()).expect("a status");
    assert!(status.success(), "the scenario failed: {status}");
}

async fn perform(act: Act, stage: &Stage, app: &App, draft: Uuid, token: &str) -> Value {
    match act {
        Act::Accept { jobs } => {
            let mut ids = Vec::new();
            for _ in 0..jobs {
                ids.push(app.accept(draft, token).await);
            }
            json!({ "jobs": ids })
        }
        Act::Write { messages } => json!({ "ids": write(stage, messages, 100).await.len() }),
        Act::Poison => json!({ "id": write(stage, 1, 5000).await[0] }),
        Act::Limit { bytes } => {
            stage.limit_topic(&bytes.to_string()).await;
            json!({})
        }
        Act::Lose { records } => {
            // All of one key so far, so they are in one partition, from its beginning on.
            let partition = sqlx::query_scalar("select partition from outbox_status where \"offset\" = 0 limit 1")
                .fetch_one(&stage.pool)
                .await
                .expect("a published message");
            delete_records_below(stage, partition, records).await;
            json!({})
        }
        Act::Audit => {
            let output = stage.run(&["audit", "--output", "json"]).await;
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
        }
        Act::ExpireKey => {
            sqlx::query(
                "insert into idempotency_keys values ($1, 'old', $1, $1, clock_timestamp() - interval '3 days')",
            )
            .bind(Uuid::new_v4())
            .execute(&stage.pool)
            .await
            .expect("a key");
            json!({})
        }
        Act::StopKafka => {
            stage.servers().kafka.stop().await.expect("Kafka stops");
            json!({})
        }
        Act::StartKafka => {
            stage.servers().kafka.restart().await.expect("Kafka starts");
            json!({})
        }
    }
}

/// Messages of as many event drafts, with payloads of `bytes` and a little more.
async fn write(stage: &Stage, messages: i32, bytes: i32) -> Vec<i64> {
    sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select id, id, gen_random_uuid(), clock_timestamp(), clock_timestamp(),
                convert_to(format('{\"jobId\":\"%s\",\"pad\":\"%s\"}', id, repeat('x', $2)), 'utf8')
         from (select gen_random_uuid() as id from generate_series(1, $1)) r returning id",
    )
    .bind(messages)
    .bind(bytes)
    .fetch_all(&stage.pool)
    .await
    .expect("rows")
}
