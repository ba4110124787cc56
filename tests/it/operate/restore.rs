//! docs/upgrade.md, followed: a restored database, another Kafka cluster.

use image_job_dispatcher::dev_stack::{Home, KafkaBroker, create_topic};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use crate::support::{App, PATIENCE, Stage, drafts, eventually, records::read_topic, rig::kafka_libs, token_for};

/// A user with a draft.
async fn somebody(stage: &Stage) -> (Uuid, String) {
    let user = Uuid::new_v4();
    (
        drafts::insert(&stage.pool, &drafts::complete(user)).await,
        token_for(user),
    )
}

async fn accept(app: &App, (draft, token): &(Uuid, String), jobs: usize) {
    for _ in 0..jobs {
        app.accept(*draft, token).await;
    }
}

/// Pending and published, once nothing is pending.
async fn drained(conn: &mut PgConnection, published: i64) {
    eventually(
        &format!("{published} are published and nothing waits"),
        PATIENCE,
        async || {
            let seen: (i64, i64) = sqlx::query_as("select pending, published from outbox_overview")
                .fetch_one(&mut *conn)
                .await
                .expect("the overview");
            if seen == (0, published) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_sends_nothing_again_and_goes_on_under_the_same_ids() {
    let stage = Stage::new().await;
    let someone = somebody(&stage).await;
    let before = stage.app_with(&["--role", "api"], &[]).await;
    accept(&before, &someone, 3).await;
    assert!(before.term_and_wait().await.success());

    // The point to which it is restored: a copy, for which nobody may be connected.
    let (server, database) = stage.database_url.rsplit_once('/').expect("a path");
    let restored = format!("{server}/{database}_restored");
    stage.pool.close().await;
    let mut beside = PgConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("the server");
    eventually("the database is copied", PATIENCE, async || {
        let statement = format!("create database {database}_restored template {database}");
        beside.execute(AssertSqlSafe(statement)).await.map(|_| ())
    })
    .await;

    // What happened after that point.
    let lost = stage.app().await;
    stage.records(3).await;
    accept(&lost, &someone, 2).await;
    stage.records(5).await;
    assert!(lost.term_and_wait().await.success());

    let after = stage.app_with(&[], &[("database.url", &restored)]).await;
    let mut conn = PgConnection::connect(&restored).await.expect("the restored one");
    drained(&mut conn, 3).await;
    assert_eq!(
        stage.records_now().await.len(),
        5,
        "what was published since is not sent again"
    );
    accept(&after, &someone, 2).await;
    let records = stage.records(7).await;
    drained(&mut conn, 5).await;
    let under_the_same_id = |record: &&crate::support::Record| record.header("outbox-id") == "4";
    let fourth: Vec<_> = records
        .iter()
        .filter(under_the_same_id)
        .map(|r| r.header("ce_id"))
        .collect();
    assert_eq!(fourth.len(), 2, "drawn before the restore and after it");
    assert_ne!(fourth[0], fourth[1], "consumers tell them apart");
    assert!(after.term_and_wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_to_another_cluster_sends_there_what_was_accepted_meanwhile() {
    let stage = Stage::new().await;
    let someone = somebody(&stage).await;
    let app = stage.app().await;
    accept(&app, &someone, 2).await;
    stage.records(2).await;

    let libs = kafka_libs().await;
    let new = KafkaBroker::start(&Home::temporary().expect("a home"), &libs)
        .await
        .expect("a second cluster");
    for topic in [&stage.topic, &stage.result_topic] {
        create_topic(&new.bootstrap(), topic, 3, &[]).await.expect("a topic");
    }
    let paused = stage.run(&["pause", "--reason", "moving"]).await;
    assert!(paused.status.success(), "{paused:?}");
    eventually("the pause has begun, and nothing is on its way", PATIENCE, async || {
        let seen = (
            app.metric("outbox_paused").await,
            app.metric("outbox_unacknowledged_rows").await,
        );
        if seen.0 > 0.0 && seen.1 < 1.0 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    accept(&app, &someone, 3).await;
    assert!(app.term_and_wait().await.success());

    let brokers = new.bootstrap();
    let elsewhere = [("kafka.brokers", &*brokers)];
    let app = stage.app_with(&[], &elsewhere).await;
    let doctor = stage.run_with(&["doctor"], &elsewhere).await;
    assert!(
        String::from_utf8_lossy(&doctor.stdout).contains("accept-identity"),
        "{doctor:?}"
    );
    accept(&app, &someone, 1).await;
    let resumed = stage
        .run_with(&["resume", "--accept-identity", "--yes"], &elsewhere)
        .await;
    assert!(resumed.status.success(), "{resumed:?}");
    eventually(
        "what was accepted meanwhile is there",
        PATIENCE,
        async || match read_topic(&brokers, &stage.topic).await.len() {
            4 => Ok(()),
            other => Err(other),
        },
    )
    .await;
    assert_eq!(stage.records_now().await.len(), 2, "nothing more went to the old one");
    assert!(app.term_and_wait().await.success());
}
