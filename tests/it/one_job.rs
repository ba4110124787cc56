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
    assert_eq!(record.header("ce_specversion"), "1.0");

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

    let ended = app.term_and_wait().await;
    assert!(ended.success(), "a graceful stop ends with 0: {ended}");
}
