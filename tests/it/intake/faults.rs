//! PostgreSQL fails in every way that can be had on one machine.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use image_job_dispatcher::jobs::{AcceptError, AcceptRequest, Accepted, intake::Intake};
use sqlx::Connection as _;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::{
    PATIENCE, drafts, eventually,
    proxy::{Cut, Proxy},
};

/// In the payload, so only in the message that writes.
const TITLE: &str = "Spring opening";

/// An intake whose connections go through a proxy.
async fn behind_proxy(ground: &Ground, cut: Cut) -> (Intake, Proxy) {
    let proxy = Proxy::cutting(ground.stage.servers().postgres.port(), TITLE.as_bytes(), cut).await;
    let intake =
        ground.intake_with(|options| options.database = options.database.clone().host("127.0.0.1").port(proxy.port));
    (intake, proxy)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_answered_with_the_job_that_it_made() {
    for cut in [Cut::AfterTheAnswer, Cut::BeforeTheAnswer] {
        let ground = Ground::new().await;
        let draft_ids = drafts::insert_many(ground.pool(), ground.user, 40).await;
        let (intake, proxy) = behind_proxy(&ground, cut).await;
        let mut accepted = Vec::new();
        // Alone and together, with a key and without.
        for (requests, keyed) in [(1, false), (1, true), (20, false), (20, true)] {
            proxy.cut_next(1);
            let requests = draft_ids.iter().take(requests).map(|id| {
                if keyed {
                    ground.keyed(*id, &format!("{requests} {id}"))
                } else {
                    ground.request(*id)
                }
            });
            for answer in accept_all(&intake, requests).await {
                let Accepted { job_id, replayed } = answer.unwrap();
                assert!(!replayed, "it is the first answer");
                accepted.push(job_id);
            }
            assert_eq!(proxy.cuts_left(), 0, "an answer was lost");
        }
        ground.assert_exactly(accepted).await;
        ground.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_repeats_while_the_commit_is_unknown_gets_the_same_job() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    ground
        .run(
            "create function slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(0.5); return new; end $$;
             create trigger slowly before insert on jobs for each row execute function slowly()",
        )
        .await;
    let (intake, proxy) = behind_proxy(&ground, Cut::BeforeTheAnswer).await;
    let other_replica = ground.intake();
    for key in ["a", "b", "c"] {
        proxy.cut_next(1);
        let first = intake.accept(ground.keyed(draft, key));
        let repeat = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            accept_all(&other_replica, (0..10).map(|_| ground.keyed(draft, key))).await
        };
        let (first, repeats) = tokio::join!(first, repeat);
        let first = first.unwrap();
        for repeat in repeats {
            assert_eq!(repeat.unwrap().job_id, first.job_id);
        }
        assert_eq!(proxy.cuts_left(), 0);
    }
    assert_eq!(ground.count("jobs").await, 3);
    assert_eq!(ground.count("outbox_messages").await, 3);
    ground.stop().await;
}

/// Callers that accept until they are told to end. Gives the jobs accepted and the errors seen.
fn load(
    ground: &Ground,
    intake: &Intake,
    draft_ids: &[Uuid],
    end: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<(Vec<Uuid>, Vec<AcceptError>)>> {
    let spawn = |draft_id: &Uuid| {
        let (intake, request, end) = (intake.clone(), ground.request(*draft_id), end.clone());
        tokio::spawn(async move {
            let (mut accepted, mut errors) = (Vec::new(), Vec::new());
            while !end.load(Ordering::Relaxed) {
                match intake.accept(request.clone()).await {
                    Ok(answer) => accepted.push(answer.job_id),
                    Err(error) => {
                        errors.push(error);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            (accepted, errors)
        })
    };
    draft_ids.iter().map(spawn).collect()
}

/// No accepted job is missing; a job that nobody was told of belongs to an unknown outcome.
async fn check_load(
    ground: &Ground,
    load: Vec<tokio::task::JoinHandle<(Vec<Uuid>, Vec<AcceptError>)>>,
) -> (usize, Vec<AcceptError>) {
    let (mut accepted, mut errors) = (HashSet::new(), Vec::new());
    for caller in load {
        let (jobs, failures) = caller.await.unwrap();
        accepted.extend(jobs);
        errors.extend(failures);
    }
    let stored: Vec<Uuid> = sqlx::query_scalar("select j.id from jobs j join outbox_messages m on m.id = j.outbox_id")
        .fetch_all(ground.pool())
        .await
        .unwrap();
    let stored: HashSet<_> = stored.into_iter().collect();
    assert!(accepted.is_subset(&stored), "every accepted job is stored");
    let unknown = errors
        .iter()
        .filter(|error| **error == AcceptError::OutcomeUnknown)
        .count();
    assert!(
        stored.len() <= accepted.len() + unknown,
        "{} stored, {} accepted, {unknown} unknown",
        stored.len(),
        accepted.len()
    );
    assert_eq!(ground.count("jobs").await, ground.count("outbox_messages").await);
    (accepted.len(), errors)
}

#[tokio::test]
async fn backends_terminated_again_and_again_lose_nothing_and_refuse_nothing() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 40).await;
    let (intake, end) = (ground.intake(), Arc::new(AtomicBool::new(false)));
    let load = load(&ground, &intake, &draft_ids, &end);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ground
            .run(
                "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and application_name like 'dispatcher intake%'",
            )
            .await;
    }
    end.store(true, Ordering::Relaxed);
    let (accepted, errors) = check_load(&ground, load).await;
    assert!(accepted > 200, "{accepted}");
    assert_eq!(errors, [], "each was tried again");
    ground.stop().await;
}

#[tokio::test]
async fn postgresql_killed_and_restarted_under_load_loses_nothing() {
    let ground = Ground::with_servers_of_its_own().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 40).await;
    let (intake, end) = (ground.intake(), Arc::new(AtomicBool::new(false)));
    let load = load(&ground, &intake, &draft_ids, &end);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ground.stage.servers().postgres.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ground.stage.servers().postgres.restart().await.unwrap();
        let draft = ground.request(draft_ids[0]);
        eventually("it accepts again", PATIENCE, async || {
            intake.accept(draft.clone()).await
        })
        .await;
    }
    end.store(true, Ordering::Relaxed);
    // The pool's connections are broken too: the first use of each finds out.
    eventually("the pool recovers", PATIENCE, async || {
        sqlx::query("select 1").execute(ground.pool()).await
    })
    .await;
    let accepted = ground.count("jobs").await;
    assert!(accepted > 100, "{accepted}");
    for caller in load {
        let (jobs, _) = caller.await.unwrap();
        let stored: i64 = sqlx::query_scalar("select count(*) from jobs where id = any($1)")
            .bind(&jobs)
            .fetch_one(ground.pool())
            .await
            .unwrap();
        assert_eq!(stored, jobs.len() as i64, "every accepted job is stored");
    }
    ground.stop().await;
}

#[tokio::test]
async fn a_frozen_postgresql_is_an_error_in_bounded_time_and_nothing_after_the_thaw() {
    let ground = Ground::with_servers_of_its_own().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    let first = intake.accept(ground.request(draft)).await.unwrap();
    ground.stage.servers().postgres.freeze();
    let began = Instant::now();
    let answers = accept_all(&intake, (0..10).map(|_| ground.request(draft))).await;
    let waited = began.elapsed();
    ground.stage.servers().postgres.thaw();
    assert!(
        answers.iter().all(|answer| *answer == Err(AcceptError::Unavailable)),
        "{answers:?}"
    );
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    let request = ground.request(draft);
    let again = eventually("it accepts again", PATIENCE, async || {
        intake.accept(request.clone()).await
    })
    .await;
    ground.assert_exactly([first.job_id, again.job_id]).await;
    ground.stop().await;
}

#[tokio::test]
async fn a_missing_partition_is_made_and_the_batch_tried_again() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 20).await;
    let drop_all = "do $$ declare p regclass; begin
        for p in select inhrelid::regclass from pg_inherits
                 where inhparent in ('jobs'::regclass, 'outbox_messages'::regclass)
                   and inhrelid in (select oid from pg_class where relkind = 'r') loop
            execute format('drop table %s', p);
        end loop; end $$";
    for requests in [1, 20] {
        ground.run(drop_all).await;
        let answers = accept_all(
            &ground.intake(),
            draft_ids.iter().take(requests).map(|id| ground.request(*id)),
        )
        .await;
        ground
            .assert_exactly(answers.into_iter().map(|answer| answer.unwrap().job_id))
            .await;
    }
    ground.stop().await;
}

#[tokio::test]
async fn a_bad_row_costs_only_itself() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 30).await;
    ground
        .run(&format!(
            "alter table jobs add constraint bad_row check (event_draft_id <> '{}')",
            draft_ids[7]
        ))
        .await;
    let answers = accept_all(
        &ground.intake(),
        draft_ids.iter().map(|id| ground.keyed(*id, &id.to_string())),
    )
    .await;
    for (nth, answer) in answers.iter().enumerate() {
        assert_eq!(
            answer.as_ref().err(),
            (nth == 7).then_some(&AcceptError::Unavailable),
            "request {nth}"
        );
    }
    ground
        .assert_exactly(
            answers
                .into_iter()
                .filter_map(Result::ok)
                .map(|accepted| accepted.job_id),
        )
        .await;
    assert_eq!(ground.count("idempotency_keys").await, 29);
    ground.stop().await;
}

#[tokio::test]
async fn the_event_services_table_changes_live() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 30).await;
    let intake = ground.intake();
    let alone_and_together = async || {
        let mut answers = vec![intake.accept(ground.request(draft_ids[0])).await];
        answers.extend(accept_all(&intake, draft_ids.iter().map(|id| ground.request(*id))).await);
        answers
    };
    for change in [
        "select 1",
        "alter table event_drafts add column more text",
        "alter table event_drafts alter column title type varchar(200)",
        "alter table event_drafts alter column prize type varchar(300), drop column more",
        "alter table event_drafts alter column store_info type json",
    ] {
        ground.run(change).await;
        for answer in alone_and_together().await {
            answer.unwrap_or_else(|error| panic!("after `{change}`: {error}"));
        }
    }
    for (change, back) in [
        (
            "alter table event_drafts rename column title to name",
            "alter table event_drafts rename column name to title",
        ),
        (
            "alter table jobs rename to jobs_away",
            "alter table jobs_away rename to jobs",
        ),
    ] {
        ground.run(change).await;
        for answer in alone_and_together().await {
            assert_eq!(answer, Err(AcceptError::Unavailable), "after `{change}`");
        }
        ground.run(back).await;
        for answer in alone_and_together().await {
            answer.unwrap_or_else(|error| panic!("after `{back}`: {error}"));
        }
    }
    ground.stop().await;
}

/// Has the database note the settings with which jobs are written.
async fn note_settings(ground: &Ground) {
    ground
        .run("create table seen (settings text);
              create function see() returns trigger language plpgsql as $$ begin
                  insert into seen values (current_setting('synchronous_commit') || ' ' || current_setting('transaction_isolation'));
                  return null; end $$;
              create trigger see after insert on jobs for each statement execute function see()")
        .await;
}

/// The different ones that were noted.
async fn settings_seen(ground: &Ground) -> Vec<String> {
    sqlx::query_scalar("select distinct settings from seen")
        .fetch_all(ground.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_database_with_other_defaults_is_served_all_the_same() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    ground
        .run("do $$ begin execute format('alter database %I set default_transaction_isolation = ''serializable''', current_database());
              execute format('alter database %I set synchronous_commit = off', current_database()); end $$")
        .await;
    note_settings(&ground).await;
    let replicas = [ground.intake(), ground.intake()];
    let requests = || (0..40).map(|_| ground.keyed(draft, "k"));
    let (a, b) = tokio::join!(
        accept_all(&replicas[0], requests()),
        accept_all(&replicas[1], requests())
    );
    let jobs: HashSet<_> = a.into_iter().chain(b).map(|answer| answer.unwrap().job_id).collect();
    assert_eq!(jobs.len(), 1);
    assert_eq!(settings_seen(&ground).await, ["on read committed"]);
    ground.stop().await;
}

#[tokio::test]
async fn a_reload_that_turns_synchronous_commit_off_leaves_sessions_that_accept_as_they_are() {
    let ground = Ground::with_servers_of_its_own().await;
    let draft = ground.draft().await;
    note_settings(&ground).await;
    let intake = ground.intake();
    intake.accept(ground.request(draft)).await.unwrap();
    ground.run("alter system set synchronous_commit = off").await;
    ground.run("select pg_reload_conf()").await;
    eventually("the server has read it", PATIENCE, async || {
        let setting: String = sqlx::query_scalar("select current_setting('synchronous_commit')")
            .fetch_one(&mut ground.stage.connect().await)
            .await
            .unwrap();
        if setting == "off" { Ok(()) } else { Err(setting) }
    })
    .await;
    intake.accept(ground.request(draft)).await.unwrap();
    assert_eq!(ground.count("seen").await, 2);
    assert_eq!(settings_seen(&ground).await, ["on read committed"]);
    ground.stop().await;
}

/// Somebody's transaction that nobody can use the table beside.
async fn lock(ground: &Ground, table: &str) -> sqlx::PgConnection {
    let mut holder = ground.stage.connect().await;
    let lock = format!("begin; lock table {table} in access exclusive mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock))
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

/// One alone with a key, many without, and some of both.
fn groups(ground: &Ground, draft: Uuid, of: &str) -> [Vec<AcceptRequest>; 3] {
    let keyed = |n: usize, group: &str| ground.keyed(draft, &format!("{of} {group} {n}"));
    let free = || ground.request(draft);
    [
        vec![keyed(0, "alone")],
        (0..10).map(|_| free()).collect(),
        (0..10)
            .map(|n| if n % 2 == 0 { free() } else { keyed(n, "both") })
            .collect(),
    ]
}

#[tokio::test]
async fn a_table_that_is_locked_for_a_moment_is_waited_for() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    let mut accepted = Vec::new();
    for table in ["event_drafts", "idempotency_keys", "jobs", "outbox_messages"] {
        for requests in groups(&ground, draft, table) {
            let holder = lock(&ground, table).await;
            let finish = async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                holder.close().await.unwrap();
            };
            let (answers, ()) = tokio::join!(accept_all(&intake, requests), finish);
            for answer in answers {
                let answer = answer.unwrap_or_else(|error| panic!("{table} was locked: {error}"));
                accepted.push(answer.job_id);
            }
        }
    }
    ground.assert_exactly(accepted).await;
    ground.stop().await;
}

#[tokio::test]
async fn a_table_that_stays_locked_is_an_outage_and_not_a_key_that_is_held() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    for table in ["event_drafts", "idempotency_keys", "jobs"] {
        let holder = lock(&ground, table).await;
        for requests in groups(&ground, draft, table) {
            let began = Instant::now();
            for answer in accept_all(&intake, requests).await {
                assert_eq!(answer, Err(AcceptError::Unavailable), "{table} is locked");
            }
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(4), "{table}: {waited:?}");
        }
        holder.close().await.unwrap();
    }
    assert_eq!(ground.count("jobs").await, 0);
    for answer in accept_all(&intake, groups(&ground, draft, "jobs").concat()).await {
        answer.unwrap();
    }
    ground.stop().await;
}

#[tokio::test]
async fn a_commit_in_doubt_is_not_refused_because_its_repeats_fail() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    // As on a full disk, from the second statement on.
    ground
        .run(
            "create sequence tries;
             create function once() returns trigger language plpgsql as $$ begin
                 if nextval('tries') > 1 then raise 'no space left' using errcode = '53100'; end if;
                 return null; end $$;
             create trigger once before insert on jobs for each statement execute function once()",
        )
        .await;
    let (intake, proxy) = behind_proxy(&ground, Cut::AfterTheAnswer).await;
    proxy.cut_next(1);
    let (answer, ()) = tokio::join!(intake.accept(ground.request(draft)), async {
        eventually("it is repeated", PATIENCE, async || {
            let tries: i64 = sqlx::query_scalar("select last_value from tries")
                .fetch_one(ground.pool())
                .await
                .unwrap();
            if tries >= 2 { Ok(()) } else { Err(tries) }
        })
        .await;
        ground.run("drop trigger once on jobs").await;
    });
    let Accepted { job_id, replayed } = answer.expect("the first attempt was committed");
    assert!(!replayed, "it is the first answer");
    assert_eq!(proxy.cuts_left(), 0, "an answer was lost");
    ground.assert_exactly([job_id]).await;
    ground.stop().await;
}
