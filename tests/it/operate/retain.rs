//! What retention keeps because somebody still has to decide about it.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use image_job_dispatcher::{
    config::{Config, Sources},
    outbox::{
        notifier::Notifier,
        partitions,
        record::RecordLimit,
        replays::{Pace, Which, advance},
        wake::Wake,
    },
    relay::{self, Relay},
    telemetry::Metrics,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{insert_messages, kill, run, settle};
use crate::support::{PATIENCE, Stage, eventually, token_for};

/// As if all ids of the first partition were used up; none from `unused` on was.
async fn use_up_first_partition(stage: &Stage, unused: i64) {
    sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         select max(seq) + 1, max(fence), 'gone/1', clock_timestamp(), 'at-least-once', '{}', '{[1,1000001)}',
                int8multirange(int8range($1, 1000001))
         from outbox_checkpoints",
    )
    .bind(unused)
    .execute(&stage.pool)
    .await
    .expect("a base");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_stay_as_long_as_nobody_has_decided_about_a_dead_letter_in_them() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[1..]).await;
    kill(&stage.pool, &all[..1], "invalid-record").await;
    use_up_first_partition(&stage, 4).await;
    assert_eq!(droppable(&stage).await, NOTHING);
    let id = all[0].to_string();
    let discarded = run(&stage, &["dead", "discard", &id, "--reason", "withdrawn", "--yes"]).await;
    assert_eq!(discarded.code, 0, "{discarded:?}");
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stays_for_longer_than_its_message_is_told_what_became_of_it() {
    let stage = Stage::new().await;
    let (user, draft) = (Uuid::new_v4(), Uuid::new_v4());
    let all = insert_messages(&stage.pool, 5, &[draft], user).await;
    let [published, retried, discarded, again, given_up] = all[..] else {
        unreachable!("five")
    };
    settle(&stage.pool, &[published]).await;
    kill(&stage.pool, &[retried, discarded, again, given_up], "invalid-record").await;
    let act = async |act: &str, id: i64| {
        let ran = run(&stage, &["dead", act, &id.to_string(), "--reason", "a test", "--yes"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        sqlx::query_scalar::<_, i64>("select max(id) from outbox_messages")
            .fetch_one(&stage.pool)
            .await
            .expect("an id")
    };
    let retry = act("retry", retried).await;
    settle(&stage.pool, &[retry]).await;
    act("discard", discarded).await;
    // Refused, sent again, refused, sent again; and refused, sent again, refused, given up.
    let second = act("retry", again).await;
    kill(&stage.pool, &[second], "invalid-record").await;
    let third = act("retry", second).await;
    settle(&stage.pool, &[third]).await;
    let last = act("retry", given_up).await;
    kill(&stage.pool, &[last], "invalid-record").await;
    act("discard", last).await;
    let letters = run(&stage, &["dead", "list", "--resolved"]).await.rows();
    let letter = |id: i64| {
        letters
            .iter()
            .find(|letter| letter["outbox_id"] == id)
            .expect("a letter")
    };
    assert_eq!(letter(retried)["retry_id"], retry);
    assert_eq!(letter(second)["retry_id"], third);
    assert!(letter(discarded)["retry_id"].is_null());

    let app = stage.spawn_app(&["--role", "api"], &[]);
    app.ready().await;
    let token = token_for(user);
    let jobs: Vec<(i64, Uuid)> = sqlx::query_as("select outbox_id, id from jobs order by outbox_id")
        .fetch_all(&stage.pool)
        .await
        .expect("jobs");
    let states = async || {
        let mut states = Vec::new();
        for (_, job) in &jobs {
            let answer = app.get_job(*job, &token).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let body: serde_json::Value = answer.json().await.expect("a body");
            states.push(body["message"]["state"].as_str().expect("a state").to_owned());
        }
        states
    };
    let became = ["published", "published", "dead", "published", "dead"];
    assert_eq!(states().await, became);

    use_up_first_partition(&stage, last + 1).await;
    let before = partitions::Before {
        messages: Utc::now() + TimeDelta::days(2),
        jobs: Utc::now() - TimeDelta::days(2),
    };
    let mut conn = stage.connect().await;
    eventually("the messages are dropped", PATIENCE, async || {
        partitions::drop_settled(&mut conn, before, false).await
    })
    .await;
    let left: i64 = sqlx::query_scalar("select count(*) from outbox_messages")
        .fetch_one(&stage.pool)
        .await
        .expect("a count");
    assert_eq!(left, 0);
    assert_eq!(states().await, became);
    let job = jobs[0].1.to_string();
    run(&stage, &["outbox", "show", &job])
        .await
        .failed(4, "its job is PENDING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stays_as_long_as_something_is_to_come_of_its_dead_letter() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    kill(&stage.pool, &all, "invalid-record").await;
    let everything_is_old = partitions::Before {
        messages: Utc::now() + TimeDelta::days(2),
        jobs: Utc::now() + TimeDelta::days(2),
    };
    let goes = async || {
        let mut conn = stage.connect().await;
        let dropped = partitions::drop_settled(&mut conn, everything_is_old, true).await;
        let dropped = dropped.expect("a plan");
        dropped.iter().any(|d| d.partition.starts_with("jobs_") && d.rows == 1)
    };
    let resolve = async |act: &str, id: i64| {
        let ran = run(&stage, &["dead", act, &id.to_string(), "--reason", "a test", "--yes"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    assert!(!goes().await, "nobody has decided");
    resolve("retry", all[0]).await;
    assert!(!goes().await, "the retry waits");
    let retry: i64 = sqlx::query_scalar("select retry_id from outbox_dead_letters")
        .fetch_one(&stage.pool)
        .await
        .expect("a retry");
    kill(&stage.pool, &[retry], "invalid-record").await;
    assert!(!goes().await, "the retry has died, and nobody has decided");
    resolve("discard", retry).await;
    assert!(goes().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_kept_as_long_as_their_own_retention_says_and_never_shorter_than_messages() {
    let stage = Stage::new().await;
    let (_, _, day) = insert_old_job(&stage).await;
    for (messages, jobs, goes) in [
        ("1day", "1day", true),
        ("1day", "30days", false),
        ("30days", "1day", false),
    ] {
        let settings = [("outbox.retention", messages), ("jobs.retention", jobs)];
        let said = stage
            .run_with(&["retain", "--dry-run", "--output", "json"], &settings)
            .await;
        let gone: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).expect("rows");
        for table in ["jobs", "job_results"] {
            let listed = gone.iter().any(|gone| gone["what"] == format!("{table}_{day}"));
            assert_eq!(listed, goes, "{messages}, {jobs}: {gone:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_detached_and_not_dropped_goes_in_a_later_round_and_nothing_else_of_such_a_name() {
    let stage = Stage::new().await;
    let mut conn = stage.connect().await;
    let then = Utc::now() - TimeDelta::days(9);
    partitions::ensure_jobs(&mut conn, then).await.expect("partitions");
    let table = format!("jobs_{}", then.format("%Y%m%d"));
    let before = partitions::Before {
        messages: chrono::DateTime::UNIX_EPOCH,
        jobs: Utc::now() - TimeDelta::days(3),
    };
    // As an operator restores one to look into it.
    run_sql(&stage, "create table jobs_20200101 (like jobs)").await;
    // Stops the drop, and not the detaching.
    run_sql(&stage, &format!("create view of_an_operator as select id from {table}")).await;
    assert_eq!(is_there(&stage, &table).await, (true, true));
    let stopped = partitions::drop_settled(&mut conn, before, false).await;
    assert!(stopped.is_err(), "the view needs it: {stopped:?}");
    assert_eq!(
        is_there(&stage, &table).await,
        (true, false),
        "detached, and still there"
    );

    let others = partitions::drop_settled(&mut conn, before, false).await;
    assert!(others.is_ok(), "it keeps no other from going: {others:?}");
    assert_eq!(is_there(&stage, &table).await, (true, false));
    run_sql(&stage, "drop view of_an_operator").await;
    partitions::drop_settled(&mut conn, before, false)
        .await
        .expect("a round");
    assert_eq!(is_there(&stage, &table).await, (false, false));
    assert_eq!(is_there(&stage, "jobs_20200101").await, (true, false));
}

/// The tables of which something would go if everything were old.
async fn droppable(stage: &Stage) -> Vec<String> {
    let everything_is_old = partitions::Before {
        messages: Utc::now() + TimeDelta::days(2),
        jobs: Utc::now() + TimeDelta::days(2),
    };
    let mut conn = stage.connect().await;
    let dropped = partitions::drop_settled(&mut conn, everything_is_old, true).await;
    let with_rows = dropped.expect("a plan").into_iter().filter(|d| d.rows > 0);
    let mut tables: Vec<_> = with_rows
        .map(|d| d.partition.rsplit_once('_').expect("a name").0.to_owned())
        .collect();
    tables.sort_unstable();
    tables
}

const NOTHING: [&str; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unfinished_replay_has_yet_to_send_stays_and_so_do_its_jobs() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    use_up_first_partition(&stage, 4).await;
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"]);
    let (first, last) = (all[0].to_string(), all[2].to_string());
    let create = [
        "replay", "create", "--id", &first, "--id", &last, "--reason", "x", "--yes",
    ];
    let replay = run(&stage, &create).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(droppable(&stage).await, NOTHING, "it runs");
    assert_eq!(run(&stage, &["replay", "pause", &replay]).await.code, 0);
    assert_eq!(droppable(&stage).await, NOTHING, "it is paused");

    let change = async |what: &str| run_sql(&stage, &format!("update outbox_replays set {what}")).await;
    change("cursor = 1").await;
    assert_eq!(droppable(&stage).await, NOTHING, "the last is still to come");
    change("cursor = upper_bound").await;
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"], "it is past them");
    change("cursor = 0, state = 'cancelled'").await;
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"], "it was cancelled");
}

/// As an audit leaves it that found these missing.
async fn record_audit(stage: &Stage, missing: &[i64], from: Option<chrono::DateTime<Utc>>) {
    sqlx::query(
        "insert into outbox_audits (id, requested_by, started_at, written_from, topic, receipts, records, in_place,
                                    expired, made_good, missing, repeated, foreign_records, forgotten, missing_ids)
         select $1, 'a test', clock_timestamp(), $2, 't', 0, 0, 0, 0, 0, cardinality($3), 0, 0, 0,
                coalesce((select range_agg(int8range(id, id + 1)) from unnest($3) id), '{}')",
    )
    .bind(Uuid::now_v7())
    .bind(from)
    .bind(missing)
    .execute(&stage.pool)
    .await
    .expect("an audit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_audit_that_counts_found_missing_stays_until_a_later_one_of_the_whole_topic_does_not() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    use_up_first_partition(&stage, 4).await;
    record_audit(&stage, &[], None).await;
    assert_eq!(
        droppable(&stage).await,
        ["jobs", "outbox_messages"],
        "nothing is missing"
    );
    record_audit(&stage, &all[1..2], None).await;
    assert_eq!(droppable(&stage).await, NOTHING);
    record_audit(&stage, &[], Some(Utc::now())).await;
    assert_eq!(droppable(&stage).await, NOTHING, "a range says nothing of the rest");
    record_audit(&stage, &[2_000_000], None).await;
    assert_eq!(
        droppable(&stage).await,
        ["jobs", "outbox_messages"],
        "others are missing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stays_as_long_as_a_replay_of_its_message_is_missing() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    use_up_first_partition(&stage, 2).await;
    let replay: i64 = sqlx::query_scalar(
        "insert into outbox_messages (id, event_id, job_id, key, event_time, created_at, replay_of, payload)
         overriding system value
         select 1000001, event_id, job_id, key, event_time, created_at, id, payload from outbox_messages
         returning id",
    )
    .fetch_one(&stage.pool)
    .await
    .expect("a replay");
    settle(&stage.pool, &[replay]).await;
    record_audit(&stage, &[replay], None).await;
    assert_eq!(droppable(&stage).await, ["outbox_messages"]);
    record_audit(&stage, &[], None).await;
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_rows_have_gone_says_that_it_sent_less_than_it_matched() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all).await;
    let last = all[2].to_string();
    let create = ["replay", "create", "--id", &last, "--reason", "x", "--yes"];
    run(&stage, &create).await.json();
    run_sql(&stage, "drop table outbox_messages_1").await;
    let mut conn = stage.connect().await;
    let progress = advance(&mut conn, Which::Due, Pace::Now).await.expect("a step");
    let progress = progress.expect("it runs");
    assert_eq!((progress.inserted, progress.done, progress.unsent), (0, true, 1));
}

/// A job of three days ago, whose message is settled; returns its user and its day's name.
async fn insert_old_job(stage: &Stage) -> (Uuid, Uuid, String) {
    let then = Utc::now() - TimeDelta::days(3);
    let mut conn = stage.connect().await;
    partitions::ensure_jobs(&mut conn, then).await.expect("partitions");
    let user = Uuid::new_v4();
    let (message, job): (i64, Uuid) = sqlx::query_as(
        "with m as (
             insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
             select gen_random_uuid(), uuid7_floor($1), gen_random_uuid(), $1, $1, '{}' returning id, job_id, key
         ), j as (
             insert into jobs (id, user_id, event_draft_id, outbox_id, created_at)
             select job_id, $2, key, id, $1 from m
         )
         select id, job_id from m",
    )
    .bind(then)
    .bind(user)
    .fetch_one(&mut conn)
    .await
    .expect("a job of three days ago");
    settle(&stage.pool, &[message]).await;
    (job, user, then.format("%Y%m%d").to_string())
}

async fn no_job_is_pending_again_while_a_report_reads(table: &str) {
    let stage = Stage::new().await;
    let (job, user, day) = insert_old_job(&stage).await;
    sqlx::query("insert into job_results (job_id, status, images) values ($1, 'COMPLETED', '[]')")
        .bind(job)
        .execute(&stage.pool)
        .await
        .expect("an answer");
    let mut report = stage.connect().await;
    for statement in ["begin".to_owned(), format!("select count(*) from {table}")] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut report)
            .await
            .expect("a report");
    }
    let before = partitions::Before {
        messages: chrono::DateTime::UNIX_EPOCH,
        jobs: Utc::now() - TimeDelta::days(1),
    };
    let mut conn = stage.connect().await;
    let stopped = partitions::drop_settled(&mut conn, before, false).await;
    assert!(stopped.is_err(), "the report reads them: {stopped:?}");
    let app = stage.spawn_app(&["--role", "api"], &[]);
    app.ready().await;
    let answer = app.get_job(job, &token_for(user)).await.expect("an answer");
    if answer.status() != 404 {
        let body: serde_json::Value = answer.json().await.expect("a body");
        assert_eq!(body["status"], "COMPLETED", "{body}");
    }

    sqlx::query("commit").execute(&mut report).await.expect("commit");
    eventually("both are dropped", PATIENCE, async || {
        partitions::drop_settled(&mut conn, before, false).await
    })
    .await;
    for table in ["jobs", "job_results"] {
        assert_eq!(is_there(&stage, &format!("{table}_{day}")).await, (false, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_pending_again_while_a_report_of_answers_stops_its_day_from_going() {
    no_job_is_pending_again_while_a_report_reads("job_results").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_pending_again_while_a_report_of_jobs_stops_its_day_from_going() {
    no_job_is_pending_again_while_a_report_reads("jobs").await;
}

/// Whether there is such a table, and whether it is a partition.
async fn is_there(stage: &Stage, table: &str) -> (bool, bool) {
    sqlx::query_as(
        "select to_regclass($1) is not null,
                exists (select from pg_inherits where inhrelid = to_regclass($1))",
    )
    .bind(table)
    .fetch_one(&stage.pool)
    .await
    .expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_could_not_be_detached_is_the_operators_again() {
    let stage = Stage::new().await;
    let mut conn = stage.connect().await;
    let then = Utc::now() - TimeDelta::days(9);
    partitions::ensure_jobs(&mut conn, then).await.expect("partitions");
    let table = format!("jobs_{}", then.format("%Y%m%d"));
    let before = partitions::Before {
        messages: chrono::DateTime::UNIX_EPOCH,
        jobs: Utc::now() - TimeDelta::days(3),
    };
    let mut vacuum = stage.pool.begin().await.expect("begin");
    sqlx::query("lock table only jobs in share update exclusive mode")
        .execute(&mut *vacuum)
        .await
        .expect("a lock");
    let stopped = partitions::drop_settled(&mut conn, before, false).await;
    assert!(stopped.is_err(), "the table is locked: {stopped:?}");
    vacuum.rollback().await.expect("rollback");
    assert_eq!(is_there(&stage, &table).await, (true, true));
    run_sql(&stage, &format!("alter table jobs detach partition {table}")).await;
    partitions::drop_settled(&mut conn, before, false)
        .await
        .expect("a round");
    assert_eq!(
        is_there(&stage, &table).await,
        (true, false),
        "who detached it keeps it"
    );
}

async fn run_sql(stage: &Stage, statement: &str) {
    sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(&stage.pool)
        .await
        .expect("it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stays_until_its_message_is_settled_and_a_message_until_its_receipt_is_there() {
    let stage = Stage::new().await;
    let all = insert_messages(&stage.pool, 3, &[Uuid::new_v4()], Uuid::new_v4()).await;
    settle(&stage.pool, &all[..2]).await;
    assert_eq!(droppable(&stage).await, NOTHING, "one waits");
    // Of the third nobody says where it is.
    use_up_first_partition(&stage, all[2] + 1).await;
    assert_eq!(droppable(&stage).await, ["jobs"], "a receipt is missing");
    settle(&stage.pool, &all[2..]).await;
    assert_eq!(droppable(&stage).await, ["jobs", "outbox_messages"]);
}

/// The relay in this process, whose first round comes after `first_round`.
fn relay(stage: &Stage, first_round: Duration) -> Relay {
    let sources = stage.environment().into_iter();
    let sources = sources.fold(Sources::default(), |all, (key, value)| all.with(&key, value));
    let config = Config::load(&sources).expect("a configuration");
    Relay {
        database: stage.database_url.parse().expect("a URL"),
        kafka: config.kafka.clone(),
        options: config.relay.clone(),
        partition_rows: config.outbox.partition_rows,
        kept: (&config).into(),
        first_round,
        leader: Relay::leader_name("test"),
        metrics: Metrics::new(),
        wake: Wake::default(),
        notifier: Notifier::default(),
        replays: Wake::default(),
        limit: RecordLimit::new(1_000_000),
        leading: watch::channel(false).0,
        drain: Duration::from_secs(5),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_drops_what_is_old_though_no_term_lasts_until_a_round() {
    const FIRST_ROUND: Duration = Duration::from_secs(6);
    let stage = Stage::new()
        .await
        .set("outbox.retention", "1day")
        .set("jobs.retention", "1day")
        .set("idempotency.retention", "1day");
    let then = Utc::now() - TimeDelta::days(9);
    partitions::ensure_jobs(&mut stage.connect().await, then)
        .await
        .expect("partitions");
    sqlx::query(
        "insert into idempotency_keys (user_id, key, draft_id, job_id, created_at)
         select gen_random_uuid(), 'old', gen_random_uuid(), gen_random_uuid(), $1",
    )
    .bind(then)
    .execute(&stage.pool)
    .await
    .expect("a key");
    let day = format!("jobs_{}", then.format("%Y%m%d"));
    let left = async || -> (i64, bool) {
        sqlx::query_as("select (select count(*) from idempotency_keys), to_regclass($1) is not null")
            .bind(&day)
            .fetch_one(&stage.pool)
            .await
            .expect("what is left")
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay::run(relay(&stage, FIRST_ROUND), stop.clone()));
    let mut fence = 0;
    let drops = async {
        loop {
            // A term that has begun gets a third of what lies before the first round.
            while stage.seq_and_fence().await.1 == fence {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let gone = async {
                while left().await != (0, false) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if tokio::time::timeout(FIRST_ROUND / 3, gone).await.is_ok() {
                return;
            }
            fence = stage.seq_and_fence().await.1;
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name = 'dispatcher relay'",
            )
            .execute(&stage.pool)
            .await
            .expect("terminated");
        }
    };
    let dropped = tokio::time::timeout(PATIENCE, drops).await;
    assert!(dropped.is_ok(), "{:?} left after {fence} terms", left().await);
    assert!(fence >= 2, "a term lasted until the round: nothing was tried");
    stop.cancel();
    running.await.expect("it stops");
}
