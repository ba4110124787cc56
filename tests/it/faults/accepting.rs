//! Accepting: crashes between the stores, lost Redis values, clients that go away.

use std::time::Duration;

use sqlx::Row as _;

use super::Someone;
use crate::support::{PATIENCE, Stage, eventually, history::History};

async fn redis_keys(stage: &Stage) -> Vec<String> {
    let client = redis::Client::open(stage.servers().redis.url()).expect("a URL");
    let mut conn = client.get_multiplexed_async_connection().await.expect("Redis");
    redis::cmd("KEYS")
        .arg("job:*")
        .query_async(&mut conn)
        .await
        .expect("keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_job_that_only_redis_knows_does_not_exist() {
    let stage = Stage::with_servers_of_its_own().await;
    let someone = Someone::new(&stage, 1).await;
    let crashing = stage.spawn_app_with_failpoints(&["--role", "api"], "intake.cache.after=return(crash)");
    crashing.ready().await;
    let lost = crashing.post_job(someone.drafts[0], &someone.token).await;
    assert!(lost.is_err(), "{lost:?}");
    crashing.wait_for_exit(PATIENCE).await;
    let keys = redis_keys(&stage).await;
    let [phantom] = &keys[..] else {
        panic!("one phantom, and not {keys:?}")
    };
    let job = phantom.trim_start_matches("job:").parse().expect("an id");
    let app = stage.app().await;
    let answer = app.get_job(job, &someone.token).await.expect("an answer");
    assert_eq!(answer.status(), 404);
    stage.drained().await;
    assert_eq!(stage.records_now().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_a_status_outlives_its_redis_value_in_a_long_outage() {
    let stage = Stage::with_servers_of_its_own().await.set("jobs.ttl", "1s");
    let someone = Someone::new(&stage, 1).await;
    let app = stage.app().await;
    stage.servers().kafka.kill();
    let request = someone.accepted(&app, 1).await.remove(0);
    eventually("Redis forgets it", PATIENCE, async || {
        let keys = redis_keys(&stage).await;
        if keys.is_empty() {
            Ok(())
        } else {
            Err(format!("{keys:?}"))
        }
    })
    .await;
    let answer = app.get_job(request.job().expect("accepted"), &someone.token).await;
    let body: serde_json::Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(
        (&body["status"], &body["message"]["state"]),
        (&"PENDING".into(), &"pending".into()),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_clients_that_go_away_at_random_strand_no_lock_and_no_transaction() {
    let stage = Stage::new().await.set("database.max_connections", "3");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let known = someone.accepted(&app, 1).await.remove(0).job().expect("accepted");
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..16 {
        let (http, base, token) = (app.http.clone(), app.base_url.clone(), someone.token.clone());
        let drafts = someone.drafts.clone();
        clients.spawn(async move {
            for n in 0..60 {
                let patience = Duration::from_micros(rand::random_range(200..15_000));
                let request = if n % 2 == 0 {
                    let draft = drafts[(n + client) % drafts.len()];
                    http.post(format!("{base}/api/events/{draft}/content-generation"))
                        .header("Idempotency-Key", format!("{}", n % 7))
                } else {
                    http.get(format!("{base}/api/jobs/{known}")).header("Prefer", "wait=5")
                };
                // Its connection is closed with it.
                let _ = tokio::time::timeout(patience, request.bearer_auth(&token).send()).await;
            }
        });
    }
    clients.join_all().await;
    stage.drained().await;
    eventually("no transaction is open, and no lock is held", PATIENCE, async || {
        let row = sqlx::query(
            "select (select count(*) from pg_stat_activity where datname = current_database()
                        and application_name like 'dispatcher %' and state like 'idle in transaction%'),
                    (select count(*) from pg_locks l join pg_stat_activity a using (pid)
                      where a.datname = current_database() and a.application_name like 'dispatcher %'
                        and a.state = 'idle')",
        )
        .fetch_one(&stage.pool)
        .await
        .expect("activity");
        match (row.get::<i64, _>(0), row.get::<i64, _>(1)) {
            (0, 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Reads have three connections: all of them are sound.
    for _ in 0..10 {
        assert_eq!(
            app.get_job(known, &someone.token).await.expect("an answer").status(),
            200
        );
    }
    let (kept, violations) = History::gather(&stage, Vec::new()).await.check();
    // Nobody kept the requests; everything but who asked is compared.
    let other: Vec<_> = violations
        .iter()
        .filter(|v| !v.to_string().contains("no request of its draft"))
        .collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(kept.records > 1, "{kept:?}");
}
