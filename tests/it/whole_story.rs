//! The whole story on real servers: a request, its record, three pictures, and the answer back to the client.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{PATIENCE, Record, Stage, content::ContentService, drafts, eventually, http_client, token_for};

#[tokio::test]
async fn a_client_posts_and_is_shown_three_pictures() {
    let stage = Stage::new().await;
    let app = stage.app().await;
    let mut content = ContentService::on(&stage).await;
    content.start();
    let user = Uuid::new_v4();
    let token = token_for(user);
    let draft = drafts::insert(&stage.pool, &drafts::complete(user)).await;

    let job_id = app.accept(draft, &token).await;
    let body = eventually("the job is completed", 2 * PATIENCE, async || {
        let answer = app.get_job(job_id, &token).await.expect("an answer");
        let body: Value = answer.json().await.expect("JSON");
        if body["status"] == "COMPLETED" {
            Ok(body)
        } else {
            Err(body)
        }
    })
    .await;
    assert_eq!(body["message"]["state"], "published", "{body}");
    assert_eq!(body["error"], Value::Null);
    let images = body["images"].as_array().expect("images");
    assert_eq!(images.len(), 3, "{body}");
    for image in images {
        let answer = http_client()
            .get(image["url"].as_str().expect("a url"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.headers()["content-type"], "image/png");
    }
    assert_valid(
        include_str!("../../docs/image-job.schema.json"),
        &stage.records(1).await,
    );
    let answers = content
        .results("both answers", PATIENCE, |records| records.len() >= 2)
        .await;
    assert_valid(include_str!("../../docs/image-job-result.schema.json"), &answers);
    // Long over: nothing more comes of it.
    let statuses: Vec<String> =
        sqlx::query_scalar("select status from job_results where job_id = $1 order by recorded_at")
            .bind(job_id)
            .fetch_all(&stage.pool)
            .await
            .expect("the rows");
    assert_eq!(statuses, ["PROCESSING", "COMPLETED"]);
    assert!(
        tokio::time::timeout(Duration::from_secs(25), content.term())
            .await
            .expect("in its time")
            .success()
    );
}

/// What is on the wire is what the committed schema says, and the schema says something.
fn assert_valid(schema: &str, records: &[Record]) {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for record in records {
        let value = record.json();
        if let Err(error) = validator.validate(&value) {
            panic!("{error}: {value}");
        }
        for name in value.as_object().expect("an object").keys() {
            let mut lacking = value.clone();
            lacking.as_object_mut().expect("an object").remove(name);
            assert!(!validator.is_valid(&lacking), "{name} is required");
        }
    }
}
