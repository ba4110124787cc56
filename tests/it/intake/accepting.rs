//! What a request gets, and what is stored.

use std::{collections::HashSet, time::Duration};

use image_job_dispatcher::{
    jobs::{AcceptError, AcceptRequest},
    outbox::record::RecordLimit,
};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::{Ground, accept_all};
use crate::support::{PATIENCE, drafts, eventually};

#[tokio::test]
async fn key_job_and_message_are_committed_together_and_redis_says_pending() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = AcceptRequest {
        traceparent: Some(traceparent.into()),
        ..ground.keyed(draft, "k")
    };
    let accepted = ground.intake().accept(request).await.unwrap();
    assert!(!accepted.replayed);

    let row = sqlx::query(
        "select j.user_id, j.event_draft_id, j.created_at, k.draft_id, m.event_id, m.key, m.event_time, m.payload,
                m.traceparent, m.replay_of, m.id
         from jobs j join outbox_messages m on m.id = j.outbox_id join idempotency_keys k on k.job_id = j.id
         where j.id = $1",
    )
    .bind(accepted.job_id)
    .fetch_one(ground.pool())
    .await
    .unwrap();
    assert_eq!(row.get::<Uuid, _>("user_id"), ground.user);
    for column in ["event_draft_id", "draft_id", "key"] {
        assert_eq!(row.get::<Uuid, _>(column), draft, "{column}");
    }
    assert_eq!(row.get::<String, _>("traceparent"), traceparent);
    assert_eq!(row.get::<Option<i64>, _>("replay_of"), None);
    let created_at: chrono::DateTime<chrono::Utc> = row.get("created_at");
    assert_eq!(created_at, row.get::<chrono::DateTime<chrono::Utc>, _>("event_time"));
    for id in [accepted.job_id, row.get("event_id")] {
        assert_eq!(
            id.as_u128() >> 80,
            created_at.timestamp_millis() as u128,
            "a UUIDv7 of the same instant"
        );
    }
    let payload: Value = serde_json::from_slice(&row.get::<Vec<u8>, _>("payload")).unwrap();
    assert_eq!(payload["jobId"], accepted.job_id.to_string());
    assert_eq!(payload["storeInfo"]["name"], "Café Aroma");

    let mut redis = redis_connection(&ground).await;
    let key = format!("job:{}", accepted.job_id);
    let text: String = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["status"], "PENDING");
    assert_eq!(value["userId"], ground.user.to_string());
    let cached: chrono::DateTime<chrono::Utc> = value["createdAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(cached, created_at);
    let ttl: i64 = redis::cmd("TTL").arg(&key).query_async(&mut redis).await.unwrap();
    assert!((3_500..=3_600).contains(&ttl), "{ttl}");
    ground.stop().await;
}

async fn redis_connection(ground: &Ground) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(ground.stage.servers().redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn requests_that_arrive_together_share_transactions() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 1_000).await;
    let answers = accept_all(&ground.intake(), draft_ids.iter().map(|id| ground.request(*id))).await;
    let accepted: HashSet<_> = answers.into_iter().map(|answer| answer.unwrap().job_id).collect();
    assert_eq!(accepted.len(), 1_000);
    ground.assert_exactly(accepted).await;
    let transactions: i64 = sqlx::query_scalar("select count(distinct xmin::text) from jobs")
        .fetch_one(ground.pool())
        .await
        .unwrap();
    assert!(transactions <= 20, "{transactions} transactions for 1,000 requests");
    ground.stop().await;
}

#[tokio::test]
async fn a_refusal_in_a_batch_costs_only_itself_and_writes_nothing() {
    let ground = Ground::new().await;
    let complete = || drafts::complete(ground.user);
    let good = ground.draft().await;
    let bad = [
        (
            drafts::Draft {
                user_id: Uuid::new_v4(),
                ..complete()
            },
            AcceptError::NotFound,
        ),
        (
            drafts::Draft {
                selected_recommendation_id: None,
                ..complete()
            },
            AcceptError::NoRecommendation,
        ),
        (
            drafts::Draft {
                title: " \t".into(),
                ..complete()
            },
            AcceptError::DraftIncomplete,
        ),
    ];
    let mut requests = vec![ground.request(good), ground.keyed(Uuid::new_v4(), "missing")];
    let mut expected = vec![None, Some(AcceptError::NotFound)];
    for (n, (draft, error)) in bad.iter().enumerate() {
        requests.push(ground.keyed(drafts::insert(ground.pool(), draft).await, &n.to_string()));
        expected.push(Some(error.clone()));
    }
    let intake = ground.intake();
    // Alone first, then together.
    for (request, expected) in requests.iter().zip(&expected) {
        assert_eq!(&intake.accept(request.clone()).await.err(), expected);
    }
    let answers = accept_all(&intake, requests).await;
    assert_eq!(answers.into_iter().map(Result::err).collect::<Vec<_>>(), expected);
    assert_eq!(ground.count("jobs").await, 2);
    assert_eq!(
        ground.count("idempotency_keys").await,
        0,
        "a failure is not stored, so that a repeat tries again"
    );
    ground.stop().await;
}

#[tokio::test]
async fn a_message_larger_than_the_topic_takes_is_refused_at_the_byte() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let limit = RecordLimit::new(1_000_000);
    limit.set_of_topic(1);
    let intake = ground.intake_with(|options| options.record_limit = limit.clone());
    let Err(AcceptError::TooLarge { size, limit: 1 }) = intake.accept(ground.request(draft)).await else {
        panic!("accepted above the limit")
    };
    limit.set_of_topic(size - 1);
    assert_eq!(
        intake.accept(ground.request(draft)).await,
        Err(AcceptError::TooLarge { size, limit: size - 1 })
    );
    limit.set_of_topic(size);
    intake.accept(ground.request(draft)).await.unwrap();
    ground.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_nothing() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 50).await;
    let intake = ground.intake();
    for id in &draft_ids {
        let mut accepting = std::pin::pin!(intake.accept(ground.request(*id)));
        assert!(futures_util::poll!(accepting.as_mut()).is_pending());
    }
    ground.stop().await;
    assert_eq!(ground.count("jobs").await, 50);
    assert_eq!(ground.count("outbox_messages").await, 50);
}

#[tokio::test]
async fn a_stop_answers_those_who_wait_and_refuses_those_who_come() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 1_000).await;
    let intake = ground.intake();
    let waiting = accept_all(&intake, draft_ids.iter().map(|id| ground.request(*id)));
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    ground.cancel.cancel();
    let accepted: Vec<_> = waiting.await.into_iter().map(|answer| answer.unwrap().job_id).collect();
    ground.stop().await;
    assert_eq!(
        intake.accept(ground.request(draft_ids[0])).await,
        Err(AcceptError::Unavailable)
    );
    ground.assert_exactly(accepted).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let ground = Ground::new().await;
    let draft = ground.draft().await;
    let intake = ground.intake_with(|options| {
        options.queue = 4;
        options.batch = 1;
    });
    let answers = accept_all(&intake, (0..100).map(|_| ground.request(draft))).await;
    let refused = answers
        .iter()
        .filter(|answer| **answer == Err(AcceptError::Overloaded))
        .count();
    assert!((80..=96).contains(&refused), "{refused} of 100 refused");
    let accepted = answers
        .into_iter()
        .filter_map(Result::ok)
        .map(|accepted| accepted.job_id);
    ground.assert_exactly(accepted).await;
    ground.stop().await;
}

#[tokio::test]
async fn plans_made_while_the_tables_were_empty_never_scan_them() {
    let ground = Ground::new().await;
    let intake = ground.intake();
    // Every statement is prepared now, on empty tables: alone and in a batch, with keys.
    let nobody = || ground.keyed(Uuid::new_v4(), "k");
    for requests in [1, 2, 40, 40] {
        accept_all(&intake, (0..requests).map(|_| nobody())).await;
    }
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 20_000).await;
    for chunk in draft_ids.chunks(500).take(4) {
        for answer in accept_all(&intake, chunk.iter().map(|id| ground.keyed(*id, &id.to_string()))).await {
            answer.unwrap();
        }
    }
    ground.stop().await;
    let scans = eventually("the sessions report", PATIENCE, async || {
        let row: (i64, Option<i64>) = sqlx::query_as(
            "select coalesce(sum(seq_tup_read), 0)::bigint, sum(idx_scan)::bigint from pg_stat_user_tables
             where relname in ('event_drafts', 'idempotency_keys')",
        )
        .fetch_one(ground.pool())
        .await
        .unwrap();
        if row.1.unwrap_or(0) >= 4_000 {
            Ok(row.0)
        } else {
            Err(format!("{row:?}"))
        }
    })
    .await;
    assert_eq!(scans, 0, "rows read by sequential scans");
}

#[tokio::test]
async fn where_another_replica_leads_one_notify_tells_it_of_many_jobs() {
    let ground = Ground::new().await;
    let draft_ids = drafts::insert_many(ground.pool(), ground.user, 300).await;
    let mut listener = sqlx::postgres::PgListener::connect(&ground.stage.database_url)
        .await
        .unwrap();
    listener.listen("outbox").await.unwrap();
    let intake = ground.intake();
    accept_all(&intake, draft_ids.iter().map(|id| ground.request(*id))).await;
    let silent = tokio::time::timeout(Duration::from_millis(200), listener.recv()).await;
    assert!(silent.is_err(), "the leader's own jobs need no NOTIFY");

    ground.leading.send_replace(false);
    accept_all(&intake, draft_ids.iter().map(|id| ground.request(*id))).await;
    let mut told = 0;
    tokio::time::timeout(PATIENCE, listener.recv())
        .await
        .expect("a NOTIFY")
        .unwrap();
    while tokio::time::timeout(Duration::from_millis(200), listener.recv())
        .await
        .is_ok()
    {
        told += 1;
    }
    assert!(told < 30, "{told} more for 300 jobs");
    ground.stop().await;
}
