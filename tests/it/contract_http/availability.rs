//! What a client is told when something behind the service is away, busy or in doubt.

use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::{Someone, get, job_of, problem, send};
use crate::support::{
    App, PATIENCE, Stage, eventually,
    proxy::{Cut, Proxy},
};

/// Nobody reads a draft until this connection is closed: what was accepted by then waits in its batch.
async fn hold_drafts(stage: &Stage) -> PgConnection {
    let mut conn = stage.connect().await;
    conn.execute("begin; lock table event_drafts in access exclusive mode")
        .await
        .expect("the lock");
    conn
}

#[tokio::test]
async fn without_postgresql_nothing_is_accepted_and_the_replica_is_not_ready() {
    let stage = Stage::with_servers_of_its_own().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    stage.servers().postgres.kill();
    problem(&send(someone.post(&app)).await, 503, "database-unavailable");
    problem(
        &send(get(&app, &job, &someone.token)).await,
        503,
        "database-unavailable",
    );
    eventually("the replica is not ready", PATIENCE, async || {
        let answer = send(app.http.get(format!("{}/readyz", app.base_url))).await;
        if answer.0 == 200 {
            return Err("ready");
        }
        problem(&answer, 503, "database-unavailable");
        Ok(())
    })
    .await;
    assert_eq!(send(app.http.get(format!("{}/livez", app.base_url))).await.0, 200);
}

#[tokio::test]
async fn a_database_that_takes_no_writes_makes_the_replica_not_ready() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    // As after a fail-over to a standby: the setting holds for new connections, so the old ones end.
    let mut conn = stage.connect().await;
    conn.execute(
        "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$;
         select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await
    .expect("it is read-only");
    problem(&send(someone.post(&app)).await, 503, "database-unavailable");
    eventually("the replica is not ready", PATIENCE, async || {
        let answer = send(app.http.get(format!("{}/readyz", app.base_url))).await;
        if answer.0 == 200 {
            return Err("ready");
        }
        problem(&answer, 503, "database-unavailable");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_commit_in_doubt_is_named_so_and_its_key_finds_the_one_job() {
    let stage = Stage::new().await;
    // Only the message that writes carries the title.
    let proxy = Proxy::cutting(stage.servers().postgres.port(), b"Spring opening", Cut::BeforeTheAnswer).await;
    let mut through_it = url::Url::parse(&stage.database_url).expect("a URL");
    through_it.set_port(Some(proxy.port)).expect("a port");
    let app = stage.app_with(&[], &[("database.url", through_it.as_str())]).await;
    let someone = Someone::new(&stage).await;
    let request = || someone.post(&app).header("idempotency-key", "in doubt");

    proxy.cut_next(u32::MAX);
    problem(&send(request()).await, 503, "outcome-unknown");
    proxy.cut_next(0);
    let (status, _, body) = send(request()).await;
    assert_eq!(status, 202, "{body}");
    let jobs: Vec<Uuid> = sqlx::query_scalar("select id from jobs")
        .fetch_all(&stage.pool)
        .await
        .unwrap();
    assert_eq!(jobs.len(), 1, "one key, one job");
    assert_eq!(job_of(&body), jobs[0].to_string());
}

#[tokio::test]
async fn a_full_queue_refuses_and_whoever_is_in_it_is_accepted() {
    let stage = Stage::new().await.set("intake.queue", "2");
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let held = hold_drafts(&stage).await;

    let mut requests = tokio::task::JoinSet::new();
    let mut refused = 0;
    // Batches take some; those behind them fill the queue, and then somebody is refused.
    while refused == 0 {
        assert!(requests.len() < 1000, "nobody was refused");
        requests.spawn(send(someone.post(&app)));
        while let Some(answer) = requests.try_join_next() {
            problem(&answer.unwrap(), 503, "overloaded");
            refused += 1;
        }
        tokio::task::yield_now().await;
    }
    held.close().await.unwrap();
    let mut accepted = 0_i64;
    while let Some(answer) = requests.join_next().await {
        let answer = answer.unwrap();
        if answer.0 == 202 {
            accepted += 1;
        } else {
            problem(&answer, 503, "overloaded");
        }
    }
    let jobs: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert!(accepted > 0);
    assert_eq!(jobs, accepted, "a refusal accepted nothing");
}

#[tokio::test]
async fn a_repeat_does_not_wait_for_its_first_request_for_ever() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let request = || someone.post(&app).header("idempotency-key", "slow");
    let mut first = stage.connect().await;
    let mut held = first.begin().await.unwrap();
    sqlx::query(
        "insert into idempotency_keys (user_id, key, draft_id, job_id, created_at)
         select user_id, 'slow', id, gen_random_uuid(), now() from event_drafts where id = $1",
    )
    .bind(someone.draft)
    .execute(&mut *held)
    .await
    .unwrap();

    let answer = tokio::time::timeout(Duration::from_secs(15), send(request())).await;
    problem(&answer.expect("an answer"), 409, "idempotency-in-progress");
    held.rollback().await.unwrap();
    assert_eq!(send(request()).await.0, 202, "a failure is not stored");
}

#[tokio::test]
async fn without_the_keys_nobody_can_be_let_in_and_that_is_not_the_callers_fault() {
    let stage = Stage::new().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", nobody.local_addr().unwrap());
    drop(nobody);
    let app = stage
        .app_with(&[], &[("auth.jwt_secret", ""), ("auth.jwks_url", &url)])
        .await;
    let mut someone = Someone::new(&stage).await;
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    // Of an algorithm that keys from an address may have.
    let header = part(r#"{"alg":"EdDSA","typ":"JWT","kid":"one"}"#);
    let claims = part(&format!(r#"{{"sub":"{}","exp":4102444800}}"#, Uuid::new_v4()));
    someone.token = format!("{header}.{claims}.{}", part(&"s".repeat(64)));
    problem(&send(someone.post(&app)).await, 503, "keys-unavailable");
    problem(
        &send(get(&app, &Uuid::new_v4().to_string(), &someone.token)).await,
        503,
        "keys-unavailable",
    );
}

#[tokio::test]
async fn a_replica_that_shuts_down_is_not_ready_and_finishes_what_it_began() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    let held = hold_drafts(&stage).await;
    let request = tokio::spawn(send(someone.post(&app)));
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("the request waits", PATIENCE, async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&stage.pool).await.unwrap();
        if waiting > 0 { Ok(()) } else { Err("none waits") }
    })
    .await;

    app.term();
    eventually("it says that it is not ready", PATIENCE, async || {
        let answer = send(app.http.get(format!("{}/readyz", app.admin_url))).await;
        if answer.0 == 200 {
            return Err("ready");
        }
        problem(&answer, 503, "shutting-down");
        Ok(())
    })
    .await;
    held.close().await.unwrap();
    assert_eq!(request.await.unwrap().0, 202);
    assert!(app.wait_for_exit(PATIENCE).await.success());
}

async fn livez(app: &App, base: &str) -> Result<(), String> {
    let asked = app.http.get(format!("{base}/livez")).send();
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let answer = answer.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_replica_that_waits_for_postgresql_at_its_start_lives_and_says_what_is_away() {
    let stage = Stage::with_servers_of_its_own().await;
    let someone = Someone::new(&stage).await;
    stage.servers().postgres.stop().await.unwrap();
    let app = stage.spawn_app(&[], &[]);
    for base in [&app.base_url, &app.admin_url] {
        eventually("it lives", PATIENCE, async || livez(&app, base).await).await;
        problem(
            &send(app.http.get(format!("{base}/readyz"))).await,
            503,
            "database-unavailable",
        );
    }
    problem(&send(someone.post(&app)).await, 503, "database-unavailable");
    let job = Uuid::now_v7().to_string();
    problem(
        &send(get(&app, &job, &someone.token)).await,
        503,
        "database-unavailable",
    );

    stage.servers().postgres.restart().await.unwrap();
    app.ready().await;
    // Over connections that were there before, too.
    assert_eq!(send(someone.post(&app)).await.0, 202);
    assert_eq!(send(get(&app, &job, &someone.token)).await.0, 404);
}

#[tokio::test]
async fn no_replica_is_ready_before_its_schema_was_found_to_fit() {
    let stage = Stage::new().await;
    let mut holder = stage.connect().await;
    holder
        .execute("begin; lock table schema_compatibility in access exclusive mode")
        .await
        .expect("the lock");
    let app = stage.spawn_app(&[], &[]);
    for base in [&app.base_url, &app.admin_url] {
        eventually("it lives", PATIENCE, async || livez(&app, base).await).await;
        let answer = send(app.http.get(format!("{base}/readyz"))).await;
        problem(&answer, 503, "database-unavailable");
    }
    holder.execute("rollback").await.expect("released");
    app.ready().await;
}

#[tokio::test]
async fn a_replica_is_stopped_while_it_waits_for_postgresql() {
    let stage = Stage::with_servers_of_its_own().await;
    stage.servers().postgres.stop().await.unwrap();
    let app = stage.spawn_app(&[], &[]);
    eventually("it lives", PATIENCE, async || livez(&app, &app.base_url).await).await;
    assert!(app.term_and_wait().await.success());
}

/// A table that only they name, which nobody may look into for a while.
#[tokio::test]
async fn reads_that_were_given_up_do_not_pile_up_in_postgresql() {
    let stage = Stage::new().await.set("database.max_connections", "1");
    let app = stage.app_with(&["--role", "api"], &[]).await;
    let someone = Someone::new(&stage).await;
    let job = app.accept(someone.draft, &someone.token).await.to_string();
    let mut holder = stage.connect().await;
    holder
        .execute("begin; lock table job_results in access exclusive mode")
        .await
        .expect("the lock");
    for _ in 0..2 {
        let answer = send(get(&app, &job, &someone.token)).await;
        problem(&answer, 503, "database-unavailable");
    }
    let sessions: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name = 'dispatcher reads'",
    )
    .fetch_one(&stage.pool)
    .await
    .unwrap();
    assert_eq!(sessions, 1, "as many as the pool has");
    holder.close().await.unwrap();
    assert_eq!(send(get(&app, &job, &someone.token)).await.0, 200);
}

/// The server's sockets to these ports for which its system asks, after 30 seconds of silence at most, whether there is
/// still somebody.
fn asked_after(server: u16, ports: &[i32]) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = |address: &str| i32::from_str_radix(address.split_once(':')?.1, 16).ok();
    let is_asked_after = |line: &&str| -> Option<bool> {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (port(fields.next()?)?, port(fields.next()?)?);
        // 02: the timer of keep-alive, and when it will ring, in hundredths of a second.
        let rings = fields.nth(2)?.strip_prefix("02:")?;
        let rings = i64::from_str_radix(rings, 16).ok()?;
        Some(local == i32::from(server) && ports.contains(&remote) && rings <= 30 * 100)
    };
    table.lines().filter(|line| is_asked_after(line) == Some(true)).count()
}

#[tokio::test]
async fn no_session_outlives_by_long_a_replica_whose_machine_is_gone() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let someone = Someone::new(&stage).await;
    app.accept(someone.draft, &someone.token).await;
    stage.drained().await;
    eventually("every session is asked after", PATIENCE, async || {
        let ports: Vec<i32> = sqlx::query_scalar(
            "select client_port from pg_stat_activity
             where datname = current_database() and application_name like 'dispatcher%'",
        )
        .fetch_all(&stage.pool)
        .await
        .unwrap();
        let asked_after = asked_after(stage.servers().postgres.port(), &ports);
        if ports.len() >= 5 && asked_after == ports.len() {
            Ok(())
        } else {
            Err(format!("{asked_after} of {}", ports.len()))
        }
    })
    .await;
}
