//! Records that the topic refuses: only they die, and they can be sent again.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{PATIENCE, Stage, drafts, eventually, token_for};

/// Writes rows for one key: of `sizes` payload bytes, in one transaction. Gives their ids.
async fn write_rows(stage: &Stage, key: Uuid, sizes: &[i32]) -> Vec<i64> {
    sqlx::query_scalar(
        "insert into outbox_messages (event_id, job_id, key, event_time, created_at, payload)
         select id, id, $1, clock_timestamp(), clock_timestamp(),
                convert_to(format('{\"jobId\":\"%s\",\"pad\":\"%s\"}', id, repeat('x', size)), 'utf8')
         from (select gen_random_uuid() as id, size from unnest($2::int[]) size) r returning id",
    )
    .bind(key)
    .bind(sizes)
    .fetch_all(&stage.pool)
    .await
    .expect("rows")
}

async fn overview(stage: &Stage, expected: (i64, i64, i64)) {
    eventually(
        &format!("pending, published, dead = {expected:?}"),
        Duration::from_secs(45),
        async || {
            let seen: (i64, i64, i64) = sqlx::query_as("select pending, published, dead from outbox_overview")
                .fetch_one(&stage.pool)
                .await
                .expect("overview");
            if seen == expected {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        },
    )
    .await;
}

async fn published_ids(stage: &Stage, count: usize) -> Vec<i64> {
    let records = stage.records(count).await;
    records
        .iter()
        .map(|r| r.header("outbox-id").parse().expect("a number"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_larger_than_their_share_of_a_read_go_out_all_and_in_order() {
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")]).await;
    // One read has 16 MiB for 2,048 rows: 8 KiB each.
    let mut sizes = vec![100; 50];
    sizes.extend([10_000, 900_000, 10, 700_000]);
    sizes.extend([600_000; 30]);
    sizes.extend([10; 50]);
    let ids = write_rows(&stage, Uuid::new_v4(), &sizes).await;
    let _app = stage.app().await;
    assert_eq!(published_ids(&stage, sizes.len()).await, ids);
    overview(&stage, (0, sizes.len() as i64, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_above_the_topics_limit_dies_alone_and_is_sent_again_once_the_limit_is_raised() {
    let stage = Stage::with_topic(&[("max.message.bytes", "3000")]).await;
    let app = stage.app().await;
    let ids = write_rows(&stage, Uuid::new_v4(), &[10, 10, 5000, 10, 10]).await;
    overview(&stage, (0, 4, 1)).await;
    // It was sent alone at once, for the limit is known: its refusal is its own and ends no term.
    let rebuilds = app.metric("outbox_producer_rebuilds_total").await;
    assert!(rebuilds < 0.5, "{}", app.log());
    assert_eq!(
        published_ids(&stage, 4).await,
        [ids[0], ids[1], ids[3], ids[4]],
        "later ones of the key went on, in order"
    );

    stage.limit_topic("1000000").await;
    eventually(
        "the service knows the new limit, and the retried message arrives",
        Duration::from_secs(45),
        async || {
            let done = stage
                .run(&["dead", "retry", "--all", "--reason", "the limit was raised", "--yes"])
                .await;
            let records = stage.records_now().await;
            if records.len() == 5 {
                Ok(())
            } else {
                Err(format!("{} records; {done:?}", records.len()))
            }
        },
    )
    .await;
    let dead: Uuid = sqlx::query_scalar("select event_id from outbox_messages where id = $1")
        .bind(ids[2])
        .fetch_one(&stage.pool)
        .await
        .expect("a row");
    let records = stage.records(5).await;
    let last = records.last().expect("five records");
    assert_eq!(last.header("ce_id"), dead.to_string(), "consumers recognise it");
    assert_ne!(last.header("outbox-id"), ids[2].to_string(), "a retry is a new row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_above_the_topics_segment_dies_alone_and_holds_nothing_up() {
    let stage = Stage::with_topic(&[("max.message.bytes", "3000000")])
        .await
        .set("kafka.max_message_bytes", "3000000");
    let _app = stage.app().await;
    write_rows(&stage, Uuid::new_v4(), &[10]).await;
    overview(&stage, (0, 1, 0)).await;
    // The broker refuses it, or the service, once it has asked for the topic's settings again.
    stage
        .set_topic(
            &stage.topic,
            &[("max.message.bytes", "3000000"), ("segment.bytes", "1048576")],
        )
        .await;
    let ids = write_rows(&stage, Uuid::new_v4(), &[10, 1_500_000, 10]).await;
    overview(&stage, (0, 3, 1)).await;
    let dead: (i64, String) = sqlx::query_as("select outbox_id, error_class from outbox_dead_letters")
        .fetch_one(&stage.pool)
        .await
        .expect("a dead letter");
    assert_eq!(dead, (ids[1], "message-too-large".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lowered_behind_our_back_kills_no_record_that_fits() {
    lower_the_limit(Stage::with_topic(&[("max.message.bytes", "1000000")]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lowered_behind_our_back_kills_no_record_that_fits_in_exactly_once_mode() {
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")]).await;
    lower_the_limit(stage.set("relay.delivery", "exactly-once")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_above_the_limit_that_the_leader_believes_in_is_published_when_the_topic_takes_it() {
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")]).await;
    // Another replica, with a higher setting, has accepted it.
    let stage = stage.set("kafka.max_message_bytes", "2000");
    let _app = stage.app().await;
    let ids = write_rows(&stage, Uuid::new_v4(), &[10, 5000, 10]).await;
    overview(&stage, (0, 3, 0)).await;
    assert_eq!(published_ids(&stage, 3).await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_failed_and_is_dead_keeps_no_breaker_open() {
    let stage = Stage::with_topic(&[("max.message.bytes", "1000000")]).await;
    let app = stage.app().await;
    write_rows(&stage, Uuid::new_v4(), &[10]).await;
    overview(&stage, (0, 1, 0)).await;
    // Not sent alone at first: the service does not know the limit yet, and the refusal counts as a failure.
    stage.limit_topic("3000").await;
    write_rows(&stage, Uuid::new_v4(), &[5000]).await;
    overview(&stage, (0, 1, 1)).await;
    eventually("nothing waits for Kafka", Duration::from_secs(10), async || {
        let open = app.metric("outbox_breaker_open").await;
        if open < 0.5 { Ok(()) } else { Err(app.log()) }
    })
    .await;
}

async fn lower_the_limit(stage: Stage) {
    let app = stage.app().await;
    write_rows(&stage, Uuid::new_v4(), &[10]).await;
    overview(&stage, (0, 1, 0)).await;
    // The broker refuses whole batches from now on; the service still believes in the old limit.
    stage.limit_topic("3000").await;
    let key = Uuid::new_v4();
    let mut sizes = vec![200; 60];
    sizes[30] = 5000;
    let ids = write_rows(&stage, key, &sizes).await;
    overview(&stage, (0, 60, 1)).await;
    let published = published_ids(&stage, 60).await;
    let mut expected = ids.clone();
    expected.remove(30);
    let mut of_key: Vec<i64> = published.into_iter().filter(|id| ids.contains(id)).collect();
    of_key.sort_unstable();
    assert_eq!(of_key, expected, "each of them once; {}", app.log());
}

async fn remembered(stage: &Stage, limit: i64) {
    eventually(
        &format!("the limit is remembered to be {limit}"),
        PATIENCE,
        async || {
            let seen: Option<i64> = sqlx::query_scalar("select record_limit from installation")
                .fetch_one(&stage.pool)
                .await
                .expect("a row");
            if seen == Some(limit) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topic_does_not_take_is_refused_by_a_replica_that_has_never_seen_kafka() {
    let stage = Stage::with_topic(&[("max.message.bytes", "3000")]).await;
    let leader = stage.app().await;
    stage.drained().await;
    remembered(&stage, 3000).await;
    leader.kill();
    stage.limit_topic("4000").await;
    let leader = stage.app().await;
    remembered(&stage, 4000).await;
    leader.kill();
    let away = stage.app_with(&[], &[("kafka.brokers", "127.0.0.1:1")]).await;
    let user = Uuid::new_v4();
    let small = drafts::insert(&stage.pool, &drafts::complete(user)).await;
    let large = drafts::Draft {
        title: "x".repeat(5_000),
        ..drafts::complete(user)
    };
    let large = drafts::insert(&stage.pool, &large).await;
    let answer = away.post_job(large, &token_for(user)).await.expect("an answer");
    assert_eq!(answer.status(), 413);
    away.accept(small, &token_for(user)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_take_no_place_in_the_window() {
    let stage = Stage::with_topic(&[("max.message.bytes", "3000")])
        .await
        .set("relay.window", "2");
    let app = stage.app().await;
    write_rows(&stage, Uuid::new_v4(), &[5000, 5000, 5000, 10]).await;
    overview(&stage, (0, 1, 3)).await;
    assert!(app.term_and_wait().await.success());
    assert!(app.log().contains("drained: nothing will be repeated"), "{}", app.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_which_a_delivery_fails_does_not_say_that_nothing_will_be_repeated() {
    let stage = Stage::with_servers_of_its_own().await.set("shutdown.budget", "60s");
    let app = stage.app().await;
    write_rows(&stage, Uuid::new_v4(), &[10]).await;
    overview(&stage, (0, 1, 0)).await;
    // The service does not know it yet.
    stage.limit_topic("3000").await;
    stage.servers().kafka.freeze();
    write_rows(&stage, Uuid::new_v4(), &[10, 5000, 10]).await;
    eventually("they are on their way", PATIENCE, async || {
        let seen = app.metric("outbox_unacknowledged_rows").await;
        if seen >= 3.0 { Ok(()) } else { Err(seen) }
    })
    .await;
    app.term();
    eventually("it waits for reports", PATIENCE, async || {
        let log = app.log();
        let waits = log.contains("the term ends once Kafka has answered");
        waits.then_some(()).ok_or(log)
    })
    .await;
    stage.servers().kafka.thaw();
    assert!(app.wait_for_exit(2 * PATIENCE).await.success());
    let log = app.log();
    assert!(
        log.contains("stopped before all was acknowledged") && !log.contains("drained: nothing"),
        "{log}"
    );
    let _next = stage.app().await;
    overview(&stage, (0, 3, 1)).await;
}
