//! The main job, once through the whole house.

use serde_json::json;
use uuid::Uuid;

use crate::support::{Stage, drafts, token_for};

#[tokio::test]
async fn an_accepted_job_is_in_kafka_in_redis_and_in_its_status() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let draft = drafts::complete(user);
    drafts::insert(&stage.pool, &draft).await;
    let token = token_for(user);

    let job = app.accept(draft.id, &token).await;

    let records = stage.records(1).await;
    let [record] = &*records else {
        panic!("one record, not {records:?}")
    };
    assert_eq!(record.key, draft.id.to_string());
    assert_eq!(
        record.json(),
        json!({
            "jobId": job, "eventDraftId": draft.id, "title": draft.title, "prize": draft.prize,
            "brandColor": draft.brand_color, "logoUrl": draft.logo_url, "storeInfo": draft.store_info,
        })
    );
    let (outbox_id, event_id): (i64, Uuid) = sqlx::query_as("select id, event_id from outbox_messages")
        .fetch_one(&stage.pool)
        .await
        .expect("one row");

    let mut redis = redis::Client::open(stage.servers().redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let cached: String = redis::AsyncCommands::get(&mut redis, format!("job:{job}"))
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&cached).unwrap()["status"],
        "PENDING"
    );

    let status = app
        .get_job(job, &token)
        .await
        .unwrap()
        .json::<serde_json::Value>()
        .await
        .unwrap();
    assert_eq!(status["jobId"], json!(job));
    assert_eq!(status["status"], "PENDING");
    let headers: Vec<(&str, &str)> = record.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        headers,
        [
            ("ce_id", &*event_id.to_string()),
            ("ce_source", "/image-job-dispatcher"),
            ("ce_specversion", "1.0"),
            ("ce_subject", &*job.to_string()),
            ("ce_time", status["createdAt"].as_str().unwrap()),
            ("ce_type", "image-job.requested.v1"),
            ("content-type", "application/json"),
            ("outbox-id", &*outbox_id.to_string()),
        ]
    );

    let ended = app.term_and_wait().await;
    assert!(ended.success(), "a graceful stop ends with 0: {ended}");
}

/// As `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mix = |k: u32| {
        let k = k.wrapping_mul(M);
        (k ^ (k >> 24)).wrapping_mul(M)
    };
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        h = h.wrapping_mul(M) ^ mix(u32::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte));
        h = (h ^ last).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[tokio::test]
async fn a_drafts_messages_are_in_the_partition_where_javas_producer_would_put_them() {
    // From Kafka's UtilsTest.
    for (text, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("abc", 479_470_107)] {
        assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
    }
    let stage = Stage::new().await;
    let app = stage.app().await;
    let user = Uuid::new_v4();
    let token = token_for(user);
    for draft in drafts::insert_many(&stage.pool, user, 40).await {
        app.accept(draft, &token).await;
    }
    let records = stage.records(40).await;
    let partitions = 1 + records.iter().map(|record| record.partition).max().expect("records");
    assert!(partitions > 1);
    for record in records {
        let expected = (murmur2(record.key.as_bytes()) & 0x7fff_ffff) % partitions as u32;
        assert_eq!(record.partition as u32, expected, "{}", record.key);
    }
}
