//! The body of GET, from PostgreSQL and from Redis. The relay's side is played by SQL.

use std::time::Duration;

use image_job_dispatcher::{
    jobs::{
        JobStatus,
        cache::CachedJob,
        status::{JobView, MessageState, MessageView, StatusReader},
    },
    messages::{Image, ImageStyle},
};
use sqlx::{AssertSqlSafe, postgres::PgTransaction};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::{PATIENCE, eventually};

/// A ground with one accepted job.
struct OneJob {
    ground: Ground,
    reader: StatusReader,
    draft: Uuid,
    job_id: Uuid,
    outbox_id: i64,
}

impl OneJob {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let draft = ground.draft().await;
        let job_id = ground.intake().accept(ground.request(draft)).await.unwrap().job_id;
        let outbox_id = sqlx::query_scalar("select outbox_id from jobs where id = $1")
            .bind(job_id)
            .fetch_one(ground.pool())
            .await;
        let reader = ground.reader().await;
        Self {
            outbox_id: outbox_id.unwrap(),
            ground,
            reader,
            draft,
            job_id,
        }
    }

    async fn read(&self) -> JobView {
        self.reader
            .read(self.job_id, self.ground.user)
            .await
            .unwrap()
            .expect("the job")
    }

    /// A session that lets nobody look into a table until it ends.
    async fn lock(&self, table: &str) -> PgTransaction<'static> {
        let mut lock = self.ground.pool().begin().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("lock table {table} in access exclusive mode")))
            .execute(&mut *lock)
            .await
            .unwrap();
        lock
    }

    /// As the relay does: a checkpoint that settles the id, with a receipt if there is one.
    async fn settle(&self, outbox_id: i64, receipt: Option<(i32, i64)>) {
        sqlx::query(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled,
                                             receipt_ids, receipt_partitions, receipt_offsets)
             select max(seq) + 1, 0, 'test/', '-infinity', 'at-least-once', '{}',
                    int8multirange(int8range($1, $1 + 1)), $2, $3, $4 from outbox_checkpoints",
        )
        .bind(outbox_id)
        .bind(receipt.map(|_| outbox_id).into_iter().collect::<Vec<_>>())
        .bind(receipt.map(|(partition, _)| partition).into_iter().collect::<Vec<_>>())
        .bind(receipt.map(|(_, offset)| offset).into_iter().collect::<Vec<_>>())
        .execute(self.ground.pool())
        .await
        .unwrap();
    }

    /// A base beyond all ids, whose checkpoints were dropped; the message may be among those that belong to no row.
    async fn base(&self, closed: bool) {
        sqlx::query(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, base_passed, base_closed)
             select max(seq) + 1, 0, 'test/', '-infinity', 'at-least-once', '{}', int8multirange(int8range(1, $1 + 1)),
                    case when $2 then int8multirange(int8range($1, $1 + 1)) else '{}' end
             from outbox_checkpoints",
        )
        .bind(self.outbox_id)
        .bind(closed)
        .execute(self.ground.pool())
        .await
        .unwrap();
    }

    async fn bury(&self, outbox_id: i64) {
        self.settle(outbox_id, None).await;
        sqlx::query(
            "insert into outbox_dead_letters (outbox_id, error_class, error) values ($1, 'invalid-record', 'no')",
        )
        .bind(outbox_id)
        .execute(self.ground.pool())
        .await
        .unwrap();
    }

    /// A retry of a message: its id.
    async fn retry(&self, outbox_id: i64) -> i64 {
        sqlx::query_scalar(
            "insert into outbox_messages (event_id, job_id, key, event_time, created_at, replay_of, replay_id, payload)
             select event_id, job_id, key, event_time, now(), id, gen_random_uuid(), payload
             from outbox_messages where id = $1 returning id",
        )
        .bind(outbox_id)
        .fetch_one(self.ground.pool())
        .await
        .unwrap()
    }

    async fn result(&self, status: &str, images: Option<&str>, error: Option<&str>) {
        sqlx::query("insert into job_results (job_id, status, images, error) values ($1, $2, $3::jsonb, $4)")
            .bind(self.job_id)
            .bind(status)
            .bind(images)
            .bind(error)
            .execute(self.ground.pool())
            .await
            .unwrap();
    }
}

fn place(message: &MessageView) -> (MessageState, Option<i32>, Option<i64>) {
    assert_eq!(
        message.published_at.is_some(),
        message.state == MessageState::Published,
        "{message:?}"
    );
    (message.state, message.partition, message.offset)
}

#[tokio::test]
async fn job_and_message_each_tell_how_far_they_are() {
    let one = OneJob::new().await;
    let accepted = one.read().await;
    assert_eq!(
        (accepted.job_id, accepted.event_draft_id, accepted.status),
        (one.job_id, one.draft, JobStatus::Pending)
    );
    assert_eq!(
        accepted.message.topic, one.ground.stage.topic,
        "while no leader has recorded it"
    );
    assert_eq!(place(&accepted.message), (MessageState::Pending, None, None));

    one.settle(one.outbox_id, Some((3, 42))).await;
    let published = one.read().await;
    assert_eq!(place(&published.message), (MessageState::Published, Some(3), Some(42)));
    one.result("PROCESSING", None, None).await;
    let processing = one.read().await;
    assert_eq!(processing.status, JobStatus::Processing);
    one.result("COMPLETED", Some(r#"[{"style": "FANCY", "url": "https://x/1"}]"#), None)
        .await;
    let completed = one.read().await;
    assert_eq!(completed.status, JobStatus::Completed);
    assert_eq!(
        completed.images,
        [Image {
            style: ImageStyle::Fancy,
            url: "https://x/1".into()
        }]
    );

    let mut tags = [&accepted, &published, &processing, &completed]
        .map(JobView::etag)
        .to_vec();
    tags.dedup();
    assert_eq!(tags.len(), 4, "each representation has its own tag: {tags:?}");
    assert!(tags.iter().all(|tag| tag.starts_with("W/\"") && tag.ends_with('"')));
}

#[tokio::test]
async fn only_the_owner_sees_a_job_from_postgresql_and_from_redis() {
    let one = OneJob::new().await;
    let stranger = Uuid::new_v4();
    assert_eq!(one.reader.read(one.job_id, stranger).await.unwrap(), None);
    assert_eq!(one.reader.read(Uuid::now_v7(), one.ground.user).await.unwrap(), None);
    one.settle(one.outbox_id, Some((0, 0))).await;
    one.result("FAILED", None, Some("no such style")).await;
    let failed = one.read().await;
    assert_eq!(failed.error.as_deref(), Some("no such style"));
    assert!(
        one.ground.cache().get(one.job_id).await.unwrap().job.is_some(),
        "a body that cannot change is kept"
    );
    assert_eq!(one.reader.read(one.job_id, stranger).await.unwrap(), None);
    one.ground.run("alter table jobs rename to jobs_away").await;
    assert_eq!(one.read().await, failed, "Redis alone answers what cannot change");
    assert_eq!(one.reader.read(one.job_id, stranger).await.unwrap(), None);
}

#[tokio::test]
async fn a_dead_message_is_followed_by_its_newest_retry() {
    let one = OneJob::new().await;
    one.bury(one.outbox_id).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Dead, None, None));
    let first = one.retry(one.outbox_id).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Pending, None, None));
    one.bury(first).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Dead, None, None));
    // A retry of the retry, and another one of the original: the newest speaks.
    let of_the_retry = one.retry(first).await;
    one.settle(of_the_retry, Some((1, 7))).await;
    assert_eq!(
        place(&one.read().await.message),
        (MessageState::Published, Some(1), Some(7))
    );
    let of_the_original = one.retry(one.outbox_id).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Pending, None, None));
    one.settle(of_the_original, Some((1, 8))).await;
    assert_eq!(
        place(&one.read().await.message),
        (MessageState::Published, Some(1), Some(8))
    );
}

#[tokio::test]
async fn a_replay_of_a_published_message_changes_nothing() {
    let one = OneJob::new().await;
    one.settle(one.outbox_id, Some((2, 5))).await;
    one.retry(one.outbox_id).await;
    assert_eq!(
        place(&one.read().await.message),
        (MessageState::Published, Some(2), Some(5))
    );
}

#[tokio::test]
async fn a_message_found_without_its_receipt_or_dropped_with_its_checkpoint_is_published() {
    let one = OneJob::new().await;
    one.settle(one.outbox_id, None).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Published, None, None));
    let one = OneJob::new().await;
    // It was taken for one that was rolled back: nobody has sent it.
    one.base(true).await;
    assert_eq!(place(&one.read().await.message), (MessageState::Pending, None, None));
    one.base(false).await;
    let message = one.read().await.message;
    assert_eq!((message.state, message.offset), (MessageState::Published, None));
}

#[tokio::test]
async fn of_messages_that_one_checkpoint_has_settled_each_has_its_own_place() {
    let one = OneJob::new().await;
    let others = accept_all(&one.ground.intake(), (0..5).map(|_| one.ground.request(one.draft))).await;
    let mut jobs: Vec<Uuid> = others.into_iter().map(|answer| answer.unwrap().job_id).collect();
    jobs.push(one.job_id);
    // All but one, which was found without its receipt.
    one.ground
        .run(&format!(
            "insert into outbox_checkpoints (seq, fence, leader, lease_until, delivery, next_offsets, settled,
                                             receipt_ids, receipt_partitions, receipt_offsets)
             select max(seq) + 1, 0, 'test/', '-infinity', 'at-least-once', '{{}}', all_of.ids, of.ids, of.ids::int[], of.offsets
             from outbox_checkpoints,
                  (select range_agg(int8range(outbox_id, outbox_id + 1)) as ids from jobs) all_of,
                  (select array_agg(outbox_id order by outbox_id) as ids, array_agg(outbox_id + 100 order by outbox_id) as offsets
                   from jobs where id <> '{}') of
             group by all_of.ids, of.ids, of.offsets",
            jobs[2]
        ))
        .await;
    for (nth, job_id) in jobs.iter().enumerate() {
        let id: i64 = sqlx::query_scalar("select outbox_id from jobs where id = $1")
            .bind(job_id)
            .fetch_one(one.ground.pool())
            .await
            .unwrap();
        let read = one
            .reader
            .read(*job_id, one.ground.user)
            .await
            .unwrap()
            .expect("the job");
        let expected = if nth == 2 {
            (None, None)
        } else {
            (Some(id as i32), Some(id + 100))
        };
        assert_eq!(
            place(&read.message),
            (MessageState::Published, expected.0, expected.1),
            "{nth}"
        );
        assert!(read.message.published_at.is_some());
    }
}

async fn in_time<T>(read: JoinHandle<T>) -> T {
    let done = tokio::time::timeout(PATIENCE, read).await;
    done.expect("nobody is forgotten").expect("a read")
}

/// Behind a lock, so that all of them wait for the same statements.
#[tokio::test]
async fn of_reads_that_are_made_together_each_has_its_own_answer_whoever_leaves() {
    const JOBS: usize = 300;
    let one = OneJob::new().await;
    let answers = accept_all(&one.ground.intake(), (0..JOBS).map(|_| one.ground.request(one.draft))).await;
    let jobs: Vec<Uuid> = answers.into_iter().map(|answer| answer.unwrap().job_id).collect();
    // What no service of ours writes.
    one.result("COMPLETED", Some(r#"{"not": "a list"}"#), None).await;
    let mut lock = one.lock("jobs").await;
    let read = |job_id, user| {
        let reader = one.reader.clone();
        tokio::spawn(async move { reader.read(job_id, user).await })
    };
    // The first of all statements is for these, and nobody waits for its answer any more.
    let leaving = [read(jobs[0], one.ground.user), read(jobs[1], one.ground.user)];
    eventually("a statement waits", PATIENCE, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where relation = 'jobs'::regclass and not granted
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&mut *lock)
        .await
        .unwrap();
        (waiting > 0).then_some(()).ok_or(waiting)
    })
    .await;
    let mine: Vec<_> = jobs.iter().map(|job_id| read(*job_id, one.ground.user)).collect();
    let of_another = read(jobs[7], Uuid::new_v4());
    let unknown = read(Uuid::now_v7(), one.ground.user);
    let malformed = read(one.job_id, one.ground.user);
    // So that the others wait when they leave; were it too short, they would not be left alone.
    tokio::time::sleep(Duration::from_millis(200)).await;
    leaving.iter().for_each(JoinHandle::abort);
    lock.rollback().await.unwrap();
    for (job_id, read) in jobs.iter().zip(mine) {
        let job = in_time(read).await.unwrap().expect("the job");
        assert_eq!((job.job_id, job.status), (*job_id, JobStatus::Pending));
    }
    assert_eq!(in_time(of_another).await.unwrap(), None);
    assert_eq!(in_time(unknown).await.unwrap(), None);
    let error = in_time(malformed).await.unwrap_err().to_string();
    assert!(error.contains("images"), "{error}");
}

/// A lock that nobody lets go of. Each statement is given up after five seconds, and in one of them go 256 jobs.
#[tokio::test]
async fn whoever_asks_while_postgresql_hangs_is_answered_in_ten_seconds_however_many_are_in_front() {
    let one = OneJob::new().await;
    let lock = one.lock("jobs").await;
    let reads: Vec<_> = (0..3_000)
        .map(|_| {
            let reader = one.reader.clone();
            tokio::spawn(async move { reader.read(Uuid::now_v7(), Uuid::new_v4()).await })
        })
        .collect();
    let all = futures_util::future::join_all(reads);
    // Twelve statements, two at a time, would take thirty.
    let answers = tokio::time::timeout(Duration::from_secs(20), all).await;
    for answer in answers.expect("none waits behind all others") {
        answer.unwrap().unwrap_err();
    }
    lock.rollback().await.unwrap();
    one.read().await;
}

#[tokio::test]
async fn who_asks_while_4096_wait_is_refused_at_once_and_who_has_left_keeps_no_place() {
    let one = OneJob::new().await;
    let lock = one.lock("jobs").await;
    let read = || {
        let reader = one.reader.clone();
        tokio::spawn(async move { reader.read(Uuid::now_v7(), Uuid::new_v4()).await })
    };
    // Two statements take 256 each.
    let mut reads: Vec<_> = (0..6_000).map(|_| read()).collect();
    let refused = eventually("some are refused", PATIENCE, async || {
        reads.iter().position(JoinHandle::is_finished).ok_or("none")
    })
    .await;
    let error = reads.swap_remove(refused).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("too many requests wait"), "{error}");
    reads.iter().for_each(JoinHandle::abort);
    futures_util::future::join_all(reads).await;
    let mut late = read();
    let early = tokio::time::timeout(Duration::from_millis(200), &mut late).await;
    assert!(early.is_err(), "it waits: {early:?}");
    lock.rollback().await.unwrap();
    assert_eq!(in_time(late).await.unwrap(), None);
}

/// Its partitions are many, and each of them would be locked by whoever names it.
#[tokio::test]
async fn the_outbox_is_not_looked_into_for_a_job_whose_message_is_published_or_waits() {
    let one = OneJob::new().await;
    let _lock = one.lock("outbox_messages").await;
    assert_eq!(one.read().await.message.state, MessageState::Pending);
    one.settle(one.outbox_id, Some((0, 9))).await;
    assert_eq!(one.read().await.message.offset, Some(9));
}

#[tokio::test]
async fn a_final_status_is_kept_only_when_its_body_cannot_change() {
    let one = OneJob::new().await;
    one.result("COMPLETED", Some("[]"), None).await;
    assert_eq!(one.read().await.message.state, MessageState::Pending);
    assert!(
        one.ground.cache().get(one.job_id).await.unwrap().job.is_none(),
        "its message is on its way still"
    );
    one.settle(one.outbox_id, Some((0, 9))).await;
    assert_eq!(one.read().await.message.offset, Some(9));
    assert!(one.ground.cache().get(one.job_id).await.unwrap().job.is_some());
}

#[tokio::test]
async fn what_only_redis_knows_does_not_exist_and_a_stale_redis_is_not_believed() {
    let one = OneJob::new().await;
    let cache = one.ground.cache();
    let phantom = CachedJob {
        status: JobStatus::Processing,
        created_at: chrono::Utc::now(),
        user_id: one.ground.user,
        job: None,
    };
    let nowhere = Uuid::now_v7();
    cache.advance([(nowhere, phantom.clone())]).await;
    assert_eq!(one.reader.read(nowhere, one.ground.user).await.unwrap(), None);
    cache.advance([(one.job_id, phantom)]).await;
    assert_eq!(one.read().await.status, JobStatus::Pending, "PostgreSQL is the truth");
}
