//! `Prefer: wait`: answered when there is something to say, at no query for each who waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use image_job_dispatcher::jobs::{
    JobStatus,
    status::{JobView, StatusError},
    watch::Watch,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::drafts;

async fn watch(ground: &Ground) -> Watch {
    Watch::spawn(ground.reader().await, &ground.tracker, ground.cancel.clone())
}

async fn accepted(ground: &Ground, count: usize) -> Vec<Uuid> {
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, count).await;
    let answers = accept_all(&ground.intake(), draft_ids.iter().map(|id| ground.request(*id))).await;
    answers.into_iter().map(|answer| answer.unwrap().job_id).collect()
}

async fn result(ground: &Ground, job_ids: &[Uuid], status: &str) {
    sqlx::query("insert into job_results (job_id, status) select id, $2 from unnest($1::uuid[]) id")
        .bind(job_ids)
        .bind(status)
        .execute(ground.pool())
        .await
        .unwrap();
}

fn found(answer: Result<Option<JobView>, StatusError>) -> JobView {
    answer.unwrap().expect("the job")
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
async fn hundreds_who_wait_for_many_jobs_cost_a_few_queries() {
    let ground = Ground::new().await;
    let watch = Arc::new(watch(&ground).await);
    let jobs = accepted(&ground, 600).await;
    let waiting: Vec<_> = jobs
        .iter()
        .chain(&jobs)
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
    let watch = Watch::spawn(ground.reader().await, &ground.tracker, stop.clone());
    let job = accepted(&ground, 1).await[0];
    let (answer, ()) = tokio::join!(watch.wait(job, ground.user, LONG, |_| false), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.cancel();
    });
    assert_eq!(found(answer).status, JobStatus::Pending);
    ground.stop().await;
}
