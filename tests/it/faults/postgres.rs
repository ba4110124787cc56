//! PostgreSQL: full, slow, promoted, starved, contended, old and new beside each other.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::Someone;
use crate::support::{
    PATIENCE, Stage, eventually,
    history::{History, Outcome},
    load::send,
};

/// A file system of a few megabytes of its own, which PostgreSQL may write to.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(megabytes: usize) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("small-disk-")
            .tempdir_in("/var/tmp")
            .expect("a directory")
            .keep();
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={megabytes}m,mode=0777"),
                "tmpfs",
                &dir.display().to_string(),
            ],
        );
        Self(dir)
    }

    fn tablespace(&self) -> PathBuf {
        let dir = self.0.join("tablespace");
        std::fs::create_dir_all(&dir).expect("a directory");
        // PostgreSQL's, if that is somebody else's process.
        let owner = run("stat", &["-c", "%U", "/proc/self"]);
        if owner.trim() == "root" {
            run("chown", &["postgres", &dir.display().to_string()]);
        }
        dir
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fill(disk: &Path) -> PathBuf {
    let file = disk.join("filling");
    // To the last byte: the error of a full disk is what is wanted.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", file.display()), "bs=4k"])
        .output()
        .expect("dd runs");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_promoted_postgresql_is_noticed_and_said() {
    let stage = Stage::with_servers_of_its_own().await.set("relay.lease", "2s");
    let someone = Someone::new(&stage, 5).await;
    let app = stage.app().await;
    let mut requests = someone.accepted(&app, 5).await;
    stage.drained().await;
    let data: String = sqlx::query_scalar("show data_directory")
        .fetch_one(&stage.pool)
        .await
        .expect("a path");
    let postgres = &stage.servers().postgres;
    assert!(!app.log().contains("timeline"), "{}", app.log());
    // Who leads next has never led before.
    app.kill();
    postgres.stop().await.expect("it stops");
    // It comes back as a standby, and is promoted as in a fail-over.
    std::fs::write(Path::new(&data).join("standby.signal"), "").expect("written");
    postgres.restart().await.expect("it starts");
    sqlx::query("select pg_promote()")
        .execute(&mut stage.connect().await)
        .await
        .expect("promoted");
    let app = stage.app().await;
    eventually("the log says so", PATIENCE, async || {
        let log = app.log();
        let said = log
            .lines()
            .any(|line| line.contains("another timeline") && line.contains("docs/operate.md"));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    eventually("jobs are accepted again", PATIENCE, async || {
        let request = send(&app.http, &app.base_url, &someone.token, someone.drafts[0], None).await;
        let outcome = request.outcome;
        requests.push(request);
        if matches!(outcome, Outcome::Accepted(_)) {
            Ok(())
        } else {
            Err(format!("{outcome:?}"))
        }
    })
    .await;
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_full_disk_is_a_503_and_never_a_202_and_room_is_noticed() {
    let disk = SmallDisk::mount(16);
    let stage = Stage::with_servers_of_its_own()
        .await
        .set("outbox.partition_rows", "1000");
    let space = disk.tablespace();
    let mut conn = stage.connect().await;
    conn.execute(AssertSqlSafe(format!(
        "create tablespace small location '{}'",
        space.display()
    )))
    .await
    .expect("a tablespace");
    // What is written from now on is on the small disk: the log of messages and its index.
    conn.execute(
        "do $$ declare p regclass; begin
            for p in select inhrelid::regclass from pg_inherits where inhparent in ('outbox_messages'::regclass, 'jobs'::regclass) loop
                execute format('alter table %s set tablespace small', p);
            end loop; end $$",
    )
    .await
    .expect("moved");
    let someone = Someone::new(&stage, 20).await;
    // So that a few messages need a page.
    sqlx::query("update event_drafts set prize = repeat('x', 3000)")
        .execute(&stage.pool)
        .await
        .expect("large drafts");
    let app = stage.app().await;
    let mut requests = someone.accepted(&app, 10).await;
    let filling = fill(&disk.0);
    let mut refused = 0;
    for n in 0..300 {
        let draft = someone.drafts[n % someone.drafts.len()];
        let request = send(&app.http, &app.base_url, &someone.token, draft, None).await;
        match request.outcome {
            Outcome::Refused(503) => refused += 1,
            Outcome::Accepted(_) => assert!(refused == 0, "accepted on a full disk"),
            other => panic!("{other:?}"),
        }
        requests.push(request);
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "the disk was not full");
    assert!(app.log().contains("disk is full"), "{}", app.log());
    std::fs::remove_file(filling).expect("removed");
    eventually("jobs are accepted again", PATIENCE, async || {
        let request = send(&app.http, &app.base_url, &someone.token, someone.drafts[0], None).await;
        let outcome = request.outcome;
        requests.push(request);
        if matches!(outcome, Outcome::Accepted(_)) {
            Ok(())
        } else {
            Err(format!("{outcome:?}"))
        }
    })
    .await;
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_commits_that_take_for_ever_are_a_503_with_retry_after_and_nobody_waits_unbounded() {
    let stage = Stage::with_servers_of_its_own().await.set("intake.queue", "16");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let mut requests = someone.accepted(&app, 3).await;
    // A commit waits for its WAL to be flushed where nobody flushes it.
    let mut admin = stage.connect().await;
    let slow = async |admin: &mut sqlx::PgConnection, on: bool| {
        let names = if on { "nobody" } else { "" };
        admin
            .execute(AssertSqlSafe(format!(
                "alter system set synchronous_standby_names = '{names}'"
            )))
            .await
            .expect("a setting");
        admin.execute("select pg_reload_conf()").await.expect("reloaded");
    };
    // Of this session: its own commits wait for nobody.
    admin
        .execute("set synchronous_commit = local")
        .await
        .expect("a setting");
    slow(&mut admin, true).await;
    // The reload is of the server's own time: a commit that was before it was answered with 202.
    eventually("commits wait", Duration::from_mins(1), async || {
        let mut probe = stage.connect().await;
        let commit = probe.execute("select pg_logical_emit_message(true, 'probe', '')");
        let done = tokio::time::timeout(Duration::from_secs(1), commit).await;
        let waiting: bool =
            sqlx::query_scalar("select exists (select from pg_stat_activity where wait_event = 'SyncRep')")
                .fetch_one(&mut admin)
                .await
                .expect("activity");
        if waiting { Ok(()) } else { Err(format!("{done:?}")) }
    })
    .await;
    let began = Instant::now();
    let asked: Vec<_> = (0..80)
        .map(|n| {
            let http = &app.http;
            let draft = someone.drafts[n % someone.drafts.len()];
            let (url, token) = (
                format!("{}/api/events/{draft}/content-generation", app.base_url),
                &someone.token,
            );
            async move {
                let answer = http.post(url).bearer_auth(token).send().await.expect("an answer");
                (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
            }
        })
        .collect();
    let answers = futures_util::future::join_all(asked).await;
    let waited = began.elapsed();
    slow(&mut admin, false).await;
    assert!(waited < Duration::from_secs(25), "{waited:?}");
    assert!(answers.iter().all(|answer| *answer == (503, true)), "{answers:?}");
    eventually("jobs are accepted again", Duration::from_mins(1), async || {
        let request = send(&app.http, &app.base_url, &someone.token, someone.drafts[0], None).await;
        let outcome = request.outcome;
        requests.push(request);
        if matches!(outcome, Outcome::Accepted(_)) {
            Ok(())
        } else {
            Err(format!("{outcome:?}"))
        }
    })
    .await;
    stage.drained().await;
    let (_, violations) = History::gather(&stage, requests).await.check();
    // The eighty are in no history: their outcome was said to be unknown, and some were committed.
    let other: Vec<_> = violations
        .iter()
        .filter(|v| !v.to_string().contains("no request of its draft"))
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_under_an_old_snapshot_nothing_of_the_logs_is_dead_and_polling_stays_cheap() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage, 20).await;
    let mut old = stage.connect().await;
    let mut snapshot = old.begin().await.expect("a transaction");
    snapshot
        .execute("set transaction isolation level repeatable read; select count(*) from jobs")
        .await
        .expect("a snapshot");
    let app = stage.app().await;
    let load = someone.load(&app, 16);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = load.stop().await;
    stage.drained().await;
    let (inserted, changed): (i64, i64) = sqlx::query_as(
        "select sum(n_tup_ins)::bigint, sum(n_tup_upd + n_tup_del)::bigint from pg_stat_user_tables
         where relname like 'outbox_messages%' or relname like 'outbox_checkpoints%' or relname like 'jobs%'",
    )
    .fetch_one(&stage.pool)
    .await
    .expect("statistics");
    let kept = History::gather(&stage, requests).await.kept();
    println!("{} jobs, {inserted} rows inserted, {changed} changed", kept.accepted);
    assert_eq!(changed, 0, "nothing for vacuum, which could not remove it");
    // A poll of an idle leader touches a handful of pages, whatever was drained before. What autovacuum's analysis
    // reads is counted with it, so a window is looked for in which there was none.
    let hits = async || -> i64 {
        sqlx::query_scalar("select blks_hit + blks_read from pg_stat_database where datname = current_database()")
            .fetch_one(&stage.pool)
            .await
            .expect("statistics")
    };
    eventually("three seconds of polling cost few pages", PATIENCE, async || {
        let before = hits().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pages = hits().await - before;
        if pages < 3_000 {
            Ok(())
        } else {
            Err(format!("{pages} pages"))
        }
    })
    .await;
    snapshot.rollback().await.expect("rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_readers_that_use_up_their_pool_hold_up_neither_accepting_nor_the_relay() {
    let stage = Stage::new().await.set("database.max_connections", "1");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let mut requests = someone.accepted(&app, 1).await;
    let job = requests[0].job().expect("accepted");
    stage.drained().await;
    // Reading waits for the table; so the one connection is taken.
    let mut holder = stage.connect().await;
    let mut lock = holder.begin().await.expect("a transaction");
    let holder_pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *lock)
        .await
        .expect("its id");
    lock.execute("lock table job_results in access exclusive mode")
        .await
        .expect("a lock");
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (http, url, token) = (
            app.http.clone(),
            format!("{}/api/jobs/{job}", app.base_url),
            someone.token.clone(),
        );
        readers.spawn(async move {
            http.get(url)
                .bearer_auth(token)
                .send()
                .await
                .map(|answer| answer.status().as_u16())
        });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    requests.extend(someone.accepted(&app, 20).await);
    stage.drained().await;
    // Whoever accepts is ready; an answer from before the lock is good for a second.
    eventually("its readiness is asked for beside the readers", PATIENCE, async || {
        let ready = app.http.get(format!("{}/readyz", app.base_url)).send().await;
        assert_eq!(ready.expect("an answer").status(), 200);
        let asked: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity a, pg_stat_activity holder
                            where a.datname = current_database() and a.application_name = 'dispatcher readiness'
                              and holder.pid = $1 and a.query_start > holder.query_start)",
        )
        .bind(holder_pid)
        .fetch_one(&stage.pool)
        .await
        .expect("what is asked");
        asked.then_some(()).ok_or("not since the lock")
    })
    .await;
    lock.rollback().await.expect("released");
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.expect("a reader").expect("an answer"), 200);
    }
    History::gather(&stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_deadlocks_and_serialization_failures_are_tried_again_with_the_same_ids() {
    let stage = Stage::new().await;
    // Two of three transactions fail, whatever they write; a sequence is not rolled back.
    stage
        .pool
        .execute(
            "create sequence tries;
             create function contend() returns trigger language plpgsql as $$ declare n bigint := nextval('tries'); begin
                 if n % 3 = 1 then raise exception 'made up' using errcode = '40P01'; end if;
                 if n % 3 = 2 then raise exception 'made up' using errcode = '40001'; end if;
                 return null; end $$;
             create trigger contend after insert on jobs for each statement execute function contend()",
        )
        .await
        .expect("a trigger");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let load = someone.load(&app, 8);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = load.stop().await;
    let refused = requests.iter().filter(|r| r.job().is_none()).count();
    assert_eq!(refused, 0, "of {}", requests.len());
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    assert!(kept.accepted > 20, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_a_relay_whose_backends_are_terminated_again_and_again_goes_on() {
    let stage = Stage::new().await.set("relay.lease", "1s");
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let load = someone.load(&app, 8);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage
            .pool
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name like 'dispatcher %'",
            )
            .await
            .expect("terminated");
    }
    let requests = load.stop().await;
    stage.drained().await;
    let kept = History::gather(&stage, requests).await.kept();
    assert!(kept.rough_take_overs >= 5, "{kept:?}: the relay did not notice");
}

/// A schema that is one version ahead: everything has grown as an expanding migration makes it grow.
const NEXT_VERSION: &str = "
    alter table jobs add column note text;
    alter table outbox_messages add column note text default 'x';
    alter table outbox_checkpoints add column note text;
    alter table job_results add column note text;
    alter table idempotency_keys add column note text;
    alter table outbox_control add column note text;
    create table of_the_next_version (id int);
    insert into schema_compatibility select 99991231000001, max(version) from schema_compatibility";

#[tokio::test(flavor = "multi_thread")]
async fn f16_a_program_goes_on_while_the_next_versions_migration_runs_under_load() {
    let stage = Stage::new().await;
    let someone = Someone::new(&stage, 20).await;
    let app = stage.app().await;
    let load = someone.load(&app, 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.pool.execute(NEXT_VERSION).await.expect("migrated");
    let migrated = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let requests = load.stop().await;
    // The wait for a table's lock is bounded: on a busy machine a migration holds it for longer.
    for refused in requests.iter().filter(|r| r.job().is_none()) {
        assert_eq!(refused.outcome, Outcome::Refused(503), "{refused:?}");
        assert!(refused.sent < migrated, "{refused:?}");
    }
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_an_old_program_starts_on_a_newer_schema_unless_that_is_too_new_for_it() {
    let stage = Stage::new().await;
    stage.pool.execute(NEXT_VERSION).await.expect("migrated");
    let someone = Someone::new(&stage, 5).await;
    let app = stage.app().await;
    let requests = someone.accepted(&app, 10).await;
    stage.drained().await;
    History::gather(&stage, requests).await.kept();
    stage
        .pool
        .execute(
            "insert into schema_compatibility values (99991231000002, 99991231000001), (99991231000003, 20261123000001)",
        )
        .await
        .expect("a contracting migration, and one after it whose line is a copy of an older one");
    let refused = stage.spawn_app(&[], &[]);
    let status = refused.wait_for_exit(PATIENCE).await;
    let log = refused.log();
    assert!(!status.success(), "{log}");
    assert!(log.contains("made for version 99991231000001"), "{log}");
    // The one that runs goes on.
    someone.accepted(&app, 5).await;
}
