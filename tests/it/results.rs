//! What the dispatcher makes of answers, in whatever order and number they come.

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, content::ContentService, drafts, eventually, token_for};

/// A job of a user of its own, whose token it gives.
async fn job(stage: &Stage, app: &App) -> (Uuid, String) {
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let token = token_for(user);
    (app.accept(draft, &token).await, token)
}

fn processing(job_id: Uuid) -> Value {
    json!({"jobId": job_id, "status": "PROCESSING", "images": [], "error": null})
}

fn completed(job_id: Uuid) -> Value {
    let image = |style: &str| json!({"style": style, "url": format!("http://pictures.example/{job_id}/{style}.png")});
    json!({"jobId": job_id, "status": "COMPLETED", "images": [image("SIMPLE"), image("FANCY"), image("TRENDY")], "error": null})
}

fn failed(job_id: Uuid) -> Value {
    json!({"jobId": job_id, "status": "FAILED", "images": [], "error": "no ink"})
}

/// What was put aside, once there are so many.
async fn dead_letters(pool: &PgPool, count: i64) -> Vec<(String, String)> {
    eventually(&format!("{count} results put aside"), PATIENCE, async || {
        let rows: Vec<(String, String)> =
            sqlx::query_as("select reason, error from result_dead_letters order by partition, \"offset\"")
                .fetch_all(pool)
                .await
                .expect("the table");
        if rows.len() as i64 >= count {
            Ok(rows)
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await
}

async fn body(app: &App, job_id: Uuid, token: &str) -> Value {
    app.get_job(job_id, token)
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON")
}

/// Waits until an answer is applied.
async fn completes(app: &App, job_id: Uuid, token: &str) {
    eventually("the job is COMPLETED", PATIENCE, async || {
        let seen = body(app, job_id, token).await;
        if seen["status"] == "COMPLETED" {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
}

/// Sends a marker for another job behind what was sent, through the same partition, and waits until it is
/// recorded: everything before it was consumed then.
async fn consumed(stage: &Stage, content: &ContentService, key: Uuid) {
    let marker = Uuid::now_v7();
    content.result(key, &processing(marker)).await;
    eventually("the marker is put aside", PATIENCE, async || {
        let found: bool = sqlx::query_scalar(
            "select exists (select from result_dead_letters where convert_from(value, 'UTF8') like $1)",
        )
        .bind(format!("%{marker}%"))
        .fetch_one(&stage.pool)
        .await
        .expect("the table");
        found.then_some(()).ok_or("not yet")
    })
    .await;
}

/// A name, answers in the order in which they are sent, and the status that the job has at the end.
type Order = (&'static str, &'static [fn(Uuid) -> Value], &'static str);

#[tokio::test]
async fn answers_twice_late_and_out_of_order_never_move_a_job_back() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let orders: [Order; 5] = [
        ("in order", &[processing, completed], "COMPLETED"),
        ("late", &[completed, processing], "COMPLETED"),
        ("twice", &[processing, processing, failed, failed], "FAILED"),
        (
            "the second final one loses",
            &[completed, failed, processing, completed],
            "COMPLETED",
        ),
        ("and so the other way round", &[failed, completed, processing], "FAILED"),
    ];
    for (name, answers, status) in orders {
        let (job_id, token) = job(&stage, &app).await;
        for answer in answers {
            content.result(job_id, &answer(job_id)).await;
        }
        consumed(&stage, &content, job_id).await;
        let seen = body(&app, job_id, &token).await;
        assert_eq!(seen["status"], status, "{name}: {seen}");
        let expected = if status == "COMPLETED" {
            completed(job_id)
        } else {
            failed(job_id)
        };
        assert_eq!(
            (&seen["images"], &seen["error"]),
            (&expected["images"], &expected["error"]),
            "{name}: {seen}"
        );
        // Redis is told after the marker is put aside.
        let redis = redis(&stage).await;
        eventually(&format!("{name}: Redis is told"), PATIENCE, async || {
            let cached: Option<String> = redis::cmd("GET")
                .arg(format!("job:{job_id}"))
                .query_async(&mut redis.clone())
                .await
                .unwrap();
            let cached: Value = serde_json::from_str(&cached.ok_or("nothing")?).unwrap();
            (cached["status"] == status).then_some(()).ok_or(cached.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn what_cannot_be_applied_is_put_aside_once_and_stops_nobody() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let (job_id, token) = job(&stage, &app).await;
    content
        .send(&stage.result_topic, &job_id.to_string(), "{not json", &[])
        .await;
    content.result(job_id, &completed(Uuid::now_v7())).await;
    // Not one of ours: version 4, of no partition.
    content.result(job_id, &completed(Uuid::new_v4())).await;
    let mut poison = failed(job_id);
    poison["error"] = json!("a\u{0}b");
    content.result(job_id, &poison).await;
    // What refuses these names what it refuses, and PostgreSQL's text cannot hold that.
    for unreadable in [
        json!({"jobId": job_id, "status": "A\u{0}"}),
        json!({"jobId": "\u{0}", "status": "FAILED"}),
        json!({"jobId": job_id, "status": "COMPLETED", "images": [{"style": "\u{0}", "url": "x"}]}),
    ] {
        content.result(job_id, &unreadable).await;
    }
    content.result(job_id, &completed(job_id)).await;
    completes(&app, job_id, &token).await;
    let reasons: Vec<_> = dead_letters(&stage.pool, 7)
        .await
        .into_iter()
        .map(|(reason, _)| reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "malformed",
            "unknown-job",
            "unknown-job",
            "malformed",
            "malformed",
            "malformed",
            "malformed"
        ]
    );
    let metrics = app.metrics().await;
    assert!(
        metrics.contains("job_results_total{outcome=\"unknown-job\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn while_postgresql_is_down_answers_wait_and_then_they_are_applied() {
    let stage = Stage::with_servers_of_its_own().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let (job_id, token) = job(&stage, &app).await;
    stage.servers().postgres.kill();
    content.result(job_id, &completed(job_id)).await;
    eventually("it waits", PATIENCE, async || {
        let log = app.log();
        if log.contains("results cannot be applied now") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    stage.servers().postgres.restart().await.expect("PostgreSQL starts");
    completes(&app, job_id, &token).await;
}

#[tokio::test]
async fn of_jobs_that_are_answered_together_each_is_told_where_its_own_message_is() {
    const JOBS: usize = 30;
    let stage = Stage::new().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let mut jobs = Vec::new();
    // Some have a checkpoint each,
    while jobs.len() < 5 {
        jobs.push(job(&stage, &app).await);
        published(&stage.pool, jobs.len()).await;
    }
    // and the others share theirs.
    pause(&stage, &app, true).await;
    while jobs.len() < JOBS {
        jobs.push(job(&stage, &app).await);
    }
    pause(&stage, &app, false).await;
    published(&stage.pool, JOBS).await;
    app.term_and_wait().await;
    // All answers are there when the service that reads them starts.
    for (job_id, _) in &jobs {
        content.result(job_id, &completed(*job_id)).await;
    }
    let app = stage.app().await;
    let redis = redis(&stage).await;
    for (job_id, token) in &jobs {
        let cached = eventually("Redis is told all of the job", PATIENCE, async || {
            let value: Option<String> = redis::cmd("GET")
                .arg(format!("job:{job_id}"))
                .query_async(&mut redis.clone())
                .await
                .expect("an answer");
            let value: Value = serde_json::from_str(&value.ok_or("nothing")?).expect("JSON");
            value.get("job").cloned().ok_or("no body")
        })
        .await;
        let (partition, offset): (i32, i64) =
            sqlx::query_as("select partition, \"offset\" from outbox_status where job_id = $1")
                .bind(job_id)
                .fetch_one(&stage.pool)
                .await
                .expect("its place");
        let message = &cached["message"];
        assert_eq!(
            (&message["partition"], &message["offset"]),
            (&json!(partition), &json!(offset)),
            "{cached}"
        );
        assert_eq!(body(&app, *job_id, token).await, cached);
    }
}

/// Returns when the leader has heard of it.
async fn pause(stage: &Stage, app: &App, paused: bool) {
    sqlx::query("update outbox_control set paused = $1")
        .bind(paused)
        .execute(&stage.pool)
        .await
        .expect("the relay's switch");
    eventually("the leader has heard of it", PATIENCE, async || {
        let said = app.metric("outbox_paused").await;
        ((said >= 1.0) == paused).then_some(()).ok_or(said)
    })
    .await;
}

async fn published(pool: &PgPool, count: usize) {
    eventually(&format!("{count} published"), PATIENCE, async || {
        let published: i64 = sqlx::query_scalar("select published from outbox_overview")
            .fetch_one(pool)
            .await
            .expect("the view");
        (published == count as i64).then_some(()).ok_or(published)
    })
    .await;
}

async fn redis(stage: &Stage) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(stage.servers().redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_could_not_be_applied_before_a_stop_is_applied_by_who_comes_next() {
    let stage = Stage::with_servers_of_its_own().await.set("shutdown.budget", "6s");
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let (job_id, token) = job(&stage, &app).await;
    stage.servers().postgres.kill();
    content.result(job_id, &completed(job_id)).await;
    eventually("it waits", PATIENCE, async || {
        let log = app.log();
        let waits = log.contains("results cannot be applied now");
        waits.then_some(()).ok_or(log)
    })
    .await;
    assert!(app.term_and_wait().await.success());
    stage.servers().postgres.restart().await.expect("PostgreSQL starts");
    let app = stage.app().await;
    completes(&app, job_id, &token).await;
}
