//! `Prefer: wait` and events: answered when there is something to say, at no query for each who waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use image_job_dispatcher::{
    jobs::{
        JobStatus,
        status::{JobView, MessageState, StatusError},
        watch::{
            POLL, Waited, Watch,
            elsewhere::{self, Origin},
        },
    },
    outbox::notifier::Notifier,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::{PATIENCE, drafts, eventually};

async fn watch(ground: &Ground) -> Watch {
    Watch::spawn(
        ground.reader().await,
        &ground.notifier,
        &ground.tracker,
        ground.cancel.clone(),
    )
}

async fn accepted(ground: &Ground, count: usize) -> Vec<Uuid> {
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, count).await;
    let answers = accept_all(&ground.intake(), draft_ids.iter().map(|id| ground.request(*id))).await;
    answers.into_iter().map(|answer| answer.unwrap().job_id).collect()
}

/// As another process would commit it, of which nobody is told.
async fn silent_result(ground: &Ground, job_ids: &[Uuid], status: &str) {
    sqlx::query("insert into job_results (job_id, status) select id, $2 from unnest($1::uuid[]) id")
        .bind(job_ids)
        .bind(status)
        .execute(ground.pool())
        .await
        .unwrap();
}

async fn result(ground: &Ground, job_ids: &[Uuid], status: &str) {
    silent_result(ground, job_ids, status).await;
    ground.notifier.answered(job_ids);
}

fn found(answer: Result<Option<Waited>, StatusError>) -> JobView {
    answer.unwrap().expect("the job").job
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_wait_ends_with_news_with_a_final_status_or_with_its_time() {
    let ground = Ground::new().await;
    let watch = watch(&ground).await;
    let job = accepted(&ground, 1).await[0];
    let none = |_: &JobView| false;

    assert!(
        watch
            .wait(Uuid::now_v7(), ground.user, LONG, none)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        watch.wait(job, Uuid::new_v4(), LONG, none).await.unwrap().is_none(),
        "somebody else's"
    );
    let began = Instant::now();
    let pending = found(watch.wait(job, ground.user, Duration::from_millis(300), none).await);
    assert_eq!(pending.status, JobStatus::Pending);
    assert!(began.elapsed() >= Duration::from_millis(300));

    let tag = pending.etag();
    let news = |job: &JobView| job.etag() != tag;
    let (with_tag, without_tag, ()) = tokio::join!(
        async {
            let processing = found(watch.wait(job, ground.user, LONG, news).await);
            result(&ground, &[job], "COMPLETED").await;
            processing
        },
        watch.wait(job, ground.user, LONG, none),
        async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            result(&ground, &[job], "PROCESSING").await;
        }
    );
    assert_eq!(
        with_tag.status,
        JobStatus::Processing,
        "whoever has a representation waits for another one"
    );
    assert_eq!(
        found(without_tag).status,
        JobStatus::Completed,
        "whoever has none waits for the end"
    );

    let tag = found(watch.wait(job, ground.user, LONG, none).await).etag();
    let same = found(
        watch
            .wait(job, ground.user, LONG, |job: &JobView| job.etag() != tag)
            .await,
    );
    assert_eq!(same.status, JobStatus::Completed, "a final status is not waited upon");
    assert!(began.elapsed() < LONG);
    ground.stop().await;
}

#[tokio::test]
async fn hundreds_who_wait_for_many_jobs_are_all_told() {
    let ground = Ground::new().await;
    let watch = Arc::new(watch(&ground).await);
    let jobs = accepted(&ground, 600).await;
    // For some of them two clients, and no more in all than one user may have.
    let waiting: Vec<_> = jobs
        .iter()
        .chain(&jobs[..300])
        .map(|job| {
            let (watch, job, user) = (watch.clone(), *job, ground.user);
            tokio::spawn(async move { found(watch.wait(job, user, LONG, |_| false).await) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for chunk in jobs.chunks(100) {
        result(&ground, chunk, "FAILED").await;
    }
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().status, JobStatus::Failed);
    }
    ground.stop().await;
}

#[tokio::test]
async fn a_late_watcher_of_a_watched_job_misses_nothing() {
    let ground = Ground::new().await;
    let watch = watch(&ground).await;
    for job in accepted(&ground, 5).await {
        let early = watch.wait(job, ground.user, LONG, |_| false);
        let late = async {
            for _ in 0..30 {
                // Comes while a reading is under way, leaves before it can be told.
                _ = watch.wait(job, ground.user, Duration::from_millis(7), |_| false).await;
            }
            let jobs = [job];
            let (last, ()) = tokio::join!(
                watch.wait(job, ground.user, LONG, |_| false),
                result(&ground, &jobs, "COMPLETED")
            );
            found(last)
        };
        let (early, late) = tokio::join!(early, late);
        assert_eq!(
            (found(early).status, late.status),
            (JobStatus::Completed, JobStatus::Completed)
        );
    }
    ground.stop().await;
}

#[tokio::test]
async fn a_stop_answers_all_who_wait() {
    let ground = Ground::new().await;
    let stop = CancellationToken::new();
    let watch = Watch::spawn(ground.reader().await, &ground.notifier, &ground.tracker, stop.clone());
    let jobs = accepted(&ground, 2).await;
    let began = Instant::now();
    let wait = async |job: Uuid| found(watch.wait(job, ground.user, LONG, |_| false).await).status;
    let (one, other, ()) = tokio::join!(wait(jobs[0]), wait(jobs[1]), async {
        is_waited_for(&watch, 2).await;
        stop.cancel();
    });
    assert_eq!((one, other), (JobStatus::Pending, JobStatus::Pending));
    assert!(began.elapsed() < LONG, "they were answered by the stop");
    ground.stop().await;
}

/// Jobs that change one after the other, each right after the one before was told.
const IN_A_ROW: usize = 6;

/// What could be told by polling alone would take a whole period for each job but the first.
fn assert_told_by_more_than_polling(began: Instant) {
    let took = began.elapsed();
    assert!(
        took < POLL * (IN_A_ROW as u32 - 1) / 2,
        "{took:?} for {IN_A_ROW} changes"
    );
}

/// Whether somebody listens for what replicas say.
async fn is_listened(ground: &Ground) {
    eventually("somebody listens", PATIENCE, async || {
        let listens: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
                            and application_name = 'dispatcher jobs listener' and state = 'idle' and query ilike 'listen%')",
        )
        .fetch_one(ground.pool())
        .await
        .unwrap();
        listens.then_some(()).ok_or("nobody")
    })
    .await;
}

#[tokio::test]
async fn what_another_replica_has_changed_is_told_without_waiting_for_the_poll() {
    let ground = Ground::new().await;
    let database: sqlx::postgres::PgConnectOptions = ground.stage.database_url.parse().unwrap();
    // The other replica: it applies results and writes checkpoints, and nobody waits there.
    let (other, finished) = (Notifier::default(), CancellationToken::new());
    let announcing = tokio::spawn(elsewhere::announce(
        database.clone(),
        other.subscribe(),
        Origin::new(),
        finished.clone(),
    ));
    let watch = watch(&ground).await;
    let listening = tokio::spawn(elsewhere::listen(database, watch.clone(), Origin::new()));
    is_listened(&ground).await;

    let jobs = accepted(&ground, 2 * IN_A_ROW).await;
    let began = Instant::now();
    for job in &jobs[..IN_A_ROW] {
        let (told, ()) = tokio::join!(watch.wait(*job, ground.user, LONG, |_| false), async {
            // After the waiter has read the job: only news can tell it.
            is_waited_for(&watch, 1).await;
            silent_result(&ground, &[*job], "COMPLETED").await;
            other.answered(&[*job]);
        });
        assert_eq!(found(told).status, JobStatus::Completed);
    }
    assert_told_by_more_than_polling(began);

    // Of a message as well: dead, in a checkpoint of the other replica.
    let began = Instant::now();
    for job in &jobs[IN_A_ROW..] {
        let is_dead = |job: &JobView| job.message.state == MessageState::Dead;
        let (told, ()) = tokio::join!(watch.wait(*job, ground.user, LONG, is_dead), async {
            is_waited_for(&watch, 1).await;
            let id: i64 = sqlx::query_scalar(
                "insert into outbox_dead_letters (outbox_id, error_class, error)
                 select outbox_id, 'message-too-large', 'too large' from jobs where id = $1 returning outbox_id",
            )
            .bind(job)
            .fetch_one(ground.pool())
            .await
            .unwrap();
            other.settled(&std::iter::once(id..id + 1).collect());
        });
        assert_eq!(found(told).message.state, MessageState::Dead);
    }
    assert_told_by_more_than_polling(began);

    // What is told in the last moment is still said.
    let last = accepted(&ground, 1).await[0];
    let (told, ()) = tokio::join!(watch.wait(last, ground.user, LONG, |_| false), async {
        is_waited_for(&watch, 1).await;
        silent_result(&ground, &[last], "FAILED").await;
        other.answered(&[last]);
        finished.cancel();
    });
    assert_eq!(found(told).status, JobStatus::Failed);
    announcing.await.unwrap();
    listening.abort();
    ground.stop().await;
}

/// Until so many clients wait, and have read the job: what happens then is news to them.
async fn is_waited_for(watch: &Watch, clients: usize) {
    eventually("clients wait", PATIENCE, async || {
        let waiting = watch.waiting();
        (waiting >= clients).then_some(()).ok_or(waiting)
    })
    .await;
    // Their place comes before their reading.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn what_nobody_announces_is_told_by_the_poll() {
    let ground = Ground::new().await;
    let watch = watch(&ground).await;
    let job = accepted(&ground, 1).await[0];
    let (told, ()) = tokio::join!(watch.wait(job, ground.user, LONG, |_| false), async {
        is_waited_for(&watch, 1).await;
        silent_result(&ground, &[job], "COMPLETED").await;
    });
    assert_eq!(found(told).status, JobStatus::Completed);
    assert_eq!(watch.waiting(), 0);
    ground.stop().await;
}
