//! What a replica does and shows before, in and after its term of leading.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use image_job_dispatcher::outbox::checkpoints::BASE_EVERY;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::{
    App, PATIENCE, Record, Stage, content::ContentService, drafts, eventually, records::publish, token_for,
};

/// A user with a draft.
struct Someone {
    draft: Uuid,
    token: String,
}

impl Someone {
    async fn new(stage: &Stage) -> Self {
        let user = Uuid::new_v4();
        Self {
            draft: drafts::insert(&stage.pool, &drafts::complete(user)).await,
            token: token_for(user),
        }
    }

    async fn accepted(&self, app: &App) -> Uuid {
        app.accept(self.draft, &self.token).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_term_cannot_begin_the_gauges_tell_what_waits() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    // Nobody listens there.
    let app = stage.app_with(&[], &[("kafka.brokers", "127.0.0.1:1")]).await;
    for _ in 0..3 {
        someone.accepted(&app).await;
    }
    app.shows(&[
        ("outbox_leading", 1.0),
        ("outbox_breaker_open", 1.0),
        ("outbox_pending_rows", 3.0),
    ])
    .await;
    assert!(app.metric("outbox_oldest_pending_age_seconds").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_no_more_shows_nothing_of_what_waits() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let someone = Someone::new(&stage).await;
    let former = stage.app().await;
    former.shows(&[("outbox_leading", 1.0)]).await;
    assert!(stage.run(&["pause", "--reason", "a test"]).await.status.success());
    someone.accepted(&former).await;
    let waiting = [
        ("outbox_leading", 1.0),
        ("outbox_paused", 1.0),
        ("outbox_pending_rows", 1.0),
    ];
    former.shows(&waiting).await;

    former.freeze();
    let next = stage.app().await;
    next.shows(&waiting).await;
    former.thaw();
    former.shows(&waiting.map(|(name, _)| (name, 0.0))).await;
    assert!(former.metric("outbox_oldest_pending_age_seconds").await <= 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_woken_by_what_another_replica_accepts() {
    const JOBS: u32 = 10;
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let leader = stage.app().await;
    leader.shows(&[("outbox_leading", 1.0)]).await;
    let other = stage.app_with(&["--role", "api"], &[]).await;
    someone.accepted(&other).await;
    stage.records(1).await;

    // Each is accepted when the one before was just read: the poll alone would take half a second for each.
    eventually("each is published when it is accepted", PATIENCE, async || {
        let began = Instant::now();
        for _ in 0..JOBS {
            someone.accepted(&other).await;
            stage.drained().await;
        }
        let each = began.elapsed() / JOBS;
        if each < Duration::from_millis(200) {
            Ok(())
        } else {
            Err(format!("{each:?} each"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_only_relays_has_no_public_listener_and_stops_without_waiting_for_one() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let api = stage.app_with(&["--role", "api"], &[]).await;
    let relay = stage.spawn_app(&["--role", "relay"], &[]);
    eventually("it leads", PATIENCE, async || {
        let answer = relay.http.get(format!("{}/metrics", relay.admin_url)).send().await;
        let text = answer
            .map_err(|e| e.to_string())?
            .text()
            .await
            .map_err(|e| e.to_string())?;
        if text.contains("\noutbox_leading 1\n") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    someone.accepted(&api).await;
    stage.records(1).await;
    assert!(
        relay.post_job(someone.draft, &someone.token).await.is_err(),
        "a public listener"
    );
    relay.term();
    // It has requests of nobody to finish: far below `shutdown.budget`.
    assert!(relay.wait_for_exit(Duration::from_secs(5)).await.success());
    assert!(
        relay.log().contains("drained: nothing will be repeated"),
        "{}",
        relay.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kafka_holds_a_term_back_until_an_operator_accepts_it() {
    let stage = Stage::new().await;
    sqlx::query("update installation set topic = $1, cluster_id = 'of another cluster'")
        .bind(&stage.topic)
        .execute(&stage.pool)
        .await
        .expect("an identity");
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    let job = someone.accepted(&app).await;
    eventually("the log says why, and what to do", PATIENCE, async || {
        let log = app.log();
        let said = log
            .lines()
            .any(|line| line.contains("of another cluster") && line.contains("resume --accept-identity"));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(stage.records_now().await.len(), 0);
    let accepted = stage.run(&["resume", "--accept-identity", "--yes"]).await;
    assert!(accepted.status.success(), "{accepted:?}");
    let records = stage.records(1).await;
    assert_eq!(records[0].job_id(), job.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_leader_published_and_did_not_record_is_found_by_both_of_its_ids() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage).await;
    let api = stage.app_with(&["--role", "api"], &[]).await;
    for _ in 0..3 {
        someone.accepted(&api).await;
    }
    let jobs: Vec<(i64, Uuid, Uuid)> = sqlx::query_as("select id, event_id, key from outbox_messages order by id")
        .fetch_all(&stage.pool)
        .await
        .expect("messages");
    let brokers = stage.servers().kafka.bootstrap();
    publish(&brokers, &stage.topic, &jobs[0], jobs[0].1).await;
    // As the original of a replay looks to the replay: the same event, another row. And the other way round.
    publish(&brokers, &stage.topic, &jobs[1], Uuid::new_v4()).await;
    publish(&brokers, &stage.topic, &(i64::MAX, jobs[2].1, jobs[2].2), jobs[2].1).await;

    let relay = stage.app().await;
    relay
        .shows(&[("outbox_leading", 1.0), ("outbox_pending_rows", 0.0)])
        .await;
    let records = stage.records(5).await;
    let sent: Vec<_> = jobs
        .iter()
        .map(|(id, event, _)| {
            let of_row =
                |r: &&Record| r.header("outbox-id") == id.to_string() && r.header("ce_id") == event.to_string();
            records.iter().filter(of_row).count()
        })
        .collect();
    assert_eq!(sent, [1, 1, 1], "{records:?}");
    assert_eq!(records.len(), 5, "the first was not repeated");
    let receipts: i64 = sqlx::query_scalar("select sum(cardinality(receipt_ids)) from outbox_checkpoints")
        .fetch_one(&stage.pool)
        .await
        .expect("receipts");
    assert_eq!(receipts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    // Longer than anybody here waits.
    let stage = Stage::new().await.set("relay.lease", "60s");
    let leader = stage.app().await;
    leader.shows(&[("outbox_leading", 1.0)]).await;
    let standby = stage.app().await;
    assert!(leader.term_and_wait().await.success());
    standby.shows(&[("outbox_leading", 1.0)]).await;
}

/// When the app logged it, by its own clock.
fn logged_at(app: &App, what: &str) -> DateTime<Utc> {
    let log = app.log();
    let line = log.lines().find(|line| line.contains(what)).expect("it was logged");
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    line["timestamp"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("a timestamp")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_waits_for_its_last_reports_keeps_its_lease() {
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("relay.lease", "1s")
        .set("shutdown.budget", "60s")
        .on_one_thread();
    let someone = Someone::new(&stage).await;
    let leader = stage.app().await;
    let job = someone.accepted(&leader).await;
    stage.records(1).await;
    // Only a member of the group waits for Kafka when it leaves.
    let content = ContentService::on(&stage).await;
    let answer = json!({"jobId": job, "status": "PROCESSING", "images": [], "error": null});
    content.result(job, &answer).await;
    eventually("the consumer of results is in its group", PATIENCE, async || {
        let applied: i64 = sqlx::query_scalar("select count(*) from job_results")
            .fetch_one(&stage.pool)
            .await
            .expect("results");
        if applied == 1 { Ok(()) } else { Err(applied) }
    })
    .await;
    let standby = stage.app().await;

    stage.servers().kafka.freeze();
    someone.accepted(&leader).await;
    leader.shows(&[("outbox_unacknowledged_rows", 1.0)]).await;
    leader.term();
    eventually("it waits for reports", PATIENCE, async || {
        let log = leader.log();
        if log.contains("the term ends once Kafka has answered") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    let (seq, fence) = stage.seq_and_fence().await;
    // The consumer of results leaves its group meanwhile, and waits five seconds for Kafka.
    let told_after = logged_at(&leader, "the term ends once Kafka") - logged_at(&leader, "SIGTERM: stopping");
    assert!(
        told_after < TimeDelta::seconds(4),
        "the relay was told after {told_after}"
    );
    eventually("the lease is prolonged, and not taken over", PATIENCE, async || {
        let now = stage.seq_and_fence().await;
        assert_eq!(now.1, fence, "another one leads while reports are waited for");
        if now.0 >= seq + 6 {
            Ok(())
        } else {
            Err(format!("{now:?} after {seq}"))
        }
    })
    .await;
    stage.servers().kafka.thaw();
    assert!(leader.wait_for_exit(PATIENCE).await.success());
    assert!(
        leader.log().contains("drained: nothing will be repeated"),
        "{}",
        leader.log()
    );
    // The next one finds nothing to do twice.
    standby
        .shows(&[("outbox_leading", 1.0), ("outbox_pending_rows", 0.0)])
        .await;
    assert_eq!(stage.records_now().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_writes_a_base_as_often_as_a_leader_does() {
    let stage = Stage::new().await;
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled)
         select newest + n, 1, 'gone/1', clock_timestamp(), 'at-least-once', '{}',
                case when n = 1 then '{[1,4)}'::int8multirange else '{}' end
         from (select max(seq) as newest from outbox_checkpoints) c, generate_series(1, $1) n",
    )
    .bind(BASE_EVERY)
    .execute(&stage.pool)
    .await
    .expect("checkpoints of a long wait");
    // Nobody listens there.
    let settings = [("kafka.brokers", "127.0.0.1:1"), ("relay.lease", "1s")];
    let _waits = stage.spawn_app(&["--role", "relay"], &settings);
    let bases = eventually(
        "a base is written, and some checkpoints after it",
        PATIENCE,
        async || {
            let bases: Vec<(String, i64)> = sqlx::query_as(
                "select base_passed::text, (select max(seq) from outbox_checkpoints) - seq from outbox_checkpoints
             where base_passed is not null and seq >= $1 order by seq",
            )
            .bind(BASE_EVERY)
            .fetch_all(&stage.pool)
            .await
            .expect("bases");
            match bases.first() {
                Some((_, later)) if *later >= 3 => Ok(bases),
                _ => Err(format!("{bases:?}")),
            }
        },
    )
    .await;
    assert_eq!(bases.len(), 1, "and no more of them: {bases:?}");
    assert_eq!(bases[0].0, "{[1,4)}", "all that was settled, and nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_writes_the_base_that_is_due_and_keeps_its_lease() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let someone = Someone::new(&stage).await;
    let app = stage.app().await;
    someone.accepted(&app).await;
    stage.drained().await;
    let newest_base = async || {
        sqlx::query_scalar::<_, i64>("select max(seq) from outbox_checkpoints where base_passed is not null")
            .fetch_one(&stage.pool)
            .await
            .expect("a base")
    };
    let base = newest_base().await;
    // Each job is a checkpoint.
    while stage.seq_and_fence().await.0 < base + BASE_EVERY - 4 {
        someone.accepted(&app).await;
        stage.drained().await;
    }
    assert_eq!(newest_base().await, base, "the next one is left to an idle leader");
    let (seq, fence) = stage.seq_and_fence().await;
    eventually(
        "the lease is prolonged before the base and after it",
        PATIENCE,
        async || {
            let now = stage.seq_and_fence().await;
            assert_eq!(now.1, fence, "the lease was lost");
            if now.0 >= seq + 8 {
                Ok(())
            } else {
                Err(format!("{now:?} after {seq}"))
            }
        },
    )
    .await;
    let written = newest_base().await - base;
    assert!(
        (BASE_EVERY - 1..=BASE_EVERY).contains(&written),
        "a base {written} checkpoints later"
    );
    let job = someone.accepted(&app).await;
    eventually("it publishes", PATIENCE, async || {
        let records = stage.records_now().await;
        let published = records.iter().any(|record| record.job_id() == job.to_string());
        published.then_some(()).ok_or(records.len())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_kafka_gives_its_lease_back_when_it_is_stopped() {
    // Longer than anybody here waits.
    let stage = Stage::new().await.set("relay.lease", "60s");
    // Nobody listens there.
    let waiting = stage.app_with(&[], &[("kafka.brokers", "127.0.0.1:1")]).await;
    waiting
        .shows(&[("outbox_leading", 1.0), ("outbox_breaker_open", 1.0)])
        .await;
    let standby = stage.app().await;
    assert!(waiting.term_and_wait().await.success());
    standby.shows(&[("outbox_leading", 1.0)]).await;
}

/// Tells a leader to stop while the poll that prolongs its lease is on its way, and lets `answer` that, which is given the
/// session that locks it out and the process id of the poll's.
async fn stopped_in_a_poll(answer: impl AsyncFnOnce(&mut PgConnection, i32)) {
    let stage = Stage::new().await.set("relay.lease", "6s");
    let leader = stage.app().await;
    leader.shows(&[("outbox_leading", 1.0)]).await;
    let mut holder = stage.connect().await;
    let poll = loop {
        // A checkpoint does not need this table, and neither does a read.
        sqlx::raw_sql("begin; lock table outbox_control in access exclusive mode")
            .execute(&mut holder)
            .await
            .expect("a lock");
        let (poll, renews): (i32, bool) = eventually("a poll waits", PATIENCE, async || {
            let waiting = sqlx::query_as(
                "select pid, query like 'with renewed%' from pg_stat_activity
                 where datname = current_database() and application_name = 'dispatcher relay'
                   and wait_event_type = 'Lock' and query like '%outbox_control%'",
            )
            .fetch_optional(&stage.pool)
            .await
            .expect("activity");
            waiting.ok_or("none")
        })
        .await;
        if renews {
            break poll;
        }
        sqlx::raw_sql("rollback").execute(&mut holder).await.expect("rollback");
    };
    leader.term();
    eventually("it waits for its poll", PATIENCE, async || {
        let log = leader.log();
        let waits = log.contains("the term ends once Kafka has answered");
        waits.then_some(()).ok_or(log)
    })
    .await;
    answer(&mut holder, poll).await;
    assert!(leader.wait_for_exit(PATIENCE).await.success());
    let log = leader.log();
    let said = log
        .lines()
        .find(|line| line.contains("drained: nothing will be repeated"));
    assert!(said.is_some_and(|line| line.contains("\"given_back\":true")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_while_it_prolongs_its_lease_gives_it_back() {
    stopped_in_a_poll(async |holder, _| {
        sqlx::raw_sql("rollback").execute(holder).await.expect("rollback");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_last_poll_fails_gives_its_lease_back() {
    stopped_in_a_poll(async |holder, poll| {
        sqlx::query("select pg_terminate_backend($1)")
            .bind(poll)
            .execute(holder)
            .await
            .expect("its end");
    })
    .await;
}
