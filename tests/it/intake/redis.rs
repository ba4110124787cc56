//! Redis: best effort while accepting, and never a step back.

use std::time::{Duration, Instant};

use chrono::Utc;
use image_job_dispatcher::jobs::{
    AcceptRequest, JobStatus,
    accept::{Decision, Identity, NewJob, decide},
    cache::CachedJob,
};
use uuid::Uuid;

use super::{Ground, REDIS_BUDGET, accept_all};

fn new_job(user_id: Uuid) -> NewJob {
    let draft = image_job_dispatcher::drafts::EventDraft {
        id: Uuid::new_v4(),
        user_id,
        title: "t".into(),
        prize: None,
        brand_color: None,
        logo_url: None,
        store_info: None,
        selected_recommendation_id: Some(Uuid::new_v4()),
    };
    let request = AcceptRequest {
        user_id,
        draft_id: draft.id,
        idempotency_key: None,
        traceparent: None,
    };
    match decide(&request, Some(&draft), None, Identity::new(Utc::now()), usize::MAX) {
        Decision::Write(job) => *job,
        other => panic!("{other:?}"),
    }
}

fn value(job: &NewJob, status: JobStatus) -> (Uuid, CachedJob) {
    let value = CachedJob {
        status,
        created_at: job.message.created_at,
        user_id: job.user_id,
        job: None,
    };
    (job.job_id(), value)
}

#[tokio::test]
async fn a_status_never_goes_back_in_any_order_of_writes() {
    use JobStatus::{Completed, Failed, Pending, Processing};
    let ground = Ground::new().await;
    let cache = ground.cache();
    let mut state = 1_u32;
    for _ in 0..100 {
        let job = new_job(ground.user);
        let mut expected = None;
        for _ in 0..6 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let next = [Pending, Processing, Completed, Failed][(state >> 24) as usize % 4];
            if next == Pending {
                cache.set_pending(std::iter::once(&job)).await;
            } else {
                cache.advance([value(&job, next)]).await;
            }
            expected = match expected {
                Some(Completed | Failed) => expected,
                Some(before) if before >= next => expected,
                _ => Some(next),
            };
            assert_eq!(cache.get(job.job_id()).await.map(|value| value.status), expected);
        }
    }
    assert_eq!(ground.metrics.cache_failures_total.get(), 0);
}

#[tokio::test]
async fn of_values_that_go_forward_together_each_is_judged_by_itself() {
    use JobStatus::{Completed, Failed, Processing};
    let ground = Ground::new().await;
    let cache = ground.cache();
    let [done, taken, new] = std::array::from_fn(|_| new_job(ground.user));
    cache.advance([value(&done, Completed)]).await;
    let mut client = redis::Client::open(ground.stage.servers().redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    redis::cmd("LPUSH")
        .arg(format!("job:{}", taken.job_id()))
        .arg("somebody else's")
        .exec_async(&mut client)
        .await
        .unwrap();
    let together = [value(&done, Failed), value(&taken, Processing), value(&new, Processing)];
    cache.advance(together).await;

    // The list was a failure, after which this client leaves Redis alone for a moment.
    assert_eq!(ground.metrics.cache_failures_total.get(), 1);
    let another = ground.cache();
    let status = async |job: &NewJob| another.get(job.job_id()).await.map(|value| value.status);
    assert_eq!(status(&done).await, Some(Completed));
    assert_eq!(status(&new).await, Some(Processing));
}

#[tokio::test]
async fn a_redis_that_fails_costs_a_budget_now_and_then_and_no_request() {
    let ground = Ground::with_servers_of_its_own().await;
    let draft = ground.draft().await;
    let intake = ground.intake();
    let redis = &ground.stage.servers().redis;
    let mut client = redis::Client::open(redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let (mut accepted, mut usual) = (Vec::new(), None);
    for fault in ["none", "read-only", "full", "frozen", "killed"] {
        match fault {
            "read-only" => redis::cmd("REPLICAOF")
                .arg("127.0.0.1")
                .arg(1)
                .exec_async(&mut client)
                .await
                .unwrap(),
            "full" => {
                redis::cmd("REPLICAOF")
                    .arg("NO")
                    .arg("ONE")
                    .exec_async(&mut client)
                    .await
                    .unwrap();
                redis::cmd("CONFIG")
                    .arg("SET")
                    .arg("maxmemory")
                    .arg("1")
                    .exec_async(&mut client)
                    .await
                    .unwrap();
            }
            "frozen" => redis.freeze(),
            "killed" => redis.kill(),
            _ => {}
        }
        let failures = ground.metrics.cache_failures_total.get();
        let began = Instant::now();
        for _ in 0..50 {
            let answers = accept_all(&intake, (0..4).map(|_| ground.request(draft))).await;
            accepted.extend(answers.into_iter().map(|answer| answer.unwrap().job_id));
        }
        let took = began.elapsed();
        let usual = *usual.get_or_insert(took);
        assert!(
            took <= usual + 5 * REDIS_BUDGET,
            "{fault}: {took:?}, and {usual:?} without"
        );
        let failed = ground.metrics.cache_failures_total.get() - failures;
        assert!(
            failed <= 5 && (failed > 0) == (fault != "none"),
            "{fault}: {failed} failures counted"
        );
        // Until it is asked again.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
    }
    redis.restart().await.unwrap();
    crate::support::eventually("redis is used again", crate::support::PATIENCE, async || {
        let job_id = intake.accept(ground.request(draft)).await.unwrap().job_id;
        accepted.push(job_id);
        ground.cache().get(job_id).await.map(drop).ok_or("not in redis")
    })
    .await;
    // It has forgotten the script with all the rest.
    let (job, cache) = (new_job(ground.user), ground.cache());
    cache.advance([value(&job, JobStatus::Completed)]).await;
    let told = cache.get(job.job_id()).await.map(|value| value.status);
    assert_eq!(told, Some(JobStatus::Completed));
    ground.assert_exactly(accepted).await;
    ground.stop().await;
}
