//! Identity order is not commit order.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use image_job_dispatcher::outbox::partitions;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    operate::insert_messages,
    support::{PATIENCE, Stage, drafts, eventually, token_for},
};

/// Draws the next outbox id in an open transaction and writes its row, as another writer would.
async fn draw_low_id(conn: &mut PgConnection) -> i64 {
    sqlx::query("begin").execute(&mut *conn).await.expect("begin");
    sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         values ($1, $1, $1, clock_timestamp(), clock_timestamp(), convert_to(format('{\"jobId\":\"%s\"}', $1), 'utf8'))
         returning id",
    )
    .bind(Uuid::new_v4())
    .fetch_one(conn)
    .await
    .expect("a low id")
}

/// Waits until exactly these are the pending ids (by the definition of the view: holes included).
async fn pending(stage: &Stage, expected: i64) {
    eventually(&format!("{expected} pending"), Duration::from_secs(30), async || {
        let row = sqlx::query("select pending, published from outbox_overview")
            .fetch_one(&stage.pool)
            .await
            .expect("overview");
        let (pending, published): (i64, i64) = (row.get(0), row.get(1));
        if pending == expected {
            Ok(())
        } else {
            Err(format!("{pending} pending, {published} published"))
        }
    })
    .await;
}

async fn partition_count(stage: &Stage) -> i64 {
    sqlx::query_scalar("select count(*) from pg_inherits where inhparent = 'outbox_messages'::regclass")
        .fetch_one(&stage.pool)
        .await
        .expect("a count")
}

async fn outbox_ids(stage: &Stage, count: usize) -> Vec<i64> {
    let mut ids: Vec<i64> = stage
        .records(count)
        .await
        .iter()
        .map(|r| r.header("outbox-id").parse().expect("a number"))
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn later_messages_do_not_wait_for_a_low_id_and_it_goes_out_when_it_commits() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    let mut slow = stage.connect().await;
    let low = draw_low_id(&mut slow).await;
    for _ in 0..10 {
        app.accept(draft, &token_for(user)).await;
    }
    assert_eq!(outbox_ids(&stage, 10).await, (low + 1..=low + 10).collect::<Vec<_>>());
    pending(&stage, 1).await;
    // However long it stays open, and though nobody asks for anything: the leader keeps its lease.
    let led = stage.seq_and_fence().await;
    eventually(
        "the idle leader prolongs its lease four times",
        Duration::from_secs(30),
        async || {
            let now = stage.seq_and_fence().await;
            assert_eq!(now.1, led.1, "the lease was lost");
            if now.0 >= led.0 + 4 {
                Ok(())
            } else {
                Err(format!("{now:?}, from {led:?}"))
            }
        },
    )
    .await;
    sqlx::query("commit").execute(&mut slow).await.expect("commit");
    assert_eq!(outbox_ids(&stage, 11).await, (low..=low + 10).collect::<Vec<_>>());
    pending(&stage, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_id_that_is_rolled_back_is_closed_and_nothing_waits_for_it() {
    let stage = Stage::new().await;
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    let mut slow = stage.connect().await;
    let low = draw_low_id(&mut slow).await;
    for _ in 0..10 {
        app.accept(draft, &token_for(user)).await;
    }
    stage.records(10).await;
    pending(&stage, 1).await;
    sqlx::query("rollback").execute(&mut slow).await.expect("rollback");
    pending(&stage, 0).await;
    assert_eq!(outbox_ids(&stage, 10).await, (low + 1..=low + 10).collect::<Vec<_>>());
    let settled: bool = sqlx::query_scalar("select $1 <@ outbox_settled()")
        .bind(low)
        .fetch_one(&stage.pool)
        .await
        .expect("settled");
    assert!(!settled, "a closed id does not read as published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_keeps_its_id_open_over_a_restart_of_postgresql() {
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("log.filter", "info,image_job_dispatcher::relay=debug");
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    let mut slow = stage.connect().await;
    let low = draw_low_id(&mut slow).await;
    app.accept(draft, &token_for(user)).await;
    stage.records(1).await;
    sqlx::query("prepare transaction 'low'")
        .execute(&mut slow)
        .await
        .expect("prepare");
    pending(&stage, 1).await;
    drop(slow);
    stage.servers().postgres.stop().await.expect("PostgreSQL stops");
    stage.servers().postgres.restart().await.expect("PostgreSQL restarts");
    eventually("accepting works again", Duration::from_secs(30), async || {
        match app.post_job(draft, &token_for(user)).await {
            Ok(answer) if answer.status() == 202 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually("later messages go out", Duration::from_secs(30), async || {
        let records = stage.records_now().await;
        let later = records
            .iter()
            .any(|r| r.header("outbox-id").parse::<i64>().expect("a number") > low + 1);
        if later { Ok(()) } else { Err(records.len()) }
    })
    .await;
    // A look and the read after it are enough to close a hole. It must outlive many.
    let looks = || app.log().matches("looked at who may still fill the holes").count();
    let before = looks();
    eventually("five more looks", PATIENCE, async || match looks() - before {
        5.. => Ok(()),
        fewer => Err(fewer),
    })
    .await;
    pending(&stage, 1).await;
    let mut conn = stage.connect().await;
    sqlx::query("commit prepared 'low'")
        .execute(&mut conn)
        .await
        .expect("commit prepared");
    pending(&stage, 0).await;
    let records = stage.records(3).await;
    assert!(records.iter().any(|r| r.header("outbox-id") == low.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_report_stops_neither_making_nor_accepting_and_dropping_waits_for_it() {
    let stage = Stage::new().await.set("outbox.partition_rows", "1000");
    let user = Uuid::new_v4();
    let token = token_for(user);
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    // The template's partitions hold 10^6 ids each, and later ones a share of that.
    sqlx::query("drop table outbox_messages_1, outbox_messages_1000001")
        .execute(&stage.pool)
        .await
        .expect("an empty log");
    let app = stage.app().await;
    let mut report = stage.connect().await;
    sqlx::query("begin isolation level repeatable read")
        .execute(&mut report)
        .await
        .expect("begin");
    sqlx::query("select count(*) from outbox_messages")
        .execute(&mut report)
        .await
        .expect("a report");
    // What the start makes is there: up to 2001.
    let mut conn = stage.connect().await;
    ends_above(&mut conn, "outbox_messages", 2000).await;
    let before = partition_count(&stage).await;
    for _ in 0..3500 {
        app.accept(draft, &token).await;
    }
    stage.records(3500).await;
    pending(&stage, 0).await;
    let made = partition_count(&stage).await - before;
    assert!(made >= 2, "{made} partitions were made while the report was open");

    let everything_is_old = partitions::Before {
        messages: Utc::now() + TimeDelta::days(1),
        jobs: Utc::now() + TimeDelta::days(1),
    };
    let blocked = partitions::drop_settled(&mut conn, everything_is_old, false).await;
    assert!(blocked.is_err(), "the report still reads them: {blocked:?}");
    app.accept(draft, &token).await;
    sqlx::query("commit").execute(&mut report).await.expect("commit");
    let standing = partition_count(&stage).await;
    // Whoever holds the table for a moment makes one attempt give up: that is its `lock_timeout`.
    eventually("they are dropped", PATIENCE, async || {
        partitions::drop_settled(&mut conn, everything_is_old, false).await
    })
    .await;
    let dropped = standing - partition_count(&stage).await;
    assert!(dropped >= 2, "{dropped} partitions were dropped");
    app.accept(draft, &token).await;
    stage.records(3502).await;
    conn.close().await.expect("closed");
}

/// As if so many ids had been drawn, and one of them written.
async fn use_up_ids(stage: &Stage, ids: i64) {
    sqlx::query("select setval('outbox_messages_id_seq', $1)")
        .bind(ids)
        .execute(&stage.pool)
        .await
        .expect("drawn");
    insert_messages(&stage.pool, 1, &[Uuid::new_v4()], Uuid::new_v4()).await;
}

/// A log of two partitions of a thousand ids, once whoever leads or waits has made them.
async fn short_log() -> Stage {
    let stage = Stage::new()
        .await
        .set("outbox.partition_rows", "1000")
        .set("relay.lease", "1s");
    sqlx::query("drop table outbox_messages_1, outbox_messages_1000001")
        .execute(&stage.pool)
        .await
        .expect("an empty log");
    stage
}

async fn ends_above(conn: &mut PgConnection, log: &str, end: i64) {
    eventually(
        &format!("{log} above {end}"),
        PATIENCE,
        async || match partitions::end_of(conn, log).await {
            Ok(Some(is)) if is > end => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

/// The last day of `jobs`, which is gone, and what is in the way of making it again.
async fn keep_a_day_from_being_made(stage: &Stage) -> (String, sqlx::Transaction<'static, sqlx::Postgres>) {
    let last: String =
        sqlx::query_scalar("select max(inhrelid::regclass::text) from pg_inherits where inhparent = 'jobs'::regclass")
            .fetch_one(&stage.pool)
            .await
            .expect("a day");
    sqlx::query(sqlx::AssertSqlSafe(format!("drop table {last}")))
        .execute(&stage.pool)
        .await
        .expect("dropped");
    let mut vacuum = stage.pool.begin().await.expect("begin");
    sqlx::query("lock table only jobs in share update exclusive mode")
        .execute(&mut *vacuum)
        .await
        .expect("a lock");
    (last, vacuum)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_partitions_of_jobs_from_being_made_keeps_no_others() {
    let stage = short_log().await;
    let _app = stage.app().await;
    let mut conn = stage.connect().await;
    stage.led().await;
    ends_above(&mut conn, "outbox_messages", 2000).await;
    sqlx::query("drop table outbox_checkpoints_1000000")
        .execute(&stage.pool)
        .await
        .expect("dropped");
    let (last, vacuum) = keep_a_day_from_being_made(&stage).await;
    use_up_ids(&stage, 1600).await;
    ends_above(&mut conn, "outbox_messages", 2001).await;
    ends_above(&mut conn, "outbox_checkpoints", 1_000_000).await;
    vacuum.rollback().await.expect("rollback");
    eventually("the jobs' next day", PATIENCE, async || {
        let made: bool = sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(&last)
            .fetch_one(&stage.pool)
            .await
            .expect("an answer");
        if made { Ok(()) } else { Err(made) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_begins_though_a_day_of_jobs_cannot_be_made() {
    let stage = Stage::new().await;
    let (_, vacuum) = keep_a_day_from_being_made(&stage).await;
    let _app = stage.app().await;
    stage.led().await;
    vacuum.rollback().await.expect("rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_kafka_makes_partitions_ahead_of_what_is_accepted() {
    let stage = short_log().await;
    let _app = stage.spawn_app(&["--role", "relay"], &[("kafka.brokers", "127.0.0.1:1")]);
    let mut conn = stage.connect().await;
    eventually("it waits", PATIENCE, async || match stage.seq_and_fence().await {
        (2.., _) => Ok(()),
        (seq, _) => Err(seq),
    })
    .await;
    use_up_ids(&stage, 1600).await;
    ends_above(&mut conn, "outbox_messages", 2001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_taken_over_though_no_partition_is_left_for_the_next_checkpoint() {
    let stage = Stage::new().await;
    let full = sqlx::query(
        "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
         values (1999999, 1, 'gone/1', '-infinity', 'at-least-once', '{}', '{}', '{}')",
    );
    full.execute(&stage.pool).await.expect("a base");
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    app.accept(draft, &token_for(user)).await;
    stage.records(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hole_is_closed_whose_row_did_not_fit_into_the_read() {
    const ROWS: i32 = 60;
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")])
        .await
        .set("log.filter", "info,image_job_dispatcher::relay=debug");
    let user = Uuid::new_v4();
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let app = stage.app().await;
    let mut slow = stage.connect().await;
    sqlx::query("begin").execute(&mut slow).await.expect("begin");
    // One read has 16 MiB for rows under holes.
    sqlx::query(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select id, id, id, clock_timestamp(), clock_timestamp(),
                convert_to(format('{\"jobId\":\"%s\",\"pad\":\"%s\"}', id, repeat('x', 900000)), 'utf8')
         from (select gen_random_uuid() as id from generate_series(1, $1)) r",
    )
    .bind(ROWS)
    .execute(&mut slow)
    .await
    .expect("low ids");
    app.accept(draft, &token_for(user)).await;
    stage.records(1).await;
    eventually("the holes are watched", PATIENCE, async || {
        let log = app.log();
        let looked = log.contains("looked at who may still fill the holes");
        looked.then_some(()).ok_or(log)
    })
    .await;
    sqlx::query("commit").execute(&mut slow).await.expect("commit");
    stage.drained().await;
    assert_eq!(stage.records(1).await.len(), 1 + ROWS as usize);
    let wrongly_closed = app.metric("outbox_wrongly_closed_holes_total").await;
    assert!(wrongly_closed < 0.5, "{wrongly_closed}");
}
