//! Each runbook, against the fault that raises its alert: the metric is seen to say it, the runbook is followed, the
//! metric is seen to be well again.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use super::runbook::Runbook;
use crate::support::{
    App, PATIENCE, Stage, content::ContentService, document, drafts, eventually, token_for,
    topics::delete_records_below,
};

/// Nobody listens there.
const NOWHERE: (&str, &str) = ("kafka.brokers", "127.0.0.1:1");

async fn accept(stage: &Stage, app: &App, jobs: usize) -> Vec<Uuid> {
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let mut accepted = Vec::new();
    for _ in 0..jobs {
        accepted.push(app.accept(draft, &token_for(user)).await);
    }
    accepted
}

/// Waits until a series is as the alert's expression asks for, or no longer is.
async fn metric(app: &App, series: &str, what: &str, expected: impl Fn(f64) -> bool) {
    eventually(&format!("{series} {what}"), PATIENCE, async || {
        let value = app.metric(series).await;
        if expected(value) { Ok(()) } else { Err(value) }
    })
    .await;
}

async fn execute(stage: &Stage, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&stage.pool)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

fn says(printed: &str, words: &[&str]) {
    for word in words {
        assert!(printed.contains(word), "{word:?} in {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_is_found_by_the_runbooks_of_the_breaker_and_of_old_messages() {
    let stage = Stage::new().await;
    let app = stage.app_with(&[], &[NOWHERE]).await;
    accept(&stage, &app, 3).await;
    metric(&app, "outbox_breaker_open", "is 1", |v| v >= 1.0).await;
    metric(&app, "outbox_pending_rows", "is 3", |v| v >= 3.0).await;
    metric(&app, "outbox_oldest_pending_age_seconds", "grows", |v| v > 1.0).await;

    let breaker = Runbook::open(&stage, "breaker-open", &[NOWHERE]).await;
    says(
        &breaker.look().await,
        &["kafka.reachable", "check kafka.brokers", "\"pending\":3"],
    );
    let old = Runbook::open(&stage, "oldest-message-old", &[NOWHERE]).await;
    says(&old.look().await, &["kafka.reachable", "pending", "replica-1"]);

    // "Bring them back": here the address was wrong.
    assert!(app.term_and_wait().await.success());
    let app = stage.app().await;
    stage.records(3).await;
    metric(&app, "outbox_breaker_open", "is 0", |v| v <= 0.0).await;
    metric(&app, "outbox_pending_rows", "is 0", |v| v <= 0.0).await;
    says(&old.act().await, &["\"pending\":0"]);
    // Mass refusals, too, are over by these commands: a pause, a resume, a retry of all.
    says(&breaker.act().await, &["the topic refuses everything", "\"pending\":0"]);
    accept(&stage, &app, 1).await;
    stage.records(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_found_and_made_by_the_runbook_of_nothing_published() {
    let stage = Stage::new().await;
    let missing = format!("missing-{}", Uuid::new_v4().simple());
    let elsewhere = [("kafka.topic", &*missing)];
    let app = stage.app_with(&[], &elsewhere).await;
    accept(&stage, &app, 2).await;
    metric(&app, "outbox_pending_rows", "is 2", |v| v >= 2.0).await;
    assert!(app.metric("outbox_published_total").await <= 0.0);

    let runbook = Runbook::open(&stage, "nothing-published", &elsewhere)
        .await
        .with("image-job-topic", &missing)
        // One broker.
        .with("--replication-factor 3", &"--replication-factor 1")
        .with("min.insync.replicas=2", &"min.insync.replicas=1");
    says(
        &runbook.look().await,
        &[&missing, "does not exist", "--create", "\"last_published\":null"],
    );
    says(&runbook.act().await, &["Created topic"]);
    metric(&app, "outbox_published_total", "is 2", |v| v >= 2.0).await;
    metric(&app, "outbox_pending_rows", "is 0", |v| v <= 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_nobody_leads_is_found_by_its_runbook_and_over_when_a_relay_is_started() {
    let stage = Stage::new().await;
    let app = stage.app_with(&["--role", "api"], &[]).await;
    accept(&stage, &app, 2).await;
    assert!(app.metric("outbox_leading").await <= 0.0);
    let runbook = Runbook::open(&stage, "no-leader", &[]).await;
    says(
        &runbook.look().await,
        &[
            "nobody relays, and 2 messages wait",
            "--role all or relay",
            "\"lease_until\"",
            "dispatcher readiness",
        ],
    );
    says(&runbook.act().await, &["\"leader\":null,\"pending\":2"]);
    // No public listener, so it is ready when it leads.
    let relay = stage.spawn_app(&["--role", "relay"], &[]);
    stage.records(2).await;
    metric(&relay, "outbox_leading", "is 1", |v| v >= 1.0).await;
    says(&runbook.act().await, &["\"leader\":\"replica-2\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_has_lost_are_looked_at_and_sent_again_by_their_runbook() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    accept(&stage, &app, 4).await;
    let lost = stage.records(4).await.remove(3);
    stage.drained().await;
    metric(&app, "outbox_missing_rows", "is 0", |v| v <= 0.0).await;
    // All of one draft, hence in one partition.
    delete_records_below(&stage, lost.partition, lost.offset).await;
    let audit = stage.run(&["audit", "--output", "json"]).await;
    assert_eq!(audit.status.code(), Some(5), "{audit:?}");
    let audit: serde_json::Value = serde_json::from_slice(&audit.stdout).expect("an audit");
    metric(&app, "outbox_missing_rows", "is 3", |v| v >= 3.0).await;

    let id = audit["id"].as_str().expect("an id").to_owned();
    let runbook = Runbook::open(&stage, "missing-rows", &[]).await.with("018f...", &id);
    // Tables, whose columns are as wide as they have to be.
    let words = |printed: String| printed.split_whitespace().collect::<Vec<_>>().join(" ");
    says(
        &words(runbook.look().await),
        &[
            &id,
            "missing 3",
            "kind partition offset",
            "kafka.replicas",
            "found 3 messages missing",
        ],
    );
    says(&words(runbook.act().await), &["made good 3", "missing 0"]);
    metric(&app, "outbox_missing_rows", "is 0", |v| v <= 0.0).await;
    stage.records(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_looked_at_mended_and_sent_again_by_their_runbook() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    stage.limit_topic("3000").await;
    let ids: Vec<i64> = sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), clock_timestamp(), clock_timestamp(),
                convert_to(format('{\"pad\":\"%s\"}', repeat('x', 5000)), 'utf8')
         from generate_series(1, 3) returning id",
    )
    .fetch_all(&stage.pool)
    .await
    .expect("rows");
    metric(&app, "outbox_dead_rows", "is 3", |v| v >= 3.0).await;

    // One is given up before the others are sent again: the document has it the other way round.
    let runbook = Runbook::open(&stage, "dead-rows", &[])
        .await
        .with("4711", &ids[0])
        .with("4712", &ids[1]);
    let seen = runbook.look().await;
    says(
        &seen,
        &["message-too-large", &ids[0].to_string(), "kafka.max_message_bytes"],
    );
    let discard = ids[1].to_string();
    let given_up = stage
        .run(&[
            "dead",
            "discard",
            &discard,
            "--reason",
            "the customer withdrew",
            "--yes",
        ])
        .await;
    assert!(given_up.status.success(), "{given_up:?}");
    says(&runbook.act().await, &["Completed updating config", "\"dead\":"]);
    eventually("both are in the topic", Duration::from_mins(1), async || {
        // What the service does not know yet of the limit, it refuses once more.
        runbook.act().await;
        match stage.records_now().await.len() {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    metric(&app, "outbox_dead_rows", "is 0", |v| v <= 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_loses_its_connection_again_and_again_is_seen_and_its_runbook_names_the_terms() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    for terms in 1..=3 {
        // A term that has begun, so that there is a producer to throw away, and whose connections are all in use.
        eventually("it leads", PATIENCE, async || {
            let begun = app.log().matches("\"leading\"").count();
            if begun >= terms { Ok(()) } else { Err(begun) }
        })
        .await;
        accept(&stage, &app, 1).await;
        stage.records(terms).await;
        execute(
            &stage,
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'dispatcher relay'",
        )
        .await;
        metric(&app, "outbox_producer_rebuilds_total", "counts it", |v| {
            v >= terms as f64
        })
        .await;
    }
    let runbook = Runbook::open(&stage, "producer-rebuilt", &[]).await;
    let seen = runbook.look().await;
    says(&seen, &["\"fence\":1", "\"fence\":2", "\"fence\":3", "\"lasted\""]);
    says(&app.log(), &["the relay begins again", "database: "]);
    eventually("a term lasts", PATIENCE, async || {
        let said = runbook.act().await;
        if said.contains("\"leads\":true") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    accept(&stage, &app, 1).await;
    stage.records(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_pause_is_found_with_its_reason_and_ended_by_its_runbook() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let paused = stage
        .run(&["pause", "--reason", "a test of the consumer", "--by", "kim"])
        .await;
    assert!(paused.status.success(), "{paused:?}");
    metric(&app, "outbox_paused", "is 1", |v| v >= 1.0).await;
    accept(&stage, &app, 2).await;
    let runbook = Runbook::open(&stage, "paused-for-long", &[]).await;
    says(
        &runbook.look().await,
        &["a test of the consumer", "kim", "\"paused\":true"],
    );
    says(&runbook.act().await, &["\"paused\":false"]);
    metric(&app, "outbox_paused", "is 0", |v| v <= 0.0).await;
    stage.records(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_open_and_prepared_are_found_and_ended_by_their_runbook() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let draw = "begin; select nextval('outbox_messages_id_seq')";
    let (mut open, mut prepared) = (stage.connect().await, stage.connect().await);
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut open)
        .await
        .expect("its own pid");
    sqlx::raw_sql(draw).execute(&mut open).await.expect("an open one");
    let gid = format!("forgotten-{}", Uuid::new_v4());
    sqlx::raw_sql(draw).execute(&mut prepared).await.expect("another one");
    sqlx::raw_sql(AssertSqlSafe(format!("prepare transaction '{gid}'")))
        .execute(&mut prepared)
        .await
        .expect("a prepared one");
    accept(&stage, &app, 1).await;
    metric(&app, "outbox_oldest_transaction_age_seconds", "grows", |v| v > 2.0).await;
    metric(&app, "outbox_holes", "is 2", |v| v >= 2.0).await;

    let runbook = Runbook::open(&stage, "long-transaction", &[])
        .await
        .with("4711", &pid)
        .with("'gid'", &format!("'{gid}'"));
    let seen = runbook.look().await;
    says(
        &seen,
        &[&format!("\"pid\":{pid}"), "idle in transaction", &gid, "\"pid\":null"],
    );
    says(&runbook.act().await, &["\"pg_terminate_backend\":true"]);
    metric(&app, "outbox_holes", "is 0", |v| v <= 0.0).await;
    metric(&app, "outbox_oldest_transaction_age_seconds", "is small", |v| v < 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_under_an_id_that_was_given_up_is_counted_sent_and_found_by_its_runbook() {
    let stage = Stage::new().await;
    // As if the treatment of holes had been wrong: an id is given up, and its row is there all the same.
    let id: i64 = sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), clock_timestamp(), clock_timestamp(), '{}')
         returning id",
    )
    .fetch_one(&stage.pool)
    .await
    .expect("a row");
    execute(
        &stage,
        &format!(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, closed)
             select max(seq) + 1, max(fence) + 1, 'gone/1', clock_timestamp(), 'at-least-once', '{{}}',
                    int8multirange(int8range({id}, {id} + 1))
             from outbox_checkpoints"
        ),
    )
    .await;
    let app = stage.app().await;
    metric(&app, "outbox_wrongly_closed_holes_total", "is 1", |v| v >= 1.0).await;
    stage.records(1).await;
    let runbook = Runbook::open(&stage, "hole-wrongly-closed", &[])
        .await
        .with("4711", &id);
    says(
        &runbook.look().await,
        &["draws ids one by one", &format!("\"id\":{id}"), "gone/1"],
    );
    eventually("its receipt is recorded", PATIENCE, async || {
        let said = runbook.act().await;
        if said.contains("published") && said.contains("\"grantee\"") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_gone_is_told_from_one_that_is_there_by_its_runbook() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let (first, second) = (stage.app().await, stage.app().await);
    first.kill();
    metric(&second, "outbox_leading", "is 1", |v| v >= 1.0).await;
    let gone = first.http.get(format!("{}/metrics", first.admin_url)).send().await;
    assert!(gone.is_err(), "{gone:?}");
    let runbook = Runbook::open(&stage, "replica-down", &[]).await;
    says(&runbook.look().await, &["replica-2 leads", "dispatcher relay"]);
    second.kill();
    let seen = eventually("nobody leads", PATIENCE, async || {
        let seen = runbook.look().await;
        if seen.contains("nobody relays") {
            Ok(seen)
        } else {
            Err(seen)
        }
    })
    .await;
    assert!(!seen.contains("dispatcher relay"), "{seen}");
    let again = stage.app().await;
    metric(&again, "outbox_leading", "is 1", |v| v >= 1.0).await;
    says(&runbook.act().await, &["\"leader\":\"replica-3\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_found_by_the_runbook_of_refused_jobs() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    accept(&stage, &app, 1).await;
    let (server, database) = stage.database_url.rsplit_once('/').expect("a path");
    let mut beside = PgConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("the server is well");
    let mut allow = async |allowed: bool| {
        for statement in [
            format!("alter database {database} allow_connections {allowed}"),
            format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and not {allowed}"
            ),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut beside)
                .await
                .expect("it is done");
        }
    };
    allow(false).await;
    let user = Uuid::new_v4();
    let refused = eventually("jobs are refused", PATIENCE, async || {
        let status = app
            .post_job(Uuid::new_v4(), &token_for(user))
            .await
            .expect("an answer")
            .status();
        if status == 503 { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!(refused, 503);
    metric(&app, "job_accepts_total{outcome=\"unavailable\"}", "counts it", |v| {
        v >= 1.0
    })
    .await;
    let runbook = Runbook::open(&stage, "jobs-refused", &[]).await;
    says(
        &runbook.look().await,
        &["postgresql.reachable", "not currently accepting connections"],
    );
    allow(true).await;
    eventually("jobs are accepted", PATIENCE, async || {
        let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
        let status = app.post_job(draft, &token_for(user)).await.expect("an answer").status();
        if status == 202 { Ok(()) } else { Err(status) }
    })
    .await;
    let over = runbook.act().await;
    says(&over, &["\"application_name\""]);
    assert!(!over.contains("\"accepted_in_a_minute\":0"), "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_applied_and_jobs_that_fail_are_found_by_their_runbooks() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let content = ContentService::on(&stage).await;
    let jobs = accept(&stage, &app, 7).await;
    stage.records(7).await;
    for job in &jobs[..6] {
        let answer = json!({"jobId": job, "status": "FAILED", "images": [], "error": "no ink"});
        content.result(*job, &answer).await;
    }
    content
        .result(jobs[6], &json!({"jobId": jobs[6], "status": "SOON"}))
        .await;
    let stranger = Uuid::now_v7();
    content
        .result(
            stranger,
            &json!({"jobId": stranger, "status": "PROCESSING", "images": [], "error": null}),
        )
        .await;

    metric(&app, "job_failures_total", "is 6", |v| v >= 6.0).await;
    metric(&app, "job_results_total{outcome=\"recorded\"}", "is 6", |v| {
        (6.0..6.5).contains(&v)
    })
    .await;
    metric(&app, "job_results_total{outcome=\"malformed\"}", "is 1", |v| v >= 1.0).await;
    metric(&app, "job_results_total{outcome=\"unknown-job\"}", "is 1", |v| v >= 1.0).await;

    let aside = Runbook::open(&stage, "results-put-aside", &[]).await;
    says(
        &aside.look().await,
        &["malformed", "unknown-job", "SOON", &stranger.to_string()],
    );
    // The one whose answer was malformed has none.
    says(&aside.act().await, &["\"count\":1"]);
    let failing = Runbook::open(&stage, "jobs-failing", &[])
        .await
        .with("018f...", &jobs[0]);
    says(&failing.look().await, &["no ink", "\"count\":6"]);
    says(&failing.act().await, &[&jobs[0].to_string(), "published"]);
}

#[test]
fn each_alert_has_a_runbook_that_says_what_it_means_what_to_look_at_and_what_to_do() {
    let rules = document::read("ops/prometheus/rules.yml");
    let field = |name: &str| -> Vec<String> {
        rules
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(name))
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let (alerts, runbooks) = (field("alert:"), field("runbook:"));
    assert_eq!(alerts.len(), runbooks.len(), "each alert names its runbook");
    let index = document::read("docs/runbooks/README.md");
    let tests = document::read("tests/it/alerts/runbooks.rs");
    for (alert, path) in alerts.iter().zip(&runbooks) {
        let text = document::read(path);
        let title = text.lines().next().expect("a title");
        assert!(title.contains(alert), "{path}: {title}");
        let name = path.trim_start_matches("docs/runbooks/").trim_end_matches(".md");
        assert!(
            index.contains(alert) && index.contains(&format!("({name}.md)")),
            "{alert} in the index"
        );
        assert!(
            tests.contains(&format!("\"{name}\", ")),
            "{name} is followed by no test"
        );
        for heading in ["## What it means", "## What to look at", "## What to do"] {
            assert!(text.lines().any(|line| line == heading), "{path}: {heading}");
        }
    }
    let files: BTreeSet<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbooks"))
        .expect("runbooks")
        .map(|entry| {
            format!(
                "docs/runbooks/{}",
                entry.expect("an entry").file_name().to_string_lossy()
            )
        })
        .filter(|path| !path.ends_with("README.md"))
        .collect();
    assert_eq!(files, runbooks.into_iter().collect(), "runbooks and alerts");
}
